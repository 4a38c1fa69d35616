"""What makes one piece differ from another: anchors, style, and the noise inside the networks.

Latent n of a piece lies at x = n + window / 2 + 1/2 on the anchor line. Anchors are truncated normal vectors
`anchor_spacing` latents apart, with straight lines between them; the style is one such vector for the piece; a
coordinate is [anchor at x | style | conditions]. Everything is a function of (seed, position), so any stretch of a
piece can be made without the rest. A loop of `period` latents puts whole anchors evenly around a circle instead.

Source: Musika, arXiv 2208.08706. There the anchor line is averaged over neighbours (hence the 1/2) and a piece
starts a quarter of two windows in (hence window / 2).
"""

from __future__ import annotations

from functools import lru_cache
from statistics import NormalDist

import numpy as np

from .checks import MAX_TRUNCATION, TRUNCATION, number
from .config import Config
from .errors import UsageError
from .ops import Noise
from .philox import normals, uniforms

Array = np.ndarray


def coordinates(
    config: Config,
    seed: int,
    start: int,
    count: int,
    truncation: float = TRUNCATION,
    conditions: Array | None = None,
    period: int | None = None,
    style: Array | None = None,
) -> Array:
    """Coordinates (count, channels) float32 of latents start .. start + count - 1 of the piece called `seed`.

    truncation: anchors and style are normals cut off at plus and minus this; small is typical, large is varied.
    conditions: (count, n) network inputs from `conditioning`, for a model that has n > 0 channels of them.
    period: latents after which the piece repeats; None is an endless piece.
    style: (config.generator.style,) to use instead of the one drawn from the seed.
    """
    _check(start, count, truncation, period)
    generator = config.generator
    along = _interpolated_anchors(config, seed, np.arange(start, start + count), truncation, period)
    if style is None:
        style = truncated_normals(seed, "style", 0, generator.style, truncation)
    columns = [along, np.broadcast_to(_style(style, generator.style), (count, generator.style))]
    if generator.conditions:
        columns.append(_conditions(conditions, count, generator.condition_channels))
    return np.concatenate(columns, axis=1, dtype=np.float32)


def style(config: Config, seed: int, truncation: float = TRUNCATION) -> Array:
    """The style vector (config.generator.style,) float32 that `seed` draws."""
    return truncated_normals(seed, "style", 0, config.generator.style, truncation).astype(np.float32)


def layer_noise(seed: int, network: str, channel: str, first_window: int) -> Noise:
    """The noise of consecutive windows of `network` that start at `first_window`: a callable (layer, batch, steps).

    channel: "left", "right", or "both" for the generator.
    """

    def noise(layer: str, batch: int, steps: int) -> Array:
        numbers = normals(seed, f"{network}/{layer}/{channel}", first_window * steps, batch * steps)
        return numbers.reshape(batch, steps)

    return noise


@lru_cache(maxsize=4096)
def truncated_normals(seed: int, purpose: str, index: int, size: int, truncation: float) -> Array:
    """Vector number `index` (size,) float64 of normals cut off at +-truncation, by the inverse of the distribution."""
    normal = NormalDist()
    low = normal.cdf(-truncation)
    u = low + (1 - 2 * low) * uniforms(seed, purpose, index * size, size)
    vector = np.clip(np.array([normal.inv_cdf(p) for p in u]), -truncation, truncation)
    vector.setflags(write=False)  # it is shared by every caller
    return vector


def _interpolated_anchors(config: Config, seed: int, n: Array, truncation: float, period: int | None) -> Array:
    """(len(n), anchor) float64: the anchor line at latents n, computed from each n alone."""
    generator = config.generator
    anchors, span = 1, generator.anchor_spacing  # anchors per `span` latents
    if period is not None:
        anchors, span = max(1, round(period / generator.anchor_spacing)), period
        n = n % period
    # x = (2 n + window + 1) / 2, in units of one anchor; integers keep far positions exact
    left, rest = np.divmod((2 * n + 2 * generator.offset + 1) * anchors, 2 * span)
    if not len(n):
        return np.empty((0, generator.anchor))
    first, last = int(left.min()), int(left.max()) + 1
    line = np.stack([
        truncated_normals(seed, "anchor", i if period is None else i % anchors, generator.anchor, truncation)
        for i in range(first, last + 1)
    ])  # fmt: skip
    weight = (rest / (2 * span))[:, None]
    return line[left - first] * (1 - weight) + line[left - first + 1] * weight


def _check(start: int, count: int, truncation: float, period: int | None) -> None:
    if start < 0 or count < 0:
        raise UsageError(f"start={start}, count={count}: a piece has no latents before its start")
    number("truncation", truncation, 0, MAX_TRUNCATION)
    if period is not None and period < 1:
        raise UsageError(f"period={period}: a loop is at least one latent long")


def _style(style: Array, size: int) -> Array:
    style = np.asarray(style, np.float32)
    if style.shape != (size,) or not np.isfinite(style).all():
        raise UsageError(f"style of shape {style.shape}: this model takes {size} finite numbers")
    return style


def _conditions(conditions: Array | None, count: int, size: int) -> Array:
    shape = None if conditions is None else np.shape(conditions)
    if conditions is None or shape != (count, size):
        raise UsageError(f"conditions of shape {shape}: this model takes ({count}, {size}), one row per latent")
    return np.asarray(conditions, np.float32)
