"""Composed techno: the labels are where the sounds are, and a track is a function of (seed, index)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from everwave_trainer import cli
from everwave_trainer.corpora import debian
from everwave_trainer.corpora.store import Corpus
from everwave_trainer.corpora.techno import build as techno
from everwave_trainer.corpora.techno import kits, mix, patterns, score
from everwave_trainer.labels import store

RATE = 44100


def kit(name: str, pitch: float) -> kits.Kit:
    """A decaying tone for every role: a kit for the mechanics."""
    time = np.arange(4000) / RATE
    tone = np.sin(2 * np.pi * pitch * time + 1) * np.exp(-60 * time)
    samples = np.repeat(tone[:, None], 2, axis=1).astype(np.float32)
    return {role: [kits.OneShot(name, kits.SONIC_PI, samples)] for role in kits.SAMPLES}


def test_a_score_is_a_function_of_seed_and_index() -> None:
    assert score.compose(3, 5) == score.compose(3, 5)
    assert score.compose(3, 5) != score.compose(3, 6)
    assert score.compose(3, 5) != score.compose(4, 5)


def test_tempi_cover_the_range_evenly_and_apart_from_the_genres() -> None:
    tempi = np.array([score.tempo(0, index) for index in range(100)])
    low, high = score.BPM_RANGE
    assert tempi.min() >= low
    assert tempi.max() <= high
    counts, _ = np.histogram(tempi, 10, (low, high))
    assert counts.min() >= 8
    fast = {score.compose(0, index).genre for index in np.flatnonzero(tempi > 140)}
    assert fast == {genre.name for genre in patterns.GENRES}


@pytest.mark.parametrize("swing", [0.0, 0.25])
def test_every_stroke_is_on_its_frame(swing: float) -> None:
    kick = score.Part("kick", 0.9, hits=[(step, 1.0) for step in range(score.UNIT)])
    piece = score.Score("techno", 137.3, swing, ["drop"], [kick], echo_steps=3, reverb_seconds=1.0, drive=1.0)
    click = np.zeros((50, 2), np.float32)
    click[0] = 1
    clicks = {"kick": [kits.OneShot("click", kits.SONIC_PI, click)]}
    mixed = mix.mix(piece, clicks, RATE, np.random.default_rng(0))
    step = 15 / 137.3
    expected = [round((n + (swing if n % 2 else 0)) * step * RATE) for n in range(score.UNIT)]
    np.testing.assert_array_equal(mixed.onsets, expected)
    last = expected[-8]  # the end is faded out
    np.testing.assert_array_equal(np.flatnonzero(mixed.samples[:last, 0] > 0.5), expected[:-8])


def test_every_voice_sounds_in_tune() -> None:
    for name, patch in score.PATCHES.items():
        part = score.Part("lead", 0.1, patch=patch, notes=[(0, 60, 57, 1.0)], octaves=[0.0, 0.0])
        kick = score.Part("kick", 0.0, hits=[(0, 1.0)])
        piece = score.Score("techno", 120.0, 0.0, ["drop"], [part, kick], 3, 1.0, 1.0)
        played = mix.mix(piece, kit("a", 60), RATE, np.random.default_rng(0)).samples[: 4 * RATE].mean(axis=1)
        spectrum = np.abs(np.fft.rfft(played * np.hanning(len(played))))
        pitches = np.array([110, 220, 440, 660, 880, 1100])  # octave below, harmonics of A3
        loudest = spectrum.argmax() / 4
        assert np.abs(12 * np.log2(loudest / pitches)).min() < 0.4, name
        assert np.isfinite(played).all()


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The command, with a kit for the mechanics and the shortest tracks there can be."""
    monkeypatch.setattr(kits, "load", lambda cache, rate: {"train": kit("a", 200), "held-out": kit("b", 300)})
    monkeypatch.setattr(score, "SECONDS_RANGE", (1.0, 2.0))
    monkeypatch.setattr(techno, "HELD_OUT_EVERY", 2)

    def run(hours: float) -> Corpus:
        assert cli.main(["corpus", "--composed", str(hours), "-o", str(tmp_path / "out"), "--jobs", "1"]) == 0
        return Corpus.open(tmp_path / "out")

    return run


def test_composed_tracks_have_labels_splits_and_credits_and_are_made_once(build) -> None:
    corpus = build(0.03)
    first, second = corpus.tracks
    assert (first.split, second.split) == ("train", "held-out")
    assert (first.style, first.licence) == ("techno", "CC0-1.0")
    assert "a by musicians of freesound.org" in first.author
    assert "b by" in second.author
    labels = store.read(corpus.folder, first.id)
    assert labels.bpm == score.tempo(0, 0)
    assert labels.beats is not None
    np.testing.assert_allclose(np.diff(labels.beats), 60 / labels.bpm, atol=2e-4)
    assert set(labels.sources.values()) == {"composed"}
    stamp = first.path.stat().st_mtime_ns
    assert len(build(0.05).tracks) == 3
    assert first.path.stat().st_mtime_ns == stamp


def test_the_beat_is_heard_where_the_label_says(build) -> None:
    corpus = build(0.001)
    track = corpus.tracks[0]
    beats = store.read(corpus.folder, track.id).beats
    assert beats is not None
    power = (track.samples.astype(float) ** 2).sum(axis=1)
    frames = np.round(np.array(beats[8:40]) * RATE).astype(int)
    on = np.mean([power[f : f + 1000].mean() for f in frames])
    between = np.mean([power[f - 3000 : f - 1000].mean() for f in frames])
    assert on > 3 * between


def test_samples_begin_with_their_attack() -> None:
    late = np.zeros((3000, 2), np.float32)
    late[1000:2500] = 0.25
    trimmed = kits.trimmed(late, RATE)
    assert len(trimmed) == 1500
    assert trimmed[0, 0] == 1
    assert trimmed[-1, 0] == 0


@pytest.mark.parametrize("words", [("--composed", "0"), ("--composed", "nan"), ("--composed", "1", "--seed", "-1")])
def test_bad_use_is_refused(words: tuple[str, ...], tmp_path: Path) -> None:
    assert cli.main(["corpus", *words, "-o", str(tmp_path)]) == 2


def test_names_in_the_table_are_of_one_split_only() -> None:
    for role, entries in kits.SAMPLES.items():
        for bank, train, held_out in entries:
            assert not set(train.split(",")) & set(filter(None, held_out.split(","))), (role, bank)


def test_a_table_that_fits_another_version_is_explained(tmp_path: Path) -> None:
    with pytest.raises(debian.PackageError, match="the table fits another version"):
        kits._read(kits.SONIC_PI, "bd_none", tmp_path, RATE)
