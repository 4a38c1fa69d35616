"""Files that appear when they are complete, and where folders can be made."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from everwave.errors import UsageError


def checked(folder: Path) -> Path:
    """`folder`, which is there or can be made; UsageError else. Nothing is made yet: what is refused leaves nothing behind."""
    there = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    trouble = f"{there} is no folder" if not there.is_dir() else "" if os.access(there, os.W_OK) else "no permission"
    if trouble:
        raise UsageError(f"-o {folder}: cannot be written to ({trouble}); choose another place")
    return folder


@contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of `path` if all went well, else it is removed.

    Its name is always the same, other than in `everwave.files`: what a killed run leaves the next one overwrites, and
    killed are these runs often, with files that are large.
    """
    partial = path.with_suffix(".partial")
    try:
        with partial.open("wb") as file:
            yield file
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
