"""The inflation lemma of `proof` for many pairs at once, in the regular case.

In the regular case the equations M x~ = c have full row rank. Then a Cholesky factor of M M^T, whose entries
`equations` gives, bounds |M^+|. Units within `HOLD` of zero are held. Points whose features agree already
after an earlier layer are proved there: a collision of the first layers is one of the whole network, and the
equations of the whole network may then be linearly dependent. Pairs that are not proved here are left to
`verify_pair`, which needs the matrices.

Rounding: the error of an entry of the computed M M^T is at most a few 2^-53 for each term of its sums, times
the products of the norms of all matrices that enter it (`Network.sizes`). Where this is at most a hundredth
of the smallest eigenvalue, the eigenvalue is right to 1 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.linalg.lapack import dpotrf, dpotrs, dtrtri

from semirobust.collisions.network import Network
from semirobust.collisions.result import Collisions, Point, budget, collect
from semirobust.collisions.solvers.equations import Equations, Side
from semirobust.collisions.solvers.proof import HOLD, verify_pair
from semirobust.extractors import UNIT, Array

BLOCK = 64  # pairs at a time
AGREE = 1e-9  # features that differ by at most this, relative to 1 + the largest, may be equal


class _Case(NamedTuple):
    """The equations of one pair, a Cholesky factor of M M^T, and an upper bound of |M^+|."""

    equations: Equations
    factor: Array
    norm: float


def prove(
    network: Network,
    u: Array,
    v: Array,
    at_u: Array,
    at_v: Array,
    equations: Sequence[Equations | None] | None = None,
) -> list[Point]:
    """The exact collision near each pair of points [B, d]; the unverified points where none is proved.

    equations: for each pair the equations that hold there, if known; this saves time.
    """
    points: list[Point] = []
    for first in range(0, len(u), BLOCK):
        rows = slice(first, first + BLOCK)
        ends, at = np.stack([u[rows], v[rows]]), np.stack([at_u[rows], at_v[rows]])
        known = [None] * ends.shape[1] if equations is None else equations[rows]
        points += [
            verify_pair(network, *pair, *where) if point is None else point
            for point, pair, where in zip(
                _block(network, ends, at, known), ends.swapaxes(0, 1), at.swapaxes(0, 1), strict=True
            )
        ]
    return points


def prove_given(network: Network, u: Array, v: Array, at_u: Array, at_v: Array) -> Collisions:
    """As `prove`, but rows of NaN stand for missing points, which get an infinite budget."""
    points = [Point(np.inf, *ends, False) for ends in zip(u, v, strict=True)]
    there = np.flatnonzero(~np.isnan(at_u[:, 0]))
    for i, point in zip(there, prove(network, u[there], v[there], at_u[there], at_v[there]), strict=True):
        points[i] = point
    return collect(network, points, method="given")


def _block(network: Network, ends: Array, at: Array, known: Sequence[Equations | None]) -> list[Point | None]:
    """Proofs in the regular case: by the first layers where their features agree, else by all layers."""
    points: list[Point | None] = [None] * ends.shape[1]
    for part in (*network.prefixes, network):
        todo = np.array([i for i, point in enumerate(points) if point is None], np.intp)
        if part is not network:
            features = part.features(at[:, todo])
            gap, size = np.abs(features[0] - features[1]).max(axis=1), features.max(axis=(0, 2))
            todo = todo[gap <= AGREE * (1 + size)]
        if len(todo):
            equations = [known[i] if part is network else None for i in todo]
            found = _regular(part, ends[:, todo], at[:, todo], equations)
            for i, point in zip(todo.tolist(), found, strict=True):
                points[i] = point
    return points


def _regular(
    network: Network, ends: Array, at: Array, known: Sequence[Equations | None]
) -> list[Point | None]:
    """Proofs for pairs u, v and points near a collision, [2, B, d]; None where the regular case fails."""
    values = network.pre_activations(at)  # [2, B, n_i]
    pulled = np.zeros_like(values[0])
    gates = [np.zeros(value.shape, bool) for value in values]
    cases: list[_Case | None] = []
    for i, equations in enumerate(known):
        here = [value[:, i] for value in values]  # [2, n_i]
        case = _case(network, _near(network, here) if equations is None else equations)
        cases.append(case)
        if case is not None:
            pulled[:, i] = _correction(case, np.concatenate(here, axis=1))
            for end, side in enumerate(case.equations.sides):
                for gate, mask in zip(gates, side.gates, strict=True):
                    gate[end, i] = mask
    at = at - pulled @ network.layers[0].weight
    last = sum(value.shape[2] for value in values[:-1])
    for i, case in enumerate(cases):
        if case is not None:  # a side may come from a pattern with other gates in the last layer
            gates[-1][:, i] = False
            gates[-1][:, i, case.equations.joint - last] = True
    reached, errors = network.pre_activations(at, tuple(gates)), network.rounding(at, tuple(gates))
    value, bound = (np.concatenate(layers, axis=2) for layers in (reached, errors))  # [2, B, n]
    margins = np.where(np.concatenate(gates, axis=2), value, -value) - bound
    return [
        None
        if case is None
        else _proved(network, case, ends[:, i], at[:, i], *(x[:, i] for x in (value, bound, margins)))
        for i, case in enumerate(cases)
    ]


def _proved(
    network: Network, case: _Case, ends: Array, at: Array, value: Array, bound: Array, margins: Array
) -> Point | None:
    """The lemma for one pair; None where its conditions fail.

    ends and at: the pair and the points near a collision, [2, d]. value, bound and margins: pre-activations
    on the gates, bounds of their rounding errors, and margins of their signs, [2, n].
    """
    equations = case.equations
    error, slack = equations.of(value[0], value[1]), equations.of(bound[0], bound[1], 1)
    move = case.norm * (np.linalg.norm(error) * (1 + 4 * UNIT) + np.linalg.norm(slack))
    away = np.concatenate(network.reach) * move * (1 + 1e-9)
    signed = value.shape[1] - (0 if network.rectified else len(network.layers[-1].bias))
    # a joint unit that is zero at one point is zero at the other
    twice = equations.held_u[np.isin(equations.held_u, equations.joint)]
    held_v = np.concatenate([equations.held_v, twice])
    for side, held, margin in zip(equations.sides, (equations.held_u, held_v), margins, strict=True):
        left = margin - np.where(side.varies, away, 0.0)
        left[held] = 0
        if not (left[:signed] >= 0).all():
            return None
    epsilon = budget(ends[0], ends[1], at[0], at[1], float(move))
    return Point(epsilon, at[0], at[1], True) if np.isfinite(epsilon) else None


def _near(network: Network, values: list[Array]) -> Equations:
    """The equations of a point near a collision, from the pre-activations of both points [2, n_i]."""
    last_u, last_v = values[-1]
    both = (last_u > 0) & (last_v > 0) & (np.maximum(last_u, last_v) > HOLD) | (not network.rectified)
    joint = sum(value.shape[1] for value in values[:-1]) + np.flatnonzero(both)
    sides, held = [], []
    for value in zip(*values, strict=True):
        side = Side(network, (*(layer > HOLD for layer in value[:-1]), both))
        zero = (np.abs(np.concatenate(value)) <= HOLD) & side.varies
        zero[joint] = False
        sides.append(side)
        held.append(np.flatnonzero(zero))
    return Equations(sides[0], sides[1], joint, held[0], held[1])


def _case(network: Network, equations: Equations) -> _Case | None:
    """The case of these equations; None where M does not have full row rank or is too near to lower rank."""
    if len(equations) == 0:
        return _Case(equations, np.zeros((0, 0)), 0.0)
    matrix = equations.matrix(0.5)
    matrix *= 0.5
    factor, failed = dpotrf(matrix, lower=1, clean=1, overwrite_a=1)
    if failed:
        return None
    root, failed = dtrtri(factor, lower=1)
    norm = 1.01 * float(np.linalg.norm(root))  # at least 1 / the smallest singular value
    sizes = np.concatenate(network.sizes) ** 2
    size = sum(
        float(sizes[units].sum())
        for units in (equations.joint, equations.joint, equations.held_u, equations.held_v)
    )
    terms = network.inputs + len(sizes)
    if failed or not 8 * terms * UNIT * size * norm**2 <= 0.01:
        return None
    return _Case(equations, factor, norm)


def _correction(case: _Case, values: Array) -> Array:
    """M^+ e as coefficients of the rows of the first matrix, [2, n_1], from pre-activations [2, n]."""
    equations = case.equations
    if len(equations) == 0:
        return np.zeros((2, len(equations.sides[0].gates[0])))
    forces, _ = dpotrs(case.factor, equations.of(values[0], values[1]), lower=1)
    nu, on_u, on_v = equations.spread(forces, values.shape[1])
    return np.stack([equations.sides[0].pull(nu + on_u), equations.sides[1].pull(on_v - nu)])
