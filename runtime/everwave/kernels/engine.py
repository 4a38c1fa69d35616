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

from .vectors import CLIP, NONE, SWISH, TANH, activate, add, copy, expand, multiply, pointer, prefetch, read, skip, write

POLICY: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}
INNER = POLICY | {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}  # only kernels call it: less to compile

GUARD = 2  # zero rows before, between and after the windows of a buffer; what a convolution reads past an edge

# A step is a row of integers; these name its columns. Offsets count elements of the array they point into.
KIND, STEPS, DEPTH, WIDTH, SOURCE, TARGET, EXTERNAL, SUM, RESIDUAL = range(9)
WEIGHTS, BIAS, NOISE, NOISE_STRIDE, ACTIVATION, BLOCK, GAIN, FACTOR, STRIDE, SOURCE_STRIDE = range(9, 19)
POINTS, DISTINCT, OUTPUTS, MIX, SPAN, FIRST, ADVANCE = range(19, 26)  # minimal filtering: see ops/filters.py
PIECE, PARTS = range(26, 28)  # depth in one go, and numbers in a lane
TAPS, KERNEL = range(28, 30)  # what a panel is expanded from: see vectors.expand
FIELDS = 30
PRODUCT, LOAD, CLEAR, STYLE, POOL, SHUFFLE, COMBINE, TRANSFORM = range(8)  # kinds of step
__all__ = ["CLIP", "NONE", "SWISH", "TANH"]  # activations, for those who write plans


@njit(**INNER)
def _put(vector, width, tile, target, count):  # type: ignore[no-untyped-def]
    """target[:count] = tile[:count]; `width` vectors hold them."""
    if count == len(width) * len(vector):
        copy(vector, width, tile, target)
    else:
        for i in range(count):
            write(target, i, tile[i])


@njit(**INNER)
def _finish(vector, width, step, tile, first, valid, output, column, arena, out, constants, tables, noise):  # type: ignore[no-untyped-def]  # fmt: skip
    """The epilogue of a tile: bias, noise, activation, then the result and its sum with another tensor to their rows."""
    bias, activation = skip(constants, step[BIAS] + column), step[ACTIVATION]
    raw, total, residual, external = step[TARGET], step[SUM], step[RESIDUAL], step[EXTERNAL] > 0
    gain = -(-step[WIDTH] // len(vector)) * len(vector)
    span = len(width) * len(vector)
    count = min(span, step[WIDTH] - column)
    for r in range(valid):
        here, row = skip(tile, r * span), (first + r) * step[OUTPUTS] + output
        activate(vector, width, here, bias, gain, noise[step[NOISE] + row * step[NOISE_STRIDE]], activation)
        if raw >= 0 and external:
            _put(vector, width, here, skip(out, tables[raw + row] + column), count)
        elif raw >= 0:
            _put(vector, width, here, skip(arena, tables[raw + row] + column), count)
        if total >= 0:
            add(vector, width, here, skip(arena, tables[residual + row] + column))
            _put(vector, width, here, skip(arena, tables[total + row] + column), count)


@njit(**INNER)
def _weigh(target, source, factors, count, distance, size):  # type: ignore[no-untyped-def]
    """target[:size] = the sum of `count` rows of `source`, `distance` apart, each times its factor; zeros cost nothing."""
    fresh = True
    for n in range(count):
        factor, row = factors[n], skip(source, n * distance)
        if factor != 0 and fresh:
            for i in range(size):
                target[i] = factor * row[i]
            fresh = False
        elif factor != 0:
            for i in range(size):
                target[i] += factor * row[i]


@njit(**INNER)
def _tiles(vector, rows, width, step, first, end, column, arena, panel, out, constants, tables, noise, tile):  # type: ignore[no-untyped-def]  # fmt: skip
    """The register tiles of rows first..end of one panel: for every point their products, then their epilogues.

    Rows come inside of depth and points: the piece of the panel that they share stays in the first-level cache.
    """
    points, depth, height = step[POINTS], step[DEPTH], len(rows)
    span = len(width) * len(vector)
    size, count = height * span, -(-(end - first) // height)
    products = skip(tile, size)
    expanded = skip(products, count * points * size)
    stored = step[TAPS] * depth * span
    share = -(-stored // (points * count))  # of the next panel, to be fetched beside one tile
    kernel = expand(vector, width, expanded, panel, step[TAPS], skip(constants, step[KERNEL]), step[DISTINCT], depth)
    for p in range(points):
        inputs, weights = skip(arena, p * step[SOURCE_STRIDE]), skip(kernel, max(min(p, step[DISTINCT] - 1), 0) * depth * span)
        for k in range(0, depth, step[PIECE]):
            part, lines = skip(inputs, k * step[PARTS]), skip(weights, k * span)
            deep = min(step[PIECE], depth - k)
            for m in range(first, end, height):
                if k == 0:
                    prefetch(panel, stored + (p * count + (m - first) // height) * share, share)
                result = skip(products, ((m - first) * points + p * height) * span)
                starts = skip(tables, step[SOURCE] + m)
                multiply(vector, rows, width, part, starts, min(height, end - m), lines, deep, k == 0, result)
    for m in range(first, end, height):
        result = skip(products, (m - first) * points * span)
        for output in range(step[OUTPUTS]):
            here = result
            if points > 1:
                here = tile
                _weigh(tile, result, skip(constants, step[MIX] + output * points), points, size, size)
            _finish(vector, width, step, here, m, min(height, end - m), output, column, arena, out, constants, tables, noise)  # fmt: skip


@njit(**INNER)
def _product(vector, rows, wide, narrow, step, batch, arena, out, weights, constants, tables, noise, tile):  # type: ignore[no-untyped-def]  # fmt: skip
    """One matrix product with its epilogue: blocks of rows pass over every panel of columns.

    wide, narrow: tuples as long as a panel has vectors. Panels are wide; narrow ones end a width that wide ones do not
    divide, where they are not None.
    """
    lanes, size, count = len(vector), len(wide), batch * step[STEPS]
    vectors = -(-step[WIDTH] // lanes)
    for block in range(0, count, step[BLOCK]):
        last = min(block + step[BLOCK], count)
        panel, left = skip(weights, step[WEIGHTS]), vectors
        while left > 0:
            column, taken = (vectors - left) * lanes, size
            if narrow is not None:
                if left != size and left <= size + 1:
                    taken -= 1
                    _tiles(vector, rows, narrow, step, block, last, column, arena, panel, out, constants, tables, noise, tile)  # fmt: skip
            if taken == size:
                _tiles(vector, rows, wide, step, block, last, column, arena, panel, out, constants, tables, noise, tile)
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
                activate(vector, (0,), skip(line, at), constants, 0, np.float32(0), SWISH)
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
                factors = skip(constants, step[MIX] + p * span)
                _weigh(skip(arena, target + p * stride), skip(arena, source), factors, span, stride, stride)


@njit(**POLICY)
def run(vector, rows, wide, narrow, steps, batch, x, arena, out, weights, constants, tables, noise, tile, every_kind):  # type: ignore[no-untyped-def]  # fmt: skip
    """Every step of a plan on `batch` windows: flat `x` in, flat `out` filled, `arena` in between.

    vector, rows: tuples as long as a vector has lanes and a tile has rows; wide, narrow: see `_product`. steps: (n, FIELDS) int64. arena and
    weights: float32, or uint16 and uint32 that hold bfloat16 and pairs of them. constants: float32, starting with
    two vectors of zeros. tables: int64 row starts. tile: float32 scratch for tiles of rows * 3 vectors, one and one
    per point of a filter, or twice the widest styled row. every_kind: None for plans of products alone, for which
    the other kinds of step are not even compiled, else True.
    """
    program, x, arena, out, weights = pointer(steps), pointer(x), pointer(arena), pointer(out), pointer(weights)
    constants, tables, noise, tile = pointer(constants), pointer(tables), pointer(noise), pointer(tile)
    for i in range(len(steps)):
        step = skip(program, i * FIELDS)
        kind = step[KIND]
        if kind == PRODUCT:
            _product(vector, rows, wide, narrow, step, batch, arena, out, weights, constants, tables, noise, tile)
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
