"""How latents move with their conditions: what a generator must get right to be controllable, measured without a critic.

A critic learns last whether a beat falls where the clock says. Yet that is a simple statistic: the moment of each latent
channel, and of its changes, with functions of the conditions (their values, and the harmonics of the clocks' hands).
Changes are over a tenth of a second, the time of an attack, up to six, that of a phrase: music that repeats what it does
in a beat for ever has the first and lacks the last.
Generated latents shall have real ones' moments, in the mean over crops (what all music has in common, such as a kick on
the beat) and in their spread from crop to crop (what differs, such as the rest of the pattern).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from everwave.config import Condition
from keras import ops

LAGS = (1, 4, 16, 64)  # latents over which a change is one
HARMONICS = 4  # of every hand: of a bar's down to its beats, of a beat's down to sixteenths


def features(inputs: Any, conditions: Sequence[Condition]) -> Any:
    """Network inputs (B, T, n) of `conditions` -> functions of them (B, T, F): 1, the values, harmonics of the clocks."""
    columns, at = [ops.ones(inputs.shape[:2])], 0
    for condition in conditions:
        columns.append(inputs[:, :, at])
        for clock in range(len(condition.clocks)):
            cosine, sine = inputs[:, :, at + 1 + 2 * clock], inputs[:, :, at + 2 + 2 * clock]
            real, imaginary = cosine, sine
            for _ in range(HARMONICS):
                columns += [real, imaginary]
                real, imaginary = real * cosine - imaginary * sine, real * sine + imaginary * cosine
        at += condition.channels
    return ops.stack(columns, axis=2)


def moments(latents: Any, functions: Any) -> Any:
    """Latents (B, T, C) and functions of the conditions (B, T, F) -> mean products over time (B, F, C (1 + len(LAGS))).

    All but the first C are of squared changes from a latent to the one a lag later: how much happens, where the first say
    what. Lags that are too long for T are left out.
    """
    lags = [lag for lag in LAGS if lag < latents.shape[1]]
    changes = [ops.square(latents[:, lag:] - latents[:, :-lag]) for lag in lags]
    both = [(latents, functions), *zip(changes, (functions[:, lag:] for lag in lags), strict=True)]
    return ops.concatenate([ops.matmul(ops.transpose(f, (0, 2, 1)), x) / x.shape[1] for x, f in both], axis=2)


def over_crops(moments: Any) -> tuple[Any, Any]:
    """Moments (B, F, C) -> their mean and mean square over the crops, (F, C) each."""
    return ops.mean(moments, axis=0), ops.mean(ops.square(moments), axis=0)


def blend(before: Sequence[Any], now: Sequence[Any], decay: float) -> tuple[Any, ...]:
    """The running means `before` of what `over_crops` gives, moved on by `now`.

    The mean of a small batch scatters about that of all music, the more the more its crops differ. So a generator that
    is asked for the right mean in every batch does well to make all crops alike; in the running mean over many batches it gains nothing by that.
    """
    return tuple(decay * x + (1 - decay) * y for x, y in zip(before, now, strict=True))


def distance(a: Sequence[Any], b: Sequence[Any]) -> Any:
    """Squared distance of two means over crops and of their root mean squares, summed over functions and channels."""
    (x, xx), (y, yy) = a, b
    return ops.sum(ops.square(x - y)) + ops.sum(ops.square(ops.sqrt(xx + 1e-8) - ops.sqrt(yy + 1e-8)))


def where_windows_meet(latents: Any, window: int) -> tuple[Any, Any]:
    """Latents (B, T, C), two windows or more -> mean squared change from the last latent of one to the first of the next, and from any other to its next."""
    change = ops.mean(ops.square(latents[:, 1:] - latents[:, :-1]), axis=(0, 2))
    meet = np.arange(1, latents.shape[1]) % window == 0
    return tuple(ops.mean(ops.take(change, np.flatnonzero(places))) for places in (meet, ~meet))
