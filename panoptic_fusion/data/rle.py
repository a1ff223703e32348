"""Computes COCO's run-length encoding of a mask from a crop, without allocating the whole mask."""

from __future__ import annotations

from typing import Any

import numpy as np


def encode_crop(crop: np.ndarray, top: int, left: int, size: tuple[int, int]) -> dict[str, Any]:
    """Encodes a mask of `size` that is empty outside a crop as an RLE.

    Args:
        crop: (h, w) bool.
        top, left: row and column of the crop's first pixel in the mask.
        size: (height, width) of the mask; the crop must lie in it.

    Returns:
        {"size": [height, width], "counts": str}: the output of `pycocotools.mask.encode` for the whole mask, with
        counts that can be stored in a JSON.
    """
    from pycocotools import mask as mask_api  # not installed for exported models alone

    height, width = size
    # COCO's runs are column-major: the edges of the runs of each column, as positions in the whole mask.
    columns = np.zeros((crop.shape[1], crop.shape[0] + 2), np.int8)
    columns[:, 1:-1] = crop.T
    column, row = np.nonzero(np.diff(columns, axis=1))
    edges = (left + column) * height + top + row  # start, end, start, end ...
    if crop.shape[0] == height:  # a run may continue in the next column
        same = np.flatnonzero(edges[1:-1:2] == edges[2::2])
        edges = np.delete(edges, np.concatenate([2 * same + 1, 2 * same + 2]))
    counts = np.diff(edges, prepend=0, append=height * width)
    if len(counts) > 1 and counts[-1] == 0:
        counts = counts[:-1]
    rle = mask_api.frPyObjects({"counts": counts.tolist(), "size": [height, width]}, height, width)
    return {"size": [height, width], "counts": rle["counts"].decode("ascii")}
