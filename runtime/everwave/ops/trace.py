"""An op set that computes nothing: it records the graph, from which follow parameters, work and memory.

`trace(network, config)` is the one description that the weights format checks files against, the engine
compiles, and the benchmarks divide by.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod
from typing import Any

from ..config import Config
from ..networks import NETWORKS, input_shape
from .blocks import Blocks


@dataclass(frozen=True, eq=False)
class Node:
    """One tensor of the graph and the operation that makes it; `shape` is (None, time, channels)."""

    kind: str  # input, block, dense, pool, shuffle, add, scale
    shape: tuple[Any, int, int]
    inputs: tuple[Node, ...] = ()
    name: str = ""
    attributes: dict[str, Any] = field(default_factory=dict)

    def __add__(self, other: Node) -> Node:
        return Node("add", self.shape, (self, other))

    def __rmul__(self, factor: float) -> Node:
        return Node("scale", self.shape, (self,), attributes={"factor": factor})


class Trace(Blocks):
    """Makes nodes, and records the shape of every parameter."""

    def __init__(self) -> None:
        self.parameters: dict[str, tuple[int, ...]] = {}

    def block(self, name: str, x: Node, width: int, *, kernel: int, stride: int = 1, padding: str = "same",
              up: bool = False, noise: bool = False, style: Node | None = None, activation: str | None = None) -> Node:  # fmt: skip
        steps = 2 * x.shape[1] if up else -(-x.shape[1] // stride)
        if padding == "valid":
            steps = (x.shape[1] - kernel) // stride + 1
        self._parameters(name, (kernel, x.shape[2], width), noise, style)
        attributes = {
            "kernel": kernel, "stride": stride, "padding": padding, "up": up, "noise": noise, "activation": activation,
            "styled": style is not None,
        }  # fmt: skip
        inputs = (x,) if style is None else (x, style)
        return Node("block", (None, steps, width), inputs, name, attributes)

    def styled_dense(self, name: str, x: Node, style: Node, steps: int, width: int) -> Node:
        self._parameters(name, (x.shape[1] * x.shape[2], steps * width), True, style, style_width=width)
        return Node("dense", (None, steps, width), (x, style), name, {"noise": True})

    def average_pool(self, x: Node) -> Node:
        return Node("pool", (None, x.shape[1] // 2, x.shape[2]), (x,))

    def pixel_shuffle(self, x: Node) -> Node:
        return Node("shuffle", (None, 2 * x.shape[1], x.shape[2] // 2), (x,))

    def _parameters(
        self, name: str, kernel: tuple[int, ...], noise: bool, style: Node | None, style_width: int | None = None
    ) -> None:
        self.parameters[f"{name}/kernel"] = kernel
        self.parameters[f"{name}/bias"] = kernel[-1:]
        if noise:
            self.parameters[f"{name}/noise"] = (1,)
        if style is not None:
            width = style_width or kernel[-1]
            self.parameters[f"{name}/style_kernel"] = (1, style.shape[2], width)
            self.parameters[f"{name}/style_bias"] = (width,)


@dataclass(frozen=True)
class Graph:
    """A traced network: its input, outputs, every node in order, and its parameters by name."""

    input: Node
    outputs: tuple[Node, ...]
    nodes: tuple[Node, ...]
    parameters: dict[str, tuple[int, ...]]

    @property
    def parameter_count(self) -> int:
        return sum(map(prod, self.parameters.values()))


@lru_cache(maxsize=64)
def trace(network: str, config: Config) -> Graph:
    """The graph of one window of `network` (a name in `networks.NETWORKS`)."""
    nn = Trace()
    start = Node("input", (None, *input_shape(network, config)))
    result = NETWORKS[network](nn, start, config)
    outputs = result if isinstance(result, tuple) else (result,)
    return Graph(start, outputs, tuple(_in_order(outputs)), nn.parameters)


def _in_order(outputs: tuple[Node, ...]) -> Iterator[Node]:
    """Every node after its inputs (sums and scalings are made by operators, so they are found from the outputs)."""
    seen: set[int] = set()

    def visit(node: Node) -> Iterator[Node]:
        if id(node) not in seen:
            seen.add(id(node))
            for source in node.inputs:
                yield from visit(source)
            yield node

    for output in outputs:
        yield from visit(output)
