"""The networks of the paper on fixed feature extractors: which there are, and that they are made once."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from semirobust import runs, training
from semirobust.experiments import extractor_networks, networks
from semirobust.extractors import as_layers
from semirobust.training import PGDL2, TRADES


def test_the_networks_trained_before_keep_their_names() -> None:
    """Their results and weights are stored under these; a field added to a configuration changes them."""
    expected = {
        networks.DIGITS_TRIALS: ("18683b1602d6", "a584b33cd454"),
        networks.PAIRS["reference"]["cifar10-independent"]: ("ee7475cbc937", "21406de7a900"),
        networks.PAIRS["reference"]["cifar10-seed0"]: ("884267449585", "fbcfec7bfce2"),
    }
    for pair, names in expected.items():
        assert (runs.config_hash(pair.standard), runs.config_hash(pair.robust)) == names


QUICK_WIDTHS = {"fcnn": 90, "fcnn_small": 45, "fcnn_smaller": 22, "cnn": 6}


@pytest.mark.parametrize(
    ("profile", "datasets"), [("quick", {"digits"}), ("reference", {"mnist", "fashion_mnist"})]
)
def test_every_network_of_the_figures_is_there(profile: str, datasets: set[str]) -> None:
    found = extractor_networks.NETWORKS[profile]
    assert {config.dataset for config in found.values()} == datasets
    assert len({runs.config_hash(config) for config in found.values()}) == len(found) == 14 * len(datasets)
    for dataset in datasets:
        widths = {n: found[f"{dataset}-{n}-pgd-2"].width for n in extractor_networks.ARCHITECTURES}
        printed_widths = {"fcnn": 300, "fcnn_small": 150, "fcnn_smaller": 75, "cnn": 20}
        assert widths == (QUICK_WIDTHS if profile == "quick" else printed_widths)
        assert found[f"{dataset}-fcnn-benign"].train.attack is None
        printed = found[f"{dataset}-fcnn-pgd-2"].train.attack
        assert isinstance(printed, PGDL2) and printed.eps == 2.0
        for eps in (1, 2, 3):
            trades = found[f"{dataset}-fcnn-trades-{eps}"].train.attack
            assert isinstance(trades, TRADES) and (trades.eps, trades.norm) == (eps, "l2")
    for config in found.values():
        assert config.classes == (3, 7) and not config.train.augment
        assert config.train.precision == "float32"  # the same network with and without an accelerator


def test_networks_of_one_architecture_differ_in_the_attack_only() -> None:
    for found in extractor_networks.NETWORKS.values():
        for config in found.values():
            partner = next(
                other
                for other in found.values()
                if other.train.attack is None
                and (other.dataset, other.model, other.width) == (config.dataset, config.model, config.width)
            )
            assert replace(config, train=replace(config.train, attack=None)) == partner


def test_the_paper_profile_has_the_networks_of_the_reference_profile() -> None:
    assert extractor_networks.NETWORKS["paper"] == extractor_networks.NETWORKS["reference"]


def test_digits_are_three_against_seven_at_the_size_of_mnist() -> None:
    config = extractor_networks.NETWORKS["quick"]["digits-fcnn-benign"]
    for split in ("train", "test"):
        images = extractor_networks.images(config, split)
        assert images.shape == (1, 28, 28) and images.classes == ("3", "7")
        assert set(images.labels.tolist()) == {0, 1}


def test_labels() -> None:
    found = extractor_networks.NETWORKS["quick"]
    assert found["digits-fcnn-benign"].label == "fcnn, width 90, benign"
    assert found["digits-fcnn_small-pgd-2"].label == "fcnn, width 45, PGD at 2"
    assert found["digits-cnn-trades-2"].label == "cnn, width 6, TRADES at 2"


@pytest.mark.parametrize("name", ["digits-fcnn-trades-2", "digits-cnn-benign"])
def test_a_network_is_trained_once_and_exported(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = extractor_networks.NETWORKS["quick"][name]
    config = replace(config, width=4, train=replace(config.train, epochs=2))
    lines: list[str] = []
    model, meta = extractor_networks.trained(config, say=lines.append)
    assert not model.training and len(meta["log"]["epochs"]) == 2 and meta["log"]["n_train"] == 253
    assert [line.split(":")[0] for line in lines] == [f"{config.label} on digits 3 against 7"] * 2
    monkeypatch.setattr(training, "train", lambda *_, **__: pytest.fail("trained again"))
    again, _ = extractor_networks.trained(config)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    images = extractor_networks.images(config, "test")
    x = images.batch(slice(0, 20))
    weight, bias = as_layers(model, images.shape, depth=1)[0]
    first = "fc1" if config.model == "fcnn" else "bn1"
    seen: list[torch.Tensor] = []
    model.get_submodule(first).register_forward_hook(lambda _m, _i, out: seen.append(out.flatten(1)))
    model(x)
    found = torch.from_numpy((weight @ x.double().flatten(1).numpy().T).T + bias)
    torch.testing.assert_close(found, seen[0].double(), atol=1e-4, rtol=1e-4)
