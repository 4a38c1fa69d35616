"""Label the tracks of a corpus, one after the other; what is done is kept (`everwave-train label`)."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from everwave.errors import UsageError
from tqdm import tqdm

from ..corpora.store import Track, select
from . import external, files
from .estimate import with_librosa
from .store import authority, read, write


def label(
    corpus: Path, tool: str, python: Path | None, styles: Sequence[str] | None, bpm_range: tuple[float, float]
) -> int:
    """Label both splits of a corpus; returns the exit code: 0, or 1 if some tracks or entries were left over."""
    tracks = select([corpus], None, styles)
    if tool == "librosa":
        missing = _missing(corpus, tracks, "librosa", ("bpm", "onsets"))
        for track in tqdm(missing, unit="track", disable=None, leave=False):
            found = with_librosa(track.samples, track.sample_rate, bpm_range)
            write(corpus, track.id, read(corpus, track.id).updated(found))
        return 0
    if tool in external.TOOLS:
        if python is None:
            raise UsageError(f"--with {tool}: needs --python, the interpreter of the environment that holds it")
        missing = _missing(corpus, tracks, tool, external.TOOLS[tool].names)
        problems = external.run(external.TOOLS[tool], python, missing, corpus, bpm_range)
    else:
        problems = _from_file(Path(tool), corpus, tracks)
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def _missing(corpus: Path, tracks: Sequence[Track], tool: str, names: Sequence[str]) -> list[Track]:
    """The tracks that the tool has not labelled yet; what it could not replace counts as done."""

    def done(track: Track) -> bool:
        sources = read(corpus, track.id).sources
        return all(sources.get(name, "").startswith(tool) or authority(sources.get(name)) > 1 for name in names)

    return [track for track in tracks if not done(track)]


def _from_file(path: Path, corpus: Path, tracks: Sequence[Track]) -> list[str]:
    if not path.is_file():
        raise UsageError(f"--with {path}: neither librosa, tempocnn or madmom, nor a labels file")
    found, lost = files.match(files.read_file(path), tracks)
    problems = [f"{path}: {name}: fits no track, or several; use the track's id" for name in lost]
    refused = 0
    for track in (track for track in tracks if track.id in found):
        try:
            labels = files.placed(path, found[track.id], track)
        except UsageError as error:
            problems.append(str(error))
            refused += 1
        else:
            write(corpus, track.id, read(corpus, track.id).updated(labels))
    print(f"{len(found) - refused} tracks labelled from {path}")
    return problems
