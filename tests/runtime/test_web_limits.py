"""The web radio under bad manners: too many, too much, too slow, gone, from elsewhere; and how it shares its workers."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Collection
from dataclasses import replace
from typing import Any

import pytest
from everwave.model import Model
from everwave.web import server as web_server
from everwave.web.engine import CLOSED_SECONDS, GIVE_UP_SECONDS, HALF_LIFE, NEW_SECONDS, Cost, Engine, Seat, Seats
from everwave.web.limits import Addresses, Bucket, Refused, address_of, limits_for
from everwave.web.voices import MOST_AHEAD, Conversation
from radio_client import EASY, Listener, Served, becomes, message, served
from websockets.exceptions import ConnectionClosed, InvalidStatus

# -- limits -----------------------------------------------------------------------------------------------------------


def test_listeners_are_counted_and_the_next_is_refused(small: dict[str, Model]) -> None:
    limits = replace(EASY, listeners=3, listeners_per_address=2)
    with served(small, limits) as radio, radio.listen() as first, radio.listen() as second:
        message(first), message(second)
        status, headers, content = radio.ask("/api/stream")
        assert (status, headers["retry-after"]) == (429, "61")
        assert "2 streams play at your address" in json.loads(content)["error"]
        radio.radio.limits = radio.radio.seats.limits = replace(limits, listeners=2, listeners_per_address=9)
        status, headers, content = radio.ask("/api/stream")
        assert (status, headers["retry-after"]) == (503, "61")
        with radio.listen() as third:
            assert message(third) == {"type": "end", "message": json.loads(content)["error"]}
            with pytest.raises(ConnectionClosed):
                third.recv(timeout=5)
            assert third.close_code == 1013
        first.close()
        assert becomes(lambda: len(radio.radio.seats) == 1)
        with radio.listen() as again:
            assert message(again)["type"] == "start"


def test_requests_are_counted(small: dict[str, Model]) -> None:
    with served(small, replace(EASY, requests_per_minute=5)) as radio:
        for _ in range(5):
            assert radio.ask("/api/generate", {"seconds": 0.1})[0] == 200
        status, headers, _ = radio.ask("/api/generate", {"seconds": 0.1})
        assert status == 429
        assert int(headers["retry-after"]) <= 13
        assert radio.error("/api/stream")[0] == 429
        assert radio.ask("/")[0] == 200  # pages cost nothing


def test_requests_that_are_too_large_or_too_slow(small: dict[str, Model]) -> None:
    with served(small, replace(EASY, body_bytes=1000, body_seconds=0.5)) as radio:
        assert radio.error("/api/generate", b" " * 1001)[0] == 413
        with socket.create_connection(("127.0.0.1", radio.port)) as slow:
            slow.sendall(
                b"POST /api/generate HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 50\r\n\r\n{"
            )
            slow.settimeout(5)
            assert slow.recv(1000).startswith(b"HTTP/1.1 408")
        with socket.create_connection(("127.0.0.1", radio.port)) as long:
            long.sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\nx: " + b"y" * 40_000)
            long.settimeout(5)
            assert b" 400 " in long.recv(1000)


def test_silent_connections_are_closed(small: dict[str, Model], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_server, "QUIET_SECONDS", 0.3)
    with served(small) as radio:
        for start in (b"", b"GET / HTTP/1.1\r\nhost: local"):
            with socket.create_connection(("127.0.0.1", radio.port)) as silent:
                silent.sendall(start)
                silent.settimeout(5)
                assert silent.recv(1000) == b""
        with radio.listen() as connection:  # a stream may go on
            listener = Listener(connection)
            end = time.monotonic() + 1
            listener.play_until(lambda: time.monotonic() > end)


def test_only_so_many_pieces_are_made_at_once(small: dict[str, Model]) -> None:
    with served(small, replace(EASY, generate_jobs=1)) as radio:
        slow = http.client.HTTPConnection("127.0.0.1", radio.port, timeout=20)
        with contextlib.closing(slow):
            slow.request("POST", "/api/generate", json.dumps({"seconds": 3000}), {"content-type": "application/json"})
            slow.getresponse()  # and nothing of it is read
            status, error = radio.error("/api/generate", {"seconds": 0.1})
            assert status == 503
            assert "1 pieces are being made" in error
        assert becomes(lambda: radio.ask("/api/generate", {"seconds": 0.1})[0] == 200)


def test_one_address_leaves_room_for_others(small: dict[str, Model]) -> None:
    with served(small, replace(EASY, generate_jobs=4)) as radio, contextlib.ExitStack() as stack:
        for _ in range(2):
            slow = http.client.HTTPConnection("127.0.0.1", radio.port, timeout=20)
            stack.enter_context(contextlib.closing(slow))
            slow.request("POST", "/api/generate", json.dumps({"seconds": 3000}), {"content-type": "application/json"})
            slow.getresponse()  # and nothing of it is read
        status, headers, content = radio.ask("/api/generate", {"seconds": 0.1})
        assert (status, headers["retry-after"]) == (429, "11")
        assert "2 pieces are being made for your address" in json.loads(content)["error"]
        assert radio.ask("/api/generate", {"seconds": 0.1}, x_forwarded_for="10.0.0.1")[0] == 200
        assert becomes(lambda: len(radio.radio._making) == 2)
    assert [limits_for(n).listeners_per_address for n in (1, 2, 7, 40, 100, 1000)] == [1, 1, 3, 20, 20, 20]


def test_a_log_is_read_by_a_worker(small: dict[str, Model], monkeypatch: pytest.MonkeyPatch) -> None:
    readers, replay = [], Model.replay

    def noted(*arguments: Any, **options: Any) -> Any:
        readers.append(threading.current_thread().name)
        return replay(*arguments, **options)

    monkeypatch.setattr(Model, "replay", noted)
    log = {"sample_rate": 44100, "seed": 1, "start": 0, "frames": 1, "controls": {}}
    changes = [{"at": 10_000 * i, "style": i} for i in range(6)]
    with served(small, replace(EASY, changes=3)) as radio:
        assert radio.ask("/api/generate", {"log": log | {"changes": changes}})[0] == 200
        assert radio.error("/api/generate", {"log": log | {"changes": [{"at": 5, "bpm": 500}]}})[0] == 400
        assert [name.rpartition("-")[0] for name in readers] == ["everwave-web"] * 2
        status, error = radio.error("/api/generate", {"log": log | {"changes": [*changes, changes[0]]}})
        assert (status, error) == (400, "log: 7 changes; one stream tells at most 6")
        status, error = radio.error("/api/generate", {"log": log | {"changes": [{"at": 0, "seek": 5}]}})
        assert (status, "holds a seek" in error) == (400, True)
        assert len(readers) == 2
        assert becomes(lambda: not radio.radio._making)


def test_listeners_who_do_not_play_are_let_go(small: dict[str, Model]) -> None:
    with served(small, replace(EASY, stall_seconds=0.5)) as radio:
        with radio.listen() as connection:
            assert "nothing was played for 0.5 s" in message(connection, "end")["message"]
        with radio.listen() as connection:  # nor who says again and again that it played nothing
            end, data = time.monotonic() + 5, b""
            while isinstance(data, bytes) or json.loads(data)["type"] != "end":
                assert time.monotonic() < end
                with contextlib.suppress(TimeoutError):
                    data = connection.recv(timeout=0.05)
                with contextlib.suppress(ConnectionClosed):
                    connection.send('{"played": 0}')
        assert radio.is_idle()
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", radio.port, timeout=20)) as deaf:
            deaf.request("POST", "/api/generate", json.dumps({"seconds": 3000}), {"content-type": "application/json"})
            deaf.getresponse()  # and nothing of it is read
            assert len(radio.radio._making) == 1
            assert becomes(lambda: not radio.radio._making, 20)


def test_listeners_who_vanish_cost_nothing(radio: Served) -> None:
    with radio.listen() as connection, socket.create_connection(("127.0.0.1", radio.port)) as plain:
        message(connection)
        plain.sendall(b"GET /api/stream HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert plain.recv(100)
        assert len(radio.radio.seats) == 2
        connection.socket.shutdown(socket.SHUT_RDWR)  # no goodbye
        plain.shutdown(socket.SHUT_RDWR)
        assert radio.is_idle()


def test_changes_are_limited(small: dict[str, Model]) -> None:
    limits = replace(EASY, changes=3)
    with served(small, limits) as radio, radio.listen() as connection:
        for _ in range(4):
            connection.send(json.dumps({"set": {"truncation": 1}}))
        assert "more than 3 changes" in message(connection, "end")["message"]
    with served(small, replace(EASY, changes_per_second=1)) as radio, radio.listen() as connection:
        for _ in range(5):
            connection.send(json.dumps({"set": {"truncation": 1}}))
        assert "more than 1 changes a second" in message(connection, "end")["message"]


# -- browsers -----------------------------------------------------------------------------------------------------------


def test_every_answer_has_the_headers_that_browsers_heed(radio: Served) -> None:
    for path, body in (
        ("/", None),
        ("/app.js", None),
        ("/nothing", None),
        ("/api/models", None),
        ("/api/generate", {"seconds": 0.1}),
    ):
        _, headers, _ = radio.ask(path, body)
        assert "default-src 'none'; script-src 'self';" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert "access-control-allow-origin" not in headers
        assert "server" not in headers


@pytest.mark.parametrize("headers", [{"host": "evil.example"}, {"host": "127.0.0.1.evil.example"}, {"host": ""}, {"host": "a b"}, {"host": "[abc"},
                                     {"origin": "https://evil.example"}, {"origin": "null"}, {"origin": "http://[abc"}, {"sec_fetch_site": "cross-site"}])  # fmt: skip
def test_other_sites_are_not_served(radio: Served, headers: dict[str, str]) -> None:
    assert radio.error("/api/models", **headers)[0] == 403
    assert radio.error("/api/generate", {"seconds": 0.1}, **headers)[0] == 403
    if "host" not in headers:
        with pytest.raises(InvalidStatus, match="403"):
            radio.listen(additional_headers={k.replace("_", "-"): v for k, v in headers.items()})


def test_our_own_page_and_links_to_it_are_served(radio: Served) -> None:
    own = f"http://127.0.0.1:{radio.port}"
    assert radio.ask("/api/models", origin=own, sec_fetch_site="same-origin")[0] == 200
    assert radio.ask("/", sec_fetch_site="cross-site", sec_fetch_mode="navigate")[0] == 200
    assert radio.ask("/api/models", host="localhost:1")[0] == 200
    with radio.listen(origin=own) as connection:
        assert message(connection)["type"] == "start"


def test_pages_are_cached_by_their_content(radio: Served) -> None:
    status, headers, content = radio.ask("/")
    assert status == 200
    assert b"everwave" in content
    assert radio.ask("/", if_none_match=headers["etag"])[0] == 304


def test_nothing_comes_from_elsewhere(radio: Served) -> None:
    import re

    from everwave.web.page import FILES

    for path in FILES:
        text = radio.ask(path)[2].decode()
        outside = [url for url in re.findall(r"https?://[^\s'\")]*", text) if "www.w3.org/2000/svg" not in url]
        assert outside == []


# -- the engine -----------------------------------------------------------------------------------------------------------


def test_whoever_runs_dry_first_is_served_first() -> None:
    engine, order, gate = Engine(1), [], threading.Event()
    engine.submit(0.0, gate.wait)
    futures = [engine.submit(deadline, lambda d=deadline: order.append(d)) for deadline in (5.0, 1.0, 3.0, 1.0)]  # type: ignore[misc]
    futures[2].cancel()
    gate.set()
    for future in (futures[0], futures[1], futures[3]):
        future.result(5)
    assert order == [1.0, 1.0, 5.0]
    with pytest.raises(ZeroDivisionError):
        engine.submit(0.0, lambda: 1 / 0).result(5)
    engine.close()
    with pytest.raises(Refused, match="being stopped"):
        engine.submit(0.0, order.clear)


@pytest.fixture
def now() -> list[float]:
    """The clock of `seats`: one number, which tests move on."""
    return [100.0]


@pytest.fixture
def seats(now: list[float]) -> Seats:
    """Workers for two listeners of "half", of whom one keeps half a worker busy; nobody listens."""
    seats = Seats(replace(EASY, utilisation=0.5), threads=2, clock=lambda: now[0])
    seats.measured("half", 1.5, 3.0)
    return seats


def settled(seats: Seats, now: list[float], count: int) -> list[Seat]:
    taken = []
    for _ in range(count):
        taken.append(seats.take("a", "half"))
        now[0] += 2 * NEW_SECONDS
    return taken


def test_seats_go_by_measured_cost(seats: Seats, now: list[float]) -> None:
    seats.limits = replace(seats.limits, utilisation=0.75)
    first, *_ = settled(seats, now, 2)
    with pytest.raises(Refused, match="busy with 2 listeners") as refusal:
        seats.take("a", "half")
    assert (refusal.value.status, refusal.value.retry_after) == (503, 60)
    seats.leave(first)
    seats.leave(first)
    seats.take("a", "half")
    seats.measured("half", 0.0, 1000.0)  # much cheaper of a sudden
    seats.take("a", "half")


def test_a_new_listener_counts_twice(seats: Seats, now: list[float]) -> None:
    seats.take("a", "half")  # alone
    with pytest.raises(Refused, match="busy with 1 listeners"):
        seats.take("a", "half")
    now[0] += 2 * NEW_SECONDS
    seats.limits = replace(seats.limits, utilisation=0.75)
    seats.take("a", "half")


def test_those_who_hear_the_same_cost_what_one_costs(seats: Seats, now: list[float]) -> None:
    seats.limits = replace(seats.limits, utilisation=0.5)
    taken = [seats.take(address, "half", shared=True) for address in "abc"]
    assert seats.load == pytest.approx(0.5)
    now[0] += 2 * NEW_SECONDS
    with pytest.raises(Refused, match="busy with 3 listeners"):
        seats.take("a", "half")
    seats.limits = replace(seats.limits, utilisation=0.75)
    own = seats.take("a", "half")
    seats.take("d", "half", shared=True)  # though there is room for nobody else
    seats.measured("half", 9000.0, 6000.0)
    for _ in range(3):
        now[0] += 2 * GIVE_UP_SECONDS
        seats.waited(3.0, buffered=0.5)
    assert own.given_up
    assert not any(seat.given_up for seat in taken)
    seats.limits = replace(seats.limits, listeners=5)
    with pytest.raises(Refused, match="all 5 places"):
        seats.take("d", "half", shared=True)


def test_the_first_who_hears_what_all_may_hear_costs_as_much_as_any(seats: Seats, now: list[float]) -> None:
    settled(seats, now, 1)
    with pytest.raises(Refused, match="busy with 1 listeners"):
        seats.take("a", "half", shared=True)


def test_nobody_is_let_in_after_a_slow_block(seats: Seats, now: list[float]) -> None:
    seats.limits = replace(seats.limits, utilisation=10.0)
    settled(seats, now, 1)
    seats.waited(0.2, buffered=0.3)
    seats.waited(2.4, buffered=5.0)  # half of it is left
    settled(seats, now, 1)
    seats.waited(2.6, buffered=5.0)
    with pytest.raises(Refused, match="busy with 2 listeners"):
        seats.take("a", "half")
    now[0] += 2 * CLOSED_SECONDS
    taken = settled(seats, now, 1)
    seats.waited(0.3, buffered=0.0)
    for seat in [*seats._taken]:
        seats.leave(seat)
    assert taken
    seats.take("a", "half")  # alone: served as well as it goes


def test_those_who_came_last_are_given_up_when_the_machine_becomes_too_slow(seats: Seats, now: list[float]) -> None:
    seats.limits = replace(seats.limits, utilisation=10.0)
    taken = settled(seats, now, 4)
    given_up = lambda: [seat.given_up for seat in taken]  # noqa: E731
    seats.measured("half", 0.0, 3000.0)  # workers keep up: that somebody ran dry was an accident
    seats.waited(3.0, buffered=0.5)
    assert given_up() == [False, False, False, False]
    seats.measured("half", 9000.0, 6000.0)
    seats.waited(3.0, buffered=5.0)  # they do not, but all have something to play
    assert given_up() == [False, False, False, False]
    seats.waited(3.0, buffered=0.5)
    seats.waited(3.0, buffered=0.5)
    assert given_up() == [False, False, False, True]
    for _ in range(5):
        now[0] += 2 * GIVE_UP_SECONDS
        seats.waited(3.0, buffered=0.5)
    assert given_up() == [False, True, True, True]


@pytest.mark.parametrize(("slow", "seconds"), [((), 0.6), ((0,), 1.2), ((3, 9), 2.4), (range(1000), MOST_AHEAD)])
def test_listeners_get_more_ahead_where_blocks_come_slowly(slow: Collection[int], seconds: float) -> None:
    class Tenths:
        rate, sent, slow = 10, 0, False

        async def block(self, buffered: float) -> bytes:
            self.slow, self.sent = self.sent in slow, self.sent + 1
            return b""

    async def run() -> int:
        live, sent = Tenths(), []

        async def send(data: bytes) -> None:
            sent.append(data)

        speaking = asyncio.create_task(Conversation(live, None, {}, EASY, send).speak())  # type: ignore[arg-type]
        for _ in range(1000):  # nothing is played
            await asyncio.sleep(0)
        speaking.cancel()
        return len(sent)

    assert asyncio.run(run()) == round(10 * seconds)


def test_the_cost_is_that_of_late_and_survives_silence(now: list[float]) -> None:
    cost = Cost(lambda: now[0])
    assert cost.value == 0
    for _ in range(100):
        cost.add(0.5, 1.0)
        now[0] += 1.0
    assert cost.value == pytest.approx(0.5)
    for _ in range(round(HALF_LIFE)):
        cost.add(1.5, 1.0)
        now[0] += 1.0
    assert cost.value == pytest.approx(1.0, abs=0.05)
    now[0] += 1e6
    cost.add(0.0, 1.0)  # one block is not all that is known
    assert cost.value == pytest.approx(0.75, abs=0.05)


def test_listeners_who_are_given_up_are_told(small: dict[str, Model]) -> None:
    plain = http.client.HTTPConnection
    with served(small) as radio, contextlib.closing(plain("127.0.0.1", radio.port, timeout=20)) as player:
        player.request("GET", "/api/stream?seed=1")
        answer = player.getresponse()
        answer.read(1000)
        with radio.listen() as connection:
            message(connection)
            for seat in radio.radio.seats._taken:
                seat.given_up = True
            with contextlib.suppress(ConnectionClosed):  # it may have been told already
                connection.send(json.dumps({"ahead": 10}))
            assert "too slow for all who listen" in message(connection, "end")["message"]
            with pytest.raises(ConnectionClosed):
                connection.recv(timeout=5)
            assert connection.close_code == 1013
        answer.read()  # to its end, which is as HTTP wants it
        assert answer.isclosed()
        assert radio.is_idle()


def test_buckets_and_addresses() -> None:
    now = [0.0]
    bucket = Bucket(2.0, 4.0, clock=lambda: now[0])
    assert [bucket.wait() for _ in range(5)] == [0, 0, 0, 0, 0.5]
    now[0] += 0.5
    assert bucket.wait() == 0
    assert bucket.wait(6.0) == 2.0  # more than it ever holds: when it is full
    now[0] += 2.0
    assert bucket.wait(6.0) == 0
    addresses = Addresses(1, remembered=2)
    addresses.check("a")
    with pytest.raises(Refused, match="1 requests a minute"):
        addresses.check("a")
    addresses.check("b"), addresses.check("c"), addresses.check("a")  # forgotten in the meantime
    assert address_of(("2001:db8::1", 1)) == address_of(("2001:db8::ffff:2", 1)) == "2001:db8::/64"
    assert address_of(("::ffff:1.2.3.4", 1)) == address_of(("1.2.3.4", 9)) == "1.2.3.4"
    assert address_of(("fe80::1%eth0", 1)) == "fe80::/64"
    assert address_of(None) == address_of(("unknown", 0)) == "unknown"
