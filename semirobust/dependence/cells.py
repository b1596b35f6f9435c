"""The two measures on the cells of EDGE: information, and the conditional entropy of the first layer."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from semirobust.dependence.measure import Array, Measure, Score
from semirobust.dependence.shuffles import Integers
from semirobust.edge import EdgeOptions, Side, TwoPasses, cell_information, cells, compare


def edge(**options: Any) -> Measure:
    """The EDGE estimate of I(x; y) in bits (`semirobust.edge.edge`, whose options it takes).

    Shuffles and subsamples keep the projections and bandwidths of all samples: the cells stay the same.
    Raises TypeError for an unknown option, ValueError for one out of range.
    """
    checked = EdgeOptions(**options)

    def begin(x: Array, y: Array, generator: np.random.Generator) -> Score:
        side_x, side_y = _sides(x, y)

        def score(rows_x: Integers, rows_y: Integers) -> float:
            return compare(side_x.reordered(rows_x), side_y.reordered(rows_y), checked).bits

        return score

    return Measure("edge", "bits", begin, lambda n, dx, dy: min(checked.cap_bits, math.log2(n)))


def conditional_entropy() -> Measure:
    """H(x | y) of the cells of EDGE, in bits, in [0, log2 n]: plug-in H(x) - I(x; y), not floored or capped.

    For the corrected dependence form of Theorem 2 of arXiv 2307.03803: a gamma-semirobust F^(a) makes
    F^(n) semirobust with 1 - h_b((1 - gamma)/2) - (sum of eta_j), where eta_j >= H(Z_{j-1} | Z_j) under
    *every* randomised attack. So small is good, and the control (shuffled pairs) is *above* the value. Two
    things keep this from being a certificate: it is taken under one attack, of hashed layers; and with few
    samples per cell it is too small, because a sample alone in its cell leaves nothing open (the control,
    whose truth is H(x), shows by how much).
    """

    def begin(x: Array, y: Array, generator: np.random.Generator) -> Score:
        cells_x, cells_y = (cells(side, 0.4, 1.0, 0.0) for side in _sides(x, y))

        def score(rows_x: Integers, rows_y: Integers) -> float:
            information, entropy_x, _ = cell_information(
                cells_x[rows_x], cells_y[rows_y], cap_bits=math.inf, floor_bits=-math.inf
            )
            return entropy_x - information

        return score

    return Measure("conditional_entropy", "bits", begin, lambda n, dx, dy: math.log2(n))


def _sides(x: Array, y: Array) -> tuple[Side, Side]:
    """Both sides projected, with the random numbers that `semirobust.edge.edge` takes for them."""
    passes = TwoPasses([("x", "y")])
    for step in (passes.measure, passes.project):
        step("x", x)
        step("y", y)
    return passes.sides()[0]
