"""Counter-based random numbers: a value is a function of (seed, purpose, position), never of what was drawn before.

Philox4x32-10 (Salmon et al., SC 2011): the key is the 64-bit seed, the counter is (position / 4: 64 bits,
purpose: 32 bits, 0), and the four words of a counter serve four neighbouring positions. `purpose` is the CRC-32
of a readable string such as "anchor" or "chunk_decoder/u0/left". The NumPy code here is the reference, and the
fallback where Numba cannot load; `kernels.random` gives the same numbers bit for bit.
"""

from __future__ import annotations

import operator
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from typing import Any

import numpy as np

from . import kernels
from .errors import UsageError, short

Array = np.ndarray

MASK = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)
MAX_SEED = 2**64 - 1


def check_seed(seed: Any, name: str = "seed") -> int:
    """`seed` itself, a whole number in 0 .. 2^64 - 1; UsageError else."""
    whole = None
    with suppress(TypeError):
        whole = operator.index(seed)
    if whole is None or isinstance(seed, bool):
        raise UsageError(f"{name}={short(seed)}; expected a whole number")
    if not 0 <= whole <= MAX_SEED:
        raise UsageError(f"{name}={short(whole)}; it must be between 0 and 2**64 - 1")
    return whole


@lru_cache(maxsize=256)
def purpose_word(purpose: str) -> int:
    return zlib.crc32(purpose.encode())


def normals(seed: int, purpose: str, first: int, count: int) -> Array:
    """Standard normal numbers (count,) float32 of positions first .. first + count - 1."""
    fill = _kernel()
    if fill is None:
        return normals_numpy(seed, purpose, first, count)
    out = np.empty(count, np.float32)
    fill(out, count, np.uint64(check_seed(seed)), np.uint64(purpose_word(purpose)), first)
    return out


def uniforms(seed: int, purpose: str, first: int, count: int) -> Array:
    """Numbers (count,) float64 spread evenly over the open interval (0, 1), of positions first .. first + count - 1."""
    words = _words(seed, purpose, first, count).reshape(-1)
    return (words[first % 4 :][:count] + 0.5) / 2**32


def normals_numpy(seed: int, purpose: str, first: int, count: int) -> Array:
    """`normals` in plain NumPy."""
    words = _words(seed, purpose, first, count)
    radius = np.sqrt(-2 * _log(words[:, 0::2]))
    cos, sin = _cos_sin(words[:, 1::2])
    pairs = np.stack([radius * cos, radius * sin], axis=-1).astype(np.float32)
    return pairs.reshape(-1)[first % 4 :][:count]


def philox(counter: Array, key: Array) -> Array:
    """Ten rounds: counter (..., 4) and key (..., 2), 32-bit words held in uint64 -> words (..., 4)."""
    c0, c1, c2, c3 = np.moveaxis(counter.astype(np.uint64), -1, 0)
    k0, k1 = np.moveaxis(key.astype(np.uint64), -1, 0)
    for _ in range(10):
        p0 = np.uint64(0xD2511F53) * c0
        p1 = np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (p1 >> HALF) ^ c1 ^ k0, p1 & MASK, (p0 >> HALF) ^ c3 ^ k1, p0 & MASK
        k0 = (k0 + np.uint64(0x9E3779B9)) & MASK
        k1 = (k1 + np.uint64(0xBB67AE85)) & MASK
    return np.stack([c0, c1, c2, c3], axis=-1)


def _words(seed: int, purpose: str, first: int, count: int) -> Array:
    """The words (blocks, 4) of every counter that positions first .. first + count - 1 touch."""
    seed = check_seed(seed)
    blocks = np.arange(first >> 2, (first + count + 3) >> 2, dtype=np.int64).astype(np.uint64)
    counter = np.zeros((len(blocks), 4), np.uint64)
    counter[:, 0], counter[:, 1], counter[:, 2] = blocks & MASK, blocks >> HALF, purpose_word(purpose)
    return philox(counter, np.array([seed & 0xFFFFFFFF, seed >> 32], np.uint64))


def _log(words: Array) -> Array:
    """ln((words + 1) / 2^32) from ln m = 2 artanh((m - 1) / (m + 1)); IEEE operations only, so equal everywhere."""
    m, exponent = np.frexp(words.astype(np.float64) + 1)
    small = m < 0.7071067811865476
    m, exponent = np.where(small, 2 * m, m), exponent - small
    s = (m - 1) / (m + 1)
    series = np.full_like(s, 1 / 15)
    for k in range(13, 0, -2):
        series = series * (s * s) + 1 / k
    return 2 * s * series + (exponent - 32) * 0.6931471805599453


def _cos_sin(words: Array) -> tuple[Array, Array]:
    """cos and sin of 2 pi words / 2^32: quarter turns off, then the Taylor series up to pi / 4."""
    turns = words.astype(np.float64) / 2**32
    quarter = np.floor(4 * turns + 0.5)
    x = 2 * np.pi * (turns - 0.25 * quarter)
    c, s = np.ones_like(x), np.ones_like(x)
    for k in range(14, 0, -2):
        c = 1 - c * (x * x) * (1 / (k * (k - 1)))
        s = 1 - s * (x * x) * (1 / (k * (k + 1)))
    s = s * x
    turn = quarter.astype(np.int64) % 4
    return np.choose(turn, [c, -s, -c, s]), np.choose(turn, [s, c, -s, -c])


def _kernel() -> Callable[..., None] | None:
    """The Numba kernel, or None where there are none."""
    return None if kernels.trouble() else kernels.fill_normals
