"""Collisions that are known before the search starts (at=...), and what the search leaves as it found it."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_info, threadpool_limits

from semirobust import extractors
from semirobust.collisions import Network, enumerate_patterns, find, find_collisions, verify_collisions
from semirobust.collisions.solvers.active_set import Polisher, Start
from tests.collisions.cases import FIGURE_1, LOCAL, batch, random_case

quick = settings(max_examples=25)
seeds = st.integers(0, 10_000)
sizes = st.sampled_from([[3], [4, 3], [5, 5], [3, 4, 3]])


@quick
@given(seed=seeds, widths=st.sampled_from([[4, 5, 4], [6, 5, 4, 3]]), rectified=st.booleans())
def test_never_dearer_than_the_collisions_of_the_layers_before(
    seed: int, widths: list[int], rectified: bool
) -> None:
    network, u, v = batch(seed, widths, 4)
    before = find_collisions(network.layers[:-1], u, v, starts=2)
    found = find_collisions(
        network.layers, u, v, rectified=rectified, at=(before.u, before.v), starts=1, iterations=6
    )
    assert before.verified.all() and found.verified.all()
    assert (found.epsilon <= before.epsilon * (1 + 1e-9) + 1e-12).all()


@pytest.mark.parametrize("method", ["admm", "descent"])
def test_the_search_starts_there(method: str) -> None:
    """The midpoint leads to a local optimum; the pattern of the global one leads to that."""
    network, u, v = LOCAL
    best = enumerate_patterns(network.layers, [u], [v])
    options: dict[str, Any] = {"starts": 1, "iterations": 6} if method == "admm" else {}
    near = best.u + 1e-3, best.v + 1e-3  # no collision any more, but of the same pattern
    assert not verify_collisions(network.layers, [u], [v], *near).verified.any()
    found = find_collisions(network.layers, [u], [v], method=method, at=near, **options)
    assert found.verified.all() and found.epsilon[0] == pytest.approx(2.430801655774, abs=1e-8)


def test_descent_spends_its_programs_on_both_starts() -> None:
    network, u, v = LOCAL
    best = enumerate_patterns(network.layers, [u], [v])
    alone = find_collisions(network.layers, [u], [v], method="descent")
    both = find_collisions(network.layers, [u], [v], method="descent", at=(best.u, best.v))
    assert both.iterations[0] > alone.iterations[0] and both.epsilon[0] < alone.epsilon[0] - 0.1
    few = find_collisions(network.layers, [u], [v], method="descent", at=(best.u, best.v), max_programs=1)
    assert few.iterations.tolist() == [1] and few.epsilon[0] == pytest.approx(both.epsilon[0], abs=1e-9)


@quick
@given(seed=seeds, d=st.integers(1, 5), sizes=sizes, whole=st.booleans())
def test_a_start_at_an_optimum_is_that_optimum(seed: int, d: int, sizes: list[int], whole: bool) -> None:
    """The pattern of a collision contains it: its optimum costs no more."""
    network, u, v = random_case(seed, d, sizes, whole=whole)
    found = find_collisions(network.layers, [u], [v], starts=2, iterations=60)
    start = Start.at(network, found.u[0], found.v[0])
    polisher = Polisher(network)
    polisher.guess = start.guess
    cell = polisher(network, u, v, start.pattern)
    assert cell.status == "solved" and cell.epsilon <= found.epsilon[0] * (1 + 1e-6) + 1e-6


def test_rows_without_a_collision_are_searched_as_before() -> None:
    network, u, v = batch(1, [50, 60, 60], 5)
    plain = find_collisions(network.layers, u, v, starts=1)
    better = find_collisions(network.layers, u, v, starts=8)
    at_u, at_v = better.u.copy(), better.v.copy()
    at_u[::2] = at_v[::2] = math.nan
    found = find_collisions(network.layers, u, v, starts=1, at=(at_u, torch.from_numpy(at_v)))
    np.testing.assert_allclose(found.epsilon[::2], plain.epsilon[::2], rtol=1e-12)
    assert (found.epsilon[1::2] <= better.epsilon[1::2] * (1 + 1e-9)).all()
    assert (found.epsilon < plain.epsilon - 1e-6).any()
    none = np.full_like(u, math.nan)
    nothing = find_collisions(network.layers, u, v, starts=1, at=(none, none))
    np.testing.assert_array_equal(nothing.epsilon, plain.epsilon)


def test_what_cannot_be_verified_is_not_believed() -> None:
    """The ends themselves cost nothing and do not collide."""
    network, u, v = FIGURE_1
    found = find_collisions(network.layers, [u], [v], at=([u], [v]))
    assert found.verified.all() and found.epsilon[0] == pytest.approx(5, abs=1e-8)


@pytest.mark.parametrize(
    ("at", "message"),
    [
        (np.zeros((2, 1, 2))[:1], "at must be a pair"),
        ([[[0.0, 0.0]]], "at must be a pair"),
        (([[0.0]], [[0.0]]), r"points of shape \(1, 1\) and u \(1, 2\)"),
        (([[0.0, 0.0]], [[0.0, 0.0], [1.0, 1.0]]), r"points of shape \(2, 2\)"),
        (([[0.0, math.nan]], [[0.0, 0.0]]), "row 0 of at is partly NaN"),
        (([[math.nan, math.nan]], [[0.0, 0.0]]), "row 0 of at is partly NaN"),
        (([[0.0, math.inf]], [[0.0, 0.0]]), "at has 1 values that are NaN or infinite"),
    ],
)
def test_bad_points(at: Any, message: str) -> None:
    network, u, v = FIGURE_1
    with pytest.raises(ValueError, match=message):
        find_collisions(network.layers, [u], [v], at=at)


# Threads


def threads() -> list[int]:
    return [torch.get_num_threads(), *(pool["num_threads"] for pool in threadpool_info())]


@pytest.mark.parametrize("wanted", [1, 2])
def test_one_thread_and_as_many_as_before_afterwards(monkeypatch: pytest.MonkeyPatch, wanted: int) -> None:
    network, u, v = FIGURE_1
    seen = []
    real = extractors.check_pairs

    def check(*arguments: Any) -> Any:
        seen.append(threads())
        return real(*arguments)

    monkeypatch.setattr(find, "check_pairs", check)
    initially = torch.get_num_threads()
    try:
        with threadpool_limits(wanted):
            torch.set_num_threads(wanted)
            before = threads()
            find_collisions(network.layers, [u], [v])
            verify_collisions(network.layers, [u], [v], [u], [v])
            enumerate_patterns(network.layers, [u], [v])
            with pytest.raises(ValueError, match="columns"):
                find_collisions(network.layers, [[1.0]], [[2.0]])
            assert threads() == before
    finally:
        torch.set_num_threads(initially)
    assert len(seen) == 5 and set(itertools.chain(*seen)) == {1}


def test_threads_inside_threads() -> None:
    before = threads()
    with find.one_thread():
        with find.one_thread():
            pass
        assert set(threads()) == {1}
    assert threads() == before


def test_a_network_may_be_passed_as_it_is() -> None:
    network, u, v = FIGURE_1
    assert Network.of(network) is network
    assert find_collisions(network, [u], [v]).epsilon == find_collisions(network.layers, [u], [v]).epsilon
