"""All evaluators alike: images that are missing, unknown or repeated, a second `evaluate`, invalid outputs."""

import json
import math

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from test_wrong_results import IDS, RIGHT, found, make  # noqa: F401

from panoptic_fusion.errors import UserError
from panoptic_fusion.evaluation import (
    CopiedOutputs,
    InstancesEvaluator,
    PanopticQualityEvaluator,
    SemanticEvaluator,
)
from panoptic_fusion.evaluation.residual import ResidualEvaluator

SEM_SEG = torch.stack([torch.tensor(IDS == i).float() for i in (7, 8, 9, 0)])
RIGHT_OUTPUT = {
    "panoptic_seg": (IDS, RIGHT),
    "instances": found(IDS),
    "sem_seg": SEM_SEG,
    "things_masks": (torch.tensor(IDS == 9).float(),) * 2,
}
NEEDED = {
    PanopticQualityEvaluator: ("panoptic_seg", "PQ", 100),
    InstancesEvaluator: ("instances", "AP", 100),
    SemanticEvaluator: ("sem_seg", "mIoU_sem", 100),
    ResidualEvaluator: ("things_masks", "recall_instances", 100),
}
every_evaluator = pytest.mark.parametrize("kind", NEEDED)


@pytest.fixture
def build(make, tmp_path):  # noqa: F811
    """build(kind, image_ids) -> an evaluator of a new dataset, which has seen no image."""

    def build(kind, image_ids=(1, 2)):
        arguments = {InstancesEvaluator: [str(tmp_path)], SemanticEvaluator: ["full"]}.get(kind, [])
        evaluator = kind(make(image_ids), *arguments, distributed=False)
        evaluator.reset()
        return evaluator

    return build


def show(evaluator, image_ids, output=RIGHT_OUTPUT):
    for image_id in image_ids:
        evaluator.process([{"image_id": image_id}], [output])


def measure(evaluator, key):
    """The only, or the last, result: mask AP of box and mask AP."""
    return list(evaluator.evaluate().values())[-1][key]


@every_evaluator
def test_only_the_images_seen_are_scored_and_the_others_are_counted(build, kind, caplog):
    _, key, value = NEEDED[kind]
    evaluator = build(kind, (1, 2, 3))
    show(evaluator, (1, 2))
    assert measure(evaluator, key) == pytest.approx(value)
    assert "2 of the 3 images" in caplog.text
    caplog.clear()
    show(evaluator, (3,))
    assert measure(evaluator, key) == pytest.approx(value)
    assert "of the 3 images" not in caplog.text


@pytest.mark.parametrize("nothing_found", [False, True])
def test_ap_of_a_subset_is_the_ap_of_a_dataset_with_these_images(make, tmp_path, nothing_found):  # noqa: F811
    def ap(image_ids, seen):
        evaluator = InstancesEvaluator(make(image_ids), str(tmp_path / str(image_ids)), distributed=False)
        evaluator.reset()
        show(evaluator, seen, {"instances": found() if nothing_found else found(IDS, (0, 1))})
        return evaluator.evaluate()["segm"]

    assert ap((1, 2, 3), (2,)) == pytest.approx(ap((2,), (2,)), nan_ok=True)


@every_evaluator
def test_evaluating_twice_gives_the_same(build, kind):
    _, key, _ = NEEDED[kind]
    evaluator = build(kind)
    show(evaluator, (1,))
    first = measure(evaluator, key)
    assert measure(evaluator, key) == first == pytest.approx(100)
    show(evaluator, (2,), {**RIGHT_OUTPUT, "panoptic_seg": (IDS * 0, []), "instances": found()})
    half_found = {PanopticQualityEvaluator: 100 * 1 / (1 + 1 / 2), InstancesEvaluator: 50}  # TP / (TP + FN / 2); AP
    if kind in half_found:
        assert measure(evaluator, key) == pytest.approx(half_found[kind], abs=0.5)
    evaluator.reset()
    show(evaluator, (2,))
    assert measure(evaluator, key) == pytest.approx(100)


def test_predictions_for_submission_are_complete_after_a_second_evaluate(make, tmp_path):  # noqa: F811
    evaluator = PanopticQualityEvaluator(make(), distributed=False, output_dir=str(tmp_path), write_predictions=True)

    def listed():
        evaluator.evaluate()
        return [a["image_id"] for a in json.loads((tmp_path / "panoptic_predictions.json").read_text())["annotations"]]

    show(evaluator, (1,))
    assert listed() == listed() == [1]
    show(evaluator, (2,))
    assert listed() == [1, 2]
    evaluator.reset()
    show(evaluator, (2,))
    assert listed() == [2]


@every_evaluator
@pytest.mark.parametrize("image_id", [3, "1", (1,), [1], None])
def test_an_unknown_image_is_one_error_at_once(build, kind, image_id):
    with pytest.raises(UserError, match="image id .* is not in dataset"):
        show(build(kind), (image_id,))


@every_evaluator
def test_an_input_without_an_id_and_an_output_without_its_part(build, kind):
    evaluator = build(kind)
    with pytest.raises(UserError, match="no image_id .*file_name"):
        evaluator.process([{"file_name": "a.png"}], [RIGHT_OUTPUT])
    for output in ({}, {NEEDED[kind][0]: None}):
        with pytest.raises(ValueError, match=f"0.png: no {NEEDED[kind][0]} in the output"):
            show(evaluator, (1,), output)
    show(evaluator, (1,))  # the image does not count as seen
    assert measure(evaluator, NEEDED[kind][1]) == pytest.approx(NEEDED[kind][2])


@every_evaluator
def test_ids_of_numpy(build, kind):
    evaluator = build(kind)
    show(evaluator, np.array([1, 2]))
    assert measure(evaluator, NEEDED[kind][1]) == pytest.approx(NEEDED[kind][2])


@pytest.mark.parametrize("image_ids", [("a", "b"), (1, "1"), (2**40, -1)])
def test_ap_with_ids_of_any_kind(build, image_ids):
    evaluator = build(InstancesEvaluator, image_ids)
    show(evaluator, image_ids)
    assert measure(evaluator, "AP") == pytest.approx(100)


# -- wrong outputs ---------------------------------------------------------------------------------------------------


def panoptic_error(build, panoptic_seg):
    with pytest.raises(ValueError) as error:
        show(build(PanopticQualityEvaluator), (1,), {"panoptic_seg": panoptic_seg})
    return str(error.value)


@pytest.mark.parametrize(
    ("key", "values", "message"),
    [
        ("id", (0, -1, 2.5, 9.0, "9", [9], math.nan, 2**24, 2**70), "not an integer in [1, 2^24)"),
        ("category_id", (-1, 2, 0.5, "0", [0], math.nan, math.inf, 2**70), "there are 2"),
        ("isthing", ("False", "yes", 2, 0.5), "not True or False"),
    ],
)
def test_values_of_segments(build, key, values, message):
    for value in values:
        text = panoptic_error(build, (IDS, [*RIGHT[:2], {**RIGHT[2], key: value}]))
        assert "0.png: " in text and message in text and repr(value) in text


@pytest.mark.parametrize(
    ("segment_map", "message"),
    [
        (IDS.astype(np.float32), "integer type, but is float32"),
        (torch.tensor(IDS).float(), "integer type, but is float32"),
        (IDS == 7, "integer type, but is bool"),
        (IDS.tolist(), "tensor or an array (H, W)"),
        (None, "tensor or an array (H, W)"),
        (IDS[None], "of shape (1, 64, 96)"),
        (np.where(IDS == 9, -1, IDS), "segment id -1, outside"),
        (np.where(IDS == 9, np.int64(2**40), IDS), f"segment id {2**40}, outside"),
    ],
)
def test_maps(build, segment_map, message):
    text = panoptic_error(build, (segment_map, RIGHT))
    assert "0.png: " in text and message in text


@pytest.mark.parametrize(
    ("panoptic_seg", "message"),
    [
        (IDS, "pair"),
        ((IDS, RIGHT, 1), "pair"),
        ((IDS, {7: RIGHT[0]}), "no segments_info, a list"),
        ((IDS, ["road"]), "one dict per segment, not 'road'"),
    ],
)
def test_pairs(build, panoptic_seg, message):
    text = panoptic_error(build, panoptic_seg)
    assert "0.png: " in text and message in text


def test_instances_of_another_size_an_unknown_class_or_without_a_score(build):
    evaluator = build(InstancesEvaluator)
    small = Instances(
        (32, 48),
        pred_boxes=Boxes(torch.tensor([[0.0, 0, 8, 8]])),
        scores=torch.ones(1),
        pred_classes=torch.zeros(1, dtype=torch.int64),
        pred_masks=torch.ones(1, 32, 48, dtype=torch.bool),
    )
    without_score = found(IDS)
    without_score.scores[0] = math.nan
    for instances, message in (
        (without_score, "0.png: scores or boxes of the instances are not finite"),
        (small, r"0.png: the instances are for an image of size \(32, 48\), not \(64, 96\)"),
        (found(IDS, (2,)), "0.png: an instance is of thing class 2; there are 2"),
        (found(IDS, (-1,)), "0.png: an instance is of thing class -1"),
    ):
        with pytest.raises(ValueError, match=message):
            show(evaluator, (1,), {"instances": instances})


def test_copied_outputs_are_copies_of_anything(build):
    """Arrays as well as tensors; outputs without a panoptic map; the originals are unchanged."""

    class Destroys(PanopticQualityEvaluator):
        def process(self, inputs, outputs):
            super().process(inputs, outputs)
            for output in outputs:
                segment_map, segments_info = output["panoptic_seg"]
                segment_map[:] = 0
                segments_info[0].clear()

    for segment_map in (IDS.copy(), torch.tensor(IDS)):
        output = {"panoptic_seg": (segment_map, [dict(s) for s in RIGHT])}
        show(CopiedOutputs(build(Destroys)), (1,), output)
        assert (np.asarray(segment_map) == IDS).all() and output["panoptic_seg"][1] == RIGHT
    evaluator = build(InstancesEvaluator)
    show(CopiedOutputs(evaluator), (1,), {"instances": found(IDS)})
    assert measure(evaluator, "AP") == pytest.approx(100)
