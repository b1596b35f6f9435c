"""Collisions of linear layers, distances of all pairs, convolutions, enumeration, graphs, and bad input."""

from __future__ import annotations

import itertools
import math
from dataclasses import FrozenInstanceError
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from semirobust import collisions
from semirobust.collisions import (
    Network,
    Pattern,
    enumerate_patterns,
    find_collisions,
    graph,
    linear_collision,
    linear_distances,
)
from semirobust.collisions.linear import distances, operator_row_space, space_of
from semirobust.collisions.solvers.cone import solve
from semirobust.extractors import ConvOperator, unit_scale

quick = settings(max_examples=25)
seeds = st.integers(0, 10_000)


def pair(seed: int, d: int, m: int, count: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A matrix [m, d] and pairs u, v [count, d]."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((m, d)), rng.standard_normal((count, d)), rng.standard_normal((count, d))


# Linear layers: the closed form


@pytest.mark.parametrize("tiny", [1e-8, 1e-20, 1e-290])
def test_a_tiny_row_is_no_rounding_error(tiny: float) -> None:
    """Two points that differ in a small feature only are told apart by it, however small it is."""
    weight, u, v = np.array([[1, 0], [0, tiny]]), [[1.0, 1.0]], [[1.0, 3.0]]
    assert linear_distances(weight, u, v) == pytest.approx(1)
    bias = [1.0, 10 * tiny]  # all units are open
    for found in (
        linear_collision(weight, u, v),
        *(find_collisions([(weight, bias)], u, v, method=method) for method in ("admm", "descent", "apgd")),
    ):
        assert found.verified.all() and found.epsilon == pytest.approx(1, rel=1e-9)
    deep = [(np.eye(2), None), (weight, None)]
    moved = collisions.verify_collisions(deep, u, v, u, v)
    assert not moved.verified.any() or moved.epsilon >= 1 - 1e-9
    conv = nn.Conv2d(2, 2, 1, bias=False).double()
    conv.weight.data = torch.from_numpy(weight).reshape(2, 2, 1, 1)
    assert linear_distances(ConvOperator(conv, (2, 1, 1)), u, v) == pytest.approx(1)
    assert linear_collision(ConvOperator(conv, (2, 1, 1)), u, v).epsilon == pytest.approx(1, rel=1e-9)


@quick
@given(seeds)
def test_the_size_of_a_row_changes_nothing(seed: int) -> None:
    weight, u, v = pair(seed, 6, 3)
    sizes = 10.0 ** np.random.default_rng(seed).uniform(-30, 30, 3)
    np.testing.assert_allclose(
        linear_distances(sizes[:, None] * weight, u, v), linear_distances(weight, u, v), rtol=1e-9
    )


@pytest.mark.parametrize(
    ("weight", "u", "v", "epsilon"),
    [
        ([[1, 1]], [0, 0], [2, 0], math.sqrt(0.5)),
        ([[1, 0, 0], [0, 1, 0]], [3, 4, 7], [0, 0, 0], 2.5),
        ([[1, 2], [2, 4]], [1, 1], [0, 0], 1.5 / math.sqrt(5)),  # rank 1
        ([[1, 0], [0, 1]], [1, 4], [9, -5], math.sqrt(145) / 2),
        ([[0, 0]], [1, 4], [9, -5], 0.0),  # all inputs collide already
        ([[1, 0], [0, 1], [1, 1]], [1, 4], [9, -5], math.sqrt(145) / 2),  # more rows than columns
    ],
)
def test_closed_form(weight: list[list[float]], u: list[float], v: list[float], epsilon: float) -> None:
    found = linear_collision(weight, [u], [v])
    assert found.epsilon == pytest.approx([epsilon], abs=1e-12)
    assert found.epsilon[0] >= epsilon * (1 - 1e-15)  # rounded up
    assert found.residual[0] <= 1e-14 and found.verified.all() and found.method == "linear"
    moved = max(np.linalg.norm(found.u - u), np.linalg.norm(found.v - v))
    assert moved == pytest.approx(epsilon, abs=1e-12)
    np.testing.assert_allclose(np.array(weight) @ (found.u - found.v).T, 0, atol=1e-14)
    assert linear_distances(weight, [u], [v])[0, 0] == pytest.approx(epsilon, abs=1e-12)


@quick
@given(seed=seeds, d=st.integers(1, 6), m=st.integers(1, 6), scale=st.floats(-10, 10))
def test_invariances(seed: int, d: int, m: int, scale: float) -> None:
    weight, u, v = pair(seed, d, m)
    rng = np.random.default_rng(seed + 1)
    epsilon = linear_collision(weight, u, v).epsilon
    turn = np.linalg.qr(rng.standard_normal((d, d)))[0]
    injective = np.vstack([np.eye(m), rng.standard_normal((2, m))])
    same = [
        linear_collision(weight, v, u),
        linear_collision(weight @ turn, u @ turn, v @ turn),
        linear_collision(injective @ weight, u, v),
        linear_collision(weight, u + 3.0, v + 3.0),
    ]
    for other in same:
        assert other.epsilon == pytest.approx(epsilon, rel=1e-9, abs=1e-10)
    shrunk = linear_collision(weight, v + scale * (u - v), v).epsilon
    assert shrunk == pytest.approx(abs(scale) * epsilon, rel=1e-9, abs=1e-10)
    assert (epsilon <= np.linalg.norm(u - v, axis=1) / 2 * (1 + 1e-9) + 1e-12).all()
    exact = np.linalg.norm(np.linalg.pinv(weight) @ weight @ (u - v).T, axis=0) / 2  # L^+ L projects
    assert epsilon == pytest.approx(exact, rel=1e-9, abs=1e-10)


@quick
@given(seed=seeds, d=st.integers(1, 8))
def test_budgets_are_rounded_up(seed: int, d: int) -> None:
    _, u, v = pair(seed, d, d)
    found = linear_collision(np.eye(d), u, v)
    assert np.array_equal(found.u, found.v)
    for epsilon, at, *ends in zip(found.epsilon, found.u, u, v, strict=True):
        for end in ends:
            gaps = (Fraction(a) - Fraction(b) for a, b in zip(at.tolist(), end.tolist(), strict=True))
            assert Fraction(epsilon) ** 2 >= sum(gap**2 for gap in gaps)


@quick
@given(seed=seeds, d=st.integers(1, 8), m=st.integers(1, 8))
def test_distances_are_those_of_the_collisions(seed: int, d: int, m: int) -> None:
    weight, positive, negative = pair(seed, d, m, count=5)
    found = linear_distances(weight, positive, negative[:4])
    assert found.shape == (5, 4)
    for i, j in itertools.product(range(5), range(4)):
        one = linear_collision(weight, positive[i : i + 1], negative[j : j + 1])
        assert found[i, j] == pytest.approx(one.epsilon[0], rel=1e-9, abs=1e-11)


@pytest.mark.parametrize("shift", [0.0, 1e6])
def test_distances_stay_within_the_error_bound(shift: float) -> None:
    """Points far from the origin, and pairs from far apart to equal: against long double."""
    rng = np.random.default_rng(0)
    d = 300
    positive = shift + rng.random((700, d))  # more than one block
    negative = positive[:40] + rng.standard_normal((40, d)) * np.logspace(-14, 0, 40)[:, None]
    negative[0] = positive[0]
    found = linear_distances(np.eye(d), positive, negative)
    wide = positive.astype(np.longdouble)[:, None] - negative.astype(np.longdouble)  # [700, 40, d]
    exact = np.sqrt((wide**2).sum(axis=-1)) / 2
    centre = (positive.mean(axis=0) + negative.mean(axis=0)) / 2
    radius = max(np.linalg.norm(points - centre, axis=1).max() for points in (positive, negative))
    # rounding of the centred points adds their size in ulps
    bound = 150 * d * 2.0**-53 * radius + math.sqrt(d) * 2.0**-53 * shift
    assert np.abs(found - exact).max() <= bound
    assert found[0, 0] == 0 and (found >= 0).all()


# Convolutions


@pytest.mark.parametrize(
    ("conv", "shape"),
    [
        (nn.Conv2d(2, 3, 3, padding=1), (2, 6, 6)),  # more outputs than inputs
        (nn.Conv2d(3, 1, 3, stride=2, padding=1), (3, 7, 6)),  # fewer
        (nn.Conv2d(4, 2, 3, groups=2, dilation=2, padding="same"), (4, 8, 8)),
        (nn.Conv2d(3, 2, 1, bias=False), (3, 4, 4)),
        (nn.Conv2d(1, 2, 3, padding="valid"), (1, 5, 6)),
    ],
)
def test_convolution_is_its_toeplitz_matrix(conv: nn.Conv2d, shape: tuple[int, int, int]) -> None:
    conv = conv.double()
    torch.nn.init.normal_(conv.weight, generator=torch.Generator().manual_seed(1))
    operator = ConvOperator(conv, shape)
    d = math.prod(shape)
    unit = torch.eye(d, dtype=torch.float64).reshape(d, *shape)
    with torch.no_grad():
        dense = (
            (conv(unit) - conv(torch.zeros(1, *shape, dtype=torch.float64))).flatten(1).numpy().T
        )  # [m, d]
    np.testing.assert_allclose(operator @ np.eye(d), dense, atol=1e-13)
    np.testing.assert_allclose(operator.H @ np.eye(len(dense)), dense.T, atol=1e-13)
    np.testing.assert_allclose(operator.magnitude(np.eye(d)), np.abs(dense), atol=1e-13)
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal(d), rng.standard_normal(len(dense))
    np.testing.assert_allclose([operator @ x @ y, operator.H @ y @ x], y @ dense @ x, atol=1e-11)
    u, v = rng.random((6, d)), rng.random((6, d))
    np.testing.assert_allclose(linear_distances(operator, u, v), linear_distances(dense, u, v), atol=1e-12)
    ours, theirs = linear_collision(operator, u, v), linear_collision(dense, u, v)
    np.testing.assert_allclose(ours.epsilon, theirs.epsilon, atol=1e-10)
    np.testing.assert_allclose(dense @ (ours.u - ours.v).T, 0, atol=1e-12)
    space, exact = operator_row_space(operator), space_of(dense)
    assert space.basis.shape == exact.basis.shape
    sigma = np.linalg.svd(operator.scale[:, None] * dense, compute_uv=False)[: space.basis.shape[1]]
    assert [space.largest, space.smallest] == pytest.approx([sigma[0], sigma[-1]], rel=1e-9)


@pytest.mark.parametrize(
    ("second", "rank"), [(2e-4, 8), (1e-6, 8)]
)  # above and below the split of the Gram matrix
def test_convolution_with_small_singular_values(second: float, rank: int) -> None:
    """The Gram matrix squares 1e-6 to 1e-12: the rank and the projection must not suffer."""
    conv = nn.Conv2d(3, 3, 1, bias=False).double()
    rng = np.random.default_rng(0)
    turns = [np.linalg.qr(rng.standard_normal((3, 3)))[0] for _ in range(2)]
    mix = turns[0] @ np.diag([1.0, second, 0.0]) @ turns[1]  # rank 2 per pixel
    conv.weight.data = torch.from_numpy(mix).reshape(3, 3, 1, 1)
    operator = ConvOperator(conv, (3, 2, 2))
    space = operator_row_space(operator)
    assert space.basis.shape == (12, rank)
    sigma = np.linalg.svd(unit_scale(mix)[:, None] * mix, compute_uv=False)
    assert space.smallest == pytest.approx(sigma[1], rel=1e-6)
    pixels = space.basis.reshape(3, 4, rank)
    np.testing.assert_allclose(np.tensordot(turns[1][2], pixels, 1), 0, atol=1e-9)  # none in the null space
    conv.weight.data.zero_()
    assert linear_distances(ConvOperator(conv, (3, 2, 2)), np.ones((1, 12)), np.zeros((1, 12))) == 0.0


# Enumeration: the cheapest collision of all


def small_network(seed: int, d: int, sizes: list[int]) -> tuple[Network, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    widths = [d, *sizes]
    layers = [(rng.standard_normal((m, n)), rng.standard_normal(m)) for n, m in itertools.pairwise(widths)]
    return Network.of(layers), 2 * rng.standard_normal(d), 2 * rng.standard_normal(d)


def brute_force(network: Network, u: np.ndarray, v: np.ndarray) -> float:
    """The least optimum over all patterns, none left out."""
    hidden = [len(layer.bias) for layer in network.layers[:-1]]
    last = len(network.layers[-1].bias)

    def gates(sizes: list[int]) -> list[tuple[np.ndarray, ...]]:
        sets = [[np.array(bits, bool) for bits in itertools.product((0, 1), repeat=n)] for n in sizes]
        return list(itertools.product(*sets))

    best = math.inf
    for first, second, (common,) in itertools.product(gates(hidden), gates(hidden), gates([last])):
        best = min(best, solve(network, u, v, Pattern((*first, common), (*second, common))).epsilon)
    return best


@settings(quick, max_examples=12)
@given(seed=seeds, d=st.integers(1, 3), sizes=st.sampled_from([[1], [3], [5], [2, 2], [3, 1]]))
def test_enumeration_leaves_nothing_out(seed: int, d: int, sizes: list[int]) -> None:
    network, u, v = small_network(seed, d, sizes)
    found = enumerate_patterns(network.layers, u[None], v[None])
    assert found.status == ("optimal",) and found.verified.all()
    assert found.epsilon[0] == pytest.approx(brute_force(network, u, v), abs=2e-6)


@quick
@given(seed=seeds, d=st.integers(1, 4), sizes=st.sampled_from([[2], [6], [3, 3], [4, 5], [3, 3, 2]]))
def test_order_of_the_distances(seed: int, d: int, sizes: list[int]) -> None:
    network, u, v = small_network(seed, d, sizes)
    linear = linear_collision(network.layers[0].weight, u[None], v[None]).epsilon[0]
    relu = [
        enumerate_patterns(network.layers[:depth], u[None], v[None]) for depth in range(1, len(sizes) + 1)
    ]
    chain = [np.linalg.norm(u - v) / 2, linear, *(result.epsilon[0] for result in relu)]
    assert all(late <= early + 2e-6 for early, late in itertools.pairwise(chain))
    descent = find_collisions(network.layers, u[None], v[None])
    assert descent.verified.all() and descent.epsilon[0] <= linear * (1 + 1e-12)
    assert descent.epsilon[0] >= chain[-1] - 2e-6
    back = enumerate_patterns(network.layers, v[None], u[None])
    assert back.epsilon[0] == pytest.approx(chain[-1], abs=2e-6)


# Graphs


def test_graph_has_the_verified_edges_only() -> None:
    epsilon = np.array([[0.5, 1.0, 2.0], [np.inf, 0.1, 1.5]])
    verified = np.array([[True, True, True], [True, False, True]])
    edges = [set(map(tuple, graph(epsilon, verified, budget).edges.tolist())) for budget in (0.4, 1.0, 1.7)]
    assert edges == [set(), {(0, 0), (0, 1)}, {(0, 0), (0, 1), (1, 2)}]
    everything = graph(epsilon, True, 1.0)
    assert set(map(tuple, everything.edges.tolist())) == {(0, 0), (0, 1), (1, 1)}
    # vertex 0 of the positive side is in both conflicts: cover it
    weighted = graph(epsilon, verified, 1.0, positive_weights=[0.1, 0.3], negative_weights=[0.2, 0.2, 0.2])
    assert weighted.zero_one_loss() == pytest.approx(0.1)


def test_graph_refuses() -> None:
    epsilon = np.ones((2, 2))
    with pytest.raises(ValueError, match="budget"):
        graph(epsilon, np.ones((2, 2), bool), -0.5)
    with pytest.raises(ValueError, match="must agree"):
        graph(epsilon, np.ones((2, 3), bool), 1.0)
    with pytest.raises(TypeError, match="booleans"):
        graph(epsilon, np.ones((2, 2)), 1.0)


# Bad input


GOOD = [([[1.0, 0.0], [0.0, 1.0]], [0.0, 0.0])]


@pytest.mark.parametrize(
    ("layers", "u", "v", "message"),
    [
        ([], [[1, 4]], [[9, -5]], "no layers"),
        ([*GOOD, ([[1, 1, 1]], [0])], [[1, 4]], [[9, -5]], "layer 2 takes 3 inputs, but layer 1 gives 2"),
        ([([[1, 0], [0, 1]], [0])], [[1, 4]], [[9, -5]], "2 rows and a bias of 1"),
        ([nn.ReLU()], [[1, 4]], [[9, -5]], "layer 1 is ReLU"),
        ([([[1, math.nan]], [0])], [[1, 4]], [[9, -5]], "matrix of layer 1 has 1 values that are NaN"),
        (GOOD, [[1, math.inf]], [[9, -5]], "u has 1 values that are NaN or infinite"),
        (GOOD, [[1, 4]], [[9, -5], [1, 1]], r"u has shape \(1, 2\) and v has shape \(2, 2\)"),
        (GOOD, [[1, 4, 2]], [[9, -5, 2]], "u has 3 columns"),
        (GOOD, [1, 4], [9, -5], "expected"),
        (GOOD, np.zeros((0, 2)), np.zeros((0, 2)), "empty"),
    ],
)
def test_bad_layers_and_pairs(layers: Any, u: Any, v: Any, message: str) -> None:
    for call in (find_collisions, enumerate_patterns):
        with pytest.raises(ValueError, match=message):
            call(layers, u, v)


def test_bad_options() -> None:
    u, v = [[1, 4]], [[9, -5]]
    with pytest.raises(ValueError, match=r"unknown method 'fast'; known: .*descent"):
        find_collisions(GOOD, u, v, method="fast")
    with pytest.raises(TypeError, match="unexpected keyword argument 'margins'"):
        find_collisions(GOOD, u, v, method="descent", margins=1)
    with pytest.raises(ValueError, match="unknown rule"):
        find_collisions(GOOD, u, v, method="descent", rule="other")
    with pytest.raises(ValueError, match="margin"):
        find_collisions(GOOD, u, v, method="descent", margin=0)
    with pytest.raises(ValueError, match="max_programs"):
        find_collisions(GOOD, u, v, method="descent", max_programs=0)
    with pytest.raises(ValueError, match="too many patterns"):
        enumerate_patterns([(np.ones((11, 2)), None)], u, v)
    with pytest.raises(TypeError, match="is not a real array"):
        linear_collision([["a"]], u, v)
    with pytest.raises(ValueError, match="negative has 1 columns"):
        linear_distances(np.eye(2), u, [[1]])
    with pytest.raises(ValueError, match="points for 2"):
        collisions.verify_collisions(GOOD, u, v, [[0, 0], [0, 0]], [[0, 0], [0, 0]])


def test_bad_convolutions() -> None:
    conv = nn.Conv2d(1, 1, 3)
    with pytest.raises(TypeError, match="Linear"):
        ConvOperator(nn.Linear(2, 2), (1, 5, 5))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="circular"):
        ConvOperator(nn.Conv2d(1, 1, 3, padding_mode="circular"), (1, 5, 5))
    with pytest.raises(ValueError, match="C = 1"):
        ConvOperator(conv, (3, 5, 5))
    with pytest.raises(ValueError, match="larger images"):
        ConvOperator(conv, (1, 2, 2))
    with pytest.raises(ValueError, match="pads unevenly"):
        ConvOperator(nn.Conv2d(1, 1, 2, padding="same"), (1, 5, 5))
    with pytest.raises(ValueError, match="at most 4096"):
        linear_collision(ConvOperator(conv, (1, 65, 65)), np.zeros((1, 4225)), np.zeros((1, 4225)))


def test_results_are_frozen_float64() -> None:
    layers = [(torch.eye(2, requires_grad=True), None)]
    found = find_collisions(layers, torch.tensor([[1.0, 4.0]]), torch.tensor([[9.0, -5.0]]))
    assert {found.epsilon.dtype, found.u.dtype, found.v.dtype, found.residual.dtype} == {np.dtype(np.float64)}
    assert found.verified.dtype == np.bool_ and found.u.shape == (1, 2) and len(found) == 1
    with pytest.raises(FrozenInstanceError):
        found.method = "other"  # type: ignore[misc]


def test_distances_need_no_full_rank_basis() -> None:
    """A row space of lower dimension and its full-rank twin agree where the data lie in it."""
    rng = np.random.default_rng(3)
    weight = rng.standard_normal((3, 6))
    flat = rng.standard_normal((8, 3)) @ weight  # in the row space
    np.testing.assert_allclose(
        distances(space_of(weight), flat, flat), distances(space_of(np.eye(6)), flat, flat), atol=1e-12
    )
