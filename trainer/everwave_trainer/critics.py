"""Critics: of latents, of how they sound, and of what a denoiser makes of them (the GAN), of log-magnitudes (the autoencoder)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from everwave.config import Config
from keras import ops

ROOT_HALF = 0.5**0.5
HEAD_WIDTH = 96
# of a refiner: what goes into these is what it finds at each of its levels of time, on the way down and back
LISTENED = ("down1", "down2", "down3", "up2", "up1", "up0", "out")


class SpectralConv(keras.layers.Layer):
    """A convolution whose kernel, as a matrix, has the norm 1, so that a critic cannot become steep.

    Source: Miyato et al., arXiv 1802.05957; its vector is found anew at each step, as nothing else then has to be kept.
    """

    iterations = 8

    def __init__(self, width: int, taps: int, **options: Any) -> None:
        super().__init__(**options)
        self.width, self.taps = width, taps

    def build(self, shape: tuple[Any, ...]) -> None:
        kernel = (self.taps, shape[-1], self.width)
        # the smaller it begins, the further a step turns it, as its length is of no account
        small = keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")
        self.kernel = self.add_weight(shape=kernel, initializer=small, name="kernel")
        self.bias = self.add_weight(shape=(self.width,), initializer="zeros", name="bias")

    def call(self, x: Any) -> Any:
        kernel = ops.cast(self.kernel, "float32")
        matrix = ops.reshape(kernel, (-1, self.width))
        still = ops.stop_gradient(matrix)
        # the power method, from the same vector each time
        along = lambda _, right: _unit(ops.matmul(_unit(ops.matmul(still, right)), still))  # noqa: E731
        right = ops.fori_loop(0, self.iterations, along, ops.ones((self.width,)))
        norm = ops.norm(ops.matmul(matrix, ops.stop_gradient(right)))
        return ops.conv(x, ops.cast(kernel / norm, x.dtype), padding="same") + self.bias


def _unit(vector: Any) -> Any:
    return vector / (ops.norm(vector) + 1e-12)


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


class DenoiserFeatures:
    """What latents are judged by: themselves, what the frozen `refiner` finds in them on its way, and what it guesses.

    Latents x (B, T, C) with some noise, beside conditions (B, T, n), T a multiple of 8 -> (B, T / 1, 2, 4 or 8, channels) each,
    normalised by what they are of `examples` (B, T, C + n), which are music. The refiner is given x * `scale` + `mean` (C,).
    """

    def __init__(self, refiner: keras.Model, examples: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> None:
        layers = [refiner.get_layer(name) for name in LISTENED]
        self.found = keras.Model(refiner.input, [*(layer.input for layer in layers), refiner.output])
        self.mean, self.scale = mean, scale
        features = self._of(ops.convert_to_tensor(examples))
        self.shapes = [x.shape[1:] for x in features]
        self.normal = [(ops.mean(x, axis=(0, 1)), ops.std(x, axis=(0, 1)) + 1e-3) for x in features]

    def __call__(self, x: Any) -> list[Any]:
        return [(y - mean) / deviation for y, (mean, deviation) in zip(self._of(x), self.normal, strict=True)]

    def _of(self, x: Any) -> list[Any]:
        latents, conditions = x[:, :, : len(self.mean)], x[:, :, len(self.mean) :]
        found = self.found(ops.concatenate([latents * self.scale + self.mean, conditions], axis=2), training=True)
        return [ops.cast(y, "float32") for y in (latents, *found)]


def heads(shapes: Sequence[tuple[int, int]]) -> keras.Model:
    """Features (B, T / 1, 2, 4 or 8, channels) of these shapes (steps, channels), of which the first has T -> a score by each (B, T, heads)."""
    inputs = [keras.Input(shape) for shape in shapes]
    scores = []
    for i, (x, (steps, _)) in enumerate(zip(inputs, shapes, strict=True)):
        for layer, taps in enumerate((1, 3, 3)):
            x = _leaky(SpectralConv(HEAD_WIDTH, taps, name=f"h{i}_c{layer}")(x))
        score = SpectralConv(1, 1, dtype="float32", name=f"h{i}_score")(x)
        scores.append(keras.layers.UpSampling1D(shapes[0][0] // steps)(score))
    return keras.Model(inputs, keras.layers.Concatenate(dtype="float32")(scores), name="heads")


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
