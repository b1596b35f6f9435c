"""Conflicts between the points of a finite model: least losses, and the attack that no classifier beats."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from typing import Any, TypeAlias

from semirobust.conflict import exact_cover, exact_cross_entropy
from semirobust.theory import information
from semirobust.theory.checks import Values

Edges: TypeAlias = tuple[tuple[int, int], ...]  # (number of a positive point, number of a negative point)


@dataclass(frozen=True)
class CrossEntropy:
    """The least robust cross-entropy of a layer.

    nats: CE_j* = sum_v -p_v ln q_v. q: the probability of its own label that the best classifier guarantees
    at each point. multipliers: {(u, v): x} of the conflicts where x is not 0. dual_nats: the lower bound
    that the multipliers prove; equal to nats up to rounding.
    """

    nats: float
    q: tuple[Fraction, ...]
    multipliers: Mapping[tuple[int, int], Fraction]
    dual_nats: float

    @property
    def bits(self) -> float:
        return information.bits(self.nats)


def conflicts(labels: Sequence[int], values: Values) -> Edges:
    """Pairs of a positive and a negative point with a common value."""
    reached_by: dict[Any, tuple[list[int], list[int]]] = {}
    for v, (y, reached) in enumerate(zip(labels, values, strict=True)):
        for z in set(reached):
            reached_by.setdefault(z, ([], []))[y == -1].append(v)
    return tuple(sorted({pair for sides in reached_by.values() for pair in product(*sides)}))


def least_cover(
    labels: Sequence[int], masses: Sequence[Fraction], edges: Edges
) -> tuple[Fraction, frozenset[int]]:
    """Mass and points of a minimum-mass vertex cover."""
    sides, local, weights = _bipartite(labels, masses, edges)
    found = exact_cover(local, *weights)
    points = {sides[0][u] for u in found.positive} | {sides[1][v] for v in found.negative}
    return found.weight, frozenset(points)


def least_cross_entropy(labels: Sequence[int], masses: Sequence[Fraction], edges: Edges) -> CrossEntropy:
    """min sum_v -p_v ln q_v over 0 <= q <= 1 and q_u + q_v <= 1 on the edges, with its dual value."""
    sides, local, weights = _bipartite(labels, masses, edges)
    found = exact_cross_entropy(local, *weights)
    q = dict(zip(sides[0] + sides[1], found.q_positive + found.q_negative, strict=True))
    x = {(sides[0][u], sides[1][v]): amount for (u, v), amount in found.dual.items()}
    at = [Fraction(0)] * len(labels)
    for edge, amount in x.items():
        for v in edge:
            at[v] += amount
    # for all x, w >= 0: CE >= sum_v p_v (1 + ln((x(v) + w_v) / p_v)) - sum_e x_e - sum_v w_v
    w = [max(Fraction(0), p / q[v] - at[v]) for v, p in enumerate(masses)]
    logs = math.fsum(float(p) * math.log((a + b) / p) for p, a, b in zip(masses, at, w, strict=True))
    dual = float(1 - sum(x.values()) - sum(w)) + logs
    return CrossEntropy(found.loss_nats, tuple(q[v] for v in range(len(labels))), x, dual)


def saddle(
    found: CrossEntropy, values: Values, masses: Sequence[Fraction]
) -> tuple[dict[int, Fraction], ...]:
    """The randomised attack of ``FiniteModel.saddle_attack``."""
    laws: list[dict[int, Fraction]] = [{} for _ in values]
    for edge, x in found.multipliers.items():
        shared = next(z for z in values[edge[0]] if z in values[edge[1]])
        for v in edge:
            k = values[v].index(shared)
            laws[v][k] = laws[v].get(k, Fraction(0)) + found.q[v] * x / masses[v]
    return tuple(law or {0: Fraction(1)} for law in laws)


def _sides(labels: Sequence[int]) -> tuple[list[int], list[int]]:
    """The positive and the negative points."""
    numbered = list(enumerate(labels))
    return [v for v, y in numbered if y == 1], [v for v, y in numbered if y == -1]


def _bipartite(
    labels: Sequence[int], masses: Sequence[Fraction], edges: Edges
) -> tuple[tuple[list[int], list[int]], list[tuple[int, int]], tuple[list[Fraction], list[Fraction]]]:
    """The sides, the edges between places in the sides, and the weights of the sides."""
    sides = _sides(labels)
    place = {v: i for side in sides for i, v in enumerate(side)}
    weights = [masses[v] for v in sides[0]], [masses[v] for v in sides[1]]
    return sides, [(place[u], place[v]) for u, v in edges], weights
