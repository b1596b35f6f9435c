"""What another f_b costs: weights on a path, a tiny plan from end to end, its plans and its errors."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from semirobust import bounds, experiments, paths, runs, training
from semirobust.bounds import folded_pair
from semirobust.experiments import algorithm_1, layerwise, networks, performance
from semirobust.experiments.networks import FineTuning
from semirobust.experiments.performance import Effort, PathConfig, PerformanceConfig, Sizes
from semirobust.layers import Split
from semirobust.training import PGD
from tests.cases import changed, snapshot, tiny_network, use_store

pytestmark = pytest.mark.one_store


PAIR = networks.pair(
    training.short(1, lr=0.05, batch_size=64, augment=False),
    PGD(0.1, 0.05, 2),
    dataset="digits", size=16, model="resnet18", width=2, holdout=100,
)  # fmt: skip
TUNING = FineTuning(algorithm_1.fine_tuning(PAIR, epochs=1, lr=0.01, batch_size=32), 64, 100)
SIZES, EFFORT = Sizes(24, 24, 3), Effort((0.0, 1.0), lanczos=3, quadrature=5, ascent=4)


def _config(subject, n_fb, **changes):
    common = {"sizes": SIZES, "effort": EFFORT, "eps": (0.0, 0.1), "fine_tuning": TUNING}
    return PerformanceConfig(subject, PAIR, n_fb, **(common | changes))


PLAN = performance.Plan(
    "tiny",
    (_config("semirobust", 1), _config("fine_tuned", 1), _config("semirobust", 3)),
    PathConfig(PAIR, 3, SIZES, EFFORT, TUNING, times=(0.1, 0.5, 1.0), distances=(0.01, 0.1)),
)


@pytest.fixture(scope="module")
def outcome(store):
    with pytest.MonkeyPatch.context() as patch:
        use_store(store, patch)
        return performance.run_plan(PLAN, "quick")


# --- weights on a path ---


def chain(*weights):
    layers = [nn.Linear(1, 1, bias=False) for _ in weights]
    for layer, weight in zip(layers, weights, strict=True):
        layer.weight.data.fill_(weight)
    return nn.Sequential(*layers)


def drifted(model, n_fb):
    """Another f_b, BatchNorm statistics included."""
    other = tiny_network(seed=1)
    state = other.state_dict()
    own = model.state_dict()
    names = set(Split(model, n_fb).names_b)
    other.load_state_dict({k: state[k] if k in names else own[k] for k in own})
    return other.eval()


def test_the_segment_goes_from_one_network_to_the_other():
    star = tiny_network()
    tilde = drifted(star, 3)
    before = snapshot(star), snapshot(tilde)
    pair = folded_pair(star, tilde, 3)
    images = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        ends = [model.double()(images) for model in (drifted(star, 3), tiny_network())]  # copies
        assert torch.allclose(bounds.between(pair, 1.0)(images), ends[0], atol=1e-9)
        assert torch.allclose(bounds.between(pair, 0.0)(images), ends[1], atol=1e-9)
    assert not torch.allclose(ends[0], ends[1], atol=1e-2)
    whole = bounds.distance(pair)
    for t in (0.0, 0.25, 1.0):
        part = folded_pair(pair.star, bounds.between(pair, t), 3)  # shares f_a, or this raises
        assert bounds.distance(part) == pytest.approx(t * whole, rel=1e-12)
    assert changed(before[0], snapshot(star)) == changed(before[1], snapshot(tilde)) == []


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.floats(0.01, 10))
def test_the_ascent_finds_the_worst_change_of_a_linear_network(seed, size):
    """||W_2 (W_1 + D) x - W_2 W_1 x|| is at most ||W_2|| ||D|| ||x||, and reaches it."""
    generator = torch.Generator().manual_seed(seed)
    net = nn.Sequential(nn.Linear(4, 3, bias=False), nn.Linear(3, 2, bias=False)).double()
    for layer in net:
        layer.weight.data = torch.randn(layer.weight.shape, generator=generator, dtype=torch.float64)
    x = torch.randn(1, 4, generator=generator, dtype=torch.float64)
    found = bounds.steepest(net, x, "0.weight", size=size, steps=300, generator=generator)
    assert float(found.norm()) == pytest.approx(size)
    with torch.no_grad():
        reached = float((bounds.moved(net, "0.weight", found)(x) - net(x)).norm())
    worst = size * float(torch.linalg.matrix_norm(net[1].weight.detach(), 2) * x.norm())
    assert 0.99 * worst <= reached <= worst * (1 + 1e-9)
    fewer = bounds.steepest(
        net, x, "0.weight", size=size, steps=1, generator=torch.Generator().manual_seed(1)
    )
    with torch.no_grad():
        assert float((bounds.moved(net, "0.weight", fewer)(x) - net(x)).norm()) <= worst * (1 + 1e-9)


def test_an_ascent_without_a_gradient_stops():
    net = chain(1.0, 0.0)
    found = bounds.steepest(
        net, torch.ones(1, 1), "0.weight", size=2.0, steps=5, generator=torch.Generator().manual_seed(0)
    )
    assert found.abs().tolist() == [[2.0]]
    assert net[0].weight.tolist() == [[1.0]] and net[0].weight.grad is None


def test_the_peeled_product_by_hand():
    """C_x = 2, then |w| of each layer of f_a: 3 and -4."""
    images = torch.tensor([[1.0], [-2.0]])
    assert bounds.peeled(chain(3, -4, 5), images, 1) == pytest.approx(24)
    assert bounds.peeled(chain(3, -4, 5), images, 3) == pytest.approx(2)
    kernel = nn.Sequential(nn.Conv2d(1, 1, 3, bias=False), nn.Flatten(), nn.Linear(4, 2))
    kernel[0].weight.data.fill_(1.0)
    assert bounds.peeled(kernel, torch.ones(1, 1, 4, 4), 1) == pytest.approx(3 * 4)
    assert not kernel[0]._forward_pre_hooks


def test_the_summary_counts_violations():
    images = torch.tensor([[1.0], [3.0]])
    row = performance.summary(bounds.telescope(chain(1, 10, 10), chain(1, 11, 11), images, 2))
    assert row["printed_violated"] == 1.0 and row["layers"] == ["1", "2"]
    assert row["contributions"] == [22.0, 20.0] and row["difference"]["mean"] == 42.0
    assert row["difference"]["quantiles"] == pytest.approx([23.1, 42.0, 60.9])
    assert row["printed_bound"]["mean"] == pytest.approx(2 * math.sqrt(2))
    tight = performance.summary(bounds.telescope(chain(1, 10), chain(1, 11), images, 1))
    assert tight["printed_violated"] == 0.0  # one layer: (15) is an equality


# --- a tiny plan ---


def test_what_a_run_stores_hangs_together(outcome):
    for (subject, n_fb), record in outcome.subjects.items():
        metrics = record.metrics
        assert metrics["n"] == 24 and metrics["distance"] > 0, subject
        for kind in ("clean", "attacked"):
            star, tilde = metrics["loss"][kind]
            taylor, rows = metrics["taylor"][kind], metrics["telescope"][kind]
            assert taylor["difference"] == pytest.approx(tilde - star, abs=1e-5)  # all images, both times
            assert taylor["remainder"] == pytest.approx(
                taylor["difference"] - taylor["gradient_term"] - taylor["quadratic_integral"], abs=1e-12
            )
            assert [ritz["t"] for ritz in taylor["largest_eigenvalue"]] == [0.0, 1.0]
            assert taylor["smooth"] == (n_fb == 1)  # ReLU behind every layer but the last
            assert abs(tilde - star) <= math.sqrt(2) * rows["difference"]["mean"] + 1e-5
            assert rows["difference"]["mean"] <= rows["bound"]["mean"] * (1 + 1e-9)
            assert rows["bound"]["mean"] <= rows["product_bound"]["mean"] * (1 + 1e-9)
            assert rows["loss_difference"] == pytest.approx(math.sqrt(2) * rows["bound"]["mean"])
            assert sum(rows["contributions"]) == pytest.approx(rows["bound"]["mean"])
            if n_fb == 1:
                assert rows["bound"]["mean"] == pytest.approx(rows["difference"]["mean"])
                assert rows["layers"] == ["fc"]
                assert abs(taylor["remainder"]) < 1e-4
        still, attacked = metrics["robust_difference"]
        clean = metrics["correlation"]["clean"]
        assert still["loss"] == pytest.approx(metrics["telescope"]["clean"]["loss_difference"])
        assert still["radius"] == 0 and attacked["radius"] == pytest.approx(0.1 * 16)
        assert abs(clean[1] - clean[0]) <= still["correlation"] + 1e-5
        assert still["correlation"] <= attacked["correlation"] <= 2 and still["loss"] < attacked["loss"]
        assert attacked["trivial"] == (attacked["correlation"] >= 2)
        assert metrics["loss"]["own"][1] == metrics["loss"]["attacked"][1]  # the same images
        assert metrics["loss"]["clean"][1] < metrics["loss"]["own"][1]


def test_the_path(outcome):
    metrics = outcome.path.metrics
    rows = metrics["segment"]
    assert [row["t"] for row in rows] == [0.1, 0.5, 1.0]
    whole = folded_pair(
        networks.trained(PAIR.robust)[0],
        networks.fine_tuned(PAIR, 3, TUNING.config, limit=64, validation=100)[0],
        3,
    )
    for row in rows:
        assert row["distance"] == pytest.approx(row["t"] * bounds.distance(whole))
        assert 0 < row["difference"]["mean"] <= row["bound"]["mean"] <= row["product_bound"]["mean"]
        assert row["peeled"] / row["distance"] == pytest.approx(rows[0]["peeled"] / rows[0]["distance"])
    printed = [row["printed_bound"]["mean"] / row["distance"] for row in rows]
    assert printed == pytest.approx([printed[0]] * 3)  # (15) is linear in the distance
    assert metrics["parameter"] == f"{whole.first_b}.weight" and metrics["n"] == 24
    assert len(metrics["ascents"]) == 3 and [row["distance"] for row in metrics["direction"]] == [0.01, 0.1]
    for row in metrics["ascents"] + metrics["direction"]:
        assert 0 < row["difference"] <= row["bound"] <= row["product_bound"] * (1 + 1e-9)
    ratios = [row["difference"] / row["printed_bound"] for row in metrics["ascents"]]
    assert metrics["image"] == ratios.index(max(ratios))
    assert metrics["direction"][1] == pytest.approx(metrics["ascents"][metrics["image"]])


def test_stored_results_are_loaded_not_computed(outcome, monkeypatch):
    for name in ("run", "run_path"):
        monkeypatch.setattr(performance, name, lambda config, **_: pytest.fail("computed again"))
    again = performance.run_plan(PLAN, "quick")
    assert [a.metrics for a in again.records] == [b.metrics for b in outcome.records]
    assert performance.stored(PLAN, "quick").subjects.keys() == outcome.subjects.keys()
    assert performance.stored(PLAN, "reference") is None
    other = replace(PLAN, path=replace(PLAN.path, seed=1))
    assert performance.stored(other, "quick") is None


# --- plans and errors ---


def test_the_plans():
    (quick,) = performance.plans("quick")
    keys = [(config.subject, config.n_fb) for config in quick.configs]
    assert keys == [(subject, n) for n in (1, 2, 4, 12) for subject in ("semirobust", "fine_tuned")]
    trial = algorithm_1.plans("quick")[0].trial(4, 0)
    shared = layerwise.plans("quick")[0].configs[3].fine_tuning
    assert quick.configs[5].fine_tuning == quick.path.fine_tuning == shared
    assert shared.config == trial.fine_tune and quick.path.pair == trial.pair
    every = [plan for p in paths.PROFILES for plan in performance.plans(p)]
    hashes = {runs.config_hash(c) for plan in every for c in (*plan.configs, plan.path)}
    assert len(hashes) == 9 * 3 and [plan.name for plan in every] == [
        "digits",
        "cifar10-independent",
        "cifar10-resnet18",
    ]


def test_bad_configurations():
    with pytest.raises(ValueError, match="unknown subject 'robust_1'; known: standard"):
        performance.run(_config("robust", 1))
    with pytest.raises(ValueError, match="needs fine_tuning"):
        performance.run(_config("fine_tuned", 1, fine_tuning=None))
    with pytest.raises(ValueError, match="unknown profile"):
        performance.plans("tiny")


def test_it_is_registered():
    assert "performance" in experiments.EXPERIMENTS
