"""A loop: a piece whose end goes on into its start. Anchors, clocks, latents and frames all lie on a circle."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from . import conditioning
from .controls import Piece
from .errors import Cancelled
from .pipeline import Pipeline

Array = np.ndarray

BEATS_PER_BAR = 4


class Loop:
    """Blocks (n, 2) of a loop, float32 in [-1, 1], played once; put end to end they go on without a seam.

    A loop is a whole number of latents (4096 samples at 44.1 kHz): the nearest to the seconds asked for. Of a model with
    a tempo that is constant, it is the nearest number of bars of four beats, at least one, and then of latents; the
    beats are spread evenly over these, so that its tempo is at most half a latent per loop from the one asked for.

    latents, frames (samples), seconds    bars, bpm: None where there is no constant tempo
    """

    def __init__(self, pipeline: Pipeline, seed: int, controls: Mapping[str, Any], seconds: float,
                 progress: Callable[[int, int], object] | None, cancel: Callable[[], bool] | None) -> None:  # fmt: skip
        signal = pipeline.config.signal
        state = Piece(pipeline, seed).state(controls)  # refuses what does not fit the model
        tempo = _tempo(pipeline, seed, controls)
        self.bars = None if tempo is None else max(1, round(seconds * tempo / 60 / BEATS_PER_BAR))
        wanted = seconds if self.bars is None else self.bars * BEATS_PER_BAR * 60 / tempo  # type: ignore[operator]
        self.latents = max(1, round(wanted * signal.latent_rate))
        self.frames = self.latents * signal.latent_samples
        self.seconds = self.frames / signal.sample_rate
        self.bpm = None if self.bars is None else self.bars * BEATS_PER_BAR * 60 / self.seconds
        self.stages = pipeline.stages
        piece = Piece(pipeline, seed, period=self.latents)
        self._blocks = pipeline.loop(partial(piece.looped, state), seed, self.latents)
        self._progress, self._cancel = progress, cancel
        self._done = 0

    def __iter__(self) -> Iterator[Array]:
        return self

    def __next__(self) -> Array:
        if self._cancel is not None and self._cancel():
            self.close()
            raise Cancelled(f"cancelled after {self._done} of {self.frames} frames")
        block = next(self._blocks)
        self._done += len(block)
        if self._progress is not None:
            self._progress(self._done, self.frames)
        return block

    def close(self) -> None:
        """Begin no more work; called by `with`."""
        self._blocks.close()  # type: ignore[attr-defined]

    def __enter__(self) -> Loop:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _tempo(pipeline: Pipeline, seed: int, controls: Mapping[str, Any]) -> float | None:
    """Beats per minute, of a model that has a tempo, unless it is a curve."""
    for condition in pipeline.config.generator.conditions:
        if condition.name == "bpm":
            wish = controls.get("bpm")
            wish = conditioning.drawn(condition, seed) if wish is None else wish
            return float(wish) if isinstance(wish, int | float) else None
    return None
