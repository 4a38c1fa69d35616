"""Compiled leaves: the engine, the inverse STFT, random numbers. Numba compiles them once, and later starts do without it."""

from __future__ import annotations

import os
from functools import cache

from .native import Kernel, compiler

run = Kernel("engine", "run")
fill_normals = Kernel("random", "fill_normals")
multiply_adds = Kernel("peak", "loop")


@cache
def synthesize(rows: int, cols: int, vectors: bool) -> Kernel:
    """The inverse STFT of 2 rows cols samples, see `signal.make_synthesize`."""
    return Kernel("signal", "make_synthesize", rows, cols, vectors)


@cache
def check() -> None:
    """ImportError or OSError where kernels can be neither compiled nor found compiled."""
    from . import kept

    if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        raise ImportError("NUMBA_DISABLE_JIT is set, so there are none")
    if kept.is_empty():
        compiler()
    else:
        import llvmlite.binding  # noqa: F401 - OSError: LLVM is there but cannot be loaded
