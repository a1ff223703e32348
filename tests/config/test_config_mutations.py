"""Configs with one hostile value: each is refused in one line before anything is written, or trains."""

import random
import shutil

import pytest
import torch
from detectron2.utils.events import EventStorage
from tiny_training import remove_log_handlers

from panoptic_fusion import resolve_config
from panoptic_fusion.config import read_config
from panoptic_fusion.config.read import leaves, merge_opts
from panoptic_fusion.engine.preflight import check_before_start
from panoptic_fusion.engine.trainer import PanopticTrainer
from panoptic_fusion.errors import ConfigError, UserError

MUTATIONS = 300
HOSTILE = [
    "-1", "0", "1", "7", "1000000000", "-0.5", "0.0", "0.5", "1e30", "-1e30", "float", ".nan", ".inf", "True", "False",
    "None", "''", "'Foo'", "Foo", "[]", "()", "[[]]", "[1]", "[-1]", "[0.5]", "[[1]]", "[[[32]]]", "['Foo']", "[None]",
    "[1, 'a']", "{}", "{'a': 1}", "[{}]", "[{'name': 'x'}]", "x" * 10_000, "[" * 3000, "\n", "../..", "/dev/null",
    "http://localhost:1/x", "\U0001f600", "(1, 2, 3, 4)", "[1.0, 1.0, 1.0]", "float('nan')",
]  # fmt: skip
# Values of the right type: numbers cannot be written as NaN on a command line, so they are set in the config.
OF_TYPE = {
    int: [-(10**9), -1, 0, 1, 2, 3, 7, 10**9],
    float: [float("nan"), float("inf"), -float("inf"), -1.0, 0.0, 1e-30, 0.5, 1.0, 1e30],
    str: ["", "Foo", "x" * 10_000, "\0", "a\nb", "/dev/null", "https://localhost:1/x.pth"],
    bool: [True, False],
    list: [[], [[]], [[[]]], [1], [-1], ["Foo"], [None], [{}], [float("nan")], [1, "a"], [0] * 1000, [[1, 2], 3]],
    tuple: [(), ((),), (1,), (-1,), ("Foo",), (None,), (float("nan"),), (1, "a"), ((1, 2), 3), (3, 2, 1)],
    type(None): [0, -1, 0.5, float("nan"), "Foo", [], True],
}
# Where a run writes and reads, tested by their own tests.
LEFT_OUT = {"OUTPUT_DIR"}


@pytest.fixture
def base(toy_config, tiny_opts, tmp_path, one_thread):
    """Builds the tiny config, not resolved; OUTPUT_DIR does not exist."""
    return lambda: read_config(toy_config, [*tiny_opts, "MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(tmp_path / "run")])


def start(cfg, monkeypatch) -> str:
    """Does what a start does: "refused" or "trains"."""
    try:
        cfg = resolve_config(cfg)
        check_before_start(cfg, resume=False, eval_only=False)
    except (UserError, FileNotFoundError) as error:
        assert "\n" not in str(error).strip() and len(str(error)) < 3000
        return "refused"
    try:
        trainer = PanopticTrainer(cfg)
        trainer.resume_or_load(resume=False)
        trainer.iter = 0
        with monkeypatch.context() as patch:
            patch.setattr(type(trainer._trainer), "_write_metrics", lambda *args, **kwargs: None)
            with EventStorage(0) as trainer.storage:
                trainer.run_step()
    except FloatingPointError:
        pass  # diverged: such a rate starts, and the divergence is reported
    return "trains"


def mutate(base, rng: random.Random):
    """(description, config) of a random mutation, or (description, None) if it is refused when it is read."""
    cfg = base()
    key, value = rng.choice([pair for pair in leaves(cfg) if pair[0] not in LEFT_OUT])
    if rng.random() < 0.4:
        word = rng.choice(HOSTILE)
        try:
            merge_opts(cfg, [key, word])
        except ConfigError as error:
            assert "\n" not in str(error)
            return f"{key} {word[:50]!r}", None
        return f"{key} {word[:50]!r}", cfg
    new = rng.choice(OF_TYPE[type(value)])
    section, _, name = key.rpartition(".")
    node = cfg
    for part in filter(None, section.split(".")):
        node = node[part]
    node[name] = new
    return f"{key} = {str(new)[:50]!r}", cfg


def test_mutations(base, tmp_path, monkeypatch):
    rng = random.Random(int(__import__("os").environ.get("FUZZ", 18)))
    outcomes, broken = [], []
    import time
    for _ in range(MUTATIONS):
        what, cfg = mutate(base, rng)
        if cfg is None:
            outcomes.append("refused")
            continue
        torch.manual_seed(0)
        t=time.time()
        try:
            outcomes.append(start(cfg, monkeypatch))
        except Exception as error:
            broken.append(f"{what}: {type(error).__name__}: {str(error)[:200]}")
        finally:
            remove_log_handlers()
            if time.time()-t>.6: print(what, time.time()-t)
        if outcomes and outcomes[-1] == "refused":
            assert not (tmp_path / "run").exists(), what
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
    print(outcomes.count("refused"), outcomes.count("trains"))
    assert not broken, "\n".join(broken)
    assert outcomes.count("refused") > 150 and outcomes.count("trains") > 40
