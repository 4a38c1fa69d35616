"""musicnn (Pons & Serra, arXiv 1909.06654) in NumPy: embeddings of audio for Frechet distance and diversity.

The weights are in its PyPI wheel (ISC licence), trained on the Million Song Dataset. The wheel's pins forbid installing
it beside anything of today, and nothing of its code is run: `pip download --no-deps musicnn` and name the file.
"""

from __future__ import annotations

import importlib.util
import zipfile
from functools import lru_cache
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np
from everwave.errors import UsageError
from numpy.lib.stride_tricks import sliding_window_view
from scipy.signal import resample_poly

from . import tensor_bundle

SAMPLE_RATE, FFT, HOP, BANDS = 16000, 512, 256, 96
FRAMES = 187  # of one window, 3 s
STEP = round(3 * SAMPLE_RATE / HOP)  # from one window to the next
SIZE = 200  # of an embedding
EPSILON = 1e-3  # of every batch normalisation
BATCH = 8
FOLDER = "musicnn/MSD_musicnn/"

Parameters = dict[str, np.ndarray]


def load(place: Path | None) -> Musicnn:
    """The network from a wheel, from a folder with its content, or (None) from the installed package; UsageError."""
    if place is None:
        found = importlib.util.find_spec("musicnn")  # finds it without running it
        if found is None or not found.submodule_search_locations:
            raise UsageError(
                "musicnn is not installed: `pip download --no-deps musicnn` and give the wheel as --musicnn FILE"
            )
        place = Path(found.submodule_search_locations[0]).parent
    names = [FOLDER + ".index", FOLDER + ".data-00000-of-00001"]
    try:
        if place.is_dir():
            index, data = ((place / name).read_bytes() for name in names)
        else:
            with zipfile.ZipFile(place) as wheel:
                index, data = (wheel.read(name) for name in names)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise UsageError(f"--musicnn {place}: {error}; give the wheel of `pip download --no-deps musicnn`") from None
    return Musicnn(tensor_bundle.read(index, data))


class Musicnn:
    """`embed` gives the penultimate layer of 3 s windows."""

    def __init__(self, tensors: Parameters) -> None:
        self.tensors = tensors

    def embed(self, samples: np.ndarray, sample_rate: int) -> np.ndarray:
        """Mono samples (n,) in [-1, 1] -> (windows, 200) float32, one window for every three seconds."""
        divisor = gcd(SAMPLE_RATE, sample_rate)
        samples = resample_poly(samples, SAMPLE_RATE // divisor, sample_rate // divisor).astype(np.float32)
        level = log_mel(samples)
        starts = range(0, len(level) - FRAMES + 1, STEP)
        windows = [level[s : s + FRAMES] for s in starts]
        batches = [np.stack(windows[i : i + BATCH]) for i in range(0, len(windows), BATCH)]
        return np.concatenate([np.empty((0, SIZE), np.float32), *map(self.penultimate, batches)])

    def penultimate(self, level: np.ndarray) -> np.ndarray:
        """Log-mel windows (B, 187, 96) -> (B, 200)."""
        t = self.tensors
        x = _normalised(level[..., None], t, 0)[..., 0]
        bands = [self._timbral(x, 0), self._timbral(x, 1), *(self._temporal(x, i) for i in (2, 3, 4))]
        front = np.concatenate(bands, axis=2)  # (B, 187, 561)
        first = self._middle(front, 5)
        second = self._middle(first, 6) + first
        third = self._middle(second, 7) + second
        features = np.concatenate([front, first, second, third], axis=2)
        # pairs of (max, mean) for every feature, not all of one before all of the other
        pooled = np.stack([features.max(axis=1), features.mean(axis=1)], axis=2).reshape(len(features), -1)
        hidden = np.maximum(_normalised(pooled, t, 9) @ t["dense/kernel"] + t["dense/bias"], 0)
        return _normalised(hidden, t, 10)

    def _timbral(self, x: np.ndarray, layer: int) -> np.ndarray:
        """7 frames by many bands, then the maximum over all places in frequency: (B, T, 96) -> (B, T, 204)."""
        kernel, _ = self._convolution(layer)
        frames, bands, _, filters = kernel.shape
        padded = np.pad(x, ((0, 0), (frames // 2, frames // 2), (0, 0)))
        patches = sliding_window_view(padded, (frames, bands), axis=(1, 2))  # (B, T, places, 7, bands)
        flat = kernel.reshape(-1, filters)
        return np.stack([self._highest(p.reshape(-1, len(flat)) @ flat, layer, p.shape[:2]) for p in patches])

    def _temporal(self, x: np.ndarray, layer: int) -> np.ndarray:
        """Many frames by one band, then the maximum over the bands: (B, T, 96) -> (B, T, 51)."""
        kernel, _ = self._convolution(layer)
        frames, _, _, filters = kernel.shape
        before = (frames - 1) // 2
        padded = np.pad(x, ((0, 0), (before, frames - 1 - before), (0, 0)))
        patches = sliding_window_view(padded, frames, axis=1)  # (B, T, 96, frames)
        flat = kernel.reshape(frames, filters)
        return np.stack([self._highest(p.reshape(-1, frames) @ flat, layer, p.shape[:2]) for p in patches])

    def _highest(self, y: np.ndarray, layer: int, shape: tuple[int, ...]) -> np.ndarray:
        """Bias, rectifier, normalisation of y (T * places, C), then the maximum over places: (T, C).

        All three rise or fall with y, so that the highest or the lowest place decides, whichever a channel's gain says.
        """
        y = y.reshape(*shape, -1)
        ends = np.stack([y.max(axis=1), y.min(axis=1)]) + self._convolution(layer)[1]
        return _normalised(np.maximum(ends, 0), self.tensors, layer + 1).max(axis=0)

    def _middle(self, x: np.ndarray, layer: int) -> np.ndarray:
        """7 frames by all features: (B, T, C) -> (B, T, 64)."""
        kernel, bias = self._convolution(layer)
        padded = np.pad(x, ((0, 0), (3, 3), (0, 0)))
        y = sum(padded[:, i : i + x.shape[1]] @ kernel[i, :, 0] for i in range(7))
        return _normalised(np.maximum(y + bias, 0), self.tensors, layer + 1)

    def _convolution(self, layer: int) -> tuple[np.ndarray, np.ndarray]:
        name = f"conv2d{_suffix(layer)}"
        return self.tensors[f"{name}/kernel"], self.tensors[f"{name}/bias"]


def _suffix(layer: int) -> str:
    return f"_{layer}" if layer else ""


def _normalised(x: np.ndarray, t: Parameters, layer: int) -> np.ndarray:
    """Batch normalisation number `layer` over the last axis, with the stored statistics."""
    mean, variance, gamma, beta = (
        t[f"batch_normalization{_suffix(layer)}/{name}"] for name in ("moving_mean", "moving_variance", "gamma", "beta")
    )  # fmt: skip
    gain = gamma / np.sqrt(variance + EPSILON)
    return x * gain + (beta - mean * gain)


def log_mel(samples: np.ndarray) -> np.ndarray:
    """Mono samples (n,) at 16 kHz -> (1 + n // 256, 96): log10(1 + 10^4 mel power), as musicnn was trained."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FFT) / FFT)
    frames = sliding_window_view(np.pad(samples, FFT // 2), FFT)[::HOP]
    power = np.abs(np.fft.rfft(frames * window, axis=1)) ** 2
    mel = (power @ slaney_filters()).astype(np.float16)  # musicnn rounds here
    return np.log10(10000 * mel.astype(np.float32) + 1)


@lru_cache
def slaney_filters() -> np.ndarray:
    """Slaney's mel triangles of unit area in hertz, 0 to 8 kHz: (257, 96), librosa's default."""
    edges = _slaney_hertz(np.linspace(0, _slaney_mel(SAMPLE_RATE / 2), BANDS + 2))
    bins = np.fft.rfftfreq(FFT, 1 / SAMPLE_RATE)[:, None]
    rise = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    fall = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return np.maximum(0, np.minimum(rise, fall)) * 2 / (edges[2:] - edges[:-2])


def _slaney_mel(hertz: Any) -> Any:
    return 15 + 27 * np.log(hertz / 1000) / np.log(6.4)  # above 1 kHz; linear below


def _slaney_hertz(mel: np.ndarray) -> np.ndarray:
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * np.log(6.4) / 27))
