"""For the tests of the web radio: a server in this process, and clients beside it over real sockets."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

for _module in ("starlette", "uvicorn", "websockets"):
    pytest.importorskip(_module, reason="the extra [web] is not installed")

from everwave.model import Model  # noqa: E402
from everwave.web.limits import Limits  # noqa: E402
from everwave.web.radio import Radio  # noqa: E402
from everwave.web.server import Server, listening  # noqa: E402
from websockets.sync.client import ClientConnection, connect  # noqa: E402

EASY = Limits(requests_per_minute=100_000, listeners_per_address=1000, utilisation=1000)
FRAME = 4  # bytes: two channels of 16 bits


class Served:
    """A running server."""

    def __init__(self, radio: Radio, port: int, host: str = "127.0.0.1") -> None:
        self.radio, self.port, self.address = radio, port, f"http://{host}:{port}/"

    def ask(
        self, path: str, body: Any = None, method: str | None = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
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
def served(models: Mapping[str, Model], limits: Limits = EASY, host: str = "127.0.0.1") -> Iterator[Served]:
    radio = Radio(models, limits, 2)
    server = Server(radio, host)
    with listening(host, 0) as server_socket:
        thread = threading.Thread(target=server.run, args=([server_socket],))
        thread.start()
        try:
            assert becomes(lambda: server.started, 30)
            yield Served(radio, server_socket.getsockname()[1], host)
        finally:
            server.handle_exit(signal.SIGTERM, None)
            thread.join(10)
            assert not thread.is_alive()


def message(connection: ClientConnection, kind: str | None = None) -> dict[str, Any]:
    """The next JSON message (of a kind), samples passed over."""
    while True:
        data = connection.recv(timeout=20)
        if isinstance(data, str) and kind in (None, json.loads(data)["type"]):
            return json.loads(data)


class Listener:
    """Plays everything at once: keeps samples, reports them as played, answers nothing else.

    REPORT seconds pass from one report to the next, as the server takes 50 messages a second and no more.
    """

    REPORT = 0.02

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
                time.sleep(self.REPORT)
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
