"""Critics: of latents and of how they sound (the GAN), of log-magnitudes (the autoencoder)."""

from __future__ import annotations

from typing import Any

import keras
from everwave.config import Config
from keras import ops

ROOT_HALF = 0.5**0.5


def _conv(name: str, x: Any, width: int, kernel: int, stride: int = 1) -> Any:
    return keras.layers.Conv1D(
        width, kernel, stride, padding="same", kernel_initializer="he_uniform", activation=_leaky, name=name
    )(x)


def _leaky(x: Any) -> Any:
    return ops.leaky_relu(x, 0.2)


def _residual(name: str, x: Any, width: int, first_kernel: int = 4) -> Any:
    """conv - lrelu - sqrt(1/2) - conv stride 2 - lrelu - sqrt(1/2), plus the averaged (and projected) input."""
    scale = keras.layers.Rescaling(ROOT_HALF)
    y = scale(_conv(f"{name}_c0", x, x.shape[2], first_kernel))
    y = scale(_conv(f"{name}_c1", y, width, 4, stride=2))
    x = keras.layers.AveragePooling1D(2, padding="same")(x)
    if x.shape[2] != width:
        x = keras.layers.Conv1D(width, 1, use_bias=False, kernel_initializer="he_uniform", name=f"{name}_skip")(x)
    return x + y


def latent_critic(config: Config, b: int) -> keras.Model:
    """Two generator windows of latents and conditions (B, 2 * window, 2 * latents + conditions) -> score (B, 1).

    Widths are multiples of `b`; Musika's is the generator's.
    """
    channels = 2 * config.autoencoder.latents + config.generator.condition_channels
    start = keras.Input((2 * config.generator.window, channels), name="latents")
    x = _conv("c0", start, 3 * b, 4, stride=2)
    for i, width in enumerate((4 * b, 5 * b, 6 * b, 7 * b)):
        x = _residual(f"r{i}", x, width)
    if not config.generator.small:
        x = _residual("r4", x, 7 * b, first_kernel=1)
    x = keras.layers.Flatten()(_conv("c1", x, 7 * b, 3))
    score = keras.layers.Dense(1, kernel_initializer="he_uniform", dtype="float32", name="score")(x)
    return keras.Model(start, score, name="critic")


def sound_critic(channels: int, b: int) -> keras.Model:
    """Levels of bands, frame by frame (B, T, channels) -> score (B, 1): the mean of one for every 32 frames."""
    start = keras.Input((None, channels), name="levels")
    x = _conv("c0", start, 3 * b, 4, stride=2)
    for i, width in enumerate((3 * b, 4 * b, 5 * b, 5 * b)):
        x = _residual(f"r{i}", x, width)
    x = _conv("c1", x, 5 * b, 3)
    score = keras.layers.Conv1D(1, 1, kernel_initializer="he_uniform", dtype="float32", name="score")(x)
    return keras.Model(start, keras.layers.GlobalAveragePooling1D(dtype="float32")(score), name="sound_critic")


def spectrum_critic(config: Config, name: str) -> keras.Model:
    """Log-magnitudes (B, T, bins) -> one score for every 16 frames (B, T / 16, 1)."""
    w = config.autoencoder.width
    start = keras.Input((None, config.signal.bins), name="log_magnitude")
    x = start
    for i, width in enumerate((2 * w, 2 * w, 3 * w, 3 * w)):
        x = _conv(f"c{i}", x, width, 4, stride=2)
    x = _conv("c4", x, 3 * w, 3)
    score = keras.layers.Conv1D(1, 1, kernel_initializer="he_uniform", dtype="float32", name="score")(x)
    return keras.Model(start, score, name=name)
