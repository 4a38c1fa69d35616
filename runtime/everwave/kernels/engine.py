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
from numba import njit

from .tiles import configure, multiply, release
from .vectors import (
    CLIP,
    LINE,
    NONE,
    SWISH,
    TANH,
    activate,
    add,
    copy,
    expand,
    mix,
    mix_lines,
    pointer,
    prefetch,
    put_lines,
    read,
    skip,
    write,
)  # fmt: skip

# sha256 of vectors.py and tiles.py: a cached kernel is compiled again when this file changes, not those
SOURCES = "7b2471018398"

POLICY: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}
INNER = POLICY | {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}  # only kernels call it: less to compile

GUARD = 2  # zero rows before, between and after the windows of a buffer; what a convolution reads past an edge

# A step is a row of integers; these name its columns. Offsets count elements of the array they point into.
KIND, STEPS, DEPTH, WIDTH, SOURCE, TARGET, EXTERNAL, SUM, RESIDUAL = range(9)
WEIGHTS, BIAS, NOISE, NOISE_STRIDE, ACTIVATION, BLOCK, GAIN, FACTOR, STRIDE, SOURCE_STRIDE = range(9, 19)
POINTS, DISTINCT, OUTPUTS, MIX, SPAN, INPUTS, TAPS, KERNEL = range(19, 27)  # minimal filtering: see ops/filters.py
PARTS, LENGTH = range(27, 29)  # numbers in a lane, and in a row before lines are filled up
FIELDS = 29
PRODUCT, LOAD, CLEAR, STYLE, POOL, SHUFFLE, COMBINE = range(7)  # kinds of step
__all__ = ["CLIP", "LINE", "NONE", "SWISH", "TANH"]  # for those who write plans


@njit(**INNER)
def _put(vector, width, tile, valid, target, places, every, column, count):  # type: ignore[no-untyped-def]
    """target[places[r * every] + column :][:count] = row r of the tile; `width` vectors hold the numbers."""
    span = len(width) * len(vector)
    if count == span:
        for r in range(valid):
            copy(vector, width, skip(tile, r * span), skip(target, places[r * every] + column))
    else:
        for r in range(valid):
            for i in range(count):
                write(target, places[r * every] + column + i, tile[r * span + i])


@njit(**INNER)
def _finish(vector, rows, width, step, tile, first, valid, output, column, arena, out, constants, tables, noise):  # type: ignore[no-untyped-def]  # fmt: skip
    """The epilogue of a tile: bias, noise, activation, then the result and its sum with another tensor to their rows."""
    every, span = step[OUTPUTS], len(width) * len(vector)
    row, count = first * every + output, min(span, step[WIDTH] - column)
    gain = -(-step[WIDTH] // len(vector)) * len(vector)
    numbers, stride = skip(noise, step[NOISE] + row * step[NOISE_STRIDE]), every * step[NOISE_STRIDE]
    activate(
        vector, rows, width, tile, valid, skip(constants, step[BIAS] + column), gain, numbers, stride, step[ACTIVATION]
    )
    if step[EXTERNAL] > 0:
        _put(vector, width, tile, valid, out, skip(tables, step[TARGET] + row), every, column, count)
    elif step[TARGET] >= 0:
        _put(vector, width, tile, valid, arena, skip(tables, step[TARGET] + row), every, column, count)
    if step[SUM] >= 0:
        others = skip(tables, step[RESIDUAL] + row)
        for r in range(valid):
            add(vector, width, skip(tile, r * span), skip(arena, others[r * every] + column))
        _put(vector, width, tile, valid, arena, skip(tables, step[SUM] + row), every, column, count)


@njit(**INNER)
def _weigh(target, source, factors, count, distance, size):  # type: ignore[no-untyped-def]
    """target[:size] = the sum of `count` rows of `source`, `distance` apart, each times its factor."""
    for i in range(size):
        total = np.float32(0)
        for n in range(count):
            total += factors[n] * read(source, n * distance + i)
        write(target, i, total)


@njit(**INNER)
def _pack(rows, step, first, end, arena, constants, tables, packed):  # type: ignore[no-untyped-def]
    """Rows first..end in the order that tiles read them: (tiles, points, lines, rows of a tile, LINE).

    A minimal filter's inputs are made here, sums of SPAN rows; else rows are copied. The last tile repeats its last row.
    """
    height, line = len(rows), LINE * step[PARTS]
    points, length, lines = step[POINTS], step[LENGTH], step[DEPTH] // LINE
    distance, whole = height * line, step[LENGTH] // line
    for tile in range(-(-(end - first) // height)):
        for r in range(height):
            source = skip(arena, tables[step[SOURCE] + min(first + tile * height + r, end - 1)])
            for p in range(points):
                target = skip(packed, (tile * points + p) * lines * distance + r * line)
                factors = skip(constants, step[INPUTS] + p * step[SPAN])
                if step[SPAN] > 0:
                    mix_lines(target, distance, source, step[SOURCE_STRIDE], factors, step[SPAN], whole)
                else:
                    put_lines(target, distance, source, whole)
                if whole < lines:  # a depth that is no multiple of a line ends in zeros
                    rest, left = skip(source, whole * line), length - whole * line
                    edge = skip(target, whole * distance)
                    for i in range(line):
                        edge[i] = 0
                    if step[SPAN] > 0:
                        _weigh(edge, rest, factors, step[SPAN], step[SOURCE_STRIDE], left)
                    else:
                        for i in range(left):
                            edge[i] = rest[i]


@njit(**INNER)
def _tiles(vector, rows, width, step, first, end, column, arena, packed, panel, out, constants, tables, noise, tile):  # type: ignore[no-untyped-def]  # fmt: skip
    """The register tiles of rows first..end of one panel: for every point their products, then their epilogues."""
    points, depth, height, span = step[POINTS], step[DEPTH], len(rows), len(width) * len(vector)
    size, count, source = height * span, -(-(end - first) // height), height * depth * step[PARTS]
    products = skip(tile, size)
    expanded = skip(products, count * points * size)
    stored = step[TAPS] * depth * span
    share = -(-stored // (points * count))  # of the next panel, to be fetched beside one tile
    taps = step[TAPS] if step[KERNEL] >= 0 else 0
    for p in range(points):
        if p < step[DISTINCT]:
            kept = panel if taps > 0 else skip(panel, p * depth * span)  # taps for all points, or a point's own weights
            weights = expand(vector, width, expanded, kept, taps, skip(constants, step[KERNEL] + p * taps), depth)
        for t in range(count):
            prefetch(panel, stored + (p * count + t) * share, share)
            at = t * points + p
            multiply(vector, rows, width, skip(packed, at * source), weights, depth // LINE, skip(products, at * size))
            if p == points - 1:  # what is stored now gets to memory beside the next tile's products
                result, m = skip(products, t * points * size), first + t * height
                for output in range(step[OUTPUTS]):
                    here = result
                    if points > 1:
                        here = tile
                        mix(vector, rows, width, tile, result, skip(constants, step[MIX] + output * points), points)
                    _finish(vector, rows, width, step, here, m, min(height, end - m), output, column, arena, out, constants, tables, noise)  # fmt: skip


@njit(**INNER)
def _product(vector, rows, wide, narrow, step, batch, arena, packed, out, weights, constants, tables, noise, tile):  # type: ignore[no-untyped-def]  # fmt: skip
    """One matrix product with its epilogue: blocks of rows pass over every panel of columns.

    wide, narrow: tuples as long as a panel has vectors. Panels are wide; narrow ones end a width that wide ones do not
    divide, where they are not None.
    """
    lanes, size, count = len(vector), len(wide), batch * step[STEPS]
    vectors = -(-step[WIDTH] // lanes)
    for block in range(0, count, step[BLOCK]):
        last = min(block + step[BLOCK], count)
        panel, left = skip(weights, step[WEIGHTS]), vectors
        _pack(rows, step, block, last, arena, constants, tables, packed)
        while left > 0:
            column, taken = (vectors - left) * lanes, size
            if narrow is not None:  # noqa: SIM102 - Numba drops a branch whose test is this alone
                if left != size and left <= size + 1:
                    taken -= 1
                    _tiles(vector, rows, narrow, step, block, last, column, arena, packed, panel, out, constants, tables, noise, tile)  # fmt: skip
            if taken == size:
                _tiles(
                    vector,
                    rows,
                    wide,
                    step,
                    block,
                    last,
                    column,
                    arena,
                    packed,
                    panel,
                    out,
                    constants,
                    tables,
                    noise,
                    tile,
                )
            left -= taken
            panel = skip(panel, step[TAPS] * step[DEPTH] * taken * lanes)


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
                write(arena, start + t * stride + c, x[(window * steps + t) * channels + c])


@njit(**INNER)
def _style(vector, step, batch, arena, constants, scratch):  # type: ignore[no-untyped-def]
    """AdaIN and swish in place: x / (standard deviation over time + 1e-5) * gain, then swish, times a factor."""
    steps, stride, channels, factor = step[STEPS], step[STRIDE], step[WIDTH], constants[step[FACTOR]]
    line = skip(scratch, -(-channels // len(vector)) * len(vector))
    for window in range(batch):
        start = _row(step[TARGET], steps, stride, window, 0)
        gain = _row(step[GAIN], steps, stride, window, 0)
        for c in range(channels):
            total = np.float32(0)
            for t in range(steps):
                total += read(arena, start + t * stride + c)
            mean, square = total / np.float32(steps), np.float32(0)
            for t in range(steps):
                square += (read(arena, start + t * stride + c) - mean) ** 2
            scratch[c] = np.float32(1) / (np.sqrt(square / np.float32(steps)) + np.float32(1e-5))
        for t in range(steps):
            row = t * stride
            for c in range(channels):
                line[c] = read(arena, start + row + c) * scratch[c] * read(arena, gain + row + c)
            for at in range(0, channels, len(vector)):
                activate(vector, (0,), (0,), skip(line, at), 1, constants, 0, constants, 0, SWISH)
            for c in range(channels):
                write(arena, start + row + c, line[c] * factor)


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
                total = read(arena, first + c) + read(arena, first + stride + c)
                write(arena, out + c, total * np.float32(0.5))


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
            write(arena, target + i, factor * read(arena, source + i) + share * read(arena, other + i))


@njit(**POLICY)
def run(vector, rows, wide, narrow, steps, batch, x, arena, packed, out, weights, constants, tables, noise, tile):  # type: ignore[no-untyped-def]  # fmt: skip
    """Every step of a plan on `batch` windows: flat `x` in, flat `out` filled, `arena` in between.

    vector, rows: tuples as long as a vector has lanes and a tile has rows, which are int64, or see tiles.py; wide, narrow: see `_product`. steps: (n, FIELDS) int64. arena and
    packed: float32, or uint16 that hold bfloat16. weights: see `vectors.expand`. constants: float32, starting with
    two vectors of zeros. tables: int64 row starts. tile: float32 scratch for tiles of rows * 3 vectors, one and one
    per point of a filter, or twice the widest styled row.
    """
    program, x, arena, out, weights = pointer(steps), pointer(x), pointer(arena), pointer(out), pointer(weights)
    packed, constants, tables, noise, tile = (
        pointer(packed),
        pointer(constants),
        pointer(tables),
        pointer(noise),
        pointer(tile),
    )
    configure(rows)
    for i in range(len(steps)):
        step = skip(program, i * FIELDS)
        kind = step[KIND]
        if kind == PRODUCT:
            _product(
                vector, rows, wide, narrow, step, batch, arena, packed, out, weights, constants, tables, noise, tile
            )
        elif kind == LOAD:
            _load(step, batch, x, arena)
        elif kind == CLEAR:
            _clear(step, batch, arena)
        elif kind == STYLE:
            _style(vector, step, batch, arena, constants, tile)
        elif kind == POOL:
            _pool(step, batch, arena)
        elif kind == SHUFFLE:
            _shuffle(step, batch, arena)
        elif kind == COMBINE:
            _combine(step, batch, arena, constants)
    release(rows)
