"""How kernels are compiled, and what is kept of them.

All of them: at the first call, without the interpreter's lock, divisions as NumPy's. A kernel that is entered from Python
is kept on disk; one that only kernels call is compiled as part of them, so neither it nor a way into it is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from numba import njit
from numba.core.caching import FunctionCache

from . import nothing_is_kept

POLICY: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
WITHIN = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
log = logging.getLogger(__name__)


def entry(**options: Any) -> Callable[[Any], Any]:
    """Decorator of a kernel that Python calls."""

    def decorate(function: Any) -> Any:
        kernel = njit(**(POLICY | options))(function)
        try:
            kernel._cache = Cache(function)
        except (RuntimeError, OSError):  # Numba can write nowhere; the kernel is compiled for this process alone
            nothing_is_kept()
        return kernel

    return decorate


def inner(**options: Any) -> Callable[[Any], Any]:
    """Decorator of a kernel that other kernels call."""
    return njit(**(POLICY | WITHIN | options))


class Cache(FunctionCache):  # type: ignore[misc]
    """Numba's cache, which may be damaged or full: what cannot be read is compiled again, what cannot be written is not kept."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:  # a pickle that a crash has cut off raises almost anything
            log.warning("%s is damaged (%r); compiling anew", self.cache_path, error)
            with suppress(Exception):
                self.flush()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except OSError as error:
            log.warning("%s takes nothing more (%s); the next process has to compile again", self.cache_path, error)
