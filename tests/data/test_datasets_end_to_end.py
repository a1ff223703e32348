"""Each known dataset from its official tree to results.json by the scripts: prepare, check, train two steps, evaluate.

The network is a tiny one on the config of the baseline; dataset names, label space and evaluators are the real ones.
"""

import csv
import json
import math
import subprocess
import sys
from pathlib import Path

import dataset_trees
import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from PIL import Image
from tiny_training import ROOT, TINY_NETWORK, as_opts

from panoptic_fusion.data.datasets import BUILTIN, register_all

MAKE = {
    "cityscapes": dataset_trees.make_cityscapes,
    "vistas": dataset_trees.make_vistas,
    "idd": dataset_trees.make_idd,
    "coco": dataset_trees.make_coco,
}
# (things, stuff) and the number of validation images of the tree.
EXPECTED = {"cityscapes": (8, 11, 3), "vistas": (37, 28, 1), "idd": (9, 17, 3), "coco": (80, 53, 2)}
SHRUNK = {
    **TINY_NETWORK,
    "MODEL.WEIGHTS": "",
    "MODEL.BACKBONE.NAME": "build_fpn_backbone",
    "MODEL.BACKBONE.BOTTOM_UP": "build_narrow_resnet_backbone",
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.RESNETS.DEPTH": 18,
    "MODEL.RESNETS.NORM": "BN",
    "MODEL.ANCHOR_GENERATOR.SIZES": [[8], [16], [32], [64], [128]],
    "MODEL.SEM_SEG_HEAD.NORM": "BN",
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0,
    "MODEL.PANOPTIC_FUSION.INSTANCES_CONFIDENCE_THRESH": 0.0,  # so that an untrained network has things
    "MODEL.PANOPTIC_FUSION.STUFF_AREA_LIMIT": 1,
    "INPUT.CROP.TYPE": "absolute",
    "INPUT.CROP.SIZE": [48, 64],
    "SOLVER.STEPS": [],
    "SOLVER.MAX_ITER": 2,
    "TEST.WRITE_PREDICTIONS": True,
}


@pytest.fixture
def tree(request, tmp_path, monkeypatch):
    """The tree of one dataset below $DETECTRON2_DATASETS, not prepared."""
    key = request.param
    MAKE[key](tmp_path / "data" / key, np.random.default_rng(7))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "data"))
    register_all()
    return key


def read_results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


@pytest.mark.parametrize("tree", sorted(MAKE), indirect=True)
def test_from_the_official_tree_to_results(tree, tmp_path, run_script):
    things, stuff, images = EXPECTED[tree]
    code, out, err = run_script("prepare", tree, "--workers", "1")
    assert code == 0, err
    for split in ("train", "val"):
        assert BUILTIN[tree].names[split] in out
        code, out_check, err = run_script("check", BUILTIN[tree].names[split], "--workers", "1")
        assert code == 0, out_check + err

    output = tmp_path / "output"
    arguments = ["--config-file", ROOT / "configs" / tree / "panoptic_fpn_r50.yaml", *as_opts(SHRUNK)]
    code, _, err = run_script("train", *arguments, "OUTPUT_DIR", output)
    assert code == 0, err
    losses = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    assert all(math.isfinite(line["total_loss"]) for line in losses if "total_loss" in line)
    assert '"iteration": 1' in (output / "metrics.json").read_text()

    results = read_results(output)
    quality = results["panoptic_seg"]
    assert quality["images"] == images
    for measure in ("PQ", "SQ", "RQ", "PQ_dagger", "mIoU"):
        assert {measure, f"{measure}_th", f"{measure}_st"} <= quality.keys()
    assert 0 <= quality["PQ"] <= 100
    assert len([key for key in quality if key.startswith("PQ-")]) == things + stuff
    assert {"AP", "AP50", "AP75"} <= results["segm"].keys() and "AP" in results["bbox"]
    assert ("cityscapes_sem_seg" in results) == ("cityscapes_instance" in results) == (tree == "cityscapes")
    if tree == "cityscapes":
        assert {"IoU", "iIoU", "IoU_sup", "iIoU_sup"} <= results["cityscapes_sem_seg"].keys()
        assert {"AP", "AP50"} <= results["cityscapes_instance"].keys()
        assert 0 <= results["cityscapes_sem_seg"]["IoU"] <= 100
    table = (output / "results.md").read_text()
    assert all(f"\n| {task} " in table for task in results if task != "panoptic_seg")

    dicts = DatasetCatalog.get(BUILTIN[tree].names["val"])
    check_coco_submission(output / "inference" / BUILTIN[tree].names["val"], dicts, tree)
    if tree == "cityscapes":
        check_cityscapes_submission(output / "inference" / "cityscapes_fine_val", dicts)


def check_coco_submission(folder: Path, dicts: list[dict], key: str) -> None:
    """One json and one PNG an image; the segments of the json are those of the PNG, of the dataset's categories."""
    content = json.loads((folder / "panoptic_predictions.json").read_text())
    categories = {c["id"]: c for c in BUILTIN[key].categories()}
    assert {c["id"] for c in content["categories"]} == set(categories)
    assert [a["image_id"] for a in content["annotations"]] == [record["image_id"] for record in dicts]
    kinds = set()
    for annotation, record in zip(content["annotations"], dicts, strict=True):
        png = np.array(Image.open(folder / "panoptic_predictions" / annotation["file_name"]), np.int64)
        assert png.shape == (record["height"], record["width"], 3)
        ids, areas = np.unique(png @ [1, 256, 65536], return_counts=True)
        areas = {i: n for i, n in zip(ids.tolist(), areas.tolist(), strict=True) if i}
        assert {s["id"]: s["area"] for s in annotation["segments_info"]} == areas
        kinds |= {categories[s["category_id"]]["isthing"] for s in annotation["segments_info"]}
    assert kinds == {0, 1}


def check_cityscapes_submission(folder: Path, dicts: list[dict]) -> None:
    """The files that the pixel-level and the instance-level server take; both say the same."""
    from cityscapesscripts.helpers.labels import id2label

    for record in dicts:
        name = Path(record["file_name"]).stem
        label_ids = np.array(Image.open(folder / "cityscapes_pixel_level" / f"{name}_pred.png"))
        assert label_ids.shape == (record["height"], record["width"])
        used = set(np.unique(label_ids).tolist()) - {0}
        assert used and all(not id2label[i].ignoreInEval for i in used)
        listing = folder / "cityscapes_instance_level" / f"{name}_pred.txt"
        rows = list(csv.reader(listing.read_text().splitlines(), delimiter=" "))
        assert rows
        for mask_name, label_id, score in rows:
            mask = np.array(Image.open(listing.parent / mask_name))
            assert mask.shape == label_ids.shape and set(np.unique(mask).tolist()) <= {0, 255}
            assert id2label[int(label_id)].hasInstances and 0 <= float(score) <= 1
            assert (label_ids[mask > 0] == int(label_id)).all() and (mask > 0).any()


def test_submission_of_the_test_split(tmp_path, monkeypatch, run_script):
    """No ground truth: the files are written, the measures are not defined."""
    dataset_trees.make_cityscapes(tmp_path / "cityscapes", np.random.default_rng(8), 2, ("train", "test"))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    register_all()
    code, _, err = run_script("prepare", "cityscapes", "--splits", "train", "test")
    assert code == 0, err
    arguments = ["--config-file", ROOT / "configs" / "cityscapes" / "panoptic_fpn_r50.yaml", *as_opts(SHRUNK)]
    arguments += ["OUTPUT_DIR", tmp_path / "output", "DATASETS.TEST", "('cityscapes_fine_test',)"]
    code, _, err = run_script("train", *arguments)
    assert code == 0, err
    results = read_results(tmp_path / "output")
    assert results.keys() == {"panoptic_seg", "bbox", "segm"}
    assert results["panoptic_seg"]["PQ"] is None and results["panoptic_seg"]["images"] == 2
    dicts = DatasetCatalog.get("cityscapes_fine_test")
    folder = tmp_path / "output" / "inference" / "cityscapes_fine_test"
    check_coco_submission(folder, dicts, "cityscapes")
    check_cityscapes_submission(folder, dicts)


@pytest.mark.slow
@pytest.mark.parametrize("tree", ["idd"], indirect=True)
def test_the_commands_of_the_documentation(tree, tmp_path, child_env):
    """As a user types them, in processes of their own and another folder, with $DETECTRON2_DATASETS alone."""

    def run(*command) -> str:
        words = [sys.executable, "-m", "panoptic_fusion", *map(str, command)]
        done = subprocess.run(words, cwd=tmp_path, env=child_env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    child_env = {**child_env, "DETECTRON2_DATASETS": str(tmp_path / "data")}
    text = run("prepare", tree, tmp_path / "data" / tree)
    assert "idd_train" in text and "idd_val" in text
    run("check", "idd_train")
    config = ["--config-file", "idd/panoptic_fpn_r50.yaml"]
    run("train", *config, *as_opts(SHRUNK), "OUTPUT_DIR", "output")
    results = read_results(tmp_path / "output")
    run(
        "train",
        *("--eval-only", "--config-file", "output/config.yaml", "MODEL.WEIGHTS", "output/model_final.pth"),
        *("OUTPUT_DIR", "output/again"),
    )
    assert read_results(tmp_path / "output" / "again") == results
