"""Cityscapes' own measures against detectron2's evaluators; our PQ against cityscapesscripts' panoptic evaluation."""

import copy
import json
from pathlib import Path

import dataset_trees
import numpy as np
import pytest
import torch
from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling as instance_level
from cityscapesscripts.evaluation import evalPanopticSemanticLabeling as official
from cityscapesscripts.helpers.labels import id2label
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import CityscapesInstanceEvaluator, CityscapesSemSegEvaluator
from detectron2.structures import Boxes, Instances
from PIL import Image

from panoptic_fusion.data import get_label_space
from panoptic_fusion.data.annotation import read_id_map
from panoptic_fusion.data.datasets import register_all
from panoptic_fusion.data.prepare import prepare
from panoptic_fusion.errors import UserError
from panoptic_fusion.evaluation import PanopticQualityEvaluator
from panoptic_fusion.evaluation import cityscapes as cs
from panoptic_fusion.networks.inference import with_pasted_masks

NAME = "cityscapes_fine_val"


@pytest.fixture(scope="module")
def dicts(tmp_path_factory):
    """The dicts of a prepared val split of 5 images, one of them all void and one portrait."""
    root = tmp_path_factory.mktemp("datasets")
    dataset_trees.make_cityscapes(root / "cityscapes", np.random.default_rng(11), images_per_city=5, splits=("val",))
    prepare("cityscapes", root / "cityscapes", ["val"], workers=1, progress=False)
    register_all(str(root))
    yield DatasetCatalog.get(NAME)
    register_all()


def random_prediction(rng: np.random.Generator, record: dict, void: bool = True) -> dict:
    """A prediction that has something of the ground truth: shifted, with other classes, merged and void pieces."""
    ids = read_id_map(record["pan_seg_file_name"])
    ids = np.roll(ids, rng.integers(-3, 4, 2), (0, 1))
    for _ in range(rng.integers(0, 4)):
        y, x = rng.integers(0, ids.shape[0] - 8), rng.integers(0, ids.shape[1] - 8)
        ids[y : y + 8, x : x + 8] = rng.integers(0, 3) if void else 1
    if not void:
        ids[ids == 0] = 2
    known = {s["id"]: s for s in record["segments_info"]}
    panoptic_map, segments_info = np.zeros(ids.shape, np.int32), []
    stuff: dict[int, int] = {}
    for old in np.unique(ids[ids > 0]).tolist():
        segment = known.get(old)
        if segment is None or rng.random() < 0.2:
            isthing = bool(rng.random() < 0.5)
            category_id = int(rng.integers(8 if isthing else 11))
        else:
            isthing, category_id = segment["isthing"], segment["category_id"]
        new = len(segments_info) + 1
        if not isthing:
            new = stuff.setdefault(category_id, new)
        panoptic_map[ids == old] = new
        if new > len(segments_info):
            segments_info.append({"id": new, "isthing": isthing, "category_id": category_id})
            if isthing:
                segments_info[-1] |= {"score": float(rng.random()), "instance_id": 0}
    for segment in segments_info:
        segment["area"] = int((panoptic_map == segment["id"]).sum())
    return {"panoptic_seg": (torch.from_numpy(panoptic_map), segments_info)}


def predict(dicts: list[dict], seed: int, void: bool = True) -> list[dict]:
    rng = np.random.default_rng(seed)
    return [random_prediction(rng, record, void) for record in dicts]


def inputs_of(dicts: list[dict]) -> list[dict]:
    return [{key: record[key] for key in ("image_id", "file_name", "height", "width")} for record in dicts]


def evaluate(evaluator, dicts: list[dict], outputs: list[dict]) -> dict:
    evaluator.reset()
    evaluator.process(inputs_of(dicts), outputs)
    return evaluator.evaluate()


# -- PQ --------------------------------------------------------------------------------------------------------------


def write_coco(folder: Path, dicts: list[dict], outputs: list[dict]) -> list[dict]:
    """Writes predictions in the COCO panoptic format with category id = label id; returns the json's annotations."""
    space, annotations = get_label_space(NAME), []
    folder.mkdir(exist_ok=True)
    for record, output in zip(dicts, outputs, strict=True):
        panoptic_map, segments_info = output["panoptic_seg"]
        ids = panoptic_map.numpy()
        rgb = np.stack([ids % 256, ids // 256, np.zeros_like(ids)], -1).astype(np.uint8)
        Image.fromarray(rgb).save(folder / f"{record['image_id']}.png")
        segments = [
            {"id": s["id"], "category_id": (space.thing_ids if s["isthing"] else space.stuff_ids)[s["category_id"]]}
            for s in segments_info
        ]
        annotations.append(
            {"image_id": record["image_id"], "file_name": f"{record['image_id']}.png", "segments_info": segments}
        )
    return annotations


def assert_same_pq(ours: dict, theirs: dict) -> None:
    space = get_label_space(NAME)
    for ours_suffix, group in (("", "All"), ("_th", "Things"), ("_st", "Stuff")):
        for key in ("pq", "sq", "rq"):
            assert ours[key.upper() + ours_suffix] == pytest.approx(100 * theirs[group][key], abs=1e-6)
    for names, ids in ((space.thing_classes, space.thing_ids), (space.stuff_classes, space.stuff_ids)):
        for name, label_id in zip(names, ids, strict=True):
            mine, official_pq = ours[f"PQ-{name}"], theirs["per_class"][label_id]["pq"]  # 0 where ours is NaN
            assert (0.0 if np.isnan(mine) else mine) == pytest.approx(100 * official_pq, abs=1e-6)


def test_pq_equals_cityscapesscripts_on_50_random_predictions(dicts, tmp_path, capfd):
    metadata = MetadataCatalog.get(NAME)
    content = json.loads(Path(metadata.panoptic_json).read_text())
    categories = {c["id"]: c for c in content["categories"]}
    seen = set()
    for seed in range(50):
        outputs = predict(dicts, seed)
        annotations = write_coco(tmp_path / "pred", dicts, outputs)
        pairs = list(zip(copy.deepcopy(content["annotations"]), annotations, strict=True))
        stat = official.pq_compute_single_core(0, pairs, metadata.panoptic_root, str(tmp_path / "pred"), categories)
        theirs = official.average_pq(stat, categories)
        ours = evaluate(PanopticQualityEvaluator(NAME, distributed=False), dicts, outputs)["panoptic_seg"]
        assert_same_pq(ours, theirs)
        seen.add(round(ours["PQ"], 3))
    assert len(seen) > 40 and max(seen) > 20


def test_pq_equals_cityscapesscripts_from_its_files(dicts, tmp_path, monkeypatch, capfd):
    """Through the function that its command calls, in several processes."""
    monkeypatch.chdir(tmp_path)
    metadata = MetadataCatalog.get(NAME)
    outputs = predict(dicts, 77)
    annotations = write_coco(tmp_path / "pred", dicts, outputs)
    (tmp_path / "pred.json").write_text(json.dumps({"annotations": annotations}))
    files = (metadata.panoptic_json, metadata.panoptic_root, tmp_path / "pred.json", tmp_path / "pred", "results.json")
    theirs = official.evaluatePanoptic(*map(str, files))
    assert_same_pq(evaluate(PanopticQualityEvaluator(NAME, distributed=False), dicts, outputs)["panoptic_seg"], theirs)


# -- Cityscapes' measures --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def detectron2_name(dicts):
    """A name with the metadata that detectron2's own evaluators need."""
    name = "cityscapes_of_the_test"
    space = get_label_space(NAME)
    MetadataCatalog.get(name).set(
        thing_classes=list(space.thing_classes), gt_dir=MetadataCatalog.get(NAME).cityscapes_gt_dir
    )
    yield name
    MetadataCatalog.remove(name)


@pytest.mark.parametrize("seed", range(8))
def test_equal_to_detectron2s_evaluators(seed, dicts, detectron2_name, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    if not hasattr(np, "in1d"):  # see cs._cityscapesscripts_on_numpy_2
        monkeypatch.setattr(np, "in1d", np.isin, raising=False)
    monkeypatch.setattr(instance_level, "writeDict2JSON", lambda content, path: None)
    space = get_label_space(NAME)
    outputs = predict(dicts, seed, void=False)
    theirs_in = []
    for output in outputs:
        panoptic_map, segments_info = output["panoptic_seg"]
        things = [s for s in segments_info if s["isthing"]]
        instances = Instances(tuple(panoptic_map.shape))
        masks = [panoptic_map == s["id"] for s in things] or [panoptic_map < 0]
        instances.pred_masks = torch.stack(masks)[: len(things)]
        instances.pred_classes = torch.tensor([s["category_id"] for s in things], dtype=torch.int64)
        instances.scores = torch.tensor([s["score"] for s in things], dtype=torch.float64)
        sem_seg = torch.zeros(19, *panoptic_map.shape)
        for s in segments_info:  # channel = trainId: stuff first, then things
            sem_seg[s["category_id"] + (11 if s["isthing"] else 0), panoptic_map == s["id"]] = 1
        assert (sem_seg.sum(0) == 1).all()
        theirs_in.append({"instances": instances, "sem_seg": sem_seg})
    try:
        ap = evaluate(CityscapesInstanceEvaluator(detectron2_name), dicts, theirs_in)["segm"]
    except IndexError:  # see test_a_class_of_which_only_ignored_pixels_are_predicted_has_ap_0
        ap = None
    iou = evaluate(CityscapesSemSegEvaluator(detectron2_name), dicts, theirs_in)["sem_seg"]
    before = copy.deepcopy(outputs)
    found = {}
    for evaluator in cs.build_cityscapes_evaluators(NAME):
        found.update(evaluate(evaluator, dicts, outputs))
    for a, b in zip(before, outputs, strict=True):  # the model's output is as it was
        assert torch.equal(a["panoptic_seg"][0], b["panoptic_seg"][0]) and a["panoptic_seg"][1] == b["panoptic_seg"][1]
    if ap is None:
        assert all(0 <= value < 100 for value in found["cityscapes_instance_panoptic"].values())
    else:
        assert found["cityscapes_instance_panoptic"] == pytest.approx(ap, nan_ok=True)
    assert found["cityscapes_sem_seg"] == pytest.approx(iou)
    assert iou["IoU"] > 5 and space.num_things == 8


def perfect(record: dict) -> dict:
    """The ground truth as a prediction: void stays void."""
    ids = read_id_map(record["pan_seg_file_name"])
    segments = []
    panoptic_map = np.zeros(ids.shape, np.int32)
    for s in record["segments_info"]:
        panoptic_map[ids == s["id"]] = len(segments) + 1
        classes = {key: s[key] for key in ("isthing", "category_id")}
        segments.append({"id": len(segments) + 1, "score": 0.9, **classes})
    return {"panoptic_seg": (torch.from_numpy(panoptic_map), segments)}


def test_perfect_prediction_and_subset(dicts, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    for chosen in (dicts, dicts[1:3]):  # the evaluators measure the images that they have seen
        outputs = [perfect(record) for record in chosen]
        found = {}
        for evaluator in cs.build_cityscapes_evaluators(NAME):
            found.update(evaluate(evaluator, chosen, outputs))
        assert found["cityscapes_instance_panoptic"]["AP"] == pytest.approx(100)
        assert found["cityscapes_sem_seg"]["IoU"] == pytest.approx(100)
    assert not list(tmp_path.iterdir())  # nothing is left in the working directory


def test_evaluating_twice_gives_the_same(dicts, capfd):
    for evaluator in cs.build_cityscapes_evaluators(NAME):
        first = evaluate(evaluator, dicts, [perfect(record) for record in dicts])
        folder = Path(evaluator._temp_dir)
        np.testing.assert_equal(evaluator.evaluate(), first)
        evaluator.reset()
        assert not folder.exists()


def test_void_and_empty_predictions(dicts, tmp_path, capfd):
    outputs = []
    for record in dicts:
        void = torch.zeros(record["height"], record["width"], dtype=torch.int32)
        outputs.append({"panoptic_seg": (void, [])})
    found = {}
    for evaluator in cs.build_cityscapes_evaluators(NAME):
        found.update(evaluate(evaluator, dicts, outputs))
    assert found["cityscapes_instance_panoptic"]["AP"] == 0 and found["cityscapes_sem_seg"]["IoU"] == 0


def test_a_class_of_which_only_ignored_pixels_are_predicted_has_ap_0(dicts, capfd):
    """All things but those of one class are perfect; of that class one instance is predicted, on void: 0, not NaN."""
    outputs = [perfect(record) for record in dicts]
    classes = set()  # cityscapesscripts leaves out instances of less than 100 pixels
    for record in dicts:
        ids = read_id_map(record["pan_seg_file_name"])
        things = [s for s in record["segments_info"] if s["isthing"] and not s["iscrowd"]]
        classes |= {s["category_id"] for s in things if (ids == s["id"]).sum() >= 100}
    lost = min(classes)
    for output in outputs:
        panoptic_map, segments = output["panoptic_seg"]
        for segment in [s for s in segments if s["isthing"] and s["category_id"] == lost]:
            panoptic_map[panoptic_map == segment["id"]] = 0
            segments.remove(segment)
    record, (panoptic_map, segments) = next(
        (r, o["panoptic_seg"])
        for r, o in zip(dicts, outputs, strict=True)
        if (read_id_map(r["pan_seg_file_name"]) == 0).sum() > 50
    )
    void = torch.from_numpy(read_id_map(record["pan_seg_file_name"]) == 0)
    assert not (panoptic_map[void] != 0).any()
    panoptic_map[void] = 99
    segments.append({"id": 99, "isthing": True, "category_id": lost, "score": 0.8})
    found = evaluate(cs.PanopticInstanceEvaluator(NAME), dicts, outputs)["cityscapes_instance_panoptic"]
    assert found["AP"] == pytest.approx(100 * (len(classes) - 1) / len(classes))
    for output in outputs:  # nothing is found of any class
        output["panoptic_seg"] = torch.zeros_like(output["panoptic_seg"][0]), []
    panoptic_map[void] = 99
    outputs[dicts.index(record)]["panoptic_seg"] = torch.where(panoptic_map == 99, 99, 0), segments[-1:]
    found = evaluate(cs.PanopticInstanceEvaluator(NAME), dicts, outputs)
    assert found["cityscapes_instance_panoptic"] == {"AP": 0, "AP50": 0}


# -- AP of the instance head -----------------------------------------------------------------------------------------

CAR, PERSON = 2, 0  # contiguous thing classes; their label ids are 26 and 24
ROAD = 7


def instances_of(masks: list[np.ndarray], classes: list[int], scores: list[float]) -> Instances:
    instances = Instances((40, 80))
    instances.pred_masks = torch.from_numpy(np.array(masks, bool).reshape(-1, 40, 80))
    instances.pred_classes = torch.tensor(classes, dtype=torch.int64)
    instances.scores = torch.tensor(scores, dtype=torch.float64)
    return instances


def rectangle(y: int, x: int, height: int = 20, width: int = 20) -> np.ndarray:
    mask = np.zeros((40, 80), bool)
    mask[y : y + height, x : x + width] = True
    return mask


def ap_of_head(folder: Path, truth: list[list], predicted: list[Instances]) -> dict[str, float]:
    """The evaluator's result for images of 40 x 80 pixels, given as lists of (mask, class); all else is road."""
    evaluator, inputs = cs.InstancesOfHead(NAME), []
    evaluator._gt_dir = folder / "gt"
    (folder / "gt" / "town").mkdir(parents=True)
    for i, image in enumerate(truth):
        ids = np.full((40, 80), ROAD, np.uint16)
        for number, (mask, cls) in enumerate(image):
            ids[mask] = get_label_space(NAME).thing_ids[cls] * 1000 + number
        stem = f"town_{i:06d}_000019"
        Image.fromarray(ids).save(folder / "gt/town" / f"{stem}_gtFine_instanceIds.png")
        labels = np.where(ids >= 1000, ids // 1000, ids).astype(np.uint8)
        Image.fromarray(labels).save(folder / "gt/town" / f"{stem}_gtFine_labelIds.png")
        inputs.append({"file_name": f"{stem}_leftImg8bit.png"})
    evaluator.reset()
    evaluator.process(inputs, [{"instances": instances} for instances in predicted])
    return evaluator.evaluate()["cityscapes_instance"]


def test_ap_of_the_instance_head_by_hand(dicts, tmp_path, capfd):
    """Two cars and a person; a car is found, another car is wrong, the person is not found.

    Cars: precision 1 at a recall of 0 and of 1/2, so the area is 1/2. Persons: 0, as nothing is found. The other
    classes have no ground truth and do not count.
    """
    truth = [[(rectangle(0, 0), CAR), (rectangle(0, 30), CAR), (rectangle(20, 60), PERSON)]]
    predicted = [instances_of([rectangle(0, 0), rectangle(20, 20)], [CAR, CAR], [0.9, 0.8])]
    assert ap_of_head(tmp_path, truth, predicted) == pytest.approx({"AP": 25, "AP50": 25})


@pytest.mark.filterwarnings("ignore:Mean of empty slice")
def test_ap_of_the_instance_head_without_a_detection_and_without_a_thing(dicts, tmp_path, capfd):
    nothing = instances_of([], [], [])
    found = ap_of_head(tmp_path / "one", [[(rectangle(0, 0), CAR)]], [nothing])
    assert found == {"AP": 0, "AP50": 0}
    assert all(np.isnan(value) for value in ap_of_head(tmp_path / "none", [[]], [nothing]).values())


def test_overlapping_instances_count_as_they_are(dicts, tmp_path, capfd):
    """One car, found twice by overlapping masks of IoU 0.95 (score 0.9) and 1 (score 0.7).

    Up to a threshold of 0.9, the first is right and the second a false positive: precision 1 up to recall 1, so the
    area is 1. Above 0.95, only the second is right: precision 1/2 at recall 1 and 0 at recall 0, whose widths are 1/2
    each, so the area is 1/4.
    """
    predicted = [instances_of([rectangle(0, 0), rectangle(0, 0, 20, 19)], [CAR, CAR], [0.7, 0.9])]
    found = ap_of_head(tmp_path, [[(rectangle(0, 0), CAR)]], predicted)
    assert found == pytest.approx({"AP": 100 * (9 * 1 + 1 / 4) / 10, "AP50": 100})


def slow_ap(truth: list[list], predicted: list[Instances]) -> float:
    """AP x 100 by its definition, for images without ignored pixels: loops over classes, thresholds and instances."""
    values = []
    for cls in range(8):
        masks = [[mask for mask, other in image if other == cls] for image in truth]
        total = sum(map(len, masks))
        if total == 0:
            continue
        for threshold in np.arange(0.5, 1.0, 0.05):
            hits = []  # (score, whether it is the best of a ground-truth instance)
            for image, instances in zip(masks, predicted, strict=True):
                found: set[int] = set()
                rows = [i for i in range(len(instances)) if int(instances.pred_classes[i]) == cls]
                for i in sorted(rows, key=lambda i: -float(instances.scores[i])):
                    mask = instances.pred_masks[i].numpy()
                    same = [k for k, gt in enumerate(image) if (gt & mask).sum() / (gt | mask).sum() > threshold]
                    hits.append((float(instances.scores[i]), bool(set(same) - found)))
                    found |= set(same)
            values.append(area_under_curve(hits, total))
    return 100 * float(np.mean(values))  # each class has the same number of thresholds


def area_under_curve(hits: list[tuple[float, bool]], total: int) -> float:
    """Precision over recall, where each point reaches half way to the points next to it."""
    if not hits:
        return 0.0
    points = []
    for score in sorted(score for score, _ in hits):
        kept = [hit for value, hit in hits if value >= score]
        points.append((sum(kept) / total, sum(kept) / len(kept)))
    points.append((0.0, 1.0))
    recall = [points[0][0], *(r for r, _ in points), 0.0]
    return sum(p * (recall[i] - recall[i + 2]) / 2 for i, (_, p) in enumerate(points))


def test_ap_of_the_instance_head_equals_its_definition_on_random_images(dicts, tmp_path, capfd):
    rng = np.random.default_rng(7)
    seen = set()
    for case in range(12):
        truth, predicted = [], []
        for _ in range(3):
            cells = [(y, x) for y in (0, 20) for x in (0, 20, 40, 60) if rng.random() < 0.6]
            image = [(rectangle(y, x, *rng.integers(12, 21, 2)), int(rng.choice([PERSON, CAR, 5]))) for y, x in cells]
            masks, classes = [], []
            for mask, cls in image:
                for _ in range(int(rng.integers(0, 3))):
                    masks.append(np.roll(mask, rng.integers(-3, 4, 2), (0, 1)))
                    classes.append(cls if rng.random() < 0.8 else CAR)
            truth.append(image)
            predicted.append(instances_of(masks, classes, rng.permutation(100)[: len(masks)] / 100))
        found = ap_of_head(tmp_path / str(case), truth, predicted)["AP"]
        assert found == pytest.approx(slow_ap(truth, predicted), abs=1e-9)
        seen.add(round(found, 3))
    assert len(seen) == 12 and 5 < max(seen) < 100


def test_mask_logits_are_written_as_pasted_masks(dicts, tmp_path):
    torch.manual_seed(0)
    instances = Instances((40, 80))
    instances.pred_boxes = Boxes(torch.tensor([[2.3, 4.1, 30.2, 33.3], [50.0, 10.0, 79.9, 39.5]]))
    instances.pred_mask_logits = torch.randn(2, 28, 28)
    instances.pred_classes = torch.tensor([CAR, PERSON])
    instances.scores = torch.tensor([0.5, 0.25])
    for name, each in (("logits", instances), ("masks", with_pasted_masks(instances))):
        (tmp_path / name).mkdir()
        cs.write_instances(tmp_path / name / "a_pred.txt", each, get_label_space(NAME))
    text = (tmp_path / "logits" / "a_pred.txt").read_text()
    assert (
        text == (tmp_path / "masks" / "a_pred.txt").read_text() == "a_pred_0_26.png 26 0.5\na_pred_1_24.png 24 0.25\n"
    )
    for name in ("a_pred_0_26.png", "a_pred_1_24.png"):
        masks = [np.asarray(Image.open(tmp_path / kind / name)) for kind in ("logits", "masks")]
        assert np.array_equal(*masks) and set(np.unique(masks[0])) == {0, 255}


def test_errors(dicts, capfd):
    instances, _ = cs.build_cityscapes_evaluators(NAME)
    instances.reset()
    with pytest.raises(UserError, match="no image"):
        instances.evaluate()
    with pytest.raises(ValueError, match="panoptic_seg"):
        instances.process(inputs_of(dicts[:1]), [{}])
    segment = {"id": 1, "isthing": True, "category_id": 0}
    for broken, message in (
        ({"id": 1, "category_id": 0}, "no isthing.*CopiedOutputs"),
        ({"id": 1, "isthing": True}, "no category_id"),
        ({"id": 1, "isthing": True, "category_id": -1}, "thing class -1; there are 8"),
        ({"id": 1, "isthing": False, "category_id": 11}, "stuff class 11; there are 11"),
    ):
        zeros = torch.zeros(32, 64, dtype=torch.int32)
        with pytest.raises(ValueError, match=Path(dicts[0]["file_name"]).stem + ".*" + message):
            instances.process(inputs_of(dicts[:1]), [{"panoptic_seg": (zeros, [broken])}])
    ones = torch.ones(32, 64, dtype=torch.int32)
    with pytest.raises(ValueError, match="without a score"):
        instances.process(inputs_of(dicts[:1]), [{"panoptic_seg": (ones, [segment])}])
    with pytest.raises(UserError, match="output_dir"):
        cs.build_cityscapes_evaluators(NAME, write_submission=True)


def test_chosen_by_metadata(dicts, tmp_path):
    assert cs.build_cityscapes_evaluators("idd_val", tmp_path, write_submission=True) == []
    kinds = [type(e) for e in cs.build_cityscapes_evaluators(NAME, tmp_path, write_submission=True)]
    assert kinds == [cs.PanopticInstanceEvaluator, cs.PanopticSemSegEvaluator, cs.CityscapesSubmission]
    kinds = [type(e) for e in cs.build_cityscapes_evaluators(NAME, instances=True)]
    assert kinds == [cs.InstancesOfHead, cs.PanopticInstanceEvaluator, cs.PanopticSemSegEvaluator]
    test_split = cs.build_cityscapes_evaluators("cityscapes_fine_test", tmp_path, write_submission=True)
    assert [type(e) for e in test_split] == [cs.CityscapesSubmission]


def test_left_out_on_several_machines(dicts, tmp_path, monkeypatch):
    """detectron2's evaluators would stop there, after all of the training."""
    monkeypatch.setattr(cs.comm, "get_world_size", lambda: 4)
    monkeypatch.setattr(cs.comm, "get_local_size", lambda: 2)
    assert cs.build_cityscapes_evaluators(NAME, tmp_path) == []


# -- submission ------------------------------------------------------------------------------------------------------


def test_submission_files(dicts, tmp_path):
    outputs = predict(dicts, 3)
    writer = cs.CityscapesSubmission(NAME, tmp_path)
    assert evaluate(writer, dicts, predict(dicts, 4)) == {}
    assert evaluate(writer, dicts, outputs) == {}  # written over an older one
    space = get_label_space(NAME)
    used = set()
    for record, output in zip(dicts, outputs, strict=True):
        panoptic_map, segments_info = output["panoptic_seg"][0].numpy(), output["panoptic_seg"][1]
        stem = f"{record['image_id']}_leftImg8bit_pred"
        pixels = Image.open(tmp_path / "cityscapes_pixel_level" / f"{stem}.png")
        assert pixels.mode == "L"
        by_id = {s["id"]: s for s in segments_info}
        for y, row in enumerate(np.asarray(pixels)):
            for x, label_id in enumerate(row):
                s = by_id.get(int(panoptic_map[y, x]))
                names = space.thing_classes if s and s["isthing"] else space.stuff_classes
                assert id2label[int(label_id)].name == (names[s["category_id"]] if s else "unlabeled")
        things = {s["id"]: s for s in segments_info if s["isthing"]}
        lines = (tmp_path / "cityscapes_instance_level" / f"{stem}.txt").read_text().splitlines()
        assert len(lines) == len(things)
        for line, segment in zip(lines, things.values(), strict=True):
            name, label_id, score = line.split(" ")
            used.add(name)
            assert id2label[int(label_id)].name == space.thing_classes[segment["category_id"]]
            assert float(score) == segment["score"]
            mask = np.asarray(Image.open(tmp_path / "cityscapes_instance_level" / name))
            assert np.array_equal(mask, np.where(panoptic_map == segment["id"], 255, 0))
    assert {p.name for p in (tmp_path / "cityscapes_instance_level").glob("*.png")} == used
