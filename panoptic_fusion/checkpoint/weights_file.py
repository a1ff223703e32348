"""Reads weight files without executing code in them; all weight files are read by this module."""

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from panoptic_fusion.errors import UserError, one_line

from . import restricted_pickle


def read_weights_file(path: str | os.PathLike, *, mmap: bool = False) -> Any:
    """Reads a weight file by its suffix: `.pkl` (detectron2's model zoo, Caffe2), `.safetensors`, otherwise PyTorch.

    Args:
        path: path to the file.
        mmap: whether to leave the tensors of a PyTorch file on disk until they are used.

    Returns:
        The content of the file: tensors (numpy arrays for a `.pkl`), plain Python values and containers of them.

    Raises:
        FileNotFoundError: the file does not exist.
        UserError: the file is corrupt or contains anything else; the message is one line that names the file.
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
    except Exception as error:  # any error of zipfile, pickle, torch or safetensors for a corrupt file
        raise UserError(f"{path} is not a readable checkpoint ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    """Returns the reason of an error, without torch's advice to execute the code in such a file."""

    if isinstance(error, restricted_pickle.RefusedError):
        return f"it holds {one_line(error)}, which is neither an array of numbers nor a plain value; nothing in it ran"
    reason = one_line(error)
    if isinstance(error, pickle.UnpicklingError) or "weights_only" in reason:
        reason = "it is broken, or holds other objects than tensors and plain values; nothing in it ran"
    return f"{type(error).__name__}: {reason[:200]}"
