"""The corpus: what goes in comes out, nothing is done twice, splits and crops are functions of their arguments."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from everwave.errors import AudioError, UsageError
from everwave_trainer import corpora
from everwave_trainer.corpora import build, debian
from everwave_trainer.corpora.store import Corpus, CorpusError, random_crops, select
from everwave_trainer.files import whole

RATE = 44100


def corpus_command(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    corpora.add_arguments(parser)
    return corpora.run(parser.parse_args([str(argument) for argument in arguments]))


def music(seconds: float, rate: int = RATE, channels: int = 2, seed: int = 0) -> np.ndarray:
    """A tone per channel under a little noise: float32 (frames, channels), never silent."""
    time = np.arange(int(seconds * rate))[:, None] / rate
    tones = 0.4 * np.sin(2 * np.pi * (220 + 110 * np.arange(channels)) * time)
    return (tones + 0.01 * np.random.default_rng(seed).standard_normal(tones.shape)).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four formats, rates and channel counts."""
    folder = tmp_path / "my music"
    (folder / "deeper").mkdir(parents=True)
    soundfile.write(folder / "stereo.wav", music(1.5), RATE, subtype="PCM_16")
    soundfile.write(folder / "mono.flac", music(1.0, channels=1), RATE)
    soundfile.write(folder / "deeper" / "48k.ogg", music(1.25, rate=48000), 48000)
    soundfile.write(folder / "four.aiff", music(0.5, channels=4), RATE)
    (folder / "notes.txt").write_text("not audio")
    return folder


@pytest.fixture
def built(folder: Path, tmp_path: Path) -> Corpus:
    assert corpus_command("--audio", folder, "-o", tmp_path / "out", "--hold-out", 0, "--style", "techno") == 0
    return Corpus.open(tmp_path / "out")


def by_title(corpus: Corpus) -> dict[str, corpora.Track]:
    return {track.title: track for track in corpus.tracks}


def test_sixteen_bit_samples_come_back_exactly(folder: Path, built: Corpus) -> None:
    original, _ = soundfile.read(folder / "stereo.wav", dtype="int16")
    np.testing.assert_array_equal(by_title(built)["stereo"].samples, original)


def test_mono_is_doubled_and_the_first_two_of_many_channels_are_taken(folder: Path, built: Corpus) -> None:
    mono, _ = soundfile.read(folder / "mono.flac", dtype="int16")
    four, _ = soundfile.read(folder / "four.aiff", dtype="int16")
    np.testing.assert_array_equal(by_title(built)["mono"].samples, np.stack([mono, mono], axis=1))
    np.testing.assert_array_equal(by_title(built)["four"].samples, four[:, :2])


def test_other_rates_are_resampled(built: Corpus) -> None:
    track = by_title(built)["48k"]
    assert track.seconds == pytest.approx(1.25, abs=2 / RATE)
    spectrum = np.abs(np.fft.rfft(track.samples.astype(float) * np.hanning(track.frames)[:, None], axis=0))
    np.testing.assert_allclose(spectrum.argmax(axis=0) * RATE / track.frames, [220, 330], atol=1)


def test_the_manifest_says_what_each_track_is(folder: Path, built: Corpus) -> None:
    track = by_title(built)["48k"]
    assert (track.package, track.source, track.style, track.split) == ("my music", "deeper/48k.ogg", "techno", "train")
    assert track.source_size == (folder / "deeper" / "48k.ogg").stat().st_size
    assert corpora.hours(built.tracks) * 3600 == pytest.approx(4.25, abs=0.01)
    assert "48k" in (built.folder / "ATTRIBUTION.md").read_text()
    assert not list((built.folder / "tracks").glob("*.partial"))


def test_an_excerpt_is_what_the_file_holds_and_ends_with_the_track(folder: Path, built: Corpus) -> None:
    track = by_title(built)["stereo"]
    for first, count, frames in ((0, 100, 100), (1000, 1, 1), (track.frames - 50, 100, 50), (track.frames, 100, 0)):
        excerpt = track.excerpt(first, count)
        assert (excerpt.shape, excerpt.dtype) == ((frames, 2), np.float32)
        np.testing.assert_array_equal(excerpt, track.samples[first : first + count] / 32768)


def test_what_the_lower_rate_cannot_hold_does_not_fold_back(tmp_path: Path) -> None:
    tone = 0.5 * np.sin(2 * np.pi * 23000 * np.arange(48000) / 48000)
    soundfile.write(tmp_path / "tone.wav", tone, 48000, subtype="FLOAT")
    samples = np.concatenate(list(build.stereo_blocks(tmp_path / "tone.wav", RATE)))
    assert samples.shape == (RATE, 2)
    assert np.abs(samples[1000:-1000]).max() < 1e-4


@pytest.mark.parametrize("ending", ["wav", "ogg"])
def test_a_file_that_breaks_off_is_refused(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    soundfile.write(path, music(4.0), RATE)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(AudioError, match="cut off"):
        list(build.stereo_blocks(path, RATE))


def test_long_tracks_are_stored_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "BLOCK_FRAMES", 1000)
    silence = np.zeros((2500, 2), np.float32)
    soundfile.write(tmp_path / "a.wav", np.concatenate([silence, music(0.5), silence]), RATE, subtype="PCM_16")
    assert corpus_command("--audio", tmp_path / "a.wav", "-o", tmp_path / "out") == 0
    (track,) = Corpus.open(tmp_path / "out").tracks
    expected, _ = soundfile.read(tmp_path / "a.wav", dtype="int16")
    sounding = np.flatnonzero(expected.any(axis=1))
    np.testing.assert_array_equal(track.samples, expected[sounding[0] : sounding[-1] + 1])


def test_peaks_over_full_scale_are_scaled_not_wrapped(tmp_path: Path) -> None:
    loud = 3 * music(0.5)
    soundfile.write(tmp_path / "loud.wav", loud, RATE, subtype="FLOAT")
    assert corpus_command("--audio", tmp_path / "loud.wav", "-o", tmp_path / "out") == 0
    (track,) = Corpus.open(tmp_path / "out").tracks
    assert track.gain == pytest.approx(1 / np.abs(loud).max())
    np.testing.assert_allclose(track.samples / 32768, loud * track.gain, atol=1.01 / 32768)


def test_a_drifting_offset_is_taken_out_and_the_music_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "BLOCK_FRAMES", 50_000)
    clean = 0.5 * music(4)
    drift = 0.3 * np.sin(2 * np.pi * 0.2 * np.arange(len(clean)) / RATE)[:, None]
    soundfile.write(tmp_path / "drifting.wav", clean + drift, RATE, subtype="FLOAT")
    assert corpus_command("--audio", tmp_path / "drifting.wav", "-o", tmp_path / "out") == 0
    (track,) = Corpus.open(tmp_path / "out").tracks
    seconds = track.samples[RATE : 3 * RATE].reshape(2, RATE, 2) / 32768
    assert np.abs(seconds.mean(axis=1)).max() < 0.001
    np.testing.assert_allclose(seconds.std(axis=1), clean.std(), rtol=0.01)


def test_a_second_run_decodes_only_what_is_new(folder: Path, built: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    soundfile.write(folder / "new.wav", music(0.5), RATE)
    decoded: list[str] = []
    store = build.store
    monkeypatch.setattr(build, "store", lambda source, *rest: decoded.append(source.name) or store(source, *rest))
    assert corpus_command("--audio", folder, "-o", built.folder, "--hold-out", 0, "--style", "rock") == 0
    assert decoded == ["new.wav"]
    corpus = Corpus.open(built.folder)
    assert len(corpus.tracks) == 5
    assert {track.style for track in corpus.tracks} == {"rock"}  # the descriptions follow the command


def test_a_file_that_cannot_be_replaced_leaves_the_finished_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:  # as Windows does while somebody has it open
        raise PermissionError(13, "Access is denied")

    path = tmp_path / "checkpoint.npz"
    path.write_bytes(b"old")
    monkeypatch.setattr(Path, "replace", refused)
    for _ in range(2):  # what lies there from the last time is no hindrance
        with pytest.raises(AudioError, match=r"checkpoint\.npz: cannot be replaced .* is \S+checkpoint\.partial, move it"), whole(path) as file:  # fmt: skip
            file.write(b"new")
    assert path.read_bytes() == b"old"
    assert path.with_suffix(".partial").read_bytes() == b"new"


def test_an_interrupted_run_goes_on(folder: Path, built: Corpus) -> None:
    whole = {path.name: path.read_bytes() for path in built.folder.rglob("*.npy")}
    lost = built.tracks[0]
    lost.path.unlink()
    lost.path.with_suffix(".partial").write_bytes(b"half")
    assert corpus_command("--audio", folder, "-o", built.folder, "--hold-out", 0, "--style", "techno") == 0
    assert Corpus.open(built.folder).tracks == built.tracks
    assert {path.name: path.read_bytes() for path in built.folder.rglob("*.npy")} == whole
    assert not list(built.folder.rglob("*.partial"))


def test_a_changed_file_is_taken_in_again(folder: Path, built: Corpus) -> None:
    soundfile.write(folder / "mono.flac", music(2.0, channels=1), RATE)
    assert corpus_command("--audio", folder, "-o", built.folder) == 0
    assert by_title(Corpus.open(built.folder))["mono"].seconds == pytest.approx(2)


def test_bad_files_are_reported_skipped_and_told_by_the_exit_code(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "text.ogg").write_text("this is no Ogg")
    (folder / "empty.wav").write_bytes(b"")
    soundfile.write(folder / "silent.wav", np.zeros((RATE, 2)), RATE)
    soundfile.write(folder / "nan.wav", np.full((RATE, 2), np.nan), RATE, subtype="FLOAT")
    assert corpus_command("--audio", folder, "-o", tmp_path / "out") == 1
    errors = capsys.readouterr().err
    assert all(name in errors for name in ("text.ogg", "empty.wav", "silent.wav", "nan.wav"))
    assert "4 skipped" in errors
    assert len(Corpus.open(tmp_path / "out").tracks) == 4


def test_a_truncated_file_is_an_error_and_no_track(folder: Path, tmp_path: Path) -> None:
    whole = (folder / "mono.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(whole[: len(whole) // 2])
    code = corpus_command("--audio", tmp_path / "cut.flac", "-o", tmp_path / "out")
    assert (code, len(Corpus.open(tmp_path / "out").tracks)) == (1, 0)


def test_the_split_follows_the_file_name_alone() -> None:
    names = [f"track {number}.flac" for number in range(1000)]
    held = {name for name in names if corpora.held_out(name, 0.2)}
    assert 150 < len(held) < 250
    assert corpora.chosen(names[:500], 0.2) == held & set(names[:500])  # whichever others there are
    assert held <= {name for name in names if corpora.held_out(name, 0.3)}
    assert not any(corpora.held_out(name, 0) for name in names)
    assert all(corpora.held_out(name, 1) for name in names)


def test_equal_names_in_different_folders_are_different_tracks(tmp_path: Path) -> None:
    for seed, name in enumerate(("a", "b")):
        (tmp_path / "in" / name).mkdir(parents=True)
        soundfile.write(tmp_path / "in" / name / "same.wav", music(0.3, seed=seed), RATE)
    assert corpus_command("--audio", tmp_path / "in", "-o", tmp_path / "out") == 0
    assert len({track.id for track in Corpus.open(tmp_path / "out").tracks}) == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["--hold-out", "1.5"],
        ["--sample-rate", "100"],
        ["--jobs", "0"],
        ["--packages", "no-such-package"],
        ["--audio", "no such folder"],
    ],
)
def test_wrong_options_show_the_value(folder: Path, tmp_path: Path, arguments: list[str]) -> None:
    with pytest.raises(UsageError, match=arguments[1]):
        corpus_command("-o", tmp_path / "out", "--audio", folder, *arguments)
    assert not (tmp_path / "out").exists()


def test_the_output_folder_is_required_and_keeps_its_rate(built: Corpus, folder: Path) -> None:
    with pytest.raises(UsageError, match="-o FOLDER"):
        corpus_command("--audio", folder)
    with pytest.raises(UsageError, match="44100 Hz"):
        corpus_command("--audio", folder, "-o", built.folder, "--sample-rate", 22050)


def test_select_narrows_and_names_what_there_is(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert corpus_command("--audio", folder / "stereo.wav", "-o", out, "--style", "techno", "--hold-out", 0) == 0
    assert corpus_command("--audio", folder / "deeper", "-o", out, "--style", "ambient", "--hold-out", 1) == 0
    assert [track.title for track in select([out])] == ["stereo"]
    assert [track.title for track in select([out], "held-out", styles=["ambient"])] == ["48k"]
    assert len(select([out], None)) == 2
    with pytest.raises(UsageError, match=r"polka.*ambient, techno"):
        select([out], styles=["polka"])
    with pytest.raises(UsageError, match="test"):
        select([out], "test")
    with pytest.raises(CorpusError, match="no train track of ambient; build more"):
        select([out], "train", styles=["ambient"])


def test_a_damaged_corpus_is_one_clear_error(built: Corpus, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="not found"):
        Corpus.open(tmp_path / "nowhere")
    path = built.tracks[0].path
    np.save(path, np.zeros((5, 2), np.int16))
    with pytest.raises(CorpusError, match="manifest says"):
        _ = built.tracks[0].samples
    path.write_bytes(b"\x93NUMPY")
    with pytest.raises(CorpusError, match="rebuild"):
        _ = built.tracks[0].samples
    manifest = built.folder / "manifest.json"
    entries = json.loads(manifest.read_text())
    entries["tracks"][0]["id"] = "../../etc/passwd"
    for text in (
        json.dumps(entries),
        "{",
        "[]",
        '{"version": 99}',
        '{"version": 1, "sample_rate": 44100, "tracks": [{}]}',
    ):
        manifest.write_text(text)
        with pytest.raises(CorpusError):
            Corpus.open(built.folder)


def test_crops_are_a_function_of_seed_and_step(built: Corpus) -> None:
    tracks = select([built.folder])
    crops = random_crops(tracks, 4096, 8, seed=3, step=70)
    assert (crops.shape, crops.dtype) == ((8, 4096, 2), np.float32)
    assert 0.1 < np.abs(crops).max() <= 1
    np.testing.assert_array_equal(crops, random_crops(tracks, 4096, 8, seed=3, step=70))
    assert not np.array_equal(crops, random_crops(tracks, 4096, 8, seed=3, step=71))
    assert not np.array_equal(crops, random_crops(tracks, 4096, 8, seed=4, step=70))


def test_crops_weigh_tracks_by_duration_and_reach_both_ends(tmp_path: Path) -> None:
    for name, frames, value in (("long", 3000, 0.25), ("short", 1000, 0.5)):
        soundfile.write(tmp_path / f"{name}.wav", np.full((frames, 2), value), RATE, subtype="PCM_16")
    assert corpus_command("--audio", tmp_path, "-o", tmp_path / "out", "--hold-out", 0) == 0
    tracks = select([tmp_path / "out"])
    crops = random_crops(tracks, 1000, 800, seed=0, step=0)
    assert np.mean(crops[:, 0, 0] == 0.25) == pytest.approx(0.75, abs=0.06)
    longer = random_crops(tracks, 2000, 50, seed=0, step=0)
    padded = longer[longer[:, 0, 0] == 0.5]
    assert len(padded)
    assert (padded[:, :1000] == 0.5).all()
    assert (padded[:, 1000:] == 0).all()
    pair = random_crops(tracks, 2999, 200, seed=0, step=0)
    assert len(pair) == 200  # starts 0 and 1 are both allowed


def test_crops_refuse_what_makes_no_sense(built: Corpus) -> None:
    with pytest.raises(UsageError, match="no tracks"):
        random_crops([], 10, 1, 0, 0)
    for length, batch, seed, step in ((0, 1, 0, 0), (10, 0, 0, 0), (10, 1, -1, 0), (10, 1, 0, -1)):
        with pytest.raises(UsageError, match="at least"):
            random_crops(built.tracks, length, batch, seed, step)


def test_two_songs_that_would_be_one_track_are_refused(tmp_path: Path) -> None:
    for seed, album in enumerate(("A", "B")):
        (tmp_path / album / "CD1").mkdir(parents=True)
        soundfile.write(tmp_path / album / "CD1" / "song.wav", music(1.0, seed=seed), RATE)
    folders = [tmp_path / album / "CD1" for album in ("A", "B")]
    with pytest.raises(
        UsageError, match=r"B/CD1/song\.wav and .*A/CD1/song\.wav: both are 'song\.wav' of a folder 'CD1'"
    ):
        corpus_command("--audio", *folders, "-o", tmp_path / "out")
    assert corpus_command("--audio", tmp_path / "A", tmp_path / "B", "-o", tmp_path / "out", "--hold-out", 0) == 0
    assert len(Corpus.open(tmp_path / "out").tracks) == 2


def test_music_of_a_folder_that_is_called_alike_replaces_none(tmp_path: Path) -> None:
    first, second, moved = (tmp_path / name / "music" for name in ("one", "two", "three"))
    out = tmp_path / "out"

    def build(folder: Path) -> int:
        return corpus_command("--audio", folder, "--hold-out", 0, "-o", out)

    for folder, seed in ((first, 1), (second, 2)):
        folder.mkdir(parents=True)
        soundfile.write(folder / "song.wav", music(0.5, seed=seed), RATE)
    assert build(first) == 0
    (track,) = Corpus.open(out).tracks
    labels = out / "labels" / f"{track.id}.json"
    labels.parent.mkdir()
    labels.write_text('{"bpm": 120.0, "sources": {"bpm": "me.csv"}}')
    with pytest.raises(
        UsageError, match=r"two/music/song\.wav: .*out has another 'song\.wav', of .*one/music; call one"
    ):
        build(second)
    assert Corpus.open(out).tracks == (track,)
    assert labels.exists()
    moved.parent.mkdir()
    first.rename(moved)
    assert build(moved) == 0  # the same music wherever it lies
    assert Corpus.open(out).tracks == (replace(track, folder=str(moved)),)
    assert labels.exists()
    soundfile.write(moved / "song.wav", music(0.5, seed=3), RATE)
    assert build(moved) == 0  # that has changed
    (changed,) = Corpus.open(out).tracks
    assert changed.source_sha256 != track.source_sha256
    with pytest.raises(UsageError, match=r"if that one was moved, remove .*\.npy"):
        build(second)
    changed.path.unlink()
    assert build(second) == 0
    assert [t.folder for t in Corpus.open(out).tracks] == [str(second)]


def test_a_manifest_of_before_folders_were_noted_is_read(folder: Path, built: Corpus) -> None:
    manifest = built.folder / "manifest.json"
    data = json.loads(manifest.read_text())
    for entry in data["tracks"]:
        assert entry.pop("folder") == str(folder)
        del entry["trimmed"]
    manifest.write_text(json.dumps(data))
    old = Corpus.open(built.folder).tracks
    assert old == tuple(replace(track, folder="", trimmed=0.0) for track in built.tracks)
    assert corpus_command("--audio", folder, "-o", built.folder, "--hold-out", 0, "--style", "techno") == 0
    assert Corpus.open(built.folder).tracks == built.tracks


def test_the_same_song_under_another_name_is_no_other_track(
    folder: Path, built: Corpus, capsys: pytest.CaptureFixture
) -> None:
    """Or it could be trained on and held out."""
    copy = folder / "again.wav"
    shutil.copyfile(folder / "stereo.wav", copy)

    def build() -> str:
        assert corpus_command("--audio", folder, "-o", built.folder, "--hold-out", 0, "--style", "techno") == 0
        return capsys.readouterr().err

    for _ in range(2):
        assert build() == "my music/again.wav: same as my music/stereo.wav; skipped\n"
        assert Corpus.open(built.folder).tracks == built.tracks
    by_title(built)["stereo"].path.unlink()  # as after an interruption: the one that was there comes back
    build()
    assert Corpus.open(built.folder).tracks == built.tracks
    soundfile.write(folder / "stereo.wav", music(1.0, seed=7), RATE)  # which has changed, so the copy is the only one
    assert build() == ""
    assert by_title(Corpus.open(built.folder)).keys() == {"stereo", "mono", "48k", "four", "again"}
    copy.write_bytes((folder / "mono.flac").read_bytes())  # and now it is another one's
    assert "same as my music/mono.flac; skipped" in build()
    corpus = Corpus.open(built.folder)
    assert by_title(corpus).keys() == {"stereo", "mono", "48k", "four"}
    assert {track.path for track in corpus.tracks} == set((built.folder / "tracks").iterdir())


def test_what_was_said_of_a_track_stays_until_something_else_is_said(folder: Path, tmp_path: Path) -> None:
    def build(*words: object) -> set[tuple[str, str]]:
        assert corpus_command("--audio", folder, "-o", tmp_path / "out", *words) == 0
        return {(track.style, track.licence) for track in Corpus.open(tmp_path / "out").tracks}

    assert build("--style", "techno", "--licence", "MIT") == {("techno", "MIT")}
    soundfile.write(folder / "mono.flac", music(1.0, channels=1, seed=3), RATE)
    assert build() == {("techno", "MIT")}
    assert build("--licence", "CC0-1.0") == {("techno", "CC0-1.0")}
    soundfile.write(folder / "new.flac", music(1.0, channels=1, seed=4), RATE)
    assert build() == {("techno", "CC0-1.0"), ("other", "not stated")}


def test_a_track_knows_how_long_its_original_was_silent(tmp_path: Path) -> None:
    silence = np.zeros((RATE // 2, 2), np.float32)
    soundfile.write(tmp_path / "a.wav", np.concatenate([silence, music(0.5), silence]), RATE, subtype="PCM_16")
    for _ in range(2):  # built, and described again
        assert corpus_command("--audio", tmp_path / "a.wav", "-o", tmp_path / "out") == 0
        (track,) = Corpus.open(tmp_path / "out").tracks
        assert track.trimmed == pytest.approx(0.5, abs=0.001)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems take no such names")
def test_names_that_are_no_text_are_spelled(folder: Path, tmp_path: Path) -> None:
    """Bytes that are no UTF-8, as old archives have them, in the names of a file and of its folder."""
    odd = tmp_path / os.fsdecode(b"m\xfcsik")
    folder.rename(odd)
    (odd / "stereo.wav").rename(odd / os.fsdecode(b"caf\xe9.wav"))
    assert corpus_command("--audio", odd, "-o", tmp_path / "out") == 0
    corpus = Corpus.open(tmp_path / "out")
    assert {track.package for track in corpus.tracks} == {r"m\udcfcsik"}
    assert by_title(corpus)[r"caf\udce9"].source == r"caf\udce9.wav"
    assert r"caf\udce9.wav" in (corpus.folder / "ATTRIBUTION.md").read_text()
    stamps = [track.path.stat().st_mtime_ns for track in corpus.tracks]
    assert corpus_command("--audio", odd, "-o", tmp_path / "out") == 0
    assert [track.path.stat().st_mtime_ns for track in Corpus.open(tmp_path / "out").tracks] == stamps


def test_what_a_model_made_of_music_is_no_music(folder: Path) -> None:
    """Its samples, where its folder lies within that of the music."""
    output = folder / "mine"
    (output / "run" / "samples").mkdir(parents=True)
    soundfile.write(output / "run" / "samples" / "step0000007.flac", music(0.5), RATE)
    names = [source.name for source in corpora.own_sources([folder], 0.0, "other", "CC0-1.0", output)]
    assert sorted(names) == ["deeper/48k.ogg", "four.aiff", "mono.flac", "stereo.wav"]
    with pytest.raises(UsageError, match=r"no audio files .*, besides what lies in .*mine; known endings"):
        corpora.own_sources([output], 0.0, "other", "CC0-1.0", output)


def test_a_source_that_cannot_be_read_is_skipped(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (folder / "gone.wav").symlink_to("/proc/self/mem")
    assert corpus_command("--audio", folder, "-o", tmp_path / "out", "--hold-out", 0) == 1
    assert "skipped: " in (said := capsys.readouterr().err)
    assert "gone.wav: cannot be read" in said
    assert len(Corpus.open(tmp_path / "out").tracks) == 4


def test_unreadable_audio_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="missing"):
        list(build.stereo_blocks(tmp_path / "missing.wav", RATE))


# Debian packages


def test_the_table_is_sound() -> None:
    names = [package.name for package in debian.PACKAGES]
    assert len(names) == len(set(names))
    assert {package.name for package in debian.PACKAGES if package.held_out} == {
        "starfighter-data",
        "flare-game",
        "freecol",
        "titanion-data",
        "widelands-data",
    }
    for package in debian.PACKAGES:
        styles = {package.style, *(style for style, _ in package.styles)}
        assert styles <= {"techno", "ambient", "orchestral", "rock", "other"}
        assert package.licence
        assert package.author


def test_of_several_versions_the_latest_is_taken(tmp_path: Path) -> None:
    for version in ("1.9-1", "1.10-2", "1.10-1", "0.99+dfsg"):
        (tmp_path / f"tiny-music_{version}_all.deb").touch()
    assert debian.obtain("tiny-music", tmp_path).name == "tiny-music_1.10-2_all.deb"


def test_the_first_rule_that_names_a_file_decides() -> None:
    package = debian.Package(
        "p",
        "music",
        "CC0",
        "somebody",
        "other",
        styles=(("techno", "fast* The?End"), ("ambient", "*")),
        licences=(("CC-BY-4.0", "Anna", "fast1"),),
        omit="rain",
    )
    assert package.source(Path("x"), "a/fast1.ogg").style == "techno"
    assert package.source(Path("x"), "a/The End.ogg").style == "techno"
    assert package.source(Path("x"), "slow.ogg").style == "ambient"
    assert package.source(Path("x"), "fast1.ogg").author == "Anna"
    assert package.source(Path("x"), "fast2.ogg").author == "somebody"
    assert not package.takes("rain.ogg")
    assert not package.takes("fast1.txt")
    inside = replace(package, archive="all.zip", within="audio/music")
    names = ("audio/music/fast1.ogg", "audio/music/rain.ogg", "audio/music_old/fast1.ogg", "fast1.ogg")
    assert [inside.takes(name) for name in names] == [True, False, False, False]


@pytest.fixture
def fake_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder with a .deb of two tracks in a zip, a sound effect among them, known to the table."""
    if shutil.which("dpkg-deb") is None:
        pytest.skip("dpkg-deb is not installed")
    root = tmp_path / "root"
    music_folder = root / "usr/share/games/tiny/music"
    music_folder.mkdir(parents=True)
    (root / "DEBIAN").mkdir()
    (root / "DEBIAN/control").write_text(
        "Package: tiny-music\nVersion: 1.0-1\nArchitecture: all\nMaintainer: Nobody <n@example.org>\nDescription: music\n"
    )
    with zipfile.ZipFile(music_folder / "all.pk3", "w") as archive:
        for name, seconds in (("one", 1.0), ("two", 0.8), ("click", 0.1)):
            soundfile.write(tmp_path / f"{name}.ogg", music(seconds), RATE)
            archive.write(tmp_path / f"{name}.ogg", f"sound/{name}.ogg")
    cache = tmp_path / "cache"
    cache.mkdir()
    command = ["dpkg-deb", "--root-owner-group", "-b", str(root), str(cache / "tiny-music_1.0-1_all.deb")]
    subprocess.run(command, check=True, capture_output=True)
    table = (
        debian.Package(
            "tiny-music",
            "games/tiny/music",
            "CC0-1.0",
            "Nobody",
            "techno",
            styles=(("rock", "two"),),
            archive="all.pk3",
        ),
    )
    monkeypatch.setattr(debian, "PACKAGES", table)
    monkeypatch.setattr(debian, "MINIMUM_SECONDS", 0.5)
    return cache


def test_a_package_becomes_tracks(fake_package: Path, tmp_path: Path) -> None:
    assert corpus_command("-o", tmp_path / "out", "--cache", fake_package) == 0
    corpus = Corpus.open(tmp_path / "out")
    assert {(track.title, track.style, track.split) for track in corpus.tracks} == {
        ("one", "techno", "train"),
        ("two", "rock", "train"),
    }
    assert "| sound/one.ogg | one | Nobody | CC0-1.0 | techno |" in (tmp_path / "out/ATTRIBUTION.md").read_text()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["ATTRIBUTION.md", "manifest.json", "tracks"]


def test_a_table_that_changes_takes_effect_without_decoding(
    fake_package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert corpus_command("-o", tmp_path / "out", "--cache", fake_package) == 0
    changed = (replace(debian.PACKAGES[0], omit="one", style="ambient", styles=(), held_out=True),)
    monkeypatch.setattr(debian, "PACKAGES", changed)
    monkeypatch.setattr(build, "store", lambda source, *rest: None if source.minimum_seconds else 1 / 0)
    assert corpus_command("-o", tmp_path / "out", "--cache", fake_package) == 0
    corpus = Corpus.open(tmp_path / "out")
    assert [(track.title, track.style, track.split) for track in corpus.tracks] == [("two", "ambient", "held-out")]
    assert len(list((tmp_path / "out/tracks").iterdir())) == 1


def test_a_damaged_package_is_skipped_and_told(
    fake_package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (deb,) = fake_package.iterdir()
    deb.write_bytes(deb.read_bytes()[:200])
    assert corpus_command("-o", tmp_path / "out", "--cache", fake_package) == 1
    assert "tiny-music" in capsys.readouterr().err


def test_of_a_few_files_one_is_held_out() -> None:
    names = [f"{i}.wav" for i in range(6)]
    kept = corpora.chosen(names, 0.01)
    assert len(kept) == 1  # by chance none would be
    assert corpora.chosen(names[::-1], 0.01) == kept
    assert kept <= corpora.chosen(names, 0.5) < set(names)
    assert not corpora.chosen(names, 0)
    assert not corpora.chosen(names[:3], 0.01)
    assert not corpora.chosen(names[:3], 0.9)  # all of them, perhaps
    assert len(corpora.chosen(names, 0.9999)) < len(names)
    assert corpora.chosen(names, 1) == set(names)


def test_folders_are_looked_through_as_encode_does(tmp_path: Path) -> None:
    for name in ("a.WAVE", "below/b.aifc", ".hidden/c.wav", ".d.wav"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, music(0.5), RATE, format="AIFF" if path.suffix == ".aifc" else "WAV")
    (tmp_path / "in" / "model.mat4").write_bytes(b"no audio")
    assert corpus_command("--audio", tmp_path / "in", "-o", tmp_path / "out") == 0
    assert sorted(track.source for track in Corpus.open(tmp_path / "out").tracks) == ["a.WAVE", "below/b.aifc"]
