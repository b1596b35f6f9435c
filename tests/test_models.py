"""The printed networks: size, shape, seeding, normalisation, errors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from semirobust import models
from semirobust.layers import activations, weight_layers
from tests.cases import changed, snapshot, warmed


@pytest.mark.parametrize(
    ("name", "stem", "count"),
    [
        ("resnet18", "authors", 11_173_962),
        ("resnet18", "cifar", 11_173_962),
        ("wide_resnet34_10", "authors", 46_160_474),
    ],
)
def test_parameter_counts_are_the_published_ones(name: str, stem: str, count: int) -> None:
    with torch.device("meta"):  # shapes only: nothing is drawn
        model = models.create(name, 10, stem=stem)
    assert sum(parameter.numel() for parameter in model.parameters()) == count


@pytest.mark.parametrize(
    ("name", "width", "layers"),
    [
        ("fcnn", None, {"fc1": (300, 784), "fc2": (200, 300), "fc": (2, 200)}),
        ("fcnn", 150, {"fc1": (150, 784), "fc2": (100, 150), "fc": (2, 100)}),
        ("fcnn", 75, {"fc1": (75, 784), "fc2": (50, 75), "fc": (2, 50)}),
        (
            "cnn",
            None,
            {"conv1": (20, 1, 5, 5), "conv2": (50, 20, 5, 5), "fc1": (500, 50 * 4 * 4), "fc": (2, 500)},
        ),
    ],
)
def test_the_networks_of_the_second_paper(name: str, width: int | None, layers: dict) -> None:
    model = models.create(name, 2, (1, 28, 28), width=width)
    assert {layer: tuple(model.get_submodule(layer).weight.shape) for layer in weight_layers(model)} == layers


def test_the_fully_connected_network_is_its_formula() -> None:
    model = models.create("fcnn", 3, (3, 6, 4), width=9, seed=0)
    x = torch.rand(5, 3, 6, 4)
    state, out = model.state_dict(), model.get_submodule("normalize")(x).reshape(5, -1)
    for layer in ("fc1", "fc2"):
        out = (out @ state[f"{layer}.weight"].T + state[f"{layer}.bias"]).clamp(min=0)
    torch.testing.assert_close(model(x), out @ state["fc.weight"].T + state["fc.bias"])


def test_the_convolutional_network_normalises_rectifies_and_pools() -> None:
    model = warmed(models.create("cnn", 2, (1, 28, 28), width=4, seed=0), (1, 28, 28))
    seen: dict[str, torch.Tensor] = {}
    for name in ("bn1", "conv2", "bn2", "fc1", "fc"):
        layer = model.get_submodule(name)
        layer.register_forward_hook(lambda _m, i, o, name=name: seen.update({name: i[0], f"{name}.out": o}))
    model(torch.rand(3, 1, 28, 28))
    assert seen["bn1"].shape == (3, 4, 24, 24)
    for before, after in (("bn1", "conv2"), ("bn2", "fc1")):
        pooled = nn.functional.max_pool2d(seen[f"{before}.out"].clamp(min=0), 2)
        assert torch.equal(seen[after].flatten(1), pooled.flatten(1))
    assert torch.equal(seen["fc"], seen["fc1.out"].clamp(min=0)) and (seen["fc"] == 0).any()


def test_a_hundred_classes_change_the_last_layer_only() -> None:
    ten, hundred = (models.create("resnet18", classes, width=4) for classes in (10, 100))
    different = [
        name for name, tensor in hundred.state_dict().items() if tensor.shape != ten.state_dict()[name].shape
    ]
    assert different == ["fc.weight", "fc.bias"]


@pytest.mark.parametrize(("stem", "features"), [("authors", 188_416), ("cifar", 557_056)])
def test_features_over_the_seventeen_convolutions(stem: str, features: int) -> None:
    model = models.create("resnet18", 10, seed=0, stem=stem)
    names = weight_layers(model)[:17]
    outputs = activations(model, torch.rand(1, 3, 32, 32), names)
    assert sum(output.shape[1] for output in outputs.values()) == features


@pytest.mark.parametrize("name", list(models.MODELS))
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 16, 16), (1, 28, 28), (3, 32, 32)])
def test_logits_shape_for_every_data_set(name: str, shape: tuple[int, int, int]) -> None:
    if min(shape[1:]) < models.MODELS[name][2]:
        with pytest.raises(ValueError, match="at least 16"):
            models.create(name, 7, shape)
        return
    model = models.create(name, 7, shape, width=2, seed=0)
    assert model.training
    assert model(torch.rand(3, *shape)).shape == (3, 7)


@pytest.mark.parametrize("name", list(models.MODELS))
def test_width_scales_the_stages(name: str) -> None:
    narrow, wide = (models.create(name, 10, width=width) for width in (4, 8))
    assert wide.get_submodule("fc").weight.shape[1] == 2 * narrow.get_submodule("fc").weight.shape[1]


def test_seeded_weights_repeat_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = snapshot(models.create("resnet18", 10, width=4, seed=3))
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    assert changed(first, snapshot(models.create("resnet18", 10, width=4, seed=3))) == []
    other = changed(first, snapshot(models.create("resnet18", 10, width=4, seed=4)))
    assert set(other) == {n for n, t in first.items() if t.ndim in (2, 4) and n.endswith("weight")} | {
        "fc.bias"
    }


def test_without_a_seed_weights_come_from_the_global_generator() -> None:
    torch.manual_seed(5)
    first = snapshot(models.create("resnet18", 10, width=4))
    second = snapshot(models.create("resnet18", 10, width=4))
    torch.manual_seed(5)
    assert changed(first, snapshot(models.create("resnet18", 10, width=4))) == []
    assert changed(first, second)


def test_convolutions_have_he_normal_weights() -> None:
    conv = models.create("resnet18", 10, width=64, seed=0).get_submodule("stages.1.0.conv2")
    expected = (2 / (128 * 9)) ** 0.5  # fan out
    assert conv.weight.std().item() == pytest.approx(expected, rel=0.02)
    assert abs(conv.weight.mean().item()) < 0.02 * expected


def test_normalisation_is_the_first_layer() -> None:
    model = models.create("resnet18", 10, width=4, seed=0)
    seen: list[torch.Tensor] = []
    model.get_submodule("conv1").register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0]))
    x = torch.rand(5, 3, 32, 32)
    model(x)
    mean = torch.tensor([0.4914, 0.4822, 0.4465]).view(1, 3, 1, 1)
    std = torch.tensor([0.2470, 0.2435, 0.2616]).view(1, 3, 1, 1)
    torch.testing.assert_close(seen[0], (x - mean) / std)


@pytest.mark.parametrize("channels", [1, 2])
def test_grey_and_other_images_are_centred(channels: int) -> None:
    normalize = models.Normalize(channels)
    x = torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1, 1).expand(3, channels, 1, 1)
    assert normalize(x)[:, 0, 0, 0].tolist() == [-1.0, 0.0, 1.0]
    assert not list(normalize.parameters())


def test_stem_is_the_pool() -> None:
    authors, cifar = (models.create("resnet18", 10, width=2, stem=stem) for stem in ("authors", "cifar"))
    assert isinstance(authors.get_submodule("pool"), nn.MaxPool2d)
    assert isinstance(cifar.get_submodule("pool"), nn.Identity)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "cnn", "in_shape": (1, 28, 15)}, "at least 16"),
        ({"name": "resnet19"}, "known: resnet18, wide_resnet34_10"),
        ({"stem": "imagenet"}, "authors .* cifar"),
        ({"num_classes": 1}, "at least 2, got 1"),
        ({"in_shape": (3, 4, 32)}, "at least 8"),
        ({"in_shape": (32, 32)}, r"\[C, H, W\]"),
        ({"in_shape": (0, 32, 32)}, r"\[C, H, W\]"),
        ({"width": 0}, "at least 1, got 0"),
    ],
)
def test_bad_arguments_say_what_to_do(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        models.create(**{"name": "resnet18", "num_classes": 10, **arguments})
