"""Tracks of piano for a corpus, with their onsets (`everwave-train corpus --midi FOLDER --soundfont FILE`)."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from everwave.errors import AudioError, UsageError
from everwave.weights import digest

from ...labels.store import TrackLabels
from ...labels.store import write as write_labels
from ..build import Builder, Source, write_samples
from ..debian import PackageError, obtain, unpack
from ..store import Track
from .midi import MidiError, read_notes
from .render import Piano

SOUNDFONT = "MuseScore General (MIT)"
SOUNDFONT_PACKAGE = "musescore-general-soundfont"
SOUNDFONT_FOLDER = "usr/share/sounds/sf3"


def add_piano(builder: Builder, sources: list[Source], soundfont: Path | None, cache: Path) -> None:
    """Play the MIDI files `sources`; those that are there already are kept.

    In an order that is shuffled, always in the same way: what an interrupted run has done is spread over all pieces.
    Without `soundfont` it is Debian's, from the .deb in `cache`, downloaded if absent.
    """
    if not (missing := builder.missing(sources)):
        return
    with tempfile.TemporaryDirectory() as scratch:
        path = soundfont or _debian_soundfont(cache, Path(scratch))
        if not path.is_file():
            raise UsageError(f"--soundfont {path}: no such file")
        piano = Piano(path, builder.sample_rate)
        missing.sort(key=lambda source: hashlib.sha256(source.name.encode()).digest())
        builder.make(_tasks(missing, piano, builder.folder))


def _debian_soundfont(cache: Path, scratch: Path) -> Path:
    unpack(obtain(SOUNDFONT_PACKAGE, cache), scratch)
    found = sorted((scratch / SOUNDFONT_FOLDER).glob("*.sf3"))
    if not found:
        raise PackageError(f"{SOUNDFONT_PACKAGE}: holds no {SOUNDFONT_FOLDER}/*.sf3; name one with --soundfont")
    return found[0]


def _tasks(sources: list[Source], piano: Piano, folder: Path) -> Iterator[Callable[[], Track]]:
    for source in sources:
        yield partial(_make, source, piano, folder)


def _make(source: Source, piano: Piano, folder: Path) -> Track:
    """Play one file, write it and its onsets."""
    try:
        notes = read_notes(source.path)
    except MidiError as error:
        raise AudioError(str(error)) from None  # noted as skipped, like audio that cannot be read
    # what lies before the first note is silence; a tenth of a second of it stays
    shift = max(notes[0].start - 0.1, 0.0)
    notes = [replace(note, start=note.start - shift, end=note.end - shift) for note in notes]
    samples = piano.play(notes)
    path = folder / "tracks" / f"{source.id}.npy"
    write_samples(path, samples)
    onsets = tuple(sorted({note.start for note in notes}))
    write_labels(folder, source.id, TrackLabels(onsets=onsets, sources={"onsets": "MIDI"}))
    size, sha256 = source.path.stat().st_size, digest(source.path)
    return source.describe(len(samples), 1.0, size, sha256, piano.sample_rate, path, shift)
