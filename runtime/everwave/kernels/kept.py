"""Where machine code is kept between processes: beside the code, else in the user's cache, else for one run.

The name of a file says what it was made from: our sources, Numba, the CPU, and the kinds of the kernel's arguments. So
what is of another version or machine is never read, and what is damaged is noticed.
"""

from __future__ import annotations

import atexit
import hashlib
import importlib.util
import logging
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

from .paths import cpu

log = logging.getLogger(__name__)
GIVEN, PRIVATE = "NUMBA_CACHE_DIR", "EVERWAVE_PRIVATE_CACHE"  # users of Numba know the first; the second is ours alone
HERE = Path(__file__).resolve().parent
DIGEST = hashlib.sha256().digest_size


def read(name: str) -> bytes | None:
    """What was kept under this name, None where nothing was."""
    for file in (folder / _file(name) for folder in (_folders() if _sources() else ())):
        try:
            kept = file.read_bytes()
        except OSError:
            continue
        if hashlib.sha256(kept[DIGEST:]).digest() == kept[:DIGEST]:
            return kept[DIGEST:]
        log.warning("%s is damaged; compiling anew", file)
    return None


def write(name: str, code: bytes) -> None:
    """Keeps `code` under this name, in the place of what older sources gave; where that cannot be, a warning says so."""
    folder = _folder() if _sources() else None
    if folder is None:
        return
    file = folder / _file(name)
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            part.write_bytes(hashlib.sha256(code).digest() + code)
            part.replace(file)
        finally:
            part.unlink(missing_ok=True)
        for old in (other for other in folder.glob("*.code*") if not other.name.startswith(_sources())):
            old.unlink(missing_ok=True)
    except OSError as error:
        log.warning("%s takes nothing more (%s); the next process has to compile again", folder, error)


def _file(name: str) -> str:
    made_by = "\n".join((name, _compiler(), *cpu()))
    return f"{_sources()}-{name.partition(' ')[0]}-{hashlib.sha256(made_by.encode()).hexdigest()[:16]}.code"


@cache
def _sources() -> str:
    """A digest of all kernels; "" where they are not to be read, as in an archive, and nothing can tell what is of them."""
    files = sorted(HERE.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12] if files else ""


@cache
def _compiler() -> str:
    """What tells one version of Numba from another without importing it. ImportError where there is none."""
    import llvmlite

    numba = importlib.util.find_spec("numba")
    if numba is None or numba.origin is None:
        raise ImportError("Numba is not installed")
    version = Path(numba.origin).with_name("_version.py")
    return f"{llvmlite.__version__} {version.read_text() if version.is_file() else numba.origin}"


def _folders() -> list[Path]:
    """Where machine code may be kept: where GIVEN says, else in either of two places; and what this run has."""
    own = f"everwave-{hashlib.sha256(str(HERE).encode()).hexdigest()[:8]}"  # installations that share a folder
    user = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    given, private = os.environ.get(GIVEN), os.environ.get(PRIVATE)
    folders = [Path(given).absolute() / own] if given else [HERE / "__pycache__", Path(user) / own]
    # not "~/.cache", which is what remains where nobody knows a home
    return [folder for folder in (*folders, *([Path(private)] if private else [])) if folder.is_absolute()]


@cache
def _folder() -> Path | None:
    """The first of them that takes files, else a private one of this process and those that it starts."""
    for folder in _folders():
        if _writable(folder):
            return folder
    log.warning("compiled kernels can be kept nowhere, so every start compiles them; %s names another folder", GIVEN)
    try:
        private = tempfile.mkdtemp(prefix="everwave-")
    except OSError:
        return None
    owner = os.getpid()

    def remove() -> None:
        if os.getpid() == owner:  # a fork goes on to use it
            shutil.rmtree(private, ignore_errors=True)

    atexit.register(remove)
    os.environ[PRIVATE] = private
    return Path(private)


def _writable(folder: Path) -> bool:
    """Whether `folder` takes files, or could be made."""
    while not os.path.lexists(folder) and folder != folder.parent:  # nothing is there where we may not look
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)
