"""Masks of R instances as box crops, so that painting needs no tensor of R x H x W.

A window is the box of an instance in whole pixels, enlarged by one pixel and clipped to the image. The windows of all
instances are copied to the CPU in a single transfer. Everything else stays on the device.
"""

from __future__ import annotations

import torch
from detectron2.structures import Boxes, Instances

from panoptic_fusion.layers.chunks import map_chunks

Window = tuple[slice, slice]
"""Rows and columns of an image, as slices with Python ints."""


class MaskCrops:
    """Container of R masks to read one at a time: `crops[i]` is the (h, w) bool mask in `crops.windows[i]`.

    Attributes:
        size: (height, width) of the image.
        device: device of the masks.
        corners: (R, 4) int64, the windows as x0, y0, x1, y1 with exclusive ends.
        windows: R windows; `image[crops.windows[i]]` is a view that matches `crops[i]`. A window may be empty.
    """

    size: tuple[int, int]
    device: torch.device
    corners: torch.Tensor
    windows: list[Window]

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> torch.Tensor:
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
        self.windows = to_windows(self.corners)

    def __getitem__(self, index: int) -> torch.Tensor:
        rows, cols = self.windows[index]
        return self.masks[index, rows, cols]

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
        self.windows = to_windows(self.corners)
        self.maps = torch.nn.functional.pad(probabilities, (1, 1, 1, 1))
        height = max((rows.stop - rows.start for rows, _ in self.windows), default=0)
        width = max((cols.stop - cols.start for _, cols in self.windows), default=0)
        self.rows = self._taps(1, self.corners[:, 1, None] + torch.arange(height, device=self.device))
        self.cols = self._taps(0, self.corners[:, 0, None] + torch.arange(width, device=self.device))

    def __getitem__(self, index: int) -> torch.Tensor:
        rows, cols = self.windows[index]
        first, second, weight = (tap[index, : cols.stop - cols.start] for tap in self.cols)
        mask = self.maps[index]
        mask = torch.lerp(mask.index_select(1, first), mask.index_select(1, second), weight)
        first, second, weight = (tap[index, : rows.stop - rows.start] for tap in self.rows)
        mask = torch.lerp(mask.index_select(0, first), mask.index_select(0, second), weight[:, None])
        return mask >= 0.5

    def _sample(self, instances: torch.Tensor, rows: torch.Tensor, cols: torch.Tensor) -> torch.Tensor:
        maps, side = self.maps[instances], self.maps.shape[-1]
        first, second, weight = (tap[instances, None].expand(-1, side, -1) for tap in self._taps(0, cols[None]))
        maps = torch.lerp(maps.gather(2, first), maps.gather(2, second), weight)
        first, second, weight = (tap[instances, :, None].expand(-1, -1, len(cols)) for tap in self._taps(1, rows[None]))
        return torch.lerp(maps.gather(1, first), maps.gather(1, second), weight) >= 0.5

    def _taps(self, axis: int, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns where pixels lie along one axis of the maps, which are padded with one zero on each side.

        Args:
            axis: 0 for columns, 1 for rows.
            pixels: (R, length) or (1, length) int64.

        Returns:
            Three tensors (R, length): the two mask elements to read (int64) and the weight of the second (float).
        """
        side = self.maps.shape[-1] - 2
        start, end = self.boxes[:, axis, None], self.boxes[:, axis + 2, None]
        position = (pixels + 0.5 - start) / (end - start) * side - 0.5
        position = position.nan_to_num(nan=-1.0).clamp(-1, side) + 1
        first = position.floor()
        index = first.long()
        return index, (index + 1).clamp(max=side + 1), position - first


def _window_corners(boxes: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Returns boxes (R, 4) XYXY in whole pixels, enlarged by one pixel and clipped: (R, 4) int64, exclusive ends."""
    height, width = size
    start, end = boxes[:, :2].floor() - 1, boxes[:, 2:].ceil() + 1
    corners = torch.cat([start, torch.maximum(start, end)], dim=1)
    limit = corners.new_tensor([width, height, width, height])
    return torch.minimum(corners.clamp(min=0), limit).long()


def to_windows(corners: torch.Tensor) -> list[Window]:
    """Converts corners (R, 4) int64, XYXY with exclusive ends, to windows with one transfer to the CPU."""
    return [(slice(y0, y1), slice(x0, x1)) for x0, y0, x1, y1 in corners.tolist()]
