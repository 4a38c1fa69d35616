"""Vector arithmetic for the engine's kernels: LLVM instructions spelled out, the same on AVX-512, AVX2, SSE and NEON.

`Emitter` writes the instructions; the intrinsics below are what kernels call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .paths import cpu_features
from .steps import CLIP, LINE, SWISH, TANH

DEEP = {4: 1, 8: 2, 16: 2}  # by lanes: steps of a product's depth that the compiler sees at once; of more it spills
TOGETHER = 12  # vectors that are mixed at once
UNROLLED = 4  # vectors of weights that are expanded in one turn of a loop

F32, I32, I16, I64 = ir.FloatType(), ir.IntType(32), ir.IntType(16), ir.IntType(64)
EXP2_ROUND = 12582912.0  # 1.5 * 2**23: adding it leaves the nearest integer in the low bits of a float32
EXP2_POLYNOMIAL = (  # 2**f on [-1/2, 1/2], relative error 8e-8 before rounding (minimax, highest power first)
    1.327647199e-03, 9.675541334e-03, 5.550713273e-02, 2.402211972e-01, 6.931469671e-01, 1.000000072,
)  # fmt: skip
EXP2_SHORT = (7.802452118e-02, 2.260671575e-01, 6.958335398e-01, 9.999252186e-01)  # 2**f on [0, 1], to 7e-5
LOG2_E = 1.4426950408889634


class BFloat16(ir.Type):
    """LLVM's bfloat, which llvmlite has no name for: the upper half of a float32."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BFloat16)

    def __hash__(self) -> int:
        return hash(BFloat16)


BF16 = BFloat16()


class Emitter:
    """Vector arithmetic spelled as LLVM instructions; `lanes` float32 numbers per vector."""

    def __init__(self, builder: Any, lanes: int) -> None:
        self.builder, self.lanes = builder, lanes
        self.floats, self.integers = ir.VectorType(F32, lanes), ir.VectorType(I32, lanes)

    def constant(self, value: float) -> Any:
        return ir.Constant(self.floats, [ir.Constant(F32, value)] * self.lanes)

    def integer(self, value: int) -> Any:
        return ir.Constant(self.integers, [ir.Constant(I32, value)] * self.lanes)

    def call(self, name: str, result: Any, *arguments: Any) -> Any:
        signature = ir.FunctionType(result, [a.type for a in arguments])
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, signature, name), arguments)

    def multiply_add(self, a: Any, b: Any, c: Any) -> Any:
        """a * b + c, fused where the CPU can."""
        return self.call(f"llvm.fmuladd.v{self.lanes}f32", self.floats, a, b, c)

    def clip(self, x: Any, low: float, high: float) -> Any:
        """`x` within [low, high]; NaN stays NaN."""
        b = self.builder
        low, high = self.constant(low), self.constant(high)
        x = b.select(b.fcmp_ordered("<", x, low), low, x)
        return b.select(b.fcmp_ordered(">", x, high), high, x)

    def exp(self, x: Any) -> Any:
        """exp(x) to 2 units in the last place for |x| < 87, as 2**n * 2**f with |f| <= 1/2; held within 2**+-126."""
        b, whole = self.builder, self.constant(EXP2_ROUND)
        x = self.clip(x, -87.0, 87.0)
        shifted = self.multiply_add(x, self.constant(LOG2_E), whole)
        n = b.fsub(shifted, whole)
        # f = x log2(e) - n, with log2(e) in two parts so that nothing is lost for large |x|
        high = float(np.float32(LOG2_E))
        f = self.multiply_add(x, self.constant(high), b.fneg(n))
        f = self.multiply_add(x, self.constant(LOG2_E - high), f)
        power = self.constant(EXP2_POLYNOMIAL[0])
        for coefficient in EXP2_POLYNOMIAL[1:]:
            power = self.multiply_add(power, f, self.constant(coefficient))
        exponent = b.shl(b.bitcast(shifted, self.integers), self.integer(23))  # the rest of `shifted` falls off the top
        return b.bitcast(b.add(b.bitcast(power, self.integers), exponent), self.floats)

    def swish(self, x: Any) -> Any:
        return self.builder.fdiv(x, self.builder.fadd(self.constant(1.0), self.exp(self.builder.fneg(x))))

    def swish_for_bfloat16(self, x: Any) -> Any:
        """`swish` to 2e-4 of itself, by instructions of AVX-512 where they are."""
        if self.lanes != 16 or not {"avx512f", "avx512dq"} <= cpu_features():
            return self.swish(x)
        b, one, all_lanes = self.builder, self.constant(1.0), ir.Constant(I16, -1)
        default = ir.Constant(I32, 4)  # rounding as the CPU is set
        t = b.fmul(x, self.constant(-LOG2_E))
        f = self.call("llvm.x86.avx512.mask.reduce.ps.512", self.floats, t, ir.Constant(I32, 1), t, all_lanes, default)
        power = self.constant(EXP2_SHORT[0])  # of 2, to the fraction f of t above the whole number below it
        for coefficient in EXP2_SHORT[1:]:
            power = self.multiply_add(power, f, self.constant(coefficient))
        power = self.call("llvm.x86.avx512.mask.scalef.ps.512", self.floats, power, t, power, all_lanes, default)
        sum_ = b.fadd(one, power)
        return b.fmul(x, self.call("llvm.x86.avx512.rcp14.ps.512", self.floats, sum_, sum_, all_lanes))

    def tanh(self, x: Any) -> Any:
        b, one = self.builder, self.constant(1.0)
        return b.fsub(one, b.fdiv(self.constant(2.0), b.fadd(self.exp(b.fadd(x, x)), one)))

    def broadcast(self, scalar: Any) -> Any:
        vector = ir.VectorType(scalar.type, self.lanes)
        first = self.builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.Constant(I32, 0))
        zeros = ir.Constant(ir.VectorType(I32, self.lanes), [ir.Constant(I32, 0)] * self.lanes)
        return self.builder.shuffle_vector(first, ir.Constant(vector, ir.Undefined), zeros)

    def bits(self, array: Any, index: Any, kind: Any) -> Any:
        """What lies at element `index`, read as `kind`; nothing is known of its alignment but the element's."""
        pointer = self.builder.bitcast(self.builder.gep(array, [index]), kind.as_pointer())
        return self.builder.load(pointer, align=2 if array.type.pointee == I16 else 4)

    def load(self, array: Any, index: Any) -> Any:
        """A vector of float32 numbers from elements that are float32 or bfloat16."""
        if array.type.pointee == I16:
            halves = self.bits(array, index, ir.VectorType(I16, self.lanes))
            return self.widen(halves, self.integers, self.integer(16), self.floats)
        return self.bits(array, index, self.floats)

    def load_half(self, array: Any, index: Any) -> Any:
        """A vector of float32 numbers from elements that are float16."""
        halves = ir.VectorType(ir.HalfType(), self.lanes)
        return self.builder.fpext(self.bits(array, index, halves), self.floats)

    def store(self, value: Any, array: Any, index: Any) -> None:
        """A vector of float32 numbers to elements that are float32, or bfloat16 (rounded to nearest even)."""
        align = 4
        if array.type.pointee == I16:
            value, align = self.narrow(value), 2
        pointer = self.builder.bitcast(self.builder.gep(array, [index]), value.type.as_pointer())
        self.builder.store(value, pointer, align=align)

    def widen(self, halves: Any, integer: Any, sixteen: Any, number: Any) -> Any:
        return self.builder.bitcast(self.builder.shl(self.builder.zext(halves, integer), sixteen), number)

    def narrow(self, value: Any) -> Any:
        """The bits of float32 numbers, or of one, rounded to bfloat16: to nearest, ties to even."""
        b, vector = self.builder, isinstance(value.type, ir.VectorType)

        def wrap(kind: Any) -> Any:
            return ir.VectorType(kind, self.lanes) if vector else kind

        if "avx512bf16" in cpu_features():
            return b.bitcast(b.fptrunc(value, wrap(BF16)), wrap(I16))
        bits, one, half = (b.bitcast(value, wrap(I32)), *(self._integer(n, vector) for n in (1, 0x7FFF)))
        sixteen = self._integer(16, vector)
        odd = b.and_(b.lshr(bits, sixteen), one)
        return b.trunc(b.lshr(b.add(bits, b.add(odd, half)), sixteen), wrap(I16))

    def _integer(self, value: int, vector: bool) -> Any:
        return self.integer(value) if vector else ir.Constant(I32, value)

    def dot(self, sums: Any, value: Any, columns: Any) -> Any:
        """sums + the products of two bfloat16 per lane, in float32 (vectors of pairs)."""
        if self.lanes != 16 or "avx512bf16" not in cpu_features():
            return self.dot_slowly(sums, value, columns)
        pairs = ir.VectorType(BF16, 2 * self.lanes)
        value, columns = self.builder.bitcast(value, pairs), self.builder.bitcast(columns, pairs)
        return self.call("llvm.x86.avx512bf16.dpbf16ps.512", self.floats, sums, value, columns)

    def dot_slowly(self, sums: Any, value: Any, columns: Any) -> Any:
        """`dot` on any CPU, by two multiply-adds: its twin, and that of a tile's product."""
        for half in (
            lambda x: self.builder.shl(x, self.integer(16)),
            lambda x: self.builder.and_(x, self.integer(-65536)),
        ):
            x, y = (self.builder.bitcast(half(pairs), self.floats) for pairs in (value, columns))
            sums = self.multiply_add(x, y, sums)
        return sums


@intrinsic
def skip(typing: Any, pointer: Any, count: Any) -> Any:
    """The pointer `count` elements on."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.gep(args[0], [args[1]])

    return pointer(pointer, types.int64), codegen


@intrinsic
def read(typing: Any, source: Any, index: Any) -> Any:
    """Element `index` as float32."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value = builder.load(builder.gep(args[0], [args[1]]))
        if source.dtype == types.uint16:
            value = Emitter(builder, 1).widen(value, I32, ir.Constant(I32, 16), F32)
        return value

    return types.float32(source, types.int64), codegen


@intrinsic
def write(typing: Any, target: Any, index: Any, value: Any) -> Any:
    """Element `index` = a float32 number, rounded where elements are bfloat16."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value = args[2] if target.dtype == types.float32 else Emitter(builder, 1).narrow(args[2])
        builder.store(value, builder.gep(args[0], [args[1]]))
        return context.get_dummy_value()

    return types.void(target, types.int64, types.float32), codegen


def int64(value: int) -> Any:
    return ir.Constant(I64, value)


def emit_vector_product(e: Emitter, tile: tuple[int, int], pitch: int, parts: int, source: Any, weights: Any, lines: Any, out: Any) -> None:  # fmt: skip
    """out (rows, pitch, lanes) = source (lines, rows, LINE) times weights (lines * LINE, columns); tile: (rows, vectors).

    parts: 1 for float32; 2 for pairs of bfloat16, neighbours in depth that one lane multiplies and adds at once.
    The accumulators stay in registers over the whole depth. Vectors beyond those of the tile are left as they are.
    """
    builder, (height, count), lanes, deep = e.builder, tile, e.lanes, DEEP[e.lanes]
    lane = e.floats if parts == 1 else e.integers
    entry, loop, done = builder.block, builder.append_basic_block("depth"), builder.append_basic_block("done")
    builder.branch(loop)
    builder.position_at_end(loop)
    k = builder.phi(I64)
    k.add_incoming(int64(0), entry)
    sums = [[builder.phi(e.floats) for _ in range(count)] for _ in range(height)]
    totals = [list(line) for line in sums]
    begin = builder.mul(builder.and_(k, int64(LINE // deep - 1)), int64(deep * parts))  # in a line of rows
    base = builder.add(builder.mul(builder.udiv(k, int64(LINE // deep)), int64(height * LINE * parts)), begin)
    at, pieces = builder.mul(k, int64(deep * count * lanes)), builder.mul(lines, int64(LINE // deep))
    for u in range(deep):
        columns = [e.bits(weights, builder.add(at, int64((u * count + v) * lanes)), lane) for v in range(count)]
        for r in range(height):
            value = e.broadcast(e.bits(source, builder.add(base, int64((r * LINE + u) * parts)), lane.element))
            for v in range(count):
                total = totals[r][v]
                totals[r][v] = e.multiply_add(value, columns[v], total) if parts == 1 else e.dot(total, value, columns[v])  # fmt: skip
    following = builder.add(k, int64(1))
    k.add_incoming(following, loop)
    for r in range(height):
        for v in range(count):
            sums[r][v].add_incoming(e.constant(0.0), entry)
            sums[r][v].add_incoming(totals[r][v], loop)
    builder.cbranch(builder.icmp_signed("<", following, pieces), loop, done)
    builder.position_at_end(done)
    for r in range(height):
        for v in range(count):
            e.store(totals[r][v], out, int64((r * pitch + v) * lanes))


@intrinsic
def multiply(typing: Any, vector: Any, rows: Any, width: Any, pitch: Any, source: Any, weights: Any, lines: Any, tile: Any) -> Any:  # fmt: skip
    """The first `width` of `pitch` vectors of every row of `tile` = source (lines, rows, LINE) times weights (lines * LINE, columns)."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        e, parts = Emitter(builder, vector.count), 1 if weights.dtype == types.float32 else 2
        emit_vector_product(e, (rows.count, width.count), pitch.count, parts, *args[4:])
        return context.get_dummy_value()

    return types.void(vector, rows, width, pitch, source, weights, types.int64, tile), codegen


@intrinsic
def put_lines(typing: Any, target: Any, distance: Any, source: Any, count: Any) -> Any:
    """`count` lines of `source`, one after the other, to places `distance` elements apart at `target`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, distance, start, count = args
        e, step = Emitter(builder, LINE), int64(LINE * (1 if source.dtype == types.float32 else 2))
        with cgutils.for_range(builder, count) as line:
            numbers = e.bits(start, builder.mul(line.index, step), e.integers)
            place = builder.gep(to, [builder.mul(line.index, distance)])
            builder.store(numbers, builder.bitcast(place, e.integers.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(target, types.int64, source, types.int64), codegen


def emit_weighted(e: Emitter, places: list[Any], count: Any, term: Callable[[Any], tuple[Any, Any]]) -> list[Any]:
    """Vectors: the sum over n below `count` of a factor times the vectors at `places`; term(n) is where both start."""
    builder = e.builder
    entry, loop, done = builder.block, builder.append_basic_block("mix"), builder.append_basic_block("mixed")
    builder.branch(loop)
    builder.position_at_end(loop)
    n, totals = builder.phi(I64), [builder.phi(e.floats) for _ in places]
    at, source = term(n)
    factor, following = e.broadcast(builder.load(at)), builder.add(n, int64(1))
    values = [e.load(source, place) for place in places]
    sums = [e.multiply_add(factor, value, total) for value, total in zip(values, totals, strict=True)]
    n.add_incoming(int64(0), entry)
    n.add_incoming(following, loop)
    for total, sum_ in zip(totals, sums, strict=True):
        total.add_incoming(e.constant(0.0), entry)
        total.add_incoming(sum_, loop)
    builder.cbranch(builder.icmp_signed("<", following, count), loop, done)
    builder.position_at_end(done)
    return sums


def emit_weighted_rows(e: Emitter, source: Any, places: list[Any], stride: Any, factors: Any, step: int, rows: Any) -> list[Any]:  # fmt: skip
    """`emit_weighted` of `rows` rows of `source`, `stride` apart, and every `step`-th factor."""
    builder = e.builder

    def row(n: Any) -> tuple[Any, Any]:
        return builder.gep(factors, [builder.mul(n, int64(step))]), builder.gep(source, [builder.mul(n, stride)])

    return emit_weighted(e, places, rows, row)


def emit_lines(
    e: Emitter, parts: int, count: Any, distance: Any, emit: Callable[[list[Any]], list[tuple[Any, list[Any]]]]
) -> None:
    """`count` lines, a few at a time: what `emit` makes of the places of their vectors, to `distance` * line of its targets."""
    builder, few = e.builder, 4 // parts
    whole = builder.sub(count, builder.urem(count, int64(few)))
    for first, last, together in ((int64(0), whole, few), (whole, count, 1)):
        with cgutils.for_range_slice(builder, first, last, int64(together), I64) as (line, _):
            begin, vectors = builder.mul(line, int64(LINE * parts)), [int64(v * LINE) for v in range(together * parts)]
            for target, sums in emit([builder.add(begin, v) for v in vectors]):
                for i, sum_ in enumerate(sums):
                    at = builder.mul(builder.add(line, int64(i // parts)), distance)
                    e.store(sum_, target, builder.add(at, int64(i % parts * LINE)))


@intrinsic
def mix_lines(typing: Any, target: Any, distance: Any, source: Any, stride: Any, factors: Any, rows: Any, count: Any) -> Any:  # fmt: skip
    """As `put_lines`, of a sum: `rows` rows of `source`, `stride` apart, each times its factor."""
    parts = 1 if source.dtype == types.float32 else 2

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, distance, start, stride, factors, rows, count = args
        e = Emitter(builder, LINE)
        emit_lines(
            e, parts, count, distance, lambda at: [(to, emit_weighted_rows(e, start, at, stride, factors, 1, rows))]
        )
        return context.get_dummy_value()

    signature = types.void(target, types.int64, source, types.int64, factors, types.int64, types.int64)
    return signature, codegen


@intrinsic
def mix_pairs(typing: Any, target: Any, other: Any, distance: Any, source: Any, stride: Any, factors: Any, rows: Any, count: Any) -> Any:  # fmt: skip
    """`mix_lines`, and `other` elements on the same with every second factor, from the second on, negative."""
    parts = 1 if source.dtype == types.float32 else 2

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, other, distance, start, stride, factors, rows, count = args
        e, one, second = Emitter(builder, LINE), int64(1), builder.gep(to, [other])
        odd, two = builder.lshr(rows, one), builder.shl(stride, one)
        even, next_row, further = builder.sub(rows, odd), builder.gep(start, [stride]), builder.gep(factors, [one])

        def emit(at: list[Any]) -> list[tuple[Any, list[Any]]]:
            sums = (
                emit_weighted_rows(e, start, at, two, factors, 2, even),
                emit_weighted_rows(e, next_row, at, two, further, 2, odd),
            )
            pairs = [*zip(*sums, strict=True)]
            return [(to, [builder.fadd(*pair) for pair in pairs]), (second, [builder.fsub(*pair) for pair in pairs])]

        emit_lines(e, parts, count, distance, emit)
        return context.get_dummy_value()

    whole = types.int64
    return types.void(target, whole, whole, source, whole, factors, whole, whole), codegen


@intrinsic
def expand(typing: Any, vector: Any, target: Any, panel: Any, count: Any) -> Any:
    """`count` vectors of a panel as products read them: float16, in int16, as float32 in `target`; all others as they are."""
    halves = panel.dtype == types.int16
    signature = (target if halves else panel)(vector, target, panel, types.int64)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, out, stored, count = args
        if halves:
            e = Emitter(builder, vector.count)
            for place in emit_places(e, count):
                e.store(e.load_half(stored, place), out, place)
        return out if halves else stored

    return signature, codegen


@intrinsic
def expand_pair(typing: Any, vector: Any, target: Any, panel: Any, taps: Any, factors: Any, count: Any, second: Any) -> Any:  # fmt: skip
    """target (2, count vectors) = two sums over 2 or 3 taps of factors (taps,) * panel (taps, count vectors); the result is one of them.

    In the second one every second factor, from the second on, is negative. Both are made when the first is asked for.
    panel: float16 in int16, or float32.
    """
    pairs = panel.dtype == types.uint32  # of bfloat16, which are kept as they are multiplied
    signature = (panel if pairs else target)(vector, target, panel, types.int64, factors, types.int64, types.int64)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, out, stored, taps, factors, count, second = args
        if pairs:
            return stored
        e = Emitter(builder, vector.count)
        load, size = e.load_half if panel.dtype == types.int16 else e.load, builder.mul(count, int64(e.lanes))
        done = builder.append_basic_block("expanded")
        choice = builder.switch(builder.select(builder.icmp_signed("==", second, int64(0)), taps, int64(0)), done)
        for number in (2, 3):
            block = builder.append_basic_block("taps")
            choice.add_case(int64(number), block)
            builder.position_at_end(block)
            scale = [e.broadcast(builder.load(builder.gep(factors, [int64(tap)]))) for tap in range(number)]
            for place in emit_places(e, count):
                even, odd, *rest = (
                    builder.fmul(factor, load(stored, builder.add(place, builder.mul(size, int64(tap)))))
                    for tap, factor in enumerate(scale)
                )
                for more in rest:
                    even = builder.fadd(even, more)
                e.store(builder.fadd(even, odd), out, place)
                e.store(builder.fsub(even, odd), out, builder.add(place, size))
            builder.branch(done)
        builder.position_at_end(done)
        return builder.gep(out, [builder.mul(second, size)])

    return signature, codegen


def emit_places(e: Emitter, count: Any) -> Iterator[Any]:
    """Where each of `count` vectors starts, UNROLLED of them in one turn of a loop; they come in multiples of LINE."""
    builder = e.builder
    with cgutils.for_range_slice(builder, int64(0), count, int64(UNROLLED), I64) as (first, _):
        begin = builder.mul(first, int64(e.lanes))
        for v in range(UNROLLED):
            yield builder.add(begin, int64(v * e.lanes))


@intrinsic
def mix(typing: Any, vector: Any, rows: Any, width: Any, target: Any, tiles: Any, factors: Any, places: Any, count: Any) -> Any:  # fmt: skip
    """The tile `target` = the sum of `count` tiles, places[n] tiles on from `tiles`, each times its factor."""
    size = rows.count * width.count

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        e = Emitter(builder, vector.count)
        _, _, _, out, tiles, factors, tables, count = args

        def tile(n: Any) -> tuple[Any, Any]:
            start = builder.mul(builder.load(builder.gep(tables, [n])), int64(size * e.lanes))
            return builder.gep(factors, [n]), builder.gep(tiles, [start])

        for first in range(0, size, TOGETHER):
            within = [int64(v * e.lanes) for v in range(first, min(first + TOGETHER, size))]
            for total, place in zip(emit_weighted(e, within, count, tile), within, strict=True):
                e.store(total, out, place)
        return context.get_dummy_value()

    return types.void(vector, rows, width, target, tiles, factors, places, types.int64), codegen


def emit_prefetch(builder: Any, start: Any, lines: Any) -> None:
    """Ask for `lines` lines of 64 bytes to be brought into the second-level cache."""
    byte = ir.IntType(8).as_pointer()
    hint = [ir.Constant(I32, value) for value in (0, 2, 1)]  # to read, keep in the second level, data
    kind = ir.FunctionType(ir.VoidType(), [byte, *(value.type for value in hint)])
    function, start = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind), builder.bitcast(start, byte)
    with cgutils.for_range(builder, lines) as line:
        builder.call(function, [builder.gep(start, [builder.mul(line.index, int64(64))]), *hint])


@intrinsic
def prefetch(typing: Any, pointer: Any, first: Any, count: Any) -> Any:
    """Ask for elements first..first + count to be brought into the second-level cache."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array, first, count = args
        size = builder.mul(count, int64(pointer.dtype.bitwidth // 8))
        emit_prefetch(builder, builder.gep(array, [first]), builder.udiv(builder.add(size, int64(63)), int64(64)))
        return context.get_dummy_value()

    return types.void(pointer, types.int64, types.int64), codegen


@intrinsic
def prefetch_rows(typing: Any, vector: Any, width: Any, source: Any, places: Any, count: Any) -> Any:
    """Ask for `width` vectors from each of the elements places[:count] on."""
    lines = -(-width.count * vector.count * (source.dtype.bitwidth // 8) // 64)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, _, array, places, count = args
        with cgutils.for_range(builder, count) as row:
            place = builder.load(builder.gep(places, [row.index]))
            emit_prefetch(builder, builder.gep(array, [place]), int64(lines))
        return context.get_dummy_value()

    return types.void(vector, width, source, places, types.int64), codegen


def emit_activation(e: Emitter, activation: Any, values: list[Any], fast: bool) -> list[Any]:
    """`activation`, one of the codes above, of vectors; `fast`: as exact as bfloat16 needs."""
    builder = e.builder
    kinds = ((SWISH, e.swish_for_bfloat16 if fast else e.swish), (TANH, e.tanh), (CLIP, lambda x: e.clip(x, -1.0, 1.0)))
    entry, done = builder.block, builder.append_basic_block("activated")
    choice = builder.switch(activation, done)
    results = [(entry, values)]
    for code, function in kinds:
        block = builder.append_basic_block("activation")
        choice.add_case(int64(code), block)
        builder.position_at_end(block)
        result = [function(value) for value in values]
        results.append((builder.block, result))
        builder.branch(done)
    builder.position_at_end(done)
    merged = []
    for i, value in enumerate(values):
        phi = builder.phi(value.type)
        for block, result in results:
            phi.add_incoming(result[i], block)
        merged.append(phi)
    return merged


def emit_activated(e: Emitter, columns: list[Any], row: Any, tables: tuple[Any, ...], fast: bool) -> list[Any]:
    """The vectors of one row of a tile: activation(tile + bias + noise * bias[gain:]); tables: as `activate` takes them."""
    data, table, gain, noise, stride, activation = tables
    builder, values = e.builder, []
    at = builder.mul(row, int64(len(columns) * e.lanes))
    number = e.broadcast(builder.load(builder.gep(noise, [builder.mul(row, stride)])))
    for column in columns:
        value = builder.fadd(e.load(data, builder.add(at, column)), e.load(table, column))
        values.append(e.multiply_add(number, e.load(table, builder.add(gain, column)), value))
    return emit_activation(e, activation, values, fast)


@intrinsic
def activate(typing: Any, vector: Any, width: Any, tile: Any, valid: Any, bias: Any, gain: Any, noise: Any, stride: Any, activation: Any) -> Any:  # fmt: skip
    """tile = activation(tile + bias + noise * bias[gain:]) in place, of the first `valid` rows; noise[r * stride] is row r's."""
    columns = [int64(v * vector.count) for v in range(width.count)]

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        e, (data, valid, *tables) = Emitter(builder, vector.count), args[2:]
        with cgutils.for_range(builder, valid) as row:
            at = builder.mul(row.index, int64(width.count * vector.count))
            values = emit_activated(e, columns, row.index, (data, *tables), fast=False)
            for column, value in zip(columns, values, strict=True):
                e.store(value, data, builder.add(at, column))
        return context.get_dummy_value()

    signature = types.void(vector, width, tile, types.int64, bias, types.int64, noise, types.int64, types.int64)
    return signature, codegen


@intrinsic
def finish(typing: Any, vector: Any, width: Any, taken: Any, tile: Any, valid: Any, bias: Any, gain: Any, noise: Any, stride: Any, activation: Any, target: Any, places: Any, kept: Any, sums: Any, totals: Any, others: Any, summed: Any, every: Any) -> Any:  # fmt: skip
    """`activate` of rows whose results go from registers to where they belong: to rows of `target` if `kept`, and added to others of `sums` if `summed`.

    Row r goes to target[places[r * every]]; its sum with sums[others[r * every]] to sums[totals[r * every]]. Of each row the
    first `taken` vectors go there, all or all but the last.
    """
    columns = [int64(v * vector.count) for v in range(width.count)]

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        e, (taken, data, valid, *tables) = Emitter(builder, vector.count), args[2:10]
        target, places, kept, sums, totals, others, summed, every = args[10:]
        full = builder.icmp_signed("==", taken, int64(width.count))

        def put(values: list[Any], array: Any, place: Any, other: Any = None) -> None:
            for column, value in zip(columns, values, strict=True):
                with builder.if_then(full) if column is columns[-1] and len(columns) > 1 else nullcontext():
                    if other is not None:
                        value = builder.fadd(value, e.load(array, builder.add(other, column)))
                    e.store(value, array, builder.add(place, column))

        with cgutils.for_range(builder, valid) as row:
            index = builder.mul(row.index, every)
            values = emit_activated(e, columns, row.index, (data, *tables), fast=sums.type.pointee == I16)
            with builder.if_then(builder.icmp_signed("!=", kept, int64(0))):
                put(values, target, builder.load(builder.gep(places, [index])))
            with builder.if_then(builder.icmp_signed("!=", summed, int64(0))):
                other, total = (builder.load(builder.gep(rows, [index])) for rows in (others, totals))
                put(values, sums, total, other)
        return context.get_dummy_value()

    whole = types.int64
    signature = types.void(
        vector, width, whole, tile, whole, bias, whole, noise, whole, whole, target, places, whole, sums, totals, others, whole, whole
    )  # fmt: skip
    return signature, codegen


@intrinsic
def add(typing: Any, vector: Any, width: Any, tile: Any, source: Any) -> Any:
    """tile += source for `width` vectors (arrays have slack at their end for the last one)."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        e = Emitter(builder, vector.count)
        _, _, data, other = args
        for v in range(width.count):
            offset = int64(v * vector.count)
            e.store(builder.fadd(e.load(data, offset), e.load(other, offset)), data, offset)
        return context.get_dummy_value()

    return types.void(vector, width, tile, source), codegen


@intrinsic
def copy(typing: Any, vector: Any, width: Any, tile: Any, target: Any) -> Any:
    """target = tile for `width` vectors."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        e = Emitter(builder, vector.count)
        _, _, data, out = args
        for v in range(width.count):
            offset = int64(v * vector.count)
            e.store(e.load(data, offset), out, offset)
        return context.get_dummy_value()

    return types.void(vector, width, tile, target), codegen
