"""Maximum flow through a bipartite graph with 62-bit capacities, on SciPy's 32-bit kernel.

Source -> positive vertices -> negative vertices -> sink; the edges in the middle have no limit. SciPy's
`maximum_flow` counts in 32 bits, too few for weights that are real numbers. So the flow is built in rounds,
by capacity scaling: every round sends the largest flow through what is left of the network, measured in units
of 2^shift, and later rounds have finer units. The last unit is 1, so the result is an exact maximum flow.
"""

from __future__ import annotations

import math
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

Integers: TypeAlias = npt.NDArray[np.int64]
Booleans: TypeAlias = npt.NDArray[np.bool_]
Floats: TypeAlias = npt.NDArray[np.float64]

WIDTH = 30  # bits of a round: an edge and its reverse add up to less than 2^31
LIMIT = 2**WIDTH - 1


class Flow(NamedTuple):
    """An integer maximum flow and its minimum cut.

    edges: the flow on each edge, int64 [E].
    left, right: what remains of the capacities of the positive [A] and negative [B] vertices.
    reached_left, reached_right: what the source still reaches, bool. The positive vertices that it does not
        reach and the negative ones that it does form a vertex cover of least capacity.
    """

    edges: Integers
    left: Integers
    right: Integers
    reached_left: Booleans
    reached_right: Booleans


def bipartite_flow(u: Integers, v: Integers, left: Integers, right: Integers) -> Flow:
    """The largest flow along the edges (u, v), which are distinct and sorted by u, then v.

    left [A], right [B]: capacities, not negative, each side's total below 2^62.
    """
    graph = _Network(u, v, len(left), len(right))
    flow, left, right = np.zeros(len(u), np.int64), left.copy(), right.copy()
    bits = WIDTH
    shift = int(min(left.sum(), right.sum())).bit_length()
    while len(u) and shift:
        # No path was left in the coarser units: what can still flow is less than one such unit for each arc
        # of a cut, so that the next round's total stays below 2^30.
        shift = max(0, shift - bits)
        sent = graph.augment(flow >> shift, left >> shift, right >> shift) << shift
        flow += sent
        left -= graph.at_left(sent)
        right -= graph.at_right(sent)
        bits = WIDTH - 1 - int(len(left) + len(right) + np.count_nonzero(flow)).bit_length()
    return Flow(flow, left, right, *graph.reached(flow, left))


def real_flow(u: Integers, v: Integers, left: Floats, right: Floats) -> tuple[Flow, int]:
    """(flow, bits): `bipartite_flow` for real capacities, rounded down to units of 2^-bits.

    The flow is feasible for the capacities that were given. The unit is about 2^-60 of their total.
    """
    bits = 60 - math.frexp(math.fsum([*left, *right]))[1]
    units = [np.floor(np.ldexp(capacities, bits)).astype(np.int64) for capacities in (left, right)]
    return bipartite_flow(u, v, *units), bits


class _Network:
    """The arcs of both directions in one layout of compressed rows: a round only fills in capacities.

    Rows: positive u (its edges, then the source), negative v (its edges, then the sink), source, sink.
    """

    def __init__(self, u: Integers, v: Integers, a: int, b: int) -> None:
        self.u, self.v, self.a, self.b = u, v, a, b
        count, nodes = len(u), a + b + 2
        self.by_v = np.lexsort((u, v))  # the order of the edges in the rows of the negative vertices
        self.forward = np.arange(count) + u  # place of edge e in row u
        self.backward = np.empty(count, np.int64)  # place of its reverse in row v
        self.backward[self.by_v] = count + a + np.arange(count) + v[self.by_v]
        degrees = np.concatenate([np.bincount(u, minlength=a), np.bincount(v, minlength=b)])
        ends = np.cumsum(np.concatenate([degrees + 1, [a, b]]))
        self.indptr = np.concatenate([[0], ends]).astype(np.int32)
        self.indices = np.empty(ends[-1], np.int32)
        self.indices[self.forward] = a + v
        self.indices[self.backward] = u
        self.indices[ends[:a] - 1] = a + b
        self.to_sink = ends[a : a + b] - 1
        self.indices[self.to_sink] = a + b + 1
        self.from_source = ends[a + b - 1] + np.arange(a)
        self.indices[self.from_source] = np.arange(a)
        self.indices[ends[a + b] :] = a + np.arange(b)
        self.shape = (nodes, nodes)

    def augment(self, flow: Integers, left: Integers, right: Integers) -> Integers:
        """What a round adds to `flow`, per edge; negative where flow is taken back. All in one unit."""
        capacity = np.zeros(len(self.indices), np.int32)
        capacity[self.forward] = LIMIT
        capacity[self.backward] = np.minimum(flow, LIMIT)
        capacity[self.from_source] = np.minimum(left, LIMIT)
        capacity[self.to_sink] = np.minimum(right, LIMIT)
        network = csr_array((capacity, self.indices, self.indptr), shape=self.shape)
        result = maximum_flow(network, self.a + self.b, self.a + self.b + 1, method="dinic").flow
        return result.data[self.forward].astype(np.int64)

    def reached(self, flow: Integers, left: Integers) -> tuple[Booleans, Booleans]:
        """The vertices that the source reaches along arcs with capacity left."""
        here = np.zeros(len(self.indices), bool)
        here[self.forward] = True
        here[self.backward] = flow > 0
        here[self.from_source] = left > 0
        indptr = np.concatenate([[0], np.cumsum(here)])[self.indptr]
        arcs = csr_array((np.ones(indptr[-1]), self.indices[here], indptr), shape=self.shape)
        order = breadth_first_order(arcs, self.a + self.b, return_predecessors=False)
        reached = np.zeros(self.a + self.b + 2, bool)
        reached[order] = True
        return reached[: self.a], reached[self.a : self.a + self.b]

    def at_left(self, values: Integers) -> Integers:
        """The sum of an edge's integer values at each positive vertex."""
        return _sums(values, self.indptr[: self.a + 1] - np.arange(self.a + 1))

    def at_right(self, values: Integers) -> Integers:
        """The sum of an edge's integer values at each negative vertex."""
        starts = self.indptr[self.a : self.a + self.b + 1] - self.indptr[self.a]
        return _sums(values[self.by_v], starts - np.arange(self.b + 1))


def _sums(values: Integers, ends: Integers) -> Integers:
    """Sums of consecutive pieces, exact (`bincount` would go through float64)."""
    total = np.concatenate([[0], np.cumsum(values)])
    return total[ends[1:]] - total[ends[:-1]]
