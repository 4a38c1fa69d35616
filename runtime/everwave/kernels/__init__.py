"""Compiled leaves: the engine, the inverse STFT, random numbers. Numba compiles them once, and later starts do without it."""

from __future__ import annotations

import os
from functools import cache

import numpy as np

from ..errors import first_line
from .native import Kernel

run = Kernel("engine", "run")
fill_normals = Kernel("random", "fill_normals")
multiply_adds = Kernel("peak", "loop")


@cache
def synthesize(rows: int, cols: int, vectors: bool) -> Kernel:
    """The inverse STFT of 2 rows cols samples, see `signal.make_synthesize`."""
    return Kernel("signal", "make_synthesize", rows, cols, vectors)


@cache
def trouble() -> str:
    """Why there are no kernels, in a line, or "": whether the smallest one is found compiled, or else can be compiled."""
    if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        return "NUMBA_DISABLE_JIT is set, so there are none"
    try:
        fill_normals(np.empty(0, np.float32), 0, np.uint64(0), np.uint64(0), 0)
    except (ImportError, OSError) as error:  # OSError: LLVM is there but cannot be loaded
        return first_line(error)
    except Exception as error:  # another Numba than those we know
        return f"Numba does not compile them: {type(error).__name__}: {first_line(error)}"
    return ""
