"""From a traced network to a plan: a list of integer steps over one arena, made once per network and path.

What the tracer recorded becomes products, a few element-wise steps, and the places of every tensor in an arena
that tensors share when their lifetimes do not meet. Sums move into the epilogue of the product that computes their
later term; transposed convolutions become two products of two taps; the dense stem one product per time step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import DTypeLike

from ..kernels import steps as E
from ..kernels.paths import Path
from .blocks import same_padding
from .filters import Filter, minimal_filter
from .packing import aligned, element, pack, panel_widths, stored_as
from .trace import Graph, Node

Array = np.ndarray
ACTIVATIONS = {None: E.NONE, "swish": E.SWISH, "tanh": E.TANH, "clip": E.CLIP}
SLACK = 64  # elements past the end of every array, for whole-vector reads at its edge
FILTERED = {(2, 1), (3, 1), (3, 2)}  # (taps, stride) of the convolutions that minimal filters are used for
OUTPUTS = (2, 4, 8)  # of minimal filters; the most that a path takes is its own
EXPANDING = 3  # rows that could be multiplied while a weight is expanded
FILTER_CHANNELS = 64  # below, products are too short to pay for the sums
BLOCK_BYTES = 400 * 1024  # of packed rows that one pass over the panels reads: most of a second-level cache
TILE_BLOCK_BYTES = 2048 * 1024  # the same on tile registers, where rows are read in place
OUTPUT_ROWS = 64  # that one pass writes of an output: a piece of a row at a time, so they should stay in a cache


@dataclass(frozen=True)
class Plan:
    """Steps for `kernels.engine.run`, and how large everything they point into must be."""

    path: Path
    capacity: int  # windows per call
    steps: Array  # (n, FIELDS) int64
    tables: Array  # int64 row starts
    arena_size: int  # elements
    input_shape: tuple[int, int]
    outputs: tuple[tuple[int, int, int], ...]  # (start in out, time, channels)
    noise: tuple[tuple[str, int, int], ...]  # (layer, start in noise, steps)
    weights: Array
    constants: Array

    @property
    def out_size(self) -> int:
        return sum(self.capacity * steps * width for _, steps, width in self.outputs)

    @property
    def tile_size(self) -> int:
        """Float32 numbers of scratch: tiles of a block and expanded weights of a pair, or two rows of a styled tensor."""
        widest = self.steps[:, E.WIDTH].max() + self.path.lanes
        products = self.steps[self.steps[:, E.KIND] == E.PRODUCT]
        if self.path.unit:
            tiles = 1 + int(products[:, E.BLOCK].max(initial=0)) // E.SIDE  # `exchange_sums` loads one too many
            return max(tiles * E.SIDE * E.SIDE + E.MEMORY, 2 * int(widest))
        rows = products[:, E.POINTS] * products[:, E.BLOCK] + 2 * products[:, E.DEPTH]
        rows = self.path.rows + int(rows.max(initial=0))
        return max(rows * self.path.lanes * self.path.vectors, 2 * int(widest))

    @property
    def multiplications(self) -> int:
        """Multiply-accumulates of the products of one window, as they are done: minimal filters need fewer."""
        columns = (E.STEPS, E.POINTS, E.DEPTH, E.PARTS, E.WIDTH)
        return int(self.steps[self.steps[:, E.KIND] == E.PRODUCT][:, columns].prod(axis=1).sum())

    @property
    def packed_size(self) -> int:
        """Elements of scratch for the packed rows of a block."""
        products = self.steps[self.steps[:, E.KIND] == E.PRODUCT]
        if self.path.unit:
            products = products[products[:, E.GATHERED] > 0]
        sizes = products[:, E.BLOCK] * products[:, E.POINTS] * products[:, E.DEPTH] * products[:, E.PARTS]
        return int(sizes.max(initial=0))

    @property
    def noise_size(self) -> int:
        return 1 + sum(self.capacity * steps for _, _, steps in self.noise) + SLACK


@dataclass(eq=False)
class Tensor:
    """A value of the graph that lives in the arena: windows of `steps` rows of `channels`, guards between them.

    All rows of the first `stride` channels come first, then those of the next: one piece for vectors, which read rows;
    a piece for every 32 channels for tile registers, whose rows of 32 numbers then lie side by side.
    """

    steps: int
    channels: int
    stride: int  # elements from row to row
    base: int = -1
    last_use: int = -1

    @property
    def planes(self) -> int:
        return -(-self.channels // self.stride)

    def plane(self, windows: int) -> int:
        return (E.GUARD + windows * (self.steps + E.GUARD)) * self.stride

    def size(self, windows: int) -> int:
        return self.planes * self.plane(windows)

    def rows(self, windows: int, starts: Array) -> Array:
        """Element offsets of the rows at `starts` (time steps, from -GUARD on) of every window."""
        first = E.GUARD + np.arange(windows) * (self.steps + E.GUARD)
        return (self.base + (first[:, None] + starts) * self.stride).ravel()


@dataclass(eq=False)
class Step:
    """One step before it has addresses; `fields` holds the numbers that are known already."""

    kind: int
    reads: list[Tensor]
    writes: list[Tensor]
    fields: dict[int, int] = field(default_factory=dict)
    starts: Array | None = None  # product: first input row of every output row
    source: Tensor | None = None
    target: Tensor | None = None
    every: tuple[int, int] = (0, 1)  # product: output rows first::stride of the target
    output: int = -1  # product: which of the network's outputs it writes
    total: Tensor | None = None
    residual: Tensor | None = None
    gain: Tensor | None = None


class Planner:
    """Walks the graph once; `compile` below reads the result."""

    def __init__(self, graph: Graph, parameters: Mapping[str, Array], path: Path, capacity: int) -> None:
        self.graph, self.parameters, self.path, self.capacity = graph, parameters, path, capacity
        self.lanes = path.lanes
        self.parts = 2 if path.precision == "bfloat16" else 1  # numbers in a lane of a product
        self.stored = stored_as(parameters, path)
        self.steps: list[Step] = []
        self.tensors: dict[Node, Tensor] = {}
        # factors (points, taps) or None, and what `_arranged` makes taps (taps, K, N) of: once more when all are known, one
        # product's after the other, as copies of all of them together would be more than everything else
        self.weights: list[tuple[Array | None, tuple[Array, Array, Tensor]]] = []
        self.packed = 0  # elements that they will take
        self.constants: list[Array] = [np.zeros(2 * self.lanes, np.float32)]
        self.tables: list[Array] = []
        self.noise: list[tuple[str, int, int]] = []
        self.reach = 0  # elements past the end of a tensor that tiles of rows read, and nobody uses
        self.sums = self._fused_sums()
        self.uses = {n: [m for m in graph.nodes if n in m.inputs] for n in graph.nodes}
        for node in graph.nodes:
            getattr(self, f"_{node.kind}")(node)

    def _fused_sums(self) -> dict[Node, Node]:
        """Producer -> the sum that its epilogue can make: it is the later term, and not restyled afterwards."""
        order = {node: i for i, node in enumerate(self.graph.nodes)}
        sums: dict[Node, Node] = {}
        for node in self.graph.nodes:
            if node.kind == "add":
                later = max(node.inputs, key=order.__getitem__)
                plain = later.kind == "block" and not later.attributes["styled"]
                if plain and later not in sums and node.inputs[0] is not node.inputs[1]:
                    sums[later] = node
        return sums

    def _is_last(self, residual: Node, node: Node) -> bool:
        """Whether nobody needs `residual` any more once it has been added to `node`."""
        earlier = self.graph.nodes[: self.graph.nodes.index(node)]
        return all(use in earlier for use in self.uses[residual] if use is not self.sums[node])

    def _tensor(self, node: Node) -> Tensor:
        if node not in self.tensors:
            steps, channels = node.shape[1:]
            stride = E.LINE * self.parts if self.path.unit else -(-channels // self.parts) * self.parts
            self.tensors[node] = Tensor(steps, channels, stride)
        return self.tensors[node]

    def _input(self, node: Node) -> None:
        tensor = self._tensor(node)
        self.steps.append(Step(E.LOAD, [], [tensor], target=tensor))

    def _block(self, node: Node) -> None:
        source, attributes = self.tensors[node.inputs[0]], node.attributes
        kernel = self.parameters[f"{node.name}/kernel"]
        styled = attributes["styled"]
        activation = ACTIVATIONS[None if styled else attributes["activation"]]
        noise = self._noise(node) if attributes["noise"] else None
        if attributes["up"]:
            # y[2m] = x[m-1] K3 + x[m] K1, y[2m+1] = x[m] K2 + x[m+1] K0: see numpy_ops.convolve_up
            times = np.arange(source.steps)
            self._product(node, source, kernel[3::-2], times - 1, (0, 2), activation, noise)
            self._product(node, source, kernel[2::-2], times, (1, 2), activation, noise)
        else:
            stride = attributes["stride"]
            left = same_padding(len(kernel), stride, source.steps)[0] if attributes["padding"] == "same" else 0
            times = np.arange(node.shape[1]) * stride - left
            self._product(node, source, kernel, times, (0, 1), activation, noise)
        if styled:
            self._styled(node)

    def _dense(self, node: Node) -> None:
        source, steps, width = self.tensors[node.inputs[0]], *node.shape[1:]
        flat = self.parameters[f"{node.name}/kernel"]
        bias = self.parameters[f"{node.name}/bias"]
        kernels = flat.reshape(source.steps, source.channels, steps, width)
        noise = self._noise(node)
        for t in range(steps):
            part = bias[t * width : (t + 1) * width]
            self._product(node, source, kernels[:, :, t], np.zeros(1, np.int64), (t, steps), E.NONE, noise, part)
        self._styled(node)

    def _product(self, node: Node, source: Tensor, kernel: Array, starts: Array, every: tuple[int, int],
                 activation: int, noise: int | None, bias: Array | None = None) -> None:  # fmt: skip
        """One matrix product of `kernel` (taps, C, N) with the rows that start at `starts`."""
        raw, total, residual, output = self._destinations(node)
        given = kernel, starts, source
        starts, taps, factors, fields = self._arranged(*given)
        width, (first, stride) = kernel.shape[2], every
        vectors = np.zeros((2, -(-width // self.lanes) * self.lanes), np.float32)
        vectors[0, :width] = self.parameters[f"{node.name}/bias"] if bias is None else bias
        vectors[1, :width] = self.parameters[f"{node.name}/noise"][0] if noise is not None else 0
        pairs = self.parts > 1  # kernels take them as they are, so a filter's are mixed when they are packed
        filtered = fields[E.POINTS] > 1
        expanded = not pairs and (filtered or self.stored == np.float16)
        mixed = factors if filtered and pairs else None
        fields |= {
            E.STEPS: len(starts), E.DEPTH: taps.shape[1] // self.parts, E.PARTS: self.parts, E.WIDTH: width,
            E.SOURCE_STRIDE: source.stride, E.DISTINCT: len(factors),
            E.TAPS: len(kernel) if self.path.unit else len(taps) if mixed is None else len(mixed),
            E.KERNEL: self._matrix(factors) if expanded else -1,
            E.WEIGHTS: self._weights(mixed, taps.shape, given),
            E.BIAS: _append(self.constants, vectors.ravel()),
            E.NOISE: 0 if noise is None else noise + first, E.NOISE_STRIDE: 0 if noise is None else stride,
            E.ACTIVATION: activation,
            E.BLOCK: block_rows(len(starts) * self.capacity, taps.shape[1] * fields[E.POINTS], self.path, output >= 0),
        }  # fmt: skip
        self.steps.append(
            Step(
                E.PRODUCT,
                [t for t in (source, residual) if t],
                [t for t in (raw, total) if t],
                fields,
                starts=starts,
                source=source,
                target=raw,
                every=every,
                output=output,
                total=total,
                residual=residual,
            )
        )

    def _destinations(self, node: Node) -> tuple[Tensor | None, Tensor | None, Tensor | None, int]:
        """(where the results of a product go, where their sum with another tensor goes, that tensor, which output they are or -1)"""
        total = residual = None
        if sum_node := self.sums.get(node):
            (other,) = (term for term in sum_node.inputs if term is not node)
            residual = self.tensors[other]
            if self._is_last(other, node):
                self.tensors[sum_node] = residual  # each number takes the place of the one it adds to
            total = self._tensor(sum_node)
        output = self.graph.outputs.index(node) if node in self.graph.outputs else -1
        needed = any(use is not sum_node for use in self.uses[node])
        if output >= 0 and needed:
            raise NotImplementedError(f"{node.name} is an output and an inner tensor")
        return self._tensor(node) if needed else None, total, residual, output

    def _arranged(self, kernel: Array, starts: Array, source: Tensor) -> tuple[Array, Array, Array, dict[int, int]]:
        """(starts, taps (taps, depth, N), factors (points, taps), fields) of a product: by a minimal filter, or all taps side by side."""
        width, line = kernel.shape[2], E.LINE * self.parts
        taps, factors = _deeper(np.asarray(kernel), source.stride * source.planes), np.ones((1, 1))
        fields = dict.fromkeys((E.PAIRS, E.SINGLE, E.MIXED, E.EVERY, E.SPAN, E.INPUTS), 0) | {E.POINTS: 1, E.OUTPUTS: 1}
        if scheme := self._filter(kernel, starts):
            starts, taps, factors = starts[:: scheme.outputs], taps[scheme.order], scheme.kernel[:, scheme.order]
            fields = self._filtered(scheme)
        else:
            taps = taps.reshape(1, -1, width)
        fields[E.LENGTH] = taps.shape[1]
        taps = _deeper(taps, -(-taps.shape[1] // line) * line)
        if self.path.unit:  # lines of all taps side by side
            taps = taps.reshape(len(kernel), -1, line, width).swapaxes(0, 1).reshape(1, -1, width)
            pitch = int(starts[1] - starts[0]) * line if len(starts) > 1 else 0
            gathered = len(starts) % (E.SIDE // 2) != 0 and self.capacity > 1
            fields |= {E.PITCH: pitch, E.GATHERED: gathered}
            self.reach = max(self.reach, E.SIDE * pitch + len(kernel) * line)
        return starts, taps, factors, fields

    def _filter(self, kernel: Array, starts: Array) -> Filter | None:
        """The minimal filter for this convolution that should be fastest, if any is."""
        taps, stride = len(kernel), int(np.diff(starts[:2]).sum())
        if (taps, stride) not in FILTERED or min(kernel.shape[1:]) < FILTER_CHANNELS:
            return None
        sizes = [n for n in OUTPUTS if n <= self.path.filtered and len(starts) % n == 0]
        schemes = [None, *(minimal_filter(outputs, taps, stride) for outputs in sizes)]
        rows, height = len(starts) * self.capacity, self.path.rows
        return min(schemes, key=lambda scheme: cost(scheme, taps, rows, height))

    def _filtered(self, scheme: Filter) -> dict[int, int]:
        """What steps of a filtered product know of the scheme."""
        terms = int(np.count_nonzero(scheme.mix, axis=1).max())
        places = np.argsort(scheme.mix == 0, axis=1, kind="stable")[:, :terms]  # where a row ends early, of zeros
        inputs = scheme.transform[: scheme.mixed, :: scheme.stride]
        return {
            E.POINTS: scheme.products, E.OUTPUTS: scheme.outputs, E.PAIRS: scheme.pairs,
            E.SINGLE: int(np.argmax(scheme.kernel[2 * scheme.pairs, scheme.order])),
            E.MIXED: scheme.mixed, E.EVERY: scheme.stride, E.SPAN: inputs.shape[1], E.INPUTS: self._matrix(inputs),
            E.TERMS: terms, E.MIX: self._matrix(np.take_along_axis(scheme.mix, places, 1)),
            E.PLACES: _append(self.tables, places.ravel()),
        }  # fmt: skip

    def _weights(self, factors: Array | None, shape: tuple[int, ...], given: tuple[Array, Array, Tensor]) -> int:
        start, (count, depth, width) = self.packed, shape
        self.weights.append((factors, given))
        rows = (count if factors is None else len(factors)) * depth
        self.packed += rows // self.parts * sum(panel_widths(width, self.path)) * self.lanes
        return start

    def _matrix(self, matrix: Array) -> int:
        return _append(self.constants, matrix.astype(np.float32).ravel())

    def _styled(self, node: Node) -> None:
        """The gain of every step from the coordinates, then AdaIN and swish in place."""
        style, x = self.tensors[node.inputs[1]], self.tensors[node]
        gain = Node("gain", node.shape, (node.inputs[1],), f"{node.name}/style")
        kernel, bias = (self.parameters[f"{node.name}/style_{what}"] for what in ("kernel", "bias"))
        self.uses[gain] = [node]
        self._product(gain, style, kernel, np.arange(style.steps), (0, 1), E.NONE, None, bias)
        scaled = [use for use in self.uses[node] if use.kind == "scale"]
        factor = scaled[0].attributes["factor"] if len(self.uses[node]) == 1 and scaled else 1.0
        if factor != 1.0:
            self.tensors[scaled[0]] = x
        tensor = self.tensors[gain]
        self.steps.append(Step(E.STYLE, [tensor, x], [x], {E.FACTOR: self._constant(factor)}, target=x, gain=tensor))

    def _pool(self, node: Node) -> None:
        self._simple(E.POOL, node)

    def _shuffle(self, node: Node) -> None:
        self._simple(E.SHUFFLE, node)

    def _scale(self, node: Node) -> None:
        if node not in self.tensors:
            self._simple(E.COMBINE, node, {E.FACTOR: self._constant(node.attributes["factor"]), E.RESIDUAL: -1})

    def _add(self, node: Node) -> None:
        if node not in self.sums.values():
            self._simple(E.COMBINE, node, {E.FACTOR: self._constant(1.0)})

    def _simple(self, kind: int, node: Node, fields: dict[int, int] | None = None) -> None:
        source, *others = (self.tensors[n] for n in node.inputs)
        target = self._tensor(node)
        residual = others[0] if others else None
        self.steps.append(
            Step(kind, [source, *others], [target], fields or {}, source=source, target=target, residual=residual)
        )

    def _noise(self, node: Node) -> int:
        """Where the layer's noise starts; the first number of all is 0, for layers without."""
        start = 1 + sum(self.capacity * steps for _, _, steps in self.noise)
        self.noise.append((node.name, start, node.shape[1]))
        return start

    def _constant(self, value: float) -> int:
        return _append(self.constants, np.full(1, value, np.float32))


def compile(graph: Graph, parameters: Mapping[str, Array], path: Path, capacity: int) -> Plan:
    """The plan of a traced network with its weights packed, for at most `capacity` windows per call."""
    planner = Planner(graph, parameters, path, capacity)
    starts = np.cumsum([0, *(capacity * n.shape[1] * n.shape[2] for n in graph.outputs)])
    outputs = tuple((int(s), n.shape[1], n.shape[2]) for s, n in zip(starts, graph.outputs, strict=False))
    arena_size = _place(planner.steps, capacity) + planner.reach
    tables = planner.tables
    lines = [line for step in planner.steps for line in _lines(step, capacity, tables, outputs)]
    return Plan(
        path, capacity, np.array(lines, np.int64), np.concatenate(tables, dtype=np.int64), arena_size + SLACK,
        graph.input.shape[1:], outputs, tuple(planner.noise),
        _packed(planner), _aligned(planner.constants, np.float32),
    )  # fmt: skip


def cost(scheme: Filter | None, taps: int, rows: int, height: int) -> int:
    """Rows that a panel's weights are multiplied with, tiles of `height` rows filled up, and what expanding those takes."""
    points, rows = (scheme.products, rows // scheme.outputs) if scheme else (taps, rows)
    return points * (-(-rows // height) * height + EXPANDING)


def _place(steps: list[Step], capacity: int) -> int:
    """Gives every tensor its base, first fit over lifetimes; returns the size of the arena in elements."""
    for i, step in enumerate(steps):
        for tensor in (*step.reads, *step.writes):
            tensor.last_use = i
    live: list[Tensor] = []
    size = 0
    for i, step in enumerate(steps):
        live = [t for t in live if t.last_use >= i]
        for tensor in step.writes:
            if tensor.base < 0:
                need, base = tensor.size(capacity), 0
                for other in sorted(live, key=lambda t: t.base):
                    if base + need <= other.base:
                        break
                    base = max(base, -(-(other.base + other.size(capacity)) // 32) * 32)  # whole lines, of bfloat16 too
                tensor.base = base
                live.append(tensor)
                size = max(size, base + need)
    return size


def _lines(step: Step, capacity: int, tables: list[Array], outputs: tuple[tuple[int, int, int], ...]) -> list[Array]:
    """The integer rows of one step: guards of what it writes for the first time are cleared before it."""
    line = np.full(E.FIELDS, -1, np.int64)
    line[E.KIND] = step.kind
    first, stride = step.every
    if step.kind == E.PRODUCT:
        assert step.source is not None
        assert step.starts is not None
        line[E.EXTERNAL] = step.output >= 0
        line[E.SOURCE] = _append(tables, step.source.rows(capacity, step.starts))
        times = np.arange(len(step.starts) * step.fields[E.OUTPUTS]) * stride + first
        if step.output >= 0:
            start, steps, width = outputs[step.output]
            line[E.TARGET] = _append(tables, (start + (np.arange(capacity)[:, None] * steps + times) * width).ravel())
        for column, tensor in ((E.TARGET, step.target), (E.SUM, step.total), (E.RESIDUAL, step.residual)):
            if tensor:
                line[column] = _append(tables, tensor.rows(capacity, times))
        result = step.target or step.total
        line[E.STRIDE], line[E.PLANE] = (result.stride, result.plane(capacity)) if result else (1, 0)
        line[E.SOURCE_PLANE] = step.source.plane(capacity)
    else:
        assert step.target is not None
        line[E.STEPS], line[E.WIDTH], line[E.STRIDE] = step.target.steps, step.target.channels, step.target.stride
        line[E.PLANES], line[E.PLANE] = step.target.planes, step.target.plane(capacity)
        if step.source:
            line[E.SOURCE_STRIDE], line[E.SOURCE_PLANE] = step.source.stride, step.source.plane(capacity)
        for column, tensor in (
            (E.SOURCE, step.source),
            (E.TARGET, step.target),
            (E.RESIDUAL, step.residual),
            (E.GAIN, step.gain),
        ):
            if tensor:
                line[column] = tensor.base
    for column, value in step.fields.items():
        line[column] = value
    clears = [_clear(t, capacity) for t in step.writes if first == 0 and t not in step.reads]
    return [*clears, line]


def _clear(tensor: Tensor, capacity: int) -> Array:
    line = np.full(E.FIELDS, -1, np.int64)
    line[[E.KIND, E.STEPS, E.WIDTH, E.TARGET]] = E.CLEAR, tensor.steps, tensor.channels, tensor.base
    line[[E.STRIDE, E.PLANES, E.PLANE]] = tensor.stride, tensor.planes, tensor.plane(capacity)
    return line


def block_rows(rows: int, channels: int, path: Path, output: bool) -> int:
    """Rows of `channels` numbers that one pass over the panels reads; `output`: the network's, not a tensor of its own."""
    if path.unit and output:
        return min(OUTPUT_ROWS, -(-rows // path.rows) * path.rows)
    size = TILE_BLOCK_BYTES if path.unit else BLOCK_BYTES
    fitting = max(size // (np.dtype(element(path)).itemsize * channels), 8 * path.rows)
    blocks = -(-rows // fitting)
    return -(-rows // (blocks * path.rows)) * path.rows


def _packed(planner: Planner) -> Array:
    """The weights of all products, one after the other."""
    kind = np.int16 if planner.stored == np.float16 else planner.stored
    array, at = aligned(planner.packed + SLACK, kind), 0
    for factors, given in planner.weights:
        _, taps, _, _ = planner._arranged(*given)
        for panel in pack(taps, planner.path, planner.stored, factors):
            array[at : at + len(panel)] = panel
            at += len(panel)
    return array


def _deeper(taps: Array, depth: int) -> Array:
    """(T, K, N) with zeros up to `depth`; the array itself if it is as deep."""
    missing = depth - taps.shape[1]
    return np.pad(taps, ((0, 0), (0, missing), (0, 0))) if missing else taps


def _append(parts: list[Array], part: Array) -> int:
    """Adds `part` and returns where it starts once all parts are concatenated."""
    start = sum(map(len, parts))
    parts.append(part)
    return start


def _aligned(parts: list[Array], dtype: DTypeLike) -> Array:
    size = sum(map(len, parts))
    array = aligned(size + SLACK, dtype)
    np.concatenate(parts, out=array[:size])
    return array
