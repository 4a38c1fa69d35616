"""How fast this machine makes music: one warm run, as the object that `everwave bench --json` prints."""

from __future__ import annotations

import platform
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from . import __version__
from .audio import Writer
from .model import Model, Stream

WARM_UP_SECONDS = 4.0  # enough for every segment size to be compiled and every worker's memory to be touched
CPU_SECONDS_OF = ("generator", "chunk_decoder", "frame_decoder", "signal", "overlap_add", "write")


def run(load: Callable[[], Model], seconds: float, seed: int = 0) -> dict[str, Any]:
    """Generate `seconds` once to warm up (in part) and once in earnest, into a temporary WAV file.

    `load()` gives the model and is timed too. Compilation and warm-up are in no figure. `stages` holds thread CPU
    seconds summed over workers, the others are wall seconds; real_time_factor = wall_seconds / audio_seconds.
    """
    begin = time.perf_counter()
    model = load()
    load_seconds = time.perf_counter() - begin
    with tempfile.TemporaryDirectory() as folder:
        conditions: dict[str, Any] = {c.name: (c.low + c.high) / 2 for c in model.conditions}
        for length in (WARM_UP_SECONDS, seconds):  # figures of the last stay
            stream = model.stream(seed, seconds=length, **conditions)
            first, wall = _timed(stream, Path(folder) / "bench.wav", model.sample_rate)
    audio_seconds = (stream.frames or 0) / model.sample_rate
    return {
        "times_real_time": round(audio_seconds / wall, 3),
        "real_time_factor": round(wall / audio_seconds, 6),
        "audio_seconds": audio_seconds,
        "wall_seconds": round(wall, 4),
        "first_audio_seconds": round(first, 4),
        "load_seconds": round(load_seconds, 4),
        "peak_rss_mb": round(peak_rss_mb(), 1),
        "threads": model.threads,
        "precision": model.used_precision,
        "cpu": cpu_name(),
        "stages": {name: round(stream.stages.seconds.get(name, 0.0), 4) for name in CPU_SECONDS_OF},
        "versions": versions(),
    }


def _timed(stream: Stream, path: Path, sample_rate: int) -> tuple[float, float]:
    """(seconds until the first block, seconds until the file is complete)"""
    begin = time.perf_counter()
    first = 0.0
    with Writer(path, sample_rate) as writer:
        for block in stream:
            first = first or time.perf_counter() - begin
            with stream.stages("write"):
                writer.write(block)
    return first, time.perf_counter() - begin


def versions() -> dict[str, str]:
    found = {"everwave": __version__, "python": platform.python_version()}
    for name in ("numpy", "numba", "llvmlite", "scipy", "soundfile"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "Model")):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def peak_rss_mb() -> float:
    """The most memory this process has held, in MB. On Linux ru_maxrss would include the parent's at the fork."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024 / 1e6
    except OSError:
        pass
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
