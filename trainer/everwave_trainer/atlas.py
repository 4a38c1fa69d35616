"""A place for every real piece in the generator's space of coordinates.

A GAN on little data and little time spends most of both on finding out what music is at all. Much of that can be learned
by heart: each training piece gets a style and a line of anchors of its own, like any generated piece, and the generator
shall give that piece there. Places are learned with it, and stay as long as what the runtime draws is.

Source: generative latent optimisation, Bojanowski et al., arXiv 1707.05776; the coordinates are Musika's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from everwave.config import GeneratorConfig
from keras import ops

from .windows import DEVIATION

SMALL = 0.02  # length of what is learned, as a share of what it stands for: an optimizer's steps go fifty times as far


class Atlas:
    """Styles (pieces, style) and anchors (all pieces' one after the other, anchor) of pieces of `steps` latents."""

    def __init__(self, config: GeneratorConfig, steps: Sequence[int], seed: int) -> None:
        rng = np.random.default_rng([seed, 2])
        counts = [n // config.anchor_spacing + 2 for n in steps]
        self.spacing = config.anchor_spacing
        self.first = np.cumsum([0, *counts[:-1]])  # anchor of each piece
        self.variables = [
            keras.Variable(SMALL * rng.standard_normal(shape).astype(np.float32), name=name)
            for name, shape in (("styles", (len(counts), config.style)), ("anchors", (sum(counts), config.anchor)))
        ]

    def coordinates(self, pieces: Any, anchors: Any, shares: Any) -> Any:
        """What `locate` gave -> coordinates (B, T, anchor + style)."""
        styles, line = map(_as_drawn, self.variables)
        before, after = ops.take(line, anchors, axis=0), ops.take(line, anchors + 1, axis=0)
        style = ops.repeat(ops.take(styles, pieces, axis=0)[:, None], anchors.shape[1], axis=1)
        return ops.concatenate([before + shares[:, :, None] * (after - before), style], axis=2)

    def locate(self, pieces: np.ndarray, starts: np.ndarray, length: int) -> tuple[np.ndarray, ...]:
        """Crops of `length` latents from `starts` (B,) of `pieces` (B,) -> pieces, index of the anchor before each
        latent (B, T), and how far it is on the way to the next (B, T)."""
        index, shares = np.divmod((starts[:, None] + np.arange(length) + 0.5) / self.spacing, 1.0)
        return (
            pieces.astype(np.int32),
            (self.first[pieces][:, None] + index).astype(np.int32),
            shares.astype(np.float32),
        )


def _as_drawn(vectors: Any) -> Any:
    """Vectors (N, D) as long as those that a piece is made of are on average."""
    return vectors * (DEVIATION * vectors.shape[1] ** 0.5 / (ops.norm(vectors, axis=1, keepdims=True) + 1e-6))
