"""The two linear measures: linear CKA, and the mean absolute correlation of coordinates."""

from __future__ import annotations

import numpy as np

from semirobust.dependence.measure import Array, Measure, Score, standardised
from semirobust.dependence.shuffles import Integers

TINY = 1e-13  # of the size of a Gram matrix: what rounding leaves of one without variance
BLOCK_COLUMNS = 2048


def linear_cka() -> Measure:
    """Linear centred kernel alignment, in [0, 1] (Kornblith et al., 2019):
    |X'Y|_F^2 / (|X'X|_F |Y'Y|_F) of the centred sides.

    Unchanged by rotations and by one common scale of a side. A side that does not vary gives 0. For n not far
    above the dimensions independent data score high too: read it beside its control.
    """

    def begin(x: Array, y: Array, generator: np.random.Generator) -> Score:
        # columns that do not vary become exactly 0; a common shift changes nothing
        x, y = x - x[0], y - y[0]
        if max(x.shape[1], y.shape[1]) < len(x):
            return lambda rows_x, rows_y: _from_features(x[rows_x], y[rows_y])
        gram_x, gram_y = x @ x.T, y @ y.T  # [n, n]

        def score(rows_x: Integers, rows_y: Integers) -> float:
            return _from_grams(gram_x[np.ix_(rows_x, rows_x)], gram_y[np.ix_(rows_y, rows_y)])

        return score

    return Measure("linear_cka", "", begin)


def _from_features(x: Array, y: Array) -> float:
    """From [n, d] and [n, d']; cheap for n above d and d'."""
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    norm_x, norm_y = np.linalg.norm(x.T @ x), np.linalg.norm(y.T @ y)
    return _ratio(float(np.square(x.T @ y).sum()), norm_x, norm_y)


def _from_grams(k: Array, m: Array) -> float:
    """The same from the Gram matrices XX' and YY' [n, n]: |X'Y|_F^2 = <HKH, HMH>."""
    size_k, size_m = np.linalg.norm(k), np.linalg.norm(m)
    k, m = centred(k), centred(m)
    norm_k, norm_m = np.linalg.norm(k), np.linalg.norm(m)
    if norm_k <= TINY * size_k or norm_m <= TINY * size_m:
        return 0.0
    return _ratio(float(np.vdot(k, m)), norm_k, norm_m)


def _ratio(shared: float, norm_x: np.floating, norm_y: np.floating) -> float:
    return shared / float(norm_x * norm_y) if norm_x > 0 and norm_y > 0 else 0.0


def centred(gram: Array) -> Array:
    """HKH, with H = 1 - 11'/n."""
    by_row = gram.mean(axis=0)
    return gram - by_row - by_row[:, None] + by_row.mean()


def correlation() -> Measure:
    """Mean absolute Pearson correlation over all pairs of coordinates, in [0, 1].

    The earlier practice of measuring connectivity between layers by correlation, to which the linear case of
    arXiv 2307.03803 (Lemma 2) appeals. Blind to dependence that is not linear; for n samples independent
    coordinates score about sqrt(2 / (pi n)). A coordinate that does not vary counts as 0.
    """

    def begin(x: Array, y: Array, generator: np.random.Generator) -> Score:
        def score(rows_x: Integers, rows_y: Integers) -> float:
            first, second = standardised(x[rows_x]), standardised(y[rows_y])
            n, dx = first.shape
            total = sum(
                float(np.abs(first[:, start : start + BLOCK_COLUMNS].T @ second).sum())
                for start in range(0, dx, BLOCK_COLUMNS)
            )
            return total / (n * dx * second.shape[1])

        return score

    return Measure("correlation", "", begin)
