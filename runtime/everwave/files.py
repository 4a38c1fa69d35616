"""Files that appear under their names when they are complete, and where they can be made."""

from __future__ import annotations

import itertools
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import AudioError, NoRoom, OutputError

RESERVE = 1 << 18  # bytes left on a disk that fills up, so that every format can end its file
NAME_LENGTH = 40  # characters of a name that its temporary one shows: the longest legal name leaves no room for more
_numbers = itertools.count()  # several threads may write to one folder


def checked(path: str | os.PathLike[str]) -> Path:
    """The file to make or to replace, links followed; OutputError unless that can be done there."""
    name = os.fspath(path) or "''"
    try:
        target = Path(os.path.realpath(path))
        there = mode(target)
    except (OSError, ValueError) as error:  # a name that is too long, links that go round
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"{name}: cannot be written ({reason}); choose another name") from None
    if stat.S_ISDIR(there):
        raise OutputError(f"{name}: is a folder; give the name of a file")
    if there and not stat.S_ISREG(there):
        raise OutputError(f"{name}: is a device or a pipe; give the name of a file")
    if not target.parent.is_dir():
        raise OutputError(f"{name}: there is no folder {target.parent}; create it first")
    if not os.access(target.parent, os.W_OK) or (there and not os.access(target, os.W_OK)):
        raise OutputError(f"{name}: no permission to write there; choose another place")
    return target


def checked_folder(folder: Path) -> Path:
    """`folder`, which is one that can be written to or made; OutputError else. Nothing is made yet."""
    try:
        there = next(path for path in (folder, *folder.absolute().parents) if path.is_symlink() or mode(path))
    except OSError as error:  # a name that is too long
        raise OutputError(f"{folder}: cannot be made ({error.strerror or error}); choose another name") from None
    if not there.is_dir():
        at = "" if there == folder else f"{there} "
        raise OutputError(f"{folder}: {at}is no folder; choose another name")
    if not os.access(there, os.W_OK):
        raise OutputError(f"{folder}: no permission to write there; choose another place")
    return folder


@contextmanager
def whole(path: str | os.PathLike[str], wanted: Callable[[], bool] = lambda: True) -> Iterator[Path]:
    """A temporary name beside `path`; its file takes that place if all went well and it is `wanted`, else it is removed.

    AudioError names the file where it cannot take that place; it stays under its temporary name then.
    """
    target, finished = checked(path), False
    part = target.with_name(f".{target.name[:NAME_LENGTH]}.{os.getpid()}-{next(_numbers)}.part")
    try:
        yield part
        finished = wanted()
    finally:
        if not finished:
            part.unlink(missing_ok=True)
    if finished:
        put_in_place(part, target, path)


def put_in_place(part: Path, target: Path, name: str | os.PathLike[str]) -> None:
    """`part`, a finished file, becomes `target`, which the user calls `name`; AudioError, and it stays, where that cannot be."""
    try:
        part.replace(target)
    except OSError as error:  # a file that is mounted by itself; on Windows one that somebody has open
        raise AudioError(
            f"{os.fspath(name)}: cannot be replaced ({error.strerror or error}); the finished file is {part}, move it"
        ) from None


def check_room(folder: Path, needed: int, name: str | os.PathLike[str]) -> None:
    """NoRoom unless the disk of `folder` has `needed` bytes, and RESERVE more, for the file that the user calls `name`."""
    _, _, free = shutil.disk_usage(folder)
    if needed + RESERVE > free:
        size, unit = (1e9, "GB") if needed >= 1e9 else (1e6, "MB")
        raise NoRoom(
            f"{os.fspath(name)}: needs up to {(needed + RESERVE) / size:.1f} {unit}, {free / size:.1f} {unit} are free;"
            " make room, or choose another disk"
        )


def mode(path: Path) -> int:
    """What `stat` takes for the kind of what is there, 0 if nothing is; OSError where that cannot be told.

    From Python 3.14 on `Path.exists` and `is_file` are silent then, as if nothing were there.
    """
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return 0
