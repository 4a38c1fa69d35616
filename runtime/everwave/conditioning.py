"""What a user asks of a conditional model (tempo, note density), as one network input per latent.

A value may be a number (constant), a sequence of numbers (one per latent), a sequence of (seconds, value) pairs or a
CSV file of them (straight lines in between, held before the first and after the last). A condition that is left out
is drawn from what the model was trained on, by the seed. The network sees (value - mean) / scale, and for a condition
with clocks also where in the beat, the bar ... each latent lies: beats (of a tempo; of a note density its onsets) are
counted from the start of the piece.
"""

from __future__ import annotations

import csv
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from .config import Condition, Config
from .errors import UsageError, short
from .philox import normals, uniforms

Array = np.ndarray

TEMPO = "bpm"  # what a condition is called whose beats are the music's
MAX_CSV_BYTES = 64 * 2**20
MAX_TIME = 1e10  # seconds, either way; no piece goes on for as long


class Curve(Protocol):
    """A condition over time, in its unit. Latent n stands for the time at its middle, (n + 1/2) / latent rate."""

    def __call__(self, n: Array) -> Array:
        """Values (len(n),) float64 at latents `n`."""

    def integral(self, n: Array) -> Array:
        """The values summed over time, in unit times seconds, from the start of the piece to latents `n`."""


@dataclass(frozen=True)
class Signal:
    """Checked wishes for every condition of a model; called with a stretch of latents, gives the network's input."""

    conditions: tuple[Condition, ...]
    curves: tuple[Curve, ...]
    ahead: tuple[float, ...]  # beats that each condition's clocks are ahead of its own curve

    def __call__(self, start: int, count: int, period: int | None = None) -> Array:
        """(count, channels) float32 for latents start .. start + count - 1; a loop repeats after `period` latents."""
        n = np.arange(start, start + count)
        columns = []
        for i, (condition, values) in enumerate(zip(self.conditions, self.values(n, period), strict=True)):
            columns += channels(condition, values, self.beats(i, n, period) if condition.clocks else n)
        return np.stack(columns, axis=1).astype(np.float32) if columns else np.empty((count, 0), np.float32)

    def values(self, n: Array, period: int | None = None) -> list[Array]:
        """One array (len(n),) float64 for each condition, in its unit, at latents `n`."""
        return [curve(n if period is None else n % period) for curve in self.curves]

    def beats(self, index: int, n: Array, period: int | None = None) -> Array:
        """Beats (len(n),) float64 from the start of the piece to latents `n`, as condition `index` counts them.

        A loop has whole turns of the slowest clock: the nearest number, which is at most half a turn from the tempo.
        """
        curve, condition = self.curves[index], self.conditions[index]
        if period is None:
            return curve.integral(n) / condition.seconds + self.ahead[index]
        first, last = curve.integral(np.array([0, period]))
        turns = max(round((last - first) / condition.seconds / max(condition.clocks)), 1)
        return curve.integral(n % period) * (turns * max(condition.clocks) / max(last - first, 1e-9))

    def turned(
        self, previous: Signal, changed: Collection[str], first: int, length: float, latent_rate: float
    ) -> Signal:
        """What `previous` becomes at latent `first`, where the conditions called `changed` set out for those of this signal.

        They take `length` latents, in a straight line from where they are; the others stay on their way, and clocks go on.
        """
        at = np.array([first])

        def curve(i: int, condition: Condition) -> Curve:
            before = previous.curves[i]
            if condition.name not in changed:
                return before
            return Glide(float(before(at)[0]), self.curves[i], first, length, latent_rate) if length else self.curves[i]

        curves = tuple(curve(i, condition) for i, condition in enumerate(self.conditions))
        ahead = [
            previous.ahead[i] if new is previous.curves[i] or not condition.clocks
            else float(previous.beats(i, at)[0] - new.integral(at)[0] / condition.seconds)
            for i, (condition, new) in enumerate(zip(self.conditions, curves, strict=True))
        ]  # fmt: skip
        return Signal(self.conditions, curves, tuple(ahead))


def gone(n: Array, first: int, length: float) -> Array:
    """How much of a way of `length` latents that begins with latent `first` is behind latents `n`, 0 to 1; a latent stands for its middle."""
    return np.clip((n + 0.5 - first) / length, 0, 1) if length else np.ones(len(n))


def channels(condition: Condition, values: Array, beats: Array) -> list[Array]:
    """The network's inputs (T,) for values (T,) of a condition, and of its clocks at these beats (T,) of the piece."""
    columns = [(values - condition.mean) / condition.scale]
    for turn in condition.clocks:
        angle = 2 * np.pi * (beats / turn % 1.0)
        columns += [np.cos(angle), np.sin(angle)]
    return columns


def with_clocks(config: Config, x: Array) -> Array:
    """Coordinates (T, anchor + style + one normalised value per condition) of latents 0 ... -> those with clocks too."""
    conditions, plain = config.generator.conditions, x.shape[1] - len(config.generator.conditions)
    columns = list(x[:, :plain].T)
    for condition, column in zip(conditions, x[:, plain:].T, strict=True):
        values = condition.mean + condition.scale * column.astype(np.float64)
        beats = Steps(values, config.signal.latent_rate).integral(np.arange(len(x))) / condition.seconds
        columns += [column, *channels(condition, values, beats)[1:]]
    return np.stack(columns, axis=1).astype(np.float32)


def signal(config: Config, wishes: Mapping[str, Any] | None = None, seed: int = 0) -> Signal:
    """The `wishes` (condition name -> value, see above; None is left out) checked against the model.

    UsageError for a condition that the model lacks, and for values that are out of range, not finite or unreadable.
    """
    conditions = config.generator.conditions
    wishes = {name: value for name, value in (wishes or {}).items() if value is not None}
    for name, value in wishes.items():
        if name not in [condition.name for condition in conditions]:
            raise UsageError(f"{name}={short(value)}: {_what_there_is(conditions)}")
    rate = config.signal.latent_rate
    curves = tuple(_curve(c, wishes.get(c.name), rate, seed) for c in conditions)
    return Signal(conditions, curves, (0.0,) * len(curves))


def drawn(condition: Condition, seed: int) -> float:
    """A value as the model met it in training: one of its choices, or normal by the condition's mean and scale, kept in its range."""
    if condition.choices:
        place = uniforms(seed, f"condition/{condition.name}", 0, 1)[0]
        return condition.choices[int(place * len(condition.choices))]
    value = condition.mean + condition.scale * float(normals(seed, f"condition/{condition.name}", 0, 1)[0])
    return min(max(value, condition.low), condition.high)


def plain(name: str, wish: Any) -> Any:
    """The wish as JSON can hold it: None, a number, or lists of numbers; a CSV file is read."""
    if isinstance(wish, str | Path):
        number = _number(wish)
        return _read_csv(name, Path(wish)) if number is None else number
    if wish is None:
        return None
    try:
        return np.asarray(wish, np.float64).tolist()
    except (TypeError, ValueError, OverflowError):
        raise UsageError(f"{name}={short(wish)}: give a number, numbers, or (seconds, value) pairs") from None


def _curve(condition: Condition, wish: Any, latent_rate: float, seed: int) -> Curve:
    if wish is None:
        return Constant(drawn(condition, seed), latent_rate)
    name, values = condition.name, np.asarray(plain(condition.name, wish), np.float64)
    if values.ndim == 0:
        return Constant(float(_checked(condition, values)), latent_rate)
    if values.ndim == 1 and len(values):
        return Steps(_checked(condition, values), latent_rate)
    if values.ndim == 2 and values.shape[1] == 2 and len(values):
        return Lines(_checked_times(name, values[:, 0]), _checked(condition, values[:, 1]), latent_rate)
    raise UsageError(
        f"{name}: an array of shape {values.shape}; give a number, one number per latent, or (seconds, value) pairs"
    )


@dataclass(frozen=True)
class Constant:
    """The same value always."""

    value: float
    latent_rate: float

    def __call__(self, n: Array) -> Array:
        return np.full(len(n), self.value)

    def integral(self, n: Array) -> Array:
        return self.value * (n + 0.5) / self.latent_rate


@dataclass(frozen=True, eq=False)
class Steps:
    """One value (L,) for each latent, the last one held."""

    steps: Array
    latent_rate: float

    def __call__(self, n: Array) -> Array:
        return self.steps[np.minimum(n, len(self.steps) - 1)]

    def integral(self, n: Array) -> Array:
        before = np.concatenate([[0.0], np.cumsum(self.steps)])[np.minimum(n, len(self.steps))]
        held = np.maximum(n - len(self.steps), 0) * self.steps[-1]
        return (before + held + self(n) / 2) / self.latent_rate


@dataclass(frozen=True, eq=False)
class Lines:
    """Straight lines between values (K,) at times (K,) in seconds, held before the first and after the last."""

    times: Array
    values: Array
    latent_rate: float

    def __call__(self, n: Array) -> Array:
        return self._at((n + 0.5) / self.latent_rate)

    def integral(self, n: Array) -> Array:
        return self._area((n + 0.5) / self.latent_rate) - self._area(np.zeros(1))

    def _at(self, t: Array) -> Array:
        return np.interp(t, self.times, self.values)

    def _area(self, t: Array) -> Array:
        """The integral from the first time to `t`: trapezoids, whole ones and the rest of one."""
        pieces = np.diff(self.times) * (self.values[1:] + self.values[:-1]) / 2
        whole = np.concatenate([[0.0], np.cumsum(pieces)])
        i = np.maximum(np.searchsorted(self.times, t, side="right") - 1, 0)
        return whole[i] + (t - self.times[i]) * (self.values[i] + self._at(t)) / 2


@dataclass(frozen=True, eq=False)
class Glide:
    """A value until latent `first`, `length` latents later a curve, a straight line from one to the other between."""

    before: float
    after: Curve
    first: int
    length: float
    latent_rate: float

    def __call__(self, n: Array) -> Array:
        weight = gone(n, self.first, self.length)
        return (1 - weight) * self.before + weight * self.after(n)

    def integral(self, n: Array) -> Array:
        end = self._way[-1]
        late = self._areas[-1] + self.after.integral(np.maximum(n, end)) - self.after.integral(self._way[-1:])
        between = self._areas[np.clip(n - self.first, 0, end - self.first)]
        early = self.before * (n + 0.5) / self.latent_rate
        return np.where(n >= end, late, np.where(n > self.first, between, early))

    @cached_property
    def _way(self) -> Array:
        return np.arange(self.first, self.first + int(np.ceil(self.length)) + 1)

    @cached_property
    def _areas(self) -> Array:
        """From the start of the piece to each latent of the way; kept, as every window asks for them."""
        steps = self(self._way)
        sums = np.concatenate([[0.0], np.cumsum((steps[1:] + steps[:-1]) / 2)]) / self.latent_rate
        return self.before * (self.first + 0.5) / self.latent_rate + sums


def _checked(condition: Condition, values: Array) -> Array:
    """`values` themselves, if all are finite and in the condition's range."""
    wrong = values[~((values >= condition.low) & (values <= condition.high))]  # NaN is wrong too
    if wrong.size:
        raise UsageError(
            f"{condition.name}={wrong.flat[0]:g}: this model takes {condition.low:g} to {condition.high:g}"
            f" {condition.unit}".rstrip()
        )
    return values


def _checked_times(name: str, times: Array) -> Array:
    if not np.isfinite(times).all():
        raise UsageError(f"{name}: a time is not a finite number of seconds")
    if np.abs(times).max(initial=0) > MAX_TIME:
        far = times[np.abs(times).argmax()]
        raise UsageError(f"{name}: time {far:g} s; times must be between {-MAX_TIME:g} and {MAX_TIME:g} s")
    back = np.flatnonzero(np.diff(times) <= 0)
    if back.size:
        raise UsageError(
            f"{name}: time {times[back[0] + 1]:g} s comes after {times[back[0]]:g} s; sort the times, each only once"
        )
    return times


def _read_csv(name: str, path: Path) -> list[tuple[float, float]]:
    """(seconds, value) of every line of a CSV file; empty lines, and a first one that begins like no number, are skipped."""
    try:
        size, is_file = path.stat().st_size, path.is_file()
        text = path.read_text(encoding="utf-8-sig") if is_file and size <= MAX_CSV_BYTES else ""
        rows = list(csv.reader(text.splitlines()))
    except (OSError, ValueError, csv.Error) as error:  # ValueError: no UTF-8, or a zero in the path
        reason = getattr(error, "strerror", None) or "no text of lines `seconds,value`"
        raise UsageError(f"{name}={short(str(path))}: neither a number nor a readable CSV file ({reason})") from None
    if not is_file:
        raise UsageError(f"{name}={short(str(path))}: neither a number nor a file of lines `seconds,value`")
    if size > MAX_CSV_BYTES:
        raise UsageError(f"{name}: {path} is larger than {MAX_CSV_BYTES >> 20} MiB; that is no curve")
    pairs: list[tuple[float, float]] = []
    for line, row in enumerate(rows, start=1):
        if not any(cell.strip() for cell in row):
            continue
        numbers = [_number(cell) for cell in row]
        if len(row) == 2 and None not in numbers:
            pairs.append((numbers[0], numbers[1]))  # type: ignore[arg-type]
        elif line > 1 or row[0].strip()[:1] in ("+", "-", ".", *"0123456789"):
            raise UsageError(
                f"{name}: {path}, line {line}: {short(','.join(row))} is not `seconds,value`, two numbers and a comma between"
            )
    if not pairs:
        raise UsageError(f"{name}: {path} has no line `seconds,value`")
    return pairs


def _number(text: Any) -> float | None:
    try:
        return float(str(text))
    except ValueError:
        return None


def _what_there_is(conditions: tuple[Condition, ...]) -> str:
    if not conditions:
        return "this model takes no conditions; leave it out"
    known = ", ".join(f"{c.name} ({c.low:g} to {c.high:g} {c.unit})" for c in conditions)
    return f"this model does not know it; it takes {known}"
