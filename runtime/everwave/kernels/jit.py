"""How kernels are compiled: when they are first needed, without the interpreter's lock, divisions as NumPy's.

They count no references and have no way in from Python: one that Python calls is a `native.Kernel`, the others are
compiled as part of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit

POLICY: dict[str, Any] = {
    "nogil": True, "error_model": "numpy", "_nrt": False, "no_cpython_wrapper": True, "no_cfunc_wrapper": True,
}  # fmt: skip


def kernel(**options: Any) -> Callable[[Any], Any]:
    """Decorator of a kernel."""
    return njit(**(POLICY | options))
