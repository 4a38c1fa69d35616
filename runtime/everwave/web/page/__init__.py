"""The page's files, read once: no request chooses a path."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response

Respond = Callable[[Request], Awaitable[Response]]

FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/app.js": ("app.js", "text/javascript; charset=utf-8"),
    "/player.js": ("player.js", "text/javascript; charset=utf-8"),
    "/queue.js": ("queue.js", "text/javascript; charset=utf-8"),
    "/spectrogram.js": ("spectrogram.js", "text/javascript; charset=utf-8"),
}


def responses() -> dict[str, Respond]:
    """What answers a GET of each path."""
    return {
        path: _respond(files(__package__).joinpath(name).read_bytes(), kind) for path, (name, kind) in FILES.items()
    }


def _respond(content: bytes, media_type: str) -> Respond:
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {"etag": tag, "cache-control": "no-cache"}

    async def respond(request: Request) -> Response:
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers, media_type=media_type)

    return respond
