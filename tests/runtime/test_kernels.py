"""Every kernel of the engine beside its NumPy twin, over shapes, strides and edges, on every path this CPU has."""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any
from unittest import mock

import llvmlite.binding as llvm
import numpy as np
import pytest
from everwave.kernels import engine, jit, native, peak, vectors
from everwave.kernels import random as kernels_random
from everwave.kernels import signal as kernels_signal
from everwave.kernels import steps as E
from everwave.kernels.paths import AMX_TWIN, Path, available
from everwave.ops import packing
from everwave.ops import plan as planning
from everwave.ops.filters import minimal_filter
from everwave.ops.numba_ops import NumbaNetwork
from everwave.ops.numpy_ops import NumpyOps, convolve, convolve_up
from everwave.ops.trace import Graph, Node, Trace, _in_order
from hypothesis import given, settings
from hypothesis import strategies as st
from llvmlite import ir

Array = np.ndarray
NEON = Path("neon", 4, 6, "float32", 4)  # as `generic` is on ARM
FLOAT32 = [path for path in (*available(), NEON) if path.precision == "float32"]
PAIRS_TWIN = Path("avx512_bf16_twin", 8, 8, "bfloat16", filtered=2)  # pairs of bfloat16 in vectors, on any CPU
BFLOAT16 = [path for path in (*available(), AMX_TWIN, PAIRS_TWIN) if path.precision == "bfloat16"]
LAYERS = ["three taps", "three taps, stride 2", "transposed"]  # what minimal filters are for
paths = pytest.mark.parametrize("path", FLOAT32, ids=lambda path: path.name)
bfloat16_paths = pytest.mark.parametrize("path", BFLOAT16, ids=lambda path: path.name)
few = settings(max_examples=40, deadline=None)


def graph_of(build: Callable[[Any, Any], Any], steps: int, channels: int) -> Graph:
    """The traced graph of build(nn, x) for windows (steps, channels)."""
    nn = Trace()
    start = Node("input", (None, steps, channels))
    result = build(nn, start)
    outputs = result if isinstance(result, tuple) else (result,)
    return Graph(start, outputs, tuple(_in_order(outputs)), nn.parameters)


def random_parameters(graph: Graph, rng: np.random.Generator) -> dict[str, Array]:
    return {
        name: (rng.standard_normal(shape) / np.prod(shape[:-1]) ** 0.5).astype(np.float32)
        for name, shape in graph.parameters.items()
    }


def half_parameters(graph: Graph, rng: np.random.Generator) -> dict[str, Array]:
    return {name: value.astype(np.float16) for name, value in random_parameters(graph, rng).items()}


def noise(layer: str, batch: int, steps: int) -> Array:
    rng = np.random.default_rng(len(layer))
    return np.stack([rng.standard_normal(steps) for _ in range(batch)]).astype(np.float32)


def rounded(x: Array) -> Array:
    """Float32 numbers rounded to bfloat16."""
    return (packing.to_bfloat16(x).astype(np.uint32) << 16).view(np.float32)


class RoundedOps(NumpyOps):
    """The twin of the bfloat16 paths: tensors and kernels are rounded before products, sums are float32."""

    def block(self, name: str, x: Array, width: int, *, kernel: int, stride: int = 1, padding: str = "same",
              up: bool = False, noise: bool = False, style: Array | None = None, activation: str | None = None) -> Array:  # fmt: skip
        weights, x = rounded(self.parameters[f"{name}/kernel"]), rounded(x)
        y = convolve_up(x, weights) if up else convolve(x, weights, stride, padding)
        return self._epilogue(name, y + self.parameters[f"{name}/bias"], noise, style, activation)


def agree(
    build: Callable[[Any, Any], Any],
    batch: int,
    steps: int,
    channels: int,
    path: Path,
    tolerance: float = 3e-6,
    capacity: int = 4,
    parameters_of: Callable[[Graph, np.random.Generator], dict[str, Array]] | None = None,
) -> None:
    """The engine and the NumPy twin on the same numbers, within `tolerance` of the largest."""
    rng = np.random.default_rng([batch, steps, channels])
    graph = graph_of(build, steps, channels)
    parameters = (parameters_of or random_parameters)(graph, rng)
    x = rng.standard_normal((batch, steps, channels)).astype(np.float32)
    if parameters_of:
        assert packing.stored_as(parameters, path) == np.float16
        parameters = {name: value.astype(np.float32) for name, value in parameters.items()}
    expected = build((NumpyOps if path.precision == "float32" else RoundedOps)(parameters, noise), x)
    network = NumbaNetwork(graph, parameters, path, capacity)
    for mine, twin in zip(network(x, noise), expected if isinstance(expected, tuple) else (expected,), strict=True):
        assert mine.shape == twin.shape
        np.testing.assert_allclose(mine, twin, rtol=0, atol=tolerance * max(1.0, np.abs(twin).max()))


@paths
@few
@given(
    batch=st.integers(1, 5), steps=st.integers(1, 70), channels=st.integers(1, 37), width=st.integers(1, 110),
    kernel=st.sampled_from([1, 3, 4]), stride=st.sampled_from([1, 2]), padding=st.sampled_from(["same", "valid"]),
    activation=st.sampled_from([None, "swish", "tanh", "clip"]), noisy=st.booleans(),
)  # fmt: skip
def test_convolution(path: Path, batch: int, steps: int, channels: int, width: int, kernel: int, stride: int,
                     padding: str, activation: str | None, noisy: bool) -> None:  # fmt: skip
    steps = max(steps, kernel) if padding == "valid" else steps
    agree(
        lambda nn, x: nn.block(
            "a", x, width, kernel=kernel, stride=stride, padding=padding, activation=activation, noise=noisy
        ),
        batch, steps, channels, path,
    )  # fmt: skip


@paths
@few
@given(batch=st.integers(1, 5), steps=st.integers(1, 35), channels=st.integers(1, 37), width=st.integers(1, 110))
def test_transposed_convolution(path: Path, batch: int, steps: int, channels: int, width: int) -> None:
    agree(lambda nn, x: nn.up_block("a", x, width), batch, steps, channels, path)


@paths
@few
@given(batch=st.integers(1, 5), steps=st.integers(1, 20), channels=st.integers(1, 20), width=st.integers(1, 70))
def test_chains_share_memory_and_fuse_sums(path: Path, batch: int, steps: int, channels: int, width: int) -> None:
    """Layers whose buffers are reused: guards must be zero again; sums that one, both or no term continues from."""

    def build(nn: Any, x: Any) -> Any:
        a = nn.conv_block("a", x, width)
        b = nn.conv_block("b", a, width, noise=True)
        c = nn.conv_block("c", a + b, width + 1)
        d = nn.conv("d", c, width)
        e = nn.scale(0.5, b + d)
        f = nn.conv_block("f", e + a, 2 * width)
        return nn.conv("out", nn.pixel_shuffle(f), 5), nn.conv("other", nn.up_block("u", d, 3), 2, activation="clip")

    agree(build, batch, steps, channels, path, tolerance=1e-5)


@paths
@few
@given(batch=st.integers(1, 5), steps=st.sampled_from([4, 8, 16]), channels=st.integers(1, 9), width=st.integers(1, 40))
def test_styled_blocks(path: Path, batch: int, steps: int, channels: int, width: int) -> None:
    def build(nn: Any, x: Any) -> Any:
        low = nn.average_pool(x)
        stem = nn.styled_dense("stem", nn.average_pool(low), low, steps=steps // 2, width=width)
        up = nn.scale(0.5**0.5, nn.styled_up("up", stem, x, width))
        return nn.conv("out", up + nn.styled_block("last", up, x, width), 3, kernel=4)

    # few steps make small deviations to divide by, which enlarge the last bits
    agree(build, batch, steps, channels, path, tolerance=1e-4)


@bfloat16_paths
@few
@given(
    batch=st.integers(1, 5), steps=st.integers(1, 70), channels=st.integers(1, 37), width=st.integers(1, 110),
    kernel=st.sampled_from([1, 3, 4]), stride=st.sampled_from([1, 2]), up=st.booleans(),
    activation=st.sampled_from([None, "swish", "tanh", "clip"]),
)  # fmt: skip
def test_bfloat16_convolution(path: Path, batch: int, steps: int, channels: int, width: int, kernel: int, stride: int,
                              up: bool, activation: str | None) -> None:  # fmt: skip
    """One layer: the input is rounded once, products are exact, so only the order of sums differs."""
    kernel, stride = (4, 1) if up else (kernel, stride)
    agree(
        lambda nn, x: nn.block("a", x, width, kernel=kernel, stride=stride, up=up, activation=activation, noise=True),
        batch, steps, channels, path,
    )  # fmt: skip


@bfloat16_paths
@few
@given(batch=st.integers(1, 5), steps=st.integers(1, 20), channels=st.integers(1, 20), width=st.integers(1, 70))
def test_bfloat16_chains(path: Path, batch: int, steps: int, channels: int, width: int) -> None:
    """Odd widths leave padding in rows; a last bit may tip a rounding, which moves a number by 2**-8 of itself."""

    def build(nn: Any, x: Any) -> Any:
        a = nn.conv_block("a", x, width, noise=True)
        b = nn.conv_block("b", a, width)
        c = nn.up_block("u", nn.average_pool(nn.pixel_shuffle(a + b)) if width % 2 == 0 else a + b, width + 1)
        return nn.conv("out", nn.conv_block("c", c, 2 * width, stride=2), 5)

    agree(build, batch, steps, channels, path, tolerance=2e-2)


@paths
@few
@given(
    batch=st.integers(1, 5), steps=st.integers(1, 35), channels=st.integers(1, 37), width=st.integers(1, 110),
    kernel=st.sampled_from([1, 3, 4]),
)  # fmt: skip
def test_weights_kept_as_float16(path: Path, batch: int, steps: int, channels: int, width: int, kernel: int) -> None:
    """Weights that float16 holds exactly are kept in it, and expanded beside the products."""
    if not path.halves:
        pytest.skip("this path reads no float16")

    def build(nn: Any, x: Any) -> Any:
        return nn.conv_block("b", nn.block("a", x, width, kernel=kernel, noise=True), width, kernel=3)

    with mock.patch.object(planning, "FILTERED", set()):
        agree(build, batch, steps, channels, path, parameters_of=half_parameters)
    with filters_everywhere():
        agree(build, batch, 4 * steps, channels, path, tolerance=2e-5, parameters_of=half_parameters)


@paths
@few
@given(
    batch=st.integers(1, 5), tiles=st.integers(1, 9), channels=st.integers(1, 37), width=st.integers(1, 110),
    layer=st.sampled_from(LAYERS), outputs=st.sampled_from(planning.OUTPUTS), halves=st.booleans(),
)  # fmt: skip
def test_minimal_filters(
    path: Path, batch: int, tiles: int, channels: int, width: int, layer: str, outputs: int, halves: bool
) -> None:
    """The same layers with fewer products, which wide layers use: forced here on narrow ones."""
    build, stride = filtered_layer(layer, width, "swish")
    steps = outputs * tiles * stride
    with filters_everywhere(outputs):
        assert compiled(build, steps, channels, path).steps[:, E.SPAN].max() > 0
        parameters = half_parameters if halves and path.halves else None
        agree(build, batch, steps, channels, path, 2e-5 if outputs < 8 else 5e-5, parameters_of=parameters)


def filters_everywhere(outputs: int = 4) -> Any:
    """Minimal filters of so many outputs, on layers too small for them."""
    return mock.patch.multiple(
        planning, OUTPUTS=(outputs,), FILTER_CHANNELS=0, cost=lambda scheme, *_: -1 if scheme else 0
    )


def filtered_layer(layer: str, width: int, activation: str | None) -> tuple[Callable[[Any, Any], Any], int]:
    """(build(nn, x), stride) of one of LAYERS."""
    up, stride = layer == "transposed", 2 if layer.endswith("stride 2") else 1
    block = {"kernel": 4 if up else 3, "stride": stride, "up": up, "noise": True, "activation": activation}
    return lambda nn, x: nn.block("a", x, width, **block), stride


@pytest.mark.parametrize("path", [p for p in BFLOAT16 if p.filtered], ids=lambda path: path.name)
@few
@given(
    batch=st.integers(1, 5), tiles=st.integers(1, 9), channels=st.integers(1, 37), width=st.integers(1, 110),
    layer=st.sampled_from(LAYERS),
)  # fmt: skip
def test_minimal_filters_in_bfloat16(path: Path, batch: int, tiles: int, channels: int, width: int, layer: str) -> None:
    """Sums of a few small whole numbers, and halves of those, are exact in bfloat16: so is the result."""
    build, stride = filtered_layer(layer, width, None)
    steps = path.filtered * tiles * stride
    graph, rng = graph_of(build, steps, channels), np.random.default_rng(channels)
    parameters = {k: rng.integers(-8, 9, shape).astype(np.float32) for k, shape in graph.parameters.items()}
    x = rng.integers(-8, 9, (batch, steps, channels)).astype(np.float32)
    ones = lambda layer, batch, steps: np.ones((batch, steps), np.float32)  # noqa: E731
    with filters_everywhere(path.filtered):
        network = NumbaNetwork(graph, parameters, path, capacity=4)
    assert network.plan.steps[:, E.SPAN].max() > 0
    assert np.array_equal(network(x, ones)[0], build(NumpyOps(parameters, ones), x))


@pytest.mark.parametrize("path", [*available(), AMX_TWIN, PAIRS_TWIN], ids=lambda path: path.name)
@pytest.mark.parametrize("needed", ["no more", "later", "at once"])
def test_sums_take_the_place_of_what_nobody_needs(path: Path, needed: str) -> None:
    """x + a in the memory of x, unless something reads x after that, or the product that makes `a` does."""

    def build(nn: Any, y: Any) -> Any:
        x = nn.up_block("x", y, 50)
        z = x + (nn.conv_block("a", x, 50) if needed == "at once" else nn.up_block("a", y, 50))
        return nn.conv("out", nn.conv("late", z, 50) + x if needed == "later" else z, 33)

    agree(build, 3, 8, 20, path, tolerance=2e-2 if path.precision == "bfloat16" else 3e-6)
    graph = graph_of(build, 8, 20)
    tensors = planning.Planner(graph, random_parameters(graph, np.random.default_rng(0)), path, 2).tensors
    x, first = graph.nodes[1], next(node for node in graph.nodes if node.kind == "add")
    assert x.name == "x"
    assert (tensors[first] is tensors[x]) == (needed == "no more")


def compiled(build: Callable[[Any, Any], Any], steps: int, channels: int, path: Path) -> planning.Plan:
    graph = graph_of(build, steps, channels)
    return planning.compile(graph, random_parameters(graph, np.random.default_rng(0)), path, 1)


@pytest.mark.parametrize(
    ("outputs", "taps", "stride"),
    [(n, taps, stride) for n in planning.OUTPUTS for taps, stride in sorted(planning.FILTERED)],
)
def test_minimal_filter_schemes_are_exact(outputs: int, taps: int, stride: int) -> None:
    scheme = minimal_filter(outputs, taps, stride)
    assert scheme.products < outputs * taps
    rng = np.random.default_rng(outputs)
    kernel, x = rng.standard_normal((taps,)), rng.standard_normal((scheme.transform.shape[1],))
    shared = np.minimum(np.arange(scheme.products), len(scheme.kernel) - 1)
    y = scheme.mix @ (scheme.kernel[shared] @ kernel * (scheme.transform @ x))
    assert np.allclose(y, [kernel @ x[stride * i : stride * i + taps] for i in range(outputs)], atol=1e-12)


@pytest.mark.parametrize("path", [*available(), AMX_TWIN, PAIRS_TWIN], ids=lambda path: path.name)
def test_a_window_does_not_depend_on_its_batch(path: Path) -> None:
    def build(nn: Any, x: Any) -> Any:
        return nn.conv("out", nn.up_block("u", nn.conv_block("a", x, 70), 50), 33)

    check_batch_independence(build, 13, path)
    with filters_everywhere():
        check_batch_independence(build, 12, path)


def check_batch_independence(build: Callable[[Any, Any], Any], steps: int, path: Path) -> None:
    rng = np.random.default_rng(1)
    graph = graph_of(build, steps, 21)
    network = NumbaNetwork(graph, random_parameters(graph, rng), path, capacity=6)
    x = rng.standard_normal((17, steps, 21)).astype(np.float32)
    together = network(x)[0].copy()
    for i in range(len(x)):
        assert np.array_equal(network(x[i : i + 1])[0][0], together[i])


def activated(path: Path, x: Array, activation: int) -> Array:
    """`activation` of float32 numbers through the engine's own epilogue: a product with 1."""
    graph = graph_of(lambda nn, v: nn.conv("a", v, 1), len(x), 1)
    parameters = {"a/kernel": np.ones((1, 1, 1), np.float32), "a/bias": np.zeros(1, np.float32)}
    network = NumbaNetwork(graph, parameters, path, capacity=1)
    network.plan.steps[network.plan.steps[:, E.KIND] == E.PRODUCT, E.ACTIVATION] = activation
    return network(x.reshape(1, -1, 1))[0].ravel()


@paths
def test_activations_against_float64(path: Path) -> None:
    x = np.concatenate([np.linspace(-100, 100, 100_001), np.linspace(-1, 1, 20_001), np.geomspace(1e-30, 1e3, 500)])
    x = x.astype(np.float32)
    exact = x.astype(np.float64)
    swish = exact / (1 + np.exp(-exact))
    mine = activated(path, x, E.SWISH)
    inner = np.abs(exact) < 80  # further out a negative swish is nothing beside float32's smallest numbers
    assert np.max(np.abs(mine - swish)[inner] / np.maximum(np.abs(swish[inner]), 1e-37)) < 4e-7
    assert np.max(np.abs(mine - swish)[~inner]) < 1e-5
    assert np.max(np.abs(activated(path, x, E.TANH) - np.tanh(exact))) < 3e-7
    assert np.array_equal(activated(path, x, E.CLIP), np.clip(x, -1, 1))


@paths
def test_not_a_number_is_not_hidden(path: Path) -> None:
    x = np.full(5, np.nan, np.float32)
    for activation in (E.NONE, E.SWISH, E.TANH, E.CLIP):
        assert np.isnan(activated(path, x, activation)).all()


@pytest.mark.parametrize("width", [1, 15, 16, 17, 64, 80, 100, 513])
@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_packing_keeps_every_weight_once(width: int, lanes: int) -> None:
    kernel = np.arange(1, 4 * width + 1, dtype=np.float32).reshape(4, width)
    packed = np.concatenate(list(packing.pack(kernel[None], Path("any", lanes, 8, "float32"))))
    assert len(packed) % (4 * lanes) == 0
    assert np.array_equal(np.sort(packed[packed != 0]), kernel.ravel())


def test_packing_puts_neighbours_in_depth_side_by_side() -> None:
    kernel = np.arange(1, 4 * 48 + 1, dtype=np.float32).reshape(4, 48)
    packed = np.concatenate(list(packing.pack(kernel[None], Path("any", 16, 8, "bfloat16"))))
    assert np.array_equal(packed.view(np.uint16).reshape(2, 48, 2)[1, 5], packing.to_bfloat16(kernel[2:, 5]))


def test_on_arm_there_is_the_path_that_is_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("everwave.kernels.paths._is_x86", lambda: False)
    assert replace(available()[-1], name="neon", halves=False) == NEON


@pytest.mark.parametrize(
    ("path", "target", "cpu"),
    [
        (NEON, "aarch64-linux-gnu", "generic"),
        (NEON, "aarch64-linux-gnu", "cortex-a72"),
        (NEON, "aarch64-linux-gnu", "neoverse-n1"),
        (NEON, "aarch64-linux-gnu", "apple-m1"),
        (Path("avx2", 8, 6, "float32", 2), "x86_64-linux-gnu", "haswell"),
        (Path("avx2", 8, 6, "float32", 2), "x86_64-linux-gnu", "znver3"),
        (Path("avx512", 16, 8, "float32"), "x86_64-linux-gnu", "skylake-avx512"),
        (Path("avx512", 16, 8, "float32"), "x86_64-linux-gnu", "znver4"),
    ],
    ids=lambda value: value.name if isinstance(value, Path) else value,
)
def test_sums_stay_in_registers(path: Path, target: str, cpu: str) -> None:
    """The inner loop of a product, compiled for other CPUs, touches no stack and moves no register to another."""
    loop = inner_loop(path, target, cpu)
    fused = re.findall(r"fmla|vfn?madd\w+ps", loop)
    assert len(fused) == vectors.DEEP[path.lanes] * path.rows * path.vectors, loop
    assert not re.search(r"\[sp|%rsp|\tmov\tv|\tvmovaps\t%[yz]mm\d+, %[yz]mm\d+", loop), loop


def inner_loop(path: Path, target: str, cpu: str) -> str:
    number, numbers = ir.IntType(64), ir.FloatType().as_pointer()
    module = ir.Module()
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [numbers, numbers, number, numbers]), "product")
    builder = ir.IRBuilder(function.append_basic_block())
    emitter, tile = vectors.Emitter(builder, path.lanes), (path.rows, path.vectors)
    vectors.emit_vector_product(emitter, tile, path.vectors, 1, *function.args)
    builder.ret_void()
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    try:
        machine = llvm.Target.from_triple(target).create_target_machine(cpu=cpu, opt=3)
    except RuntimeError as error:
        pytest.skip(f"this LLVM makes no code for {target}: {error}")
    optimised = llvm.parse_assembly(str(module).replace("unknown-unknown-unknown", target))
    if not hasattr(llvm, "create_pass_builder"):
        pytest.skip("an older llvmlite runs its passes in another way")
    passes = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=3))
    passes.getModulePassManager().run(optimised, passes)
    blocks = re.split(r"\n(?=\.?LBB)", machine.emit_assembly(optimised))
    (loop,) = (block for block in blocks if re.search(r"fmla|vfmadd", block))
    label, _, body = loop.partition(":")
    return body[: body.rindex(label)]


@pytest.mark.parametrize("module", [engine, peak, kernels_random, kernels_signal], ids=lambda module: module.__name__)
def test_jit_policy(module: ModuleType) -> None:
    """Every kernel: compiled lazily, without the interpreter lock or counted references; no other file's kernels."""
    made = (kernels_signal.make_synthesize(8, 8, False),) if module is kernels_signal else ()
    kernels = {value for value in (*vars(module).values(), *made) if hasattr(value, "py_func")}
    assert len(kernels) > (5 if module is engine else 0)
    for kernel in kernels:
        options = kernel.targetoptions
        assert options["nogil"]
        assert options["no_cpython_wrapper"]
        assert not options["_nrt"]
        assert options["error_model"] == "numpy"
        assert kernel._can_compile  # a signature would have compiled it when it was imported
        assert kernel.py_func.__module__ == module.__name__


@jit.kernel()
def listing(out, nothing, byte, whole, long, vector, word, numbers, last):  # type: ignore[no-untyped-def]
    out[0], out[1], out[2], out[3], out[4] = byte, whole, long, len(vector), vector[2]
    out[5], out[6], out[7] = word, numbers[1], last
    if nothing is None:
        out[8] = 1


def test_arguments_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    """None, numbers, tuples and arrays, more of them than registers take: in the kernel what they are in Python."""
    monkeypatch.setitem(sys.modules, "everwave.kernels.listing", sys.modules[__name__])
    monkeypatch.setattr(native.kept, "read", lambda name: None)
    monkeypatch.setattr(native.kept, "write", lambda name, code: None)
    out = np.zeros(9)
    vector, numbers = tuple(np.float32(i + 0.5) for i in range(16)), np.array([3, -4], np.int16)
    call = native.Kernel("listing", "listing")
    call(out, None, np.int8(-5), -(2**62), np.uint64(2**63), vector, np.uint32(2**31), numbers, np.float32(0.25))
    assert out.tolist() == [-5, -(2**62), 2**63, 16, 2.5, 2**31, -4, 0.25, 1]
    with pytest.raises(ValueError, match="must be contiguous"):
        call(out[::2], None, np.int8(-5), 1, np.uint64(1), vector, np.uint32(1), numbers, np.float32(0.25))


KEPT = """
import sys
import numpy as np
from everwave.kernels import fill_normals

out = np.empty(4, np.float32)
fill_normals(out, 4, np.uint64(1), np.uint64(2), 0)
print(out.tolist(), int("numba" in sys.modules))
"""


def normals(folder: pathlib.Path, before: str = "", path: str = "") -> tuple[str, bool, str]:
    """What a fresh process draws that keeps machine code in `folder`, whether it had to compile, and what it said."""
    search = os.pathsep.join(filter(None, (path, os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"NUMBA_CACHE_DIR": str(folder), "PYTHONPATH": search}
    done = subprocess.run(
        [sys.executable, "-c", before + KEPT], env=environment, capture_output=True, text=True, check=True
    )
    numbers, compiled = done.stdout.rsplit(maxsplit=1)
    return numbers, bool(int(compiled)), done.stderr


FULL = """
import os
def full(*_):
    raise OSError(28, "No space left on device")
os.replace = full
"""


def test_a_damaged_or_full_cache_costs_time_only(tmp_path: pathlib.Path) -> None:
    first, compiled, said = normals(tmp_path, FULL)
    assert compiled
    assert "No space left on device" in said
    assert not list(tmp_path.rglob("*.*"))  # nothing was kept, nothing is left
    assert normals(tmp_path) == (first, True, "")
    assert normals(tmp_path) == (first, False, "")  # without Numba
    (file,) = tmp_path.rglob("*.code")
    (plain := tmp_path / "plain").touch()
    assert file.stat().st_mode == plain.stat().st_mode  # whoever may use the installation may read it
    for damaged in (file.read_bytes()[:100], b"", file.read_bytes()[:-1] + b"?"):
        file.write_bytes(damaged)
        numbers, compiled, said = normals(tmp_path)
        assert (numbers, compiled) == (first, True)
        assert "is damaged; compiling anew" in said
        assert normals(tmp_path) == (first, False, "")


def test_machine_code_is_of_its_sources_and_its_cpu(tmp_path: pathlib.Path) -> None:
    """Whatever kernels are made from is in the name of their code; what older sources gave goes."""
    package = pathlib.Path(native.__file__).parents[1]
    shutil.copytree(package, tmp_path / "everwave", ignore=shutil.ignore_patterns("__pycache__", "weights"))
    kept, edited = tmp_path / "kept", tmp_path / "everwave" / "kernels" / "vectors.py"

    def compiled(before: str = "") -> bool:
        return normals(kept, before, path=str(tmp_path))[1]

    other = "import os\nos.environ['NUMBA_CPU_NAME'] = 'generic'\n"
    assert [compiled(), compiled(), compiled(other), compiled(other), compiled()] == [True, False, True, False, False]
    assert len(list(kept.rglob("*.code"))) == 2
    edited.write_text(edited.read_text() + "\n")
    assert [compiled(), compiled()] == [True, False]
    assert len(list(kept.rglob("*.code"))) == 1
