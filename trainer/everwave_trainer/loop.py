"""The training loop that every trainer shares: batches in, named losses out, checkpoints in between."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from everwave.errors import EverwaveError
from everwave.stopping import Stopped, signals_noted
from keras import ops
from tqdm import tqdm

from . import checkpoint

READERS = 4  # batches that are made while a step runs; a GPU takes them faster than one thread makes them


class Trainer(Protocol):
    """What the loop needs: data and randomness are functions of the step number, which makes resuming exact."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """What a checkpoint must have been trained with."""

    def variables(self) -> Mapping[str, Sequence[Any]]:
        """Everything that a step changes, in named groups."""

    def batch(self, step: int) -> tuple[np.ndarray, ...]: ...

    def step(self, step: int, *batch: np.ndarray) -> dict[str, Any]:
        """One update; returns named scalars."""

    def sample(self, folder: Path, step: int) -> None:
        """Write something to listen to and to look at, and the exported weights."""


def run(
    trainer: Trainer, folder: Path, steps: int, *, minutes: float = 5.0, log: Callable[..., None] | None = None,
    enough: Callable[[], bool] = lambda: False,
) -> int:  # fmt: skip
    """Train up to `steps` in `folder`, resuming from its checkpoint; returns the step reached.

    A checkpoint is written every `minutes`, at the end, and on Ctrl-C, SIGTERM or SIGHUP; after each, `enough()` may end the run.
    A signal then raises Stopped, one during the last checkpoint, too.
    Losses, or variables, that are not finite stop the run before anything is written, so the last good checkpoint stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    start = checkpoint.restore(folder, trainer.variables(), trainer.settings) if checkpoint.exists(folder) else 0
    if start > steps:
        raise EverwaveError(
            f"{folder}: its checkpoint has {start} steps already; ask for more --steps, or use another folder"
        )

    def note(step: int, scalars: Mapping[str, Any]) -> None:
        """Wait for the results of `step`, which is counted from 0."""
        numbers = {k: float(ops.convert_to_numpy(v)) for k, v in scalars.items()}
        _check_finite(numbers, step, folder)
        means.update({k: means.get(k, v) + 0.02 * (v - means.get(k, v)) for k, v in numbers.items()})
        bar.set_postfix({k: f"{v:.4g}" for k, v in means.items()}, refresh=False)
        bar.update()
        if log and ((step + 1) % 20 == 0 or step + 1 == steps):
            log(step + 1, numbers)

    def save(step: int) -> None:
        checkpoint.save(folder, step, trainer.variables(), trainer.settings)
        trainer.sample(folder, step)

    saved, kept = time.monotonic(), 0  # when, and the step of, the last checkpoint of this run
    means: dict[str, float] = {}
    with (
        signals_noted() as came,
        ThreadPoolExecutor(READERS) as readers,
        tqdm(total=steps, initial=start, disable=None, unit="step") as bar,
    ):
        batches = deque(readers.submit(trainer.batch, s) for s in range(start, min(start + READERS, steps)))
        # what a GPU may still be at when the next step is sent
        running: tuple[int, Mapping[str, Any]] | None = None
        for step in range(start, steps):
            current = batches.popleft().result()
            if step + READERS < steps:
                batches.append(readers.submit(trainer.batch, step + READERS))
            scalars = trainer.step(step, *current)
            if running is not None:
                note(*running)
            running = step, scalars
            due = bool(came) or time.monotonic() - saved > 60 * minutes
            if due or step + 1 == steps:
                note(*running)
                running = None
            if due:
                save(kept := step + 1)
                saved = time.monotonic()
                with suppress(OSError):  # the terminal may be gone
                    tqdm.write(f"step {step + 1}: " + ", ".join(f"{k} {v:.4g}" for k, v in means.items()))
                if came:
                    raise Stopped(came[0])
                if enough():
                    return step + 1
        if kept < steps:
            save(steps)
            if came:
                raise Stopped(came[0])
    return steps


def _check_finite(scalars: Mapping[str, float], step: int, folder: Path) -> None:
    bad = {k: v for k, v in scalars.items() if not np.isfinite(v)}
    if bad:
        raise checkpoint.not_finite(bad, step, folder)
