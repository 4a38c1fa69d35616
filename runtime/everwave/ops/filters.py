"""Minimal filtering (Toom, Cook, Winograd): several outputs of a short convolution for fewer products.

For m outputs y_i = sum_j k_j x_(i+j) of r taps, m + r - 1 products are enough instead of m r (Winograd, "Arithmetic
Complexity of Computations", 1980). It is the transpose of multiplying polynomials by their values at points: with V
the Vandermonde matrix of m + r - 2 numbers and infinity, and V_k its first k columns (for infinity the last one),

    y = V_m^T [ (V_r k) * (V^-T x) ].

Additions grow only with rows and columns, products with their product, so on wide layers nearly all of it is saved.

The numbers are pairs a and -a, and 0 where their count is odd: the even and the odd terms of a sum then serve both of a
pair. Their sizes make the rounding errors smallest, for random numbers: sum_p (V_m^2)^T [ |V_r|^2 |V^-T|^2 ], where |.|
is the length of a row. So float32 loses about one bit with four outputs and three with eight.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

Array = np.ndarray
PAIRS = {  # by m + r - 2
    2: (1.0,),  # 0.652 is better by an eighth, but whole numbers stay exact in bfloat16, too, with 1
    3: (1.0,),
    4: (0.389, 1.27),
    5: (0.652, 1.535),
    8: (0.236, 0.687, 1.119, 2.137),
    9: (0.421, 0.809, 1.236, 2.378),
}


@dataclass(frozen=True)
class Filter:
    """outputs = mix @ (kernel[shared] @ taps * transform @ inputs), for `span` consecutive inputs.

    The first products come in pairs, whose rows of `kernel` and `transform` differ in the signs of every second number;
    each of the others has a single tap. With stride 2 the last ones are single inputs, too: the odd ones.
    """

    mix: Array  # (outputs, products)
    kernel: Array  # (distinct, taps); the last one serves all further products
    transform: Array  # (products, span)
    pairs: int
    stride: int = 1

    @property
    def outputs(self) -> int:
        return len(self.mix)

    @property
    def products(self) -> int:
        return len(self.transform)

    @property
    def mixed(self) -> int:
        """Products whose inputs are sums of every `stride`-th row; the others' are rows."""
        return self.products - (self.outputs if self.stride == 2 else 0)

    @property
    def order(self) -> list[int]:
        """The taps, those of pairs first."""
        return [0, 2, 1] if self.stride == 2 else [*range(self.kernel.shape[1])]


@lru_cache(maxsize=16)
def minimal_filter(outputs: int, taps: int, stride: int = 1) -> Filter:
    """The scheme for 2, 4 or 8 results of a convolution of 2 or 3 taps, stride 1, or of 3 taps, stride 2.

    Stride 2: the outer taps are a 2-tap convolution of every second input; the middle one is applied as it is.
    """
    if stride == 2:
        outer = minimal_filter(outputs, 2)
        transform = np.zeros((outer.products + outputs, 2 * outputs + 1))
        transform[: outer.products, 0::2] = outer.transform
        transform[np.arange(outer.products, len(transform)), np.arange(1, 2 * outputs, 2)] = 1
        kernel = np.zeros((outer.products + 1, 3))
        kernel[:-1, [0, 2]] = outer.kernel
        kernel[-1, 1] = 1
        return Filter(np.hstack([outer.mix, np.eye(outputs)]), kernel, transform, outer.pairs, 2)
    products, pairs = outputs + taps - 1, PAIRS[outputs + taps - 2]
    points = [sign * point for point in pairs for sign in (1, -1)] + [0.0] * ((products - 1) % 2)
    values = np.vander(points, products, increasing=True)

    def vandermonde(columns: int) -> Array:
        return np.vstack([values[:, :columns], np.eye(columns)[-1]])

    transform = np.linalg.inv(vandermonde(products)).T
    transform[np.abs(transform) < 1e-12] = 0
    return Filter(vandermonde(outputs).T, vandermonde(taps), transform, len(pairs))
