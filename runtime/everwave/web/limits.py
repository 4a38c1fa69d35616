"""What a server gives: how much, how often, to how many; and how it says no."""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field


class Refused(Exception):
    """A request that is not served: HTTP `status`, one line, and when it is worth trying again (seconds)."""

    def __init__(self, status: int, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status, self.message = status, message
        self.retry_after = retry_after


@dataclass(frozen=True)
class Limits:
    """Bounds of one server. What one address may do leaves room for others; an IPv6 address counts as its /64."""

    listeners: int = 100
    listeners_per_address: int = 20
    requests_per_minute: int = 60  # per address: pieces and streams begun
    generate_seconds: float = 3600.0  # of one piece: 635 MB of WAV
    generate_jobs: int = 4  # pieces being made at once
    body_bytes: int = 1 << 20
    body_seconds: float = 10.0  # for a request to arrive
    stall_seconds: float = 30.0  # for a reader to take, or a player to play, anything at all
    changes: int = 5000  # of the controls of one stream
    changes_per_second: float = 5.0
    utilisation: float = 0.7  # of the workers' time that live streams may take; the rest is for what varies


def limits_for(listeners: int) -> Limits:
    """Those of a server for so many: one address may have half of the places, and no more than 20."""
    return Limits(listeners=listeners, listeners_per_address=min(20, max(1, listeners // 2)))


class Bucket:
    """`rate` tokens a second, at most `size` saved up."""

    def __init__(self, rate: float, size: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate, self.size, self._clock = rate, size, clock
        self._tokens, self._at = size, clock()

    def wait(self, tokens: float = 1.0) -> float:
        """Take `tokens` if they are there: 0.0; else seconds until they will be. More than a full bucket never were: then it is all."""
        tokens = min(tokens, self.size)
        now = self._clock()
        self._tokens, self._at = min(self.size, self._tokens + (now - self._at) * self.rate), now
        if self._tokens >= tokens:
            self._tokens -= tokens
            return 0.0
        return (tokens - self._tokens) / self.rate


@dataclass
class Addresses:
    """How often each address has asked of late; forgets the addresses that asked longest ago."""

    per_minute: float
    remembered: int = 10_000
    _buckets: OrderedDict[str, Bucket] = field(default_factory=OrderedDict)

    def check(self, address: str) -> None:
        """Count one request; Refused if there were too many."""
        bucket = self._buckets.setdefault(address, Bucket(self.per_minute / 60, self.per_minute))
        self._buckets.move_to_end(address)
        if len(self._buckets) > self.remembered:
            self._buckets.popitem(last=False)
        if seconds := bucket.wait():
            raise Refused(
                429, f"more than {self.per_minute:g} requests a minute; try again in {seconds:.0f} s", seconds
            )


def address_of(client: tuple[str, int] | None) -> str:
    """Who is asking, as far as limits go: an IPv4 address, or the /64 that an IPv6 address belongs to."""
    host = client[0] if client else "unknown"
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)
