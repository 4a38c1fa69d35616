"""A shipped model, trained on with somebody's own music, in one command: corpus, label, encode, gan, refiner, export.

Little music is played at three speeds, which makes three times as much of it. At every checkpoint the model is compared with
held-out music, and the best one is kept: a generator that goes on learning half an hour of music learns it by heart. A refiner,
if the model has one, learns the music first, in a share of the minutes: the generator is trained through it.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import everwave
import keras
import numpy as np
from everwave import weights
from everwave.errors import UsageError
from everwave.kernels.paths import choose
from everwave.pipeline import Pipeline

from . import backend, loop
from .corpora.store import Corpus
from .evaluate.distribution import frechet_distance
from .gan import GanTrainer, choose_config, training_coordinates
from .labels.estimate import check_librosa
from .latents import Latents
from .refiner import RefinerTrainer

SPEEDS = ("0.94", "1", "1.06")  # a semitone down and up
HOLD_OUT = "0.2"  # of the tracks: a tenth of a game's dozen is one track, which need not be like the others
BATCH_SIZE, LEARNING_RATE, CRITIC_SHARE = 8, 2e-4, 2  # the critic is half as wide as the generator
CHECKPOINTS = 8  # over the minutes given
PATIENCE = 5  # checkpoints without a better one; at the first, distances go up and down
STEPS = 1_000_000  # more than the minutes will hold
REFINER_SHARE, REFINER_RATE = 0.3, 3e-4  # of the minutes; its learning rate, as it knows music already
BETTER = 0.95  # times as far as the best is nearer; less than that is chance
BEST = "best.h5"
WINDOW = 32  # latents, 3 s
PIECES = 64  # of two generator windows, to compare


class FineTuner(GanTrainer):
    """A GAN trainer that compares every checkpoint with music it does not train on, and keeps the best as `best.h5`."""

    moments_weight = 0.25  # other music than the model knows: its levels and colours come first, and time is short

    def compare_with(self, music: Latents, minutes: float) -> None:
        """Begin: `music` is what checkpoints are compared with, after `minutes` at the latest it is enough."""
        self.compared_with = "training music" if music.folder == self.latents.folder else "held-out music"
        self.windows = _windows([array[0] for array in music.arrays])
        g = self.config.generator
        coordinates = training_coordinates(self.config, PIECES, np.random.default_rng([self.seed, 3]))
        asked = self.latents.crops(2 * g.window, PIECES, self.seed, 0, g.conditions)[1]
        self.coordinates = np.concatenate([coordinates, asked], axis=2).astype(np.float32)
        self.distances: list[float] = []
        self.kept = np.inf  # distance of the one that is in BEST
        self.end = time.monotonic() + 60 * minutes

    def distance(self, model: Path) -> float:
        """Frechet distance of what `model` makes to the music that it is compared with."""
        player = everwave.load(model)
        pipeline = Pipeline(player.config, player.network, player.threads)
        windows = _windows([pipeline.latents(x, seed) for seed, x in enumerate(self.coordinates)])
        return round(frechet_distance(windows, self.windows), 3)

    def sample(self, folder: Path, step: int) -> None:
        super().sample(folder, step)
        self.distances.append(self.distance(folder / "model.h5"))
        if self.distances[-1] <= BETTER * self.kept:
            self.kept = self.distances[-1]
            shutil.copyfile(folder / "model.h5", folder / BEST)
        print(f"step {step}: distance to {self.compared_with} {self.distances[-1]:g}", file=sys.stderr)

    def enough(self) -> bool:
        since_best = len(self.distances) - 1 - int(np.argmin(self.distances))
        return since_best >= PATIENCE or time.monotonic() > self.end


def _windows(pieces: Sequence[np.ndarray]) -> np.ndarray:
    """Latents (T, C) of pieces -> mean and standard deviation of every channel in every WINDOW of them: (N, 2 C)."""
    cut = [p[: len(p) // WINDOW * WINDOW].astype(np.float64).reshape(-1, WINDOW, p.shape[1]) for p in pieces]
    joined = np.concatenate(cut)
    return np.concatenate([joined.mean(axis=1), joined.std(axis=1)], axis=1)


def finetune(audio: Sequence[Path], init: str, folder: Path, *, minutes: float, licence: str, seed: int) -> None:
    """Train the model `init` on with `audio` in `folder`, which ends with `model.h5`.

    A chunk decoder of the model's own stays behind: it was made for other music.
    """
    start = weights.find(init)
    model = weights.read(start)
    if "generator" not in model.parameters:
        raise UsageError(f"--init {init}: kind {model.kind!r} has no generator; give a model that has one")
    conditions = [c for c in model.config.generator.conditions if not c.choices]  # those that are estimated
    if conditions:
        check_librosa()  # `label` needs it, after all the work of `corpus`
    autoencoder = weights.autoencoder_path(model, start)
    corpus, latents, held_out, run = (folder / name for name in ("corpus", "latents", "held-out", "run"))
    files = list(map(str, audio))
    # what is skipped (a file that cannot be read, a track without a tempo) is said, and the rest is enough
    _run("corpus", "--audio", *files, "--licence", licence, "--hold-out", HOLD_OUT, "--sample-rate",
         str(model.config.signal.sample_rate), "-o", str(corpus))  # fmt: skip
    if conditions:
        _run("label", str(corpus))
    encode = ("encode", str(corpus), "--autoencoder", str(autoencoder), "-o")
    _run(*encode, str(latents), "--speeds", *SPEEDS)
    kept_out = any(track.split == "held-out" for track in Corpus.open(corpus).tracks)
    if kept_out:
        _run(*encode, str(held_out), "--split", "held-out")
    if not kept_out:
        print(
            "no track is held out (there are too few): checkpoints are compared with the training music",
            file=sys.stderr,
        )
    music = Latents.open(latents)
    policy = keras.mixed_precision.global_policy()
    share = REFINER_SHARE if model.config.generator.refiner else 0.0
    fast = choose().precision == "bfloat16" and keras.backend.backend() == "tensorflow"  # JAX has not been measured
    keras.mixed_precision.set_global_policy("mixed_bfloat16" if fast else "float32")
    try:  # more steps in the same minutes
        if share:
            start = _refine(start, music, folder / "refiner", share * minutes, seed)
        _train(start, music, Latents.open(held_out) if kept_out else music, run, (1 - share) * minutes, seed)
        shutil.copyfile(run / BEST, run / "model.h5")
    finally:
        keras.mixed_precision.set_global_policy(policy)
    shutil.copyfile(music.autoencoder_path, folder / music.autoencoder["file"])
    _run("export", str(run), "--licence", licence, "-o", str(folder / "model.h5"))


def _run(*words: str) -> None:
    """One command of `everwave-train`; its errors are ours."""
    from .cli import parser

    arguments = parser().parse_args(words)
    arguments.run(arguments)


def _train(init: Path, latents: Latents, music: Latents, run: Path, minutes: float, seed: int) -> None:
    config = choose_config("lite", init, latents)
    trainer = FineTuner(
        config, latents, steps=STEPS, batch_size=BATCH_SIZE, learning_rate=LEARNING_RATE, seed=seed,
        conditions=[c.name for c in config.generator.conditions], critic_width=config.generator.width // CRITIC_SHARE,
    )  # fmt: skip
    trainer.initialise(init)
    trainer.compare_with(music, minutes)
    if (run / BEST).exists():  # resumed: only a better one may replace it
        trainer.kept = trainer.distance(run / BEST)
        trainer.distances.append(trainer.kept)
    else:  # the beginning counts: of music that the model knows well a few minutes of training may teach it nothing
        run.mkdir(parents=True, exist_ok=True)
        trainer.sample(run, 0)
    loop.run(trainer, run, STEPS, minutes=minutes / CHECKPOINTS, enough=trainer.enough,
             log=backend.scalar_writer(str(run / "logs")))  # fmt: skip


def _refine(model: Path, latents: Latents, run: Path, minutes: float, seed: int) -> Path:
    """The file `model` with its refiner trained on, which is done once: what comes after it was trained for it."""
    trained = run / "model.h5"
    if not trained.exists():
        trainer = RefinerTrainer(model, latents, steps=STEPS, learning_rate=REFINER_RATE, seed=seed)
        loop.run(
            trainer, run, STEPS, minutes=minutes, enough=lambda: True, log=backend.scalar_writer(str(run / "logs"))
        )
    return trained
