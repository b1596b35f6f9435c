"""The pieces of the fast collision finder against the plain matrices that they stand for."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from semirobust.collisions import Network, find_collisions, verify_collisions
from semirobust.collisions.solvers import active_set, admm, batched_proof, descent
from semirobust.collisions.solvers.active_set import Polisher
from semirobust.collisions.solvers.batched_proof import prove, prove_given
from semirobust.collisions.solvers.descent import descend
from semirobust.collisions.solvers.equations import Equations, Side
from semirobust.collisions.solvers.proof import verify_pair
from tests.collisions.cases import FIGURE_1, batch, check_exactly, random_case

quick = settings(max_examples=25)
seeds = st.integers(0, 10_000)
sizes = st.sampled_from([[5], [4, 6], [5, 4, 3], [3, 4, 2, 5]])


def rows_of(network: Network, gates: Any) -> np.ndarray:
    """All pre-activations as rows on the input, [n, d]."""
    return np.concatenate([rows @ network.space.basis.T for rows, _ in network.affine(gates)])


def some_gates(network: Network, rng: np.random.Generator) -> Any:
    return tuple(rng.random(len(layer.bias)) < 0.6 for layer in network.layers)


@quick
@given(seed=seeds, sizes=sizes)
def test_sides_are_the_affine_maps(seed: int, sizes: list[int]) -> None:
    network, u, _ = batch(seed, [4, *sizes], 1)
    rng = np.random.default_rng(seed)
    gates = some_gates(network, rng)
    side, rows = Side(network, gates), rows_of(network, gates)
    weight, bias = network.layers[0]
    base = side.base(weight @ u[0] + bias)
    np.testing.assert_allclose(base, np.concatenate(network.pre_activations(u[0], gates)), atol=1e-12)
    force = rng.standard_normal(len(rows))
    pulled = side.pull(force)
    np.testing.assert_allclose(pulled @ weight, force @ rows, atol=1e-12)
    np.testing.assert_allclose(side.moves(pulled), rows @ (rows.T @ force), atol=1e-11)
    assert side.varies[rows.any(axis=1)].all()
    for _ in range(3):  # some units are known from the time before
        units = np.flatnonzero(rng.random(len(rows)) < 0.5)[::-1]
        np.testing.assert_allclose(side.block(units), rows[units] @ rows[units].T, atol=1e-12)


@quick
@given(seed=seeds, sizes=sizes)
def test_no_row_is_longer_than_its_bound(seed: int, sizes: list[int]) -> None:
    network, _, _ = batch(seed, [4, *sizes], 1)
    rows = rows_of(network, some_gates(network, np.random.default_rng(seed)))
    reach, size = (np.concatenate(bounds) for bounds in (network.reach, network.sizes))
    assert (np.linalg.norm(rows, axis=1) <= reach).all() and (reach <= size * (1 + 1e-12)).all()


@quick
@given(seed=seeds, sizes=sizes, balance=st.floats(0.05, 0.95))
@example(seed=104, sizes=[5, 4, 3], balance=0.5)  # squares of 16,000
def test_equations_are_solved_by_the_least_steps(seed: int, sizes: list[int], balance: float) -> None:
    """Against a least-norm solution of all equations at once."""
    network, _, _ = batch(seed, [20, *sizes], 1)
    rng = np.random.default_rng(seed)
    sides = [Side(network, some_gates(network, rng)) for _ in range(2)]
    u, v = (rows_of(network, side.gates) for side in sides)
    count = len(u)
    joint = count - 1 - np.arange(rng.integers(0, sizes[-1] + 1))[::-1]
    held_u, held_v = (np.setdiff1d(np.flatnonzero(rng.random(count) < 0.2), joint) for _ in range(2))
    equations = Equations(sides[0], sides[1], joint, held_u, held_v)
    none = np.zeros_like
    matrix = np.block(
        [
            [u[joint], -v[joint]],
            [u[held_u[::-1]], none(u[held_u])],
            [none(v[held_v]), v[held_v[::-1]]],
        ]
    )
    np.testing.assert_allclose(
        np.tril(equations.matrix(0.5)), np.tril(2 * matrix @ matrix.T), rtol=0, atol=1e-10
    )
    assume(len(matrix) and np.linalg.svd(matrix, compute_uv=False)[-1] > 1e-2)
    target = rng.standard_normal(len(matrix))
    scale = np.repeat([1 / math.sqrt(balance), 1 / math.sqrt(1 - balance)], 20)
    steps = scale * np.linalg.lstsq(matrix * scale, target, rcond=None)[0]
    found = equations.solve(balance, target)
    assert found is not None
    nu, on_u, on_v = equations.spread(found.values, count)
    np.testing.assert_allclose((nu + on_u) @ u / balance, steps[:20], atol=1e-8)
    np.testing.assert_allclose((on_v - nu) @ v / (1 - balance), steps[20:], atol=1e-8)
    squares = [steps[:20] @ steps[:20], steps[20:] @ steps[20:]]
    rounding = 2.0**-48 * np.linalg.cond(matrix * scale) ** 2 * sum(squares)  # of normal equations
    assert found.squares == pytest.approx(squares, abs=max(1e-8, rounding))
    ahead, behind = (equations.solve(balance + step, target) for step in (1e-4, -1e-4))
    assert ahead is not None and behind is not None
    change = (ahead.squares[0] - ahead.squares[1] - behind.squares[0] + behind.squares[1]) / 2e-4
    assert found.slope == pytest.approx(change, rel=1e-2, abs=max(1e-3, 4 * rounding / 2e-4))


def test_a_kept_side_is_not_one_of_other_gates() -> None:
    """One polisher for many patterns gives what a new one gives for each."""
    network, u, v = batch(0, [8, 7, 6], 2)
    polisher, rng = Polisher(network), np.random.default_rng(0)
    for i in (0, 0, 1, 0, 1):
        path = descend(network, u[i], v[i], max_programs=12)
        for j in rng.permutation(len(path.patterns)):
            kept, new = polisher, Polisher(network)
            kept.guess = None
            cells = [solver(network, u[i], v[i], path.patterns[j]) for solver in (kept, new)]
            assert cells[0].epsilon == pytest.approx(cells[1].epsilon, rel=1e-9)
            np.testing.assert_allclose(cells[0].u, cells[1].u, atol=1e-7)


# Proofs


@quick
@given(
    seed=seeds,
    sizes=st.sampled_from([[6], [5, 4], [4, 5, 3]]),
    rectified=st.booleans(),
    size=st.integers(-13, -7),
)
def test_many_proofs_are_those_of_single_pairs(
    seed: int, sizes: list[int], rectified: bool, size: int
) -> None:
    network, u, v = batch(seed, [10, *sizes], 4)
    network = Network.of(network.layers, rectified)
    found = find_collisions(network, u, v, rectified=rectified, starts=2, iterations=60)
    rng = np.random.default_rng(seed)
    at = [x + 10.0**size * rng.standard_normal(x.shape) for x in (found.u, found.v)]
    many = prove(network, u, v, *at)
    for point, *row in zip(many, u, v, *at, strict=True):
        single = verify_pair(network, *row)
        assert point.verified or not single.verified
        if single.verified:
            assert point.epsilon == pytest.approx(single.epsilon, rel=1e-6)


@pytest.mark.parametrize("rectified", [True, False])
def test_regular_pairs_need_no_single_proof(monkeypatch: pytest.MonkeyPatch, rectified: bool) -> None:
    network, u, v = batch(0, [30, 20, 15], 6)
    network = Network.of(network.layers, rectified)
    found = find_collisions(network, u, v, rectified=rectified)
    monkeypatch.setattr(batched_proof, "verify_pair", None)
    again = prove(network, u, v, found.u, found.v)
    assert all(point.verified for point in again)
    np.testing.assert_allclose([point.epsilon for point in again], found.epsilon, rtol=1e-9)


@settings(quick, max_examples=40)
@given(seed=seeds, d=st.integers(1, 3), sizes=st.sampled_from([[3], [3, 2], [2, 3, 2]]), whole=st.booleans())
def test_a_wrong_sign_is_never_proved(seed: int, d: int, sizes: list[int], whole: bool) -> None:
    """Points that agree only if a closed unit counts as open: moved there, or refused."""
    network, u, v = random_case(seed, d, sizes, whole=whole)
    rng = np.random.default_rng(seed)
    at_u, at_v = u + rng.standard_normal(d), v + rng.standard_normal(d)
    found = verify_collisions(network.layers, [u], [v], [at_u], [at_v])
    if found.verified.all() and not np.array_equal(found.u, found.v):
        check_exactly(network, u, v, found)


def test_collisions_of_the_first_layers_are_proved_there() -> None:
    """In the whole network the equations of the last layer depend on each other."""
    network, u, v = batch(0, [12, 6, 40], 5)
    before = find_collisions(network.layers[:1], u, v)
    given = prove_given(network, u, v, before.u, before.v)
    assert given.verified.all() and given.method == "given"
    np.testing.assert_allclose(given.epsilon, before.epsilon, rtol=1e-9)
    assert network.prefixes[0].space is not None
    np.testing.assert_array_equal(network.prefixes[0].space.basis, network.space.basis)


# Larger networks


def test_larger_networks_solve_no_cone_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where nothing is found, or proved: the linear collision is left."""
    for module in (active_set, descent):
        monkeypatch.setattr(module, "solve", None)
    network, u, v = batch(0, [30, 50, 40], 3)
    good = find_collisions(network.layers, u, v)
    assert good.verified.all() and good.iterations.tolist() == [240] * 3
    monkeypatch.setattr(active_set, "_pivot", lambda *_: None)
    bad = find_collisions(network.layers, u, v)
    assert bad.status == ("unsolved",) * 3 and bad.verified.all()
    assert bad.iterations.tolist() == [240 + 240 + 2 * 480] * 3
    assert (bad.epsilon > good.epsilon).all()


def test_pairs_without_a_candidate_are_searched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    real, seen = active_set._pivot, []

    def pivot(first: Any, *arguments: Any) -> Any:
        seen.append(first.base[0])
        return None if len(seen) == 1 else real(first, *arguments)

    monkeypatch.setattr(active_set, "_pivot", pivot)
    network, u, v = batch(0, [30, 50, 40], 3)
    found = find_collisions(network.layers, u, v)
    assert found.iterations.tolist() == [480, 240, 240] and set(found.status) == {"stopped"}


def test_the_quick_rule_stops_where_no_flip_helps() -> None:
    for seed in range(6):
        network, u, v = random_case(seed, 4, [5, 4])
        path = descend(network, u, v, rule="quick")
        slow = descend(network, u, v, start=path.patterns[-1])
        assert path.status == "stopped"
        steps = [cell for pattern, cell in zip(slow.patterns, slow.cells, strict=True) if pattern]
        both = np.concatenate([*slow.patterns[0].u, *slow.patterns[0].v])
        for pattern, cell in zip(slow.patterns[1:], steps[1:], strict=True):
            flipped = int((both != np.concatenate([*pattern.u, *pattern.v])).sum())
            assert flipped > 1 and cell.epsilon < path.cells[-1].epsilon


# Devices


def test_devices() -> None:
    network, u, v = FIGURE_1
    for device in ("tpu", "meta", 3.5):
        with pytest.raises(ValueError, match="must be cpu or cuda"):
            find_collisions(network.layers, [u], [v], device=device)
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="finds no CUDA device"):
            find_collisions(network.layers, [u], [v], device="cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("widths", [[20, 80], [20, 60, 40]])
def test_the_search_on_a_gpu_finds_as_much(widths: list[int]) -> None:
    network, u, v = batch(0, widths, 40)
    cpu, gpu = (find_collisions(network.layers, u, v, device=device) for device in ("cpu", "cuda"))
    assert gpu.verified.all() and gpu.epsilon.mean() <= cpu.epsilon.mean() * 1.01
    assert np.mean(np.abs(gpu.epsilon / cpu.epsilon - 1) < 1e-6) > 0.5


def test_networks_are_prepared_once() -> None:
    network, u, v = batch(0, [20, 70], 2)
    find_collisions(network, u, v)
    before = admm._splitting.cache_info().misses
    find_collisions(network, u, v)
    assert admm._splitting.cache_info().misses == before
