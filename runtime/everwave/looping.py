"""A loop: a piece whose end goes on into its start. Anchors, clocks, latents and frames all lie on a circle."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from . import conditioning
from .controls import Piece
from .errors import Cancelled
from .pipeline import Pipeline, clipped
from .resampling import resample_circle

Array = np.ndarray

BEATS_PER_BAR = 4
MAX_EXACT_SECONDS = 300  # of a loop that is brought to its tempo, for which all of it must be there


class Loop:
    """Blocks (n, 2) of a loop, float32 in [-1, 1], played once; put end to end they go on without a seam.

    What is generated is a whole number of latents (4096 samples at 44.1 kHz): the nearest to the seconds asked for. Of a
    model with a tempo that is constant, it is the nearest number of bars of four beats, at least one, and then of
    latents, over which the beats are spread evenly. Such a loop is then resampled around its circle to the bars' own
    length, at most half a latent away: it has the tempo asked for, to the sample. That shifts its pitch by up to
    46 ms in its length, 10 cents in 8 s. One of more than five minutes is left as it is, wrong by 0.015 % at most.

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
        self._made = self.latents * signal.latent_samples
        exact = self.bars is not None and wanted <= MAX_EXACT_SECONDS
        self.frames = max(1, round(wanted * signal.sample_rate)) if exact else self._made
        self.seconds = self.frames / signal.sample_rate
        self.bpm = None if self.bars is None else self.bars * BEATS_PER_BAR * 60 / self.seconds
        self.stages = pipeline.stages
        self._progress, self._cancel = progress, cancel
        piece = Piece(pipeline, seed, period=self.latents)
        self._source = pipeline.loop(partial(piece.looped, state), seed, self.latents)
        self._blocks = self._watched() if self.frames == self._made else self._in_time()

    def _watched(self) -> Iterator[Array]:
        """The blocks as they are generated."""
        done = 0
        while True:
            if self._cancel is not None and self._cancel():
                self.close()
                raise Cancelled(f"cancelled after {done} of {self._made} frames")
            block = next(self._source, None)
            if block is None:
                return
            done += len(block)
            if self._progress is not None:
                self._progress(done * self.frames // self._made, self.frames)
            yield block

    def _in_time(self) -> Iterator[Array]:
        """All of it as one block, in the bars' own length."""
        yield clipped(resample_circle(np.concatenate(list(self._watched())), self.frames))

    def __iter__(self) -> Iterator[Array]:
        return self

    def __next__(self) -> Array:
        return next(self._blocks)

    def close(self) -> None:
        """Begin no more work; called by `with`."""
        self._source.close()  # type: ignore[attr-defined]

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
