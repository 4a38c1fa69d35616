"""The stored corpus: a manifest, and one int16 array (frames, 2) per track, read by memory mapping.

A corpus folder holds `manifest.json`, `ATTRIBUTION.md` and `tracks/<id>.npy`. Nothing here decodes audio, so training
reads crops at the speed of the page cache.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from everwave.errors import EverwaveError, UsageError

from ..files import whole

MANIFEST_VERSION = 1
SPLITS = ("train", "held-out")
FULL_SCALE = 32768.0


class CorpusError(EverwaveError):
    """A corpus folder is missing, damaged, or holds nothing that fits."""


@dataclass(frozen=True)
class Track:
    """One piece of music: what it is, whose it is, and where its samples lie."""

    id: str
    title: str
    package: str  # the Debian package, or the folder that the user named
    source: str  # path of the original inside its package or folder
    style: str
    licence: str
    author: str
    split: str  # "train" | "held-out"
    frames: int
    gain: float  # what the original was multiplied by; below 1 only where its peak passed full scale
    source_size: int  # bytes
    source_sha256: str
    folder: str = ""  # that the user named, as it lay then; empty for a package's, and in older manifests
    trimmed: float = 0.0  # seconds of silence that the original begins with; 0 in older manifests, where nobody knows
    sample_rate: int = field(default=44100, metadata={"corpus": True})
    path: Path = field(default=Path(), metadata={"corpus": True})

    @property
    def samples(self) -> np.ndarray:
        """The track as a read-only memory map: int16 (frames, 2)."""
        try:
            samples = np.load(self.path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise CorpusError(f"{self.path}: {error}; run `everwave-train corpus` again to rebuild it") from None
        if samples.dtype != np.int16 or samples.shape != (self.frames, 2):
            raise CorpusError(
                f"{self.path}: {samples.dtype} {samples.shape}, the manifest says int16 ({self.frames}, 2); "
                "run `everwave-train corpus` again to rebuild it"
            )
        return samples

    def excerpt(self, first: int, count: int) -> np.ndarray:
        """`count` frames from `first` on, fewer where the track ends: float32 (count, 2) in [-1, 1)."""
        return self.samples[first : first + count].astype(np.float32) / np.float32(FULL_SCALE)

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return self.frames / self.sample_rate

    @property
    def corpus(self) -> Path:
        """The folder of the corpus that it is in."""
        return self.path.parent.parent


# what the manifest keeps of a track; the rest belongs to the folder as a whole
_KEPT = tuple(f.name for f in fields(Track) if not f.metadata)


@dataclass(frozen=True)
class Corpus:
    """An opened corpus folder."""

    folder: Path
    sample_rate: int
    tracks: tuple[Track, ...]  # sorted by id

    @classmethod
    def open(cls, folder: str | os.PathLike) -> Corpus:
        """Read the manifest of `folder`. CorpusError if there is none or it is not ours."""
        folder = Path(folder)
        path = folder / "manifest.json"
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise CorpusError(f"{path}: not found; make a corpus with `everwave-train corpus -o {folder}`") from None
        except (OSError, ValueError) as error:
            raise CorpusError(f"{path}: {error}; delete it and run `everwave-train corpus` again") from None
        if not isinstance(manifest, dict) or manifest.get("version") != MANIFEST_VERSION:
            raise CorpusError(f"{path}: not a corpus manifest of version {MANIFEST_VERSION}; build it again")
        try:
            rate = int(manifest["sample_rate"])
            tracks = [_track(entry, folder, rate) for entry in manifest["tracks"]]
        except (KeyError, TypeError, ValueError) as error:
            raise CorpusError(f"{path}: a damaged entry ({error!r}); build it again") from None
        return cls(folder, rate, tuple(sorted(tracks, key=lambda track: track.id)))

    def summary(self) -> str:
        """Hours per split and style, in one line."""
        groups: dict[tuple[str, str], list[Track]] = {}
        for track in self.tracks:
            groups.setdefault((track.split, track.style), []).append(track)
        parts = [f"{split} {style} {hours(tracks):.2f} h" for (split, style), tracks in sorted(groups.items())]
        return ", ".join(parts) or "no tracks"


def _track(entry: dict, folder: Path, sample_rate: int) -> Track:
    entry = {"folder": "", "trimmed": 0.0} | entry
    track = Track(**{name: entry[name] for name in _KEPT}, sample_rate=sample_rate)
    if Path(track.id).name != track.id or track.split not in SPLITS:
        raise ValueError(f"id {track.id!r}, split {track.split!r}")
    return Track(**{**vars(track), "path": folder / "tracks" / f"{track.id}.npy"})


def select(folders: Sequence[Path], split: str | None = "train", styles: Sequence[str] | None = None) -> list[Track]:
    """The tracks of one split (None: both) of several corpora, of any of the styles (None: all), corpus by corpus.

    UsageError for a split that there is not, or a style that none of them has; CorpusError if no track is left.
    """
    if split is not None and split not in SPLITS:
        raise UsageError(f"split={split!r}: must be one of {', '.join(SPLITS)}, or None for both")
    corpora = [Corpus.open(folder) for folder in folders]
    known = {track.style for corpus in corpora for track in corpus.tracks}
    names = ", ".join(map(str, folders))
    for style in styles or ():
        if style not in known:
            raise UsageError(f"--styles {style}: there is only {', '.join(sorted(known)) or 'nothing'} in {names}")
    chosen = [
        t for c in corpora for t in c.tracks if split in (None, t.split) and (styles is None or t.style in styles)
    ]
    if not chosen:
        kind = " ".join(["no", *filter(None, [split]), "track", *(["of", " or ".join(styles)] if styles else [])])
        raise CorpusError(f"{names}: {kind}; build more of it")
    return chosen


def check_rate(tracks: Sequence[Track], sample_rate: int, model: object) -> None:
    """UsageError if a track's corpus is not at the rate of `model`."""
    for track in tracks:
        if track.sample_rate != sample_rate:
            raise UsageError(
                f"{track.corpus}: {track.sample_rate} Hz, but {model} works at {sample_rate} Hz; make the corpus at that rate"
            )


def write_manifest(folder: Path, sample_rate: int, tracks: Iterable[Track]) -> None:
    """Replace the folder's manifest in one step, so that a reader never sees half of it."""
    entries = [{name: value for name, value in asdict(track).items() if name in _KEPT} for track in tracks]
    entries.sort(key=lambda entry: entry["id"])
    manifest = {"version": MANIFEST_VERSION, "sample_rate": sample_rate, "tracks": entries}
    write_text(folder / "manifest.json", json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file in one step."""
    with whole(path) as file:
        file.write(text.encode())


def hours(tracks: Iterable[Track]) -> float:
    """Duration of the tracks together, in hours."""
    return sum(track.seconds for track in tracks) / 3600


def longest(tracks: Sequence[Track]) -> str:
    """How long the longest track is, for a message that it is too short."""
    return f"the longest has {max((t.seconds for t in tracks), default=0.0):.1f} s: add longer music to the corpus"


def sources(tracks: Sequence[Track]) -> dict[str, object]:
    """What a model card says of its data: packages, licences and hours."""
    return {
        "packages": sorted({track.package for track in tracks}),
        "licences": sorted({track.licence for track in tracks}),
        "hours": round(hours(tracks), 2),
    }


def fingerprint(facts: object) -> str:
    """SHA-256 of what JSON can hold, which tells whether it is the same later on."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def together(parts: Sequence[dict[str, Any]], hours: float) -> dict[str, object]:
    """`sources` of several sets of tracks, of `hours` in all, as those of one."""
    names = {key: sorted({name for part in parts for name in part.get(key, ())}) for key in ("packages", "licences")}
    return {**names, "hours": round(hours, 2)}


def random_crops(tracks: Sequence[Track], length: int, batch: int, seed: int, step: int) -> np.ndarray:
    """The crops of training step `step`: float32 (batch, length, 2) in [-1, 1).

    A pure function of its arguments, so training that resumes at a step sees what it would have seen. A track is drawn
    in proportion to its duration, the start evenly; what a track shorter than `length` lacks is zeros at its end.
    UsageError for an empty list, a length or batch below 1, or a negative seed or step.
    """
    if not tracks:
        raise UsageError("random_crops: no tracks to draw from; widen the selection")
    for name, value, least in (("length", length, 1), ("batch", batch, 1), ("seed", seed, 0), ("step", step, 0)):
        if value < least:
            raise UsageError(f"{name}={value}: must be at least {least}")
    random = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, step])))
    ends = np.cumsum([track.frames for track in tracks])
    chosen = np.searchsorted(ends, random.integers(ends[-1], size=batch), side="right")
    places = random.random(batch)
    crops = np.zeros((batch, length, 2), np.float32)
    for crop, index, place in zip(crops, chosen, places, strict=True):
        track = tracks[index]
        start = int(place * (max(track.frames - length, 0) + 1))
        piece = track.excerpt(start, length)
        crop[: len(piece)] = piece
    return crops
