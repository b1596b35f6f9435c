"""The bound of all pairs from the few pairs that can move it.

The least robust loss over N+ x N- pairs seems to need the distance of each of them, and one distance behind
two ReLU layers costs tens of milliseconds. But the optimum over some edges is the optimum over all as soon as
its probabilities keep q_u + q_v <= 1 on every pair. So a pair is searched only where it would matter: it is
violated at some budget, and it may be an edge there. The search ends when no such pair is left.

Which pairs may be edges? Those that the search makes cheaper than the linear closed form (or than an earlier
layer), by a factor that differs from image to image: its logarithm is fitted by one number for each image, on
the pairs searched so far, and a pair counts as hopeless at a budget where even `SIGMAS` deviations below the
fit it stays above. This guess can only lose edges, so the bound stays valid; how many it lost is measured at
the end on random pairs that it excluded (`Audit`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from semirobust import conflict
from semirobust.collisions.find import linear_distances
from semirobust.collisions.network import Network
from semirobust.collisions.pool import Task, solver
from semirobust.conflict import Curve, violated
from semirobust.extractors import Array, as_float64, check_whole, check_width

SIGMAS = 2.0
FIRST = 2  # nearest pairs of each point to begin with, and as many random ones
RIDGE = 1.0  # of the fit, in pairs

Booleans = np.ndarray
Say = Callable[[str], None]


@dataclass(frozen=True)
class Audit:
    """Random pairs among those that only the guess kept from being searched.

    excluded: all such pairs. searched: how many of them were drawn and searched after all. missed: how many
    of these would have been an edge that matters at some budget.
    """

    excluded: int
    searched: int
    missed: int


@dataclass(frozen=True, eq=False)
class Search:
    """Distances of N+ x N- pairs, as far as they matter, and the least losses that follow.

    epsilon: [N+, N-], verified budgets; those of an earlier layer or of the linear collision (up to the
        rounding error that `collisions.linear_distances` states) where not `searched`.
    searched: bool [N+, N-]; none where the closed form is exact.
    guess: [N+, N-], the budgets found, and those that the fit expects where none was searched.
    curve: the least losses at each budget. audit: what the guess may have cost.
    points: the same for the same points.
    """

    epsilon: Array
    searched: Booleans
    guess: Array
    curve: Curve
    audit: Audit
    points: str

    def record(self) -> dict[str, Any]:
        """The losses, and what they took, for a results file."""
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
    say: Say = lambda line: None,
    **options: Any,
) -> Search:
    """The least robust losses of classifiers on the features of these layers, from as few pairs as possible.

    Args:
        layers, rectified: as for `collisions.find_collisions`.
        positive, negative: points of the two classes, [N+, d] and [N-, d].
        budgets: l2, in the unit of the input, in ascending order.
        after: the search of an earlier layer, whose collisions are collisions of this one.
        folder: where chunks of results are kept, to go on after a kill; None keeps nothing.
        processes: so many work on chunks at a time; the result is the same. A script that asks for more than
            one has to run under ``if __name__ == "__main__":``, as always with processes.
        every: search all pairs, whether they matter or not.
        audited: so many excluded pairs are searched at the end.
        seed: of the random pairs, at the start and in the audit.
        options: of the method "admm".

    Raises:
        As `collisions.find_collisions` and `conflict.curve`; ValueError for `processes` below 1 or a
        search of other points; OSError for a folder that cannot be written.
    """
    network = Network.of(layers, rectified=rectified)
    positive, negative = as_float64(positive, "positive", 2), as_float64(negative, "negative", 2)
    for points, name in ((positive, "positive"), (negative, "negative")):
        check_width(points, name, network.inputs)
    conflict.ascending(budgets)
    check_whole(processes=(processes, 1), audited=(audited, 0))
    name = _digest(positive, negative)
    if after is not None and after.points != name:
        raise ValueError("the search of the earlier layer is one of other points; pass the same to both")
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
    """What is known of the pairs so far."""

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
        """The pairs to begin with: for each point its nearest ones, and random ones."""
        random = rng.random(self.before.shape)
        near, spread = (conflict.nearest(values, self.count) for values in (self.before, random))
        return near | spread

    def take(self, wanted: Booleans, solve: Callable[[np.ndarray], Array], say: Say) -> None:
        """Searches these pairs."""
        pairs = np.argwhere(wanted)
        found = solve(pairs)
        self.epsilon[wanted] = np.minimum(self.epsilon[wanted], found)
        self.factor[wanted] = np.log(np.maximum(self.epsilon[wanted], 1e-12) / self.before[wanted])
        self.searched |= wanted
        self._curve = None
        share = self.searched.mean()
        say(f"searched {self.searched.sum()} of {self.searched.size} pairs ({100 * share:.1f} %)")

    def guess(self, sigmas: float) -> Array:
        """[N+, N-]: the budgets that the fit expects, so many deviations lower."""
        fit, deviation = _fit(self.factor, self.searched)
        return self.before * np.exp(fit - sigmas * deviation)

    def wanted(self) -> Booleans:
        """Pairs that are violated where they may be edges; of these the most hopeful of each point."""
        if self.searched.all():
            return ~self.searched
        lowest = self.guess(SIGMAS)
        return conflict.nearest(lowest, FIRST, among=self._matters(lowest))

    def _matters(self, lowest: Array) -> Booleans:
        """Pairs not searched that are violated at a budget from `lowest` up to what is known of them."""
        curve = self.curve()
        found = np.zeros(self.searched.shape, bool)
        for budget, q_u, q_v in zip(curve.budgets, curve.q_positive, curve.q_negative, strict=True):
            found |= violated(q_u, q_v) & (lowest <= budget) & (self.epsilon > budget)
        return found & ~self.searched

    def audit(
        self, count: int, solve: Callable[[np.ndarray], Array], rng: np.random.Generator, say: Say
    ) -> Audit:
        """Searches a random part of the pairs that matter if they are edges, however unlikely that is."""
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
    """Mean plus one number for each row and column, by ridge regression: (fit [N+, N-], its deviation)."""
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
