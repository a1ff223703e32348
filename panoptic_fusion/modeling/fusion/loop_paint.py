"""Greedy painting in a loop over instances. On a CPU it is several times faster than `flat_paint.py`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from panoptic_fusion.modeling.fusion.mask_crops import MaskCrops
from panoptic_fusion.modeling.fusion.window_pixels import Window


@dataclass(frozen=True)
class Candidate:
    """The next instance to paint, as input of a rule's accept decision.

    A decision marked with `elementwise` uses only `index`, `area`, `overlap`, `num_painted`, `count` and `once`, which
    `flat_paint.Candidates` has for all instances at once.

    Attributes:
        index: row of the instance.
        window: rows and columns of the instance: `image[window]` matches `mask`.
        mask: (h, w) bool.
        painted: (h, w) int32, the canvas in the window: 0 where free, else 1 + position in the order.
        area: 0-d int64, number of pixels of the mask.
        overlap: 0-d int64, number of pixels of the mask that are already painted.
        canvas: (H, W) int32, the whole canvas.
    """

    index: int
    window: Window
    mask: Tensor
    painted: Tensor
    area: Tensor
    overlap: Tensor
    canvas: Tensor

    @property
    def num_painted(self) -> Tensor:
        """Number of pixels of the image that are already painted, 0-d int64."""
        return self.canvas.count_nonzero()

    def count(self, where: Tensor) -> Tensor:
        """Returns the number of pixels of the mask in `where`, an (H, W) bool map of the image: 0-d int64."""
        return (self.mask & where[self.window]).count_nonzero()

    def once(self, compute: Callable[[], Tensor]) -> Tensor:
        """Returns the result of a function that does not depend on what is painted."""
        return compute()


def paint_loop(
    canvas: Tensor, crops: MaskCrops, rows: Sequence[int], accept: Callable[[Candidate], Tensor], first: int = 1
) -> list[Tensor]:
    """Paints instances onto a canvas, in place, one after another, each where the canvas is still free.

    No value is copied to the CPU, so the CPU never waits for a GPU.

    Args:
        canvas: (H, W) int32, 0 where free.
        crops: masks of at least these instances.
        rows: the instances, topmost first.
        accept: function that returns whether to paint a candidate, as a 0-d bool tensor. The result is ignored for an
            empty mask.
        first: number to paint the first instance with; it increases by 1 per instance.

    Returns:
        the result of `accept` for each instance.
    """
    decisions = []
    for position, index in enumerate(rows, start=first):
        window, mask = crops.windows[index], crops[index]
        part = canvas[window]
        free = mask & part.logical_not()
        area = mask.count_nonzero()
        candidate = Candidate(index, window, mask, part, area, area - free.count_nonzero(), canvas)
        decisions.append(accept(candidate))
        # Free pixels hold 0, so addition paints them. On a CPU this is ten times faster than a masked assignment.
        part += free * (decisions[-1].int() * position)
    return decisions
