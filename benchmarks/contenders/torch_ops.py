"""The PyTorch op set: a network as eager PyTorch calls in float32 or bfloat16.

Tensors are (B, T, C), contiguous; a convolution sees them as pictures of height one, (B, C, 1, T), channels last,
which is the layout that PyTorch's CPU convolutions like best. Noise is torch.randn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from everwave.config import Config
from everwave.networks import NETWORKS
from everwave.ops.blocks import Blocks, same_padding
from everwave.ops.numpy_ops import ADAIN_EPSILON
from everwave.ops.trace import trace
from torch import Tensor
from torch.nn import functional

from . import Setting, Source

if TYPE_CHECKING:
    from . import Run

ACTIVATIONS: dict[str | None, Callable[[Tensor], Tensor]] = {
    None: lambda x: x,
    "swish": functional.silu,
    "tanh": torch.tanh,
    "clip": lambda x: torch.clamp(x, -1, 1),
}


class TorchOps(Blocks):
    """Computes with the tensors that `arrange` made of the runtime's parameters."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self.weights = weights

    def block(self, name: str, x: Tensor, width: int, *, kernel: int, stride: int = 1, padding: str = "same",
              up: bool = False, noise: bool = False, style: Tensor | None = None, activation: str | None = None) -> Tensor:  # fmt: skip
        weights, bias = self.weights[f"{name}/kernel"], self.weights[f"{name}/bias"]
        picture = x.mT.unsqueeze(2)
        if up:
            y = functional.conv_transpose2d(picture, weights, bias, (1, 2), (0, 1))
        else:
            left, right = same_padding(kernel, stride, x.shape[1]) if padding == "same" else (0, 0)
            if left != right:
                picture, left = functional.pad(picture, (left, right)), 0
            y = functional.conv2d(picture, weights, bias, (1, stride), (0, left))
        return self._epilogue(name, y.squeeze(2).mT, noise, style, activation)

    def styled_dense(self, name: str, x: Tensor, style: Tensor, steps: int, width: int) -> Tensor:
        y = torch.addmm(self.weights[f"{name}/bias"], x.flatten(1), self.weights[f"{name}/kernel"])
        return self._epilogue(name, y.unflatten(1, (steps, width)), True, style, "swish")

    def average_pool(self, x: Tensor) -> Tensor:
        return (x[:, 0::2] + x[:, 1::2]) * 0.5

    def pixel_shuffle(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (-1, 2)).transpose(2, 3).flatten(1, 2)

    def _epilogue(self, name: str, y: Tensor, noise: bool, style: Tensor | None, activation: str | None) -> Tensor:
        if noise:
            y = y + self.weights[f"{name}/noise"] * torch.randn((*y.shape[:2], 1), dtype=y.dtype)
        if style is not None:
            gain = functional.linear(style, self.weights[f"{name}/style_kernel"], self.weights[f"{name}/style_bias"])
            y = y / (y.std(dim=1, keepdim=True, correction=0) + ADAIN_EPSILON) * gain
        return ACTIVATIONS[activation](y)


def arrange(
    network: str, config: Config, parameters: Mapping[str, np.ndarray], dtype: torch.dtype
) -> dict[str, Tensor]:
    """Tensors in PyTorch's order: kernels (C_out, C_in, 1, k), transposed ones (C_in, C_out, 1, k), channels last."""
    ups = {node.name for node in trace(network, config).nodes if node.attributes.get("up")}
    result = {}
    for key, value in parameters.items():
        name, what = key.split("/")
        tensor = torch.from_numpy(value).to(dtype)
        if what == "kernel" and tensor.ndim == 3:
            tensor = tensor.permute((1, 2, 0) if name in ups else (2, 1, 0)).unsqueeze(2)
            tensor = tensor.contiguous(memory_format=torch.channels_last)
        elif what == "style_kernel":
            tensor = tensor[0].T.contiguous()
        result[key] = tensor
    return result


def load(network: str, source: Source, batch: int, setting: Setting, precision: str) -> Run:
    """Outputs are float32 whatever the precision, as the inverse STFT needs them."""
    dtype = getattr(torch, precision)
    config = source.config
    nn = TorchOps(arrange(network, config, source.parameters(network), dtype))

    def run(x: np.ndarray) -> tuple[np.ndarray, ...]:
        torch.set_num_threads(setting.threads_per_worker)  # holds for the calling thread
        with torch.inference_mode():
            result = NETWORKS[network](nn, torch.from_numpy(x).to(dtype), config)
            return tuple(y.float().numpy() for y in (result if isinstance(result, tuple) else (result,)))

    return run
