"""Compiles loops to machine code with numba, if it is installed (extra `fast`). Every caller has a path without it."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

OPTIONS = {"nogil": True, "error_model": "numpy"}  # threads run side by side; a division by zero does not raise
MIN_PIXELS = 2**16
"""Smaller images take less time than the 0.3 s in which a process imports numba and loads the code."""


@functools.cache
def compiled(function: Callable, signature: str) -> Callable | None:
    """Returns `function` as machine code, or None without numba, which is imported by the first call.

    numba stores the code next to the source file, or in the user's cache folder if that one is read-only. If neither
    can be written or a stored file is damaged, the function is compiled for this process alone, in about two seconds.

    Args:
        function: function of numbers and NumPy arrays, written for numba.
        signature: numba's notation of the argument types, such as "void(float32[::1], int64)".
    """
    try:
        import numba
    except ImportError:  # not installed, or built for another NumPy
        return None
    if numba.config.DISABLE_JIT:
        return None
    try:
        return numba.njit(signature, cache=True, **OPTIONS)(function)
    except Exception as error:  # unpickling a damaged file raises almost anything
        name = f"{function.__module__}.{function.__qualname__}"
        logging.getLogger(__name__).info("The code of %s is not stored for the next start: %s", name, error)
        return numba.njit(signature, **OPTIONS)(function)
