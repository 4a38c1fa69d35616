"""One contender in a process of its own: `python -m contenders.worker NAME ...` prints one JSON object.

What is timed is what the networks do for a piece: generator, then both channels' chunk decoder and frame decoder.
Coordinates are made beforehand and the frames are thrown away. A piece is rounded up to whole batches for every
worker, and the contender is credited with all of it. Compilation and a first batch of every worker are not timed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import CONTENDERS, NETWORKS, Contender, Setting, Source

if TYPE_CHECKING:
    import numpy as np

    from . import Run

CHECKED_WINDOWS = 2


def main() -> None:
    options = _parser().parse_args()
    contender = CONTENDERS[options.contender]
    setting = Setting(options.threads, options.batch, options.workers)
    os.environ.update(contender.environment)
    os.environ.update(_threads(setting))
    source = Source(options.preset, options.folder, silent=options.task == "check")
    if options.task == "export":
        print(json.dumps({network: str(source.onnx(network)) for network in NETWORKS}))
    elif options.task == "check":
        print(json.dumps(differences(contender, source)))
    else:
        print(json.dumps(measure(contender, source, setting, options.seconds, options.repeats)))


def _threads(setting: Setting) -> dict[str, str]:
    """Variables that libraries read when they are imported."""
    each = str(setting.threads_per_worker)
    return {
        "OMP_NUM_THREADS": each,
        "TF_NUM_INTRAOP_THREADS": each,
        "TF_NUM_INTEROP_THREADS": str(setting.workers),
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "CUDA_VISIBLE_DEVICES": "",
    }


def measure(contender: Contender, source: Source, setting: Setting, seconds: float, repeats: int = 1) -> dict[str, Any]:
    """Load, warm up, and run a piece of at least `seconds` of audio; of several `repeats` the fastest counts."""
    import numpy as np
    from everwave.bench import peak_rss_mb
    from everwave.networks import input_shape

    windows, generator_windows, audio_seconds = piece(source, setting, seconds)
    shape = (generator_windows, *input_shape("generator", source.config))
    coordinates = np.random.default_rng(0).standard_normal(shape, np.float32)
    begin = time.perf_counter()
    batches = {"generator": generator_windows // setting.workers}
    runs = {n: contender.load(n, source, batches.get(n, setting.batch), setting) for n in NETWORKS}
    load_seconds = time.perf_counter() - begin
    with ThreadPoolExecutor(setting.workers) as pool:
        play(runs, coordinates, setting.batch * setting.workers, setting, pool)
        times = [play(runs, coordinates, windows, setting, pool) for _ in range(repeats)]
    wall, cpu = (min(kind) for kind in zip(*times, strict=True))
    return {
        "times_real_time": round(audio_seconds / wall, 3),
        "audio_seconds": round(audio_seconds, 3),
        "wall_seconds": round(wall, 4),
        "cpu_seconds": round(cpu, 4),
        "load_seconds": round(load_seconds, 3),
        "peak_rss_mb": round(peak_rss_mb(), 1),
        "threads": setting.threads,
        "batch": setting.batch,
        "workers": setting.workers,
    }


def piece(source: Source, setting: Setting, seconds: float) -> tuple[int, int, float]:
    """(decoder windows of both channels together, generator windows, seconds of stereo audio that they make)"""
    from everwave.config import DECODER_LATENTS

    config = source.config
    wanted = 2 * math.ceil(seconds * config.signal.latent_rate / DECODER_LATENTS)
    windows = _whole(wanted, setting.batch * setting.workers)
    latents = windows * DECODER_LATENTS / 2
    generator_windows = _whole(math.ceil(latents / config.generator.window), setting.workers)
    return windows, generator_windows, latents / config.signal.latent_rate


def _whole(count: int, unit: int) -> int:
    return -(-count // unit) * unit


def play(
    runs: dict[str, Run], coordinates: np.ndarray, windows: int, setting: Setting, pool: ThreadPoolExecutor
) -> tuple[float, float]:
    """Wall and CPU seconds of the networks for `windows` decoder windows; the workers share both parts of the work."""
    import numpy as np
    from everwave.config import DECODER_LATENTS

    def generate(x: np.ndarray) -> np.ndarray:
        return np.array(runs["generator"](x)[0])

    def decode(x: np.ndarray) -> None:
        runs["frame_decoder"](runs["chunk_decoder"](x)[0])

    begin, cpu = time.perf_counter(), time.process_time()
    latents = np.concatenate(list(pool.map(generate, np.split(coordinates, setting.workers))))
    sides = latents.reshape(-1, DECODER_LATENTS, 2, latents.shape[-1] // 2).transpose(2, 0, 1, 3)
    x = np.ascontiguousarray(sides.reshape(-1, *sides.shape[2:])[:windows])
    list(pool.map(decode, np.split(x, windows // setting.batch)))
    return time.perf_counter() - begin, time.process_time() - cpu


def differences(contender: Contender, source: Source) -> dict[str, float]:
    """Root mean square difference of each network from the NumPy reference, as a share of the reference's deviation."""
    import numpy as np
    from everwave.networks import input_shape
    from everwave.ops.numpy_ops import NumpyNetwork

    result = {}
    for network in NETWORKS:
        shape = (CHECKED_WINDOWS, *input_shape(network, source.config))
        x = np.random.default_rng(0).standard_normal(shape, np.float32)
        expected = NumpyNetwork(network, source.config, source.parameters(network))(x)
        given = contender.load(network, source, CHECKED_WINDOWS, Setting(1, CHECKED_WINDOWS))(x)
        result[network] = max(
            float(np.sqrt(np.square(a - b).mean()) / b.std()) for a, b in zip(given, expected, strict=True)
        )
    return result


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m contenders.worker", description=__doc__)
    parser.add_argument("contender", choices=CONTENDERS)
    parser.add_argument("--task", choices=("time", "check", "export"), default="time")
    parser.add_argument("--preset", default="full")
    parser.add_argument("--folder", type=Path, required=True, help="where ONNX files are kept")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=1)
    return parser


if __name__ == "__main__":
    main()
