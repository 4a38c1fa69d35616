"""Products on AMX's tile registers.

A tile is 16 rows of 64 bytes: float32 sums, or pairs of bfloat16. The instructions are four, and sit behind one class:
`AmxTiles` writes the real ones, `MemoryTiles` does the same on memory with vectors that any CPU has. So everything
around them is tested on machines without AMX; that these four instructions do what Intel's manual says is left to
machines that have them.

The engine sums up 32 rows by 32 columns in four tiles: the rows are read where they lie, the columns from packed
weights. What multiplies follows from the type of `unit`, a number: int8 for AMX, int16 for its
twin. `memory` (`steps.MEMORY` float32 numbers) is where the twin's tiles are.
Source: Intel, "Architecture Instruction Set Extensions Programming Reference", chapter 3.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .vectors import I32, Emitter, int64

ROWS, BYTES = 16, 64  # of a tile
AMX = types.int8
I8 = ir.IntType(8)
# Palette 1, then from byte 16 the bytes of a row and from byte 48 the rows of each of the eight tiles.
CONFIGURATION = bytes([1, *[0] * 15, *[BYTES, 0] * 8, *[0] * 16, *[ROWS] * 8, *[0] * 8])


class AmxTiles:
    """The tile registers of AMX. Their numbers are part of the instructions, so they are constants here."""

    def __init__(self, builder: Any) -> None:
        self.builder = builder

    def zero(self, tile: int) -> None:
        self._call("tilezero", _number(tile))

    def load(self, tile: int, pointer: Any, stride: Any) -> None:
        """The 16 rows at `pointer`, `stride` bytes apart."""
        self._call("tileloadd64", _number(tile), pointer, stride)

    def store(self, tile: int, pointer: Any, stride: Any) -> None:
        self._call("tilestored64", _number(tile), pointer, stride)

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

    def __init__(self, builder: Any, memory: Any) -> None:
        self.builder, self.e = builder, Emitter(builder, ROWS)
        self.memory = builder.bitcast(memory, self.e.integers.as_pointer())

    def zero(self, tile: int) -> None:
        with cgutils.for_range(self.builder, int64(ROWS)) as row:
            self._put(self.e.integer(0), self._row(tile, row.index))

    def load(self, tile: int, pointer: Any, stride: Any) -> None:
        with cgutils.for_range(self.builder, int64(ROWS)) as row:
            self._put(self._get(self._at(pointer, row.index, stride)), self._row(tile, row.index))

    def store(self, tile: int, pointer: Any, stride: Any) -> None:
        with cgutils.for_range(self.builder, int64(ROWS)) as row:
            self._put(self._get(self._row(tile, row.index)), self._at(pointer, row.index, stride))

    def dot(self, sums: int, a: int, b: int) -> None:
        builder, e = self.builder, self.e
        with cgutils.for_range(builder, int64(ROWS)) as row, cgutils.for_range(builder, int64(ROWS)) as pair:
            one = builder.bitcast(self._row(a, row.index), I32.as_pointer())
            left = e.broadcast(builder.load(builder.gep(one, [pair.index])))
            right, place = self._get(self._row(b, pair.index)), self._row(sums, row.index)
            self._put(
                builder.bitcast(e.dot_slowly(builder.bitcast(self._get(place), e.floats), left, right), e.integers),
                place,
            )

    def _row(self, tile: int, row: Any) -> Any:
        return self.builder.gep(self.memory, [self.builder.add(row, int64(tile * ROWS))])

    def _at(self, pointer: Any, row: Any, stride: Any) -> Any:
        address = self.builder.gep(pointer, [self.builder.mul(row, stride)])
        return self.builder.bitcast(address, self.e.integers.as_pointer())

    def _get(self, place: Any) -> Any:
        return self.builder.load(place, align=1)

    def _put(self, row: Any, place: Any) -> None:
        self.builder.store(row, place, align=1)


def emit_step(tiles: Any, first: Any, second: Any, stride: Any, weights: Any) -> None:
    """sums += two times 16 rows of 32 numbers times packed weights (2, 16 pairs, 16); byte pointers, stride in bytes.

    Sums are tiles 0..3, as (rows, columns); 4 and 5 the rows, 6 and 7 the columns. Each load but the first stands
    right before what it is for: a product takes twice as long as a load.
    """
    builder, line = tiles.builder, int64(BYTES)

    def columns(half: int) -> None:
        tiles.load(6 + half, builder.gep(weights, [int64(half * ROWS * BYTES)]), line)

    tiles.load(4, first, stride)
    columns(0)
    tiles.dot(0, 4, 6)
    columns(1)
    tiles.dot(1, 4, 7)
    tiles.load(5, second, stride)
    tiles.dot(2, 5, 6)
    tiles.dot(3, 5, 7)


@intrinsic
def multiply_step(typing: Any, unit: Any, memory: Any, first: Any, second: Any, pitch: Any, weights: Any) -> Any:
    """sums += the next 32 numbers of two times 16 rows, `pitch` elements from row to row, times packed weights."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, memory, first, second, pitch, weights = args
        first, second, weights = (builder.bitcast(pointer, I8.as_pointer()) for pointer in (first, second, weights))
        emit_step(_tiles(builder, unit, memory), first, second, builder.mul(pitch, int64(2)), weights)
        return context.get_dummy_value()

    return types.void(unit, memory, first, second, types.int64, weights), codegen


@intrinsic
def multiply_sums(typing: Any, unit: Any, memory: Any) -> Any:
    """The products of one step on whatever the tiles hold, with no memory to wait for."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        tiles = _tiles(builder, unit, args[1])
        for tile in range(4):
            tiles.dot(tile, 4 + tile // 2, 6 + tile % 2)
        return context.get_dummy_value()

    return types.void(unit, memory), codegen


@intrinsic
def load_sums(typing: Any, unit: Any, memory: Any, source: Any, begun: Any) -> Any:
    """sums = source (32, 32) float32, or 0 if nothing has `begun`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        emit_sums(_tiles(builder, unit, args[1]), *args[2:])
        return context.get_dummy_value()

    return types.void(unit, memory, source, types.int64), codegen


@intrinsic
def exchange_sums(typing: Any, unit: Any, memory: Any, source: Any, begun: Any, out: Any) -> Any:
    """out (32, 32) float32 = sums, and then what `load_sums` does, a tile at a time: loads need not wait for all stores."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        emit_sums(_tiles(builder, unit, args[1]), *args[2:])
        return context.get_dummy_value()

    return types.void(unit, memory, source, types.int64, out), codegen


def emit_sums(tiles: Any, source: Any, begun: Any, out: Any = None) -> None:
    """The sums to `out`, if there is one, and those of `source` or 0 in their place."""
    builder = tiles.builder
    with builder.if_else(builder.icmp_signed("!=", begun, int64(0))) as branches:
        for branch, load in zip(branches, (True, False), strict=True):
            with branch:
                for tile in range(4):
                    if out:
                        tiles.store(tile, *_part(builder, out, tile))
                    if load:
                        tiles.load(tile, *_part(builder, source, tile))
                    else:
                        tiles.zero(tile)


def _part(builder: Any, numbers: Any, tile: int) -> tuple[Any, Any]:
    """Where the 16 x 16 numbers of a tile of sums start among 32 x 32, and the bytes from row to row."""
    numbers = builder.bitcast(numbers, I8.as_pointer())
    return builder.gep(numbers, [int64(tile // 2 * ROWS * 2 * BYTES + tile % 2 * BYTES)]), int64(2 * BYTES)


@intrinsic
def configure(typing: Any, unit: Any) -> Any:
    """Shape this thread's tiles; nothing unless `unit` says AMX."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if unit == AMX:
            AmxTiles(builder).configure(context.insert_const_bytes(builder.module, CONFIGURATION))
        return context.get_dummy_value()

    return types.void(unit), codegen


@intrinsic
def release(typing: Any, unit: Any) -> Any:
    """Give this thread's tiles back, so that switching between threads costs no more than before."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if unit == AMX:
            AmxTiles(builder).release()
        return context.get_dummy_value()

    return types.void(unit), codegen


def _tiles(builder: Any, unit: Any, memory: Any) -> Any:
    return AmxTiles(builder) if unit == AMX else MemoryTiles(builder, memory)


def _number(tile: int) -> Any:
    return ir.Constant(I8, tile)
