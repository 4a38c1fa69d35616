"""A stream of one listener: made block by block on the engine's workers, only as fast as it is played.

What is made and not yet played is bounded by `ahead`, so a listener who is slow, silent or gone costs no work, and a
change of controls is heard as soon as what was made before has been played.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import Executor, Future
from typing import Any

from .. import checks
from ..model import Model, Stream
from ..wav import ENCODINGS
from .engine import STOPPING, Engine, Seat, Seats
from .fields import Field, from_json, parse_json, short
from .limits import Bucket, Limits, Refused

SUBTYPE = "PCM_16"  # what `everwave generate` writes
PATIENCE = 5.0  # seconds that a block of a download waits while live streams go first
FASTER = 1.05  # than real time: what a listener may draw in the long run, so that clocks may differ
AHEAD, LEAST_AHEAD, MOST_AHEAD = 0.6, 0.3, 10.0  # seconds
HTTP_AHEAD = 3.0  # seconds that a player without a voice of its own gets at once

Send = Callable[[bytes], Awaitable[None]]


class Inline(Executor):
    """Runs a job at once, in the thread that submits it: the engine's worker."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
        return future


class Voice:
    """A stream whose every step runs on a worker, one at a time."""

    def __init__(self, engine: Engine, make: Callable[[Executor], Stream]) -> None:
        """`make` gives the stream; it checks what was asked and so may raise UsageError, here."""
        self.engine = engine
        self._stream = make(Inline())
        self._one = threading.Lock()  # a job goes on when whoever waits for it is cancelled
        self.seconds = 0.0  # that a worker spent on the last block

    async def block(self, deadline: float) -> tuple[bytes, int]:
        """The next (bytes, frames); (b"", 0) at the end."""
        return await self.engine.run(deadline, self._next)

    async def set(self, controls: Mapping[str, Any], glide: float) -> dict[str, Any]:
        """Change controls as soon as possible; the part of the log that is still open: {"from": frame, "changes"}."""
        return await self.engine.run(0.0, lambda: self._set(controls, glide))

    def log(self) -> dict[str, Any]:
        """What was asked for, as `Stream.log` tells it, before the first block."""
        return self._stream.log

    def close(self) -> None:
        try:
            self.engine.submit(0.0, self._close)
        except Refused:  # no worker is left that might be at it
            self._close()

    def _next(self) -> tuple[bytes, int]:
        with self._one:
            begin = time.monotonic()
            block = next(self._stream, None)
            result = (b"", 0) if block is None else (ENCODINGS[SUBTYPE](block), len(block))
            self.seconds = time.monotonic() - begin
            return result

    def _set(self, controls: Mapping[str, Any], glide: float) -> dict[str, Any]:
        with self._one:
            self._stream.set(**controls, glide=glide)
            log = self._stream.log
            return {"from": log["frames"], "changes": [c for c in log["changes"] if c["at"] >= log["frames"]]}

    def _close(self) -> None:
        with self._one:
            self._stream.close()


async def made(voice: Voice) -> AsyncIterator[bytes]:
    """All blocks of a piece, as fast as they are taken; live streams go first. Refused if the server stops before the end."""
    while (block := await voice.block(time.monotonic() + PATIENCE))[1]:
        yield block[0]
        if voice.engine.ending:
            raise Refused(503, STOPPING, 60)


class Live:
    """The blocks of a stream in their own time; counts who has played what. `seat`: the listener's, if there is one."""

    def __init__(self, voice: Voice, model: Model, name: str, seats: Seats, seat: Seat | None = None) -> None:
        self._voice, self._name, self._seats, self._seat = voice, name, seats, seat
        self.rate = model.sample_rate
        self.sent = 0  # frames
        self.slow = False  # was the last block?

    @property
    def ending(self) -> bool:
        return self._voice.engine.ending

    async def block(self, buffered: float) -> bytes:
        """The next block, for a listener who has `buffered` seconds left to play; Refused if this one is given up."""
        if self._seat and self._seat.given_up:
            raise Refused(503, "this machine has become too slow for all who listen; try again in a minute", 60)
        asked = time.monotonic()
        data, frames = await self._voice.block(asked + buffered)
        self._seats.measured(self._name, self._voice.seconds, frames / self.rate)
        self.slow = self._seats.waited(time.monotonic() - asked, buffered)
        self.sent += frames
        return data


async def paced(live: Live) -> AsyncIterator[bytes]:
    """Blocks for a plain HTTP reader: some seconds at once, then in real time; ends where `live` is given up."""
    pace = Bucket(FASTER, HTTP_AHEAD)
    begin = time.monotonic()
    while not live.ending:
        before = live.sent
        try:
            block = await live.block(max(0.0, live.sent / live.rate - (time.monotonic() - begin)))
        except Refused:
            return
        yield block
        while seconds := pace.wait((live.sent - before) / live.rate):
            await asyncio.sleep(seconds)


class Conversation:
    """The two sides of a WebSocket: blocks and news go out; how much was played, and changes of controls, come in.

    From the listener: {"played": frames in all}, {"ahead": seconds}, {"set": {control: value}, "glide": seconds}.
    To the listener: bytes, which are samples; {"type": "changed", "from", "changes"}, {"type": "refused", "message"}.
    """

    def __init__(self, live: Live, voice: Voice, controls: Mapping[str, Field], limits: Limits, send: Send) -> None:
        self._live, self._voice, self._send, self._limits = live, voice, send, limits
        self._controls = controls
        self._ahead, self._played, self._changes = AHEAD, 0, 0
        self._least = 0.0  # seconds to have ready, whatever the listener says: more on a machine that stutters
        self._room = asyncio.Event()
        self._allowed = Bucket(limits.changes_per_second, 4 * limits.changes_per_second)
        self._messages = Bucket(50, 200)

    async def speak(self) -> None:
        """Send blocks until something fails; TimeoutError if the listener plays nothing for too long."""
        live, pace = self._live, Bucket(FASTER, 2 * MOST_AHEAD)
        while True:
            await self._has_room()
            before = live.sent
            data = await live.block((live.sent - self._played) / live.rate)
            if live.slow:  # before the listener runs dry
                self._least = min(2 * max(self._ahead, self._least), MOST_AHEAD)
            async with asyncio.timeout(self._limits.stall_seconds):
                await self._send(data)
            while seconds := pace.wait((live.sent - before) / live.rate):
                await asyncio.sleep(seconds)

    async def _has_room(self) -> None:
        """Until the listener has less ready than it wants; TimeoutError if it says nothing, or only that it played nothing."""
        stall, played = self._limits.stall_seconds, self._played
        async with asyncio.timeout(stall) as limit:
            while self._live.sent - self._played >= max(self._ahead, self._least) * self._live.rate:
                self._room.clear()
                await self._room.wait()
                if self._played > played:
                    played = self._played
                    limit.reschedule(asyncio.get_running_loop().time() + stall)

    async def hear(self, text: str) -> dict[str, Any] | None:
        """Take one message; the answer, if there is one. Refused where the listener breaks the rules."""
        if self._messages.wait():
            raise Refused(429, "more than 50 messages a second")
        message = parse_json(text)
        if not isinstance(message, dict):
            raise Refused(400, f"expected a JSON object, not {short(message)}")
        if "set" in message:
            return await self._change(message)
        values = from_json(message, REPORTS)
        if "ahead" in values:
            self._ahead = values["ahead"]
        if "played" in values:
            if not self._played <= values["played"] <= self._live.sent:
                raise Refused(400, f"played={values['played']}; {self._live.sent} frames were sent")
            self._played = values["played"]
        self._room.set()
        return None

    async def _change(self, message: Mapping[str, Any]) -> dict[str, Any]:
        self._changes += 1
        if self._changes > self._limits.changes:
            raise Refused(429, f"more than {self._limits.changes} changes in one stream; start another")
        if self._allowed.wait():
            raise Refused(429, f"more than {self._limits.changes_per_second:g} changes a second")
        glide = from_json({k: v for k, v in message.items() if k != "set"}, GLIDE).get("glide", 0.0)
        wishes = from_json(message["set"], self._controls, keep_null=True)  # null puts back what the seed gives
        news = await self._voice.set(wishes, glide)
        return {"type": "changed", **news}


REPORTS = {
    "played": Field("played", "integer", "frames played so far", 0),
    "ahead": Field("ahead", "number", "seconds to have ready", LEAST_AHEAD, MOST_AHEAD),
}
GLIDE = {"glide": Field("glide", "number", "seconds that the change takes", 0, checks.MAX_GLIDE, 0)}
