"""Least robust losses over a range of budgets, from the distances of all pairs at once.

At every budget the graph of the pairs with epsilon <= budget gives the least 0-1 loss and cross-entropy of
any classifier behind the features (`semirobust.conflict`). With 5,000 points in each class there are 25
million pairs, but few of their edges matter: the optimum over some edges is the optimum over all of them as
soon as its probabilities q satisfy q_u + q_v <= 1 on every edge. So an edge is added only when it is
violated. Smaller budgets come first, since their edges stay. A graph with fewer edges always gives a valid
lower bound.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from semirobust.conflict.graph import ConflictGraph

Floats = npt.NDArray[np.float64]

SLACK = 1e-9  # q_u + q_v above 1 + this is a violated edge
NEAREST = 4  # edges to start with, and to add in a round, at each vertex


@dataclass(frozen=True, eq=False)
class Curve:
    """Least losses at K budgets, of the graphs of N+ and N- equally likely points. float64.

    budgets: [K], in the unit of the input. edges: int [K], the number in each whole graph.
    zero_one: [K], in [0, 1/2]. cross_entropy_nats: [K], in [0, ln 2], the value of a dual solution, rounded
        down: no classifier on these features has a smaller loss on these points.
    q_positive, q_negative: [K, N+], [K, N-], the probabilities of a right answer where it is attained;
        q_u + q_v <= 1 on every edge, up to 1e-9.
    """

    budgets: Floats
    edges: npt.NDArray[np.int64]
    zero_one: Floats
    cross_entropy_nats: Floats
    q_positive: Floats
    q_negative: Floats

    def record(self) -> dict[str, Any]:
        """The losses and the edges at each budget, for a results file."""
        return {name: getattr(self, name) for name in ("zero_one", "cross_entropy_nats", "edges")}


def curve(
    epsilon: npt.ArrayLike, budgets: Sequence[float], *, say: Callable[[str], None] = lambda line: None
) -> Curve:
    """The least losses at each budget, for points that are all equally likely.

    Args:
        epsilon: [N+, N-], the smallest budget at which a pair is known to collide; infinity where none is.
        budgets: in ascending order, finite, not negative.
        say: gets a line for each budget.

    Raises:
        ValueError: budgets that `ascending` rejects; and what `ConflictGraph.from_distances` raises.
        TypeError: values that are not real numbers.
    """
    grid = ascending(budgets)
    ConflictGraph.from_distances(epsilon, float(grid[0]))  # for its checks
    distances = np.asarray(epsilon, np.float64)
    counts = distances.shape
    weights = [np.full(n, 1 / max(sum(counts), 1)) for n in counts]
    taken, close = np.zeros(counts, bool), nearest(distances, NEAREST)
    rows = []
    for budget in grid.tolist():
        inside = distances <= budget
        taken |= inside & close
        while True:
            graph = ConflictGraph(np.argwhere(taken), weights[0], weights[1])
            found, cover = graph.cross_entropy(), graph.minimum_cover()
            missing = inside & ~taken
            broken = violated(found.q_positive, found.q_negative) & missing
            open_ = ~(cover.positive[:, None] | cover.negative) & missing
            if not (broken.any() or open_.any()):
                break
            for mask in (broken, open_):
                taken |= nearest(distances, NEAREST, among=mask)
        rows.append((int(inside.sum()), cover.lower_bound, found))
        say(
            f"budget {budget:g}: {rows[-1][0]} edges, {len(graph.edges)} needed, "
            f"0-1 loss {cover.weight:.4f}, cross-entropy {found.loss_nats:.4f} nats"
        )
    return Curve(
        budgets=grid,
        edges=np.array([count for count, _, _ in rows]),
        zero_one=np.array([bound for _, bound, _ in rows]),
        cross_entropy_nats=np.array([found.dual_lower_bound for _, _, found in rows]),
        q_positive=np.stack([found.q_positive for _, _, found in rows]),
        q_negative=np.stack([found.q_negative for _, _, found in rows]),
    )


def ascending(budgets: Sequence[float]) -> Floats:
    """The budgets as an array [K].

    Raises ValueError unless there is one, each is larger than the one before, and all are finite and not
    negative.
    """
    grid = np.asarray(budgets, np.float64)
    if (
        grid.ndim != 1
        or not len(grid)
        or not ((np.diff(grid) > 0).all() and grid[0] >= 0 and grid[-1] < np.inf)
    ):
        raise ValueError(
            f"budgets are {budgets!r}; pass one or more finite numbers, none negative, in ascending order"
        )
    return grid


def violated(q_positive: Floats, q_negative: Floats) -> npt.NDArray[np.bool_]:
    """The pairs [N+, N-] whose edge would be violated: q_u + q_v above 1 + 1e-9."""
    return q_positive[:, None] + q_negative > 1 + SLACK


def nearest(
    distances: Floats, count: int, among: npt.NDArray[np.bool_] | None = None
) -> npt.NDArray[np.bool_]:
    """The pairs [N+, N-] among the `count` nearest of either end; only within the mask `among`, if given."""
    chosen = np.zeros(distances.shape, bool)
    if among is None:
        for values, out in ((distances, chosen), (distances.T, chosen.T)):
            kept = min(count, values.shape[1])
            np.put_along_axis(out, np.argpartition(values, kept - 1, axis=1)[:, :kept], True, axis=1)
        return chosen
    pairs = np.nonzero(among)
    values = distances[pairs]
    by_distance = np.argsort(values, kind="stable")
    for ends in pairs:
        order = by_distance[np.argsort(ends[by_distance], kind="stable")]  # by end, then by distance
        sorted_ends = ends[order]
        rank = np.arange(len(order)) - np.searchsorted(sorted_ends, sorted_ends)
        kept = order[rank < count]
        chosen[pairs[0][kept], pairs[1][kept]] = True
    return chosen
