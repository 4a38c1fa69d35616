"""What controls do to a piece: coordinates that glide, latents that fade over, a gain that ramps.

A state holds the controls in force from one latent on, each on its way from where it was. Under a new state the
generator's windows are made anew, as if its conditions had always been there: what it has learned are pieces of one
tempo. Two things keep the change from being heard as a cut: a control that was asked to glide moves in a straight line
from where it is, and the latents of the old windows fade into those of the new ones over FADE_LATENTS. All of it is a
function of the states and the position, so a piece with changes is as repeatable as one without.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from . import checks, conditioning, coordinates
from .errors import UsageError, short
from .pipeline import Latents, Pipeline, Stages, clipped, refiner_rows

Array = np.ndarray

FADE_LATENTS = 4  # 0.37 s at 44.1 kHz, one decoder window
LOOP_FADE_LATENTS = 16  # 1.5 s, at most: where the end of a loop turns into its beginning
KEPT_WINDOWS = 32  # generator windows kept for segments that share them; 64 KB each at full size
RAMP_SECONDS = 0.05  # of the gain, at least: the slowest tone keeps its shape
OWN = ("truncation", "style", "gain")  # every model has these; conditions come on top


@dataclass(frozen=True, eq=False)
class Way:
    """From one number or vector to another, in a straight line over `length` latents from latent `first` on."""

    before: Any
    after: Any
    first: int = 0
    length: float = 0.0

    def share(self, n: Array) -> Array:
        """How much of `after` there is at latents `n`, 0 to 1."""
        return conditioning.gone(n, self.first, self.length)

    def at(self, n: int) -> Any:
        (share,) = self.share(np.array([n]))
        return self.after if share == 1 else (1 - share) * self.before + share * self.after

    def turn(self, after: Any, first: int, length: float) -> Way:
        """From where this way is at latent `first`, to another value."""
        return Way(self.at(first), after, first, length)


@dataclass(frozen=True, eq=False)
class State:
    """Controls from latent `first` of the piece on, and their ways; `key` tells states apart in caches."""

    first: int
    controls: Mapping[str, Any]
    truncation: Way
    style: Way
    conditions: conditioning.Signal
    previous: State | None = None  # what fades out
    key: object = field(default_factory=object)


class Piece:
    """The latents of the piece called `seed`, under changing controls, or of a loop of `period` latents."""

    def __init__(self, pipeline: Pipeline, seed: int, period: int | None = None) -> None:
        self.config, self.seed = pipeline.config, seed
        self._generate, self._refine = pipeline.generate_window, pipeline.refine_window
        self._kept = Kept(KEPT_WINDOWS)
        self._period = period
        window = self.config.generator.window
        self._circle = period // window if period and period % window == 0 else None  # windows of a loop of whole ones

    def check(self, controls: Mapping[str, Any]) -> None:
        """UsageError for a condition among `controls` that does not fit the model; `plain` has checked the rest."""
        conditioning.signal(self.config, {name: v for name, v in controls.items() if name not in OWN}, self.seed)

    def state(self, controls: Mapping[str, Any], first: int = 0, glide: float = 0.0, previous: State | None = None,
              changed: Collection[str] = ()) -> State:  # fmt: skip
        """The state of `controls` (truncation, style, and any condition) as `plain` gives them, after that of `previous`.

        Those called `changed` take `glide` latents from where they are; the others go on as they were.
        """
        wishes = {name: value for name, value in controls.items() if name not in OWN}
        conditions = conditioning.signal(self.config, wishes, self.seed)
        allowed, wanted = controls["truncation"], self._style(controls)
        if previous is None:
            return State(first, controls, Way(allowed, allowed), Way(wanted, wanted), conditions)
        conditions = conditions.turned(previous.conditions, changed, first, glide, self.config.signal.latent_rate)
        truncation, style = previous.truncation, previous.style
        if "truncation" in changed:
            truncation = truncation.turn(allowed, first, glide)
        if "style" in changed or not np.array_equal(wanted, style.after):
            # a style that is drawn depends on the truncation; one that is on its way keeps its time
            left = 0.0 if "style" in changed else style.first + style.length - first
            style = style.turn(wanted, first, max(glide, left))
        heard = previous.previous if previous.first == first else replace(previous, previous=None)
        return State(first, controls, truncation, style, conditions, heard)

    def _style(self, controls: Mapping[str, Any]) -> Array:
        """The style vector (style,) float32 that `controls` ask for: their own, or one drawn by their seed or the piece's."""
        style = controls["style"]
        if style is None or isinstance(style, int):
            seed = self.seed if style is None else style
            return coordinates.style(self.config, seed, controls["truncation"])
        return np.asarray(style, np.float32)

    def coordinates(self, state: State, first: int, count: int) -> Array:
        """Rows (count, coordinates) of latents first ...: anchors, style and conditions, each on its way."""
        n = np.arange(first, first + count)
        asked = state.conditions(first, count, self._period)

        def rows(truncation: float, style: Array) -> Array:
            return coordinates.coordinates(
                self.config, self.seed, first, count, truncation, asked, self._period, style
            )  # fmt: skip

        own = rows(state.truncation.after, state.style.after)
        if min(state.truncation.share(n).min(), state.style.share(n).min()) == 1:
            return own
        generator = self.config.generator
        before = rows(state.truncation.before, state.style.before)
        anchors, style = np.split(np.arange(generator.anchor + generator.style), [generator.anchor])
        for columns, way in ((anchors, state.truncation), (style, state.style)):
            own[:, columns] = _mixed(before[:, columns], own[:, columns], way.share(n))
        return own

    def latents(self, state: State, first: int, count: int) -> Latents:
        """What a worker calls for latents first .. first + count - 1, all of them under `state`."""
        return partial(self._latents, state, first, count)

    def _latents(self, state: State, first: int, count: int, stages: Stages) -> Array:
        make = self._refined if self.config.generator.refiner else self._generated
        own = self._windows(make, state, range(first, first + count), stages)
        if state.previous is None or first >= state.first + FADE_LATENTS:
            return own
        before = self._latents(state.previous, first, count, stages)
        weight = conditioning.gone(np.arange(first, first + count), state.first, FADE_LATENTS)
        return _mixed(before, own, weight)

    def looped(self, state: State, first: int, count: int) -> Latents:
        """`latents` of a loop: the last generator window goes on past the end and fades into the beginning.

        So the seam is inside a window, unless the loop is whole windows: then it is one like those between windows.
        """
        return partial(self._looped, state, first, count)

    def _looped(self, state: State, first: int, count: int, stages: Stages) -> Array:
        assert self._period is not None
        period, size = self._period, self.config.generator.window
        rows = np.concatenate([self._latents(state, i % period, 1, stages) for i in range(first, first + count)])
        fade = min(LOOP_FADE_LATENTS, -period % size, period)
        for i, n in enumerate(k % period for k in range(first, first + count)):
            if n < fade:
                beyond = self._latents(state, period + n, 1, stages)
                rows[i : i + 1] = _mixed(beyond, rows[i : i + 1], np.array([(n + 0.5) / fade]))
        return rows

    def _windows(self, make: Callable[[State, int, Stages], Array], state: State, rows: range, stages: Stages) -> Array:
        """Latents `rows` out of whole windows, each made once."""
        size = self.config.generator.window
        windows = [
            self._kept.get((make.__name__, i, state.key), partial(make, state, i, stages))
            for i in range(rows.start // size, -(-rows.stop // size))
        ]
        return np.concatenate(windows)[rows.start % size :][: len(rows)]

    def _generated(self, state: State, index: int, stages: Stages) -> Array:
        size = self.config.generator.window
        index = index % self._circle if self._circle else index
        with stages("generator"):
            return self._generate(self.coordinates(state, index * size, size), self.seed, index)

    def _refined(self, state: State, index: int, stages: Stages) -> Array:
        size = self.config.generator.window
        rows = refiner_rows(size, index, around=self._circle is not None)
        latents = self._windows(self._generated, state, rows, stages)
        with stages("generator"):
            asked = state.conditions(rows.start, len(rows), self._period)
            return self._refine(np.concatenate([latents, asked], axis=1), index * size - rows.start)


def _mixed(before: Array, own: Array, weight: Array) -> Array:
    """Rows of both; exactly those of one where the weight is 0 or 1, so that it does not matter which rows are asked for."""
    return ((1 - weight[:, None]) * before + weight[:, None] * own).astype(np.float32)


class Kept:
    """Results by key, each worked out once by the first thread that asks; the oldest are forgotten."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._futures: dict[Any, Future[Array]] = {}
        self._lock = threading.Lock()

    def get(self, key: Any, make: Callable[[], Array]) -> Array:
        with self._lock:
            future = self._futures.get(key)
            mine = future is None
            if future is None:
                future = self._futures[key] = Future()
                if len(self._futures) > self._limit:
                    del self._futures[next(iter(self._futures))]
        if mine:
            try:
                future.set_result(make())
            except BaseException as error:
                future.set_exception(error)
        return future.result()


class Envelope:
    """Gain over time: straight lines from one value to the next, as a function of the frames heard so far."""

    def __init__(self, gain: float) -> None:
        self.points = [(-1, gain, gain, 0)]  # (frame, gain there, gain to go to, frames it takes), sorted by frame

    def add(self, at: int, gain: float, frames: int) -> None:
        """Begin at frame `at` to go to another gain; what was to begin there does not."""
        i = self._index(at) + 1
        if self.points[i - 1][0] == at:
            i -= 1
            del self.points[i]
        self.points.insert(i, (at, gain, gain, frames))
        for j in range(i, len(self.points)):  # where each line begins depends on those before it
            at, _, gain, frames = self.points[j]
            self.points[j] = (at, float(_line(self.points[j - 1], np.array(at))), gain, frames)

    def apply(self, samples: Array, at: int) -> Array:
        """Samples (n, 2), the first of which is heard as frame `at`, made louder or softer, and then held within +-1."""
        first, last = self._index(at), self._index(at + len(samples) - 1)
        begin, _, gain, frames = self.points[first]
        if first == last and at >= begin + frames:
            return clipped(samples if gain == 1 else samples * np.float32(gain))
        n = np.arange(at, at + len(samples))
        gains = np.empty(len(n), np.float32)
        for point in self.points[first : last + 1]:
            gains[n >= point[0]] = _line(point, n[n >= point[0]])
        return clipped(samples * gains[:, None])

    def _index(self, at: int) -> int:
        return bisect_right(self.points, at, key=lambda point: point[0]) - 1


def _line(point: tuple[int, float, float, int], n: Array) -> Array:
    at, begin, end, frames = point
    return np.where(n >= at + frames, end, begin + (end - begin) * ((n - at) / max(frames, 1)))


def plain(name: str, value: Any, config: Any) -> Any:
    """A checked control as JSON can hold it; whether a condition is in its range is `conditioning.signal`'s to say."""
    if name == "truncation":
        return checks.number(name, value, 0, checks.MAX_TRUNCATION)
    if name == "gain":
        return checks.number(name, value, 0, checks.MAX_GAIN)
    if name != "style":
        return conditioning.plain(name, value)
    if value is None or isinstance(value, int | np.integer):
        return None if value is None else checks.seed(value, "style")
    size = config.generator.style
    try:
        vector = np.asarray(value, np.float32)
    except (TypeError, ValueError, OverflowError):
        vector = np.empty(0, np.float32)
    most = checks.MAX_TRUNCATION
    if vector.shape != (size,) or not np.abs(vector).max() <= most:
        raise UsageError(f"style: give a seed, or {size} numbers from {-most:g} to {most:g} (this is {short(value)})")
    return [float(x) for x in vector]
