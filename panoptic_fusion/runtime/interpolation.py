"""Bilinear interpolation in numpy, with the rounding of torch's CPU kernels.

torch interpolates in float32 with fused multiply-add instructions. numpy has none, but the product of two float32
numbers is exact in float64. A multiply-add in float64, rounded to float32, therefore gives the same result. The fused
maps of this runtime equal torch's to the last pixel because of it. torch itself rounds differently on a CPU without
such instructions (x86 before AVX2).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


def multiply_add(x: np.ndarray, y: np.ndarray | float, z: np.ndarray | float) -> np.ndarray:
    """Returns `x * y + z`, rounded once, for float32 numbers of any shapes that broadcast."""
    product = np.multiply(x, y, dtype=np.float64)  # adding in place, then converting: four times as fast as at once
    fits = product.shape == np.broadcast_shapes(product.shape, np.shape(z))
    return np.add(product, z, out=product if fits else None).astype(np.float32)


def lerp(first: np.ndarray, second: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Returns the same as `torch.lerp`: `first + weight * (second - first)`, computed from the nearer end.

    Args:
        first, second: float32, of the same shape.
        weight: float32 in [0, 1], of a shape that broadcasts.
    """
    is_near = weight < 0.5
    return multiply_add(
        second - first, np.where(is_near, weight, weight - np.float32(1)), np.where(is_near, first, second)
    )


@dataclass(frozen=True)
class AxisTaps:
    """Elements that each output element of a bilinear resize (align_corners=False) reads along one axis.

    Attributes:
        first, second: (n,) int64, the two elements to read.
        first_weight, second_weight: (n,) float32, their weights.
    """

    first: np.ndarray
    second: np.ndarray
    first_weight: np.ndarray
    second_weight: np.ndarray

    @classmethod
    def of_resize(cls, old: int, new: int, scale: float | None = None) -> AxisTaps:
        """Computes the taps as `torch.nn.functional.interpolate` does.

        Args:
            old, new: lengths of the axis.
            scale: old elements per new element; default: old / new.
        """
        if old == new:
            position = np.arange(new, dtype=np.float32)
        else:
            scale = np.float32(old) / np.float32(new) if scale is None else np.float32(scale)
            center = np.arange(new, dtype=np.float32) + np.float32(0.5)
            position = np.maximum(multiply_add(center, scale, -0.5), 0)
        first = np.minimum(np.floor(position).astype(np.int64), old - 1)
        second_weight = np.clip(position - first.astype(np.float32), 0, 1)
        return cls(first, np.minimum(first + 1, old - 1), 1 - second_weight, second_weight)

    def resize(self, x: np.ndarray) -> np.ndarray:
        """Resizes the last axis of `x`, float32."""
        return multiply_add(x[..., self.first], self.first_weight, x[..., self.second] * self.second_weight)

    def touched(self, marks: np.ndarray) -> np.ndarray:
        """Returns where the output depends on a marked element of the last axis of `marks` (bool)."""
        first, second = marks[..., self.first], marks[..., self.second]
        return (first & (self.first_weight > 0)) | (second & (self.second_weight > 0))
