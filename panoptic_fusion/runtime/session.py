"""Opens model files with onnxruntime. Errors that users can fix are one line."""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from panoptic_fusion.errors import UserError, one_line

from .ranking import RankingModule

Provider = str | tuple[str, dict[str, Any]]
"""Execution provider of onnxruntime, such as "cpu", "cuda", "tensorrt" or its full name; a pair adds its options."""

INPUTS = ("image",)
OUTPUTS = ("sem_seg_logits", "boxes", "scores", "classes", "mask_logits", "batch_index")


def open_session(content: str | os.PathLike | bytes, providers: Sequence[Provider], threads: int = 0) -> Any:
    """Returns an `onnxruntime.InferenceSession`.

    Args:
        content: path to the model file, or its content.
        providers: execution providers, the preferred one first.
        threads: number of CPU threads; 0 for one per core.

    Raises:
        FileNotFoundError: if the file does not exist.
        UserError: if onnxruntime is not installed, or it cannot read the model or start a provider.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError("onnxruntime is not installed: pip install onnxruntime") from error
    names = [_full_name(p if isinstance(p, str) else p[0], onnxruntime.get_available_providers()) for p in providers]
    chosen = [name if isinstance(p, str) else (name, p[1]) for name, p in zip(names, providers, strict=True)]
    if not isinstance(content, bytes):
        path = Path(content)
        if not path.is_file():
            raise FileNotFoundError(2, "No such file", str(path))
        content = str(path)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    options.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(content, options, providers=chosen)
    except Exception as error:  # its classes derive from Exception directly
        raise UserError(f"onnxruntime cannot open the model: {one_line(error)[:300]}") from error
    missing = [name for name in names if name not in session.get_providers()]
    if missing:
        raise UserError(
            f"onnxruntime cannot start {', '.join(missing)}: install the drivers and libraries that it needs, or "
            "choose 'cpu'"
        )
    return session


def check_model(session: Any) -> None:
    """Checks the names of a model's inputs and outputs.

    Raises:
        UserError: if they are not those of an exported network.
    """
    for kind, expected, found in (
        ("inputs", INPUTS, session.get_inputs()),
        ("outputs", OUTPUTS, session.get_outputs()),
    ):
        names = tuple(x.name for x in found)
        if names != expected:
            raise UserError(
                f"the model's {kind} are {', '.join(names)}, not {', '.join(expected)}: export it with "
                "`panoptic-fusion export`"
            )


def open_ranking_module(text: str, providers: Sequence[Provider], threads: int = 0) -> RankingModule:
    """Returns the ranking module that a model file contains in base64.

    Raises:
        UserError: if it is damaged.
    """
    try:
        content = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise UserError(f"the ranking module in the metadata is damaged: {one_line(error)}") from error
    session = open_session(content, providers, threads)

    def module(channels: np.ndarray) -> np.ndarray:
        return session.run(["logits"], {"channels": channels})[0]

    return module


def _full_name(name: str, available: Sequence[str]) -> str:
    """Returns the full name of an available execution provider; "cuda" stands for "CUDAExecutionProvider".

    Raises:
        UserError: if it is not available.
    """
    suffix = "ExecutionProvider"
    for full in available:
        if name.lower() in (full.lower(), full.lower().removesuffix(suffix.lower())):
            return full
    known = ", ".join(repr(full.removesuffix(suffix).lower()) for full in available)
    raise UserError(
        f"provider {name!r} is not available: this onnxruntime has {known}; CUDA and TensorRT need the package "
        "onnxruntime-gpu"
    )
