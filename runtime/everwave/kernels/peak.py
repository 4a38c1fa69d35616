"""What a CPU can do at most: the same multiply-adds as the engine's, in registers, with no memory to wait for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from .jit import entry
from .paths import Path
from .tiles import MEMORY, configure, load_sums, multiply_sums, release
from .vectors import I64, Emitter, int64, pointer

SOURCES = "ea85275fc46f"  # sha256 of vectors.py and tiles.py, for the cache: see vectors.py
CHAINS = {4: 12, 8: 12, 16: 24}  # accumulators by lanes: enough to hide the latency, few enough for the registers
ROUNDS = 200_000


@intrinsic
def _multiply_adds(typing: Any, vector: Any, chains: Any, count: Any, out: Any, pairs: Any) -> Any:
    """`count` rounds of independent multiply-adds in registers; the sums go to `out` so that none is dropped."""
    signature = types.void(vector, chains, types.int64, out, pairs)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        e, data = Emitter(builder, vector.count), args[3]
        factor = e.load(data, int64(0))
        entry, loop, done = builder.block, builder.append_basic_block("loop"), builder.append_basic_block("done")
        builder.branch(loop)
        builder.position_at_end(loop)
        i = builder.phi(I64)
        i.add_incoming(int64(0), entry)
        sums = [builder.phi(e.floats) for _ in range(chains.count)]
        for total in sums:
            total.add_incoming(e.constant(0.0), entry)
            if isinstance(pairs, types.NoneType):
                total.add_incoming(e.multiply_add(factor, factor, total), loop)
            else:
                total.add_incoming(e.dot(total, factor, factor), loop)
        following = builder.add(i, int64(1))
        i.add_incoming(following, loop)
        builder.cbranch(builder.icmp_signed("<", following, args[2]), loop, done)
        builder.position_at_end(done)
        for c, total in enumerate(sums):
            e.store(total.incomings[1][0], data, int64(c * vector.count))
        return context.get_dummy_value()

    return signature, codegen


@entry()
def _loop(unit, vector, chains, count, out, pairs):  # type: ignore[no-untyped-def]
    if unit is None:
        _multiply_adds(vector, chains, count, pointer(out), pairs)
    else:
        configure(unit)
        load_sums(unit, pointer(out), pointer(out), 0)
        for _ in range(count):
            multiply_sums(unit, pointer(out))
        release(unit)


def peak(path: Path, rounds: int = ROUNDS) -> tuple[Callable[[], None], float]:
    """A call that only multiplies and adds in registers, and its number of operations (two each)."""
    chains, pairs = CHAINS[path.lanes], path.precision == "bfloat16"
    vector = (np.float32(0),) * path.lanes
    out = np.zeros(max(chains * path.lanes, MEMORY), np.float32)
    operations = 2.0 * chains * path.lanes * (1 + pairs)
    if path.unit:
        rounds, operations = rounds // 10, 2.0 * 4 * 16 * 16 * 32  # four products of tiles a round
    return lambda: _loop(path.multiplier, vector, (0,) * chains, rounds, out, pairs or None), operations * rounds
