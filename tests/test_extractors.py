"""The exported layers compute what the network computes, in float64, of images in [0, 1]."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import Residual, changed, snapshot, warmed
from torch import nn

from semirobust import models
from semirobust.collisions import ConvOperator, Network, find_collisions, linear_collision
from semirobust.extractors import as_layers


def _outputs(model: nn.Module, x: torch.Tensor, names: list[str]) -> list[np.ndarray]:
    """What the named modules give, flattened, in float64."""
    seen: dict[str, np.ndarray] = {}
    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda _m, _i, out, name=name: seen.update({name: out.detach().flatten(1).numpy()})
        )
        for name in names
    ]
    model.double().eval()(x.double())
    for handle in handles:
        handle.remove()
    return [seen[name] for name in names]


@pytest.mark.parametrize("shape", [(1, 28, 28), (1, 5, 9), (3, 6, 4)])
def test_the_fully_connected_network(shape: tuple[int, int, int]) -> None:
    model = models.create("fcnn", 2, shape, width=30, seed=0)
    layers = as_layers(model, shape)
    assert [layer[0].shape for layer in layers] == [(30, np.prod(shape)), (20, 30), (2, 20)]
    x = torch.rand(50, *shape)
    expected = _outputs(model, x, ["fc1", "fc2", "fc"])
    value = x.double().flatten(1).numpy()
    for (weight, bias), wanted in zip(layers, expected, strict=True):
        assert weight.dtype == bias.dtype == np.float64
        value = value @ weight.T + bias
        np.testing.assert_allclose(value, wanted, rtol=0, atol=1e-10)
        value = np.maximum(value, 0)
    assert (value == 0).any()
    network = Network.of(layers[:2])
    np.testing.assert_allclose(
        network.pre_activations(x.double().flatten(1).numpy())[1], expected[1], atol=1e-10
    )


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 16, 20)])
def test_the_first_convolution_with_its_batchnorm(shape: tuple[int, int, int]) -> None:
    model = warmed(models.create("cnn", 2, shape, width=3, seed=0), shape)
    ((operator, bias),) = as_layers(model, shape, depth=1)
    assert isinstance(operator, ConvOperator)
    x = torch.rand(20, *shape)
    (expected,) = _outputs(model, x, ["bn1"])
    found = (operator @ x.double().flatten(1).numpy().T).T + bias
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)


def test_a_padded_convolution_sees_less_of_the_shift_at_its_border() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(models.Normalize(3), nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
    warmed(model, (3, 7, 7))
    ((operator, bias),) = as_layers(model, (3, 7, 7))
    x = torch.rand(9, 3, 7, 7)
    (expected,) = _outputs(model, x, ["2"])
    np.testing.assert_allclose(
        (operator @ x.double().flatten(1).numpy().T).T + bias, expected, rtol=0, atol=1e-10
    )
    assert np.ptp(bias.reshape(4, -1), axis=1).min() > 1e-3


def test_collisions_are_collisions_of_the_network() -> None:
    model = models.create("fcnn", 2, (1, 4, 4), width=6, seed=0)
    layers = as_layers(model, (1, 4, 4), depth=1)
    u, v = torch.rand(3, 1, 4, 4), torch.rand(3, 1, 4, 4)
    points = [t.flatten(1).double().numpy() for t in (u, v)]
    linear, rectified = linear_collision(layers[0][0], *points), find_collisions(layers, *points)
    assert linear.verified.all() and rectified.verified.all()
    assert (
        rectified.epsilon <= linear.epsilon + 1e-9
    ).all() and rectified.epsilon.sum() < linear.epsilon.sum()
    for found, rectify in ((linear, False), (rectified, True)):
        first, second = (
            torch.from_numpy(_outputs(model, torch.from_numpy(at).reshape(3, 1, 4, 4), ["fc1"])[0])
            for at in (found.u, found.v)
        )
        gap = (first.relu() - second.relu()) if rectify else first - second
        assert gap.abs().max() < 1e-9


def test_depth_cuts_and_the_model_is_left_as_found() -> None:
    model = models.create("fcnn", 2, (1, 6, 6), width=9, seed=0).train()
    before = snapshot(model)
    whole = as_layers(model, (1, 6, 6))
    for depth in (1, 2, 3):
        cut = as_layers(model, (1, 6, 6), depth=depth)
        assert len(cut) == depth
        assert all(
            np.array_equal(a, b) for x, y in zip(cut, whole, strict=False) for a, b in zip(x, y, strict=True)
        )
    assert changed(before, model.state_dict()) == [] and model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    whole[0][0][:] = 0  # a copy
    assert changed(before, model.state_dict()) == []


def _chain(*modules: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Flatten(), *modules)


@pytest.mark.parametrize(
    ("model", "depth", "message"),
    [
        (models.create("cnn", 2, (1, 16, 16), width=2), None, r"layer max_pool2d .*depth=1 stops before it"),
        (models.create("cnn", 2, (1, 16, 16), width=2), 2, r"layer max_pool2d .*depth=1 stops before it"),
        (
            models.create("fcnn", 2, (1, 16, 16), width=3),
            4,
            "3 weight layers in a chain; depth=4 is too many",
        ),
        (models.create("fcnn", 2, (1, 16, 16), width=3), 0, "depth must be at least 1"),
        (
            models.create("fcnn", 2, (1, 16, 15), width=3),
            1,
            "fc1 takes 240 inputs, but .* have 256; pass the",
        ),
        (_chain(nn.Linear(256, 3), nn.Linear(3, 2)), None, r"\(Linear\) is out of place.*depth=1 stops"),
        (_chain(nn.ReLU(), nn.Linear(256, 3)), None, r"\(ReLU\) is out of place.*no layer comes before it"),
        (_chain(nn.Linear(256, 3), nn.Tanh(), nn.Linear(3, 2)), None, r"\(Tanh\) is out of place.*depth=1"),
        (_chain(nn.Linear(256, 3), nn.ReLU(), nn.BatchNorm1d(3)), None, r"\(ChannelAffine\) is out of place"),
        (
            nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3)),
            None,
            r"\(Conv2d\) is out of place",
        ),
        (Residual(), 1, r"layer scale .* is not one of a chain.*no layer comes before it"),
    ],
)
def test_what_is_no_chain_is_refused_by_name(model: nn.Module, depth: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_layers(model, (1, 16, 16), depth=depth)
