"""Signals that ask to end (Ctrl-C, `kill`, a closed terminal), as exceptions: what was written stays as a valid file."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Stopped(KeyboardInterrupt):
    """A signal that asks to end: as with Ctrl-C, what was written stays as a valid file."""

    def __init__(self, number: int) -> None:
        self.number = number


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[list[int]]:
    """Within, the first of SIGNALS raises Stopped in the main thread, and later ones do not disturb the end; the list given says which came."""
    came: list[int] = []

    def stop(number: int, _: Any) -> None:
        came.append(number)
        for other in SIGNALS:  # the second one does not disturb the end
            if signal.getsignal(other) is stop:
                signal.signal(other, signal.SIG_IGN)
        raise Stopped(number)

    with handled_by(stop):
        yield came


@contextlib.contextmanager
def signals_noted() -> Iterator[list[int]]:
    """Within, SIGNALS do nothing but come into the list given, which is to be looked at wherever the work may end."""
    came: list[int] = []
    with handled_by(lambda number, _: came.append(number)):
        yield came


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Within, SIGNALS wait, so that what is being finished is finished; the first that came is raised at the end."""
    came: list[int] = []
    try:
        with signals_noted() as came:
            yield
    finally:
        if came:
            signal.raise_signal(came[0])


@contextlib.contextmanager
def handled_by(handler: Callable[[int, Any], object]) -> Iterator[None]:
    """Within, `handler` gets those of SIGNALS that are not ignored, as `nohup` has it; threads but the main one get none."""
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in SIGNALS}
        before = {n: given for n, given in before.items() if given not in (signal.SIG_IGN, None)}
        for number in before:
            signal.signal(number, handler)
    try:
        yield
    finally:
        for number, given in before.items():
            signal.signal(number, given)
