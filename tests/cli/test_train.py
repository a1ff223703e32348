"""The command train end to end on a tiny network: training, resuming, evaluation, pictures, a model on its own."""

import json
import math
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from tiny_training import ROOT

from panoptic_fusion import load_trained

MEASURES = ("PQ", "SQ", "RQ", "PQ_dagger", "mIoU")


def read_results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


def read_numbers(folder: Path) -> dict[str, float]:
    """All numbers of results.json; those that are not defined (null) left out."""
    results = read_results(folder)
    return {f"{t}/{k}": v for t, numbers in results.items() for k, v in numbers.items() if v is not None}


def test_training_leaves_checkpoints_results_and_config(trained: Path):
    assert (trained / "last_checkpoint").read_text() == "model_final.pth"
    assert sorted(p.name for p in trained.glob("*.pth")) == ["model_0000024.pth", "model_final.pth"]
    assert torch.load(trained / "model_final.pth", weights_only=True)["iteration"] == 39
    assert not list(trained.glob(".*.partial"))
    quality = read_results(trained)["panoptic_seg"]
    assert quality["images"] == 3
    assert 0 < quality["PQ"] <= 100 and 0 < quality["mIoU"] <= 100
    for measure in MEASURES:
        assert f"{measure}_th" in quality and f"{measure}_st" in quality
    assert {"AP", "AP50", "AP75"} <= read_results(trained)["segm"].keys()
    table = (trained / "results.md").read_text()
    assert "3 images" in table and "PQ†" in table and "sky" in table
    assert f"{quality['PQ']:.1f}" in table
    config = yaml.safe_load((trained / "config.yaml").read_text())
    assert len(config["MODEL"]["CATEGORIES"]) == 12 and config["MODEL"]["ROI_HEADS"]["NUM_CLASSES"] == 6


def test_the_log_has_losses_and_results(trained: Path):
    log = (trained / "log.txt").read_text()
    assert "eta:" in log and "loss_sem_seg" in log and "panoptic quality" in log
    lines = [json.loads(line) for line in (trained / "metrics.json").read_text().splitlines()]
    losses = {line["iteration"]: line["loss_sem_seg"] for line in lines if "loss_sem_seg" in line}
    assert losses[39] < losses[19]  # it learns


def test_resume_goes_on_where_training_stopped(trained: Path, tiny_opts, toy_config, run_script, tmp_path: Path):
    folder = tmp_path / "more"
    folder.mkdir()
    for name in ("config.yaml", "model_final.pth", "last_checkpoint"):
        shutil.copy(trained / name, folder)
    before = torch.load(folder / "model_final.pth", weights_only=True)
    arguments = ["--config-file", toy_config, "--resume", *tiny_opts, "OUTPUT_DIR", folder]
    # nothing is left to do but the evaluation: it is repeated, with the same result
    assert run_script("train", *arguments, "SOLVER.MAX_ITER", 40)[0] == 0
    assert "nothing is left to train" in (folder / "log.txt").read_text()
    assert read_numbers(folder) == pytest.approx(read_numbers(trained), abs=1e-6)
    after = torch.load(folder / "model_final.pth", weights_only=True)
    assert all(torch.equal(before["model"][k], after["model"][k]) for k in before["model"])
    # two iterations more, with the optimizer's state
    code, _, err = run_script("train", *arguments, "SOLVER.MAX_ITER", 42)
    assert code == 0, err
    assert "Starting training from iteration 40" in (folder / "log.txt").read_text()
    after = torch.load(folder / "model_final.pth", weights_only=True)
    assert after["iteration"] == 41
    assert any(not torch.equal(before["model"][k], after["model"][k]) for k in before["model"])
    assert after["trainer"]["_trainer"]["optimizer"]["state"].keys()


def test_resume_takes_the_rates_of_the_config(trained: Path, tiny_opts, toy_config, run_script, tmp_path: Path):
    def resume(*opts) -> tuple[int, str, Path]:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        shutil.copytree(trained, folder)
        settings = [*tiny_opts, "OUTPUT_DIR", folder, "DATASETS.TEST", (), "SOLVER.MAX_ITER", 44, *opts]
        code, _, err = run_script("train", "--config-file", toy_config, "--resume", *settings)
        return code, err, folder

    before = torch.load(trained / "model_final.pth", weights_only=True)["trainer"]["_trainer"]["optimizer"]
    assert before["param_groups"][0]["weight_decay"] == 1e-4
    code, err, folder = resume("SOLVER.BASE_LR", 0.004, "SOLVER.WEIGHT_DECAY", 5e-4, "SOLVER.MOMENTUM", 0.8)
    assert code == 0, err
    after = torch.load(folder / "model_final.pth", weights_only=True)["trainer"]["_trainer"]["optimizer"]
    assert after["param_groups"][0]["weight_decay"] == 5e-4 and after["param_groups"][0]["momentum"] == 0.8
    last = json.loads((folder / "metrics.json").read_text().splitlines()[-1])
    assert last["iteration"] == 43
    assert last["lr"] == pytest.approx(0.004 * (1 + math.cos(math.pi * 43 / 44)) / 2)
    # another number of groups of parameters
    code, err, _ = resume("SOLVER.BIAS_LR_FACTOR", 2.0)
    assert code == 2 and "SOLVER.BIAS_LR_FACTOR" in err and "Traceback" not in err


def test_without_resume_training_starts_anew(trained: Path, tiny_opts, toy_config, run_script, tmp_path: Path):
    """From weights of a training, in a folder with its leftovers."""
    folder = tmp_path / "again"
    folder.mkdir()
    shutil.copy(trained / "metrics.json", folder)
    tiny_opts = [*tiny_opts, "MODEL.WEIGHTS", trained / "model_final.pth"]
    arguments = ["--config-file", toy_config, *tiny_opts, "OUTPUT_DIR", folder, "SOLVER.MAX_ITER", 2]
    assert run_script("train", *arguments)[0] == 0
    assert "Starting training from iteration 0" in (folder / "log.txt").read_text()
    assert torch.load(folder / "model_final.pth", weights_only=True)["iteration"] == 1


def test_eval_only_gives_the_same_numbers_and_keeps_the_config(trained: Path, run_script, tmp_path: Path):
    folder = tmp_path / "copy"
    shutil.copytree(trained, folder)
    config = (folder / "config.yaml").read_bytes()
    (folder / "results.json").unlink()
    weights = ["MODEL.WEIGHTS", folder / "model_final.pth", "OUTPUT_DIR", folder]
    code, _, err = run_script("train", "--eval-only", "--config-file", folder / "config.yaml", *weights)
    assert code == 0, err
    assert read_numbers(folder) == pytest.approx(read_numbers(trained), abs=1e-6)
    assert (folder / "config.yaml").read_bytes() == config


def test_eval_only_with_fewer_outputs_and_written_predictions(trained: Path, run_script, tmp_path: Path):
    options = ["MODEL.WEIGHTS", trained / "model_final.pth", "OUTPUT_DIR", tmp_path / "out"]
    options += ["MODEL.PANOPTIC_FUSION.OUTPUTS", "['panoptic_seg']", "TEST.WRITE_PREDICTIONS", "True"]
    code, _, err = run_script("train", "--eval-only", "--config-file", trained / "config.yaml", *options)
    assert code == 0, err
    results = read_results(tmp_path / "out")
    assert results.keys() == {"panoptic_seg"}
    assert results["panoptic_seg"]["PQ"] == pytest.approx(read_results(trained)["panoptic_seg"]["PQ"], abs=1e-6)
    assert len(list((tmp_path / "out").rglob("panoptic_predictions/*.png"))) == 3


def test_pictures_in_tensorboard(trained: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(trained), size_guidance={"images": 0, "scalars": 0})
    accumulator.Reload()
    tags = accumulator.Tags()
    assert sorted(tags["images"]) == ["panoptic/0", "panoptic/1"]
    assert {"total_loss", "loss_sem_seg", "loss_mask", "lr"} <= set(tags["scalars"])
    for tag in tags["images"]:
        events = accumulator.Images(tag)
        assert [e.step for e in events] == [19, 39]  # VIS_PERIOD is 20
        picture = cv2.imdecode(np.frombuffer(events[-1].encoded_image_string, np.uint8), cv2.IMREAD_COLOR)
        # image, ground truth and prediction of 96 x 128 side by side, enlarged by 4 to 300 pixels at least
        assert picture.shape[0] == 384 and picture.shape[1] >= 3 * 512
        for panel in np.array_split(picture, 3, axis=1):
            assert len(np.unique(panel.reshape(-1, 3), axis=0)) > 10 and panel.std() > 5


ALONE = """
import sys
import cv2
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import DefaultPredictor
from detectron2.utils.visualizer import Visualizer
from panoptic_fusion import load_trained
model, picture = sys.argv[1:]
cfg = load_trained(model)
assert cfg.DATASETS.TEST[0] not in DatasetCatalog, "the dataset should not be there"
predictor = DefaultPredictor(cfg)
image = cv2.imread(picture)
outputs = predictor(image)
ids, segments_info = outputs["panoptic_seg"]
print("classes", ",".join(predictor.metadata.thing_classes + predictor.metadata.stuff_classes))
print("segments", len(segments_info))
drawn = Visualizer(image[:, :, ::-1], predictor.metadata).draw_panoptic_seg(ids.to("cpu"), segments_info).get_image()
print("drawn", *drawn.shape, int((drawn != image[:, :, ::-1]).any(2).sum()))
from panoptic_fusion.cli.demo import demo
demo(model, inputs=[picture], output="segmented")
"""


def test_a_trained_model_serves_alone(trained: Path, tiny_data, tiny_cfg, tmp_path: Path, child_env):
    """OUTPUT_DIR moved elsewhere, the paths in its config point to nothing, another working folder, another process."""
    model = tmp_path / "moved" / "model"
    shutil.copytree(trained, model, ignore=shutil.ignore_patterns("inference", "events*", "log.txt", "metrics.json"))
    config = (model / "config.yaml").read_text()
    gone = str(Path(tiny_data["val"]["images"]).parents[1])
    assert gone in config
    (model / "config.yaml").write_text(config.replace(gone, "/nowhere/data").replace(str(trained), "/nowhere/out"))
    picture = tmp_path / "street.jpg"
    shutil.copy(next(Path(tiny_data["val"]["images"]).glob("*.jpg")), picture)
    work = tmp_path / "elsewhere"
    work.mkdir()
    command = [sys.executable, "-c", ALONE, str(model), str(picture)]
    done = subprocess.run(command, cwd=work, env=child_env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    categories = tiny_cfg.MODEL.CATEGORIES
    names = [c["name"] for c in categories if c["isthing"]] + [c["name"] for c in categories if not c["isthing"]]
    assert re.search(r"classes (.*)", done.stdout)[1] == ",".join(names)
    assert int(re.search(r"segments (\d+)", done.stdout)[1]) >= 1
    height, width, depth, changed = map(int, re.search(r"drawn (\d+) (\d+) (\d+) (\d+)", done.stdout).groups())
    assert (height, width, depth) == (96, 128, 3) and changed > 96 * 128 / 4
    entries = json.loads((work / "segmented" / "panoptic.json").read_text())
    assert [a["file_name"] for a in entries["annotations"]] == ["street.png"]
    assert entries["categories"] == categories


def test_load_trained_takes_the_last_checkpoint(trained: Path, tmp_path: Path):
    assert load_trained(trained).MODEL.WEIGHTS == str(trained / "model_final.pth")
    shutil.copy(trained / "config.yaml", tmp_path)
    shutil.copy(trained / "model_0000024.pth", tmp_path)
    (tmp_path / "last_checkpoint").write_text("model_0000024.pth")
    cfg = load_trained(tmp_path, ["MODEL.PANOPTIC_FUSION.OVERLAP_THRESH", "0.25"])
    assert cfg.MODEL.WEIGHTS == str(tmp_path / "model_0000024.pth")
    assert cfg.MODEL.PANOPTIC_FUSION.OVERLAP_THRESH == 0.25


def test_load_trained_of_a_gpus_model_without_a_gpu(trained: Path, tmp_path: Path, monkeypatch):
    text = (trained / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(re.sub(r"DEVICE: cpu", "DEVICE: cuda", text))
    shutil.copy(trained / "model_final.pth", tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert load_trained(tmp_path).MODEL.DEVICE == "cpu"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert load_trained(tmp_path).MODEL.DEVICE == "cuda"
    assert load_trained(tmp_path, ["MODEL.DEVICE", "cpu"]).MODEL.DEVICE == "cpu"


@pytest.mark.parametrize(("shim", "command"), [("train_net", "train"), ("demo", "demo")])
def test_the_shims_take_the_arguments_of_their_commands(shim, command, monkeypatch):
    ran = []
    monkeypatch.setattr("panoptic_fusion.cli.main", ran.append)
    monkeypatch.setattr("sys.argv", [f"{shim}.py", "--config-file", "a.yaml", "--resume"])
    runpy.run_path(str(ROOT / f"{shim}.py"), run_name="__main__")
    assert ran == [[command, "--config-file", "a.yaml", "--resume"]]
    runpy.run_path(str(ROOT / f"{shim}.py"), run_name="imported")
    assert len(ran) == 1
