"""Checks of the arguments of `semirobust.conflict`: an array of the right kind, or a clear error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from semirobust.conflict.flow import Floats, Integers

Reals: TypeAlias = npt.ArrayLike | Sequence[Fraction]

TOLERANCE = 1e-9  # of the sum of the weights
EXCESS = 1e-12  # by which q_u + q_v may exceed 1 in a certificate


def reals(values: Reals, name: str) -> Floats:
    """`values` as a new float64 array; integers and Fractions are converted."""
    array = np.asarray(values)
    if array.dtype == object and all(isinstance(value, Fraction | int | float) for value in array.flat):
        array = np.array([float(value) for value in array.flat]).reshape(array.shape)
    if array.dtype.kind not in "fiu" and array.size:
        raise TypeError(f"{name} has dtype {array.dtype}; pass floats, integers or fractions.Fraction")
    return np.array(array, np.float64)


def entries(values: Reals, name: str, length: int | None = None, of: str = "") -> Floats:
    """`values` as a read-only float64 array [length], finite and not negative."""
    array = reals(values, name)
    if array.ndim != 1 or (length is not None and len(array) != length):
        wanted = "[N], one for each vertex" if length is None else f"[{length}], one for each of the {of}"
        raise ValueError(f"{name} has shape {list(array.shape)}; expected {wanted}")
    wrong = np.flatnonzero(~(np.isfinite(array) & (array >= 0)))
    if len(wrong):
        value = array[wrong[0]]
        raise ValueError(f"{name}[{wrong[0]}] is {value}; expected a finite number that is not negative")
    array.flags.writeable = False
    return array


def total(positive: Floats, negative: Floats) -> None:
    """Raises ValueError unless all weights together sum to one, within 1e-9."""
    found = math.fsum([*positive, *negative])
    if not abs(found - 1) <= TOLERANCE:
        raise ValueError(
            f"the weights sum to {found!r}, not 1 (positive_weights to {math.fsum(positive)!r}, "
            f"negative_weights to {math.fsum(negative)!r}); divide both by positive_weights.sum() + "
            f"negative_weights.sum()"
        )


def edges(values: npt.ArrayLike, a: int, b: int) -> Integers:
    """Distinct edges int64 [E, 2], sorted, between a positive and b negative vertices."""
    array = np.asarray(values)
    if array.size == 0:
        array = np.empty((0, 2), np.int64)
    if array.ndim != 2 or array.shape[1] != 2:
        raise ValueError(
            f"edges has shape {list(array.shape)}; expected [E, 2], rows (positive vertex, negative vertex)"
        )
    if array.dtype.kind not in "iu":
        raise TypeError(
            f"edges has dtype {array.dtype}; indices are integers: pass edges.astype(numpy.int64)"
        )
    for side, (name, count) in enumerate((("positive", a), ("negative", b))):
        wrong = np.flatnonzero((array[:, side] < 0) | (array[:, side] >= count))
        if len(wrong):
            raise ValueError(
                f"edges[{wrong[0]}] is {array[wrong[0]].tolist()}, but there are {count} {name} vertices, "
                f"counted from 0; column {side} must hold {name} vertices"
            )
    keys = np.sort(array[:, 0].astype(np.int64) * b + array[:, 1].astype(np.int64))
    keys = keys[np.diff(keys, prepend=-1) > 0]  # np.unique hashes, and is ten times slower here
    found = np.stack([keys // max(b, 1), keys % max(b, 1)], axis=1)
    found.flags.writeable = False
    return found


def distances(epsilon: npt.ArrayLike, budget: float) -> tuple[npt.NDArray[Any], np.float64]:
    """(epsilon [N+, N-], without NaN, not copied; budget in float64, so that comparing rounds nothing)."""
    array = np.asarray(epsilon)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"epsilon has dtype {array.dtype}; expected real numbers [N+, N-]")
    if array.ndim != 2:
        raise ValueError(
            f"epsilon has shape {list(array.shape)}; expected [N+, N-], a distance for each pair"
        )
    if array.size and not array.min() >= 0:  # NaN included
        u, v = np.argwhere(~(array >= 0))[0]
        raise ValueError(
            f"epsilon[{u}, {v}] is {array[u, v]}; distances are not negative: pass infinity for a pair "
            f"without a known collision"
        )
    if isinstance(budget, bool) or not isinstance(budget, int | float | np.integer | np.floating):
        raise TypeError(f"budget is {budget!r}; expected a number")
    if not 0 <= budget < math.inf:
        raise ValueError(f"budget is {budget!r}; expected a finite number that is not negative")
    return array, np.float64(budget)


def probabilities(values: npt.ArrayLike, weights: Floats, name: str) -> Floats:
    """`values` as probabilities [N], positive wherever the weight is."""
    array = entries(values, name, len(weights), "vertices")
    wrong = np.flatnonzero((array > 1) | ((array == 0) & (weights > 0)))
    if len(wrong):
        value = array[wrong[0]]
        why = "the loss is infinite there; pass probabilities above 0" if value == 0 else "expected at most 1"
        raise ValueError(f"{name}[{wrong[0]}] is {value}; {why}")
    return array


def feasible(edges: Integers, sums: Floats) -> None:
    """Raises ValueError unless q_u + q_v <= 1 on every edge, up to 1e-12."""
    if len(sums) and sums.max() > 1 + EXCESS:
        worst = int(sums.argmax())
        raise ValueError(
            f"q_positive[{edges[worst, 0]}] + q_negative[{edges[worst, 1]}] is {float(sums[worst])}, above 1 "
            f"on an edge: no classifier reaches these probabilities; scale q down until q_u + q_v <= 1"
        )
