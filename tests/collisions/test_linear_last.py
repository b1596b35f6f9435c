"""Collisions where no ReLU follows the last layer (rectified=False)."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from semirobust.collisions import (
    METHODS,
    Network,
    Pattern,
    enumerate_patterns,
    find_collisions,
    linear_collision,
    verify_collisions,
)
from semirobust.collisions.solvers.active_set import Polisher
from semirobust.collisions.solvers.cone import solve
from semirobust.collisions.solvers.descent import descend
from tests.collisions.cases import TWO_LAYERS, check_exactly, random_case

quick = settings(max_examples=25)
seeds = st.integers(0, 10_000)
networks = st.sampled_from([[2, 1], [3, 2], [4, 4], [2, 3, 2]])


def case(seed: int, d: int, sizes: list[int], *, whole: bool = False) -> tuple[Network, Any, Any]:
    network, u, v = random_case(seed, d, sizes, whole=whole)
    return Network.of(network.layers, rectified=False), u, v


@pytest.mark.parametrize("method", list(METHODS))
@quick
@given(seed=seeds, d=st.integers(1, 6), m=st.integers(1, 6))
def test_one_layer_is_the_closed_form(method: str, seed: int, d: int, m: int) -> None:
    network, u, v = case(seed, d, [m])
    exact = linear_collision(network.layers[0].weight, [u], [v])
    found = find_collisions(network, [u], [v], method=method, rectified=False)
    assert found.method == "linear" and found.verified.all()
    np.testing.assert_allclose(found.epsilon, exact.epsilon, rtol=1e-12)
    np.testing.assert_allclose(found.u, exact.u, atol=1e-12)
    assert found.residual[0] <= 1e-12
    listed = enumerate_patterns(network, [u], [v], rectified=False)
    assert listed.status == ("optimal",) and listed.verified.all()
    assert listed.epsilon == pytest.approx(exact.epsilon, abs=2e-6)


def brute_force(network: Network, u: Any, v: Any) -> float:
    """The least optimum over all gates of the hidden layers."""
    hidden = [len(layer.bias) for layer in network.layers[:-1]]
    sides = list(
        itertools.product(
            *([np.array(bits, bool) for bits in itertools.product((0, 1), repeat=n)] for n in hidden)
        )
    )
    last = np.ones(len(network.layers[-1].bias), bool)
    return min(
        solve(network, u, v, Pattern((*first, last), (*second, last))).epsilon
        for first, second in itertools.product(sides, sides)
    )


@settings(quick, max_examples=15)
@given(seed=seeds, d=st.integers(1, 3), sizes=st.sampled_from([[1, 1], [3, 2], [2, 3], [2, 1, 2]]))
def test_enumeration_leaves_nothing_out(seed: int, d: int, sizes: list[int]) -> None:
    network, u, v = case(seed, d, sizes)
    found = enumerate_patterns(network, u[None], v[None], rectified=False)
    assert found.status == ("optimal",) and found.verified.all()
    assert found.epsilon[0] == pytest.approx(brute_force(network, u, v), abs=2e-6)


@settings(quick, max_examples=20)
@given(seed=seeds, d=st.integers(1, 4), sizes=st.sampled_from([[3, 2], [4, 4], [2, 2, 2]]))
def test_two_units_for_each_say_the_same(seed: int, d: int, sizes: list[int]) -> None:
    """relu(z) and relu(-z) agree for both points exactly if z does."""
    network, u, v = case(seed, d, sizes)
    weight, bias = network.layers[-1]
    doubled = [*network.layers[:-1], (np.vstack([weight, -weight]), np.concatenate([bias, -bias]))]
    plain = enumerate_patterns(network, [u], [v], rectified=False)
    other = enumerate_patterns(doubled, [u], [v])
    assert plain.status == other.status == ("optimal",)
    assert plain.epsilon[0] == pytest.approx(other.epsilon[0], abs=4e-6)


@quick
@given(seed=seeds, d=st.integers(1, 4), sizes=networks)
def test_a_rectifier_merges_more(seed: int, d: int, sizes: list[int]) -> None:
    network, u, v = case(seed, d, sizes)
    before = enumerate_patterns(network.layers[:-1], [u], [v]).epsilon[0]
    plain = enumerate_patterns(network, [u], [v], rectified=False).epsilon[0]
    after = enumerate_patterns(network.layers, [u], [v]).epsilon[0]
    assert after <= plain + 2e-6 and plain <= before + 2e-6


@pytest.mark.parametrize("method", list(METHODS))
@quick
@example(seed=3, d=3, sizes=[2, 3, 2], whole=True)  # a tie: the list ends unproved
@given(seed=seeds, d=st.integers(1, 5), sizes=networks, whole=st.booleans())
def test_what_is_found_is_exact_and_no_cheaper_than_the_optimum(
    method: str, seed: int, d: int, sizes: list[int], whole: bool
) -> None:
    network, u, v = case(seed, d, sizes, whole=whole)
    options = {"starts": 3, "iterations": 60} if method == "admm" else {}
    found = find_collisions(network, [u], [v], method=method, rectified=False, **options)
    assert found.verified.all()
    linear = linear_collision(network.layers[0].weight, [u], [v]).epsilon[0]
    listed = enumerate_patterns(network, [u], [v], rectified=False)
    best = listed.epsilon[0] if listed.status == ("optimal",) else brute_force(network, u, v)
    assert best - 2e-6 <= found.epsilon[0] <= linear * (1 + 1e-12) + 1e-12
    if d <= 3 and not np.array_equal(found.u, found.v):
        check_exactly(network, u, v, found)


def test_the_optimum_is_mostly_found() -> None:
    reached = []
    for seed, sizes in zip(range(20), itertools.cycle([[4, 2], [6, 3], [3, 4, 2], [6, 6]]), strict=False):
        network, u, v = case(seed, 1 + seed % 6, sizes)
        best = enumerate_patterns(network, [u], [v], rectified=False)
        if best.status == ("optimal",):
            found = find_collisions(network, [u], [v], rectified=False)
            reached.append(found.epsilon[0] <= best.epsilon[0] * (1 + 1e-6) + 1e-6)
    assert len(reached) >= 16 and np.mean(reached) >= 0.8


@quick
@given(seed=seeds, d=st.integers(1, 6), sizes=networks, whole=st.booleans())
def test_polished_patterns_are_those_of_the_cone_program(
    seed: int, d: int, sizes: list[int], whole: bool
) -> None:
    """On the whole path; and the path only falls, over flips of hidden units."""
    network, u, v = case(seed, d, sizes, whole=whole)
    path = descend(network, u, v)
    polisher = Polisher(network)
    for pattern, cell in zip(path.patterns, path.cells, strict=True):
        fast = polisher(network, u, v, pattern)
        assert fast.status == "solved"
        assert fast.epsilon == pytest.approx(cell.epsilon, rel=1e-6, abs=1e-7)
        assert pattern.u[-1].all() and pattern.v[-1].all()
        assert not fast.z_u[-1].any() and not cell.z_v[-1].any()
    epsilons = [cell.epsilon for cell in path.cells]
    assert all(later < earlier for earlier, later in itertools.pairwise(epsilons))


def test_a_negative_last_layer_is_not_forgiven() -> None:
    """relu makes both ends equal; without it they differ."""
    layers = [(np.eye(2), None), (np.array([[1.0, 1.0]]), [-10.0])]
    u, v = [[2.0, 0.0]], [[0.0, 1.0]]
    assert find_collisions(layers, u, v).epsilon[0] == 0
    found = find_collisions(layers, u, v, rectified=False)
    assert found.verified.all() and found.residual[0] <= 1e-12
    assert found.epsilon[0] == pytest.approx(1 / (1 + math.sqrt(2)))  # 2 - e = 1 + sqrt(2) e


def test_points_that_only_the_rectifier_joins_are_not_verified() -> None:
    network, u, v = TWO_LAYERS
    found = find_collisions(network, [u], [v])
    assert verify_collisions(network, [u], [v], found.u, found.v).verified.all()
    gap = np.abs(np.subtract(*(network.pre_activations(at)[-1] for at in (found.u[0], found.v[0]))))
    assert gap.max() > 0.1  # two closed units
    plain = verify_collisions(network.layers, [u], [v], found.u, found.v, rectified=False)
    assert not plain.verified.any()


def test_a_wide_last_layer_may_be_enumerated() -> None:
    rng = np.random.default_rng(0)
    layers = [(rng.standard_normal((3, 3)), None), (rng.standard_normal((12, 3)), None)]
    u, v = rng.standard_normal((2, 1, 3))
    found = enumerate_patterns(layers, u, v, rectified=False)
    assert found.status == ("optimal",) and found.verified.all()
    assert found.epsilon[0] == pytest.approx(enumerate_patterns(layers[:1], u, v).epsilon[0], abs=4e-6)


def test_refused() -> None:
    network, u, v = case(0, 2, [2, 2])
    with pytest.raises(TypeError, match="rectified is 1; it must be True or False"):
        find_collisions(network.layers, [u], [v], rectified=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="made with rectified=False; pass the same"):
        find_collisions(network, [u], [v])
