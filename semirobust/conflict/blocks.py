"""The decomposition of a conflict graph into blocks, on each of which the optimal probabilities are constant.

A block has positive vertices A and negative vertices B, with weights p(A) and p(B). Send flow from A to B
along the edges: u may send p_u / r and v may take p_v / (1 - r), with r = p(A) / (p(A) + p(B)). If all of it
can be sent, then q = r on A and 1 - r on B, and the flow is the multiplier. If not, the minimum cut splits
the block in two: the vertices that the source still reaches, and the rest. All blocks of one depth share one
flow computation, because no edge joins them.

Capacities are integers in units of 2^-60 of the total weight. A block counts as saturated when the
missing flow is no more than rounding explains (2^-50 of its weight and one unit for each vertex). So the
blocks are those of the exact theorem whenever the distances to saturation are larger, above all for equal
weights and for weights that are counts. A smaller distance changes the loss by its square, below rounding.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from semirobust.conflict.flow import Floats, Integers, bipartite_flow

UNIT = 2.0**-60
ROUNDING = 2.0**-50


class Solution(NamedTuple):
    """q_positive [N+] and q_negative [N-] in [0, 1], and the multipliers [E] of the edges, not negative."""

    q_positive: Floats
    q_negative: Floats
    multipliers: Floats


def solve(u: Integers, v: Integers, p: Floats, m: Floats) -> Solution:
    """min sum -p_v ln q_v over 0 <= q <= 1 with q_u + q_v <= 1 on the edges (u, v).

    u, v [E]: distinct edges, sorted by u, then v. p [N+], m [N-]: weights. A vertex of weight zero costs
    nothing and gives way to its neighbours; one without an edge has q = 1. q is feasible without rounding
    error, and positive where the weight is.
    """
    kept = (p[u] > 0) & (m[v] > 0)
    a, inner_u = np.unique(u[kept], return_inverse=True)
    b, inner_v = np.unique(v[kept], return_inverse=True)
    q_p, q_m, x = np.ones(len(p)), np.ones(len(m)), np.zeros(len(u))
    q_p[a], q_m[b], x[kept] = decompose(inner_u, inner_v, p[a], m[b])
    q_p = np.where(p > 0, q_p, _complement(_largest(u, q_m[v] * (m[v] > 0), len(p))))
    room = _complement(_largest(v, q_p[u], len(m)))
    q_m = np.minimum(q_m, room)  # where the weight is zero, or rounding exceeds the constraint
    return Solution(q_p, q_m, x)


def decompose(u: Integers, v: Integers, p: Floats, m: Floats) -> Solution:
    """`solve` for positive weights, where every vertex has an edge; rounding may exceed a constraint."""
    q_p, q_m, x = np.empty(len(p)), np.empty(len(m)), np.zeros(len(u))
    total = p.sum() + m.sum()
    a, b, e = np.arange(len(p)), np.arange(len(m)), np.arange(len(u))  # what is still open
    block_a, block_b = np.zeros(len(a), np.int64), np.zeros(len(b), np.int64)  # in which block
    while len(a):
        count = int(block_a.max()) + 1
        weight_a = _sums(block_a, p[a], count)  # p(A), by block
        weight_b = _sums(block_b, m[b], count)
        weight = weight_a + weight_b
        sizes = np.bincount(block_a, minlength=count) + np.bincount(block_b, minlength=count)
        at_a, at_b = np.searchsorted(a, u[e]), np.searchsorted(b, v[e])  # both ends of each open edge
        flow = bipartite_flow(
            at_a,
            at_b,
            _units(p[a] / weight_a[block_a] * weight[block_a] / total),
            _units(m[b] / weight_b[block_b] * weight[block_b] / total),
        )
        missing = np.minimum(np.bincount(block_a, flow.left, count), np.bincount(block_b, flow.right, count))
        done = missing <= sizes + ROUNDING * weight / total / UNIT  # the capacities of both sides agree
        done_a, done_b, done_e = done[block_a], done[block_b], done[block_a[at_a]]

        r = np.clip(weight_a / weight, 2.0**-53, 1 - 2.0**-53)  # q > 0, however uneven the block
        q_p[a[done_a]], q_m[b[done_b]] = r[block_a[done_a]], 1 - r[block_b[done_b]]
        block_e = block_a[at_a[done_e]]
        sent = flow.edges[done_e]
        unit = weight / np.bincount(block_e, sent, count).clip(1)
        x[e[done_e]] = sent * unit[block_e]  # the multipliers of a block sum to its weight

        split_a, split_b = 2 * block_a + flow.reached_left, 2 * block_b + flow.reached_right
        stays = ~done_e & (split_a[at_a] == split_b[at_b])
        a, b, e = a[~done_a], b[~done_b], e[stays]
        number = np.unique(np.concatenate([split_a[~done_a], split_b[~done_b]]), return_inverse=True)[1]
        block_a, block_b = number[: len(a)], number[len(a) :]
    return Solution(q_p, q_m, x)


def _sums(block: Integers, weights: Floats, count: int) -> Floats:
    return np.bincount(block, weights, count).astype(np.float64)


def _units(shares: Floats) -> Integers:
    """Shares of the total weight as capacities; no vertex loses its capacity to rounding."""
    return np.maximum(np.rint(shares / UNIT), 1).astype(np.int64)


def _largest(ends: Integers, values: Floats, count: int) -> Floats:
    """The largest value at each vertex; 0 where there is none."""
    largest = np.zeros(count)
    np.maximum.at(largest, ends, values)
    return largest


def _complement(q: Floats) -> Floats:
    """The largest float64 that is at most 1 - q, for q in [0, 1]."""
    rest = 1 - q
    return np.where(1 - rest < q, np.nextafter(rest, 0), rest)  # 1 - rest is exact wherever rest was rounded
