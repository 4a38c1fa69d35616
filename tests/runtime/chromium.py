"""A real headless Chromium, driven over the DevTools protocol with `websockets` alone."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--mute-audio",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    "--remote-debugging-port=0", "--window-size=1280,900",
)  # fmt: skip


def find() -> str | None:
    """The path of a Chromium, if one is installed; EVERWAVE_CHROMIUM names another."""
    return os.environ.get("EVERWAVE_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """One tab. Events that come while something else is waited for are kept in `events`."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._ids = itertools.count(1)
        self.events: list[dict[str, Any]] = []
        self.expected: tuple[str, ...] = ()  # parts of complaints that are no problem
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._ids)
        self._connection.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(self._connection.recv(timeout=60))
            if message.get("id") == number:
                assert "error" not in message, f"{method}: {message['error']}"
                return message["result"]
            self.events.append(message)

    def js(self, expression: str) -> Any:
        """The value of an expression; a promise is waited for."""
        result = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True, userGesture=False
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, condition: str, seconds: float = 30.0) -> Any:
        """The value of `condition` once it is true."""
        end = time.monotonic() + seconds
        while not (value := self.js(condition)):
            assert time.monotonic() < end, f"not true within {seconds} s: {condition}; {self.problems()}"
            time.sleep(0.02)
        return value

    def open(self, url: str) -> None:
        self.js("globalThis.before = true")  # until another document is there
        self.call("Page.navigate", url=url)
        self.wait("!globalThis.before && document.body && document.body.dataset.ready === 'yes'")

    def click(self, selector: str) -> None:
        """A real click of the mouse, which browsers want before they play."""
        x, y = self.js(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            " e.scrollIntoView({block: 'center', behavior: 'instant'});"
            " const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str, code: int, text: str = "") -> None:
        for kind in ("keyDown", "keyUp"):
            extra = {"text": text} if text and kind == "keyDown" else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **extra)

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]))

    def received(self) -> tuple[list[dict[str, Any]], bytes]:
        """What came over WebSockets so far: (messages, samples)."""
        messages, samples = [], bytearray()
        self.js("0")  # collects what has come
        for event in self.events:
            if event["method"] == "Network.webSocketFrameReceived":
                frame = event["params"]["response"]
                if frame["opcode"] == 2:
                    samples += base64.b64decode(frame["payloadData"])
                else:
                    messages.append(json.loads(frame["payloadData"]))
        return messages, bytes(samples)

    def problems(self) -> list[str]:
        """Everything the browser complained about: exceptions, errors in the console, what the CSP refused."""
        found = []
        for event in self.events:
            if event["method"] == "Runtime.exceptionThrown":
                found.append(str(event["params"]["exceptionDetails"]))
            elif event["method"] == "Log.entryAdded" and event["params"]["entry"]["level"] in ("error", "warning"):
                found.append(event["params"]["entry"]["text"])
        return [text for text in found if not any(part in text for part in self.expected)]


@contextlib.contextmanager
def browser(binary: str) -> Iterator[Page]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [binary, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            with connect(_tab(Path(profile), process), max_size=None, compression=None) as connection:
                page = Page(connection)
                yield page
                page.call("Browser.close")
        finally:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(3)
            process.kill()
            process.wait()


def _tab(profile: Path, process: subprocess.Popen[bytes]) -> str:
    """The address at which the first tab can be driven."""
    import urllib.request

    for _ in range(600):
        assert process.poll() is None, f"Chromium ended with {process.returncode}"
        with contextlib.suppress(OSError, ValueError, IndexError, StopIteration):  # its file may be empty yet
            port = int((profile / "DevToolsActivePort").read_text().split()[0])
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=5) as answer:
                tabs = json.load(answer)
            return next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
        time.sleep(0.1)
    raise AssertionError("Chromium did not start within 60 s")
