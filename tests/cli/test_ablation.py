"""Ablations: the yaml, the order of the runs, resuming, failures, and the table. Mostly with a stand-in for
`panoptic-fusion train` that writes results at once; one test trains for real."""

import json
import statistics
import sys
from pathlib import Path

import pytest
import yaml
from filelock import FileLock
from tiny_training import ROOT

from panoptic_fusion.cli import child
from panoptic_fusion.cli.experiments import runs as ablation_runs
from panoptic_fusion.cli.experiments import spec as ablation_spec
from panoptic_fusion.cli.experiments import table as ablation_table
from panoptic_fusion.locks import LOCK_NAME

STAND_IN = """
import json, os, sys
from pathlib import Path
words = sys.argv[1:]
opts = dict(zip(words[words.index("SEED") % 2 :: 2], words[words.index("SEED") % 2 + 1 :: 2]))
folder, seed = Path(opts["OUTPUT_DIR"]), int(opts["SEED"])
with open(Path(__file__).with_name("calls.txt"), "a") as file:
    file.write(json.dumps([folder.parent.name, seed, words]) + "\\n")
fail = Path(__file__).with_name("fail")
if fail.is_file() and folder.parent.name in fail.read_text().split():
    print("it went wrong", file=sys.stderr)
    sys.exit(3)
if "--eval-only" in words:
    weights = json.loads(Path(opts["MODEL.WEIGHTS"]).read_text())
    quality = weights + float(opts["MODEL.PANOPTIC_FUSION.OVERLAP_THRESH"])
else:
    quality = 1000 * float(opts.get("SOLVER.BASE_LR", 0.02)) + seed ** 2
    (folder / "model_final.pth").write_text(json.dumps(quality))
    lines = [{"iteration": 9, "time": 0.5}, {"iteration": 19, "time": 0.25}, {"iteration": 19, "time": 0.75}]
    (folder / "metrics.json").write_text("".join(json.dumps(line) + "\\n" for line in lines) + '{"iterat')
results = {"panoptic_seg": {"PQ": quality, "mIoU": None}, "segm": {"AP": quality / 2}}
(folder / "results.json").write_text(json.dumps(results))
"""

BASE = f"""_BASE_: {ROOT}/configs/Base-Small.yaml
SOLVER: {{BASE_LR: 0.02, MAX_ITER: 20}}
MODEL: {{CATEGORIES: [{{id: 1, name: car, isthing: 1}}, {{id: 2, name: sky, isthing: 0}}]}}
"""
RUNS = {
    "baseline": [],
    "low lr": ["SOLVER.BASE_LR", 0.01],
    "strict": {"eval_of": "baseline", "opts": ["MODEL.PANOPTIC_FUSION.OVERLAP_THRESH", 0.25]},
}


@pytest.fixture
def lab(tmp_path: Path, monkeypatch, run_script):
    """A folder with a base config, the stand-in, and functions: `write` the yaml, `run` the tool, `calls` made."""

    class Lab:
        folder, output = tmp_path, tmp_path / "out"
        fail = tmp_path / "fail"

        def write(self, **changes) -> Path:
            content = {"base": "base.yaml", "seeds": [1, 2, 3], "metrics": ["PQ", "segm AP"], "runs": RUNS, **changes}
            (tmp_path / "spec.yaml").write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not None}))
            return tmp_path / "spec.yaml"

        def run(self, *options, **changes) -> tuple[int, str, str]:
            return run_script("ablation", self.write(**changes), "--output", self.output, *options)

        def calls(self) -> list[tuple[str, int]]:
            file = tmp_path / "calls.txt"
            lines = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
            file.unlink(missing_ok=True)
            self.words = [line[2] for line in lines]
            return [(line[0], line[1]) for line in lines]

        def row(self, name: str) -> list[str]:
            lines = (self.output / "table.md").read_text().splitlines()
            rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
            return next(cells for cells in rows if cells[0] == name)

    stand_in = str(tmp_path / "stand_in.py")
    monkeypatch.setattr(child, "command_line", lambda command, *words: [sys.executable, stand_in, *words])
    Path(stand_in).write_text(STAND_IN)
    (tmp_path / "base.yaml").write_text(BASE)
    return Lab()


# -- the table -------------------------------------------------------------------------------------------------------


def test_table_of_means_and_deviations(lab):
    code, out, err = lab.run()
    assert code == 0, err
    # PQ of the stand-in: 20 + seed^2; mean and sd of 21, 24, 29 and of 11, 14, 19
    assert lab.row("run") == ["run", "PQ", "segm AP", "training s", "seeds"]
    assert lab.row("baseline") == ["baseline", "24.67 ± 4.04", "12.33 ± 2.02", "12", "3"]
    assert lab.row("low lr")[1:3] == ["14.67 ± 4.04", "7.33 ± 2.02"]
    assert lab.row("strict") == ["strict", "24.92 ± 4.04", "12.46 ± 2.02", "-", "3"]
    text = (lab.output / "table.md").read_text()
    assert text in out
    assert ablation_table.commit() in text and "CPU cores" in text
    assert f"`panoptic-fusion ablation {lab.folder / 'spec.yaml'} --output {lab.output}`" in text
    content = json.loads((lab.output / "results.json").read_text())
    assert content["runs"]["baseline"]["metrics"]["PQ"] == [21, 24, 29]
    assert content["runs"]["strict"]["eval_of"] == "baseline"


def test_downloads_need_a_flag(lab):
    """An address in a run is refused before the first run starts; the flag reaches every run."""
    runs = {"baseline": [], "elsewhere": ["MODEL.WEIGHTS", "https://example.org/a.pth"]}
    code, _, err = lab.run(runs=runs, seeds=[1])
    assert code == 2 and "'elsewhere'" in err and "--allow-download" in err and not lab.calls()
    assert lab.run("--allow-download", runs=runs, seeds=[1])[0] == 0
    assert len(lab.calls()) == 2 and all("--allow-download" in words for words in lab.words)


def test_missing_initial_weights_are_found_before_the_first_run(lab):
    """Of a training run that is not finished, unless an earlier run writes them."""
    runs = {"baseline": [], "tuned": ["MODEL.WEIGHTS", str(lab.folder / "start.pth")]}
    code, _, err = lab.run(runs=runs, seeds=[1])
    assert code == 2 and f"run 'tuned': MODEL.WEIGHTS: {lab.folder}/start.pth does not exist. Train it first" in err
    assert not lab.calls() and not lab.output.exists()
    (lab.folder / "start.pth").touch()
    assert lab.run(runs=runs, seeds=[1])[0] == 0 and len(lab.calls()) == 2
    (lab.folder / "start.pth").unlink()
    assert lab.run(runs=runs, seeds=[1])[0] == 0 and not lab.calls()
    runs["next"] = ["MODEL.WEIGHTS", str(lab.output / "baseline" / "seed1" / "model_final.pth")]
    assert lab.run(runs=runs, seeds=[1])[0] == 0 and lab.calls() == [("next", 1)]


def test_one_seed_gives_a_plain_mean(lab):
    assert lab.run(seeds=[2])[0] == 0
    assert lab.row("baseline") == ["baseline", "24.00", "12.00", "12", "1"]


def test_default_metrics_and_those_that_are_missing(lab):
    assert lab.run(metrics=None)[0] == 0
    assert lab.row("run")[1:9] == ablation_spec.METRICS
    assert lab.row("baseline")[7] == "-"  # mIoU is null
    assert lab.row("baseline")[8] == "12.33 ± 2.02"


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([], "-"),
        ([None, None], "-"),
        ([3.0], "3.00"),
        ([1.0, 3.0], "2.00 ± 1.41"),
        ([1.0, 3.0, None], "2.00 ± 1.41 (n=2)"),
        ([5.0, float("nan")], "5.00 (n=1)"),
    ],
)
def test_mean_and_sd(values: list, text: str):
    assert ablation_table.mean_and_sd(values) == text
    numbers = [v for v in values if v is not None and v == v]
    if len(numbers) > 1:
        assert f"{statistics.stdev(numbers):.2f}" in text


def test_several_data_sets_are_columns(lab):
    assert lab.run(seeds=[1], runs={"a": []}, metrics=["PQ"])[0] == 0
    file = lab.output / "a" / "seed1" / "results.json"
    file.write_text(json.dumps({"x_val": {"panoptic_seg": {"PQ": 1.5}}, "y_val": {"panoptic_seg": {"PQ": 2.5}}}))
    assert lab.run(seeds=[1], runs={"a": []}, metrics=["PQ"])[0] == 0
    assert lab.row("run")[1:3] == ["x_val PQ", "y_val PQ"]
    assert lab.row("a")[1:3] == ["1.50", "2.50"]


# -- running ---------------------------------------------------------------------------------------------------------


def test_order_and_command_lines(lab):
    lab.run(common=["SOLVER.MAX_ITER", 50, "DATASETS.TEST", ["a", "b"]])
    names = [(name, seed) for seed in (1, 2, 3) for name in ("baseline", "low lr", "strict")]
    assert lab.calls() == names
    for (name, seed), words in zip(names, lab.words, strict=True):
        assert ("--eval-only" in words) == (name == "strict") and ("--resume" in words) == (name != "strict")
        pairs = dict(zip(words[5::2], words[6::2], strict=True))
        assert pairs["SOLVER.MAX_ITER"] == "50" and pairs["DATASETS.TEST"] == "['a', 'b']"
        assert pairs["SEED"] == str(seed) and pairs["OUTPUT_DIR"] == str(lab.output / name / f"seed{seed}")
        if name == "strict":
            assert pairs["MODEL.WEIGHTS"] == str(lab.output / "baseline" / f"seed{seed}" / "model_final.pth")


def test_eval_of_inherits_the_settings_of_its_source(lab):
    runs = {"low": RUNS["low lr"], "strict": {**RUNS["strict"], "eval_of": "low"}}
    spec = ablation_spec.read_spec(lab.write(runs=runs))
    assert spec.runs[1].opts == ("SOLVER.BASE_LR", "0.01", "MODEL.PANOPTIC_FUSION.OVERLAP_THRESH", "0.25")


def test_finished_runs_are_kept_and_new_ones_are_added(lab):
    lab.run(seeds=[1])
    lab.calls()
    code, out, _ = lab.run(seeds=[1])
    assert code == 0 and lab.calls() == [] and out.count("finished before") == 3
    assert lab.run(seeds=[1, 2], runs={**RUNS, "new": ["SOLVER.BASE_LR", 0.03]})[0] == 0
    assert lab.calls() == [("new", 1), ("baseline", 2), ("low lr", 2), ("new", 2), ("strict", 2)]


def test_an_interrupted_run_is_resumed(lab):
    lab.run(seeds=[1])
    lab.calls()
    (lab.output / "low lr" / "seed1" / "results.json").unlink()
    assert lab.run(seeds=[1])[0] == 0
    assert lab.calls() == [("low lr", 1)] and "--resume" in lab.words[0]


def test_an_evaluation_is_repeated_when_its_source_was_trained_again(lab):
    lab.run(seeds=[1])
    lab.calls()
    (lab.output / "baseline" / "seed1" / "results.json").unlink()
    assert lab.run(seeds=[1])[0] == 0
    assert lab.calls() == [("baseline", 1), ("strict", 1)]


def test_a_failing_run_is_reported_and_the_others_go_on(lab):
    lab.fail.write_text("baseline")
    code, out, err = lab.run(seeds=[1, 2])
    assert code == 1
    assert lab.calls() == [("baseline", 1), ("low lr", 1), ("baseline", 2), ("low lr", 2)]  # nothing to evaluate
    assert err.count("FAILED with exit code 3") == 2 and err.count("it went wrong") == 2
    assert "4 of 6 runs failed" in err and "baseline, seed 1" in err
    assert lab.row("baseline") == ["baseline", "-", "-", "-", "0 of 2"]
    assert lab.row("low lr")[-1] == "2"
    lab.fail.unlink()
    assert lab.run(seeds=[1, 2])[0] == 0
    assert lab.calls() == [("baseline", 1), ("strict", 1), ("baseline", 2), ("strict", 2)]
    assert "it went wrong" in (lab.output / "baseline" / "seed1" / "ablation.log").read_text()  # logs are appended to


def test_changed_settings_of_a_run_are_refused_before_anything_starts(lab):
    lab.run(seeds=[1])
    lab.calls()
    changes = [
        {"runs": {**RUNS, "low lr": ["SOLVER.BASE_LR", 0.05]}},
        {"common": ["SOLVER.MAX_ITER", 50]},
        {"runs": {**RUNS, "strict": {"eval_of": "low lr", "opts": RUNS["strict"]["opts"]}}},
    ]
    for change, key in zip(changes, ("SOLVER.BASE_LR", "SOLVER.MAX_ITER", "MODEL.WEIGHTS"), strict=True):
        code, _, err = lab.run(seeds=[1], **change)
        assert code == 2 and key in err and "another name" in err and lab.calls() == []
    (lab.folder / "base.yaml").write_text(BASE.replace("MAX_ITER: 20", "MAX_ITER: 21"))
    code, _, err = lab.run(seeds=[1])
    assert code == 2 and "SOLVER.MAX_ITER was 20, is 21" in err and lab.calls() == []
    (lab.folder / "base.yaml").write_text(BASE)
    same = {"common": ["SOLVER.MAX_ITER", 20], "runs": {**RUNS, "low lr": ["SOLVER.BASE_LR", "1e-2"]}}
    assert lab.run(seeds=[1], **same)[0] == 0  # written otherwise, with the same effect


def test_a_key_that_the_project_gets_later_changes_nothing(lab):
    """A folder made before the key existed was made with its default value."""
    lab.run(seeds=[1])
    record = lab.output / "baseline" / "seed1" / "ablation.json"
    content = json.loads(record.read_text())
    del content["settings"]["TEST.WRITE_PREDICTIONS"]
    record.write_text(json.dumps(content))
    assert lab.run(seeds=[1])[0] == 0


def test_two_at_once_in_one_folder_are_refused(lab):
    lab.output.mkdir()
    with FileLock(lab.output / LOCK_NAME):
        code, _, err = lab.run()
        assert code == 2 and "is in use" in err and lab.calls() == []
    assert lab.run()[0] == 0


def test_remaining_time(lab):
    spec = ablation_spec.read_spec(lab.write())
    jobs = ablation_spec.create_jobs(spec, lab.output)
    # 6 trainings of 100 s and 3 evaluations of 10 s
    assert ablation_runs.remaining(jobs, {True: [90.0, 110.0], False: [10.0]}) == "9 to go, about 0:10:30"
    assert ablation_runs.remaining(jobs, {True: [100.0], False: []}) == "9 to go, about 0:15:00"
    assert ablation_runs.remaining([], {True: [100.0], False: []}) == "the last one"


# -- configs of single runs ------------------------------------------------------------------------------------------


def test_a_run_with_its_own_config(lab):
    (lab.folder / "other.yaml").write_text(BASE.replace("MAX_ITER: 20", "MAX_ITER: 30"))
    runs = {
        "baseline": [],
        "other": {"config": "other.yaml", "opts": ["SOLVER.BASE_LR", 0.01]},
        "strict": {"eval_of": "other", "opts": ["MODEL.PANOPTIC_FUSION.OVERLAP_THRESH", 0.25]},
    }
    assert lab.run(seeds=[1], runs=runs)[0] == 0
    assert [name for name, _ in lab.calls()] == ["baseline", "other", "strict"]
    configs = [words[words.index("--config-file") + 1] for words in lab.words]
    assert [Path(config).name for config in configs] == ["base.yaml", "other.yaml", "other.yaml"]
    for name, iterations in (("baseline", "20"), ("other", "30"), ("strict", "30")):
        record = json.loads((lab.output / name / "seed1" / "ablation.json").read_text())
        assert record["settings"]["SOLVER.MAX_ITER"] == iterations
    assert "base.yaml`, `" in (lab.output / "table.md").read_text()
    # a change of that config is noticed, for the run and for its evaluation
    (lab.folder / "other.yaml").write_text(BASE)
    code, _, err = lab.run(seeds=[1], runs=runs)
    assert code == 2 and "other, seed 1" in err and "SOLVER.MAX_ITER" in err


def test_without_a_base(lab):
    own = {"one": {"config": "base.yaml"}}
    assert lab.run(base=None, seeds=[1], runs=own)[0] == 0
    code, _, err = lab.run(base=None, seeds=[1], runs={**own, "two": []})
    assert code == 2 and "two: name its config" in err


# -- the yaml --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"seed": [1]}, "unknown key 'seed'"),
        ({"seeds": None}, "seeds is missing"),
        ({"seeds": []}, "seeds must be"),
        ({"seeds": [1, 1]}, "occurs twice"),
        ({"seeds": ["a"]}, "seeds must be"),
        ({"seeds": [True]}, "seeds must be"),
        ({"base": "nowhere.yaml"}, "nowhere.yaml does not exist"),
        ({"runs": {"a": {"config": "nowhere.yaml"}}}, "a: config nowhere.yaml does not exist"),
        ({"runs": {"a": [], "b": {"eval_of": "a", "config": "base.yaml"}}}, "b: a run with eval_of has the config"),
        ({"common": ["SOLVER.MAX_ITER"]}, "common: expected [KEY, VALUE"),
        ({"common": ["SEED", 3]}, "SEED is set by this tool"),
        ({"common": ["OUTPUT_DIR", "x"]}, "OUTPUT_DIR is set by this tool"),
        ({"metrics": "PQ"}, "metrics must be a list"),
        ({"metrics": ["a b c"]}, "metrics must be a list"),
        ({"runs": {}}, "runs must be a mapping"),
        ({"runs": ["a"]}, "runs must be a mapping"),
        ({"runs": {"../up": []}}, "cannot be a folder"),
        ({"runs": {"..": []}}, "cannot be a folder"),
        ({"runs": {"a": ["SOLVER.NO_SUCH_KEY", 1]}}, "run 'a': option SOLVER.NO_SUCH_KEY"),
        ({"runs": {"a": ["SOLVER.MAX_ITER", "many"]}}, "SOLVER.MAX_ITER"),
        ({"runs": {"a": {"options": []}}}, "unknown key 'options'"),
        ({"runs": {"a": "SOLVER.MAX_ITER"}}, "a: expected [KEY, VALUE"),
        ({"runs": {"a": {"eval_of": "b"}}}, "eval_of must name a run that is trained"),
        ({"runs": {"a": [], "b": {"eval_of": ["a"]}}}, "eval_of must name a run that is trained, not ['a']"),
        ({"runs": {"a": [], "b": {"eval_of": "a"}, "c": {"eval_of": "b"}}}, "eval_of must name a run that is trained"),
        ({"runs": {"a": [], "b": {"eval_of": "a", "opts": ["SOLVER.MAX_ITER", 3]}}}, "is not trained"),
    ],
)
def test_yaml_at_fault(lab, changes: dict, says: str):
    code, _, err = lab.run(**changes)
    assert code == 2 and says in err and len(err.strip().splitlines()) == 1
    assert lab.calls() == [] and not lab.output.exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"runs": {"a": [], "b": ["MODEL.PANOPTIC_FUSION.NAME", "Magic"]}}, "run 'b': MODEL.PANOPTIC_FUSION.NAME is"),
        ({"runs": {"a": [], "b": ["SOLVER.MAX_ITER", 0]}}, "run 'b': SOLVER.MAX_ITER is 0"),
        ({"runs": {"a": [], "b": ["DATASETS.TEST", "('x',)", "TEST.EVALUATORS", "['panoptik']"]}}, "'panoptik'"),
        ({"metrics": ["PQ", "PQ_stuff"]}, "'PQ_stuff' is unknown; panoptic_seg has "),
        ({"metrics": ["PQ-bus"]}, "'PQ-bus' is unknown"),
        ({"metrics": ["sgm AP"]}, "'sgm AP' belongs to no task"),
        ({"metrics": ["segm PQ"]}, "'segm PQ' is unknown"),
    ],
)
def test_mistakes_are_found_before_the_first_run(lab, changes: dict, says: str):
    code, _, err = lab.run(**changes)
    assert code == 2 and says in err and len(err.strip().splitlines()) == 1
    assert lab.calls() == []


def test_all_measures(lab):
    metrics = ["PQ_th", "FN_st", "images", "PQ-car", "segm AP-car", "bbox AP50", "residual mean"]
    assert lab.run(seeds=[1], metrics=metrics)[0] == 0


def test_runs_may_have_different_data_sets_of_one_name(lab, tiny_data):
    def opts(split: str, **changes) -> list:
        entry = {"name": "same_name", **tiny_data[split], **changes}
        return ["DATASETS.REGISTER", str([entry]), "MODEL.CATEGORIES", []]

    common = ["DATASETS.TRAIN", "('same_name',)", "DATASETS.TEST", "('same_name',)"]
    runs = {"a": opts("train"), "b": opts("val"), "c": opts("val")}
    assert lab.run(seeds=[1], common=common, runs=runs)[0] == 0
    gone = {**runs, "d": opts("val", panoptic_json="/nowhere.json")}
    code, _, err = lab.run(seeds=[1], common=common, runs=gone)
    assert code == 2 and "run 'd': /nowhere.json: the file is missing" in err


def test_yaml_that_cannot_be_read(lab, run_script):
    for content, says in (("a: [", "not valid yaml"), ("- 1", "expected a mapping"), ("", "expected a mapping")):
        (lab.folder / "spec.yaml").write_text(content)
        code, _, err = run_script("ablation", lab.folder / "spec.yaml", "--output", lab.output)
        assert code == 2 and says in err
    code, _, err = run_script("ablation", lab.folder / "none.yaml", "--output", lab.output)
    assert code == 2 and "none.yaml" in err


# -- for real --------------------------------------------------------------------------------------------------------


def test_a_real_training_and_evaluation(run_script, tiny_settings, toy_config, child_env, monkeypatch, tmp_path: Path):
    for key in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.setenv(key, child_env[key])
    common = {**tiny_settings, "SOLVER.MAX_ITER": 30}
    del common["SEED"]
    runs = {"tiny": [], "large only": {"eval_of": "tiny", "opts": ["MODEL.PANOPTIC_FUSION.STUFF_AREA_LIMIT", 12289]}}
    spec = {"base": toy_config, "seeds": [3], "common": [w for pair in common.items() for w in pair], "runs": runs}
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(yaml.safe_load(json.dumps(spec))))
    code, out, err = run_script("ablation", tmp_path / "spec.yaml", "--output", tmp_path / "out")
    assert code == 0, err
    content = json.loads((tmp_path / "out" / "results.json").read_text())["runs"]
    tiny, large = content["tiny"], content["large only"]
    assert tiny["metrics"]["PQ_st"][0] > 0 and tiny["training_seconds"][0] > 0
    # no stuff segment is as large as the image: all of them become void
    assert large["metrics"]["PQ_st"] == [0] and large["metrics"]["segm AP"] == tiny["metrics"]["segm AP"]
    assert "± " not in out
