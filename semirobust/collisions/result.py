"""Results of a collision search, and the budget of a collision."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from semirobust.collisions.network import Network
from semirobust.extractors import UNIT, Array


@dataclass(frozen=True, eq=False)
class Collisions:
    """Colliding points of B pairs, and the l2 budgets that they cost, in float64.

    epsilon: [B], max(|u~ - u|, |v~ - v|) in the unit of the input, plus the distance to the exact collision
        that the inflation lemma proves (about 1e-13), rounded up: an attacker with this budget can make the
        two points collide. Without a proof (`verified` False) it is the budget of the points found.
    u, v: [B, d], the colliding points u~ and v~. No box constraint: pixels may leave [0, 1].
    residual: [B], max |f(u~) - f(v~)| as float64 computes it.
    verified: [B], True where an exact collision within epsilon is proved. Only these are edges.
    method: how they were found.
    status: one word for each pair; `find_collisions` lists the words of each method.
    iterations: [B], the effort, in the method's own unit (cone programs for "descent").
    """

    epsilon: Array
    u: Array
    v: Array
    residual: Array
    verified: np.ndarray
    method: str
    status: tuple[str, ...]
    iterations: np.ndarray

    def __len__(self) -> int:
        return len(self.epsilon)


class Known(NamedTuple):
    """What is known of B pairs before the search.

    epsilon: [B], the least verified budget. u, v: [B, d], further points to start from. given: bool [B], True
        where the caller gave these points; elsewhere they are the linear collision.
    """

    epsilon: Array
    u: Array
    v: Array
    given: np.ndarray

    def rows(self, rows: slice) -> Known:
        return Known(*(values[rows] for values in self))


class Point(NamedTuple):
    """A collision of one pair: u~ [d], v~ [d], its budget, and whether it is proved."""

    epsilon: float
    u: Array
    v: Array
    verified: bool


def collect(
    network: Network,
    points: list[Point],
    *,
    method: str,
    status: tuple[str, ...] | None = None,
    iterations: np.ndarray | None = None,
) -> Collisions:
    """One result from the points of B pairs."""
    at_u, at_v = np.stack([point.u for point in points]), np.stack([point.v for point in points])
    return Collisions(
        epsilon=np.array([point.epsilon for point in points]),
        u=at_u,
        v=at_v,
        residual=np.abs(network.features(at_u) - network.features(at_v)).max(axis=1),
        verified=np.array([point.verified for point in points]),
        method=method,
        status=status or ("found",) * len(points),
        iterations=np.zeros(len(points), np.int64) if iterations is None else iterations,
    )


def best_of(first: Collisions, second: Collisions) -> Collisions:
    """The cheaper verified collision of each pair; method, status and iterations are those of the first."""
    take = second.verified & ~(first.verified & (first.epsilon <= second.epsilon))  # [B]
    rows = take[:, None]
    return replace(
        first,
        epsilon=np.where(take, second.epsilon, first.epsilon),
        u=np.where(rows, second.u, first.u),
        v=np.where(rows, second.v, first.v),
        residual=np.where(take, second.residual, first.residual),
        verified=first.verified | take,
    )


def budget(u: Array, v: Array, at_u: Array, at_v: Array, move: float = 0.0) -> float:
    """max(|u~ - u|, |v~ - v|) + move, rounded up."""
    size = max(np.linalg.norm(at_u - u), np.linalg.norm(at_v - v)) + move
    return float(size * (1 + 2 * (len(u) + 4) * UNIT))
