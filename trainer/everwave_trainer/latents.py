"""Corpora as latents: what the GAN trains on.

A latents folder holds `latents.json` and one float16 array (shifts, T, channels) per track: the track encoded
at several offsets within one latent step, so that crops can start between the steps too.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from everwave import signal
from everwave.config import DECODER_FRAMES, FRAMES_PER_LATENT, Condition
from everwave.errors import EverwaveError, UsageError
from tqdm import tqdm

from .corpora.store import Corpus, sources

VERSION = 1
SHIFTS = 4
UNITS = {"bpm": "beats per minute", "density": "onsets per second"}
Label = float | list[float]  # a constant, or one value per latent step


@dataclass(frozen=True)
class Piece:
    """One track's latents: float16 (shifts, steps, channels) in `file`, and its labels by condition name."""

    file: str
    title: str
    package: str
    steps: int
    labels: dict[str, Label]


@dataclass(frozen=True)
class Latents:
    """An opened latents folder; `arrays` are memory maps in the order of `pieces`."""

    pieces: tuple[Piece, ...]
    arrays: tuple[np.ndarray, ...]
    autoencoder: dict[str, str]  # file name and sha256 of the weights that made them
    sources: dict[str, Any]
    folder: Path

    @property
    def autoencoder_path(self) -> Path:
        """The copy of the autoencoder that the folder keeps, so that what is trained on it can be heard."""
        return self.folder / self.autoencoder["file"]

    @classmethod
    def open(cls, folder: Path) -> Latents:
        try:
            data = json.loads((folder / "latents.json").read_text())
        except FileNotFoundError:
            raise EverwaveError(
                f"{folder}: no latents.json; make it with `everwave-train encode -o {folder}`"
            ) from None
        if data["version"] != VERSION:
            raise EverwaveError(f"{folder}: version {data['version']}, not {VERSION}; encode the corpus again")
        pieces = tuple(Piece(**p) for p in data["pieces"])
        arrays = tuple(np.load(folder / p.file, mmap_mode="r", allow_pickle=False) for p in pieces)
        return cls(pieces, arrays, data["autoencoder"], data["sources"], folder)

    def conditions(self, names: Sequence[str]) -> tuple[Condition, ...]:
        """Normalisation of the labels called `names`: mean and standard deviation over all steps, range as found."""
        conditions = []
        for name in names:
            values = [np.broadcast_to(p.labels[name], p.steps) for p in self.pieces if name in p.labels]
            if len(values) < len(self.pieces):
                raise UsageError(f"--conditions {name}: {len(self.pieces) - len(values)} pieces have no such label")
            flat = np.concatenate(values)
            scale = max(float(flat.std()), 1e-3)
            low, high = float(flat.min()), float(flat.max())
            conditions.append(Condition(name, UNITS.get(name, ""), float(flat.mean()), scale, low, high))
        return tuple(conditions)

    def statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of each channel (channels,), the same for left and right."""
        count, total, squares = 0, 0.0, 0.0
        for array in self.arrays:
            sides = np.concatenate(np.split(np.asarray(array[0], np.float64), 2, axis=1))
            count, total, squares = count + len(sides), total + sides.sum(axis=0), squares + (sides**2).sum(axis=0)
        mean = total / count
        deviation = np.sqrt(np.maximum(squares / count - mean**2, 1e-6))
        return np.tile(mean, 2).astype(np.float32), np.tile(deviation, 2).astype(np.float32)

    def crops(
        self, length: int, batch: int, seed: int, step: int, conditions: Sequence[Condition] = ()
    ) -> tuple[np.ndarray, np.ndarray]:
        """Latents (batch, length, channels) and normalised conditions (batch, length, n) of one training step.

        A pure function of (seed, step). Left and right are swapped at random.
        """
        rng = np.random.default_rng([seed, step])
        usable = np.array([max(p.steps - length + 1, 0) for p in self.pieces])
        if not usable.any():
            raise EverwaveError(f"no piece has the {length} latents ({length / 10.77:.0f} s) that one crop needs")
        chosen = rng.choice(len(usable), batch, p=usable / usable.sum())
        latents, signals = [], []
        for index in chosen:
            start = int(rng.integers(usable[index]))
            crop = self.arrays[index][rng.integers(len(self.arrays[index])), start : start + length]
            half = crop.shape[1] // 2
            latents.append(np.roll(crop, half, axis=1) if rng.integers(2) else crop)
            labels = self.pieces[index].labels
            signals.append([
                (np.broadcast_to(labels[c.name], self.pieces[index].steps)[start : start + length] - c.mean) / c.scale
                for c in conditions
            ])  # fmt: skip
        values = np.array(signals, np.float32).reshape(batch, len(conditions), length).swapaxes(1, 2)
        return np.array(latents, np.float32), values


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


def encode_corpus(
    corpus: Path, autoencoder: str, folder: Path, *, styles: Sequence[str] | None = None,
    labels: Mapping[str, Mapping[str, Label]] | None = None, split: str = "train",
) -> None:  # fmt: skip
    """Encode the tracks of a corpus with the runtime into `folder`; tracks that are there already are kept.

    `labels` maps track ids to condition values. Tracks of one second or less are left out.
    """
    import everwave
    from everwave import weights

    path = weights.find(autoencoder)
    model = everwave.load(path)
    folder.mkdir(parents=True, exist_ok=True)
    tracks = [t for t in Corpus.open(corpus).select(split, styles=styles) if t.seconds > 1]
    if any(t.sample_rate != model.sample_rate for t in tracks):
        raise UsageError(
            f"{corpus}: {tracks[0].sample_rate} Hz, but {autoencoder} works at {model.sample_rate} Hz; make the corpus at that rate"
        )
    pieces = []
    for track in tqdm(tracks, unit="track", disable=None):
        file = folder / f"{track.id}.npy"
        if not file.exists():
            temporary = file.with_suffix(".part")
            with open(temporary, "wb") as out:
                np.save(out, encode_at_shifts(model, track.samples).astype(np.float16))
            temporary.replace(file)
        steps = np.load(file, mmap_mode="r", allow_pickle=False).shape[1]
        pieces.append(Piece(file.name, track.title, track.package, steps, dict((labels or {}).get(track.id, {}))))
    # kept under a name that a run's own model does not have, as the two will lie beside each other
    copy = folder / ("autoencoder.h5" if path.name == "model.h5" else path.name)
    shutil.copyfile(path, copy)
    data = {
        "version": VERSION,
        "autoencoder": weights.reference(copy),
        "sources": sources(tracks),
        "pieces": [asdict(p) for p in pieces],
    }
    (folder / "latents.json").write_text(json.dumps(data, indent=1))
