"""Least losses over budgets: with only the edges that matter, the same as with all of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semirobust import conflict
from semirobust.conflict import ConflictGraph


def distances(seed: int, n: int, m: int, kinds: int) -> np.ndarray:
    """Points on a line with some noise: near pairs, far pairs, ties."""
    rng = np.random.default_rng(seed)
    spread = np.abs(rng.normal(size=(n, 1)) - rng.normal(1.0, 1.0, size=m)) + 0.2 * rng.random((n, m))
    return np.ceil(spread * kinds) / kinds


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 40), st.sampled_from([2, 5, 100]))
def test_the_needed_edges_give_the_losses_of_all_edges(seed, n, m, kinds):
    epsilon, budgets = distances(seed, n, m, kinds), [0.0, 0.3, 0.5, 1.0, 2.5]
    found = conflict.curve(epsilon, budgets)
    for k, budget in enumerate(budgets):
        graph = ConflictGraph.from_distances(epsilon, budget)
        whole = graph.cross_entropy()
        assert found.edges[k] == len(graph.edges)
        assert found.zero_one[k] == pytest.approx(graph.zero_one_loss(), abs=1e-12)
        assert found.cross_entropy_nats[k] == pytest.approx(whole.loss_nats, abs=1e-8)
        assert found.cross_entropy_nats[k] <= whole.loss_nats
        u, v = graph.edges.T
        assert (found.q_positive[k][u] + found.q_negative[k][v] <= 1 + 1e-9).all()


def test_pairs_that_never_collide_cost_nothing():
    found = conflict.curve(np.full((3, 4), np.inf), [1.0, 9.0])
    assert found.zero_one.tolist() == found.cross_entropy_nats.tolist() == [0.0, 0.0]
    assert found.edges.tolist() == [0, 0]


def test_a_large_complete_graph_needs_few_edges():
    lines: list[str] = []
    found = conflict.curve(np.random.default_rng(0).random((300, 300)), [1.0], say=lines.append)
    assert found.zero_one[0] == pytest.approx(0.5, abs=1e-12)
    assert found.cross_entropy_nats[0] == pytest.approx(np.log(2), abs=1e-9)
    assert found.edges[0] == 90_000
    needed = int(lines[0].split("edges, ")[1].split(" needed")[0])
    assert needed < 9_000


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 12), st.integers(1, 5), st.booleans())
def test_nearest_pairs(seed, n, m, count, masked):
    rng = np.random.default_rng(seed)
    values = rng.permutation(n * m).reshape(n, m).astype(float)
    mask = rng.random((n, m)) < 0.5 if masked else np.ones((n, m), bool)
    found = conflict.nearest(values, count, among=mask if masked else None)
    for i in range(n):
        for j in range(m):
            closer = [(values[i] < values[i, j]) & mask[i], (values[:, j] < values[i, j]) & mask[:, j]]
            assert found[i, j] == (mask[i, j] and min(c.sum() for c in closer) < count)


@pytest.mark.parametrize("budgets", [[], [1.0, 0.5], [1.0, 1.0], 2.0])
def test_budgets_must_ascend(budgets):
    with pytest.raises(ValueError, match="ascending"):
        conflict.curve(np.ones((2, 2)), budgets)


@pytest.mark.parametrize(
    ("epsilon", "budgets", "message"),
    [
        (np.array([[np.nan]]), [1.0], "is nan"),
        (np.ones(3), [1.0], "two axes|shape"),
        (np.ones((2, 2)), [-1.0, 1.0], "negative"),
        (np.ones((2, 2)), [1.0, np.inf], "finite"),
        (np.ones((2, 2)), [1.0, np.nan], "finite"),
    ],
)
def test_bad_input_is_named(epsilon, budgets, message):
    with pytest.raises(ValueError, match=message):
        conflict.curve(epsilon, budgets)


def test_distances_in_float32_are_compared_in_float64():
    tenth = np.array([[0.1]], np.float32)  # 0.1 + 1.5e-9
    assert conflict.curve(tenth, [0.1, 0.2]).edges.tolist() == [0, 1]
