"""The experiments: configurations as the paper prints them, a tiny plan from end to end, and the tables made
of it."""

from __future__ import annotations

import importlib

import pytest
import torch

from semirobust import __main__, data, experiments, paths, runs, training
from semirobust.experiments import algorithm_1, networks, tables
from semirobust.experiments.verdicts import verdicts
from semirobust.training import PGD
from tests.cases import use_store


def test_the_paper_profile_is_the_printed_setting():
    recipe = networks.PAIRS["paper"]["cifar10-resnet18"].robust.train
    assert (recipe.epochs, recipe.lr, recipe.milestones, recipe.weight_decay, recipe.batch_size) == (
        120,
        0.01,
        (40, 80),
        5e-4,
        512,
    )
    assert recipe.attack == PGD(8 / 255, 2 / 255, 10)
    assert networks.PAIRS["paper"]["cifar10-resnet18"].standard.train.attack is None
    plan = algorithm_1.plans("paper")[0]
    assert (plan.trials, plan.fine_tune.epochs, plan.fine_tune.lr, plan.n_fb) == (10, 10, 0.001, (4, 12))


def test_the_two_networks_of_a_pair_differ_in_their_training_only():
    for pairs in networks.PAIRS.values():
        for pair in pairs.values():
            standard, robust = runs.canonical(pair.standard), runs.canonical(pair.robust)
            assert robust.pop("start", standard) == standard
            standard.pop("train"), robust.pop("train")
            assert standard == robust
    with pytest.raises(ValueError, match="in this order"):
        networks.Pair(pair.robust, pair.standard)


def test_a_robust_network_starts_from_the_trained_standard_one(tmp_path, monkeypatch):
    use_store(tmp_path, monkeypatch)
    recipe = training.short(1, lr=1e-9, batch_size=64, augment=False, weight_decay=0.0)
    common = {"dataset": "digits", "size": 16, "model": "resnet18", "width": 2, "holdout": 200}
    made = networks.pair(training.short(2, batch_size=64), PGD(0.1, 0.05, 1), adversarial=recipe, **common)
    assert made.robust.start == made.standard
    standard, robust = (networks.trained(config)[0] for config in (made.standard, made.robust))
    fresh = networks.build(made.robust)
    for (name, ours), start, none in zip(
        robust.named_parameters(), standard.parameters(), fresh.parameters(), strict=True
    ):
        torch.testing.assert_close(
            ours, start, msg=name
        )  # the rate is next to nothing: the start is what is left
        assert not torch.equal(start, none)


def test_configurations_without_a_start_keep_their_hashes():
    """Results stored before ``start`` was there are found under their names."""
    plan = next(plan for plan in algorithm_1.plans("reference") if plan.name == "cifar10-independent")
    assert "start" not in runs.canonical(plan.pair.robust)
    assert runs.config_hash(plan.baseline) == "aaf26a8e4de1"
    assert runs.config_hash(plan.trial(4, 0)) == "eed22de1b5d9"
    assert runs.config_hash(plan.trial(12, 2)) == "fa63db74ef9d"


def test_every_trial_has_its_own_hash():
    for profile in paths.PROFILES:
        configs = [
            plan.trial(n_fb, t)
            for plan in algorithm_1.plans(profile)
            for n_fb in plan.n_fb
            for t in range(plan.trials)
        ]
        assert len({runs.config_hash(config) for config in configs}) == len(configs)


def test_printed_tables():
    assert len(tables.printed(1)) == 8
    assert len(tables.printed(2)) == 12
    assert len(tables.printed(3)) == 24
    row = tables.printed(1)[0]
    assert (row["network"], row["acc_star"], row["rho_n"], row["rho_n7"]) == ("resnet18", 39.45, 3.31, None)
    rows = tables.printed_rows(["autoattack", "none"])
    assert [row["n_fb"] for row in rows] == [4, 12] * 8
    assert {round(row["cap"], 3) for row in rows if row["dataset"] == "cifar100"} == {6.644}


pytestmark = pytest.mark.one_store


@pytest.fixture(scope="module")
def outcome(store):
    """A plan of one-epoch networks of width 2 and one trial of one epoch."""
    recipe = training.short(1, lr=0.05, batch_size=64, augment=False)
    pair = networks.pair(
        recipe, PGD(0.1, 0.05, 2), dataset="digits", size=16, model="resnet18", width=2, holdout=100
    )
    fine_tune = algorithm_1.fine_tuning(pair, epochs=1, lr=0.01, batch_size=32)
    plan = algorithm_1.Plan(
        "tiny", pair, (1, 4), 1, algorithm_1.Sizes(64, 100, 300, 20, steps=3, queries=20), fine_tune
    )
    with pytest.MonkeyPatch.context() as patch:
        use_store(store, patch)
        return algorithm_1.run_plan(plan, "quick")


@pytest.fixture
def only_this_plan(outcome, monkeypatch):
    monkeypatch.setattr(algorithm_1, "plans", lambda profile: [outcome.plan] if profile == "quick" else [])


def test_a_plan_stores_what_the_tables_need(outcome):
    assert algorithm_1.stored(outcome.plan, "quick").trials.keys() == {1, 4}
    assert algorithm_1.stored(outcome.plan, "reference") is None
    for n_fb in (1, 4):
        (record,) = outcome.trials[n_fb]
        assert [row["epoch"] for row in record.metrics["epochs"]] == [0, 1]
        for row in record.metrics["epochs"]:
            assert len(row["dependence_bits"]) == len(row["control_bits"]) == len(row["cap_bits"]) == n_fb
            assert row["test"]["pgd"]["n"] == 300
        assert record.metrics["n_fine_tune"] == 64
    baseline = outcome.baseline.metrics
    assert baseline["accuracy"].keys() == {"standard", "robust", "semirobust_1", "semirobust_4"}
    assert baseline["robust_validation"]["held_out"] is True
    robust = baseline["accuracy"]["robust"]["pgd"]
    assert verdicts(robust).mean() == pytest.approx(robust["accuracy"])
    start = outcome.trials[4][0].metrics["epochs"][0]["test_accuracy"]["pgd"]
    assert start == baseline["accuracy"]["semirobust_4"]["pgd"]["accuracy"]


def test_stored_results_are_loaded_not_computed(outcome, monkeypatch):
    monkeypatch.setattr(algorithm_1, "run_trial", lambda config, **_: pytest.fail("computed again"))
    monkeypatch.setattr(algorithm_1, "run_baseline", lambda config, **_: pytest.fail("computed again"))
    again = algorithm_1.run_plan(outcome.plan, "quick")
    assert again.baseline.metrics == outcome.baseline.metrics


@pytest.mark.parametrize("reading", ["printed", "sound"])
def test_rows(outcome, reading):
    rows = tables.our_rows(outcome, ["pgd", "autoattack"], reading=reading, profile="quick")
    assert [(row["n_fb"], row["attack"]) for row in rows] == [
        (1, "pgd"),
        (1, "autoattack"),
        (4, "pgd"),
        (4, "autoattack"),
    ]
    assert [row["n"] for row in rows] == [300, 20, 300, 20]
    for row in rows:
        assert row["difference"] == pytest.approx(row["acc_tilde"] - row["acc_star"], abs=1e-9)
        assert (row["interval"] is None) == (reading == "printed")
        assert len(row["rho_n"]) == 2, "an estimate and its control"
        assert (row["rho_n3"] is None) == (row["n_fb"] == 1)
        assert "T = 1" in row["scale"] and "3 steps and 20 queries" in row["scale"]
    assert len(tables.as_markdown(rows).splitlines()) == 2 + len(rows)
    assert tables.as_markdown(rows, ("source", "n")).count("|") == 3 * (2 + len(rows))


def test_side_by_side_puts_printed_rows_first(only_this_plan):
    rows = tables.side_by_side(["quick", "reference"], ["pgd"])
    sources = [row["source"] for row in rows if row["n_fb"] == 4]
    assert sources == ["printed, Table 3"] * 4 + [
        "ours, quick, printed reading",
        "ours, quick, sound reading",
    ]
    assert tables.not_run(["quick", "reference"]) == []


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ValueError, match="known: algorithm_1"):
        experiments.main("table_9", "quick")
    with pytest.raises(ValueError, match="quick, reference, paper"):
        experiments.main("algorithm_1", "quik")


def test_an_unknown_reading_lists_the_known_ones(outcome):
    with pytest.raises(ValueError, match="known: printed, sound"):
        tables.reading_of(outcome, 4, "loud")


def test_a_corrupt_training_checkpoint_is_reported_and_made_again(tmp_path):
    recipe = training.short(1, lr=0.05, batch_size=64, augment=False)
    config = networks.pair(
        recipe, PGD(0.1, 0.05, 1), dataset="digits", size=16, model="resnet18", width=2
    ).standard
    path = tmp_path / "training.safetensors"
    networks._train(config, tmp_path, lambda line: None)
    path.write_bytes(path.read_bytes()[:-100])
    lines = []
    with pytest.warns(RuntimeWarning, match="training starts again"):
        state, log = networks._train(config, tmp_path, lines.append)
    assert path.with_suffix(".corrupt").exists() and len(lines) == len(log["epochs"]) == 1
    again, _ = networks._train(config, tmp_path, lines.append)  # nothing left to train
    assert len(lines) == 1 and all(torch.equal(state[name], again[name]) for name in state)


def test_the_command_runs_an_experiment_by_name(capsys):
    assert __main__.main(["experiment", "table_9", "--profile", "quick"]) == 2
    assert "known: algorithm_1" in capsys.readouterr().err


def test_networks_to_commit_are_measured_as_rounded(tmp_path, monkeypatch):
    recipe = training.short(1, lr=0.05, batch_size=64, augment=False)
    made = networks.pair(recipe, PGD(0.1, 0.05, 1), dataset="digits", size=16, model="resnet18", width=2)
    exact, _ = networks.trained(made.standard)
    monkeypatch.setitem(networks.COMMITTED, runs.config_hash(made.standard), "tiny")
    rounded, _ = networks.trained(made.standard)
    for name, value in exact.state_dict().items():
        wanted = value.half().float() if value.is_floating_point() else value
        assert torch.equal(rounded.state_dict()[name], wanted)
    assert not torch.equal(exact.fc.weight, rounded.fc.weight)


@pytest.mark.parametrize("name", experiments.EXPERIMENTS)
@pytest.mark.parametrize("profile", paths.PROFILES)
def test_what_is_planned_and_stored_is_known_without_any_data(name, profile, monkeypatch, tmp_path):
    """Notebooks of the quick profile ask for the reference results on machines that have no CIFAR-10."""

    def no_data(*args, **kwargs):
        raise AssertionError("a plan loads data")

    monkeypatch.setattr(data, "load", no_data)
    monkeypatch.setattr(networks, "_load", no_data)
    module = importlib.import_module(f"semirobust.experiments.{name}")
    plans = module.plans(profile)
    assert plans
    if hasattr(module, "run_plan"):
        monkeypatch.setenv("SEMIROBUST_RESULTS", str(tmp_path))
        assert all(module.stored(plan, profile) is None for plan in plans)


def test_stored_outcomes_come_with_their_profile_the_one_asked_for_first(monkeypatch):
    calls = []

    def stored(plan, where):
        calls.append((where, plan.name))
        return f"outcome of {plan.name}" if plan.name == "cifar10-independent" else None

    monkeypatch.setattr(algorithm_1, "stored", stored)
    found = experiments.stored_outcomes("algorithm_1", "paper")
    assert found == [("reference", "outcome of cifar10-independent")]
    assert calls == [(where, p.name) for where in ("paper", "reference") for p in algorithm_1.plans(where)]
    with pytest.raises(ValueError, match="unknown profile"):
        experiments.stored_outcomes("algorithm_1", "fast")


def test_every_committed_result_is_found_by_a_plan(monkeypatch):
    """Results are found by the hash of their configuration, which must be the same on every processor.

    Nothing is computed, whether a result is stored or not.
    """
    wanted = set()

    def noted(config, function, *, experiment, profile):
        path = paths.PACKAGE.parent / "results" / profile / experiment / f"{runs.config_hash(config)}.json"
        wanted.add(path)
        return runs.Record(runs.canonical(config), {}, {}, path)

    monkeypatch.setattr(runs, "run", noted)
    monkeypatch.setattr(runs.store, "run", noted)  # `run_all` finds it there
    for name in experiments.EXPERIMENTS:
        experiments.main(name, "reference")
    committed = set((paths.PACKAGE.parent / "results" / "reference").glob("*/*.json"))
    assert committed and committed <= wanted
