"""Panoptic PNGs: the compiled decoder against hand-computed rows, a plain encoder, OpenCV, and all other PNGs."""

import struct
import tracemalloc
import zlib

import cv2
import numpy as np
import pytest

from panoptic_fusion.data import png_decoder
from panoptic_fusion.data.annotation import read_id_map
from panoptic_fusion.data.dataset_errors import DatasetError
from panoptic_fusion.data.png_decoder import decode_ids, read_chunks
from panoptic_fusion.data.png_kernel import unfilter_rows

pytest.importorskip("numba")


def chunk(kind: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width, height, stream, *, properties=(8, 2, 0, 0, 0), before=(), idats=None, after=(), end=b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">II5B", width, height, *properties))
    idats = [stream] if idats is None else idats
    body = [chunk(b"IDAT", part) if isinstance(part, bytes) else chunk(*part) for part in idats]
    return b"\x89PNG\r\n\x1a\n" + header + b"".join([*before, *body, *after]) + chunk(b"IEND", end)


def paeth(a: int, b: int, c: int) -> int:
    p = a + b - c
    return min(((abs(p - a), 0, a), (abs(p - b), 1, b), (abs(p - c), 2, c)))[2]


def filtered_rows(rgb: np.ndarray, kinds) -> bytes:
    """The rows by the formulas of the specification, byte by byte."""
    height, width, _ = rgb.shape
    rows, above, result = rgb.reshape(height, -1).tolist(), [0] * 3 * width, bytearray()
    for row, kind in zip(rows, kinds, strict=True):
        result.append(kind)
        for i, value in enumerate(row):
            a, b, c = (row[i - 3], above[i], above[i - 3]) if i >= 3 else (0, above[i], 0)
            result.append((value - (0, a, b, (a + b) // 2, paeth(a, b, c))[kind]) % 256)
        above = row
    return bytes(result)


def ids_of(rgb: np.ndarray) -> np.ndarray:
    return rgb.astype(np.int32) @ np.array([1, 256, 65536], np.int32)


def opened(data: bytes, tmp_path, monkeypatch, *, compiled: bool):
    """What `read_id_map` returns, or the kind and text of its error."""
    path = tmp_path / "map.png"
    path.write_bytes(data)
    with monkeypatch.context() as patch:
        patch.setattr(png_decoder, "compiled", png_decoder.compiled if compiled else lambda *args: None)
        patch.setattr(png_decoder, "MIN_PIXELS", 0)
        try:
            return read_id_map(str(path)).tolist()
        except DatasetError as error:
            return error.kind, str(error)


def decoded(data: bytes) -> np.ndarray | None:
    return decode_ids(read_chunks(data), min_pixels=0)


@pytest.mark.parametrize(
    "kind, expected",  # of the second row; the first one is (1, 2, 3), (5, 2, 3) without a filter
    [
        (0, [[10, 20, 30], [1, 255, 0]]),
        (1, [[10, 20, 30], [11, 19, 30]]),
        (2, [[11, 22, 33], [6, 1, 3]]),
        (3, [[10, 21, 31], [8, 10, 17]]),  # 10 + 1 // 2, ...; then 1 + (10 + 5) // 2, (255 + (21 + 2) // 2) % 256, ...
        (4, [[11, 22, 33], [12, 21, 33]]),  # p = 11 + 5 - 1 = 15 is nearest to 11; 22 + 2 - 2 = 22; 33 + 3 - 3 = 33
    ],
)
def test_hand_computed_rows(kind, expected):
    stream = zlib.compress(bytes([0, 1, 2, 3, 5, 2, 3, kind, 10, 20, 30, 1, 255, 0]))
    ids = decoded(png(2, 2, stream))
    assert ids.dtype == np.int32
    assert ids.tolist() == ids_of(np.array([[[1, 2, 3], [5, 2, 3]], expected])).tolist()


def test_random_images_with_random_filters():
    rng = np.random.default_rng(0)
    for case in range(400):
        height, width = (int(n) for n in rng.integers(1, 24, 2))
        size, colors = (height, width, 3), rng.integers(0, 256, (4, 3), np.uint8)
        if case % 2:
            rgb = rng.integers(0, 256, size, np.uint8)
        else:  # segments
            rgb = np.repeat(colors[rng.integers(0, 4, (height, width // 5 + 1))], 5, axis=1)[:, :width]
        kinds = rng.integers(0, 5, height).tolist()
        stream = zlib.compress(filtered_rows(rgb, kinds), int(rng.integers(0, 10)))
        cuts = sorted(rng.integers(0, len(stream) + 1, int(rng.integers(0, 6))).tolist())
        parts = [stream[i:j] for i, j in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
        data = png(width, height, stream, idats=parts)
        ids = decoded(data)
        assert np.array_equal(ids, ids_of(rgb)), (case, kinds)
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        if len(parts[0]):  # libpng takes an empty first chunk for the end in some versions
            assert np.array_equal(bgr[..., ::-1], rgb)


@pytest.mark.parametrize("height, width", [(1, 1), (5, 1), (1, 5), (700, 300), (3, 70000), (90000, 1)])
@pytest.mark.parametrize("pieces", [1, 7, 3000])
def test_strips_and_pieces(height, width, pieces):
    rng = np.random.default_rng(1)
    rgb = rng.integers(0, 256, (height, width, 3), np.uint8)
    first = rgb.reshape(height, -1)
    delta = first.copy()
    delta[1:] -= first[:-1]  # Up in every row
    stream = zlib.compress(np.insert(delta, 0, 2, axis=1).tobytes(), 1)
    edges = np.linspace(0, len(stream), pieces + 1).astype(int).tolist()
    data = png(width, height, stream, idats=[stream[i:j] for i, j in zip(edges, edges[1:], strict=False)])
    assert np.array_equal(decoded(data), ids_of(rgb))


RGB = np.random.default_rng(2).integers(0, 256, (40, 200, 3), np.uint8)
ROWS = filtered_rows(RGB, [n % 5 for n in range(40)])
STREAM = zlib.compress(ROWS)


def smaller_window() -> bytes:
    """References beyond the window that the stream declares."""
    stream = bytearray(zlib.compress(bytes(ROWS[:601]) * 40))
    stream[:2] = 0x08, 29  # 256 bytes
    return bytes(stream)


UNUSUAL = {
    "palette": png(200, 40, STREAM, properties=(8, 3, 0, 0, 0)),
    "gray": png(200, 40, STREAM, properties=(8, 0, 0, 0, 0)),
    "RGBA": png(200, 40, STREAM, properties=(8, 6, 0, 0, 0)),
    "16 bits": png(200, 40, STREAM, properties=(16, 2, 0, 0, 0)),
    "interlaced": png(200, 40, STREAM, properties=(8, 2, 0, 0, 1)),
    "unknown compression": png(200, 40, STREAM, properties=(8, 2, 1, 0, 0)),
    "unknown filters": png(200, 40, STREAM, properties=(8, 2, 0, 1, 0)),
    "no width": png(0, 40, STREAM),
    "no height": png(200, 0, STREAM),
    "wider": png(201, 40, STREAM),
    "higher": png(200, 41, STREAM),
    "lower": png(200, 39, STREAM),
    "more pixels than allowed": png(100000, 100000, STREAM),
    "a side above the limit of libpng": png(1, 1000001, zlib.compress(bytes(4 * 1000001))),
    "no pixels": png(200, 40, b"", idats=[]),
    "empty pixels": png(200, 40, b""),
    "half of the stream": png(200, 40, STREAM[: len(STREAM) // 2]),
    "no checksum": png(200, 40, STREAM[:-4]),
    "wrong checksum": png(200, 40, STREAM[:-1] + bytes([STREAM[-1] ^ 1])),
    "bytes after the stream": png(200, 40, STREAM + b"abc"),
    "a byte less": png(200, 40, zlib.compress(ROWS[:-1])),
    "a byte more": png(200, 40, zlib.compress(ROWS + b"\0")),
    "not zlib": png(200, 40, bytes(100)),
    "filter 5": png(200, 40, zlib.compress(b"\5" + ROWS[1:])),
    "filter 255 in the last row": png(200, 40, zlib.compress(ROWS[:-601] + b"\xff" + ROWS[-600:])),
    "small window": png(200, 40, smaller_window()),
    "transparency": png(200, 40, STREAM, before=[chunk(b"tRNS", bytes(6))]),
    "text": png(200, 40, STREAM, before=[chunk(b"tEXt", b"a\0b")], after=[chunk(b"tIME", bytes(7))]),
    "chunk between pixels": png(200, 40, STREAM, idats=[STREAM[:99], (b"tEXt", b"a\0b"), STREAM[99:]]),
    "unknown critical chunk": png(200, 40, STREAM, before=[chunk(b"ABCD")]),
    "second header": png(200, 40, STREAM, before=[chunk(b"IHDR", struct.pack(">II5B", 200, 40, 8, 2, 0, 0, 0))]),
    "end with content": png(200, 40, STREAM, end=b"abc"),
    "bytes after the end": png(200, 40, STREAM) + b"abc",
    "bad CRC": png(200, 40, STREAM).replace(b"IDAT", b"IDAt"),
    "cut off": png(200, 40, STREAM)[:-5],
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_pngs_end_as_with_opencv(name, tmp_path, monkeypatch):
    data = UNUSUAL[name]
    found = opened(data, tmp_path, monkeypatch, compiled=True)
    assert found == opened(data, tmp_path, monkeypatch, compiled=False)
    if name != "bytes after the end" and found[0] != "corrupt PNG":
        assert decoded(data) is None


@pytest.mark.parametrize("step", [1, 197])
def test_no_damaged_byte_changes_the_outcome(step, tmp_path, monkeypatch):
    """Damage with right checksums of the chunks, so that only the stream can show it."""
    size = {1: (2, 3), 197: (40, 200)}[step]
    stream = zlib.compress(ROWS if step > 1 else filtered_rows(RGB[:2, :3], [1, 4]))
    for position in range(0, len(stream), step):
        damaged = bytearray(stream)
        damaged[position] ^= 1 << position % 8
        data = png(size[1], size[0], bytes(damaged))
        with_kernel = opened(data, tmp_path, monkeypatch, compiled=True)
        assert with_kernel == opened(data, tmp_path, monkeypatch, compiled=False), position


def test_a_bomb_is_inflated_no_further_than_the_image():
    stream = zlib.compress(bytes(64 * 2**20), 9)
    data = png(100, 100, stream)
    tracemalloc.start()
    assert decoded(data) is None
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 2**20


def test_a_map_is_reused_only_if_it_fits():
    data = png(200, 40, STREAM)
    for wrong in (np.empty((40, 201), np.int32), np.empty((40, 200), np.int64), np.empty((200, 40), np.int32).T):
        ids = decode_ids(read_chunks(data), wrong, min_pixels=0)
        assert ids is not wrong and np.array_equal(ids, ids_of(RGB))
    free = np.full((40, 200), -1, np.int32)
    assert decode_ids(read_chunks(data), free, min_pixels=0) is free and np.array_equal(free, ids_of(RGB))


def test_small_images_and_missing_numba_are_left_to_opencv(monkeypatch):
    data = png(200, 40, STREAM)
    assert decode_ids(read_chunks(data)) is None
    monkeypatch.setattr(png_decoder, "compiled", lambda *args: None)
    assert decoded(data) is None


def test_the_standard_library_inflates_without_zlib_ng(monkeypatch):
    monkeypatch.setattr(png_decoder, "zlib", zlib)
    assert np.array_equal(decoded(png(200, 40, STREAM)), ids_of(RGB))


def test_the_loop_runs_without_numba():
    ids = np.empty((40, 200), np.int32)
    assert unfilter_rows(np.frombuffer(ROWS, np.uint8), np.zeros(200, np.int32), ids)
    assert np.array_equal(ids, ids_of(RGB))
