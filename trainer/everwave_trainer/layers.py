"""The Keras op set: the runtime's networks as trainable models, with the same parameter names and shapes.

Only `keras.ops` is used, so every Keras backend trains the same models.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from everwave.config import Config
from everwave.networks import NETWORKS, input_shape
from everwave.ops.blocks import Blocks
from everwave.ops.numpy_ops import ADAIN_EPSILON
from keras import ops

ACTIVATIONS = {None: lambda x: x, "swish": ops.silu, "tanh": ops.tanh, "clip": lambda x: ops.clip(x, -1.0, 1.0)}


class Block(keras.layers.Layer):
    """One convolution (transposed if `up`), or one dense layer if `steps`, with its whole epilogue.

    Inputs are a list: x (B, T, C)[, style (B, T', S)][, noise (B, T', 1)]. Noise that is not given is drawn
    from `seed`. Layers without a hidden activation are outputs and stay in float32 under mixed precision.
    """

    def __init__(self, width: int, *, kernel: int = 1, stride: int = 1, padding: str = "same", up: bool = False,
                 noise: bool = False, styled: bool = False, activation: str | None = None, steps: int = 0,
                 seed: keras.random.SeedGenerator | None = None, name: str) -> None:  # fmt: skip
        super().__init__(name=name, dtype=None if activation == "swish" else "float32")
        self.width, self.taps, self.stride, self.padding, self.up = width, kernel, stride, padding, up
        self.steps, self.noisy, self.styled, self.activation, self.seed = steps, noise, styled, activation, seed

    def build(self, shapes: list[tuple[Any, ...]]) -> None:
        _, steps, channels = shapes[0]
        shape = (steps * channels, self.steps * self.width) if self.steps else (self.taps, channels, self.width)
        self.kernel = self.add_weight(shape=shape, initializer="he_uniform", name="kernel")
        self.bias = self.add_weight(shape=shape[-1:], initializer="zeros", name="bias")
        if self.noisy:
            self.noise = self.add_weight(shape=(1,), initializer="zeros", name="noise")
        if self.styled:
            style = (1, shapes[1][-1], self.width)
            self.style_kernel = self.add_weight(shape=style, initializer="he_uniform", name="style_kernel")
            self.style_bias = self.add_weight(shape=(self.width,), initializer="zeros", name="style_bias")
        self.built = True

    def call(self, inputs: list[Any]) -> Any:
        x, *rest = [ops.cast(i, self.compute_dtype) for i in inputs]
        if self.steps:
            y = ops.matmul(ops.reshape(x, (-1, self.kernel.shape[0])), self.kernel) + self.bias
            y = ops.reshape(y, (-1, self.steps, self.width))
        elif self.up:
            y = ops.conv_transpose(x, ops.transpose(self.kernel, (0, 2, 1)), 2, padding="same") + self.bias
        else:
            y = ops.conv(x, self.kernel, self.stride, padding=self.padding) + self.bias
        style = rest.pop(0) if self.styled else None
        if self.noisy:
            shape = (ops.shape(y)[0], y.shape[1], 1)
            noise = rest[0] if rest else keras.random.normal(shape, dtype=self.compute_dtype, seed=self.seed)
            y = y + self.noise * noise
        if style is not None:
            y = self._adain(y, ops.matmul(style, self.style_kernel[0]) + self.style_bias)
        return ACTIVATIONS[self.activation](y)

    def _adain(self, y: Any, gain: Any) -> Any:
        """y / std over time * gain; the statistics in float32, and with a gradient where the variance is 0."""
        wide = ops.cast(y, "float32")
        centred = wide - ops.mean(wide, axis=1, keepdims=True)
        deviation = ops.sqrt(ops.mean(ops.square(centred), axis=1, keepdims=True) + 1e-12)
        return y * ops.cast(1.0 / (deviation + ADAIN_EPSILON), y.dtype) * gain


class KerasOps(Blocks):
    """Builds layers; `noise` maps layer names to given noise (for checks), else noise is drawn from `seed`."""

    def __init__(self, seed: keras.random.SeedGenerator | None = None, noise: dict[str, Any] | None = None) -> None:
        self.seed = seed
        self.noise = noise

    def block(self, name: str, x: Any, width: int, *, style: Any = None, **options: Any) -> Any:
        return self._apply(Block(width, styled=style is not None, seed=self.seed, name=name, **options), x, style)

    def styled_dense(self, name: str, x: Any, style: Any, steps: int, width: int) -> Any:
        layer = Block(width, steps=steps, noise=True, styled=True, activation="swish", seed=self.seed, name=name)
        return self._apply(layer, x, style)

    def scale(self, factor: float, x: Any) -> Any:
        return keras.layers.Rescaling(factor)(x)

    def average_pool(self, x: Any) -> Any:
        return keras.layers.AveragePooling1D(2)(x)

    def pixel_shuffle(self, x: Any) -> Any:
        _, steps, channels = x.shape
        x = ops.transpose(ops.reshape(x, (-1, steps, channels // 2, 2)), (0, 1, 3, 2))
        return ops.reshape(x, (-1, 2 * steps, channels // 2))

    def _apply(self, layer: Block, x: Any, style: Any) -> Any:
        inputs = [x] if style is None else [x, style]
        if layer.noisy and self.noise is not None:
            steps = layer.steps or (2 * x.shape[1] if layer.up else -(-x.shape[1] // layer.stride))
            self.noise[layer.name] = keras.Input((steps, 1), name=f"noise_{layer.name}")
            inputs.append(self.noise[layer.name])
        return layer(inputs)


def build(
    network: str, config: Config, seed: keras.random.SeedGenerator | None = None, given_noise: bool = False,
    any_length: bool = False,
) -> keras.Model:  # fmt: skip
    """A Keras model of `network`; with `given_noise` it takes [x, {layer: noise (B, T, 1)}] instead of x.

    `any_length`: T may differ from call to call, which is for networks of plain convolutions.
    """
    steps, channels = input_shape(network, config)
    x = keras.Input((None if any_length else steps, channels), name="x")
    noise: dict[str, Any] | None = {} if given_noise else None
    outputs = NETWORKS[network](KerasOps(seed, noise), x, config)
    return keras.Model([x, noise] if given_noise else x, outputs, name=network)


def variables(model: keras.Model) -> dict[str, keras.Variable]:
    """The model's weights under the runtime's names (`d0/kernel` ...)."""
    blocks = (layer for layer in model.layers if isinstance(layer, Block))
    return {f"{layer.name}/{weight.name}": weight for layer in blocks for weight in layer.weights}


def numbers(variables: Mapping[str, keras.Variable]) -> dict[str, np.ndarray]:
    """What named variables hold, float32."""
    return {name: np.asarray(ops.convert_to_numpy(v), np.float32) for name, v in variables.items()}


def parameters(model: keras.Model) -> dict[str, np.ndarray]:
    """The model's weights under the runtime's names, float32."""
    return numbers(variables(model))


def set_parameters(model: keras.Model, values: Mapping[str, np.ndarray]) -> None:
    """Load what `parameters` gave; KeyError or ValueError if a name or a shape does not fit."""
    for name, variable in variables(model).items():
        variable.assign(values[name])
