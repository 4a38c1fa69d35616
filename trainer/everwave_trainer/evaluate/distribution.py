"""Does what a model makes sound like real music, and is there as much of it? Both in musicnn's embeddings.

Frechet distance (Kilgour et al., arXiv 1812.08466) of windows of 3 s, against held-out music: `generated` stands beside
`training`, the music the model imitates; `reconstructed`, what the decoders alone cost; and `training_reconstructed`, the
floor: a generator that repeats its training music exactly. Distances of sets fall with the number of windows, so every set
has the same.

Diversity: the mean distance between pieces, and how near generated windows are to the nearest one of the training music.

Level: root mean square, and how much lies at full scale, where the runtime cuts off; embeddings do not hear it, listeners do.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from everwave.errors import UsageError
from tqdm import tqdm

from ..corpora.store import Track, hours, longest
from .musicnn import Musicnn

SECONDS = 21.5  # of a piece: seven windows
FULL_SCALE = 32767 / 32768  # and above, as 16 bits have it

Groups = Sequence[Sequence[Track]]  # of music, such as styles
Embeddings = list[np.ndarray]  # one (windows, 200) for every piece


def evaluate(
    model: Any, network: Musicnn, held_out: Groups, training: Groups, count: int
) -> dict[str, Any]:  # fmt: skip
    """Frechet distances and diversity of `count` pieces of each kind; generated ones only if the model can.

    Pieces of music are shared out evenly among its groups: a model that learned two styles is held to both alike,
    however much of each there is.
    """
    rate = model.sample_rate
    levels: dict[str, dict[str, float]] = {}

    def embedded(name: str, sounds: Iterable[np.ndarray]) -> Embeddings:
        windows, measured = [], []
        for samples in tqdm(sounds, total=count, desc=name, unit="piece", disable=None, leave=False):
            windows.append(network.embed(samples.mean(axis=1), rate))
            measured.append(level(samples))
        levels[name] = {k: round(float(np.mean([m[k] for m in measured])), 4) for k in measured[0]}
        return windows

    def reconstructed(groups: Groups) -> Iterable[np.ndarray]:
        return (model.decode(model.encode(x, rate))[: len(x)] for x in pieces(groups, count))

    sets = {
        "held_out": embedded("held_out", pieces(held_out, count)),
        "training": embedded("training", pieces(training, count)),
        "reconstructed": embedded("reconstructed", reconstructed(held_out)),
        "training_reconstructed": embedded("training_reconstructed", reconstructed(training)),
    }
    if "generator" in model.info()["parameters"]:
        sets["generated"] = embedded("generated", (model.generate(SECONDS, seed=i) for i in range(count)))
    minutes = {"held_out": held_out, "training": training}
    return {
        "pieces": count,
        "windows": sum(map(len, sets["held_out"])),
        **{f"{name}_minutes_there_are": round(60 * sum(map(hours, groups)), 1) for name, groups in minutes.items()},
        "frechet_to_held_out": _frechet(sets),
        "diversity": _diversity(sets),
        "nearest": _nearest(sets),
        "level": levels,
    }  # fmt: skip


def pieces(groups: Groups, count: int) -> Iterable[np.ndarray]:
    """`count` stereo excerpts (n, 2) of SECONDS, as many of each group, give or take one."""
    shares = np.diff(np.linspace(0, count, len(groups) + 1).round().astype(int))
    for tracks, share in zip(groups, shares, strict=True):
        yield from _excerpts(tracks, share)


def _excerpts(tracks: Sequence[Track], count: int) -> Iterable[np.ndarray]:
    """`count` stereo excerpts (n, 2) of SECONDS, evenly over all tracks that are long enough; they may overlap."""
    usable = [t for t in tracks if t.seconds > SECONDS]
    if not usable:
        raise UsageError(
            f"no track of the chosen styles and split is longer than the {SECONDS:g} s of one piece; {longest(tracks)}"
        )
    ends = np.cumsum([t.seconds - SECONDS for t in usable])
    for place in (np.arange(count) + 0.5) / count * ends[-1]:
        index = int(np.searchsorted(ends, place, side="right"))
        track = usable[index]
        start = int((place - ends[index] + track.seconds - SECONDS) * track.sample_rate)
        yield track.excerpt(start, int(SECONDS * track.sample_rate))


def level(samples: np.ndarray) -> dict[str, float]:
    """Of samples in [-1, 1]: root mean square in dB below full scale, and the share at full scale in percent."""
    power = float(np.mean(np.square(samples, dtype=np.float64)))
    return {
        "rms_db": 10 * float(np.log10(max(power, 1e-10))),
        "full_scale_percent": 100 * float(np.mean(np.abs(samples) >= FULL_SCALE)),
    }


def frechet_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Of two sets of vectors (n, d), as normal distributions: |mean difference|^2 + tr(A + B - 2 (A B)^(1/2))."""
    a, b = (np.cov(v, rowvar=False) for v in (x.astype(np.float64), y.astype(np.float64)))
    values, vectors = np.linalg.eigh(a)
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    common = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ b @ root), 0)).sum()
    return float(np.sum((x.mean(axis=0) - y.mean(axis=0)) ** 2) + np.trace(a) + np.trace(b) - 2 * common)


def pairwise(x: np.ndarray) -> float:
    """Mean distance between two different rows of x (n, d)."""
    return float(_distances(x, x).sum() / (len(x) * (len(x) - 1)))


def _frechet(sets: dict[str, Embeddings]) -> dict[str, float]:
    reference = np.concatenate(sets["held_out"])
    found = {
        name: frechet_distance(np.concatenate(windows), reference)
        for name, windows in sets.items()
        if name != "held_out"
    }
    if "generated" in found:
        found["generated_over_reconstructed"] = found["generated"] / found["reconstructed"]
        found["generated_over_training"] = found["generated"] / found["training"]
    return _rounded(found)


def _diversity(sets: dict[str, Embeddings]) -> dict[str, float]:
    """Mean distance between pieces, each the mean of its windows."""
    found = {name: pairwise(np.stack([w.mean(axis=0) for w in windows])) for name, windows in sets.items()}
    if "generated" in found:
        found["generated_over_training"] = found["generated"] / found["training"]
    return _rounded(found)


def _nearest(sets: dict[str, Embeddings]) -> dict[str, float]:
    """Median distance of a window to the nearest of the training music; `copy` is what a copy through the decoders has."""
    training = np.concatenate(sets["training"])
    found = {
        f"{name}_to_training": float(np.median(_distances(np.concatenate(windows), training).min(axis=1)))
        for name, windows in sets.items()
        if name != "training"
    }
    real, copies = (np.concatenate(sets[name]) for name in ("held_out", "reconstructed"))
    found["copy"] = float(np.median(np.linalg.norm(real - copies, axis=1)))
    return _rounded(found)


def _distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Euclidean, (n, m)."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    squares = (x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1) - 2 * x @ y.T
    if x is y or np.array_equal(x, y):
        np.fill_diagonal(squares, 0)
    return np.sqrt(np.maximum(squares, 0))


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in values.items()}
