"""How commands end, `everwave` and `everwave-train` alike: whatever stopped one is a line on standard error and an exit code."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator

from .errors import EverwaveError, one_line, reader_left
from .stopping import stopped_by_signals

FAILURE, SIGNALLED = 1, 128  # SIGNALLED + the number of the signal, as shells have it


def run(program: str, command: Callable[[], int | None], debug: bool = False) -> int:
    """What `command` returns, or 0; 1 failure, 2 bad use, 128 + a signal's number. `debug`: errors are raised as they are."""
    if sys.stderr is None:  # closed, as it is under some service managers
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - for as long as the process lives
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name that the terminal cannot show is spelled
        sys.stdout.reconfigure(errors="backslashreplace")
    with stopped_by_signals() as came:
        try:
            code = command() or 0
            if sys.stdout is not None:
                sys.stdout.flush()
            return code
        except KeyboardInterrupt as stop:
            return _stopped(program, getattr(stop, "number", signal.SIGINT))
        except Exception as error:
            if reader_left(error):  # there is no one to tell
                _leave_stdout()
                return 0
            if came:  # a library may make an error of its own of it, as NumPy does while it is imported
                return _stopped(program, came[0])
            if debug:
                raise
            _leave_stdout()
            ours = isinstance(error, EverwaveError)
            say(program, f"error: {one_line(error)}{'' if ours else ' (--debug shows where)'}")
            return error.exit_code if isinstance(error, EverwaveError) else FAILURE


def _stopped(program: str, number: int) -> int:
    say(program, "interrupted" if number == signal.SIGINT else f"stopped by {signal.Signals(number).name}")
    return SIGNALLED + number


def say(program: str, message: str) -> None:
    """A line on standard error, if anybody reads it."""
    with contextlib.suppress(OSError):
        print(f"{program}: {message}", file=sys.stderr)


@contextlib.contextmanager
def only_our_lines(debug: bool = False) -> Iterator[None]:
    """Within, what libraries of C write to standard error by themselves goes nowhere; with `debug` it stays."""
    stream = sys.stderr
    try:
        copy = None if debug else os.dup(stream.fileno())
    except (AttributeError, OSError, ValueError):  # no file: closed, or a test's
        copy = None
    if copy is None:
        yield
        return
    with (
        open(copy, "w", buffering=1, encoding=stream.encoding, errors="backslashreplace") as ours,
        open(os.devnull, "w") as nowhere,
    ):
        os.dup2(nowhere.fileno(), stream.fileno())
        sys.stderr = ours
        try:
            yield
        finally:
            sys.stderr = stream
            os.dup2(ours.fileno(), stream.fileno())


def _leave_stdout() -> None:
    """What waits to be written there is written, or else goes nowhere: Python would complain of it at its end."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):  # no file: a test's
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
