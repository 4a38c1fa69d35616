"""The vocabulary that networks are written in; an op set supplies `block`, `styled_dense`, `average_pool`, `pixel_shuffle`."""

from __future__ import annotations

from typing import Any

Tensor = Any


class Blocks:
    """Names for the few kinds of block; all but the dense stem are one convolution with one epilogue."""

    def block(
        self,
        name: str,
        x: Tensor,
        width: int,
        *,
        kernel: int,
        stride: int = 1,
        padding: str = "same",
        up: bool = False,
        noise: bool = False,
        style: Tensor | None = None,
        activation: str | None = None,
    ) -> Tensor:
        """Convolution (transposed if `up`) + bias [+ noise] [x AdaIN(style)] [activation: swish, tanh or clip]."""
        raise NotImplementedError

    def conv(self, name: str, x: Tensor, width: int, kernel: int = 1, activation: str | None = None) -> Tensor:
        return self.block(name, x, width, kernel=kernel, activation=activation)

    def conv_block(
        self,
        name: str,
        x: Tensor,
        width: int,
        kernel: int = 3,
        stride: int = 1,
        padding: str = "same",
        noise: bool = False,
    ) -> Tensor:
        return self.block(
            name, x, width, kernel=kernel, stride=stride, padding=padding, noise=noise, activation="swish"
        )

    def up_block(self, name: str, x: Tensor, width: int, noise: bool = True) -> Tensor:
        return self.block(name, x, width, kernel=4, up=True, noise=noise, activation="swish")

    def styled_block(self, name: str, x: Tensor, style: Tensor, width: int, kernel: int = 4) -> Tensor:
        return self.block(name, x, width, kernel=kernel, noise=True, style=style, activation="swish")

    def styled_up(self, name: str, x: Tensor, style: Tensor, width: int) -> Tensor:
        return self.block(name, x, width, kernel=4, up=True, noise=True, style=style, activation="swish")

    def scale(self, factor: float, x: Tensor) -> Tensor:
        return factor * x


def same_padding(kernel: int, stride: int, steps: int) -> tuple[int, int]:
    """(left, right) zeros of a 'same' convolution as TensorFlow pads it: the odd one on the right."""
    total = max((-(-steps // stride) - 1) * stride + kernel - steps, 0)
    return total // 2, total - total // 2
