"""The engine's vocabulary: what a plan tells its kernels, in words that need no compiler."""

from __future__ import annotations

GUARD = 2  # zero rows before, between and after the windows of a buffer; what a convolution reads past an edge
LINE = 16  # float32 numbers, or pairs of bfloat16, of a packed row that lie side by side: a cache line
SIDE = 32  # rows and columns of a tile of sums on tile registers
MEMORY = 2048  # float32 numbers, where the twin of tile registers has its own

# A step is a row of integers; these name its columns. Offsets count elements of the array they point into.
KIND, STEPS, DEPTH, WIDTH, SOURCE, TARGET, EXTERNAL, SUM, RESIDUAL = range(9)
WEIGHTS, BIAS, NOISE, NOISE_STRIDE, ACTIVATION, BLOCK, GAIN, FACTOR, STRIDE, SOURCE_STRIDE = range(9, 19)
POINTS, DISTINCT, OUTPUTS, TAPS, KERNEL, PAIRS, SINGLE = range(19, 26)  # minimal filtering: see ops/filters.py
MIXED, EVERY, SPAN, INPUTS, TERMS, MIX, PLACES = range(26, 33)  # sums of SPAN rows, EVERY one; of TERMS products
PARTS, LENGTH = range(33, 35)  # numbers in a lane, and in a row before lines are filled up
PLANES, PLANE, SOURCE_PLANE = range(35, 38)  # a row is PLANES pieces of STRIDE numbers, PLANE elements apart
PITCH, GATHERED = range(38, 40)  # on tile registers: elements from row to row, and whether rows are copied first
FIELDS = 40
PRODUCT, LOAD, CLEAR, STYLE, POOL, SHUFFLE, COMBINE = range(7)  # kinds of step
NONE, SWISH, TANH, CLIP = range(4)  # activations
