"""Reads pickles that contain only numpy arrays, numbers, strings and plain containers.

The weights of detectron2's model zoo, including `R-50.pkl`, are pickles, and a pickle can call any function with any
arguments. This reader never imports the names in a file. Each name that such files need is mapped to a function of this
module, which checks its arguments; every other name is rejected. dtypes and arrays are rebuilt from checked parts, not
by numpy's own unpickling, which trusts the flags in a file.
"""

import math
import pickle
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np

NUMBERS = {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"}  # bools, integers, floats
BYTE_ORDERS = {"<": "<", ">": ">", "|": "", "=": "="}


class RefusedError(pickle.UnpicklingError):
    """Error raised if a file contains anything other than arrays, numbers, strings and plain containers."""


def load(file: BinaryIO) -> Any:
    """Reads the object in a pickle of Python 2 or 3 without executing any code in it.

    Args:
        file: binary file, open for reading.

    Returns:
        Dicts, lists, tuples, sets, numbers, strings, bytes and numpy arrays of numbers. An OrderedDict becomes a dict,
        a numpy scalar a Python number.

    Raises:
        RefusedError: the file contains anything else; the message names it.
        Exception: any exception that `pickle` raises for a corrupt file.
    """
    return _Unpickler(file, encoding="latin1").load()


class _Dict(dict):
    """Items of an OrderedDict, without its attributes such as the `_metadata` of a state dict."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        pass


class _Dtype:
    """dtype of numbers: its code, such as "f4", and its byte order."""

    __slots__ = ("code",)

    def __init__(self, code: Any):
        order, code = (code[0], code[1:]) if isinstance(code, str) and code[:1] in BYTE_ORDERS else ("=", code)
        if not isinstance(code, str) or code not in NUMBERS:
            raise RefusedError(f"an array of type {_shown(code)}")
        self.code = BYTE_ORDERS[order] + code

    def __setstate__(self, state: Any) -> None:
        """Reads the byte order from numpy's state: (version, order, subtype, names, fields, size, alignment, ...)."""
        if not (isinstance(state, tuple) and len(state) >= 5 and state[1] in BYTE_ORDERS):
            raise RefusedError("a malformed dtype")
        if state[2:5] != (None, None, None):
            raise RefusedError("an array of records")
        self.code = BYTE_ORDERS[state[1]] + self.code.lstrip("<>=")

    def numpy(self) -> np.dtype:
        return np.dtype(self.code)


class _Array(np.ndarray):
    """Array whose shape, type and bytes are checked when its state is set."""

    def __setstate__(self, state: Any) -> None:
        """Sets the array from numpy's state: (version, shape, dtype, Fortran order, bytes)."""
        if not (isinstance(state, tuple) and len(state) in (4, 5)):
            raise RefusedError("a malformed array")
        shape, dtype, fortran, raw = state[-4:]
        array = _array(raw, dtype, shape)
        super().__setstate__((1, array.shape, array.dtype, bool(fortran), array.tobytes()))


def _array(raw: Any, dtype: Any, shape: Any) -> np.ndarray:
    """Returns an array of the given bytes, in C order."""
    if isinstance(raw, str):  # written by Python 2
        raw = raw.encode("latin1")
    if not isinstance(dtype, _Dtype) or not isinstance(raw, bytes | bytearray):
        raise RefusedError("an array of other objects than numbers")
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise RefusedError("an array of a malformed shape")
    if math.prod(shape) * dtype.numpy().itemsize != len(raw):
        raise RefusedError("an array whose shape does not fit its bytes")
    return np.frombuffer(raw, dtype.numpy()).reshape(shape)


def _reconstruct(kind: Any, shape: Any, code: Any) -> _Array:
    """Replaces numpy's `_reconstruct`: returns an empty array, which its state fills."""
    if kind is not _NDARRAY:
        raise RefusedError("an array of a custom class")
    return np.ndarray.__new__(_Array, (0,), np.int8)


def _frombuffer(raw: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> _Array:
    """Replaces numpy's `_frombuffer`, which pickles of protocol 5 use."""
    if order == "C" and axes is None:
        array = _array(raw, dtype, shape)
    elif order == "F" and axes is None and isinstance(shape, tuple):
        array = _array(raw, dtype, shape[::-1]).T
    elif order == "K" and isinstance(axes, tuple):
        array = _array(raw, dtype, shape).transpose(axes)
    else:
        raise RefusedError("an array of an unknown memory order")
    return array.copy(order="K").view(_Array)


def _scalar(dtype: Any, raw: Any) -> float | int | bool:
    return _array(raw, dtype, ()).item()


def _encode(text: Any, encoding: Any = None) -> bytes:
    """Replaces `_codecs.encode`, by which Python 3 writes bytes for Python 2."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise RefusedError("a text with an unexpected encoding")
    return text.encode("latin1")


def _bytes() -> bytes:
    return b""


class _Name:
    """Replacement for a name in a file: callable, without attributes that a file could set."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable):
        object.__setattr__(self, "_function", function)

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setattr__(self, name: str, value: Any) -> None:
        raise RefusedError("a changed function")

    def __setstate__(self, state: Any) -> None:
        raise RefusedError("a changed function")


def _array_class(*args: Any) -> None:
    raise RefusedError("an array without its bytes")


_NDARRAY = _Name(_array_class)
_BUILTINS = {"set": _Name(set), "frozenset": _Name(frozenset), "bytes": _Name(_bytes)}
_NUMPY = {
    "multiarray": {"_reconstruct": _Name(_reconstruct), "scalar": _Name(_scalar)},
    "numeric": {"_frombuffer": _Name(_frombuffer)},
}
NAMES = {
    **{(module, name): what for module in ("builtins", "__builtin__") for name, what in _BUILTINS.items()},
    **{
        (f"numpy.{core}.{module}", name): what
        for core in ("core", "_core")
        for module, names in _NUMPY.items()
        for name, what in names.items()
    },
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _Name(lambda code, align=False, copy=False: _Dtype(code)),
    ("collections", "OrderedDict"): _Name(lambda items=(): _Dict(items)),
    ("_codecs", "encode"): _Name(_encode),
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in NAMES:
            raise RefusedError(f"{_shown(f'{module}.{name}')}")
        return NAMES[module, name]


def _shown(text: Any) -> str:
    """Formats text of a file for a message: quoted, short, without line breaks or control characters."""
    return ascii(text if isinstance(text, str) else type(text).__name__)[:80]
