"""Generators work in windows: coordinates of two to train on, and what a generator makes of several."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from everwave.config import Config
from keras import ops


def in_windows(generator: keras.Model, coordinates: Any, window: int) -> Any:
    """Coordinates (B, T, K), T whole windows -> what the generator makes of each window by itself (B, T, C)."""
    _, steps, channels = coordinates.shape
    latents = generator(ops.reshape(coordinates, (-1, window, channels)), training=True)
    return ops.reshape(latents, (-1, steps, latents.shape[2]))


def training_coordinates(config: Config, batch: int, rng: np.random.Generator) -> np.ndarray:
    """Two windows of coordinates (batch, 2 w, anchor + style) at one of three places between three anchors."""
    g = config.generator
    anchors = rng.standard_normal((batch, 3, g.anchor))
    style = rng.standard_normal((batch, 1, g.style))
    place = rng.integers(0, 3, (batch, 1)) * g.window + np.arange(2 * g.window) + g.offset + 0.5
    index, share = np.divmod(place / g.anchor_spacing, 1.0)
    index = index.astype(int)
    rows = np.arange(batch)[:, None]
    line = anchors[rows, index] * (1 - share[..., None]) + anchors[rows, index + 1] * share[..., None]
    return np.concatenate([line, np.broadcast_to(style, (batch, 2 * g.window, g.style))], axis=2).astype(np.float32)
