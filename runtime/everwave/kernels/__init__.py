"""Compiled leaves. Numba keeps what it compiled beside the code, else in the user's cache; here it is told where else."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path


def _ensure_cache_folder() -> None:
    """A private folder for this process where Numba could write nowhere: it refuses to compile without one."""
    user = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if os.environ.get("NUMBA_CACHE_DIR") or any(map(_writable, (Path(__file__).parent / "__pycache__", Path(user)))):
        return
    folder, owner = tempfile.mkdtemp(prefix="everwave-"), os.getpid()  # only this user may read it: caches are pickles

    def remove() -> None:
        if os.getpid() == owner:  # a fork goes on to use it
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    os.environ["NUMBA_CACHE_DIR"] = folder
    if "numba" in sys.modules:
        sys.modules["numba"].config.CACHE_DIR = folder


def _writable(folder: Path) -> bool:
    """Whether `folder` takes files, or could be made."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def _load_numba_without_blas() -> None:
    """Numba's array functions import scipy.linalg to see whether there is a BLAS, 0.2 s that no kernel of ours needs.

    Numba looks again wherever a function that it compiles does need one.
    """
    try:
        from numba.np import linalg
    except (ImportError, OSError):  # no Numba, or none that loads: whoever imports a kernel is told
        return
    look = getattr(linalg, "ensure_blas", None)
    if look is None:  # another Numba than those we know
        return
    linalg.ensure_blas = lambda: None
    try:
        from numba.np import arraymath
    finally:
        linalg.ensure_blas = look
    arraymath.ensure_blas = look


if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
    raise ImportError("NUMBA_DISABLE_JIT is set, so there are no kernels; NumPy does their work, slowly")
_ensure_cache_folder()
_load_numba_without_blas()
