"""Learning rates over a run, and the optimizers that trainers have in common."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


class Falling(keras.optimizers.schedules.LearningRateSchedule):
    """From `first` up to step `alone`, then from `then` up to `steps`, each along half a cosine to a fiftieth.

    At a constant rate the Frechet distance of techno went up and down by a fifth from one checkpoint to the next.
    """

    def __init__(self, first: float, then: float, alone: int, steps: int) -> None:
        self.alone = min(alone, steps)
        self.before, self.after = falling(first, self.alone), falling(then, steps - self.alone)

    def __call__(self, step: Any) -> Any:
        return ops.where(step < self.alone, self.before(step), self.after(ops.maximum(step - self.alone, 0)))


def falling(rate: float, steps: int, rise: int = 0) -> keras.optimizers.schedules.CosineDecay:
    """Up to `rate` over `rise` steps, then along half a cosine to a fiftieth of it, `steps` in all."""
    if not rise:
        return keras.optimizers.schedules.CosineDecay(rate, max(steps, 1), alpha=0.02)
    fall = max(steps - rise, 1)
    return keras.optimizers.schedules.CosineDecay(0.0, fall, alpha=0.02, warmup_target=rate, warmup_steps=rise)


def adam(learning_rate: float, steps: int, beta_1: float = 0.9) -> keras.optimizers.Adam:
    """Adam with a short warm-up and a cosine decay to 2 % over the whole run; clipped, so one bad crop cannot ruin it."""
    warmup = min(200, max(steps // 10, 1))
    schedule = keras.optimizers.schedules.CosineDecay(
        learning_rate / 20, max(steps - warmup, 1), alpha=0.02, warmup_target=learning_rate, warmup_steps=warmup
    )
    return keras.optimizers.Adam(schedule, beta_1=beta_1, beta_2=0.99, global_clipnorm=1.0)


def without_momentum(rate: Any) -> keras.optimizers.Adam:
    """Adam without momentum, which is of yesterday, as both sides learn fast."""
    return keras.optimizers.Adam(rate, beta_1=0.0, beta_2=0.99)
