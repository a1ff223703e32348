"""Masks of R instances as box crops, so that painting needs no tensor of R x H x W.

A window is the box of an instance in whole pixels, enlarged by one pixel and clipped to the image. The windows of all
instances are copied to the CPU in a single transfer. Everything else stays on the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from detectron2.structures import Boxes, Instances

from panoptic_fusion.layers.chunks import map_chunks
from panoptic_fusion.modeling.fusion.window_pixels import Window, WindowPixels


class MaskCrops:
    """Container of R masks to read one at a time: `crops[i]` is the (h, w) bool mask in `crops.windows[i]`.

    Attributes:
        size: (height, width) of the image.
        device: device of the masks.
        corners: (R, 4) int64, the windows as x0, y0, x1, y1 with exclusive ends.
    """

    size: tuple[int, int]
    device: torch.device
    corners: torch.Tensor

    @cached_property
    def windows(self) -> list[Window]:
        """R windows; `image[crops.windows[i]]` is a view that matches `crops[i]`. A window may be empty.

        The first use copies the corners to the CPU.
        """
        return to_windows(self.corners.t().tolist())

    def __len__(self) -> int:
        return len(self.corners)

    def __getitem__(self, index: int) -> torch.Tensor:
        raise NotImplementedError

    def at(self, pixels: WindowPixels) -> torch.Tensor:
        """Returns the masks at a flat list of pixels, with the same values as the crops.

        Args:
            pixels: pixels of K windows, each inside the window of its instance. Positions need not be consecutive.

        Returns:
            (P,) bool.
        """
        raise NotImplementedError

    def sample(self, instances: torch.Tensor, rows: torch.Tensor, cols: torch.Tensor) -> torch.Tensor:
        """Samples masks at selected pixels only, with the same values as the crops.

        Args:
            instances: (K,) int64, indices of the masks.
            rows, cols: (h,) and (w,) int64, rows and columns of the image.

        Returns:
            (K, h, w) bool. Memory use scales with this size, not with the image.
        """
        x0, y0, x1, y1 = self.corners[instances, :, None].unbind(1)
        in_rows, in_cols = (rows >= y0) & (rows < y1), (cols >= x0) & (cols < x1)
        chunks = map_chunks(len(instances), (len(rows), len(cols)), self.device) or [slice(0, 0)]
        masks = torch.cat([self._sample(instances[chunk], rows, cols) for chunk in chunks])
        return masks & in_rows[:, :, None] & in_cols[:, None]

    def _sample(self, instances: torch.Tensor, rows: torch.Tensor, cols: torch.Tensor) -> torch.Tensor:
        """Returns the same as `sample`, except that values outside the windows are undefined."""
        raise NotImplementedError

    @staticmethod
    def from_instances(instances: Instances) -> MaskCrops:
        """Returns the crops of instances at output size (`instances.image_size`), from pred_mask_logits or pred_masks.

        Raises:
            ValueError: if the instances have neither.
        """
        boxes: Boxes = instances.pred_boxes
        if instances.has("pred_mask_logits"):
            # Rounded from float64, equal logits have equal probabilities on every device and in `runtime`.
            probabilities = instances.pred_mask_logits.double().sigmoid().float()
            return PastedCrops(probabilities, boxes.tensor, instances.image_size)
        if instances.has("pred_masks"):
            return BitmaskCrops(instances.pred_masks, boxes.tensor)
        raise ValueError("Panoptic fusion needs masks: instances with pred_mask_logits or pred_masks (MODEL.MASK_ON).")


class BitmaskCrops(MaskCrops):
    """Crops of full masks, as views without a copy.

    Args:
        masks: (R, H, W) bool. Each mask must lie inside its box enlarged by 1 pixel; pixels outside are ignored. Masks
            pasted by detectron2 satisfy this.
        boxes: (R, 4) float, XYXY in pixels.
    """

    def __init__(self, masks: torch.Tensor, boxes: torch.Tensor):
        self.masks = masks
        self.size = tuple(masks.shape[1:])
        self.device = masks.device
        self.corners = _window_corners(boxes, self.size)

    def __getitem__(self, index: int) -> torch.Tensor:
        rows, cols = self.windows[index]
        return self.masks[index, rows, cols]

    def at(self, pixels: WindowPixels) -> torch.Tensor:
        """Returns the masks at a flat list of pixels; see `MaskCrops.at`."""
        return pixels.read(self.masks)

    def _sample(self, instances: torch.Tensor, rows: torch.Tensor, cols: torch.Tensor) -> torch.Tensor:
        return self.masks[instances[:, None, None], rows[:, None], cols]


class PastedCrops(MaskCrops):
    """Crops of box-relative masks from a mask head, pasted in the same way as detectron2's `paste_masks_in_image`.

    A pixel belongs to the mask if the probability at its center, interpolated bilinearly with zeros around the map, is
    at least 0.5. Sampling is separable, so each crop takes one interpolation of columns and one of rows.

    Args:
        probabilities: (R, M, M) float in [0, 1].
        boxes: (R, 4) float, XYXY in pixels of the image.
        size: (height, width) of the image.
    """

    def __init__(self, probabilities: torch.Tensor, boxes: torch.Tensor, size: tuple[int, int]):
        self.size = (int(size[0]), int(size[1]))
        self.device = probabilities.device
        self.boxes = boxes
        self.corners = _window_corners(boxes, self.size)
        self.maps = torch.nn.functional.pad(probabilities, (1, 2, 1, 2))

    def __getitem__(self, index: int) -> torch.Tensor:
        rows, cols = self.windows[index]
        all_rows, all_cols = self._window_taps
        first, weight = (tap[index, : cols.stop - cols.start] for tap in all_cols)
        mask = self.maps[index]
        mask = torch.lerp(mask.index_select(1, first), mask[:, 1:].index_select(1, first), weight)
        first, weight = (tap[index, : rows.stop - rows.start] for tap in all_rows)
        mask = torch.lerp(mask.index_select(0, first), mask[1:].index_select(0, first), weight[:, None])
        return mask >= 0.5

    def at(self, pixels: WindowPixels) -> torch.Tensor:
        """Returns the masks at a flat list of pixels; see `MaskCrops.at`."""
        start, length = pixels.of_sides(self._spans)
        return pixels.resize(self._map_rows, *self._taps(pixels.position, start, length)) >= 0.5

    @cached_property
    def _spans(self) -> torch.Tensor:
        """Start and length of the boxes along x and y, (R, 2, 2) float."""
        start, end = self.boxes.split(2, dim=1)
        return torch.stack([start, end - start], dim=2)

    @cached_property
    def _map_rows(self) -> torch.Tensor:
        """The maps as `WindowPixels.resize` reads them."""
        return self.maps.transpose(0, 1).contiguous()

    @cached_property
    def _window_taps(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Taps of the pixels of all windows, along rows and along columns: (R, length) tensors, padded at the end."""
        longest = (
            max((part.stop - part.start for part in parts), default=0) for parts in zip(*self.windows, strict=True)
        )
        result = []
        for axis, length in zip((1, 0), longest, strict=True):
            pixels = self.corners[:, axis, None] + torch.arange(length, device=self.device)
            start, end = self.boxes[:, axis, None], self.boxes[:, axis + 2, None]
            result.append(self._taps(pixels, start, end - start))
        return result

    def _sample(self, instances: torch.Tensor, rows: torch.Tensor, cols: torch.Tensor) -> torch.Tensor:
        x0, y0, x1, y1 = self.boxes[instances, :, None].unbind(1)
        maps, side = self.maps[instances], self.maps.shape[-1]
        first, weight = (tap[:, None].expand(-1, side, -1) for tap in self._taps(cols[None], x0, x1 - x0))
        maps = torch.lerp(maps.gather(2, first), maps[:, :, 1:].gather(2, first), weight)
        first, weight = (tap[:, :, None].expand(-1, -1, len(cols)) for tap in self._taps(rows[None], y0, y1 - y0))
        return torch.lerp(maps.gather(1, first), maps[:, 1:].gather(1, first), weight) >= 0.5

    def _taps(
        self, pixels: torch.Tensor, start: torch.Tensor, length: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns where pixels lie along one axis of the maps, which are padded with zeros: one before, two after.

        Args:
            pixels: int64 columns or rows of the image.
            start, length: float, the box along this axis. All shapes broadcast.

        Returns:
            The first of the two neighboring map elements that a pixel lies between (int64), and the weight of the
            second (float in [0, 1)).
        """
        side = self.maps.shape[-1] - 3
        position = (pixels + 0.5 - start) / length * side - 0.5
        position = position.nan_to_num(nan=-1.0).clamp(-1, side) + 1
        return position.long(), position.frac()


def _window_corners(boxes: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Returns boxes (R, 4) XYXY in whole pixels, enlarged by one pixel and clipped: (R, 4) int64, exclusive ends."""
    start, end = boxes[:, :2].floor() - 1, boxes[:, 2:].ceil() + 1
    return clip_corners(torch.cat([start, torch.maximum(start, end)], dim=1), size).long()


def clip_corners(corners: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Clips corners (R, 4) XYXY to an image of `size` (height, width), in place, and returns them."""
    corners[:, ::2].clamp_(0, size[1])
    corners[:, 1::2].clamp_(0, size[0])
    return corners


def to_windows(corners: Sequence[Sequence[float]]) -> list[Window]:
    """Converts corners to windows: four lists of R whole numbers, x0, y0, x1 and y1 with exclusive ends."""
    return [(slice(int(y0), int(y1)), slice(int(x0), int(x1))) for x0, y0, x1, y1 in zip(*corners, strict=True)]
