"""PanopticQuality against hand-computed cases, a slow restatement, and the reference code."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
from panoptic_cases import (
    NUM_STUFF,
    NUM_THINGS,
    Pair,
    coco_categories,
    random_pair,
    slow_counts,
    slow_miou,
    write_id_png,
)

from panoptic_fusion.data import load_panoptic
from panoptic_fusion.data.annotation import read_id_map
from panoptic_fusion.data.coco_panoptic import PanopticFiles
from panoptic_fusion.evaluation.matching import confusion_matrix
from panoptic_fusion.evaluation.panoptic_quality import PanopticQuality

NUM_CLASSES = NUM_THINGS + NUM_STUFF
DATA = Path(os.environ.get("PANOPTIC_FUSION_DATA", Path(__file__).resolve().parents[2].parent / "shared" / "data"))


def accumulate(pairs, num_things=NUM_THINGS, num_stuff=NUM_STUFF):
    quality = PanopticQuality(num_things, num_stuff)
    for pair in pairs:
        quality.update(pair.pred_map, {s[0]: s[1] for s in pair.pred_segments}, pair.gt_map, pair.gt_segments)
    return quality


def pair_of(gt, gt_segments, pred, pred_segments):
    """A pair from nested lists; predicted segments {id: class}."""
    return Pair(np.array(pred), [(i, c, False) for i, c in pred_segments.items()], np.array(gt), gt_segments)


def counts_of(row):
    return row["tp"], row["fp"], row["fn"]


def same(a, b):
    return a == pytest.approx(b, abs=1e-12, nan_ok=True)


@pytest.fixture(scope="module")
def random_pairs():
    rng = np.random.default_rng(7)
    return [random_pair(rng) for _ in range(400)]


# -- by hand ---------------------------------------------------------------------------------------------------------


def test_hand_computed_4x4():
    # Thing class 0: ground truth 1 has 4 pixels, of which the prediction has 3, and 0 others: IoU 3/4.
    # Stuff class 0 (index 1): ground truth 2 has 8 pixels, the prediction the same 8 and the odd one: IoU 8/9.
    # The bottom row is void; the prediction puts another thing there, wholly on void: no false positive.
    gt = [[1, 1, 2, 2], [1, 1, 2, 2], [2, 2, 2, 2], [0, 0, 0, 0]]
    pred = [[5, 5, 6, 6], [5, 6, 6, 6], [6, 6, 6, 6], [7, 7, 7, 0]]
    result = accumulate([pair_of(gt, [(1, 0, 0), (2, 1, 0)], pred, {5: 0, 6: 1, 7: 0})], 1, 1).compute()
    assert [counts_of(row) for row in result["per_class"]] == [(1, 0, 0), (1, 0, 0)]
    assert same(result["things"]["pq"], 3 / 4) and same(result["stuff"]["pq"], 8 / 9)
    assert same(result["all"]["pq"], (3 / 4 + 8 / 9) / 2) and same(result["all"]["sq"], (3 / 4 + 8 / 9) / 2)
    assert result["all"]["rq"] == 1.0 and result["images"] == 1
    assert same(result["all"]["miou"], (3 / 4 + 8 / 9) / 2)  # void ground truth is left out of it, too


def test_union_leaves_out_void_under_the_prediction():
    # 2 of the 4 predicted pixels lie on void: IoU 2 / (4 + 3 - 2 - 2) = 2/3, not 2/5.
    result = accumulate([pair_of([[1, 1, 1, 0, 0]], [(1, 0, 0)], [[0, 4, 4, 4, 4]], {4: 0})], 1, 0).compute()
    assert counts_of(result["per_class"][0]) == (1, 0, 0) and same(result["all"]["pq"], 2 / 3)
    assert same(result["all"]["miou"], 2 / 3)  # one ground-truth pixel is predicted void: an error


def test_iou_of_exactly_one_half_is_no_match():
    result = accumulate([pair_of([[1, 1, 2, 2]], [(1, 0, 0), (2, 1, 0)], [[3, 4, 4, 4]], {3: 0, 4: 1})], 1, 1).compute()
    assert [counts_of(row) for row in result["per_class"]] == [(0, 1, 1), (1, 0, 0)]
    assert same(result["per_class"][1]["pq"], 2 / 3)


def test_half_on_void_is_a_false_positive_more_is_not():
    for pred, fp in (([[0, 0, 9, 9]], 1), ([[0, 9, 9, 9]], 0)):
        result = accumulate([pair_of([[0, 0, 0, 2]], [(2, 1, 0)], pred, {9: 0})], 1, 1).compute()
        assert result["per_class"][0]["fp"] == fp


def test_crowd_is_no_false_negative_and_forgives_only_its_class():
    gt, segments = [[1, 1, 1, 2]], [(1, 0, 1), (2, 1, 0)]
    for cls, fp in ((0, 0), (1, 1)):
        pair = pair_of(gt, segments, [[8, 8, 8, 7]], {8: cls, 7: 2})
        rows = accumulate([pair], 2, 1).compute()["per_class"]
        assert rows[cls]["fp"] == fp and rows[0]["fn"] == 0


def test_only_the_last_crowd_of_a_class_forgives():
    gt, pred = [[1, 1, 1, 2]], [[8, 8, 8, 0]]
    for order, fp in (([1, 2], 1), ([2, 1], 0)):
        pair = pair_of(gt, [(i, 0, True) for i in order], pred, {8: 0})
        assert accumulate([pair], 1, 0).compute()["per_class"][0]["fp"] == fp


def test_pq_dagger_by_hand_and_the_papers_example():
    # Stuff just below and above IoU 0.5, as in the paper's figure 3 (pole .49, traffic light .46, sidewalk .62), one
    # row of 100 pixels a class: PQ takes 0, 0 and .62, PQ-dagger all three.
    ious = (49, 46, 62)
    gt = np.repeat([[1], [2], [3]], 100, axis=1)
    pred = np.zeros_like(gt)
    for row, hits in enumerate(ious):
        pred[row, :hits] = row + 1
    result = accumulate([pair_of(gt, [(1, 0, 0), (2, 1, 0), (3, 2, 0)], pred, {1: 0, 2: 1, 3: 2})], 0, 3).compute()
    assert same([row["pq"] for row in result["per_class"]], [0.0, 0.0, 0.62])
    assert same([row["pq_dagger"] for row in result["per_class"]], [0.49, 0.46, 0.62])
    assert same(result["stuff"]["pq_dagger"], (0.49 + 0.46 + 0.62) / 3) and same(result["all"]["pq"], 0.62 / 3)


def test_pq_dagger_two_rules_over_three_images():
    # Stuff class, index 1: IoU 1/4 in the first image, 1 in the second, missed altogether in the third.
    # Thing class, index 0: the same segments; things keep PQ = 1 / (1 + 1/2 + 2/2).
    images = [([[1, 1, 1, 1]], [[2, 0, 0, 0]]), ([[1, 1, 1, 1]], [[2, 2, 2, 2]]), ([[1, 1, 1, 1]], [[0, 0, 0, 0]])]
    for cls, matched, ground_truth in ((1, (1 / 4 + 1) / 2, (1 / 4 + 1) / 3), (0, 1 / 2.5, 1 / 2.5)):
        pairs = [pair_of(gt, [(1, cls, 0)], pred, {2: cls} if np.any(pred) else {}) for gt, pred in images]
        quality = accumulate(pairs, 1, 1)
        assert same(quality.compute()["all"]["pq_dagger"], matched)
        assert same(quality.compute("ground_truth")["all"]["pq_dagger"], ground_truth)
    with pytest.raises(ValueError, match="pq_dagger is 'x'.*matched"):
        quality.compute("x")


def test_stuff_without_any_overlap_has_pq_dagger_zero():
    pair = pair_of([[1, 1, 2, 2]], [(1, 0, 0), (2, 1, 0)], [[3, 3, 4, 4]], {3: 0, 4: 2})
    result = accumulate([pair], 0, 3).compute()
    assert [row["pq_dagger"] for row in result["per_class"]] == [1.0, 0.0, 0.0]
    assert same(result["all"]["pq_dagger"], 1 / 3)


# -- against the slow restatement ------------------------------------------------------------------------------------


def test_random_pairs_equal_the_slow_restatement(random_pairs):
    seen = dict(tp=0, fp=0, fn=0)
    for pair in random_pairs:
        rows = accumulate([pair]).compute()["per_class"]
        for row, slow in zip(rows, slow_counts([pair], NUM_CLASSES), strict=True):
            assert counts_of(row) == (slow["tp"], slow["fp"], slow["fn"])
            assert row["iou_sum"] == pytest.approx(slow["iou"], abs=1e-12)
            for key in seen:
                seen[key] += slow[key]
    assert min(seen.values()) > 100  # the pairs are worth something


def test_averages_equal_the_slow_restatement(random_pairs):
    slow = slow_counts(random_pairs, NUM_CLASSES)
    occurs = [c for c in range(NUM_CLASSES) if slow[c]["tp"] + slow[c]["fp"] + slow[c]["fn"]]
    assert 0 < len(occurs) < NUM_CLASSES
    groups = {"all": range(NUM_CLASSES), "things": range(NUM_THINGS), "stuff": range(NUM_THINGS, NUM_CLASSES)}
    quality = accumulate(random_pairs)
    for rule in ("matched", "ground_truth"):
        result = quality.compute(rule)
        for group, members in groups.items():
            pq, dagger = [], []
            for c in (c for c in members if c in occurs):
                row = slow[c]
                pq.append(row["iou"] / (row["tp"] + row["fp"] / 2 + row["fn"] / 2))
                ious = row["dagger"]
                count = len(ious) if rule == "matched" else row["gt"]
                dagger.append(pq[-1] if c < NUM_THINGS else sum(ious) / count if count else 0.0)
            assert same(result[group]["pq"], np.mean(pq)) and same(result[group]["pq_dagger"], np.mean(dagger))
            assert result[group]["n"] == len(pq)
    assert same(result["all"]["miou"], slow_miou(random_pairs, NUM_CLASSES))
    assert result["images"] == len(random_pairs)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.int64])
def test_map_types_and_layouts_give_the_same(dtype):
    rng = np.random.default_rng(3)
    for _ in range(20):
        gt, pred = rng.integers(0, 4, (2, 30, 20))
        pair = pair_of(gt, [(1, 0, 0), (2, 1, 1), (3, 5, 0)], pred, {1: 0, 2: 1, 3: 5})
        expected = accumulate([pair]).state()
        pair.gt_map, pair.pred_map = np.asfortranarray(gt.astype(dtype)), np.repeat(pred.astype(dtype), 2, 1)[:, ::2]
        assert np.array_equal(accumulate([pair]).state(), expected)


def test_confusion_matrix_counts_every_pixel_over_strips():
    rng = np.random.default_rng(5)
    gt, pred = rng.integers(0, 6, (700, 801)), rng.integers(0, 8, (700, 801))  # more than two strips
    gt[300:] = 4  # a run over the end of a strip
    pred[300:] = 3
    counts = confusion_matrix(gt, np.array([2, 1, 4]), pred, np.array([3, 7]))
    rows, columns = [[0], [2], [1], [4], [3, 5]], [[0], [3], [7], [1, 2, 4, 5, 6]]
    expected = [[(np.isin(gt, r) & np.isin(pred, c)).sum() for c in columns] for r in rows]
    assert counts.tolist() == expected


# -- against the reference code --------------------------------------------------------------------------------------


def reference_counts(pairs, folder):
    evaluation = pytest.importorskip("panopticapi.evaluation", reason="the reference code is not installed")
    annotations = []
    for i, pair in enumerate(pairs):
        entries = []
        for kind, segment_map, segments in (
            ("gt", pair.gt_map, pair.gt_segments),
            ("pred", pair.pred_map, pair.pred_segments),
        ):
            write_id_png(folder / f"{kind}{i}.png", segment_map)
            info = [
                {"id": s, "category_id": 3 * c + 3, "iscrowd": int(crowd), "area": int((segment_map == s).sum())}
                for s, c, crowd in segments
            ]
            entries.append({"image_id": i, "file_name": f"{kind}{i}.png", "segments_info": info})
        annotations.append(tuple(entries))
    categories = {c["id"]: c for c in coco_categories()}
    return evaluation.pq_compute_single_core(0, annotations, str(folder), str(folder), categories), categories


def test_equal_to_the_reference_code(random_pairs, tmp_path):
    reference, categories = reference_counts(random_pairs, tmp_path)
    result = accumulate(random_pairs).compute()
    for cls, row in enumerate(result["per_class"]):
        theirs = reference[3 * cls + 3]
        assert counts_of(row) == (theirs.tp, theirs.fp, theirs.fn)
        assert row["iou_sum"] == pytest.approx(theirs.iou, abs=1e-11)
    for group, isthing in (("all", None), ("things", True), ("stuff", False)):
        average, per_class = reference.pq_average(categories, isthing)
        for key in ("pq", "sq", "rq", "n"):
            assert same(result[group][key], average[key])
    several = sum(
        len({s[1] for s in p.gt_segments if s[2]}) < sum(bool(s[2]) for s in p.gt_segments) for p in random_pairs
    )
    assert several > 20  # images with several crowds of a class


# -- nothing there, and groups without a class -----------------------------------------------------------------------


def test_no_image_and_all_void_images_give_nan():
    empty = PanopticQuality(2, 2)
    void = accumulate([pair_of(np.zeros((4, 4), int), [], np.zeros((4, 4), int), {})], 2, 2)
    thing_on_void = accumulate([pair_of(np.zeros((4, 4), int), [], np.ones((4, 4), int), {1: 0})], 2, 2)
    for quality, images in ((empty, 0), (void, 1), (thing_on_void, 1)):
        result = quality.compute()
        assert result["images"] == images and result["all"]["n"] == 0
        for group in ("all", "things", "stuff"):
            assert all(math.isnan(result[group][key]) for key in ("pq", "sq", "rq", "pq_dagger", "miou"))
        assert all(counts_of(row) == (0, 0, 0) for row in result["per_class"])


@pytest.mark.parametrize(("num_things", "num_stuff"), [(0, 2), (2, 0)])
def test_label_space_without_things_or_without_stuff(num_things, num_stuff):
    pair = pair_of([[1, 1, 2, 2]], [(1, 0, 0), (2, 1, 0)], [[3, 3, 4, 4]], {3: 0, 4: 1})
    result = accumulate([pair], num_things, num_stuff).compute()
    there, absent = ("stuff", "things") if num_things == 0 else ("things", "stuff")
    assert result[there]["pq"] == result["all"]["pq"] == result["all"]["pq_dagger"] == 1.0
    assert math.isnan(result[absent]["pq"]) and math.isnan(result[absent]["miou"]) and result[absent]["n"] == 0


def test_results_are_python_numbers(random_pairs):
    result = accumulate(random_pairs[:20]).compute()
    for group in ("all", "things", "stuff"):
        assert {type(v) for v in result[group].values()} == {float, int}
    for row in result["per_class"]:
        assert {type(v) for v in row.values()} == {float, int}


# -- merging ---------------------------------------------------------------------------------------------------------


def test_merged_parts_equal_the_whole(random_pairs):
    whole = accumulate(random_pairs)
    total = PanopticQuality(NUM_THINGS, NUM_STUFF)
    for part in (random_pairs[:1], random_pairs[1:250], [], random_pairs[250:]):
        total.merge(accumulate(part).state())
    assert total.images == whole.images == len(random_pairs)
    assert total.state().dtype == np.float64 and total.state().shape == (9 * NUM_CLASSES + 1,)
    np.testing.assert_allclose(total.state(), whole.state(), rtol=1e-13)
    with pytest.raises(ValueError, match="does not belong to 2 classes"):
        PanopticQuality(1, 1).merge(total.state())


# -- wrong input -----------------------------------------------------------------------------------------------------

GOOD = dict(pred_map=np.array([[1, 2]]), pred_segments={1: 0, 2: 1}, gt_map=np.array([[1, 0]]), gt_segments=[(1, 0, 0)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(gt_map=np.array([[1, 0, 0]])), "one size .* 1x2 and 1x3"),
        (dict(pred_segments={1: 0}), "prediction: segment id 2 is in the map and not among"),
        (dict(gt_segments=[]), "ground truth: segment id 1 is in the map and not among"),
        (dict(pred_segments={1: 0, 2: 1, 3: 1}), "prediction: segment 3 has no pixel"),
        (dict(gt_segments=[(1, 0, 0), (1, 1, 0)]), "ground truth: segment 1 is listed twice"),
        (dict(gt_segments=[(1, 2, 0)]), "ground truth: segment 1 has class index 2, of 2 classes"),
        (dict(pred_segments={1: 0, 2: -1}), "prediction: segment 2 has class index -1"),
        (dict(pred_segments={0: 0, 1: 0, 2: 1}), r"prediction: segment id 0 lies outside \[1, 2\^24\)"),
        (dict(gt_segments=[(256**3, 0, 0)]), r"ground truth: segment id 16777216 lies outside"),
        (dict(pred_map=np.array([[1, -1]])), "segment id -1 is negative"),
        (dict(pred_map=np.array([[1.0, 2.0]])), "integer type"),
    ],
)
def test_wrong_input_names_the_image_and_adds_nothing(change, message):
    quality = PanopticQuality(1, 1)
    with pytest.raises(ValueError, match=f"street.jpg.*{message}"):
        quality.update(**{**GOOD, **change}, name="street.jpg")
    assert not quality.state().any()
    quality.update(**GOOD, name="street.jpg")
    assert quality.images == 1


# -- real ground truth -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "panoptic"),
    [
        ("camvid/images", "camvid/annotations/panoptic_val"),
        ("coco_pair/input_images", "coco_pair/panoptic_examples"),
        ("ade_pair/images", "ade_pair/annotations/panoptic"),
    ],
)
def test_ground_truth_against_itself_is_perfect(images, panoptic):
    if not (DATA / f"{panoptic}.json").exists():
        pytest.skip(f"{DATA / panoptic}.json is absent")
    files = PanopticFiles(str(DATA / images), str(DATA / panoptic), str(DATA / f"{panoptic}.json"))
    space, records = load_panoptic(files)
    quality = PanopticQuality(space.num_things, space.num_stuff)
    for record in records[:40]:
        id_map = read_id_map(record["pan_seg_file_name"])
        segments = [
            (s["id"], s["category_id"] + (0 if s["isthing"] else space.num_things), s["iscrowd"])
            for s in record["segments_info"]
        ]
        quality.update(id_map, {s[0]: s[1] for s in segments}, id_map, segments)
    for rule in ("matched", "ground_truth"):
        result = quality.compute(rule)
        for key in ("pq", "sq", "rq", "pq_dagger", "miou"):
            assert result["all"][key] == 1.0
