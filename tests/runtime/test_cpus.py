"""How many cores a process takes itself to have: on systems of every kind, in containers with and without quotas."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from everwave import checks, cpus


@pytest.fixture(autouse=True)
def _sixteen_cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("EVERWAVE_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)), raising=False)
    monkeypatch.setattr(cpus, "GROUPS", tmp_path / "groups")
    monkeypatch.setattr(cpus, "TREES", tmp_path / "trees")


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("", {}, 16),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 16),
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "1000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "9900000 100000\n"}, 16),
        ("0::/\n", {"cpu.max": "damaged"}, 16),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "300000 100000\n", "cpu.max": "max 100000\n"}, 3),
        ("0::/docker/abc\n", {"cpu.max": "400000 100000\n"}, 4),  # the host's path; here the group is the root
        ("0::/../other\n", {"cpu.max": "400000 100000\n"}, 4),
        ("4:cpu,cpuacct:/\n0::/\n", {"cpu,cpuacct/cpu.cfs_quota_us": "50000\n", "cpu,cpuacct/cpu.cfs_period_us": "10000\n"}, 5),
        ("1:cpu:/a\n", {"cpu/a/cpu.cfs_quota_us": "-1\n", "cpu/a/cpu.cfs_period_us": "100000\n"}, 16),
        ("2:cpuset:/\n", {"cpuset/cpu.cfs_quota_us": "100000\n", "cpuset/cpu.cfs_period_us": "100000\n"}, 16),
    ],
)  # fmt: skip
def test_quotas_count(groups: str, files: dict[str, str], expected: int) -> None:
    cpus.GROUPS.write_text(groups)
    for name, text in files.items():
        (cpus.TREES / name).parent.mkdir(parents=True, exist_ok=True)
        (cpus.TREES / name).write_text(text)
    assert cpus.cores() == checks.threads(None) == expected


def test_other_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing tells them of control groups; from Python 3.13 on there is a count of what the process may use."""
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.delattr(os, "process_cpu_count", raising=False)
    assert cpus.cores() == 8
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cpus.cores() == 1
    monkeypatch.setattr(os, "process_cpu_count", lambda: 4, raising=False)
    assert cpus.cores() == 4


def test_no_more_threads_than_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(3000)), raising=False)
    assert checks.threads(None) == checks.MAX_THREADS
    monkeypatch.setenv("EVERWAVE_THREADS", "3000")
    with pytest.raises(checks.UsageError, match="EVERWAVE_THREADS=3000; it must be between 1 and 1024"):
        checks.threads(None)
