"""A corpus to latents, with what is known of its music: its labels, and how loud it is at each frequency."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from everwave import signal, weights
from everwave.config import CEILING_BINS, DECODER_FRAMES, FRAMES_PER_LATENT, SignalConfig
from everwave.errors import EverwaveError, UsageError
from everwave.files import checked_folder
from everwave.resampling import resample
from everwave.wav import quantise
from tqdm import tqdm

from . import disk
from .corpora.store import Track, check_rate, select, sources, write_text
from .files import whole
from .labels import store as labels_store
from .labels.curves import density, merged
from .latents import SHIFTS, VERSION, Label, Piece, read, same_encoders


def encode_corpus(
    corpora: Sequence[Path], autoencoder: str, folder: Path, *, styles: Sequence[str] | None = None,
    split: str = "train", speeds: Sequence[float] = (1.0,),
) -> None:  # fmt: skip
    """Encode the tracks of corpora with the runtime into `folder`, with their labels; those there already are kept, unless their music has changed.

    Tracks of one second or less are left out. Each track is played at each of the `speeds`, faster and so much higher.
    UsageError if what is already there is from other encoders, or two corpora call different tracks by one id.
    """
    import everwave

    path = weights.find(autoencoder)
    path = weights.autoencoder_path(weights.read(path), path)
    model = everwave.load(path)
    chosen = [track for track in select(corpora, split, styles) if track.seconds > 1]
    if not chosen:
        raise EverwaveError(f"{', '.join(map(str, corpora))}: no {split} track longer than a second; build more of it")
    check_rate(chosen, model.sample_rate, autoencoder)
    _check_ids(chosen)
    # a speed that is given twice makes no more music, nor one that makes the same file
    speeds = list(dict.fromkeys(float(f"{speed:g}") for speed in speeds))
    with disk.named(folder):
        _encode_into(checked_folder(folder), chosen, speeds, model, path)


def _encode_into(folder: Path, tracks: Sequence[Track], speeds: Sequence[float], model: Any, path: Path) -> None:
    """What `encode_corpus` does when all has been looked at: `tracks` by `model`, which is of the file `path`."""
    folder.mkdir(parents=True, exist_ok=True)
    # kept under a name that a run's own model does not have, as the two will lie beside each other
    copy = folder / ("autoencoder.h5" if path.name == weights.RUN_FILE else path.name)
    _check_encoders(folder, path)
    if not (copy.exists() and copy.samefile(path)):
        disk.copy(path, copy)
    # latents of before their music was written down, or of a run that was cut off, are taken as they are
    known = {p["file"]: p for p in (read(folder) or {"pieces": []})["pieces"] if p.get("sha256")}
    pieces = []
    for track, speed in tqdm(list(product(tracks, speeds)), unit="track", disable=None):
        file = folder / (f"{track.id}.npy" if speed == 1 else f"{track.id}-at-{speed:g}.npy")
        before = known.get(file.name, {})
        there = file.exists() and before.get("sha256", track.source_sha256) == track.source_sha256
        top = before.get("loudest") if there else None
        if not there or not top:
            samples = track.samples if speed == 1 else _at_speed(track, speed)
            top = loudest(samples, model.config.signal)
        if not there:
            with whole(file) as out:
                np.save(out, encode_at_shifts(model, samples).astype(np.float16))
        steps = np.load(file, mmap_mode="r", allow_pickle=False).shape[1]
        labels = track_labels(track, speed, steps, model.config.signal.latent_rate)
        pieces.append(
            Piece(file.name, track.title, track.package, steps, labels, track.style, track.source_sha256, speed, top)
        )
    data = {
        "version": VERSION,
        "autoencoder": weights.reference(copy),
        "sources": sources(tracks),
        "latent_rate": model.config.signal.latent_rate,
        "pieces": [asdict(p) for p in pieces],
    }
    write_text(folder / "latents.json", json.dumps(data, indent=1))


def encode_at_shifts(model: Any, samples: np.ndarray) -> np.ndarray:
    """int16 stereo (n, 2) -> latents (SHIFTS, T, 2 * latents), shift i starting i / SHIFTS of a latent step later.

    Shifts are whole frames, so the frame encoder, which is nearly all of the work, runs once.
    """
    with ThreadPoolExecutor(2) as pool:
        left, right = pool.map(lambda channel: _shifted(model, channel), samples.T)
    return np.concatenate([left, right], axis=2)


def _shifted(model: Any, samples: np.ndarray) -> np.ndarray:
    """int16 mono (n,) -> (SHIFTS, T, latents): as `Model.encode` does it, three hops of silence first."""
    s = model.config.signal
    carry, span = s.n_fft - s.hop_length, DECODER_FRAMES * s.hop_length
    padded = np.concatenate([np.zeros(carry), samples, np.zeros(-len(samples) % span)]).astype(np.float32) / 32768
    encoder, frames = model.network("frame_encoder"), []
    for start in range(0, len(padded) - carry, span):
        level = signal.log_magnitude(signal.stft(padded[start : start + span + carry], s))
        frames.append(encoder(level[None])[0][0].copy())
    rows = np.concatenate(frames)
    count, size = len(rows) // FRAMES_PER_LATENT - 1, model.config.autoencoder.frame_latents
    shift = FRAMES_PER_LATENT // SHIFTS
    chunks = [
        rows[i * shift :][: count * FRAMES_PER_LATENT].reshape(-1, FRAMES_PER_LATENT, size) for i in range(SHIFTS)
    ]
    return np.stack([model.network("chunk_encoder")(c)[0].reshape(count, -1).copy() for c in chunks])


def loudest(samples: np.ndarray, s: SignalConfig) -> list[float]:
    """int16 stereo (n, 2) -> the largest log-magnitude of any frame in each band of CEILING_BINS bins."""
    levels = [signal.analyse(x.astype(np.float32) / 32768, s).max(axis=0) for x in samples.T]
    bands = np.maximum.reduceat(np.max(levels, axis=0), np.arange(0, s.bins, CEILING_BINS))
    return bands.astype(float).round(3).tolist()


def track_labels(track: Track, speed: float, steps: int, latent_rate: float) -> dict[str, Label]:
    """What is known of a track played at `speed`: `bpm` a constant, `density` a curve over its latents, the times of both."""
    known = labels_store.read(track.corpus, track.id)
    found: dict[str, Label] = {}
    if known.bpm is not None:
        found["bpm"] = known.bpm * speed
    if known.beats is not None:
        found["beats"] = [time / speed for time in known.beats]
    if known.onsets is not None:
        onsets = [time / speed for time in known.onsets]
        found["density"] = density(onsets, steps, latent_rate, track.seconds / speed).round(2).tolist()
        if len(notes := merged(onsets)) > 1:
            found["onsets"] = notes.round(4).tolist()
    return found


def _check_encoders(folder: Path, path: Path) -> None:
    """UsageError if an autoencoder that the folder keeps has other encoders."""
    new = weights.read(path).parameters
    if not all(same_encoders(weights.read(kept).parameters, new) for kept in folder.glob("*.h5")):
        raise UsageError(f"{folder}: its latents are from other encoders than those of {path}; choose another folder")


def _at_speed(track: Track, speed: float) -> np.ndarray:
    """int16 stereo, `speed` times as fast and as high."""
    samples = resample(track.samples.astype(np.float32), round(track.sample_rate * speed), track.sample_rate)
    return quantise(samples / np.float32(32768), 16, "<i2")


def _check_ids(tracks: Sequence[Track]) -> None:
    """UsageError if two tracks would be one file, as their corpora were made of folders that are called alike."""
    known: dict[str, Track] = {}
    for track in tracks:
        other = known.setdefault(track.id, track)
        if other.source_sha256 != track.source_sha256:
            raise UsageError(
                f"{track.corpus} and {other.corpus}: both have a track {track.id!r}, but not the same music; encode each into"
                " a folder of its own"
            )
