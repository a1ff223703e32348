"""Error classes: a scene by hand, and a restatement with loops over segments and pixels on random pairs."""

import numpy as np
import pytest
from panoptic_cases import NUM_STUFF, NUM_THINGS, random_pair

from panoptic_fusion.evaluation.matching import count_image
from panoptic_fusion.evaluation.report.confusion import pixel_confusion, segment_confusion
from panoptic_fusion.evaluation.report.errors import CODES, classify_errors

NUM_CLASSES = NUM_THINGS + NUM_STUFF


def counts_of(gt_map, gt_segments, pred_map, pred_segments, num_classes=NUM_CLASSES):
    gt_map, pred_map = (np.asarray(m) for m in (gt_map, pred_map))
    return count_image(pred_map, pred_segments, gt_map, gt_segments, num_classes=num_classes)


def one_row(text):
    """A map of one row, one digit per pixel."""
    return [[int(digit) for digit in text]]


def kinds_of(gt, gt_segments, pred, pred_segments):
    errors = classify_errors(counts_of(one_row(gt), gt_segments, one_row(pred), pred_segments))
    codes = errors.pixel_codes[
        one_row_labels(gt, [s[0] for s in gt_segments]), one_row_labels(pred, list(pred_segments))
    ]
    return errors.gt_kinds.tolist(), errors.pred_kinds.tolist(), "".join(map(str, codes))


def one_row_labels(text, ids):
    return [0 if digit == "0" else ids.index(int(digit)) + 1 for digit in text]


# Class 0 and 1 are things. Names of the codes: 0 right, 1 false positive, 2 missed, 3 wrong class, 4 merged, 5 split,
# 6 ignored, 7 inexact.
BY_HAND = {
    "matched, with an outline into void and a missed rim": (
        "0011110", [(1, 0, False)], "0111100", {1: 0}, ["matched"], ["matched"], "6600076"),
    "missed, and a false positive elsewhere": (
        "111122222", [(1, 0, False), (2, 4, False)], "000022233", {2: 4, 3: 0}, ["missed", "matched"],
        ["matched", "false"], "222200011"),
    "wrong class": ("1111", [(1, 0, False)], "2220", {2: 1}, ["wrong class"], ["wrong class"], "3332"),
    "two merged into one that matches the larger": (
        "1111122", [(1, 0, False), (2, 0, False)], "3333333", {3: 0}, ["matched", "merged"], ["matched"], "0000044"),
    "two merged into one that matches neither": (
        "111222", [(1, 0, False), (2, 0, False)], "333333", {3: 0}, ["merged", "merged"], ["merged"], "444444"),
    "split, and the larger part matches": (
        "1111111", [(1, 0, False)], "2222233", {2: 0, 3: 0}, ["matched"], ["matched", "split"], "0000055"),
    "split into halves": ("1111", [(1, 0, False)], "2233", {2: 0, 3: 0}, ["split"], ["split", "split"], "5555"),
    "low IoU: 1 of 4 pixels, for predicted pixels on void do not count": (
        "1111000044", [(1, 0, False), (4, 4, False)], "0003300044", {3: 0, 4: 4}, ["low iou", "matched"],
        ["low iou", "matched"], "2227666600"),
    "borders between two that are found": (
        "1111144444", [(1, 0, False), (4, 4, False)], "1111114444", {1: 0, 4: 4}, ["matched", "matched"],
        ["matched", "matched"], "0000070000"),
    "crowds: forgiven class, another class, void": (
        "9999999", [(9, 0, True)], "1122000", {1: 0, 2: 1}, ["crowd"], ["ignored", "false"], "6611666"),
    "of two crowds of a class only the last one forgives": (
        "88899", [(8, 0, True), (9, 0, True)], "11022", {1: 0, 2: 0}, ["crowd", "crowd"],
        ["false", "ignored"], "11666"),
    "a prediction mostly on void is ignored, and missed ground truth stays missed": (
        "0001", [(1, 4, False)], "2222", {2: 0}, ["missed"], ["ignored"], "6662"),
    "a matched segment that reaches into a crowd is inexact": (
        "1111999", [(1, 0, False), (9, 0, True)], "2222200", {2: 0}, ["matched", "crowd"], ["matched"], "0000766"),
}  # fmt: skip


@pytest.mark.parametrize("name", BY_HAND)
def test_scenes_by_hand(name):
    gt, gt_segments, pred, pred_segments, gt_kinds, pred_kinds, codes = BY_HAND[name]
    assert kinds_of(gt, gt_segments, pred, pred_segments) == (gt_kinds, pred_kinds, codes)


@pytest.mark.parametrize(
    ("gt", "pred", "gt_kind", "pred_kind"),
    [
        ("1" * 10, "2" + "0" * 9, "missed", "false"),  # IoU 0.1 exactly is not above it
        ("1" * 9, "2" + "0" * 8, "low iou", "low iou"),
        ("11", "20", "low iou", "low iou"),  # IoU 0.5 exactly is no match
    ],
)
def test_thresholds_are_exclusive(gt, pred, gt_kind, pred_kind):
    assert kinds_of(gt, [(1, 0, False)], pred, {2: 0})[:2] == ([gt_kind], [pred_kind])


def test_nothing_on_one_side_or_both():
    assert kinds_of("000", [], "000", {}) == ([], [], "666")
    assert kinds_of("011", [(1, 0, False)], "000", {}) == (["missed"], [], "622")
    assert kinds_of("000", [], "011", {1: 0}) == ([], ["ignored"], "666")


def slow_segments(pair):
    """Kinds of all segments, and the set of pairs of each kind, by loops over masks."""
    void = pair.gt_map == 0
    gt_mask = {id: pair.gt_map == id for id, *_ in pair.gt_segments}
    pred_mask = {id: pair.pred_map == id for id, *_ in pair.pred_segments}
    gt_class = {id: cls for id, cls, _ in pair.gt_segments}
    pred_class = {id: cls for id, cls, _ in pair.pred_segments}
    crowds = [id for id, _, crowd in pair.gt_segments if crowd]
    real = [id for id in gt_mask if id not in crowds]

    def both(g, p):
        return int((gt_mask[g] & pred_mask[p]).sum())

    def iou(g, p):
        union = int(((gt_mask[g] | pred_mask[p]) & ~(pred_mask[p] & void)).sum())
        return both(g, p) / union if union else 0.0

    matched = {(g, p) for g in real for p in pred_mask if gt_class[g] == pred_class[p] and iou(g, p) > 0.5}
    missed = [g for g in real if g not in {pair[0] for pair in matched}]
    spurious = []
    forgiving = {}
    for p, mask in pred_mask.items():
        forgiving[p] = [c for c in crowds if gt_class[c] == pred_class[p]][-1:]
        forgiven = void.copy()
        for c in forgiving[p]:
            forgiven |= gt_mask[c]
        if p not in {pair[1] for pair in matched} and not 2 * (mask & forgiven).sum() > mask.sum():
            spurious.append(p)
    kind = {}
    for g in real:
        for p in pred_mask:
            if (g, p) in matched:
                continue
            same = gt_class[g] == pred_class[p]
            held = [h for h in real if gt_class[h] == pred_class[p] and 2 * both(h, p) > gt_mask[h].sum()]
            parts = [
                q for q in pred_mask
                if pred_class[q] == gt_class[g] and 2 * both(g, q) > (pred_mask[q] & ~void).sum()
            ]  # fmt: skip
            if not same and p in spurious and iou(g, p) > 0.5:
                kind[g, p] = "wrong class"
            elif same and g in held and len(held) >= 2:
                kind[g, p] = "merged"
            elif same and p in spurious and p in parts and len(parts) >= 2:
                kind[g, p] = "split"
            elif same and g in missed and p in spurious and iou(g, p) > 0.1:
                kind[g, p] = "low iou"
    return matched, missed, spurious, kind, crowds, forgiving, iou


def first_of(kinds, default):
    return next((kind for kind in ("wrong class", "merged", "split", "low iou") if kind in kinds), default)


def slow_codes(pair, slow):
    """The code of every pixel, one pixel at a time."""
    matched, missed, spurious, kind, crowds, forgiving, _ = slow
    matched_pred = {p for _, p in matched}
    codes = np.zeros(pair.gt_map.shape, int)
    code_of = {"wrong class": 3, "merged": 4, "split": 5, "low iou": 7}
    for place in np.ndindex(codes.shape):
        g, p = int(pair.gt_map[place]), int(pair.pred_map[place])
        if g == 0:
            code = 6
        elif g in crowds:
            if p in matched_pred:
                code = 7
            elif p in spurious and g not in forgiving[p]:
                code = 1
            else:
                code = 6
        elif (g, p) in matched:
            code = 0
        elif (g, p) in kind:
            code = code_of[kind[g, p]]
        elif p in spurious:
            code = 1
        elif g in missed:
            code = 2
        else:
            code = 7
        codes[place] = code
    return codes


def hard_pair(rng):
    """A random pair, whose predictions are also merged, split, and given the class of others."""
    pair = random_pair(rng)
    things = [s for s in pair.pred_segments if rng.random() < 0.5]
    for first, second in zip(things[::2], things[1::2], strict=False):
        if rng.random() < 0.5:
            pair.pred_map[pair.pred_map == first[0]] = second[0]
        else:
            half = pair.pred_map == first[0]
            half[:, : int(np.median(np.nonzero(half)[1]))] = False
            pair.pred_map[half] = 900 + first[0]
            pair.pred_segments.append((900 + first[0], first[1], False))
    present = set(np.unique(pair.pred_map).tolist())
    pair.pred_segments = [s for s in pair.pred_segments if s[0] in present]
    if rng.random() < 0.5:  # few classes: more pairs of one class
        pair.pred_segments = [(id, cls % 2, crowd) for id, cls, crowd in pair.pred_segments]
        pair.gt_segments = [(id, cls % 2, crowd) for id, cls, crowd in pair.gt_segments]
    return pair


def test_random_pairs_equal_a_slow_restatement():
    """Every pixel and every segment of 100 random pairs; all codes and kinds occur."""
    rng = np.random.default_rng(5)
    seen_codes, seen_kinds = np.zeros(len(CODES), int), set()
    for _ in range(100):
        pair = hard_pair(rng)
        pred = {id: cls for id, cls, _ in pair.pred_segments}
        counts = counts_of(pair.gt_map, pair.gt_segments, pair.pred_map, pred)
        errors, slow = classify_errors(counts), slow_segments(pair)
        matched, missed, spurious, kind, crowds, _, iou = slow
        gt_ids, pred_ids = [s[0] for s in pair.gt_segments], list(pred)
        codes = slow_codes(pair, slow)
        place = np.zeros(256**3, int), np.zeros(2000, int)
        place[0][gt_ids], place[1][pred_ids] = np.arange(len(gt_ids)) + 1, np.arange(len(pred_ids)) + 1
        np.testing.assert_array_equal(errors.pixel_codes[place[0][pair.gt_map], place[1][pair.pred_map]], codes)
        for g, found in zip(gt_ids, errors.gt_kinds, strict=True):
            kinds = {k for (h, _), k in kind.items() if h == g}
            expected = first_of(kinds, "missed") if g in missed else "crowd" if g in crowds else "matched"
            assert found == expected
        for p, found in zip(pred_ids, errors.pred_kinds, strict=True):
            kinds = {k for (_, q), k in kind.items() if q == p}
            is_matched = p in {pair[1] for pair in matched}
            assert found == (first_of(kinds, "false") if p in spurious else "matched" if is_matched else "ignored")
        for i, g in enumerate(gt_ids):
            for j, p in enumerate(pred_ids):
                assert errors.iou[i, j] == pytest.approx(0 if g in crowds else iou(g, p))
        check_confusions(pair, counts, errors, slow)
        seen_codes += np.bincount(codes.reshape(-1), minlength=len(CODES))
        seen_kinds |= {*errors.gt_kinds.tolist(), *errors.pred_kinds.tolist()}
    assert (seen_codes > 0).all()
    assert seen_kinds == {"matched", "ignored", "crowd", "false", "missed", "wrong class", "merged", "split", "low iou"}


def check_confusions(pair, counts, errors, slow):
    """Compares both confusions with loops over pixels and over segments."""
    matched, missed, spurious, kind, *_ = slow
    gt_class = {0: NUM_CLASSES, **{id: cls for id, cls, _ in pair.gt_segments}}
    pred_class = {0: NUM_CLASSES, **{id: cls for id, cls, _ in pair.pred_segments}}
    pixels, segments = np.zeros((2, NUM_CLASSES + 1, NUM_CLASSES + 1), int)
    for g, p in zip(pair.gt_map.reshape(-1).tolist(), pair.pred_map.reshape(-1).tolist(), strict=True):
        pixels[gt_class[g], pred_class[p]] += 1
    wrong = {pair for pair, k in kind.items() if k == "wrong class"}
    for g, p in matched | wrong:
        segments[gt_class[g], pred_class[p]] += 1
    for g in set(missed) - {g for g, _ in wrong}:
        segments[gt_class[g], NUM_CLASSES] += 1
    for p in set(spurious) - {p for _, p in wrong}:
        segments[NUM_CLASSES, pred_class[p]] += 1
    np.testing.assert_array_equal(pixel_confusion(counts, NUM_CLASSES), pixels)
    np.testing.assert_array_equal(segment_confusion(errors, NUM_CLASSES), segments)
