"""Compiled leaves. Numba keeps what it compiled beside the code, else in the user's cache; here it is told where else."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import tempfile
from functools import cache

log = logging.getLogger(__name__)


def _ensure_cache_folder() -> None:
    """A private folder for this process, and those that it starts, where Numba could write nowhere."""
    if any(map(_writable, _numbas_folders())):
        return
    nothing_is_kept()
    try:
        folder = tempfile.mkdtemp(prefix="everwave-")  # only this user may read it: caches are pickles
    except OSError:  # `jit.entry` does without
        return
    owner = os.getpid()

    def remove() -> None:
        if os.getpid() == owner:  # a fork goes on to use it
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    os.environ["NUMBA_CACHE_DIR"] = folder
    vars(numba.config)["CACHE_DIR"] = folder  # which it has read from there already


def _numbas_folders() -> list[str]:
    """Where Numba keeps what it compiled: the first of these that it can write to."""
    given, beside = os.environ.get("NUMBA_CACHE_DIR"), os.path.join(os.path.dirname(__file__), "__pycache__")
    user = os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache"))
    return [*([os.path.abspath(given)] if given else []), os.path.abspath(beside), os.path.join(user, "numba")]


def _writable(folder: str) -> bool:
    """Whether `folder` takes files, or could be made; not "~/.cache", which is what remains where nobody knows a home."""
    if not os.path.isabs(folder):
        return False
    while not os.path.lexists(folder) and folder != os.path.dirname(folder):  # nothing is there where we may not look
        folder = os.path.dirname(folder)
    return os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK)


@cache
def nothing_is_kept() -> None:
    """Says so, once."""
    log.warning(
        "compiled kernels can be kept nowhere, so every start compiles them; NUMBA_CACHE_DIR names another folder"
    )


def _load_numba_without_blas() -> None:
    """Numba's array functions import scipy.linalg to see whether there is a BLAS, 0.2 s that no kernel of ours needs.

    Numba looks again wherever a function that it compiles does need one.
    """
    try:
        from numba.np import linalg

        look = linalg.ensure_blas
    except (ImportError, AttributeError):  # another Numba than those we know
        return
    linalg.ensure_blas = lambda: None
    try:
        from numba.np import arraymath
    finally:
        linalg.ensure_blas = look
    arraymath.ensure_blas = look


if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
    raise ImportError("NUMBA_DISABLE_JIT is set, so there are none")
import numba  # noqa: E402 - not before it is known to compile; where none loads, whoever wants a kernel is told

_ensure_cache_folder()
_load_numba_without_blas()
