"""The subsampling experiment: same network, same images, fewer of each class."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from semirobust import attacks, dependence, layers, runs, training
from semirobust.experiments import networks, saturation
from semirobust.experiments.saturation import SaturationConfig
from semirobust.training import PGD

ATTACK = PGD(0.1, 0.05, 2)


def tiny() -> networks.NetworkConfig:
    recipe = training.short(1, lr=0.05, batch_size=64, augment=False)
    return networks.pair(recipe, ATTACK, dataset="digits", size=16, model="resnet18", width=2).standard


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> runs.Record:
    config = SaturationConfig(tiny(), ATTACK, (20, 39, 40), 2, shuffles=1)
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("RESULTS", "CACHE"):
            patch.setenv(f"SEMIROBUST_{variable}", str(tmp_path_factory.mktemp(variable.lower())))
        patch.setattr(saturation, "plans", lambda profile: [config])
        (first,) = saturation.run("quick")
        (again,) = saturation.run("quick")
        assert again.path == first.path and saturation.stored("quick")[0].metrics == first.metrics
        assert saturation.stored("reference") == []
        model, _ = networks.trained(config.network)
        test = networks.test_images(config.network)
        attacked = attacks.perturb(
            model, test.images, test.labels, "pgd", seed=0, eps=0.1, step=0.05, steps=2
        )
        chosen = torch.from_numpy(saturation.subsample(test.labels.numpy(), 39, [0, 39, 1]))
        first.meta["twin"] = dependence.class_conditional(
            model, attacked[chosen], test.labels[chosen], shuffles=1, seed=1
        )
        with torch.no_grad():
            first.meta["accuracy"] = float((model(attacked).argmax(1) == test.labels).double().mean())
        first.meta["layers"] = layers.weight_layers(model)
    return first


def test_rows_are_the_dependence_of_the_subsample(record: runs.Record) -> None:
    row = next(r for r in record.metrics["rows"] if (r["per_class"], r["draw"]) == (39, 1))
    twin = record.meta["twin"]
    assert row["bits"] == pytest.approx([item.bits for item in twin], abs=1e-9)
    assert row["control_bits"] == pytest.approx([item.control_bits for item in twin], abs=1e-9)
    assert record.metrics["layers"] == [list(pair) for pair in pairwise(record.meta["layers"])]
    assert record.metrics["attacked_accuracy"] == pytest.approx(record.meta["accuracy"])
    assert record.metrics["n"] == 500


def test_caps_and_projections_follow_the_number_of_images(record: runs.Record) -> None:
    caps, bits = saturation.by_size(record, "cap_bits"), saturation.by_size(record)
    assert list(caps) == [20, 39, 40] and bits[20].shape == (2, 17)
    for n, values in caps.items():
        assert values == pytest.approx(math.log2(n))
        assert (bits[n] <= values + 1e-9).all()
    assert record.metrics["projections"] == {"20": 1, "39": 1, "40": 2}
    # one more image of each class is one more projection: far more than the cap gains
    gained = bits[40].mean(0) - bits[39].mean(0)
    assert np.median(gained) > 0.5 > 10 * math.log2(40 / 39)


def test_drop(record: runs.Record) -> None:
    found = saturation.drop(record, 40, 20)
    bits, control = saturation.by_size(record), saturation.by_size(record, "control_bits")
    assert found["bits"] == pytest.approx(bits[40].mean(0) - bits[20].mean(0))
    assert found["excess"] == pytest.approx(found["bits"] - (control[40].mean(0) - control[20].mean(0)))
    assert found["cap"] == pytest.approx(np.ones(17))
    assert found["spread"] == pytest.approx(np.abs(bits[20][0] - bits[20][1]) / math.sqrt(2))
    with pytest.raises(ValueError, match=r"no rows with 30 .* \[20, 39, 40\]"):
        saturation.drop(record, 40, 30)


@given(st.integers(0, 1000), st.integers(1, 5))
@settings(max_examples=25)
def test_subsamples(seed: int, n: int) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat([0, 1, 4], [5, 6, 9]))
    chosen = saturation.subsample(labels, n, [seed])
    assert (np.diff(chosen) > 0).all()
    assert np.bincount(labels[chosen]).tolist() == [n, n, 0, 0, n]
    assert (chosen == saturation.subsample(labels, n, [seed])).all()


def test_too_many_images_of_a_class_are_refused_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "trained", lambda *args, **options: pytest.fail("work was started"))
    with pytest.raises(ValueError, match=r"asks for 100 images of each class.*ask for fewer"):
        saturation.run_network(SaturationConfig(tiny(), ATTACK, (20, 100), 1))


def test_plans() -> None:
    for profile in ("quick", "reference", "paper"):
        configs = saturation.plans(profile)
        assert len({runs.config_hash(config) for config in configs}) == len(configs) == 2
        robust, defaults = configs
        assert robust.network.train.attack == robust.attack
        assert replace(defaults, members=1, renormalise=False) == robust
    assert {100, 1000} <= set(saturation.plans("reference")[0].per_class)
    with pytest.raises(ValueError, match="known: quick"):
        saturation.plans("quik")


def test_printed_drops_are_differences_of_the_printed_table() -> None:
    rows = saturation.printed_drops()
    early = next(r for r in rows if (r["network"], r["layer"]) == ("wideresnet34_10", "rho_n11"))
    assert (early["cifar10"], early["cifar100"]) == (9.05, 5.63)
    assert early["drop"] == pytest.approx(3.42)
    assert len(rows) == 11  # the printed table leaves fields empty
    assert {row["n_fb"] for row in rows} == {4, 12}
