"""The ceiling on semirobustness: exact cases, collisions as an attack, the experiment and its figures."""

from __future__ import annotations

import itertools
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from semirobust import collisions, experiments, figures, paths, runs
from semirobust.collisions import ceiling, find_transfer
from semirobust.conflict import ConflictGraph
from semirobust.experiments import ceiling_curves, extractor_networks, feature_bounds
from semirobust.experiments.ceiling import Effort, other_images, run_config, stored
from semirobust.experiments.ceiling import plan as experiments_plan
from semirobust.experiments.ceiling import plans as experiments_plans
from semirobust.readouts import Readout, clip
from semirobust.readouts.l2 import certified_margins, lowest_margins, stack
from semirobust.theory import LADDER, SKEW
from tests.readouts.cases import labelled, network, points, readout_of

# --- the ceiling: exact cases ---


@pytest.mark.parametrize("model", [LADDER, SKEW], ids=["LADDER", "SKEW"])
def test_on_finite_models_the_ceiling_is_the_best_robust_correlation(model):
    best = [float(ceiling(float(model.zero_one(j)))) for j in range(model.depth + 1)]
    assert best == pytest.approx([float(model.gamma_star(j)) for j in range(model.depth + 1)], abs=1e-12)
    assert best == sorted(best, reverse=True)
    for j in range(model.depth + 1):
        assert float(model.robust_correlation(j, model.best_readout(j))) == pytest.approx(best[j], abs=1e-12)
        for signs in itertools.islice(itertools.product((-1, 1), repeat=len(model.alphabet(j))), 512):
            readout = dict(zip(model.alphabet(j), signs, strict=True))
            assert model.robust_correlation(j, readout) <= best[j] + 1e-12


def test_known_conflicts_that_are_fewer_only_raise_the_ceiling():
    edges = LADDER.edges(3)
    for kept in range(len(edges) + 1):
        weight, _ = LADDER.cover(edges[:kept])
        assert float(ceiling(float(weight))) >= float(LADDER.gamma_star(3)) - 1e-12


# Positive points at 1 and 3 on the first axis, negative ones at -1 and -3; the second axis is noise. The
# feature is the first coordinate, so u and v collide at half the distance of their first coordinates.
LINE = (np.array([[1.0, 5.0], [3.0, -2.0]]), np.array([[-1.0, 0.0], [-3.0, 1.0]]))
FIRST_AXIS = [(np.array([[1.0, 0.0]]), np.array([0.0]))]


@pytest.mark.parametrize(
    ("eps", "best", "threshold"), [(0.9, 1.0, 0.0), (1.5, 0.5, -1.0), (2.5, 0.0, -5.0), (3.5, 0.0, -5.0)]
)
def test_a_line_has_its_ceiling_reached(eps, best, threshold):
    found = find_transfer(FIRST_AXIS, *LINE, [eps], rectified=False)
    assert found.ceiling(eps) == pytest.approx(best, abs=1e-12)
    x, y = labelled(*LINE)
    features = stack(FIRST_AXIS, rectified=False)
    readout = readout_of([[1e3]], -1e3 * threshold, features)
    lowest, _ = lowest_margins(readout, x, y, eps=eps)
    certified = certified_margins(readout, x, y, eps=eps)
    for values in (lowest, certified):  # exact: the readout is affine
        assert float(clip(values).mean()) == pytest.approx(best, abs=1e-9)
    sent = torch.from_numpy(found.lowest(lambda z: clip(readout(torch.from_numpy(z))), eps))
    assert float(sent.clamp(max=1).mean()) <= best + 1e-9


def test_losses_outside_their_range_are_refused():
    assert ceiling([0.0, 0.25, 0.5]).tolist() == [1.0, 0.5, 0.0]
    for wrong in (-0.1, 0.6, np.nan):
        with pytest.raises(ValueError, match=r"\[0, 1/2\]"):
            ceiling(wrong)


# --- collisions as an attack ---


@settings(max_examples=8)
@given(st.integers(0, 10_000), st.sampled_from([(1, False), (1, True), (2, False), (2, True)]))
def test_no_readout_passes_the_ceiling_under_the_collisions(seed, layer):
    depth, rectified = layer
    layers, (positive, negative) = network(seed), points(seed)
    budgets = (0.3, 0.8, 1.5)
    found = find_transfer(layers[:depth], positive, negative, budgets, rectified=rectified, iterations=30)
    features = stack(layers[:depth], rectified=rectified)
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((1, len(layers[depth - 1][1])))
    soft = readout_of(weight, rng.normal(), features)
    hard = Readout(soft.features, soft.head, 1e6)
    x, y = labelled(positive, negative)
    for budget, readout in itertools.product(budgets, (soft, hard)):
        sent = found.lowest(lambda z, readout=readout: clip(readout(torch.from_numpy(z))), budget)
        values = torch.minimum(clip(y * readout(x)), torch.from_numpy(sent))
        assert float(values.mean()) <= found.ceiling(budget) + 1e-6
    assert [found.ceiling(b) for b in budgets] == sorted((found.ceiling(b) for b in budgets), reverse=True)


def test_every_pair_is_a_collision_that_costs_what_it_says():
    layers, (positive, negative) = network(3), points(3)
    found = find_transfer(layers[:2], positive, negative, [0.5, 1.0], iterations=30)
    assert len(found.pairs) and len({tuple(pair) for pair in found.pairs.tolist()}) == len(found.pairs)
    u, v = positive[found.pairs[:, 0]], negative[found.pairs[:, 1]]
    cost = np.maximum(np.linalg.norm(found.u - u, axis=1), np.linalg.norm(found.v - v, axis=1))
    assert (cost <= found.epsilon).all() and np.allclose(cost, found.epsilon, atol=1e-9)
    features = stack(layers[:2], rectified=True)
    both = [features(torch.from_numpy(z)) for z in (found.u, found.v)]
    assert float((both[0] - both[1]).abs().max()) < 1e-10
    near = found.within(0.8)
    assert (near.epsilon <= 0.8).all() and len(near.pairs) == (found.epsilon <= 0.8).sum()


@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_a_linear_layer_has_the_cover_of_its_whole_graph(seed):
    layers, (positive, negative) = network(seed, sizes=(4, 2)), points(seed)
    budgets = (0.2, 0.5, 1.0)
    found = find_transfer(layers[:1], positive, negative, budgets, rectified=False)
    exact = collisions.linear_distances(layers[0][0], positive, negative)
    for budget in budgets:
        graph = ConflictGraph.from_distances(exact, budget)
        assert found.ceiling(budget) == pytest.approx(1 - 2 * graph.zero_one_loss(), abs=1e-12)


def test_a_later_layer_keeps_what_is_known_and_never_has_a_higher_ceiling():
    layers, (positive, negative) = network(5), points(5)
    budgets = (0.4, 0.8)
    first = find_transfer(layers[:1], positive, negative, budgets, rectified=False)
    second = find_transfer(layers[:2], positive, negative, budgets, known=first, rounds=2, iterations=30)
    cost = {tuple(pair): eps for pair, eps in zip(second.pairs.tolist(), second.epsilon, strict=True)}
    assert all(
        cost[tuple(pair)] <= eps for pair, eps in zip(first.pairs.tolist(), first.epsilon, strict=True)
    )
    assert all(second.ceiling(b) <= first.ceiling(b) for b in budgets)


def test_without_a_collision_nothing_is_attacked():
    far = np.array([[1e3, 0.0]]), np.array([[-1e3, 0.0]])
    found = find_transfer(FIRST_AXIS, *far, [1.0], rectified=False)
    assert len(found.pairs) == 0 and found.ceiling(1.0) == 1.0
    assert np.isposinf(found.lowest(lambda z: z[:, 0], 1.0)).all()


def test_points_that_a_layer_cannot_tell_apart_collide_for_nothing():
    nothing = [(np.zeros((2, 3)), np.zeros(2))]
    same = np.ones((4, 3)), np.zeros((4, 3))
    for rectified in (False, True):
        found = find_transfer(nothing, *same, [0.1], rectified=rectified)
        assert found.ceiling(0.1) == pytest.approx(0.0, abs=1e-12) and found.epsilon.max() < 1e-9


def test_what_a_search_refuses():
    layers, (positive, negative) = network(0), points(0)
    with pytest.raises(ValueError, match="rounds is 0"):
        find_transfer(layers[:1], positive, negative, [1.0], rounds=0)
    other = find_transfer(layers[:1], positive[:3], negative, [1.0], rectified=False)
    with pytest.raises(ValueError, match="known has collisions of other points"):
        find_transfer(layers[:1], positive, negative, [1.0], known=other)
    own = find_transfer(layers[:1], positive, negative, [1.0], rectified=False)
    with pytest.raises(ValueError, match="known has collisions of other points"):
        find_transfer(layers[:1], positive + 100, negative + 100, [1.0], known=own)
    for budgets in ([1.0, 0.5], [-1.0, 1.0], [1.0, np.nan]):
        with pytest.raises(ValueError, match="ascending"):
            find_transfer(layers[:1], positive, negative, budgets)
    with pytest.raises(ValueError, match="NaN"):
        find_transfer(layers[:1], positive * np.nan, negative, [1.0])


def test_a_search_takes_a_network_and_lists():
    layers, (positive, negative) = network(3), points(3)
    options = {"rounds": 2, "iterations": 30}
    whole = collisions.Network.of(layers[:2])
    found = find_transfer(whole, positive.tolist(), negative.tolist(), [0.5, 1.0], **options)
    same = find_transfer(layers[:2], positive, negative, [0.5, 1.0], **options)
    np.testing.assert_array_equal(found.epsilon, same.epsilon)


def test_the_same_image_in_both_classes_costs_nothing_at_budget_zero():
    same = np.eye(3)
    for rectified in (False, True):
        found = find_transfer([(np.eye(3), np.ones(3))], same, same, [0.0], rectified=rectified)
        assert found.ceiling(0.0) == pytest.approx(0.0, abs=1e-12) and not found.epsilon.any()


# --- the experiment ---

SMALL = Effort(per_class=30, hidden=8, epochs=2, train_steps=2, steps=5, restarts=1, rounds=2, certified=0.5)


def small_config():
    full = experiments_plan("quick", "digits", "fcnn-benign")
    narrow = replace(full.network, width=8, train=replace(full.network.train, epochs=2))
    return replace(full, network=narrow, per_class=6, budgets=(0.5, 2.5, 4.0), effort=SMALL)


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    """One small run, for all tests that read it."""
    folder = tmp_path_factory.mktemp("ceiling")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEMIROBUST_RESULTS", str(folder / "results"))
        patch.setenv("SEMIROBUST_CACHE", str(folder / "networks"))
        lines = []
        assert stored(small_config(), "quick") is None
        made = run_config(small_config(), "quick", say=lines.append)
        assert any("second ReLU: ceiling" in line for line in lines)
        assert stored(small_config(), "quick").metrics == made.metrics
    return made


def test_a_run_keeps_the_order_of_its_numbers(record):
    layers = {name: record.metrics["layers"][name] for name in feature_bounds.LAYERS}  # in order
    assert set(record.metrics["layers"]) == set(layers) and record.metrics["n"] == [6, 6]
    ceilings = np.array([row["ceiling"] for row in layers.values()])  # [layers, budgets]
    assert (np.diff(ceilings, axis=0) <= 1e-12).all() and (np.diff(ceilings, axis=1) <= 1e-12).all()
    assert ceilings.min() < 1  # there are collisions at the largest budget
    rows = [(name, row) for name, layer in layers.items() for row in layer["readouts"].values()]
    rows.append(("relu_2", record.metrics["network"]))
    for name, row in rows:
        assert {len(values) for values in row.values()} == {3}
        clean, pgd, sent, worst = (np.array(row[key]) for key in ("clean", "pgd", "collisions", "attacked"))
        assert (pgd <= clean + 1e-12).all() and (worst <= np.minimum(pgd, sent) + 1e-12).all()
        assert (sent <= np.array(layers[name]["ceiling"]) + 1e-6).all()
        known = [(low, high) for low, high in zip(row["certified"], worst, strict=True) if low is not None]
        assert known and all(low <= high for low, high in known)
    linear = layers["linear_1"]["readouts"]["linear"]
    assert None not in linear["certified"] and np.allclose(linear["certified"], linear["pgd"], atol=1e-5)
    assert layers["relu_1"]["readouts"]["linear"]["certified"][1:] == [None, None]


def test_readouts_that_hide_their_gradient_are_caught_by_the_collisions(record):
    hidden, last = record.metrics["hidden"], record.metrics["layers"]["relu_2"]["ceiling"]
    for found in hidden.values():
        assert (np.array(found["collisions"]) <= np.array(last) + 1e-6).all()
        assert (np.array(found["followed"]) <= np.array(found["clean"]) + 1e-12).all()
    assert hidden["answers"]["followed"][-1] > last[-1]


def test_readouts_are_trained_on_other_images_than_the_points():
    config = small_config()
    positive, negative = feature_bounds.points(config.bounds)
    one, two = other_images(config)
    assert len(positive) == len(negative) == 6 and len(one) == len(two) == 30
    train = extractor_networks.images(config.network, "train")
    for label, (mine, others) in enumerate(((positive, one), (negative, two))):
        own = train.images[train.labels == label].flatten(1)
        assert torch.equal(own[:6], torch.from_numpy(mine).float()) and torch.equal(own[6:36], others)


def test_the_experiment_is_registered_with_its_plans():
    order = experiments.EXPERIMENTS
    assert order.index("feature_bounds") < order.index("ceiling")
    for profile in paths.PROFILES:
        plans = experiments_plans(profile)
        assert len({runs.config_hash(plan) for plan in plans}) == len(plans)
        assert len(plans) == 2 * len(feature_bounds.SCALES[profile].datasets)
        for plan in plans:
            assert plan.per_class == feature_bounds.SCALES[profile].relu
            assert set(plan.budgets) <= set(feature_bounds.budgets(plan.network.dataset))


# --- reading and drawing ---

NETWORK = {"train": {"attack": None}, "dataset": "digits"}


def stored_network(top=(1.0, 0.8), pgd=0.9, bounds=True):
    """A run with budgets 1 and 2, made up: ceilings fall behind the first ReLU; and bounds between them."""
    column = {"clean": [1.0, 1.0], "pgd": [pgd, 0.5], "collisions": [0.7, 0.4], "attacked": [0.7, 0.4]}
    column |= {"certified": [0.6, None], "longer": [None, None]}
    worse = {key: [None if v is None else v - 0.3 for v in values] for key, values in column.items()}
    rows = {
        name: {"ceiling": list(top if name in ("relu_1", "linear_2", "relu_2") else (1.0, 1.0))}
        | {"readouts": {"linear": worse, "mlp": column if name == "relu_1" else worse}}
        for name in feature_bounds.LAYERS
    }
    hidden = {"clean": [1.0, 1.0], "followed": [1.0, 1.0], "logits": [0.0, 0.0], "collisions": [0.9, 0.3]}
    metrics = {"layers": rows, "network": worse, "hidden": {"answers": hidden, "neighbours": hidden}}
    config = {"network": NETWORK, "per_class": 4, "budgets": [1, 2]}
    record = runs.Record(config, metrics, {}, paths.results_root() / "a.json")
    rows = {"input": {"zero_one": [0.0, 0.0, 0.0]}, "linear_1": {"zero_one": [0.0, 0.05, 0.05]}}
    rows |= {"relu_2": {"zero_one": [0.0, 0.25, 0.35]}}
    found = runs.Record(config | {"budgets": [0.5, 1.5, 2.5]}, {"layers": rows}, {}, record.path)
    return ceiling_curves.Network(record, found if bounds else None)


def test_ceilings_are_the_smaller_of_run_and_bounds_and_fall_with_depth_and_budget():
    both, alone = stored_network(), stored_network(bounds=False)
    assert [alone.ceiling("relu_1", b) for b in (0.5, 1.0, 1.9, 2.0, 9.0)] == [1.0, 1.0, 1.0, 0.8, 0.8]
    assert [both.ceiling("input", b) for b in (0.0, 1.0, 3.0)] == [1.0, 1.0, 1.0]
    assert [both.ceiling("linear_2", b) for b in (1.4, 1.5, 2.0)] == pytest.approx([1.0, 0.9, 0.8])
    assert [both.ceiling("relu_2", b) for b in (1.4, 1.5, 2.0, 2.5)] == pytest.approx([1.0, 0.5, 0.5, 0.3])
    grid, found = both.ceilings
    assert grid.tolist() == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]
    table = np.array([found[name] for name in feature_bounds.LAYERS])
    assert (np.diff(table, axis=0) <= 0).all() and (np.diff(table, axis=1) <= 0).all()
    assert ceiling_curves.telling(both) == 2.0


def test_what_readouts_reach_is_handed_on_to_earlier_layers_and_a_constant_has_zero():
    found = stored_network()
    assert found.reached("relu_1") == found.reached("input") == [0.7, 0.4]
    assert found.reached("linear_2") == pytest.approx([0.4, 0.1])
    assert found.reached("relu_1", "certified") == [0.6, 0.0]
    assert "network" in found.readouts("relu_2") and "network" not in found.readouts("linear_2")


def test_readouts_above_their_ceiling_are_listed():
    assert ceiling_curves.passed(stored_network()) == []
    (one,) = ceiling_curves.passed(stored_network(top=(0.85, 0.8), bounds=False))
    assert (one.training, one.name, one.layer, one.budget) == ("benign", "MLP readout", "relu_1", 1.0)
    assert (one.followed, one.longer, one.collisions, one.ceiling) == (0.9, None, 0.7, 0.85)
    answers, neighbours = ceiling_curves.hidden(stored_network(), 2.0)
    assert answers.followed == neighbours.followed == 1.0
    assert (answers.collisions, answers.ceiling) == (0.3, pytest.approx(0.5))


def test_bounds_of_other_points_are_refused():
    found = stored_network()
    other = replace(found.bounds, config=found.bounds.config | {"per_class": 5})
    with pytest.raises(ValueError, match="another network or other points"):
        ceiling_curves.Network(found.record, other)


def test_the_drawings_show_what_is_stored():
    found = stored_network()
    fig, (over, beside, last) = plt.subplots(1, 3)
    figures.ceiling.draw_budgets(over, found)
    figures.ceiling.draw_layers(beside, found, 2.0)
    figures.ceiling.draw_passed(last, ceiling_curves.hidden(found, 2.0))
    assert [text.get_text() for text in beside.texts if text.get_text()] == [
        "1.00",
        "0.90",
        "0.80",
        "0.80",
        "0.50",
    ]
    labels = over.get_legend_handles_labels()[1]
    assert {"no readout of the layer", "no classifier of the images"} <= set(labels)
    step = [line for line in over.lines if line.get_drawstyle() == "steps-post"][1]
    assert step.get_ydata()[-1] == pytest.approx(0.5) and step.get_xdata()[-1] > 2
    plt.close(fig)


def test_a_reader_of_another_profile_computes_nothing():
    plan = experiments_plan("quick", "digits", "fcnn-benign")
    assert ceiling_curves.read(plan, "quick", profile="reference") is None
