"""The exported layers and chains compute what the network computes, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from semirobust import data, extractors, models
from semirobust.collisions import Collisions, Network, enumerate_patterns, find_collisions, linear_collision
from semirobust.extractors import ConvOperator, as_chain, as_layers, weights
from tests.cases import Residual, changed, snapshot, tiny_network, warmed

quick = settings(max_examples=30)
seeds = st.integers(0, 10_000)


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


# Chains


def agree(model: nn.Module, shape: tuple[int, ...], *, seed: int = 0, **options: Any) -> extractors.Chain:
    """The chain of the whole model, which gives the same for inputs of any sign and size."""
    chain = as_chain(model, shape, **options)
    x = 3 * torch.randn(20, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        expected = model.double().eval()(x).flatten(1).numpy()
    np.testing.assert_allclose(chain.features(x.flatten(1).numpy()), expected, rtol=0, atol=1e-10)
    assert np.ptp(expected) > 0.01
    network = Network.of(chain.layers, rectified=chain.rectified)
    assert np.array_equal(network.features(x.flatten(1).numpy()), chain.features(x.flatten(1).numpy()))
    return chain


def conv_net(*after: nn.Module, channels: int = 3, seed: int = 0) -> nn.Module:
    """conv-BN on 6x6 images, then these: the BatchNorm is not trivial."""
    torch.manual_seed(seed)
    layers = (models.Normalize(1), nn.Conv2d(1, channels, 3, padding=1), nn.BatchNorm2d(channels), *after)
    return warmed(nn.Sequential(*layers), (1, 6, 6), seed=seed)


@pytest.mark.parametrize(
    ("after", "units", "rectified"),
    [
        ((), (108,), False),
        ((nn.ReLU(inplace=True),), (108,), True),
        ((nn.ReLU(), nn.ReLU(), nn.Dropout(), nn.Flatten(1)), (108,), True),  # nothing more to rectify
        ((nn.ReLU(), nn.BatchNorm2d(3)), (108, 108), False),
        ((nn.ReLU(), nn.MaxPool2d(2)), (108, 108, 54, 27), False),
        ((nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(27, 4), nn.ReLU()), (108, 108, 54, 4), True),
        ((nn.ReLU(), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(3, 2, 2)), (108, 108, 54, 8), False),
        ((nn.ReLU(), nn.MaxPool2d((1, 2)), nn.MaxPool2d((3, 1))), (108, 108, 54, 36, 18), False),
        # rows 0, 1 | 1, 2, 3 | 3, 4, 5: differences 0 - 1, 2 - 1 and 4 - 3, and 1, 3 and 5 are carried on
        ((nn.ReLU(), nn.MaxPool2d((3, 1), (2, 1), (1, 0))), (108, 108, 90, 54), False),
        ((nn.MaxPool2d(2),), (162, 81, 27), False),  # of any sign: the pair relu(b), relu(-b)
        ((nn.MaxPool2d(2), nn.ReLU()), (162, 81, 27), True),
        ((nn.ReLU(), nn.AvgPool2d(2)), (108, 27), False),
        ((nn.AvgPool2d(2, 1, 1, count_include_pad=False), nn.ReLU()), (147,), True),
        ((nn.ReLU(), nn.AdaptiveAvgPool2d((4, 1)), nn.Flatten(), nn.Linear(12, 5)), (108, 5), False),
        ((nn.ReLU(), nn.MaxPool2d(1)), (108,), True),
    ],
)
def test_a_chain_computes_the_same(after: tuple[nn.Module, ...], units: Any, rectified: bool) -> None:
    chain = agree(conv_net(*after), (1, 6, 6))
    assert (chain.units, chain.rectified) == (units, rectified)


@quick
@given(
    seed=seeds,
    side=st.tuples(st.integers(3, 7), st.integers(3, 7)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 4)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=st.integers(1, 2),
    ceil=st.booleans(),
    rectify=st.booleans(),
)
def test_any_max_pool(seed, side, kernel, stride, padding, dilation, ceil, rectify) -> None:
    padding = tuple(min(p, k // 2) for p, k in zip(padding, kernel, strict=True))
    assume(all(s + 2 * p > dilation * (k - 1) for s, k, p in zip(side, kernel, padding, strict=True)))
    pool = nn.MaxPool2d(kernel, stride, padding, dilation, ceil_mode=ceil)
    shape = (2, *side)
    with torch.no_grad():
        assume(torch.isfinite(pool(torch.zeros(1, *shape))).all())  # no window in the padding alone
    agree(nn.Sequential(nn.ReLU(), pool) if rectify else pool, shape, seed=seed)


@quick
@given(
    seed=seeds,
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.integers(1, 3),
    padding=st.sampled_from([0, 1, (2, 1), "same", "valid"]),
    dilation=st.integers(1, 2),
    groups=st.sampled_from([1, 2]),
    mode=st.sampled_from(["zeros", "reflect", "circular"]),
)
def test_any_convolution(seed, kernel, stride, padding, dilation, groups, mode) -> None:
    torch.manual_seed(seed)
    stride = 1 if padding == "same" else stride
    conv = nn.Conv2d(2, 4, kernel, stride, padding, dilation, groups, padding_mode=mode)
    agree(nn.Sequential(conv, nn.ReLU()), (2, 6, 5), seed=seed)


class Functions(nn.Module):
    """A network of functions, with sizes, constants and a difference."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)
        self.fc = nn.Linear(8, 3)
        self.shift = nn.Parameter(torch.tensor([[0.25, -0.25, 0.5]]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        count, size = x.size(0), x.shape[-1]
        x = self.norm(self.conv(1 - 2 * x / size))
        x = F.max_pool2d(F.relu(x), kernel_size=2) - torch.tensor(0.125)
        out = F.dropout(self.fc(x.reshape(count, -1).contiguous()), training=self.training)
        out += self.shift
        return out - torch.relu(out)


@pytest.mark.parametrize("model", [Functions(), Residual()])
def test_functions_are_read_as_modules_are(model: nn.Module) -> None:
    agree(warmed(model, (1, 6, 6)), (1, 6, 6))


@pytest.mark.parametrize(
    ("block", "units"),
    [
        # relu(conv1), and the inputs carried on: a pair for each, for they may have any sign
        (models.BasicBlock(2, 2, 1), (32 + 64, 32)),
        (models.BasicBlock(2, 3, 2), (12 + 64, 12)),
        (nn.Sequential(nn.ReLU(), models.BasicBlock(2, 2, 1)), (32, 64, 32)),  # one for each
        (nn.Sequential(nn.ReLU(), models.BasicBlock(2, 3, 2)), (32, 12 + 32, 12)),
        # relu(bn(x)), and a pair for each x; relu(bn(conv)) and again x
        (models.PreActivationBlock(2, 2, 1), (32 + 64, 32 + 64, 32)),
        (models.PreActivationBlock(2, 3, 1), (32, 48 + 32, 48)),
    ],
)
def test_residual_blocks(block: nn.Module, units: tuple[int, ...]) -> None:
    chain = agree(warmed(block, (2, 4, 4)), (2, 4, 4))
    assert chain.units == units


@pytest.mark.parametrize("name", ["resnet18", "wide_resnet34_10"])
def test_deep_residual_networks(name: str) -> None:
    chain = agree(tiny_network(name), (1, 8, 8))
    assert not chain.rectified and chain.units[-1] == 10


def test_up_to_any_layer_by_the_name_of_its_module_or_node() -> None:
    model = warmed(models.create("cnn", 2, (1, 16, 16), width=2, seed=0), (1, 16, 16)).double()
    x = torch.rand(9, 1, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        conv = model.conv1(model.normalize(x))
        first = F.relu(model.bn1(conv))
        pooled = F.max_pool2d(first, 2)
        second = F.relu(model.bn2(model.conv2(pooled)))
        expected = {
            "normalize": (model.normalize(x), False),
            "conv1": (conv, False),  # without the BatchNorm behind it
            "bn1": (model.bn1(conv), False),
            "relu": (first, True),
            "max_pool2d": (pooled, False),
            "conv2": (model.conv2(pooled), False),
            "relu_1": (second, True),
            "max_pool2d_1": (F.max_pool2d(second, 2), False),
            "fc": (model(x), False),
        }
    for upto, (values, rectified) in expected.items():
        chain = as_chain(model, (1, 16, 16), upto=upto)
        found = chain.features(x.flatten(1).numpy())
        np.testing.assert_allclose(found, values.flatten(1).numpy(), rtol=0, atol=1e-10)
        assert chain.rectified is rectified
    whole = as_chain(model, (1, 16, 16))
    assert whole.units == chain.units == (288, 288, 144, 20, 20, 10, 50, 2)


def test_a_module_that_runs_twice() -> None:
    relu = nn.ReLU()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 5), relu, nn.Linear(5, 4), relu).double()
    x = torch.rand(9, 1, 4, 4).double()
    first, second = as_chain(model, (1, 4, 4), upto="2"), as_chain(model, (1, 4, 4), upto="_2_1")
    assert (first.units, second.units) == ((5,), (5, 4))
    with torch.no_grad():
        np.testing.assert_allclose(first.features(x.flatten(1).numpy()), model[:3](x), atol=1e-12)


def test_a_plain_chain_is_that_of_its_layers() -> None:
    model = models.create("fcnn", 2, (1, 6, 6), width=9, seed=0).train()
    before = snapshot(model)
    chain = as_chain(model, (1, 6, 6))
    assert changed(before, model.state_dict()) == [] and model.training
    assert not chain.rectified
    for pair, layer in zip(chain.layers, as_layers(model, (1, 6, 6)), strict=True):
        for one, other in zip(pair, layer, strict=True):
            assert one.dtype == np.float64
            np.testing.assert_allclose(one, other, rtol=1e-13, atol=1e-15)


class Attention(nn.Module):
    """softmax(x x^T) x, and other products of what depends on the image."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.first, self.how = nn.Linear(4, 4), how

    def forward(self, x: torch.Tensor) -> Any:
        x = self.first(x)
        if self.how == "matmul":
            return x @ x.transpose(2, 3)
        if self.how == "gate":
            return x * x.mean((2, 3), keepdim=True).relu()
        if self.how == "cat":
            return torch.cat([x, x.relu()], 1)
        if self.how == "batch":
            return x - x.mean(0, keepdim=True)
        if self.how == "whole":
            return x.flatten()
        if self.how == "softmax":
            return x.softmax(1)
        if self.how == "several":
            return x, x.relu()
        if self.how == "constant":
            return self.first.weight * 2
        if self.how == "item":
            return x * x.max().item()
        if self.how == "quotient":
            return 1 / x
        if self.how == "random":
            return F.dropout(x)
        if self.how == "broadcast":
            return x + x.flatten(2).mean(2)
        if self.how == "in place":
            return F.relu(x.view(-1, 16), inplace=True) + x.flatten(1)
        raise AssertionError(self.how)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (conv_net(nn.Sigmoid()), r"layer 3 \(Sigmoid\) cannot be part of a chain of ReLUs; upto='2' stops"),
        (conv_net(nn.ReLU(), nn.LeakyReLU(), nn.Flatten()), r"layer 4 \(LeakyReLU\).*upto='3' stops"),
        (conv_net(nn.InstanceNorm2d(3)), r"layer 3 \(InstanceNorm2d\)"),
        (Attention("matmul"), r"layer transpose \(transpose\).*upto='first' stops before it"),
        (Attention("gate"), r"layer mul \(mul\).*multiplies or divides by what depends on the image"),
        (Attention("quotient"), r"layer truediv \(truediv\).*multiplies or divides"),
        (Attention("cat"), r"layer cat \(cat\).*inside lists"),
        (Attention("batch"), r"layer mean \(mean\).*no axis of images in front"),
        (Attention("whole"), r"layer flatten \(flatten\).*no axis of images in front"),
        (Attention("softmax"), r"layer softmax \(softmax\)"),
        (Attention("item"), r"layer max_1 \(max\)"),
        (Attention("random"), r"layer dropout \(dropout\)"),
        (Attention("several"), "several outputs: return the logits alone, or name a layer"),
        (Attention("constant"), "does not depend on the image"),
        (Attention("in place"), r"layer relu \(relu\).*in place on a value that is used again"),
        (nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False)), "batch statistics"),
        (nn.Sequential(nn.Conv2d(1, 1, 5), nn.MaxPool2d(2, 1, 1, 3)), r"layer 1 .*a window lies outside"),
    ],
)
def test_what_cannot_be_compiled_is_named(model: nn.Module, message: str) -> None:
    shape = (1, 4, 4) if isinstance(model, Attention) else (1, 6, 6)
    with pytest.raises(ValueError, match=message):
        as_chain(model, shape)


def test_names_that_the_model_does_not_have_and_shapes_that_it_does_not_take() -> None:
    model = models.create("fcnn", 2, (1, 6, 6), width=4)
    with pytest.raises(
        ValueError, match=r"no layer named 'pool'; it runs normalize, flatten, fc1, relu, fc2"
    ):
        as_chain(model, (1, 6, 6), upto="pool")
    with pytest.raises(ValueError, match=r"does not take images of shape \(1, 6, 5\)"):
        as_chain(model, (1, 6, 5))


def test_chains_that_are_too_large_are_refused_with_their_size(monkeypatch) -> None:
    model = models.create("cnn", 2, (1, 28, 28))
    with pytest.raises(ValueError, match=r"conv1 gives 11,520 numbers; at most 6,000 .*1\.1 GB.*narrower"):
        as_chain(model, (1, 28, 28))
    assert as_chain(models.create("cnn", 2, (1, 28, 28), width=5), (1, 28, 28), upto="relu").units == (2880,)
    monkeypatch.setattr(weights, "LARGEST", 161)
    with pytest.raises(ValueError, match=r"the layer that 3 needs has 162 units; at most 161"):
        as_chain(conv_net(nn.MaxPool2d(2)), (1, 6, 6))
    monkeypatch.setattr(weights, "LARGEST", 162)
    as_chain(conv_net(nn.MaxPool2d(2)), (1, 6, 6))


# Collisions of chains


def collide(
    model: nn.Module,
    shape: tuple[int, ...],
    ends: tuple[np.ndarray, np.ndarray],
    *,
    upto: str | None = None,
    same: Callable[[torch.Tensor], torch.Tensor] | None = None,
    **options: Any,
) -> Collisions:
    """Verified collisions of pairs [B, d], whose features the network itself finds equal."""
    chain = as_chain(model, shape, upto=upto)
    found = find_collisions(chain.layers, *ends, rectified=chain.rectified, **options)
    assert found.verified.all()
    features = same or model.double().eval()
    with torch.no_grad():
        first, second = (features(torch.from_numpy(at).reshape(-1, *shape)) for at in (found.u, found.v))
    assert (first - second).abs().max() < 1e-9
    for at, end in zip((found.u, found.v), ends, strict=True):
        assert (np.linalg.norm(at - end, axis=1) <= found.epsilon).all()
    return found


def pairs(count: int, inputs: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.random((count, inputs)), rng.random((count, inputs))


@pytest.mark.parametrize(
    ("u", "v", "epsilon"),
    [
        ((3, 0), (0, 0), 1.5),  # at the level 1.5
        ((3, 3), (0, 0), 3 * math.sqrt(2) / (1 + math.sqrt(2))),  # sqrt(2) (3 - c) = c
        ((3, 0), (0, 3), 0.0),
        ((-1, -2), (-4, -3), 1.0),  # -2 is below the level already
        ((-1, -1), (-4, -3), 2 * math.sqrt(2) / (1 + math.sqrt(2))),
    ],
)
def test_collisions_of_a_maximum(u: tuple[float, ...], v: tuple[float, ...], epsilon: float) -> None:
    """Points with the maxima a > b meet at a level c: everything above sinks to it, one number rises."""
    model = nn.MaxPool2d((1, 2))
    ends = np.array([u], float), np.array([v], float)
    found = collide(model, (1, 1, 2), ends)
    chain = as_chain(model, (1, 1, 2))
    best = enumerate_patterns(chain.layers, *ends, rectified=chain.rectified)
    assert best.epsilon == pytest.approx([epsilon], abs=1e-6) and best.verified.all()
    assert found.epsilon == pytest.approx([epsilon], abs=1e-5)  # a margin where the optimum is a kink


def test_collisions_of_a_max_pool_are_cheaper_than_those_of_its_relu() -> None:
    model = conv_net(nn.ReLU(), nn.MaxPool2d(2), channels=1, seed=4)
    ends = pairs(4, 36)
    before = collide(model[:4], (1, 6, 6), ends)
    pooled = collide(model, (1, 6, 6), ends, at=(before.u, before.v))
    assert (pooled.epsilon <= before.epsilon).all()
    assert pooled.epsilon.mean() < 0.8 * before.epsilon.mean()


@pytest.mark.parametrize(("outputs", "stride"), [(1, 1), (2, 2)])
def test_collisions_of_a_residual_block(outputs: int, stride: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 1, 3), nn.ReLU(), models.BasicBlock(1, outputs, stride))
    model = warmed(model, (1, 6, 6))
    ends = pairs(4, 36)
    before = collide(model[:2], (1, 6, 6), ends)
    found = collide(model, (1, 6, 6), ends, at=(before.u, before.v))
    assert found.epsilon.mean() < before.epsilon.mean()


@pytest.mark.parametrize("rectified", [True, False])
def test_against_enumeration(rectified: bool) -> None:
    torch.manual_seed(3)
    after = (nn.Flatten(), nn.Linear(2, 2), nn.ReLU()) if rectified else ()
    model = nn.Sequential(nn.Conv2d(1, 1, 2), nn.ReLU(), nn.MaxPool2d((2, 1)), *after)
    ends = pairs(6, 9)
    chain = as_chain(model, (1, 3, 3))
    assert chain.units == (4, 4, 2) and chain.rectified is rectified
    found = collide(model, (1, 3, 3), ends)
    best = enumerate_patterns(chain.layers, *ends, rectified=rectified)
    assert best.verified.all() and set(best.status) == {"optimal"}
    assert (found.epsilon >= best.epsilon - 1e-6).all()
    assert (found.epsilon <= best.epsilon + 1e-6).mean() >= 0.8
    linear = linear_collision(chain.layers[0][0], *ends)
    assert best.epsilon.mean() < 0.9 * linear.epsilon.mean()


def test_digits_up_to_the_second_pooling() -> None:
    images = data.load("digits", "test", size=16, classes=(3, 7))
    model = warmed(models.create("cnn", 2, images.shape, width=1, seed=0), images.shape).double()

    def features(x: torch.Tensor) -> torch.Tensor:
        for conv, norm in ((model.conv1, model.bn1), (model.conv2, model.bn2)):
            x = F.max_pool2d(F.relu(norm(conv(x if conv is model.conv2 else model.normalize(x)))), 2)
        return x

    x = images.images.double().flatten(1)
    chain = as_chain(model, images.shape, upto="max_pool2d_1")
    expected = features(x.reshape(-1, *images.shape)).flatten(1)
    np.testing.assert_allclose(chain.features(x.numpy()), expected.detach(), rtol=0, atol=1e-10)
    ends = x[images.labels == 0][:2].numpy(), x[images.labels == 1][:2].numpy()
    found = collide(model, images.shape, ends, upto="max_pool2d_1", same=features)
    half = np.linalg.norm(ends[0] - ends[1], axis=1) / 2
    assert (found.epsilon < 0.7 * half).all()
