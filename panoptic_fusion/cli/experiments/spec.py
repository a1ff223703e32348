"""Reads and checks the YAML file of an ablation, and derives its jobs (each a run with a seed)."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from panoptic_fusion.config import find_config, get_cfg, read_config
from panoptic_fusion.config.read import leaves
from panoptic_fusion.errors import ConfigError, one_line

METRICS = ["PQ", "PQ_th", "PQ_st", "SQ", "RQ", "PQ_dagger", "mIoU", "segm AP"]
OWN_KEYS = ("SEED", "OUTPUT_DIR")  # set by this tool


@dataclass(frozen=True)
class Run:
    """Row of the table: its config, its KEY VALUE pairs (including the common pairs) and the run that it evaluates."""

    name: str
    base: Path
    opts: tuple[str, ...]
    eval_of: str | None = None


@dataclass(frozen=True)
class Spec:
    """Checked content of the YAML file."""

    base: Path | None  # config of all runs without their own
    seeds: tuple[int, ...]
    runs: tuple[Run, ...]
    metrics: tuple[str, ...]


@dataclass(frozen=True)
class Job:
    """Run with one seed."""

    run: Run
    seed: int
    folder: Path
    source: Path | None  # folder of the job whose weights are evaluated

    def __str__(self) -> str:
        return f"{self.run.name}, seed {self.seed}"

    def opts(self) -> list[str]:
        """Returns all KEY VALUE pairs except OUTPUT_DIR."""
        weights = ["MODEL.WEIGHTS", str(self.source / "model_final.pth")] if self.source else []
        return [*self.run.opts, *weights, "SEED", str(self.seed)]

    def is_finished(self) -> bool:
        """Returns whether the job has results; results of an evaluation must be newer than its training run's."""
        results = self.folder / "results.json"
        if not results.is_file() or self.source is None:
            return results.is_file()
        source = self.source / "results.json"
        return source.is_file() and source.stat().st_mtime <= results.stat().st_mtime


def read_spec(path: Path) -> Spec:
    """Reads and checks the whole YAML file.

    Raises:
        FileNotFoundError: the YAML file or the base config does not exist.
        ConfigError: an entry is unknown, missing or of the wrong type; the message names it.
    """
    try:
        path = Path(find_config(path))
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid yaml: {one_line(error)}") from error
    content = _mapping(content, f"{path}", required=("seeds", "runs"), optional=("base", "common", "metrics"))
    seeds = content["seeds"]
    if not isinstance(seeds, list) or not seeds or not all(type(s) is int and s >= 0 for s in seeds):
        raise ConfigError(f"{path}: seeds must be a list of whole numbers >= 0, not {seeds!r}")
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"{path}: a seed occurs twice in {seeds}")
    metrics = content.get("metrics") or METRICS
    if not isinstance(metrics, list) or not all(isinstance(m, str) and 1 <= len(m.split()) <= 2 for m in metrics):
        raise ConfigError(f'{path}: metrics must be a list of "NAME" or "TASK NAME", not {metrics!r}')
    base = _config(content["base"], path, f"{path}: base config") if "base" in content else None
    runs = _read_runs(content["runs"], base, _read_opts(content.get("common"), f"{path}: common"), path)
    for run in runs:
        try:
            read_config(run.base, run.opts)
        except ConfigError as error:
            raise ConfigError(f"{path}: run {run.name!r}: {error}") from error
    return Spec(base, tuple(seeds), tuple(runs), tuple(metrics))


def _mapping(content, where: str, required: tuple = (), optional: tuple = ()) -> dict:
    if not isinstance(content, dict):
        raise ConfigError(f"{where}: expected a mapping with {', '.join((*required, *optional))}, not {content!r}")
    for key in content:
        if key not in (*required, *optional):
            raise ConfigError(f"{where}: unknown key {key!r}; there are {', '.join((*required, *optional))}")
    for key in required:
        if key not in content:
            raise ConfigError(f"{where}: {key} is missing")
    return content


def _config(name, spec: Path, where: str) -> Path:
    """Finds a config: relative to the working folder or to the YAML file, or one of the project's configs."""
    for path in (Path(str(name)), spec.parent / str(name)):
        if path.is_file():
            return path
    try:
        return Path(find_config(str(name)))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{where} {name} does not exist") from error


def _read_runs(content, base: Path | None, common: tuple[str, ...], spec: Path) -> list[Run]:
    where = f"{spec}: runs"
    if not isinstance(content, dict) or not content:
        raise ConfigError(f"{where} must be a mapping from a name to [KEY, VALUE, ...], not {content!r}")
    own, sources, bases = {}, {}, {}
    for name, value in content.items():
        if not re.fullmatch(r"[\w.+=,-][\w .+=,-]*", str(name)) or str(name) in (".", ".."):
            raise ConfigError(f"{where}: the name {name!r} cannot be a folder: use letters, digits, blanks and _.+=,-")
        place = f"{where}: {name}"
        if isinstance(value, dict):
            value = _mapping(value, place, optional=("opts", "eval_of", "config"))
            sources[name] = value.get("eval_of")
            if "config" in value:
                bases[name] = _config(value["config"], spec, f"{place}: config")
            value = value.get("opts")
        own[name] = _read_opts(value, place)
    runs = []
    for name, opts in own.items():
        source = sources.get(name)
        if source is None:
            if bases.get(name, base) is None:
                raise ConfigError(f"{where}: {name}: name its config, or a base for all runs")
            runs.append(Run(str(name), bases.get(name, base), common + opts))
            continue
        if not isinstance(source, str | int | float) or source not in own or sources.get(source) is not None:
            raise ConfigError(f"{where}: {name}: eval_of must name a run that is trained, not {source!r}")
        if name in bases:
            raise ConfigError(f"{where}: {name}: a run with eval_of has the config of {source!r}; leave out its own")
        trained_only = [key for key in opts[::2] if key.startswith("SOLVER.")]
        if trained_only:
            raise ConfigError(f"{where}: {name}: {trained_only[0]} changes nothing: a run with eval_of is not trained")
        runs.append(Run(str(name), bases.get(source, base), common + own[source] + opts, str(source)))
    return runs


def _read_opts(content, where: str) -> tuple[str, ...]:
    if content is None:
        return ()
    if not isinstance(content, list) or len(content) % 2 or not all(isinstance(k, str) for k in content[::2]):
        raise ConfigError(f"{where}: expected [KEY, VALUE, KEY, VALUE, ...], not {content!r}")
    for key in content[::2]:
        if key in OWN_KEYS:
            raise ConfigError(f"{where}: {key} is set by this tool; leave it out")
    return tuple(str(word) for word in content)


def create_jobs(spec: Spec, output: Path) -> list[Job]:
    """Lists all runs with the first seed, then with the next seed; evaluations follow the run that they evaluate."""
    ordered = sorted(spec.runs, key=lambda run: run.eval_of is not None)
    return [
        Job(
            run,
            seed,
            output / run.name / f"seed{seed}",
            output.absolute() / run.eval_of / f"seed{seed}" if run.eval_of else None,
        )
        for seed in spec.seeds
        for run in ordered
    ]


def check_unchanged(jobs: list[Job]) -> None:
    """Checks that the settings of each job match those stored in its folder.

    Raises:
        ConfigError: the settings differ; the message names the run and the keys.
    """
    defaults = dict(leaves(get_cfg()))
    for job in jobs:
        record = job.folder / "ablation.json"
        if not record.is_file():
            continue
        before = json.loads(record.read_text())["settings"]
        now = flatten_settings(job)
        changed = [k for k in sorted({*before, *now}) if before.get(k, _text(defaults.get(k))) != now.get(k)]
        if changed:
            key = changed[0]
            raise ConfigError(
                f"run {job}: {', '.join(changed)} changed since {job.folder} was made ({key} was {before.get(key)}, is "
                f"{now.get(key)}): choose another name for the run, or remove the folder to run it again"
            )


def flatten_settings(job: Job) -> dict[str, str]:
    """Returns all config values of a job as text, by key, without OUTPUT_DIR so that the folder can be moved."""
    settings = {key: _text(value) for key, value in leaves(read_config(job.run.base, job.opts()))}
    del settings["OUTPUT_DIR"]
    if job.source is not None:
        settings["MODEL.WEIGHTS"] = f"those of {job.run.eval_of}"
    return settings


def _text(value) -> str:
    return repr(list(value) if isinstance(value, tuple) else value)
