"""The cone program of one pattern: the cheapest collision of a pair whose gates are given.

    min eps   subject to |delta| <= eps, |delta'| <= eps,
                         p_j = p'_j                            for the open units of the last layer,
                         D_j p_j >= margin, D'_j p'_j >= margin   everywhere,

with p and p' the pre-activations at u + delta and v + delta', affine on the pattern, and D = +1 for an open
unit and -1 for a closed one. A last layer without ReLU has no sign constraints. Clarabel solves the program
in the row space of the first matrix, which has the same optimum.

Where this departs from Appendix D of the paper on fixed feature extractors:
1. The equalities are replaced by an orthonormal basis of their row space: with more open units than rank
   the printed system has dependent rows, on which solvers fail.
2. The layer is relu(L x + k) throughout; the "- k" of the appendix is a slip.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import clarabel
import numpy as np
from scipy import sparse

from semirobust.collisions.network import Network, Pattern
from semirobust.collisions.solvers.equations import Equations
from semirobust.extractors import Array, numerical_rank

TOLERANCE = 1e-9  # of the solver: duality gap and feasibility
CONSISTENT = 1e-6  # if the equalities miss a solution by more, the pattern is infeasible


@dataclass(frozen=True, eq=False)
class Cell:
    """The optimum on one pattern.

    status: "solved", "infeasible" (no collision has this pattern, or none with the margin) or "failed".
    epsilon: the budget; infinite unless solved.
    points: computes both points [d] on demand, as they are rarely needed; also available as `u` and `v`.
    p_u, p_v: pre-activations at the two points, [n_i] for each layer.
    z_u, z_v: multipliers of the sign constraints, at least 0, for each layer: raising the right side of one
        by t raises epsilon by z t.
    nu: multipliers of the equalities [m], 0 where the unit is closed; of least norm where they are not
        unique.
    mu: (mu, mu'), multipliers of the two balls; they sum to 1.
    equations: the equations that hold at the optimum, if known; a proof can start from them.
    """

    status: str
    epsilon: float
    points: Callable[[], tuple[Array, Array]]
    p_u: list[Array]
    p_v: list[Array]
    z_u: list[Array]
    z_v: list[Array]
    nu: Array
    mu: tuple[float, float]
    equations: Equations | None = None

    @property
    def u(self) -> Array:
        return self.points()[0]

    @property
    def v(self) -> Array:
        return self.points()[1]

    def forces(self, pattern: Pattern) -> tuple[Array, Array]:
        """alpha = D z + nu and beta = D z' - nu of the last layer, [m] each.

        The multipliers determine only these sums uniquely, not z, z' and nu alone.
        """
        signs = np.where(pattern.u[-1], 1.0, -1.0)
        return signs * self.z_u[-1] + self.nu, signs * self.z_v[-1] - self.nu


class Program(NamedTuple):
    """min eps over x = (eps, a, a') subject to rows x + s = bound.

    s is 0 in the first rows, >= 0 in the next, and in two second-order cones in the last. a and a' are the
    steps in the row space.
    """

    rows: Array  # [equal + signs + 2 (1 + r), 1 + 2 r]
    bound: Array
    equal: int
    signs: int
    lift: Array  # [m, equal]: maps multipliers of the basis to those of the printed equalities
    kept: tuple[list[np.ndarray], list[np.ndarray]]  # units with a row, by layer; the others are constant


def program(network: Network, u: Array, v: Array, pattern: Pattern, margin: float) -> Program | None:
    """The program in the row space; None where the pattern is infeasible."""
    rank = network.reduced.shape[1]
    inequalities, bounds, pieces = [], [], []
    kept: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for side, (point, gates) in enumerate(((u, pattern.u), (v, pattern.v))):
        affine = [
            (rows, rows @ (network.space.basis.T @ point) + offset) for rows, offset in network.affine(gates)
        ]
        pieces.append(affine[-1])
        for layer, (gate, (rows, value)) in enumerate(zip(gates, affine, strict=True)):
            if layer == network.signed:
                kept[side].append(np.zeros_like(gate))
                continue
            signs = np.where(gate, 1.0, -1.0)
            varies = np.asarray(rows.any(axis=1))  # [n_i]
            if (signs[~varies] * value[~varies] < 0).any():
                return None
            kept[side].append(varies)
            block = np.zeros((int(varies.sum()), 1 + 2 * rank))
            block[:, 1 + side * rank : 1 + (side + 1) * rank] = -signs[varies, None] * rows[varies]
            inequalities.append(block)
            bounds.append(signs[varies] * value[varies] - margin)
    equalities = _equalities(pieces[0], pieces[1], pattern.u[-1])
    if equalities is None:
        return None
    basis, target, lift = equalities
    cones = np.zeros((2 * (1 + rank), 1 + 2 * rank))
    for side in (0, 1):
        cones[side * (1 + rank), 0] = -1
        cones[side * (1 + rank) + 1 :, 1 + side * rank :][:rank, :rank] = -np.eye(rank)
    rows = np.concatenate([np.pad(basis, ((0, 0), (1, 0))), *inequalities, cones])
    bound = np.concatenate([target, *bounds, np.zeros(len(cones))])
    return Program(rows, bound, len(target), sum(map(len, bounds)), lift, kept)


def _equalities(
    first: tuple[Array, Array], second: tuple[Array, Array], gate: np.ndarray
) -> tuple[Array, Array, Array] | None:
    """The equations of the open units: an orthonormal basis [k, 2 r], its right side [k], the lift [m, k].

    None where they contradict each other.
    """
    rows = np.hstack([first[0][gate], -second[0][gate]])
    target = second[1][gate] - first[1][gate]
    left, sigma, right = np.linalg.svd(rows, full_matrices=False)
    rank = numerical_rank(sigma, rows.shape)
    left, sigma, right = left[:, :rank], sigma[:rank], right[:rank]
    reach = left.T @ target
    if np.linalg.norm(target - left @ reach) > CONSISTENT * (1 + np.linalg.norm(target)):
        return None
    lift = np.zeros((len(gate), rank))
    lift[gate] = left / sigma
    return right, reach / sigma, lift


def solve(network: Network, u: Array, v: Array, pattern: Pattern, *, margin: float = 0.0) -> Cell:
    """The cheapest collision on the pattern.

    margin: the distance from zero that every sign keeps, in the unit of the pre-activations.
    """
    built = program(network, u, v, pattern, margin)
    if built is None:
        return without("infeasible")
    rank = network.reduced.shape[1]
    cones = [clarabel.ZeroConeT(built.equal), clarabel.NonnegativeConeT(built.signs)]
    cones += [clarabel.SecondOrderConeT(1 + rank)] * 2
    cost = np.zeros(1 + 2 * rank)
    cost[0] = 1
    square = sparse.csc_matrix((len(cost), len(cost)))
    try:
        solver = clarabel.DefaultSolver(
            square, cost, sparse.csc_matrix(built.rows), built.bound, cones, settings()
        )
        answer = solver.solve()
    except BaseException as error:  # a panic inside the solver is not an Exception
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        return without("failed")
    if str(answer.status) in ("PrimalInfeasible", "AlmostPrimalInfeasible"):
        return without("infeasible")
    if str(answer.status) not in ("Solved", "AlmostSolved"):
        return without("failed")
    return _read(network, u, v, pattern, built, np.array(answer.x), np.array(answer.z))


def settings() -> clarabel.DefaultSettings:
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.max_threads = 1
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = TOLERANCE
    return settings


def _read(network: Network, u: Array, v: Array, pattern: Pattern, built: Program, x: Array, z: Array) -> Cell:
    """The solver's primal and dual vectors as the quantities of the paper."""
    rank = network.reduced.shape[1]
    step_u, step_v = x[1 : 1 + rank], x[1 + rank :]
    at_u, at_v = u + network.space.basis @ step_u, v + network.space.basis @ step_v
    offset = built.equal
    multipliers: tuple[list[Array], list[Array]] = ([], [])
    for side in (0, 1):
        for varies in built.kept[side]:
            full = np.zeros(len(varies))
            full[varies] = np.maximum(z[offset : offset + int(varies.sum())], 0)
            offset += int(varies.sum())
            multipliers[side].append(full)
    return Cell(
        status="solved",
        epsilon=float(max(np.linalg.norm(step_u), np.linalg.norm(step_v))),
        points=lambda: (at_u, at_v),
        p_u=network.pre_activations(at_u, pattern.u),
        p_v=network.pre_activations(at_v, pattern.v),
        z_u=multipliers[0],
        z_v=multipliers[1],
        nu=-built.lift @ z[: built.equal],
        mu=(float(z[offset]), float(z[offset + 1 + rank])),
    )


def without(status: str) -> Cell:
    """The cell of a pattern without an optimum."""
    none = np.array([])
    return Cell(status, np.inf, lambda: (none, none), [], [], [], [], none, (np.nan, np.nan))
