"""Labels: what is read, what is kept, and what the GAN is given."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from everwave.errors import EverwaveError, UsageError
from everwave_trainer import cli
from everwave_trainer.corpora.store import Corpus, write_manifest
from everwave_trainer.encode import track_labels
from everwave_trainer.labels import command, curves, estimate, external, files, store
from everwave_trainer.labels.store import TrackLabels

RATE = 44100
LATENT_RATE = RATE / 4096


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    """Two tracks of 20 s with a click every 0.45 s (133.33 beats per minute) under noise."""
    (tmp_path / "music").mkdir()
    for seed, name in enumerate(("one", "two")):
        samples = 0.001 * np.random.default_rng(seed).standard_normal((20 * RATE, 2))
        for beat in np.arange(0.1, 19.9, 0.45):
            at = round(beat * RATE)
            samples[at : at + 400] += np.hanning(400)[:, None] * np.sin(np.arange(400) / 5)[:, None]
        soundfile.write(tmp_path / "music" / f"{name}.wav", 0.5 * samples, RATE)
    command = ["corpus", "--audio", tmp_path / "music", "-o", tmp_path / "corpus", "--hold-out", 0]
    assert cli.main([str(word) for word in command]) == 0
    return Corpus.open(tmp_path / "corpus")


def label(corpus: Corpus, *words: object) -> int:
    return cli.main(["label", str(corpus.folder), *map(str, words)])


# -- density


@pytest.mark.parametrize("rate", [0.5, 4.0, 12.0])
def test_density_of_an_even_pulse_is_its_rate_up_to_the_ends(rate: float) -> None:
    onsets = (np.arange(60 * rate) + 0.5) / rate
    steps = int(60 * LATENT_RATE)
    curve = curves.density(onsets, steps, LATENT_RATE, 60.0)
    tolerance = 0.05 if rate > 1 else 0.4  # a window of 3 s holds hardly more than one of the slow ones
    np.testing.assert_allclose(curve[20:-20], rate, rtol=tolerance)
    np.testing.assert_allclose(curve, rate, rtol=2 * tolerance)


def test_density_counts_every_onset_once_and_a_chord_as_one() -> None:
    onsets = [20.0, 20.004, 20.02, 30.0, 31.0]
    curve = curves.density(onsets, 600, LATENT_RATE, 600 / LATENT_RATE)
    assert curve.sum() / LATENT_RATE == pytest.approx(3, abs=0.01)
    assert curve[: int(18 * LATENT_RATE)].max() == 0
    assert curve.argmax() in range(int(30 * LATENT_RATE) - 1, int(31 * LATENT_RATE) + 2)


def test_density_of_silence_is_zero() -> None:
    np.testing.assert_array_equal(curves.density([], 10, LATENT_RATE, 1.0), np.zeros(10))


# -- store


def test_labels_come_back_and_exact_ones_stay(tmp_path: Path) -> None:
    exact = TrackLabels(onsets=(0.1, 0.5), sources={"onsets": "MIDI"})
    store.write(tmp_path, "a", exact)
    assert store.read(tmp_path, "a") == exact
    assert store.read(tmp_path, "b") == TrackLabels()
    guess = TrackLabels(bpm=120.0, onsets=(9.0,), sources={"bpm": "librosa 1", "onsets": "librosa 1"})
    both = exact.updated(guess)
    assert (both.bpm, both.onsets) == (120.0, (0.1, 0.5))
    assert both.sources == {"bpm": "librosa 1", "onsets": "MIDI"}


def test_estimates_do_not_replace_what_a_file_says() -> None:
    mine = TrackLabels(bpm=85.0, sources={"bpm": "tempi.csv"})
    guess = TrackLabels(170.0, (0.1,), (0.0, 0.4), sources=dict.fromkeys(("bpm", "onsets", "beats"), "librosa 1"))
    assert mine.updated(guess).bpm == 85.0
    assert mine.updated(guess).onsets == (0.1,)
    assert guess.updated(mine).bpm == 85.0
    exact = TrackLabels(bpm=120.0, sources={"bpm": "composed"})
    assert exact.updated(mine) == exact


def test_a_tempo_that_was_not_found_is_not_looked_for_again(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = []
    found = TrackLabels(None, (0.1,), sources={"bpm": "librosa 1", "onsets": "librosa 1"})
    monkeypatch.setattr(command, "with_librosa", lambda samples, *_: asked.append(len(samples)) or found)
    assert [label(corpus), label(corpus)] == [0, 0]
    assert len(asked) == 2  # tracks, once each
    one, two = (track.id for track in sorted(corpus.tracks, key=lambda track: track.title))
    assert store.read(corpus.folder, one) == found
    (tmp_path / "tempi.json").write_text('{"one": {"bpm": 133.3}, "two": {"bpm": null}}')
    assert label(corpus, "--with", tmp_path / "tempi.json") == 0
    assert store.read(corpus.folder, one).sources["bpm"] == "tempi.json"
    assert store.read(corpus.folder, two) == found  # a file that does not know has no say
    known = TrackLabels(120.0, sources={"bpm": "tempocnn"})
    assert known.updated(found) == TrackLabels(120.0, (0.1,), sources={"bpm": "tempocnn", "onsets": "librosa 1"})
    assert found.updated(known).bpm == 120.0


def test_beats_go_with_their_tempo() -> None:
    tracked = TrackLabels(128.0, None, (0.0, 0.46875), sources={"bpm": "librosa 1", "beats": "librosa 1"})
    other = tracked.updated(TrackLabels(85.0, sources={"bpm": "tempi.csv"}))
    assert (other.bpm, other.beats, other.sources) == (85.0, None, {"bpm": "tempi.csv"})
    nearly = tracked.updated(TrackLabels(127.5, sources={"bpm": "tempi.csv"}))
    assert (nearly.bpm, nearly.beats) == (127.5, tracked.beats)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"bpm": "fast", "sources": {}}', '{"onsets": 3, "sources": {}}'])
def test_damaged_labels_are_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.json").write_text(text)
    with pytest.raises(EverwaveError, match=r"a\.json: damaged"):
        store.read(tmp_path, "a")


# -- files


def test_csv_and_json_files_label_tracks_by_any_of_their_names(corpus: Corpus, tmp_path: Path) -> None:
    (tmp_path / "tempo.csv").write_text("file,bpm\nsomewhere/one.wav,133.3\n")
    assert label(corpus, "--with", tmp_path / "tempo.csv") == 0
    (tmp_path / "both.json").write_text(json.dumps({"two": {"bpm": 90, "onsets": [0.5, 0.1]}, "three": {"bpm": 1}}))
    assert label(corpus, "--with", tmp_path / "both.json") == 1  # `three` fits no track
    one, two = (store.read(corpus.folder, track.id) for track in sorted(corpus.tracks, key=lambda t: t.title))
    assert (one.bpm, one.onsets) == (133.3, None)
    assert (two.bpm, two.onsets) == (90.0, (0.1, 0.5))
    first, second = sorted(corpus.tracks, key=lambda t: t.title)
    assert track_labels(first, 1.0, 10, LATENT_RATE) == {"bpm": 133.3}
    given = track_labels(second, 1.0, 50, LATENT_RATE)
    assert given["bpm"] == 90.0
    density = given["density"]
    assert isinstance(density, list)
    assert (len(density), density[0] > 1, density[-1]) == (50, True, 0.0)


def test_onsets_of_a_file_are_those_of_the_track_without_its_silence(corpus: Corpus, tmp_path: Path, capsys) -> None:
    one, two = sorted(corpus.tracks, key=lambda t: t.title)
    later = replace(two, trimmed=3.0)
    write_manifest(corpus.folder, corpus.sample_rate, [one, later])
    onsets = [0.0, 2.95, 3.5, 23.05]  # the first one in the silence, two nearly within the track
    (tmp_path / "a.json").write_text(json.dumps({"two": {"onsets": onsets}, "one": {"bpm": 90, "onsets": [1, 20.5]}}))
    capsys.readouterr()
    assert label(corpus, "--with", tmp_path / "a.json") == 1
    said = capsys.readouterr()
    assert "1 tracks labelled" in said.out
    assert "one.wav: onset 20.5 is beyond its end, 20.0 s; mend it" in said.err
    assert store.read(corpus.folder, one.id) == TrackLabels()
    assert store.read(corpus.folder, two.id).onsets == pytest.approx((0.0, 0.5, 20.0), abs=0.001)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "name,bpm\nx,1\n", "needs `file`"),
        ("a.csv", "file,bpm\nx,fast\n", "line 2"),
        ("a.csv", "file,bpm\nx,-3\n", "greater than 0"),
        ("a.csv", "file,onset\nx,nan\n", "finite"),
        ("a.json", "[1]", "not of the form"),
        ("a.json", '{"x": {"tempo": 3}}', "tempo is no label"),
        ("a.json", '{"x": {"onsets": 3}}', "list of seconds"),
        ("a.json", "{", "Expecting"),
    ],
)
def test_labels_files_that_cannot_be_meant(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=message):
        files.read_file(tmp_path / name)


def test_a_labels_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"labels\.csv: cannot be read \(No such file or directory\); give a labels file"
    ):
        files.read_file(tmp_path / "labels.csv")


# -- estimates


@pytest.mark.parametrize("bpm", [90.5, 118.37, 133.3, 161.8])
def test_a_tempo_is_found_among_noise_and_dotted_notes(bpm: float) -> None:
    strength = 0.3 * np.random.default_rng(0).random(int(60 * estimate.FRAME_RATE))
    for every, weight in ((1.0, 1.0), (0.75, 0.4)):  # beats, and dotted eighths
        for beat in np.arange(0, 59, every * 60 / bpm) * estimate.FRAME_RATE:
            strength[int(beat)] += weight * (1 - beat % 1)
            strength[int(beat) + 1] += weight * (beat % 1)
    assert estimate.tempo(strength, (90, 180)) == pytest.approx(bpm, rel=0.001)


@pytest.mark.parametrize("tracked", [0.1, 0.35])
def test_beats_tracked_on_the_hats_are_moved_to_the_kicks(tracked: float) -> None:
    time = np.arange(10 * estimate.RATE) / estimate.RATE
    kick = np.sin(2 * np.pi * 55 * time) * np.exp(-12 * ((time - 0.1) % 0.5))
    hat = np.random.default_rng(0).standard_normal(len(time)) * np.exp(-12 * ((time - 0.35) % 0.5))
    beats = estimate.on_the_kick((kick + hat).astype(np.float32), np.arange(tracked, 9.9, 0.5))
    np.testing.assert_allclose(np.round((beats - 0.1) / 0.5) * 0.5 + 0.1, beats, atol=1e-9)


def test_without_onsets_or_time_there_is_no_tempo() -> None:
    assert estimate.tempo(np.ones(10000), (90, 180)) is None
    assert estimate.tempo(np.random.default_rng(0).random(300), (90, 180)) is None


def test_tempi_are_folded_into_the_range() -> None:
    assert [estimate.folded(bpm, (80, 180)) for bpm in (65, 80, 170, 300)] == [130, 80, 170, 150]


def test_librosa_hears_the_clicks(corpus: Corpus) -> None:
    pytest.importorskip("librosa", reason="the extra `label` is not installed")
    assert label(corpus) == 0
    found = store.read(corpus.folder, corpus.tracks[0].id)
    assert found.bpm == pytest.approx(60 / 0.45, rel=0.002)
    assert found.onsets is not None
    assert len(found.onsets) == pytest.approx(44, abs=2)
    np.testing.assert_allclose(np.diff(found.onsets)[1:], 0.45, atol=0.03)  # the noise begins: one more
    assert found.beats is not None
    clicks = np.arange(0.1, 19.9, 0.45)
    assert np.abs(np.array(found.beats)[:, None] - clicks).min(axis=1)[2:-2].max() < 0.04


PROGRAM = """
import json, sys
print("loading", file=sys.stderr)
assert (sys.stdin.encoding, sys.stdin.errors) == ("utf-8", "surrogateescape")
for number, line in enumerate(sys.stdin):
    open(line.strip(), "rb").read(4) == b"RIFF" or sys.exit(1)
    print(json.dumps({"bpm": 66.5} if number else {"error": "too odd"}), flush=True)
"""


def test_external_programs_are_asked_track_by_track(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    tool = external.Tool("tempocnn", str(tmp_path / "program.py"), ("bpm",))
    monkeypatch.setitem(external.TOOLS, "tempocnn", tool)
    assert label(corpus, "--with", "tempocnn", "--python", sys.executable) == 1
    assert "too odd" in capsys.readouterr().err
    first, second = (store.read(corpus.folder, track.id) for track in corpus.tracks)
    assert (first.bpm, second.bpm) == (None, 133.0)
    assert second.sources == {"bpm": "tempocnn"}


@pytest.mark.parametrize("number", [errno.EPIPE, errno.EINVAL])
def test_an_external_program_that_has_ended_is_named(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However the system says that nobody reads what is sent to it: Windows says that an argument is invalid."""

    class Left(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data: object) -> int:
            raise OSError(number, os.strerror(number))

    started = external._started

    def ended(tool: external.Tool, python: Path) -> subprocess.Popen[str]:
        process = started(tool, python)
        process.stdin.close()
        process.stdin = io.TextIOWrapper(io.BufferedWriter(Left()))
        return process

    monkeypatch.setattr(external, "_started", ended)
    tool = external.Tool("tempocnn", os.devnull, ("bpm",))
    with pytest.raises(EverwaveError, match="tempocnn: its program ended"):
        next(external.answers(tool, Path(sys.executable), [(np.zeros((10, 2)), 44100)]))


def test_bad_use_is_explained(corpus: Corpus, capsys: pytest.CaptureFixture) -> None:
    for words, message in (
        (("--with", "magic"), "neither librosa"),
        (("--with", "madmom"), "needs --python"),
        (("--with", "madmom", "--python", "/no/python"), "cannot be run"),
        (("--with", "madmom", "--python", sys.executable), "its program ended"),
        (("--bpm-range", 100, 150), "octave"),
    ):
        assert label(corpus, *words) in (1, 2)
        assert message in capsys.readouterr().err
