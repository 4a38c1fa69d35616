"""How far latents vary: a refiner's output is stretched until, along each principal component, it varies as music does.

A guess is a mean of what may have been there, so it varies less than music: the finer a component, the less. One factor for
all of them makes what is loud too loud, and what is fine is still missing. This is for a generator of that very music: one that
plays about another mean would be stretched about that.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from everwave import Model, conditioning, weights
from everwave.coordinates import coordinates
from everwave.networks import input_shape
from everwave.pipeline import Pipeline

from .latents import Latents

PIECES = 400  # that are generated, a window each
CROPS = 1000  # of music
MOST = 2.0  # times that a component is stretched; what hardly varies at all is noise


def refiner_as(file: weights.ModelFile, latents: Latents) -> dict[str, np.ndarray]:
    """The weights of the refiner of `file`, so that what the model plays varies as the music in `latents` does."""
    length, _ = input_shape("refiner", file.config)
    real = latents.crops(length, CROPS, 0, 0)[0]
    return stretched(file.parameters["refiner"], generated(file), real.reshape(-1, real.shape[2]))


def generated(file: weights.ModelFile) -> np.ndarray:
    """Latents (n, C) of PIECES pieces as the runtime plays them, conditions drawn by their seeds."""
    model, window = Model.from_parts(file, precision="float32"), file.config.generator.window
    pipeline = Pipeline(file.config, model.network, model.threads)

    def piece(seed: int) -> np.ndarray:
        conditions = conditioning.signal(file.config, seed=seed)(0, window)
        return pipeline.latents(coordinates(file.config, seed, 0, window, conditions=conditions), seed)

    return np.concatenate([piece(seed) for seed in range(PIECES)])


def stretched(refiner: Mapping[str, np.ndarray], made: np.ndarray, real: np.ndarray) -> dict[str, np.ndarray]:
    """The weights `refiner`, which `made` these latents (n, C), so that they vary about their mean as `real` ones (m, C) do.

    Principal components are those of real latents, every channel of deviation 1. Nothing is stretched more than MOST times.
    """
    scale = np.maximum(real.std(axis=0, dtype=np.float64), 1e-3)
    centre = made.mean(axis=0, dtype=np.float64)
    variances, components = np.linalg.eigh(np.cov(real / scale, rowvar=False))
    found = ((made - centre) / scale @ components).var(axis=0)
    factors = np.minimum(np.sqrt(np.maximum(variances, 0) / np.maximum(found, 1e-12)), MOST)
    stretch = (components / scale[:, None] * factors) @ (components.T * scale)
    kernel, bias = refiner["out/kernel"] @ stretch, (refiner["out/bias"] - centre) @ stretch + centre
    return {**refiner, "out/kernel": kernel.astype(np.float32), "out/bias": bias.astype(np.float32)}
