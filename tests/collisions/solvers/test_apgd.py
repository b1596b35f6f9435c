"""Collisions by Auto-PGD: the attack itself, its way onto exact collisions, and what is found."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from semirobust.collisions import Collisions, Network, enumerate_patterns, find_collisions, linear_collision
from semirobust.collisions.solvers.apgd import _Model, attack, checkpoints, clear, meet
from semirobust.collisions.solvers.proof import verify_pair
from tests.collisions.cases import FIGURE_1, INFLATION, LOCAL, batch, check_exactly, layer, random_case

quick = settings(max_examples=20)
seeds = st.integers(0, 10_000)
sizes = st.sampled_from([[3], [6], [4, 3], [5, 5], [3, 4, 3]])
SHAPES = [[3], [6], [4, 3], [6, 5], [3, 4, 3]]
SHORT: dict[str, Any] = {"budgets": 5, "steps": 40}


def apgd(network: Network, u: Any, v: Any, **options: Any) -> Collisions:
    """One pair [d], or a batch [B, d]."""
    ends = np.atleast_2d(u), np.atleast_2d(v)
    return find_collisions(network, *ends, method="apgd", rectified=network.rectified, **options)


def half_distance(network: Network, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The budgets of the linear collisions."""
    return linear_collision(network.layers[0].weight, u, v).epsilon


def gap(network: Network, first: np.ndarray, second: np.ndarray) -> float:
    return float(np.linalg.norm(network.features(first) - network.features(second)))


# The attack


def test_checkpoints_are_those_of_the_paper() -> None:
    """p = 0.22, then p + max(p - p_before - 0.03, 0.06), times the steps, rounded up."""
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(10) == [3, 5, 6, 7, 8, 9, 10]
    assert checkpoints(1) == [1]


@quick
@given(seed=seeds, d=st.integers(1, 5), sizes=sizes, rectified=st.booleans())
def test_gradients(seed: int, d: int, sizes: list[int], rectified: bool) -> None:
    """Half the derivatives of |f(u~) - f(v~)|^2, by automatic differentiation of the plain network."""
    layers = random_case(seed, d, sizes)[0].layers
    network = Network.of(layers, rectified)
    rng = np.random.default_rng(seed)
    ends, steps = rng.standard_normal((2, 2, 4, d))
    at = torch.from_numpy(steps @ network.space.basis).requires_grad_()
    x = torch.from_numpy(ends) + at @ torch.from_numpy(network.space.basis).T
    for i, (weight, bias) in enumerate(layers, start=1):
        x = x @ torch.from_numpy(weight).T + torch.from_numpy(bias)
        if i < len(layers) or rectified:
            x = x.relu()
    distances = (x[0] - x[1]).norm(dim=1)
    (wanted,) = torch.autograd.grad((distances**2).sum() / 2, at)
    base = torch.from_numpy(ends @ network.layers[0].weight.T + network.layers[0].bias)
    loss, slope = _Model(network).loss(base, at.detach())
    np.testing.assert_allclose(loss, distances.detach(), atol=1e-12)
    np.testing.assert_allclose(slope, wanted, atol=1e-10)


def slow_twin(network: Network, u: np.ndarray, v: np.ndarray, eps: float, steps: int) -> float:
    """Algorithm 1 of Croce and Hein for one pair, from lists of all that ever was: the smallest distance."""
    basis = network.space.basis

    def value(a: np.ndarray) -> float:
        return gap(network, u + basis @ a[0], v + basis @ a[1])

    def project(a: np.ndarray) -> np.ndarray:
        return np.stack([row * min(1, eps / max(np.linalg.norm(row), 1e-300)) for row in a])

    def stepped(a: np.ndarray, eta: float) -> np.ndarray:
        values = network.pre_activations(np.stack([u + basis @ a[0], v + basis @ a[1]]))
        difference = np.maximum(values[-1][0], 0) - np.maximum(values[-1][1], 0)
        ends = []
        for end, sign in ((0, 1), (1, -1)):
            jacobian = network.reduced
            for (weight, _), before in zip(network.layers[1:], values, strict=False):
                jacobian = weight @ np.diag((before[end] > 0).astype(float)) @ jacobian
            slope = sign * (difference * (values[-1][end] > 0)) @ jacobian
            ends.append(a[end] - eta * slope / max(np.linalg.norm(slope), 1e-300))
        return project(np.stack(ends))

    half = (v - u) @ basis / 2
    points = [project(np.stack([half, -half]))]
    losses = [value(points[0])]
    best, etas, helps = [(losses[0], points[0])], [2 * eps], []
    marks = [0, *checkpoints(steps)]
    for k in range(steps):
        new = stepped(points[k], etas[k])
        if k > 0:
            new = project(points[k] + 0.75 * (new - points[k]) + 0.25 * (points[k] - points[k - 1]))
        loss, eta = value(new), etas[k]
        helps.append(loss < losses[k])
        best.append((loss, new) if loss < best[k][0] else best[k])
        if k + 1 in marks:
            last = marks[marks.index(k + 1) - 1]
            few = sum(helps[last:]) < 0.75 * (k + 1 - last)
            stuck = etas[max(last - 1, 0)] == eta and best[last][0] == best[k + 1][0]
            if few or stuck:
                eta, (loss, new) = eta / 2, best[k + 1]
        points.append(new)
        losses.append(loss)
        etas.append(eta)
    return best[-1][0]


@quick
@given(seed=seeds, d=st.integers(2, 5), sizes=sizes, share=st.floats(0.3, 0.9), steps=st.integers(1, 40))
def test_the_attack_is_the_published_algorithm(
    seed: int, d: int, sizes: list[int], share: float, steps: int
) -> None:
    network, u, v = random_case(seed, d, sizes)
    eps = share * half_distance(network, u[None], v[None])
    found = attack(network, u[None], v[None], eps, steps=steps)
    assert found.gap[0] == pytest.approx(slow_twin(network, u, v, eps[0], steps), rel=1e-6, abs=1e-9)


@quick
@given(seed=seeds, sizes=sizes, restarts=st.integers(1, 3))
def test_the_attack_keeps_within_its_budgets(seed: int, sizes: list[int], restarts: int) -> None:
    network, u, v = batch(seed, [4, *sizes], 5)
    budgets = np.linspace(0.1, 1.2, 5) * half_distance(network, u, v)
    found = attack(network, u, v, budgets, steps=15, restarts=restarts, seed=seed)
    for ends, points in ((u, found.u), (v, found.v)):
        assert (np.linalg.norm(points - ends, axis=1) <= budgets * (1 + 1e-12)).all()
    clean = np.linalg.norm(network.features(u) - network.features(v), axis=1)
    again = np.linalg.norm(network.features(found.u) - network.features(found.v), axis=1)
    np.testing.assert_array_equal(found.gap, again)
    assert found.gap[-1] <= 1e-9 * clean[-1]  # the first start is a collision already


@quick
@given(seed=seeds, sizes=sizes)
def test_restarts_only_help(seed: int, sizes: list[int]) -> None:
    network, u, v = batch(seed, [4, *sizes], 6)
    budgets = 0.6 * half_distance(network, u, v)
    one, three = (attack(network, u, v, budgets, steps=15, restarts=n, seed=seed) for n in (1, 3))
    assert (three.gap <= one.gap * (1 + 1e-6) + 1e-9).all()


def test_restarts_differ_by_seed() -> None:
    network, u, v = batch(0, [6, 8, 5], 8)
    budgets = 0.5 * half_distance(network, u, v)
    first, same, other = (
        attack(network, u, v, budgets, steps=8, restarts=4, seed=seed).gap for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()


# From close points to exact collisions


@quick
@given(seed=seeds, d=st.integers(1, 5), sizes=sizes, rectified=st.booleans())
def test_one_step_is_the_shortest_onto_the_equality(
    seed: int, d: int, sizes: list[int], rectified: bool
) -> None:
    """By the pseudo-inverse of the derivatives, from finite differences, well away from kinks."""
    network = Network.of(random_case(seed, d, sizes)[0].layers, rectified)
    points = np.random.default_rng(seed).standard_normal((2, d))

    def difference(x: np.ndarray) -> np.ndarray:
        first, second = network.features(x.reshape(2, d))
        return first - second

    flat, h = points.ravel(), 1e-7
    jacobian = np.stack(
        [(difference(flat + h * e) - difference(flat - h * e)) / (2 * h) for e in np.eye(2 * d)], axis=1
    )
    wanted = flat - np.linalg.pinv(jacobian, rcond=1e-3) @ difference(flat)
    values = np.concatenate([value.ravel() for value in network.pre_activations(points)])
    sigma = np.linalg.svd(jacobian, compute_uv=False)
    if np.abs(values).min() > 1e-5 and not ((sigma > 1e-7) & (sigma < 0.05)).any():
        found, left = meet(network, points, 1, 0.0)
        np.testing.assert_allclose(found.ravel(), wanted, atol=1e-4)
        assert left == pytest.approx(gap(network, *found), rel=1e-9, abs=1e-12)


def test_steps_end_with_an_exact_collision() -> None:
    """Figure 1 from a point near (4, 0) and (4, -5): both units of the second point are as they should be."""
    network, _, _ = FIGURE_1
    points, left = meet(network, np.array([[3.9, 0.3], [4.2, -5.0]]), 5, 1e-12)
    assert left <= 1e-12
    np.testing.assert_allclose(points, [[4.05, 0], [4.05, -5]], atol=1e-9)
    same, none = meet(network, points, 0, 0.0)
    assert same is points and none == left


def test_where_points_disagree_they_are_moved_off_the_kinks() -> None:
    """Six units in two dimensions, and deeper networks: nothing is proved at the kinks, all of it beside."""
    stuck = 0
    for seed in (6, 13, 24, 38, 43, 198, 378):
        network, u, v = random_case(seed, 1 + seed % 6, SHAPES[seed % 5], whole=seed % 3 == 0)
        found = attack(network, u[None], v[None], 0.8 * half_distance(network, u[None], v[None]))
        points, left = meet(network, np.stack([found.u[0], found.v[0]]), 20, 1e-9 * gap(network, u, v))
        assert left <= 1e-9 * gap(network, u, v)
        stuck += not verify_pair(network, u, v, *points).verified
        moved = clear(network, points)
        point = verify_pair(network, u, v, *moved)
        assert point.verified and np.abs(moved - points).max() < 1e-4
    assert stuck >= 4


# What is found


def test_figure_1() -> None:
    network, u, v = FIGURE_1
    found = apgd(network, u, v)
    assert found.method == "apgd" and found.status == ("found",) and found.verified.all()
    assert 5 - 1e-9 <= found.epsilon[0] <= 5.05
    assert found.iterations.tolist() == [10 * 100]
    check_exactly(network, u, v, found)


@pytest.mark.parametrize(("case", "optimum"), [(LOCAL, 2.430801655774), (INFLATION, 1.344338111555)])
def test_known_optima_of_one_layer(case: Any, optimum: float) -> None:
    found = apgd(*case)
    assert found.verified.all() and optimum - 1e-9 <= found.epsilon[0] <= 1.3 * optimum


@pytest.mark.parametrize("rectified", [True, False])
def test_never_below_the_global_optimum(rectified: bool) -> None:
    """Up to 6 units a layer; and within 5 % of it on most pairs."""
    ratios = []
    shapes = SHAPES if rectified else SHAPES[2:]
    for seed, shape in zip(range(14), itertools.cycle(shapes), strict=False):
        layers, u, v = random_case(seed, 1 + seed % 6, shape, whole=seed % 3 == 0)
        network = Network.of(layers.layers, rectified)
        best = enumerate_patterns(network, [u], [v], rectified=rectified)
        found = apgd(network, u, v, **SHORT)
        linear = half_distance(network, u[None], v[None])[0]
        assert found.verified.all() and found.epsilon[0] <= linear * (1 + 1e-12)
        assert (found.status == ("found",)) == (found.epsilon[0] < linear)
        if best.status == ("optimal",):
            assert found.epsilon[0] >= best.epsilon[0] - 2e-6  # the enumeration's own tolerance
            ratios.append((found.epsilon[0] + 1e-6) / (best.epsilon[0] + 1e-6))
    assert len(ratios) >= 10 and np.mean(np.array(ratios) < 1.05) >= 0.5


@settings(quick, max_examples=15)
@given(seed=seeds, d=st.integers(1, 3), sizes=st.sampled_from([[2], [5], [3, 2]]), whole=st.booleans())
def test_collisions_exist_in_rational_arithmetic(seed: int, d: int, sizes: list[int], whole: bool) -> None:
    network, u, v = random_case(seed, d, sizes, whole=whole)
    found = apgd(network, u, v, **SHORT)
    assert found.verified.all()
    if not np.array_equal(found.u, found.v):
        check_exactly(network, u, v, found)


def digits(count: int) -> tuple[np.ndarray, np.ndarray]:
    data = load_digits()
    images = data.images.reshape(-1, 64) / 16
    return images[data.target == 3][:count], images[data.target == 7][:count]


@pytest.mark.parametrize("units", [[40], [40, 30]])
def test_the_attack_alone_proves_less(units: list[int]) -> None:
    """What an attack counts as a success is mostly no collision; a few Newton steps make it one."""
    u, v = digits(8)
    network, _, _ = batch(0, [64, *units], 1)
    found, alone = (apgd(network, u, v, newton=newton, **SHORT) for newton in (20, 0))
    linear = half_distance(network, u, v)
    assert found.status == ("found",) * 8 and found.verified.all() and alone.verified.all()
    assert found.residual.max() < 1e-12 and alone.residual.max() < 1e-12
    assert (found.epsilon < 0.9 * linear).all()
    assert (found.epsilon < alone.epsilon).mean() >= 0.75


def test_more_budgets_never_cost_more() -> None:
    u, v = digits(6)
    network, _, _ = batch(1, [64, 30], 1)
    costs = [apgd(network, u, v, budgets=n, steps=20).epsilon for n in (1, 3, 6)]
    assert (costs[1] <= costs[0]).all() and (costs[2] <= costs[1]).all() and (costs[2] < costs[0]).any()


def test_ends_that_collide_already_cost_nothing() -> None:
    """A layer of zeros, points that close every unit, and equal points."""
    zeros = Network.of([layer([0, 0])])
    closed = Network.of([layer([1, 0], [0, 1])])
    for network, u, v in (
        (zeros, [1, 2], [3, 4]),
        (closed, [-1, -2], [-3, -1]),
        (closed, [1, 2], [1, 2]),
    ):
        found = apgd(network, u, v, budgets=2, steps=3)
        assert found.verified.all() and found.epsilon[0] == pytest.approx(0, abs=1e-12)


def test_known_collisions_bound_the_result() -> None:
    network, u, v = FIGURE_1
    at = np.array([[4.0, 0]]), np.array([[4.0, -5]])
    found = apgd(network, u, v, budgets=1, steps=2, at=at)
    assert found.verified.all() and found.epsilon[0] == pytest.approx(5, abs=1e-6)
    assert apgd(network, u, v, budgets=1, steps=2).epsilon[0] > 5.01


def test_one_linear_layer_has_the_closed_form() -> None:
    network = Network.of(FIGURE_1[0].layers, False)
    assert apgd(network, *FIGURE_1[1:]).epsilon[0] == pytest.approx(math.sqrt(145) / 2)


# Batches, seeds, bad input


@pytest.mark.parametrize("units", [[5], [4, 3]])
def test_pairs_do_not_depend_on_the_batch(units: list[int]) -> None:
    network, u, v = batch(3, [4, *units], 6)
    together = apgd(network, u, v, restarts=2, **SHORT)
    for i in range(6):
        alone = apgd(network, u[i], v[i], restarts=2, **SHORT)
        assert together.epsilon[i] == pytest.approx(alone.epsilon[0], rel=1e-6)
        np.testing.assert_allclose(together.u[i], alone.u[0], atol=1e-5)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    network, u, v = batch(4, [4, 5, 3], 7)
    whole = apgd(network, u, v, restarts=2, **SHORT)
    monkeypatch.setattr("semirobust.collisions.solvers.apgd.ROWS", 4)
    np.testing.assert_allclose(apgd(network, u, v, restarts=2, **SHORT).epsilon, whole.epsilon, rtol=1e-6)


def test_deterministic_and_leaves_the_global_state_alone() -> None:
    network, u, v = batch(5, [6, 5, 4], 4)
    before = torch.get_rng_state(), np.random.get_state(legacy=True)  # noqa: NPY002
    first, again = (apgd(network, u, v, restarts=3, seed=7, **SHORT) for _ in range(2))
    np.testing.assert_array_equal(first.epsilon, again.epsilon)
    np.testing.assert_array_equal(first.u, again.u)
    assert torch.equal(before[0], torch.get_rng_state())
    np.testing.assert_equal(before[1], np.random.get_state(legacy=True))  # noqa: NPY002


def test_values_beyond_what_squares_can_hold() -> None:
    """The search fails; the linear collision is left."""
    network = Network.of([layer([1e200, 0], [0, 1e200]), layer([1, 1], bias=[-1e199])])
    with np.errstate(all="ignore"):
        found = apgd(network, [1, 4], [9, -5], budgets=2, steps=5)
    assert np.isfinite(found.epsilon).all()
    assert found.epsilon[0] <= math.sqrt(145) / 2 * (1 + 1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budgets": 0}, "budgets is 0; it must be a whole number, 1 or more"),
        ({"steps": 2.5}, "steps is 2.5"),
        ({"restarts": True}, "restarts is True"),
        ({"seed": -1}, "seed is -1; it must be a whole number, 0 or more"),
        ({"newton": -1}, "newton is -1; it must be a whole number, 0 or more"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        apgd(*FIGURE_1, **options)


def test_unknown_options_are_named() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'starts'"):
        apgd(*FIGURE_1, starts=3)
