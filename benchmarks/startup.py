#!/usr/bin/env python3
"""How long it takes from starting a process to the first audio block: cold, with an empty compilation cache, and warm.

    python benchmarks/startup.py [--preset lite full] [--threads 2] [--repeat 5]

Every figure is a fresh process: its parent takes the time from before it is started. Steps are wall seconds inside it;
CPU seconds are the whole process's, for machines that others use too.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CHILD = """
import time; begin = time.time()
import sys, json, os
for library in ("OPENBLAS", "MKL", "OMP", "VECLIB"): os.environ.setdefault(library + "_NUM_THREADS", "1")
import everwave.model as m; imported = time.time()
model = m.load(sys.argv[1], int(sys.argv[2])); loaded = time.time()
stream = model.stream(seed=1); block = next(stream); played = time.time(); cpu = time.process_time()
from everwave.bench import peak_rss_mb
stream.close()
print(json.dumps({"interpreter": begin - float(sys.argv[3]), "import": imported - begin, "load": loaded - imported,
    "first block": played - loaded, "in all": played - float(sys.argv[3]), "CPU seconds": cpu, "peak MB": peak_rss_mb(), "samples": len(block)}))
"""


def start(model: Path, threads: int, cache: str) -> dict[str, float]:
    environment = os.environ | {"NUMBA_CACHE_DIR": cache}
    arguments = [sys.executable, "-c", CHILD, str(model), str(threads), repr(time.time())]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", nargs="+", choices=("full", "lite", "tiny"), default=["lite"])
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeat", type=int, default=5, help="warm starts, of which the medians are shown (default 5)")
    options = parser.parse_args()
    from everwave import weights
    from everwave.config import PRESETS

    with tempfile.TemporaryDirectory() as folder:
        for preset in options.preset:
            model = Path(folder) / f"{preset}.h5"
            weights.write(model, weights.random_model(PRESETS[preset]))
            cache = f"{folder}/cache-{preset}"
            cold = start(model, options.threads, cache)
            warm = [start(model, options.threads, cache) for _ in range(options.repeat)]
            median = {key: statistics.median(run[key] for run in warm) for key in cold}
            print(f"| {preset}, {options.threads} threads | cold | warm, median of {options.repeat} |\n|---|---|---|")
            for key in cold:
                print(f"| {key} | {cold[key]:.3g} | {median[key]:.3g} |")


if __name__ == "__main__":
    main()
