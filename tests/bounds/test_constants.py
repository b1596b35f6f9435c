"""Operator norms against dense matrices, pools against examples, networks against their gradients."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from semirobust import models
from semirobust.bounds import lipschitz, lipschitz_constants, operator_norm
from semirobust.bounds.operators import average_norm, max_pool_norm, torus_norm
from semirobust.layers import ChannelAffine, folded, weight_layers
from tests.cases import Residual, changed, snapshot, tiny_network, warmed

quick = settings(max_examples=40)


def dense(layer: Any, in_shape: tuple[int, ...]) -> torch.Tensor:
    """The matrix of an affine layer without its shift, transposed: the slow twin, [inputs, outputs]."""
    layer = copy.deepcopy(layer).double().eval()
    size = torch.Size(in_shape).numel()
    basis = torch.eye(size, dtype=torch.float64).view(size, *in_shape)
    with torch.no_grad():
        return (layer(basis) - layer(torch.zeros(1, *in_shape, dtype=torch.float64))).flatten(1)


def spectral(layer: nn.Module, in_shape: tuple[int, ...]) -> float:
    return float(torch.linalg.matrix_norm(dense(layer, in_shape), 2))


def seeded(make: Any, *arguments: Any, seed: int = 0, **options: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make(*arguments, **options)


# --- single layers ---


def test_a_kernel_of_ones_has_frobenius_norm_3_and_operator_norm_9() -> None:
    weight = torch.ones(1, 1, 3, 3, dtype=torch.float64)
    circular = nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular", bias=False)
    circular.weight.data.fill_(1.0)
    assert float(weight.norm()) == 3
    assert torus_norm(weight, (8, 8)) == pytest.approx(9, abs=1e-12)
    assert spectral(circular, (1, 8, 8)) == pytest.approx(9, abs=1e-12)


def test_convolution_2_to_3_on_6x6() -> None:
    layer = seeded(nn.Conv2d, 2, 3, 3, padding=1)
    bound, exact = operator_norm(layer, (2, 6, 6)), spectral(layer, (2, 6, 6))
    assert bound.lower == pytest.approx(exact, rel=1e-9)
    assert exact < bound.upper < 1.2 * exact


@quick
@given(st.data())
def test_convolutions_lie_between_the_bounds(data: st.DataObject) -> None:
    def pair(low: int, high: int) -> tuple[int, int]:
        return data.draw(st.integers(low, high)), data.draw(st.integers(low, high))

    kernel, stride, padding, size = pair(1, 4), pair(1, 3), pair(0, 4), pair(4, 6)
    channels, seed = pair(1, 3), data.draw(st.integers(0, 1000))
    layer = seeded(nn.Conv2d, *channels, kernel, stride=stride, padding=padding, seed=seed)
    shape = (channels[0], *size)
    bound, exact = operator_norm(layer, shape), spectral(layer, shape)
    assert bound.lower <= exact * (1 + 1e-9)
    assert exact <= bound.upper * (1 + 1e-9)
    assert bound.lower >= 0.999 * exact  # power iteration comes close, at the latest when it stops
    whole = nn.Conv2d(*channels, kernel, padding=padding)  # stride 1: all rows of the strided map, and more
    whole.weight.data = layer.weight.data
    assert exact <= operator_norm(whole, shape).upper * (1 + 1e-9)
    if kernel[0] <= stride[0] and kernel[1] <= stride[1] and padding == (0, 0):
        assert bound.upper == pytest.approx(exact, rel=1e-9)  # patches that do not overlap


def test_the_bound_of_a_strided_convolution_is_tighter_than_that_of_stride_1() -> None:
    layer = seeded(nn.Conv2d, 4, 4, 3, stride=2, padding=1)
    whole = seeded(nn.Conv2d, 4, 4, 3, padding=1)
    assert operator_norm(layer, (4, 16, 16)).upper < 0.8 * operator_norm(whole, (4, 16, 16)).upper


def test_linear_and_normalisation_are_exact() -> None:
    linear = seeded(nn.Linear, 7, 4)
    for layer, shape in (
        (linear, (7,)),
        (warmed(nn.BatchNorm2d(3), (3, 4, 4)), (3, 4, 4)),
        (warmed(nn.BatchNorm1d(5), (5,)), (5,)),
        (warmed(nn.BatchNorm2d(3, affine=False), (3, 4, 4)), (3, 4, 4)),
        (models.Normalize(3), (3, 4, 4)),
    ):
        bound = operator_norm(layer, shape)
        assert bound.lower == bound.upper == pytest.approx(spectral(layer, shape), rel=1e-12)


def test_power_iteration_rises_and_repeats() -> None:
    layer = seeded(nn.Conv2d, 3, 5, 3, padding=1)
    norms = [operator_norm(layer, (3, 8, 8), iterations=steps).lower for steps in (1, 2, 5, 20, 200)]
    assert norms == sorted(norms) and norms[0] < norms[-1]
    other = operator_norm(layer, (3, 8, 8), iterations=1, generator=torch.Generator().manual_seed(1))
    assert other.lower != norms[0] == operator_norm(layer, (3, 8, 8), iterations=1).lower
    assert other.upper == operator_norm(layer, (3, 8, 8)).upper


def test_a_zero_layer_has_norm_zero() -> None:
    layer = nn.Conv2d(2, 2, 3)
    layer.weight.data.zero_()
    assert operator_norm(layer, (2, 5, 5)) == operator_norm(layer, (2, 6, 6))
    assert operator_norm(layer, (2, 5, 5)).upper == 0


# --- pools ---


@pytest.mark.parametrize(
    ("pool", "side", "constant"),
    [
        (nn.MaxPool2d(2), 8, 1.0),  # no overlap
        (nn.MaxPool2d(3, stride=2, padding=1), 8, 2.0),  # a pixel is in up to 2 x 2 windows
        (nn.MaxPool2d(3, stride=1, padding=1), 8, 3.0),
        (nn.MaxPool2d((3, 2), stride=(2, 2)), 8, 2**0.5),
        (nn.MaxPool2d(3, stride=2), 3, 1.0),  # one window
        (nn.MaxPool2d(3, stride=2, ceil_mode=True), 4, 2.0),
        (nn.MaxPool2d(2, stride=1, dilation=2), 5, 2.0),
    ],
)
def test_max_pool_constant_is_reached_by_one_pixel(pool: nn.MaxPool2d, side: int, constant: float) -> None:
    assert max_pool_norm(pool, (side, side)) == pytest.approx(constant, abs=1e-12)
    pixels = torch.eye(side * side).view(-1, 1, side, side)
    moved = (pool(pixels) - pool(torch.zeros(1, 1, side, side))).flatten(1).norm(dim=1)
    assert float(moved.max()) == pytest.approx(constant, abs=1e-6)


@quick
@given(st.integers(1, 4), st.integers(1, 3), st.integers(0, 10**6))
def test_max_pool_constant_holds(kernel: int, stride: int, seed: int) -> None:
    pool = nn.MaxPool2d(kernel, stride=stride, padding=kernel // 2)
    generator = torch.Generator().manual_seed(seed)
    one, two = (torch.randn(8, 1, 6, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    after, before = (pool(one) - pool(two)).norm(), (one - two).norm()
    assert float(after) <= max_pool_norm(pool, (6, 6)) * float(before) * (1 + 1e-12)


@pytest.mark.parametrize(
    "pool",
    [
        nn.AvgPool2d(2),
        nn.AvgPool2d(3, stride=2, padding=1),
        nn.AvgPool2d((3, 2), stride=(1, 2), padding=1, count_include_pad=False),
        nn.AvgPool2d(3, stride=2, ceil_mode=True),
        nn.AdaptiveAvgPool2d(1),
        nn.AdaptiveAvgPool2d((3, 2)),
        nn.AdaptiveAvgPool2d((None, 4)),
    ],
)
def test_average_pools_are_exact(pool: Any) -> None:
    assert average_norm(pool, (6, 5)) == pytest.approx(spectral(pool, (1, 6, 5)), rel=1e-12)


# --- networks ---


def test_folding_does_not_change_the_function() -> None:
    for model, shape in (
        (tiny_network(), (1, 8, 8)),
        (tiny_network("wide_resnet34_10"), (1, 8, 8)),
        (warmed(nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3)), (5,)), (5,)),
    ):
        images = torch.rand(6, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        before, body = snapshot(model), folded(model)
        assert torch.allclose(
            body(images), copy.deepcopy(model).double().eval()(images), rtol=1e-11, atol=1e-11
        )
        norms = (nn.BatchNorm1d, nn.BatchNorm2d, models.Normalize)
        assert not any(isinstance(module, norms) for module in body.modules())
        assert changed(before, snapshot(model)) == []


def test_by_hand() -> None:
    """Normalisation, a layer, an activation, a sum of branches and the mean, each with its factor."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.normalize = models.Normalize(1)  # std 0.5: factor 2
            self.stem = nn.Conv2d(1, 1, 1)
            self.norm = nn.BatchNorm2d(1)
            self.branch = nn.Conv2d(1, 1, 1)
            self.fc = nn.Linear(1, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.sigmoid(self.norm(self.stem(self.normalize(x))))
            x = F.max_pool2d(x, 3, stride=2, padding=1)
            return self.fc((x + F.relu(self.branch(x))).mean((2, 3)))

    net = Net().double().eval()
    for layer, value in ((net.stem, 3.0), (net.branch, -5.0), (net.fc, 7.0)):
        layer.weight.data.fill_(value)
    net.norm.running_var.fill_(4 - net.norm.eps)  # factor 1/2
    constants = lipschitz_constants(net, (1, 8, 8))
    stem, branch = 2 * 3, 2 * 3 / 2 * 0.25 * 2 * 5
    assert constants.layers == pytest.approx({"stem": stem, "branch": branch, "fc": 9 / 4 * 7}, rel=1e-9)
    assert constants.logits == constants.layers["fc"] == lipschitz(net, (1, 8, 8))
    assert lipschitz(net, (1, 8, 8), upto="branch") == constants.layers["branch"]


def test_a_sum_of_a_value_with_itself_counts_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(2, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.fc(x)
            return x + x - torch.ones(2)

    model = Twice()
    assert lipschitz(model, (2,)) == pytest.approx(2 * operator_norm(model.fc, (2,)).upper, rel=1e-12)


@pytest.mark.parametrize("name", ["resnet18", "wide_resnet34_10"])
def test_real_networks_stay_below_their_constants(name: str) -> None:
    model = warmed(models.create(name, 10, (1, 16, 16), width=4, seed=0), (1, 16, 16)).double()
    before = snapshot(model)
    constants = lipschitz_constants(model, (1, 16, 16))
    assert list(constants.layers) == weight_layers(model, include_shortcuts=True)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, 1, 16, 16, generator=generator, dtype=torch.float64)
    names = [n for n in constants.layers if n.endswith("conv1") or n == "fc"]
    outputs: dict[str, torch.Tensor] = {}
    for n in names:
        model.get_submodule(n).register_forward_hook(lambda _m, _i, out, n=n: outputs.update({n: out}))
    for n in (names[0], names[len(names) // 2], "fc"):

        def function(image: torch.Tensor, n: str = n) -> torch.Tensor:
            model(image)
            return outputs[n].flatten()

        jacobian = torch.autograd.functional.jacobian(function, x).flatten(1)  # [outputs, pixels]
        local = float(torch.linalg.matrix_norm(jacobian, 2))
        assert 0 < local <= constants.layers[n]
    assert lipschitz(model, (1, 16, 16), upto=names[0]) == pytest.approx(
        operator_norm(models.Normalize(1), (1, 16, 16)).upper
        * operator_norm(model.get_submodule(names[0]), (1, 16, 16)).upper
    )
    assert changed(before, snapshot(model)) == []


def test_one_layer_is_enough_for_upto() -> None:
    model = tiny_network().train()
    constants = lipschitz_constants(model, (1, 8, 8))
    for name in ("conv1", "stages.1.0.shortcut.0", "stages.2.1.conv2"):
        assert lipschitz(model, (1, 8, 8), upto=name) == constants.layers[name]
    assert model.training and all(module.training for module in model.modules())


# --- bad input ---


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (nn.Conv2d(2, 2, 3, groups=2), (2, 8, 8), "groups or dilation"),
        (nn.Conv2d(2, 2, 3, dilation=2), (2, 8, 8), "groups or dilation"),
        (nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"), (2, 8, 8), "zero padding"),
        (nn.Conv2d(2, 2, 3, padding="same"), (2, 8, 8), "given in numbers"),
        (nn.Conv2d(2, 2, 3), (3, 8, 8), r"does not take an input of \(3, 8, 8\)"),
        (nn.Conv2d(2, 2, 3), (2, 8, 2), "at least as large as the kernel"),
        (nn.Conv2d(2, 2, 3), (2,), "does not take an input"),
        (nn.Linear(3, 2), (4,), "takes 3 numbers"),
        (nn.BatchNorm2d(2, track_running_stats=False), (2, 8, 8), "batch statistics"),
        (nn.ReLU(), (3,), "only Linear, Conv2d"),
    ],
)
def test_layers_without_a_norm(layer: nn.Module, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        operator_norm(layer, shape)


def test_layers_that_no_rule_treats_are_named() -> None:
    class Wrong(nn.Module):
        def __init__(self, how: Any) -> None:
            super().__init__()
            self.fc, self.how = nn.Linear(4, 4), how

        def forward(self, x: torch.Tensor) -> Any:
            return self.how(self.fc(x))

    for how, message in (
        (lambda x: x * x, r"bounds cannot treat layer mul \(mul\)"),
        (lambda x: torch.cat([x, x], 1), r"layer cat \(cat\): it takes tensors inside lists"),
        (lambda x: x + x.mean(1, keepdim=True), r"layer add \(add\): it broadcasts"),
        (lambda x: x.flatten(0), r"layer flatten \(flatten\): its output has no axis of images"),
        (lambda x: x.mean((0, 1), keepdim=True).expand(2, 4), r"layer mean"),
        (lambda x: (x, x), "several outputs"),
        (lambda x: x + x.sum().item(), r"layer sum"),
    ):
        with pytest.raises(ValueError, match=message):
            lipschitz(Wrong(how), (4,))
    with pytest.raises(ValueError, match=r"bounds cannot treat layer 1 \(GroupNorm\)"):
        lipschitz(nn.Sequential(nn.Conv2d(1, 2, 3), nn.GroupNorm(1, 2)), (1, 8, 8))
    with pytest.raises(ValueError, match=r"bounds cannot treat layer 0 \(Conv2d\): convolutions with groups"):
        lipschitz(nn.Sequential(nn.Conv2d(2, 2, 3, groups=2)), (2, 8, 8))
    with pytest.raises(ValueError, match=r"layer mul \(mul\)"):
        lipschitz(Residual(), (1, 8, 8))


def test_unknown_layers_and_shapes() -> None:
    model = tiny_network()
    with pytest.raises(ValueError, match="no weight layer named bn1; there are: conv1"):
        lipschitz(model, (1, 8, 8), upto="bn1")
    with pytest.raises(ValueError, match=r"does not take images of shape \(3, 8, 8\)"):
        lipschitz(model, (3, 8, 8))


def test_a_subclass_may_compute_something_else() -> None:
    class Scaled(nn.ReLU):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return 100 * super().forward(input)

    with pytest.raises(ValueError, match=r"layer 1 \(Scaled\)"):
        lipschitz(nn.Sequential(nn.Linear(2, 2), Scaled()), (2,))
    assert isinstance(
        folded(nn.Sequential(models.Normalize(1), nn.Flatten())).get_submodule("0"), ChannelAffine
    )
