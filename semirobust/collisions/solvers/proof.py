"""Proofs that an exact collision lies near an approximate one: the inflation lemma, for any depth.

Lemma. Let x~ = (u~, v~) and fix gates. Call some units *held*: their pre-activation shall be 0, and they
count as closed. Every pre-activation is then affine, p_j = A_j x + a_j. Let M x~ = c collect the equations

    p_j(u~) = p_j(v~) for every unit of the last layer that is open (in both),
    p_j = 0           for every held unit,

and let e = M x~ - c lie in the range of M. Let rho_u, rho_v be the norms of the two blocks of M^+, times |e|.
If every other unit has its sign (open p_j >= 0, closed p_j <= 0) with a margin of at least |A_j| rho of its
branch, then an exact collision lies within rho_u of u~ and rho_v of v~, and this budget suffices:

    max(|u~ - u| + rho_u, |v~ - v| + rho_v).

Proof. Put x^ = x~ - M^+ e. It solves the equations, because e is in the range. A branch (u~ or v~) moves by
at most its rho, so a pre-activation that is not held changes by at most |A_j| rho and keeps its sign. By
induction over the layers the gates are therefore those of the real network at x^: an open unit passes p_j >=
0, a closed one gives 0, and a held one gives 0 in either state. In the last layer open units agree by the
equations, and all others are 0. QED.

The units of a last layer without ReLU count as open and need no sign: they agree by the equations.

With one layer and nothing held this is the lemma for a single layer: M = [FL, -FL], and both blocks of M^+
have norm 1 / (2 sigma) for sigma the smallest nonzero singular value of FL.

When is e in the range of M? Always, if M has full row rank. Otherwise write the equations of the open units
as B w = 0 with w affine in x~; the range of M lies in range B + R^held and e is in that sum, so it is enough
that rank M = rank B + number of held units. Such a B is F A, with w = u~ - v~, where the gates of both points
agree; and always F L of the last layer, with w the difference of the hidden values that are open somewhere.

Rounding. Residuals and margins include bounds of their own rounding errors, and norms are rounded up. One
assumption remains, where M does not have full row rank: singular values at the level of rounding count as
zero. It is tested on the residual. The part of the residual outside the range so found must be explained by
rounding, in each row by the size of that row. So a small row of M is not taken for zero if the features show
that it is not.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
from scipy.linalg.lapack import dtrtri

from semirobust.collisions.network import Gates, Network, gates_equal
from semirobust.collisions.result import Point, budget
from semirobust.extractors import UNIT, Array, extremes, numerical_rank

HOLD = 1e-7  # pre-activations up to this size are held at zero if the plain lemma does not apply
KINK = 1e-12  # relative to the layer's largest pre-activation; up to this a unit is zero up to rounding
CORRECTIONS = 2  # steps x~ - M^+ e; one would be exact without rounding
OUTSIDE = 4.0  # a residual outside the range of M may be this many times what rounding explains
WELL_CONDITIONED = 1e6  # up to this condition number the Gram matrix is as good as the SVD


def verify_pair(
    network: Network, u: Array, v: Array, at_u: Array, at_v: Array, *, holds: tuple[float, ...] = (0.0, HOLD)
) -> Point:
    """The exact collision near (at_u, at_v), [d] each; the unverified points where none is proved.

    holds: thresholds, tried in turn; pre-activations up to the threshold are held at zero. 0.0 is the plain
        lemma. The order is reversed where some pre-activations are zero up to rounding, because the plain
        lemma then hardly ever applies.
    """
    if np.isfinite(at_u).all() and np.isfinite(at_v).all():
        if np.array_equal(at_u, at_v):  # the same point: a collision without further proof
            return Point(budget(u, v, at_u, at_v), at_u, at_v, True)
        values = network.pre_activations(np.stack([at_u, at_v]))  # [2, n_i]
        for hold in reversed(holds) if _at_kink(values[: network.signed]) else holds:
            if found := _inflate(network, u, v, at_u, at_v, values, hold):
                return found
    return Point(budget(u, v, at_u, at_v), at_u, at_v, False)


def _at_kink(values: list[Array]) -> bool:
    return any((np.abs(value).min(axis=1) <= KINK * np.abs(value).max(axis=1)).any() for value in values)


class _Branch(NamedTuple):
    """One point's gates (held units closed), its held units, and its pre-activations as affine maps."""

    gates: Gates
    held: Gates
    pieces: list[tuple[Array, Array]]


def _inflate(
    network: Network, u: Array, v: Array, at_u: Array, at_v: Array, reached: list[Array], hold: float
) -> Point | None:
    """The lemma with all pre-activations in [-hold, hold] held; None where its conditions fail.

    reached: the pre-activations of both points, [2, n_i] for each layer.
    """
    branches, both = _branches(network, reached, hold)
    matrix = _equations(branches, both)  # M [m, 2 r]
    inverse = _inverse(network, branches, both, matrix)
    if inverse is None:
        return None
    points = [at_u, at_v]
    basis = network.space.basis
    rank = basis.shape[1]
    for _ in range(CORRECTIONS):
        step = inverse.apply(_stack(branches, both, _values(network, branches, points), -1))  # [2 r]
        points = [points[0] - basis @ step[:rank], points[1] - basis @ step[rank:]]
    values = _values(network, branches, points)
    bounds = [network.rounding(point, branch.gates) for point, branch in zip(points, branches, strict=True)]
    error, slack = _stack(branches, both, values, -1), _stack(branches, both, bounds, 1)
    size = np.linalg.norm(error) * (1 + 4 * UNIT) + np.linalg.norm(slack)
    move = float(inverse.norm * size)
    if inverse.span is not None:
        outside = error - inverse.span @ (inverse.span.T @ error)
        explained = slack + np.linalg.norm(matrix, axis=1) * move + len(error) * UNIT * np.linalg.norm(error)
        if not (np.abs(outside) <= OUTSIDE * explained).all():
            return None
    for branch, value, bound in zip(branches, values, bounds, strict=True):
        if not _signs_hold(network, branch, value, bound, move):
            return None
    epsilon = budget(u, v, points[0], points[1], move)
    return Point(epsilon, points[0], points[1], True) if np.isfinite(epsilon) else None


def _branches(
    network: Network, values: list[Array], hold: float
) -> tuple[tuple[_Branch, _Branch], np.ndarray]:
    """Gates and held units of both points, from their pre-activations [2, n_i], and the last gates.

    A unit of the last layer is open where it is open at both points.
    """
    last_u, last_v = values[-1]
    both = (last_u > 0) & (last_v > 0) & (np.maximum(last_u, last_v) > hold) | (not network.rectified)  # [m]
    branches = []
    for value in zip(*values, strict=True):
        gates = (*(layer > hold for layer in value[:-1]), both)
        pieces = network.affine(gates)
        # a unit with a constant pre-activation cannot be held, and need not be
        held = tuple(
            (np.abs(layer) <= hold) & rows.any(axis=1) & (hold > 0)
            for layer, (rows, _) in zip(value, pieces, strict=True)
        )
        branches.append(_Branch(gates, (*held[:-1], held[-1] & ~both), pieces))
    return (branches[0], branches[1]), both


def _held_rows(branch: _Branch) -> Array:
    return np.concatenate([rows[held] for (rows, _), held in zip(branch.pieces, branch.held, strict=True)])


def _equations(branches: tuple[_Branch, _Branch], both: np.ndarray) -> Array:
    """M [m, 2 r]: the open units of the last layer, then the held units of u~, then those of v~."""
    held = [_held_rows(branch) for branch in branches]
    empty = [np.zeros_like(rows) for rows in held]
    open_u, open_v = (branch.pieces[-1][0][both] for branch in branches)
    return np.block([[open_u, -open_v], [held[0], empty[0]], [empty[1], held[1]]])


def _values(network: Network, branches: tuple[_Branch, _Branch], points: list[Array]) -> list[list[Array]]:
    """Pre-activations of both points on their gates, [n_i] for each layer."""
    return [
        network.pre_activations(point, branch.gates) for point, branch in zip(points, branches, strict=True)
    ]


def _stack(
    branches: tuple[_Branch, _Branch], both: np.ndarray, values: list[list[Array]], sign: int
) -> Array:
    """Values of both points in the order of `_equations` [m]: e = M x~ - c with sign -1, bounds with 1."""
    held = [
        value[mask]
        for layers, branch in zip(values, branches, strict=True)
        for value, mask in zip(layers, branch.held, strict=True)
    ]
    return np.concatenate([values[0][-1][both] + sign * values[1][-1][both], *held])


def _signs_hold(
    network: Network, branch: _Branch, values: list[Array], bounds: list[Array], move: float
) -> bool:
    """Whether every unit that is not held keeps its sign when the point moves by `move`."""
    entries = zip(values, bounds, branch.gates, branch.held, branch.pieces, strict=True)
    for value, bound, gate, held, (rows, _) in itertools.islice(entries, network.signed):
        norms = np.linalg.norm(rows, axis=1)
        norms = np.where(norms > 0, norms + network.fuzz, 0.0)
        margin = np.where(gate, value, -value) - bound - norms * move * (1 + 1e-9)
        if not (margin[~held] >= 0).all():  # fails for NaN too
            return False
    return True


class _Inverse(NamedTuple):
    """M^+ as a product of factors, the first [2 r, .], and a bound of its norm, which bounds both blocks.

    span: an orthonormal basis of the range of M, [m, rank]; None if M has full row rank.
    """

    factors: tuple[Array, ...]
    norm: float
    span: Array | None = None

    def apply(self, error: Array) -> Array:
        for factor in reversed(self.factors):
            error = factor @ error
        return error


def _inverse(
    network: Network, branches: tuple[_Branch, _Branch], both: np.ndarray, matrix: Array
) -> _Inverse | None:
    """M^+; None where the residual may lie outside the range of M, or M is too near to lower rank."""
    count, width = matrix.shape
    if count == 0:
        return _Inverse((np.zeros((width, 0)),), 0.0)
    fuzz = network.fuzz
    if count <= width:
        try:
            root = _inverse_triangle(np.linalg.cholesky(_gram(network, branches, both, matrix)))
        except np.linalg.LinAlgError:
            pass
        else:
            norm = float(np.linalg.norm(root)) * 1.01  # at least 1 / the smallest singular value
            if norm * np.linalg.norm(matrix) <= WELL_CONDITIONED and norm * fuzz <= 0.5:
                bound = norm / (1 - norm * fuzz)
                return _Inverse((matrix.T, root.T, root), bound)
    left, sigma, right = np.linalg.svd(matrix, full_matrices=False)
    rank = numerical_rank(sigma, matrix.shape)
    _, smallest = extremes(sigma, rank)
    if rank < count and rank != _expected_rank(network, branches, both):
        return None
    if smallest <= 2 * fuzz:
        return None
    bound = 1.01 / (smallest - fuzz)
    span = left[:, :rank]
    return _Inverse((right[:rank].T / sigma[:rank], span.T), bound, span if rank < count else None)


def _gram(network: Network, branches: tuple[_Branch, _Branch], both: np.ndarray, matrix: Array) -> Array:
    """M M^T; with one layer its entries are taken from `Network.gram`."""
    if len(network.layers) > 1:
        return matrix @ matrix.T
    rows = [np.concatenate([np.flatnonzero(both), np.flatnonzero(branch.held[0])]) for branch in branches]
    first, second = (network.gram[index[:, None], index] for index in rows)
    common, count = int(both.sum()), len(first)
    gram = np.zeros((len(matrix), len(matrix)))
    gram[:count, :count] = first
    gram[:common, :common] += second[:common, :common]
    gram[count:, :common] = -second[common:, :common]
    gram[:common, count:] = -second[:common, common:]
    gram[count:, count:] = second[common:, common:]
    return gram


def _inverse_triangle(lower: np.ndarray) -> Array:
    """The inverse of a lower triangular matrix. Raises LinAlgError if it is singular."""
    inverse, failed = dtrtri(lower, lower=1)
    if failed:
        raise np.linalg.LinAlgError("a zero on the diagonal")
    return inverse


def _expected_rank(network: Network, branches: tuple[_Branch, _Branch], both: np.ndarray) -> int:
    """rank B + number of held units: where M has this rank, every residual lies in its range."""
    held = sum(int(mask.sum()) for branch in branches for mask in branch.held)
    if gates_equal(branches[0].gates, branches[1].gates):
        rows = branches[0].pieces[-1][0][both]
    else:
        somewhere = branches[0].gates[-2] | branches[1].gates[-2]
        rows = network.layers[-1].weight[both][:, somewhere]
    if rows.size == 0:
        return held
    return numerical_rank(np.linalg.svd(rows, compute_uv=False), rows.shape) + held
