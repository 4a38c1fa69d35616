"""A shipped model, trained on with somebody's own music, in one command: corpus, label, encode, refiner, posttrain, export.

Little music is played at three speeds, which makes three times as much of it. A copy of the model's refiner learns it first; what
that then knows judges the generator and its refiner, which is that copy or the model's own, whichever is nearer to held-out music.
At every checkpoint the model is compared with such music, and the best one is kept.
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

from . import backend, checkpoint, corpora, loop
from .corpora.build import Builder
from .evaluate.mel_distance import mel_distance, windows
from .export import export_run
from .labels import BPM_RANGE
from .labels.command import label
from .labels.estimate import check_librosa
from .latents import Latents, encode_corpus
from .posttrain import PostTrainer
from .refiner import RefinerTrainer

SPEEDS = (0.94, 1.0, 1.06)  # a semitone down and up
HOLD_OUT = 0.2  # of the tracks: a tenth of a game's dozen is one track, which need not be like the others
CHECKPOINTS = 8  # over the minutes given
PATIENCE = 5  # checkpoints without a better one; at the first, distances go up and down
STEPS = 1_000_000  # more than the minutes will hold
REFINER_SHARE = 0.3  # of the minutes
REFINER_RATES = {True: 3e-4, False: 1e-3}  # learning rates, of one that knows music already and of a new one
BETTER = 0.95  # times as far as the best is nearer; less than that is chance
BEST, DENOISER = "best.h5", "denoiser.h5"
PIECES, SECONDS = 48, 20.0  # to compare


class Comparison:
    """Of models with music: `name` says which."""

    def __init__(self, music: Latents, name: str) -> None:
        self.name = name
        player, length = everwave.load(music.autoencoder_path), round(SECONDS * music.latent_rate)
        # what is left over at an end is left out, but a shorter piece is taken as it is
        cut = [(i, at) for i, p in enumerate(music.pieces) for at in range(0, max(p.steps - length, 0) + 1, length)]
        real = (np.array(music.array(i)[0, at : at + length]) for i, at in cut[:: -(-len(cut) // PIECES)])
        self.windows = windows(map(player.decode, real), player.sample_rate)

    def distance(self, model: Path) -> float:
        """How far what `model` makes is from the music."""
        player = everwave.load(model)
        sounds = (player.generate(SECONDS, seed=seed) for seed in range(PIECES))
        return round(mel_distance(windows(sounds, player.sample_rate), self.windows), 1)


class FineTuner(PostTrainer):
    """A post-trainer that compares every checkpoint with music it does not train on, and keeps the best as `best.h5`."""

    def compare(self, comparison: Comparison, end: float) -> None:
        """Begin: at `end` of the monotonic clock at the latest it is enough."""
        self.comparison = comparison
        self.distances: list[float] = []
        self.kept = np.inf  # distance of the one that is in BEST
        self.end = end

    def sample(self, folder: Path, step: int) -> None:
        super().sample(folder, step)
        self.distances.append(self.comparison.distance(folder / "model.h5"))
        if self.distances[-1] <= BETTER * self.kept:
            self.kept = self.distances[-1]
            shutil.copyfile(folder / "model.h5", folder / BEST)
        print(f"step {step}: distance to {self.comparison.name} {self.distances[-1]:g}", file=sys.stderr)

    def enough(self) -> bool:
        since_best = len(self.distances) - 1 - int(np.argmin(self.distances))
        return since_best >= PATIENCE or time.monotonic() > self.end


def finetune(audio: Sequence[Path], init: str, folder: Path, *, minutes: float, licence: str, seed: int) -> None:
    """Train the model `init` on with `audio` in `folder`, which ends with `model.h5`.

    A chunk decoder of the model's own stays as it is.
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
    sources = corpora.own_sources(audio, HOLD_OUT, "other", licence, folder)
    builder = Builder(corpus, model.config.signal.sample_rate, jobs=2)
    builder.add(sources)
    # what is skipped (a file that cannot be read, a track without a tempo) is said, and the rest is enough
    corpora.report(builder)
    if conditions:
        label(corpus, "librosa", None, None, BPM_RANGE)
    encode_corpus([corpus], str(autoencoder), latents, speeds=SPEEDS)
    kept_out = any(track.split == "held-out" for track in builder.tracks.values())
    if kept_out:
        encode_corpus([corpus], str(autoencoder), held_out, split="held-out")
    else:
        print(
            "no track is held out (there are too few): checkpoints are compared with the training music",
            file=sys.stderr,
        )
    music = Latents.open(latents)
    music.places(2 * model.config.generator.window)  # or nothing is to be learned from it
    policy = keras.mixed_precision.global_policy()
    fast = choose().precision == "bfloat16" and keras.backend.backend() == "tensorflow"  # JAX has not been measured
    keras.mixed_precision.set_global_policy("mixed_bfloat16" if fast else "float32")
    try:  # more steps in the same minutes
        denoiser = _refine(start, music, folder / "refiner", REFINER_SHARE * minutes, seed)
        other = Latents.open(held_out) if kept_out else music
        comparison = Comparison(other, "held-out music" if kept_out else "training music")
        _train(start, denoiser, music, comparison, run, (1 - REFINER_SHARE) * minutes, seed)
        shutil.copyfile(run / BEST, run / "model.h5")
    finally:
        keras.mixed_precision.set_global_policy(policy)
    shutil.copyfile(music.autoencoder_path, folder / music.autoencoder["file"])
    export_run(run, folder / "model.h5", licence=licence)
    steps = weights.read(run / BEST).provenance["posttrained"]["steps"]
    says = f"of step {steps}" if steps else "what training began with, as nothing later was nearer"
    print(f"{folder / 'model.h5'}: {says}")


def _train(
    init: Path, denoiser: Path, latents: Latents, comparison: Comparison, run: Path, minutes: float, seed: int
) -> None:
    end = time.monotonic() + 60 * minutes
    begin = denoiser
    # other music than the model knows is nearer with the refiner that has learned it, and music that it knows with its own
    if weights.read(init).config.generator.refiner and comparison.distance(init) < comparison.distance(denoiser):
        begin = init
    trainer = FineTuner(begin, latents, steps=STEPS, seed=seed, denoiser=denoiser)
    trainer.compare(comparison, end)
    if (run / BEST).exists():  # resumed: only a better one may replace it
        trainer.kept = comparison.distance(run / BEST)
        trainer.distances.append(trainer.kept)
    else:  # the beginning counts: of music that the model knows well a few minutes of training may teach it nothing
        run.mkdir(parents=True, exist_ok=True)
        trainer.sample(run, 0)
    loop.run(trainer, run, STEPS, minutes=minutes / CHECKPOINTS, enough=trainer.enough,
             log=backend.scalar_writer(str(run / "logs")))  # fmt: skip


def _refine(model: Path, latents: Latents, run: Path, minutes: float, seed: int) -> Path:
    """The file `model` with its refiner trained on, or a new one, which is done once."""
    done = run / DENOISER
    rate = REFINER_RATES[weights.read(model).config.generator.refiner > 0]
    trainer = RefinerTrainer(model, latents, steps=STEPS, learning_rate=rate, seed=seed)
    if done.exists():
        checkpoint.check(run, trainer.settings)
    else:
        log = backend.scalar_writer(str(run / "logs"))
        loop.run(trainer, run, STEPS, minutes=minutes, enough=lambda: True, log=log)
        shutil.copyfile(run / "model.h5", done)  # one that was stopped before has no such file
    return done
