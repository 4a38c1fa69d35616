"""Copies that are whole or not there, and what is said when a disk will not take more."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from everwave.errors import EverwaveError

from .files import whole


def copy(source: Path, target: Path) -> None:
    """Copy a file in one step: half of one would be taken for it by every later run."""
    with source.open("rb") as file, whole(target) as out:
        shutil.copyfileobj(file, out)


@contextmanager
def named(folder: Path) -> Iterator[None]:
    """Within, what the system says of files (a full disk, one that was taken away) is an EverwaveError that names `folder`."""
    try:
        yield
    except BrokenPipeError:  # whoever read our output has left; it is no file
        raise
    except OSError as error:
        what = f" ({error.filename})" if error.filename else ""
        raise EverwaveError(
            f"{folder}: {error.strerror or error}{what}; what was finished is kept: mend it, or make room, and run again"
        ) from None
