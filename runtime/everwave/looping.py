"""A loop: a piece whose end goes on into its start. Anchors, clocks, latents and frames all lie on a circle."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NoReturn

import numpy as np

from . import checks, conditioning
from .controls import Piece
from .errors import Cancelled, UsageError, short
from .pipeline import Pipeline, clipped
from .resampling import resample_circle

Array = np.ndarray

BEATS_PER_BAR = 4
MAX_EXACT_SECONDS = 300  # of a loop that is brought to its length, for which all of it must be there


class Loop:
    """Blocks (n, 2) of a loop, float32 in [-1, 1], played once; put end to end they go on without a seam.

    It is as long as was asked for, to the sample: bars of four beats, or seconds, in place of which, of a model with a
    tempo that is constant, it has the nearest number of bars, at least one. What is generated is a whole number of
    latents (4096 samples at 44.1 kHz), at least one, over which the beats are spread evenly; it is then resampled
    around its circle, which shifts its pitch by up to 46 ms in its length, 10 cents in 8 s. All of it comes as one
    block then. A loop of more than five minutes is left as long as its latents are, at most 46 ms off, and comes in
    blocks.

    latents, frames (samples), seconds    bars, bpm: None where there is no constant tempo
    """

    def __init__(self, pipeline: Pipeline, seed: int, controls: Mapping[str, Any], seconds: float | None, bars: int | None,
                 progress: Callable[[int, int], object] | None, cancel: Callable[[], bool] | None) -> None:  # fmt: skip
        signal = pipeline.config.signal
        state = Piece(pipeline, seed).state(controls)  # refuses what does not fit the model
        wanted, self.bars = _length(seconds, bars, _tempo(pipeline, seed, controls))
        self.latents = max(1, round(wanted * signal.latent_rate))
        self._made = self.latents * signal.latent_samples
        wanted = max(wanted, 1 / signal.latent_rate)
        self.frames = round(wanted * signal.sample_rate) if wanted <= MAX_EXACT_SECONDS else self._made
        self.seconds = self.frames / signal.sample_rate
        self.bpm = None if self.bars is None else self.bars * BEATS_PER_BAR * 60 / self.seconds
        self.stages = pipeline.stages
        self._progress, self._cancel, self._closed = progress, cancel, False
        piece = Piece(pipeline, seed, period=self.latents)
        self._source = pipeline.loop(partial(piece.looped, state), seed, self.latents)
        self._blocks = self._watched() if self.frames == self._made else self._in_time()

    def _watched(self) -> Iterator[Array]:
        """The blocks as they are generated."""
        done = 0
        while not self._closed:
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
        """All of it as one block, as long as was asked for."""
        blocks = list(self._watched())
        if not self._closed:
            yield clipped(resample_circle(np.concatenate(blocks), self.frames))

    def __iter__(self) -> Iterator[Array]:
        return self

    def __next__(self) -> Array:
        return next(self._blocks)

    def close(self) -> None:
        """Begin no more work; called by `with`. Nothing more comes, of one whose length is exact nothing at all."""
        self._closed = True
        with contextlib.suppress(ValueError):  # another thread waits for a block; after that it ends by itself
            self._source.close()  # type: ignore[attr-defined]

    def __enter__(self) -> Loop:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a loop cannot be copied or pickled; make it again from its seed, or keep its samples")


def _length(seconds: float | None, bars: int | None, tempo: float | None) -> tuple[float, int | None]:
    """Seconds to the next start, and how many bars they are, if there is a constant tempo."""
    if tempo is None:
        if seconds is None:
            raise UsageError(f"bars={short(bars)} without a tempo that stays the same; ask for seconds")
        return seconds, None
    bar = BEATS_PER_BAR * 60 / tempo
    most = checks.MAX_SECONDS // bar
    bars = checks.whole("bars", bars, 1, most) if seconds is None else max(1, round(seconds / bar))
    return bars * bar, bars


def _tempo(pipeline: Pipeline, seed: int, controls: Mapping[str, Any]) -> float | None:
    """Beats per minute, of a model that has a tempo, unless it changes."""
    for condition in pipeline.config.generator.conditions:
        if condition.name == conditioning.TEMPO:
            wish = controls.get(condition.name)
            values = np.asarray(conditioning.drawn(condition, seed) if wish is None else wish)
            if values.ndim == 2:  # (seconds, value) pairs
                values = values[:, 1]
            return float(values.flat[0]) if np.ptp(values) == 0 else None
    return None
