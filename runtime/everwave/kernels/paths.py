"""Which of the engine's paths this CPU can run: chosen once at load, from the features that Numba compiles for."""

from __future__ import annotations

import os
import platform
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from ..errors import UsageError

ARCH_PRCTL, REQUEST_PERMISSION, TILE_DATA = 158, 0x1023, 18  # a system call of x86-64, and what is asked of it
ENVIRONMENT = "EVERWAVE_PATH"  # forces a path, for tests and for doubting users


@dataclass(frozen=True)
class Path:
    """One way to compute: float32 numbers per vector, the register tile in rows and vectors, and what products read.

    A product's accumulators, a row of weights and one input must fit into the registers: 6 x 2 in 16, 8 x 3 or 6 x 4 in 32.
    """

    name: str
    lanes: int
    rows: int
    precision: str
    vectors: int = 3
    halves: bool = False  # the CPU reads float16
    filtered: int = 8  # outputs of a minimal filter at most; 0 for none
    unit: str = ""  # what multiplies: vectors, or as kernels/tiles.py tells it, int8 for AMX, int16 for its twin

    @property
    def multiplier(self) -> Any:
        """What the kernels take for `unit`: None for vectors, else a number of that type."""
        return np.dtype(self.unit).type(0) if self.unit else None


_rejected: set[str] = set()
AMX_TWIN = Path("amx_bf16_twin", 16, 32, "bfloat16", 2, filtered=0, unit="int16")  # for tests; never chosen


@cache
def cpu() -> tuple[str, str]:
    """The CPU to compile for, as LLVM names it, and its features: this one, or what the variables say that Numba has for it.

    NUMBA_CPU_NAME, without NUMBA_CPU_FEATURES of no features but those that LLVM knows it by; NUMBA_ENABLE_AVX=0.
    """
    from llvmlite import binding

    name, features = os.environ.get("NUMBA_CPU_NAME", "host"), os.environ.get("NUMBA_CPU_FEATURES")
    if name == "host":
        name = str(binding.get_host_cpu_name())
        if features is None:
            with suppress(RuntimeError):  # LLVM cannot tell on every CPU
                found = binding.get_host_cpu_features()
                if os.environ.get("NUMBA_ENABLE_AVX") == "0":
                    found.update((flag, False) for flag in found if flag.startswith("avx"))
                features = str(found.flatten())
    return name, features or ""


def cpu_features() -> frozenset[str]:
    """Names of the features that `cpu` lists."""
    return frozenset(flag[1:] for flag in cpu()[1].split(",") if flag.startswith("+"))


def available() -> tuple[Path, ...]:
    """The paths this CPU has and that were not rejected, fastest first; the last one needs nothing."""
    features = cpu_features()
    wide_file = "avx512f" in features or not _is_x86()  # 32 vector registers, else 16
    paths = []
    if {"avx512f", "amx-tile", "amx-bf16"} <= features and _llvm_version() >= 17 and _may_use_amx():
        paths.append(Path("amx_bf16", 16, 32, "bfloat16", 2, filtered=0, unit="int8"))
    wide = []
    if {"avx512f", "avx512bf16"} <= features and _llvm_version() >= 17:  # older ones spell the intrinsic otherwise
        wide.append(Path("avx512_bf16", 16, 8, "bfloat16", filtered=2))
    if "avx512f" in features:
        wide.append(Path("avx512", 16, 8, "float32", halves=True))
    # CPUs that have tiles multiply pairs in vectors at half the rate of float32
    paths += reversed(wide) if "amx-bf16" in features else wide
    if {"avx2", "fma"} <= features:
        paths.append(Path("avx2", 8, 6, "float32", 2, "f16c" in features))
    paths.append(Path("generic", 4, 6, "float32", 4 if wide_file else 2, not _is_x86() or "f16c" in features))
    return tuple(path for path in paths if path.name not in _rejected)


def reject(path: Path) -> None:
    """Leave `path` out of what this process chooses from."""
    _rejected.add(path.name)


def choose(precision: str = "auto", name: str | None = None) -> Path:
    """The fastest path for `precision` ("float32", "bfloat16" or "auto"), none faster than the one called `name`.

    `name` defaults to the environment variable EVERWAVE_PATH. "auto" takes bfloat16 where the CPU multiplies it.
    UsageError for an unknown precision, or a path or precision that this CPU lacks.
    """
    if precision not in ("auto", "float32", "bfloat16"):
        raise UsageError(f"precision={precision!r}; it must be float32, bfloat16 or auto")
    paths = available()
    name = name or os.environ.get(ENVIRONMENT)
    if name:
        names = [path.name for path in paths]
        if name not in names:
            raise UsageError(
                f"path {name!r} is not available on this CPU; it has {', '.join(names)}, and numpy ({ENVIRONMENT})"
            )
        paths = paths[names.index(name) :]
    for path in paths:
        if precision in ("auto", path.precision):
            return path
    raise UsageError(f"precision={precision!r} is not available on this CPU or path; use float32 or auto")


@cache
def _may_use_amx() -> bool:
    """Ask Linux for the tile registers, which a process has only once it asked; all its threads have them then."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    import ctypes

    try:
        return ctypes.CDLL(None).syscall(ARCH_PRCTL, REQUEST_PERMISSION, TILE_DATA) == 0
    except (OSError, AttributeError):
        return False


def _llvm_version() -> int:
    from llvmlite import binding

    return int(binding.llvm_version_info[0])


def _is_x86() -> bool:
    return platform.machine().lower() in ("x86_64", "amd64", "i686", "i386")
