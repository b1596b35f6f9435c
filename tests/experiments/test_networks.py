"""The committed networks: whole, of the configurations that they are named for, and as good as the stored
results say."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from semirobust import attacks, paths, runs
from semirobust.experiments import networks, table_2, verdicts

FOLDER = paths.PACKAGE / "weights"
CONFIGS = {
    networks.COMMITTED[runs.config_hash(config)]: config
    for profile in ("quick", "reference")
    for pair in networks.PAIRS[profile].values()
    for config in (pair.standard, pair.robust)
    if runs.config_hash(config) in networks.COMMITTED
}
PRESENT = sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def test_the_adversarially_trained_network_is_there_and_nothing_without_a_configuration():
    assert "cifar10-resnet18-width16-pgd" in PRESENT
    assert set(PRESENT) <= set(CONFIGS)
    assert len(CONFIGS) == len(networks.COMMITTED)


@pytest.mark.parametrize("name", PRESENT)
def test_a_committed_network_is_what_its_name_says(name, monkeypatch):
    config, state = CONFIGS[name], runs.reference_weights(name)
    tensors, meta = runs.load_tensors(FOLDER / f"{name}.safetensors")
    assert meta["config"] == runs.canonical(config)
    assert meta["git"]["dirty"] is False
    epochs = [epoch["epoch"] for epoch in meta["log"]["epochs"]]
    assert epochs == list(range(1, config.train.epochs + 1))
    assert {t.dtype for t in tensors.values()} == {torch.float16, torch.int64}
    assert all(torch.isfinite(t).all() for t in state.values())

    def no_training(*args, **kwargs):
        raise AssertionError("a committed network is trained again")

    monkeypatch.setattr(runs, "network", no_training)
    monkeypatch.setattr(networks, "_load", lambda *args: _ShapeOnly(args[0]))  # needs no data
    model, how = networks.trained(config)
    assert how == {"weights": name} and not model.training
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


class _ShapeOnly:
    def __init__(self, dataset):
        self.classes = tuple(range(10))
        self.shape = (1, 16, 16) if dataset == "digits" else (3, 32, 32)


@pytest.mark.data("cifar10")
def test_the_committed_network_has_the_verdicts_that_are_stored(monkeypatch):
    monkeypatch.delenv("SEMIROBUST_RESULTS", raising=False)
    (plan,) = (plan for plan in table_2.plans("reference") if plan.name == "cifar10-independent-seed1")
    outcome = table_2.stored(plan, "reference")
    assert outcome is not None
    model, _ = networks.trained(plan.network)
    test = networks.test_images(plan.network, 500)
    for attack in ("none", "fgsm"):
        found = attacks.evaluate(model, test.images, test.labels, attack, eps=8 / 255, seed=0)
        stored = verdicts.verdicts(outcome.star(attack))[:500]
        assert (found.correct.numpy() != stored).mean() <= 0.01  # sums in another order


def test_weights_of_another_configuration_are_not_used(monkeypatch):
    pair = networks.PAIRS["quick"]["digits"]
    other = replace(pair.robust, holdout=100)
    name = networks.COMMITTED[runs.config_hash(pair.robust)]
    monkeypatch.setitem(networks.COMMITTED, runs.config_hash(other), name)
    with pytest.raises(runs.CorruptFile, match="another configuration"):
        networks.trained(other)
