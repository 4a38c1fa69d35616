"""How far bfloat16 takes music from what float32 makes of the same seeds."""

from __future__ import annotations

from typing import Any

import everwave
import numpy as np
from everwave.errors import UsageError
from everwave.kernels.paths import choose

from . import metrics

PIECES = 4
SECONDS = 40.0


def check(name: str, model: Any) -> None:
    """UsageError if the model called `name` makes no music, or this CPU has no bfloat16 products."""
    if "generator" not in model.info()["parameters"]:
        raise UsageError(f"{name} has no generator; give a model that has one")
    choose("bfloat16")


def evaluate(name: str) -> dict[str, Any]:
    """Mean log-mel difference in dB between the two precisions, over PIECES pieces, and that of the piece where it is largest."""
    models = [everwave.load(name, precision=precision) for precision in ("float32", "bfloat16")]

    def difference(seed: int) -> float:
        exact, rounded = (model.generate(SECONDS, seed=seed).mean(axis=1) for model in models)
        return metrics.log_mel_error(exact, rounded, models[0].sample_rate)

    found = [difference(seed) for seed in range(PIECES)]
    return {
        "pieces": PIECES,
        "seconds": SECONDS,
        "log_mel_difference_db": round(float(np.mean(found)), 4),
        "largest_db": round(max(found), 4),
    }
