"""The networks in the engine beside the NumPy reference, and which path is chosen when."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import threading
import tracemalloc
import zlib
from dataclasses import replace

import numpy as np
import pytest
from everwave.config import PRESETS, AutoencoderConfig, Config, GeneratorConfig, SignalConfig
from everwave.errors import UsageError
from everwave.kernels import paths
from everwave.networks import NETWORKS, input_shape
from everwave.ops import make_network, numba_ops
from everwave.ops import plan as planning
from everwave.ops.numba_ops import BFLOAT16_NETWORKS, NumbaNetwork, numba_network, preferred_batch
from everwave.ops.numpy_ops import NumpyNetwork
from everwave.ops.trace import trace

Array = np.ndarray
TINY = replace(PRESETS["tiny"], generator=replace(PRESETS["tiny"].generator, refiner=4))
CONFIGS = {
    "tiny": TINY,
    "small": replace(TINY, generator=GeneratorConfig(width=4, window=64, anchor=16, style=16, refiner=2)),
    "middle": Config(
        SignalConfig(hop_length=128), AutoencoderConfig(48, 40, 24), GeneratorConfig(width=20, refiner=20)
    ),
}


def random_parameters(name: str, config: Config) -> dict[str, Array]:
    """Weights that keep the scale of what passes through."""
    rng = np.random.default_rng(3)
    parameters = {}
    for key, shape in trace(name, config).parameters.items():
        scale = 1.4 / np.prod(shape[:-1]) ** 0.5 if len(shape) > 1 else 0.3
        scale *= 0.2 if "_add/" in key else 1.0  # fourteen residual blocks, one after the other
        parameters[key] = (scale * rng.standard_normal(shape)).astype(np.float32)
        if key.endswith("style_bias"):
            parameters[key] += 1
    return parameters


def noise(layer: str, batch: int, steps: int) -> Array:
    rng = np.random.default_rng(zlib.crc32(layer.encode()))
    return rng.standard_normal((batch, steps)).astype(np.float32)


def windows(name: str, config: Config, count: int) -> Array:
    return np.random.default_rng(9).standard_normal((count, *input_shape(name, config))).astype(np.float32)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_agree_with_numpy(name: str, config: Config) -> None:
    parameters, x = random_parameters(name, config), windows(name, config, 2)
    for source in (None, noise):
        mine = numba_network(name, config, parameters)(x, source)
        reference = NumpyNetwork(name, config, parameters)(x, source)
        assert len(mine) == len(reference)
        for a, b in zip(mine, reference, strict=True):
            assert a.dtype == np.float32
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-4)


@pytest.mark.skipif(paths.choose("auto").precision != "bfloat16", reason="this CPU or path multiplies no bfloat16")
@pytest.mark.parametrize("name", NETWORKS)
def test_bfloat16_stays_near_float32(name: str) -> None:
    """Generator and decoders differ by less than a hundredth of what they give; the encoders not at all."""
    config = CONFIGS["middle"]
    parameters, x = random_parameters(name, config), windows(name, config, 2)
    exact = [y.copy() for y in numba_network(name, config, parameters, "float32")(x, noise)]
    for a, b in zip(numba_network(name, config, parameters, "bfloat16")(x, noise), exact, strict=True):
        assert np.sqrt(np.mean((a - b) ** 2)) <= (0.01 * b.std() if name in BFLOAT16_NETWORKS else 0)


@pytest.mark.parametrize("name", NETWORKS)
def test_batches_do_not_change_a_window(name: str) -> None:
    network = numba_network(name, TINY, random_parameters(name, TINY))
    x = windows(name, TINY, preferred_batch(name) + 3)
    numbers = {layer: noise(layer, len(x), steps) for layer, _, steps in network.plan.noise}
    together = [y.copy() for y in network(x, lambda layer, batch, steps: numbers[layer])]
    for i in (0, 1, len(x) - 1):
        alone = network(x[i : i + 1], lambda layer, batch, steps, i=i: numbers[layer][i : i + 1])
        for a, b in zip(alone, together, strict=True):
            assert np.array_equal(a[0], b[i])


def test_a_thread_leaves_its_workspace_to_the_next() -> None:
    network = numba_network("frame_decoder", TINY, random_parameters("frame_decoder", TINY))
    x, spaces = windows("frame_decoder", TINY, 1), [network._workspace()]
    for _ in range(2):
        thread = threading.Thread(target=lambda: (network(x), spaces.append(network._workspace())))
        thread.start()
        thread.join()
    assert spaces[0] is not spaces[1]  # this thread still has its own
    assert spaces[1] is spaces[2]


def test_threads_at_once() -> None:
    network = numba_network("frame_decoder", TINY, random_parameters("frame_decoder", TINY))
    inputs = [windows("frame_decoder", TINY, count) for count in (3, 5)]
    expected = [[y.copy() for y in network(x)] for x in inputs]
    wrong: list[int] = []

    def work(i: int) -> None:
        for _ in range(50):
            if not all(np.array_equal(a, b) for a, b in zip(network(inputs[i]), expected[i], strict=True)):
                wrong.append(i)

    workers = [threading.Thread(target=work, args=(i,)) for i in (0, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_packing_needs_little_beside_the_weights(precision: str) -> None:
    if precision not in ("float32", paths.choose("auto").precision):
        pytest.skip("this CPU or path multiplies no bfloat16")
    lite = PRESETS["lite"]
    halves = {k: v.astype(np.float16) for k, v in random_parameters("frame_decoder", lite).items()}
    numba_network("frame_decoder", TINY, random_parameters("frame_decoder", TINY), precision)  # a path is checked once
    tracemalloc.start()
    try:
        network = numba_network("frame_decoder", lite, halves, precision)
        left, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most - left < network.plan.weights.nbytes / 2


def test_a_system_without_glibc_keeps_its_freed_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows looks for separators in the library's name, and None has none."""

    def library(name: None) -> None:
        raise TypeError("argument of type 'NoneType' is not iterable")

    monkeypatch.setattr(numba_ops.ctypes, "CDLL", library)
    numba_ops._give_back()


def test_plans_are_the_same_where_whole_numbers_are_short(
    numpy_of_windows: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters = random_parameters("chunk_decoder", TINY)
    expected = numba_network("chunk_decoder", TINY, parameters).plan
    monkeypatch.setattr(planning, "np", numpy_of_windows)
    plan = numba_network("chunk_decoder", TINY, parameters).plan
    assert plan.tables.dtype == plan.steps.dtype == np.int64
    assert np.array_equal(plan.tables, expected.tables)
    assert np.array_equal(plan.steps, expected.steps)


def test_wrong_shape_is_named() -> None:
    network = numba_network("frame_decoder", TINY, random_parameters("frame_decoder", TINY))
    with pytest.raises(UsageError, match=r"\(1, 3, 16\); it must be \(windows, 64, 16\)"):
        network(np.zeros((1, 3, 16), np.float32))


def test_choice_of_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(paths.ENVIRONMENT, raising=False)
    assert paths.choose("float32").precision == "float32"
    assert paths.choose("float32", "generic").name == "generic"
    monkeypatch.setenv(paths.ENVIRONMENT, "generic")
    assert paths.choose("auto").name == "generic"
    with pytest.raises(UsageError, match="bfloat16"):
        paths.choose("bfloat16")
    with pytest.raises(UsageError, match="precision='half'"):
        paths.choose("half")
    monkeypatch.setenv(paths.ENVIRONMENT, "abacus")
    with pytest.raises(UsageError, match="'abacus' is not available on this CPU; it has"):
        paths.choose("auto")


@pytest.mark.parametrize(
    ("features", "names"),
    [
        ({"avx512f", "avx512bf16", "avx2", "fma"}, ["avx512_bf16", "avx512", "avx2", "generic"]),
        ({"avx512f", "avx2", "fma"}, ["avx512", "avx2", "generic"]),
        ({"avx2", "fma"}, ["avx2", "generic"]),
        ({"avx2"}, ["generic"]),
        (set(), ["generic"]),
    ],
)
def test_paths_follow_the_features(monkeypatch: pytest.MonkeyPatch, features: set[str], names: list[str]) -> None:
    monkeypatch.setattr(paths, "cpu_features", lambda: frozenset(features))
    monkeypatch.setattr(paths, "_llvm_version", lambda: 20)
    assert [path.name for path in paths.available()] == names


def test_make_network(monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = random_parameters("chunk_encoder", TINY)
    assert isinstance(make_network("chunk_encoder", TINY, parameters), NumbaNetwork)
    monkeypatch.setenv("EVERWAVE_PATH", "numpy")
    assert not isinstance(make_network("chunk_encoder", TINY, parameters), NumbaNetwork)
    with pytest.raises(UsageError, match="backend='torch'"):
        make_network("chunk_encoder", TINY, parameters, backend="torch")


def test_without_compilation() -> None:
    """NUMBA_DISABLE_JIT: what has no kernels is NumPy's work, and a line says why, unless NumPy was asked for."""
    code = "import everwave; print(everwave.random_model('tiny').generate(0.1, seed=1).shape)"
    for asked, said in (({}, 1), ({paths.ENVIRONMENT: "numpy"}, 0)):
        environment = os.environ | {"NUMBA_DISABLE_JIT": "1"} | asked
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "(4410, 2)"
        assert done.stderr.count("slowly: NUMBA_DISABLE_JIT is set") == len(done.stderr.splitlines()) == said


RENAMED = """
from numba.core.dispatcher import Dispatcher
del Dispatcher.compile
"""
FOR_ANOTHER = """
import numba
numba.config.CPU_NAME, numba.config.CPU_FEATURES = "generic", ""
numba.njit(lambda x: x)(1)
"""
NO_CODE_IN_MEMORY = """
import ctypes, sys
if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0):  # PR_SET_MDWE, as systemd's MemoryDenyWriteExecute
    sys.exit("no such call")
"""


@pytest.mark.parametrize(
    ("before", "why"),
    [
        (RENAMED, "Numba does not compile them: AttributeError"),
        (FOR_ANOTHER, "this program has used Numba for another CPU"),
        (NO_CODE_IN_MEMORY, "[Errno 13] cannot allocate executable memory"),
    ],
    ids=["a Numba that nobody knows", "a Numba set up for another CPU", "memory that may not hold code"],
)
def test_where_kernels_cannot_be(before: str, why: str, tmp_path: pathlib.Path) -> None:
    """NumPy does the work, and a line says why."""
    code = before + "import everwave; print(everwave.random_model('tiny').generate(0.1, seed=1).shape)"
    environment = {k: v for k, v in os.environ.items() if k != paths.ENVIRONMENT}
    if before is not NO_CODE_IN_MEMORY:  # which must not end the process where there is code to load either
        environment["NUMBA_CACHE_DIR"] = str(tmp_path)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    if "no such call" in done.stderr:
        pytest.skip("this system cannot forbid it")
    assert done.stdout.strip() == "(4410, 2)", done.stderr
    (line,) = done.stderr.splitlines()
    assert f"slowly: {why}" in line


LESSER = """
import re, sys
import numpy as np
sys.path.insert(0, {tests!r})
from test_numba_ops import TINY, NumpyNetwork, numba_network, random_parameters, windows
from everwave.kernels import engine
parameters, x = random_parameters("chunk_decoder", TINY), windows("chunk_decoder", TINY, 2)
network = numba_network("chunk_decoder", TINY, parameters)
assert np.abs(network(x)[0] - NumpyNetwork("chunk_decoder", TINY, parameters)(x)[0]).max() < 1e-4
code = "".join(engine.run.inspect_asm().values())
print(network.path.name, "zmm" if "%zmm" in code else "ymm" if "%ymm" in code else "xmm")
"""


@pytest.mark.skipif(not paths._is_x86(), reason="simulates lesser x86 CPUs")
@pytest.mark.parametrize(
    ("cpu", "features", "expected"),
    [("haswell", "+avx,+avx2,+fma,+bmi,+bmi2,+f16c,+sse4.2", "avx2 ymm"), ("x86-64", "+sse2", "generic xmm")],
)
def test_lesser_cpus_get_no_instruction_they_lack(cpu: str, features: str, expected: str, tmp_path: object) -> None:
    if cpu == "haswell" and not {"avx2", "fma"} <= paths.cpu_features():
        pytest.skip("this CPU cannot run AVX2")
    environment = {k: v for k, v in os.environ.items() if k != paths.ENVIRONMENT}
    environment |= {"NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": features, "NUMBA_CACHE_DIR": str(tmp_path)}
    script = LESSER.format(tests=os.path.dirname(__file__))
    result = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == expected
