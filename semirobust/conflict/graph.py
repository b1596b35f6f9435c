"""Conflict graphs: the least robust loss of any classifier behind fixed features, with its certificate.

Vertices are data points of two classes, weighted by their probabilities. An edge joins u (class +1) and v
(class -1) when allowed perturbations can give both the same feature value, so that one answer has to serve
both. A classifier that is right on point v with probability q_v, whatever the perturbation, then has q_u +
q_v <= 1 on every edge, and every such q can be reached ("Lower bounds on the robustness of fixed feature
extractors", Lemma 1). So the least losses are convex programs over these q:

- 0-1 loss, sum p_v (1 - q_v): a vertex cover of least weight, from one maximum flow (König's theorem);
- cross-entropy, sum -p_v ln q_v: a decomposition into blocks, one flow for each level (`blocks`).

Leaving out edges only lowers both. So the collisions that were found bound the loss of every classifier from
below, however they were found. The reported lower bound is the value of a feasible dual solution, rounded
down.

Where this goes beyond the paper:
1. Cross-entropy is solved by maximum flows, exactly up to rounding, not by a generic convex solver.
2. `dual_lower_bound`, `dual_value` and `certify` prove the value from below, whatever solver found q.
3. With more than two classes, edges between pairs still bound the loss, but no longer tightly.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from semirobust.conflict import checks
from semirobust.conflict.blocks import UNIT, solve
from semirobust.conflict.checks import Reals
from semirobust.conflict.flow import Booleans, Floats, Integers, real_flow


class Cover(NamedTuple):
    """A vertex cover: every edge has an end in it.

    weight: its weight, correctly rounded.
    positive, negative: which vertices are in it, bool [N+] and [N-].
    lower_bound: the value of a feasible flow, which no cover's weight can be below; it equals `weight` up to
        2^-60 of the total weight for each vertex.
    """

    weight: float
    positive: Booleans
    negative: Booleans
    lower_bound: float


class CrossEntropy(NamedTuple):
    """The least robust cross-entropy.

    loss_nats: sum -p_v ln q_v at the q below, in nats; an upper bound of the optimum, since q is feasible.
    q_positive, q_negative: the optimal probabilities of a right answer, float64 [N+] and [N-]; feasible
        without rounding error, positive wherever the weight is, and 1 on vertices without an edge.
    dual_lower_bound: a feasible dual value, rounded down: the loss of every classifier is at least this.
    """

    loss_nats: float
    q_positive: Floats
    q_negative: Floats
    dual_lower_bound: float


class Certificate(NamedTuple):
    """The value of a given q, with its certificate.

    loss_nats: its loss, an upper bound of the optimum (up to the 1e-12 by which q may exceed a constraint).
    dual_lower_bound: a lower bound of the optimum, rounded down.
    multipliers: x_e >= 0 of each of the graph's edges, float64 [E], that give the lower bound.
    """

    loss_nats: float
    dual_lower_bound: float
    multipliers: Floats


class ConflictGraph:
    """A bipartite graph of conflicts between weighted points of two classes.

    Args:
        edges: integers [E, 2], rows (index of a positive vertex, index of a negative vertex), counted from 0;
            repeated rows count once.
        positive_weights, negative_weights: [N+] and [N-], the probabilities of the points: not negative, and
            summing to one together (within 1e-9). Floats, integers or Fractions. Weight zero and an empty
            class are fine.

    Attributes:
        edges: int64 [E, 2], distinct and sorted. positive_weights, negative_weights: float64. All read-only.

    Raises:
        ValueError: an edge to a vertex that is not there, a wrong shape, a negative or non-finite weight,
            weights that do not sum to one.
        TypeError: edges that are not integers, weights that are not real numbers.
    """

    def __init__(self, edges: npt.ArrayLike, positive_weights: Reals, negative_weights: Reals) -> None:
        self.positive_weights = checks.entries(positive_weights, "positive_weights")
        self.negative_weights = checks.entries(negative_weights, "negative_weights")
        checks.total(self.positive_weights, self.negative_weights)
        self.edges = checks.edges(edges, len(self.positive_weights), len(self.negative_weights))

    @classmethod
    def from_distances(
        cls,
        epsilon: npt.ArrayLike,
        budget: float,
        positive_weights: Reals | None = None,
        negative_weights: Reals | None = None,
    ) -> ConflictGraph:
        """The graph of the pairs that collide within a budget: epsilon <= budget, compared in float64.

        Args:
            epsilon: [N+, N-], the smallest known budget at which pair (u, v) collides; infinity where none is
                known.
            budget: the allowed perturbation, finite, in the unit of `epsilon`.
            positive_weights, negative_weights: as for the class; both or neither. Default: all 1 / (N+ + N-).

        Raises:
            ValueError: `epsilon` with NaN or negative entries or not two axes, a budget that is negative or
                not finite, only one of the weights; and what the class itself raises.
            TypeError: `epsilon` or `budget` is not real.
        """
        distances, limit = checks.distances(epsilon, budget)
        if (positive_weights is None) != (negative_weights is None):
            raise ValueError(
                "only one of positive_weights and negative_weights was given; pass both or neither"
            )
        if positive_weights is None or negative_weights is None:
            count = max(sum(distances.shape), 1)
            positive_weights, negative_weights = (np.full(n, 1 / count) for n in distances.shape)
        checks.entries(positive_weights, "positive_weights", distances.shape[0], "rows of epsilon")
        checks.entries(negative_weights, "negative_weights", distances.shape[1], "columns of epsilon")
        return cls(np.argwhere(distances <= limit), positive_weights, negative_weights)

    def __repr__(self) -> str:
        sizes = f"{len(self.positive_weights)} + {len(self.negative_weights)} vertices"
        return f"ConflictGraph({sizes}, {len(self.edges)} edges)"

    # 0-1 loss

    def minimum_cover(self) -> Cover:
        """A vertex cover of least weight. Vertices without an edge are not in it."""
        return self._cover(self.positive_weights, self.negative_weights)

    def zero_one_loss(self) -> float:
        """The least robust 0-1 loss: the weight of `minimum_cover`, in [0, 1/2]."""
        return self.minimum_cover().weight

    def parametric_cover(self, t: float) -> Cover:
        """The cover of least weight for weights p_u / t and p_v / (1 - t), 0 < t < 1.

        The least cross-entropy is the integral of its weight over t from 0 to 1.
        """
        if not 0 < t < 1:
            raise ValueError(f"t is {t!r}; it must lie between 0 and 1, both excluded")
        return self._cover(self.positive_weights / t, self.negative_weights / (1 - t))

    def _cover(self, p: Floats, m: Floats) -> Cover:
        flow, bits = real_flow(self._u, self._v, p, m)
        positive = ~flow.reached_left & (np.bincount(self._u, minlength=len(p)) > 0)
        negative = flow.reached_right
        weight = math.fsum([*p[positive], *m[negative]])
        value = int(flow.edges.sum())
        cut = max(value.bit_length() - 53, 0)  # rounded down to a float64
        return Cover(weight, positive, negative, math.ldexp(value >> cut, cut - bits))

    # Cross-entropy

    def cross_entropy(self) -> CrossEntropy:
        """The least robust cross-entropy in nats, in [0, ln 2], with its probabilities and its proof.

        q is unique where weights are positive; a vertex of weight zero takes the largest q that its
        neighbours leave. The gap between the loss and its lower bound is rounding, below 1e-12.
        """
        return self._solution[0]

    def multipliers(self) -> Floats:
        """The multipliers x_e >= 0 behind `cross_entropy`, float64 [E], in the order of `edges`.

        They are the flow that proves optimality: x_e > 0 only where q_u + q_v = 1, and sum over e at v of x_e
        = p_v / q_v wherever q_v < 1, up to rounding.
        """
        return self._solution[1]

    @cached_property
    def _solution(self) -> tuple[CrossEntropy, Floats]:
        found = solve(self._u, self._v, self.positive_weights, self.negative_weights)
        for array in found:
            array.flags.writeable = False
        q_p, q_m, x = found
        return CrossEntropy(self._loss(q_p, q_m), q_p, q_m, self.dual_value(x)), x

    def dual_value(
        self,
        x: npt.ArrayLike,
        w_positive: npt.ArrayLike | None = None,
        w_negative: npt.ArrayLike | None = None,
    ) -> float:
        """A lower bound, in nats, of the robust cross-entropy of every classifier, for any x, w >= 0.

        sum_v p_v (1 + ln((x(v) + w_v) / p_v)) - sum_e x_e - sum_v w_v, where x(v) sums x_e over the edges at
        v (the Lagrangian, minimised over q). The rounding error of its evaluation is subtracted, so that the
        bound holds; where it is negative, 0 is returned.

        Args:
            x: [E], in the order of `edges`: multipliers of q_u + q_v <= 1.
            w_positive, w_negative: [N+] and [N-], multipliers of q <= 1; the default is the best choice,
                max(p_v - x(v), 0).

        Raises:
            ValueError: a wrong shape, a negative or non-finite entry.
            TypeError: not real numbers.
        """
        x = checks.entries(x, "x", len(self.edges), "edges")
        p, m = self.positive_weights, self.negative_weights
        w_p = None if w_positive is None else checks.entries(w_positive, "w_positive", len(p), "vertices")
        w_m = None if w_negative is None else checks.entries(w_negative, "w_negative", len(m), "vertices")
        return lower_bound(x, [Side(p, self._u, w_p), Side(m, self._v, w_m)])

    def certify(self, q_positive: npt.ArrayLike, q_negative: npt.ArrayLike) -> Certificate:
        """The bounds that a feasible q proves: an upper one, and a lower one from one maximum flow.

        The flow has capacities p_v / q_v. At the optimal q it fills every vertex with q_v < 1, stays on edges
        with q_u + q_v = 1, and both bounds agree; close to it they nearly do.

        Raises:
            ValueError: a wrong shape, q outside [0, 1], q_u + q_v above 1 + 1e-12 on an edge, or q_v = 0 at a
                positive weight, where the loss is infinite.
            TypeError: not real numbers.
        """
        q_p = checks.probabilities(q_positive, self.positive_weights, "q_positive")
        q_m = checks.probabilities(q_negative, self.negative_weights, "q_negative")
        checks.feasible(self.edges, q_p[self._u] + q_m[self._v])
        left = self.positive_weights / np.maximum(q_p, UNIT)  # any capacities give a valid bound
        right = self.negative_weights / np.maximum(q_m, UNIT)
        flow, bits = real_flow(self._u, self._v, left, right)
        x = np.ldexp(flow.edges.astype(float), -bits)
        return Certificate(self._loss(q_p, q_m), self.dual_value(x), x)

    # Shared

    @property
    def _u(self) -> Integers:
        return self.edges[:, 0]

    @property
    def _v(self) -> Integers:
        return self.edges[:, 1]

    def _loss(self, q_p: Floats, q_m: Floats) -> float:
        p, q = np.concatenate([self.positive_weights, self.negative_weights]), np.concatenate([q_p, q_m])
        return math.fsum(-p[p > 0] * np.log(q[p > 0])) + 0.0  # no minus zero


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
