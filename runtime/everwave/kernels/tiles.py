"""The product of packed rows with packed weights: on vectors, or on AMX's tile registers.

A tile is 16 rows of 64 bytes: float32 sums, or pairs of bfloat16. The instructions are four, and sit behind one class:
`AmxTiles` writes the real ones, `MemoryTiles` does the same on memory with vectors that any CPU has. So everything
around them, packing, edges and epilogue, is tested on machines without AMX; that these four instructions do what
Intel's manual says is left to machines that have them.

What computes follows from the type of `rows`, a tuple as long as a tile of the engine has rows: int64 for vectors,
int8 for AMX, int16 for its twin. Engine tiles of AMX are 32 rows by 32 columns, four accumulators.
Source: Intel, "Architecture Instruction Set Extensions Programming Reference", chapter 3.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .vectors import I32, LINE, Emitter, emit_vector_product, int64

ROWS, BYTES = 16, 64  # of a tile
AMX, TWIN = types.int8, types.int16
I8 = ir.IntType(8)
# Palette 1, then from byte 16 the bytes of a row and from byte 48 the rows of each of the eight tiles.
CONFIGURATION = bytes([1, *[0] * 15, *[BYTES, 0] * 8, *[0] * 16, *[ROWS] * 8, *[0] * 8])


class AmxTiles:
    """The tile registers of AMX. Their numbers are part of the instructions, so they are constants here."""

    def __init__(self, builder: Any) -> None:
        self.builder = builder

    def zero(self, tile: int) -> None:
        self._call("tilezero", _number(tile))

    def load(self, tile: int, pointer: Any, stride: int) -> None:
        self._call("tileloadd64", _number(tile), pointer, int64(stride))

    def store(self, tile: int, pointer: Any, stride: int) -> None:
        self._call("tilestored64", _number(tile), pointer, int64(stride))

    def dot(self, sums: int, a: int, b: int) -> None:
        """sums (16, 16) += a (16, 16 pairs) times b (16 pairs, 16)."""
        self._call("tdpbf16ps", _number(sums), _number(a), _number(b))

    def configure(self, pointer: Any) -> None:
        self._call("ldtilecfg", pointer)

    def release(self) -> None:
        self._call("tilerelease")

    def _call(self, name: str, *arguments: Any) -> None:
        kind = ir.FunctionType(ir.VoidType(), [argument.type for argument in arguments])
        function = cgutils.get_or_insert_function(self.builder.module, kind, f"llvm.x86.{name}")
        self.builder.call(function, arguments)


class MemoryTiles:
    """The slow twin: eight tiles in memory."""

    def __init__(self, builder: Any) -> None:
        self.builder, self.e = builder, Emitter(builder, ROWS)
        self.memory = cgutils.alloca_once(builder, ir.ArrayType(self.e.integers, 8 * ROWS))

    def zero(self, tile: int) -> None:
        with cgutils.for_range(self.builder, int64(ROWS)) as row:
            self.builder.store(self.e.integer(0), self._row(tile, row.index))

    def load(self, tile: int, pointer: Any, stride: int) -> None:
        with cgutils.for_range(self.builder, int64(ROWS)) as row:
            self.builder.store(
                self.builder.load(self._at(pointer, row.index, stride), align=1), self._row(tile, row.index)
            )

    def store(self, tile: int, pointer: Any, stride: int) -> None:
        with cgutils.for_range(self.builder, int64(ROWS)) as row:
            self.builder.store(
                self.builder.load(self._row(tile, row.index)), self._at(pointer, row.index, stride), align=1
            )

    def dot(self, sums: int, a: int, b: int) -> None:
        builder, e = self.builder, self.e
        with cgutils.for_range(builder, int64(ROWS)) as row, cgutils.for_range(builder, int64(ROWS)) as pair:
            one = builder.bitcast(self._row(a, row.index), I32.as_pointer())
            left = e.broadcast(builder.load(builder.gep(one, [pair.index])))
            right, place = builder.load(self._row(b, pair.index)), self._row(sums, row.index)
            total = builder.bitcast(builder.load(place), e.floats)
            for half in (lambda x: builder.shl(x, e.integer(16)), lambda x: builder.and_(x, e.integer(-65536))):
                x, y = (builder.bitcast(half(pairs), e.floats) for pairs in (left, right))
                total = e.multiply_add(x, y, total)
            builder.store(builder.bitcast(total, e.integers), place)

    def _row(self, tile: int, row: Any) -> Any:
        return self.builder.gep(self.memory, [int64(0), self.builder.add(row, int64(tile * ROWS))])

    def _at(self, pointer: Any, row: Any, stride: int) -> Any:
        address = self.builder.gep(pointer, [self.builder.mul(row, int64(stride))])
        return self.builder.bitcast(address, self.e.integers.as_pointer())


def emit_tile_product(builder: Any, tiles: Any, source: Any, weights: Any, lines: Any, out: Any) -> None:
    """out (32, 32) float32 = source (lines, 32, 16 pairs) times weights (lines, 16 pairs, 32); byte pointers.

    Sums are tiles 0..3, as (rows, columns); 4 and 5 the rows, 6 and 7 the columns.
    """
    side = 2 * BYTES  # bytes of 32 numbers
    for tile in range(4):
        tiles.zero(tile)
    with cgutils.for_range(builder, lines) as line:
        at = builder.mul(line.index, int64(2 * ROWS * BYTES))
        a, b = builder.gep(source, [at]), builder.gep(weights, [at])
        for half in range(2):
            tiles.load(4 + half, builder.gep(a, [int64(half * ROWS * BYTES)]), BYTES)
            tiles.load(6 + half, builder.gep(b, [int64(half * BYTES)]), side)
        for tile in range(4):
            tiles.dot(tile, 4 + tile // 2, 6 + tile % 2)
    for tile in range(4):
        tiles.store(tile, builder.gep(out, [int64(tile // 2 * ROWS * side + tile % 2 * BYTES)]), side)


@intrinsic
def multiply(typing: Any, vector: Any, rows: Any, width: Any, source: Any, weights: Any, lines: Any, tile: Any) -> Any:
    """tile (rows, width, lanes) = packed rows, source (lines, rows, LINE), times weights (lines * LINE, columns)."""
    signature = types.void(vector, rows, width, source, weights, types.int64, tile)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointers = args[3], args[4], args[6]
        if rows.dtype == types.int64:
            e, parts = Emitter(builder, vector.count), 1 if weights.dtype == types.float32 else 2
            emit_vector_product(e, (rows.count, width.count), parts, args[3], args[4], args[5], args[6])
        else:
            assert (rows.count, width.count, vector.count, LINE) == (2 * ROWS, 2, ROWS, ROWS)
            tiles = AmxTiles(builder) if rows.dtype == AMX else MemoryTiles(builder)
            source, weights_, out = (builder.bitcast(pointer, I8.as_pointer()) for pointer in pointers)
            emit_tile_product(builder, tiles, source, weights_, args[5], out)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def configure(typing: Any, rows: Any) -> Any:
    """Shape this thread's tiles; nothing unless `rows` say AMX."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if rows.dtype == AMX:
            AmxTiles(builder).configure(context.insert_const_bytes(builder.module, CONFIGURATION))
        return context.get_dummy_value()

    return types.void(rows), codegen


@intrinsic
def release(typing: Any, rows: Any) -> Any:
    """Give this thread's tiles back, so that switching between threads costs no more than before."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if rows.dtype == AMX:
            AmxTiles(builder).release()
        return context.get_dummy_value()

    return types.void(rows), codegen


def _number(tile: int) -> Any:
    return ir.Constant(I8, tile)
