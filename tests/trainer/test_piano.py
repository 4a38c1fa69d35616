"""Piano from MIDI: notes are read as written, and each sounds on its own sample."""

from __future__ import annotations

import os
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from everwave_trainer import cli
from everwave_trainer.corpora.piano import midi, render
from everwave_trainer.corpora.piano.midi import MidiError, Note
from everwave_trainer.corpora.store import Corpus
from everwave_trainer.labels import store

RATE = 44100


def variable(value: int) -> bytes:
    groups = [value & 0x7F]
    while value := value >> 7:
        groups.append(value & 0x7F | 0x80)
    return bytes(reversed(groups))


def track(*events: tuple[int, bytes]) -> bytes:
    """A track chunk of (ticks since the last event, its bytes)."""
    body = b"".join(variable(delta) + data for delta, data in events) + b"\0\xff\x2f\0"
    return b"MTrk" + len(body).to_bytes(4, "big") + body


def text(kind: int, words: str) -> bytes:
    return bytes([0xFF, kind]) + variable(len(words)) + words.encode("latin-1")


def file(path: Path, *tracks: bytes, division: int = 480) -> Path:
    head = b"MThd" + (6).to_bytes(4, "big") + b"\0\1" + len(tracks).to_bytes(2, "big") + division.to_bytes(2, "big")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(head + b"".join(tracks))
    return path


def tempo(microseconds: int) -> bytes:
    return b"\xff\x51\3" + microseconds.to_bytes(3, "big")


def test_tempo_changes_apply_to_all_tracks_and_running_status_goes_on(tmp_path: Path) -> None:
    tempi = track((0, tempo(500_000)), (480, tempo(1_000_000)))
    notes = track((0, b"\x90\x3c\x40"), (480, b"\x3c\0"), (0, b"\x3e\x50"), (240, b"\x80\x3e\0"))
    path = file(tmp_path / "a.mid", tempi, notes)
    assert midi.read_notes(path) == [Note(0.0, 0.5, 60, 64), Note(0.5, 1.0, 62, 80)]


def test_the_pedal_holds_and_a_second_stroke_ends_the_first(tmp_path: Path) -> None:
    down, up = b"\xb0\x40\x7f", b"\xb0\x40\0"
    notes = track(
        (0, down), (0, b"\x90\x3c\x40"), (480, b"\x90\x3c\0"),  # released, but held
        (480, b"\x90\x3c\x41"), (480, up),  # struck again, still down when the pedal comes up
        (480, b"\x90\x3c\0"), (0, b"\x90\x40\x20"),  # never released
        (0, b"\x99\x24\x7f"), (480, b"\x99\x24\0"),  # a drum
    )  # fmt: skip
    found = midi.read_notes(file(tmp_path / "a.mid", notes))
    assert found == [Note(0.0, 1.0, 60, 64), Note(1.0, 2.0, 60, 65), Note(2.0, 2.5, 64, 32)]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"RIFF" + bytes(40), "MThd"),
        (b"MThd\0\0\0\6\0\1\0\1\xe7\x28", "film frames"),
        (b"MThd\0\0\0\6\0\1\0\1\1\xe0MTrk\0\0\0\4\0\x90\x3c", "not readable"),
        (b"MThd\0\0\0\6\0\1\0\1\1\xe0MTrk\0\0\0\4\0\xff\x2f\0", "no notes"),
        (b"", "MThd"),
    ],
)
def test_what_is_no_midi_is_one_line(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "a.mid").write_bytes(data)
    with pytest.raises(MidiError, match=message):
        midi.read_notes(tmp_path / "a.mid")


class Synth:
    """Stands in for tinysoundfont: each struck key is one sample of its velocity."""

    def __init__(self, samplerate: int) -> None:
        self.struck = 0.0

    def sfload(self, path: str, max_voices: int) -> int:
        return 0

    def program_select(self, *arguments: int) -> None: ...

    def sounds_off(self) -> None: ...

    def noteon(self, channel: int, key: int, velocity: int) -> None:
        self.struck += velocity / 127

    def noteoff(self, channel: int, key: int) -> None: ...

    def generate_simple(self, frames: int, buffer: memoryview) -> None:
        out = np.frombuffer(buffer, np.float32).reshape(frames, 2)
        out[0], self.struck = self.struck, 0.0


@pytest.fixture
def synth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tinysoundfont", types.SimpleNamespace(Synth=Synth))
    monkeypatch.setattr(render, "ROOM", 0.0)


def test_every_note_is_on_its_sample(synth: None) -> None:
    starts = np.sort(np.random.default_rng(0).uniform(0, 3, 40))
    notes = [Note(float(start), float(start) + 0.3, 60 + i, 100) for i, start in enumerate(starts)]
    played = render.Piano(Path("any.sf3"), RATE).play(notes)
    np.testing.assert_array_equal(np.flatnonzero(played[:, 0]), np.unique(np.round(starts * RATE)))
    assert np.abs(played).max() == pytest.approx(render.PEAK)


def test_a_folder_of_midi_becomes_tracks_with_onsets(synth: None, tmp_path: Path, capsys) -> None:
    names = text(3, "Étude"), text(2, "Copyright by Somebody")
    for i, name in enumerate(("A/one.mid", "A/two.mid", "B/three.midi")):
        first = (960, bytes([0x90, 0x3C, 0x40 + i]))  # so that no piece is another one's copy
        piece = track((0, names[0]), (0, names[1]), first, (480, b"\x3e\x40"), (480, b"\x3c\0"))
        file(tmp_path / "pieces" / name, piece)
    (tmp_path / "pieces" / "A" / "broken.mid").write_bytes(b"MThd")
    (tmp_path / "font.sf3").write_bytes(b"any")
    command = ["corpus", "--midi", tmp_path / "pieces", "--soundfont", tmp_path / "font.sf3", "-o", tmp_path / "out"]
    assert cli.main([*map(str, command), "--licence", "CC0-1.0"]) == 1  # one is broken
    assert "broken.mid" in capsys.readouterr().err
    corpus = Corpus.open(tmp_path / "out")
    assert {(t.title, t.style, t.licence) for t in corpus.tracks} == {("Étude", "piano", "CC0-1.0")}
    assert len(corpus.tracks) == 3
    first = corpus.tracks[0]
    assert first.author == "Copyright by Somebody; played on font.sf3"
    onsets = store.read(corpus.folder, first.id).onsets
    assert onsets == (0.1, 0.6)  # the silence before the first note is cut to a tenth of a second
    assert np.flatnonzero(first.samples[:, 0]).tolist() == [4410, 26460]
    stamps = [track.path.stat().st_mtime_ns for track in corpus.tracks]
    assert cli.main([*map(str, command), "--licence", "CC0-1.0"]) == 1
    assert [track.path.stat().st_mtime_ns for track in Corpus.open(tmp_path / "out").tracks] == stamps


@pytest.mark.skipif(sys.platform != "linux", reason="other systems take no such names")
def test_a_piece_that_can_no_longer_be_read_is_skipped(synth: None, tmp_path: Path, capsys) -> None:
    piece, other, third = (track((0, bytes([0x90, 0x3C, 0x40 + i])), (480, b"\x3c\0")) for i in range(3))
    odd = os.fsdecode(b"\xe9tude.mid")  # and a name that is no text
    file(tmp_path / "pieces" / "one.mid", piece)
    file(tmp_path / "pieces" / odd, other)
    (tmp_path / "font.sf3").write_bytes(b"any")
    command = ["corpus", "--midi", tmp_path / "pieces", "--soundfont", tmp_path / "font.sf3", "-o", tmp_path / "out"]
    assert cli.main([*map(str, command)]) == 0
    assert {t.source for t in Corpus.open(tmp_path / "out").tracks} == {"one.mid", r"\udce9tude.mid"}
    (tmp_path / "pieces" / "one.mid").unlink()
    (tmp_path / "pieces" / "one.mid").symlink_to("/proc/self/mem")
    file(tmp_path / "pieces" / "two.mid", third)
    assert cli.main([*map(str, command)]) == 1
    assert "one.mid: cannot be read" in capsys.readouterr().err
    assert len(Corpus.open(tmp_path / "out").tracks) == 3


def test_hold_out_is_by_whole_folders_and_by_pieces(synth: None, tmp_path: Path) -> None:
    for i, folder in enumerate("ABCD"):
        for number in range(6):
            piece = track((0, bytes([0x90, 0x3C, 0x20 + 6 * i + number])), (480, b"\x3c\0"))
            file(tmp_path / "pieces" / folder / f"{number}.mid", piece)
    (tmp_path / "font.sf3").write_bytes(b"any")
    command = ["corpus", "--midi", tmp_path / "pieces", "--soundfont", tmp_path / "font.sf3", "-o", tmp_path / "out"]
    assert cli.main([*map(str, command), "--hold-out", "0.9"]) == 0
    kept = {t.source for t in Corpus.open(tmp_path / "out").tracks if t.split == "held-out"}
    folders = {f"{folder}/{number}.mid" for folder in "ABCD" for number in range(6) if corpora_held_out(folder, 0.45)}
    pieces = {
        f"{folder}/{number}.mid" for folder in "ABCD" for number in range(6) if corpora_held_out(f"{number}.mid", 0.45)
    }
    assert kept == folders | pieces
    assert 0 < len(kept) < 24


def corpora_held_out(name: str, fraction: float) -> bool:
    from everwave_trainer.corpora import held_out

    return held_out(name, fraction)


def test_without_the_synthesiser_the_error_says_how_to_get_it(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "tinysoundfont", None)
    file(tmp_path / "a.mid", track((0, b"\x90\x3c\x40"), (480, b"\x3c\0")))
    (tmp_path / "font.sf3").write_bytes(b"any")
    command = ["corpus", "--midi", tmp_path, "--soundfont", tmp_path / "font.sf3", "-o", tmp_path / "out"]
    assert cli.main(list(map(str, command))) == 2
    assert "pip install --no-deps tinysoundfont" in capsys.readouterr().err


def test_real_piano_music_has_the_length_its_collection_states() -> None:
    path = Path(__file__).parents[3] / "shared/data/piano-midi/Chopin/chpn_op7_2.mid"
    if not path.exists():
        pytest.skip("the piano MIDI collection is not beside this checkout")
    notes = midi.read_notes(path)
    assert len(notes) == 1207
    assert max(note.end for note in notes) == pytest.approx(
        160.4, abs=1
    )  # its metadata.csv: 160.37 s, to the end of the file
    assert midi.texts(path)[1].endswith("by Bernd Krueger")
