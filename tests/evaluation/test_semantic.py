"""mIoU of the semantic head: by hand, against loops over pixels, and from a network."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from panoptic_cases import NUM_STUFF, NUM_THINGS, Pair, random_pair, write_data_set
from two_processes import run_in_two_processes

from panoptic_fusion.data import register_panoptic
from panoptic_fusion.errors import UserError
from panoptic_fusion.evaluation import SemanticEvaluator


def one_hot(labels, num_channels: int) -> torch.Tensor:
    """Logits (C, H, W) whose argmax is `labels`."""
    return torch.nn.functional.one_hot(torch.as_tensor(labels), num_channels).permute(2, 0, 1).float()


def run(evaluator, name, outputs):
    evaluator.reset()
    for record, output in zip(DatasetCatalog.get(name), outputs, strict=True):
        evaluator.process([record], [{"sem_seg": output}])
    return evaluator.evaluate()["sem_seg"]


# One image of 2 x 4 pixels: 2 things (segments 1 and 2), 2 stuff (segments 3 and 4), and a void pixel.
GT = np.array([[1, 1, 2, 0], [3, 3, 4, 4]])
SEGMENTS = [(1, 0, False), (2, 1, True), (3, 2, False), (4, 3, False)]  # a crowd keeps its class


@pytest.mark.parametrize(
    ("ontology", "predicted", "expected"),
    [
        # channels: stuff 0, stuff 1, thing 0, thing 1
        (
            "full",
            [[2, 3, 3, 0], [0, 0, 1, 0]],
            {"stuff 2": 2 / 3, "stuff 3": 1 / 2, "thing 0": 1 / 2, "thing 1": 1 / 2},
        ),
        # channels: stuff 0, stuff 1, things; the lower right pixel is a false thing
        ("collapsed", [[2, 0, 2, 1], [0, 0, 1, 2]], {"stuff 2": 2 / 3, "stuff 3": 1 / 2, "things": 2 / 4}),
        # channels: stuff 0, stuff 1; the upper row is ignored
        ("stuff", [[0, 1, 0, 1], [0, 1, 1, 1]], {"stuff 2": 1 / 2, "stuff 3": 2 / 3}),
    ],
)
def test_by_hand(registered, ontology, predicted, expected):
    name = registered([Pair(GT, [], GT, SEGMENTS)], 2, 2)
    result = run(
        SemanticEvaluator(name, ontology), name, [one_hot(predicted, {"full": 4}.get(ontology, len(expected)))]
    )
    assert result == pytest.approx(
        {
            "mIoU_sem": 100 * sum(expected.values()) / len(expected),
            **{f"IoU-{key}": 100 * value for key, value in expected.items()},
        }
    )


def slow_miou(pairs, labels, ontology: str) -> list[float]:
    """IoU of each channel in the ground truth, pixel by pixel."""
    sums: dict[int, list[int]] = {}
    for pair, predicted in zip(pairs, labels, strict=True):
        classes = {segment_id: cls for segment_id, cls, _ in pair.gt_segments}
        for y, x in np.ndindex(pair.gt_map.shape):
            cls = classes.get(int(pair.gt_map[y, x]))
            if cls is None or (ontology == "stuff" and cls < NUM_THINGS):
                continue
            if cls >= NUM_THINGS:
                truth = cls - NUM_THINGS
            else:
                truth = NUM_STUFF + cls if ontology == "full" else NUM_STUFF
            found = int(predicted[y, x])
            sums.setdefault(truth, [0, 0, 0])[1] += 1
            if truth == found:
                sums[truth][0] += 1
            else:
                sums.setdefault(found, [0, 0, 0])[2] += 1
    return [both / (gt + false) for both, gt, false in sums.values() if gt > 0]


@pytest.mark.parametrize("ontology", ["full", "collapsed", "stuff"])
def test_random_images_equal_loops_over_pixels(registered, ontology):
    rng = np.random.default_rng(4)
    pairs = [random_pair(rng, empty_gt_segments=False) for _ in range(25)]
    name = registered(pairs)
    channels = {"full": NUM_STUFF + NUM_THINGS, "collapsed": NUM_STUFF + 1, "stuff": NUM_STUFF}[ontology]
    labels = [rng.integers(0, channels, pair.gt_map.shape) for pair in pairs]
    result = run(SemanticEvaluator(name, ontology), name, [one_hot(each, channels) for each in labels])
    expected = slow_miou(pairs, labels, ontology)
    assert len(expected) == {"full": 6, "collapsed": 4, "stuff": 3}[ontology]  # the last class of a kind never occurs
    assert result["mIoU_sem"] == pytest.approx(100 * np.mean(expected))
    assert len(result) == 1 + channels and math.isnan(result["IoU-stuff 7"])


def test_an_image_counts_once_and_no_image_gives_nan(registered):
    name = registered([Pair(GT, [], GT, SEGMENTS)], 2, 2)
    evaluator, record = SemanticEvaluator(name, "stuff"), DatasetCatalog.get(name)[0]
    perfect, wrong = one_hot([[0] * 4, [0, 0, 1, 1]], 2), one_hot([[0] * 4, [1, 1, 0, 0]], 2)
    evaluator.process([record, record], [{"sem_seg": perfect}, {"sem_seg": wrong}])
    assert evaluator.evaluate()["sem_seg"]["mIoU_sem"] == 100
    evaluator.reset()
    assert math.isnan(evaluator.evaluate()["sem_seg"]["mIoU_sem"])


def _rank(rank, files, labels, folder):
    register_panoptic("semantic_over_processes", **files)
    rows = [0, 1, 2] if rank == 0 else [3, 4, 0]  # the first image again, as from a sampler that pads
    evaluator = SemanticEvaluator("semantic_over_processes", "full")
    records = DatasetCatalog.get("semantic_over_processes")
    evaluator.process([records[i] for i in rows], [{"sem_seg": one_hot(labels[i], 8)} for i in rows])
    Path(folder, f"{rank}.json").write_text(json.dumps(evaluator.evaluate()))


def test_two_processes_give_the_same(tmp_path):
    rng = np.random.default_rng(8)
    pairs = [random_pair(rng, empty_gt_segments=False) for _ in range(5)]
    labels = [rng.integers(0, 8, pair.gt_map.shape) for pair in pairs]
    run_in_two_processes(_rank, write_data_set(tmp_path / "set", pairs), labels, str(tmp_path))
    result = json.loads((tmp_path / "0.json").read_text())["sem_seg"]
    assert result["mIoU_sem"] == pytest.approx(100 * np.mean(slow_miou(pairs, labels, "full")))
    assert json.loads((tmp_path / "1.json").read_text()) == {}


def test_outputs_that_do_not_fit(registered):
    name = registered([Pair(GT, [], GT, SEGMENTS)], 2, 2)
    evaluator, record = SemanticEvaluator(name, "full"), DatasetCatalog.get(name)[0]
    for shape in ((3, 2, 4), (4, 2, 3), (4, 2, 4, 1)):
        with pytest.raises(ValueError, match="scene_0.jpg: sem_seg is .* must be"):
            evaluator.process([record], [{"sem_seg": torch.zeros(shape)}])
    with pytest.raises(UserError, match="image id 77 is not in dataset"):
        evaluator.process([{"image_id": 77}], [{"sem_seg": torch.zeros(4, 2, 4)}])


def test_a_stuff_class_that_is_called_things():
    from panoptic_fusion.data.label_space import LabelSpace
    from panoptic_fusion.evaluation.semantic import channel_names

    categories = [{"id": 1, "name": "car", "isthing": 1}, {"id": 2, "name": "things", "isthing": 0}]
    assert channel_names(LabelSpace.from_categories(categories), "collapsed") == ["things", "things_2"]


def test_a_network_and_the_tables(trained, tmp_path):
    from panoptic_fusion.cli.evaluate import evaluate

    opts = ["TEST.EVALUATORS", "['panoptic', 'semantic']", "OUTPUT_DIR", str(tmp_path / "out")]
    results = evaluate(trained, opts=opts)
    assert 0 <= results["sem_seg"]["mIoU_sem"] <= 100
    table = (tmp_path / "out" / "results.md").read_text()
    assert "mIoU_sem" in table and "boundary PQ" in table and "small, things" in table
