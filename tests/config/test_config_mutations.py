"""Configs with one hostile value: each is refused in one line before anything is written, or trains."""

import random
import shutil

import pytest
import torch
from detectron2.utils.events import EventStorage
from fuzz_length import fuzz_length
from tiny_training import remove_log_handlers

from panoptic_fusion import resolve_config
from panoptic_fusion.config import read_config
from panoptic_fusion.config.read import leaves, merge_opts
from panoptic_fusion.engine import launch
from panoptic_fusion.engine.preflight import check_before_start
from panoptic_fusion.engine.trainer import PanopticTrainer
from panoptic_fusion.errors import ConfigError, UserError
from panoptic_fusion.networks.downloads import check_downloads

MUTATIONS = fuzz_length(200)
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
        check_downloads(cfg, allow_download=False)
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
    rng = random.Random(18)
    outcomes, broken = [], []
    for _ in range(MUTATIONS):
        what, cfg = mutate(base, rng)
        if cfg is None:
            outcomes.append("refused")
            continue
        torch.manual_seed(0)
        try:
            outcomes.append(start(cfg, monkeypatch))
        except Exception as error:
            broken.append(f"{what}: {type(error).__name__}: {str(error)[:200]}")
        finally:
            remove_log_handlers()
        if outcomes and outcomes[-1] == "refused":
            assert not (tmp_path / "run").exists(), what
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
    assert not broken, "\n".join(broken)
    assert outcomes.count("refused") > 100 and outcomes.count("trains") > 40


def test_mutations_on_the_command_line(run_script, toy_config, tiny_opts, tmp_path, monkeypatch):
    """A refused start is one line with exit code 2 and leaves no OUTPUT_DIR."""
    started = []
    monkeypatch.setattr(launch, "launch", lambda *args, **options: started.append(args))
    rng, refused = random.Random(19), 0
    keys = [key for key, _ in leaves(read_config(toy_config)) if key not in LEFT_OUT]
    output = tmp_path / "runs" / "run"
    while refused < 15:
        key, word = rng.choice(keys), rng.choice(HOSTILE)
        before = len(started)
        words = ["--config-file", toy_config, *tiny_opts, "MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(output), key, word]
        code, _, err = run_script("train", *words)
        if len(started) > before:
            continue
        refused += 1
        assert code == 2 and err.count("\n") == 1 and err.startswith("panoptic-fusion train: error: "), (key, word, err)
        assert key.split(".")[-1] in err and not output.parent.exists(), (key, word, err)
    assert started  # not everything is refused


def test_unknown_frozen_parts_are_refused_before_anything_is_written(base, tmp_path):
    cfg = base()
    cfg.MODEL.FREEZE = ["Foo"]
    with pytest.raises(ConfigError, match="MODEL.FREEZE: no parameter belongs to 'Foo'"):
        check_before_start(resolve_config(cfg), resume=False, eval_only=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "foo"),
        ("DATALOADER.SAMPLER_TRAIN", "Foo"),
        ("MODEL.ROI_BOX_HEAD.POOLER_TYPE", "Foo"),
        ("MODEL.ROI_MASK_HEAD.POOLER_TYPE", "Foo"),
        ("MODEL.FPN.FUSE_TYPE", "Foo"),
        ("MODEL.RESNETS.NORM", "Foo"),
        ("MODEL.SEM_SEG_HEAD.NORM", "Foo"),
        ("MODEL.RPN.BBOX_REG_LOSS_TYPE", "Foo"),
        ("INPUT.RANDOM_FLIP", "Foo"),
        ("MODEL.DEVICE", "Foo"),
        ("MODEL.SEM_SEG_HEAD.CONVS_DIM", "-1"),
        ("MODEL.RESNETS.RES2_OUT_CHANNELS", "-8"),
        ("MODEL.SEM_SEG_HEAD.COMMON_STRIDE", "-4"),
        ("MODEL.SEM_SEG_HEAD.COMMON_STRIDE", "3"),
        ("SOLVER.WEIGHT_DECAY", "-0.1"),
        ("SOLVER.WEIGHT_DECAY_NORM", "-0.1"),
        ("SOLVER.MOMENTUM", "1.5"),
        ("SOLVER.REFERENCE_WORLD_SIZE", "7"),
        ("SOLVER.REFERENCE_WORLD_SIZE", "-1"),
        ("MODEL.ROI_BOX_HEAD.USE_FED_LOSS", "True"),
        ("MODEL.LOAD_PROPOSALS", "True"),
        ("INPUT.MAX_SIZE_TEST", "1"),
        ("MODEL.ANCHOR_GENERATOR.SIZES", "[[[32]]]"),
        ("MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", "[]"),
        ("MODEL.RPN.CONV_DIMS", "[[1]]"),
        ("INPUT.MIN_SIZE_TRAIN", "((64,),)"),
        ("DATASETS.REGISTER", "[1]"),
        ("DATASETS.TRAIN", "(1,)"),
        ("MODEL.CATEGORIES", "[[1]]"),
        ("SOLVER.STEPS", "(3, 2)"),
        ("MODEL.RPN.IOU_THRESHOLDS", "[0.7, 0.3]"),
        ("MODEL.RPN.IOU_LABELS", "[0, 1]"),
        ("INPUT.CROP.SIZE", "[0.5, 1.5]"),
        ("DATALOADER.NUM_WORKERS", "1000000000"),
        ("MODEL.FPN.OUT_CHANNELS", "1000000000"),
    ],
)
def test_the_message_names_the_key(toy_config, tiny_opts, key: str, value: str):
    with pytest.raises(ConfigError) as error:
        resolve_config(read_config(toy_config, [*tiny_opts, key, value]))
    assert str(error.value).startswith(key) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("SOLVER.MAX_ITERS", "SOLVER.MAX_ITER"),
        ("SOLVER.BASELR", "SOLVER.BASE_LR"),
        ("MODEL.WEIHGTS", "MODEL.WEIGHTS"),
        ("solver.max_iter", "SOLVER.MAX_ITER"),
        ("MODEL.FPN.OUT_CHANNEL", "MODEL.FPN.OUT_CHANNELS"),
    ],
)
def test_did_you_mean(tmp_path, key: str, meant: str):
    with pytest.raises(ConfigError, match=f"did you mean {meant}\\?"):
        read_config(None, [key, "1"])
    nested = ""
    for depth, part in enumerate(key.split(".")):
        nested += "  " * depth + f"{part}: "
        nested += "\n" if depth < key.count(".") else "1\n"
    (tmp_path / "c.yaml").write_text(nested)
    with pytest.raises(ConfigError, match=f"c.yaml: .*did you mean ({meant}|{meant.split('.')[0]})\\?"):
        read_config(tmp_path / "c.yaml")
    with pytest.raises(ConfigError) as error:
        read_config(None, ["QQQQQQQQ.ZZZZZZ", "1"])
    assert "did you mean" not in str(error.value)


BASES = {
    "itself": ({"a.yaml": "_BASE_: a.yaml"}, "leads back"),
    "a circle": ({"a.yaml": "_BASE_: b.yaml", "b.yaml": "_BASE_: c.yaml", "c.yaml": "_BASE_: ./b.yaml"}, "leads back"),
    "a list with itself": ({"a.yaml": "_BASE_: [b.yaml, a.yaml]", "b.yaml": "SEED: 1"}, "leads back"),
    "a folder": ({"a.yaml": "_BASE_: '.'"}, "is a folder"),
    "nothing": ({"a.yaml": "_BASE_: b.yaml"}, "does not exist"),
    "a number": ({"a.yaml": "_BASE_: 3"}, "name a yaml file"),
    "null": ({"a.yaml": "_BASE_:"}, "name a yaml file"),
    "http": ({"a.yaml": "_BASE_: http://localhost:1/b.yaml"}, "never downloaded"),
    "https in the base": ({"a.yaml": "_BASE_: b.yaml", "b.yaml": "_BASE_: https://localhost:1/b.yaml"}, "downloaded"),
    "detectron2": ({"a.yaml": "_BASE_: detectron2://b.yaml"}, "never downloaded"),
    "an empty base": ({"a.yaml": "_BASE_: b.yaml", "b.yaml": ""}, "b.yaml: the file has no config keys"),
    "a broken base": ({"a.yaml": "_BASE_: b.yaml", "b.yaml": "a: ["}, "b.yaml is not valid yaml"),
    "code": ({"a.yaml": "_BASE_: b.yaml", "b.yaml": "SEED: !!python/object/apply:os.getpid []"}, "b.yaml is not valid"),
    "deep yaml": ({"a.yaml": "SEED: " + "[" * 5000}, "not valid yaml"),
}


@pytest.mark.parametrize("name", BASES)
def test_bases(tmp_path, monkeypatch, name: str):
    files, says = BASES[name]
    for file, text in files.items():
        (tmp_path / file).write_text(text)
    monkeypatch.setattr("socket.socket.connect", lambda *args: pytest.fail("a download"))
    with pytest.raises((ConfigError, FileNotFoundError), match=says) as error:
        read_config(tmp_path / "a.yaml")
    assert "\n" not in str(error.value)


def test_a_base_twice_is_no_circle(tmp_path):
    (tmp_path / "a.yaml").write_text("_BASE_: [b.yaml, c.yaml]")
    (tmp_path / "b.yaml").write_text("_BASE_: d.yaml")
    (tmp_path / "c.yaml").write_text("_BASE_: d.yaml")
    (tmp_path / "d.yaml").write_text("SEED: 7")
    assert read_config(tmp_path / "a.yaml").SEED == 7
