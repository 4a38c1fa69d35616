"""Arguments of users, checked: what comes back is safe to compute with, what is wrong is named in one line."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from typing import Any

import numpy as np

from .cpus import cores
from .errors import UsageError, short
from .philox import check_seed

MAX_SECONDS = 30 * 86400.0  # of a piece that ends
MAX_START = 1e9  # seconds; 30 years into a piece
TRUNCATION, MAX_TRUNCATION = 2.0, 8.0  # unless it is asked for, and at most
MAX_GAIN = 4.0
MAX_GLIDE = 3600.0  # seconds
MAX_THREADS = 1024
MAX_CHANNELS = 64
MAX_LEVEL = 256.0  # times full scale; beyond it samples are integers that nobody scaled, or damaged
MAX_VALUE = 1e6  # of latents and coordinates, which are a few units: from far larger ones networks make NaN
seed = check_seed  # in 0 .. 2^64 - 1


def number(name: str, value: Any, low: float, high: float, hint: str = "") -> float:
    """`value` as a float in low..high; NaN is in no range."""
    try:
        result = float(value)
    except (TypeError, ValueError, OverflowError):
        raise UsageError(f"{name}={short(value)}; expected a number") from None
    if not low <= result <= high:
        raise UsageError(f"{name}={short(value)}; it must be between {low:g} and {high:g}{hint}")
    return result


def whole(name: str, value: Any, low: float, high: float) -> int:
    """`value` as an integer in low..high."""
    result = number(name, value, low, high)
    if result != math.floor(result):
        raise UsageError(f"{name}={short(value)}; expected a whole number")
    return int(result)


def threads(wanted: int | None) -> int:
    """The argument, else EVERWAVE_THREADS, else the cores that this process may use."""
    if wanted is not None:
        return whole("threads", wanted, 1, MAX_THREADS)
    if given := os.environ.get("EVERWAVE_THREADS"):
        return whole("EVERWAVE_THREADS", given, 1, MAX_THREADS)
    return min(cores(), MAX_THREADS)


def matrix(name: str, value: Any, columns: int) -> np.ndarray:
    """Float32 (T, columns) of at most MAX_VALUE with T > 0."""
    try:
        array = np.asarray(value, np.float32)
    except (TypeError, ValueError, OverflowError):
        raise UsageError(f"{name} of type {type(value).__name__}; expected numbers, shape (T, {columns})") from None
    if array.ndim != 2 or array.shape[1] != columns or not len(array):
        raise UsageError(f"{name} have shape {array.shape}; this model needs (T, {columns}) with T > 0")
    if not np.isfinite(array).all():
        raise UsageError(f"{name} hold NaN or infinity; every value must be finite")
    if (level := float(np.abs(array).max())) > MAX_VALUE:
        raise UsageError(
            f"{name} reach {level:g}; a model's are a few units, at most {MAX_VALUE:g}, so scale them back"
        )
    return array


def is_stream(audio: Any) -> bool:
    """Whether `audio` is several arrays, not one; a list of numbers is one."""
    if isinstance(audio, list | tuple):
        return bool(audio) and bool(getattr(audio[0], "shape", ()))
    return isinstance(audio, Iterable) and not hasattr(audio, "__array__")


def samples(value: Any) -> np.ndarray:
    """Float32 (frames,) or (frames, channels) that look like audio."""
    try:
        array = np.asarray(value)
    except ValueError:
        array = np.asarray(None)
    if array.dtype.kind != "f":
        raise UsageError(f"audio of type {array.dtype}; give floating-point samples in [-1, 1] (int16 / 32768)")
    if array.ndim not in (1, 2) or (array.ndim == 2 and not array.shape[1]):
        raise UsageError(f"audio of shape {array.shape}; give (frames,) or (frames, channels)")
    if array.ndim == 2 and array.shape[1] > max(array.shape[0], MAX_CHANNELS):
        raise UsageError(f"audio of shape {array.shape} looks like (channels, frames); give (frames, channels)")
    if not np.isfinite(array).all():
        raise UsageError("audio holds NaN or infinity; every sample must be finite")
    if len(array) and (level := float(np.abs(array).max())) > MAX_LEVEL:
        raise UsageError(f"audio peaks at {level:g}; samples must be in [-1, 1], divide integers by their full scale")
    return array.astype(np.float32, copy=False)


class Rows:
    """What `matrix` gives, of a source that is too long for memory (an HDF5 dataset): read and checked where it is sliced."""

    def __init__(self, name: str, source: Any, columns: int) -> None:
        self._name, self._source, self._columns = name, source, columns
        if len(source.shape) != 2 or source.shape[1] != columns or not len(source):
            raise UsageError(f"{name} have shape {source.shape}; this model needs (T, {columns}) with T > 0")

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, rows: slice) -> np.ndarray:
        return matrix(self._name, self._source[rows], self._columns)
