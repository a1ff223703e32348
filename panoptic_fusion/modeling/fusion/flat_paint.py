"""Greedy painting without a loop over instances, for GPUs, with the same result as `loop_paint.py`.

The loop accepts one instance after another, so its number of launches grows with the number of instances. This version
decides all instances at once and repeats that until nothing changes. A round paints all instances that the previous
round accepted: each pixel gets the lowest position in the paint order among the accepted masks that contain it. Then it
counts, for every instance, the pixels with a lower position than its own, and decides again. The first round accepts
all instances.

The decision about an instance depends only on the instances before it. After k rounds the first k decisions therefore
match the loop, and decisions that a round repeats match it for all instances. In street scenes this takes 2 to 9
rounds. The worst case is a chain of overlaps in paint order, which takes as many rounds as the chain has instances.

Shapes: R is the number of instances to paint, K the number of instances in a chunk, P the number of pixels in the
windows of a chunk, H x W the image size, G the number of layers, each of which is an image to paint on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from panoptic_fusion.modeling.fusion.loop_paint import Candidate, paint_loop
from panoptic_fusion.modeling.fusion.mask_crops import MaskCrops
from panoptic_fusion.modeling.fusion.window_pixels import WindowPixels, WindowTable, chunk_windows

MAX_PIXELS = 2**24
"""Maximum number of pixels in the windows of a chunk, of about 40 bytes each."""

FEW = 6
"""Number of instances up to which the loop has fewer launches."""

FREE = 2**31 - 1


@dataclass(frozen=True)
class ChunkPixels:
    """Pixels of K instances as one flat list.

    Attributes:
        index: (K,) int64, rows of the instances.
        numbers: (K,) int32, consecutive positions of the instances in the paint order, counted from 1.
        addresses: (P,) int64, index of each pixel in the flattened canvas (G, H, W).
        inside: (P,) bool, whether each pixel is in the mask of its instance.
        positions: (P,) int32, `numbers` of the instance of each pixel; 0 outside its mask.
        bounds: (K + 1,) int64, index in the list of the first pixel of each instance, then P.
        sums: (P + 1,) int32, memory for the running sums of `count`, with a 0 in front.
    """

    index: Tensor
    numbers: Tensor
    addresses: Tensor
    inside: Tensor
    positions: Tensor
    bounds: Tensor
    sums: Tensor

    @classmethod
    def of(cls, crops: MaskCrops, pixels: WindowPixels, first: int) -> ChunkPixels:
        """Lists the pixels of the instances at the positions from `first` on."""
        num, device = len(pixels.bounds) - 1, crops.device
        numbers = torch.arange(first, first + num, dtype=torch.int32, device=device)
        inside = crops.at(pixels)
        positions = pixels.of_windows(numbers).mul_(inside)
        sums = torch.zeros(len(positions) + 1, dtype=torch.int32, device=device)
        addresses = pixels.layered_addresses(crops.size)
        return cls(pixels.rows, numbers, addresses, inside, positions, pixels.bounds, sums)

    def count(self, where: Tensor) -> Tensor:
        """Returns the number of pixels of each instance that are set in `where`, (P,) bool: (K,) float64."""
        torch.cumsum(where, 0, dtype=torch.int32, out=self.sums[1:])
        sums = self.sums.index_select(0, self.bounds)
        return torch.sub(sums[1:], sums[:-1], out=torch.empty(len(sums) - 1, dtype=torch.float64, device=sums.device))


class Candidates:
    """All instances of a chunk in one round, as input of an elementwise accept decision.

    Attributes:
        index: (K,) int64, rows of the instances.
        area: (K,) float64, number of pixels of each mask.
        overlap: (K,) float64, number of pixels of each mask that earlier instances have painted.
        canvas: (G * H * W,) int32, positions painted by earlier chunks and in this round, `FREE` elsewhere.
    """

    def __init__(self, pixels: ChunkPixels, canvas: Tensor):
        """Prepares the decisions.

        Args:
            pixels: pixels of the K instances.
            canvas: (G * H * W,) int32, positions painted by earlier chunks, `FREE` elsewhere.
        """
        self.index = pixels.index
        self.canvas = self._canvas = canvas
        self._pixels = pixels
        self.area = self.overlap = pixels.count(pixels.inside)
        self._accepted: Tensor | bool = True
        self._constants: list[Tensor] = []

    def repaint(self, accepted: Tensor | bool, table: Tensor) -> None:
        """Starts a round: paints the accepted instances and counts the overlaps.

        Args:
            accepted: (K,) bool, the instances to paint, or one bool for all.
            table: (R + 1,) int32, at each position of the paint order the position if the instance is accepted, else
                `FREE`, and `FREE` at 0.
        """
        addresses, positions = self._pixels.addresses, self._pixels.positions
        self.canvas = self._canvas.scatter_reduce(0, addresses, table.index_select(0, positions), "amin")
        self.overlap = self._pixels.count(self.canvas.index_select(0, addresses) < positions)
        self._accepted = accepted

    @property
    def num_painted(self) -> Tensor:
        """Number of pixels of the image that instances before each instance have painted, (K,) float64."""
        torch.mul(self.area - self.overlap, self._accepted, out=self._own[1:])
        return self._own.cumsum(0)[:-1]

    @cached_property
    def _own(self) -> Tensor:
        """Memory for the number of pixels of each instance, with that of earlier chunks in front."""
        counts = self.area.new_zeros(len(self.area) + 1)
        counts[0] = (self._canvas != FREE).count_nonzero()
        return counts

    def count(self, where: Tensor) -> Tensor:
        """Returns the number of pixels of each mask in `where`, an (H, W) bool map of the image: (K,) float64."""
        inside = where.flatten().index_select(0, self._pixels.addresses).logical_and_(self._pixels.inside)
        return self._pixels.count(inside)

    def once(self, compute: Callable[[], Tensor]) -> Tensor:
        """Returns the result of a function that does not depend on what is painted; it runs in the first round."""
        if not self._constants:
            self._constants.append(compute())
        return self._constants[0]


def paint_flat(
    crops: MaskCrops,
    order: Sequence[int],
    accept: Callable[[Candidates | Candidate], Tensor],
    layers: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Paints instances in order, each where the canvas is still free.

    Args:
        crops: masks of at least these instances.
        order: rows of the R instances, topmost first.
        accept: elementwise function that returns which candidates to paint, as (K,) bool. It also decides about single
            candidates. The result is ignored for an empty mask.
        layers: layer of each instance. Instances on different layers do not cover each other, and `count` and
            `num_painted` of their candidates are not defined. None: all are on one layer.

    Returns:
        canvas (G, H, W) int32, in each layer `FREE` or 1 + position in `order`.
        accepted (R,) int32, `FREE` for the rejected instances.
    """
    shape = (1 + max(layers) if layers else 1, *crops.size)
    canvas = torch.full(shape, FREE, dtype=torch.int32, device=crops.device).flatten()
    table = torch.full((len(order) + 1,), FREE, dtype=torch.int32, device=crops.device)
    windows = [crops.windows[row] for row in order]
    parts = [(part, part.stop - part.start <= FEW) for part in chunk_windows(windows, MAX_PIXELS)]
    tables = [
        WindowTable.of(windows[part], order[part], layers and layers[part]) for part, is_few in parts if not is_few
    ]
    lists = WindowPixels.each(tables, crops.device)
    for part, is_few in parts:
        if is_few:
            _paint_few(canvas.view(shape), table, part, crops, order, accept, layers)
        else:
            pixels = ChunkPixels.of(crops, next(lists), part.start + 1)
            canvas = _settle(pixels, accept, canvas, table, table[1:][part])
    return canvas.view(shape), table[1:]


def _paint_few(
    canvas: Tensor,
    table: Tensor,
    part: slice,
    crops: MaskCrops,
    order: Sequence[int],
    accept: Callable[[Candidate], Tensor],
    layers: Sequence[int] | None,
) -> None:
    """Paints a part of the order with `paint_loop`, in place. The arguments are as in `paint_flat` and `_settle`."""
    canvas.masked_fill_(canvas == FREE, 0)
    for place in range(part.start, part.stop):
        own_canvas = canvas[layers[place] if layers else 0]
        (accepted,) = paint_loop(own_canvas, crops, [order[place]], accept, place + 1)
        table[place + 1] = torch.where(accepted, place + 1, FREE)
    canvas.masked_fill_(canvas == 0, FREE)


def _settle(
    pixels: ChunkPixels, accept: Callable[[Candidates], Tensor], painted: Tensor, table: Tensor, own: Tensor
) -> Tensor:
    """Repeats rounds until the decisions about a chunk do not change.

    Args:
        pixels: pixels of the chunk.
        accept: see `paint_flat`.
        painted: (G * H * W,) int32, positions painted by earlier chunks, `FREE` elsewhere.
        table: (R + 1,) int32, see `Candidates.repaint`.
        own: the part of `table` for this chunk, a view. It becomes the decisions.

    Returns:
        the canvas with the accepted instances, as `painted`.
    """
    candidates, num = Candidates(pixels, painted), len(own)
    decided: Tensor | bool = True
    own.copy_(pixels.numbers)
    for number in range(1, num + 2):
        previous = decided
        candidates.repaint(previous, table)
        decided = accept(candidates)
        torch.where(decided, pixels.numbers, table[0], out=own)
        if number % rounds_per_read(num) == 0 and torch.equal(decided, previous):
            break
    return candidates.canvas


def rounds_per_read(num: int) -> int:
    """Returns the number of rounds after which the CPU reads whether the decisions about `num` instances still change.

    A read makes the GPU wait, and so does a round too many. In street scenes of 100 instances most decisions are final
    after 4 rounds, in those of 300 after 6.
    """
    return 4 + num // 128
