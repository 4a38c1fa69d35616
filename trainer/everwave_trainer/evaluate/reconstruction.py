"""Reconstruction of held-out music: log-mel error and phase, each with a floor and a reference beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from everwave import spectrogram
from everwave.config import DECODER_FRAMES, DECODER_LATENTS, FRAMES_PER_LATENT
from everwave.errors import UsageError
from everwave.signal import amplitude, istft, log_magnitude, phasor, stft

from ..corpora.store import Track, longest
from . import metrics
from .samples import held_out_crop

FFT_SIZES = (256, 1024, 4096)
BASS = 700.0  # Hz; below, nearly all of the energy of music lies, and so of what wrong phases do to it


def clips(tracks: Sequence[Track], count: int, seconds: float) -> list[np.ndarray]:
    """`count` mono excerpts of `seconds`, spread evenly over the tracks (several per track if there are few)."""
    usable = [t for t in tracks if t.seconds >= seconds]
    if not usable:
        raise UsageError(f"no held-out track is {seconds:g} s long, as a clip needs; {longest(tracks)}")
    per_track = -(-count // len(usable))
    excerpts = [e for t in usable for e in _excerpts(t, per_track, seconds)]
    chosen = np.linspace(0, len(excerpts) - 1, min(count, len(excerpts))).round().astype(int)
    return [excerpts[i] for i in chosen]


def _excerpts(track: Track, count: int, seconds: float) -> list[np.ndarray]:
    length = int(seconds * track.sample_rate)
    starts = np.linspace(0, track.frames - length, count + 2).astype(int)[1:-1]
    return [track.excerpt(start, length).mean(axis=1) for start in starts]


def evaluate(model: Any, tracks: Sequence[Track], count: int, seconds: float) -> dict[str, Any]:
    """Means over the clips; convergence is given beside that of true phases, random phases and Griffin-Lim."""
    rows = [_measure(model, clip) for clip in clips(tracks, count, seconds)]
    means = {key: round(float(np.mean([row[key] for row in rows])), 4) for key in rows[0]}
    return {"clips": len(rows), "seconds": seconds, **means}


def _measure(model: Any, real: np.ndarray) -> dict[str, float]:
    s = model.config.signal
    rate, row = s.sample_rate, {}
    both = model.decode(model.encode(real, rate))[: len(real), 0]
    row["log_mel_error_db"] = metrics.log_mel_error(real, both, rate)
    magnitude, phase = decoded(model, real, levels=1)
    whole = real[: istft_length(len(magnitude), s)]
    true_phase = np.angle(stft(whole, s)) / np.pi
    random = np.random.default_rng(0).uniform(-1, 1, phase.shape)
    bass = np.arange(s.bins) * s.sample_rate / s.n_fft < BASS
    again, its_phase = decoded(model, real, levels=2)
    audio = {
        "decoded": istft(magnitude, phase, s),
        "true": istft(magnitude, true_phase.astype(np.float32), s),
        "true_bass": istft(magnitude, np.where(bass, true_phase, phase).astype(np.float32), s),
        "both_levels_decoded": istft(again, its_phase, s),
        "both_levels_true": istft(again, true_phase.astype(np.float32), s),
        "random": istft(magnitude, random.astype(np.float32), s),
        "griffin_lim": metrics.griffin_lim(amplitude(magnitude), s),
    }
    row["log_mel_error_level1_db"] = metrics.log_mel_error(whole, audio["decoded"], rate)
    row["log_mel_error_mel_griffin_lim_db"] = metrics.log_mel_error(
        whole, metrics.mel_griffin_lim(whole, s)[: len(whole)], rate
    )
    for n_fft in FFT_SIZES:
        for name, samples in audio.items():
            row[f"convergence_{n_fft}_{name}_phase"] = metrics.spectral_convergence(whole, samples[: len(whole)], n_fft)
    row["inconsistency"] = metrics.consistency(magnitude, phase, s)
    return row


def istft_length(frames: int, signal: Any) -> int:
    return (frames - 1) * signal.hop_length + signal.n_fft


def decoded(model: Any, real: np.ndarray, levels: int) -> tuple[np.ndarray, np.ndarray]:
    """Log-magnitude and phase / pi (T, bins) of mono samples through level 1 of the autoencoder alone, or through both."""
    s = model.config.signal
    frames = log_magnitude(stft(real, s))
    x = frames[: len(frames) // DECODER_FRAMES * DECODER_FRAMES].reshape(-1, DECODER_FRAMES, s.bins)
    chunk = (-1, FRAMES_PER_LATENT, model.config.autoencoder.frame_latents)
    steps = [("frame_encoder", x.shape)]
    if levels == 2:
        steps += [("chunk_encoder", chunk), ("chunk_decoder", (-1, DECODER_LATENTS, model.config.autoencoder.latents))]
    for network, shape in steps:
        x = np.array(model.network(network)(np.ascontiguousarray(x.reshape(shape)))[0])
    magnitude, phase = model.network("frame_decoder")(x.reshape(-1, DECODER_FRAMES, chunk[2]))
    angle = (np.angle(phasor(phase, s.bins)) / np.pi).astype(np.float32)
    return magnitude.reshape(-1, s.bins).copy(), angle.reshape(-1, s.bins)


def save_pictures(model: Any, tracks: Sequence[Track], folder: Path, seconds: float) -> None:
    """Real, reconstructed and (if the model generates) generated audio, as FLAC and PNG."""
    rate = model.sample_rate
    track = max(tracks, key=lambda t: t.seconds)
    real = held_out_crop(track, seconds)
    sounds = {"real": real, "reconstructed": model.decode(model.encode(real, rate))}
    if "generator" in model.info()["parameters"]:
        sounds["generated"] = model.generate(seconds=seconds, seed=1)
    for name, samples in sounds.items():
        soundfile.write(folder / f"{name}.flac", np.clip(samples, -1, 1), rate)
        spectrogram.save(folder / f"{name}.png", samples, rate)
