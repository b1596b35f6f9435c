"""The bounds once more from other images: which images they are, and that they are kept apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from semirobust import conflict
from semirobust.experiments import bound_curves, extractor_networks, feature_bounds, other_images


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> feature_bounds.BoundsConfig:
    """Ten images of each class; the network is as initialised, and results go to a folder of their own."""
    monkeypatch.setenv("SEMIROBUST_RESULTS", str(tmp_path))
    untrained = {"log": {"epochs": [{"epoch": 1, "loss": 0.0, "train_accuracy": 0.5}]}}
    monkeypatch.setattr(
        extractor_networks,
        "trained",
        lambda network, **_: (extractor_networks.build(network).eval(), untrained),
    )
    return replace(feature_bounds.deep("quick", "digits", "fcnn-benign"), per_class=10)


def test_they_are_the_images_after_those_of_the_configuration(config: feature_bounds.BoundsConfig) -> None:
    both = feature_bounds.points(replace(config, per_class=20))
    first, second = feature_bounds.points(config), feature_bounds.points(config, skip=10)
    for whole, own, others in zip(both, first, second, strict=True):
        np.testing.assert_array_equal(whole, np.concatenate([own, others]))


def test_their_bounds_are_those_of_their_distances(config: feature_bounds.BoundsConfig) -> None:
    record = other_images.run_config(config, ("input", "linear_1"), "quick")
    positive, negative = feature_bounds.points(config, skip=10)
    half = np.linalg.norm(positive[:, None] - negative, axis=2) / 2
    expected = conflict.curve(half, config.budgets)
    found = bound_curves.bound(record, "input")
    assert found.points == (10, 10)
    np.testing.assert_allclose(found.cross_entropy_nats, expected.cross_entropy_nats, atol=1e-9)
    np.testing.assert_allclose(found.zero_one, expected.zero_one, atol=1e-12)
    assert not np.allclose(found.zero_one, feature_bounds_of(config).zero_one)


def feature_bounds_of(config: feature_bounds.BoundsConfig) -> bound_curves.Bound:
    own = feature_bounds.run_config(replace(config, layers=("input",)), "quick")
    return bound_curves.bound(own, "input")


def test_they_are_stored_under_their_own_name(config: feature_bounds.BoundsConfig) -> None:
    assert other_images.stored(config, ("input",), "quick") is None
    made = other_images.run_config(config, ("input",), "quick")
    stored = other_images.stored(config, ("input",), "quick")
    assert stored is not None and stored.metrics == made.metrics and stored.path == made.path
    assert other_images.stored(config, ("linear_1",), "quick") is None
    assert feature_bounds.stored(config, "quick") is None
    assert stored.config["network"]["dataset"] == "digits" and stored.config["audited"] == 0


def test_a_run_makes_what_the_notebooks_read(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str, str, tuple[str, ...]]] = []

    def kept(config: feature_bounds.BoundsConfig, layers: tuple[str, ...], profile: str, **_: object) -> None:
        made.append((config.network.dataset, config.network.label, layers))

    monkeypatch.setattr(other_images, "run_config", kept)
    other_images.run("reference")
    assert len(made) == len(set(made)) and {dataset for dataset, _, _ in made} == {"mnist", "fashion_mnist"}
    for dataset in ("mnist", "fashion_mnist"):
        for name in feature_bounds.EVERY_LAYER:
            label = feature_bounds.deep("reference", dataset, name).network.label
            assert (dataset, label, tuple(feature_bounds.NAMES)) in made
    known = feature_bounds.deep("reference", "mnist", "fcnn-trades-2")
    assert ("mnist", known.network.label, known.layers) in made


def test_what_was_searched_stays_until_the_result_is_on_disk(
    config: feature_bounds.BoundsConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = replace(config, per_class=4, layers=("relu_1",))

    def full(*_: object, **__: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as broken:
        broken.setattr("semirobust.runs.storage.write_json", full)
        with pytest.raises(OSError, match="no space left"):
            feature_bounds.run_config(small, "quick")
    assert list(feature_bounds._chunks(small).rglob("*.safetensors"))
    feature_bounds.run_config(small, "quick")
    assert not feature_bounds._chunks(small).exists()
