"""The radio's station: everybody hears the same samples, made once; it stops when nobody listens and then goes on."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
from collections.abc import AsyncIterator, Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from everwave.model import Model
from everwave.wav import ENCODINGS
from everwave.web.station import KEPT_SECONDS, Station
from everwave.web.voices import HTTP_AHEAD
from radio_client import FRAME, Served, becomes, served


@contextlib.contextmanager
def tuned_in(radio: Served) -> Iterator[http.client.HTTPResponse]:
    connection = http.client.HTTPConnection("127.0.0.1", radio.port, timeout=20)
    with contextlib.closing(connection):
        connection.request("GET", "/api/station")
        answer = connection.getresponse()
        assert answer.status == 200
        assert answer.read(4) == b"RIFF"
        while answer.read(4) != b"data":
            pass
        answer.read(4)
        yield answer


def test_everybody_hears_the_same_piece_which_goes_on_where_it_stopped(small: dict[str, Model]) -> None:
    with served(small) as radio:
        station = radio.radio.stations["small"]
        piece = small["small"].generate(30.0, station.seed)
        expected = ENCODINGS["PCM_16"](piece)
        made: list[int] = []
        make = station._make
        station._make = lambda frame: made.append(frame) or make(frame)  # type: ignore[func-returns-value]
        with tuned_in(radio) as first:
            assert first.headers["x-everwave-seed"] == str(station.seed)
            heard = first.read(round(3.5 * 44100) * FRAME)  # what newcomers get at once, and some that takes its time
            assert heard == expected[: len(heard)]
            with tuned_in(radio) as second:
                later = second.read(round(3.5 * 44100) * FRAME)
                behind = expected.find(later[:4096])
                assert behind > 0  # not from the beginning
                assert later == expected[behind : behind + len(later)]
                assert len(radio.radio.seats) == 2
        assert made == [0]
        assert radio.is_idle()
        assert becomes(lambda: station._task is None)
        stopped = station._frame
        assert stopped < 30 * 44100  # nobody listens, nothing is made
        with tuned_in(radio) as again:
            resumed = again.read(round(3.5 * 44100) * FRAME)
        assert made == [0, stopped]
        at = expected.find(resumed[:4096])
        assert stopped - (HTTP_AHEAD + 1) * 44100 < at / FRAME < stopped
        assert resumed == expected[at : at + len(resumed)]  # across the place where it had stopped


def test_a_station_is_asked_for_like_the_rest(radio: Served) -> None:
    status, headers, content = radio.ask("/api/station", method="HEAD")
    assert (status, content) == (200, b"")
    assert headers["x-everwave-seed"] == str(radio.radio.stations["small"].seed)
    assert radio.error("/api/station?model=/etc/passwd")[0] == 404
    assert "'seed' is not known" in radio.error("/api/station?seed=1")[1]
    assert not len(radio.radio.seats)


def test_a_piece_that_cannot_be_made_ends_the_listening_and_not_the_station(small: dict[str, Model]) -> None:
    async def listen(station: Station) -> int:
        return len([block async for block in station.blocks()])

    def refuse(frame: int) -> Any:
        raise OSError("no thread")

    station = Station(1, refuse)
    for _ in range(2):  # another listener tries again
        assert asyncio.run(asyncio.wait_for(listen(station), 5)) == 0
        assert station._task is None


def test_a_station_ends_with_the_server(small: dict[str, Model]) -> None:
    with served(small) as radio, tuned_in(radio) as answer:
        radio.radio.engine.ending = True
        answer.read()  # to its end, which is as HTTP wants it
        assert answer.isclosed()


# -- with blocks of one second, in no time ----------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that have passed for stations, which pass as soon as one sleeps."""
    now, real = [0.0], asyncio.sleep

    async def sleep(seconds: float) -> None:
        now[0] += max(seconds, 0)
        await real(0)

    stub = SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr("everwave.web.station.time", stub)
    monkeypatch.setattr("everwave.web.station.asyncio", SimpleNamespace(**vars(asyncio) | {"sleep": sleep}))
    return now


class Numbers:
    """A piece whose second n is the bytes of n; `cost` seconds pass while one is made. Both a Voice and a Live."""

    rate, ending = 10, False

    def __init__(self, clock: list[float], cost: float = 0.0) -> None:
        self.clock, self.cost = clock, cost
        self.asked: list[float] = []  # what was said to be left to play
        self.closed = 0

    def make(self, frame: int) -> tuple[Any, Any]:
        self.first, self.sent = frame, 0
        return self, self

    async def block(self, buffered: float) -> bytes:
        self.asked.append(buffered)
        self.clock[0] += self.cost
        self.sent += self.rate
        return bytes([(self.first + self.sent) // self.rate - 1])

    def close(self) -> None:
        self.closed += 1


async def take(blocks: AsyncIterator[bytes], count: int) -> list[int]:
    return [(await anext(blocks))[0] for _ in range(count)]


def test_newcomers_begin_a_little_behind_and_laggards_miss_what_is_not_kept(clock: list[float]) -> None:
    async def run() -> None:
        numbers = Numbers(clock)
        station = Station(1, numbers.make)
        first, slow = station.blocks(), station.blocks()
        assert await take(slow, 1) == [0]
        assert await take(first, 100) == list(range(100))
        assert max(numbers.asked) <= HTTP_AHEAD  # no further ahead
        late = station.blocks()
        (begin,) = await take(late, 1)
        assert 99 - HTTP_AHEAD <= begin < 100
        assert await take(late, 5) == list(range(begin + 1, begin + 6))
        (after,) = await take(slow, 1)
        assert 99 - KEPT_SECONDS <= after < 99 - KEPT_SECONDS + HTTP_AHEAD + 10
        assert len(station._recent) <= KEPT_SECONDS
        for listener in (first, slow, late):
            await listener.aclose()  # type: ignore[attr-defined]
        await asyncio.sleep(0.01)
        assert numbers.closed == 1
        assert station._task is None

    asyncio.run(run())


def test_a_station_that_was_too_slow_plays_on_without_hurry(clock: list[float]) -> None:
    async def run() -> None:
        numbers = Numbers(clock)
        blocks = Station(1, numbers.make).blocks()
        await take(blocks, 5)
        numbers.cost = 100.0
        await take(blocks, 3)
        numbers.cost, before = 0.0, clock[0]
        await take(blocks, 20)
        assert clock[0] - before >= 20 - HTTP_AHEAD - 1  # in its own time again: what was lost is not made up for
        assert numbers.asked[7] == 0

        await blocks.aclose()  # type: ignore[attr-defined]

    asyncio.run(run())


def test_an_error_ends_the_station_for_all_and_the_next_begins_again(clock: list[float]) -> None:
    async def run() -> None:
        numbers = Numbers(clock)
        station = Station(1, numbers.make)

        async def fails(buffered: float) -> bytes:
            raise ValueError("broken")

        works: Callable[[float], Any] = numbers.block
        numbers.block = fails  # type: ignore[method-assign]
        blocks = station.blocks()
        with pytest.raises(StopAsyncIteration):
            await anext(blocks)
        numbers.block = works  # type: ignore[method-assign]
        again = station.blocks()
        assert await take(again, 3) == [0, 1, 2]
        await again.aclose()  # type: ignore[attr-defined]

    asyncio.run(run())


def test_blocks_are_one_production(small: dict[str, Model]) -> None:
    """Twenty listeners cost the workers as much as one."""
    with served(small) as radio, contextlib.ExitStack() as stack:
        jobs = []
        submit = radio.radio.engine.submit
        radio.radio.engine.submit = lambda deadline, run: jobs.append(run) or submit(deadline, run)  # type: ignore[func-returns-value,method-assign,assignment]
        listeners = [stack.enter_context(tuned_in(radio)) for _ in range(20)]
        heard = [listener.read(2 * 44100 * FRAME) for listener in listeners]
        assert all(np.frombuffer(samples, "<i2").any() for samples in heard)
        before = radio.radio.stations["small"]._made  # it plays on while we count
        count = len(jobs)
        assert before <= count <= radio.radio.stations["small"]._made + 1
