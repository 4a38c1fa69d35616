"""How close the engine's matrix products come to what the CPU can do, and to NumPy's BLAS, in one run on one thread.

    python benchmarks/kernels.py [--path avx512] [--repeat 15] [--json]

For products of sizes as the decoders have them at `full`, without minimal filters, the contenders run in turn, round after round; medians of thread CPU time, so
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
from everwave.bench import peak
from everwave.kernels import steps as E
from everwave.kernels.paths import Path, choose
from everwave.ops.numba_ops import NumbaNetwork
from everwave.ops.trace import Graph, Node, Trace

# (name, rows, depth, width, activation): products of the decoders, 8 windows of `full` at a time
SHAPES = (
    ("square", 512, 768, 768, None),
    ("d0", 512, 192, 768, "swish"),
    ("d1", 256, 2304, 768, "swish"),
    ("d2", 128, 2304, 512, "swish"),
    ("d3", 64, 1536, 256, "swish"),
    ("u2", 64, 512, 512, "swish"),
    ("u1", 128, 1024, 768, "swish"),
    ("u0", 256, 1536, 768, "swish"),
    ("magnitude", 512, 768, 513, "clip"),
    ("c1", 64, 1920, 640, "swish"),
)


def product(path: Path, rows: int, depth: int, width: int, activation: str | None) -> Callable[[], None]:
    """One product of the engine with its epilogue, on random numbers: the first layer of a network that goes on."""
    nn, x = Trace(), Node("input", (None, rows, depth))
    layer = nn.block("layer", x, width, kernel=1, activation=activation)
    graph = Graph(x, (y := nn.block("rest", layer, 1, kernel=1),), (x, layer, y), nn.parameters)
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal(shape, np.float32) / depth**0.5 for name, shape in graph.parameters.items()}
    network = NumbaNetwork(graph, weights, path, 1)
    network(rng.standard_normal((1, rows, depth), np.float32))  # so that its input lies where the product reads it
    plan = network.plan
    first = np.flatnonzero(plan.steps[:, E.KIND] == E.PRODUCT)[0]
    return lambda: network.run_steps(plan.steps[first : first + 1], 1)


def blas(rows: int, depth: int, width: int) -> Callable[[], object]:
    rng = np.random.default_rng(0)
    a = rng.standard_normal((rows, depth)).astype(np.float32)
    b, out = rng.standard_normal((depth, width)).astype(np.float32), np.empty((rows, width), np.float32)
    return lambda: np.matmul(a, b, out=out)


def rates(calls: dict[str, tuple[Callable[[], object], float]], repeat: int) -> dict[str, float]:
    """GFLOP/s of every contender, median over the rounds: in each it runs twice, the second time in its own caches."""
    for call, _ in calls.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeat):
        for name, (call, _) in calls.items():
            call()
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
