"""The engine's kernels: matrix products on strided rows with their epilogue, and the few other operations.

Kernels of this file call only each other and intrinsics. What one place calls is `inline="always"`: LLVM would else compile
it by itself and again in its caller. The width of a vector and the size of a tile reach the compiler as the lengths of
tuples: each path is one more specialisation of the same source, and the code of several paths is kept side by side.

The inner loops are LLVM vector operations written out by intrinsics: what the compiler makes of them is the same
on AVX-512, AVX2, SSE and NEON, and does not hang on what a loop vectoriser happens to recognise.

Rounding: every sum over the depth of a product runs in one fixed order in one accumulator, so that an output never
depends on the tile, the block or the batch that its row was computed in.
"""

from __future__ import annotations

import numpy as np

from .jit import kernel
from .tiles import configure, exchange_sums, load_sums, multiply_step, release

# fmt: off
from .steps import (  # isort: skip
    ACTIVATION, BIAS, BLOCK, CLEAR, COMBINE, DEPTH, DISTINCT, EVERY, EXTERNAL, FACTOR, FIELDS, GAIN, GATHERED, GUARD,
    INPUTS, KERNEL, KIND, LENGTH, LINE, LOAD, MIX, MIXED, NOISE, NOISE_STRIDE, OUTPUTS, PAIRS, PARTS, PITCH, PLACES, PLANE,
    PLANES, POINTS, POOL, PRODUCT, RESIDUAL, SHUFFLE, SIDE, SINGLE, SOURCE, SOURCE_PLANE, SOURCE_STRIDE, SPAN, STEPS,
    STRIDE, STYLE, SUM, SWISH, TAPS, TARGET, TERMS, WEIGHTS, WIDTH,
)
from .vectors import (  # isort: skip
    activate, add, copy, expand, expand_pair, finish, mix, mix_lines, mix_pairs, multiply, prefetch, prefetch_rows,
    put_lines, read, skip, write,
)
# fmt: on

CHUNK = 8  # steps of the depth whose weights fill a third of the first cache: 16 KB


@kernel()
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


@kernel()
def _finish(vector, width, taken, step, tile, first, valid, output, column, arena, out, constants, tables, noise):  # type: ignore[no-untyped-def]  # fmt: skip
    """The epilogue of a tile: bias, noise, activation, then the result and its sum with another tensor to their rows.

    taken: how many of the tile's `width` vectors hold results, all or all but the last.
    """
    every, span = step[OUTPUTS], len(width) * len(vector)
    row, count = first * every + output, min(taken * len(vector), step[WIDTH] - column)
    place = column // step[STRIDE] * step[PLANE] + column % step[STRIDE]
    gain = -(-step[WIDTH] // len(vector)) * len(vector)
    numbers, stride = skip(noise, step[NOISE] + row * step[NOISE_STRIDE]), every * step[NOISE_STRIDE]
    bias, code = skip(constants, step[BIAS] + column), step[ACTIVATION]
    if count == taken * len(vector) and (step[EXTERNAL] <= 0 or step[SUM] < 0):
        totals, others = skip(tables, max(step[SUM], 0) + row), skip(tables, max(step[RESIDUAL], 0) + row)
        places, sums = skip(tables, max(step[TARGET], 0) + row), step[SUM] >= 0
        if step[EXTERNAL] > 0:
            finish(vector, width, taken, tile, valid, bias, gain, numbers, stride, code, skip(out, column), places, 1, out, totals, others, 0, every)  # fmt: skip
        else:
            here = skip(arena, place)
            finish(vector, width, taken, tile, valid, bias, gain, numbers, stride, code, here, places, step[TARGET] >= 0, here, totals, others, sums, every)  # fmt: skip
        return
    activate(vector, width, tile, valid, bias, gain, numbers, stride, code)
    if step[EXTERNAL] > 0:
        _put(vector, width, tile, valid, out, skip(tables, step[TARGET] + row), every, column, count)
    elif step[TARGET] >= 0:
        _put(vector, width, tile, valid, arena, skip(tables, step[TARGET] + row), every, place, count)
    if step[SUM] >= 0:
        others = skip(tables, step[RESIDUAL] + row)
        for r in range(valid):
            add(vector, width, skip(tile, r * span), skip(arena, others[r * every] + place))
        _put(vector, width, tile, valid, arena, skip(tables, step[SUM] + row), every, place, count)


@kernel()
def _weigh(target, source, factors, count, distance, size):  # type: ignore[no-untyped-def]
    """target[:size] = the sum of `count` rows of `source`, `distance` apart, each times its factor."""
    for i in range(size):
        total = np.float32(0)
        for n in range(count):
            total += factors[n] * read(source, n * distance + i)
        write(target, i, total)


@kernel(inline="always")
def _pack(rows, step, first, end, arena, constants, tables, packed):  # type: ignore[no-untyped-def]
    """Rows first..end in the order that tiles read them: (tiles, points, lines, rows of a tile, LINE).

    A minimal filter's inputs are made here, sums of SPAN rows; else rows are copied. The last tile repeats its last row.
    """
    height, line = len(rows), LINE * step[PARTS]
    points, length, lines = step[POINTS], step[LENGTH], step[DEPTH] // LINE
    distance, whole = height * line, step[LENGTH] // line
    mixed, span, every = step[MIXED], step[SPAN], step[EVERY] * step[SOURCE_STRIDE]
    for tile in range(-(-(end - first) // height)):
        for r in range(height):
            source = skip(arena, tables[step[SOURCE] + min(first + tile * height + r, end - 1)])
            for p in range(points):
                target = skip(packed, (tile * points + p) * lines * distance + r * line)
                factors = skip(constants, step[INPUTS] + p * span)
                single = skip(source, (p - mixed) * every + every // 2)  # of the odd rows, or the only one
                if p >= mixed:
                    put_lines(target, distance, single, whole)
                elif p >= 2 * step[PAIRS]:
                    mix_lines(target, distance, source, every, factors, span, whole)
                elif p % 2 == 0:
                    mix_pairs(target, lines * distance, distance, source, every, factors, span, whole)
                if whole < lines:  # a depth that is no multiple of a line ends in zeros
                    edge, left = skip(target, whole * distance), length - whole * line
                    for i in range(line):
                        edge[i] = 0
                    if p < mixed:
                        _weigh(edge, skip(source, whole * line), factors, span, every, left)
                    else:
                        for i in range(left):
                            edge[i] = single[whole * line + i]


@kernel(inline="always")
def _tiles(vector, rows, wide, narrow, taken, step, first, end, column, arena, packed, panel, out, constants, tables, noise, tile):  # type: ignore[no-untyped-def]  # fmt: skip
    """The register tiles of rows first..end of one panel, `taken` vectors wide: for every point their products, then their epilogues."""
    points, depth, height, span = step[POINTS], step[DEPTH], len(rows), taken * len(vector)
    size, count, source = height * len(wide) * len(vector), -(-(end - first) // height), height * depth * step[PARTS]
    products = skip(tile, size)
    expanded = skip(products, count * points * size)
    stored = step[TAPS] * depth * span
    share = -(-stored // (points * count))  # of the next panel, to be fetched beside one tile
    for p in range(points):
        if p < step[DISTINCT]:
            if step[KERNEL] < 0:  # every point has weights of its own
                weights = expand(vector, expanded, skip(panel, p * depth * span), depth * taken)
            elif p < 2 * step[PAIRS]:
                factors = skip(constants, step[KERNEL] + p * step[TAPS])
                mixed = step[TAPS] - step[EVERY] + 1  # taps, but for those of the odd rows
                weights = expand_pair(vector, expanded, panel, mixed, factors, depth * taken, p % 2)
            else:
                tap = step[SINGLE] if p == 2 * step[PAIRS] else step[TAPS] - 1
                weights = expand(vector, expanded, skip(panel, tap * depth * span), depth * taken)
        for t in range(count):
            prefetch(panel, stored + (p * count + t) * share, share)
            if step[SUM] >= 0:  # what the results will be added to, a share beside each tile
                total, turn = (end - first) * step[OUTPUTS], p * count + t
                begin, stop = turn * total // (points * count), (turn + 1) * total // (points * count)
                others = skip(tables, step[RESIDUAL] + first * step[OUTPUTS] + begin)
                prefetch_rows(vector, wide, skip(arena, column), others, stop - begin)
            at = t * points + p
            if narrow is not None:  # noqa: SIM102 - Numba drops a branch whose test is this alone
                if taken < len(wide):
                    multiply(vector, rows, narrow, wide, skip(packed, at * source), weights, depth // LINE, skip(products, at * size))  # fmt: skip
            if taken == len(wide):
                multiply(vector, rows, wide, wide, skip(packed, at * source), weights, depth // LINE, skip(products, at * size))  # fmt: skip
            if p == points - 1:  # what is stored now gets to memory beside the next tile's products
                result, m = skip(products, t * points * size), first + t * height
                for output in range(step[OUTPUTS]):
                    here = result
                    if points > 1:
                        here = tile
                        terms = output * step[TERMS]
                        mix(vector, rows, wide, tile, result, skip(constants, step[MIX] + terms), skip(tables, step[PLACES] + terms), step[TERMS])  # fmt: skip
                    _finish(vector, wide, taken, step, here, m, min(height, end - m), output, column, arena, out, constants, tables, noise)  # fmt: skip


@kernel(inline="always")
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
            if narrow is not None and left != size and left <= size + 1:
                taken -= 1
            _tiles(vector, rows, wide, narrow, taken, step, block, last, column, arena, packed, panel, out, constants, tables, noise, tile)  # fmt: skip
            left -= taken
            panel = skip(panel, step[TAPS] * step[DEPTH] * taken * lanes)


@kernel(inline="always")
def _gather(step, first, end, arena, tables, packed):  # type: ignore[no-untyped-def]
    """Rows first..end as (tiles, lines, taps, SIDE rows, 32 numbers); the last tile repeats its last row."""
    taps, line = step[TAPS], LINE * step[PARTS]
    lines = step[DEPTH] // (LINE * taps)
    for tile in range(-(-(end - first) // SIDE)):
        for r in range(SIDE):
            source = skip(arena, tables[step[SOURCE] + min(first + tile * SIDE + r, end - 1)])
            target = skip(packed, (tile * lines * taps * SIDE + r) * line)
            for n in range(lines):
                for tap in range(taps):
                    place = (n * taps + tap) * SIDE * line
                    put_lines(skip(target, place), line, skip(source, n * step[SOURCE_PLANE] + tap * line), 1)


@kernel(inline="always")
def _tile_product(unit, vector, wide, step, batch, arena, packed, out, weights, constants, tables, noise, tile):  # type: ignore[no-untyped-def]  # fmt: skip
    """One matrix product on tile registers with its epilogue.

    A step of the depth is a line, 32 numbers, of every row; the taps of a line follow each other, so that rows which
    overlap are read from memory once. The weights of a few steps (CHUNK) stay in the first cache while all tiles of a
    block pass over them; their sums wait in memory. What follows a tile's last step is done, a few rows at a time,
    beside the steps of the next one: tile registers and vectors work at the same time.
    """
    count, line, taps, size = batch * step[STEPS], LINE * step[PARTS], step[TAPS], SIDE * SIDE
    lines, pitch, plane, shift = step[DEPTH] // (LINE * taps), step[PITCH], step[SOURCE_PLANE], line
    if step[GATHERED] > 0:
        pitch, plane, shift = line, taps * SIDE * line, SIDE * line
    chunk, memory = max(CHUNK // taps, 1), skip(tile, (-(-step[BLOCK] // SIDE) + 1) * size)
    for block in range(0, count, step[BLOCK]):
        last = min(block + step[BLOCK], count)
        if step[GATHERED] > 0:
            _gather(step, block, last, arena, tables, packed)
        panel = skip(weights, step[WEIGHTS])
        for column in range(0, step[WIDTH], SIDE):
            for begin in range(0, lines, chunk):
                end = min(begin + chunk, lines)
                stored, few = SIDE * LINE * taps * (end - begin), 4 * -(-SIDE // (taps * (end - begin)))  # rows a step
                share = -(-stored // -(-(last - block) // SIDE))  # of the next chunk, to be fetched after one tile
                finished = summed = block  # rows of the block: with their epilogue, and with all their steps
                load_sums(unit, memory, tile, begin)
                for m in range(block, last, SIDE):
                    if step[GATHERED] > 0:
                        first = skip(packed, (m - block) * lines * taps * line)
                        second = skip(first, SIDE // 2 * line)
                    else:
                        first = skip(arena, tables[step[SOURCE] + m])
                        second = first
                        if m + SIDE // 2 < last:
                            second = skip(arena, tables[step[SOURCE] + m + SIDE // 2])
                    here = panel
                    for n in range(begin, end):
                        for tap in range(taps):
                            place = n * plane + tap * shift
                            multiply_step(unit, memory, skip(first, place), skip(second, place), pitch, here)
                            here = skip(here, SIDE * LINE)
                            if finished < summed:
                                valid, sums = min(few, summed - finished), skip(tile, (finished - block) * SIDE)
                                _finish(vector, wide, len(wide), step, sums, finished, valid, 0, column, arena, out, constants, tables, noise)  # fmt: skip
                                finished += valid
                    sums = skip(tile, (m - block) * SIDE)
                    exchange_sums(unit, memory, skip(sums, size), begin, sums)
                    prefetch(panel, stored + (m - block) // SIDE * share, share)
                    if end == lines:
                        summed = min(m + SIDE, last)
                sums = skip(tile, (finished - block) * SIDE)
                _finish(vector, wide, len(wide), step, sums, finished, summed - finished, 0, column, arena, out, constants, tables, noise)  # fmt: skip
                panel = skip(panel, stored)


@kernel()
def _row(base, steps, stride, window, step):  # type: ignore[no-untyped-def]
    """Where row `step` of `window` starts in a buffer at `base` of windows of `steps` rows, guards between them."""
    return base + (GUARD + window * (steps + GUARD) + step) * stride


@kernel()
def _piece(step, plane):  # type: ignore[no-untyped-def]
    """Numbers of a row in its piece `plane`."""
    return min(step[STRIDE], step[WIDTH] - plane * step[STRIDE])


@kernel(inline="always")
def _clear(step, batch, arena):  # type: ignore[no-untyped-def]
    """Zero the guard rows of a buffer whose memory was another buffer's; all of a piece that ends in padding."""
    steps, stride = step[STEPS], step[STRIDE]
    for plane in range(step[PLANES]):
        for window in range(batch + 1):
            end = _row(step[TARGET], steps, stride, window, 0) + plane * step[PLANE]
            rows = GUARD if _piece(step, plane) == stride or window == 0 else GUARD + steps
            for i in range(end - rows * stride, end):
                arena[i] = 0


@kernel(inline="always")
def _load(step, batch, x, arena):  # type: ignore[no-untyped-def]
    """The caller's dense windows into a buffer with guards."""
    steps, stride = step[STEPS], step[STRIDE]
    for window in range(batch):
        start = _row(step[TARGET], steps, stride, window, 0)
        for t in range(steps):
            source = (window * steps + t) * step[WIDTH]
            for plane in range(step[PLANES]):
                target, first = start + t * stride + plane * step[PLANE], source + plane * stride
                for c in range(_piece(step, plane)):
                    write(arena, target + c, x[first + c])


@kernel(inline="always")
def _style(vector, step, batch, arena, constants, scratch):  # type: ignore[no-untyped-def]
    """AdaIN and swish in place: x / (standard deviation over time + 1e-5) * gain, then swish, times a factor."""
    steps, stride, factor = step[STEPS], step[STRIDE], constants[step[FACTOR]]
    line = skip(scratch, -(-min(stride, step[WIDTH]) // len(vector)) * len(vector))
    for window in range(batch):
        for plane in range(step[PLANES]):
            start = _row(step[TARGET], steps, stride, window, 0) + plane * step[PLANE]
            gain = _row(step[GAIN], steps, stride, window, 0) + plane * step[PLANE]
            channels = _piece(step, plane)
            for c in range(channels):
                scratch[c] = line[c] = np.float32(0)
            for t in range(steps):
                for c in range(channels):
                    scratch[c] += read(arena, start + t * stride + c)
            for c in range(channels):
                scratch[c] /= np.float32(steps)
            for t in range(steps):
                for c in range(channels):
                    line[c] += (read(arena, start + t * stride + c) - scratch[c]) ** 2
            for c in range(channels):
                scratch[c] = np.float32(1) / (np.sqrt(line[c] / np.float32(steps)) + np.float32(1e-5))
            for t in range(steps):
                row = t * stride
                for c in range(channels):
                    line[c] = read(arena, start + row + c) * scratch[c] * read(arena, gain + row + c)
                for at in range(0, channels, len(vector)):
                    activate(vector, (0,), skip(line, at), 1, constants, 0, constants, 0, SWISH)
                for c in range(channels):
                    write(arena, start + row + c, line[c] * factor)


@kernel(inline="always")
def _pool(step, batch, arena):  # type: ignore[no-untyped-def]
    """Means of two neighbouring rows."""
    steps, stride = step[STEPS], step[STRIDE]
    for window in range(batch):
        for plane in range(step[PLANES]):
            source = _row(step[SOURCE], 2 * steps, stride, window, 0) + plane * step[SOURCE_PLANE]
            target = _row(step[TARGET], steps, stride, window, 0) + plane * step[PLANE]
            for t in range(steps):
                first, out = source + 2 * t * stride, target + t * stride
                for c in range(_piece(step, plane)):
                    total = read(arena, first + c) + read(arena, first + stride + c)
                    write(arena, out + c, total * np.float32(0.5))


@kernel(inline="always")
def _shuffle(step, batch, arena):  # type: ignore[no-untyped-def]
    """Channel 2 c + f of step t becomes channel c of step 2 t + f."""
    steps, stride, wide = step[STEPS], step[STRIDE], step[SOURCE_STRIDE]
    halves = 2 if wide == stride else 1  # pieces of the source that fill one of the target; whole rows do
    for window in range(batch):
        for plane in range(step[PLANES]):
            source = _row(step[SOURCE], steps // 2, wide, window, 0)
            target = _row(step[TARGET], steps, stride, window, 0) + plane * step[PLANE]
            for half in range(halves):
                pairs = min(wide // 2, _piece(step, plane) - half * (wide // 2))
                start = source + (plane * halves + half) * step[SOURCE_PLANE]
                for t in range(steps):
                    first, out = start + t // 2 * wide + t % 2, target + t * stride + half * (wide // 2)
                    for c in range(pairs):
                        arena[out + c] = arena[first + 2 * c]


@kernel(inline="always")
def _combine(step, batch, arena, constants):  # type: ignore[no-untyped-def]
    """factor * source [+ residual], row by row; what no product could take into its epilogue."""
    size, factor = step[STEPS] * step[STRIDE], constants[step[FACTOR]]
    share = np.float32(1) if step[RESIDUAL] >= 0 else np.float32(0)
    for window in range(batch):
        for plane in range(step[PLANES]):
            source = _row(step[SOURCE], step[STEPS], step[STRIDE], window, 0) + plane * step[PLANE]
            target = _row(step[TARGET], step[STEPS], step[STRIDE], window, 0) + plane * step[PLANE]
            other = _row(max(step[RESIDUAL], 0), step[STEPS], step[STRIDE], window, 0) + plane * step[PLANE]
            for i in range(size):
                write(arena, target + i, factor * read(arena, source + i) + share * read(arena, other + i))


@kernel()
def run(unit, vector, rows, wide, narrow, steps, count, batch, x, arena, packed, out, weights, constants, tables, noise, tile):  # type: ignore[no-untyped-def]  # fmt: skip
    """Every step of a plan on `batch` windows: flat `x` in, flat `out` filled, `arena` in between.

    unit: None where vectors multiply, else see tiles.py. vector, rows: tuples as long as a vector has lanes and a tile of
    vectors has rows, None where there is none; wide, narrow: see `_product`. steps: (count, FIELDS) int64. arena and packed:
    float32, or uint16 that hold bfloat16. weights: see `vectors.expand`. constants: float32, starting with two vectors of
    zeros. tables: int64 row starts. tile: float32 scratch for tiles of rows * wide vectors, one and one per point of a
    filter, or twice the widest styled row; on tile registers for the sums of a block and one tile more, and steps.MEMORY.
    """
    if unit is not None:
        configure(unit)
    for i in range(count):
        step = skip(steps, i * FIELDS)
        kind = step[KIND]
        if kind == PRODUCT:
            if rows is not None:  # Numba drops a branch whose test is this alone, where the argument is None
                _product(vector, rows, wide, narrow, step, batch, arena, packed, out, weights, constants, tables, noise, tile)  # fmt: skip
            if unit is not None:
                _tile_product(unit, vector, wide, step, batch, arena, packed, out, weights, constants, tables, noise, tile)  # fmt: skip
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
    if unit is not None:
        release(unit)
