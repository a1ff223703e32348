"""Cached heads and the scores of settings, against the network's own fusion and the evaluator."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from tiny_panoptic import make_tiny

from panoptic_fusion.config import with_values
from panoptic_fusion.data import DatasetError, register_panoptic
from panoptic_fusion.evaluation import PanopticQualityEvaluator
from panoptic_fusion.evaluation.tuning import heads as heads_module
from panoptic_fusion.evaluation.tuning import scoring
from panoptic_fusion.evaluation.tuning.heads import (
    CachedImage,
    cache_folder,
    cache_path,
    image_source,
    is_cached,
    load_heads,
    run_network,
    save_heads,
)
from panoptic_fusion.evaluation.tuning.rules import rules_of_model
from panoptic_fusion.evaluation.tuning.scoring import ImageTask, RememberedLogits, ground_truth, score_image
from panoptic_fusion.modeling.fusion import SemSegLogits, build_panoptic_fusion, fill_in_thresholds
from panoptic_fusion.networks.inference import ImageHeads, image_outputs, visible_instances

MAX_PIXELS = 2**28


def network(tiny_cfg, **keys):
    """A tiny network whose random predictors give several classes, with boxes of many scores."""
    values = {"MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0, "MODEL.PANOPTIC_FUSION.OUTPUTS": "['panoptic_seg']"}
    cfg = with_values(tiny_cfg, {**values, **{key.replace("__", "."): value for key, value in keys.items()}})
    torch.manual_seed(2)
    model = build_model(cfg).eval()
    for name, value in model.named_parameters():
        if "predictor" in name and name.endswith("weight"):
            torch.nn.init.normal_(value, std=0.3)
    return cfg, model


def cached(cfg, model, folder):
    """Runs the network on tiny_val; returns its dicts."""
    folder.mkdir(parents=True, exist_ok=True)
    records = DatasetCatalog.get("tiny_val")
    assert [problem for _, problem in run_network(cfg, model, records, folder)] == ["", "", ""]
    return records


@pytest.mark.parametrize(
    "keys",
    [
        {"MODEL__PANOPTIC_FUSION__NAME": "SpatialRankingFusion"},
        {"MODEL__PANOPTIC_FUSION__NAME": "UPSNetFusion", "MODEL__PANOPTIC_FUSION__STUFF_AREA_LIMIT": 200},
    ],
    ids=["oanet", "upsnet"],
)
def test_scores_are_those_of_the_network_with_these_keys(tiny_cfg, tmp_path, keys):
    """All rules at random settings, at an input size that is not the output's: the counts of the evaluator."""
    cfg, model = network(tiny_cfg, **keys)
    records = cached(cfg, model, tmp_path)
    rules, _ = rules_of_model(cfg, model.fusion)
    assert len(rules) >= 4
    rng = np.random.default_rng(1)
    settings = {
        name: [rule.start, *(tuple(rng.choice(np.array(v, object)) for v in rule.grid) for _ in range(5))]
        for name, rule in rules.items()
    }
    space = model.fusion.label_space
    different = set()
    for record in records:
        path = cache_path(tmp_path, record)
        sums = score_image(ImageTask(str(path), record, MAX_PIXELS), rules, settings, space.num_things, space.num_stuff)
        pairs = [(name, setting) for name, wanted in settings.items() for setting in wanted]
        assert sums.shape == (len(pairs), 4, space.num_things + space.num_stuff)
        different |= {row.tobytes() for row in sums}
        for (name, setting), found in zip(pairs, sums, strict=True):
            own = with_values(cfg, rules[name].named_values(setting))
            fusion = build_panoptic_fusion(own).eval()
            fusion.load_state_dict(model.fusion.state_dict() if name == "SpatialRankingFusion" else {})
            image = load_heads(path)
            with torch.no_grad():
                outputs = image_outputs(
                    image.heads,
                    image.output_size,
                    fusion=fusion,
                    outputs={"panoptic_seg"},
                    fuse_at_input_resolution=fill_in_thresholds(own).MODEL.PANOPTIC_FUSION.AT_INPUT_RESOLUTION,
                )
            evaluator = PanopticQualityEvaluator("tiny_val", distributed=False, output_dir=str(tmp_path / "out"))
            evaluator.process([record], [outputs])
            evaluator.evaluate()
            per_class = json.loads((tmp_path / "out" / "panoptic_quality.json").read_text())["per_class"].values()
            wanted = [[row[key] for row in per_class] for key in ("TP", "FP", "FN")]
            assert found[:3].tolist() == wanted
            assert found[3].tolist() == pytest.approx([row["TP"] * (row["SQ"] or 0) / 100 for row in per_class])
    assert len(different) > 6  # the settings make a difference


def test_the_cache_holds_what_the_network_computes(tiny_cfg, tmp_path):
    cfg, model = network(tiny_cfg)
    records = cached(cfg, model, tmp_path)
    for record in records:
        image = load_heads(cache_path(tmp_path, record))
        assert image.output_size == (record["height"], record["width"]) and image.heads.image_size == (64, 85)
        inputs = [heads_module.PanopticDatasetMapper(cfg, is_train=False)(record)]
        with torch.no_grad():
            ((wanted, size),) = heads_module.heads_of_images(inputs, model, model, None)
        wanted = replace(wanted, instances=visible_instances(wanted.instances, size))
        found = image.heads
        assert len(found.instances) > 0 and found.padded_size == wanted.padded_size
        assert torch.equal(found.instances.pred_boxes.tensor, wanted.instances.pred_boxes.tensor)
        assert torch.equal(found.instances.scores, wanted.instances.scores)
        assert torch.equal(found.instances.pred_classes, wanted.instances.pred_classes)
        for a, b in (
            (found.sem_seg_logits, wanted.sem_seg_logits),
            (found.instances.pred_mask_logits, wanted.instances.pred_mask_logits),
        ):
            assert a.dtype == torch.float32 and torch.equal(a, b.half().float())


def test_a_killed_run_resumes_and_a_changed_image_runs_again(tiny_cfg, tmp_path, monkeypatch):
    cfg, model = network(tiny_cfg)
    records = DatasetCatalog.get("tiny_val")
    runs, real = [], heads_module.heads_of_images
    monkeypatch.setattr(
        heads_module, "heads_of_images", lambda x, *args: runs.append(x[0]["image_id"]) or real(x, *args)
    )
    running = run_network(cfg, model, records, tmp_path)
    next(running)
    running.close()  # killed after the first image
    list(run_network(cfg, model, records, tmp_path))
    ids = [record["image_id"] for record in records]
    assert runs == ids
    path = cache_path(tmp_path, records[1])
    whole = path.read_bytes()
    method = whole.index(b"PK\1\2") + 10  # compression method of the first array: 99 does not exist
    unknown = whole[:method] + bytes([99]) + whole[method + 1 :]
    for damaged in (whole[:-300], whole[:300], b"", whole[:-9000] + bytes(100) + whole[-8900:], unknown):
        path.write_bytes(damaged)  # by something else than a killed run: it writes atomically
        list(run_network(cfg, model, records, tmp_path))
        assert runs == [*ids, ids[1]] and path.read_bytes() == whole
        runs.pop()
    runs.append(ids[1])
    save_heads(cache_path(tmp_path, records[2]), load_heads(cache_path(tmp_path, records[2])), "another file")
    list(run_network(cfg, model, records, tmp_path))
    assert runs == [*ids, ids[1], ids[2]]


def test_another_model_or_size_has_another_folder(tiny_cfg, tmp_path):
    cfg, model = network(tiny_cfg)
    folder = cache_folder(tmp_path, cfg, model)
    assert folder == cache_folder(tmp_path, cfg, model) and folder.parent == tmp_path / "heads"
    thresholds = with_values(cfg, {"MODEL.PANOPTIC_FUSION.OVERLAP_THRESH": 0.1, "OUTPUT_DIR": "elsewhere"})
    assert cache_folder(tmp_path, thresholds, model) == folder
    for values in ({"INPUT.MIN_SIZE_TEST": 32}, {"MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.3}, {"TEST.AUG.ENABLED": True}):
        assert cache_folder(tmp_path, with_values(cfg, values), model) != folder
    with torch.no_grad():
        next(model.sem_seg_head.parameters()).flatten()[0] += 1
    assert cache_folder(tmp_path, cfg, model) != folder


def test_values_that_half_precision_cannot_hold(tmp_path):
    """Limited, so that they stay usable; NaN stays NaN, which the fusions leave out. Without instances as well."""
    logits = torch.tensor([1e9, -1e9, float("nan"), 0.25]).reshape(1, 2, 2)
    instances = Instances((8, 8), pred_boxes=Boxes(torch.zeros(0, 4)), scores=torch.zeros(0))
    instances.pred_classes = torch.zeros(0, dtype=torch.int64)
    instances.pred_mask_logits = torch.zeros(0, 28, 28)
    save_heads(tmp_path / "a.npz", CachedImage(ImageHeads(logits, instances, (8, 8), (8, 8)), (16, 16)), "a")
    found = load_heads(tmp_path / "a.npz")
    assert found.heads.sem_seg_logits.flatten()[[0, 1, 3]].tolist() == [65504.0, -65504.0, 0.25]
    assert found.heads.sem_seg_logits.isnan().sum() == 1 and len(found.heads.instances) == 0
    assert is_cached(tmp_path / "a.npz", "a") and not is_cached(tmp_path / "a.npz", "b")
    assert not is_cached(tmp_path / "none.npz", "a")


def test_a_bad_image_is_named_and_the_others_are_run(tiny_cfg, tmp_path):
    cfg, model = network(tiny_cfg)
    records = [dict(record) for record in DatasetCatalog.get("tiny_val")]
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"not an image")
    records[1]["file_name"] = str(broken)
    records[2]["file_name"] = str(tmp_path / "missing.jpg")
    (tmp_path / "heads").mkdir()
    problems = [problem for _, problem in run_network(cfg, model, records, tmp_path / "heads")]
    assert problems[0] == "" and "broken.jpg" in problems[1] and "missing.jpg" in problems[2]
    assert "missing" in image_source(records[2])
    assert len(list((tmp_path / "heads").iterdir())) == 1


def test_logits_that_are_remembered_are_the_same():
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 6, 7, generator=rng)
    for output_size in ((22, 26), (37, 50)):
        sizes = ((24, 28), (22, 26), output_size)
        plain, remembered = SemSegLogits(logits, *sizes), RememberedLogits(logits, *sizes)
        for _ in range(2):
            assert torch.equal(remembered.argmax(), plain.argmax())
            assert torch.equal(remembered.select(slice(2)).argmax(), plain.select(slice(2)).argmax())
            assert torch.equal(remembered.select([4, 1]).argmax(), plain.select([4, 1]).argmax())
            for (a0, a1, a), (b0, b1, b) in zip(remembered.strips(), plain.strips(), strict=True):
                assert (a0, a1) == (b0, b1) and torch.equal(a, b)
        assert remembered.argmax() is remembered.argmax()
        assert remembered.select(slice(2)) is remembered.select(slice(2)) is not remembered.select(slice(3))


@pytest.mark.parametrize("most, is_remembered", [(48, True), (47, False)])
def test_only_small_logits_are_remembered(most, is_remembered, monkeypatch):
    monkeypatch.setattr(scoring, "MOST_REMEMBERED", most)
    logits = RememberedLogits(torch.randn(2, 2, 3), *[(4, 6)] * 3)  # 2 x 4 x 6 at full size
    first, second = (torch.cat([strip for *_, strip in logits.strips()], dim=1) for _ in range(2))
    assert torch.equal(first, second)
    assert ("strips" in logits.remembered) == is_remembered


def test_ground_truth_is_renumbered(tmp_path):
    """Labels and classes of a random dataset; a listed segment without a pixel stays, and a missing PNG is an error."""
    files = make_tiny(tmp_path, seed=4)
    name = f"tuning_{tmp_path.name}"
    register_panoptic(name, files.images, files.panoptic_root, files.panoptic_json)
    for record in DatasetCatalog.get(name):
        record["segments_info"].append({"id": 77, "category_id": 1, "isthing": False, "iscrowd": 0})
        labels, segments = ground_truth(record, 2, MAX_PIXELS)
        ids = heads_ids(record["pan_seg_file_name"])
        assert len(segments) == len(record["segments_info"]) and labels.shape == ids.shape
        for (k, index, crowd), segment in zip(segments, record["segments_info"], strict=True):
            assert np.array_equal(labels == k, ids == segment["id"])
            assert index == segment["category_id"] + (0 if segment["isthing"] else 2)
            assert crowd == bool(segment.get("iscrowd"))
        assert segments[-1][1:] == (3, False) and not (labels == segments[-1][0]).any()
    with pytest.raises(DatasetError, match="the PNG is missing"):
        ground_truth({**record, "pan_seg_file_name": str(tmp_path / "none.png")}, 2, MAX_PIXELS)


def heads_ids(path) -> np.ndarray:
    from PIL import Image

    rgb = np.asarray(Image.open(path)).astype(np.int64)
    return rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2]
