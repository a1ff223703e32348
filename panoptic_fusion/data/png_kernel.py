"""The loop of `png_decoder`, written for numba: reverses the filters of the rows of an RGB PNG.

The filters are in the PNG specification (third edition), section 9. A pixel is one integer, R + 256 G + 65536 B. The
three bytes of two such pixels are added modulo 256 at once: the low seven bits of each byte as integers, without a
carry to the next byte, and the highest bit by exclusive or.
"""

import numpy as np

LOW, HIGH = 0x7F7F7F, 0x808080  # the low seven bits of each byte, and the highest one
EVEN = 0xFEFEFE  # all but the lowest bit of each byte
SIGNATURE = "boolean(Array(uint8, 1, 'C', True), int32[::1], int32[:,::1])"  # the first array may be read-only


def unfilter_rows(filtered, above, ids):
    """Writes the ids of consecutive rows of a PNG; returns whether all filters of the rows exist.

    Args:
        filtered: (h * (1 + 3 W),) uint8, for each row the number of its filter and its filtered bytes.
        above: (W,) int32, the ids of the row before the first one; zeros if it is the first of the image.
        ids: (h, W) int32, the result.
    """
    height, width = ids.shape
    stride = 1 + 3 * width
    for y in range(height):
        kind, raw = filtered[y * stride], filtered[y * stride + 1 : (y + 1) * stride]
        line = ids[y]
        left = corner = np.int32(0)  # the pixels to the left of x, in this row and in the row above
        if kind == 0:  # None
            for x in range(width):
                line[x] = np.int32(raw[3 * x]) | np.int32(raw[3 * x + 1]) << 8 | np.int32(raw[3 * x + 2]) << 16
        elif kind == 1:  # Sub
            for x in range(width):
                value = np.int32(raw[3 * x]) | np.int32(raw[3 * x + 1]) << 8 | np.int32(raw[3 * x + 2]) << 16
                left = ((value & LOW) + (left & LOW)) ^ ((value ^ left) & HIGH)
                line[x] = left
        elif kind == 2:  # Up
            for x in range(width):
                value = np.int32(raw[3 * x]) | np.int32(raw[3 * x + 1]) << 8 | np.int32(raw[3 * x + 2]) << 16
                up = above[x]
                line[x] = ((value & LOW) + (up & LOW)) ^ ((value ^ up) & HIGH)
        elif kind == 3:  # Average
            for x in range(width):
                value = np.int32(raw[3 * x]) | np.int32(raw[3 * x + 1]) << 8 | np.int32(raw[3 * x + 2]) << 16
                up = above[x]
                mean = (left & up) + (((left ^ up) & EVEN) >> 1)
                left = ((value & LOW) + (mean & LOW)) ^ ((value ^ mean) & HIGH)
                line[x] = left
        elif kind == 4:  # Paeth
            for x in range(width):
                value = np.int32(raw[3 * x]) | np.int32(raw[3 * x + 1]) << 8 | np.int32(raw[3 * x + 2]) << 16
                up = above[x]
                if up == corner:  # mostly, in a map of segments
                    nearest = left
                elif left == corner:
                    nearest = up
                else:
                    nearest = np.int32(0)
                    for shift in (0, 8, 16):
                        a, b, c = left >> shift & 255, up >> shift & 255, corner >> shift & 255
                        to_a, to_b, to_c = abs(b - c), abs(a - c), abs(a + b - 2 * c)
                        nearest |= (a if to_a <= to_b and to_a <= to_c else b if to_b <= to_c else c) << shift
                left = ((value & LOW) + (nearest & LOW)) ^ ((value ^ nearest) & HIGH)
                line[x] = left
                corner = up
        else:
            return False
        above = line
    return True
