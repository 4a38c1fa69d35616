"""Labels beside a corpus: one small JSON file per track, `labels/<track id>.json`, whoever made them.

{"bpm": 128.0, "onsets": [0.0, 0.117, ...], "beats": [0.0, 0.46875, ...], "sources": {"bpm": "composed", ...}}

Only `sources` must be there. Times are in seconds from the start of the stored track, rising.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from everwave.errors import EverwaveError

from ..corpora.store import write_text

EXACT = ("composed", "MIDI")  # sources that nothing replaces
# beginnings of sources that a labels file replaces, and not the other way
ESTIMATED = ("librosa", "tempocnn", "madmom")
SAME_TEMPO = 0.03  # beats go with a tempo that differs by less


@dataclass(frozen=True)
class TrackLabels:
    """What is known of one track: beats per minute, onsets and beats in seconds; None where unknown.

    `sources` says for each of these names who says so: "composed", "MIDI", "librosa 0.11.0", a labels file; and who was
    asked for one that is unknown.
    """

    bpm: float | None = None
    onsets: tuple[float, ...] | None = None
    beats: tuple[float, ...] | None = None
    sources: dict[str, str] = field(default_factory=dict)

    def updated(self, other: TrackLabels) -> TrackLabels:
        """These labels with what `other` knows; what is exact stays, and what a file says beside estimates.

        Beats do not stay beside another tempo than theirs.
        """
        names = ("bpm", "onsets", "beats")
        old = {name: getattr(self, name) for name in names}
        new = {
            name: getattr(other, name)
            for name, source in other.sources.items()
            # where nobody knows, it is noted who was asked, or that would be repeated for ever
            if (getattr(other, name) is not None or old[name] is None)
            and authority(source) >= authority(self.sources.get(name))
        }
        both = TrackLabels(**{**old, **new}, sources=self.sources | {name: other.sources[name] for name in new})
        if "beats" in new or not (self.bpm and both.bpm) or abs(both.bpm / self.bpm - 1) < SAME_TEMPO:
            return both
        sources = {name: source for name, source in both.sources.items() if name != "beats"}
        return replace(both, beats=None, sources=sources)


def authority(source: str | None) -> int:
    """How far the source of a label is believed: 3 exact, 2 a labels file, 1 an estimate, 0 none."""
    if source is None:
        return 0
    return 3 if source in EXACT else 1 if source.startswith(ESTIMATED) else 2


def read(corpus: Path, track: str) -> TrackLabels:
    """The labels of the track of this id, empty if it has none. EverwaveError if the file is damaged."""
    path = corpus / "labels" / f"{track}.json"
    try:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return TrackLabels(
            None if data.get("bpm") is None else float(data["bpm"]),
            _times(data.get("onsets")),
            _times(data.get("beats")),
            {str(name): str(source) for name, source in data["sources"].items()},
        )
    except FileNotFoundError:
        return TrackLabels()
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise EverwaveError(f"{path}: damaged ({error!r}); delete it and label the track again") from None


def _times(values: list[float] | None) -> tuple[float, ...] | None:
    return None if values is None else tuple(map(float, values))


def write(corpus: Path, track: str, labels: TrackLabels) -> None:
    """Write a track's labels in one step; times are kept to a tenth of a millisecond."""
    data: dict[str, Any] = {}
    if labels.bpm is not None:
        data["bpm"] = round(labels.bpm, 3)
    for name in ("onsets", "beats"):
        if (times := getattr(labels, name)) is not None:
            data[name] = [round(time, 4) for time in times]
    (corpus / "labels").mkdir(exist_ok=True)
    write_text(corpus / "labels" / f"{track}.json", json.dumps({**data, "sources": labels.sources}) + "\n")
