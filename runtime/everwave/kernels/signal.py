"""The inverse STFT of decoded windows, from log-magnitude and phase to samples; twin: `signal.synthesize_numpy`.

Every frame is computed by itself with the same instructions, and every window is overlap-added by itself, so a
sample never depends on what else is in the batch. Inner loops run along contiguous float32 rows, without calls or
branches, and LLVM vectorises them for any CPU; what the FFT does to vectors is spelled out, which also compiles in a
third of the time.

A product and a sum may become one fused operation, sums keep their order.
Compiled functions close over integers only, so that no address gets into what is kept of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .jit import kernel
from .vectors import Emitter, int64, skip

FUSED: dict[str, Any] = {"fastmath": {"contract"}}  # a product and a sum may become one operation
F = np.float32
SIDE = 8  # numbers in a vector, and rows of a square that a transposition moves
TURNS = 32  # in a circle: the longest FFT along one side


@kernel(inline="always", **FUSED)
def amplitude_of(m):  # type: ignore[no-untyped-def]
    """sqrt(10^(0.1 (75 m - 25)) + 1e-7) for m in [-1.2, 1.2].

    10^(7.5 m - 2.5) is exp(y)^64 with |y| < 0.42. The series is Taylor's, cut where the next term is below float32's resolution.
    """
    y = m * F(0.26983419835111874) - F(0.08994473278370625)  # ln 10 / 64 (7.5 m - 2.5)
    e = F(1 / 5040) + y * F(1 / 40320)
    e = F(1 / 120) + y * (F(1 / 720) + y * e)
    e = F(1 / 6) + y * (F(1 / 24) + y * e)
    e = F(1) + y * (F(1) + y * (F(1 / 2) + y * e))
    e = e * e
    e = e * e
    e = e * e
    e = e * e
    e = e * e
    e = e * e
    return np.sqrt(e + F(1e-7))


@kernel(inline="always", **FUSED)
def circle(p):  # type: ignore[no-untyped-def]
    """cos and sin of pi p, for p in [-1, 1]; from Taylor's of half the angle."""
    x = p * F(1.5707963267948966)
    q = x * x
    s = F(1 / 362880) - q * F(1 / 39916800)
    s = F(1 / 120) - q * (F(1 / 5040) - q * s)
    s = x * (F(1) - q * (F(1 / 6) - q * s))
    c = F(1 / 40320) - q * (F(1 / 3628800) - q * F(1 / 479001600))
    c = F(1 / 24) - q * (F(1 / 720) - q * c)
    c = F(1) - q * (F(1 / 2) - q * c)
    return F(1) - F(2) * s * s, F(2) * s * c


@kernel(**FUSED)
def along_vectors(bins, log_magnitude, vectors, turn_re, turn_im, re, im):  # type: ignore[no-untyped-def]
    """re + i im: an amplitude (bins,) along a vector of any length (the first 2 bins: x, y), turned."""
    for k in range(bins):
        x, y = vectors[k], vectors[bins + k]
        scale = amplitude_of(log_magnitude[k]) / np.sqrt(x * x + y * y + F(1e-8))
        re[k] = scale * (x * turn_re[k] - y * turn_im[k])
        im[k] = scale * (x * turn_im[k] + y * turn_re[k])


@kernel(**FUSED)
def retune(bins, tuning, place, re, im):  # type: ignore[no-untyped-def]
    """The lowest bins of re + i im turned by pi tuning place, any number of times."""
    for k in range(bins):
        p = tuning[k] * place
        c, s = circle(p - F(2) * np.floor(F(0.5) * p + F(0.5)))
        x, y = re[k], im[k]
        re[k], im[k] = x * c - y * s, x * s + y * c


@kernel(**FUSED)
def polar(bins, log_magnitude, phase, re, im):  # type: ignore[no-untyped-def]
    """re + i im: an amplitude at the angle pi p, for p in [-1, 1]."""
    for k in range(bins):
        amplitude = amplitude_of(log_magnitude[k])
        c, s = circle(phase[k])
        re[k], im[k] = amplitude * c, amplitude * s


@intrinsic(prefer_literal=True)
def local(typing: Any, count: Any) -> Any:
    """`count` float32 numbers on the stack, of which LLVM knows that no pointer from elsewhere leads there; a constant."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return cgutils.alloca_once(builder, ir.FloatType(), size=int64(count.literal_value))

    return types.CPointer(types.float32)(count), codegen


class Complex:
    """A vector of complex numbers, as LLVM vectors of their real and imaginary parts."""

    def __init__(self, e: Emitter, re: Any, im: Any) -> None:
        self.e, self.re, self.im = e, re, im

    def __add__(self, other: Complex) -> Complex:
        add = self.e.builder.fadd
        return Complex(self.e, add(self.re, other.re), add(self.im, other.im))

    def __sub__(self, other: Complex) -> Complex:
        subtract = self.e.builder.fsub
        return Complex(self.e, subtract(self.re, other.re), subtract(self.im, other.im))

    def __mul__(self, other: Complex) -> Complex:
        e, multiply = self.e, self.e.builder.fmul
        re = e.multiply_add(self.re, other.re, e.builder.fneg(multiply(self.im, other.im)))
        return Complex(e, re, e.multiply_add(self.re, other.im, multiply(self.im, other.re)))

    def times_i(self) -> Complex:
        return Complex(self.e, self.e.builder.fneg(self.im), self.re)


class Numbers:
    """Complex numbers in an array: `m` real parts, then as many imaginary ones; SIDE neighbours are one vector."""

    def __init__(self, e: Emitter, data: Any, m: Any) -> None:
        self.e, self.data, self.m = e, data, m

    def get(self, at: Any) -> Complex:
        return Complex(self.e, *(self.e.load(self.data, place) for place in self._places(at)))

    def broadcast(self, at: Any) -> Complex:
        """One number in every lane."""
        parts = (self.e.builder.gep(self.data, [place]) for place in self._places(at))
        return Complex(self.e, *(self.e.broadcast(self.e.builder.load(part)) for part in parts))

    def put(self, x: Complex, at: Any) -> None:
        for part, place in zip((x.re, x.im), self._places(at), strict=True):
            self.e.store(part, self.data, place)

    def _places(self, at: Any) -> tuple[Any, Any]:
        return at, self.e.builder.add(at, self.m)


@intrinsic
def radix4(typing: Any, w: Any, turns: Any, m: Any, length: Any, stride: Any, source: Any, target: Any) -> Any:
    """A pass of a Stockham FFT (inverse, unscaled) of `length` elements that are `stride` numbers each, from source to target."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        w, turns, m, length, stride, source, target = args
        e = Emitter(builder, SIDE)
        numbers = Numbers(e, w, m)
        circle = Numbers(e, turns, int64(TURNS))
        quarter, skip = builder.udiv(length, int64(4)), builder.udiv(int64(TURNS), length)
        step = builder.mul(quarter, stride)
        with cgutils.for_range(builder, quarter) as p:
            turn = builder.mul(skip, p.index)
            first, second, third = (circle.broadcast(builder.mul(turn, int64(k))) for k in (1, 2, 3))
            x = builder.add(source, builder.mul(p.index, stride))
            y = builder.add(target, builder.mul(builder.mul(p.index, stride), int64(4)))
            with cgutils.for_range(builder, builder.udiv(stride, int64(SIDE))) as group:
                i = builder.mul(group.index, int64(SIDE))
                places = [builder.add(builder.add(x, i), builder.mul(step, int64(k))) for k in range(4)]
                a, b, c, d = (numbers.get(place) for place in places)
                s, t, u, v = a + c, a - c, b + d, (b - d).times_i()
                for k, z in enumerate((s + u, (t + v) * first, (s - u) * second, (t - v) * third)):
                    numbers.put(z, builder.add(builder.add(y, i), builder.mul(stride, int64(k))))
        return context.get_dummy_value()

    return types.void(w, turns, *[types.int64] * 5), codegen


@intrinsic
def radix2(typing: Any, w: Any, m: Any, source: Any, target: Any) -> Any:
    """The last pass, of two elements that are m / 2 numbers each."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        w, m, source, target = args
        numbers = Numbers(Emitter(builder, SIDE), w, m)
        half = builder.udiv(m, int64(2))
        with cgutils.for_range(builder, builder.udiv(half, int64(SIDE))) as group:
            i = builder.mul(group.index, int64(SIDE))
            x, y = builder.add(source, i), builder.add(target, i)
            a, b = numbers.get(x), numbers.get(builder.add(x, half))
            numbers.put(a + b, y)
            numbers.put(a - b, builder.add(y, half))
        return context.get_dummy_value()

    return types.void(w, *[types.int64] * 3), codegen


@kernel(**FUSED)
def columns(w, turns, m, length, width, source, target):  # type: ignore[no-untyped-def]
    """FFT of every column of (length, width): to `target` for length 32, else by way of it to `source`."""
    radix4(w, turns, m, length, width, source, target)
    if length == 8:
        radix2(w, m, target, source)
    else:
        radix4(w, turns, m, length // 4, 4 * width, target, source)
    if length == 32:
        radix2(w, m, source, target)


@intrinsic
def transpose_square(typing: Any, w: Any, source: Any, pitch: Any, target: Any, other: Any) -> Any:
    """w[target + other j + i] = w[source + pitch i + j] for i, j < SIDE, in registers: LLVM by itself scatters numbers one by one.

    Three rounds exchange what lies on the far side of the diagonal between rows 1, 2 and 4 apart (Eklundh 1972).
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector, (data, source, pitch, target, other) = ir.VectorType(ir.FloatType(), SIDE), args

        def at(start: Any, stride: Any, row: int) -> Any:
            place = builder.add(start, builder.mul(stride, ir.Constant(ir.IntType(64), row)))
            return builder.bitcast(builder.gep(data, [place]), vector.as_pointer())

        def pick(a: Any, b: Any, lanes: list[int]) -> Any:
            return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), SIDE), lanes))

        square = [builder.load(at(source, pitch, row), align=4) for row in range(SIDE)]
        for apart in (1, 2, 4):
            for row in (row for row in range(SIDE) if not row & apart):
                a, b = square[row], square[row + apart]
                upper = [SIDE + lane - apart if lane & apart else lane for lane in range(SIDE)]
                lower = [SIDE + lane if lane & apart else lane + apart for lane in range(SIDE)]
                square[row], square[row + apart] = pick(a, b, upper), pick(a, b, lower)
        for row, numbers in enumerate(square):
            builder.store(numbers, at(target, other, row), align=4)
        return context.get_dummy_value()

    whole = types.int64
    return types.void(w, whole, whole, whole, whole), codegen


def make_synthesize(rows: int, cols: int, vectors: bool) -> Callable[..., None]:
    """The kernel for FFTs of 2 m samples, m = rows * cols; rows <= cols are two of 8, 16, 32. Phases are vectors or angles.

    The m complex numbers z[n] = x[2 n] + i x[2 n + 1] lie as (rows, cols); their FFT is one FFT of every column,
    twiddles, a transposition, and again one FFT of every column (Bailey 1990, the four-step method). An FFT of all
    columns is a Stockham FFT whose elements are runs of neighbouring numbers.
    """
    m = rows * cols
    bins, work, hop = m + 1, 4 * m, m // 2
    # Each step goes from one of two buffers (at 0 and 2 m) to the other; begin so that the last one ends at 0.
    begin = 2 * m * ((1 + (rows == 32) + (cols == 32)) % 2)
    other = 2 * m - begin
    middle = begin if rows < 32 else other
    after = 2 * m - middle

    @kernel(**FUSED)
    def synthesize(levels, phase, window, fold, turns, quarters, places, out, segment, windows, frames, width):  # type: ignore[no-untyped-def]
        """Levels (windows, frames, m + 1), phase (windows, frames, width) -> out (windows frames hop + 3 hop), overwritten.

        The tables are those of `signal.tables` and `signal.places`; segment: room for (frames + 3) hop numbers.
        """
        re, im, w, length = local(bins), local(bins), local(work), (frames + 3) * hop
        cosine, sine, twiddle, untwiddle = fold, skip(fold, m), skip(fold, 2 * m), skip(fold, 3 * m)
        for i in range(windows * frames * hop + 3 * hop):
            out[i] = F(0)
        for b in range(windows):
            for i in range(length):
                segment[i] = F(0)
            for t in range(frames):
                level, angle = skip(levels, (b * frames + t) * bins), skip(phase, (b * frames + t) * width)
                if vectors:
                    turn = skip(quarters, t % 4 * bins)
                    along_vectors(bins, level, angle, turn, skip(turn, 4 * bins), re, im)
                    retune(width - 2 * bins, skip(angle, 2 * bins), places[t], re, im)
                else:
                    polar(bins, level, angle, re, im)
                im[0] = im[m] = F(0)  # they do not count: the samples are real
                # Z[k] = X[k] + conj X[m-k] + i exp(i pi k / m) (X[k] - conj X[m-k])
                z = skip(w, begin)
                for k in range(m):
                    even_re, even_im = re[k] + re[m - k], im[k] - im[m - k]
                    odd_re, odd_im = re[k] - re[m - k], im[k] + im[m - k]
                    z[k] = even_re - (odd_re * sine[k] + odd_im * cosine[k])
                    z[m + k] = even_im + (odd_re * cosine[k] - odd_im * sine[k])
                columns(w, turns, m, rows, cols, begin, other)
                for part in range(0, 2 * m, m):
                    for r in range(0, rows, SIDE):
                        for c in range(0, cols, SIDE):
                            transpose_square(w, middle + part + r * cols + c, cols, after + part + c * rows + r, rows)
                z = skip(w, after)
                for i in range(m):
                    zr, zi = z[i], z[m + i]
                    z[i], z[m + i] = zr * twiddle[i] - zi * untwiddle[i], zr * untwiddle[i] + zi * twiddle[i]
                columns(w, turns, m, cols, rows, after, middle)
                frame, odd = skip(segment, t * hop), skip(window, m)
                for i in range(m):
                    frame[2 * i] += window[i] * w[i]
                    frame[2 * i + 1] += odd[i] * w[m + i]
            y = skip(out, b * frames * hop)
            for i in range(length):
                y[i] += segment[i]

    return synthesize
