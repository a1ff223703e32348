"""Processing of many maps in parts that fit a cache or a GPU's memory."""

import torch

MAX_CHUNK_ELEMENTS = {"cpu": 2**18, "cuda": 2**23}
"""Number of floats (maps x H x W) per part, by device type: fits a CPU cache, keeps a GPU busy."""


def max_chunk_elements(device: torch.device) -> int:
    """Returns the maximum number of elements of a part on a device."""
    return MAX_CHUNK_ELEMENTS.get(device.type, MAX_CHUNK_ELEMENTS["cuda"])


def map_chunks(num: int, size: tuple[int, int], device: torch.device) -> list[slice]:
    """Returns slices that cover `num` maps of `size` (H, W) in order, at least one map each; none if `num` is 0."""
    step = max(1, max_chunk_elements(device) // max(1, size[0] * size[1]))
    return [slice(start, min(start + step, num)) for start in range(0, num, step)]
