"""How the trainer's kernels are compiled: once, and kept; without the interpreter's lock, divisions as NumPy's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit


def kernel(**options: Any) -> Callable[[Any], Any]:
    """Decorator of a kernel."""

    def decorate(function: Any) -> Any:
        policy: dict[str, Any] = {"nogil": True, "error_model": "numpy", **options}
        try:
            return njit(cache=True, **policy)(function)
        except RuntimeError:  # Numba can write nowhere
            return njit(**policy)(function)

    return decorate
