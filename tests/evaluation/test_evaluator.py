"""PanopticQualityEvaluator: against detectron2's own evaluator, over processes, and the files it writes."""

import copy
import csv
import json
import math
import os
import uuid
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.evaluation import COCOPanopticEvaluator
from detectron2.structures import BitMasks, Boxes, Instances
from panoptic_cases import (
    NUM_STUFF,
    NUM_THINGS,
    Pair,
    coco_categories,
    random_pair,
    write_data_set,
    write_prediction_files,
)
from PIL import Image
from two_processes import run_in_two_processes

from panoptic_fusion.data import DatasetError, register_panoptic
from panoptic_fusion.data.annotation import decode_segmentation
from panoptic_fusion.data.catalogs import forgotten_datasets
from panoptic_fusion.data.checks import check_dataset
from panoptic_fusion.data.coco_panoptic import panoptic_files
from panoptic_fusion.errors import ConfigError, UserError
from panoptic_fusion.evaluation import CopiedOutputs, PanopticQuality, PanopticQualityEvaluator, build_evaluators
from panoptic_fusion.evaluation.files import evaluate_files
from panoptic_fusion.evaluation.results import results_table
from panoptic_fusion.evaluation.selection import restrict_outputs

DATA = Path(os.environ.get("PANOPTIC_FUSION_DATA", Path(__file__).resolve().parents[2].parent / "shared" / "data"))


def register(files):
    name = f"evaluator_test_{uuid.uuid4().hex}"
    register_panoptic(name, **files)
    return name


def output_of(pair, num_things=NUM_THINGS):
    """What a model returns for the prediction of a pair."""
    info = []
    for i, cls, _ in pair.pred_segments:
        isthing = cls < num_things
        segment = {"id": i, "isthing": isthing, "category_id": cls if isthing else cls - num_things}
        segment["area"] = int((pair.pred_map == i).sum())
        info.append({**segment, "score": 0.75, "instance_id": 0} if isthing else segment)
    return {"panoptic_seg": (torch.from_numpy(pair.pred_map.astype(np.int32)), info)}


def run(evaluator, records, outputs):
    evaluator.reset()
    for record, output in zip(records, outputs, strict=True):
        evaluator.process([{"image_id": record["image_id"], "file_name": record["file_name"]}], [output])
    return evaluator.evaluate()


def equal(a, b):
    """Deep equality with types, tensors by value."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return type(a) is type(b) and a == b


@pytest.fixture(scope="module")
def pairs():
    rng = np.random.default_rng(11)
    return [random_pair(rng, empty_gt_segments=False) for _ in range(24)]


@pytest.fixture(scope="module")
def files(pairs, tmp_path_factory):
    return write_data_set(tmp_path_factory.mktemp("evaluator") / "set", pairs)


@pytest.fixture(scope="module")
def expected(pairs):
    """The results by `PanopticQuality`, which has its own tests."""
    quality = PanopticQuality(NUM_THINGS, NUM_STUFF)
    for pair in pairs:
        quality.update(pair.pred_map, {s[0]: s[1] for s in pair.pred_segments}, pair.gt_map, pair.gt_segments)
    return quality.compute()


def test_results_are_the_measures_times_100(pairs, files, expected, tmp_path):
    name = register(files)
    evaluator = PanopticQualityEvaluator(name, output_dir=str(tmp_path / "out"))
    results = run(evaluator, DatasetCatalog.get(name), [output_of(p) for p in pairs])
    assert list(results) == ["panoptic_seg"]
    values = results["panoptic_seg"]
    assert {type(v) for v in values.values()} == {float}
    for group, suffix in (("all", ""), ("things", "_th"), ("stuff", "_st")):
        for key, label in (("pq", "PQ"), ("sq", "SQ"), ("rq", "RQ"), ("pq_dagger", "PQ_dagger"), ("miou", "mIoU")):
            assert values[label + suffix] == 100 * expected[group][key]
        rows = {"": slice(None), "_th": slice(NUM_THINGS), "_st": slice(NUM_THINGS, None)}[suffix]
        for key in ("tp", "fp", "fn"):
            assert values[key.upper() + suffix] == sum(row[key] for row in expected["per_class"][rows]) > 0
    assert values["FP"] == values["FP_th"] + values["FP_st"]
    assert values["images"] == len(pairs)
    assert values["PQ-thing 0"] == 100 * expected["per_class"][0]["pq"]
    assert values["PQ-stuff 4"] == 100 * expected["per_class"][NUM_THINGS]["pq"]
    assert math.isnan(values["PQ-thing 3"])  # does not occur
    written = json.loads((tmp_path / "out" / "panoptic_quality.json").read_text())
    assert written["PQ"] == values["PQ"] and written["PQ-thing 3"] is None
    assert written["per_class"]["thing 0"]["TP"] == expected["per_class"][0]["tp"]
    table = (tmp_path / "out" / "panoptic_quality.md").read_text()
    assert "boundary PQ" not in table and "small, things" in table and "thing 0" in table
    with (tmp_path / "out" / "panoptic_quality.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [Path(row["file_name"]).name for row in rows] == [f"scene_{i}.jpg" for i in range(len(pairs))]
    assert sum(int(row["TP"]) for row in rows) == values["TP"]


def test_boundary_pq_and_sizes_are_those_of_the_evaluation_from_files(pairs, files, tmp_path):
    name = register(files)
    values = run(
        PanopticQualityEvaluator(name, boundary=True), DatasetCatalog.get(name), [output_of(p) for p in pairs]
    )["panoptic_seg"]
    expected = evaluate_files(**write_prediction_files(tmp_path, pairs, coco_categories()), processes=1)
    for group, suffix in (("all", ""), ("things", "_th"), ("stuff", "_st")):
        assert values[f"boundary_PQ{suffix}"] == pytest.approx(expected[group]["boundary_PQ"])
        for size, row in expected["by_size"].items():
            assert values[f"PQ_{size}{suffix}"] == pytest.approx(row[group]["PQ"], nan_ok=True)
    table = results_table({"panoptic_seg": values})
    assert "boundary PQ" in table and "small, things" in table


def test_same_pq_as_detectron2_and_outputs_unchanged(pairs, files):
    pytest.importorskip("panopticapi", reason="the reference code is not installed")
    name = register(files)
    records, outputs = DatasetCatalog.get(name), [output_of(p) for p in pairs]
    before = copy.deepcopy(outputs)
    ours = run(PanopticQualityEvaluator(name), records, outputs)["panoptic_seg"]
    assert equal(outputs, before)
    theirs = run(CopiedOutputs(COCOPanopticEvaluator(name)), records, outputs)["panoptic_seg"]
    assert equal(outputs, before)
    assert len(theirs) == 9
    for key, value in theirs.items():
        assert ours[key] == pytest.approx(value, abs=1e-9)


def test_arrays_and_numpy_scalars_are_taken(pairs, files):
    name = register(files)
    records, outputs = DatasetCatalog.get(name), [output_of(p) for p in pairs]
    numpy_outputs = []
    for output in outputs:
        segment_map, info = output["panoptic_seg"]
        types = {"id": np.int32, "isthing": np.bool_, "category_id": np.int64}
        info = [{k: types.get(k, type(v))(v) for k, v in s.items()} for s in info]
        numpy_outputs.append({"panoptic_seg": (segment_map.numpy().astype(np.uint16), info)})
    evaluator = PanopticQualityEvaluator(name)
    expected = run(evaluator, records, outputs)["panoptic_seg"]
    values = run(evaluator, records, numpy_outputs)["panoptic_seg"]
    np.testing.assert_equal(values, expected)
    assert {type(v) for v in values.values()} == {float}


def test_a_subset_is_scored_and_counted(pairs, files):
    name = register(files)
    records = DatasetCatalog.get(name)
    results = run(PanopticQualityEvaluator(name), records[5:8], [output_of(p) for p in pairs[5:8]])["panoptic_seg"]
    quality = PanopticQuality(NUM_THINGS, NUM_STUFF)
    for pair in pairs[5:8]:
        quality.update(pair.pred_map, {s[0]: s[1] for s in pair.pred_segments}, pair.gt_map, pair.gt_segments)
    assert results["images"] == 3 and results["PQ"] == pytest.approx(100 * quality.compute()["all"]["pq"], abs=1e-9)


def test_no_image_no_thing_class_and_no_stuff_class(tmp_path):
    pair = Pair(np.ones((4, 4), int), [(1, 0, False)], np.ones((4, 4), int), [(1, 0, False)])
    for num_things, num_stuff, there, absent in ((1, 0, "PQ_th", "PQ_st"), (0, 1, "PQ_st", "PQ_th")):
        name = register(write_data_set(tmp_path / there, [pair], num_things, num_stuff))
        evaluator = PanopticQualityEvaluator(name)
        results = run(evaluator, DatasetCatalog.get(name), [output_of(pair, num_things)])["panoptic_seg"]
        assert results["PQ"] == results[there] == 100.0 and math.isnan(results[absent])
        evaluator.reset()
        results = evaluator.evaluate()["panoptic_seg"]
        assert results["images"] == 0.0 and math.isnan(results["PQ"])


# -- files for submission servers ------------------------------------------------------------------------------------


def test_written_predictions_are_what_the_reference_code_reads(pairs, files, expected, tmp_path):
    name = register(files)
    records, outputs = DatasetCatalog.get(name), [output_of(p) for p in pairs]
    before = copy.deepcopy(outputs)
    run(PanopticQualityEvaluator(name, output_dir=str(tmp_path), write_predictions=True), records, outputs)
    assert equal(outputs, before)
    folder = tmp_path / "panoptic_predictions"
    content = json.loads((tmp_path / "panoptic_predictions.json").read_text())
    assert {path.name for path in tmp_path.iterdir()} == {
        folder.name, f"{folder.name}.json", *(f"panoptic_quality.{kind}" for kind in ("json", "md", "csv"))
    }  # fmt: skip
    assert len(list(folder.iterdir())) == len(content["annotations"]) == len(pairs)
    for pair, entry in zip(pairs, content["annotations"], strict=True):
        rgb = np.asarray(Image.open(folder / entry["file_name"])).astype(int)
        assert np.array_equal(rgb @ [1, 256, 65536], pair.pred_map)
        assert [s["category_id"] for s in entry["segments_info"]] == [3 * c + 3 for _, c, _ in pair.pred_segments]
    evaluation = pytest.importorskip("panopticapi.evaluation", reason="the reference code is not installed")
    reference = evaluation.pq_compute(
        files["panoptic_json"], str(tmp_path / "panoptic_predictions.json"), files["panoptic_root"], str(folder)
    )
    for group, key in (("All", "all"), ("Things", "things"), ("Stuff", "stuff")):
        assert reference[group]["pq"] == pytest.approx(expected[key]["pq"], abs=1e-12)


def test_predictions_survive_a_failure(pairs, files, tmp_path):
    name = register(files)
    evaluator = PanopticQualityEvaluator(name, output_dir=str(tmp_path), write_predictions=True)
    records = DatasetCatalog.get(name)
    with pytest.raises(ValueError, match="no panoptic_seg in the output"):
        run(evaluator, records[:3], [output_of(pairs[0]), output_of(pairs[1]), {}])
    assert len(list((tmp_path / "panoptic_predictions").iterdir())) == 2
    lines = (tmp_path / "panoptic_predictions.rank0.jsonl").read_text().splitlines()
    assert [json.loads(line)["annotation"]["image_id"] for line in lines] == [1, 2]


# -- wrong input -----------------------------------------------------------------------------------------------------


def test_wrong_input_is_one_clear_error(pairs, files, tmp_path):
    name = register(files)
    with pytest.raises(UserError, match="needs an output_dir"):
        PanopticQualityEvaluator(name, write_predictions=True)
    with pytest.raises(UserError, match="pq_dagger is 'as printed'"):
        PanopticQualityEvaluator(name, pq_dagger="as printed")
    evaluator, image = PanopticQualityEvaluator(name), {"image_id": 1}
    segment_map = output_of(pairs[0])["panoptic_seg"][0]
    thing = {"id": 1, "isthing": True, "category_id": NUM_THINGS}
    for output, message in (
        ({}, "scene_0.jpg: no panoptic_seg in the output; MODEL.PANOPTIC_FUSION.OUTPUTS"),
        ({"panoptic_seg": (segment_map[:-1], [])}, "scene_0.jpg: .* one size .* 23x32 and 24x32"),
        ({"panoptic_seg": (segment_map, None)}, "scene_0.jpg: panoptic_seg has no segments_info"),
        ({"panoptic_seg": (segment_map, [thing])}, "scene_0.jpg: segment 1 is of thing class 4; there are 4"),
        ({"panoptic_seg": (segment_map, [{**thing, "category_id": 0}] * 2)}, "scene_0.jpg: .*segment id twice"),
        ({"panoptic_seg": (segment_map * 0 + 1, [])}, "scene_0.jpg, prediction: segment id 1 is in the map"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluator.process([image], [output])
    with pytest.raises(UserError, match="image id 'x' is not in dataset"):
        evaluator.process([{"image_id": "x"}], [{}])


def test_faults_of_the_ground_truth_name_its_file(pairs, tmp_path):
    broken = copy.deepcopy(pairs[:2])
    files = write_data_set(tmp_path / "set", broken)
    content = json.loads(Path(files["panoptic_json"]).read_text())
    index = next(i for i, entry in enumerate(content["annotations"]) if entry["segments_info"])
    del content["annotations"][index]["segments_info"][0]
    Path(files["panoptic_json"]).write_text(json.dumps(content))
    Path(files["panoptic_root"], f"scene_{1 - index}.png").unlink()
    evaluator = PanopticQualityEvaluator(register(files))
    for i, message in ((index, "is in the PNG, but not in segments_info"), (1 - index, "missing")):
        with pytest.raises(DatasetError, match=f"scene_{i}.png: .*{message}"):
            evaluator.process([{"image_id": i + 1}], [output_of(pairs[i])])


# -- over processes --------------------------------------------------------------------------------------------------


def _rank(rank, files, pairs, folder):
    register_panoptic("over_processes", **files)
    evaluator = PanopticQualityEvaluator("over_processes", output_dir=f"{folder}/out", write_predictions=True)
    # Of different length; the second process gets the first images again, as from a sampler that pads.
    rows = [0, 1, 2, 3, 4] if rank == 0 else [*range(5, len(pairs)), 0, 1, 2]
    records = DatasetCatalog.get("over_processes")
    results = run(evaluator, [records[row] for row in rows], [output_of(pairs[row]) for row in rows])
    Path(folder, f"results{rank}.json").write_text(json.dumps(results))


def test_two_processes_give_the_same(pairs, files, tmp_path):
    run_in_two_processes(_rank, files, pairs, str(tmp_path))
    name = register(files)
    alone = run(PanopticQualityEvaluator(name), DatasetCatalog.get(name), [output_of(p) for p in pairs])
    together = json.loads((tmp_path / "results0.json").read_text())
    assert together["panoptic_seg"] == pytest.approx(alone["panoptic_seg"], abs=1e-10, nan_ok=True)
    assert json.loads((tmp_path / "results1.json").read_text()) == {}
    with (tmp_path / "out" / "panoptic_quality.csv").open(newline="") as file:
        assert [int(row["image_id"]) for row in csv.DictReader(file)] == list(range(1, len(pairs) + 1))
    assert len(list((tmp_path / "out" / "panoptic_predictions").iterdir())) == len(pairs)
    content = json.loads((tmp_path / "out" / "panoptic_predictions.json").read_text())
    assert [a["image_id"] for a in content["annotations"]] == list(range(1, len(pairs) + 1))


# -- which evaluators ------------------------------------------------------------------------------------------------


def config(evaluators, outputs=("instances", "panoptic_seg")):
    test = {"EVALUATORS": list(evaluators), "WRITE_PREDICTIONS": False, "BOUNDARY_PQ": False}
    return CfgNode(
        {"TEST": test, "INPUT": {"MAX_PIXELS": 2**28}, "MODEL": {"PANOPTIC_FUSION": {"OUTPUTS": list(outputs)}}}
    )


def test_build_evaluators_runs_panoptic_quality_and_mask_ap(tmp_path):
    """Ground truth as prediction has PQ 100 and mask AP 100, also the second time, when the derived json is there."""
    gt = np.zeros((40, 60), np.int64)
    gt[:, :20], gt[5:15, 30:40], gt[20:35, 25:55] = 300, 70000, 5
    segments = [(300, 2, False), (70000, 0, False), (5, 1, False)]
    pair = Pair(gt, segments, gt, segments)
    name = register(write_data_set(tmp_path / "set", [pair, pair], 2, 1))
    output = output_of(pair, 2)
    masks = torch.from_numpy(np.stack([gt == 70000, gt == 5]))
    boxes = Boxes(torch.tensor([[30.0, 5, 40, 15], [25, 20, 55, 35]]))
    instances = Instances((40, 60), pred_boxes=boxes, scores=torch.tensor([0.9, 0.8]), pred_masks=masks)
    instances.pred_classes = torch.tensor([0, 1])
    output["instances"] = instances
    for folder in ("a", "a", "b"):
        evaluators = build_evaluators(config(["panoptic", "instances"]), name, str(tmp_path / folder))
        results = run(evaluators, DatasetCatalog.get(name), [output, output])
        assert results["panoptic_seg"]["PQ"] == results["panoptic_seg"]["PQ_dagger"] == 100.0
        assert results["segm"]["AP"] == pytest.approx(100.0) and results["bbox"]["AP"] == pytest.approx(100.0)


def test_the_derived_instances_are_those_of_the_data_set(tmp_path, tiny_data):
    """An OUTPUT_DIR that is used again: the dataset of that name may have moved to an older json."""
    name = f"moved_{uuid.uuid4().hex}"
    for split, num_images in (("val", 3), ("train", 6)):
        files = {key: value for key, value in tiny_data[split].items() if key != "instances_json"}
        os.utime(files["panoptic_json"], (1e9, 1e9))
        with forgotten_datasets():
            register_panoptic(name, **files)
            build_evaluators(config(["instances"]), name, str(tmp_path))
        assert len(json.loads((tmp_path / f"{name}_instances.json").read_text())["images"]) == num_images


@pytest.mark.parametrize("change", ["as it is", "no more than needed", "given boxes and areas"])
def test_an_instances_json_with_no_more_than_training_needs(tmp_path, tiny_data, change):
    """Its ground truth as predictions gives 100, also with only {id, image_id, category_id, segmentation} and id 0."""
    content = json.loads(Path(tiny_data["val"]["instances_json"]).read_text())
    content["annotations"] = [entry for entry in content["annotations"] if not entry["iscrowd"]]
    complete = [dict(entry) for entry in content["annotations"]]
    if change == "no more than needed":
        needed = ("image_id", "category_id", "segmentation")
        entries = [{"id": i, **{k: e[k] for k in needed}} for i, e in enumerate(content["annotations"])]
        content = {"annotations": entries}
    elif change == "given boxes and areas":
        for entry in content["annotations"]:
            entry["bbox"], entry["area"] = [1.5, 2.5, 3.5, 4.5], 12.25
    (tmp_path / "instances.json").write_text(json.dumps(content))
    name = f"needed_{uuid.uuid4().hex}"
    register_panoptic(name, **{**tiny_data["val"], "instances_json": str(tmp_path / "instances.json")})
    assert check_dataset(panoptic_files(name), 0).faults == [] or change == "given boxes and areas"
    evaluators = build_evaluators(config(["instances"]), name, str(tmp_path / "out"))
    written = json.loads((tmp_path / "out" / f"{name}_instances.json").read_text())
    assert [e["id"] for e in written["annotations"]] == list(range(1, len(complete) + 1))
    assert len(written["images"]) == 3
    if change == "given boxes and areas":
        assert all((e["bbox"], e["area"]) == ([1.5, 2.5, 3.5, 4.5], 12.25) for e in written["annotations"])
        return
    outputs = []
    dicts = DatasetCatalog.get(name)
    for record in dicts:
        size = record["height"], record["width"]
        masks = [decode_segmentation(a["segmentation"], *size) for a in record["annotations"]]
        masks = torch.from_numpy(np.array(masks, dtype=bool).reshape(-1, *size))
        instances = Instances(size, pred_masks=masks, pred_boxes=BitMasks(masks).get_bounding_boxes())
        instances.scores = torch.ones(len(masks))
        instances.pred_classes = torch.tensor([a["category_id"] for a in record["annotations"]])
        outputs.append({"instances": instances})
    results = run(evaluators, dicts, outputs)
    assert results["segm"]["AP"] == pytest.approx(100.0)
    if change == "no more than needed":
        assert results["bbox"]["AP"] == pytest.approx(100.0)


def test_build_evaluators_leaves_out_what_cannot_be_measured(tmp_path, caplog):
    pair = Pair(np.ones((4, 4), int), [], np.ones((4, 4), int), [(1, 0, False)])
    stuff_only = register(write_data_set(tmp_path / "set", [pair], 0, 1))
    both = ["panoptic", "instances"]
    for cfg in (config(both), config(both, ["panoptic_seg"]), config(["panoptic"])):
        evaluators = build_evaluators(cfg, stuff_only, str(tmp_path / "out"))
        assert [type(e) for e in evaluators._evaluators] == [PanopticQualityEvaluator]
    assert "no thing class" in caplog.text and "MODEL.PANOPTIC_FUSION.OUTPUTS has no 'instances'" in caplog.text
    with pytest.raises(ConfigError, match="TEST.EVALUATORS has 'pq'; it can list panoptic, instances"):
        build_evaluators(config(["pq"]), stuff_only, str(tmp_path / "out"))


# -- real ground truth -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "panoptic"),
    [
        ("camvid/images", "camvid/annotations/panoptic_val"),
        ("coco_pair/input_images", "coco_pair/panoptic_examples"),
        ("ade_pair/images", "ade_pair/annotations/panoptic"),
    ],
)
def test_real_ground_truth_against_itself_is_100(images, panoptic):
    if not (DATA / f"{panoptic}.json").exists():
        pytest.skip(f"{DATA / panoptic}.json is absent")
    name = register(
        {
            "images": str(DATA / images),
            "panoptic_root": str(DATA / panoptic),
            "panoptic_json": str(DATA / f"{panoptic}.json"),
        }
    )
    records, outputs = DatasetCatalog.get(name)[:25], []
    for record in records:
        rgb = np.asarray(Image.open(record["pan_seg_file_name"])).astype(np.int64)
        info = [{key: s[key] for key in ("id", "isthing", "category_id")} for s in record["segments_info"]]
        outputs.append({"panoptic_seg": (torch.from_numpy(rgb @ np.array([1, 256, 65536])), info)})
    results = run(PanopticQualityEvaluator(name), records, outputs)["panoptic_seg"]
    assert [results[key] for key in ("PQ", "SQ", "RQ", "PQ_dagger", "mIoU", "PQ_st")] == [100.0] * 6


def test_cityscapes_reads_the_instances_of_a_model_that_has_them():
    class Model(torch.nn.Module):
        outputs = frozenset({"sem_seg", "instances", "panoptic_seg"})
        paste_masks = True

    for evaluators, outputs in (
        (["cityscapes"], {"panoptic_seg", "instances"}),
        (["semantic"], {"sem_seg"}),
        (["panoptic"], {"panoptic_seg"}),
    ):
        model = Model()
        with restrict_outputs(model, evaluators):
            assert model.outputs == outputs
