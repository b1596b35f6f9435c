"""An interval for the excess over the shuffled control, by subsampling."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from semirobust.dependence.measure import Measure, as_pair, drawing
from semirobust.dependence.shuffles import Integers, Labels, by_class, check_shuffles, shuffled
from semirobust.edge import Samples


@dataclass(frozen=True)
class Interval:
    """An excess over the control, in the unit of the measure, and its interval; nothing is clipped.

    level: of the interval, in (0, 1). standard_error: the deviation behind it. replicates: how many half
        samples that is from.
    """

    value: float
    low: float
    high: float
    level: float
    standard_error: float
    replicates: int


def excess_interval(
    measure: Measure,
    x: Samples,
    y: Samples,
    *,
    labels: Labels | None = None,
    shuffles: int = 5,
    replicates: int = 100,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """The excess of a measure over its shuffled control, with an interval; class-conditional where labels are
    given.

    The usual bootstrap draws samples *with* replacement, and every copy is a perfect match of itself: it
    fills cells and nearest neighbourhoods with dependence that is not there. So each replicate is a random
    half of the samples (of each class), without copies, and its excess is computed as that of the whole is,
    shuffles included. Of a sum of independent terms, half samples spread about their mean as the estimate
    itself spreads about its own (the delete-half jackknife: factor sqrt(m / (n - m)) = 1; Shao and Wu, 1989,
    Annals of Statistics 17). Centred at the value of the whole sample, this spread gives an
    interval of Student's t (the spread itself is from finitely many replicates).

    What it covers: the mean of this excess over samples of this size, that is, what the estimator sees. The
    difference to the true information (its bias at n) is not in it; see `experiments.known_truths` for that.
    Half samples have fewer samples per cell, which moves their mean (hence the centring) and changes their
    spread a little: in repetitions at n = 150 to 200, nominal 95 % intervals covered 91 to 98 %. Cells,
    projections and clusters are those of all samples throughout.

    Args: as `Measure.__call__`; replicates >= 20; level in (0, 1).
    Raises: as `Measure.__call__`, and ValueError for these two.
    """
    if replicates < 20:
        raise ValueError(f"replicates is {replicates}; a spread needs at least 20")
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; it must be between 0 and 1, such as 0.95")
    check_shuffles(shuffles)
    x, y = as_pair(x, y)
    groups = {0: np.arange(len(x))} if labels is None else by_class(labels, len(x))
    value, spread = 0.0, np.zeros(replicates)
    for label, rows in groups.items():
        weight, n = len(rows) / len(x), len(rows)
        score = measure.prepare(x[rows], y[rows], drawing(seed, label))

        def excess(chosen: Integers, orders: list[Integers], score=score) -> float:  # type: ignore[no-untyped-def]
            control = np.mean([score(chosen, chosen[order]) for order in orders])
            return score(chosen, chosen) - float(control)

        value += weight * excess(np.arange(n), shuffled(n, shuffles, seed, label))
        rng, half = np.random.default_rng([seed, label, 2]), n // 2
        for b in range(replicates):
            orders = [rng.permutation(half) for _ in range(shuffles)]
            spread[b] += weight * excess(rng.permutation(n)[:half], orders)
    error = float(spread.std(ddof=1))
    reach = float(student.ppf((1 + level) / 2, replicates - 1)) * error
    return Interval(value, value - reach, value + reach, level, error, replicates)
