"""Decodes the usual PNGs of segment ids faster than OpenCV, if numba is installed.

The pixels are inflated, their filters reversed and the ids composed strip by strip, so that a strip stays in the CPU
cache. zlib-ng inflates if it is installed, otherwise zlib.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

from ..compiled import MIN_PIXELS, compiled
from .png_kernel import SIGNATURE, unfilter_rows

try:
    from zlib_ng import zlib_ng as zlib
except ImportError:
    import zlib

MAX_SIDE, MAX_PIXELS = 1_000_000, 2**30
"""Limits of libpng and OpenCV."""
_STRIP_BYTES, _PIECE_BYTES = 2**18, 2**16
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_RGB = struct.pack("BBBBB", 8, 2, 0, 0, 0)  # 8 bits, RGB, the only compression and filters, not interlaced
_LARGEST_WINDOW = 0x78  # first byte of a zlib stream; libpng rejects references beyond a smaller declared window

Chunk = tuple[bytes, memoryview]


def read_chunks(data: bytes) -> list[Chunk]:
    """Returns kind and content of each chunk of a PNG up to its end, whose checksums are right.

    Raises:
        ValueError: the PNG is truncated, a checksum is wrong, or it is not a PNG.
    """
    if data[:8] != _SIGNATURE:
        raise ValueError("it is not a PNG" if data else "it is empty")
    view, position, chunks = memoryview(data), 8, []
    while not chunks or chunks[-1][0] != b"IEND":
        if position + 8 > len(data):
            raise ValueError("it is cut off")
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if position == 8 and (kind != b"IHDR" or length != 13):
            raise ValueError("it does not start with a header")
        if end > len(data):
            raise ValueError("it is cut off")
        if zlib.crc32(view[position + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
            raise ValueError(f"wrong checksum in chunk {kind.decode('latin-1')}")
        chunks.append((kind, view[position + 8 : end - 4]))
        position = end
    return chunks


def decode_ids(
    chunks: Sequence[Chunk], into: np.ndarray | None = None, min_pixels: int | None = None
) -> np.ndarray | None:
    """Decodes an 8-bit RGB PNG without interlacing and with no chunks except header, pixels and end.

    Args:
        chunks: chunks of the PNG, from `read_chunks`.
        into: array that is overwritten and returned if it has the size of the image and is C-contiguous int32.
        min_pixels: smaller images are left to OpenCV; None means `MIN_PIXELS`.

    Returns:
        (H, W) int32, R + 256 G + 65536 B. None if the PNG is of another kind, if anything about it is unusual or
        invalid, or without numba; OpenCV then decides what it contains.
    """
    kinds = [kind for kind, _ in chunks]
    width, height, properties = struct.unpack(">II5s", chunks[0][1])
    if (
        properties != _RGB
        or kinds != [b"IHDR", *[b"IDAT"] * (len(kinds) - 2), b"IEND"]
        or len(chunks[-1][1])
        or not 0 < max(height, width) <= MAX_SIDE
        or not (MIN_PIXELS if min_pixels is None else min_pixels) <= height * width <= MAX_PIXELS
    ):
        return None
    stream = _Stream(b"".join(content for _, content in chunks[1:-1]))
    kernel = compiled(unfilter_rows, SIGNATURE) if stream.window == _LARGEST_WINDOW else None
    if kernel is None:
        return None
    if into is None or into.shape != (height, width) or into.dtype != np.int32 or not into.flags.c_contiguous:
        into = np.empty((height, width), np.int32)
    stride = 1 + 3 * width
    rows, above = max(1, _STRIP_BYTES // stride), np.zeros(width, np.int32)
    try:
        for y in range(0, height, rows):
            strip = into[y : y + rows]
            filtered = stream.read(len(strip) * stride)
            if len(filtered) < len(strip) * stride or not kernel(np.frombuffer(filtered, np.uint8), above, strip):
                return None
            above = strip[-1]
        return into if stream.ends() else None
    except zlib.error:
        return None


class _Stream:
    """A zlib stream that is inflated as far as it is read.

    It is fed in pieces, because the decompressor copies the rest of its input with each call.
    """

    def __init__(self, data: bytes):
        self.window = data[0] if data else None
        self._pieces = (data[start : start + _PIECE_BYTES] for start in range(0, len(data), _PIECE_BYTES))
        self._inflate = zlib.decompressobj()

    def read(self, size: int) -> bytes:
        """Returns the next `size` bytes, fewer at the end. Raises `zlib.error` if the stream is invalid."""
        parts = []
        while size:
            piece = self._inflate.unconsumed_tail or next(self._pieces, b"")
            part = self._inflate.decompress(piece, size)
            if not piece and not part:
                break
            parts.append(part)
            size -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def ends(self) -> bool:
        """Returns whether the stream ends here, checksum included, and nothing follows it."""
        return not self.read(1) and self._inflate.eof and not self._inflate.unused_data
