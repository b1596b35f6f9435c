"""Small networks with pools and shortcuts: what is bounded is what they compute."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from semirobust import collisions
from semirobust.experiments import bound_curves, small_convolutions
from semirobust.extractors import Chain
from tests.cases import warmed

NAMES = list(small_convolutions.NETWORKS)


@pytest.mark.parametrize("name", NAMES)
def test_every_layer_is_compiled_as_it_is(name: str) -> None:
    config = small_convolutions.config(name)
    model = warmed(small_convolutions.build(config.network), small_convolutions.SHAPE).eval()
    x = torch.randn(6, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).numpy()
    assert config.layers[0] == "input"
    np.testing.assert_array_equal(small_convolutions.chain(model, "input").features(x), x)
    for layer in config.layers[1:]:
        values = small_convolutions.chain(model, layer).features(x)
        expected = np.abs(values[:3] - values[3:]).max()
        found = small_convolutions.difference(model, layer, x[:3], x[3:])
        assert found == pytest.approx(expected, rel=1e-9) and found > 0.01
    first = small_convolutions.chain(model, "bn").layers[0][0]
    assert first.shape[0] > 64 == np.linalg.matrix_rank(first)  # the first convolution forgets nothing


def test_networks_differ_in_one_thing() -> None:
    pooled, averaged, residual, plain = (
        small_convolutions.build(small_convolutions.config(name).network).state_dict() for name in NAMES
    )
    for first, second in ((pooled, averaged), (residual, plain)):
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)
    other = small_convolutions.build(small_convolutions.config("plain", seed=1).network).state_dict()
    assert not torch.equal(other["conv.weight"], plain["conv.weight"])


def test_the_rank_counts_open_directions() -> None:
    part = Chain([(np.eye(3), np.zeros(3)), (np.array([[1.0, 1.0, 0.0]]), np.zeros(1))], rectified=False)
    points = np.array([[1.0, 1.0, 1.0], [1.0, -1.0, 1.0], [-1.0, -1.0, 1.0]])
    assert small_convolutions.local_rank(part, points).tolist() == [1, 1, 0]
    relu = Chain([(np.eye(3), np.zeros(3))], rectified=True)
    assert small_convolutions.local_rank(relu, points).tolist() == [3, 2, 1]


@pytest.mark.parametrize("name", ["average_pool", "max_pool"])
@pytest.mark.parametrize("closed", [0.3, 1.0])
def test_windows_without_an_open_unit_do_not_end_a_search(name: str, closed: float) -> None:
    """Their features are constant nearby: an equation 0 = 0. With ``closed`` = 1 all of them are."""
    config = small_convolutions.config(name)
    model = warmed(small_convolutions.build(replace(config.network, width=2)), (1, 8, 8)).eval()
    model.bn.bias.data -= closed
    chain = small_convolutions.chain(model, "pool")
    u, v = np.random.default_rng(0).random((2, 4, 64))
    near = chain.features((u + v) / 2) - chain.features((u + v) / 2 + 1e-6)
    assert (near == 0).any() and (near == 0).all() == (closed == 1)
    found = collisions.find_collisions(chain.layers, u, v, rectified=chain.rectified)
    assert "unsolved" not in found.status and found.verified.all()
    linear = collisions.linear_collision(chain.layers[0][0], u, v).epsilon
    assert (found.epsilon < linear - 1e-6).all()
    assert small_convolutions.difference(model, "pool", found.u, found.v) < 1e-9


def test_a_run_has_the_form_that_figures_read() -> None:
    config = small_convolutions.config("average_pool")
    small = replace(
        config,
        network=replace(config.network, width=2, train=replace(config.network.train, epochs=1)),
        per_class=3,
        budgets=(0.5, 1.0, 1.5, 2.0),
        audited=1,
    )
    said: list[str] = []
    record = small_convolutions.run_config(small, "quick", say=said.append)
    assert record.metrics["n"] == [3, 3] and record.metrics["network"]["epoch"] == 1
    bounds = [bound_curves.bound(record, layer) for layer in small.layers]
    assert [found.training for found in bounds] == ["benign"] * 4
    for before, after in pairwise(bounds):
        assert bound_curves.gap(after, before, "cross_entropy_nats").below > -1e-9
    ranks = [record.metrics["layers"][layer]["rank"] for layer in small.layers]
    assert ranks[0] == 64 and ranks[0] >= ranks[1] >= ranks[2] >= ranks[3] and ranks[3] <= 18
    assert any("pairs searched" in line for line in said)
    assert small_convolutions.run_config(small, "quick").metrics == record.metrics
