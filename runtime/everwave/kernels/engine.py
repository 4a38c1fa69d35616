"""The engine's kernels: matrix products on strided rows with their epilogue, and the few other operations.

One JIT policy: `njit(**POLICY)`, no signature (compiled at the first call), every constant an argument or defined in
this file, kernels of this file call only each other. The width of a vector and
the size of a tile reach the compiler as the lengths of tuples: each path is one more specialisation of the same
source, and the caches of several paths live side by side.

The inner loops are LLVM vector operations written out by intrinsics: what the compiler makes of them is the same
on AVX-512, AVX2, SSE and NEON, and does not hang on what a loop vectoriser happens to recognise.

Rounding: every sum over the depth of a product runs in one fixed order in one accumulator, so that an output never
depends on the tile, the block or the batch that its row was computed in.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

POLICY: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}
INNER = POLICY | {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}  # only kernels call it: less to compile

GUARD = 2  # zero rows before, between and after the windows of a buffer; what a convolution reads past an edge

# A step is a row of integers; these name its columns. Offsets count elements of the array they point into.
KIND, STEPS, DEPTH, WIDTH, SOURCE, TARGET, EXTERNAL, SUM, RESIDUAL = range(9)
WEIGHTS, BIAS, NOISE, NOISE_STRIDE, ACTIVATION, BLOCK, GAIN, FACTOR, STRIDE, SOURCE_STRIDE = range(9, 19)
POINTS, DISTINCT, OUTPUTS, MIX, SPAN, FIRST, ADVANCE, GROUP = range(19, 27)  # minimal filtering: see ops/filters.py
FIELDS = 27
PRODUCT, LOAD, CLEAR, STYLE, POOL, SHUFFLE, COMBINE, TRANSFORM = range(8)  # kinds of step
NONE, SWISH, TANH, CLIP = range(4)  # activations

F32, I32, I16, I64, BIT = ir.FloatType(), ir.IntType(32), ir.IntType(16), ir.IntType(64), ir.IntType(1)
EXP2_ROUND = 12582912.0  # 1.5 * 2**23: adding it leaves the nearest integer in the low bits of a float32
EXP2_POLYNOMIAL = (  # 2**f on [-1/2, 1/2], relative error 2e-9 before rounding (minimax, highest power first)
    1.535336196e-04, 1.339887441e-03, 9.618437357e-03, 5.550332471e-02, 2.402264791e-01, 6.931472029e-01, 1.0,
)  # fmt: skip
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

    def store(self, value: Any, array: Any, index: Any) -> None:
        """A vector of float32 numbers to elements that are float32, or bfloat16 (rounded to nearest even)."""
        align = 4
        if array.type.pointee == I16:
            value, align = self.narrow(value, BF16, I16), 2
        pointer = self.builder.bitcast(self.builder.gep(array, [index]), value.type.as_pointer())
        self.builder.store(value, pointer, align=align)

    def widen(self, halves: Any, integer: Any, sixteen: Any, number: Any) -> Any:
        return self.builder.bitcast(self.builder.shl(self.builder.zext(halves, integer), sixteen), number)

    def narrow(self, value: Any, number: Any, integer: Any) -> Any:
        vector = isinstance(value.type, ir.VectorType)
        wrap = (lambda kind: ir.VectorType(kind, self.lanes)) if vector else (lambda kind: kind)
        return self.builder.bitcast(self.builder.fptrunc(value, wrap(number)), wrap(integer))

    def dot(self, sums: Any, value: Any, columns: Any) -> Any:
        """sums + the products of two bfloat16 per lane, in float32 (vectors of pairs)."""
        pairs = ir.VectorType(BF16, 2 * self.lanes)
        value, columns = self.builder.bitcast(value, pairs), self.builder.bitcast(columns, pairs)
        return self.call("llvm.x86.avx512bf16.dpbf16ps.512", self.floats, sums, value, columns)


@intrinsic
def _pointer(typing: Any, array: Any) -> Any:
    """Where an array's data starts. Kernels pass pointers on: arrays would be counted at every call."""
    signature = types.CPointer(array.dtype)(array)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return cgutils.create_struct_proxy(array)(context, builder, value=args[0]).data

    return signature, codegen


@intrinsic
def _skip(typing: Any, pointer: Any, count: Any) -> Any:
    """The pointer `count` elements on."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.gep(args[0], [args[1]])

    return pointer(pointer, types.int64), codegen


@intrinsic
def _read(typing: Any, source: Any, index: Any) -> Any:
    """Element `index` as float32."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value = builder.load(builder.gep(args[0], [args[1]]))
        if source.dtype == types.uint16:
            value = Emitter(builder, 1).widen(value, I32, ir.Constant(I32, 16), F32)
        return value

    return types.float32(source, types.int64), codegen


@intrinsic
def _write(typing: Any, target: Any, index: Any, value: Any) -> Any:
    """Element `index` = a float32 number, rounded where elements are bfloat16."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value = args[2] if target.dtype == types.float32 else Emitter(builder, 1).narrow(args[2], BF16, I16)
        builder.store(value, builder.gep(args[0], [args[1]]))
        return context.get_dummy_value()

    return types.void(target, types.int64, types.float32), codegen


def _index(value: int) -> Any:
    return ir.Constant(I64, value)


@intrinsic
def _multiply(typing: Any, vector: Any, rows: Any, width: Any, source: Any, starts: Any, valid: Any, weights: Any, depth: Any, tile: Any) -> Any:  # fmt: skip
    """tile (rows, width, lanes) = source[starts[r] + k] * weights[k], summed over k < depth.

    bfloat16: k counts pairs of neighbours, which one lane multiplies and adds at once.
    Rows from `valid` on repeat the last valid one. The accumulators stay in registers over the whole depth.
    """
    height, count = rows.count, width.count
    signature = types.void(vector, rows, width, source, starts, types.int64, weights, types.int64, tile)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        e = Emitter(builder, vector.count)
        _, _, _, a, table, valid, b, depth, out = args
        parts = 1 if weights.dtype == types.float32 else 2  # a lane holds a number, or a pair of bfloat16
        lane = e.floats if parts == 1 else e.integers
        last = builder.sub(valid, _index(1))
        inputs = []
        for r in range(height):
            row = builder.select(builder.icmp_signed("<", _index(r), valid), _index(r), last)
            inputs.append(builder.gep(a, [builder.load(builder.gep(table, [row]))]))

        entry, loop, done = builder.block, builder.append_basic_block("depth"), builder.append_basic_block("done")
        builder.branch(loop)
        builder.position_at_end(loop)
        k = builder.phi(I64)
        k.add_incoming(_index(0), entry)
        sums = [[builder.phi(e.floats) for _ in range(count)] for _ in range(height)]
        row, at = builder.mul(k, _index(parts)), builder.mul(k, _index(count * vector.count))
        columns = [e.bits(b, builder.add(at, _index(v * vector.count)), lane) for v in range(count)]
        for r in range(height):
            value = e.broadcast(e.bits(inputs[r], row, lane.element))
            for v in range(count):
                total = sums[r][v]
                total.add_incoming(e.constant(0.0), entry)
                total.add_incoming(
                    e.multiply_add(value, columns[v], total) if parts == 1 else e.dot(total, value, columns[v]), loop
                )
        following = builder.add(k, _index(1))
        k.add_incoming(following, loop)
        builder.cbranch(builder.icmp_signed("<", following, depth), loop, done)
        builder.position_at_end(done)
        for r in range(height):
            for v in range(count):
                e.store(sums[r][v].incomings[1][0], out, _index((r * count + v) * vector.count))
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def _activate(typing: Any, vector: Any, width: Any, tile: Any, constants: Any, gain: Any, noise: Any, activation: Any) -> Any:  # fmt: skip
    """tile = activation(tile + constants + noise * constants[gain:]) for `width` vectors, in place."""
    signature = types.void(vector, width, tile, constants, types.int64, types.float32, types.int64)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        e = Emitter(builder, vector.count)
        _, _, data, table, gain, noise, activation = args
        noise = e.broadcast(noise)
        offsets = [_index(v * vector.count) for v in range(width.count)]
        values = []
        for offset in offsets:
            value = builder.fadd(e.load(data, offset), e.load(table, offset))
            values.append(e.multiply_add(noise, e.load(table, builder.add(gain, offset)), value))
        done = builder.append_basic_block("activated")
        results = [(values, builder.block)]
        choice = builder.switch(activation, done)
        for code, function in ((SWISH, e.swish), (TANH, e.tanh), (CLIP, lambda x: e.clip(x, -1.0, 1.0))):
            block = builder.append_basic_block("activation")
            choice.add_case(_index(code), block)
            builder.position_at_end(block)
            results.append(([function(value) for value in values], builder.block))
            builder.branch(done)
        builder.position_at_end(done)
        merged = [builder.phi(e.floats) for _ in offsets]
        for v, phi in enumerate(merged):
            for result, block in results:
                phi.add_incoming(result[v], block)
        for phi, offset in zip(merged, offsets, strict=True):
            e.store(phi, data, offset)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def _add(typing: Any, vector: Any, width: Any, tile: Any, source: Any) -> Any:
    """tile += source for `width` vectors (arrays have slack at their end for the last one)."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        e = Emitter(builder, vector.count)
        _, _, data, other = args
        for v in range(width.count):
            offset = _index(v * vector.count)
            e.store(builder.fadd(e.load(data, offset), e.load(other, offset)), data, offset)
        return context.get_dummy_value()

    return types.void(vector, width, tile, source), codegen


@intrinsic
def _copy(typing: Any, vector: Any, width: Any, tile: Any, target: Any) -> Any:
    """target = tile for `width` vectors."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        e = Emitter(builder, vector.count)
        _, _, data, out = args
        for v in range(width.count):
            offset = _index(v * vector.count)
            e.store(e.load(data, offset), out, offset)
        return context.get_dummy_value()

    return types.void(vector, width, tile, target), codegen


@njit(**INNER)
def _put(vector, width, tile, target, count):  # type: ignore[no-untyped-def]
    """target[:count] = tile[:count]; `width` vectors hold them."""
    if count == len(width) * len(vector):
        _copy(vector, width, tile, target)
    else:
        for i in range(count):
            _write(target, i, tile[i])


@njit(**INNER)
def _finish(vector, width, step, tile, first, valid, output, column, arena, out, constants, tables, noise):  # type: ignore[no-untyped-def]  # fmt: skip
    """The epilogue of a tile: bias, noise, activation, then the result and its sum with another tensor to their rows."""
    bias, activation = _skip(constants, step[BIAS] + column), step[ACTIVATION]
    raw, total, residual, external = step[TARGET], step[SUM], step[RESIDUAL], step[EXTERNAL] > 0
    gain = -(-step[WIDTH] // len(vector)) * len(vector)
    span = len(width) * len(vector)
    count = min(span, step[WIDTH] - column)
    for r in range(valid):
        here, row = _skip(tile, r * span), (first + r) * step[OUTPUTS] + output
        _activate(vector, width, here, bias, gain, noise[step[NOISE] + row * step[NOISE_STRIDE]], activation)
        if raw >= 0 and external:
            _put(vector, width, here, _skip(out, tables[raw + row] + column), count)
        elif raw >= 0:
            _put(vector, width, here, _skip(arena, tables[raw + row] + column), count)
        if total >= 0:
            _add(vector, width, here, _skip(arena, tables[residual + row] + column))
            _put(vector, width, here, _skip(arena, tables[total + row] + column), count)


@njit(**INNER)
def _weigh(target, source, factors, count, distance, size):  # type: ignore[no-untyped-def]
    """target[:size] = the sum of `count` rows of `source`, `distance` apart, each times its factor; zeros cost nothing."""
    fresh = True
    for n in range(count):
        factor, row = factors[n], _skip(source, n * distance)
        if factor != 0 and fresh:
            for i in range(size):
                target[i] = factor * row[i]
            fresh = False
        elif factor != 0:
            for i in range(size):
                target[i] += factor * row[i]


@njit(**INNER)
def _tiles(vector, rows, width, step, first, end, column, arena, panel, out, constants, tables, noise, tile):  # type: ignore[no-untyped-def]  # fmt: skip
    """The register tiles of rows first..end: for every point their products, then for every output its epilogue.

    Points come outside of rows, so that the weights of a point are read from the second-level cache again and again.
    """
    points, depth, height = step[POINTS], step[DEPTH], len(rows)
    size = height * len(width) * len(vector)
    products = _skip(tile, size)
    for p in range(points):
        inputs = _skip(arena, p * step[SOURCE_STRIDE])
        kernel = _skip(panel, min(p, step[DISTINCT] - 1) * depth * len(width) * len(vector))
        for m in range(first, end, height):
            starts, result = _skip(tables, step[SOURCE] + m), _skip(products, ((m - first) * points + p * height) * (size // height))  # fmt: skip
            _multiply(vector, rows, width, inputs, starts, min(height, end - m), kernel, depth, result)
    for m in range(first, end, height):
        result = _skip(products, (m - first) * points * (size // height))
        for output in range(step[OUTPUTS]):
            here = result
            if points > 1:
                here = tile
                _weigh(tile, result, _skip(constants, step[MIX] + output * points), points, size, size)
            _finish(vector, width, step, here, m, min(height, end - m), output, column, arena, out, constants, tables, noise)  # fmt: skip


@njit(**INNER)
def _product(vector, rows, step, batch, arena, out, weights, constants, tables, noise, tile):  # type: ignore[no-untyped-def]  # fmt: skip
    """One matrix product with its epilogue: blocks of rows pass over every panel of columns.

    Panels are three vectors wide; one or two pairs end a width that three does not divide.
    """
    lanes, group = len(vector), step[GROUP]
    count = batch * step[STEPS]
    vectors = -(-step[WIDTH] // lanes)
    for block in range(0, count, step[BLOCK]):
        last = min(block + step[BLOCK], count)
        panel, left = _skip(weights, step[WEIGHTS]), vectors
        while left > 0:
            column = (vectors - left) * lanes
            size = 3 if left == 3 or left > 4 else 2
            for m in range(block, last, group):
                end = min(m + group, last)
                if size == 3:
                    _tiles(vector, rows, (0, 0, 0), step, m, end, column, arena, panel, out, constants, tables, noise, tile)  # fmt: skip
                else:
                    _tiles(vector, rows, (0, 0), step, m, end, column, arena, panel, out, constants, tables, noise, tile)  # fmt: skip
            left -= size
            panel = _skip(panel, step[DISTINCT] * step[DEPTH] * size * lanes)


@njit(**INNER)
def _row(base, steps, stride, window, step):  # type: ignore[no-untyped-def]
    """Where row `step` of `window` starts in a buffer at `base` of windows of `steps` rows, guards between them."""
    return base + (GUARD + window * (steps + GUARD) + step) * stride


@njit(**INNER)
def _clear(step, batch, arena):  # type: ignore[no-untyped-def]
    """Zero the guard rows of a buffer whose memory was another buffer's; all of it if its rows end in padding."""
    steps, stride = step[STEPS], step[STRIDE]
    for window in range(batch + 1):
        end = _row(step[TARGET], steps, stride, window, 0)
        rows = GUARD if step[WIDTH] == stride or window == 0 else GUARD + steps
        for i in range(end - rows * stride, end):
            arena[i] = 0


@njit(**INNER)
def _load(step, batch, x, arena):  # type: ignore[no-untyped-def]
    """The caller's dense windows into a buffer with guards."""
    steps, stride, channels = step[STEPS], step[STRIDE], step[WIDTH]
    for window in range(batch):
        start = _row(step[TARGET], steps, stride, window, 0)
        for t in range(steps):
            for c in range(channels):
                _write(arena, start + t * stride + c, x[(window * steps + t) * channels + c])


@njit(**INNER)
def _style(vector, step, batch, arena, constants, scratch):  # type: ignore[no-untyped-def]
    """AdaIN and swish in place: x / (standard deviation over time + 1e-5) * gain, then swish, times a factor."""
    steps, stride, channels, factor = step[STEPS], step[STRIDE], step[WIDTH], constants[step[FACTOR]]
    line = _skip(scratch, -(-channels // len(vector)) * len(vector))
    for window in range(batch):
        start = _row(step[TARGET], steps, stride, window, 0)
        gain = _row(step[GAIN], steps, stride, window, 0)
        for c in range(channels):
            total = np.float32(0)
            for t in range(steps):
                total += _read(arena, start + t * stride + c)
            mean, square = total / np.float32(steps), np.float32(0)
            for t in range(steps):
                square += (_read(arena, start + t * stride + c) - mean) ** 2
            scratch[c] = np.float32(1) / (np.sqrt(square / np.float32(steps)) + np.float32(1e-5))
        for t in range(steps):
            row = t * stride
            for c in range(channels):
                line[c] = _read(arena, start + row + c) * scratch[c] * _read(arena, gain + row + c)
            for at in range(0, channels, len(vector)):
                _activate(vector, (0,), _skip(line, at), constants, 0, np.float32(0), SWISH)
            for c in range(channels):
                _write(arena, start + row + c, line[c] * factor)


@njit(**INNER)
def _pool(step, batch, arena):  # type: ignore[no-untyped-def]
    """Means of two neighbouring rows."""
    steps, stride = step[STEPS], step[STRIDE]
    for window in range(batch):
        source = _row(step[SOURCE], 2 * steps, stride, window, 0)
        target = _row(step[TARGET], steps, stride, window, 0)
        for t in range(steps):
            first, out = source + 2 * t * stride, target + t * stride
            for c in range(step[WIDTH]):
                total = _read(arena, first + c) + _read(arena, first + stride + c)
                _write(arena, out + c, total * np.float32(0.5))


@njit(**INNER)
def _shuffle(step, batch, arena):  # type: ignore[no-untyped-def]
    """Channel 2 c + f of step t becomes channel c of step 2 t + f."""
    steps, stride, wide = step[STEPS], step[STRIDE], step[SOURCE_STRIDE]
    for window in range(batch):
        source = _row(step[SOURCE], steps // 2, wide, window, 0)
        target = _row(step[TARGET], steps, stride, window, 0)
        for t in range(steps):
            first = source + (t // 2) * wide + t % 2
            for c in range(step[WIDTH]):
                arena[target + t * stride + c] = arena[first + 2 * c]


@njit(**INNER)
def _combine(step, batch, arena, constants):  # type: ignore[no-untyped-def]
    """factor * source [+ residual], row by row; what no product could take into its epilogue."""
    size, factor = step[STEPS] * step[STRIDE], constants[step[FACTOR]]
    for window in range(batch):
        source = _row(step[SOURCE], step[STEPS], step[STRIDE], window, 0)
        target = _row(step[TARGET], step[STEPS], step[STRIDE], window, 0)
        other = _row(max(step[RESIDUAL], 0), step[STEPS], step[STRIDE], window, 0)
        share = np.float32(1) if step[RESIDUAL] >= 0 else np.float32(0)
        for i in range(size):
            _write(arena, target + i, factor * _read(arena, source + i) + share * _read(arena, other + i))


@njit(**INNER)
def _transform(step, batch, arena, constants):  # type: ignore[no-untyped-def]
    """The inputs of a minimal filter: for every tile of outputs, the weighted sums of the rows it spans."""
    steps, stride, points, span = step[STEPS], step[STRIDE], step[POINTS], step[SPAN]
    tiles = steps // points
    for window in range(batch):
        for tile in range(tiles):
            source = _row(step[SOURCE], step[OUTPUTS], stride, window, step[FIRST] + tile * step[ADVANCE])
            target = _row(step[TARGET], steps, stride, window, tile * points)
            for p in range(points):
                factors = _skip(constants, step[MIX] + p * span)
                _weigh(_skip(arena, target + p * stride), _skip(arena, source), factors, span, stride, stride)


@njit(**POLICY)
def run(vector, rows, steps, batch, x, arena, out, weights, constants, tables, noise, tile, every_kind):  # type: ignore[no-untyped-def]  # fmt: skip
    """Every step of a plan on `batch` windows: flat `x` in, flat `out` filled, `arena` in between.

    vector, rows: tuples as long as a vector has lanes and a tile has rows. steps: (n, FIELDS) int64. arena and
    weights: float32, or uint16 and uint32 that hold bfloat16 and pairs of them. constants: float32, starting with
    two vectors of zeros. tables: int64 row starts. tile: float32 scratch for tiles of rows * 3 vectors, one and one
    per point of a filter, or twice the widest styled row. every_kind: None for plans of products alone, for which
    the other kinds of step are not even compiled, else True.
    """
    program, x, arena, out, weights = _pointer(steps), _pointer(x), _pointer(arena), _pointer(out), _pointer(weights)
    constants, tables, noise, tile = _pointer(constants), _pointer(tables), _pointer(noise), _pointer(tile)
    for i in range(len(steps)):
        step = _skip(program, i * FIELDS)
        kind = step[KIND]
        if kind == PRODUCT:
            _product(vector, rows, step, batch, arena, out, weights, constants, tables, noise, tile)
        elif kind == LOAD:
            _load(step, batch, x, arena)
        elif kind == CLEAR:
            _clear(step, batch, arena)
        if every_kind is not None:
            if kind == STYLE:
                _style(vector, step, batch, arena, constants, tile)
            elif kind == POOL:
                _pool(step, batch, arena)
            elif kind == SHUFFLE:
                _shuffle(step, batch, arena)
            elif kind == COMBINE:
                _combine(step, batch, arena, constants)
            elif kind == TRANSFORM:
                _transform(step, batch, arena, constants)
