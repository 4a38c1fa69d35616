"""Philox4x32-10 and Box-Muller on scalars; the twin that checks and chooses is `everwave.philox`.

No fastmath here: every operation is a correctly rounded IEEE one, so the
numbers are the same bit for bit on every machine, in this kernel and in its NumPy twin.

Sources: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011; Box & Muller 1958.
"""

from __future__ import annotations

import math

import numpy as np

from .jit import kernel

MASK = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)
FRACTION, HALF_BITS = np.int64(2**52 - 1), np.int64(1022 << 52)  # of a float64: its fraction's bits, and 1/2
PI = math.pi


@kernel()
def philox(c0, c1, c2, c3, k0, k1):  # type: ignore[no-untyped-def]
    """Ten rounds on a counter and a key of 32-bit words, all held in uint64."""
    for _ in range(10):
        p0 = np.uint64(0xD2511F53) * c0
        p1 = np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (p1 >> HALF) ^ c1 ^ k0, p1 & MASK, (p0 >> HALF) ^ c3 ^ k1, p0 & MASK
        k0 = (k0 + np.uint64(0x9E3779B9)) & MASK
        k1 = (k1 + np.uint64(0xBB67AE85)) & MASK
    return c0, c1, c2, c3


@kernel()
def log_of_word(word):  # type: ignore[no-untyped-def]
    """ln((word + 1) / 2^32), in [-22.2, 0], from ln m = 2 artanh((m - 1) / (m + 1))."""
    bits = np.float64(float(word) + 1.0).view(np.int64)
    m, exponent = np.int64(bits & FRACTION | HALF_BITS).view(np.float64), (bits >> 52) - 1022  # as frexp: m in [1/2, 1)
    if m < 0.7071067811865476:
        m, exponent = 2.0 * m, exponent - 1
    s = (m - 1.0) / (m + 1.0)
    q = s * s
    series = 1.0 / 15.0
    for k in range(13, 0, -2):
        series = series * q + 1.0 / k
    return 2.0 * s * series + (exponent - 32) * 0.6931471805599453


@kernel()
def cos_sin_of_word(word):  # type: ignore[no-untyped-def]
    """cos and sin of 2 pi word / 2^32: quarter turns off, then the Taylor series up to pi / 4."""
    turns = float(word) / 4294967296.0
    quarter = math.floor(4.0 * turns + 0.5)
    x = 2.0 * PI * (turns - 0.25 * quarter)
    q = x * x
    c, s = 1.0, 1.0
    for k in range(14, 0, -2):
        c = 1.0 - c * q * (1.0 / (k * (k - 1)))
        s = 1.0 - s * q * (1.0 / (k * (k + 1)))
    s = s * x
    turn = int(quarter) % 4
    if turn == 1:
        c, s = -s, c
    elif turn == 2:
        c, s = -c, -s
    elif turn == 3:
        c, s = s, -c
    return c, s


@kernel()
def normal_pair(a, b):  # type: ignore[no-untyped-def]
    """Two standard normals from two 32-bit words (Box-Muller)."""
    radius = math.sqrt(-2.0 * log_of_word(a))
    c, s = cos_sin_of_word(b)
    return np.float32(radius * c), np.float32(radius * s)


@kernel()
def fill_normals(out, n, seed, purpose, first):  # type: ignore[no-untyped-def]
    """out (n,) float32: the normals of positions first .. first + n - 1; four positions share a counter.

    seed, purpose: uint64.
    """
    k0, k1 = seed & MASK, seed >> HALF
    for block in range(first >> 2, (first + n + 3) >> 2):
        position = np.uint64(block)
        w0, w1, w2, w3 = philox(position & MASK, position >> HALF, purpose, np.uint64(0), k0, k1)
        z0, z1 = normal_pair(w0, w1)
        z2, z3 = normal_pair(w2, w3)
        i = 4 * block - first
        if i >= 0 and i + 3 < n:
            out[i], out[i + 1], out[i + 2], out[i + 3] = z0, z1, z2, z3
        else:
            for lane, z in enumerate((z0, z1, z2, z3)):
                if 0 <= i + lane < n:
                    out[i + lane] = z
