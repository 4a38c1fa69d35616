"""Runs the radio under uvicorn: which address, which models, how it stops."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import re
import socket
import sys
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any

import uvicorn
import websockets  # noqa: F401 - uvicorn imports it only when the radio is up
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from .. import checks, weights
from ..errors import ModelError, UsageError, short
from ..model import Model
from ..stopping import handled_by
from .limits import limits_for
from .radio import Radio, application

LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})
QUIET_SECONDS = 10.0  # for a connection to say something complete
MESSAGE_BYTES = 1 << 14  # of a listener
REQUEST_BYTES = 1 << 14  # of a request's line and headers
SEND_BYTES = 1 << 18  # on their way to one reader: 1.5 s of music
OTHER_CONNECTIONS = 200  # besides listeners, before new ones are turned away


log = logging.getLogger(__name__)


class Protocol(H11Protocol):
    """HTTP/1.1 that hangs up on those who say nothing, or not all of it, for QUIET_SECONDS."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.loop.call_later(QUIET_SECONDS, self._hang_up_if_silent, None)

    def _hang_up_if_silent(self, answered: Any) -> None:
        """`answered`: the request after which nothing had come when this was called last; None: not even one."""
        if self.transport.is_closing() or self.transport.get_protocol() is not self:
            return
        busy = self.cycle is not None and not self.cycle.response_complete
        if not busy and self.cycle is answered:
            self.transport.close()
        else:
            self.loop.call_later(QUIET_SECONDS, self._hang_up_if_silent, NEW if busy else self.cycle)


NEW = object()  # is no request


def serve(names: Sequence[str], host: str, port: int, threads: int | None, precision: str, listeners: int,
          hosts: Sequence[str] = ()) -> None:  # fmt: skip
    """Serve until interrupted. `names`: shipped names or files; none: every shipped model that generates.

    `hosts`: names besides its own that a server for this machine only answers to, for a proxy that passes them on.
    """
    limits = limits_for(int(checks.number("listeners", listeners, 1, 10_000)))
    count = checks.threads(threads)
    for name in hosts:
        if not re.fullmatch(r"[\w.-]+", name):
            raise UsageError(f"--name {short(name)}; give a host name alone, as radio.example")
    models = load_models(names, count, precision)
    with listening(host, port) as connection:
        radio = Radio(models, limits, count)
        address = connection.getsockname()
        shown = f"[{address[0]}]" if ":" in address[0] else address[0]
        print(f"everwave: {', '.join(models)} at http://{shown}:{address[1]}/", file=sys.stderr, flush=True)
        Server(radio, host, hosts).run([connection])


def configuration(radio: Radio, host: str, hosts: Sequence[str] = ()) -> uvicorn.Config:
    """uvicorn with limits on everything that a stranger sends."""
    names = LOCAL | {name.lower() for name in (host, *hosts)} if _is_local(host) else None
    return uvicorn.Config(
        _ended_quietly(application(radio, names), radio),
        http=Protocol, ws="websockets-sansio", ws_max_size=MESSAGE_BYTES, ws_per_message_deflate=False,
        h11_max_incomplete_event_size=REQUEST_BYTES, limit_concurrency=radio.limits.listeners + OTHER_CONNECTIONS,
        timeout_graceful_shutdown=2, log_level="warning", access_log=False, server_header=False, lifespan="on",
    )  # fmt: skip


def _ended_quietly(app: ASGIApp, radio: Radio) -> ASGIApp:
    """`app`, whose requests are cancelled without a traceback when the server stops: uvicorn counts that as a failure."""

    async def run(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await app(scope, receive, send)
        except asyncio.CancelledError:
            if not radio.engine.ending:
                raise

    return run


class Server(uvicorn.Server):
    """Streams have no end of their own, so they are ended when the server is to stop."""

    def __init__(self, radio: Radio, host: str, hosts: Sequence[str] = ()) -> None:
        super().__init__(configuration(radio, host, hosts))
        self._radio = radio

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """What uvicorn logs of requests that are cut off because it stops is not news."""

        def is_news(_: logging.LogRecord) -> bool:
            return not self._radio.engine.ending

        its_log = logging.getLogger("uvicorn.error")
        its_log.addFilter(is_news)
        try:
            super().run(sockets)
        finally:
            its_log.removeFilter(is_news)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """A terminal that is closed stops it as the others do, unless that is ignored, as `nohup` has it."""
        with super().capture_signals(), handled_by(self.handle_exit):
            yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._radio.engine.ending = True
        super().handle_exit(sig, frame)


def load_models(names: Sequence[str], threads: int, precision: str) -> dict[str, Model]:
    """By the name that requests use: what `weights.called` says."""
    paths = list(dict.fromkeys(map(weights.find, names))) or [weights.find(name) for name in weights.available()]
    models: dict[str, Model] = {}
    for path in paths:
        try:
            file = weights.read(path)
            if "generator" not in file.parameters:
                if names:
                    raise UsageError(
                        f"{path}: no generator in it, it is of kind {file.kind!r}; give a model that generates"
                    )
                continue
            file = weights.resolve(file, path)
        except ModelError as error:
            if names:
                raise
            log.warning("%s; it is not served", error)
            continue
        name = weights.called(path)
        if name in models:
            raise UsageError(f"two models are called {name}; rename one of the files")
        models[name] = Model.from_parts(file, threads, precision)
    if not models:
        raise ModelError("no model to serve; give one with --model")
    return models


def listening(host: str, port: int) -> socket.socket:
    """A socket for connections that keep little in the kernel for readers who do not read."""
    if not 0 <= port <= 65535:
        raise UsageError(f"--port {port}; choose one from 1 to 65535, or 0 for any that is free")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        both = host == "::" and socket.has_dualstack_ipv6()  # every address of this machine, of IPv4 too
        server = socket.create_server((host, port), family=family, backlog=512, dualstack_ipv6=both)
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (while attempting")[0]  # to bind to the address
        raise UsageError(f"cannot listen at {host}, port {port} ({reason}); choose others: --host, --port") from None
    server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)
    return server


def _is_local(host: str) -> bool:
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
