"""The globally cheapest collision by enumeration of patterns: the slow twin of every collision finder.

For each point of a pair, a depth-first search over the units lists the patterns that occur within the budget
of the linear collision, with the distance to each as a lower bound. Then the cone program is solved for every
two patterns with the same gates in the last layer, lowest bound first, until no bound is below the best
epsilon. The cost is exponential in the number of units: for small layers only.
"""

from __future__ import annotations

from typing import NamedTuple

import clarabel
import numpy as np
from scipy import sparse

from semirobust.collisions.network import Gates, Network, Pattern
from semirobust.collisions.solvers.cone import Cell, settings, solve
from semirobust.collisions.solvers.descent import Descent
from semirobust.extractors import Array

LARGEST = 10  # units of a layer, at most
SLACK = 1e-7  # relative: solver errors must not prune the optimum


class _Region(NamedTuple):
    """A pattern of one point of the pair, and the distance to the nearest point that has it."""

    distance: float
    gates: Gates


def enumerate_pair(network: Network, u: Array, v: Array) -> Descent:
    """Every pattern that could not be excluded for one pair, u and v [d], the global optimum last.

    status: "optimal", or "incomplete" where the solver failed on a pattern that could have been the best.
    """
    limit = float(np.linalg.norm(network.space.basis.T @ (u - v))) / 2  # the budget of the linear collision
    regions = [_regions(network, point, limit * (1 + SLACK) + SLACK) for point in (u, v)]
    joint = sorted(
        (
            (max(first.distance, second.distance), Pattern(first.gates, second.gates))
            for first in regions[0]
            for second in regions[1]
            if np.array_equal(first.gates[-1], second.gates[-1])
        ),
        key=lambda entry: entry[0],
    )
    best, programs, failed = np.inf, 0, False
    solved: list[tuple[Pattern, Cell]] = []
    for bound, pattern in joint:
        if bound > best * (1 + SLACK) + SLACK:
            break
        cell = solve(network, u, v, pattern)
        programs += 1
        failed |= cell.status == "failed"
        if cell.status == "solved":
            best = min(best, cell.epsilon)
            solved.append((pattern, cell))
    solved.sort(key=lambda entry: -entry[1].epsilon)
    return Descent(
        patterns=tuple(pattern for pattern, _ in solved),
        cells=tuple(cell for _, cell in solved),
        status="incomplete" if failed else "optimal",
        programs=programs,
    )


def _regions(network: Network, point: Array, limit: float) -> list[_Region]:
    """The patterns that occur within `limit` of the point [d]; at a kink both sides count."""
    start = network.space.basis.T @ point  # [r]
    found: list[_Region] = []
    rank = len(start)

    def search(gates: Gates, partial: list[bool], rows: Array, bounds: Array, nearest: Array) -> None:
        """Decide the units of layer len(gates) in turn; `nearest` is the least a with rows a <= bounds."""
        layer = len(gates)
        sizes = [len(entry.bias) for entry in network.layers]
        if layer == network.signed:
            rest = () if network.rectified else (np.ones(sizes[-1], bool),)
            found.append(_Region(float(np.linalg.norm(nearest)), (*gates, *rest)))
            return
        if len(partial) == sizes[layer]:
            search((*gates, np.array(partial, bool)), [], rows, bounds, nearest)
            return
        unit = len(partial)
        matrix, offset = network.affine((*gates, np.zeros(sizes[layer], bool)))[layer]
        row, value = matrix[unit], float(matrix[unit] @ start + offset[unit])
        for gate in (False, True):
            sign = 1.0 if gate else -1.0
            if not row.any():
                if gate == (value > 0):
                    search(gates, [*partial, gate], rows, bounds, nearest)
                continue
            more, least = np.vstack([rows, -sign * row]), np.append(bounds, sign * value)
            near = nearest if sign * (row @ nearest + value) >= 0 else _nearest(more, least, nearest)
            if near is not None and np.linalg.norm(near) <= limit:
                search(gates, [*partial, gate], more, least, near)

    search((), [], np.zeros((0, rank)), np.zeros(0), np.zeros(rank))
    return found


def _nearest(rows: Array, bounds: Array, fallback: Array) -> Array | None:
    """The least a with rows a <= bounds; None if there is none, the fallback if the solver fails."""
    size = rows.shape[1]
    solver = clarabel.DefaultSolver(
        sparse.identity(size, format="csc"),
        np.zeros(size),
        sparse.csc_matrix(rows),
        bounds,
        [clarabel.NonnegativeConeT(len(bounds))],
        settings(),
    )
    answer = solver.solve()
    status = str(answer.status)
    if status in ("PrimalInfeasible", "AlmostPrimalInfeasible"):
        return None
    return np.array(answer.x) if status in ("Solved", "AlmostSolved") else fallback
