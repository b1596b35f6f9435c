"""Figure 1's experiment: the same network under every attack, and the sizes of f_b side by side."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from semirobust import attacks, dependence, paths, runs, training
from semirobust.experiments import algorithm_1, figure_1, networks
from semirobust.experiments.figure_1 import ATTACKS, SizeConfig
from semirobust.experiments.networks import FineTuning
from semirobust.experiments.verdicts import verdicts
from semirobust.training import PGD
from tests.cases import use_store

pytestmark = pytest.mark.one_store

RECIPE = training.short(1, lr=0.05, batch_size=64, augment=False)
PAIR = networks.pair(
    RECIPE, PGD(0.1, 0.05, 2), dataset="digits", size=16, model="resnet18", width=2, holdout=100
)
TUNING = FineTuning(algorithm_1.fine_tuning(PAIR, epochs=1, lr=0.01, batch_size=32), 64, 100)
CONFIG = SizeConfig(PAIR, 4, TUNING, images=300, steps=1, queries=5, shuffles=1)
OTHER = replace(CONFIG, images=200)


@pytest.fixture(scope="module")
def record(store):
    with pytest.MonkeyPatch.context() as patch:
        use_store(store, patch)
        patch.setattr(figure_1, "by_size", lambda profile: [CONFIG] if profile == "quick" else [OTHER])
        patch.setattr(figure_1, "by_seed", lambda profile: [])
        (made,) = figure_1.run("quick")
        assert figure_1.stored("quick")[0].metrics == made.metrics and figure_1.stored("reference") is None
    return made


def test_every_attack_is_made_for_the_network_that_is_measured(record):
    robust, standard = networks.trained(PAIR.robust)[0], networks.trained(PAIR.standard)[0]
    before = training.algorithm_1.semirobust(robust, standard.state_dict(), 4)[0]
    test = networks.test_images(PAIR.robust, 300)
    attacked = attacks.perturb(before, test.images, test.labels, "pgd", eps=0.1, step=0.05, steps=2, seed=0)
    found = record.metrics["before"]["pgd"]
    with torch.no_grad():
        right = before(attacked).argmax(1) == test.labels
    assert (verdicts(found["accuracy"]) == right.numpy()).all()
    twin = dependence.class_conditional(before, attacked, test.labels, n_last=4)
    assert [row["bits"] for row in found["dependence"]] == pytest.approx([item.bits for item in twin])


def test_what_a_record_holds(record):
    assert record.metrics["n"] == 300 and len(record.metrics["layers"]) == 5
    for when in ("before", "after"):
        by_attack = record.metrics[when]
        assert by_attack.keys() == set(ATTACKS)
        assert by_attack["autoattack"]["accuracy"]["accuracy"] <= by_attack["none"]["accuracy"]["accuracy"]
        for found in by_attack.values():
            pairs = [row["layers"] for row in found["dependence"]]
            assert pairs == [
                list(p) for p in zip(record.metrics["layers"], record.metrics["layers"][1:], strict=False)
            ]


@pytest.mark.parametrize("profile", paths.PROFILES)
def test_plans_are_the_first_trial_of_algorithm_1(profile):
    plan = next(p for p in algorithm_1.plans(profile) if p.name == figure_1._SETTINGS[profile][0])
    assert [config.n_fb for config in figure_1.by_size(profile)] == [12, 8, 4]
    for config in figure_1.by_size(profile):
        assert config.pair == plan.pair
        assert config.fine_tuning.config == plan.trial(config.n_fb, 0).fine_tune


def test_figure_3_has_every_seed_under_fgsm_the_first_trials_first():
    made = figure_1.by_seed("reference")
    assert [name for name, number, _ in made if number == 0][:3] == [
        f"cifar10-seed{seed}" for seed in range(3)
    ]
    assert [number for _, number, _ in made] == sorted(number for _, number, _ in made)
    assert all(config.attacks == ("fgsm",) and config.n_fb == 12 for _, _, config in made)
    hashes = {runs.config_hash(config) for config in figure_1.plans("reference")}
    assert len(hashes) == len(made) + 3
