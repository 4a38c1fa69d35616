"""Kernels as Python calls them: machine code, which Numba makes once and LLVM alone loads.

To import Numba takes longer than everything else at a start, and memory that nothing else needs; so only who has to
compile does it.
"""

from __future__ import annotations

import ctypes
import json
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np

from . import kept
from .paths import cpu

FINE = (0, -2)  # what a function of Numba's returns but after an exception
log = logging.getLogger(__name__)
_loading = threading.Lock()


class Kernel:
    """`kernel(*arguments)`: a function of one of these modules, compiled for the kinds of its arguments.

    It sees a C-contiguous array as a pointer to its first element, and a whole number as int64. What says how it is
    made, and not what it computes, comes as None, as NumPy's numbers (their type counts) and as tuples (their length).
    Thread-safe, and holds no lock of the interpreter's while it computes. Sizes are not checked: that is for whoever calls it.
    ValueError for an array that is not contiguous. The first call may compile: ImportError or OSError where that cannot be.
    """

    def __init__(self, module: str, name: str, *constants: int) -> None:
        """`name` of `module`; with `constants`, what that makes of them."""
        self.module, self.name, self.constants = module, name, constants
        self.compiled = dict[tuple[str, ...], Callable[..., int]]()

    def __call__(self, *arguments: Any) -> None:
        kinds = tuple(map(_kind, arguments))
        code = self.compiled.get(kinds) or self._load(kinds)
        result, error = ctypes.c_void_p(), ctypes.c_void_p()
        if code(ctypes.byref(result), ctypes.byref(error), *_flat(arguments)) not in FINE:
            raise RuntimeError(f"kernel {self.name} failed")

    def _load(self, kinds: tuple[str, ...]) -> Callable[..., int]:
        name = " ".join((f"{self.module}.{self.name}", *map(str, self.constants), *kinds))
        with _loading:
            if kinds not in self.compiled:
                code = kept.read(name)
                if code is None:
                    log.info("compiling %s", name)
                    code = self._compile(kinds)
                    kept.write(name, code)
                self.compiled[kinds] = _link(code, kinds)
        return self.compiled[kinds]

    def _compile(self, kinds: tuple[str, ...]) -> bytes:
        types = compiler().types
        function = getattr(import_module(f".{self.module}", __package__), self.name)
        function = function(*self.constants) if self.constants else function
        signature = tuple(_type(types, kind) for kind in kinds)
        function.compile(signature)
        made = function.overloads[signature]
        made.library._ensure_finalized()
        declared = made.library._final_module.functions
        head = {
            "symbol": made.fndesc.llvm_func_name,
            "needs": [f.name for f in declared if f.is_declaration and not f.name.startswith("llvm.")],
        }
        return json.dumps(head).encode() + b"\n" + made.library._get_compiled_object()


def _kind(argument: Any) -> str:
    """What the compiler has to know of an argument, in NumPy's letters: "*f" of an array, "8*q" of a tuple, "b" of a number, "none"."""
    if isinstance(argument, np.ndarray):
        return "*" + argument.dtype.char
    if isinstance(argument, tuple):
        return f"{len(argument)}*{_kind(argument[0])}"
    if argument is None:
        return "none"
    return "q" if isinstance(argument, int) else str(argument.dtype.char)


def _parts(kind: str) -> tuple[int | None, str]:
    """How many numbers (None: a pointer to them) and of which type; of "none" a pointer to nothing."""
    count, star, letter = kind.rpartition("*")
    name = kind if kind == "none" else np.dtype(letter).name
    return int(count) if count else None if star or kind == "none" else 1, name


def _type(types: Any, kind: str) -> Any:
    """The same for Numba."""
    count, name = _parts(kind)
    one = getattr(types, name)
    if "*" not in kind:
        return one
    return types.CPointer(one) if count is None else types.UniTuple(one, count)


def _flat(arguments: tuple[Any, ...]) -> Iterator[Any]:
    """Arguments as Numba's functions have them in C."""
    for argument in arguments:
        if isinstance(argument, np.ndarray):
            if not argument.flags.c_contiguous:
                raise ValueError("an array for a kernel must be contiguous")
            yield argument.__array_interface__["data"][0]
        elif isinstance(argument, tuple):
            yield from _flat(argument)
        else:
            yield argument.item() if isinstance(argument, np.generic) else argument


def _prototype(kinds: tuple[str, ...]) -> Any:
    """The type of a function of Numba's in C: a code, and before the arguments where a result and an error would go."""
    arguments = list[Any]()
    for count, name in map(_parts, kinds):
        number = ctypes.c_float if name == "float32" else getattr(ctypes, f"c_{name}", None)
        arguments += [ctypes.c_void_p] if count is None else [number] * count
    return ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, *arguments)


def _link(code: bytes, kinds: tuple[str, ...]) -> Callable[..., int]:
    """Machine code to a function. What it is known to call is looked for first, as LLVM ends the process where it is not found.

    OSError where memory may not hold code.
    """
    from llvmlite import binding

    binding.check_jit_execution()
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    machine = binding.Target.from_triple(binding.get_process_triple()).create_target_machine(jit=True)
    engine = binding.create_mcjit_compiler(binding.parse_assembly(""), machine)  # lets the process be searched, too
    head, _, machine_code = code.partition(b"\n")
    about = json.loads(head)
    if sys.platform != "linux" or not all(map(binding.address_of_symbol, about["needs"])):
        compiler()  # has helpers of its own, elsewhere also for what LLVM calls by itself
        if missing := [name for name in about["needs"] if not binding.address_of_symbol(name)]:
            raise ImportError(f"nothing here is called {', '.join(missing)}")
    engine.add_object_file(binding.ObjectFileRef.from_data(machine_code))
    engine.finalize_object()
    function: Callable[..., int] = _prototype(kinds)(engine.get_function_address(about["symbol"]))
    engine.detach()  # never freed: a thread may still run it while the interpreter ends
    return function


@cache
def compiler() -> Any:
    """Numba, ready to compile for `cpu`. ImportError where it was made ready for another before.

    Its array functions import scipy.linalg to see whether there is a BLAS, 0.2 s that no kernel of ours needs; it looks
    again wherever a function that it compiles does need one.
    """
    import numba

    try:
        from numba.np import linalg

        look = linalg.ensure_blas
    except (ImportError, AttributeError):  # another Numba than those we know
        pass
    else:
        linalg.ensure_blas = lambda: None
        try:
            from numba.np import arraymath
        finally:
            linalg.ensure_blas = look
        arraymath.ensure_blas = look
    vars(numba.config).update(zip(("CPU_NAME", "CPU_FEATURES"), cpu(), strict=True))
    from numba.core.registry import cpu_target

    cpu_target.target_context.refresh()  # registers its helpers
    if tuple(cpu_target.target_context.codegen().magic_tuple()[1:]) != cpu():
        raise ImportError("this program has used Numba for another CPU, or fewer of its features")
    return numba
