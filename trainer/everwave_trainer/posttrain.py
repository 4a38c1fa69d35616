"""Adversarial post-training: a generator and its refiner, as one network, against heads on what the refiner knows of music.

A refiner has learned to take noise from latents of real music; what it finds in them on its way tells real ones from generated ones.
So small heads on the frozen refiner, as it was then, see in a few hundred steps what a critic from scratch does not in
thousands. They are given latents with some noise, real and generated ones with as much. What ships lies between the weights as they were
and as they are then, which keeps what was asked for, and most of what was gained.

Source: Sauer et al., arXiv 2403.12015 (heads on a denoiser) and 2111.01007 (on any network); Lin et al., arXiv 2501.08316 (after
training); Wortsman et al., arXiv 2109.01903 (between the weights).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
from everwave import weights
from everwave.errors import UsageError
from keras import ops

from . import backend, losses, moments
from .average import Average
from .critics import DenoiserFeatures, heads
from .export import config_key, save_trained_on
from .latents import Latents
from .layers import build, set_parameters
from .rates import falling, without_momentum
from .refiner import LARGER
from .start import model_of, with_conditions
from .windows import in_windows, training_coordinates

NOISE = 0.05, 0.8  # deviations of the noise; real latents have 1
RATES = {"generator": 1.0, "refiner": 0.5}  # times the learning rate; faster ones make latents larger than music's
HEADS_RATE = 5.0
WRONG = 0.4  # share, of what the heads shall find wrong, of real music that was asked for something else
HEADS_ALONE = 60  # first steps, in which the networks stay as they are
SHARE = 0.75  # of the way from the weights as they were; all of it is further away and obeys less
MEETING_WEIGHT = 0.3  # of how much more, or less, changes where windows meet, of which heads hear little
RISE = 50  # steps up to the learning rate
EMA_DECAY = 0.995
EXAMPLES = 32  # of music, by which features are normalised


class PostTrainer:
    """The generator and the refiner of the weights file `init` against heads on the refiner of the file `denoiser`, or on its own,
    which has not been post-trained yet then; `loop.run` drives it."""

    def __init__(self, init: Path, latents: Latents, *, steps: int, batch_size: int = 8, learning_rate: float = 2e-4,
                 seed: int = 0, share: float = SHARE, denoiser: Path | None = None) -> None:  # fmt: skip
        file = model_of(init, latents)
        judge = model_of(denoiser, latents, "--denoiser") if denoiser else file
        if "refiner" not in file.parameters:
            raise UsageError(f"--init {init}: it has no refiner; train one with `everwave-train refiner`")
        if not denoiser and "posttrained" in file.provenance:
            raise UsageError(
                f"--init {init}: it was post-trained, so its refiner judges no more; give one that does as --denoiser"
            )
        names = [c.name for c in file.config.generator.conditions]
        if "refiner" not in judge.parameters or [c.name for c in judge.config.generator.conditions] != names:
            raise UsageError(
                f"--denoiser {denoiser}: it has no refiner, or other conditions than --init; train one for that"
            )
        self.file, self.batch_size, self.seed, self.share = file, batch_size, seed, share
        self.config, self.latents = with_conditions(file.config, latents, names)
        self.mean, self.deviation = self.latents.statistics()
        self.settings: dict[str, Any] = {
            # what is exported lies between `init` and the checkpoint, so it must be the same one
            "init": weights.digest(init), "denoiser": weights.digest(denoiser or init),
            "steps": steps, "batch_size": batch_size, "learning_rate": learning_rate, "seed": seed,
            "config": config_key(self.config),
            "data": self.latents.fingerprint(self.config.generator.conditions),
            "precision": keras.mixed_precision.global_policy().name,
        }  # fmt: skip
        keras.utils.set_random_seed(seed)
        self.random = keras.random.SeedGenerator(seed)
        self.networks = {"generator": build("generator", self.config, self.random)}
        self.networks["refiner"] = build("refiner", self.config, any_length=True)
        for name, network in self.networks.items():
            set_parameters(network, file.parameters[name])
        self.averages = {name: Average(network, EMA_DECAY) for name, network in self.networks.items()}
        self.features = self._features(judge)
        self.heads = heads(self.features.shapes)
        self.optimizers = {
            name: without_momentum(falling(learning_rate * rate, steps - HEADS_ALONE, RISE))
            for name, rate in RATES.items()
        }
        # does not fall, so in the end the heads follow every change
        self.optimizers["heads"] = without_momentum(learning_rate * HEADS_RATE)
        for name, optimizer in self.optimizers.items():
            optimizer.build(self._trained(name))
        state = [*(v for group in self.variables().values() for v in group), self.random.state]
        self._compiled = {alone: backend.compiled(partial(self._update, alone), state) for alone in (True, False)}

    def _features(self, judge: weights.ModelFile) -> DenoiserFeatures:
        denoiser = build("refiner", judge.config, any_length=True)
        set_parameters(denoiser, judge.parameters["refiner"])
        real, conditions, _ = self._music(EXAMPLES, 0)
        noise = np.mean(NOISE) * np.random.default_rng([self.seed, 2]).standard_normal(real.shape)
        examples = np.concatenate([real + noise, conditions], axis=2).astype(np.float32)
        # a generator's latents go in larger than they are, and noisy ones as they are
        larger = judge.provenance.get("refiner", {}).get("larger", LARGER)
        return DenoiserFeatures(denoiser, examples, self.mean, self.deviation / larger)

    def _trained(self, name: str) -> list[keras.Variable]:
        return (self.heads if name == "heads" else self.networks[name]).trainable_variables

    def variables(self) -> Mapping[str, Sequence[Any]]:
        return (
            {name: self._trained(name) for name in self.optimizers}
            | {f"{name}_average": average.variables for name, average in self.averages.items()}
            | {f"{name}_optimizer": optimizer.variables for name, optimizer in self.optimizers.items()}
        )

    def _music(self, count: int, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Real latents (count, 2 w, C) of mean 0 and deviation 1, their conditions, and coordinates that ask for others' conditions."""
        g = self.config.generator
        real, conditions, _, _ = self.latents.crops(2 * g.window, count, self.seed, step, g.conditions)
        coordinates = training_coordinates(self.config, count, np.random.default_rng([self.seed, step, 1]))
        wished = np.concatenate([coordinates, np.roll(conditions, 1, axis=0)], axis=2)
        return ((real - self.mean) / self.deviation).astype(np.float32), conditions, wished.astype(np.float32)

    def batch(self, step: int) -> tuple[np.ndarray, ...]:
        return self._music(self.batch_size, step)

    def step(self, step: int, *batch: np.ndarray) -> dict[str, Any]:
        backend.reseed(self.random, self.seed, step)
        return self._compiled[step < HEADS_ALONE](*map(ops.convert_to_tensor, batch))

    def generate(self, coordinates: Any) -> Any:
        """Coordinates (B, T, K) -> refined latents (B, T, C) of mean 0 and deviation 1."""
        g = self.config.generator
        latents = in_windows(self.networks["generator"], coordinates, g.window)
        beside = ops.concatenate([latents, coordinates[:, :, g.anchor + g.style :]], axis=2)
        return (self.networks["refiner"](beside, training=True) - self.mean) / self.deviation

    def _update(self, alone: bool, real: Any, conditions: Any, wished: Any) -> dict[str, Any]:
        """One step of the heads and, unless they learn `alone`, of the networks."""
        g = self.config.generator
        asked = wished[:, :, g.anchor + g.style :]  # conditions of other real crops
        noise = keras.random.uniform((real.shape[0], 1, 1), *NOISE, seed=self.random)

        def found(latents: Any, asked: Any) -> list[Any]:
            normal = keras.random.normal(ops.shape(latents), dtype="float32", seed=self.random)
            return self.features(ops.concatenate([latents + noise * normal, asked], axis=2))

        shown = {"real": found(real, conditions), "fake": found(self.generate(wished), asked)}
        # real music is wrong as well where it is not what was asked for, or heads would not mind
        if any(len(condition.choices) != 1 for condition in g.conditions):
            shown["wrong"] = found(real, asked)
        other = ops.cast(ops.any(ops.abs(asked - conditions) > 1e-3, axis=(1, 2), keepdims=True), "float32")
        share = WRONG * ops.mean(other)

        def tell() -> tuple[Any, ...]:
            every = self.heads([ops.concatenate(each) for each in zip(*shown.values(), strict=True)], training=True)
            scores = dict(zip(shown, ops.split(every, len(shown)), strict=True))
            hinge = losses.hinge_real(scores["real"]) + (1 - share) * losses.hinge_fake(scores["fake"])
            if "wrong" in scores:
                hinge += WRONG * losses.hinge_fake(scores["wrong"], other)
            return hinge / 2, {name: ops.mean(score) for name, score in scores.items()}

        (hinge, means), told = backend.gradients(tell, self._trained("heads"))
        self.optimizers["heads"].apply(told, self._trained("heads"))
        scalars = {"hinge": hinge, **means}
        if not alone:  # and not at once: both would run around each other in growing circles

            def please() -> tuple[Any, ...]:
                fake = self.generate(wished)
                meet, elsewhere = moments.where_windows_meet(fake, g.window)
                more = ops.log(meet / elsewhere)
                score = ops.mean(self.heads(found(fake, asked), training=True))
                return MEETING_WEIGHT * ops.square(more) - score, more

            (_, more), gradients = backend.gradients(please, [v for name in RATES for v in self._trained(name)])
            scalars["meeting"] = more
            for name in RATES:
                variables = self._trained(name)
                self.optimizers[name].apply(gradients[: len(variables)], variables)
                gradients = gradients[len(variables) :]
                self.averages[name].follow(self.optimizers[name].iterations)
        return scalars

    def average_parameters(self) -> dict[str, dict[str, np.ndarray]]:
        """The networks' moving averages, as far from the weights as they were as `share` says, under the runtime's names."""
        return {
            name: {
                # a shipped file has float16, in which products would stay
                key: (1 - self.share) * self.file.parameters[name][key].astype(np.float32) + self.share * value
                for key, value in average.parameters().items()
            }
            for name, average in self.averages.items()
        }

    def sample(self, folder: Path, step: int) -> None:
        """The model beside its autoencoder, and a clip as audio and picture."""
        from .evaluate.samples import save_generated

        posttrained = {
            "steps": step, "batch_size": self.batch_size, "share": self.share, "data": self.latents.sources,
        }  # fmt: skip
        save_trained_on(folder, self.file, self.config, self.average_parameters(), self.latents,
                        {"posttrained": posttrained})  # fmt: skip
        save_generated(folder / weights.RUN_FILE, folder / "samples", step)
