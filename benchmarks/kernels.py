"""How close the engine's matrix products come to what the CPU can do, and to NumPy's BLAS, in one run on one thread.

    python benchmarks/kernels.py [--path avx512] [--repeat 15] [--json]

For every shape of the decoders at `full` the contenders run in turn, round after round; medians of thread CPU time, so
that a busy machine disturbs less. `peak` is a loop of the same multiply-add instructions that touches no memory.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # one thread against one thread
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from everwave.kernels import engine as E
from everwave.kernels.paths import Path, choose
from everwave.kernels.peak import peak
from everwave.ops import plan as planning

# (name, rows, depth, width, activation): products of the decoders, 8 windows of `full` at a time
SHAPES = (
    ("square", 512, 768, 768, E.NONE),
    ("d0", 512, 192, 768, E.SWISH),
    ("d1", 256, 2304, 768, E.SWISH),
    ("d2", 128, 2304, 512, E.SWISH),
    ("d3", 64, 1536, 256, E.SWISH),
    ("u2", 64, 512, 512, E.SWISH),
    ("u1", 128, 1024, 768, E.SWISH),
    ("u0", 256, 1536, 768, E.SWISH),
    ("magnitude", 512, 768, 513, E.CLIP),
    ("c1", 64, 1920, 640, E.SWISH),
)


def parts(path: Path) -> int:
    """Numbers in one lane of a product: pairs of bfloat16, single float32."""
    return 2 if path.precision == "bfloat16" else 1


def product(path: Path, rows: int, depth: int, width: int, activation: int) -> Callable[[], None]:
    """One product of the engine with its epilogue, on random numbers."""
    rng = np.random.default_rng(0)
    arena = planning.aligned(rows * (depth + width) + planning.SLACK, planning.element(path))
    x = rng.standard_normal(rows * depth).astype(np.float32)
    arena[: rows * depth] = x if path.precision == "float32" else planning.to_bfloat16(x)
    weights = planning.pack(rng.standard_normal((1, depth, width)).astype(np.float32) / depth**0.5, path)
    packed = planning.aligned(len(weights) + planning.SLACK, weights.dtype)
    packed[: len(weights)] = weights
    constants = np.zeros(2 * (width + path.lanes), np.float32)
    tables = np.concatenate([np.arange(rows) * depth, rows * depth + np.arange(rows) * width])
    step = np.full(E.FIELDS, -1, np.int64)
    values = {
        E.KIND: E.PRODUCT, E.STEPS: rows, E.DEPTH: depth // parts(path), E.WIDTH: width, E.SOURCE: 0, E.TARGET: rows,
        E.WEIGHTS: 0, E.BIAS: 0, E.NOISE: 0, E.NOISE_STRIDE: 0, E.ACTIVATION: activation, E.EXTERNAL: 0,
        E.POINTS: 1, E.DISTINCT: 1, E.KERNEL: -1, E.TAPS: 1, E.OUTPUTS: 1, E.BLOCK: planning.block_rows(rows, depth, path),
        E.PARTS: parts(path), E.LENGTH: depth, E.SOURCE_STRIDE: 0, E.SPAN: 0, E.INPUTS: 0,
    }  # fmt: skip
    step[list(values)] = list(values.values())
    vector, height = (np.float32(0),) * path.lanes, planning.rows(path)
    noise, out = np.zeros(1, np.float32), np.zeros(1, np.float32)
    lines = planning.aligned(step[E.BLOCK] * depth, planning.element(path))
    tile = planning.aligned((path.rows + step[E.BLOCK]) * path.lanes * path.vectors, np.float32)
    return lambda: E.run(
        vector, height, *planning.panels(path), step[None], 1, out, arena, lines, out, packed, constants, tables, noise, tile
    )  # fmt: skip


def blas(rows: int, depth: int, width: int) -> Callable[[], object]:
    rng = np.random.default_rng(0)
    a = rng.standard_normal((rows, depth)).astype(np.float32)
    b, out = rng.standard_normal((depth, width)).astype(np.float32), np.empty((rows, width), np.float32)
    return lambda: np.matmul(a, b, out=out)


def rates(calls: dict[str, tuple[Callable[[], object], float]], repeat: int) -> dict[str, float]:
    """GFLOP/s of every contender: each runs once per round, median over the rounds."""
    for call, _ in calls.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeat):
        for name, (call, _) in calls.items():
            start = time.thread_time()
            call()
            seconds[name].append(time.thread_time() - start)
    return {name: work / statistics.median(seconds[name]) * 1e-9 for name, (_, work) in calls.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", default=None, help="path of the engine (default: the fastest float32 one)")
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16", "auto"))
    parser.add_argument("--repeat", type=int, default=15, help="rounds per shape (default 15)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    path = choose(options.precision, options.path)
    top = peak(path)
    lines: list[dict[str, Any]] = []
    for name, rows, depth, width, activation in SHAPES:
        work = 2.0 * rows * depth * width
        result = rates(
            {
                "peak": top,
                "engine": (product(path, rows, depth, width, activation), work),
                "blas": (blas(rows, depth, width), work),
            },
            options.repeat,
        )
        lines.append({"shape": name, "rows": rows, "depth": depth, "width": width, **result})
    if options.json:
        print(json.dumps({"path": path.name, "shapes": lines}))
        return
    print(f"path {path.name}, one thread, GFLOP/s")
    print("| product | rows | depth | width | peak | engine | share of peak | BLAS sgemm | engine / BLAS |")
    print("|---|---|---|---|---|---|---|---|---|")
    for line in lines:
        p, e, b = line["peak"], line["engine"], line["blas"]
        print(
            f"| {line['shape']} | {line['rows']} | {line['depth']} | {line['width']} | {p:.0f} | {e:.0f} | {e / p:.0%} | {b:.0f} | {e / b:.2f} |"
        )


if __name__ == "__main__":
    main()
