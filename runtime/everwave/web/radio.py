"""The web radio as an ASGI application: a page, /api/models, /api/generate, /api/stream, /api/station.

Models are loaded before it starts, the page's files are read once; a request chooses among them by name.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Executor
from functools import partial
from typing import Any
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from ..errors import EverwaveError, UsageError
from ..model import Model, Stream
from ..wav import Layout
from . import openapi, page
from .engine import Engine, Seats
from .fields import from_json, from_query, only_numbers, parse_json
from .guard import Guard
from .limits import Addresses, Limits, Refused, address_of
from .station import Station
from .voices import PATIENCE, SUBTYPE, Conversation, Live, Voice, made, paced

CHANNELS = 2
# WebSocket close codes (RFC 6455, section 7.4.1, and IANA)
BUSY, NOT_ALLOWED, FAILED, NOT_TEXT = 1013, 1008, 1011, 1003


class Radio:
    """Everything that requests share. `models`: by the name that requests use; the first one is the default."""

    def __init__(self, models: Mapping[str, Model], limits: Limits, threads: int) -> None:
        self.models, self.limits = dict(models), limits
        self.engine = Engine(threads)
        self.seats = Seats(limits, threads)
        self.addresses = Addresses(limits.requests_per_minute)
        self.description = openapi.Description(self.models, limits)
        self.stations = {name: Station(secrets.randbits(32), partial(self._broadcast, name)) for name in self.models}
        self._making: list[str] = []  # the address of each piece that is being made

    # -- what is there ---------------------------------------------------------------------------------------------

    async def list_models(self, request: Request) -> Response:
        return JSONResponse({"models": [self.describe(name) for name in self.models],
                             "limits": {"generate_seconds": self.limits.generate_seconds,
                                        "listeners": self.limits.listeners},
                             "listeners": len(self.seats)})  # fmt: skip

    def describe(self, name: str) -> dict[str, Any]:
        model = self.models[name]
        conditions = {"bpm": "tempo", "density": "note density"}
        known = [c.name for c in model.conditions]
        return {
            "name": name,
            "sample_rate": model.sample_rate,
            "conditions": [
                {"name": c.name, "unit": c.unit, "low": c.low, "high": c.high, "mean": c.mean, "choices": c.choices}
                for c in model.conditions
            ],
            "lacks": {c: f"{name} was trained without {text}" for c, text in conditions.items() if c not in known},
            "licence": model.info()["licence"],
        }

    async def openapi(self, request: Request) -> Response:
        return JSONResponse(self.description.document())

    # -- pieces ----------------------------------------------------------------------------------------------------

    async def generate(self, request: Request) -> Response:
        """A piece, or what a stream played according to its log, as a WAV file that is made as it is sent."""
        content = await self._body(request)
        address = address_of(request.client)  # type: ignore[arg-type]
        self.addresses.check(address)
        self._check_jobs(address)
        log = content.pop("log", None)
        fields = self.description.replay if log is not None else self.description.generate
        values = from_json(content, fields)
        name = self._model(values.pop("model", None))
        model, seconds = self.models[name], values.pop("seconds", openapi.SECONDS)
        if log is None:
            seed = values.pop("seed", None)
            seed = secrets.randbits(32) if seed is None else seed
            voice = self._voice(lambda workers: model.stream(seed, seconds=seconds, ahead=0, workers=workers, **values))
        else:
            seed, seconds = self._check_log(log, model)
            self._making.append(address)  # before others may ask
            try:  # a log may be long, so a worker reads it
                make = partial(self._voice, lambda workers: model.replay(log, ahead=0, workers=workers))
                voice = await self.engine.run(time.monotonic() + PATIENCE, make)
            finally:
                self._making.remove(address)
        layout = Layout(model.sample_rate, CHANNELS, SUBTYPE)
        header = layout.header(frames := round(seconds * model.sample_rate))
        headers = {
            "content-length": str(len(header) + frames * layout.frame_bytes),
            "content-disposition": f"attachment; {_file_name(f'everwave-{name}-{seed}.wav')}",
            "x-everwave-seed": str(seed),
        }

        def done() -> None:
            self._making.remove(address)
            voice.close()

        audio = Audio(made(voice), header, headers, self.limits.stall_seconds, done)
        self._making.append(address)
        return audio

    def _check_jobs(self, address: str) -> None:
        """Refused where so many pieces are being made that this one has to wait; one address leaves half of them to others."""
        jobs, own = self.limits.generate_jobs, self._making.count(address)
        if len(self._making) >= jobs:
            raise Refused(503, f"{len(self._making)} pieces are being made already; try again in 10 s", 10)
        if own >= max(1, jobs // 2):
            raise Refused(429, f"{own} pieces are being made for your address; let one end, or try again in 10 s", 10)

    def _check_log(self, log: Any, model: Model) -> tuple[int, float]:
        """(seed, seconds) of a log, which the model checks in depth; no text in it, no more than may be made at once."""
        only_numbers(log, "log")
        if not isinstance(log, dict) or not isinstance(log.get("frames"), int) or not isinstance(log.get("seed"), int):
            raise Refused(400, "log: expected what /api/stream tells: seed, start, frames, controls, changes")
        if not 0 < log["frames"] <= self.limits.generate_seconds * model.sample_rate:
            raise Refused(400, f"log: frames; it must be from 1 to {self.limits.generate_seconds:g} s of them")
        changes, most = log.get("changes"), 2 * self.limits.changes  # a change of the gain and more is two in the log
        if isinstance(changes, list) and len(changes) > most:
            raise Refused(400, f"log: {len(changes)} changes; one stream tells at most {most}")
        if isinstance(changes, list) and any(isinstance(change, dict) and "seek" in change for change in changes):
            raise Refused(400, "log: it holds a seek, which streams here do not know; `model.replay` plays such a log")
        return log["seed"], log["frames"] / model.sample_rate

    # -- streams ---------------------------------------------------------------------------------------------------

    async def stream(self, request: Request) -> Response:
        """An endless WAV in real time, for any player."""
        address = address_of(request.client)  # type: ignore[arg-type]
        if request.method != "HEAD":
            self.addresses.check(address)
        name, seed, voice = self._asked(request.query_params.multi_items())
        if request.method == "HEAD":
            voice.close()
            return Response(headers={"cache-control": "no-store"}, media_type="audio/wav")
        model = self.models[name]
        seat = self.seats.take(address, name)

        def done() -> None:
            self.seats.leave(seat)
            voice.close()

        blocks = paced(Live(voice, model, name, self.seats, seat))
        header = Layout(model.sample_rate, CHANNELS, SUBTYPE).header(None)
        return Audio(blocks, header, {"x-everwave-seed": str(seed)}, self.limits.stall_seconds, done)

    async def station(self, request: Request) -> Response:
        """What everybody hears, as an endless WAV in real time."""
        name = self._model(from_query(request.query_params.multi_items(), self.description.replay).get("model"))
        station = self.stations[name]
        headers = {"x-everwave-seed": str(station.seed)}
        if request.method == "HEAD":
            return Response(headers=headers | {"cache-control": "no-store"}, media_type="audio/wav")
        address = address_of(request.client)  # type: ignore[arg-type]
        self.addresses.check(address)
        seat = self.seats.take(address, name, shared=True)
        header = Layout(self.models[name].sample_rate, CHANNELS, SUBTYPE).header(None)
        return Audio(station.blocks(), header, headers, self.limits.stall_seconds, lambda: self.seats.leave(seat))

    def _broadcast(self, name: str, frame: int) -> tuple[Voice, Live]:
        model, seed, start = self.models[name], self.stations[name].seed, frame / self.models[name].sample_rate
        voice = Voice(self.engine, lambda workers: model.stream(seed, start=start, ahead=0, workers=workers))
        return voice, Live(voice, model, name, self.seats)

    async def listen(self, websocket: WebSocket) -> None:
        """The page's stream: samples down, controls up. What goes wrong is told before the connection is closed."""
        await websocket.accept()
        try:
            await self._listen(websocket)
        except Refused as refusal:
            code = {503: BUSY, 415: NOT_TEXT}.get(refusal.status, NOT_ALLOWED)
            await _end(websocket, code, refusal.message)
        except TimeoutError:
            stall = self.limits.stall_seconds
            await _end(websocket, NOT_ALLOWED, f"nothing was played for {stall:g} s; press play to begin again")
        except (WebSocketDisconnect, RuntimeError):  # RuntimeError: more was to be sent to a listener who has left
            if websocket.application_state is WebSocketState.CONNECTED:
                raise
        except EverwaveError as error:
            await _end(websocket, FAILED, str(error))

    async def _listen(self, websocket: WebSocket) -> None:
        address = address_of(websocket.client)  # type: ignore[arg-type]
        self.addresses.check(address)
        name, _, voice = self._asked(websocket.query_params.multi_items())
        model = self.models[name]
        seat = self.seats.take(address, name)
        try:
            live = Live(voice, model, name, self.seats, seat)
            controls = self.description.controls_of(name)
            conversation = Conversation(live, voice, controls, self.limits, websocket.send_bytes)
            start = {"type": "start", "model": name, "channels": CHANNELS, "log": voice.log()}
            await websocket.send_json(start)
            await _first_to_end(conversation.speak(), _hear(websocket, conversation))
        finally:
            self.seats.leave(seat)
            voice.close()

    def _asked(self, pairs: list[tuple[str, str]]) -> tuple[str, int, Voice]:
        """(model, seed, stream) of a query."""
        values = from_query(pairs, self.description.stream)
        name = self._model(values.pop("model", None))
        seed = values.pop("seed", None)
        seed = secrets.randbits(32) if seed is None else seed
        model = self.models[name]
        return name, seed, self._voice(lambda workers: model.stream(seed, ahead=0, workers=workers, **values))

    # -- parts -----------------------------------------------------------------------------------------------------

    def _model(self, name: str | None) -> str:
        if name is None:
            return next(iter(self.models))
        if name not in self.models:
            raise Refused(404, f"no such model here; there are {', '.join(self.models)}")
        return name

    def _voice(self, make: Callable[[Executor], Stream]) -> Voice:
        try:
            return Voice(self.engine, make)
        except UsageError as error:
            raise Refused(400, str(error)) from None

    async def _body(self, request: Request) -> dict[str, Any]:
        """A JSON object, not too large and not too slow."""
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            raise Refused(415, "send JSON, with content-type: application/json")
        content = b""
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                async for part in request.stream():
                    content += part
                    if len(content) > self.limits.body_bytes:
                        raise Refused(413, f"a request has at most {self.limits.body_bytes} bytes")
        except ClientDisconnect:
            raise Refused(400, "the request broke off") from None
        except TimeoutError:
            raise Refused(408, f"the request did not arrive within {self.limits.body_seconds:g} s") from None
        parsed = parse_json(content)
        if not isinstance(parsed, dict):
            raise Refused(400, "expected a JSON object")
        return parsed

    async def measure(self) -> None:
        """Play a little of each model, so that kernels are compiled and costs are known before anyone listens."""
        for name, model in self.models.items():
            voice = Voice(self.engine, lambda workers, model=model: model.stream(0, ahead=0, workers=workers))  # type: ignore[misc]
            live = Live(voice, model, name, self.seats)
            await voice.block(0.0)
            while live.sent < 3 * live.rate:
                await live.block(time.monotonic())
            voice.close()


class Audio(StreamingResponse):
    """A WAV that ends when its reader leaves, or takes nothing for `stall` seconds."""

    def __init__(self, blocks: AsyncIterator[bytes], header: bytes, headers: dict[str, str], stall: float,
                 done: Callable[[], None]) -> None:  # fmt: skip
        """`done` is called at the end, whatever happens. Refused among the blocks ends it before its time."""
        super().__init__(blocks, headers=headers | {"cache-control": "no-store"}, media_type="audio/wav")
        self._blocks, self._header, self._stall, self._done = blocks, header, stall, done

    async def stream_response(self, send: Send) -> None:
        async def sent(message: dict[str, Any]) -> None:
            async with asyncio.timeout(self._stall):
                await send(message)

        await sent({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await sent({"type": "http.response.body", "body": self._header, "more_body": True})
        async for data in self._blocks:
            await sent({"type": "http.response.body", "body": data, "more_body": True})
        await sent({"type": "http.response.body", "body": b"", "more_body": False})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with contextlib.suppress(ClientDisconnect, TimeoutError, Refused):
                await super().__call__(scope, receive, send)
        finally:
            await self._blocks.aclose()  # type: ignore[attr-defined]
            self._done()


def application(radio: Radio, hosts: frozenset[str] | None = None) -> Starlette:
    """The ASGI application. `hosts`: the names it answers to; None: any."""
    routes: list[BaseRoute] = [
        Route("/api/models", radio.list_models),
        Route("/api/generate", radio.generate, methods=["POST"]),
        Route("/api/stream", radio.stream),
        Route("/api/station", radio.station),
        WebSocketRoute("/api/stream", radio.listen),
        Route("/api/openapi.json", radio.openapi),
        *[Route(path, respond) for path, respond in page.responses().items()],
    ]

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await radio.measure()
        yield
        radio.engine.close()

    handlers: dict[Any, Callable[..., Any]] = {Refused: _refused, HTTPException: _http_error, EverwaveError: _failed}
    return Starlette(
        routes=routes, middleware=[Middleware(Guard, hosts=hosts)], exception_handlers=handlers, lifespan=lifespan
    )


async def _hear(websocket: WebSocket, conversation: Conversation) -> None:
    """Answer messages until the listener leaves."""
    while True:
        try:
            text = await websocket.receive_text()
        except WebSocketDisconnect:
            return
        except KeyError:
            raise Refused(415, "a binary message came; send JSON as text") from None
        try:
            answer = await conversation.hear(text)
        except UsageError as error:
            answer = {"type": "refused", "message": str(error)}
        except Refused as refusal:
            answer = {"type": "refused", "message": refusal.message}
            if refusal.status != 400:
                raise
        if answer:
            await websocket.send_json(answer)


async def _first_to_end(*coroutines: Any) -> None:
    """Run until one of them ends, cancel the others; its error is raised."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            if not isinstance(error := task.exception(), type(None) | WebSocketDisconnect):
                raise error
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _end(websocket: WebSocket, code: int, message: str) -> None:
    with contextlib.suppress(Exception):  # the listener may have left
        async with asyncio.timeout(5):
            await websocket.send_json({"type": "end", "message": message})
            await websocket.close(code)


def _file_name(name: str) -> str:
    """A file's name for content-disposition, whose own is Latin-1 (RFC 6266)."""
    quoted = quote(name)
    return f'filename="{name}"' if quoted == name else f"filename*=UTF-8''{quoted}"


def _error(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse({"error": message}, status, headers)


async def _refused(request: Request, refusal: Refused) -> Response:
    after = refusal.retry_after
    return _error(refusal.status, refusal.message, None if after is None else {"retry-after": str(int(after + 1))})


async def _http_error(request: Request, error: HTTPException) -> Response:
    return _error(error.status_code, error.detail, error.headers)


async def _failed(request: Request, error: EverwaveError) -> Response:
    return _error(500, str(error))
