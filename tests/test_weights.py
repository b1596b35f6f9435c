"""The committed networks: whole, of the configurations that they are named for, and as good as the stored
results say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from semirobust import runs, storage
from semirobust.experiments import networks

FOLDER = Path(__file__).resolve().parents[1] / "weights"
CONFIGS = {
    networks.COMMITTED[runs.config_hash(config)]: config
    for pair in networks.PAIRS["reference"].values()
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
    tensors, meta = storage.load_tensors(FOLDER / f"{name}.safetensors")
    assert meta["config"] == runs.canonical(config)
    assert meta["git"]["dirty"] is False
    epochs = [epoch["epoch"] for epoch in meta["log"]["epochs"]]
    assert epochs == list(range(1, config.train.epochs + 1))
    assert {t.dtype for t in tensors.values()} == {torch.float16, torch.int64}
    assert all(torch.isfinite(t).all() for t in state.values())

    def no_training(*args, **kwargs):
        raise AssertionError("a committed network is trained again")

    monkeypatch.setattr(runs, "network", no_training)
    monkeypatch.setattr(networks, "_load", lambda *args: _ShapeOnly())  # needs no data
    model, how = networks.trained(config)
    assert how == {"weights": name} and not model.training
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


class _ShapeOnly:
    classes, shape = tuple(range(10)), (3, 32, 32)
