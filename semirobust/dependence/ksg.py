"""The nearest-neighbour estimate of mutual information of Kraskov et al. (2004), in its first form.

I = psi(k) + psi(n) - mean(psi(n_x + 1) + psi(n_y + 1)) nats, divided by ln 2 for bits (their equation 8):
n_x counts the samples whose x is strictly nearer than the k-th neighbour in the joint space; all distances
are maximum norms.

Where this departs from their text:
1. Every coordinate is brought to deviation 1 first, so that units do not matter.
2. Ties, which the formula cannot bear, are broken by normal noise of 1e-10 deviations (as scikit-learn does);
   coordinates that do not vary get none, and a side that does not vary gives exactly 0.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist
from scipy.special import digamma

from semirobust.dependence.measure import Array, Measure, Score, standardised
from semirobust.dependence.shuffles import Integers

TREE_DIMENSIONS = 10  # of both sides together; above, trees look at everything and plain distances are faster
BLOCK_DISTANCES = 1 << 21  # distances held at a time, 16 MB
NOISE = 1e-10


def ksg(*, neighbours: int = 3) -> Measure:
    """The KSG estimate of I(x; y), in bits; it may be negative, and is not clipped.

    Right for smooth laws in few dimensions. In many dimensions, or for strong dependence, it is far too low:
    n samples cannot show more than about log2 n bits, and no layer of a network is low-dimensional.

    neighbours: k >= 1; fewer have less bias and more spread. Raises ValueError for another k, and for samples
    that are not more than k.
    """
    if isinstance(neighbours, bool) or not isinstance(neighbours, int) or neighbours < 1:
        raise ValueError(f"neighbours is {neighbours!r}; it must be a whole number, 1 or more")

    def begin(x: Array, y: Array, generator: np.random.Generator) -> Score:
        if len(x) <= neighbours:
            raise ValueError(
                f"{len(x)} samples are too few for {neighbours} neighbours each; lower neighbours"
            )
        side_x, side_y = _without_ties(x, generator), _without_ties(y, generator)
        if not (side_x.any() and side_y.any()):  # a side that does not vary
            return lambda rows_x, rows_y: 0.0

        def score(rows_x: Integers, rows_y: Integers) -> float:
            return ksg_bits(side_x[rows_x], side_y[rows_y], neighbours)

        return score

    return Measure("ksg", "bits", begin)


def _without_ties(values: Array, generator: np.random.Generator) -> Array:
    values = standardised(values)
    noise = NOISE * generator.standard_normal(values.shape)
    return values + np.where((values != 0).any(axis=0), noise, 0.0)


def ksg_bits(x: Array, y: Array, k: int) -> float:
    """The formula for x [n, d] and y [n, d'] as they are, in bits; n > k."""
    n = len(x)
    if x.shape[1] + y.shape[1] <= TREE_DIMENSIONS:
        count_x, count_y = _counts_by_trees(x, y, k)
    else:
        count_x, count_y = _counts_by_distances(x, y, k)
    nats = digamma(k) + digamma(n) - float(np.mean(digamma(count_x) + digamma(count_y)))
    return float(nats) / math.log(2)


def _counts_by_trees(x: Array, y: Array, k: int) -> tuple[Integers, Integers]:
    """n_x + 1 and n_y + 1 of every sample (the sample itself is the one)."""
    distance, _ = cKDTree(np.hstack([x, y])).query(np.hstack([x, y]), k=k + 1, p=np.inf)  # [n, k + 1]
    inside = np.nextafter(distance[:, k], 0)  # strictly nearer than the k-th neighbour; [:, 0] is the sample
    count_x, count_y = (
        cKDTree(side).query_ball_point(side, inside, p=np.inf, return_length=True) for side in (x, y)
    )
    return count_x, count_y


def _counts_by_distances(x: Array, y: Array, k: int) -> tuple[Integers, Integers]:
    """The same from all distances, a block of rows at a time."""
    n = len(x)
    count_x, count_y = np.empty(n, dtype=np.int64), np.empty(n, dtype=np.int64)
    step = max(1, BLOCK_DISTANCES // n)
    for start in range(0, n, step):
        rows = slice(start, start + step)
        from_x, from_y = cdist(x[rows], x, "chebyshev"), cdist(y[rows], y, "chebyshev")  # [step, n]
        distance = np.partition(np.maximum(from_x, from_y), k, axis=1)[:, k]
        inside = np.nextafter(distance, 0)[:, None]
        count_x[rows], count_y[rows] = (from_x <= inside).sum(axis=1), (from_y <= inside).sum(axis=1)
    return count_x, count_y
