"""Tiny inputs of every command, and the command lines that read them."""

from __future__ import annotations

import shutil
from pathlib import Path

import dataset_trees
import numpy as np
import tiny_onnx
import yaml
from annotation_writers import WRITERS, things_of
from hostile_images import write_video
from model_files import write_ground_truth, write_outputs
from polygon_scenes import make_scene
from tiny_training import ROOT, TINY_NETWORK, as_opts, import_script

from panoptic_fusion.data.toy.scenes import generate_toy_scenes

from .processes import AttackFailed, run

CONFIG = str(ROOT / "configs" / "toy" / "panoptic_fpn_r18.yaml")
COMPLETE = ".complete"  # file that a finished material has
SIZES = ["--sizes", "96x64", "--repeats", "1"]


class Material:
    """A folder of inputs, each at a fixed place below `root`: see `make_material`."""

    def __init__(self, root: Path):
        self.root = root
        self.splits = {split: _files_of(root / "scenes" / split) for split in ("train", "val")}
        entries = [{"name": f"soak_{split}", **files} for split, files in self.splits.items()]
        names = {"DATASETS.TRAIN": "('soak_train',)", "DATASETS.TEST": "('soak_val',)"}
        self.datasets = as_opts({"DATASETS.REGISTER": str(entries), **names})
        own = {"SOLVER.MAX_ITER", "SEED"}  # each command gives its own
        self.network = as_opts({key: value for key, value in TINY_NETWORK.items() if key not in own})
        self.model = root / "model"
        val = self.splits["val"]
        self.truth = ["--gt-json", val["panoptic_json"], "--gt-root", val["panoptic_root"]]
        predicted = root / "evaluated" / "inference" / "soak_val" / "panoptic_predictions"
        self.predictions = ["--pred-json", f"{predicted}.json", "--pred-root", predicted]
        outputs = root / "outputs"
        self.outputs = ["--instances", outputs / "instances.json", "--semantic", outputs / "labels"]
        self.outputs_truth = ["--gt-json", outputs / "gt.json", "--gt-root", outputs / "gt"]

    def commands(self, out: Path, workers: int = 2) -> dict[str, list]:
        """Returns {name: words} of every command, some in several ways. All write to `out` only."""
        root, val, split = self.root, self.splits["val"], ["--workers", workers]
        short = ["SOLVER.MAX_ITER", 8, "SOLVER.CHECKPOINT_PERIOD", 2]
        own = [*self.network, *short, "SEED", 1]
        check = ["--images", val["images"], "--panoptic-root", val["panoptic_root"]]
        check += ["--panoptic-json", val["panoptic_json"]]
        files = [*self.truth, *self.predictions, "--photos", val["images"], "--output", out, *split]
        return {
            "train": ["train", "--config-file", CONFIG, "--resume", *own, *self.datasets, "OUTPUT_DIR", out],
            "evaluate": ["evaluate", "--model", self.model, *self.datasets, "OUTPUT_DIR", out],
            "evaluate files": ["evaluate", *files],
            "report": ["report", *files],
            "report models": ["report", "--model", self.model, "--output", out, *split, *self.datasets],
            "demo": ["demo", "--model", self.model, "--input", root / "photos", "--output", out, "--video", "--cutouts",
                     "--instances-json"],
            "demo onnx": ["demo", "--onnx", root / "model.onnx", "--input", root / "photos", "--output", out],
            "compare": ["compare", "--model", self.model, "--dataset", "soak_val", "--output", out, *self.datasets],
            "check": ["check", *check, *split, "--output", out],
            "prepare": ["prepare", "toy", "--output", out, "--num-train", 9, "--num-val", 3, "--size", 96, 128],
            "prepare idd": ["prepare", "idd", out / "idd", *split],
            "import": ["import", root / "labelme", "--output", out, "--things", *things_of(_scenes()), *split],
            "convert": ["convert", "seamseg", root / "seamseg.tar", out / "out.pth", "--config", out / "out.yaml"],
            "export": ["export", "--model", self.model, "--output", out / "model.onnx", *self.datasets],
            "fine-tune": ["fine-tune", "--data", root / "scenes_own", "--output", out, "--config-file", CONFIG, *own],
            "fuse": ["fuse", *self.outputs, "--images", root / "outputs" / "images.json", "--output", out, *split],
            "oracle": ["oracle", "--model", self.model, "--dataset", "soak_val", "--output", out, *self.datasets],
            "tune": ["tune", "--model", self.model, "--output", out, "--folds", 2, "--rule", "SeamlessFusion", *split,
                     *self.datasets],
            "tune files": ["tune", *self.outputs, *self.outputs_truth, "--output", out, "--folds", 2, *split],
            "ablation": ["ablation", root / "ablation.yaml", "--output", out],
            "leaderboard": ["leaderboard", root / "ablation.yaml", "--output", out, "--docs", out / "docs", *SIZES],
        }  # fmt: skip

    def write_spec(self, path: Path) -> None:
        """Writes the YAML file of an ablation of two short runs."""
        common = [*self.network, *self.datasets, "SOLVER.MAX_ITER", 4, "SOLVER.CHECKPOINT_PERIOD", 2]
        runs = {"baseline": [], "slower": ["SOLVER.BASE_LR", 0.005]}
        path.write_text(yaml.safe_dump({"base": CONFIG, "seeds": [1], "common": common, "runs": runs}))

    def prepare_output(self, name: str, out: Path) -> None:
        """Creates what a command needs in its output folder: `prepare idd` writes beside its inputs."""
        if name == "prepare idd":
            shutil.copytree(self.root / "idd", out / "idd")
        elif name in ("convert", "export"):
            out.mkdir(parents=True)


def make_material(root: Path) -> Material:
    """Writes the inputs of all commands, unless they are there.

    scenes: 6 + 4 toy scenes of 96 x 128 pixels. model, evaluated: a network trained on them, and its predictions.
    photos: 6 images and a video. outputs: files of an instance model and a semantic model. The others are named after
    the command that reads them.
    """
    material = Material(root)
    if (root / COMPLETE).is_file():
        return material
    shutil.rmtree(root, ignore_errors=True)
    (root / "photos").mkdir(parents=True)
    generate_toy_scenes(root / "scenes", num_train=6, num_val=4, seed=5, size=(96, 128))
    for split, files in material.splits.items():
        own = root / "scenes_own" / split
        own.mkdir(parents=True)
        for key, name in (("images", "images"), ("panoptic_root", "panoptic"), ("panoptic_json", "panoptic.json")):
            (own / name).symlink_to(Path("..", "..", "scenes", split, Path(files[key]).name))
    for image in Path(material.splits["train"]["images"]).iterdir():
        shutil.copy(image, root / "photos" / image.name)
    write_video(root / "photos" / "drive.avi", 8)
    dataset_trees.make_idd(root / "idd", np.random.default_rng(0), frames=8)
    (root / "labelme").mkdir()
    WRITERS["labelme polygons"].write(root / "labelme", _scenes())
    write_ground_truth(root / "outputs", *write_outputs(root / "outputs", 30)[:2])
    seamseg = import_script("tests/checkpoint/test_convert_seamseg")
    seamseg.save(root / "seamseg.tar", seamseg.cheap_states())
    tiny_onnx.write_model(root / "model.onnx")
    material.write_spec(root / "ablation.yaml")
    long = [*material.network, *material.datasets, "SEED", 3, "SOLVER.MAX_ITER", 40]
    for words in (
        ["train", "--config-file", CONFIG, *long, "OUTPUT_DIR", material.model],
        material.commands(root / "evaluated")["evaluate"],
    ):
        outcome = run(words, root)
        if outcome.code:
            raise AttackFailed(f"{words[0]} of the material: {outcome.end()}")
    (root / COMPLETE).touch()
    return material


def _files_of(folder: Path) -> dict[str, str]:
    names = {"images": "images", "panoptic_root": "panoptic", "panoptic_json": "panoptic.json"}
    return {key: str(folder / name) for key, name in names.items()}


def _scenes() -> list:
    return [make_scene(seed) for seed in range(8)]
