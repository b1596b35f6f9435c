"""Collisions by alternating directions: the maps, the optimum of one pattern, and what is found."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from semirobust.collisions import (
    METHODS,
    Collisions,
    Network,
    Pattern,
    enumerate_patterns,
    find_collisions,
    linear_collision,
)
from semirobust.collisions.solvers import active_set
from semirobust.collisions.solvers.active_set import Guess, Polisher
from semirobust.collisions.solvers.admm import ROWS
from semirobust.collisions.solvers.cone import Cell, solve, without
from semirobust.collisions.solvers.descent import descend
from semirobust.collisions.solvers.proof import _branches, _equations, _gram, _inverse_triangle, verify_pair
from semirobust.collisions.solvers.splitting import Splitting, _on_collision, _on_relu
from tests.collisions.cases import (
    FIGURE_1,
    INFLATION,
    LOCAL,
    OPPOSITE,
    SLACK,
    TWO_LAYERS,
    batch,
    check_exactly,
    layer,
    random_case,
)

quick = settings(max_examples=25)
seeds = st.integers(0, 10_000)
sizes = st.sampled_from([[3], [6], [4, 3], [5, 5], [3, 4, 3]])


def admm(network: Network, u: Any, v: Any, **options: Any) -> Collisions:
    """One pair [d], or a batch [B, d]."""
    return find_collisions(network.layers, np.atleast_2d(u), np.atleast_2d(v), method="admm", **options)


# Nearest points and least squares


@quick
@given(seed=seeds)
def test_nearest_points_of_the_relu(seed: int) -> None:
    rng = np.random.default_rng(seed)
    p, h = torch.from_numpy(rng.standard_normal((2, 50)))
    near_p, near_h = _on_relu(p, h)
    assert torch.equal(near_h, near_p.clamp(min=0))
    cost = (near_p - p) ** 2 + (near_h - h) ** 2
    grid = torch.linspace(-4, 4, 2001, dtype=torch.float64)[:, None]
    best = ((grid - p) ** 2 + (grid.clamp(min=0) - h) ** 2).min(0).values
    assert (cost <= best + 1e-12).all() and (cost >= best - 1e-2).all()


@quick
@given(seed=seeds, share=st.floats(0.01, 0.99), rectified=st.booleans())
def test_nearest_points_that_collide(seed: int, share: float, rectified: bool) -> None:
    """Against both pieces of the set on a fine grid."""
    p = torch.from_numpy(np.random.default_rng(seed).standard_normal((2, 50)))
    balance = torch.tensor([[share], [1 - share]], dtype=torch.float64)
    near = _on_collision(p, balance, rectified)
    cost = (balance * (near - p) ** 2).sum(0)
    grid = torch.linspace(0 if rectified else -4, 4, 4001, dtype=torch.float64)[:, None]
    best = (share * (grid - p[0]) ** 2 + (1 - share) * (grid - p[1]) ** 2).min(0).values
    if rectified:
        assert (near[0].clamp(min=0) == near[1].clamp(min=0)).all()
        best = torch.minimum(best, (balance * p.clamp(min=0) ** 2).sum(0))
    else:
        assert (near[0] == near[1]).all()
    assert (cost <= best + 1e-12).all() and (cost >= best - 1e-5).all()


@quick
@given(seed=seeds, d=st.integers(1, 6), m=st.integers(1, 6), penalty=st.floats(0.01, 100))
def test_first_map_minimises_steps_and_distances(seed: int, d: int, m: int, penalty: float) -> None:
    network, _, _ = batch(seed, [d, m], 1)
    weight = network.layers[0].weight
    splitting = Splitting(network, torch.device("cpu"))
    wanted = np.random.default_rng(seed).standard_normal(m)
    scale = math.sqrt(penalty * splitting.weight)
    step = np.linalg.lstsq(  # |a|^2 + scale^2 |L a - wanted|^2
        np.vstack([np.eye(d), scale * weight]), np.concatenate([np.zeros(d), scale * wanted]), rcond=None
    )[0]
    row = torch.from_numpy(wanted).float()
    np.testing.assert_allclose(row @ splitting.first(penalty), weight @ step, atol=1e-4)
    norm = ((row @ splitting.left) * splitting.shrink(penalty)).norm()
    assert float(norm) == pytest.approx(float(np.linalg.norm(step)), abs=1e-4)


@quick
@given(seed=seeds, n=st.integers(1, 5), m=st.integers(1, 5))
def test_deeper_map_is_the_nearest_point_of_the_layer(seed: int, n: int, m: int) -> None:
    network, _, _ = batch(seed, [3, n, m], 1)
    splitting = Splitting(network, torch.device("cpu"))
    weight, bias = network.layers[1]
    rng = np.random.default_rng(seed)
    hidden, p = rng.standard_normal(n), rng.standard_normal(m)
    scale = math.sqrt(min(weight.shape) / (weight**2).sum())
    nearest = np.linalg.lstsq(
        np.vstack([np.eye(n), scale * weight]), np.concatenate([hidden, scale * (p - bias)]), rcond=None
    )[0]
    rows = (torch.from_numpy(value[None]).float() for value in (hidden, p))
    found = splitting.deeper(1, *rows)
    np.testing.assert_allclose(found[0][0], nearest, atol=1e-4)
    np.testing.assert_allclose(found[1][0], weight @ nearest + bias, atol=1e-4)


# The optimum of one pattern, against the cone program


def same_optimum(fast: Cell, cone: Cell, network: Network) -> None:
    assert fast.status == cone.status == "solved"
    assert fast.epsilon == pytest.approx(cone.epsilon, rel=1e-6, abs=1e-7)
    gap = np.abs(network.features(fast.u) - network.features(fast.v)).max()
    assert gap < 1e-8  # far below the tolerance of the cone program


@settings(quick, max_examples=50)
@given(seed=seeds, d=st.integers(1, 6), sizes=sizes, whole=st.booleans())
def test_polished_patterns_are_solved(seed: int, d: int, sizes: list[int], whole: bool) -> None:
    """All patterns of a descent, from the held units of the pattern before, and from wrong ones."""
    network, u, v = random_case(seed, d, sizes, whole=whole)
    path = descend(network, u, v)
    polisher = Polisher(network)
    rng = np.random.default_rng(seed)
    for pattern, cell in zip(path.patterns, path.cells, strict=True):
        same_optimum(polisher(network, u, v, pattern), cell, network)
        held = rng.random((2, sum(sizes))) < 0.3
        polisher.guess = Guess(float(rng.uniform(0.1, 0.9)), *held)
        same_optimum(polisher(network, u, v, pattern), cell, network)


@quick
@given(seed=seeds, widths=st.sampled_from([[12, 10], [20, 12, 8]]))
def test_polished_multipliers_are_those_of_the_cone_program(seed: int, widths: list[int]) -> None:
    """Regular patterns: no program is needed, forces and multipliers are unique, and both agree."""
    network, u, v = batch(seed, widths, 1)
    pattern = network.pattern((u[0] + v[0]) / 2)
    polisher = Polisher(network)
    fast, cone = polisher(network, u[0], v[0], pattern), solve(network, u[0], v[0], pattern)
    assert polisher.fallbacks == 0
    same_optimum(fast, cone, network)
    assert fast.mu == pytest.approx(cone.mu, abs=1e-5)
    for ours, theirs in zip(fast.forces(pattern), cone.forces(pattern), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
    for ours, theirs in zip((*fast.z_u[:-1], *fast.p_u), (*cone.z_u[:-1], *cone.p_u), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
    for at, values, gates in ((fast.u, fast.p_u, pattern.u), (fast.v, fast.p_v, pattern.v)):
        for ours, exact in zip(values, network.pre_activations(at, gates), strict=True):
            np.testing.assert_allclose(ours, exact, atol=1e-9)


def test_an_idle_end_has_no_multiplier() -> None:
    network, u, v = SLACK
    pattern = Pattern((np.zeros(2, bool),), (np.zeros(2, bool),))
    cell = Polisher(network)(network, u, v, pattern)
    assert cell.epsilon == pytest.approx(5, abs=1e-8) and cell.mu == (0.0, 1.0)


def test_a_pattern_without_collision_goes_to_the_cone_program() -> None:
    network = Network.of([layer([1.0], [-1.0], bias=[-1, -1])])
    both_open = Pattern((np.ones(2, bool),), (np.ones(2, bool),))
    polisher = Polisher(network)
    cell = polisher(network, np.array([-3.0]), np.array([3.0]), both_open)
    assert cell.status == "infeasible" and polisher.fallbacks == 1


# What is found


@pytest.mark.parametrize(
    ("case", "epsilon"),
    [
        (FIGURE_1, 5.0),
        (SLACK, 1.0),
        (OPPOSITE, 1.0),
        (LOCAL, 2.430801655774),
        (INFLATION, 1.344338111555),
    ],
)
def test_global_optima_of_one_layer(case: Any, epsilon: float) -> None:
    network, u, v = case
    found = admm(network, u, v)
    assert found.verified.all() and found.epsilon[0] == pytest.approx(epsilon, abs=1e-8)
    assert found.method == "admm" and found.status == ("stopped",)


def test_two_layers_where_flipping_all_stops_too_early() -> None:
    network, u, v = TWO_LAYERS
    found = admm(network, u, v)
    assert found.verified.all() and found.epsilon[0] <= 0.799823789
    assert found.epsilon[0] >= enumerate_patterns(network.layers, [u], [v]).epsilon[0] - 1e-9


def test_it_is_the_default() -> None:
    network, u, v = FIGURE_1
    assert find_collisions(network.layers, [u], [v]).method == "admm"
    assert list(METHODS) == ["admm", "descent", "apgd"]


def test_the_global_optimum_is_mostly_found() -> None:
    """Up to 6 units a layer: on 80 % of the pairs, and nothing below it."""
    reached = []
    for seed, shape in zip(range(24), itertools.cycle([[3], [6], [4, 3], [6, 5], [3, 4, 3]]), strict=False):
        network, u, v = random_case(seed, 1 + seed % 6, shape, whole=seed % 3 == 0)
        best = enumerate_patterns(network.layers, [u], [v])
        if best.status == ("optimal",):
            found = admm(network, u, v)
            assert found.verified.all()
            assert found.epsilon[0] >= best.epsilon[0] - 2e-6  # the enumeration's own tolerance
            reached.append(found.epsilon[0] <= best.epsilon[0] * (1 + 1e-6) + 1e-6)
    assert len(reached) >= 20 and np.mean(reached) >= 0.8


@quick
@given(seed=seeds, d=st.integers(1, 5), sizes=sizes, whole=st.booleans())
def test_small_networks_cost_no_more_than_descent(seed: int, d: int, sizes: list[int], whole: bool) -> None:
    network, u, v = random_case(seed, d, sizes, whole=whole)
    found = admm(network, u, v, starts=4, iterations=60)
    slow = find_collisions(network.layers, [u], [v], method="descent")
    linear = linear_collision(network.layers[0].weight, [u], [v])
    assert found.verified.all()
    assert found.epsilon[0] <= slow.epsilon[0] * (1 + 1e-6) + 1e-6
    assert found.epsilon[0] <= linear.epsilon[0] * (1 + 1e-12) + 1e-12


@settings(quick, max_examples=30)
@given(
    seed=seeds, d=st.integers(1, 3), sizes=st.sampled_from([[2], [5], [3, 2], [2, 3, 2]]), whole=st.booleans()
)
def test_collisions_exist_in_rational_arithmetic(seed: int, d: int, sizes: list[int], whole: bool) -> None:
    network, u, v = random_case(seed, d, sizes, whole=whole)
    found = admm(network, u, v, starts=2, iterations=60)
    assert found.verified.all()
    if not np.array_equal(found.u, found.v):
        check_exactly(network, u, v, found)


@pytest.mark.parametrize(("units", "mean"), [([40], 0.995), ([80, 40], 0.97)])
def test_digits_cost_less_than_by_descent(units: list[int], mean: float) -> None:
    digits = load_digits()
    images = digits.images.reshape(-1, 64) / 16
    u, v = images[digits.target == 3][:6], images[digits.target == 7][:6]
    network, _, _ = batch(0, [64, *units], 1)
    fast = admm(network, u, v, starts=2)
    slow = find_collisions(network.layers, u, v, method="descent")
    assert fast.verified.all() and slow.verified.all()
    ratios = fast.epsilon / slow.epsilon
    assert (ratios <= 1 + 1e-8).all() and ratios.mean() < mean


def test_more_units_than_inputs_need_no_cone_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most patterns have no collision then, and equations that depend on each other."""
    network, u, v = batch(0, [12, 50, 40], 4)
    slow = find_collisions(network.layers, u[:2], v[:2], method="descent")
    monkeypatch.setattr(active_set, "solve", None)
    fast = admm(network, u, v)
    assert fast.verified.all() and set(fast.status) == {"stopped"}
    assert (fast.epsilon[:2] <= slow.epsilon * (1 + 1e-8)).all()


# The same result again, and next to other pairs


@settings(quick, max_examples=10)
@given(seed=seeds, widths=st.sampled_from([[10, 8], [12, 70], [12, 9, 6]]))
def test_a_pair_does_not_depend_on_the_batch(seed: int, widths: list[int]) -> None:
    network, u, v = batch(seed, widths, 5)
    options: dict[str, Any] = {"starts": 3, "iterations": 60, "seed": seed}
    together = admm(network, u, v, **options)
    again = admm(network, u, v, **options)
    np.testing.assert_array_equal(together.u, again.u)
    np.testing.assert_array_equal(together.epsilon, again.epsilon)
    alone = admm(network, u[3], v[3], **options)
    assert alone.epsilon[0] == pytest.approx(together.epsilon[3], rel=1e-9)
    assert alone.status[0] == together.status[3]
    turned = admm(network, u[::-1], v[::-1], **options)
    np.testing.assert_allclose(turned.epsilon[::-1], together.epsilon, rtol=1e-9)


def test_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    network, u, v = batch(1, [20, 15, 10], 7)
    whole = admm(network, u, v, starts=2)
    monkeypatch.setitem(ROWS, "cpu", 4)  # two pairs at a time
    chunks = admm(network, u, v, starts=2)
    np.testing.assert_allclose(chunks.epsilon, whole.epsilon, rtol=1e-9)
    assert chunks.status == whole.status


def test_more_starts_help_and_the_seed_matters() -> None:
    network, u, v = batch(1, [50, 60, 60], 6)
    few, more = admm(network, u, v, starts=1), admm(network, u, v, starts=6)
    other = admm(network, u, v, starts=6, seed=1)
    assert (more.epsilon <= few.epsilon * (1 + 1e-9)).all() and (more.epsilon < few.epsilon - 1e-6).any()
    assert (np.abs(other.epsilon - more.epsilon) > 1e-6).any()
    assert few.iterations.tolist() == [240] * 6 and more.iterations.tolist() == [1440] * 6


def test_torch_and_numpy_states_are_left_alone() -> None:
    network, u, v = FIGURE_1
    before = torch.get_rng_state(), np.random.get_state(legacy=True)  # noqa: NPY002
    admm(network, u, v)
    assert torch.equal(before[0], torch.get_rng_state())
    np.testing.assert_equal(before[1], np.random.get_state(legacy=True))  # noqa: NPY002


# Degenerate and bad input


@pytest.mark.parametrize(
    ("weights", "u", "v"),
    [
        ([[[0.0, 0.0]]], [1.0, 4.0], [9.0, -5.0]),  # nothing is seen
        ([[[1.0, 0.0], [0.0, 1.0]]], [1.0, 4.0], [1.0, 4.0]),  # the same point
        ([[[1.0, 0.0], [0.0, 1.0]]], [-1.0, -4.0], [-2.0, -1.0]),  # all units closed
        ([[[1.0, 0.0]], [[0.0], [0.0]]], [1.0, 4.0], [2.0, -1.0]),  # a layer of zeros
    ],
)
def test_pairs_that_collide_already(weights: list[Any], u: list[float], v: list[float]) -> None:
    found = admm(Network.of([(np.array(weight), None) for weight in weights]), u, v)
    assert found.verified.all() and found.epsilon[0] == pytest.approx(0, abs=1e-12)


def test_pairs_that_the_pivoting_gives_up_go_to_the_cone_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(active_set, "_pivot", lambda *_: None)
    network, u, v = FIGURE_1
    found = admm(network, u, v)
    assert found.status == ("stopped",) and found.verified.all()
    assert found.epsilon[0] == pytest.approx(5, abs=1e-6)


def test_pairs_without_any_solved_pattern_keep_their_linear_collision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = active_set._pivot
    lost = FIGURE_1[1][0]

    def pivot(first: Any, *arguments: Any) -> Any:
        return None if first.base[0] == lost else real(first, *arguments)

    monkeypatch.setattr(active_set, "_pivot", pivot)
    monkeypatch.setattr(active_set, "solve", lambda *_: without("failed"))
    network, u, v = FIGURE_1
    other = np.array([2.0, 4.0])
    found = admm(network, [u, other], [v, v])
    assert found.status == ("unsolved", "stopped") and found.verified.all()
    assert found.epsilon[0] == pytest.approx(math.sqrt(145) / 2)
    assert found.epsilon[1] < np.linalg.norm(other - v) / 2 - 0.1


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"starts": 0}, ValueError, "starts is 0; it must be a whole number, 1 or more"),
        ({"starts": True}, ValueError, "starts is True"),
        ({"starts": 1.5}, ValueError, "starts is 1.5"),
        ({"iterations": 0}, ValueError, "iterations is 0; it must be a whole number, 1 or more"),
        ({"seed": -1}, ValueError, "seed is -1; it must be a whole number, 0 or more"),
        ({"rule": "printed"}, TypeError, "unexpected keyword argument 'rule'"),
    ],
)
def test_bad_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    network, u, v = FIGURE_1
    with pytest.raises(error, match=message):
        admm(network, u, v, **options)


# The proof, faster


@quick
@given(seed=seeds, d=st.integers(1, 8), m=st.integers(1, 8), hold=st.sampled_from([0.0, 0.5]))
def test_the_gram_matrix_of_one_layer_is_that_of_the_equations(
    seed: int, d: int, m: int, hold: float
) -> None:
    network, u, v = batch(seed, [d, m], 1)
    branches, both = _branches(network, network.pre_activations(np.stack([u[0], v[0]])), hold)
    matrix = _equations(branches, both)
    assume(len(matrix))
    np.testing.assert_allclose(_gram(network, branches, both, matrix), matrix @ matrix.T, atol=1e-12)


@quick
@given(seed=seeds, n=st.integers(1, 8))
def test_triangles_are_inverted(seed: int, n: int) -> None:
    lower = np.tril(np.random.default_rng(seed).uniform(0.5, 1, (n, n)))
    np.testing.assert_allclose(_inverse_triangle(lower) @ lower, np.eye(n), atol=1e-6)
    lower[n // 2, n // 2] = 0
    with pytest.raises(np.linalg.LinAlgError):
        _inverse_triangle(lower)


def test_points_at_a_kink_are_held_there_first() -> None:
    network, u, v = FIGURE_1
    at_u, at_v = np.array([4.0, 0.0]), np.array([4.0, -5.0])
    held = verify_pair(network, u, v, at_u, at_v, holds=(1e-7,))
    found = verify_pair(network, u, v, at_u, at_v)
    assert found.verified and held.verified and found.epsilon == held.epsilon
    only_plain = verify_pair(network, u, v, at_u, at_v, holds=(0.0,))
    assert not only_plain.verified  # without margin
