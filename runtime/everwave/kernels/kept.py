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
from contextlib import suppress
from functools import cache
from pathlib import Path

from .paths import cpu

log = logging.getLogger(__name__)
ENVIRONMENT = "NUMBA_CACHE_DIR"  # as users of Numba know it
HERE = Path(__file__).resolve().parent
DIGEST = hashlib.sha256().digest_size


def read(name: str) -> bytes | None:
    """What was kept under this name, None where nothing was."""
    for folder in _folders():
        try:
            kept = (folder / _file(name)).read_bytes()
        except OSError:
            continue
        if hashlib.sha256(kept[DIGEST:]).digest() == kept[:DIGEST]:
            return kept[DIGEST:]
        log.warning("%s is damaged; compiling anew", folder / _file(name))
    return None


def write(name: str, code: bytes) -> None:
    """Keeps `code` under this name, in the place of what older sources gave; where that cannot be, a warning says so."""
    if (folder := _folder()) is None:
        return
    file = folder / _file(name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".part", delete=False) as part:
            try:
                part.write(hashlib.sha256(code).digest() + code)
                part.close()
                os.replace(part.name, file)
            except BaseException:
                with suppress(OSError):
                    os.unlink(part.name)
                raise
    except OSError as error:
        log.warning("%s takes nothing more (%s); the next process has to compile again", folder, error)
        return
    for other in folder.glob("*.code"):
        if not other.name.startswith(_sources()):
            with suppress(OSError):
                other.unlink()


def _file(name: str) -> str:
    made_by = "\n".join((name, _compiler(), *cpu()))
    return f"{_sources()}-{name.partition(' ')[0]}-{hashlib.sha256(made_by.encode()).hexdigest()[:16]}.code"


@cache
def _sources() -> str:
    """A digest of all kernels."""
    return hashlib.sha256(b"".join(file.read_bytes() for file in sorted(HERE.glob("*.py")))).hexdigest()[:12]


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
    """Where machine code may be kept: where ENVIRONMENT says, else in either of two places."""
    own = f"everwave-{hashlib.sha256(str(HERE).encode()).hexdigest()[:8]}"  # installations that share a folder
    if given := os.environ.get(ENVIRONMENT):
        return [Path(given).absolute() / own]
    return [HERE / "__pycache__", Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / own]


@cache
def _folder() -> Path | None:
    """The first of them that takes files, else a private one of this process and those that it starts."""
    for folder in _folders():
        if _writable(folder):
            return folder
    log.warning(
        "compiled kernels can be kept nowhere, so every start compiles them; %s names another folder", ENVIRONMENT
    )
    try:
        private = tempfile.mkdtemp(prefix="everwave-")
    except OSError:
        return None
    owner = os.getpid()

    def remove() -> None:
        if os.getpid() == owner:  # a fork goes on to use it
            shutil.rmtree(private, ignore_errors=True)

    atexit.register(remove)
    os.environ[ENVIRONMENT] = private
    return _folders()[0]


def _writable(folder: Path) -> bool:
    """Whether `folder` takes files, or could be made; not "~/.cache", which is what remains where nobody knows a home."""
    if not folder.is_absolute():
        return False
    while not os.path.lexists(folder) and folder != folder.parent:  # nothing is there where we may not look
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)
