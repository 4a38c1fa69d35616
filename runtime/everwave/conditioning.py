"""What a user asks of a conditional model (tempo, note density), as one network input per latent.

A value may be a number (constant), a sequence of numbers (one per latent), a sequence of (seconds, value) pairs or a
CSV file of them (straight lines in between, held before the first and after the last). A condition that is left out
is drawn from what the model was trained on, by the seed. The network sees (value - mean) / scale.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .config import Condition, Config
from .errors import UsageError
from .philox import normals

Array = np.ndarray
Curve = Callable[[Array], Array]  # latent positions (n,) int64 -> values (n,) float64 in the condition's unit

MAX_CSV_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Signal:
    """Checked wishes for every condition of a model; called with a stretch of latents, gives the network's input."""

    conditions: tuple[Condition, ...]
    curves: tuple[Curve, ...]

    def __call__(self, start: int, count: int, period: int | None = None) -> Array:
        """(count, conditions) float32 for latents start .. start + count - 1; a loop repeats after `period` latents."""
        n = np.arange(start, start + count)
        columns = np.empty((count, len(self.conditions)), np.float32)
        for i, (condition, values) in enumerate(zip(self.conditions, self.values(n, period), strict=True)):
            columns[:, i] = (values - condition.mean) / condition.scale
        return columns

    def values(self, n: Array, period: int | None = None) -> list[Array]:
        """One array (len(n),) float64 for each condition, in its unit, at latents `n`."""
        return [curve(n if period is None else n % period) for curve in self.curves]


def signal(config: Config, wishes: Mapping[str, Any] | None = None, seed: int = 0) -> Signal:
    """The `wishes` (condition name -> value, see above; None is left out) checked against the model.

    UsageError for a condition that the model lacks, and for values that are out of range, not finite or unreadable.
    """
    conditions = config.generator.conditions
    wishes = {name: value for name, value in (wishes or {}).items() if value is not None}
    for name, value in wishes.items():
        if name not in [condition.name for condition in conditions]:
            raise UsageError(f"{name}={_short(value)}: {_what_there_is(conditions)}")
    rate = config.signal.latent_rate
    return Signal(conditions, tuple(_curve(c, wishes.get(c.name), rate, seed) for c in conditions))


def drawn(condition: Condition, seed: int) -> float:
    """A value as the model met it in training: normal by the condition's mean and scale, kept in its range."""
    value = condition.mean + condition.scale * float(normals(seed, f"condition/{condition.name}", 0, 1)[0])
    return min(max(value, condition.low), condition.high)


def _curve(condition: Condition, wish: Any, latent_rate: float, seed: int) -> Curve:
    if wish is None:
        return _constant(drawn(condition, seed))
    name = condition.name
    if isinstance(wish, str | Path):
        number = _number(wish)
        wish = _read_csv(name, Path(wish)) if number is None else number
    try:
        values = np.asarray(wish, np.float64)
    except (TypeError, ValueError):
        raise UsageError(f"{name}={_short(wish)}: give a number, numbers, or (seconds, value) pairs") from None
    if values.ndim == 0:
        return _constant(float(_checked(condition, values)))
    if values.ndim == 1 and len(values):
        return _steps(_checked(condition, values))
    if values.ndim == 2 and values.shape[1] == 2 and len(values):
        return _lines(_checked_times(name, values[:, 0]), _checked(condition, values[:, 1]), latent_rate)
    raise UsageError(
        f"{name}: an array of shape {values.shape}; give a number, one number per latent, or (seconds, value) pairs"
    )


def _constant(value: float) -> Curve:
    return lambda n: np.full(len(n), value)


def _steps(values: Array) -> Curve:
    return lambda n: values[np.minimum(n, len(values) - 1)]


def _lines(times: Array, values: Array, latent_rate: float) -> Curve:
    return lambda n: np.interp((n + 0.5) / latent_rate, times, values)  # a latent stands for the time at its middle


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
    back = np.flatnonzero(np.diff(times) <= 0)
    if back.size:
        raise UsageError(
            f"{name}: time {times[back[0] + 1]:g} s comes after {times[back[0]]:g} s; sort the times, each only once"
        )
    return times


def _read_csv(name: str, path: Path) -> list[tuple[float, float]]:
    """(seconds, value) of every line of a CSV file; one header line and empty lines are skipped."""
    try:
        if path.stat().st_size > MAX_CSV_BYTES:
            raise UsageError(f"{name}: {path} is larger than {MAX_CSV_BYTES >> 20} MiB; that is no curve")
        rows = list(csv.reader(path.read_text(encoding="utf-8-sig").splitlines()))
    except (OSError, UnicodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or "no text of lines `seconds,value`"
        raise UsageError(f"{name}={_short(str(path))}: neither a number nor a readable CSV file ({reason})") from None
    pairs: list[tuple[float, float]] = []
    for line, row in enumerate(rows, start=1):
        if not any(cell.strip() for cell in row):
            continue
        numbers = [_number(cell) for cell in row]
        if len(row) == 2 and None not in numbers:
            pairs.append((numbers[0], numbers[1]))  # type: ignore[arg-type]
        elif pairs or line > 1:
            raise UsageError(f"{name}: {path}, line {line}: {_short(','.join(row))} is not `seconds,value`")
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


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 40 else text[:37] + "..."
