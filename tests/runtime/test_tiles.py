"""The AMX path where there is no AMX: what its twin on memory cannot show is how it lowers, and when it is chosen."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from everwave.config import PRESETS
from everwave.errors import UsageError
from everwave.kernels import paths, steps, tiles
from everwave.networks import input_shape
from everwave.ops import numba_ops
from everwave.ops.numba_ops import NumbaNetwork
from everwave.ops.trace import trace
from everwave.weights import random_parameters
from llvmlite import binding, ir

AMX = next((path for path in paths.available() if path.name == "amx_bf16"), None)
AMX_PATH = replace(paths.AMX_TWIN, name="amx_bf16", unit="int8")
FEATURES = frozenset({"avx512f", "avx512bf16", "amx-tile", "amx-bf16", "avx2", "fma", "f16c"})


def test_the_product_lowers_to_tile_instructions() -> None:
    """The code that an AMX machine runs, assembled for one and not run: 4 loads and 4 products a step."""
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    module = ir.Module()
    byte = tiles.I8.as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [byte, byte, byte, tiles.int64(0).type, byte])
    function = ir.Function(module, kind, "step")
    builder = ir.IRBuilder(function.append_basic_block())
    configuration, first, second, stride, weights = function.args
    registers = tiles.AmxTiles(builder)
    registers.configure(configuration)
    registers.zero(0)
    tiles.emit_step(registers, first, second, stride, weights)
    registers.store(0, first, stride)
    registers.release()
    builder.ret_void()
    target = binding.Target.from_triple("x86_64-unknown-linux-gnu")
    machine = target.create_target_machine(cpu="sapphirerapids", features="+amx-tile,+amx-bf16", opt=3)
    text = machine.emit_assembly(binding.parse_assembly(str(module)))
    counts = {name: text.count(f"\t{name}\t") for name in ("tilezero", "tileloadd", "tdpbf16ps", "tilestored")}
    assert counts == {"tilezero": 1, "tileloadd": 4, "tdpbf16ps": 4, "tilestored": 1}
    assert text.count("ldtilecfg") == text.count("tilerelease") == 1
    assert "call" not in text


def test_the_engines_tile_is_four_of_these() -> None:
    assert steps.SIDE == 2 * tiles.ROWS
    assert steps.MEMORY == 8 * tiles.ROWS * tiles.BYTES // 4


def test_the_configuration_is_intels_layout() -> None:
    assert len(tiles.CONFIGURATION) == 64
    assert tiles.CONFIGURATION[0] == 1
    assert np.frombuffer(tiles.CONFIGURATION, np.uint16)[8:16].tolist() == [64] * 8
    assert list(tiles.CONFIGURATION[48:56]) == [16] * 8


def test_amx_comes_first_where_the_system_grants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "_llvm_version", lambda: 20)
    with mock.patch.object(paths, "cpu_features", return_value=FEATURES):
        with mock.patch.object(paths, "_may_use_amx", return_value=True):
            assert [path.name for path in paths.available()][:3] == ["amx_bf16", "avx512", "avx512_bf16"]
        with mock.patch.object(paths, "_may_use_amx", return_value=False):
            assert [path.name for path in paths.available()][:2] == ["avx512", "avx512_bf16"]
    with mock.patch.object(paths, "cpu_features", return_value=FEATURES - {"amx-tile", "amx-bf16"}):
        assert [path.name for path in paths.available()][:2] == ["avx512_bf16", "avx512"]


@pytest.mark.skipif(AMX is not None, reason="this machine has AMX")
def test_a_system_without_amx_does_not_grant_it() -> None:
    assert not paths._may_use_amx()


@pytest.mark.skipif(AMX is None, reason="no AMX here, or the system does not grant it: the real path has not run")
def test_amx_agrees_with_its_twin() -> None:
    config, name = PRESETS["tiny"], "frame_decoder"
    parameters = random_parameters(name, config, 0)
    x = np.random.default_rng(0).standard_normal((5, *input_shape(name, config)), np.float32)
    real, twin = (NumbaNetwork(trace(name, config), parameters, path, 4)(x) for path in (AMX, paths.AMX_TWIN))
    for mine, expected in zip(real, twin, strict=True):
        assert np.abs(mine - expected).max() < 2e-2 * np.abs(expected).max()


@pytest.mark.parametrize("path", [*paths.available(), paths.AMX_TWIN], ids=lambda path: path.name)
def test_every_path_passes_its_check(path: paths.Path) -> None:
    assert numba_ops.fault(path) == ""


@pytest.mark.parametrize("trouble", ["wrong", "raises"])
def test_a_path_that_fails_its_check_is_left_out(
    trouble: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As on a machine whose AMX computes nonsense: the next path computes, and one warning says so."""
    monkeypatch.delenv(paths.ENVIRONMENT, raising=False)
    monkeypatch.setattr(paths, "_rejected", set())
    good = paths.available()[-1]
    monkeypatch.setattr(paths, "available", lambda: tuple(p for p in (paths.AMX_TWIN, good) if p.name not in paths._rejected))  # fmt: skip

    class Broken(NumbaNetwork):
        def __call__(self, *args, **options):
            if self.path == good:
                return super().__call__(*args, **options)
            if trouble == "raises":
                raise RuntimeError("cannot select")
            return tuple(y + 1 for y in super().__call__(*args, **options))

    monkeypatch.setattr(numba_ops, "NumbaNetwork", Broken)
    numba_ops.fault.cache_clear()
    config, name = PRESETS["tiny"], "frame_decoder"
    parameters = random_parameters(name, config, 0)
    for _ in range(2):
        assert numba_ops.numba_network(name, config, parameters, "auto").path == good
    (record,) = caplog.records
    assert record.getMessage() in {
        "path amx_bf16_twin is not used on this machine: it multiplies wrongly",
        "path amx_bf16_twin is not used on this machine: RuntimeError: cannot select",
    }
    with pytest.raises(UsageError, match="'amx_bf16_twin' is not available"):
        numba_ops.numba_network(name, config, parameters, "auto", "amx_bf16_twin")
    numba_ops.fault.cache_clear()


@pytest.mark.skipif(
    sys.platform != "linux" or paths.platform.machine() != "x86_64", reason="a handler for Linux on x86-64"
)
@pytest.mark.skipif(not {"avx2", "fma"} <= paths.cpu_features(), reason="what surrounds the tiles is compiled for AVX2")
@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc to compile amx_by_hand.c")
@pytest.mark.skipif(
    "amx-tile" in paths.cpu_features(), reason="tiles are configured here, not trapped: the CPU has AMX"
)
def test_the_tile_instructions_do_what_intels_manual_says(tmp_path: Path) -> None:
    """The machine code of the real path runs; each tile instruction traps into amx_by_hand.c, which decodes and does it."""
    handler = tmp_path / "amx.so"
    source = Path(__file__).with_name("amx_by_hand.c")
    flags = ["-O2", "-mfma", "-ffp-contract=off", "-shared", "-fPIC"]
    subprocess.run(["gcc", *flags, "-o", handler, source, "-lm"], check=True)
    script = (
        "from everwave.kernels.paths import Path\nfrom everwave.ops.numba_ops import fault\n"
        f"print(fault({AMX_PATH!r}) or 'right')"
    )
    names = "avx avx2 bmi bmi2 cmov cx16 cx8 f16c fma fxsr lzcnt mmx movbe popcnt sse sse2 sse3 sse4.1 sse4.2 ssse3"
    features = ",".join(f"+{name}" for name in [*names.split(), "amx-tile", "amx-bf16"])
    environment = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": features, "NUMBA_CACHE_DIR": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False,
        env=os.environ | environment | {"LD_PRELOAD": str(handler)},
    )  # fmt: skip
    assert (result.returncode, result.stdout) == (0, "right\n"), result.stderr
    # 70 rows are 3 tiles in 2 blocks, 50 columns 2 panels, 128 channels of 3 taps 12 steps in 2 chunks of their depth
    steps, turns = 4 * 3 * 2 * 12, 4 * 2 * (2 + 3)  # sums begin at 0 before a block and after each tile
    counts = {
        "ldtilecfg": 1, "tilerelease": 1, "tilezero": turns, "tileloadd": steps + turns,
        "tilestored": 4 * 2 * 2 * 3, "tdpbf16ps": steps,
    }  # fmt: skip
    assert result.stderr.splitlines() == [f"{name} {count}" for name, count in counts.items()]
