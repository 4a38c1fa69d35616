"""How fast this machine makes music: one warm run, as the object that `everwave bench --json` prints, or a survey of
every path and number of threads; and the way to the contenders of benchmarks/.
"""

from __future__ import annotations

import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

import numpy as np

from . import __version__, ops
from .audio import Writer
from .config import DECODER_LATENTS
from .cpus import cores
from .errors import UsageError
from .model import Model, Stream, random_model

WARM_UP_SECONDS = 33.0  # two workers have a whole segment each, so that all of their memory has been touched
PEAK_SECONDS = 0.2  # a thread's clock may tick in 16 ms
CHAINS = {4: 12, 8: 12, 16: 24}  # sums in registers by lanes: enough to hide the latency, few enough for the registers
ROUNDS = 200_000
CPU_SECONDS_OF = ("generator", "chunk_decoder", "frame_decoder", "signal", "overlap_add", "write")


def run(load: Callable[[], Model], seconds: float) -> dict[str, Any]:
    """Generate `seconds` once to warm up (in part) and once in earnest, into a temporary WAV file.

    `load()` gives the model and is timed too. Compilation and warm-up are in no figure. `stages` holds thread CPU
    seconds summed over workers, the others are wall seconds; real_time_factor = wall_seconds / audio_seconds.
    `memory_mb` is the most memory above what a tiny model needs: weights, workspaces, and audio under way; None where
    the system does not say.
    """
    random_model("tiny", 0, 1).prepare()  # so that libraries and kernels count as theirs
    before = status_mb("VmRSS")
    _forget_peak()
    begin = time.perf_counter()
    model = load()
    load_seconds = time.perf_counter() - begin
    with tempfile.TemporaryDirectory() as folder:
        conditions: dict[str, Any] = {c.name: (c.low + c.high) / 2 for c in model.conditions}
        for name, length in (("warm-up", WARM_UP_SECONDS), ("bench", seconds)):  # figures of the last stay
            stream = model.stream(seconds=length, **conditions)
            begin = time.process_time()
            first, wall = _timed(stream, Path(folder) / f"{name}.wav", model.sample_rate)
    cpu_seconds = time.process_time() - begin
    audio_seconds = (stream.frames or 0) / model.sample_rate
    return {
        "times_real_time": round(audio_seconds / wall, 3),
        "real_time_factor": round(wall / audio_seconds, 6),
        "audio_seconds": audio_seconds,
        "wall_seconds": round(wall, 4),
        "cpu_seconds": round(cpu_seconds, 4),
        "first_audio_seconds": round(first, 4),
        "load_seconds": round(load_seconds, 4),
        "peak_rss_mb": _for_json(peak_rss_mb()),
        "memory_mb": _for_json(peak_rss_mb() - before),
        "threads": model.threads,
        "precision": model.used_precision,
        "cpu": cpu_name(),
        "stages": {name: round(stream.stages.seconds.get(name, 0.0), 4) for name in CPU_SECONDS_OF},
        "versions": versions("numpy", "numba", "llvmlite", "scipy", "soundfile"),
    }


def survey(load: Callable[[int], Model], seconds: float, threads: int, precision: str, say: Callable[[str], object]) -> None:  # fmt: skip
    """Every path of this CPU on 1, 2, 4 ... `threads` threads, then the stages of the fastest path; lines go to `say`.

    `load(threads)` gives the model. `precision` "auto" means all. Only the first run on all threads makes all `seconds`.
    """
    load(threads).stream(seconds=seconds).close()  # what is wrong is said before the table begins
    say(f"{cpu_name()}, {cores()} cores ({', '.join(extensions()) or 'extensions unknown'})\n")
    say("| path | precision | threads | times real time | first audio, s | GFLOP/s per thread | share of peak | MB |")
    say("|---|---|---|---|---|---|---|---|")
    counts = sorted({*(1 << k for k in range(threads.bit_length())), threads}, reverse=True)
    first: dict[str, Any] = {}
    for name in _paths(precision):
        for count in counts:
            with _forced(name):
                model = load(count)
                result = run(lambda given=model: given, max(seconds / 4, 1.0) if first else seconds)  # type: ignore[misc]
                rate, share = _products(result, model, name)
            first, held = first or result, result["peak_rss_mb"]
            say(
                f"| {name} | {result['precision']} | {count} | {result['times_real_time']:.1f} | "
                f"{result['first_audio_seconds']:.3f} | {rate} | {share} | {'-' if held is None else f'{held:.0f}'} |"
            )
    total = sum(first["stages"].values()) or math.inf  # nothing was long enough for the clock
    say("\n| stage | CPU seconds per minute of audio | share |\n|---|---|---|")
    for stage, spent in first["stages"].items():
        say(f"| {stage} | {60 * spent / first['audio_seconds']:.3f} | {spent / total:.1%} |")
    say(
        "\nOne warm run each. Stages: CPU seconds summed over threads, of the first run. GFLOP/s: products that the "
        "decoders do, which minimal filters make fewer. Peak: the same instructions in registers only, after each run. "
        "MB: the most that the process has held.\nversions: "
        + ", ".join(f"{name} {number}" for name, number in first["versions"].items())
    )


def compare(options: list[str]) -> int:
    """Run benchmarks/compare.py with these options; its exit status. UsageError if it did not come with this package."""
    places = [Path(__file__).parent / "benchmarks", Path(__file__).parents[2] / "benchmarks"]
    script = next((place / "compare.py" for place in places if (place / "compare.py").is_file()), None)
    if script is None:
        raise UsageError("the contenders are not in this installation; run benchmarks/compare.py of the source tree")
    return subprocess.run([sys.executable, str(script), *options], check=False).returncode


def _paths(precision: str) -> list[str]:
    """Names of the paths that survey tries; NumPy alone where Numba does not load."""
    if ops.uses_numpy("auto"):
        return ["numpy"]
    from .kernels.paths import available

    return [path.name for path in available() if precision in ("auto", path.precision)]


@contextmanager
def _forced(path: str) -> Iterator[None]:
    """EVERWAVE_PATH as `path` for a while."""
    before = os.environ.get("EVERWAVE_PATH")
    os.environ["EVERWAVE_PATH"] = path
    try:
        yield
    finally:
        if before is None:
            del os.environ["EVERWAVE_PATH"]
        else:
            os.environ["EVERWAVE_PATH"] = before


def _products(result: dict[str, Any], model: Model, name: str) -> tuple[str, str]:
    """(GFLOP/s of a thread in the decoders' products, share of the register-only peak just measured).

    "-" for NumPy, and where the decoders took less time than the clock can tell.
    """
    spent = sum(result["stages"][network] for network in ("chunk_decoder", "frame_decoder"))
    if name == "numpy" or not spent:
        return "-", "-"
    from .ops.numba_ops import NumbaNetwork

    networks = {each: cast(NumbaNetwork, model.network(each)) for each in ("chunk_decoder", "frame_decoder")}
    windows = 2 * result["audio_seconds"] * model.config.signal.latent_rate / DECODER_LATENTS
    work = 2 * windows * sum(network.plan.multiplications for network in networks.values())
    rate = work / spent
    return f"{rate * 1e-9:.0f}", f"{rate / _peak(networks['frame_decoder'].path):.0%}"


def _peak(path: Any) -> float:
    """Operations a second of this thread with nothing but registers."""
    loop, operations = peak(path)
    loop()
    begin, rounds = time.thread_time(), 0
    while (spent := time.thread_time() - begin) < PEAK_SECONDS:
        loop()
        rounds += 1
    return rounds * operations / spent


def peak(path: Any, rounds: int = ROUNDS) -> tuple[Callable[[], None], float]:
    """A call that only multiplies and adds in registers, as the engine does on this path, and its number of operations (two each)."""
    from .kernels import multiply_adds
    from .kernels.steps import MEMORY

    chains, pairs = CHAINS[path.lanes], path.precision == "bfloat16"
    vector = (np.float32(0),) * path.lanes
    out = np.zeros(max(chains * path.lanes, MEMORY), np.float32)
    operations = 2.0 * chains * path.lanes * (1 + pairs)
    if path.unit:
        rounds, operations = rounds // 10, 2.0 * 4 * 16 * 16 * 32  # four products of tiles a round
    kind = (path.multiplier, vector, (0,) * chains)
    return lambda: multiply_adds(*kind, rounds, out, 1 if pairs else None), operations * rounds


def extensions() -> list[str]:
    """What decides which paths run, as Linux names it."""
    try:
        words = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return []
    return [
        name
        for name in ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "asimd", "bf16")
        if name in words
    ]


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


def versions(*packages: str) -> dict[str, str]:
    found = {"everwave": __version__, "python": platform.python_version()}
    for name in packages:
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
    if not math.isnan(found := status_mb("VmHWM")):
        return found
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _for_json(megabytes: float) -> float | None:
    """Rounded; JSON knows no NaN."""
    return None if math.isnan(megabytes) else round(megabytes, 1)


def status_mb(name: str) -> float:
    """A size that Linux states of this process, in MB; elsewhere NaN."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024 / 1e6
    except OSError:
        pass
    return float("nan")


def _forget_peak() -> None:
    """Let Linux count the most memory from here on, where it lets us."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
