"""The least robust loss over all pairs, from a search of only those pairs that can change it.

The least robust loss over N+ x N- pairs seems to need the distance of each of them, and one distance behind
two ReLU layers costs tens of milliseconds. But the optimum over some edges is the optimum over all as soon as
its probabilities satisfy q_u + q_v <= 1 on every pair. So a pair is searched only where it matters: at some
budget it violates this inequality, and it may be an edge there. The search ends when no such pair is left.

Which pairs may be edges is guessed. The search makes a pair cheaper than the linear closed form (or than an
earlier layer) by a factor that varies from image to image. The logarithm of the factor is fitted by one
number for each image, on the pairs searched so far. A pair is left out at a budget if even `SIGMAS`
standard deviations below the fit it costs more. This guess can only lose edges, so the bound stays valid. How
many it lost is measured at the end, on random pairs that it excluded (`Audit`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from semirobust import conflict, runs
from semirobust.collisions.find import linear_distances
from semirobust.collisions.network import Network
from semirobust.collisions.pool import Task, solver
from semirobust.conflict import Curve, violated
from semirobust.extractors import Array, as_float64, check_whole, check_width

SIGMAS = 2.0  # standard deviations
FIRST = 2  # the search begins with so many nearest pairs of each point, and as many random ones
RIDGE = 1.0  # of the fit: the weight of this many pairs

Booleans = np.ndarray


@dataclass(frozen=True)
class Audit:
    """A random check of the pairs that the guess alone left out of the search.

    excluded: the number of such pairs. searched: how many of them were drawn and searched after all. missed:
    how many of those turned out to be edges that matter at some budget.
    """

    excluded: int
    searched: int
    missed: int


@dataclass(frozen=True, eq=False)
class Search:
    """Distances of N+ x N- pairs, as far as they matter, and the least losses that follow.

    epsilon: [N+, N-], verified budgets. Where not `searched`, those of an earlier layer or of the linear
        collision (up to the rounding error that `collisions.linear_distances` states).
    searched: bool [N+, N-]; all False where the closed form is exact.
    guess: [N+, N-], the budgets found; for pairs that were not searched, those that the fit expects.
    curve: the least losses at each budget. audit: how many edges the guess may have missed.
    points: a hash of the points of both classes.
    """

    epsilon: Array
    searched: Booleans
    guess: Array
    curve: Curve
    audit: Audit
    points: str

    def record(self) -> dict[str, Any]:
        """The losses and the effort of the search, for a results file."""
        searched = int(self.searched.sum())
        return {**self.curve.record(), "pairs": self.epsilon.size, "searched": searched} | {
            "audit": asdict(self.audit)
        }


def search(
    layers: Any,
    positive: Any,
    negative: Any,
    budgets: Sequence[float],
    *,
    rectified: bool = True,
    after: Search | None = None,
    folder: Path | None = None,
    processes: int = 1,
    every: bool = False,
    audited: int = 256,
    seed: int = 0,
    say: runs.Say = runs.quiet,
    **options: Any,
) -> Search:
    """The least robust losses of classifiers on the features of these layers, from few searched pairs.

    Args:
        layers, rectified: as for `collisions.find_collisions`.
        positive, negative: points of the two classes, [N+, d] and [N-, d].
        budgets: l2, in the unit of the input, in ascending order.
        after: the search of an earlier layer, whose collisions are collisions of this one.
        folder: where chunks of results are stored, so that a killed search can resume; None stores nothing.
        processes: the number of processes; the result does not depend on it. A script that asks for more than
            one must run under ``if __name__ == "__main__":``, as always with processes.
        every: search all pairs, whether they matter or not.
        audited: how many excluded pairs are searched at the end.
        seed: of the random pairs, at the start and in the audit.
        options: of the method "admm".

    Raises:
        As `collisions.find_collisions` and `conflict.curve`; ValueError for `processes` below 1 or
        `after` a search of other points; OSError for a folder that cannot be written.
    """
    network = Network.of(layers, rectified=rectified)
    positive, negative = as_float64(positive, "positive", 2), as_float64(negative, "negative", 2)
    for points, name in ((positive, "positive"), (negative, "negative")):
        check_width(points, name, network.inputs)
    conflict.ascending(budgets)
    check_whole(processes=(processes, 1), audited=(audited, 0))
    name = _digest(positive, negative)
    if after is not None and after.points != name:
        raise ValueError("the search of the earlier layer used other points; pass the same points to both")
    linear = linear_distances(network.layers[0].weight, positive, negative)
    if len(network.layers) == 1 and not rectified:  # the closed form is exact
        nothing = np.zeros(linear.shape, bool)
        return Search(linear, nothing, linear, conflict.curve(linear, budgets), Audit(0, 0, 0), name)
    state = _State(linear, after, budgets)
    with solver(Task(network, positive, negative, options), folder, processes, say) as solve:
        rng = np.random.default_rng(seed)
        wanted = ~state.searched if every else state.first(rng)
        while wanted.any():
            state.take(wanted, solve, say)
            wanted = state.wanted()
        audit = state.audit(audited, solve, rng, say)
    guess = np.where(state.searched, state.epsilon, state.guess(0.0))
    return Search(state.epsilon, state.searched, guess, state.curve(), audit, name)


def _digest(*points: Array) -> str:
    return hashlib.sha256(b"".join(repr(p.shape).encode() + p.tobytes() for p in points)).hexdigest()


class _State:
    """What the search knows about the pairs so far."""

    def __init__(self, linear: Array, after: Search | None, budgets: Sequence[float]) -> None:
        self.epsilon = linear.copy() if after is None else np.minimum(linear, after.epsilon)
        before, self.count = (linear, FIRST) if after is None else (after.guess, 1)
        self.before = np.maximum(before, 1e-12 * linear.max())  # two points may have the same features
        self.searched = np.zeros(linear.shape, bool)
        self.factor = np.full(linear.shape, np.nan)  # log(epsilon / before), where it was searched
        self.budgets = budgets
        self._curve: Curve | None = None

    def curve(self) -> Curve:
        if self._curve is None:
            self._curve = conflict.curve(self.epsilon, self.budgets)
        return self._curve

    def first(self, rng: np.random.Generator) -> Booleans:
        """The pairs to begin with: nearest ones and random ones for each point."""
        random = rng.random(self.before.shape)
        near, spread = (conflict.nearest(values, self.count) for values in (self.before, random))
        return near | spread

    def take(self, wanted: Booleans, solve: Callable[[np.ndarray], Array], say: runs.Say) -> None:
        """Search these pairs and record the results."""
        pairs = np.argwhere(wanted)
        found = solve(pairs)
        self.epsilon[wanted] = np.minimum(self.epsilon[wanted], found)
        self.factor[wanted] = np.log(np.maximum(self.epsilon[wanted], 1e-12) / self.before[wanted])
        self.searched |= wanted
        self._curve = None
        share = self.searched.mean()
        say(f"searched {self.searched.sum()} of {self.searched.size} pairs ({100 * share:.1f} %)")

    def guess(self, sigmas: float) -> Array:
        """[N+, N-]: the budgets that the fit expects, less this many standard deviations."""
        fit, deviation = _fit(self.factor, self.searched)
        return self.before * np.exp(fit - sigmas * deviation)

    def wanted(self) -> Booleans:
        """The pairs to search next: of those that matter, the ones with the lowest guess for each point."""
        if self.searched.all():
            return ~self.searched
        lowest = self.guess(SIGMAS)
        return conflict.nearest(lowest, FIRST, among=self._matters(lowest))

    def _matters(self, lowest: Array) -> Booleans:
        """Unsearched pairs that are violated at a budget of at least `lowest` and below their epsilon."""
        curve = self.curve()
        found = np.zeros(self.searched.shape, bool)
        for budget, q_u, q_v in zip(curve.budgets, curve.q_positive, curve.q_negative, strict=True):
            found |= violated(q_u, q_v) & (lowest <= budget) & (self.epsilon > budget)
        return found & ~self.searched

    def audit(
        self, count: int, solve: Callable[[np.ndarray], Array], rng: np.random.Generator, say: runs.Say
    ) -> Audit:
        """Search a random sample of the pairs that would matter as edges, however unlikely they are to be."""
        excluded = self._matters(np.zeros(self.searched.shape))
        places = np.flatnonzero(excluded)
        if not len(places) or not count:
            return Audit(len(places), 0, 0)
        drawn = np.zeros(excluded.size, bool)
        drawn[rng.choice(places, min(count, len(places)), replace=False)] = True
        wanted = drawn.reshape(excluded.shape)
        before = self.curve()
        self.take(wanted, solve, say)
        missed = np.zeros(excluded.shape, bool)
        for budget, q_u, q_v in zip(before.budgets, before.q_positive, before.q_negative, strict=True):
            missed |= wanted & violated(q_u, q_v) & (self.epsilon <= budget)
        return Audit(len(places), int(wanted.sum()), int(missed.sum()))


def _fit(factor: Array, known: Booleans) -> tuple[Array, float]:
    """Ridge fit of a mean and one effect per row and column: (fit [N+, N-], its standard deviation)."""
    rows, columns = np.nonzero(known)
    values = factor[known]
    mean, n, m = values.mean(), *known.shape
    normal = np.diag(RIDGE + np.concatenate([known.sum(1), known.sum(0)]).astype(float))
    normal[:n, n:], normal[n:, :n] = known, known.T
    target = np.concatenate(
        [np.bincount(rows, values - mean, minlength=n), np.bincount(columns, values - mean, minlength=m)]
    )
    effects = np.linalg.solve(normal, target)
    fit = mean + effects[:n, None] + effects[n:]
    return fit, float((values - fit[known]).std())
