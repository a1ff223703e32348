"""The loop of `matching.confusion_matrix`, written for numba."""

import numpy as np

SIGNATURE = "boolean(int32[::1], int32[::1], {kinds}, int64[::1], int64[::1], int64[:,:,::1])"
"""With "none" or "uint8[::1]" for {kinds}, each compiled without the other's branches."""
STEP = 16  # pixels that are compared at once
FACTOR = 2654435761  # 2^32 divided by the golden ratio: spreads consecutive ids over a hash table


def count_pairs(gt_map, pred_map, kinds, gt_ids, pred_ids, counts):
    """Adds the number of pixels of each pair of segments; returns False as soon as it finds a negative id.

    Args:
        gt_map, pred_map: (N,) int32 segment ids.
        kinds: (N,) uint8 in 0..K-1, or None if all are 0.
        gt_ids (G,), pred_ids (P,): int64, distinct, in [1, 2^24).
        counts: (G + 2, P + 2, K) int64. The first row and column are id 0, the last ones all ids that are not listed.
    """
    size = 16
    while size < 4 * max(len(gt_ids), len(pred_ids)):
        size *= 2
    keys = np.full((2, size), -1, np.int32)  # hash tables with linear probing; an empty slot has the row of other ids
    rows = np.empty((2, size), np.int64)
    for side, ids in enumerate((gt_ids, pred_ids)):
        rows[side] = len(ids) + 1
        for row in range(len(ids) + 1):
            key = ids[row - 1] if row > 0 else 0
            slot = (np.int64(key) * FACTOR >> 16) & (size - 1)
            while keys[side, slot] != -1:
                slot = (slot + 1) & (size - 1)
            keys[side, slot], rows[side, slot] = key, row
    start, total = 0, len(gt_map)
    while start < total:  # one run of pixels with the same values
        gt, pred, kind = gt_map[start], pred_map[start], np.uint8(0)
        if kinds is not None:
            kind = kinds[start]
        if gt < 0 or pred < 0:
            return False
        end = start + 1
        while end + STEP <= total:
            gt_step, pred_step = gt_map[end : end + STEP], pred_map[end : end + STEP]
            difference = np.int32(0)
            for i in range(STEP):
                difference |= (gt_step[i] ^ gt) | (pred_step[i] ^ pred)
            if kinds is not None:
                kinds_step = kinds[end : end + STEP]
                for i in range(STEP):
                    difference |= np.int32(kinds_step[i] ^ kind)
            if difference != 0:
                break
            end += STEP
        while end < total and gt_map[end] == gt and pred_map[end] == pred:
            if kinds is not None:  # noqa: SIM102  (numba removes this branch only as a test of its own)
                if kinds[end] != kind:
                    break
            end += 1
        row = (np.int64(gt) * FACTOR >> 16) & (size - 1)
        while keys[0, row] != gt and keys[0, row] != -1:
            row = (row + 1) & (size - 1)
        column = (np.int64(pred) * FACTOR >> 16) & (size - 1)
        while keys[1, column] != pred and keys[1, column] != -1:
            column = (column + 1) & (size - 1)
        counts[rows[0, row], rows[1, column], kind] += end - start
        start = end
    return True
