"""How many CPU cores this process may use: those that it may run on, and no more than a container's share of their time."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

# Linux' control groups of this process, a line "number:controllers:/path" for each tree
GROUPS = Path("/proc/self/cgroup")
TREES = Path("/sys/fs/cgroup")
# what a group may use, in microseconds, and of how many: version 2 has both in one file, version 1 in two
QUOTAS = (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us"))


def cores() -> int:
    """At least 1. A quota of one and a half cores is two: threads that wait for it cost less than time that nobody uses."""
    return max(math.ceil(min(_allowed(), _quota())), 1)


def _allowed() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    count = getattr(os, "process_cpu_count", os.cpu_count)  # from Python 3.13 on
    return count() or 1


def _quota() -> float:
    """Cores' worth of time that control groups leave to this process; infinite where nothing says so."""
    try:
        lines = GROUPS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return math.inf
    return min((_share(folder) for line in lines for folder in _folders(line)), default=math.inf)


def _folders(line: str) -> Iterator[Path]:
    """The group of a line and those above it, each of which may have a quota; inside a container the paths may be the host's."""
    _, controllers, path = line.split(":", 2)
    if not controllers or "cpu" in controllers.split(","):  # version 2, or the tree of version 1 that counts time
        group = TREES / controllers / path.lstrip("/")
        yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(TREES))


def _share(folder: Path) -> float:
    """The quota of one group in cores; infinite if it has none, which is "max" or -1."""
    for names in QUOTAS:
        with suppress(OSError, ValueError):
            quota, period = (int(word) for name in names for word in (folder / name).read_text().split())
            if quota > 0 and period > 0:
                return quota / period
    return math.inf
