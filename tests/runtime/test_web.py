"""The web radio's API, over real sockets: a server in this process, clients beside it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette", reason="the extra [web] is not installed")
pytest.importorskip("uvicorn", reason="the extra [web] is not installed")
pytest.importorskip("websockets", reason="the extra [web] is not installed")

from everwave.audio import Writer
from everwave.model import Model
from everwave.web import server as web_server
from everwave.web.engine import Engine, Seats
from everwave.web.limits import Addresses, Bucket, Limits, Refused, address_of
from everwave.web.radio import Radio
from everwave.weights import ModelFile
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

EASY = Limits(requests_per_minute=100_000, listeners_per_address=1000, utilisation=1000)
FRAME = 4  # bytes: two channels of 16 bits


class Served:
    """A running server."""

    def __init__(self, radio: Radio, port: int) -> None:
        self.radio, self.port = radio, port

    def ask(self, path: str, body: Any = None, method: str | None = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
        """(status, headers, body)"""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        with contextlib.closing(connection):
            content = body if body is None or isinstance(body, bytes) else json.dumps(body)
            if body is not None:
                headers = {"content-type": "application/json"} | headers
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method or ("GET" if body is None else "POST"), path, content, names)
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()

    def error(self, path: str, body: Any = None, **headers: str) -> tuple[int, str]:
        status, _, content = self.ask(path, body, **headers)
        return status, json.loads(content)["error"]

    def listen(self, query: str = "seed=7", **options: Any) -> ClientConnection:
        return connect(f"ws://127.0.0.1:{self.port}/api/stream?{query}", compression=None, max_size=None, **options)

    def is_idle(self, seconds: float = 5.0) -> bool:
        """Whether all seats become free and all work ends."""
        return becomes(lambda: not len(self.radio.seats) and not self.radio.engine._jobs, seconds)


def becomes(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


@contextlib.contextmanager
def served(file: ModelFile, limits: Limits = EASY, threads: int = 2) -> Iterator[Served]:
    model = Model.from_parts(file, 1, backend="numpy")
    radio = Radio({"small": model}, limits, threads)
    server = web_server.Server(radio, "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            assert becomes(lambda: server.started, 30)
            yield Served(radio, listening.getsockname()[1])
        finally:
            server.handle_exit(signal.SIGTERM, None)
            thread.join(10)
            assert not thread.is_alive()


@pytest.fixture(scope="module")
def radio(smallest_model: ModelFile) -> Iterator[Served]:
    with served(smallest_model) as running:
        yield running


@pytest.fixture(scope="module")
def model(smallest_model: ModelFile) -> Model:
    return Model.from_parts(smallest_model, 1, backend="numpy")


def pcm(samples: np.ndarray, tmp_path: Path) -> bytes:
    """The bytes of the WAV file that `everwave generate` writes for samples."""
    with Writer(tmp_path / "expected.wav", 44100) as writer:
        writer.write(samples)
    return (tmp_path / "expected.wav").read_bytes()


def samples_of(wav: bytes) -> bytes:
    return wav[wav.index(b"data") + 8 :]


def message(connection: ClientConnection, kind: str | None = None) -> dict[str, Any]:
    """The next JSON message (of a kind), samples passed over."""
    while True:
        data = connection.recv(timeout=20)
        if isinstance(data, str) and kind in (None, json.loads(data)["type"]):
            return json.loads(data)


class Listener:
    """Plays everything at once: keeps samples, reports them as played, answers nothing else."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.log = message(connection)["log"]
        self.samples = b""
        self.messages: list[dict[str, Any]] = []

    def play_until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            data = self.connection.recv(timeout=20)
            if isinstance(data, bytes):
                self.samples += data
                self.connection.send(json.dumps({"played": len(self.samples) // FRAME}))
            else:
                self.take(json.loads(data))

    def take(self, news: dict[str, Any]) -> None:
        self.messages.append(news)
        if news["type"] == "changed":
            self.log["changes"] = [c for c in self.log["changes"] if c["at"] < news["from"]] + news["changes"]

    def change(self, glide: float = 0.0, **controls: Any) -> dict[str, Any]:
        """Change controls and play on until that is answered."""
        before = len(self.messages)
        self.connection.send(json.dumps({"set": controls, "glide": glide}))
        self.play_until(lambda: len(self.messages) > before)
        return self.messages[-1]

    def heard(self) -> dict[str, Any]:
        return self.log | {"frames": len(self.samples) // FRAME}


# -- the same samples everywhere ------------------------------------------------------------------------------------


def test_generate_gives_the_file_that_the_command_writes(radio: Served, model: Model, tmp_path: Path) -> None:
    wishes = {"seed": 3, "seconds": 1.3, "truncation": 1.5, "start": 20.0, "bpm": 130.0, "style": 9}
    status, headers, content = radio.ask("/api/generate", {"model": "small", **wishes})
    assert status == 200, content
    assert headers["content-type"] == "audio/wav"
    assert headers["x-everwave-seed"] == "3"
    assert int(headers["content-length"]) == len(content)
    assert content == pcm(model.generate(**wishes), tmp_path)  # type: ignore[arg-type]


def test_a_seed_that_is_drawn_is_told(radio: Served, model: Model, tmp_path: Path) -> None:
    _, headers, content = radio.ask("/api/generate", {"seconds": 0.2})
    again = model.generate(0.2, int(headers["x-everwave-seed"]))
    assert content == pcm(again, tmp_path)


def test_the_plain_stream_is_the_piece_from_its_start(radio: Served, model: Model, tmp_path: Path) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", radio.port, timeout=20)
    with contextlib.closing(connection):
        connection.request("GET", "/api/stream?seed=5&start=2&bpm=125")
        answer = connection.getresponse()
        expected = pcm(model.generate(1.0, 5, start=2, bpm=125), tmp_path)
        header = len(expected) - len(samples_of(expected))
        received = answer.read(len(expected))
    assert received[header:] == samples_of(expected)
    assert received[header - 4 : header] == b"\xff" * 4  # a length that is not known
    assert radio.is_idle()


def test_what_a_listener_hears_under_changes_is_what_its_log_makes_again(radio: Served) -> None:
    with radio.listen("seed=7&bpm=140") as connection:
        listener = Listener(connection)
        listener.play_until(lambda: len(listener.samples) > 1 << 15)
        assert listener.change(bpm=122)["type"] == "changed"
        listener.play_until(lambda: len(listener.samples) > 1 << 16)
        listener.change(glide=2.0, style=99)
        listener.change(truncation=0.5, gain=0.7)
        refused = listener.change(bpm=1000)
        assert refused["type"] == "refused"
        assert "1000" in refused["message"]
        listener.play_until(lambda: len(listener.samples) > 1 << 18)
    log = listener.heard()
    assert {key for change in log["changes"] for key in change} >= {"bpm", "style", "truncation", "gain", "at"}
    status, headers, wav = radio.ask("/api/generate", {"log": log})
    assert status == 200, wav
    assert samples_of(wav) == listener.samples
    assert headers["content-disposition"] == 'attachment; filename="everwave-small-7.wav"'
    plain = radio.ask("/api/generate", {"seed": 7, "bpm": 140, "seconds": log["frames"] / 44100})[2]
    assert samples_of(plain) != listener.samples  # the changes were heard


def test_a_listener_gets_ahead_only_as_far_as_it_says(radio: Served) -> None:
    with radio.listen("seed=7") as connection:
        message(connection)
        received = 0
        with contextlib.suppress(TimeoutError):
            while True:
                received += len(connection.recv(timeout=0.5)) // FRAME
        assert 0.6 * 44100 <= received < 0.6 * 44100 + 2 * 4096
        connection.send(json.dumps({"played": received, "ahead": 2.0}))
        more = 0
        with contextlib.suppress(TimeoutError):
            while True:
                more += len(connection.recv(timeout=0.5)) // FRAME
        assert 2.0 * 44100 <= more < 2.0 * 44100 + 2 * 4096
    assert radio.is_idle()


def test_head_of_the_stream_is_no_stream(radio: Served) -> None:
    status, _, content = radio.ask("/api/stream", method="HEAD")
    assert (status, content) == (200, b"")
    assert not len(radio.radio.seats)


# -- what is refused --------------------------------------------------------------------------------------------------

NOT_SERVED = [
    ({"seconds": "10"}, "seconds='10'"),
    ({"seconds": True}, "seconds=True"),
    ({"seconds": 0}, "0.1"),
    ({"seconds": 3601}, "3600"),
    ({"seconds": 1e999}, "JSON"),
    ({"seconds": 10**400}, "a huge number"),
    ({"seed": -1}, "seed=-1"),
    ({"seed": 1.5}, "seed=1.5"),
    ({"seed": 2**64}, "seed=18446744073709551616"),
    ({"bpm": 20}, "120 to 160"),
    ({"bpm": "/etc/passwd"}, "bpm='/etc/passwd'"),
    ({"bpm": [[0, 130], [1, 140]]}, "bpm=[[0, 130], [1, 140]]"),
    ({"density": 5}, "'density' is not known here"),
    ({"style": "a"}, "style='a'"),
    ({"model": 5}, "model=5"),
    ({"threads": 64}, "'threads'"),
    ([], "JSON object"),
    (b"{", "not JSON"),
    (b'{"seconds": NaN}', "not JSON"),
    (b"[" * 100_000, "not JSON"),
    (b"\xff\xfe", "not JSON"),
    ({"log": 5}, "log"),
    ({"log": {}}, "log"),
    ({"log": {"frames": 10**12, "seed": 1}}, "3600"),
    ({"log": {"frames": 10, "seed": 1, "controls": {"bpm": "/etc/passwd"}}}, "only numbers"),
    ({"log": {"frames": 10, "seed": 1, "controls": {"bpm": {"a": ["/etc/passwd"]}}}}, "only numbers"),
    ({"log": {"frames": 10, "seed": 1, "start": 0, "sample_rate": 44100, "controls": {}, "changes": [5]}}, "changes"),
    ({"log": {"frames": 10, "seed": 1}, "seconds": 5}, "'seconds'"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "reason"), NOT_SERVED, ids=lambda value: str(value)[:40])
def test_a_bad_piece_is_one_line(radio: Served, body: Any, reason: str) -> None:
    content = json.dumps(body).encode() if not isinstance(body, bytes) else body
    status, error = radio.error("/api/generate", content)
    assert status == 400
    assert reason in error
    assert "\n" not in error
    assert len(error) < 250


@pytest.mark.parametrize("query", ["seed=x", "bpm=20", "bpm=nan", "bpm=/etc/passwd", "start=-1", "start=inf", "seed=1&seed=2", "x=1",
                                   "truncation=9", "seconds=5", "seed=" + "9" * 5000])  # fmt: skip
def test_a_bad_stream_is_refused_on_both_ways_in(radio: Served, query: str) -> None:
    status, error = radio.error(f"/api/stream?{query}")
    assert status == 400
    with radio.listen(query) as connection:
        end = message(connection)
        assert end == {"type": "end", "message": error}
        with pytest.raises(ConnectionClosed):
            connection.recv(timeout=5)
        assert connection.close_code == 1008


def test_unknown_models_and_paths(radio: Served) -> None:
    for name in ("techno", "../../weights/techno", "/etc/passwd", "small.h5", ""):
        assert radio.error("/api/generate", {"model": name})[0] == 404
    for path in ("/etc/passwd", "/../etc/passwd", "/%2e%2e/etc/passwd", "/static/..%2f..%2fetc/passwd", "//etc/passwd", "/page/app.js"):
        assert radio.error(path)[0] == 404
    assert radio.error("/api/generate")[0] == 405
    assert radio.error("/api/generate", {}, content_type="text/plain")[0] == 415


@pytest.mark.parametrize("text", ["x", "[]", '{"played": -1}', '{"played": 1000000000}', '{"played": "1"}', '{"ahead": 0}', '{"set": 5}',
                                  '{"set": {"bpm": "/etc/passwd"}}', '{"set": {"seed": 1}}', '{"set": {}, "glide": -1}', '{"x": 1}'])  # fmt: skip
def test_a_bad_message_is_answered_and_the_music_goes_on(radio: Served, text: str) -> None:
    with radio.listen() as connection:
        listener = Listener(connection)
        connection.send(text)
        listener.play_until(lambda: len(listener.messages) > 0)
        assert listener.messages[0]["type"] == "refused"
        before = len(listener.samples)
        listener.play_until(lambda: len(listener.samples) > before + (1 << 15))


def test_messages_that_are_too_long_or_no_text_end_the_stream(radio: Served) -> None:
    for data in ("x" * 20_000, b"\0"):
        with radio.listen() as connection:
            message(connection)
            with contextlib.suppress(ConnectionClosed):
                connection.send(data)
                while True:
                    connection.recv(timeout=5)
        assert radio.is_idle()


opened: list[str] | None = None


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if opened is not None and event in ("open", "os.listdir", "os.scandir", "subprocess.Popen"):
        opened.append(f"{event} {arguments[0]}")


def test_no_request_reaches_the_file_system(radio: Served) -> None:
    global opened

    def listened(query: str) -> None:
        with radio.listen(query) as connection:
            message(connection)

    requests: list[Callable[[], Any]] = [
        *[lambda path=path: radio.ask(path) for path in ("/", "/app.js", "/style.css", "/../pyproject.toml", "/api/models", "/api/openapi.json")],
        *[lambda body=body: radio.ask("/api/generate", body if isinstance(body, bytes) else json.dumps(body).encode()) for body, _ in NOT_SERVED],
        lambda: radio.ask("/api/generate", {"seconds": 0.2, "model": "small", "bpm": 130}),
        lambda: radio.ask("/api/stream?bpm=pyproject.toml"),
        lambda: listened("model=pyproject.toml"),
        lambda: listened("seed=1"),
    ]  # fmt: skip
    for request in requests:  # what is imported at first use is not the request's doing
        request()
    sys.addaudithook(_watch)
    opened = []
    try:
        for request in requests:
            request()
        assert radio.is_idle()
        assert opened == []
        Path(__file__).open().close()
        assert len(opened) == 1  # the hook does see
    finally:
        opened = None


# -- limits -----------------------------------------------------------------------------------------------------------


def test_listeners_are_counted_and_the_next_is_refused(smallest_model: ModelFile) -> None:
    limits = replace(EASY, listeners=3, listeners_per_address=2)
    with served(smallest_model, limits) as radio, radio.listen() as first, radio.listen() as second:
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


def test_requests_are_counted(smallest_model: ModelFile) -> None:
    with served(smallest_model, replace(EASY, requests_per_minute=5)) as radio:
        for _ in range(5):
            assert radio.ask("/api/generate", {"seconds": 0.1})[0] == 200
        status, headers, _ = radio.ask("/api/generate", {"seconds": 0.1})
        assert status == 429
        assert int(headers["retry-after"]) <= 13
        assert radio.error("/api/stream")[0] == 429
        assert radio.ask("/")[0] == 200  # pages cost nothing


def test_requests_that_are_too_large_or_too_slow(smallest_model: ModelFile) -> None:
    with served(smallest_model, replace(EASY, body_bytes=1000, body_seconds=0.5)) as radio:
        assert radio.error("/api/generate", b" " * 1001)[0] == 413
        with socket.create_connection(("127.0.0.1", radio.port)) as slow:
            slow.sendall(b"POST /api/generate HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 50\r\n\r\n{")
            slow.settimeout(5)
            assert slow.recv(1000).startswith(b"HTTP/1.1 408")
        with socket.create_connection(("127.0.0.1", radio.port)) as long:
            long.sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\nx: " + b"y" * 40_000)
            long.settimeout(5)
            assert b" 400 " in long.recv(1000)


def test_silent_connections_are_closed(smallest_model: ModelFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_server, "QUIET_SECONDS", 0.3)
    with served(smallest_model) as radio:
        for start in (b"", b"GET / HTTP/1.1\r\nhost: local"):
            with socket.create_connection(("127.0.0.1", radio.port)) as silent:
                silent.sendall(start)
                silent.settimeout(5)
                assert silent.recv(1000) == b""
        with radio.listen() as connection:  # a stream may go on
            listener = Listener(connection)
            end = time.monotonic() + 1
            listener.play_until(lambda: time.monotonic() > end)


def test_only_so_many_pieces_are_made_at_once(smallest_model: ModelFile) -> None:
    with served(smallest_model, replace(EASY, generate_jobs=1)) as radio:
        slow = http.client.HTTPConnection("127.0.0.1", radio.port, timeout=20)
        with contextlib.closing(slow):
            slow.request("POST", "/api/generate", json.dumps({"seconds": 3000}), {"content-type": "application/json"})
            slow.getresponse()  # and nothing of it is read
            status, error = radio.error("/api/generate", {"seconds": 0.1})
            assert status == 503
            assert "1 pieces are being made" in error
        assert becomes(lambda: radio.ask("/api/generate", {"seconds": 0.1})[0] == 200)


def test_listeners_who_do_not_play_are_let_go(smallest_model: ModelFile) -> None:
    with served(smallest_model, replace(EASY, stall_seconds=0.5)) as radio:
        with radio.listen() as connection:
            assert "nothing was played for 0.5 s" in message(connection, "end")["message"]
        assert radio.is_idle()
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", radio.port, timeout=20)) as deaf:
            deaf.request("POST", "/api/generate", json.dumps({"seconds": 3000}), {"content-type": "application/json"})
            deaf.getresponse()  # and nothing of it is read
            assert radio.radio._making == 1
            assert becomes(lambda: radio.radio._making == 0)


def test_listeners_who_vanish_cost_nothing(radio: Served) -> None:
    with radio.listen() as connection, socket.create_connection(("127.0.0.1", radio.port)) as plain:
        message(connection)
        plain.sendall(b"GET /api/stream HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert plain.recv(100)
        assert len(radio.radio.seats) == 2
        connection.socket.shutdown(socket.SHUT_RDWR)  # no goodbye
        plain.shutdown(socket.SHUT_RDWR)
        assert radio.is_idle()


def test_changes_are_limited(smallest_model: ModelFile) -> None:
    limits = replace(EASY, changes=3)
    with served(smallest_model, limits) as radio, radio.listen() as connection:
        for _ in range(4):
            connection.send(json.dumps({"set": {"truncation": 1}}))
        assert "more than 3 changes" in message(connection, "end")["message"]
    with served(smallest_model, replace(EASY, changes_per_second=1)) as radio, radio.listen() as connection:
        for _ in range(5):
            connection.send(json.dumps({"set": {"truncation": 1}}))
        assert "more than 1 changes a second" in message(connection, "end")["message"]


# -- browsers -----------------------------------------------------------------------------------------------------------


def test_every_answer_has_the_headers_that_browsers_heed(radio: Served) -> None:
    for path, body in (("/", None), ("/app.js", None), ("/nothing", None), ("/api/models", None), ("/api/generate", {"seconds": 0.1})):
        _, headers, _ = radio.ask(path, body)
        assert "default-src 'none'; script-src 'self';" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert "access-control-allow-origin" not in headers
        assert "server" not in headers


@pytest.mark.parametrize("headers", [{"host": "evil.example"}, {"host": "127.0.0.1.evil.example"}, {"host": ""}, {"host": "a b"},
                                     {"origin": "https://evil.example"}, {"origin": "null"}, {"sec_fetch_site": "cross-site"}])  # fmt: skip
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


# -- what the API says of itself ----------------------------------------------------------------------------------------


def test_openapi_describes_what_is_there(radio: Served) -> None:
    document = json.loads(radio.ask("/api/openapi.json")[2])
    assert document["openapi"].startswith("3.1")
    assert set(document["paths"]) == {"/api/models", "/api/generate", "/api/stream"}
    text = json.dumps(document)
    for reference in {part.partition('"')[0] for part in text.split('"$ref": "')[1:]}:
        node: Any = document
        for step in reference.removeprefix("#/").split("/"):
            node = node[step]
    parameters = {p["name"]: p["schema"] for p in document["paths"]["/api/stream"]["get"]["parameters"]}
    assert parameters["truncation"] == {"type": "number", "description": "how far from the usual: less is tamer",
                                        "minimum": 0, "maximum": 8, "default": 2.0}  # fmt: skip
    for name, value in {"seed": 1, "truncation": 1.0, "start": 1.0, "style": 2, "gain": 0.5, "bpm": 130, "model": "small"}.items():
        assert name in parameters
        assert radio.ask("/api/generate", {name: value, "seconds": 0.1})[0] == 200
    answer = json.loads(radio.ask("/api/models")[2])
    schema = document["paths"]["/api/models"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert set(answer) == set(schema["required"])
    assert set(answer["models"][0]) == set(schema["properties"]["models"]["items"]["required"])
    assert answer["models"][0]["conditions"][0]["name"] == "bpm"
    assert answer["models"][0]["lacks"] == {"density": "small was trained without note density"}


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
    with pytest.raises(RuntimeError):
        engine.submit(0.0, order.clear)


def test_seats_go_by_measured_cost() -> None:
    now = [0.0]
    seats = Seats(replace(EASY, utilisation=0.5), threads=2, clock=lambda: now[0])  # one worker's worth
    for _ in range(200):
        seats.measured("dear", 0.3, 1.0)
    taken = [seats.take("a", "dear") for _ in range(3)]
    with pytest.raises(Refused, match="busy with 3 listeners"):
        seats.take("a", "dear")
    seats.leave(taken[0])
    seats.leave(taken[0])
    seats.take("a", "dear")
    seats.leave(taken[1])
    seats.late()
    with pytest.raises(Refused, match="busy"):
        seats.take("a", "dear")
    now[0] += 11
    seats.take("a", "dear")


def test_buckets_and_addresses() -> None:
    now = [0.0]
    bucket = Bucket(2.0, 4.0, clock=lambda: now[0])
    assert [bucket.wait() for _ in range(5)] == [0, 0, 0, 0, 0.5]
    now[0] += 0.5
    assert bucket.wait() == 0
    addresses = Addresses(1, remembered=2)
    addresses.check("a")
    with pytest.raises(Refused, match="1 requests a minute"):
        addresses.check("a")
    addresses.check("b"), addresses.check("c"), addresses.check("a")  # forgotten in the meantime
    assert address_of(("2001:db8::1", 1)) == address_of(("2001:db8::ffff:2", 1)) == "2001:db8::/64"
    assert address_of(("::ffff:1.2.3.4", 1)) == address_of(("1.2.3.4", 9)) == "1.2.3.4"
    assert address_of(("fe80::1%eth0", 1)) == "fe80::/64"
    assert address_of(None) == address_of(("unknown", 0)) == "unknown"


# -- the command ------------------------------------------------------------------------------------------------------------


def command(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", "everwave", "serve", *arguments], stderr=subprocess.PIPE, text=True,
                            env=os.environ | environment)  # fmt: skip


@pytest.fixture(scope="module")
def weights_file(smallest_model: ModelFile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from everwave import weights

    path = tmp_path_factory.mktemp("weights") / "tiny.h5"
    weights.write(path, smallest_model)
    return path


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_and_stops_at_once(weights_file: Path, sent: signal.Signals) -> None:
    process = command("--model", str(weights_file), "--port", "0", "--threads", "1")
    assert process.stderr is not None
    with process:
        line = process.stderr.readline()
        assert line.startswith("everwave: tiny at http://127.0.0.1:"), line
        port = int(line.rsplit(":", 1)[1].strip().rstrip("/"))
        running = Served(None, port)  # type: ignore[arg-type]
        assert becomes(lambda: _answers(running), 30)
        with running.listen("") as connection:
            message(connection)
            process.send_signal(sent)
            begin = time.monotonic()
            code = process.wait(10)
            assert time.monotonic() - begin < 4
            assert code in ((130,) if sent == signal.SIGINT else (-signal.SIGTERM, 143))
        assert "Traceback" not in process.stderr.read()


def _answers(running: Served) -> bool:
    try:
        return running.ask("/api/models")[0] == 200
    except OSError:
        return False


def test_the_command_says_what_is_wrong(weights_file: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for arguments, reason in ((("--port", port), f"port {port} ("), (("--port", "70000"), "--port 70000"),
                                  (("--model", str(weights_file)), "two models are called tiny")):  # fmt: skip
            with command("--model", str(weights_file), "--threads", "1", *arguments) as process:
                assert process.wait(60) == 2
                assert process.stderr is not None
                assert reason in process.stderr.read()


def test_the_command_without_the_extra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from everwave.cli import main

    monkeypatch.setitem(sys.modules, "everwave.web.server", None)
    monkeypatch.delitem(sys.modules, "everwave.web.server")
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["serve"]) == 2
    assert "pip install 'everwave[web]'" in capsys.readouterr().err
