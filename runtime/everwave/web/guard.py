"""What every request passes: is it for us, does it come from a page of ours; and what every answer says to browsers."""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SECURITY = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}

PORTS = {"http": 80, "https": 443}


class Guard:
    """Refuses other names than `hosts` (None: any), and requests that another site's page makes in a browser.

    Without the first, a page elsewhere whose name is made to point here could read what is on this machine
    (DNS rebinding); without the second, any page could make this machine work, or play music.
    """

    def __init__(self, app: ASGIApp, hosts: frozenset[str] | None) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY.items():
                    headers[name] = value
            await send(message)

        if refusal := self._refusal(scope):
            await JSONResponse({"error": refusal}, 403)(scope, receive, guarded)
        else:
            await self.app(scope, receive, guarded)

    def _refusal(self, scope: Scope) -> str | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        name = _split(f"//{host}").hostname if _plain(host) else None
        if name is None or (self.hosts is not None and name not in self.hosts):
            return "this server does not answer to that name; open it by the address that it printed"
        origin = headers.get("origin")
        if origin is not None and not _is_of(origin, host):
            return "requests from pages of other sites are not served"
        if headers.get("sec-fetch-site") in ("cross-site", "same-site") and headers.get("sec-fetch-mode") != "navigate":
            return "requests from pages of other sites are not served"
        return None


def _is_of(origin: str, host: str) -> bool:
    """Whether `host` has given the page of `origin`; either may leave out the port that goes without saying."""
    page, own = _split(origin), _split(f"//{host}")
    usual = PORTS.get(page.scheme)
    try:
        return (page.hostname, page.port or usual) == (own.hostname, own.port or usual)
    except ValueError:  # a port that is none
        return False


def _split(address: str) -> SplitResult:
    """`urlsplit`, of what nobody could have meant nothing."""
    try:
        return urlsplit(address)
    except ValueError:
        return urlsplit("")


def _plain(host: str) -> bool:
    return bool(host) and all(c.isalnum() or c in "-.:[]_" for c in host)
