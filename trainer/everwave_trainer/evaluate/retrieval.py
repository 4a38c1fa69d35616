"""Do embeddings mean something? Whether the nearest excerpt in a collection is another one of the same track.

Each excerpt's vector asks for the nearest of all others, by cosine similarity. Beside it stand chance and the mean and
standard deviation over time of an 80-band log-mel spectrogram, which need no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from everwave.errors import UsageError

from ..corpora.store import Track, longest
from . import metrics

EXCERPTS = 6  # per track, spread evenly, never overlapping


def evaluate(model: Any, tracks: Sequence[Track], seconds: float) -> dict[str, Any]:
    """Share of the tracks' excerpts whose nearest neighbour is of the same track, and of the same package."""
    usable = [t for t in tracks if t.seconds >= EXCERPTS * seconds]
    if not usable:
        raise UsageError(
            f"no held-out track is {EXCERPTS * seconds:g} s long, as {EXCERPTS} excerpts need; {longest(tracks)}"
        )
    rate = usable[0].sample_rate
    excerpts = [excerpt for track in usable for excerpt in _excerpts(track, seconds)]
    vectors = {
        "embedding": np.stack([model.embed(excerpt, rate) for excerpt in excerpts]),
        "mel": np.stack([mel_statistics(excerpt, rate) for excerpt in excerpts]),
    }
    result: dict[str, Any] = {"tracks": len(usable), "excerpts": len(excerpts), "seconds": seconds}
    for name, of in (("track", [t.id for t in usable]), ("package", [t.package for t in usable])):
        labels = np.repeat(of, EXCERPTS)
        for kind, table in vectors.items():
            result[f"same_{name}_{kind}"] = round(nearest_agrees(table, labels), 4)
        result[f"same_{name}_chance"] = round(chance(labels), 4)
    return result


def nearest_agrees(vectors: np.ndarray, labels: np.ndarray) -> float:
    """Share of rows whose nearest other row, by cosine, has the same label."""
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -np.inf)
    return float(np.mean(labels[similarity.argmax(axis=1)] == labels))


def chance(labels: np.ndarray) -> float:
    """What `nearest_agrees` gives on average when the nearest row is drawn at random."""
    same = labels[:, None] == labels[None]
    return float((same.sum() - len(labels)) / (len(labels) * (len(labels) - 1)))


def mel_statistics(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """Mean and standard deviation over time of log-mel bands, averaged over channels: (160,)."""
    bands = np.stack([metrics.log_mel(np.ascontiguousarray(x), sample_rate) for x in samples.T])
    return np.concatenate([bands.mean(axis=(0, 1)), bands.std(axis=1).mean(axis=0)])


def _excerpts(track: Track, seconds: float) -> list[np.ndarray]:
    """Stereo float32, EXCERPTS of them."""
    length = int(seconds * track.sample_rate)
    starts = np.linspace(0, track.frames - length, EXCERPTS).astype(int)
    return [track.excerpt(start, length) for start in starts]
