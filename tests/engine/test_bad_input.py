"""What users get wrong: one line on stderr that says what to do, exit code 2, no traceback, before long work."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_training import ROOT, as_opts

from panoptic_fusion import load_trained
from panoptic_fusion.errors import UserError, run_cli
from panoptic_fusion.networks.trained import build_predictor


@pytest.fixture
def scenes(tiny_data, tmp_path: Path):
    """A copy of the tiny dataset to be spoilt: (folder, function that gives the settings of a training on it)."""
    source = Path(tiny_data["train"]["images"]).parents[1]
    folder = tmp_path / "scenes"
    shutil.copytree(source, folder)

    def settings(name: str) -> dict:
        files = {k: v.replace(str(source), str(folder)) for k, v in tiny_data["train"].items()}
        return {
            "DATASETS.REGISTER": str([{"name": name, **files}]),
            "DATASETS.TRAIN": f"('{name}',)",
            "DATASETS.TEST": (),
        }

    return folder, settings


@pytest.fixture
def assert_refused(run_script, monkeypatch, tiny_settings, toy_config, tmp_path: Path):
    """Starts a script that must refuse its input; returns the one line on stderr. No training may start."""

    def check(script: str, *arguments: str) -> str:
        code, out, err = run_script(script, *arguments)
        lines = err.splitlines()
        assert code == 2, (code, err)
        assert len(lines) == 1 and lines[0].startswith(f"panoptic-fusion {script}: error: "), err
        assert "Traceback" not in err and "Traceback" not in out
        return lines[0]

    def training(settings: dict, *flags: str, config: str | Path = toy_config, starts: bool = False) -> str:
        started = []
        if not starts:
            monkeypatch.setattr("panoptic_fusion.engine.PanopticTrainer.train", lambda self: started.append(self))
        both = as_opts({**tiny_settings, "OUTPUT_DIR": tmp_path / "output", **settings})
        line = check("train", "--config-file", config, *flags, *both)
        assert not started
        return line

    check.training = training
    return check


# -- the config ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("MODEL.PANOPTIC_FUSION.NAME", "MagicFusion", "available: HeuristicFusion"),
        ("MODEL.SEM_SEG_HEAD.NAME", "MagicHead", "PanopticFPNHead"),
        ("MODEL.META_ARCHITECTURE", "Magic", "PanopticRCNN"),
        ("MODEL.SEM_SEG_HEAD.ONTOLOGY", "all", "collapsed"),
        ("MODEL.PANOPTIC_FUSION.OUTPUTS", "['masks']", "panoptic_seg"),
        ("MODEL.BACKBONE.NAME", "magic", "build_resnet_fpn_backbone"),
        ("MODEL.ROI_HEADS.NAME", "MagicHeads", "PanopticROIHeads"),
        ("MODEL.ROI_HEADS.NAME", "StandardROIHeads", "PanopticROIHeads"),  # would fail after training, in evaluation
        ("MODEL.MASK_ON", "False", "mask logits"),
        ("MODEL.SEM_SEG_HEAD.IGNORE_VALUE", "254", "255"),
        ("MODEL.SEM_SEG_HEAD.HARD_PIXEL_FRACTION", "0.0", "(0, 1]"),
        ("SOLVER.AMP.ENABLED", "True", "GPU"),
    ],
)
def test_unknown_part(assert_refused, key: str, value: str, says: str):
    line = assert_refused.training({key: value})
    assert key in line and says in line


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MODEL.PANOPTIC_FUSIN.NAME", "HeuristicFusion"),
        ("SOLVER.NO_SUCH_KEY", "3"),
        ("SOLVER.MAX_ITER", "many"),
        ("DATASETS.TRAIN", "3"),
    ],
)
def test_unknown_key_or_wrong_type(assert_refused, key: str, value: str):
    line = assert_refused.training({key: value})
    assert key in line or key.rpartition(".")[0] in line


def test_outputs_that_the_ontology_cannot_have(assert_refused):
    settings = {"MODEL.PANOPTIC_FUSION.OUTPUTS": "['things_masks']", "MODEL.SEM_SEG_HEAD.ONTOLOGY": "stuff"}
    assert "things_masks" in assert_refused.training(settings)


def test_no_config_file(assert_refused):
    assert "--config-file is missing" in assert_refused("train")


@pytest.mark.parametrize(
    ("evaluators", "says"),
    [("['panoptik']", "'panoptik'"), ("['residual']", "things_masks"), ("['panoptic', 'residual']", "things_masks")],
)
def test_evaluators_at_fault(assert_refused, evaluators: str, says: str):
    line = assert_refused.training({"TEST.EVALUATORS": evaluators})
    assert "TEST.EVALUATORS" in line and says in line


def test_no_evaluator_has_its_output(assert_refused):
    settings = {"TEST.EVALUATORS": "['instances', 'cityscapes']", "MODEL.PANOPTIC_FUSION.OUTPUTS": "['sem_seg']"}
    assert "TEST.EVALUATORS has 'instances'" in assert_refused.training(settings)


@pytest.mark.parametrize("name", ["last_checkpoint", "model_final.pth"])
def test_a_trained_model_is_not_overwritten(assert_refused, tmp_path: Path, name: str):
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / name).write_text("mine")
    line = assert_refused.training({})
    assert f"OUTPUT_DIR {tmp_path / 'output'}" in line and "--resume" in line
    assert (tmp_path / "output" / name).read_text() == "mine"


@pytest.mark.parametrize("script", ["train", "demo"])
def test_a_gpu_where_there_is_none(assert_refused, toy_config, trained, tmp_path: Path, monkeypatch, script: str):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    arguments = {
        "train": ["--config-file", toy_config, "OUTPUT_DIR", tmp_path],
        "demo": ["--model", trained, "--input", ROOT / "README.md", "--output", tmp_path / "out", "--opts"],
    }
    assert "MODEL.DEVICE cuda: no GPU is available" in assert_refused(
        script, *arguments[script], "MODEL.DEVICE", "cuda"
    )


def test_odd_number_of_words(assert_refused, toy_config):
    assert "pairs" in assert_refused("train", "--config-file", toy_config, "SOLVER.MAX_ITER")


@pytest.mark.parametrize("script", ["train", "demo"])
def test_config_file_at_fault(assert_refused, tiny_data, tmp_path: Path, script: str):
    def refusal(file: Path) -> str:
        more = [] if script == "train" else ["--input", tiny_data["val"]["images"], "--output", tmp_path / "out"]
        return assert_refused(script, "--config-file", file, *more)

    cases = {
        "syntax.yaml": ("SOLVER: [1, 2\nMODEL: {", "not valid yaml"),
        "list.yaml": ("- 1\n- 2\n", "no config keys"),
        "empty.yaml": ("", "no config keys"),
        "key.yaml": ("VERSION: 2\nSOLVER: {MAX_ITERATIONS: 3}\n", "SOLVER.MAX_ITERATIONS"),
        "type.yaml": ("VERSION: 2\nSOLVER: {MAX_ITER: [3]}\n", "SOLVER.MAX_ITER"),
        "base.yaml": ("_BASE_: nowhere.yaml\n", "nowhere.yaml"),
        "code.yaml": ("OUTPUT_DIR: !!python/object/apply:os.getcwd []\n", "not valid yaml"),
        "binary.yaml": (b"\xff\xfe\x00\x80SOLVER", "not valid yaml"),
    }
    for name, (content, says) in cases.items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        line = refusal(tmp_path / name)
        assert says in line and (name in line or name == "base.yaml"), name
    assert "missing.yaml does not exist" in refusal(tmp_path / "missing.yaml")


def test_output_folder_not_writable(assert_refused, tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    line = assert_refused.training({"OUTPUT_DIR": tmp_path / "file" / "output"})
    assert "OUTPUT_DIR" in line and "choose another folder" in line


def test_processes_that_do_not_fit(assert_refused):
    assert "SOLVER.IMS_PER_BATCH is 2: 3 processes" in assert_refused.training({}, "--num-gpus", "3")
    assert "at least 1" in assert_refused.training({}, "--num-gpus", "0")


# -- the dataset ----------------------------------------------------------------------------------------------------


def test_data_set_that_is_not_registered(assert_refused):
    assert "'nowhere_val'" in assert_refused.training({"DATASETS.TEST": "('nowhere_val',)"})
    assert "'nowhere_train'" in assert_refused.training({"DATASETS.TRAIN": "('nowhere_train',)"})
    line = assert_refused.training({"DATASETS.TRAIN": "()", "DATASETS.TEST": "()"})
    assert "DATASETS.TRAIN" in line


def test_trained_model_where_its_data_set_is_not(assert_refused, trained, tmp_path: Path):
    entry = {"name": "gone_val", **dict.fromkeys(("images", "panoptic_root"), "gone"), "panoptic_json": "gone.json"}
    settings = ["DATASETS.REGISTER", str([entry]), "DATASETS.TEST", "('gone_val',)", "OUTPUT_DIR", str(tmp_path)]
    weights = ["MODEL.WEIGHTS", trained / "model_final.pth"]
    line = assert_refused("train", "--eval-only", "--config-file", trained / "config.yaml", *settings, *weights)
    assert "gone_val" in line and "gone.json" in line and "does not exist" in line


@pytest.mark.parametrize(
    ("name", "spoil", "says"),
    [
        ("no_categories", lambda d: d.pop("categories"), "categories"),
        ("no_images", lambda d: (d["images"].clear(), d["annotations"].clear()), "image"),
        ("no_annotations", lambda d: d.pop("annotations"), "annotations"),
    ],
)
def test_json_at_fault(assert_refused, scenes, name: str, spoil, says: str):
    folder, settings = scenes
    file = folder / "train" / "panoptic.json"
    content = json.loads(file.read_text())
    spoil(content)
    file.write_text(json.dumps(content))
    assert says in assert_refused.training(settings(name))


def test_json_that_cannot_be_read(assert_refused, scenes):
    folder, settings = scenes
    file = folder / "train" / "panoptic.json"
    file.write_text(file.read_text()[:1000])
    assert "panoptic.json" in assert_refused.training(settings("half_json"))
    file.unlink()
    assert "panoptic.json" in assert_refused.training(settings("without_json"))


def test_started_from_another_folder(assert_refused, tiny_settings, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    entry = {"name": "elsewhere_train", "images": "a", "panoptic_root": "b", "panoptic_json": "data/panoptic.json"}
    settings = {"DATASETS.REGISTER": str([entry]), "DATASETS.TRAIN": "('elsewhere_train',)", "DATASETS.TEST": "()"}
    line = assert_refused.training(settings)
    assert "'elsewhere_train'" in line and str(tmp_path / "data" / "panoptic.json") in line


@pytest.mark.parametrize("kind", ["images/000002.jpg", "panoptic/000002.png"])
def test_missing_file_is_found_before_training(assert_refused, scenes, kind: str):
    folder, settings = scenes
    (folder / "train" / kind).unlink()
    line = assert_refused.training(settings(f"missing_{Path(kind).suffix[1:]}"))
    assert kind in line and "1 of 6 files are missing" in line


@pytest.mark.parametrize("content", [b"", b"this is no picture", None])
def test_unreadable_image_stops_training_with_its_name(assert_refused, scenes, content: bytes | None):
    """Found when it is met: the check before training does not decode all images."""
    folder, settings = scenes
    for file in (folder / "train" / "images").glob("*.jpg"):
        file.write_bytes(file.read_bytes()[:200] if content is None else content)
    name = f"unreadable_{len(content) if content is not None else 'half'}"
    line = assert_refused.training(settings(name), starts=True)
    assert "images" in line and ".jpg" in line and "cannot be read" in line


def test_classes_of_the_model_and_of_the_data_differ(assert_refused, scenes, trained):
    folder, settings = scenes
    for file in (folder / "train").glob("*.json"):
        content = json.loads(file.read_text())
        content["categories"][0]["name"] = "unicorn"
        file.write_text(json.dumps(content))
    changed = settings("unicorns")
    changed |= {"DATASETS.TEST": changed["DATASETS.TRAIN"], "MODEL.WEIGHTS": trained / "model_final.pth"}
    line = assert_refused.training(changed, "--eval-only", config=trained / "config.yaml")
    assert "unicorns" in line and "classes" in line


def test_register_entry_at_fault(assert_refused):
    assert "DATASETS.REGISTER[0]" in assert_refused.training({"DATASETS.REGISTER": "[{'name': 'x'}]"})
    assert "'png'" in assert_refused.training({"DATASETS.REGISTER": "[{'name': 'x', 'png': 'y'}]"})


# -- the weights -----------------------------------------------------------------------------------------------------


def test_weights_at_fault(assert_refused, trained, tmp_path: Path):
    missing = tmp_path / "missing.pth"
    for flags in ([], ["--eval-only"]):
        assert "missing.pth does not exist" in assert_refused.training({"MODEL.WEIGHTS": missing}, *flags)
        assert f"{trained} is a folder" in assert_refused.training({"MODEL.WEIGHTS": trained}, *flags)
    assert "MODEL.WEIGHTS is empty" in assert_refused.training({}, "--eval-only")
    weights = trained / "model_final.pth"
    (tmp_path / "half.pth").write_bytes(weights.read_bytes()[:5000])
    assert "half.pth is not a readable" in assert_refused.training({"MODEL.WEIGHTS": tmp_path / "half.pth"})
    torch.save({"model": {}, "of another program": Path("x")}, tmp_path / "objects.pth")
    line = assert_refused.training({"MODEL.WEIGHTS": tmp_path / "objects.pth"})
    assert "objects.pth is not a readable" in line and "weights_only" not in line
    wider = {"MODEL.WEIGHTS": weights, "MODEL.FPN.OUT_CHANNELS": 24}
    for flags in ([], ["--eval-only"]):
        assert "have another shape, the first is" in assert_refused.training(wider, *flags)
    content = torch.load(weights, weights_only=True)
    content["model"] = {k: v for k, v in content["model"].items() if "mask_head" not in k}
    torch.save(content, tmp_path / "part.pth")
    line = assert_refused.training({"MODEL.WEIGHTS": tmp_path / "part.pth"}, "--eval-only")
    assert "lacks" in line and "mask_head" in line


def test_resume_with_another_network(assert_refused, trained, tmp_path: Path):
    shutil.copytree(trained, tmp_path / "output")
    line = assert_refused.training({"MODEL.FPN.OUT_CHANNELS": 24, "SOLVER.MAX_ITER": 50}, "--resume")
    assert "another shape" in line and "ALLOW_SHAPE_MISMATCH" not in line
    # the model that is there is as it was
    assert (tmp_path / "output" / "config.yaml").read_bytes() == (trained / "config.yaml").read_bytes()
    build_predictor(load_trained(tmp_path / "output", ["MODEL.DEVICE", "cpu"]))


def test_resume_with_another_system(assert_refused, trained, tmp_path: Path):
    shutil.copytree(trained, tmp_path / "output")
    settings = {"MODEL.SEM_SEG_HEAD.NAME": "TASCSemSegHead", "SOLVER.MAX_ITER": 50}
    line = assert_refused.training(settings, "--resume")
    assert "MODEL.SEM_SEG_HEAD.NAME 'PanopticFPNHead', not 'TASCSemSegHead'" in line
    assert "ALLOW_SHAPE_MISMATCH" not in line


def test_resume_without_the_last_checkpoint(assert_refused, trained, tmp_path: Path):
    shutil.copytree(trained, tmp_path / "output")
    (tmp_path / "output" / "model_final.pth").unlink()
    line = assert_refused.training({}, "--resume")
    assert "last_checkpoint names model_final.pth" in line and "MODEL.WEIGHTS" not in line


def test_resume_with_other_classes(assert_refused, scenes, trained, tmp_path: Path):
    """As many classes as before: the checkpoint fits."""
    folder, settings = scenes
    for file in (folder / "train").glob("*.json"):
        content = json.loads(file.read_text())
        content["categories"][0]["name"] = "unicorn"
        file.write_text(json.dumps(content))
    shutil.copytree(trained, tmp_path / "output")
    line = assert_refused.training({**settings("unicorns_again"), "SOLVER.MAX_ITER": 50}, "--resume")
    assert "other classes" in line and str(tmp_path / "output") in line


# -- demo.py ---------------------------------------------------------------------------------------------------------


def test_demo_inputs_at_fault(assert_refused, trained, tiny_data, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("in the way")
    images = tiny_data["val"]["images"]
    good = ["--model", trained, "--output", tmp_path / "out"]
    assert "holds no image" in assert_refused("demo", *good, "--input", tmp_path / "empty")
    assert "matches no file" in assert_refused("demo", *good, "--input", tmp_path / "nothing*.jpg")
    assert "missing.jpg" in assert_refused("demo", *good, "--input", images, tmp_path / "missing.jpg")
    assert "--alpha" in assert_refused("demo", *good, "--input", images, "--alpha", "3")
    line = assert_refused("demo", "--model", trained, "--input", images, "--output", tmp_path / "file" / "out")
    assert "--output" in line
    assert "holds the input" in assert_refused("demo", "--model", trained, "--input", images, "--output", images)


def test_demo_models_at_fault(assert_refused, trained, tiny_data, toy_config, tmp_path: Path):
    good = ["--input", tiny_data["val"]["images"], "--output", tmp_path / "out"]
    assert "--model" in assert_refused("demo", *good)
    assert "no config.yaml" in assert_refused("demo", *good, "--model", tmp_path)
    assert "NO_SUCH_KEY" in assert_refused("demo", *good, "--model", trained, "--opts", "NO_SUCH_KEY", "1")
    shutil.copy(trained / "config.yaml", tmp_path)
    assert "no finished checkpoint" in assert_refused("demo", *good, "--model", tmp_path)
    (tmp_path / "model_final.pth").write_bytes((trained / "model_final.pth").read_bytes()[:5000])
    assert "not a readable checkpoint" in assert_refused("demo", *good, "--model", tmp_path)
    line = assert_refused("demo", *good, "--model", trained, "--opts", "MODEL.FPN.OUT_CHANNELS", "24")
    assert "another shape" in line
    line = assert_refused("demo", *good, "--config-file", trained / "config.yaml", "--opts", "MODEL.WEIGHTS", "")
    assert "names no weights" in line


# -- as users start them ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        (
            "panoptic-fusion train",
            ["train_net.py", "--config-file", "toy/panoptic_fpn_r18.yaml", "MODEL.PANOPTIC_FUSION.NAME", "Magic"],
        ),
        ("panoptic-fusion demo", ["demo.py", "--model", "/nowhere", "--input", "/nowhere", "--output", "/tmp"]),
        (
            "panoptic-fusion oracle",
            ["-m", "panoptic_fusion", "oracle", "--model", "/nowhere", "--dataset", "x", "--output", "/tmp"],
        ),
        ("tools/mixtures_table.py", ["tools/mixtures_table.py", "--weights", "/nowhere", "--output", "/tmp"]),
    ],
)
def test_real_processes(name: str, arguments: list[str], child_env):
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, env=child_env, capture_output=True, text=True)
    assert done.returncode == 2
    assert "Traceback" not in done.stdout + done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith(f"{name}: error: "), done.stderr


def test_run_cli_exit_codes(capsys):
    def fail_with(error: BaseException):
        def main():
            raise error

        return main

    for main, code in (
        (lambda: None, 0),
        (lambda: 0, 0),
        (lambda: 1, 1),
        (fail_with(UserError("do this")), 2),
        (fail_with(FileNotFoundError("x.yaml does not exist")), 2),
        (fail_with(FileNotFoundError(2, "No such file or directory", "x.yaml")), 2),
        (fail_with(KeyboardInterrupt()), 130),
    ):
        with pytest.raises(SystemExit) as exit_info:
            run_cli(main)
        assert exit_info.value.code == code
        err = capsys.readouterr().err
        assert (len(err.splitlines()) == 1) == (code == 2)
        assert code != 2 or "do this" in err or "x.yaml" in err
    with pytest.raises(ZeroDivisionError):  # a fault of the program keeps its traceback
        run_cli(fail_with(ZeroDivisionError()))
