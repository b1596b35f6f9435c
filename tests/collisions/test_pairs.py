"""The bound of all pairs from few of them: the same losses, the same on several processes, resumed."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from semirobust import collisions, conflict
from semirobust.collisions import pool, search

BUDGETS = [0.25 * i for i in range(10, 29)]


def network(seed: int, *sizes: int) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [(rng.normal(size=(m, n)) / np.sqrt(n), 0.3 * rng.normal(size=m)) for n, m in pairwise(sizes)]


def clouds(seed: int, n: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), rng.normal(size=(n + 3, d)) + 0.7


@pytest.fixture(scope="module")
def case():
    """72 units, 18 + 21 points, and the budgets of all pairs."""
    layers, (positive, negative) = network(1, 60, 72), clouds(2, 18, 60)
    return layers, positive, negative, search(layers, positive, negative, BUDGETS, every=True, starts=1)


def test_every_pair_is_what_the_finder_finds(case):
    layers, positive, negative, whole = case
    assert whole.searched.all()
    pairs = np.argwhere(whole.searched)
    u, v = positive[pairs[:, 0]], negative[pairs[:, 1]]
    alone = collisions.find_collisions(layers, u, v, starts=1)
    assert alone.verified.all()
    np.testing.assert_allclose(whole.epsilon.ravel(), alone.epsilon, rtol=1e-9)
    linear = collisions.linear_distances(layers[0][0], positive, negative)
    assert (whole.epsilon < 0.95 * linear).mean() > 0.5  # there is something to find
    curve = conflict.curve(whole.epsilon, BUDGETS)
    np.testing.assert_array_equal(curve.zero_one, whole.curve.zero_one)


def test_few_pairs_give_the_same_bound(case):
    layers, positive, negative, whole = case
    few = search(layers, positive, negative, BUDGETS, starts=1, audited=10)
    assert few.searched.mean() < 0.9
    assert (few.curve.zero_one <= whole.curve.zero_one + 1e-9).all()
    assert (few.curve.cross_entropy_nats <= whole.curve.cross_entropy_nats + 1e-9).all()
    if few.audit.missed == 0:
        np.testing.assert_allclose(few.curve.zero_one, whole.curve.zero_one, atol=0.04)
    linear = collisions.linear_distances(layers[0][0], positive, negative)
    np.testing.assert_array_equal(few.epsilon[~few.searched], linear[~few.searched])
    assert (few.epsilon <= linear).all()


def test_what_is_known_of_an_earlier_layer_is_kept(case):
    layers, positive, negative, first = case
    deeper = [*layers, *network(3, 72, 12)]
    second = search(deeper, positive, negative, BUDGETS, starts=1, after=first, audited=5)
    assert (second.epsilon <= first.epsilon).all() and (second.epsilon < first.epsilon).any()
    assert (second.curve.zero_one >= first.curve.zero_one - 1e-9).all()  # depth never helps


def test_a_linear_layer_needs_no_search(case):
    layers, positive, negative, _ = case
    found = search(layers[:1], positive, negative, BUDGETS, rectified=False)
    assert not found.searched.any() and found.audit.excluded == 0
    np.testing.assert_array_equal(
        found.epsilon, collisions.linear_distances(layers[0][0], positive, negative)
    )


def test_two_processes_give_the_same_bits(case, tmp_path, monkeypatch):
    layers, positive, negative, _ = case
    monkeypatch.setattr(pool, "CHUNK", 16)
    one = search(layers, positive, negative, BUDGETS, starts=1)
    two = search(layers, positive, negative, BUDGETS, starts=1, processes=2, folder=tmp_path)
    np.testing.assert_array_equal(one.epsilon, two.epsilon)
    np.testing.assert_array_equal(one.searched, two.searched)
    assert one.audit == two.audit


def test_a_killed_search_goes_on(case, tmp_path, monkeypatch):
    layers, positive, negative, _ = case
    monkeypatch.setattr(pool, "CHUNK", 16)
    solve, calls = pool.Task.solve, []

    def counted(self, pairs):
        calls.append(len(pairs))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return solve(self, pairs)

    monkeypatch.setattr(pool.Task, "solve", counted)
    with pytest.raises(KeyboardInterrupt):
        search(layers, positive, negative, BUDGETS, starts=1, folder=tmp_path)
    files = sorted(tmp_path.rglob("*.safetensors"))
    assert len(files) == 3
    files[0].write_bytes(b"half a file")  # damaged: this one is made again
    resumed = search(layers, positive, negative, BUDGETS, starts=1, folder=tmp_path)
    monkeypatch.setattr(pool.Task, "solve", solve)
    whole = search(layers, positive, negative, BUDGETS, starts=1)
    np.testing.assert_array_equal(resumed.epsilon, whole.epsilon)
    before = len(calls)
    monkeypatch.setattr(pool.Task, "solve", counted)
    again = search(layers, positive, negative, BUDGETS, starts=1, folder=tmp_path)
    assert len(calls) == before  # all on disk now
    np.testing.assert_array_equal(again.epsilon, whole.epsilon)
    search(layers, positive, negative, BUDGETS, starts=2, folder=tmp_path)
    assert len(calls) > before  # other options, other results


def test_the_audit_counts_what_the_guess_lost(case, monkeypatch):
    from semirobust.collisions import pairs as pairs_module
    from semirobust.collisions.pairs import _State

    layers, positive, negative, whole = case
    monkeypatch.setattr(pairs_module, "SIGMAS", -200.0)  # it gives up on every pair at once
    monkeypatch.setattr(_State, "first", lambda self, _: np.eye(*self.before.shape) > 0)
    found = search(layers, positive, negative, BUDGETS, starts=1)
    assert found.audit.excluded > found.audit.searched == 256
    assert found.audit.missed > 0
    assert (found.curve.zero_one <= whole.curve.zero_one + 1e-9).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"processes": 0}, "processes"),
        ({"positive": np.ones((4, 60)), "after": "case"}, "other points"),
        ({"positive": "moved", "after": "case"}, "other points"),
        ({"audited": -1}, "audited"),
        ({"budgets": [2.0, 1.0]}, "ascending"),
        ({"budgets": [-1.0, 1.0]}, "negative"),
        ({"positive": np.ones((3, 5))}, "columns"),
        ({"negative": np.full((3, 60), np.nan)}, "NaN"),
    ],
)
def test_bad_input_stops_before_any_work(case, changes, message, monkeypatch):
    layers, positive, negative, whole = case
    named = {"case": whole, "moved": positive + 100}
    changes = {key: named[value] if isinstance(value, str) else value for key, value in changes.items()}
    monkeypatch.setattr(pool.Task, "solve", lambda *_: pytest.fail("work began"))
    arguments = {"layers": layers, "positive": positive, "negative": negative, "budgets": BUDGETS} | changes
    with pytest.raises(ValueError, match=message):
        search(**arguments)
