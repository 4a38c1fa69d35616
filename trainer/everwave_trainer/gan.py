"""The latent GAN: hinge loss, R1 penalty with an adaptive weight, exponential moving average of the generator.

Training sees latents with mean 0 and standard deviation 1 in every channel, so that the R1 penalty means the same for
every autoencoder; the exported generator's last layer undoes it.

Source: Musika, arXiv 2208.08706, section 3.3; constants as in its published code.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
from everwave import conditioning, weights
from everwave.config import PRESETS, Condition, Config
from everwave.errors import UsageError
from keras import ops

from . import backend, losses, moments
from .atlas import Atlas
from .critics import latent_critic
from .ear import LENGTH, Ear, slowest_hand
from .export import config_key, save_generator
from .latents import TIMES, Latents
from .layers import build, set_parameters

MAX_R1_WEIGHT = 10.0
R1_RATE = 1e-4  # change of the weight per step, as a share of its maximum
R1_INTERVAL = 4  # steps from one penalty to the next, which weighs as much more: a third of the work saved
CERTAIN = 0.9  # the critic's certainty above which the penalty grows
EMA_DECAY = 0.999
GENERATOR_RATES = 8.0, 3.0  # the generator's learning rate as a multiple of the critic's: alone, and beside it
RECALL_WEIGHT = 32.0  # of the energy score at the places of real pieces
EAR_WEIGHT = 40.0  # of notes that are not heard when they were asked for, beyond those that real music misses
EAR_CROPS, EAR_BATCH = 256, 16  # of real music, in which those are counted
STEADY = 1.0, 12.0  # constant densities, onsets per second, that the ear asks for too: few pieces are slow for long
MOMENTS_CROPS = 1024  # of real music, from which its moments are taken
MOMENTS_DECAY = 0.95  # of the running mean over steps that generated music's are: one batch's alone scatter too much


class Falling(keras.optimizers.schedules.LearningRateSchedule):
    """From `first` up to step `alone`, then from `then` up to `steps`, each along half a cosine to a fiftieth.

    At a constant rate the Frechet distance of techno went up and down by a fifth from one checkpoint to the next.
    """

    def __init__(self, first: float, then: float, alone: int, steps: int) -> None:
        self.alone = min(alone, steps)
        self.before, self.after = falling(first, self.alone), falling(then, steps - self.alone)

    def __call__(self, step: Any) -> Any:
        return ops.where(step < self.alone, self.before(step), self.after(ops.maximum(step - self.alone, 0)))


def falling(rate: float, steps: int) -> keras.optimizers.schedules.CosineDecay:
    """Half a cosine from `rate` to a fiftieth of it over `steps`."""
    return keras.optimizers.schedules.CosineDecay(rate, max(steps, 1), alpha=0.02)


class GanTrainer:
    """A generator of two windows of latents against a critic; `loop.run` drives it."""

    moments_weight = 0.1  # of the distance of moments, beside the critic's score; with much more, recall waits for it

    def __init__(self, config: Config, latents: Latents, *, steps: int, batch_size: int = 32, learning_rate: float = 1e-4,
                 seed: int = 0, conditions: Sequence[str] = (), critic_width: int | None = None, alone: int = 0) -> None:  # fmt: skip
        latents = latents.labelled(conditions)
        generator = dataclasses.replace(config.generator, conditions=choose_conditions(config, latents, conditions))
        self.config = dataclasses.replace(config, generator=generator)
        self.latents, self.batch_size, self.seed, self.alone = latents, batch_size, seed, alone
        self.mean, self.deviation = latents.statistics()
        self.real_moments = self._real_moments(latents)
        self.recent_moments = [keras.Variable(m, trainable=False) for m in self.real_moments]
        self.settings = {
            "batch_size": batch_size, "learning_rate": learning_rate, "seed": seed, "critic_width": critic_width, "alone": alone,
            "config": config_key(self.config),
        }  # fmt: skip
        keras.utils.set_random_seed(seed)
        self.random = keras.random.SeedGenerator(seed)
        self.generator = build("generator", self.config, self.random)
        self.average = [keras.Variable(v.value, trainable=False) for v in self.generator.trainable_variables]
        self.critic = latent_critic(self.config, critic_width or generator.width)
        audible = slowest_hand(generator.conditions) is not None
        self.ear = Ear(latents.autoencoder_path, self.config, self.random) if audible else None
        self.bearable = self._missed_in(latents) if self.ear else 0.0
        self.atlas = Atlas(generator, 2 * [p.steps for p in latents.pieces], seed)
        self.learned = [*self.generator.trainable_variables, *self.atlas.variables]
        first, then = (learning_rate * x for x in GENERATOR_RATES)
        # the critic's optimizer counts its own steps
        rates = Falling(first, then, alone, steps), falling(learning_rate, steps - alone)
        self.optimizers = [keras.optimizers.Adam(rate, beta_1=0.5) for rate in rates]
        for optimizer, variables in zip(self.optimizers, (self.learned, self.critic.trainable_variables), strict=True):
            optimizer.build(variables)
        self.r1_weight = keras.Variable(MAX_R1_WEIGHT, trainable=False)
        state = [*(v for group in self.variables().values() for v in group), self.random.state]
        modes = "alone", "judged", "penalised"
        self._compiled = {mode: backend.compiled(partial(self._update, mode), state) for mode in modes}

    def _real_moments(self, latents: Latents) -> tuple[Any, Any]:
        g = self.config.generator
        crops, inputs, _, _ = latents.crops(2 * g.window, MOMENTS_CROPS, self.seed, 0, g.conditions)
        return self._moments((crops - self.mean) / self.deviation, inputs)

    def _missed_in(self, latents: Latents) -> float:
        """How much the ear misses in real music; generated music that misses no more is not asked for clearer notes, which would be clicks."""
        assert self.ear
        missed = []
        for i in range(EAR_CROPS // EAR_BATCH):
            crops, inputs, _, _ = latents.crops(LENGTH, EAR_BATCH, self.seed, i, self.config.generator.conditions)
            missed.append(float(self.ear.missed(ops.convert_to_tensor(crops), ops.convert_to_tensor(inputs))))
        return sum(missed) / len(missed)

    def initialise(self, source: Path) -> None:
        """Start from the generator of a weights file; UsageError if it has other conditions."""
        file = weights.read(source)
        theirs, ours = ([c.name for c in x.generator.conditions] for x in (file.config, self.config))
        if theirs != ours:
            raise UsageError(f"--init {source}: its conditions are {theirs}, not {ours}; give those as --conditions")
        values = dict(file.parameters["generator"])
        values["out/bias"] = (values["out/bias"] - self.mean) / self.deviation
        values["out/kernel"] = values["out/kernel"] / self.deviation
        set_parameters(self.generator, values)
        for average, variable in zip(self.average, self.generator.trainable_variables, strict=True):
            average.assign(variable)

    def variables(self) -> Mapping[str, Sequence[Any]]:
        return {
            "generator": self.generator.trainable_variables,
            "average": self.average,
            "atlas": self.atlas.variables,
            "critic": self.critic.trainable_variables,
            "generator_optimizer": self.optimizers[0].variables,
            "critic_optimizer": self.optimizers[1].variables,
            "r1_weight": [self.r1_weight],
            "moments": self.recent_moments,
        }

    def batch(self, step: int) -> tuple[np.ndarray, ...]:
        """Real latents (B, 2 w, C), their conditions (B, 2 w, n) and places; coordinates (B, 2 w, K) with conditions of
        others, and those; for the ear, what `_steady` gives."""
        g = self.config.generator
        length = 2 * g.window
        real, conditions, origins, starts = self.latents.crops(length, self.batch_size, self.seed, step, g.conditions)
        coordinates = training_coordinates(self.config, self.batch_size, np.random.default_rng([self.seed, step, 1]))
        # the fake ones ask for the conditions of other real crops, so both sides have one distribution
        asked = np.roll(conditions, 1, axis=0)
        real = (real - self.mean) / self.deviation
        places = self.atlas.locate(origins, starts, length)
        steady = self._steady(np.random.default_rng([self.seed, step, 2])) if self.ear else ()
        wished = np.concatenate([coordinates, asked], axis=2).astype(np.float32)
        return real, conditions, *places, wished, asked, *steady

    def _steady(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Windows (half a batch, w, K) that ask for a constant density each, any of STEADY alike on a logarithmic scale; and the
        conditions."""
        g, rate = self.config.generator, self.config.signal.latent_rate

        def constants() -> np.ndarray:
            density = np.exp(rng.uniform(*np.log(STEADY)))
            values = [density if c.name == "density" else rng.normal(c.mean, c.scale) for c in g.conditions]
            curves = tuple(conditioning.Constant(value, rate) for value in values)
            ahead = tuple(rng.uniform(0, max(c.clocks, default=1)) for c in g.conditions)
            return conditioning.Signal(g.conditions, curves, ahead)(0, g.window)

        asked = np.stack([constants() for _ in range(-(-self.batch_size // 2))])
        coordinates = training_coordinates(self.config, len(asked), rng)[:, : g.window]
        return np.concatenate([coordinates, asked], axis=2), asked

    def step(self, step: int, *batch: np.ndarray) -> dict[str, Any]:
        self.random.state.assign([self.seed, step])
        mode = "alone" if step < self.alone else "judged" if step % R1_INTERVAL else "penalised"
        return self._compiled[mode](*map(ops.convert_to_tensor, batch))

    def generate(self, coordinates: Any) -> Any:
        """Coordinates (B, 2 w, K) -> latents (B, 2 w, C), in two independent windows."""
        window, channels = self.config.generator.window, coordinates.shape[2]
        latents = self.generator(ops.reshape(coordinates, (-1, window, channels)), training=True)
        return ops.reshape(latents, (-1, 2 * window, latents.shape[2]))

    def _moments(self, latents: Any, conditions: Any) -> tuple[Any, Any]:
        functions = moments.features(conditions, self.config.generator.conditions)
        return moments.over_crops(moments.moments(latents, functions))

    def _update(self, mode: str, real: Any, conditions: Any, pieces: Any, anchors: Any, shares: Any, coordinates: Any,
                asked: Any, *steady: Any) -> dict[str, Any]:  # fmt: skip
        """One step of the generator and, unless it learns "alone", of the critic; `steady` is what else the ear listens to."""

        def learn() -> tuple[Any, ...]:
            known = ops.concatenate([self.atlas.coordinates(pieces, anchors, shares), conditions], axis=2)
            # twice with different noise: together they shall be as uncertain as the music is, given where it is from
            once, again, fake = ops.split(self.generate(ops.concatenate([known, known, coordinates], axis=0)), 3)
            recall = losses.energy_score(once, again, real)
            recent = moments.blend(self.recent_moments, self._moments(fake, asked), MOMENTS_DECAY)
            # a step moves the running mean by 1 - decay: divided by it, its gradient is that of a batch
            apart = moments.distance(self.real_moments, recent) / (1 - MOMENTS_DECAY)
            missed = ops.zeros(())
            if self.ear:
                half, window = steady[0].shape[:2]
                others = self.generator(steady[0], training=True) * self.deviation + self.mean
                latents = _in_turn(fake[:half, :window] * self.deviation + self.mean, others)
                missed = self.ear.missed(latents, _in_turn(asked[:half, :window], steady[1]))
            fake = ops.concatenate([fake, asked], axis=2)
            score = ops.zeros(()) if mode == "alone" else ops.mean(self.critic(fake, training=True))
            unheard = ops.relu(missed - self.bearable)
            total = RECALL_WEIGHT * recall + self.moments_weight * apart + EAR_WEIGHT * unheard - score
            return total, fake, score, recall, apart, missed, *recent

        (_, fake, score, recall, apart, missed, *recent), gradients = backend.gradients(learn, self.learned)
        for variable, value in zip(self.recent_moments, recent, strict=True):
            variable.assign(value)
        scalars = {"recall": recall, "moments": apart} | ({"missed": missed} if self.ear else {})
        if mode != "alone":
            real = ops.concatenate([real, conditions], axis=2)
            scalars |= self._judge(mode == "penalised", real, ops.stop_gradient(fake), score)
        self.optimizers[0].apply(gradients, self.learned)
        step = ops.cast(self.optimizers[0].iterations, "float32")
        decay = ops.minimum(EMA_DECAY, (1 + step) / (10 + step))  # early on, the beginning is forgotten sooner
        for average, variable in zip(self.average, self.generator.trainable_variables, strict=True):
            average.assign(decay * average + (1 - decay) * variable)
        return scalars

    def _judge(self, penalised: bool, real: Any, fake: Any, fake_score: Any) -> dict[str, Any]:
        """One step of the critic on latents with their conditions."""
        channels = 2 * self.config.autoencoder.latents  # conditions are given, so the penalty is on latents alone

        def score_of(latents: Any) -> Any:
            return self.critic(ops.concatenate([latents, real[:, :, channels:]], axis=2), training=True)

        def judge() -> tuple[Any, ...]:
            total = r1_penalty = ops.zeros(())
            if penalised:
                score, slope = backend.input_gradient(score_of, real[:, :, :channels])
                r1_penalty = ops.mean(ops.sum(ops.square(slope), axis=(1, 2)))
                total = self.r1_weight * R1_INTERVAL * r1_penalty
            else:
                score = self.critic(real, training=True)
            hinge = (losses.hinge_real(score) + losses.hinge_fake(self.critic(fake, training=True))) / 2
            return hinge + total, hinge, r1_penalty, ops.mean(score)

        (_, hinge, r1_penalty, score), gradients = backend.gradients(judge, self.critic.trainable_variables)
        self.optimizers[1].apply(gradients, self.critic.trainable_variables)
        certainty = ops.clip(score - fake_score, 0.0, 2.0) / 2
        change = ops.where(certainty > CERTAIN, R1_RATE, -R1_RATE) * MAX_R1_WEIGHT
        self.r1_weight.assign(ops.clip(self.r1_weight + change, 0.0, MAX_R1_WEIGHT))
        scalars = {
            "hinge": hinge,
            "real": score,
            "fake": fake_score,
            "r1_weight": ops.convert_to_tensor(self.r1_weight),
        }
        return scalars | ({"r1_penalty": r1_penalty} if penalised else {})

    def average_parameters(self) -> dict[str, np.ndarray]:
        """The generator's moving average under the runtime's names; its last layer gives latents as they are."""
        names = [f"{v.path.split('/')[-2]}/{v.name}" for v in self.generator.trainable_variables]
        values = {n: np.asarray(ops.convert_to_numpy(v), np.float32) for n, v in zip(names, self.average, strict=True)}
        values["out/bias"] = values["out/bias"] * self.deviation + self.mean
        values["out/kernel"] = values["out/kernel"] * self.deviation
        return values

    def sample(self, folder: Path, step: int) -> None:
        """The weights beside their autoencoder, and a clip as audio and picture."""
        from .evaluate.samples import save_generated

        path = folder / "model.h5"
        shutil.copyfile(self.latents.autoencoder_path, folder / self.latents.autoencoder["file"])
        provenance = {"steps": step, "batch_size": self.batch_size, "data": self.latents.sources}
        save_generator(path, self.config, self.average_parameters(), self.latents.autoencoder, provenance)
        save_generated(path, folder / "samples", step)


def choose_config(preset: str, init: Path | None, latents: Latents) -> Config:
    """Generator sizes of `init` if there is one, else of the preset; the rest is that of the latents' autoencoder."""
    made_by = weights.read(latents.autoencoder_path).config
    if init is None:
        return dataclasses.replace(PRESETS[preset], signal=made_by.signal, autoencoder=made_by.autoencoder)
    file = weights.read(init)
    if "generator" not in file.parameters:
        raise UsageError(f"--init {init}: kind {file.kind!r} has no generator; give a model that has, or none")
    if (file.config.signal, file.config.autoencoder) != (made_by.signal, made_by.autoencoder):
        raise UsageError(
            f"--init {init}: its autoencoder has other sizes than {latents.autoencoder['file']}, which made the latents;"
            " encode the corpus with the autoencoder of the model"
        )
    return file.config


def choose_conditions(config: Config, latents: Latents, names: Sequence[str]) -> tuple[Condition, ...]:
    """Those of `config` if they are called `names`, for a generator that is trained on; else as the labels have them."""
    known = config.generator.conditions
    chosen = known if [c.name for c in known] == list(names) else latents.conditions(names)
    for needed in {TIMES[c.name] for c in chosen if c.clocks}:
        if not all(needed in piece.labels for piece in latents.pieces):
            raise UsageError(
                f"{latents.folder}: no piece says when its {needed} are, as the model's clocks need; label the corpus and"
                " encode it again"
            )
    return chosen


def _in_turn(x: Any, y: Any) -> Any:
    """(B, ...) twice -> (2 B, ...): one of the first, one of the second, and so on."""
    return ops.reshape(ops.stack([x, y], axis=1), (-1, *x.shape[1:]))


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
