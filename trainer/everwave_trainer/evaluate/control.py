"""Does a model do what it is told? Tempo and note density, asked for and then estimated from the audio.

The estimators know nothing of the model. Beside every figure stand what it would be by chance (estimates of other
clips) and what the estimator reaches on held-out music whose labels are exact, before and after the autoencoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from everwave.config import Condition
from scipy.stats import spearmanr
from tqdm import tqdm

from ..corpora.store import Track
from ..labels import curves, store
from .estimators import Estimator, Samples

TEMPI = range(120, 161, 5)
TOLERANCE = 0.04
SECONDS = 23.0  # of a clip with a constant
CURVE_SECONDS, CURVE_POINT = 46.0, 6.0  # of a clip with a random curve; one random value every CURVE_POINT
CONSTANTS, CURVES = 9, 8
REAL_CLIPS = 24


def tempo(model: Any, tracks: Sequence[Track], estimators: dict[str, Estimator], seeds: int) -> dict[str, Any]:
    """Clips at `tempi` for each seed: the share within 4 %, that up to an octave, and the median error in bpm."""
    (condition,) = (c for c in model.conditions if c.name == "bpm")
    asked = [bpm for bpm in tempi(condition) for _ in range(seeds)]
    clips = [model.generate(SECONDS, seed=i % seeds, bpm=bpm) for i, bpm in enumerate(_bar("tempo", asked))]
    sounds = {"generated": (asked, clips), **_labelled(model, tracks, "bpm")}
    result: dict[str, Any] = {"clips": len(clips), "seconds": SECONDS, "asked": asked}
    for name, estimate in estimators.items():
        result[name] = {}
        for kind, (truth, audio) in sounds.items():
            if not audio:
                continue
            found = estimate(audio, model.sample_rate)
            result[name][kind] = tempo_agreement(truth, found)
            if kind == "generated":
                result[name]["estimates"] = [round(bpm, 2) for bpm in found]
                result[name]["chance"] = chance(truth, found)
    return result


def tempi(condition: Condition) -> list[float]:
    """TEMPI, or as many that lie evenly over what the model takes of them; if that is nothing, over all that it takes."""
    low, high = max(TEMPI[0], condition.low), min(TEMPI[-1], condition.high)
    if low >= high:
        low, high = condition.low, condition.high
    return [float(bpm) for bpm in np.linspace(low, high, len(TEMPI))]


def tempo_agreement(asked: Sequence[float], found: Sequence[float]) -> dict[str, float]:
    a, f = np.asarray(asked), np.asarray(found)
    octaves = np.min([abs(f * factor / a - 1) for factor in (0.5, 1, 2)], axis=0)
    return {
        "clips": len(a),
        "within_4_percent": int(np.sum(abs(f / a - 1) <= TOLERANCE)),
        "up_to_octave": int(np.sum(octaves <= TOLERANCE)),
        "median_error_bpm": round(float(np.median(abs(f - a))), 2),
    }


def chance(asked: Sequence[float], found: Sequence[float]) -> float:
    """Expected number of clips within 4 % if every estimate belonged to another clip, drawn at random."""
    a, f = np.asarray(asked), np.asarray(found)
    return round(float(np.mean(abs(f[None] / a[:, None] - 1) <= TOLERANCE) * len(a)), 2)


def density(model: Any, tracks: Sequence[Track], estimators: dict[str, Estimator], seeds: int) -> dict[str, Any]:
    """Spearman correlations of asked and measured onsets per second: constants clip by clip, curves second by second."""
    condition = next(c for c in model.conditions if c.name == "density")
    low, high = densities(condition)
    constants = [float(v) for v in np.linspace(low, high, CONSTANTS) for _ in range(seeds)]
    held = [model.generate(SECONDS, seed=i % seeds, density=v) for i, v in enumerate(_bar("density", constants))]
    times = np.arange(0, CURVE_SECONDS + CURVE_POINT, CURVE_POINT)
    random = [np.random.default_rng(i).uniform(low, high, len(times)) for i in range(CURVES)]
    moving = [
        model.generate(CURVE_SECONDS, seed=100 + i, density=np.stack([times, values], axis=1))
        for i, values in enumerate(_bar("curves", random))
    ]
    seconds = np.arange(int(CURVE_SECONDS)) + 0.5
    wanted = [np.interp(seconds, times, values) for values in random]
    real = _labelled(model, tracks, "onsets")
    result: dict[str, Any] = {"clips": len(held), "curves": len(moving), "low": low, "high": high}
    for name, estimate in estimators.items():
        rates = [len(curves.merged(onsets)) / SECONDS for onsets in estimate(held, model.sample_rate)]
        found = [per_second(onsets, CURVE_SECONDS) for onsets in estimate(moving, model.sample_rate)]
        others = [spearman(wanted[i], found[j]) for i in range(CURVES) for j in range(CURVES) if i != j]
        result[name] = {
            "constants": spearman(constants, rates),
            "constants_chance_95": round(float(np.quantile(_shuffled(constants, rates), 0.95)), 3),
            "curves": spearman(np.concatenate(wanted), np.concatenate(found)),
            "curves_each": [spearman(w, f) for w, f in zip(wanted, found, strict=True)],
            "curves_chance": round(float(np.mean(others)), 3),
            "asked": constants,
            "measured": [round(rate, 2) for rate in rates],
        }
        for kind, (truth, audio) in real.items():
            if audio:
                measured = [
                    per_second(onsets, len(audio[0]) / model.sample_rate)
                    for onsets in estimate(audio, model.sample_rate)
                ]
                exact = [per_second(onsets, len(audio[0]) / model.sample_rate) for onsets in truth]
                result[name][kind] = spearman(np.concatenate(exact), np.concatenate(measured))
    return result


def densities(condition: Condition) -> tuple[float, float]:
    """The lowest and the highest that are asked for: from few notes to many, as the model's music has them."""
    low, high = condition.mean - 1.5 * condition.scale, condition.mean + 2 * condition.scale
    return float(np.clip(low, condition.low, condition.high)), float(np.clip(high, condition.low, condition.high))


def per_second(onsets: Sequence[float], seconds: float) -> np.ndarray:
    """Note density at the middle of every second, smoothed as the labels for training are."""
    return curves.density(onsets, int(seconds), 1.0, seconds)


def spearman(x: Any, y: Any) -> float:
    """Rank correlation, 0 where one of them does not vary."""
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    return round(float(spearmanr(x, y).statistic), 3)


def _shuffled(x: Sequence[float], y: Sequence[float]) -> list[float]:
    rng = np.random.default_rng(0)
    return [spearman(x, rng.permutation(y)) for _ in range(200)]


def _labelled(model: Any, tracks: Sequence[Track], name: str) -> dict[str, tuple[list[Any], list[Samples]]]:
    """Excerpts from the middle of tracks whose label `name` is exact, real and through the autoencoder, with the truth of each."""
    truth, real = [], []
    for track in tracks:
        labels = store.read(track.corpus, track.id)
        value = getattr(labels, name)
        if value is None or track.seconds < SECONDS or labels.sources.get(name) not in store.EXACT:
            continue
        start = (track.seconds - SECONDS) / 2
        real.append(track.excerpt(int(start * track.sample_rate), int(SECONDS * track.sample_rate)))
        truth.append([t - start for t in value if 0 <= t - start < SECONDS] if isinstance(value, tuple) else value)
        if len(real) == REAL_CLIPS:
            break
    again = [model.decode(model.encode(x, model.sample_rate))[: len(x)] for x in real]
    return {"real": (truth, real), "reconstructed": (truth, again)}


def _bar(name: str, items: Sequence[Any]) -> Any:
    return tqdm(items, desc=name, disable=None, leave=False)
