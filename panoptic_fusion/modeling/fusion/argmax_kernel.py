"""Loops of `interpolated_argmax`, written for numba.

Each row of logits is widened once. The rows of the output are then sums of up to three such rows, taken and compared
element by element, which the compiler turns into vector instructions.
"""

import numpy as np

BLOCK = 1024
"""Maximum number of output columns per pass. Three rows of them fit an L2 cache of 2 MB for 133 channels."""
SIGNATURE = "void(float32[:,:,::1], int64[::1], float32[:,::1], int64[::1], float32[:,::1], int64, int64[:,::1])"


def argmax_rows(logits, row_first, row_weight, column_first, column_weight, phases, labels):
    """Writes the argmax over the channels of interpolated logits. See `Taps` for the sums.

    Columns k, k + phases, k + 2 * phases, ... are neighbors in the buffers. With a period, their sums have the same
    weights and consecutive inputs, so the widening needs no indexed loads.

    Args:
        logits: (C, h, w) float32.
        row_first, row_weight: (H,) int64, ascending, and (3, H) float32, the sums along the first axis.
        column_first, column_weight: (W,) int64 and (3, W) float32, the sums along the second axis.
        phases: period of the columns' sums, 1 for sums without a period.
        labels: (H, W) int64, the result.
    """
    channels, height, width = logits.shape
    out_height, out_width = labels.shape
    groups = max(1, BLOCK // phases)  # one group: `phases` consecutive columns
    size = min(groups, -(-out_width // phases)) * phases
    wide = np.empty((3, channels, size), np.float32)  # row y of the logits, widened, at y % 3
    best, label = np.empty(size, np.float32), np.empty(size, np.int32)
    index, weight = np.empty((3, size), np.uint32), np.empty((3, size), np.float32)
    for start in range(0, out_width, groups * phases):
        length = min(groups, -(-(out_width - start) // phases))
        used = length * phases
        for phase in range(phases):
            for j in range(length):
                x = min(start + j * phases + phase, out_width - 1)
                for k in range(3):
                    index[k, phase * length + j] = min(column_first[x] + k, width - 1)
                    weight[k, phase * length + j] = column_weight[k, x]
        # Groups with equal weights: all but the first and the last of the row.
        inner = min(length, max(0, 1 - start // phases)) if phases > 1 else length
        outer = max(inner, min(length, width - 1 - start // phases))
        done = -1
        for y in range(out_height):
            first = row_first[y]
            for row in range(max(done + 1, first), min(first + 3, height)):
                for c in range(channels):
                    source, target = logits[c, row], wide[row % 3, c]
                    for phase in range(phases):
                        begin = phase * length
                        for low, high in ((begin, begin + inner), (begin + outer, begin + length)):
                            for x in range(low, high):
                                two = weight[0, x] * source[index[0, x]] + weight[1, x] * source[index[1, x]]
                                target[x] = two + weight[2, x] * source[index[2, x]]
                        if inner < outer:
                            w0, w1 = weight[0, begin + inner], weight[1, begin + inner]
                            shifted = source[index[0, begin + inner] :]
                            line = target[begin + inner : begin + outer]
                            for x in range(outer - inner):
                                line[x] = w0 * shifted[x] + w1 * shifted[x + 1]
                done = row
            w0, w1, w2 = row_weight[0, y], row_weight[1, y], row_weight[2, y]
            row1, row2 = min(first + 1, height - 1) % 3, min(first + 2, height - 1) % 3
            for x in range(used):
                best[x], label[x] = -np.inf, 0
            for c in range(channels):
                line0, line1, line2 = wide[first % 3, c], wide[row1, c], wide[row2, c]
                if w2 == 0:
                    for x in range(used):
                        value = w0 * line0[x] + w1 * line1[x]
                        if value > best[x]:
                            best[x], label[x] = value, c
                else:
                    for x in range(used):
                        value = w0 * line0[x] + w1 * line1[x] + w2 * line2[x]
                        if value > best[x]:
                            best[x], label[x] = value, c
            for phase in range(phases):
                for j in range(min(length, -(-(out_width - start - phase) // phases))):
                    labels[y, start + j * phases + phase] = label[phase * length + j]
