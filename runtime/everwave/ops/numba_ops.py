"""The engine: a network compiled into a plan, run by the kernels, one workspace per thread."""

from __future__ import annotations

import ctypes
import logging
import threading
from collections.abc import Mapping
from contextlib import suppress
from functools import cache

import numpy as np

from .. import kernels
from ..config import Config
from ..errors import UsageError
from ..kernels.paths import Path, choose, reject
from . import Array, Noise, packing
from . import plan as planning
from .numpy_ops import NumpyOps
from .trace import Graph, Node, Trace, trace

log = logging.getLogger(__name__)
NOTHING = np.zeros(0, np.float32)


class NumbaNetwork:
    """`network(x, noise=None)`: x (batch, time, channels) float32 -> tuple of float32 (batch, time, channels).

    Thread-safe: each thread has its own workspace. The arrays returned are valid until the same thread calls the
    same network again, or ends. A window's result is the same to the bit whatever batch it is in.
    """

    def __init__(
        self, graph: Graph, parameters: Mapping[str, Array], path: Path, capacity: int, name: str = ""
    ) -> None:
        """Compiles and packs; `capacity` is how many windows go through all layers together."""
        self.name, self.path, self.precision = name, path, path.precision
        _give_back()  # of whatever made the parameters, and of those of the network before
        self.plan = planning.compile(graph, parameters, path, capacity)
        _give_back()
        self._vector = (np.float32(0),) * path.lanes
        self._rows, self._panels = None if path.unit else (0,) * path.rows, packing.panels(path)
        self._threads, self._spare = threading.local(), list[Workspace]()

    def __call__(self, x: Array, noise: Noise | None = None) -> tuple[Array, ...]:
        shape = self.plan.input_shape
        if x.ndim != 3 or x.shape[1:] != shape:
            raise UsageError(f"{self.name}: input of shape {x.shape}; it must be (windows, {shape[0]}, {shape[1]})")
        numbers = {layer: noise(layer, len(x), steps) for layer, _, steps in self.plan.noise} if noise else {}
        capacity = self.plan.capacity
        if len(x) <= capacity:
            return self._run(x, numbers)
        parts = []
        for i in range(0, len(x), capacity):
            part = {layer: values[i : i + capacity] for layer, values in numbers.items()}
            parts.append([y.copy() for y in self._run(x[i : i + capacity], part)])
        return tuple(map(np.concatenate, zip(*parts, strict=True)))

    def _run(self, x: Array, numbers: Mapping[str, Array]) -> tuple[Array, ...]:
        batch, plan, space = len(x), self.plan, self._workspace()
        for layer, start, steps in plan.noise:
            space.noise[start : start + batch * steps] = numbers[layer].reshape(-1) if numbers else 0
        self.run_steps(plan.steps, batch, np.ascontiguousarray(x, np.float32).reshape(-1))
        return tuple(
            space.out[start : start + batch * steps * width].reshape(batch, steps, width)
            for start, steps, width in plan.outputs
        )

    def run_steps(self, steps: Array, batch: int, x: Array = NOTHING) -> None:
        """These steps of the plan on this thread's workspace as it is; benchmarks time single ones."""
        plan, space = self.plan, self._workspace()
        kernels.run(
            self.path.multiplier, self._vector, self._rows, *self._panels, steps, len(steps), batch, x, space.arena, space.packed,
            space.out, plan.weights, plan.constants, plan.tables, space.noise, space.tile,
        )  # fmt: skip

    def _workspace(self) -> Workspace:
        if not hasattr(self._threads, "lease"):
            self._threads.lease = Lease(self.plan, self._spare)
        space: Workspace = self._threads.lease.space
        return space


class Workspace:
    """One thread's memory for one network."""

    def __init__(self, plan: planning.Plan) -> None:
        self.arena = packing.aligned(plan.arena_size, packing.element(plan.path))
        self.packed = packing.aligned(plan.packed_size, packing.element(plan.path))
        self.out = packing.aligned(plan.out_size, np.float32)
        self.noise = np.zeros(plan.noise_size, np.float32)
        self.tile = packing.aligned(plan.tile_size, np.float32)


class Lease:
    """A workspace for as long as a thread lives; the next thread takes it over: to touch new memory takes milliseconds."""

    def __init__(self, plan: planning.Plan, spare: list[Workspace]) -> None:
        self._spare = spare
        try:
            self.space = spare.pop()
        except IndexError:
            self.space = Workspace(plan)

    def __del__(self) -> None:
        if hasattr(self, "space"):  # else there was no memory for it
            self._spare.append(self.space)


def _give_back() -> None:
    """Freed memory back to the system: packing leaves holes as large as the weights in glibc's heap, where that is used."""
    with suppress(OSError, AttributeError, TypeError):  # TypeError: Windows has no library without a name
        ctypes.CDLL(None).malloc_trim(0)


# Products in bfloat16 are a fair default for what is made up; what listens stays exact.
BFLOAT16_NETWORKS = ("generator", "refiner", "chunk_decoder", "frame_decoder")


def preferred_batch(name: str) -> int:
    """Windows per call that run fastest: enough rows to use a weight often while it is in cache, few enough for it."""
    return {"generator": 1, "refiner": 1}.get(name, 24)


def numba_network(
    name: str, config: Config, parameters: Mapping[str, Array], precision: str = "float32", path: str | None = None
) -> NumbaNetwork:
    """The network called `name` on the fastest path this CPU has for `precision`, or on the path named `path`.

    With "auto" and "bfloat16" generator, refiner and decoders multiply in bfloat16; the encoders stay in float32.
    A bfloat16 path that fails its check is left out, with a warning.
    """
    chosen = choose(precision, path)
    if name not in BFLOAT16_NETWORKS:
        chosen = choose("float32", path)
    while chosen.precision == "bfloat16" and (trouble := fault(chosen)):
        log.warning("path %s is not used on this machine: %s", chosen.name, trouble)
        reject(chosen)
        chosen = choose(precision, path)
    return NumbaNetwork(trace(name, config), parameters, chosen, preferred_batch(name), name)


@cache
def fault(path: Path) -> str:
    """What is wrong with `path` on this machine, or "": one layer of small whole numbers, exact in bfloat16, beside NumPy.

    What CPUs, hypervisors and emulators promise of their youngest instructions is seen before it is believed. Costs
    a few milliseconds once per process, and the compilation that the first call would have cost.
    """
    nn, x = Trace(), Node("input", (None, 70, 128))
    graph = Graph(x, (y := nn.block("check", x, 50, kernel=3),), (x, y), nn.parameters)
    rng = np.random.default_rng(0)
    weights = {key: rng.integers(-8, 9, shape).astype(np.float32) for key, shape in graph.parameters.items()}
    numbers = rng.integers(-8, 9, (1, 70, 128)).astype(np.float32)
    try:
        (result,) = NumbaNetwork(graph, weights, path, 1)(numbers)
    except Exception as error:  # whatever the compiler's trouble, the next path may do without
        return f"{type(error).__name__}: {error}"
    exact = NumpyOps(weights).block("check", numbers, 50, kernel=3)
    return "" if np.array_equal(result, exact) else "it multiplies wrongly"
