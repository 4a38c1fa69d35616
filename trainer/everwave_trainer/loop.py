"""The training loop that every trainer shares: batches in, named losses out, checkpoints in between."""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from everwave.errors import EverwaveError
from everwave.stopping import Stopped, handled_by
from keras import ops
from tqdm import tqdm

from . import checkpoint, disk

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
    trainer: Trainer, folder: Path, steps: int, *, minutes: float = 5.0, limit: float | None = None,
    log: Callable[..., None] | None = None, enough: Callable[[], bool] = lambda: False,
) -> int:  # fmt: skip
    """Train up to `steps` in `folder`, resuming from its checkpoint; returns the step reached.

    A checkpoint is written every `minutes`, at the end, and on Ctrl-C, SIGTERM or SIGHUP; after each, `enough()` may end the run,
    and after `limit` minutes it ends in any case.
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
        progress(step + 1, {k: f"{v:.4g}" for k, v in means.items()})
        if log and ((step + 1) % 20 == 0 or step + 1 == steps):
            log(step + 1, numbers)

    def save(step: int) -> None:
        checkpoint.save(folder, step, trainer.variables(), trainer.settings)
        trainer.sample(folder, step)

    begun = saved = time.monotonic()  # the latter of the last checkpoint of this run
    kept = 0  # the step of it
    end = begun + 60 * (math.inf if limit is None else limit)
    means: dict[str, float] = {}
    with (
        disk.named(folder),
        _signals_noted(folder) as came,
        ThreadPoolExecutor(READERS) as readers,
        _progress(start, steps, limit) as progress,
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
            late = time.monotonic() > end
            due = bool(came) or late or time.monotonic() - saved > 60 * minutes
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
                if late or enough():
                    return step + 1
        if kept < steps:
            save(steps)
            if came:
                raise Stopped(came[0])
    return steps


@contextmanager
def _progress(start: int, steps: int, limit: float | None) -> Iterator[Callable[[int, Mapping[str, str]], None]]:
    """A bar of steps, or of minutes where those end the run; what it gives is called with the step reached and what is said beside it."""
    if limit is None:
        bar = tqdm(total=steps, initial=start, disable=None, unit="step")
    else:
        bar = tqdm(total=limit, disable=None, bar_format="{l_bar}{bar}| {n:.1f}/{total:.1f} min{postfix}")
    begun = time.monotonic()

    def progress(step: int, beside: Mapping[str, str]) -> None:
        if limit is None:
            bar.set_postfix(beside, refresh=False)
            bar.update(step - bar.n)
        else:
            bar.set_postfix({"step": step, **beside}, refresh=False)
            bar.update(min((time.monotonic() - begun) / 60, limit) - bar.n)

    with bar:
        yield progress


@contextmanager
def _signals_noted(folder: Path) -> Iterator[list[int]]:
    """Within, signals that ask to end come into the list given; at the first it is said what is being waited for."""
    came: list[int] = []

    def note(number: int, _: Any) -> None:
        if not came:
            with suppress(OSError, RuntimeError):  # the terminal may be gone, or in the middle of a line
                print(f"\n{folder}: finishing the checkpoint", file=sys.stderr)
        came.append(number)

    with handled_by(note):
        yield came


def _check_finite(scalars: Mapping[str, float], step: int, folder: Path) -> None:
    bad = {k: v for k, v in scalars.items() if not np.isfinite(v)}
    if bad:
        raise checkpoint.not_finite(bad, step, folder)
