"""Threads that all listeners share: whoever's music runs out first is served first.

A job has a deadline, the moment when its listener has nothing left to play. A piece that is made for download has one
too, some seconds after it was asked for: live streams go first, but never for longer than that. A listener has at most
one job at a time, so nobody can fill the queue.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

from .limits import Limits, Refused

Result = TypeVar("Result")

LATE_SECONDS = 10.0  # how long nobody is let in after a stream was late
SMOOTHING = 0.05  # of the measured cost, per job


@dataclass(order=True)
class _Job:
    deadline: float
    number: int
    run: Callable[[], Any] = field(compare=False)
    future: Future[Any] = field(compare=False)


class Engine:
    """`threads` workers and a queue; `time.monotonic()` is the clock of deadlines."""

    def __init__(self, threads: int) -> None:
        self._jobs: list[_Job] = []
        self._numbers = itertools.count()
        self._ready = threading.Condition()
        self._closed = False
        self.ending = False  # the server stops: streams are to end
        self._workers = [
            threading.Thread(target=self._work, name=f"everwave-web-{i}", daemon=True) for i in range(threads)
        ]
        for worker in self._workers:
            worker.start()

    def submit(self, deadline: float, run: Callable[[], Result]) -> Future[Result]:
        future: Future[Result] = Future()
        with self._ready:
            if self._closed:
                raise RuntimeError("the engine is closed")
            heapq.heappush(self._jobs, _Job(deadline, next(self._numbers), run, future))
            self._ready.notify()
        return future

    async def run(self, deadline: float, run: Callable[[], Result]) -> Result:
        """The result of `run()` on a worker; cancelling the caller cancels a job that has not begun."""
        return await asyncio.wrap_future(self.submit(deadline, run))

    def close(self) -> None:
        with self._ready:
            self._closed = True
            for job in self._jobs:
                job.future.cancel()
            self._jobs.clear()
            self._ready.notify_all()
        for worker in self._workers:
            worker.join()

    @property
    def threads(self) -> int:
        return len(self._workers)

    def _work(self) -> None:
        while True:
            with self._ready:
                self._ready.wait_for(lambda: self._jobs or self._closed)
                if self._closed:
                    return
                job = heapq.heappop(self._jobs)
            if not job.future.set_running_or_notify_cancel():
                continue
            try:
                job.future.set_result(job.run())
            except BaseException as error:
                job.future.set_exception(error)


class Seats:
    """Who is listening, what that costs, and whether one more can be served.

    The cost of a model is measured: CPU seconds per second of audio, as streams of it are made. That other programs keep
    the machine busy is not in it; it shows when a stream is late.
    """

    def __init__(self, limits: Limits, threads: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits
        self.cost: dict[str, float] = {}  # by model
        self._room = threads * limits.utilisation
        self._taken: dict[int, tuple[str, str]] = {}  # number -> (address, model)
        self._numbers = itertools.count()
        self._late = -float("inf")
        self._clock = clock

    def __len__(self) -> int:
        return len(self._taken)

    @property
    def load(self) -> float:
        """Workers that the streams of now keep busy."""
        return sum(self.cost.get(model, 0.0) for _, model in self._taken.values())

    def take(self, address: str, model: str) -> int:
        """A seat's number; Refused where there is none."""
        if len(self) >= self.limits.listeners:
            raise Refused(503, f"all {self.limits.listeners} places are taken; try again in a minute", 60)
        if sum(taken == address for taken, _ in self._taken.values()) >= self.limits.listeners_per_address:
            raise Refused(429, f"{self.limits.listeners_per_address} streams play at your address; stop one first", 60)
        full = self.load + self.cost.get(model, 0.0) > self._room or self._clock() < self._late + LATE_SECONDS
        if full and len(self):  # whoever is alone is served as well as it goes
            raise Refused(503, f"this machine is busy with {len(self)} listeners; try again in a minute", 60)
        number = next(self._numbers)
        self._taken[number] = (address, model)
        return number

    def leave(self, number: int) -> None:
        self._taken.pop(number, None)

    def measured(self, model: str, cpu_seconds: float, audio_seconds: float) -> None:
        """Learn from one block of a stream."""
        cost = cpu_seconds / audio_seconds
        self.cost[model] = self.cost.get(model, cost) * (1 - SMOOTHING) + SMOOTHING * cost

    def late(self) -> None:
        """A block came too late for its listener: whoever comes now would make it worse."""
        self._late = self._clock()
