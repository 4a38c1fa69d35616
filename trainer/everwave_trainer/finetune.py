"""A shipped model, trained on with somebody's own music, in one command: corpus, label, encode, refiner, posttrain, export.

Little music is played at three speeds, which makes three times as much of it. A copy of the model's refiner learns it first; what
that then knows judges the generator and its refiner, which is that copy or the model's own, whichever is nearer to held-out music.
At every checkpoint the model is compared with such music, and the best one is kept.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import everwave
import keras
import numpy as np
from everwave import weights
from everwave.config import Config
from everwave.errors import AudioError, UsageError
from everwave.files import checked_folder
from everwave.kernels.paths import choose

from . import backend, checkpoint, corpora, disk, loop
from .corpora.build import Builder, Source, contents
from .corpora.store import Track, hours, write_text
from .encode import encode_corpus
from .evaluate.mel_distance import mel_distance, windows
from .export import export_run, joined_licences
from .labels import BPM_RANGE
from .labels.command import label
from .labels.estimate import check_librosa
from .latents import Latents
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
MUSIC = "music.json"  # the files that training began with: names by SHA-256
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

    def distance(self, model: Path, config: Config | None = None) -> float:
        """How far what `model` makes is from the music; as it would be with the conditions of `config`, if that is given."""
        file = weights.read(model)
        player = everwave.Model.from_parts(weights.resolve(replace(file, config=config or file.config), model))
        sounds = (player.generate(SECONDS, seed=seed) for seed in range(PIECES))
        return round(mel_distance(windows(sounds, player.sample_rate), self.windows), 1)


class FineTuner(PostTrainer):
    """A post-trainer that compares every checkpoint with music it does not train on, and keeps the best as `best.h5`."""

    def compare(self, comparison: Comparison) -> None:
        """Compare every checkpoint from now on; nothing is kept yet."""
        self.comparison = comparison
        self.distances: list[float] = []
        self.kept = np.inf  # distance of the one that is in BEST

    def sample(self, folder: Path, step: int) -> None:
        super().sample(folder, step)
        self.distances.append(self.comparison.distance(folder / weights.RUN_FILE))
        if self.distances[-1] <= BETTER * self.kept:
            self.kept = self.distances[-1]
            disk.copy(folder / weights.RUN_FILE, folder / BEST)
        print(f"step {step}: distance to {self.comparison.name} {self.distances[-1]:g}", file=sys.stderr)

    def enough(self) -> bool:
        since_best = len(self.distances) - 1 - int(np.argmin(self.distances))
        return since_best >= PATIENCE


def finetune(audio: Sequence[Path], init: str, folder: Path, *, minutes: float, licence: str | None, seed: int) -> None:
    """Train the model `init` on with `audio` in `folder`, which ends with `model.h5`.

    A chunk decoder of the model's own stays as it is. Without a `licence` the music's is what was said before.
    """
    start = weights.find(init)
    model = weights.read(start)
    if "generator" not in model.parameters:
        raise UsageError(f"--init {init}: kind {model.kind!r} has no generator; give a model that has one")
    conditions = [c for c in model.config.generator.conditions if not c.choices]  # those that are estimated
    if conditions:
        check_librosa()  # `label` needs it, after all the work of `corpus`
    autoencoder = weights.autoencoder_path(model, start)
    sources = corpora.own_sources(audio, None, None, licence, folder)
    with disk.named(folder):
        tracks = _collect(sources, folder, model.config)
        held_out = sorted(track.source for track in tracks if track.split == "held-out")
        _announce(tracks, held_out, minutes)
        corpus = folder / "corpus"
        if conditions:
            label(corpus, "librosa", None, None, BPM_RANGE)
        encode_corpus([corpus], str(autoencoder), folder / "latents", speeds=SPEEDS)
        if held_out:
            encode_corpus([corpus], str(autoencoder), folder / "held-out", split="held-out")
        music = Latents.open(folder / "latents")
        music.places(_crop(model.config))  # or nothing is to be learned from it
        said = _tune(start, music, Latents.open(folder / "held-out") if held_out else None, folder, minutes, seed)
        disk.copy(music.autoencoder_path, folder / music.autoencoder["file"])
        licences = joined_licences(*(track.licence for track in tracks))
        export_run(folder / "run", folder / weights.RUN_FILE, licence=licences)
    print(f"{folder / weights.RUN_FILE}: {said}")


def _collect(sources: Sequence[Source], folder: Path, config: Config) -> list[Track]:
    """The corpus of the music in `folder`, of which a part is held out; UsageError if training has begun with other music."""
    begun = any(checkpoint.exists(folder / name) for name in ("refiner", "run"))
    _check_music(sources, folder, begun)
    builder = Builder(folder / "corpus", config.signal.sample_rate, jobs=2)
    if begun and not (folder / MUSIC).exists():  # by an earlier version: its corpus stays as it is
        sources = [source for source in sources if source.id in builder.tracks]
    builder.add(sources)
    if not begun:  # then no track changes sides any more
        _hold_out(builder, _crop(config) / config.signal.latent_rate)
    # what is skipped (a file that cannot be read, a copy) is said, and the rest is enough
    corpora.report(builder)
    return list(builder.tracks.values())


def _crop(config: Config) -> int:
    """Latents that one step of training takes of a piece."""
    return 2 * config.generator.window


def _check_music(sources: Sequence[Source], folder: Path, begun: bool) -> None:
    """Note the files that training will begin with; UsageError if it has `begun` with others, which the model would be compared with
    as if it did not know them."""
    now = {}
    for source in sources:
        with suppress(AudioError):  # the corpus skips it, and says so
            now[contents(source.path)[1]] = source.name
    noted = folder / MUSIC
    if not begun:
        checked_folder(folder).mkdir(parents=True, exist_ok=True)
        write_text(noted, json.dumps(now, indent=1))
    elif noted.exists():
        before = json.loads(noted.read_text(encoding="utf-8"))
        differing = [f"{now[x]} is new or another" for x in now if x not in before]
        differing += [f"{before[x]} is missing" for x in before if x not in now]
        if differing:
            raise UsageError(
                f"{folder}: its training began with other music ({differing[0]}); choose another -o, or give what it began with"
            )


def _hold_out(builder: Builder, seconds: float) -> None:
    """Choose what is kept from training among the tracks that have so many `seconds`, as training needs them, too."""
    names = {track.source for track in builder.tracks.values() if track.seconds >= seconds}
    kept = corpora.chosen(sorted(names), HOLD_OUT)
    for name, track in builder.tracks.items():
        builder.tracks[name] = replace(track, split="held-out" if track.source in kept else "train")
    builder.save()
    if not kept:
        print(
            f"no track is held out: {len(names)} of {len(builder.tracks)} have the {seconds:.0f} s that training needs, and"
            f" {corpora.FEW} must; checkpoints are compared with the training music",
            file=sys.stderr,
        )


def _announce(tracks: Sequence[Track], held_out: Sequence[str], minutes: float) -> None:
    music = 60 * hours([track for track in tracks if track.split == "train"])
    apart = f", held out {', '.join(held_out)}" if held_out else ""
    print(
        f"{len(tracks) - len(held_out)} tracks of {music:.1f} minutes to train on at {len(SPEEDS)} speeds{apart};"
        f" at most {minutes:g} minutes of training, and comparisons before",
        file=sys.stderr,
    )


def _tune(start: Path, music: Latents, held_out: Latents | None, folder: Path, minutes: float, seed: int) -> str:
    """All of the training; returns what it has gained."""
    policy = keras.mixed_precision.global_policy()
    fast = choose().precision == "bfloat16" and keras.backend.backend() == "tensorflow"  # JAX has not been measured
    keras.mixed_precision.set_global_policy("mixed_bfloat16" if fast else "float32")
    try:  # more steps in the same minutes
        denoiser = _refine(start, music, folder / "refiner", REFINER_SHARE * minutes, seed)
        comparison = Comparison(held_out or music, "held-out music" if held_out else "training music")
        return _train(start, denoiser, music, comparison, folder / "run", (1 - REFINER_SHARE) * minutes, seed)
    finally:
        keras.mixed_precision.set_global_policy(policy)


def _train(
    init: Path, denoiser: Path, latents: Latents, comparison: Comparison, run: Path, minutes: float, seed: int
) -> str:
    """Post-training, which leaves the best as `run`/model.h5; returns what was gained."""
    print(f"comparing with {comparison.name} first", file=sys.stderr)
    begin, before = denoiser, None
    if weights.read(init).config.generator.refiner:
        before = comparison.distance(init)
        # other music than the model knows is nearer with the refiner that has learned it, and music that it knows with its own;
        # both as they are trained on: of a style that is chosen, one alone
        as_trained = comparison.distance(init, weights.read(denoiser).config)
        begin = init if as_trained < comparison.distance(denoiser) else denoiser
    trainer = FineTuner(begin, latents, steps=STEPS, seed=seed, denoiser=denoiser)
    _on_any_machine(trainer.settings)
    trainer.compare(comparison)
    if (run / BEST).exists():  # resumed: only a better one may replace it
        trainer.kept = comparison.distance(run / BEST)
        trainer.distances.append(trainer.kept)
    else:  # the beginning counts: of music that the model knows well a few minutes of training may teach it nothing
        run.mkdir(parents=True, exist_ok=True)
        trainer.sample(run, 0)
    loop.run(trainer, run, STEPS, minutes=minutes / CHECKPOINTS, limit=minutes, enough=trainer.enough,
             log=backend.scalar_writer(str(run / "logs")))  # fmt: skip
    disk.copy(run / BEST, run / weights.RUN_FILE)
    if before is None:  # without a refiner of its own a model is nothing to compare with
        before = trainer.distances[0]
    steps = weights.read(run / BEST).provenance["posttrained"]["steps"]
    return _gain(comparison.name, before, trainer.kept, steps, begin == init)


def _gain(music: str, before: float, after: float, steps: int, as_it_was: bool) -> str:
    """What training has brought, in words; after 0 `steps` it is what the refiner has learned, unless the model began `as_it_was`."""
    moved = f"distance to {music} {before:g} -> {after:g}"
    if after >= before or (as_it_was and not steps):
        return f"nothing was gained, {moved}: give more music or --minutes, or begin with another model"
    return f"{moved}, of step {steps}" if steps else f"{moved}, by its refiner alone"


def _on_any_machine(settings: dict[str, Any]) -> None:
    """Let a run go on where another precision is the fastest: it trains for a time, and ends elsewhere each time anyway."""
    del settings["precision"]


def _refine(model: Path, latents: Latents, run: Path, minutes: float, seed: int) -> Path:
    """The file `model` with its refiner trained on, or a new one, which is done once."""
    done = run / DENOISER
    rate = REFINER_RATES[weights.read(model).config.generator.refiner > 0]
    trainer = RefinerTrainer(model, latents, steps=STEPS, learning_rate=rate, seed=seed)
    _on_any_machine(trainer.settings)
    if done.exists():
        checkpoint.check(run, trainer.settings)
    else:
        log = backend.scalar_writer(str(run / "logs"))
        loop.run(trainer, run, STEPS, minutes=math.inf, limit=minutes, log=log)
        disk.copy(run / weights.RUN_FILE, done)  # one that was stopped before has no such file
    return done
