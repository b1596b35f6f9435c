"""The dual value of the cross-entropy problem: a lower bound that holds in floating point."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from semirobust._conflict_flow import Floats, Integers


class Side(NamedTuple):
    """One class: weights [N], its end of each edge [E], multipliers w [N] of q <= 1 or None."""

    weights: Floats
    ends: Integers
    w: Floats | None


def lower_bound(x: Floats, sides: Iterable[Side]) -> float:
    """sum_v p_v (1 + ln((x(v) + w_v) / p_v)) - sum_e x_e - sum_v w_v, rounded down, or 0 where that is
    larger.

    x(v) sums x_e over the edges at v. Without w the best is taken, max(p_v - x(v), 0). What is subtracted for
    rounding covers one ulp of each logarithm and product and the summation of x(v); the long sums are exact.
    """
    paid, gained, error = [x], [], 0.0
    for weights, ends, given in sides:
        at = np.bincount(ends, x, len(weights))
        w = np.maximum(weights - at, 0) if given is None else given
        here = weights > 0
        p, force, degree = weights[here], (at + w)[here], np.bincount(ends, x > 0, len(weights))[here]
        if not force.all():
            return 0.0  # the value is minus infinity
        paid.append(w)
        gained.append(p * (1 + (np.log(force) - np.log(p))))
        error += float(p @ (2 + abs(np.log(force)) + abs(np.log(p)) + degree))
    cost = math.fsum(np.concatenate(paid))
    value = math.fsum(np.concatenate(gained)) - cost - 2.0**-51 * (error + cost)
    return max(value, 0.0)
