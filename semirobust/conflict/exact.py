"""A slow twin for `semirobust.conflict`, in exact rational arithmetic, for graphs of tens of vertices.

The same quantities by the same theorems, with Python integers, `fractions.Fraction` and shortest augmenting
paths: no rounding anywhere, except in the logarithms of the loss. Weights are rationals or integers, not
negative; they need not sum to one here.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import NamedTuple

Edge = tuple[int, int]  # (index of a positive vertex, index of a negative vertex)
Vertices = frozenset[int]


class ExactCover(NamedTuple):
    """A vertex cover of least weight: its weight, and its positive and negative vertices."""

    weight: Fraction
    positive: Vertices
    negative: Vertices


class ExactCrossEntropy(NamedTuple):
    """The least cross-entropy sum_v -p_v ln q_v in nats, its q, and the multipliers x_e that are not 0."""

    q_positive: tuple[Fraction, ...]
    q_negative: tuple[Fraction, ...]
    loss_nats: float
    dual: dict[Edge, Fraction]


def exact_cover(
    edges: Iterable[Edge], positive: Sequence[Fraction | int], negative: Sequence[Fraction | int]
) -> ExactCover:
    """The vertex cover of least weight, from a minimum cut; vertices of weight zero are in it for free.

    edges: pairs (u, v) of a positive and a negative index; positive, negative: the weights.

    Raises:
        ValueError: an edge to a vertex that is not there, a negative weight.
        TypeError: a weight that is not a Fraction or an integer.
    """
    p, m, found = _checked(edges, positive, negative)
    common = math.lcm(*(weight.denominator for weight in p + m))
    _, cover = _flow(found, [int(w * common) for w in p], [int(w * common) for w in m])
    weight = sum((p[u] for u in cover[0]), Fraction(0)) + sum((m[v] for v in cover[1]), Fraction(0))
    return ExactCover(weight, *cover)


def exact_cross_entropy(
    edges: Iterable[Edge], positive: Sequence[Fraction | int], negative: Sequence[Fraction | int]
) -> ExactCrossEntropy:
    """min sum_v -p_v ln q_v over 0 <= q <= 1 with q_u + q_v <= 1 on every edge.

    Arguments and errors as for `exact_cover`. A vertex of weight zero takes the largest q that its neighbours
    leave. The multipliers prove optimality: x_e > 0 only where q_u + q_v = 1, and sum over e at v of x_e =
    p_v / q_v wherever q_v < 1 and p_v > 0.
    """
    p, m, found = _checked(edges, positive, negative)
    q: tuple[list[Fraction], list[Fraction]] = [Fraction(1)] * len(p), [Fraction(1)] * len(m)
    dual: dict[Edge, Fraction] = {}
    blocks = [([u for u, w in enumerate(p) if w], [v for v, w in enumerate(m) if w])]
    while blocks:
        left, right = blocks.pop()
        if not left or not right:
            continue  # no conflict: q stays 1
        a = sum((p[u] for u in left), Fraction(0))
        b = sum((m[v] for v in right), Fraction(0))
        # capacities p_u p(B) and p_v p(A), in whole numbers: both sides total p(A) p(B)
        scale = math.lcm(*(w.denominator for w in [*(p[u] * b for u in left), *(m[v] * a for v in right)]))
        inside = {(u, v) for u, v in found if u in set(left) and v in set(right)}
        capacity_p, capacity_m = [0] * len(p), [0] * len(m)
        for u in left:
            capacity_p[u] = int(p[u] * b * scale)
        for v in right:
            capacity_m[v] = int(m[v] * a * scale)
        flow, (cover_p, cover_m) = _flow(inside, capacity_p, capacity_m)
        if sum(flow.values()) == sum(capacity_p):
            for u in left:
                q[0][u] = a / (a + b)
            for v in right:
                q[1][v] = b / (a + b)
            dual |= {e: Fraction(f, scale) * (a + b) / (a * b) for e, f in flow.items() if f}
        else:
            blocks.append(([u for u in left if u not in cover_p], [v for v in right if v in cover_m]))
            blocks.append(([u for u in left if u in cover_p], [v for v in right if v not in cover_m]))
    for u, v in found:
        if not p[u] and m[v]:
            q[0][u] = min(q[0][u], 1 - q[1][v])
        elif not m[v] and p[u]:
            q[1][v] = min(q[1][v], 1 - q[0][u])
    for u, v in found:  # two vertices of weight zero: the negative one gives way
        if not p[u] and not m[v]:
            q[1][v] = min(q[1][v], 1 - q[0][u])
    pairs = [*zip(p, q[0], strict=True), *zip(m, q[1], strict=True)]
    loss = math.fsum(-float(weight) * math.log(value) for weight, value in pairs if weight)
    return ExactCrossEntropy(tuple(q[0]), tuple(q[1]), loss + 0.0, dual)


def _checked(
    edges: Iterable[Edge], positive: Sequence[Fraction | int], negative: Sequence[Fraction | int]
) -> tuple[list[Fraction], list[Fraction], set[Edge]]:
    sides = []
    for name, weights in (("positive", positive), ("negative", negative)):
        for index, weight in enumerate(weights):
            if not isinstance(weight, Fraction | int):
                raise TypeError(f"{name}[{index}] is {weight!r}; pass a fractions.Fraction or an integer")
            if weight < 0:
                raise ValueError(f"{name}[{index}] is {weight}; weights must not be negative")
        sides.append([Fraction(weight) for weight in weights])
    found = {(int(u), int(v)) for u, v in edges}
    for u, v in found:
        if not (0 <= u < len(sides[0]) and 0 <= v < len(sides[1])):
            raise ValueError(
                f"edge ({u}, {v}): there are {len(sides[0])} positive and {len(sides[1])} negative vertices, "
                f"counted from 0"
            )
    return sides[0], sides[1], found


def _flow(
    edges: Iterable[Edge], positive: list[int], negative: list[int]
) -> tuple[dict[Edge, int], tuple[Vertices, Vertices]]:
    """A maximum flow source -> positive -> negative -> sink by shortest augmenting paths, and a minimum cut.

    The flow is returned per edge. The cut comes as a cover: positive vertices that the source no longer
    reaches, negative vertices that it still reaches.
    """
    flow = dict.fromkeys(edges, 0)
    ahead: list[list[int]] = [[] for _ in positive]
    back: list[list[int]] = [[] for _ in negative]
    for u, v in sorted(flow):
        ahead[u].append(v)
        back[v].append(u)
    left, right = list(positive), list(negative)  # what is left of the capacities
    while True:
        parent_m: dict[int, int] = {}  # negative vertex -> the positive one it was reached from
        parent_p: dict[int, int | None] = {u: None for u, rest in enumerate(left) if rest}
        queue, end = deque(parent_p), None
        while queue and end is None:
            u = queue.popleft()
            for v in ahead[u]:
                if v in parent_m:
                    continue
                parent_m[v] = u
                if right[v]:
                    end = v
                    break
                for w in back[v]:
                    if w not in parent_p and flow[w, v]:
                        parent_p[w] = v
                        queue.append(w)
        if end is None:
            uncovered = frozenset(parent_p)
            return flow, (frozenset(range(len(positive))) - uncovered, frozenset(parent_m))
        path, last = [], end
        while True:  # back to a vertex with capacity left
            first = parent_m[last]
            path.append((first, last))
            before = parent_p[first]
            if before is None:
                break
            path.append((first, before))
            last = before
        steps = path[0::2], path[1::2]  # edges that gain flow, edges that lose it
        amount = min([left[path[-1][0]], right[end], *(flow[e] for e in steps[1])])
        for e in steps[0]:
            flow[e] += amount
        for e in steps[1]:
            flow[e] -= amount
        left[path[-1][0]] -= amount
        right[end] -= amount
