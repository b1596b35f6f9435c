"""Collisions as an attack on every readout of a layer, and the ceiling on robust correlation they prove.

A collision of u (y = +1) and v (y = -1) within eps gives both points the same features, so a readout G has
the same value at both and y G sums to 0 over the two. So M disjoint pairs among n equally likely points keep
the robust correlation at or below 1 - 2 M / n. By König's theorem the largest such set is as large as a
minimum vertex cover of the conflict graph. So for |G| <= 1

    Gamma(G) <= 1 - 2 * (weight of a minimum cover of verified conflicts) = `ceiling`,

for every G, however it was trained. Equality holds for the best G if all conflicts are known. The ceiling is
the least 0-1 loss of the paper on fixed feature extractors, expressed as a correlation as in arXiv
2307.03803: no readout makes the layer gamma-semirobust (Definition 1) with a larger gamma. A collision of a
layer is one of every later layer, so the ceiling can only fall with depth.

An attack needs few collisions: one set of disjoint pairs for each budget. `find_transfer` finds these by
solving assignment problems.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from semirobust import conflict, runs
from semirobust.collisions.find import find_collisions, linear_distances
from semirobust.collisions.network import Network
from semirobust.collisions.result import Collisions
from semirobust.conflict import ConflictGraph
from semirobust.extractors import as_float64, check_whole, check_width

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]

TINY = 1e-300  # stands for zero in divisions and logarithms


def ceiling(zero_one: npt.ArrayLike) -> Floats:
    """The largest robust correlation of readouts |G| <= 1, given the least 0-1 loss: 1 - 2 zero_one.

    Any lower bound of the 0-1 loss gives an upper bound of the correlation. Raises ``ValueError`` for losses
    outside [0, 1/2].
    """
    losses = np.asarray(zero_one, np.float64)
    if not ((losses >= 0) & (losses <= 0.5)).all():
        raise ValueError(f"a least 0-1 loss lies in [0, 1/2], got {losses.min():g} to {losses.max():g}")
    return 1 - 2 * losses


@dataclass(frozen=True, eq=False)
class Transfer:
    """Verified collisions of some pairs of N+ positive and N- negative points: P of them, float64.

    counts: (N+, N-). pairs: int64 [P, 2], indices of the positive and of the negative point, each pair once.
    epsilon: [P], budgets. u, v: [P, d], where the two points collide.
    """

    counts: tuple[int, int]
    pairs: Integers
    epsilon: Floats
    u: Floats
    v: Floats

    def within(self, budget: float) -> Transfer:
        """The collisions that cost at most the budget."""
        kept = self.epsilon <= budget
        return Transfer(self.counts, self.pairs[kept], self.epsilon[kept], self.u[kept], self.v[kept])

    def ceiling(self, budget: float) -> float:
        """An upper bound of the robust correlation of every readout, on these points, all equally likely."""
        weights = [np.full(n, 1 / sum(self.counts)) for n in self.counts]
        graph = ConflictGraph(self.within(budget).pairs, *weights)
        return float(ceiling(graph.minimum_cover().lower_bound))

    def lowest(self, readout: Callable[[Floats], npt.ArrayLike], budget: float) -> Floats:
        """The smallest y G at the collisions within a budget, for each point: [N+ + N-], inf where none.

        ``readout``: x [B, d] -> [B], the value of G; positive points come first in the result. If |G| <= 1,
        the mean of min(result, 1) is at most `ceiling`, up to the rounding by which G differs at u and v.
        """
        near = self.within(budget)
        found = np.full(sum(self.counts), np.inf)
        if len(near.pairs):
            for points, index, sign in (
                (near.u, near.pairs[:, 0], 1),
                (near.v, self.counts[0] + near.pairs[:, 1], -1),
            ):
                np.minimum.at(found, index, sign * np.asarray(readout(points), np.float64))
        return found


def find_transfer(
    layers: Any,
    positive: Floats,
    negative: Floats,
    budgets: Sequence[float],
    *,
    rectified: bool = True,
    known: Transfer | None = None,
    rounds: int = 8,
    say: runs.Say = runs.quiet,
    **options: Any,
) -> Transfer:
    """Collisions for an attack with any of these budgets, from a few assignments.

    For each budget, a round assigns points of the two classes to each other so that as many pairs as possible
    are expected to collide within it. It searches the new pairs and updates what it expects. The expected
    budget of a pair is its linear distance times a factor for each of its points, less one standard deviation
    in the first round and ever smaller parts of it later. For one linear layer without ReLU the distance
    itself is exact.

    Args:
        layers, rectified: as for `collisions.find_collisions`.
        positive, negative: [N+, d] and [N-, d].
        budgets: l2, in the unit of the input, in ascending order.
        known: collisions of an earlier layer for the same points; the cheaper one of each pair is kept.
        rounds: the largest number of rounds; the search ends when no assignment has a new pair.
        options: of `find_collisions`.

    Raises:
        As `find_collisions` and `conflict.ascending`; ValueError for `rounds` below 1, or `known` of
        other points.
    """
    check_whole(rounds=(rounds, 1))
    grid = conflict.ascending(budgets)
    network = Network.of(layers, rectified)
    positive, negative = as_float64(positive, "positive", 2), as_float64(negative, "negative", 2)
    for points, name in ((positive, "positive"), (negative, "negative")):
        check_width(points, name, network.inputs)
    if known is not None:
        _check_known(known, positive, negative)
    linear = linear_distances(network.layers[0].weight, positive, negative)
    exact = network.signed == 0 and len(network.layers) == 1
    state = _Found(linear, known, width=network.inputs, exact=exact)
    for number in range(rounds):
        expected = state.expected(1 - number / rounds)
        wanted = np.zeros(linear.shape, bool)
        for budget in grid:
            wanted |= _matching(expected, state.searched, budget)
        new = np.argwhere(wanted)
        if not len(new):
            break
        ends = positive[new[:, 0]], negative[new[:, 1]]
        state.add(new, find_collisions(network, *ends, rectified=rectified, **options))
        say(f"round {number + 1}: {len(new)} pairs searched")
    return state.transfer()


def _check_known(known: Transfer, positive: Floats, negative: Floats) -> None:
    """Raise ValueError unless each known collision is within its budget of its pair of points."""
    fits = known.counts == (len(positive), len(negative)) and known.u.shape[1] == positive.shape[1]
    if fits:
        for points, own, index in zip((known.u, known.v), (positive, negative), known.pairs.T, strict=True):
            fits &= bool((np.linalg.norm(points - own[index], axis=1) <= known.epsilon * (1 + 1e-9)).all())
    if not fits:
        raise ValueError("known has collisions of other points; pass the same points to both")


def _matching(expected: Floats, searched: Booleans, budget: float) -> Booleans:
    """The new pairs, bool [N+, N-], of a largest set of disjoint pairs expected to collide within a budget.

    Among the largest sets, one with the fewest new pairs, then with the cheapest pairs.
    """
    inside, small = expected <= budget, 0.1 / sum(expected.shape)  # in all less than one pair
    cost = np.where(inside, small * ~searched + small**2 * expected / max(budget, TINY), 1.0)
    chosen = np.zeros(expected.shape, bool)
    chosen[linear_sum_assignment(cost)] = True
    return chosen & inside & ~searched


class _Found:
    """The collisions found so far, and the budgets expected of the other pairs."""

    def __init__(self, linear: Floats, known: Transfer | None, *, width: int, exact: bool) -> None:
        self.linear, self.width, self.exact = linear, width, exact
        self.positive = np.maximum(linear, max(1e-12 * linear.max(), TINY))  # features can be equal
        self.searched = np.zeros(linear.shape, bool)
        self.epsilon = np.full(linear.shape, np.inf)
        self.points: dict[tuple[int, int], tuple[Floats, Floats]] = {}
        if known is not None:
            self._keep(known.pairs, known.epsilon, known.u, known.v)

    def add(self, pairs: Integers, found: Collisions) -> None:
        """Record the results of a search for these pairs."""
        self.searched[tuple(pairs.T)] = True
        sure = found.verified
        self._keep(pairs[sure], found.epsilon[sure], found.u[sure], found.v[sure])

    def _keep(self, pairs: Integers, epsilon: Floats, u: Floats, v: Floats) -> None:
        for pair, cost, *ends in zip(map(tuple, pairs.tolist()), epsilon, u, v, strict=True):
            if cost < self.epsilon[pair]:
                self.epsilon[pair], self.points[pair] = cost, tuple(ends)

    def expected(self, hope: float) -> Floats:
        """[N+, N-]: the budgets found; for unsearched pairs the expected ones, less ``hope`` deviations."""
        known = np.isfinite(self.epsilon)
        like = self.searched & known if self.searched.any() else known
        if self.exact or not like.any():
            return self.linear
        factors = np.log(np.maximum(self.epsilon, TINY) / self.positive)[like]
        centre, fit = factors.mean(), np.zeros(self.linear.shape)
        for axis, (ends, count) in enumerate(zip(np.nonzero(like), self.linear.shape, strict=True)):
            total = np.bincount(ends, factors - centre, minlength=count)
            effect = total / (2 * (1 + np.bincount(ends, minlength=count)))  # half; the other axis has half
            fit += np.expand_dims(effect, 1 - axis)
        guess = self.linear * np.exp(centre + fit - hope * factors.std())
        return np.where(self.searched, self.epsilon, np.minimum(guess, self.epsilon))

    def transfer(self) -> Transfer:
        order = sorted(self.points)
        pairs = np.array(order, np.int64).reshape(-1, 2)
        ends = np.array([self.points[pair] for pair in order]).reshape(len(order), 2, self.width)
        return Transfer(self.linear.shape, pairs, self.epsilon[tuple(pairs.T)], ends[:, 0], ends[:, 1])
