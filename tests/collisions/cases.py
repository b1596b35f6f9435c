"""Layers and pairs of points that several test files of collisions share."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np

from semirobust.collisions import (
    Collisions,
    Network,
)

Vector = np.ndarray
AT_ZERO = 1e-12  # pre-activations that a proof holds at zero are this small


def layer(*rows: list[float], bias: list[float] | None = None) -> tuple[np.ndarray, np.ndarray]:
    return np.array(rows, float), np.zeros(len(rows)) if bias is None else np.array(bias, float)


def vector(*values: float) -> Vector:
    return np.array(values, float)


# The pair of ReLUs of the paper's Figure 1
FIGURE_1 = Network.of([layer([1, 0], [0, 1])]), vector(1, 4), vector(9, -5)
# Two equal units, one of the two ends slack
SLACK = Network.of([layer([1, 0], [1, 0])]), vector(3, 0), vector(5, 0)
# Two opposite units
OPPOSITE = Network.of([layer([1, 0], [-1, 0])]), vector(3, 0), vector(5, 0)
# Stops at the midpoint's value
LOCAL = (
    Network.of([layer([-2, 0], [2, 1], [2, 0], [-2, -2], bias=[0.5, 0.5, -0.5, -1.5])]),
    vector(0.25, -1.75),
    vector(-3.125, 2.875),
)
INFLATION = (
    Network.of([layer([1, 2, 0], [0, 1, -1], [1, 0, 1], bias=[0.3, -0.2, -1.1])]),
    vector(1, 0.5, 2),
    vector(-1, 1.5, -0.5),
)
# Two layers; flipping all flagged units gains nothing, flipping one does
TWO_LAYERS = (
    Network.of(
        [
            layer([0, 2, 1], [-2, 0, 2], [-1, 2, -1], [2, 0, -2], bias=[2.5, 1.5, -1.5, 0.5]),
            layer([-2, -2, -2, -1], [-1, 0, 0, 2], [-1, -2, 0, -1], bias=[-0.75, -1.75, 1.25]),
        ]
    ),
    vector(-0.875, 0.125, -0.875),
    vector(-2.25, -4.25, -4.25),
)


def random_case(
    seed: int, d: int, sizes: list[int], *, whole: bool = False
) -> tuple[Network, Vector, Vector]:
    """Gaussian, or multiples of 1/4 with ties and dependent rows."""
    rng = np.random.default_rng(seed)
    widths = [d, *sizes]
    pairs = list(itertools.pairwise(widths))
    if whole:
        layers = [(rng.integers(-2, 3, (m, n)), rng.integers(-6, 7, m) / 4) for n, m in pairs]
        return Network.of(layers), rng.integers(-16, 17, d) / 4, rng.integers(-16, 17, d) / 4
    layers = [(rng.standard_normal((m, n)), rng.standard_normal(m)) for n, m in pairs]
    return Network.of(layers), 2 * rng.standard_normal(d), 2 * rng.standard_normal(d)


def exact_collision(network: Network, at_u: Vector, at_v: Vector) -> tuple[list[Fraction], list[Fraction]]:
    """The point x^ of the lemma in rational arithmetic: both inputs, from floating-point ones near it."""
    layers = [
        ([[Fraction(w) for w in row] for row in weight.tolist()], [Fraction(b) for b in bias.tolist()])
        for weight, bias in network.layers
    ]
    d = network.inputs
    zero = Fraction(0)
    affine = []  # per branch: pre-activations of the last layer as (row, constant)
    equations: list[list[Fraction]] = []  # row over (u~, v~) and the right side
    for side, point in enumerate((at_u, at_v)):
        x = [Fraction(value) for value in point.tolist()]
        values = [([Fraction(int(i == j)) for j in range(d)], zero) for i in range(d)]
        for depth, (weight, bias) in enumerate(layers):
            pre = [
                (
                    [sum((w * r[j] for w, (r, _) in zip(row, values, strict=True)), zero) for j in range(d)],
                    sum((w * c for w, (_, c) in zip(row, values, strict=True)), b),
                )
                for row, b in zip(weight, bias, strict=True)
            ]
            here = [sum((r * t for r, t in zip(row, x, strict=True)), c) for row, c in pre]
            if depth == len(layers) - 1:
                affine.append((pre, here))
                break
            for (row, c), value in zip(pre, here, strict=True):
                if abs(value) <= AT_ZERO and any(row):
                    equations.append([*([zero] * d * side), *row, *([zero] * d * (1 - side)), -c])
            values = [
                entry if value > AT_ZERO else ([zero] * d, zero)
                for entry, value in zip(pre, here, strict=True)
            ]
    for (row, c, p), (other, e, q) in zip(
        *([(row, c, value) for (row, c), value in zip(*branch, strict=True)] for branch in affine),
        strict=True,
    ):
        if not network.rectified or (p > AT_ZERO and q > AT_ZERO):
            equations.append([*row, *(-entry for entry in other), e - c])
            continue
        for side, (r, constant, value) in enumerate(((row, c, p), (other, e, q))):
            if abs(value) <= AT_ZERO and any(r):
                equations.append([*([zero] * d * side), *r, *([zero] * d * (1 - side)), -constant])
    point = [Fraction(value) for value in (*at_u.tolist(), *at_v.tolist())]
    return nearest_solution(equations, point, d)


def nearest_solution(
    equations: list[list[Fraction]], point: list[Fraction], d: int
) -> tuple[list[Fraction], list[Fraction]]:
    """The point of {M x = c} nearest to a given one, by Gram-Schmidt on the rows, exactly."""
    basis: list[list[Fraction]] = []
    for equation in equations:
        row = list(equation)
        for other in basis:
            factor = sum(a * b for a, b in zip(row[:-1], other[:-1], strict=True)) / sum(
                a * a for a in other[:-1]
            )
            row = [a - factor * b for a, b in zip(row, other, strict=True)]
        if any(row[:-1]):
            basis.append(row)
        else:
            assert row[-1] == 0  # dependent rows are consistent
    for row in basis:
        step = (sum(a * b for a, b in zip(row[:-1], point, strict=True)) - row[-1]) / sum(
            a * a for a in row[:-1]
        )
        point = [a - step * b for a, b in zip(point, row[:-1], strict=True)]
    return point[:d], point[d:]


def exact_features(network: Network, x: list[Fraction]) -> list[Fraction]:
    for depth, (weight, bias) in enumerate(network.layers):
        x = [
            sum((Fraction(w) * t for w, t in zip(row, x, strict=True)), Fraction(b))
            for row, b in zip(weight.tolist(), bias.tolist(), strict=True)
        ]
        if depth < network.signed:
            x = [max(Fraction(0), value) for value in x]
    return x


def check_exactly(network: Network, u: Vector, v: Vector, found: Collisions) -> None:
    """No rounding anywhere: features exactly equal, within the stored budget."""
    points = exact_collision(network, found.u[0], found.v[0])
    assert exact_features(network, points[0]) == exact_features(network, points[1])
    for point, centre in zip(points, (u, v), strict=True):
        square = sum((a - Fraction(b)) ** 2 for a, b in zip(point, centre.tolist(), strict=True))
        assert square <= Fraction(found.epsilon[0]) ** 2
    assert found.residual[0] < 1e-12


def batch(seed: int, widths: list[int], count: int) -> tuple[Network, np.ndarray, np.ndarray]:
    """Gaussian layers and pairs, with about the same scale in every layer."""
    rng = np.random.default_rng(seed)
    layers = [
        (rng.standard_normal((m, n)) * math.sqrt(2 / n), 0.1 * rng.standard_normal(m))
        for n, m in itertools.pairwise(widths)
    ]
    return Network.of(layers), *rng.standard_normal((2, count, widths[0]))
