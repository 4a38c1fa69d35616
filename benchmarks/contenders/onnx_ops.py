"""The ONNX op set: a network as an ONNX graph with its weights inside, for whatever runtime reads ONNX.

Inside the graph tensors are pictures of height one, (B, C, 1, T): the runtimes' convolution kernels for pictures are
up to twice as fast as the ones for sequences. Input and outputs are (B, T, C) like everywhere else, and B stays
open. The graph draws the injected noise itself (RandomNormalLike).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from everwave.config import Config
from everwave.networks import NETWORKS, input_shape
from everwave.ops.blocks import Blocks, same_padding
from everwave.ops.numpy_ops import ADAIN_EPSILON
from onnx import TensorProto, helper, numpy_helper

OPSET, IR_VERSION = 17, 8  # old enough for every runtime that pip installs today

Shape = tuple[Any, int, int]


@dataclass(frozen=True)
class Tensor:
    """A named value of the graph; `shape` is (None, time, channels) however the value is stored."""

    nn: OnnxOps
    name: str
    shape: Shape

    def __add__(self, other: Tensor) -> Tensor:
        return self.nn.node("Add", [self, other], self.shape)


class OnnxOps(Blocks):
    """Collects nodes and constants; `parameters` maps names to float32 arrays."""

    def __init__(self, parameters: Mapping[str, np.ndarray]) -> None:
        self.parameters = parameters
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def block(self, name: str, x: Tensor, width: int, *, kernel: int, stride: int = 1, padding: str = "same",
              up: bool = False, noise: bool = False, style: Tensor | None = None, activation: str | None = None) -> Tensor:  # fmt: skip
        steps = x.shape[1]
        left, right = (1, 1) if up else same_padding(kernel, stride, steps) if padding == "same" else (0, 0)
        length = 2 * steps if up else (steps + left + right - kernel) // stride + 1
        weights = self.parameters[f"{name}/kernel"].transpose((1, 2, 0) if up else (2, 1, 0))[:, :, None]
        y = self.node(
            "ConvTranspose" if up else "Conv", [x, weights, self.parameters[f"{name}/bias"]], (None, length, width),
            kernel_shape=[1, kernel], strides=[1, 2 if up else stride], pads=[0, left, 0, right],
        )  # fmt: skip
        return self._epilogue(name, y, noise, style, activation)

    def styled_dense(self, name: str, x: Tensor, style: Tensor, steps: int, width: int) -> Tensor:
        rows = self.node("Reshape", [self.rows(x), [0, -1]], x.shape)
        weights, bias = self.parameters[f"{name}/kernel"], self.parameters[f"{name}/bias"]
        y = self.node("Gemm", [rows, weights, bias], x.shape)
        y = self.node("Reshape", [y, [0, steps, width]], (None, steps, width))
        return self._epilogue(name, self.picture(y), True, style, "swish")

    def scale(self, factor: float, x: Tensor) -> Tensor:
        return self.node("Mul", [x, np.float32(factor)], x.shape)

    def average_pool(self, x: Tensor) -> Tensor:
        shape = (None, x.shape[1] // 2, x.shape[2])
        return self.node("AveragePool", [x], shape, kernel_shape=[1, 2], strides=[1, 2])

    def pixel_shuffle(self, x: Tensor) -> Tensor:
        _, steps, channels = x.shape
        y = self.node("Reshape", [x, [0, channels // 2, 2, steps]], x.shape)
        y = self.node("Transpose", [y], x.shape, perm=[0, 1, 3, 2])
        return self.node("Reshape", [y, [0, channels // 2, 1, 2 * steps]], (None, 2 * steps, channels // 2))

    def _epilogue(self, name: str, y: Tensor, noise: bool, style: Tensor | None, activation: str | None) -> Tensor:
        if noise:
            row = self.node("Slice", [y, [0], [1], [1]], y.shape)  # one channel: one number per step
            numbers = self.node("RandomNormalLike", [row], y.shape, dtype=TensorProto.FLOAT)
            y = y + self.node("Mul", [numbers, self.parameters[f"{name}/noise"]], y.shape)
        if style is not None:
            y = self._adain(name, y, style)
        if activation == "swish":
            return self.node("Mul", [y, self.node("Sigmoid", [y], y.shape)], y.shape)
        if activation == "clip":
            return self.node("Clip", [y, np.float32(-1), np.float32(1)], y.shape)
        return self.node("Tanh", [y], y.shape) if activation == "tanh" else y

    def _adain(self, name: str, y: Tensor, style: Tensor) -> Tensor:
        kernel = self.parameters[f"{name}/style_kernel"].transpose(2, 1, 0)[:, :, None]
        gain = self.node("Conv", [style, kernel, self.parameters[f"{name}/style_bias"]], y.shape)
        centred = self.node("Sub", [y, self.node("ReduceMean", [y], y.shape, axes=[-1])], y.shape)
        variance = self.node("ReduceMean", [self.node("Mul", [centred, centred], y.shape)], y.shape, axes=[-1])
        divisor = self.node("Add", [self.node("Sqrt", [variance], y.shape), np.float32(ADAIN_EPSILON)], y.shape)
        return self.node("Mul", [self.node("Div", [y, divisor], y.shape), gain], y.shape)

    # -- graph ------------------------------------------------------------------------------------------------------

    def node(self, kind: str, inputs: list[Any], shape: Shape, **attributes: Any) -> Tensor:
        """Adds the operator `kind`; inputs are tensors, arrays (constants) or lists of integers (shapes and axes)."""
        name = f"t{len(self.nodes)}"
        sources = [x.name if isinstance(x, Tensor) else self._constant(x) for x in inputs]
        self.nodes.append(helper.make_node(kind, sources, [name], **attributes))
        return Tensor(self, name, shape)

    def _constant(self, value: Any) -> str:
        name = f"c{len(self.constants)}"
        array = np.array(value, np.int64) if isinstance(value, list) else np.ascontiguousarray(value)
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def picture(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, C, 1, T)"""
        return self.node("Unsqueeze", [self.node("Transpose", [x], x.shape, perm=[0, 2, 1]), [2]], x.shape)

    def rows(self, x: Tensor) -> Tensor:
        """(B, C, 1, T) -> (B, T, C)"""
        return self.node("Transpose", [self.node("Squeeze", [x, [2]], x.shape)], x.shape, perm=[0, 2, 1])


def export(network: str, config: Config, parameters: Mapping[str, np.ndarray], path: Path) -> None:
    """Write `network` as an ONNX file: input `x` (B, T, C), outputs `y0`, `y1` ... (B, T', C')."""
    nn = OnnxOps(parameters)
    shape = (None, *input_shape(network, config))
    result = NETWORKS[network](nn, nn.picture(Tensor(nn, "x", shape)), config)
    outputs = []
    for i, y in enumerate(result if isinstance(result, tuple) else (result,)):
        nn.nodes.append(helper.make_node("Identity", [nn.rows(y).name], [f"y{i}"]))
        outputs.append(helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, ["B", *y.shape[1:]]))
    start = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", *shape[1:]])
    graph = helper.make_graph(nn.nodes, network, [start], outputs, nn.constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
