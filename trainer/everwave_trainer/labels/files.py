"""Labels from a file that any tool can write.

CSV: a header line, then one line per fact, with the columns `file` and `bpm`, or `file` and `onset` (one line per
onset, in seconds). JSON: {"song.wav": {"bpm": 128, "onsets": [0.1, 0.6]}, ...}. A file is a track's name in the corpus:
its id, its title, or the path or name of its original.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from everwave.errors import UsageError

from ..corpora.store import Track
from .store import TrackLabels

NEARLY = 0.1  # seconds by which an onset may lie outside of its track, and is taken for one at its end


def read_file(path: Path) -> dict[str, TrackLabels]:
    """The labels in a CSV or JSON file, by the names it uses. UsageError, with the line, for what it cannot mean."""
    try:
        entries = _json(path) if path.suffix.lower() == ".json" else _csv(path)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); give a labels file that can") from None
    except (ValueError, csv.Error) as error:
        raise UsageError(f"{path}: {error}; mend it, or give another labels file") from None
    return {name: _checked(path, name, entry) for name, entry in entries.items()}


def _json(path: Path) -> dict[str, dict]:
    data = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(data, dict) or not all(isinstance(entry, dict) for entry in data.values()):
        raise ValueError('not of the form {"song.wav": {"bpm": 128, "onsets": [0.1, 0.6]}}')
    return data


def _csv(path: Path) -> dict[str, dict]:
    entries: dict[str, dict] = {}
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        columns = set(reader.fieldnames or ())
        if "file" not in columns or not columns & {"bpm", "onset"}:
            raise ValueError(f"columns {', '.join(reader.fieldnames or ())}: needs `file` and `bpm` or `onset`")
        for row in reader:
            if not row["file"]:
                raise ValueError(f"line {reader.line_num}: names no file")
            entry = entries.setdefault(row["file"], {})
            try:
                if row.get("bpm"):
                    entry["bpm"] = float(row["bpm"])
                if row.get("onset"):
                    entry.setdefault("onsets", []).append(float(row["onset"]))
            except ValueError as error:
                raise ValueError(f"line {reader.line_num}: {error}") from None
    return entries


def _checked(path: Path, name: str, entry: dict) -> TrackLabels:
    unknown = set(entry) - {"bpm", "onsets"}
    if unknown:
        raise UsageError(f"{path}: {name}: {', '.join(sorted(unknown))} is no label; known are bpm and onsets")
    bpm, onsets = entry.get("bpm"), entry.get("onsets")
    try:
        bpm = None if bpm is None else float(bpm)
        onsets = None if onsets is None else tuple(sorted(map(float, onsets)))
    except (TypeError, ValueError) as error:
        raise UsageError(f"{path}: {name}: {error}; bpm is a number, onsets a list of seconds") from None
    if bpm is not None and not 0 < bpm < math.inf:
        raise UsageError(f"{path}: {name}: bpm {bpm}, must be greater than 0")
    if onsets and not (onsets[0] >= 0 and math.isfinite(sum(onsets))):
        raise UsageError(f"{path}: {name}: onsets must be finite and not negative, in seconds")
    said = [label for label, value in (("bpm", bpm), ("onsets", onsets)) if value is not None]
    return TrackLabels(bpm, onsets, sources=dict.fromkeys(said, path.name))


def placed(path: Path, labels: TrackLabels, track: Track) -> TrackLabels:
    """The labels in `path` of a track's original as those of the track, which begins after the silence of that.

    What was heard in that silence is left out; UsageError for an onset beyond the track's end.
    """
    if labels.onsets is None:
        return labels
    onsets = [onset - track.trimmed for onset in labels.onsets]
    if onsets and onsets[-1] > track.seconds + NEARLY:
        raise UsageError(
            f"{path}: {track.source}: onset {labels.onsets[-1]:g} is beyond its end, {track.trimmed + track.seconds:.1f} s;"
            " mend it, or name the track that it is of"
        )
    within = (min(max(onset, 0.0), track.seconds) for onset in onsets if onset >= -NEARLY)
    return replace(labels, onsets=tuple(within))


def match(labels: dict[str, TrackLabels], tracks: Sequence[Track]) -> tuple[dict[str, TrackLabels], list[str]]:
    """Labels by track id, and the names that fit no track or more than one."""
    ids: dict[str, set[str]] = {}
    for track in tracks:
        source = PurePosixPath(track.source)
        for name in {track.id, track.title, track.source, source.name, source.stem}:
            ids.setdefault(name, set()).add(track.id)
    found: dict[str, TrackLabels] = {}
    lost = []
    for name, entry in labels.items():
        fitting = ids.get(name) or ids.get(PurePosixPath(name).name) or set()
        if len(fitting) == 1:
            found[next(iter(fitting))] = entry
        else:
            lost.append(name)
    return found, lost
