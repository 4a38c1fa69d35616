"""Something to listen to and to look at, written at every checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from everwave import spectrogram
from everwave.config import DECODER_FRAMES

SECONDS, GENERATED_SECONDS = 6.0, 23.0
CLIPS = 2


def held_out_crop(track: Any, seconds: float) -> np.ndarray:
    """Mono float32 samples from the middle of a track, as long as it has."""
    count = min(track.frames, int(seconds * track.sample_rate))
    return track.excerpt((track.frames - count) // 2, count).mean(axis=1)


def save_reconstructions(trainer: Any, folder: Path, step: int) -> None:
    """Held-out clips through the networks as they are now: real, then reconstructed, in one file each."""
    from keras import ops

    from .. import signal

    s = trainer.config.signal
    folder.mkdir(parents=True, exist_ok=True)
    least = s.n_fft + (DECODER_FRAMES - 1) * s.hop_length  # samples of one decoder window
    long_enough = [track for track in trainer.held_out if track.frames >= least]
    for i, track in enumerate(long_enough[:CLIPS]):
        real = held_out_crop(track, SECONDS)
        spectrum = signal.stft(ops.convert_to_tensor(real[None]), s.n_fft, s.hop_length)
        latents = trainer.encode(signal.log_magnitude(spectrum))
        latents = latents[:, : latents.shape[1] // DECODER_FRAMES * DECODER_FRAMES]
        if "chunk_decoder" in trainer.networks:
            latents = trainer.compress(latents)
        magnitude, phase = trainer.decode(latents)
        samples = signal.istft(signal.spectrum(magnitude, signal.phasor(phase, s.bins)), s)
        clip = np.concatenate([real, np.zeros(s.sample_rate // 4, np.float32), ops.convert_to_numpy(samples)[0]])
        _save(folder / f"step{step:07d}-{i}", clip, s.sample_rate)


def save_generated(model_file: Path, folder: Path, step: int) -> None:
    """A clip of the model as it is now."""
    import everwave

    folder.mkdir(parents=True, exist_ok=True)
    model = everwave.load(model_file)
    _save(folder / f"step{step:07d}", model.generate(GENERATED_SECONDS, seed=0), model.sample_rate)


def _save(path: Path, samples: np.ndarray, sample_rate: int) -> None:
    soundfile.write(path.with_suffix(".flac"), np.clip(samples, -1, 1), sample_rate)
    spectrogram.save(path.with_suffix(".png"), samples, sample_rate)
