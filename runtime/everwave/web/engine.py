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

HALF_LIFE = 10.0  # seconds, of what is measured
LEAST_MEASURED = 3.0  # seconds of audio that the measure never forgets
NEW_SECONDS = 5.0  # how long a listener is new: what that costs the others has not been measured yet
NEW_COUNTS = 2.0  # as so many
SLOW, LATE = 0.25, 0.5  # seconds that any block may take before it counts as slow, or late
CLOSED_SECONDS = 10.0  # how long nobody is let in after a slow block
GIVE_UP_SECONDS = 2.0  # from one listener who is given up to the next: what that changes has to show first
STOPPING = "this server is being stopped; try again in a minute"


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
        """`run()` on a worker; Refused once the engine is closed."""
        future: Future[Result] = Future()
        with self._ready:
            if self._closed:
                raise Refused(503, STOPPING, 60)
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


class Cost:
    """Worker seconds per second of audio, of late: by the clock, so other programs' share of the machine is in it."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._at = clock, clock()
        self._spent = self._made = 0.0

    def add(self, spent: float, made: float) -> None:
        now = self._clock()
        kept = 0.5 ** ((now - self._at) / HALF_LIFE)
        if self._made:
            kept = min(1.0, max(kept, LEAST_MEASURED / self._made))
        self._at, self._spent, self._made = now, self._spent * kept + spent, self._made * kept + made

    @property
    def value(self) -> float:
        return self._spent / self._made if self._made else 0.0


@dataclass(eq=False)
class Seat:
    """One listener. `shared`: hears what others hear. `given_up`: the machine has become too slow, and this one came last."""

    address: str
    model: str
    since: float
    shared: bool = False
    given_up: bool = False


class Seats:
    """Who is listening, what that costs, and whether one more can be served without a gap for anybody.

    A listener costs what the streams of a model cost now, measured as they are made. New ones count twice until the
    measure shows them, and nobody is let in while blocks come slowly. Where the machine becomes so slow that all workers
    together make less than is played, and somebody has run dry, those who came last are given up, one after the other.
    """

    def __init__(self, limits: Limits, threads: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits
        self._threads, self._clock = threads, clock
        self._costs: dict[str, Cost] = {}  # by model
        self._taken: list[Seat] = []  # in the order in which they came
        self._closed_until = self._patient_until = -float("inf")

    def __len__(self) -> int:
        return len(self._taken)

    def cost(self, model: str) -> float:
        return self._costs[model].value if model in self._costs else 0.0

    @property
    def load(self) -> float:
        """Workers that the streams of now keep busy."""
        return sum(map(self.cost, [seat.model for seat in self._taken if not seat.shared])) + sum(
            map(self.cost, {seat.model for seat in self._taken if seat.shared})
        )

    def take(self, address: str, model: str, shared: bool = False) -> Seat:
        """A seat; Refused where there is none."""
        now = self._clock()
        if len(self) >= self.limits.listeners:
            raise Refused(503, f"all {self.limits.listeners} places are taken; try again in a minute", 60)
        if sum(seat.address == address for seat in self._taken) >= self.limits.listeners_per_address:
            raise Refused(429, f"{self.limits.listeners_per_address} streams play at your address; stop one first", 60)
        new = [model, *(seat.model for seat in self._taken if not seat.shared and now < seat.since + NEW_SECONDS)]
        expected = self.load + self.cost(model) + (NEW_COUNTS - 1) * sum(map(self.cost, new))
        costs_nothing = shared and any(seat.shared and seat.model == model for seat in self._taken)
        full = expected > self._threads * self.limits.utilisation or now < self._closed_until
        if full and len(self) and not costs_nothing:  # whoever is alone is served as well as it goes
            raise Refused(503, f"this machine is busy with {len(self)} listeners; try again in a minute", 60)
        seat = Seat(address, model, now, shared)
        self._taken.append(seat)
        return seat

    def leave(self, seat: Seat) -> None:
        if seat in self._taken:
            self._taken.remove(seat)

    def measured(self, model: str, worker_seconds: float, audio_seconds: float) -> None:
        """Learn from one block of a stream."""
        self._costs.setdefault(model, Cost(self._clock)).add(worker_seconds, audio_seconds)

    def waited(self, seconds: float, buffered: float) -> bool:
        """A listener who had `buffered` seconds left to play has waited so long for a block; whether that was slow."""
        now, slow = self._clock(), seconds > max(SLOW, buffered / 2)
        if slow:
            self._closed_until = now + CLOSED_SECONDS
        if seconds > max(LATE, buffered) and self.load > self._threads and now >= self._patient_until:
            staying = [seat for seat in self._taken if not seat.given_up]
            own = [seat for seat in staying if not seat.shared]
            if own and len(staying) > 1:
                own[-1].given_up = True
                self._patient_until = now + GIVE_UP_SECONDS
        return slow
