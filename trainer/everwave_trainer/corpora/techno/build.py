"""Tracks of composed techno for a corpus, with their labels (`everwave-train corpus --composed HOURS`)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from everwave.errors import UsageError

from ...labels.store import TrackLabels
from ...labels.store import write as write_labels
from ..build import Builder, write_samples
from ..store import Track
from . import kits
from .mix import mix
from .score import Score, compose

VERSION = 1  # raise it when the same seed gives other music: tracks of another version are composed anew
PACKAGE = "everwave-composed"
HELD_OUT_EVERY = 10  # one track in ten is held out, and played on one-shots that no other track uses


def add_composed(builder: Builder, hours: float, seed: int, cache: Path) -> None:
    """Add tracks until there are `hours` of them, from index 0 on; those that are there already are kept.

    UsageError unless hours is positive and the seed is not negative; PackageError if the one-shots cannot be had.
    """
    if not 0 < hours < 10000:
        raise UsageError(f"--composed {hours}: hours, must be greater than 0")
    if seed < 0:
        raise UsageError(f"--seed {seed}: must be at least 0")
    missing = [(index, score) for index, score in _scores(hours, seed) if not _kept(builder, seed, index)]
    if missing:
        sets = kits.load(cache, builder.sample_rate)
        builder.make(_tasks(missing, seed, sets, builder))


def _scores(hours: float, seed: int) -> Iterator[tuple[int, Score]]:
    seconds, index = 0.0, 0
    while seconds < hours * 3600:
        score = compose(seed, index)
        yield index, score
        seconds, index = seconds + score.seconds(score.steps), index + 1


def _name(seed: int, index: int) -> str:
    return f"composed-{seed}-{index:04d}"


def _source(seed: int, index: int) -> str:
    return f"version {VERSION}, seed {seed}, track {index}"


def _kept(builder: Builder, seed: int, index: int) -> bool:
    track = builder.tracks.get(_name(seed, index))
    return track is not None and track.source == _source(seed, index) and track.path.exists()


def _tasks(
    scores: list[tuple[int, Score]], seed: int, sets: dict[str, kits.Kit], builder: Builder
) -> Iterator[Callable[[], Track]]:
    for index, score in scores:
        split = "held-out" if index % HELD_OUT_EVERY == HELD_OUT_EVERY - 1 else "train"
        yield partial(_make, score, seed, index, split, sets[split], builder.folder, builder.sample_rate)


def _make(score: Score, seed: int, index: int, split: str, kit: kits.Kit, folder: Path, sample_rate: int) -> Track:
    """Play one track, write it and its labels."""
    mixed = mix(score, kit, sample_rate, np.random.default_rng([seed, 2, index]))
    name = _name(seed, index)
    path = folder / "tracks" / f"{name}.npy"
    write_samples(path, mixed.samples)
    beats = (np.arange(score.steps // 4) * (60 / score.bpm)).tolist()
    onsets = (mixed.onsets / sample_rate).tolist()
    sources = dict.fromkeys(("bpm", "onsets", "beats"), "composed")
    write_labels(folder, name, TrackLabels(score.bpm, tuple(onsets), tuple(beats), sources))
    return Track(
        id=name,
        title=f"{score.genre} at {score.bpm} bpm",
        package=PACKAGE,
        source=_source(seed, index),
        style="techno",
        licence=" AND ".join(sorted({shot.bank.licence for shot in mixed.one_shots})),
        author=_credits(mixed.one_shots),
        split=split,
        frames=len(mixed.samples),
        gain=1.0,
        source_size=0,
        source_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        sample_rate=sample_rate,
        path=path,
    )


def _credits(one_shots: list[kits.OneShot]) -> str:
    banks: dict[kits.Bank, list[str]] = {}
    for shot in one_shots:
        banks.setdefault(shot.bank, []).append(shot.name)
    parts = [f"{', '.join(names)} by {bank.author} ({bank.package}, {bank.licence})" for bank, names in banks.items()]
    return "everwave's composer, on the one-shots " + "; ".join(parts)
