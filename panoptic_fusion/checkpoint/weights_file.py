"""The only reader of files of weights. Nothing in a file is ever executed."""

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from panoptic_fusion.errors import UserError, one_line

from . import restricted_pickle


def read_weights_file(path: str | os.PathLike, *, mmap: bool = False) -> Any:
    """Reads a file of weights by its suffix: `.pkl` (detectron2's model zoo, Caffe2), `.safetensors`, else of torch.

    Args:
        path: the file.
        mmap: leave the tensors of a file of torch on the disk until they are used.

    Returns:
        What the file holds: tensors (in a `.pkl` numpy arrays), plain Python values and containers of them.

    Raises:
        FileNotFoundError: no such file.
        UserError: it is broken, or holds anything else; the message is one line that names the file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} {'is a folder, not a file of weights' if path.is_dir() else 'does not exist'}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        if path.suffix == ".pkl":
            with open(path, "rb") as file:
                return restricted_pickle.load(file)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # whatever a broken or foreign file makes zipfile, pickle, torch and safetensors raise
        raise UserError(f"{path} is not a readable checkpoint ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    """What is wrong, without torch's advice to execute what is in such a file."""
    if isinstance(error, restricted_pickle.RefusedError):
        return f"it holds {one_line(error)}, which is neither an array of numbers nor a plain value; nothing in it ran"
    reason = one_line(error)
    if isinstance(error, pickle.UnpicklingError) or "weights_only" in reason:
        reason = "it is broken, or holds other objects than tensors and plain values; nothing in it ran"
    return f"{type(error).__name__}: {reason[:200]}"
