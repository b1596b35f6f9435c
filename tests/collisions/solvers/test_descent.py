"""The cone program against closed forms and CVXOPT; the descent and its known traps; proofs of collisions."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from semirobust.collisions import (
    Network,
    Pattern,
    enumerate_patterns,
    find_collisions,
    linear_collision,
    verify_collisions,
)
from semirobust.collisions.result import best_of
from semirobust.collisions.solvers import cone as cone_module
from semirobust.collisions.solvers.cone import Cell, solve
from semirobust.collisions.solvers.descent import _flipped, _gains, descend
from semirobust.collisions.solvers.proof import verify_pair
from tests.collisions.cases import (
    FIGURE_1,
    INFLATION,
    LOCAL,
    OPPOSITE,
    SLACK,
    TWO_LAYERS,
    Vector,
    check_exactly,
    layer,
    random_case,
    vector,
)

quick = settings(max_examples=25)
seeds = st.integers(0, 10_000)


def one_layer_pattern(*gates: int) -> Pattern:
    return Pattern((np.array(gates, bool),), (np.array(gates, bool),))


# The cone program


@pytest.mark.parametrize(
    ("gates", "epsilon"),
    [((1, 1), math.hypot(4.5625, 4)), ((1, 0), 5.0), ((0, 1), math.sqrt(106)), ((0, 0), 9.0)],
)
def test_patterns_of_figure_1(gates: tuple[int, ...], epsilon: float) -> None:
    network, u, v = FIGURE_1
    cell = solve(network, u, v, one_layer_pattern(*gates))
    assert cell.status == "solved"
    assert cell.epsilon == pytest.approx(epsilon, abs=1e-7)
    point = verify_pair(network, u, v, cell.u, cell.v)
    assert point.verified and point.epsilon == pytest.approx(epsilon, abs=1e-8)


def test_forces_of_figure_1() -> None:
    network, u, v = FIGURE_1
    best = solve(network, u, v, one_layer_pattern(1, 0))
    np.testing.assert_allclose(best.u, [4, 0], atol=1e-6)
    assert best.v[0] == pytest.approx(4, abs=1e-6)
    assert best.mu == pytest.approx((5 / 8, 3 / 8), abs=1e-5)
    np.testing.assert_allclose(best.z_u[0], [0, 0.5], atol=1e-5)
    np.testing.assert_allclose(best.z_v[0], [0, 0], atol=1e-5)
    pattern = one_layer_pattern(1, 1)
    start = solve(network, u, v, pattern)
    alpha, beta = start.forces(pattern)
    assert start.mu[0] == pytest.approx(0.4296875, abs=1e-5)
    assert (alpha[1], beta[1]) == pytest.approx((-0.283264411434533, 0.469961409894952), abs=1e-5)
    assert start.z_u[0][1] + start.z_v[0][1] == pytest.approx(0.186696998, abs=1e-5)


def test_multipliers_are_sensitivities() -> None:
    """Raising the right side of D p >= t raises epsilon at the rate z: by finite differences."""
    network, u, v = FIGURE_1
    weight, bias = network.layers[0]
    for gates in ((1, 0), (1, 1)):
        pattern = one_layer_pattern(*gates)
        cell = solve(network, u, v, pattern)
        t = 1e-4
        total = sum(float(z.sum()) for z in (*cell.z_u, *cell.z_v))
        assert solve(network, u, v, pattern, margin=t).epsilon - cell.epsilon == pytest.approx(
            t * total, rel=1e-2
        )
    assert bias.shape == (2,) and weight.shape == (2, 2)


def test_pattern_that_cannot_occur() -> None:
    network, u, v = OPPOSITE
    shifted = Network.of([(network.layers[0].weight, vector(-1, -1))])  # x - 1 and -x - 1 are never both open
    assert solve(shifted, u, v, one_layer_pattern(1, 1)).status == "infeasible"
    idle = Network.of([layer([1, 0], [0, 0], bias=[0, 1])])  # a constant unit is open
    assert solve(idle, u, v, one_layer_pattern(1, 0)).status == "infeasible"
    assert solve(idle, u, v, one_layer_pattern(1, 1)).status == "solved"
    dead = Network.of([layer([1, 0], [0, 0])])  # a unit that is always 0
    assert find_collisions(dead.layers, [u], [v]).verified.all()


def appendix_d(
    weight: np.ndarray, bias: Vector, u: Vector, v: Vector, gates: np.ndarray
) -> tuple[float, Vector, Vector, Vector]:
    """The program of Appendix D, h = D (L v + k), in the full space, by CVXOPT: eps, z, z', nu."""
    n1, n0 = weight.shape
    signs = np.where(gates, 1.0, -1.0)[:, None]
    zero = np.zeros((n1, n0))
    column = np.zeros((n1, 1))
    cone = np.zeros((1, n0))
    g = np.block(
        [
            [column, -signs * weight, zero],
            [column, zero, -signs * weight],
            [-np.ones((1, 1)), cone, cone],
            [np.zeros((n0, 1)), -np.eye(n0), np.zeros((n0, n0))],
            [-np.ones((1, 1)), cone, cone],
            [np.zeros((n0, 1)), np.zeros((n0, n0)), -np.eye(n0)],
        ]
    )
    h = np.concatenate(
        [signs[:, 0] * (weight @ u + bias), signs[:, 0] * (weight @ v + bias), np.zeros(2 * n0 + 2)]
    )
    rows = weight[gates]
    a = np.hstack([np.zeros((len(rows), 1)), rows, -rows])
    b = -rows @ (u - v)
    cost = np.zeros(1 + 2 * n0)
    cost[0] = 1
    cvxopt = pytest.importorskip("cvxopt")
    answer = cvxopt.solvers.conelp(
        *(cvxopt.matrix(np.ascontiguousarray(part)) for part in (cost, g, h)),
        dims={"l": 2 * n1, "q": [n0 + 1, n0 + 1], "s": []},
        A=cvxopt.matrix(a),
        b=cvxopt.matrix(b),
        options={"show_progress": False, "abstol": 1e-8, "reltol": 1e-8, "feastol": 1e-8},
    )
    assert answer["status"] == "optimal"
    z = np.array(answer["z"]).ravel()
    nu = np.zeros(n1)
    nu[gates] = -np.array(answer["y"]).ravel()
    return answer["primal objective"], z[:n1], z[n1 : 2 * n1], nu


@settings(quick, max_examples=15)
@given(seed=seeds, d=st.integers(4, 8), m=st.integers(1, 4))
def test_clarabel_agrees_with_cvxopt(seed: int, d: int, m: int) -> None:
    """Epsilon and forces on the midpoint's pattern; the forces are unique, for the rows are independent."""
    network, u, v = random_case(seed, d, [m])
    pattern = network.pattern((u + v) / 2)
    cell = solve(network, u, v, pattern)
    assume(cell.epsilon > 1e-3)  # CVXOPT fails at the tip of the cone
    epsilon, z_u, z_v, nu = appendix_d(*network.layers[0], u, v, pattern.u[0])
    assert cell.epsilon == pytest.approx(epsilon, abs=1e-6)
    theirs = replace(cell, z_u=[z_u], z_v=[z_v], nu=nu).forces(pattern)
    np.testing.assert_allclose(cell.forces(pattern), theirs, atol=1e-4)


def test_dependent_rows_are_solved() -> None:
    """More open units than inputs: the printed equalities are dependent, their row space is not."""
    weight = np.vstack([np.eye(2), np.ones((3, 2))])
    network = Network.of([(weight, np.full(5, 20.0))])
    u, v = vector(1, 4), vector(9, -5)
    cell = solve(network, u, v, network.pattern((u + v) / 2))
    assert cell.epsilon == pytest.approx(math.sqrt(145) / 2, abs=1e-7)


# The descent


def vertex(network: Network, u: Vector, v: Vector, pattern: Pattern) -> Cell:
    """The same optimum, with the multiplier of each pair of equal constraints on the first of the two."""
    cell = solve(network, u, v, pattern)
    if cell.status != "solved":
        return cell
    opened = pattern.u[-1]
    second = np.where(opened, cell.z_v[-1], 0)
    return replace(
        cell,
        z_u=[*cell.z_u[:-1], cell.z_u[-1] + second],
        z_v=[*cell.z_v[:-1], cell.z_v[-1] - second],
        nu=cell.nu - second,
    )


def path(case: tuple[Network, Vector, Vector], **options: Any) -> list[float]:
    found = descend(*case, **options)
    assert found.status == "stopped"
    return [cell.epsilon for cell in found.cells]


def test_figure_1_from_the_midpoint() -> None:
    assert path(FIGURE_1) == pytest.approx([5.0], abs=1e-7)
    assert path(FIGURE_1, rule="printed") == pytest.approx([5.0], abs=1e-7)


def test_printed_rule_depends_on_the_multipliers() -> None:
    start = one_layer_pattern(1, 1)
    stall = math.hypot(4.5625, 4)  # 6.0677
    assert path(FIGURE_1, start=start, rule="printed", solver=vertex) == pytest.approx([stall], abs=1e-7)
    assert path(FIGURE_1, start=start, rule="printed") == pytest.approx([stall, 5.0], abs=1e-7)
    for solver in (solve, vertex):
        assert path(FIGURE_1, start=start, solver=solver) == pytest.approx([stall, 5.0], abs=1e-7)


def test_slack_branch() -> None:
    start = one_layer_pattern(0, 0)
    assert path(SLACK, start=start, rule="printed") == pytest.approx([5.0], abs=1e-7)
    assert path(SLACK, start=start) == pytest.approx([5.0, 1.0], abs=1e-7)
    for single in ((1, 0), (0, 1)):
        point = solve(*SLACK, one_layer_pattern(*single))
        assert point.epsilon == pytest.approx(5.0, abs=1e-6)


def test_flipping_all_can_be_worse_than_flipping_one() -> None:
    start = one_layer_pattern(0, 0)
    assert solve(*OPPOSITE, one_layer_pattern(1, 1)).epsilon == pytest.approx(5.0, abs=1e-6)
    assert path(OPPOSITE, start=start, rule="printed") == pytest.approx([5.0], abs=1e-7)
    assert path(OPPOSITE, start=start) == pytest.approx([5.0, 1.0], abs=1e-7)


@pytest.mark.parametrize("solver", [solve, vertex])
def test_two_layers_where_the_printed_rule_stalls(solver: Any) -> None:
    first = 5 * math.sqrt(2) / 8
    assert path(TWO_LAYERS, rule="printed", solver=solver) == pytest.approx([first], abs=1e-7)
    found = path(TWO_LAYERS, solver=solver)
    assert found[:2] == pytest.approx([first, 0.7998237880734984], abs=1e-7)
    network, u, v = TWO_LAYERS
    best = enumerate_patterns(network.layers, [u], [v])
    assert best.status == ("optimal",) and best.verified.all()
    assert found[-1] == pytest.approx(best.epsilon[0], abs=1e-6)
    assert found[-1] < 0.7990  # one flip further than the printed counterexample goes


def test_a_local_minimum_is_not_global() -> None:
    network, u, v = LOCAL
    stop = find_collisions(network.layers, [u], [v], method="descent")
    assert stop.status == ("stopped",) and stop.verified.all()
    assert stop.epsilon[0] == pytest.approx(np.linalg.norm(u - v) / 2, abs=1e-9)
    assert stop.epsilon[0] == pytest.approx(2.8627456226496966, abs=1e-7)
    t = (math.sqrt(253.9375) - 22.25) / 6
    optimum = math.sqrt(2 * t**2 - 2.5 * t + 1.0625)
    best = enumerate_patterns(network.layers, [u], [v])
    assert best.epsilon[0] == pytest.approx(optimum, abs=1e-6)
    assert solve(network, u, v, one_layer_pattern(1, 0, 0, 0)).epsilon == pytest.approx(optimum, abs=1e-7)


@quick
@given(
    seed=seeds,
    d=st.integers(1, 4),
    sizes=st.sampled_from([[3], [6], [3, 3], [5, 4], [3, 4, 3]]),
    whole=st.booleans(),
    rule=st.sampled_from(["repaired", "printed"]),
)
def test_descent_falls_and_every_step_is_a_collision(
    seed: int, d: int, sizes: list[int], whole: bool, rule: Any
) -> None:
    network, u, v = random_case(seed, d, sizes, whole=whole)
    found = descend(network, u, v, rule=rule)
    assert found.status == "stopped"
    values = [cell.epsilon for cell in found.cells]
    assert all(late < early for early, late in itertools.pairwise(values))
    linear = linear_collision(network.layers[0].weight, [u], [v]).epsilon[0]
    assert values[0] <= linear + 1e-6
    for cell in found.cells:
        assert np.abs(network.features(cell.u) - network.features(cell.v)).max() < 1e-6
        if not whole:  # with ties a step may have no proof; the result below has
            assert verify_pair(network, u, v, cell.u, cell.v).verified
    result = find_collisions(network.layers, [u], [v], method="descent", rule=rule)
    best = enumerate_patterns(network.layers, [u], [v])
    assert result.verified.all() and best.verified.all()
    assert result.epsilon[0] <= linear * (1 + 1e-12) + 1e-12
    if best.status == ("optimal",):
        assert result.epsilon[0] >= best.epsilon[0] - 2e-6


@quick
@given(seed=seeds, d=st.integers(2, 4), sizes=st.sampled_from([[4], [6], [4, 3]]))
def test_no_single_flip_helps_where_it_stops(seed: int, d: int, sizes: list[int]) -> None:
    """What the gains leave untried: every flip of one unit that is at a kink, solved."""
    network, u, v = random_case(seed, d, sizes)
    found = descend(network, u, v)
    pattern, cell = found.patterns[-1], found.cells[-1]
    last = len(sizes) - 1
    for depth, unit in ((i, j) for i, size in enumerate(sizes) for j in range(size)):
        at_kink = [abs(values[depth][unit]) < 1e-6 for values in (cell.p_u, cell.p_v)]
        sides = [(0, 1)] if depth == last and all(at_kink) else []
        if depth < last:
            sides = [(side,) for side in (0, 1) if at_kink[side]]
        for flipped in sides:
            gates = [[gate.copy() for gate in side] for side in pattern]
            for side in flipped:
                gates[side][depth][unit] ^= True
            other = solve(network, u, v, Pattern(tuple(gates[0]), tuple(gates[1])))
            assert other.epsilon >= cell.epsilon - 1e-5


def test_gains_say_which_hidden_flips_improve() -> None:
    """Against the solved neighbour: no gain, no improvement; gain, mostly improvement. Three layers."""
    improved: dict[bool, list[bool]] = {True: [], False: []}
    for seed in range(60):
        network, u, v = random_case(seed, 6, [5, 4, 3])
        pattern = network.pattern((u + v) / 2)
        cell = solve(network, u, v, pattern)
        if cell.status != "solved" or min(cell.mu) < 1e-3:
            continue
        for flip, gain, own in _gains(network, pattern, cell):
            if flip[0] == 2 or abs(gain) < 1e-3 or own < 1e-3:
                continue
            other = solve(network, u, v, _flipped(pattern, [flip]))
            improved[gain > 0].append(other.epsilon < cell.epsilon - 1e-7)
    assert len(improved[False]) >= 10 and not any(improved[False])
    assert (
        len(improved[True]) >= 10 and np.mean(improved[True]) > 0.8
    )  # not all: multipliers need not be unique


def test_program_limit() -> None:
    network, u, v = TWO_LAYERS
    found = find_collisions(network.layers, [u], [v], method="descent", max_programs=1)
    assert found.status == ("limit",) and found.iterations.tolist() == [1]
    assert found.epsilon[0] == pytest.approx(5 * math.sqrt(2) / 8, abs=1e-6) and found.verified.all()


def test_a_failing_pair_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    network, u, v = FIGURE_1
    calls = []
    real = cone_module.clarabel.DefaultSolver

    def failing(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("numerical trouble")
        return real(*arguments)

    monkeypatch.setattr(cone_module.clarabel, "DefaultSolver", failing)
    found = find_collisions(network.layers, [u, u, u], [v, v, v], method="descent")
    assert found.status == ("stopped", "unsolved", "stopped")
    assert found.verified.all()  # the failed pair keeps its linear collision
    assert found.epsilon == pytest.approx([5, math.sqrt(145) / 2, 5], abs=1e-7)


# Proofs


def test_inflation_example() -> None:
    """Without a margin a solver error of 1e-9 breaks the signs; with one, or with units held, it does not."""
    network, u, v = INFLATION
    pattern = one_layer_pattern(1, 0, 0)
    error = vector(1, -1, 1) * 1e-9 / math.sqrt(3)
    plain = solve(network, u, v, pattern)
    assert plain.epsilon == pytest.approx(1.344338111555, abs=1e-8)
    signs = [
        np.where(pattern.u[0], 1, -1) * network.pre_activations(x)[0]
        for x in (plain.u + error, plain.v - error)
    ]
    assert min(map(np.min, signs)) < 0
    assert not verify_pair(network, u, v, plain.u + error, plain.v - error, holds=(0.0,)).verified
    held = verify_pair(network, u, v, plain.u + error, plain.v - error)
    assert held.verified and held.epsilon == pytest.approx(1.344338111555, abs=3e-9)
    inner = solve(network, u, v, pattern, margin=1e-6)
    point = verify_pair(network, u, v, inner.u + error, inner.v - error, holds=(0.0,))
    assert point.verified and point.epsilon == pytest.approx(1.344338822796, abs=3e-9)


def test_what_is_no_collision_is_not_verified() -> None:
    network, u, v = TWO_LAYERS
    assert not verify_collisions(network.layers, [u], [v], [u], [v]).verified.any()
    middle = (u + v) / 2
    same = verify_collisions(network.layers, [u], [v], [middle], [middle])
    assert same.verified.all() and same.residual[0] == 0
    assert same.epsilon[0] == pytest.approx(np.linalg.norm(u - v) / 2, rel=1e-12)
    # features that agree to 1e-3 because a gate is barely open: nothing exact is near on that pattern
    kink = Network.of([layer([1.0], [-1.0])])
    near = verify_collisions(kink.layers, [[-1.0]], [[1.0]], [[-5e-4]], [[5e-4]])
    assert not near.verified.any() and near.residual[0] == pytest.approx(5e-4)
    assert near.epsilon[0] == pytest.approx(1 - 5e-4)  # would be below the optimum 1, and is no edge


def test_signs_are_checked_after_the_correction() -> None:
    """Equal first coordinates open the second unit of one point: no collision."""
    network = Network.of([layer([1, 0], [1, 1], bias=[0, -1])])
    at_u, at_v = vector(0.4, 0.55), vector(0.6, 0.3)
    assert (network.pre_activations(at_u)[0][1] < 0) and (network.pre_activations(at_v)[0][1] < 0)
    assert not verify_pair(network, vector(0, 0), vector(1, 1), at_u, at_v).verified
    lower = verify_pair(network, vector(0, 0), vector(1, 1), at_u - vector(0, 0.2), at_v)
    assert lower.verified and lower.u[0] == pytest.approx(0.5)


def test_equations_without_a_solution_are_refused() -> None:
    """The gates stay as they are for any small step, and the features 11 and 1 are constant there."""
    network = Network.of([layer([1]), layer([-100], bias=[10]), layer([1], bias=[1])])
    assert network.features(vector(-1)) == 11 and network.features(vector(1)) == 1
    assert not verify_pair(network, vector(-1), vector(1), vector(-1), vector(1)).verified


@pytest.mark.parametrize("swapped", [False, True])
def test_ill_conditioned_equations_inflate_the_budget(swapped: bool) -> None:
    network = Network.of([layer([1, 0], [1, 1e-6], bias=[10, 10])])
    ends = (vector(0.1, 0.2), vector(0.7, 0.5))
    u, v = ends[::-1] if swapped else ends
    at = vector(0.5, 0.4)  # farther from the first end
    point = verify_pair(network, u, v, at, at + vector(0, 1e-9))
    assert point.verified
    moved = max(np.linalg.norm(point.u - u), np.linalg.norm(point.v - v))
    assert moved + 1e-10 < point.epsilon < moved + 1e-6


def test_best_of_takes_the_cheaper_verified_collision() -> None:
    network, u, v = FIGURE_1
    good = find_collisions(network.layers, [u] * 4, [v] * 4, method="descent")
    first = replace(good, epsilon=vector(1, 1, 3, 3), verified=np.array([True, False, True, False]))
    second = replace(
        good, epsilon=vector(2, 2, 2, 2), u=good.u + 1, verified=np.array([True, True, True, False])
    )
    best = best_of(first, second)
    assert best.epsilon.tolist() == [1, 2, 2, 3]
    assert best.verified.tolist() == [True, True, True, False]
    assert (best.u - good.u).max(axis=1).tolist() == [0, 1, 1, 0]
    assert best.method == "descent" and best.status == good.status


def test_a_nearly_singular_pattern_is_charged_or_refused() -> None:
    """Rows 1e-13 apart: a residual of 1e-9 is one sigma away only by a huge step."""
    network = Network.of([layer([1, 0], [1, 1e-13], bias=[10, 10])])
    u, v = vector(0, 0), vector(1, 1)
    point = verify_pair(network, u, v, vector(0.5, 0), vector(0.5, 1))
    assert not point.verified or point.epsilon >= math.sqrt(0.5)


networks = st.sampled_from([[2], [5], [3, 2], [3, 4], [2, 3, 2]])


@settings(quick, max_examples=40)
@given(seed=seeds, d=st.integers(1, 3), sizes=networks, whole=st.booleans())
def test_collisions_exist_in_rational_arithmetic(seed: int, d: int, sizes: list[int], whole: bool) -> None:
    network, u, v = random_case(seed, d, sizes, whole=whole)
    found = find_collisions(network.layers, [u], [v], method="descent")
    assert found.verified.all()
    if not np.array_equal(found.u, found.v):
        check_exactly(network, u, v, found)


@settings(quick, max_examples=60)
@given(seed=seeds, d=st.integers(1, 3), sizes=networks, whole=st.booleans(), size=st.integers(-12, 0))
def test_whatever_is_verified_exists(seed: int, d: int, sizes: list[int], whole: bool, size: int) -> None:
    """Optima moved by 1e-12 to 1: refused, or moved onto an exact collision."""
    network, u, v = random_case(seed, d, sizes, whole=whole)
    rng = np.random.default_rng(seed)
    cell = descend(network, u, v).cells[-1]
    at = [x + 10.0**size * rng.standard_normal(d) for x in (cell.u, cell.v)]
    found = verify_collisions(network.layers, [u], [v], [at[0]], [at[1]])
    if found.verified.all():
        check_exactly(network, u, v, found)
