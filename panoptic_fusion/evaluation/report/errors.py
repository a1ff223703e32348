"""Names the errors of a prediction, per segment and per pixel, by the matching of PQ.

A segment is right or wrong exactly as in PQ (`matching.py`): a true positive is matched, a missed ground-truth segment
is a false negative, and a spurious predicted segment is a false positive. All other predicted segments are ignored,
because more than half of them lies on void and on the crowd of their class. This module says *why* a segment is wrong.
Crowds take no part in the pairs below, and predicted pixels on void do not count, as in the IoU of PQ.

Pairs of a ground-truth segment g and a predicted segment p that are not matched:

- *wrong class*: the classes differ, the IoU is above 0.5, and p is a false positive. Either segment has one such pair
  at most, and is not matched.
- *merged*: the class is the same, and p holds more than half of g and more than half of another g of the class. Then g
  is a false negative; p may be matched with the other one, or be ignored.
- *split*: the class is the same, p is a false positive, and more than half of p and more than half of another predicted
  segment of the class lie in g. g may be matched with the other one.
- *low IoU*: the class is the same, g is a false negative, p is a false positive, and the IoU is above 0.1 (the
  background threshold of TIDE, Bolya et al. 2020).

A pair with several of these errors has the first one. So has a segment with several pairs. A segment without such a
pair is *missed* (ground truth) or *false* (prediction).

The code of a pixel follows from its two segments, void included. The first line that applies is the code:

- on void: ignored (6);
- on a crowd: ignored (6) if the prediction is void, is an ignored segment, or is a false positive on the crowd that PQ
  forgives (the last one listed of its class); false positive (1) on any other crowd; inexact (7) if it is matched;
- a matched pair: right (0); wrong class (3); merged (4); split (5); a pair of low IoU: inexact (7);
- the predicted segment is a false positive: false positive (1);
- the ground-truth segment is a false negative: missed (2);
- otherwise, both sides are found elsewhere: the outline between them is inexact (7).

Codes 1 to 5 therefore show the segments that cost recognition quality (RQ), and 7 mostly what costs segmentation
quality (SQ).

Shapes: G is the number of ground-truth segments of an image, P the number of predicted segments.
"""

from dataclasses import dataclass

import numpy as np

from ..matching import ImageCounts, Matching

LOW_IOU = 0.1
CODES = ("right", "false positive", "missed", "wrong class", "merged", "split", "ignored", "inexact")
RIGHT, FALSE_POSITIVE, MISSED, WRONG_CLASS, MERGED, SPLIT, IGNORED, INEXACT = range(len(CODES))
PAIR_KINDS = ("wrong class", "merged", "split", "low iou")
FP_KINDS = ("false", *PAIR_KINDS)
FN_KINDS = ("missed", *PAIR_KINDS)


@dataclass(frozen=True)
class ImageErrors:
    """Errors of the prediction of one image.

    Attributes:
        matching: matching of PQ.
        iou: (G, P) float64 IoU of each pair of any classes; 0 for crowds.
        wrong_class: (G, P) bool, pairs of different classes that PQ would match if the class were right.
        pixel_codes: (G + 1, P + 1) uint8 index into `CODES` of each pair of segments; row and column 0 are void.
        gt_kinds: (G,) texts: "matched", "crowd" or one of `FN_KINDS`.
        pred_kinds: (P,) texts: "matched", "ignored" or one of `FP_KINDS`.
    """

    matching: Matching
    iou: np.ndarray
    wrong_class: np.ndarray
    pixel_codes: np.ndarray
    gt_kinds: np.ndarray
    pred_kinds: np.ndarray


def classify_errors(image: ImageCounts) -> ImageErrors:
    """Names the errors of one image by the rules of this module."""
    matching = image.match()
    both, gt_area = image.counts[1:, 1:], matching.gt_area[:, None]
    seen = matching.pred_area - image.counts[0, 1:]  # predicted pixels that are not on void
    real = ~image.crowd[:, None]
    same = real & (image.gt_classes[:, None] == image.pred_classes)
    iou = np.where(real, both / np.maximum(gt_area + seen - both, 1), 0)
    matched = np.zeros(both.shape, bool)
    matched[matching.g[matching.matched], matching.p[matching.matched]] = True
    missed, spurious = matching.missed[:, None], matching.spurious

    wrong_class = real & ~same & (iou > 0.5) & spurious
    holds = same & (2 * both > gt_area)
    merged = holds & (holds.sum(axis=0) > 1) & ~matched
    within = same & (2 * both > seen)
    split = within & (within.sum(axis=1, keepdims=True) > 1) & spurious & ~merged
    low = same & missed & spurious & (iou > LOW_IOU)
    pairs = (wrong_class, merged, split, low)

    codes = np.full(image.counts.shape, IGNORED, np.uint8)
    real_codes = (RIGHT, WRONG_CLASS, MERGED, SPLIT, INEXACT, FALSE_POSITIVE, MISSED)
    codes[1:, 1:] = np.select([matched, *pairs, spurious & real, missed & real], real_codes, INEXACT)
    codes[1:, 0] = np.where(matching.missed, MISSED, INEXACT)
    codes[1:][image.crowd] = _crowd_codes(image, matched.any(axis=0), spurious)[image.crowd]
    return ImageErrors(
        matching,
        iou,
        wrong_class,
        codes,
        np.select(
            [image.crowd, *(m.any(axis=1) for m in (matched, *pairs))], ["crowd", "matched", *PAIR_KINDS], "missed"
        ),
        np.select(
            [matched.any(axis=0), ~spurious, *(m.any(axis=0) for m in pairs)],
            ["matched", "ignored", *PAIR_KINDS],
            "false",
        ),
    )


def _crowd_codes(image: ImageCounts, is_matched: np.ndarray, spurious: np.ndarray) -> np.ndarray:
    """Returns the codes (G, P + 1) of pixels on crowds; the rows of other segments have no meaning."""
    of_class = image.gt_classes[:, None] == image.gt_classes
    is_last = ~np.triu(of_class & image.crowd, 1).any(axis=1, keepdims=True)
    forgiving = is_last & (image.gt_classes[:, None] == image.pred_classes)
    codes = np.full((len(image.gt_classes), len(image.pred_classes) + 1), IGNORED, np.uint8)
    codes[:, 1:] = np.select(
        [is_matched & np.ones_like(forgiving), spurious & ~forgiving], [INEXACT, FALSE_POSITIVE], IGNORED
    )
    return codes
