"""RLE of crops against pycocotools on the whole mask."""

import numpy as np
from pycocotools import mask as mask_api

from panoptic_fusion.data.rle import encode_crop


def test_equals_encoding_the_whole_mask():
    """Crops of every kind: empty, without a row or column, full, of the whole image, with holes."""
    rng = np.random.default_rng(0)
    for _ in range(1500):
        size = height, width = tuple(rng.integers(1, 12, 2).tolist())
        h, w = rng.integers(0, height + 1), rng.integers(0, width + 1)
        if rng.random() < 0.3:
            h = height  # runs go on from column to column
        top, left = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))
        crop = rng.random((h, w)) < rng.choice([0, 0.3, 0.9, 1])
        whole = np.zeros(size, np.uint8, order="F")
        whole[top : top + h, left : left + w] = crop
        expected = mask_api.encode(whole)
        assert encode_crop(crop, top, left, size) == {"size": [height, width], "counts": expected["counts"].decode()}


def test_by_hand():
    """Column by column: two free columns of 3, then 1 free, 2 of the mask, 6 free."""
    rle = encode_crop(np.ones((2, 1), bool), 1, 2, (3, 5))
    assert mask_api.decode(rle).tolist() == [[0, 0, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 1, 0, 0]]
    assert rle == mask_api.frPyObjects({"counts": [7, 2, 6], "size": [3, 5]}, 3, 5) | {"counts": rle["counts"]}
