"""One PNG + segments_info: against slow loops on random maps, and all ways a PNG can be wrong."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image
from tiny_panoptic import CATEGORIES, random_segments, save_id_map

from panoptic_fusion.data.annotation import (
    bit_masks,
    decode_segmentation,
    label_extents,
    label_map,
    read_id_map,
    semantic_map,
)
from panoptic_fusion.data.dataset_errors import DatasetError
from panoptic_fusion.data.label_space import LabelSpace

SPACE = LabelSpace.from_categories(CATEGORIES)  # stuff sky, road, tree; things car, person


def test_hand_computed():
    id_map = np.array([[0, 70000, 70000], [9, 9, 70000]], dtype=np.int32)
    segments = [
        {"id": 70000, "category_id": 1, "isthing": True, "iscrowd": 1},
        {"id": 9, "category_id": 2, "isthing": False},
    ]
    labels = label_map(id_map, segments)
    assert labels.tolist() == [[0, 1, 1], [2, 2, 1]]
    boxes, areas = label_extents(labels, 2)
    assert boxes.tolist() == [[1, 0, 3, 2], [0, 1, 2, 2]] and areas.tolist() == [3, 2]
    assert semantic_map(labels, segments, SPACE, "full").tolist() == [[255, 4, 4], [2, 2, 4]]
    assert semantic_map(labels, segments, SPACE, "collapsed").tolist() == [[255, 3, 3], [2, 2, 3]]
    assert semantic_map(labels, segments, SPACE, "stuff").tolist() == [[255, 255, 255], [2, 2, 255]]
    assert bit_masks(labels, [2], boxes[1:]).tolist() == [[[False] * 3, [True, True, False]]]


def test_random_maps_against_loops(tmp_path):
    rng = np.random.default_rng(0)
    for case in range(200):
        height, width = int(rng.integers(8, 40)), int(rng.integers(8, 40))
        num = 300 if case == 0 else int(rng.integers(0, 12))
        id_map, segments, _ = random_segments(rng, height, width, num)
        rng.shuffle(segments)
        save_id_map(id_map, tmp_path / "map.png")
        read = read_id_map(str(tmp_path / "map.png"))
        assert read.dtype == np.int32 and np.array_equal(read, id_map)
        labels = label_map(read, segments)
        assert labels.dtype == np.int32
        dtype = np.int32 if num > 200 else rng.choice([np.uint8, np.int32])
        boxes, areas = label_extents(labels.astype(dtype), len(segments))
        masks = bit_masks(labels, list(range(1, len(segments) + 1)), boxes)
        covered = np.zeros_like(id_map, dtype=bool)
        for k, segment in enumerate(segments):
            mask = id_map == segment["id"]
            covered |= mask
            assert np.array_equal(masks[k], mask)
            assert np.array_equal(labels == k + 1, mask)
            assert areas[k] == segment["area"]
            x, y, w, h = segment["bbox"]
            assert boxes[k].tolist() == [x, y, x + w, y + h]
        assert np.array_equal(labels == 0, ~covered)


def test_empty_and_absent():
    void = np.zeros((4, 5), dtype=np.int32)
    assert label_map(void, []).tolist() == void.tolist()
    boxes, areas = label_extents(void, 0)
    assert boxes.shape == (0, 4) and areas.shape == (0,)
    boxes, areas = label_extents(void, 3)
    assert not boxes.any() and not areas.any()
    assert bit_masks(void, [], boxes[:0]).shape == (0, 4, 5)
    assert (semantic_map(void, [], SPACE, "full") == 255).all()


def test_faults_are_collected():
    id_map = np.array([[5, 5, 6], [7, 0, 6]], dtype=np.int32)
    faults = []
    labels = label_map(id_map, [{"id": 5}, {"id": 8}], "a.png", faults.append)
    assert labels.tolist() == [[1, 1, 0], [0, 0, 0]]
    assert [f.kind for f in faults] == ["id without segment", "id without segment", "segment without pixel"]
    assert str(faults[0]) == "a.png: id 6 (2 pixels) is in the PNG, but not in segments_info"
    with pytest.raises(DatasetError, match="a.png: id 6"):
        label_map(id_map, [{"id": 5}, {"id": 8}], "a.png")


def png(mode: str, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).convert(mode).save(buffer, "png", **options)
    return buffer.getvalue()


def sixteen_bit() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(16, dtype=np.uint16).reshape(4, 4)).save(buffer, "png")
    return buffer.getvalue()


def recompressed_wrongly() -> bytes:
    """Right checksums around pixel data that are no zlib stream."""
    data = png("RGB")
    start = data.index(b"IDAT")
    length = int.from_bytes(data[start - 4 : start], "big")
    body = b"IDAT" + bytes(length)
    return data[:start] + body + zlib.crc32(body).to_bytes(4, "big") + data[start + 8 + length :]


@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        (png("L"), "PNG not RGB", "grayscale with 8 bits"),
        (png("P"), "PNG not RGB", "palette"),
        (png("RGBA"), "PNG not RGB", "RGB with alpha"),
        (png("LA"), "PNG not RGB", "grayscale with alpha"),
        (png("1"), "PNG not RGB", "grayscale with 1 bits"),
        (sixteen_bit(), "PNG not RGB", "16 bits"),
        (b"", "corrupt PNG", "empty"),
        (b"\xff\xd8\xff\xe0 a jpeg", "corrupt PNG", "not a PNG"),
        (png("RGB")[:-20], "corrupt PNG", "cut off"),
        (png("RGB")[:-6], "corrupt PNG", "cut off"),
        (png("RGB")[:9], "corrupt PNG", "cut off"),
        (recompressed_wrongly(), "corrupt PNG", "decoded"),
    ],
)
def test_wrong_png(tmp_path, data, kind, message):
    path = str(tmp_path / "map.png")
    with open(path, "wb") as file:
        file.write(data)
    with pytest.raises(DatasetError, match=f"map.png: .*{message}") as error:
        read_id_map(path)
    assert error.value.kind == kind and error.value.file == path


def test_no_damaged_png_is_read_wrongly(tmp_path):
    """Every byte of a small PNG damaged in turn: an error or the same ids, never others."""
    good = png("RGB")
    path = tmp_path / "map.png"
    path.write_bytes(good)
    ids = read_id_map(str(path))
    rejected = 0
    for position in range(len(good)):
        path.write_bytes(good[:position] + bytes([good[position] ^ 0x10]) + good[position + 1 :])
        try:
            assert np.array_equal(read_id_map(str(path)), ids)
        except DatasetError:
            rejected += 1
    assert rejected == len(good)


def test_interlaced_and_commented_png(tmp_path):
    rng = np.random.default_rng(1)
    rgb = rng.integers(0, 256, (9, 7, 3), dtype=np.uint8)
    Image.fromarray(rgb).save(tmp_path / "map.png", dpi=(72, 72), transparency=(1, 2, 3), optimize=True)
    expected = rgb.astype(int) @ [1, 256, 65536]
    assert np.array_equal(read_id_map(str(tmp_path / "map.png")), expected)


def test_missing_png(tmp_path):
    for path in (tmp_path / "none.png", tmp_path):
        with pytest.raises(DatasetError) as error:
            read_id_map(str(path))
        assert error.value.kind == "missing PNG"


def test_decode_segmentation():
    square = np.zeros((5, 6), dtype=np.uint8)
    square[1:3, 2:5] = 1
    other = np.zeros((5, 6), dtype=np.uint8)
    other[4, 0] = 1
    polygon, corner = [2, 1, 5, 1, 5, 3, 2, 3], [0, 4, 1, 4, 1, 5, 0, 5]
    assert np.array_equal(decode_segmentation([polygon], 5, 6), square)
    assert np.array_equal(decode_segmentation([polygon, corner], 5, 6), square | other)
    counts = [11, 2, 3, 2, 3, 2, 7]
    assert np.array_equal(decode_segmentation({"size": [5, 6], "counts": counts}, 5, 6), square)
