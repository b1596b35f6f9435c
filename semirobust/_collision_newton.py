"""Points that almost collide, moved to where an exact collision can be proved.

An attack that minimises |f(u~) - f(v~)| ends close to a collision, never on one. With the gates of the moment
the difference of the features is affine in both points, so a Gauss-Newton step, the shortest step of both
points together onto the equality, ends on it unless units change their state; then a few more follow.

Where u~ and v~ disagree about a unit, the limit of these steps has it at its kink, and often more such
equations than are independent. Nothing can be proved there. `clear` moves such units a little below zero,
where they are closed at both points and their values do not matter.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import cho_solve
from scipy.linalg.lapack import dpotrf

from semirobust._collision_layers import Gates, Network
from semirobust.extractors import Array

__all__ = ["clear", "meet"]

RIDGE = 1e-10  # of the mean of the diagonal, for equations that depend on each other
KINK = 1e-6  # pre-activations up to this are at the kink; `clear` moves them to minus this
ROUNDS = 3  # of clearing: other units can come to the kink


def meet(network: Network, points: Array, steps: int, enough: float) -> tuple[Array, float]:
    """Up to so many Gauss-Newton steps from (u~, v~), [2, d], or until |f(u~) - f(v~)| is at most `enough`.

    Returns the points and their |f(u~) - f(v~)|; nothing is proved.
    """
    for _ in range(steps):
        values = network.pre_activations(points)  # [2, n_i]
        difference = _difference(network, values)
        if not enough < np.linalg.norm(difference) < np.inf:
            break
        ends = [_gates(network, values, end) for end in (0, 1)]
        rows = np.flatnonzero(ends[0][-1] | ends[1][-1])
        matrix = np.zeros((len(rows), len(rows)))
        for gates in ends:
            where = np.flatnonzero(gates[-1][rows])
            matrix[np.ix_(where, where)] += _products(network, gates)
        force = np.zeros_like(difference)
        force[rows] = _solve(matrix, difference[rows])
        pulls = np.stack([-_pull(network, ends[0], force), _pull(network, ends[1], force)])
        points = points + pulls @ network.space.basis.T
    return points, float(np.linalg.norm(_difference(network, network.pre_activations(points))))


def clear(network: Network, points: Array) -> Array:
    """(u~, v~), [2, d], with the units at their kinks closed, and the open ones of the last layer equal."""
    rank = network.space.basis.shape[1]
    for _ in range(ROUNDS):
        values = network.pre_activations(points)
        pattern = network.pattern_of([value[0] for value in values], [value[1] for value in values], KINK)
        joint = pattern.u[-1]
        blocks, errors, lasts = [], [], []
        for end, gates in enumerate((pattern.u, pattern.v)):
            at = network.pre_activations(points[end], gates)
            rows = [matrix for matrix, _ in network.affine(gates)]
            held = [np.abs(value) <= KINK for value in at]
            held[-1] = ~joint & (at[-1] >= -KINK)
            block = np.concatenate([matrix[mask] for matrix, mask in zip(rows, held, strict=True)])
            empty = np.zeros_like(block)
            blocks.append(np.hstack([empty, block] if end else [block, empty]))
            errors += [value[mask] + KINK for value, mask in zip(at, held, strict=True)]
            lasts.append((rows[-1][joint], at[-1][joint]))
        (rows_u, at_u), (rows_v, at_v) = lasts
        matrix = np.vstack([np.hstack([rows_u, -rows_v]), *blocks])
        error = np.concatenate([at_u - at_v, *errors])
        step = np.zeros(2 * rank)
        for _ in range(2):  # the second takes out the ridge
            step += matrix.T @ _solve(matrix @ matrix.T, error - matrix @ step)
        points = points - step.reshape(2, rank) @ network.space.basis.T
    return points


def _difference(network: Network, values: list[Array]) -> Array:
    """f(u~) - f(v~), [m], from the pre-activations."""
    last = np.maximum(values[-1], 0) if network.rectified else values[-1]
    return last[0] - last[1]


def _gates(network: Network, values: list[Array], end: int) -> Gates:
    """The open units of one point; without a ReLU behind it, all of the last layer."""
    last = values[-1][end] > 0 if network.rectified else np.ones(len(values[-1][end]), bool)
    return (*(value[end] > 0 for value in values[:-1]), last)


def _products(network: Network, gates: Gates) -> Array:
    """J J^T for the open units of the last layer of one point, with J their derivatives in its input."""
    products = network.gram[np.ix_(gates[0], gates[0])]
    for (weight, _), before, after in zip(network.layers[1:], gates[:-1], gates[1:], strict=True):
        passed = weight[np.ix_(after, before)]
        products = passed @ products @ passed.T
    return products


def _pull(network: Network, gates: Gates, force: Array) -> Array:
    """J^T f [r], in the row space."""
    for (weight, _), gate in zip(reversed(network.layers[1:]), reversed(gates[1:]), strict=True):
        force = (force * gate) @ weight
    return (force * gates[0]) @ network.reduced


def _solve(matrix: Array, target: Array) -> Array:
    """A solution of a positive semidefinite system, to about the ridge; no step where there is none."""
    size = len(matrix)
    if size == 0:
        return target
    matrix[np.diag_indices(size)] += RIDGE * np.trace(matrix) / size
    factor, failed = dpotrf(matrix, lower=1)
    return np.zeros_like(target) if failed else cho_solve((factor, True), target, check_finite=False)
