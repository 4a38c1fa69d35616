#!/usr/bin/env python3
"""`encode` against the same encoders in Keras/TensorFlow, in one run.

    python benchmarks/encode.py --rounds 5 --seconds 60 --preset full lite

Both get the same stereo noise in memory and give latents. everwave does the whole job: STFT, both encoders, both channels;
Keras gets log-magnitudes that are made beforehand and runs the encoders only, on the batch size that is fastest for it.
Each runs in a process of its own, in turn; compilation and a first run are not timed. What counts is the median over
rounds of the ratio inside a round. Results go to benchmarks/results/encode-NAME.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent
PATHS = [HERE, HERE.parent / "runtime", HERE.parent / "trainer"]
NETWORKS = ("frame_encoder", "chunk_encoder")
BATCHES = (16, 64)  # decoder windows per call; 64 frames each
OURS = {"everwave-float32": "float32", "everwave-bf16": "bfloat16"}
KERAS = "keras-float32"
Row = dict[str, Any]


def main() -> None:
    options = _parser().parse_args()
    if options.worker:
        worker = keras if options.worker == KERAS else everwave
        wall, cpu = worker(options)
        print(json.dumps({"times_real_time": round(options.seconds / wall, 2), "cpu_seconds": round(cpu, 3)}))
        return
    from everwave import bench

    runs = list(measure(options))
    rows = summary(runs)
    result = {
        "command": " ".join(["python", "benchmarks/encode.py", *sys.argv[1:]]),
        "machine": {"processor": bench.cpu_name(), "system": platform.platform(), "threads": options.threads},
        "versions": bench.versions("numpy", "numba", "tensorflow", "keras"),
        "runs": runs,
        "summary": rows,
    }
    path = options.output / f"encode-{options.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(table(rows))
    print(f"wrote {path}", file=sys.stderr)


# -- one contender -------------------------------------------------------------------------------------------------


def everwave(options: argparse.Namespace) -> tuple[float, float]:
    """Wall seconds of `encode`, and CPU seconds of all threads."""
    import numpy as np
    from everwave import random_model

    model = random_model(options.preset[0], 0, options.threads, OURS[options.worker])
    samples = _noise(options.seconds, model.sample_rate, np)
    model.encode(samples[: 10 * model.sample_rate], model.sample_rate)
    return _timed(lambda: model.encode(samples, model.sample_rate))


def keras(options: argparse.Namespace) -> tuple[float, float]:
    """Wall seconds of the two encoders as TensorFlow graphs, and CPU seconds of all threads."""
    import numpy as np
    from contenders import Setting, Source, keras_networks
    from everwave import signal

    source, batch = Source(options.preset[0], HERE), options.batch
    s = source.config.signal
    left, _ = _noise(options.seconds, s.sample_rate, np).T
    frames = signal.analyse(left, s)
    windows = frames[: len(frames) // 64 * 64].reshape(-1, 64, s.bins)
    calls = -(-2 * len(windows) // batch)  # the right channel has as many
    windows = np.resize(windows, (calls * batch, *windows.shape[1:]))
    setting = Setting(options.threads, batch)
    first = keras_networks.load("frame_encoder", source, batch, setting, "float32")
    second = keras_networks.load("chunk_encoder", source, batch * 4, setting, "float32")

    def run(count: int) -> None:
        for i in range(count):
            latents = first(windows[i * batch : (i + 1) * batch])[0]
            second(latents.reshape(batch * 4, 16, -1))

    run(2)
    return _timed(lambda: run(calls))


def _timed(work: Callable[[], object]) -> tuple[float, float]:
    begin, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - begin, time.process_time() - cpu


def _noise(seconds: float, rate: int, np: Any) -> Any:
    return np.random.default_rng(0).uniform(-0.5, 0.5, (int(seconds * rate), 2)).astype(np.float32)


# -- all of them ---------------------------------------------------------------------------------------------------


def measure(options: argparse.Namespace) -> Iterator[Row]:
    """Every contender in turn, each round beginning with another one; a contender that fails is said to."""
    contenders = [*((name, 0) for name in OURS), *((KERAS, batch) for batch in BATCHES)]
    for preset in options.preset:
        for number in range(options.rounds):
            start = number % len(contenders)
            for name, batch in contenders[start:] + contenders[:start]:
                row = _child(options, preset, name, batch)
                print(f"round {number + 1}: {preset} {name} {batch or ''} {row}", file=sys.stderr)
                yield {"round": number, "preset": preset, "contender": name, "batch": batch, **row}


def _child(options: argparse.Namespace, preset: str, name: str, batch: int) -> Row:
    threads = str(options.threads)
    fixed = {"OMP_NUM_THREADS": threads, "TF_NUM_INTRAOP_THREADS": threads, "TF_NUM_INTEROP_THREADS": "1"}
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": ""}
    environment = {**os.environ, **fixed, **quiet, "PYTHONPATH": os.pathsep.join(map(str, PATHS))}
    words = ["--worker", name, "--preset", preset, "--seconds", str(options.seconds), "--threads", threads]
    done = subprocess.run(
        [sys.executable, __file__, *words, "--batch", str(batch)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or [str(done.returncode)])[-1]}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def summary(runs: list[Row]) -> list[Row]:
    """Median times real time, and the median ratio to Keras's best batch of the same round."""
    rows = []
    good = [run for run in runs if "failed" not in run]
    for preset in dict.fromkeys(run["preset"] for run in runs):
        speeds: dict[str, dict[int, float]] = {}
        for run in good:
            if run["preset"] == preset:
                of = speeds.setdefault(run["contender"], {})
                of[run["round"]] = max(of.get(run["round"], 0.0), run["times_real_time"])
        base = speeds.get(KERAS, {})
        for name, of in speeds.items():
            ratios = [of[number] / base[number] for number in of if number in base]
            row = {"preset": preset, "contender": name, "times_real_time": round(median(of.values()), 1)}
            rows.append(row | {"against_keras": round(median(ratios), 2) if ratios else None})
    return rows


def table(rows: list[Row]) -> str:
    lines = ["| preset | encoder | times real time | against Keras/TensorFlow |", "|---|---|---|---|"]
    lines += [f"| {r['preset']} | {r['contender']} | {r['times_real_time']} | {r['against_keras']} |" for r in rows]
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=60.0, help="of audio (default 60)")
    parser.add_argument("--preset", nargs="+", choices=("full", "lite", "tiny"), default=["full", "lite"])
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="default all cores")
    parser.add_argument("--name", default=platform.machine(), help="name of the results (default the kind of CPU)")
    parser.add_argument("--output", type=Path, default=HERE / "results")
    parser.add_argument("--worker", choices=(*OURS, KERAS), help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, default=0, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.path[:0] = map(str, PATHS)
    main()
