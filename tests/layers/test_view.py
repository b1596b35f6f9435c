"""The fast view: the model in evaluation mode up to rounding, and the model itself untouched."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from semirobust import layers, models
from semirobust.layers import AttackView, attack_view
from tests.cases import Residual, changed, snapshot, tiny_network, warmed


def norms(module: nn.Module) -> int:
    return sum(isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d) for child in module.modules())


class Shared(nn.Module):
    """One convolution called twice, each call with its own BatchNorm; then one BatchNorm after two
    convolutions.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.other = nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 3, padding=1)
        self.norm_1, self.norm_2, self.norm_3 = (nn.BatchNorm2d(1) for _ in range(3))
        self.last_1, self.last_2 = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)
        self.fc = nn.Linear(64, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm_2(self.conv(torch.relu(self.norm_1(self.conv(x)))))
        x = torch.relu(x + self.other(x))
        return self.fc((self.norm_3(self.last_1(x)) + self.norm_3(self.last_2(x))).flatten(1))


class Tied(nn.Module):
    """Two convolutions with one weight, one with a BatchNorm; and a weight that is read as a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 3, padding=1)
        self.two.weight = self.one.weight
        self.three, self.fc = nn.Conv2d(1, 2, 3, padding=1), nn.Linear(128, 3)
        self.norm, self.norm_3 = nn.BatchNorm2d(1), nn.BatchNorm2d(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.two(torch.relu(self.norm(self.one(x))))
        return self.fc(self.norm_3(self.three(x)).flatten(1)) + self.three.weight.square().mean()


class Standardised(nn.Conv2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = (self.weight - self.weight.mean()) / self.weight.std()
        return F.conv2d(x, weight, self.bias, padding=1)


class Functional(nn.Module):
    """BatchNorm and dropout as functions, on tensors of the root and of a module with children."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3, padding=1)
            self.gain = nn.Parameter(torch.tensor([[[0.5]], [[2.0]]]))
            self.register_buffer("mean", torch.zeros(2))
            self.register_buffer("var", torch.ones(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = F.batch_norm(self.conv(x), self.mean, self.var, training=self.training)
            return F.dropout(torch.relu(x), 0.5, self.training) * self.gain

    def __init__(self) -> None:
        super().__init__()
        self.block, self.fc = self.Block(), nn.Linear(128, 3)
        self.shift = nn.Parameter(torch.randn(3))
        self.plain = torch.tensor([2.0])  # neither parameter nor buffer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.block(x).flatten(1)) * self.plain + self.shift - torch.tensor(0.5)


def standardised() -> nn.Module:
    return nn.Sequential(Standardised(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3))


def unaffine() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 2, 3, bias=True),
        nn.BatchNorm2d(2, affine=False, eps=0.1),
        nn.Conv2d(2, 2, 3, bias=False),
        nn.BatchNorm2d(2, momentum=None),
        nn.Flatten(1, 2),
        nn.Conv1d(8, 3, 3),
        nn.BatchNorm1d(3),
        nn.Flatten(),
        nn.Linear(6, 4),
        nn.BatchNorm1d(4),
    )


def without_statistics() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, track_running_stats=False), nn.Flatten(), nn.Linear(72, 3)
    )


#: name -> (builder, BatchNorm modules left in the view)
CASES = {
    "resnet18": (lambda: tiny_network(), 0),
    "resnet18-cifar": (
        lambda: warmed(models.create("resnet18", 10, (1, 8, 8), width=2, stem="cifar"), (1, 8, 8)),
        0,
    ),
    "wide_resnet34_10": (
        lambda: tiny_network("wide_resnet34_10"),
        15,
    ),  # 16 of 31 have a convolution to themselves
    "residual": (lambda: warmed(Residual(), (1, 8, 8)), 0),
    "shared": (lambda: warmed(Shared(), (1, 8, 8)), 3),
    "tied": (lambda: warmed(Tied(), (1, 8, 8)), 2),
    "standardised": (lambda: warmed(standardised(), (1, 8, 8)), 1),
    "functional": (lambda: warmed(Functional(), (1, 8, 8)), 0),
    "unaffine": (lambda: warmed(unaffine(), (1, 8, 8)), 1),
    "without statistics": (lambda: warmed(without_statistics(), (1, 8, 8)), 1),
    "one layer": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), 0),
}


def input_gradient(model: nn.Module, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(model(leaf), labels, reduction="sum"), leaf)[0]


@pytest.mark.parametrize("name", list(CASES))
def test_the_float32_view_is_the_model_in_evaluation_mode(name: str) -> None:
    build, left = CASES[name]
    torch.manual_seed(0)
    model = build().train()  # the view reads it in evaluation mode whatever it is in
    before, modes = snapshot(model), [module.training for module in model.modules()]
    attributes = [set(module.__dict__) for module in model.modules()]
    fast = attack_view(model, dtype=torch.float32)
    x, labels = torch.rand(6, 1, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2])
    found, slope = fast(x), input_gradient(fast, x, labels)
    assert norms(fast.body) == left
    # the model is untouched, and shares nothing with the view
    assert changed(before, model.state_dict()) == []
    assert [module.training for module in model.modules()] == modes
    assert [set(module.__dict__) for module in model.modules()] == attributes
    assert not {t.data_ptr() for t in model.state_dict().values()} & {
        t.data_ptr() for t in fast.state_dict().values()
    }
    assert all(parameter.grad is None for parameter in model.parameters())
    model.eval()
    torch.testing.assert_close(found, model(x), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(slope, input_gradient(model, x, labels), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("name", "agreement"),
    [
        ("resnet18", 0.99),
        ("residual", 0.99),
        ("functional", 0.99),
        ("wide_resnet34_10", 0.75),
    ],  # untrained, deep, narrow
)
def test_the_bfloat16_view_is_close(name: str, agreement: float) -> None:
    torch.manual_seed(0)
    model = CASES[name][0]()
    fast = attack_view(model, dtype=torch.bfloat16)
    x = torch.rand(32, 1, 8, 8)
    labels = torch.arange(32) % 3
    found = fast(x)
    assert found.dtype == torch.float32
    error = (found - model(x)).abs().max()
    assert 0 < error < 0.1 * model(x).std() + 0.05  # bfloat16 has 8 bits
    a, b = (input_gradient(m, x, labels).flatten() for m in (fast, model))
    assert a.dtype == torch.float32
    assert F.cosine_similarity(a, b, dim=0) > agreement


def test_folding_happens() -> None:
    fast = attack_view(tiny_network(), dtype=torch.float32)
    assert isinstance(fast.body.get_submodule("conv1").bias, nn.Parameter)
    assert not any("bn" in name for name, _ in fast.body.named_modules())
    assert fast.body.get_submodule("conv1").weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", list(CASES))
def test_refresh_follows_training(name: str) -> None:
    torch.manual_seed(0)
    model = CASES[name][0]()
    fast = attack_view(model, dtype=torch.float32)
    x = torch.rand(6, 1, 8, 8)
    stale = fast(x)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    model.train()
    F.cross_entropy(model(torch.rand(8, 1, 8, 8)), torch.arange(8) % 3).backward()
    optimizer.step()
    model.eval()
    assert torch.equal(fast(x), stale)
    assert fast.refresh() is fast
    torch.testing.assert_close(fast(x), model(x), atol=1e-4, rtol=1e-4)
    assert (fast(x) - stale).abs().max() > 1e-3


def test_a_view_stays_in_evaluation_mode_and_has_nothing_to_train() -> None:
    fast = attack_view(tiny_network("wide_resnet34_10"), dtype=torch.float32)
    x = torch.rand(4, 1, 8, 8)
    expected, state = fast(x), snapshot(fast)
    assert not fast.training and not any(module.training for module in fast.body.modules())
    fast.train()
    assert torch.equal(fast(x), expected) and changed(state, fast.state_dict()) == []
    assert not any(parameter.requires_grad for parameter in fast.parameters())
    assert not fast(x).requires_grad


def test_models_in_double_precision_have_a_float32_view() -> None:
    model = tiny_network().double()
    fast = attack_view(model, dtype=torch.float32)
    x = torch.rand(4, 1, 8, 8)
    assert fast(x).dtype == torch.float32
    torch.testing.assert_close(fast(x), model(x.double()).float(), atol=1e-4, rtol=1e-4)


def test_views_of_models_that_cannot_be_traced_say_why() -> None:
    class Branches(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.mean() > 0 else -x

    with pytest.raises(ValueError, match="without branches on tensor values"):
        attack_view(Branches())


def test_a_view_can_be_copied() -> None:
    fast = attack_view(tiny_network(), dtype=torch.float32)
    twin = copy.deepcopy(fast)
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(twin(x), fast(x)) and isinstance(twin, AttackView)


def test_bfloat16_is_for_processors_that_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
    assert layers.fast_dtype() == torch.float32
    assert attack_view(tiny_network()).dtype == torch.float32
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    assert layers.fast_dtype() == torch.bfloat16
    assert attack_view(tiny_network()).dtype == torch.bfloat16
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")  # older builds have neither
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported")
    assert layers.fast_dtype() == torch.float32
