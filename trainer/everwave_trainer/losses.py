"""Losses on spectra and on critics' scores; each returns a scalar in float32."""

from __future__ import annotations

import math
from typing import Any

from keras import ops

from .signal import SPECTRAL_FLOOR, power, stft


def absolute(x: Any, y: Any) -> Any:
    return ops.mean(ops.abs(x - y))


def spectral_distance(x: Any, y: Any, n_fft: int) -> tuple[Any, Any]:
    """Log-magnitude L1 (in units of 75 dB) and spectral convergence of samples (B, N), hop n_fft / 4.

    The first hears quiet bins as well as loud ones, the second hears the peaks and, through the overlap
    of the frames, whether their phases agree.
    """
    a, b = (power(stft(s, n_fft, n_fft // 4)) + SPECTRAL_FLOOR for s in (x, y))
    log_distance = ops.mean(ops.abs(ops.log(a) - ops.log(b))) * (10.0 / math.log(10.0) / 75.0)
    root_a, root_b = ops.sqrt(a), ops.sqrt(b)
    norms = ops.sum(a, axis=(1, 2))
    error = ops.sum(ops.square(root_a - root_b), axis=(1, 2))
    # a floor of 1 in the energy keeps near-silent crops from dominating
    return log_distance, ops.mean(ops.sqrt((error + 1e-6) / (norms + 1.0)))


def hinge_real(score: Any) -> Any:
    return ops.mean(ops.relu(1.0 - score))


def hinge_fake(score: Any) -> Any:
    return ops.mean(ops.relu(1.0 + score))
