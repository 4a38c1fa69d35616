"""A station: one piece that everybody hears at the same time, so it is made once, however many listen.

It plays while somebody listens and goes on where it stopped. A newcomer begins with the last HTTP_AHEAD seconds that were
made and stays as far behind; one who takes blocks so slowly that they are not kept any more misses those.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable

from .voices import HTTP_AHEAD, Live, Voice

KEPT_SECONDS = 30.0  # for those who take blocks more slowly for a while: 5 MB


class Station:
    """`make(frame)` gives the piece from there on: the Voice to close at the end, and the Live that takes its blocks."""

    def __init__(self, seed: int, make: Callable[[int], tuple[Voice, Live]]) -> None:
        self.seed, self._make = seed, make
        self._listeners = 0
        self._task: asyncio.Task[None] | None = None
        self._more = asyncio.Event()  # a new one for every block
        self._recent: deque[tuple[bytes, float]] = deque()  # (block, seconds)
        self._made = 0  # blocks
        self._frame = 0  # of the piece

    async def blocks(self) -> AsyncIterator[bytes]:
        self._listeners += 1
        if self._task is None:
            self._task = asyncio.create_task(self._play())
        at = self._made - self._newest(HTTP_AHEAD)
        try:
            while self._task is not None:
                at = max(at, self._made - len(self._recent))
                if at == self._made:
                    await self._more.wait()
                else:
                    block, _ = self._recent[at - self._made]
                    at += 1
                    yield block
        finally:
            self._listeners -= 1

    async def _play(self) -> None:
        try:
            voice, live = self._make(self._frame)
            try:
                await self._play_on(live)
            finally:
                voice.close()
        finally:
            self._task = None
            self._wake()

    async def _play_on(self, live: Live) -> None:
        first, begin = self._frame, time.monotonic()
        while self._listeners and not live.ending:
            ahead = live.sent / live.rate - (time.monotonic() - begin)
            if ahead < 0:  # everybody has run dry: play on from here
                begin, ahead = begin - ahead, 0.0
            await asyncio.sleep(ahead - HTTP_AHEAD)
            block = await live.block(min(ahead, HTTP_AHEAD))
            frames = first + live.sent - self._frame
            self._frame, self._made = self._frame + frames, self._made + 1
            self._recent.append((block, frames / live.rate))
            while len(self._recent) > self._newest(KEPT_SECONDS):
                self._recent.popleft()
            self._wake()

    def _newest(self, seconds: float) -> int:
        """How many of the last blocks together last no longer than that."""
        count = 0
        for _, length in reversed(self._recent):
            seconds -= length
            if seconds < 0:
                break
            count += 1
        return count

    def _wake(self) -> None:
        self._more.set()
        self._more = asyncio.Event()
