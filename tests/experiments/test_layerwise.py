"""The layer by layer experiment: its plans, a tiny one from end to end, the fine-tuned networks it shares."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn

from semirobust import attacks, experiments, layers, models, paths, runs, training
from semirobust.experiments import algorithm_1, layerwise, networks
from semirobust.experiments.layerwise import Effort, FineTuning, LayerwiseConfig, ProbeConfig, Sizes
from semirobust.training import PGD
from tests.cases import tiny_network, use_store

pytestmark = pytest.mark.one_store


PAIR = networks.pair(
    training.short(1, lr=0.05, batch_size=64, augment=False),
    PGD(0.1, 0.05, 2),
    dataset="digits", size=16, model="resnet18", width=2, holdout=100,
)  # fmt: skip
TUNING = FineTuning(algorithm_1.fine_tuning(PAIR, epochs=1, lr=0.01, batch_size=32), 64, 100)
LAYERS = ("input", "conv1", "stages.3.1.conv1", "stages.3.1.conv2", "fc")


def _config(subject, names=LAYERS, **changes):
    common = {"probe": ProbeConfig(1, 1, 1.0), "effort": Effort(2, 1), "sizes": Sizes(120, 300, 20)}
    return LayerwiseConfig(subject, PAIR, names, **(common | changes))


PLAN = layerwise.Plan(
    "tiny",
    (
        _config("robust"),
        _config("semirobust_2", LAYERS[2:]),
        _config("fine_tuned_2", LAYERS[2:], fine_tuning=TUNING),
    ),
)


@pytest.fixture(scope="module")
def outcome(store):
    with pytest.MonkeyPatch.context() as patch:
        use_store(store, patch)
        return layerwise.run_plan(PLAN, "quick")


def test_the_plans():
    (quick,) = layerwise.plans("quick")
    assert [config.subject for config in quick.configs] == [
        "standard",
        "robust",
        "semirobust_4",
        "fine_tuned_4",
    ]
    assert quick.configs[0].layers[0] == "input" and len(quick.configs[0].layers) == 8
    assert quick.configs[2].layers == quick.configs[3].layers == quick.configs[0].layers[-4:]
    trial = algorithm_1.plans("quick")[0].trial(4, 0)
    assert quick.configs[3].fine_tuning.config == trial.fine_tune
    assert {config.pair for config in quick.configs} == {trial.pair}
    (reference,) = layerwise.plans("reference")
    assert reference.name == "cifar10-independent"
    assert [len(config.layers) for config in reference.configs] == [19, 19, 5, 5, 13, 13]
    for plan in (quick, reference, *layerwise.plans("paper")):
        robust = plan.configs[0].pair.robust  # its own width: the names do not depend on it
        model = models.create(robust.model, 10, width=robust.width)
        names = [layers.INPUT, *layers.weight_layers(model)]
        for config in plan.configs:
            layerwise._check_layers(config.layers, names)
            n_fb = int(config.subject.rpartition("_")[2]) if "_" in config.subject else 0
            if n_fb:  # the first probed layer is the only one of f_a
                assert [name in names[-n_fb:] for name in config.layers].count(False) == 1
    hashes = {
        runs.config_hash(c) for p in paths.PROFILES for plan in layerwise.plans(p) for c in plan.configs
    }
    assert len(hashes) == 4 + 6 + 6


def test_a_run_stores_what_the_notebooks_need(outcome):
    assert outcome.subjects.keys() == {"robust", "semirobust_2", "fine_tuned_2"}
    for config in PLAN.configs:
        metrics = outcome.subjects[config.subject].metrics
        names = list(config.layers)
        assert metrics["layers"] == [row["layer"] for row in metrics["correlation"]] == names
        assert metrics["n_test"] == 300 and metrics["n_train"] == 120
        for row in metrics["correlation"]:
            assert -1 <= row["certified"] <= row["attacked"] <= row["clean"] <= 1
            assert row["attacked_interval"][0] <= row["attacked"] <= row["attacked_interval"][1]
            assert row["attacked"] <= row["under_pgd_on_the_network"] + 0.05  # made against another function
            assert row["n"] == 300 and row["certificate_is_trivial"] == (row["certified"] <= -1 + 1e-6)
        measured = [name for name in names if name != "input"]
        pairs = [row["layers"][1] for row in metrics["dependence"]]
        assert pairs == [name for name in measured if name != "conv1"]
        for row in metrics["dependence"] + metrics["dependence_between_chosen"]:
            assert row["bits"] <= row["cap_bits"] + 1e-9 and row["control_bits"] <= row["cap_bits"] + 1e-9
            assert row["bits"] <= min(row["entropy_x_bits"], row["entropy_y_bits"]) + 1e-2
        growth = metrics["growth"]
        assert [row["layers"] for row in growth] == [list(pair) for pair in pairwise(names)]
        for row, before, after in zip(
            growth, metrics["correlation"], metrics["correlation"][1:], strict=False
        ):
            assert row["growth"] == pytest.approx(
                after["under_pgd_on_the_network"] - before["under_pgd_on_the_network"], abs=1e-12
            )
            assert row["demanded"] == 1 + row["u"] > 2 >= row["growth"]
        assert len(metrics["distillation_gap"]) == len(names) - 1
        assert all(0 <= gap["clean"] <= gap["lower_estimate"] <= 2 for gap in metrics["distillation_gap"])
        assert metrics["attacked_accuracy"] <= metrics["accuracy"] + 0.05
    numbers = outcome.subjects["robust"].metrics["numbers"]
    assert numbers == [0, 1, 16, 17, 18]
    assert [row["certificate"] for row in outcome.subjects["robust"].metrics["correlation"]] == [
        "exact", "exact", "lipschitz", "lipschitz", "lipschitz",
    ]  # fmt: skip


def test_the_last_layer_of_f_a_is_that_of_the_robust_network(outcome):
    rows = {
        subject: next(row for row in record.metrics["correlation"] if row["layer"] == LAYERS[2])
        for subject, record in outcome.subjects.items()
    }
    for row in rows.values():
        assert {k: v for k, v in row.items() if k != "under_pgd_on_the_network"} == {
            k: v for k, v in rows["robust"].items() if k != "under_pgd_on_the_network"
        }


def test_stored_results_are_loaded_not_computed(outcome, monkeypatch):
    assert layerwise.stored(PLAN, "quick").subjects.keys() == outcome.subjects.keys()
    assert layerwise.stored(PLAN, "reference") is None
    monkeypatch.setattr(layerwise, "run", lambda config, **_: pytest.fail("computed again"))
    again = layerwise.run_plan(PLAN, "quick")
    assert [a.metrics for a in again.records] == [b.metrics for b in outcome.records]


def test_the_fine_tuned_network_is_the_one_that_the_trial_ends_with(outcome):
    sizes = algorithm_1.Sizes(64, 100, 300, 20, steps=3, queries=20)
    plan = algorithm_1.Plan("tiny", PAIR, (2,), 1, sizes, TUNING.config)
    trial = algorithm_1.run_plan(plan, "quick").trials[2][0].metrics["epochs"][-1]
    # the first trial has its own seed
    model, _ = networks.fine_tuned(PAIR, 2, plan.trial(2, 0).fine_tune, limit=64, validation=100)
    test = networks.test_images(PAIR.robust, 300)
    for attack, effort in (("none", {}), ("pgd", {"eps": 0.1, "step": 0.05, "steps": 2})):
        evaluation = attacks.evaluate(model, test.images, test.labels, attack, seed=0, **effort)
        assert algorithm_1._summary(evaluation)["correct"] == trial["test"][attack]["correct"]


def subject_of(config):
    return networks.subject(config.subject, config.pair, config.fine_tuning)


def test_fine_tuned_networks_are_cached_and_keep_f_a(outcome, monkeypatch):
    monkeypatch.setattr(networks, "_fine_tune", lambda *_, **__: pytest.fail("fine-tuned again"))
    tuned = subject_of(PLAN.configs[2])
    robust, standard = networks.trained(PAIR.robust)[0], networks.trained(PAIR.standard)[0]
    before = subject_of(PLAN.configs[1])
    split = layers.Split(robust, 2)
    states = [model.state_dict() for model in (tuned, before, robust, standard)]
    for name in split.names_a:
        assert torch.equal(states[0][name], states[2][name]) and torch.equal(states[1][name], states[2][name])
    for name in split.names_b:
        assert torch.equal(states[1][name], states[3][name])
    assert not torch.equal(tuned.fc.weight, before.fc.weight)
    assert not any(module.training for module in tuned.modules())


def test_fine_tuning_images_leave_out_those_that_validate():
    pool = networks.training_images(PAIR.robust)  # 100 are held out already
    assert len(networks.fine_tuning_images(PAIR.robust, 64, 100)) == 64
    assert len(networks.fine_tuning_images(PAIR.robust, 10**6, 100)) == len(pool)
    assert len(networks.fine_tuning_images(PAIR.robust, 10**6, 150)) == len(pool) - 50


def test_u_counts_distinct_values():
    rows = torch.tensor([[0.0, 0], [0, 1], [0, 2], [1, 3], [1, 4], [1, 5], [1, 5], [0, 0]])
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    model = nn.Sequential(nn.Linear(2, 1, bias=False), nn.Linear(1, 1))
    model[0].weight.data = torch.tensor([[1.0, 0.0]])  # keeps the first number only
    found = layerwise.empirical_u(model, rows / 8, labels, ["input", "0"])
    assert found == {"input": 0.5 * 4 + 0.5 * 3, "0": 2.0}
    # the mean density ratio itself, from the table of counts of (g, h) in each class
    ratio = 0.0
    for label in (0, 1):
        g = [tuple(row) for row in rows[labels == label].tolist()]
        h = [row[0] for row in g]
        pairs = list(zip(g, h, strict=True))
        ratio += sum(pairs.count(p) * 4 / (g.count(p[0]) * h.count(p[1])) for p in pairs) / 8
    assert found["0"] == pytest.approx(ratio)


def test_bad_configurations():
    with pytest.raises(ValueError, match="unknown subject 'semirobust'; known: standard, robust"):
        layerwise.run(_config("semirobust"))
    with pytest.raises(ValueError, match="needs fine_tuning"):
        layerwise.run(_config("fine_tuned_2"))
    with pytest.raises(ValueError, match=r"no layer is called conv9; the layers are input, conv1"):
        layerwise.run(_config("robust", ("conv1", "conv9")))
    with pytest.raises(ValueError, match="in order of execution"):
        layerwise.run(_config("robust", ("fc", "conv1")))
    with pytest.raises(ValueError, match="layers is empty"):
        layerwise.run(replace(_config("robust"), layers=()))


def test_it_is_registered():
    assert "layerwise" in experiments.EXPERIMENTS
    assert len(layers.weight_layers(tiny_network())) == 18  # what the layer numbers of the plans refer to
