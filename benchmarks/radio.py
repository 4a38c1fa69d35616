"""What the web radio serves before it refuses: many listeners in real time, one of them slow, one of them dead.

    python benchmarks/radio.py --listeners 20 100 --seconds 60
    python benchmarks/radio.py --listeners 20 100 --station

The server is a process of its own; listeners are one other process that plays in real time by the clock, each its own
piece, and answers as the page does. Both run on the machine's cores, so the figures include what the listeners cost.
With --station they all hear the one piece that the server makes for all, over plain HTTP as any player does.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RATE, FRAME = 44100, 4  # Hz, bytes


@dataclass
class Listener:
    """Plays what comes as it is due; notes when it ran dry."""

    number: int
    slow: bool = False  # plays at half speed
    begun: float = 0.0
    first: float | None = None  # seconds to the first samples; of a station, to a second of them
    frames: int = 0
    dry: float = 0.0  # seconds of silence
    ahead: float = 0.6  # seconds that it wants to have ready
    refused: str = ""
    changes: list[float] = field(default_factory=list)  # seconds from asking for a change to hearing it

    async def listen(self, port: int, seconds: float) -> None:
        from websockets.asyncio.client import connect

        self.begun = time.monotonic()
        url = f"ws://127.0.0.1:{port}/api/stream?seed={self.number}"
        with contextlib.suppress(ConnectionError, TimeoutError):
            own = (f"127.0.0.{2 + self.number // 10}", 0)  # no address may take all the places
            async with connect(url, compression=None, max_size=None, open_timeout=20, local_addr=own) as socket:
                player = asyncio.create_task(self._play(socket, seconds))
                async for message in socket:
                    self._hear(message)
                    if self.refused:
                        break
                player.cancel()

    async def tune_in(self, port: int, seconds: float) -> None:
        """The station, as a plain player hears it: it begins to play when it has a second of music."""
        self.begun = time.monotonic()
        own = (f"127.0.0.{2 + self.number // 10}", 0)
        reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=own)
        writer.write(b"GET /api/station HTTP/1.1\r\nhost: localhost\r\n\r\n")
        status = (await reader.readline()).decode()
        if " 200 " not in status:
            self.refused = status.strip()
        played, last = 0.0, time.monotonic()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self.refused and (data := await reader.read(1 << 16)):
                    now = time.monotonic()
                    if self.first is None and self.frames > RATE:
                        self.first = now - self.begun
                    passed, last = now - last if self.first else 0.0, now
                    possible = min(passed, self.frames / RATE - played)
                    played, self.dry = played + possible, self.dry + passed - possible
                    self.frames += len(data) // FRAME  # header and chunk sizes are too short to be heard
                    if self.slow:
                        await asyncio.sleep(2 * len(data) / FRAME / RATE)
        writer.close()

    def _hear(self, message: str | bytes) -> None:
        if isinstance(message, bytes):
            if self.first is None:
                self.first = time.monotonic() - self.begun
            self.frames += len(message) // FRAME
            return
        news = json.loads(message)
        if news["type"] == "end":
            self.refused = news["message"]
        elif news["type"] == "changed":
            self.due.append((news["changes"][-1]["at"], self.asked))

    async def _play(self, socket: Any, seconds: float) -> None:
        self.due: list[tuple[int, float]] = []
        played, last, changed = 0.0, time.monotonic(), 0
        end = self.begun + seconds
        while (now := time.monotonic()) < end:
            passed, last = (now - last) / (2 if self.slow else 1), now
            if self.first is not None:
                possible = min(passed, self.frames / RATE - played)
                played += possible
                if passed - possible > 0.01 and self.ahead < 8:  # as the page does
                    self.ahead = min(2 * self.ahead, 8)
                self.dry += passed - possible
                await socket.send(json.dumps({"played": int(played * RATE), "ahead": self.ahead}))
            while self.due and self.due[0][0] <= played * RATE:
                self.changes.append(now - self.due.pop(0)[1])
            if int(played) // 10 > changed:
                changed, self.asked = int(played) // 10, now
                await socket.send(json.dumps({"set": {"truncation": 1 + changed % 2}}))
            await asyncio.sleep(0.1)
        await socket.close()


async def audience(port: int, count: int, seconds: float, station: bool) -> list[Listener]:
    listeners = [Listener(i, slow=i == 1) for i in range(count)]
    dead = await asyncio.to_thread(dead_listener, port, station)
    tasks = []
    for listener in listeners:
        tasks.append(asyncio.create_task((listener.tune_in if station else listener.listen)(port, seconds)))
        await asyncio.sleep(0.1)
    await asyncio.gather(*tasks)
    dead.close()
    return listeners


def dead_listener(port: int, station: bool) -> socket.socket:
    """A connection that asks for the music and never reads or answers."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", port))
    if station:
        connection.sendall(b"GET /api/station HTTP/1.1\r\nhost: localhost\r\n\r\n")
    else:
        connection.sendall(
            b"GET /api/stream HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
            b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
    return connection


def memory(pid: int) -> tuple[int, float]:
    """(MB resident, CPU seconds used) of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = int(times[11]) + int(times[12])
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) // 1024, ticks / os.sysconf("SC_CLK_TCK")  # type: ignore[index]


def run(model: str, count: int, seconds: float, station: bool) -> dict[str, Any]:
    command = [sys.executable, "-m", "everwave", "serve", "--port", "0", "--model", model]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        port = int(server.stderr.readline().rsplit(":", 1)[1].strip().rstrip("/"))
        urllib.request.urlopen(f"http://127.0.0.1:{port}/api/models", timeout=60).close()
        before, cpu = memory(server.pid)
        listeners = asyncio.run(audience(port, count, seconds, station))
        after, cpu_after = memory(server.pid)
        server.terminate()
    given_up = [listener for listener in listeners if listener.refused and listener.first is not None]
    served = [listener for listener in listeners if not listener.refused and listener.first is not None]
    normal = [listener for listener in served if not listener.slow]
    delays = sorted(delay for listener in normal for delay in listener.changes)
    firsts = sorted(listener.first or 0.0 for listener in served)
    refusals = {listener.refused for listener in listeners if listener.refused}
    return {
        "what": "one station" if station else "own pieces", "asked": count, "served": len(served), "refused": count - len(served), "given_up": len(given_up), "refusals": sorted(refusals),
        "seconds": seconds, "dry_listeners": sum(listener.dry > 0.05 for listener in normal),
        "dry_seconds_most": round(max((listener.dry for listener in normal), default=0.0), 3),
        "first_samples_median": quantile(firsts, 0.5), "first_samples_most": quantile(firsts, 1.0),
        "change_heard_median": quantile(delays, 0.5), "change_heard_most": quantile(delays, 1.0),
        "server_mb_before": before, "server_mb_after": after,
        "server_cores": round((cpu_after - cpu) / seconds, 2),
    }  # fmt: skip


def quantile(values: list[float], part: float) -> float | None:
    return round(values[round(part * (len(values) - 1))], 3) if values else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="techno")
    parser.add_argument("--listeners", type=int, nargs="+", default=[20, 100])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--station", action="store_true", help="all hear one piece")
    options = parser.parse_args()
    for count in options.listeners:
        print(json.dumps(run(options.model, count, options.seconds, options.station)))


if __name__ == "__main__":
    main()
