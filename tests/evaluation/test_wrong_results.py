"""Wrong results that users of such projects have reported: stale caches, repeated images, AP of nothing, odd names."""

import errno
import itertools
import json
import logging
import math
import os
import shutil
import uuid

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.structures import Boxes, Instances
from PIL import Image

from panoptic_fusion.data import register_panoptic
from panoptic_fusion.data.catalogs import forgotten_datasets
from panoptic_fusion.errors import DiskError
from panoptic_fusion.evaluation import InstancesEvaluator, PanopticQualityEvaluator
from panoptic_fusion.files import safe_name

CATEGORIES = [
    {"id": 1, "name": "car", "isthing": 1},
    {"id": 5, "name": "person", "isthing": 1},
    {"id": 2, "name": "road", "isthing": 0},
    {"id": 3, "name": "sky", "isthing": 0},
]
IDS = np.full((64, 96), 7, np.int32)
IDS[:32] = 8
IDS[32:52, 10:40] = 9
SEGMENTS = [{"id": 7, "category_id": 2}, {"id": 8, "category_id": 3}, {"id": 9, "category_id": 1}]
RIGHT = [
    {"id": 7, "isthing": False, "category_id": 0},
    {"id": 8, "isthing": False, "category_id": 1},
    {"id": 9, "isthing": True, "category_id": 0},
]


def write_png(path, ids):
    Image.fromarray(np.stack([ids & 255, ids >> 8 & 255, ids >> 16], -1).astype(np.uint8)).save(path)


@pytest.fixture
def make(tmp_path):
    """make(image_ids, categories=..., names=...) -> name of a registered dataset of equal images."""
    made = itertools.count()

    def make(image_ids=(1, 2), categories=CATEGORIES, names=None, name=None):
        root = tmp_path / f"set{next(made)}"
        content = {"images": [], "annotations": [], "categories": categories}
        for index, image_id in enumerate(image_ids):
            file_name = names[index] if names else f"{index}.png"
            for folder in ("images", "png"):
                (root / folder / file_name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (96, 64)).save(root / "images" / file_name)
            write_png(root / "png" / file_name, IDS)
            content["images"].append({"id": image_id, "file_name": file_name, "height": 64, "width": 96})
            content["annotations"].append({"image_id": image_id, "file_name": file_name, "segments_info": SEGMENTS})
        (root / "panoptic.json").write_text(json.dumps(content))
        name = name or f"wrong_{uuid.uuid4().hex}"
        register_panoptic(name, str(root / "images"), str(root / "png"), str(root / "panoptic.json"))
        return name

    return make


def found(ids=None, classes=(0,)):
    """Instances with the masks ids == 9 as each of some classes; none without ids."""
    num = 0 if ids is None else len(classes)
    masks = torch.zeros(0, 64, 96, dtype=torch.bool) if ids is None else torch.tensor(ids == 9).expand(num, -1, -1)
    y, x = (torch.zeros(1), torch.zeros(1)) if ids is None else torch.tensor(ids == 9).nonzero().unbind(1)
    box = torch.tensor([[x.min(), y.min(), x.max() + 1, y.max() + 1]], dtype=torch.float32)
    return Instances(
        (64, 96),
        pred_boxes=Boxes(box.expand(num, -1)),
        scores=torch.full((num,), 0.9),
        pred_classes=torch.tensor(classes[:num], dtype=torch.int64),
        pred_masks=masks,
    )


def instance_results(name, folder, of_image):
    evaluator = InstancesEvaluator(name, str(folder), distributed=False)
    evaluator.reset()
    for image_id, instances in of_image:
        evaluator.process([{"image_id": image_id}], [{"instances": instances}])
    return evaluator.evaluate()


# -- AP where nothing is found ---------------------------------------------------------------------------------------


def test_ap_is_0_where_nothing_is_found_and_nan_without_ground_truth(make, tmp_path):
    """Of two classes only cars are in the ground truth. COCO: 0 for cars and over all, no number for persons."""
    for instances, ap in (([found()] * 2, 0), ([found(IDS), found()], 50), ([found(IDS, (1,)), found()], 0)):
        results = instance_results(make(), tmp_path / uuid.uuid4().hex, zip((1, 2), instances, strict=True))
        assert set(results) == {"bbox", "segm"}
        for values in results.values():
            assert values["AP"] == values["AP-car"] == pytest.approx(ap, abs=0.5)  # 101 recall steps: 51 of them
            assert math.isnan(values["AP-person"])
            assert values["APs"] == pytest.approx(ap, abs=0.5) and math.isnan(values["APm"])  # 20 x 30 pixels


def test_masks_as_logits_and_one_class(make, tmp_path):
    nothing = found()
    nothing.remove("pred_masks")
    nothing.pred_mask_logits = torch.zeros(0, 28, 28)
    results = instance_results(
        make(categories=[c for c in CATEGORIES if c["id"] != 5]), tmp_path / "out", [(1, nothing)]
    )
    assert results["segm"]["AP"] == results["bbox"]["AP"] == 0


# -- caches ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep_time", [False, True])
def test_corrected_pngs_are_seen(make, tmp_path, keep_time):
    """Also where a tool sets the time of the new file to that of the old one."""
    name = make((1,))
    assert instance_results(name, tmp_path / "out", [(1, found(IDS))])["segm"]["AP"] == pytest.approx(100)
    moved = np.where(IDS == 9, 7, IDS)
    moved[40:60, 60:90] = 9
    path = DatasetCatalog.get(name)[0]["pan_seg_file_name"]
    status = os.stat(path)
    write_png(path, moved)
    if keep_time:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert instance_results(name, tmp_path / "out", [(1, found(moved))])["segm"]["AP"] == pytest.approx(100)
    assert instance_results(name, tmp_path / "out", [(1, found(IDS))])["segm"]["AP"] == 0


def test_the_json_is_not_made_again_without_a_change(make, tmp_path, monkeypatch):
    name = make((1,))
    InstancesEvaluator(name, str(tmp_path / "out"), distributed=False)
    monkeypatch.setattr("panoptic_fusion.data.coco_panoptic.derive_instances_json", None)  # a call would fail
    InstancesEvaluator(name, str(tmp_path / "out"), distributed=False)


def test_a_name_that_is_registered_again_with_other_classes(make, tmp_path):
    """One folder, one name: the second evaluator has the second dataset's classes."""
    with forgotten_datasets():
        name = make()
        assert "AP-car" in instance_results(name, tmp_path / "out", [(1, found())])["segm"]
    renamed = [{**c, "name": {"car": "wolf"}.get(c["name"], c["name"])} for c in CATEGORIES]
    make(categories=renamed, name=name)
    results = instance_results(name, tmp_path / "out", [(1, found(IDS)), (2, found(IDS))])
    assert "AP-car" not in results["segm"] and results["segm"]["AP-wolf"] == pytest.approx(100)


# -- images that are shown twice -------------------------------------------------------------------------------------


def test_an_image_counts_once(make, tmp_path, caplog):
    name = make()
    wrong = (np.ones((64, 96), np.int32), [{"id": 1, "isthing": False, "category_id": 1}])

    def measured(order):
        evaluator = PanopticQualityEvaluator(name, distributed=False, output_dir=str(tmp_path), write_predictions=True)
        for image_id in order:
            evaluator.process([{"image_id": image_id}], [{"panoptic_seg": (IDS, RIGHT) if image_id == 1 else wrong}])
        results = evaluator.evaluate()["panoptic_seg"]
        listed = json.loads((tmp_path / "panoptic_predictions.json").read_text())["annotations"]
        assert len(listed) == len(set(order))
        return results

    once = measured([1, 2])
    assert not caplog.records or all(r.levelno < logging.WARNING for r in caplog.records)
    for order in ([1, 2, 1], [1, 1, 2, 2]):
        assert measured(order) == pytest.approx(once, nan_ok=True)
    assert "counts once" in caplog.text
    assert measured([1, 1])["images"] == 1 and "1 of the 2 images" in caplog.text


def test_the_first_answer_for_an_image_counts(make, tmp_path):
    name = make()
    wrong = (np.ones((64, 96), np.int32), [{"id": 1, "isthing": False, "category_id": 1}])

    def measured(*answers):
        evaluator = PanopticQualityEvaluator(name, distributed=False)
        for answer in answers:
            evaluator.process([{"image_id": 1}], [{"panoptic_seg": answer}])
        return evaluator.evaluate()["panoptic_seg"]["PQ"]

    right = IDS, RIGHT
    assert measured(right, wrong) == measured(right) == pytest.approx(100)
    assert measured(wrong, right) == measured(wrong) < 50


def test_an_image_counts_once_in_box_and_mask_ap(make, tmp_path):
    """Image 1 is right, image 2 is not: a second right answer for image 1 is no false positive, nor a second chance."""
    name = make()
    once = instance_results(name, tmp_path, [(1, found(IDS)), (2, found())])
    again = instance_results(name, tmp_path, [(1, found(IDS)), (2, found()), (1, found(IDS)), (2, found(IDS))])
    assert again["segm"] == pytest.approx(once["segm"], nan_ok=True)
    evaluator = InstancesEvaluator(name, str(tmp_path), distributed=False)
    evaluator.reset()
    parts = []  # of two processes, as a gather joins them
    for image_ids in ((1, 2), (1,)):
        evaluator.reset()
        for image_id in image_ids:
            instances = found(IDS) if image_id == 1 else found()
            evaluator.process([{"image_id": image_id}], [{"instances": instances}])
        parts += evaluator._predictions
    evaluator._predictions = parts
    assert evaluator.evaluate()["segm"] == pytest.approx(once["segm"], nan_ok=True)


def test_predictions_are_written_whole_or_not_at_all(make, tmp_path, monkeypatch):
    name = make()
    instance_results(name, tmp_path, [(1, found(IDS)), (2, found())])
    paths = [tmp_path / file for file in ("coco_instances_results.json", "instances_predictions.pth")]
    before = [path.read_bytes() for path in paths]
    assert [x["category_id"] for x in json.loads(before[0])] == [1]
    assert len(torch.load(paths[1], weights_only=True)) == 2

    def full(source, target):
        raise OSError(errno.ENOSPC, "No space left on device", str(target))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(DiskError):
        instance_results(name, tmp_path, [(1, found()), (2, found(IDS))])
    assert [path.read_bytes() for path in paths] == before


# -- outputs and names -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["id", "isthing", "category_id"])
def test_a_segment_that_lacks_a_key_is_named_with_its_image(make, key):
    segments = [{k: v for k, v in s.items() if k != key} for s in RIGHT]
    evaluator = PanopticQualityEvaluator(make(), distributed=False)
    with pytest.raises(ValueError, match=f"0.png: a segment of segments_info has no {key}"):
        evaluator.process([{"image_id": 1}], [{"panoptic_seg": (IDS, segments)}])


def test_ids_that_are_no_file_names(make, tmp_path):
    """Images of one name in several folders: their PNGs are named by ids, which may be any text."""
    image_ids = ["a/b", "a_b", "..", "../../up", "sp ace", 1, "1", "x" * 300, ".hidden", "", "ü\n"]
    name = make(image_ids, names=[f"folder{i}/same.png" for i in range(len(image_ids))])
    folder = tmp_path / "deep" / "er"
    evaluator = PanopticQualityEvaluator(name, distributed=False, output_dir=str(folder), write_predictions=True)
    for image_id in image_ids:
        evaluator.process([{"image_id": image_id}], [{"panoptic_seg": (IDS, RIGHT)}])
    evaluator.evaluate()
    content = json.loads((folder / "panoptic_predictions.json").read_text())
    names = [a["file_name"] for a in content["annotations"]]
    assert len(set(names)) == len(image_ids) and names[4] == "sp ace.png"
    assert sorted(p.name for p in (folder / "panoptic_predictions").iterdir()) == sorted(names)
    shutil.rmtree(folder)
    assert [p for p in tmp_path.rglob("*.png") if "set" not in str(p)] == []  # nothing was written elsewhere


def test_dataset_names_stay_in_their_folder(make, tmp_path):
    for name in ("own/val", "../../up", "a_b", "a/b"):
        make(name=name)
        InstancesEvaluator(name, str(tmp_path / "x" / "y" / "out"), distributed=False)
    assert len(list((tmp_path / "x" / "y" / "out").glob("*.json"))) == 4
    assert sorted(p.name for p in (tmp_path / "x").iterdir()) == ["y"]


def test_safe_names():
    kept = ["a", "cityscapes_fine_val", "coco 2017.val-1", "ü", "x" * 100, "漢" * 33]
    assert [safe_name(text) for text in kept] == kept
    changed = [
        "",
        ".",
        "..",
        "/",
        "a/b",
        "a\\b",
        "a:b",
        "x" * 101,
        "漢" * 34,
        ".a",
        " a",
        "a ",
        "a\n",
        "\0",
        "a\0",
        "\udcff",
    ]
    names = [safe_name(text) for text in changed]
    assert len(set(names)) == len(changed)
    for name in names:
        assert 0 < len(name.encode()) <= 100 and not name.startswith(".") and not set(name) & set("/\\:\0\n")
