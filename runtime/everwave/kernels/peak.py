"""What a CPU can do at most: the same multiply-adds as the engine's, in registers, with no memory to wait for."""

from __future__ import annotations

from typing import Any

from numba import types
from numba.extending import intrinsic

from .jit import kernel
from .tiles import configure, load_sums, multiply_sums, release
from .vectors import I64, Emitter, int64


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


@kernel()
def loop(unit, vector, chains, count, out, pairs):  # type: ignore[no-untyped-def]
    """`count` rounds of as many products as `chains` is long, in vectors as long as `vector`, or of four tiles; see `engine.run`.

    pairs: None, or a number where lanes are pairs of bfloat16. out: float32, one vector a chain, or `steps.MEMORY` numbers.
    """
    if unit is None:
        _multiply_adds(vector, chains, count, out, pairs)
    else:
        configure(unit)
        load_sums(unit, out, out, 0)
        for _ in range(count):
            multiply_sums(unit, out)
        release(unit)
