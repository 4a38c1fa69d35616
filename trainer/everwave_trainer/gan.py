"""The latent GAN: two critics, of latents and of how they sound, and an exponential moving average of the generator.

Training sees latents with mean 0 and standard deviation 1 in every channel, so that the R1 penalty means the same for
every autoencoder; the exported generator's last layer undoes it.

Source: Musika, arXiv 2208.08706, section 3.3 (with the critic of latents).
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
from everwave import conditioning, weights
from everwave.config import Config
from everwave.errors import UsageError
from keras import ops

from . import backend, checkpoint, disk, losses, moments, sound
from .atlas import Atlas
from .average import Average
from .critics import latent_critic, sound_critic
from .ear import LENGTH, Ear
from .export import config_key, save_domain, save_trained_on
from .judge import R1_INTERVAL, Judge
from .latents import Latents
from .layers import build, set_parameters
from .rates import Falling, falling
from .start import with_conditions
from .windows import in_windows, training_coordinates

EMA_DECAY = 0.999
GENERATOR_RATES = 8.0, 3.0  # the generator's learning rate as a multiple of the critic's: alone, and beside it
RECALL_WEIGHT = 32.0  # of the energy score at the places of real pieces
EAR_WEIGHT = 40.0  # of notes that are not heard when they were asked for, beyond those that real music misses
EAR_CROPS, EAR_BATCH = 512, 16  # of real music, in which those are counted, and which sounds as generated music shall
MOMENTS_WEIGHT = 0.1  # of the distance of moments; with much more, recall waits for it
SOUND_WEIGHT = 1.0  # of the distance of how the sound moves
STEADY = 1.0, 12.0  # constant densities, onsets per second, that the ear asks for too: few pieces are slow for long
MOMENTS_CROPS = 1024  # of real music, from which its moments are taken
MOMENTS_DECAY = 0.95  # of the running mean over steps that generated music's are: one batch's alone scatter too much


class GanTrainer:
    """A generator of two windows of latents against its judges; `loop.run` drives it."""

    def __init__(self, config: Config, latents: Latents, *, steps: int, batch_size: int = 32, learning_rate: float = 1e-4,
                 seed: int = 0, conditions: Sequence[str] = (), critic_width: int | None = None, alone: int = 0,
                 init: Path | None = None, run: Path | None = None) -> None:  # fmt: skip
        """init: what `initialise` will be asked to start from.
        run: the folder of a run that it may go on with; EverwaveError, before there is much to wait for, if that was another one."""
        config, latents = with_conditions(config, latents, conditions)
        generator = dataclasses.replace(config.generator, refiner=0)
        self.file: weights.ModelFile | None = None  # what it starts from
        # stands behind the generator and stays as it is: it learns by itself, see `refiner`
        self.refiner: keras.Model | None = None
        self.config = dataclasses.replace(config, generator=generator)
        self.latents, self.batch_size, self.seed, self.alone = latents, batch_size, seed, alone
        self.mean, self.deviation = latents.statistics()
        self.real_moments = self._real_moments(latents)
        self.recent_moments = [keras.Variable(m, trainable=False) for m in self.real_moments]
        self.settings: dict[str, Any] = {
            "init": weights.digest(init) if init else None, "steps": steps, "batch_size": batch_size, "learning_rate": learning_rate, "seed": seed, "critic_width": critic_width,
            "alone": alone, "config": config_key(self.config),
            "data": self.latents.fingerprint(self.config.generator.conditions),
            "precision": keras.mixed_precision.global_policy().name,
        }  # fmt: skip
        if run and checkpoint.exists(run):
            checkpoint.check(run, self.settings)
        keras.utils.set_random_seed(seed)
        self.random = keras.random.SeedGenerator(seed)
        self.generator = build("generator", self.config, self.random)
        self.average = Average(self.generator, EMA_DECAY)
        self.ear = Ear(latents.autoencoder_path, self.config, self.random)
        self.real_sound, self.bearable = self._hear(latents)
        self.recent_sound = keras.Variable(self.real_sound, trainable=False)
        self.atlas = Atlas(generator, 2 * [p.steps for p in latents.pieces], seed)
        self.learned = [*self.generator.trainable_variables, *self.atlas.variables]
        first, then = (learning_rate * x for x in GENERATOR_RATES)
        self.optimizer = keras.optimizers.Adam(Falling(first, then, alone, steps), beta_1=0.5)
        self.optimizer.build(self.learned)
        width = critic_width or generator.width
        rate = falling(learning_rate, steps - alone)  # they count their own steps
        self.judges = {
            "latents": Judge(latent_critic(self.config, width), rate, generator.condition_channels),
            # what was asked for is not told here: notes that come a little late would be all that it hears
            "sound": Judge(sound_critic(self.real_sound.shape[2], width), rate),
        }
        state = [*(v for group in self.variables().values() for v in group), self.random.state]
        modes = "alone", "judged", "penalised"
        self._compiled = {mode: backend.compiled(partial(self._update, mode), state) for mode in modes}

    def _real_moments(self, latents: Latents) -> tuple[Any, Any]:
        g = self.config.generator
        crops, inputs, _, _ = latents.crops(2 * g.window, MOMENTS_CROPS, self.seed, 0, g.conditions)
        return self._moments((crops - self.mean) / self.deviation, inputs)

    def _hear(self, latents: Latents) -> tuple[Any, float]:
        """How real music's sound moves, and how many of its notes the ear misses; generated music that misses no more is not
        asked for clearer notes, which would be clicks."""
        print("listening to the music first", file=sys.stderr)
        moved, missed = [], []
        for i in range(EAR_CROPS // EAR_BATCH):
            crops, inputs, _, _ = latents.crops(LENGTH, EAR_BATCH, self.seed, i, self.config.generator.conditions)
            crops = ((crops - self.mean) / self.deviation).astype(np.float32)
            levels, miss = self._listen(ops.convert_to_tensor(crops), ops.convert_to_tensor(inputs))
            moved.append(sound.sums(levels, self._kinds(inputs)))
            missed.append(miss)
        return ops.mean(ops.stack(moved), axis=0), float(ops.mean(ops.stack(missed)))

    def _listen(self, latents: Any, inputs: Any) -> tuple[Any, Any]:
        """Latents (B, T, C), as the generator gives them, and what was asked for -> the levels of an excerpt, and how many of
        its notes are missed."""
        excerpts, asked = self.ear.excerpt(latents * self.deviation + self.mean, inputs)
        heard = self.ear.heard(excerpts)
        missed = self.ear.missed(heard, asked) if self.ear.hand else ops.zeros(())
        return sound.levels(heard, self.config.signal.sample_rate), missed

    def _kinds(self, inputs: Any) -> Any:
        """Conditions of excerpts (B, T, n) -> which of the choices of conditions each is (B, K), 0 or 1; all are one kind without any."""
        found, at = [], 0
        for condition in self.config.generator.conditions:
            for choice in condition.choices:
                found.append(ops.abs(inputs[:, 0, at] - (choice - condition.mean) / condition.scale) < 1e-3)
            at += condition.channels
        return ops.cast(ops.stack(found, axis=1), "float32") if found else ops.ones((inputs.shape[0], 1))

    def _levelled(self, levels: Any) -> Any:
        """Levels as the critic of sound hears them: of mean 0 and deviation 1 in all real music."""
        mean, deviation = sound.deviation(self.real_sound)
        return (levels - mean) / deviation

    def initialise(self, source: Path) -> None:
        """Start from the generator of a weights file, which learns what its refiner makes of it, if it has one.

        UsageError if it has other conditions.
        """
        file = weights.read(source)
        theirs, ours = ([c.name for c in x.generator.conditions] for x in (file.config, self.config))
        if theirs != ours:
            raise UsageError(f"--init {source}: its conditions are {theirs}, not {ours}; give those as --conditions")
        self.settings["init"] = weights.digest(source)
        values = dict(file.parameters["generator"])
        values["out/bias"] = (values["out/bias"] - self.mean) / self.deviation
        values["out/kernel"] = values["out/kernel"] / self.deviation
        set_parameters(self.generator, values)
        self.average.begin()
        self.file = file
        if file.config.generator.refiner:
            self.refiner = build("refiner", file.config, any_length=True)
            set_parameters(self.refiner, file.parameters["refiner"])

    def variables(self) -> Mapping[str, Sequence[Any]]:
        return (
            {
                "generator": self.generator.trainable_variables,
                "average": self.average.variables,
                "atlas": self.atlas.variables,
                "generator_optimizer": self.optimizer.variables,
                "moments": self.recent_moments,
                "sound": [self.recent_sound],
            }
            | {f"{name}_critic": judge.critic.trainable_variables for name, judge in self.judges.items()}
            | {f"{name}_judge": [*judge.optimizer.variables, judge.r1_weight] for name, judge in self.judges.items()}
        )

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
        steady = self._steady(np.random.default_rng([self.seed, step, 2])) if self.ear.hand else ()
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
        backend.reseed(self.random, self.seed, step)
        mode = "alone" if step < self.alone else "judged" if step % R1_INTERVAL else "penalised"
        return self._compiled[mode](*map(ops.convert_to_tensor, batch))

    def generate(self, coordinates: Any) -> Any:
        """Coordinates (B, T, K) -> latents (B, T, C) as they are heard: in independent windows, then refined, if they will be."""
        g = self.config.generator
        latents = in_windows(self.generator, coordinates, g.window)
        if self.refiner is None:
            return latents
        asked = coordinates[:, :, g.anchor + g.style :]
        refined = self.refiner(ops.concatenate([latents * self.deviation + self.mean, asked], axis=2))
        return (refined - self.mean) / self.deviation

    def _moments(self, latents: Any, conditions: Any) -> tuple[Any, Any]:
        functions = moments.features(conditions, self.config.generator.conditions)
        return moments.over_crops(moments.moments(latents, functions))

    def _update(self, mode: str, real: Any, conditions: Any, pieces: Any, anchors: Any, shares: Any, coordinates: Any,
                asked: Any, *steady: Any) -> dict[str, Any]:  # fmt: skip
        """One step of the generator and, unless it learns "alone", of the critics; `steady` is what else the ear listens to."""
        window = self.config.generator.window

        def learn() -> tuple[Any, ...]:
            known = ops.concatenate([self.atlas.coordinates(pieces, anchors, shares), conditions], axis=2)
            # twice with different noise: together they shall be as uncertain as the music is, given where it is from
            once, again, fake = ops.split(self.generate(ops.concatenate([known, known, coordinates], axis=0)), 3)
            recall = losses.energy_score(once, again, real)
            windows, wanted = fake[:, :window], asked[:, :window]
            if steady:
                windows = ops.concatenate([windows, self.generate(steady[0])], axis=0)
                wanted = ops.concatenate([wanted, steady[1]], axis=0)
            levels, missed = self._listen(windows, wanted)
            levels = levels[: fake.shape[0]]
            recent = moments.blend(self.recent_moments, self._moments(fake, asked), MOMENTS_DECAY)
            (recent_sound,) = moments.blend(
                [self.recent_sound], [sound.sums(levels, self._kinds(asked))], MOMENTS_DECAY
            )
            # a step moves the running mean by 1 - decay: divided by it, its gradient is that of a batch
            apart = moments.distance(self.real_moments, recent) / (1 - MOMENTS_DECAY)
            unlike = sound.distance(self.real_sound, recent_sound) / (1 - MOMENTS_DECAY)
            judged = {}
            if mode != "alone":
                judged = {"latents": ops.concatenate([fake, asked], axis=2), "sound": self._levelled(levels)}
            scores = {name: ops.mean(self.judges[name].scores(x)) for name, x in judged.items()}
            total = RECALL_WEIGHT * recall + MOMENTS_WEIGHT * apart + SOUND_WEIGHT * unlike
            total += EAR_WEIGHT * ops.relu(missed - self.bearable) - sum(scores.values())
            scalars = {"recall": recall, "moments": apart, "sound": unlike} | (
                {"missed": missed} if self.ear.hand else {}
            )
            return total, scalars, judged, scores, [recent_sound, *recent]

        (_, scalars, judged, scores, recent), gradients = backend.gradients(learn, self.learned)
        for variable, value in zip([self.recent_sound, *self.recent_moments], recent, strict=True):
            variable.assign(value)
        if judged:
            levels, _ = self._listen(real[:, :window], conditions[:, :window])
            ours = {"latents": ops.concatenate([real, conditions], axis=2), "sound": self._levelled(levels)}
            for name, judge in self.judges.items():
                said = judge.learn(mode == "penalised", ours[name], ops.stop_gradient(judged[name]), scores[name])
                scalars |= {f"{name}_{k}": v for k, v in said.items()}
        self.optimizer.apply(gradients, self.learned)
        self.average.follow(self.optimizer.iterations)
        return scalars

    def average_parameters(self) -> dict[str, np.ndarray]:
        """The generator's moving average under the runtime's names; its last layer gives latents as they are."""
        values = self.average.parameters()
        values["out/bias"] = values["out/bias"] * self.deviation + self.mean
        values["out/kernel"] = values["out/kernel"] * self.deviation
        return values

    def sample(self, folder: Path, step: int) -> None:
        """The weights beside their autoencoder, and a clip as audio and picture."""
        from .evaluate.samples import save_generated

        provenance = {"steps": step, "batch_size": self.batch_size, "data": self.latents.sources}
        networks = {"generator": self.average_parameters()}
        if self.file is None:
            disk.copy(self.latents.autoencoder_path, folder / self.latents.autoencoder["file"])
            save_domain(folder / weights.RUN_FILE, self.config, networks, self.latents.autoencoder, provenance)
        else:
            refiner = self.file.config.generator.refiner
            generator = dataclasses.replace(self.config.generator, refiner=refiner)
            config = dataclasses.replace(self.config, generator=generator)
            save_trained_on(folder, self.file, config, networks, self.latents, provenance)
        save_generated(folder / weights.RUN_FILE, folder / "samples", step)
