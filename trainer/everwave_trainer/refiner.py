"""The refiner: a denoiser of real latents, which then takes a generator's for noisy ones.

It learns to guess latents of real music, of mean 0 and deviation 1, from the same with noise of deviation `noise` added, and with
the conditions. A generator's latents are not noisy; but what is wrong with them is unlike music, as noise is, and is taken away
with it. What a generator makes goes in larger than it is. The exported weights hold that and the normalisation, so the runtime runs
a plain network once. A guess is a mean, hence too near the middle; `variation` mends that for what is shipped.

Source: denoising as in Karras et al., arXiv 2206.00364, at one level of noise.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from everwave import weights
from everwave.config import REFINERS
from everwave.networks import input_shape
from keras import ops

from . import backend
from .average import Average
from .export import config_key, save_trained_on
from .latents import Latents
from .layers import build, set_parameters
from .rates import adam
from .start import model_of, with_conditions

NOISE = 1.2  # its deviation; real latents have 1
LARGER = 1.25  # how many times as large, when it is played, latents go in; and did in files that do not say
EXAMPLES = 8  # batches of music, to fit one that is trained on
EMA_DECAY = 0.998


class RefinerTrainer:
    """A refiner for the generator of the weights file `init`; `loop.run` drives it."""

    def __init__(self, init: Path, latents: Latents, *, steps: int, batch_size: int = 16, learning_rate: float = 1e-3,
                 seed: int = 0, width: int | None = None, noise: float | None = None, larger: float | None = None) -> None:  # fmt: skip
        file = model_of(init, latents)
        g = file.config.generator
        width = width or g.refiner or min(g.width, REFINERS[1])
        config, self.latents = with_conditions(file.config, latents, [c.name for c in g.conditions])
        self.config = dataclasses.replace(config, generator=dataclasses.replace(config.generator, refiner=width))
        goes_on = g.refiner == width
        known = file.provenance.get("refiner", {}) if goes_on else {}
        before = {"noise": known.get("noise", NOISE), "larger": known.get("larger", LARGER)}
        self.noise, self.larger = noise or before["noise"], larger or before["larger"]
        self.file, self.batch_size, self.seed = file, batch_size, seed
        self.mean, self.deviation = self.latents.statistics()
        self.settings: dict[str, Any] = {
            "init": weights.digest(init), "steps": steps, "batch_size": batch_size, "learning_rate": learning_rate, "seed": seed, "noise": self.noise,
            "config": config_key(self.config),
            "data": self.latents.fingerprint(self.config.generator.conditions),
            "precision": keras.mixed_precision.global_policy().name,
        }  # fmt: skip
        keras.utils.set_random_seed(seed)
        self.random = keras.random.SeedGenerator(seed)
        self.network = build("refiner", self.config)
        if goes_on:
            set_parameters(self.network, self._normalised(file.parameters["refiner"], **before))
            self._guess_again()
        else:
            self._begin()
        self.average = Average(self.network, EMA_DECAY)
        self.trained = self.network.trainable_variables
        self.optimizer = adam(learning_rate, steps)
        self.optimizer.build(self.trained)
        state = [v for group in self.variables().values() for v in group]
        self._compiled = backend.compiled(self._update, [*state, self.random.state])

    def _begin(self) -> None:
        """So that the first guess is the mean, and residual blocks pass on what comes in."""
        for layer in self.network.layers:
            if layer.name == "out" or layer.name.endswith("_add"):
                layer.kernel.assign(np.zeros(layer.kernel.shape))

    def _guess_again(self) -> None:
        """Its last layer by a linear fit: that of a file may be stretched, or post-trained, and guesses no more."""
        guesses, real = [], []
        for step in range(EXAMPLES):
            music, conditions = self.batch(step)
            noise = np.random.default_rng([self.seed, step]).standard_normal(music.shape)
            noisy = (music + self.noise * noise) / unit(self.noise)
            guess = self.network(np.concatenate([noisy, conditions], axis=2).astype(np.float32), training=True)
            guesses.append(ops.convert_to_numpy(guess).reshape(-1, music.shape[2]))
            real.append(music.reshape(guesses[-1].shape))
        guess = np.concatenate(guesses).astype(np.float64)
        fit = np.linalg.lstsq(np.pad(guess, ((0, 0), (0, 1)), constant_values=1), np.concatenate(real), rcond=None)[0]
        out = self.network.get_layer("out")
        out.kernel.assign(ops.convert_to_numpy(out.kernel) @ fit[:-1])
        out.bias.assign(ops.convert_to_numpy(out.bias) @ fit[:-1] + fit[-1])

    def variables(self) -> Mapping[str, Sequence[Any]]:
        return {"refiner": self.trained, "average": self.average.variables, "optimizer": self.optimizer.variables}

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Real latents (B, T, C), as many as it will see at once, and their conditions (B, T, n)."""
        length, _ = input_shape("refiner", self.config)
        real, conditions, _, _ = self.latents.crops(
            length, self.batch_size, self.seed, step, self.config.generator.conditions
        )
        return ((real - self.mean) / self.deviation).astype(np.float32), conditions

    def step(self, step: int, *batch: np.ndarray) -> dict[str, Any]:
        backend.reseed(self.random, self.seed, step)
        return self._compiled(*map(ops.convert_to_tensor, batch))

    def _update(self, real: Any, conditions: Any) -> dict[str, Any]:
        noisy = real + self.noise * keras.random.normal(ops.shape(real), dtype="float32", seed=self.random)

        def compute() -> tuple[Any, ...]:
            guess = self.network(ops.concatenate([noisy / unit(self.noise), conditions], axis=2), training=True)
            return (ops.mean(ops.square(guess - real)),)

        (loss,), gradients = backend.gradients(compute, self.trained)
        self.optimizer.apply(gradients, self.trained)
        self.average.follow(self.optimizer.iterations)
        return {"loss": loss}

    def average_parameters(self) -> dict[str, np.ndarray]:
        """The moving average under the runtime's names, from a generator's latents as they are to guesses of music's."""
        middle, inward, outward = self._scales(self.noise, self.larger)
        values = self.average.parameters()
        values["in/kernel"] = values["in/kernel"] / inward
        values["in/bias"] = values["in/bias"] - middle @ values["in/kernel"][0]
        values["out/kernel"] = values["out/kernel"] * outward
        values["out/bias"] = values["out/bias"] * outward + self.mean
        return values

    def _normalised(self, parameters: Mapping[str, np.ndarray], noise: float, larger: float) -> dict[str, np.ndarray]:
        """The other way: a file's parameters as they are trained."""
        middle, inward, outward = self._scales(noise, larger)
        values: dict[str, np.ndarray] = {name: np.asarray(value, np.float32) for name, value in parameters.items()}
        values["in/bias"] = values["in/bias"] + middle @ values["in/kernel"][0]
        values["in/kernel"] = values["in/kernel"] * inward
        values["out/kernel"] = values["out/kernel"] / outward
        values["out/bias"] = (values["out/bias"] - self.mean) / outward
        return values

    def _scales(self, noise: float, larger: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What inputs are less (C + n,), what they are divided by (C + n, 1), and what outputs are multiplied by (C,)."""
        conditions = self.config.generator.condition_channels
        middle = np.concatenate([self.mean, np.zeros(conditions)])
        inward = np.concatenate([self.deviation * unit(noise) / larger, np.ones(conditions)])
        return middle.astype(np.float32), inward[:, None].astype(np.float32), self.deviation.astype(np.float32)

    def sample(self, folder: Path, step: int) -> None:
        """The model with its refiner beside the autoencoder, and a clip as audio and picture."""
        from .evaluate.samples import save_generated

        refiner = {
            "steps": step, "batch_size": self.batch_size, "noise": self.noise, "larger": self.larger,
            "data": self.latents.sources,
        }  # fmt: skip
        save_trained_on(folder, self.file, self.config, {"refiner": self.average_parameters()},
                        self.latents, {"refiner": refiner})  # fmt: skip
        save_generated(folder / weights.RUN_FILE, folder / "samples", step)


def unit(noise: float) -> float:
    """Deviation of noisy latents; the network sees them divided by it."""
    return (1 + noise**2) ** 0.5
