"""Generators work in windows: coordinates of two to train on, and what a generator makes of several."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import keras
import numpy as np
from everwave.checks import TRUNCATION
from everwave.config import Config
from keras import ops
from scipy.special import ndtri

BEYOND = NormalDist().cdf(-TRUNCATION)  # share of normal numbers beyond each end
DEVIATION = (1 - 2 * TRUNCATION * NormalDist().pdf(TRUNCATION) / (1 - 2 * BEYOND)) ** 0.5  # of those between: 0.88


def in_windows(generator: keras.Model, coordinates: Any, window: int) -> Any:
    """Coordinates (B, T, K), T whole windows -> what the generator makes of each window by itself (B, T, C)."""
    _, steps, channels = coordinates.shape
    latents = generator(ops.reshape(coordinates, (-1, window, channels)), training=True)
    return ops.reshape(latents, (-1, steps, latents.shape[2]))


def training_coordinates(config: Config, batch: int, rng: np.random.Generator) -> np.ndarray:
    """Two windows of coordinates (batch, 2 w, anchor + style) at one of three places between three anchors, drawn as the runtime draws."""
    g = config.generator
    anchors = _truncated_normals(rng, (batch, 3, g.anchor))
    style = _truncated_normals(rng, (batch, 1, g.style))
    place = rng.integers(0, 3, (batch, 1)) * g.window + np.arange(2 * g.window) + g.offset + 0.5
    index, share = np.divmod(place / g.anchor_spacing, 1.0)
    index = index.astype(int)
    rows = np.arange(batch)[:, None]
    line = anchors[rows, index] * (1 - share[..., None]) + anchors[rows, index + 1] * share[..., None]
    return np.concatenate([line, np.broadcast_to(style, (batch, 2 * g.window, g.style))], axis=2).astype(np.float32)


def _truncated_normals(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Normal numbers cut off at +-TRUNCATION, what a piece is made of unless something else is asked for; of DEVIATION."""
    return ndtri(rng.uniform(BEYOND, 1 - BEYOND, shape))
