"""Every error a user can cause: one clear line with the value, the rule and the next step."""

from __future__ import annotations

import errno
import os
from typing import Any


class EverwaveError(Exception):
    """Something that the user can mend; the message is one line and is shown without a traceback."""

    exit_code = 1


class UsageError(EverwaveError, ValueError):
    """An argument is out of its range or does not fit the model."""

    exit_code = 2


class ModelError(EverwaveError):
    """A weights file is missing, damaged, or not what its header says."""


class UnknownModel(ModelError, UsageError):
    """No file, and no shipped model, is called so: bad use."""


class AudioError(EverwaveError):
    """An audio file cannot be read or written."""


class OutputError(AudioError, UsageError):
    """A file that cannot be made there: bad use, known before any work."""

    exit_code = 2


class NoRoom(AudioError):
    """A disk has too little room for a file, of audio or weights; nothing is wrong with what was asked for."""


class Cancelled(EverwaveError):
    """The caller's `cancel` function said so."""


def reader_left(error: BaseException) -> bool:
    """Whether it says that nobody reads a pipe any more; on Windows that is an invalid argument, and of no file by its name."""
    return isinstance(error, BrokenPipeError) or (
        os.name == "nt" and isinstance(error, OSError) and error.errno == errno.EINVAL and error.filename is None
    )


def short(value: Any) -> str:
    """`value` as a message shows it: text as it is, all else by its repr, in one line of at most 40 characters."""
    try:
        text = value if isinstance(value, str) else repr(value)
    except ValueError:
        return "a huge number"  # of more digits than Python spells
    text = " ".join(text[:200].split()) or "''"
    return text if len(text) <= 40 else text[:37] + "..."


def printable(text: str) -> str:
    """`text` as UTF-8 can hold it: bytes of a file's name that are no characters are spelled, as \\udcff."""
    return text.encode(errors="backslashreplace").decode()


def first_line(error: BaseException) -> str:
    """What a library's `error` says before it goes into details."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def one_line(error: BaseException) -> str:
    """What `error` says, in one line; with its type, unless it was written for users."""
    text = " ".join(str(error).split())
    return text if isinstance(error, EverwaveError) and text else f"{type(error).__name__}: {text}"
