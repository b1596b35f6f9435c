"""Algorithm 1 by the paper's protocol: a trial that resumes, and its causal controls."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch
from torch import nn

from semirobust import attacks, layers, runs, training
from semirobust.experiments import algorithm_1, controls, networks
from semirobust.experiments.algorithm_1 import Plan, Sizes, TrialConfig
from semirobust.training import PGD
from tests.cases import one_thread, use_store

RECIPE = training.short(1, lr=0.05, batch_size=64, augment=False)
PAIR = networks.pair(
    RECIPE, PGD(0.1, 0.05, 1), dataset="digits", size=16, model="resnet18", width=2, holdout=100
)
SIZES = Sizes(128, 64, 400, 0)
PLAN = Plan("tiny", PAIR, (4,), 1, SIZES, algorithm_1.fine_tuning(PAIR, epochs=3, lr=0.01, batch_size=64))

pytestmark = pytest.mark.one_store


@pytest.fixture(scope="module")
def baseline(store):
    with pytest.MonkeyPatch.context() as patch, one_thread():
        use_store(store, patch)
        robust = networks.trained(PAIR.robust)[0]
    test = networks.test_images(PAIR.robust, SIZES.test)
    correct = attacks.evaluate(robust, test.images, test.labels, "none").correct
    accuracy = dict.fromkeys((*algorithm_1.ATTACKS, "autoattack"), algorithm_1.summary(correct))
    return {"accuracy": {"robust": accuracy}, "robust_validation": accuracy["none"]}


def measured(metrics):
    return [{key: row[key] for key in row if key != "seconds"} for row in metrics["epochs"]]


def test_a_trial_that_was_interrupted_ends_like_one_that_was_not(baseline, tmp_path, monkeypatch):
    config = PLAN.trial(4, 0)
    with one_thread():
        whole = algorithm_1.run_trial(config, baseline)
        for stop in (1, 2):
            shutil.rmtree(algorithm_1._folder(config))

            def interrupt(line, stop=stop):
                if f"epoch {stop} of" in line:
                    raise KeyboardInterrupt

            with pytest.raises(KeyboardInterrupt):
                algorithm_1.run_trial(config, baseline, say=interrupt)
            again = algorithm_1.run_trial(config, baseline)
            assert measured(again) == measured(whole)
            assert again["stops"] == whole["stops"]


def test_what_is_frozen_and_what_fine_tuning_starts_from(baseline, monkeypatch):
    seen = {}
    original = training.algorithm_1.trial

    def watched(front, back, n_fb, *args, **options):
        seen["front"], seen["back"] = front, back
        for epoch, model in original(front, back, n_fb, *args, **options):
            seen["model"] = model
            yield epoch, model

    monkeypatch.setattr(training.algorithm_1, "trial", watched)
    standard, robust = (networks.trained(config)[0] for config in (PAIR.standard, PAIR.robust))
    for f_a, f_b in controls.SWAPS:
        config = PLAN.control(4, 0, f_a, f_b)
        algorithm_1.run_trial(config, baseline)
        split = layers.Split(seen["model"], 4)
        state = seen["front"].state_dict()
        assert all(torch.equal(seen["model"].state_dict()[name], state[name]) for name in split.names_a)
        wanted = {"standard": standard, "robust": robust}.get(f_a)
        if wanted is not None:
            assert torch.equal(state["conv1.weight"], wanted.state_dict()["conv1.weight"])
        started = torch.equal(seen["back"]["fc.weight"], standard.state_dict()["fc.weight"])
        assert started == (f_b == "standard")


def test_a_random_network_passes_its_signal_on():
    network = algorithm_1.random_network(PLAN.control(4, 0, "random", "standard"))
    x = networks.training_images(PAIR.standard).subset(range(256)).images
    outputs = layers.activations(network, x, layers.weight_layers(network))
    spread = [float(values.std()) for values in outputs.values()]
    assert all(0.05 < value < 50 for value in spread)
    assert not network.training
    assert all(module.momentum == 0.1 for module in network.modules() if isinstance(module, nn.BatchNorm2d))


def test_patience_stops_a_long_trial():
    # epoch 0, before fine-tuning, does not count
    rows = [{"validation_accuracy": value} for value in (0.9, 0.1, 0.3, 0.2, 0.3, 0.1)]
    assert [algorithm_1._stopped_rising(rows[:n], 3) for n in (4, 5, 6)] == [False, False, True]
    assert PLAN.long_trial(4).patience == 5


def test_unknown_parts_are_refused():
    with pytest.raises(ValueError, match="f_a is robust, standard or random"):
        TrialConfig(PAIR, 4, SIZES, PLAN.fine_tune, f_a="other")


def test_controls_have_hashes_of_their_own():
    made = {runs.config_hash(config) for _, _, config in controls.plans("reference")}
    assert len(made) == len(controls.plans("reference")) == 6 * 18 + 2
    trials = [plan.trial(n_fb, 0) for plan in algorithm_1.plans("reference") for n_fb in plan.n_fb]
    assert not made & {runs.config_hash(config) for config in trials}


def test_a_damaged_part_starts_the_trial_again(baseline):
    config = PLAN.trial(4, 0)
    folder = algorithm_1._folder(config)
    with one_thread():
        shutil.rmtree(folder, ignore_errors=True)
        whole = algorithm_1.run_trial(config, baseline)
        (folder / "epoch_1.json").write_text("{ torn")
        with pytest.warns(RuntimeWarning, match="the trial starts again"):
            again = algorithm_1.run_trial(config, baseline)
    assert measured(again) == measured(whole)
    assert list(folder.parent.glob(f"{folder.stem}.*.corrupt"))


def test_a_trial_leaves_its_network_in_the_cache(baseline, monkeypatch):
    config = PLAN.trial(4, 0)
    with one_thread():
        algorithm_1.run_trial(config, baseline)
    last = runs.load_tensors(algorithm_1._folder(config) / "epoch_3.safetensors")[0]
    monkeypatch.setattr(training.algorithm_1, "trial", None)  # nothing is trained
    model, _ = networks.fine_tuned(
        PAIR, 4, config.fine_tune, limit=SIZES.fine_tune, validation=SIZES.validation
    )
    assert all(torch.equal(value, last[name]) for name, value in model.state_dict().items())


def test_interrupted_baselines_keep_their_parts(tmp_path, monkeypatch):
    config = replace(PLAN, sizes=replace(SIZES, autoattack=20, steps=2, queries=5)).baseline
    with one_thread():
        whole = algorithm_1.run_baseline(config)
        for part in list(algorithm_1._folder(config).glob("robust_*")):
            part.unlink()
        calls = []
        original = algorithm_1._evaluate
        monkeypatch.setattr(algorithm_1, "_evaluate", lambda *args: calls.append(args[-1]) or original(*args))
        again = algorithm_1.run_baseline(config)
    assert again == whole
    assert len(calls) == 5 + 1  # the robust network under five attacks, and its validation images
