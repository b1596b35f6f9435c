"""The Hilbert-Schmidt independence criterion with a Gaussian kernel (Gretton et al., 2005)."""

from __future__ import annotations

import numpy as np

from semirobust.dependence.linear import centred
from semirobust.dependence.measure import Array, Measure, Score
from semirobust.dependence.shuffles import Integers


def hsic(*, biased: bool = False) -> Measure:
    """HSIC of k(u, v) = exp(-|u - v|^2 / (2 s^2)) on each side, s the median distance of samples; no unit.

    Zero (in the limit) only for independent sides, and unchanged by rotations and by one common scale of a
    side. A side that does not vary gives 0. Where more than half of the distances are 0, s^2 is the mean of
    the squared distances instead. Memory n^2: meant for up to a few thousand samples.

    biased: the estimate tr(KHLH) / n^2, in [0, 1] and of order 1/n for independent sides; by default the
    unbiased one (Song et al., 2012, equation 5), whose mean is then 0 and which may be negative.
    """
    estimate = biased_hsic if biased else unbiased_hsic

    def begin(x: Array, y: Array, generator: np.random.Generator) -> Score:
        kernel_x, kernel_y = gaussian_kernel(x), gaussian_kernel(y)

        def score(rows_x: Integers, rows_y: Integers) -> float:
            return estimate(kernel_x[np.ix_(rows_x, rows_x)], kernel_y[np.ix_(rows_y, rows_y)])

        return score

    return Measure("hsic_biased" if biased else "hsic", "", begin)


def gaussian_kernel(values: Array) -> Array:
    """[n, d] -> [n, n], in (0, 1]; all ones where the rows are equal."""
    values = values - values[0]  # exactly 0 where a coordinate does not vary
    norms = np.einsum("ij,ij->i", values, values)
    squared = np.maximum(norms[:, None] + norms - 2 * (values @ values.T), 0.0)
    np.fill_diagonal(squared, 0.0)
    apart = squared[np.triu_indices(len(values), 1)]
    scale = float(np.median(apart)) or float(apart.mean())
    return np.exp(-squared / (2 * scale)) if scale > 0 else np.ones_like(squared)


def biased_hsic(k: Array, m: Array) -> float:
    """tr(KHMH) / n^2."""
    return float(np.vdot(centred(k), m)) / len(k) ** 2


def unbiased_hsic(k: Array, m: Array) -> float:
    """The U-statistic: its mean is 0 for independent sides, and it is exactly 0 where a side is constant."""
    n = len(k)
    k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    rows_k, rows_m = k.sum(axis=1), m.sum(axis=1)
    total = float(np.vdot(k, m)) + rows_k.sum() * rows_m.sum() / ((n - 1) * (n - 2))
    return float(total - 2 * (rows_k @ rows_m) / (n - 2)) / (n * (n - 3))
