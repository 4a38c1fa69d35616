"""Files that appear when they are complete."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from everwave.files import put_in_place


@contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of `path` if all went well, else it is removed; AudioError if it cannot.

    Its name is always the same, other than in `everwave.files`: what a killed run leaves the next one overwrites, and
    killed are these runs often, with files that are large.
    """
    partial, finished = path.with_suffix(".partial"), False
    try:
        with partial.open("wb") as file:
            yield file
        finished = True
    finally:
        if not finished:
            partial.unlink(missing_ok=True)
    put_in_place(partial, path, path)
