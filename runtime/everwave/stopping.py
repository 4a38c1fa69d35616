"""Signals that ask to end (Ctrl-C, `kill`, a closed terminal), as exceptions: what was written stays as a valid file."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Stopped(KeyboardInterrupt):
    """A signal that asks to end: as with Ctrl-C, what was written stays as a valid file."""

    def __init__(self, number: int) -> None:
        self.number = number


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Within, the first of SIGNALS raises Stopped in the main thread, and later ones do not disturb the end."""

    def stop(number: int, _: Any) -> None:
        for ignored in before:  # the second one does not disturb the end
            signal.signal(ignored, signal.SIG_IGN)
        raise Stopped(number)

    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in SIGNALS}
        before = {n: handler for n, handler in before.items() if handler not in (signal.SIG_IGN, None)}  # nohup ignores
        for number in before:
            signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
