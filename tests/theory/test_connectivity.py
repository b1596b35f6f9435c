"""Lemma 2 and Theorem 3: the cases where they fail, their corrected forms, and the three path constants."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction as Q
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semirobust.theory import LinearConnectivity, linear_correlation, path_count

quick = settings(max_examples=40)
Readout = Callable[[Any], Any]


def correlation(points: Sequence[tuple[Any, int]], shifts: Sequence[Any], readout: Readout) -> Q:
    """E min over the shifts of y readout(x + shift), for points (x, y) of equal mass."""
    return sum((min(y * readout(x + d) for d in shifts) for x, y in points), Q(0)) / len(points)


# --- Lemma 2: a = n - 1, two layers (x, x^2) and (clip(x), x^2) ---

LINE = [(Q(x), 1 if x > 0 else -1) for x in (-2, -1, 1, 2)]
SHIFTS = (Q(-1, 2), Q(0), Q(1, 2))


def first(x: Q) -> list[Q]:
    return [x, x * x]


def second(x: Q) -> list[Q]:
    return [max(Q(-1), min(Q(1), x)), x * x]


def dot(weights: Sequence[Any], values: Sequence[Any]) -> Any:
    return sum(w * v for w, v in zip(weights, values, strict=True))


@pytest.mark.parametrize(
    ("one", "two", "whole", "parts"),
    [
        ((1, 0), (1, 0), Q(7, 4), (Q(1), Q(3, 4))),  # equality
        ((1, 0), (-1, Q(1, 2)), Q(-1, 8), (Q(1), Q(-53, 32))),  # the sum is strictly smaller
        ((1, 0), (-1, 0), Q(1, 4), (Q(1), Q(-1))),  # the lemma's sum, 7/4, is not reached
        ((-1, 0), (0, 0), Q(-2), (Q(-2), Q(0))),  # the sign matters
        ((0, 0), (0, 0), Q(0), (Q(0), Q(0))),  # no readout of a constant is robust
    ],
)
def test_lemma_2_needs_connections_that_certify_their_layers(
    one: tuple[Any, Any], two: tuple[Any, Any], whole: Q, parts: tuple[Q, Q]
) -> None:
    net = LinearConnectivity({(1, 3): one, (2, 3): two}, a=2, n=3)

    def output(x: Q) -> Q:
        return net.unroll({1: [first(x)], 2: [second(x)]})[3][0, 0]

    assert net.m == 0 and net.paths(1) == [(1, 3)]
    assert correlation(LINE, SHIFTS, output) == whole
    assert correlation(LINE, SHIFTS, lambda x: dot(one, first(x))) == parts[0]
    assert correlation(LINE, SHIFTS, lambda x: dot(two, second(x))) == parts[1]
    assert whole >= sum(parts)


def test_lemma_2_with_the_readouts_of_theorem_1_is_a_rescaling() -> None:
    def clip(x: Q) -> Q:
        return max(Q(-1), min(Q(1), x))

    assert correlation(LINE, SHIFTS, lambda x: clip(clip(x)) + clip(x)) == 2 * correlation(LINE, SHIFTS, clip)
    assert correlation(LINE, SHIFTS, clip) == Q(3, 4)


# --- Theorem 3 ---


def test_the_three_constants() -> None:
    table = [path_count(m) for m in range(8)]
    assert [c.stated for c in table] == [0, 1, 3, 6, 10, 15, 21, 28]
    assert [c.derived for c in table] == [1, 2, 4, 7, 11, 16, 22, 29]
    assert [c.exact for c in table] == [1, 2, 4, 8, 16, 32, 64, 128]
    for m in range(8):  # counted
        n = m + 3
        ones = {(i, j): 1 for j in range(3, n + 1) for i in range(1, j)}
        net = LinearConnectivity(ones, a=2, n=n)
        assert net.m == m and len(set(net.paths(1))) == len(net.paths(2)) == table[m].exact
        assert net.transfer()[2][0, 0] == table[m].exact


@pytest.mark.parametrize(
    ("l12", "l13", "l23", "gamma"), [(1, 1, 1, Q(1)), (1, 1, -1, Q(0)), (1, -2, 1, Q(-3, 2))]
)
def test_theorem_3_fails_when_a_connection_has_the_wrong_sign(l12: int, l13: int, l23: int, gamma: Q) -> None:
    signs, shifts = [(Q(1), 1), (Q(-1), -1)], (Q(-1, 2), Q(0), Q(1, 2))
    net = LinearConnectivity({(1, 2): l12, (1, 3): l13, (2, 3): l23}, a=1, n=3)
    gamma_a = correlation(signs, shifts, lambda x: x)
    assert gamma_a == Q(1, 2)
    assert correlation(signs, shifts, lambda x: net.unroll({1: [[x]]})[3][0, 0]) == gamma
    stated = gamma_a * path_count(net.m).stated
    assert stated == Q(1, 2)
    assert (gamma >= stated) == (l23 > 0 and l13 > 0)


def test_all_ones_double_with_every_layer() -> None:
    def gamma(n: int) -> Q:
        ones = {(i, j): 1 for j in range(3, n + 1) for i in range(1, j)}
        net = LinearConnectivity(ones, a=2, n=n)
        # x = y, |shift| <= 1/2: the readout x of either layer has 1/2, together 1
        signs, shifts = [(Q(1), 1), (Q(-1), -1)], (Q(-1, 2), Q(0), Q(1, 2))
        return correlation(signs, shifts, lambda x: net.unroll({1: [[x]], 2: [[x]]})[n][0, 0])

    assert [gamma(n) for n in range(3, 8)] == [1, 2, 4, 8, 16]


def test_the_matrix_case() -> None:
    net = LinearConnectivity({(1, 2): [[1, -1], [0, 1]], (1, 3): [1, 1], (2, 3): [1, 2]}, a=1, n=3)
    products = net.path_products(1)
    assert {path: m.ravel().tolist() for path, m in products.items()} == {(1, 3): [1, 1], (1, 2, 3): [-1, 2]}

    def gamma(weights: np.ndarray) -> Any:
        return linear_correlation(weights.ravel().tolist(), (1, 2), Q(1, 4))

    assert [gamma(products[path]) for path in ((1, 3), (1, 2, 3))] == [Q(5, 2), Q(9, 4)]
    assert gamma(net.transfer()[1]) == Q(21, 4) > Q(19, 4) == sum(map(gamma, products.values()))


@st.composite
def networks(draw: st.DrawFn) -> LinearConnectivity:
    a = draw(st.integers(1, 3))
    n = a + draw(st.integers(1, 3))
    sizes = {i: draw(st.integers(1, 3)) for i in range(1, n)} | {n: 1}
    entry = st.integers(-3, 3)
    connections = {
        (i, j): [[draw(entry) for _ in range(sizes[j])] for _ in range(sizes[i])]
        for j in range(a + 1, n + 1)
        for i in range(1, j)
    }
    return LinearConnectivity(connections, a=a, n=n)


@quick
@given(networks(), st.integers(0, 10**6))
def test_transfer_is_the_sum_over_paths_and_unrolls_the_network(net: LinearConnectivity, seed: int) -> None:
    rng = np.random.default_rng(seed)
    features = {i: rng.integers(-5, 6, (4, net.dimensions[i])).tolist() for i in range(1, net.a + 1)}
    transfer = net.transfer()
    for layer in range(1, net.a + 1):
        products = net.path_products(layer)
        assert len(products) == 2**net.m
        assert (transfer[layer] == sum(products.values())).all()
    output = sum(np.array(features[i], dtype=object) @ transfer[i] for i in features)
    assert (net.unroll(features)[net.n] == output).all()  # exactly


@quick
@given(networks(), st.integers(0, 10**6))
def test_corrected_theorem_3(net: LinearConnectivity, seed: int) -> None:
    """The output's robust correlation is at least the sum over layers, which is at least that over paths."""
    rng = np.random.default_rng(seed)
    points = [
        (Q(int(x)), int(y)) for x, y in zip(rng.integers(-3, 4, 5), rng.choice([-1, 1], 5), strict=True)
    ]
    tables = {  # an arbitrary feature map on -4, ..., 4 for each layer of f_a
        i: {x: [Q(int(v)) for v in rng.integers(-4, 5, net.dimensions[i])] for x in range(-4, 5)}
        for i in range(1, net.a + 1)
    }
    shifts = (Q(-1), Q(0), Q(1))

    def gamma(layer: int, matrix: np.ndarray) -> Q:
        return correlation(points, shifts, lambda x: dot(matrix[:, 0], tables[layer][int(x)]))

    def output(x: Q) -> Q:
        return net.unroll({i: [table[int(x)]] for i, table in tables.items()})[net.n][0, 0]

    layers = sum(gamma(i, m) for i, m in net.transfer().items())
    paths = sum(gamma(i, m) for i in tables for m in net.path_products(i).values())
    assert correlation(points, shifts, output) >= layers >= paths


def test_floats_stay_floats_and_fractions_exact() -> None:
    shape: Mapping[tuple[int, int], Any] = {(1, 2): [[0.1, 0.2]], (1, 3): 0.3, (2, 3): [0.5, 0.25]}
    net = LinearConnectivity(shape, a=1, n=3)
    assert net.transfer()[1].dtype == float
    assert net.transfer()[1][0, 0] == pytest.approx(0.3 + 0.05 + 0.05, abs=1e-15)
    third = LinearConnectivity({(1, 2): Q(1, 3)}, a=1, n=2)
    assert third.transfer()[1][0, 0] == Q(1, 3)
    assert isinstance(third.transfer()[1][0, 0], Q)
    large = LinearConnectivity({(1, 2): np.int64(2**62), (1, 3): 0, (2, 3): np.int64(4)}, a=1, n=3)
    assert large.transfer()[1][0, 0] == 2**64  # no overflow


# --- the linear readout ---


@quick
@given(
    st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4)), min_size=1, max_size=3),
    st.fractions(0, 2, max_denominator=8),
    st.integers(0, 10**6),
)
def test_linear_correlation_is_the_worst_corner(pairs: list[tuple[int, int]], eps: Q, seed: int) -> None:
    weights, mean = [w for w, _ in pairs], [m for _, m in pairs]
    rng = np.random.default_rng(seed)
    noise = rng.integers(-3, 4, len(mean)).tolist()
    points = [([m + z for m, z in zip(mean, noise, strict=True)], 1)]  # two points with E[y x] = mean
    points.append(([z - m for m, z in zip(mean, noise, strict=True)], -1))
    corners = list(product((-eps, eps), repeat=len(mean)))
    worst = [
        min(y * dot(weights, [v + d for v, d in zip(x, c, strict=True)]) for c in corners) for x, y in points
    ]
    assert linear_correlation(weights, mean, eps) == sum(worst) / Q(2)


def test_linear_correlation_in_l2() -> None:
    assert linear_correlation((3, 4), (1, 2), 0.5, norm="l2") == pytest.approx(11 - 2.5, abs=1e-15)


# --- bad input ---

GOOD: dict[tuple[int, int], Any] = {(1, 2): [[1, 0], [0, 1]], (1, 3): [1, 2], (2, 3): [0, 1]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({(1, 2): None}, r"no connection \(1, 2\)"),
        ({(2, 2): 1}, r"connection \(2, 2\) is not one of"),
        ({(2, 3): [0, 1, 2]}, r"connection \(2, 3\) has shape \(3, 1\), but layer 2 has dimension 2"),
        ({(2, 3): "x"}, r"connection \(2, 3\) is not a number"),
        ({(2, 3): [float("nan"), 1]}, r"connection \(2, 3\) is not finite"),
        ({(2, 3): [[[1]]]}, r"must be a number or a matrix"),
    ],
)
def test_bad_connections(change: dict[tuple[int, int], Any], message: str) -> None:
    connections = {key: value for key, value in (GOOD | change).items() if value is not None}
    with pytest.raises(ValueError, match=message):
        LinearConnectivity(connections, a=1, n=3)


def test_bad_calls() -> None:
    net = LinearConnectivity(GOOD, a=1, n=3)
    for a, n in ((0, 3), (3, 3)):
        with pytest.raises(ValueError, match="1 <= a < n"):
            LinearConnectivity(GOOD, a=a, n=n)
    for call in (net.paths, net.path_products):
        with pytest.raises(ValueError, match="layer must be one of f_a"):
            call(2)
    with pytest.raises(ValueError, match="no features of layer 1"):
        net.unroll({})
    with pytest.raises(ValueError, match=r"have shape \(2, 3\), wanted \(2, 2\)"):
        net.unroll({1: [[1, 2, 3], [4, 5, 6]]})
    with pytest.raises(ValueError, match="at least 0"):
        path_count(-1)
    with pytest.raises(ValueError, match="same length"):
        linear_correlation([1], [1, 2], 0)
    with pytest.raises(ValueError, match="norm must be linf or l2"):
        linear_correlation([1], [1], 0, norm="l1")
    with pytest.raises(ValueError, match="eps at least 0"):
        linear_correlation([1], [1], -1)
