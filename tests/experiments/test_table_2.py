"""Table 2: the plans, a tiny run from end to end with its four cells and controls, and the rows."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from semirobust import attacks, experiments, layers, paths, readouts, training
from semirobust.experiments import networks, table_2, tables, verdicts
from semirobust.experiments.algorithm_2 import FITS, READOUTS, ReadoutConfig, Sizes, run_readouts
from semirobust.experiments.table_2 import ATTACKS
from semirobust.readouts import algorithm_2
from semirobust.training import PGD
from tests.cases import use_store

SIZES = Sizes(60, 20, 10, steps=2, queries=10)


pytestmark = pytest.mark.one_store


@pytest.fixture(scope="module")
def outcome(store):
    """A network of width 2, trained for two epochs; all attacks, AutoAttack on one readout."""
    recipe = training.short(2, lr=0.05, batch_size=64, augment=False)
    pair = networks.pair(recipe, PGD(0.1, 0.05, 2), dataset="digits", model="resnet18", width=2, holdout=100)
    with pytest.MonkeyPatch.context() as patch:
        use_store(store, patch)
        return table_2.run_plan(table_2.Plan("tiny", pair.robust, SIZES, ("algorithm_2",)), "quick")


def test_plans():
    assert [plan.name for plan in table_2.plans("quick")] == ["digits"]
    reference = {plan.name: plan for plan in table_2.plans("reference")}
    assert {"cifar10-independent", "cifar10-width64"} <= reference.keys()
    full = reference["cifar10-width64"]
    assert (full.network.width, full.sizes.test, full.sizes.autoattack) == (64, 2000, 500)
    assert reference["cifar10-independent"].sizes.test == 2000
    assert [plan.network.model for plan in table_2.plans("paper")] == ["resnet18"]
    for profile in paths.PROFILES:
        for plan in table_2.plans(profile):
            assert plan.network.train.attack is not None
            assert plan.config("pgd").n_fa == (17, 13, 9)
            for attack in ATTACKS:  # whole batches, each with as many images as classes
                assert plan.sizes.images(attack) % plan.sizes.batch == 0
    assert "table_2" in experiments.EXPERIMENTS


def test_the_printed_table_is_as_printed_and_its_differences_add_up():
    rows = table_2.printed_rows()
    assert [(row["attack"], row["n_fa"]) for row in rows] == [(a, n) for a in ATTACKS for n in (17, 13, 9)]
    with (Path(tables.__file__).parent / "printed" / "table2.csv").open() as file:
        stored = list(csv.DictReader(file))
    assert [float(line["acc_tilde"]) for line in stored] == [row["acc_tilde"] for row in rows]
    assert all(abs(row["acc_tilde"] - row["acc_star"] - row["difference"]) < 0.011 for row in rows)


def test_every_cell_is_there(outcome):
    for attack in ATTACKS:
        wanted = READOUTS.keys() if attack != "autoattack" else {"algorithm_2"}
        n = SIZES.images(attack)
        for n_fa in (17, 13, 9):
            row = outcome.row(attack, n_fa)
            assert row["readouts"].keys() == wanted
            for cells in row["readouts"].values():
                for fit in FITS:
                    for made in ("transfer", "adaptive"):
                        summary = cells[fit][made]
                        assert summary["n"] == n
                        assert verdicts.verdicts(summary).mean() == pytest.approx(summary["accuracy"])
            assert row["readouts"]["algorithm_2"]["scored"]["out_of_batch"]["n"] == n
            assert all(len(row["controls"][name]) == 5 for name in ("permuted", "noise", "random_weights"))
        assert outcome.records[attack].metrics["batches"] == n // 10
        clean = verdicts.verdicts(outcome.star("none"))[:n]
        attacked = verdicts.verdicts(outcome.star(attack, "adaptive"))
        assert not (attacked & ~clean).any()  # what is misclassified already stays so


def test_the_cells_are_those_of_the_public_functions(outcome):
    """The shared products and passes of a run give what one call after the other gives."""
    plan = outcome.plan
    net = networks.trained(plan.network)[0]
    test = networks.test_images(plan.network, 120)
    attacked = attacks.perturb(net, test.images, test.labels, "pgd", eps=0.1, step=0.05, steps=2)
    names = layers.weight_layers(net)[:13]
    for fit, at in (("scored", slice(0, 60)), ("other", slice(60, 120))):
        source = readouts.Activations(net, names, attacked[at])
        for readout, (way, kind) in READOUTS.items():
            goal = algorithm_2.targets(net, attacked[at], test.labels[at], kind)
            if way == "algorithm_2":
                found = algorithm_2.algorithm_2(source, goal, batch_size=10)
            else:
                found = algorithm_2.ridge(source, goal, validation=torch.arange(60) % 5 == 4)
            model = found.readout(net)
            with torch.no_grad():
                right = (model(attacked[:60]).argmax(1) == test.labels[:60]).numpy()
            cell = outcome.row("pgd", 13)["readouts"][readout][fit]
            assert (right != verdicts.verdicts(cell["transfer"])).sum() <= 1  # a tie may round the other way
            again = attacks.evaluate(
                model, test.images[:60], test.labels[:60], "pgd", eps=0.1, step=0.05, steps=2
            )
            assert abs(again.accuracy - cell["adaptive"]["accuracy"]) <= 2 / 60
            assert cell["strength"] == found.solution.strength
    assert outcome.row("pgd", 13)["features"] == len(found.weight)


def test_stopping_at_the_first_success_changes_no_verdict_of_the_network_but_the_images(outcome):
    assert outcome.stopping.keys() == {60, 20}
    for images, record in outcome.stopping.items():
        rules = record.metrics
        assert rules.keys() == {"all_steps", "first_success"}
        for cells in rules.values():
            assert cells.keys() == {"star", "scored", "out_of_batch", "other"}
            assert {summary["n"] for summary in cells.values()} == {images}
        clean = verdicts.verdicts(outcome.star("none"))[:images]
        stopped = verdicts.verdicts(rules["first_success"]["star"])
        assert not (stopped & ~clean).any()  # what is misclassified stays where it is
    full = outcome.stopping[60].metrics["all_steps"]
    assert full["star"]["correct"] == outcome.star("pgd")["correct"]
    row = outcome.row("pgd", 17)["readouts"]["algorithm_2"]
    for fit in FITS:
        difference = verdicts.verdicts(full[fit]) != verdicts.verdicts(row[fit]["transfer"])
        assert difference.sum() <= 1
    assert full["out_of_batch"]["correct"] == row["scored"]["out_of_batch"]["correct"]


def test_noise_leaks_what_the_law_says_and_nothing_to_other_images(outcome):
    """With far more features than images the leak is complete: that is what the control is there to show."""
    for attack in ("none", "pgd"):
        for n_fa in (17, 13, 9):
            row = outcome.row(attack, n_fa)
            controls = row["controls"]
            d = row["features"]
            law = readouts.leak_accuracy(d, 10, 6)
            assert np.mean(controls["noise"]) > law - 0.15
            spread = np.sqrt(0.25 / (5 * 60))
            assert np.mean(controls["noise_held_out"]) < controls["chance"] + 4 * spread
            assert np.mean(controls["random_weights"]) < controls["chance"] + 4 * spread


def test_rows(outcome):
    rows = table_2.our_rows(outcome, "algorithm_2", profile="quick")
    assert [(row["attack"], row["n_fa"]) for row in rows] == [(a, n) for a in ATTACKS for n in (17, 13, 9)]
    for row in rows:
        assert row.keys() == table_2.COLUMNS.keys()
        assert row["difference"] == pytest.approx(row["acc_tilde"] - row["acc_star"], abs=1e-9)
        low, high = row["interval"]
        assert low < high
        assert row["n"] == (20 if row["attack"] == "autoattack" else 60)
        if row["attack"] == "none":
            assert (
                row["acc_tilde"] == row["scored_adaptive"] and row["other_transfer"] == row["other_adaptive"]
            )
    assert len(table_2.our_rows(outcome, "ridge", profile="quick")) == 9  # AutoAttack is not aimed at it
    assert "60 images fitted and 60 scored (AutoAttack 20)" in table_2.scale(outcome.plan)
    second = replace(outcome.plan, network=replace(outcome.plan.network, seed=2))
    again = table_2.our_rows(replace(outcome, plan=second), "ridge", profile="quick")
    assert {row["source"] for row in again} == {"ours, quick, seed 2"}


def test_stored_runs_are_loaded_and_a_missing_one_is_said(outcome, monkeypatch):
    for name in ("run_readouts", "run_stopping"):
        monkeypatch.setattr(table_2, name, lambda config, **_: pytest.fail("computed again"))
    again = table_2.run_plan(outcome.plan, "quick")
    assert again.records["pgd"].metrics == outcome.records["pgd"].metrics
    assert table_2.stored(outcome.plan, "quick") is not None
    assert table_2.stored(outcome.plan, "reference") is None
    assert table_2.not_run(["paper"]) == ["paper: resnet18, width 64 on cifar10"]


def test_bad_configurations_are_refused_before_any_training(outcome, monkeypatch):
    monkeypatch.setattr(networks, "trained", lambda config, **_: pytest.fail("trained"))
    network = outcome.plan.network
    standard = replace(network, train=replace(network.train, attack=None))
    with pytest.raises(ValueError, match="adversarially trained"):
        run_readouts(ReadoutConfig(standard, "pgd", SIZES))
    with pytest.raises(ValueError, match="two sets of 251 test images are needed; digits has 500"):
        run_readouts(ReadoutConfig(network, "pgd", replace(SIZES, test=251)))
