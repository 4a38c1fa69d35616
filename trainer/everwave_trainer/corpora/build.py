"""From audio files of any kind to the stored corpus: decode, resample once, quantise, trim, describe."""

from __future__ import annotations

import hashlib
import math
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
from everwave import audio
from everwave.errors import AudioError, UsageError
from everwave.files import checked_folder
from everwave.resampling import Resampler
from everwave.wav import quantise
from everwave.weights import digest

from ..files import whole
from .store import FULL_SCALE, Corpus, CorpusError, Track, hours, write_manifest, write_text

BLOCK_FRAMES = 1 << 20  # decoded at a time: bounds the memory, whatever the length of a track
OFFSET_LIMIT = 0.01  # of full scale, over a second: more is no bass note but a drifting direct-current offset
HIGH_PASS_HZ = 10.0  # takes such an offset out
SAVE_SECONDS = 2.0  # a manifest of thousands of tracks is not rewritten after each


@dataclass(frozen=True)
class Source:
    """One file to take in. `name` is its path inside its package or folder, in printable characters; `path` is where it lies now."""

    path: Path
    name: str
    package: str
    style: str
    licence: str
    author: str
    split: str
    title: str = ""  # where the file's own tags have none; else its name
    minimum_seconds: float = 0.0  # shorter files are no music; left out without a complaint
    folder: str = ""  # that the user named, where it lies now
    unsaid: frozenset[str] = frozenset()  # of style, licence and split: usual ones, which replace none that a track has

    @property
    def id(self) -> str:
        """A file name that is readable, safe on any system, and differs where (package, name) differs."""
        readable = re.sub(r"[^a-z0-9]+", "-", Path(self.name).stem.lower()).strip("-")[:60]
        digest = hashlib.sha256(f"{self.package}\0{self.name}".encode()).hexdigest()[:8]
        return f"{self.package_slug}--{readable}-{digest}"

    @property
    def package_slug(self) -> str:
        """The package's name as part of a file name."""
        return re.sub(r"[^A-Za-z0-9.+]+", "-", self.package).strip("-.") or "audio"

    def describe(
        self, frames: int, gain: float, size: int, sha256: str, sample_rate: int, path: Path, trimmed: float = 0.0
    ) -> Track:
        """The track that this file became; its own tags, where it has them, say its title and author."""
        title, artist = tags(self.path)
        return Track(
            id=self.id,
            title=title or self.title or Path(self.name).stem.replace("_", " "),
            package=self.package,
            source=self.name,
            style=self.style,
            licence=self.licence,
            author=artist or self.author,
            split=self.split,
            frames=frames,
            gain=gain,
            source_size=size,
            source_sha256=sha256,
            folder=self.folder,
            trimmed=trimmed,
            sample_rate=sample_rate,
            path=path,
        )


@dataclass
class Builder:
    """Adds files to the corpus in `folder`; tracks that are already there are described anew but not decoded again."""

    folder: Path
    sample_rate: int = 44100
    jobs: int = 1
    tracks: dict[str, Track] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)  # one line for each file that was skipped
    copies: list[str] = field(default_factory=list)  # one line for each file that is another one's copy
    _saved: float = 0.0

    def __post_init__(self) -> None:
        if not 8000 <= self.sample_rate <= 192000:
            raise UsageError(f"--sample-rate {self.sample_rate}: must be 8000 to 192000 Hz")
        if self.jobs < 1:
            raise UsageError(f"--jobs {self.jobs}: must be at least 1")
        (checked_folder(self.folder) / "tracks").mkdir(parents=True, exist_ok=True)
        if (self.folder / "manifest.json").exists():
            corpus = Corpus.open(self.folder)
            if corpus.sample_rate != self.sample_rate:
                raise UsageError(
                    f"--sample-rate {self.sample_rate}: {self.folder} is at {corpus.sample_rate} Hz; choose another folder"
                )
            self.tracks = {track.id: track for track in corpus.tracks}

    def add(self, sources: Iterable[Source]) -> None:
        """Take in files, up to `jobs` at a time; files that cannot be used are noted in `problems`."""
        sources = list(sources)
        _check_names(sources)
        self.make(partial(store, source, self.folder, self.sample_rate) for source in self.missing(sources))

    def missing(self, sources: Iterable[Source]) -> list[Source]:
        """Those of `sources` that are not there already, as they are now, nor under another name.

        What cannot be read is noted in `problems`.
        """
        missing = []
        for source in map(self._as_said_before, sources):
            try:
                if not self.refresh(source):
                    missing.append((source, contents(source.path)[1]))
            except AudioError as error:
                self.problems.append(str(error))
        return self._without_copies(missing)

    def _as_said_before(self, source: Source) -> Source:
        track = self.tracks.get(source.id)
        return replace(source, **{name: getattr(track, name) for name in source.unsaid}) if track else source

    def _without_copies(self, missing: Sequence[tuple[Source, str]]) -> list[Source]:
        """Sources, of those with their SHA-256, that are not the same file as another one: both sides of a split would have it."""
        ids = {source.id for source, _ in missing}  # of those the tracks are old, if they have one
        there = [t for t in self.tracks.values() if t.id not in ids and t.path.exists()]
        known = {t.source_sha256: f"{t.package}/{t.source}" for t in there}
        new = []
        for source, sha256 in sorted(missing, key=lambda item: item[0].id not in self.tracks):
            name = f"{source.package}/{source.name}"
            if known.setdefault(sha256, name) == name:
                new.append(source)
            else:
                self.copies.append(f"{name}: same as {known[sha256]}; skipped")
                self._drop(source.id)
        return new

    def make(self, tasks: Iterable[Callable[[], Track | None]]) -> None:
        """Run tasks that each store one track, up to `jobs` at a time."""
        with ThreadPoolExecutor(self.jobs) as pool:
            try:
                self._collect({pool.submit(task) for task in tasks})
            except OSError as error:
                pool.shutdown(cancel_futures=True)
                raise CorpusError(
                    f"{self.folder}: {error.strerror}; finished tracks are kept, mend it and run again"
                ) from None
            except BaseException:  # an interruption: the tracks being decoded are finished, no new one is begun
                pool.shutdown(cancel_futures=True)
                raise
            finally:
                self.save()

    def _collect(self, running: set[Future]) -> None:
        from tqdm import tqdm

        with tqdm(total=len(running), unit="track", disable=None, leave=False) as bar:
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    self._keep(future)
                    bar.update()
                    bar.set_postfix_str(f"{hours(self.tracks.values()):.2f} h")
                if time.monotonic() - self._saved > SAVE_SECONDS:
                    self.save()

    def _keep(self, future: Future) -> None:
        try:
            track = future.result()
        except AudioError as error:
            self.problems.append(str(error))
            return
        if track is not None:
            before = self.tracks.get(track.id)
            if before and before.source_sha256 != track.source_sha256:  # its labels are of other music
                self._labels(track).unlink(missing_ok=True)
            self.tracks[track.id] = track

    def _labels(self, track: Track) -> Path:
        return self.folder / "labels" / f"{track.id}.json"

    def _drop(self, track_id: str) -> None:
        """Forget the track of this id, if there is one."""
        if track := self.tracks.pop(track_id, None):
            track.path.unlink(missing_ok=True)
            self._labels(track).unlink(missing_ok=True)

    def refresh(self, source: Source) -> bool:
        """Whether the track is there already; its description follows the source's, as tables may have changed.

        UsageError if it is of other music from another folder that is called alike, which would take its place.
        """
        track = self.tracks.get(source.id)
        if track is None or not track.path.exists():
            return False
        if (track.source_size, track.source_sha256) != contents(source.path):
            if track.folder and source.folder != track.folder:
                raise UsageError(
                    f"{source.path}: {self.folder} has another {source.name!r}, of {track.folder}; call one of the folders"
                    f" otherwise, or, if that one was moved, remove {track.path}"
                )
            return False
        self.tracks[source.id] = source.describe(
            track.frames,
            track.gain,
            track.source_size,
            track.source_sha256,
            track.sample_rate,
            track.path,
            track.trimmed,
        )
        return True

    def forget(self, package: str, keep: set[str]) -> None:
        """Drop what an earlier version of a package's table took and this one does not."""
        for track in [track for track in self.tracks.values() if track.package == package and track.id not in keep]:
            self._drop(track.id)

    def save(self) -> None:
        """Write the manifest and the attribution list."""
        write_manifest(self.folder, self.sample_rate, self.tracks.values())
        write_text(self.folder / "ATTRIBUTION.md", attribution(self.tracks.values()))
        self._saved = time.monotonic()


def _check_names(sources: Sequence[Source]) -> None:
    """UsageError if two files would be one track, as their folders are called alike."""
    paths: dict[str, Path] = {}
    for source in sources:
        other = paths.setdefault(source.id, source.path)
        if other.resolve() != source.path.resolve():
            raise UsageError(
                f"{source.path} and {other}: both are {source.name!r} of a folder {source.package!r}; name the folder that"
                " holds both, or call one of them otherwise"
            )


def contents(path: Path) -> tuple[int, str]:
    """Size and SHA-256 of a file; AudioError if it cannot be read."""
    try:
        return path.stat().st_size, digest(path)
    except OSError as error:
        raise AudioError(f"{path}: cannot be read ({error.strerror}); mend or remove it") from None


def store(source: Source, folder: Path, sample_rate: int) -> Track | None:
    """Decode one file into `folder`/tracks. None if it is too short to be music; AudioError if it cannot be used."""
    path = folder / "tracks" / f"{source.id}.npy"
    size, sha256 = contents(source.path)
    # decoded to a spool first: offset and gain depend on the whole track
    with tempfile.TemporaryFile(dir=folder / "tracks") as spool:
        frames, offset = _spool(spool, source, sample_rate)
        if not frames:
            raise AudioError(f"{source.path}: empty; remove it")
        decoded = np.memmap(spool, np.float32, "r+", shape=(frames, 2))
        if offset > OFFSET_LIMIT:
            remove_offset(decoded, sample_rate)
        blocks = (decoded[start : start + BLOCK_FRAMES] for start in range(0, frames, BLOCK_FRAMES))
        peak = float(np.max([np.abs(block).max() for block in blocks]))  # NaN stays NaN
        if not math.isfinite(peak):
            raise AudioError(f"{source.path}: holds NaN or infinite samples; mend or remove it")
        if peak < 1 / FULL_SCALE:
            raise AudioError(f"{source.path}: silent; remove it")
        gain = 1 / peak if peak > 1 else 1.0
        first, last = _sounding(decoded, gain)
        if last - first < source.minimum_seconds * sample_rate:
            return None
        write_samples(path, decoded[first:last], gain)
    return source.describe(last - first, gain, size, sha256, sample_rate, path, first / sample_rate)


def _spool(spool: BinaryIO, source: Source, sample_rate: int) -> tuple[int, float]:
    """Write the resampled stereo float32 samples to `spool`; returns their number and the largest mean of a second."""
    frames, offset = 0, 0.0
    second = np.zeros((0, 2), np.float32)  # what has come of the next one
    for block in stereo_blocks(source.path, sample_rate):
        spool.write(np.ascontiguousarray(block, np.float32).data)
        frames += len(block)
        joined = np.concatenate([second, block])
        whole = len(joined) // sample_rate * sample_rate
        means, second = joined[:whole].reshape(-1, sample_rate, 2).mean(axis=1), joined[whole:]
        offset = max(offset, float(np.abs(means).max(initial=0)))
    spool.flush()
    return frames, offset


def remove_offset(samples: np.ndarray, sample_rate: int) -> None:
    """High-pass the track (frames, 2) in place, block by block.

    Some synthesiser music drifts by up to 0.4 of full scale, unheard; it would fill the lowest bin of the spectrogram.
    """
    from scipy.signal import butter, sosfilt

    sections = butter(2, HIGH_PASS_HZ, "highpass", fs=sample_rate, output="sos")
    state = np.zeros((len(sections), 2, 2))
    for start in range(0, len(samples), BLOCK_FRAMES):
        block = samples[start : start + BLOCK_FRAMES]
        block[:], state = sosfilt(sections, block, axis=0, zi=state)


def _sounding(decoded: np.ndarray, gain: float) -> tuple[int, int]:
    """First and one past the last frame that is not digital silence after quantising; there is at least one."""
    first, last = len(decoded), 0
    for start in range(0, len(decoded), BLOCK_FRAMES):
        frames = start + np.flatnonzero(_quantised(decoded[start : start + BLOCK_FRAMES], gain).any(axis=1))
        if len(frames):
            first, last = min(first, int(frames[0])), int(frames[-1]) + 1
    return first, last


def write_samples(path: Path, samples: np.ndarray, gain: float = 1.0) -> None:
    """Write float32 samples (frames, 2), times `gain`, as an int16 .npy file, in one step."""
    with whole(path) as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<i2", "fortran_order": False, "shape": (len(samples), 2)})
        for start in range(0, len(samples), BLOCK_FRAMES):
            file.write(_quantised(samples[start : start + BLOCK_FRAMES], gain).data)


def _quantised(samples: np.ndarray, gain: float) -> np.ndarray:
    return quantise(samples * np.float32(gain), 16, "<i2")


def stereo_blocks(path: Path, sample_rate: int) -> Iterator[np.ndarray]:
    """Float32 blocks (frames, 2) at `sample_rate` of any file that `everwave.audio` reads, and which it refuses if it breaks off."""
    rate, blocks = audio.blocks(path)
    resampler = Resampler(rate, sample_rate, 2)
    for block in blocks:
        yield resampler.push(audio.to_stereo(block))
    yield resampler.flush()


def tags(path: Path) -> tuple[str, str]:
    """Title and artist as the file's tags name them, each empty if they do not."""
    import soundfile

    try:
        # bytes: soundfile encodes text strictly, and names may be anything
        with soundfile.SoundFile(os.fsencode(path) if os.name == "posix" else path) as file:
            title, artist = (" ".join(tag.split()) for tag in (file.title, file.artist))
            return title, "" if artist.lower().strip("<>") == "unknown" else artist
    except (soundfile.LibsndfileError, OSError, UnicodeDecodeError):
        return "", ""


def attribution(tracks: Iterable[Track]) -> str:
    """The attribution list in Markdown: who made what, under which licence, and what was changed."""
    lines = [
        "# Attribution",
        "",
        "The music in this corpus belongs to its authors. It was resampled, stored as 16-bit stereo, "
        "trimmed of silence and, where it had one, freed of a direct-current offset.",
    ]
    packages: dict[str, list[Track]] = {}
    for track in tracks:
        packages.setdefault(track.package, []).append(track)
    for package, members in sorted(packages.items()):
        splits = " and ".join(sorted({track.split for track in members}, reverse=True))
        lines += ["", f"## {package} ({hours(members) * 60:.0f} minutes, {splits})", ""]
        lines += ["| file | title | author | licence | style |", "|---|---|---|---|---|"]
        lines += [
            "| "
            + " | ".join(cell.replace("|", "/") for cell in (t.source, t.title, t.author, t.licence, t.style))
            + " |"
            for t in sorted(members, key=lambda track: track.id)
        ]
    return "\n".join(lines) + "\n"
