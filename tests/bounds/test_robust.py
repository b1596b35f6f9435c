"""P-1, P-2 and P-3: the printed inequalities that fail, the identities and bounds that hold."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from semirobust import models
from semirobust.bounds import curvature, lipschitz_certificate, operator_norm, robust_difference, telescope
from semirobust.bounds.taylor import largest_eigenvalue
from semirobust.data import load
from semirobust.layers import Split
from tests.cases import changed, snapshot, tiny_network, warmed

quick = settings(max_examples=30)


def chain(*weights: float, activation: nn.Module | None = None) -> nn.Module:
    """x -> w_n ... w_2 w_1 x, with an activation behind all layers but the last."""
    layers: list[nn.Module] = []
    for weight in weights:
        layer = nn.Linear(1, 1, bias=False)
        layer.weight.data.fill_(weight)
        layers += [layer, activation or nn.Identity()]
    return nn.Sequential(*layers[:-1])


def mlp(activation: type[nn.Module], seed: int) -> nn.Module:
    """4-8-6-6-3 in float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [nn.Linear(4, 8), activation(), nn.Linear(8, 6), activation()]
        return nn.Sequential(*layers, nn.Linear(6, 6), activation(), nn.Linear(6, 3)).double()


def moved(model: nn.Module, n_fb: int, size: float, *, seed: int = 0, buffers: bool = False) -> nn.Module:
    """A copy with another f_b: each tensor of it moved by about ``size`` times its own size."""
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    tensors = dict(other.named_parameters()) | (dict(other.named_buffers()) if buffers else {})
    with torch.no_grad():
        for name in Split(other, n_fb).names_b:
            if name in tensors and tensors[name].is_floating_point():
                noise = torch.randn(tensors[name].shape, generator=generator).to(tensors[name])
                tensors[name].mul_(1 + size * noise.clamp(-3, 3))
                tensors[name].add_(size * noise.abs().clamp(max=3) * 0.1)
    return other


def digits(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    data = load("digits", "test", limit=n)
    return data.images, data.labels


# --- Lanczos ---


@quick
@given(st.integers(1, 12), st.floats(-5, 5), st.integers(0, 10**6))
def test_lanczos_finds_the_largest_eigenvalue(d: int, shift: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(d, d, generator=generator, dtype=torch.float64)
    matrix = matrix + matrix.T + shift * torch.eye(d)  # any sign
    exact = torch.linalg.eigvalsh(matrix)
    start = torch.randn(d, generator=generator, dtype=torch.float64)
    ritz = largest_eigenvalue(lambda v: matrix @ v, start)
    assert ritz.value == pytest.approx(float(exact[-1]), abs=1e-6)
    for steps in range(1, d + 1):  # stopped early: from below, and some eigenvalue within the residual
        ritz = largest_eigenvalue(lambda v: matrix @ v, start, steps=steps, tolerance=0.0)
        assert ritz.value <= float(exact[-1]) + 1e-9
        assert float((exact - ritz.value).abs().min()) <= ritz.residual + 1e-9
        assert ritz.steps <= steps


def test_lanczos_on_simple_matrices() -> None:
    start = torch.ones(5, dtype=torch.float64)
    assert largest_eigenvalue(lambda v: 0 * v, start).value == 0
    assert largest_eigenvalue(lambda v: -3 * v, start) == largest_eigenvalue(lambda v: -3 * v, 2 * start)
    assert largest_eigenvalue(lambda v: -3 * v, start).value == pytest.approx(-3, abs=1e-12)
    with pytest.raises(ValueError, match="start must be a vector other than 0"):
        largest_eigenvalue(lambda v: v, 0 * start)


# --- P-1 ---


def test_minimising_the_mean_leaves_each_sample_its_gradient() -> None:
    """(11): l = (w - x)^2 / 2, Y l averaged over (1, 1) with 3/4 and (-1, -1) with 1/4 is least at w = 2."""
    x, y, p = np.array([1.0, -1.0]), np.array([1.0, -1.0]), np.array([0.75, 0.25])
    weights = np.linspace(-5, 5, 2001)
    objective = (p * y * (weights[:, None] - x) ** 2 / 2).sum(1)
    star = weights[objective.argmin()]
    assert star == pytest.approx(2)
    assert (star - x).tolist() == pytest.approx([1, 3])  # not 0
    assert (p * y * (star - x)).sum() == pytest.approx(0)


def test_the_sign_of_the_label_turns_the_printed_second_order_bound_around() -> None:
    """(13) with Hessians I for y = 1 and -diag(1, 5) for y = -1, mass 1/2 each, minimiser 0."""
    hessians, labels, delta = [np.eye(2), -np.diag([1.0, 5.0])], [1, -1], np.array([0.0, 1.0])
    left = np.mean([y * delta @ h @ delta / 2 for h, y in zip(hessians, labels, strict=True)])
    printed = np.mean([y * np.linalg.eigvalsh(h)[-1] / 2 for h, y in zip(hessians, labels, strict=True)])
    block = np.mean([y * h for h, y in zip(hessians, labels, strict=True)], axis=0)
    ritz = largest_eigenvalue(lambda v: torch.from_numpy(block) @ v, torch.ones(2, dtype=torch.float64))
    assert left == 1.5
    assert printed == pytest.approx(0.5)  # below the left side
    assert 0.5 * ritz.value == pytest.approx(1.5)


def block_hessian(model: nn.Module, n_fb: int, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The slow twin: the dense Hessian of the mean cross-entropy in the parameters of f_b."""
    names = [n for n in Split(model, n_fb).names_b if n in dict(model.named_parameters())]
    shapes = [model.get_parameter(n).shape for n in names]

    def objective(omega: torch.Tensor) -> torch.Tensor:
        parts = omega.split([s.numel() for s in shapes])
        values = {n: p.view(s) for n, p, s in zip(names, parts, shapes, strict=True)}
        return F.cross_entropy(functional_call(model, values, (images,)), labels)

    omega = torch.cat([model.get_parameter(n).detach().flatten() for n in names])
    return torch.autograd.functional.hessian(objective, omega)


@pytest.mark.parametrize("seed", [0, 1])
def test_taylor_is_an_identity_on_a_smooth_network(seed: int) -> None:
    star = mlp(nn.Tanh, seed)
    tilde = moved(star, 3, 0.3, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(40, 4, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 3, (40,), generator=generator)
    before = snapshot(star), snapshot(tilde)
    taylor = curvature(star, tilde, images, labels, 3, batch_size=16)

    def mean_loss(model: nn.Module) -> float:
        return float(F.cross_entropy(model(images).detach(), labels))

    assert taylor.smooth and taylor.dimension == 8 * 6 + 6 + 6 * 6 + 6 + 6 * 3 + 3
    assert taylor.difference == pytest.approx(mean_loss(tilde) - mean_loss(star), abs=1e-12)
    assert abs(taylor.remainder) < 1e-10
    assert abs(taylor.gradient_term) > 1e-3  # what (11) drops
    dense = [torch.linalg.eigvalsh(block_hessian(model, 3, images, labels)) for model in (star, tilde)]
    ends = [ritz.value for t, ritz in taylor.largest_eigenvalue if t in (0, 1)]
    assert ends == pytest.approx([float(values[-1]) for values in dense], rel=1e-6)
    assert float(dense[0][0]) < 0  # the Hessian is indefinite: the largest is not that of largest modulus
    assert taylor.difference <= taylor.bound_estimate
    one_batch = curvature(star, tilde, images, labels, 3)
    assert one_batch.quadratic_integral == pytest.approx(taylor.quadratic_integral, abs=1e-13)
    assert changed(before[0], snapshot(star)) == changed(before[1], snapshot(tilde)) == []


def test_taylor_with_another_loss_is_exact_by_hand() -> None:
    """J = (w_2 w_1 x - y)^2 on x = 1, y = 0, from w_2 = 1 to 2, with w_1 = 3: 9 -> 36."""
    taylor = curvature(
        chain(3, 1),
        chain(3, 2),
        torch.ones(1, 1),
        torch.zeros(1),
        1,
        loss=lambda logits, y: (logits[:, 0] - y).square().mean(),
    )
    assert taylor.difference == pytest.approx(27) and taylor.gradient_term == pytest.approx(18)
    assert taylor.quadratic_integral == pytest.approx(9) and taylor.delta_norm == 1
    assert [ritz.value for _, ritz in taylor.largest_eigenvalue] == pytest.approx([18.0] * 5)
    assert taylor.bound_estimate == pytest.approx(27)  # an equality: J is a parabola


def test_taylor_of_a_loss_that_is_linear_in_f_b() -> None:
    ones = torch.ones(1, 1)
    taylor = curvature(chain(3, 1), chain(3, 2), ones, ones[0], 1, loss=lambda out, y: (out[:, 0] * y).mean())
    assert (taylor.difference, taylor.gradient_term, taylor.quadratic_integral) == (3, 3, 0)
    assert taylor.bound_estimate == 3


def test_kinks_in_f_b_make_taylor_formal() -> None:
    images = torch.randn(20, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.arange(20) % 3
    relu = mlp(nn.ReLU, 0)
    few: dict[str, Any] = {"times": (0.0,), "steps": 5}
    formal = curvature(relu, moved(relu, 3, 0.5), images, labels, 3, **few)
    assert not formal.smooth and abs(formal.remainder) > 1e-8
    last = curvature(relu, moved(relu, 1, 0.5), images, labels, 1, **few)  # no ReLU behind the last layer
    assert last.smooth and abs(last.remainder) < 1e-12


def test_taylor_counts_the_statistics_of_batchnorm() -> None:
    """f_b of a network with BatchNorm: running statistics are part of omega, by folding."""
    star = warmed(models.create("resnet18", 10, (1, 16, 16), width=4, seed=0), (1, 16, 16))
    tilde = moved(star, 1, 0.1)
    images, labels = digits(30)
    taylor = curvature(star, tilde, images, labels, 1, times=(0.0, 1.0))
    assert taylor.smooth and taylor.dimension == 32 * 10 + 10 and abs(taylor.remainder) < 1e-12
    block = torch.linalg.eigvalsh(block_hessian(star.double(), 1, images.double(), labels))
    assert taylor.largest_eigenvalue[0][1].value == pytest.approx(float(block[-1]), rel=1e-5)
    norms = moved(star, 2, 0.05, buffers=True)
    other = curvature(star, norms, images, labels, 2, times=(0.0,), steps=2, quadrature=1)
    loss = [float(F.cross_entropy(m.double()(images.double()).detach(), labels)) for m in (star, norms)]
    assert other.difference == pytest.approx(loss[1] - loss[0], abs=1e-12)
    single = curvature(star, tilde, images, labels, 1, times=(0.0,), dtype=torch.float32)
    assert single.difference == pytest.approx(taylor.difference, abs=1e-5)


# --- P-2 ---


def test_the_scalar_chain_is_an_equality() -> None:
    result = telescope(chain(1, 10, 10), chain(1, 11, 11), torch.ones(1, 1), 2)
    assert result.layers == ("2", "4")
    assert result.contributions.tolist() == [[11.0, 10.0]]
    assert result.bound.tolist() == result.product_bound.tolist() == result.difference.tolist() == [21.0]
    assert result.printed_bound.tolist() == pytest.approx([math.sqrt(2)])
    assert result.loss_difference == pytest.approx(21 * math.sqrt(2))


def test_a_bias_moves_the_output_where_the_printed_bound_is_zero() -> None:
    """(16) has no biases: W = 0, b = 1."""
    star = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    for parameter in star.parameters():
        parameter.data.zero_()
    tilde = copy.deepcopy(star)
    tilde.get_parameter("1.bias").data.fill_(1.0)
    result = telescope(star, tilde, torch.ones(1, 1), 1)
    assert result.difference.tolist() == result.bound.tolist() == [1.0]
    assert result.printed_bound.tolist() == [0.0]


def test_an_activation_counts_once_per_layer() -> None:
    """(16) has C_sigma once: with sigma(t) = 2 t the factor of two layers is 4."""

    class Double(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * x

    net = nn.Sequential(nn.Linear(1, 1, bias=False), Double(), nn.Linear(1, 1, bias=False), Double())
    for weight in net.parameters():
        weight.data.fill_(1.0)
    assert net(torch.ones(1, 1)).tolist() == [[4.0]]  # (16) says 2 at most
    with pytest.raises(ValueError, match=r"bounds cannot treat layer mul \(mul\)|layer 1 \(Double\)"):
        telescope(net, net, torch.ones(1, 1), 1)
    leaky = [chain(1, w, w, activation=nn.LeakyReLU(2.0)) for w in (1.0, 2.0)]  # 2 t for t < 0
    result = telescope(*leaky, -torch.ones(1, 1), 2)
    assert result.difference.tolist() == result.bound.tolist() == [12.0]  # 2 * 2 * (2 * 2) - 2 * 2


def test_a_shift_of_a_convolution_counts_once_per_pixel() -> None:
    star = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1), nn.Flatten())
    tilde = copy.deepcopy(star)
    tilde.get_parameter("1.bias").data.add_(0.5)
    images = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    result = telescope(star, tilde, images, 1)
    for bound in (result.difference, result.bound, result.product_bound):
        assert bound.tolist() == pytest.approx([2.0] * 3)  # 0.5 sqrt(16), not 0.5


def test_a_residual_block_multiplies_by_one_plus_its_constant() -> None:
    class Block(nn.Module):
        def __init__(self, first: float, inner: float) -> None:
            super().__init__()
            self.stem = nn.Linear(1, 1, bias=False)
            self.first, self.inner = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
            for layer, value in ((self.stem, 1.0), (self.first, first), (self.inner, inner)):
                layer.weight.data.fill_(value)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            z = self.first(self.stem(x))
            return z + torch.relu(self.inner(z))

    result = telescope(Block(1, 3), Block(2, 4), torch.ones(1, 1), 2)
    assert result.layers == ("first", "inner")
    assert result.contributions.tolist() == [[5.0, 1.0]]  # 1 * (1 + 4), and |4 - 3| * 1
    assert result.difference.tolist() == result.bound.tolist() == [6.0]  # 2 + 8 - (1 + 3)


@quick
@given(
    st.integers(0, 10**6),
    st.sampled_from([nn.Tanh, nn.ReLU, nn.Sigmoid]),
    st.sampled_from([0.0, 0.01, 0.3, 2.0]),
    st.integers(1, 3),
)
def test_telescope_holds_for_every_sample(seed: int, kind: type[nn.Module], size: float, n_fb: int) -> None:
    star = mlp(kind, seed)
    tilde = moved(star, n_fb, size, seed=seed)
    images = torch.randn(16, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    result = telescope(star, tilde, images, n_fb, batch_size=7)
    truth = (tilde(images) - star(images)).norm(dim=1)
    assert torch.allclose(result.difference, truth, atol=1e-12)
    assert (truth <= result.bound * (1 + 1e-9) + 1e-12).all()
    assert (result.bound <= result.product_bound * (1 + 1e-9) + 1e-12).all()
    assert torch.allclose(result.product_bound, product_form(star, tilde, images), rtol=1e-9, atol=1e-12)
    assert result.contributions.shape == (16, n_fb if size else 0)


def product_form(star: nn.Module, tilde: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """The slow twin: the sum over layers of the product of norms, as one writes it down for a chain."""
    pairs = list(zip(star.children(), tilde.children(), strict=True))
    total, z = torch.zeros(len(images), dtype=torch.float64), images
    with torch.no_grad():
        for j, (layer, other) in enumerate(pairs):
            if isinstance(layer, nn.Linear) and isinstance(other, nn.Linear):
                later = 1.0
                for _, rest in pairs[j + 1 :]:
                    later *= 0.25 if isinstance(rest, nn.Sigmoid) else 1.0
                    later *= (
                        float(torch.linalg.matrix_norm(rest.weight, 2))
                        if isinstance(rest, nn.Linear)
                        else 1.0
                    )
                change = float(torch.linalg.matrix_norm(other.weight - layer.weight, 2))
                total += later * (change * z.norm(dim=1) + (other.bias - layer.bias).norm())
            z = layer(z)
    return total


@pytest.mark.parametrize(
    ("name", "stem"), [("resnet18", "authors"), ("resnet18", "cifar"), ("wide_resnet34_10", "")]
)
@pytest.mark.parametrize("n_fb", [1, 4, 12])
def test_telescope_on_digits(name: str, stem: str, n_fb: int) -> None:
    options = {"stem": stem} if stem else {}
    star = warmed(models.create(name, 10, (1, 16, 16), width=4, seed=0, **options), (1, 16, 16))
    images, _ = digits(24)
    tilde = moved(star, n_fb, 0.05, buffers=True)
    result = telescope(star, tilde, images, n_fb)
    with torch.no_grad():
        truth = (tilde.double()(images.double()) - star.double()(images.double())).norm(dim=1)
    assert torch.allclose(result.difference, truth, rtol=1e-9, atol=1e-12)
    assert (truth > 0).all() and (truth <= result.bound * (1 + 1e-9)).all()
    assert (result.bound <= result.product_bound * (1 + 1e-9)).all()
    assert torch.allclose(result.contributions.sum(1), result.bound)
    if n_fb == 1:
        assert torch.allclose(result.bound, truth)  # one linear layer: nothing is lost
    same = telescope(star, star, images, n_fb)
    assert same.layers == () and same.bound.tolist() == same.difference.tolist() == [0.0] * len(images)
    assert same.product_bound.tolist() == same.printed_bound.tolist() == [0.0] * len(images)


def test_the_printed_bound_is_violated_where_later_layers_stretch() -> None:
    star = mlp(nn.Tanh, 0)
    with torch.no_grad():
        for name in ("4.weight", "6.weight"):
            star.get_parameter(name).mul_(6.0)
    tilde = copy.deepcopy(star)
    with torch.no_grad():
        tilde.get_parameter("2.weight").add_(0.05)
    images = torch.randn(64, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    result = telescope(star, tilde, images, 3)
    entrance = torch.tanh(star.get_submodule("0")(images)).norm(dim=1)
    assert torch.allclose(result.printed_bound, 0.05 * math.sqrt(48) * entrance)
    assert int((result.printed_bound < result.difference).sum()) > 10
    assert (result.difference <= result.bound).all()


def test_telescope_leaves_the_models_as_found() -> None:
    star, tilde = tiny_network().train(), None
    tilde = moved(star, 4, 0.1)
    before = snapshot(star), snapshot(tilde)
    state = torch.random.get_rng_state()
    telescope(star, tilde, torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)), 4)
    assert star.training and tilde.training and torch.equal(state, torch.random.get_rng_state())
    assert changed(before[0], snapshot(star)) == changed(before[1], snapshot(tilde)) == []
    assert all(p.requires_grad and p.grad is None for p in (*star.parameters(), *tilde.parameters()))


# --- P-3 ---


@quick
@given(st.integers(0, 10**6))
def test_losses_differ_by_at_most_sqrt_2_times_the_outputs(seed: int) -> None:
    star = mlp(nn.ReLU, seed)
    tilde = moved(star, 2, 0.3, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(16, 4, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 3, (16,), generator=generator)
    result = telescope(star, tilde, images, 2)
    losses = [float(F.cross_entropy(model(images), labels).detach()) for model in (star, tilde)]
    outputs = math.sqrt(2) * float(result.difference.mean())
    assert abs(losses[1] - losses[0]) <= outputs * (1 + 1e-12) <= result.loss_difference * (1 + 1e-9)


def margins(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    own = logits.gather(1, labels[:, None])[:, 0]
    return own - logits.scatter(1, labels[:, None], -math.inf).amax(1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_robust_difference_holds_for_every_perturbation_tried(norm: str) -> None:
    star, eps, n_fb = mlp(nn.ReLU, 3), 0.1, 2
    tilde = moved(star, n_fb, 0.05)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(12, 4, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 3, (12,), generator=generator)
    result = robust_difference(star, tilde, images, n_fb, eps=eps, norm=norm)
    assert result.radius == pytest.approx(eps * (2 if norm == "linf" else 1))
    assert not result.trivial and 0 < result.correlation < 2
    noise = torch.randn(500, 12, 4, generator=generator, dtype=torch.float64)
    noise = eps * (noise.sign() if norm == "linf" else noise / noise.norm(dim=2, keepdim=True))
    logits = [model((images + noise).flatten(0, 1)).view(500, 12, 3) for model in (star, tilde)]
    assert ((logits[0] - logits[1]).norm(dim=2).amax(0) <= result.output).all()
    robust = [torch.stack([margins(row, labels) for row in each]).amin(0).clamp(-1, 1) for each in logits]
    assert abs(float((robust[0].mean() - robust[1].mean()).detach())) <= result.correlation
    worst = [
        F.cross_entropy(e.flatten(0, 1), labels.repeat(500), reduction="none").view(500, 12) for e in logits
    ]
    assert abs(float(worst[0].amax(0).mean() - worst[1].amax(0).mean())) <= result.loss


def test_robust_difference_at_the_ends() -> None:
    star = mlp(nn.ReLU, 3)
    tilde = moved(star, 2, 0.05)
    images = torch.randn(12, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    still = robust_difference(star, tilde, images, 2, eps=0.0)
    assert torch.equal(still.output, telescope(star, tilde, images, 2).bound)
    sizes = [robust_difference(star, tilde, images, 2, eps=e).output for e in (0.0, 0.01, 0.1)]
    assert (sizes[0] < sizes[1]).all() and (sizes[1] < sizes[2]).all()
    far = robust_difference(star, tilde, images, 2, eps=1e6)
    assert far.trivial and far.correlation == 2.0
    same = robust_difference(star, star, images, 2, eps=0.5)
    assert same.correlation == same.loss == 0.0 and not same.trivial


def test_robust_difference_of_a_linear_network_is_an_equality() -> None:
    """w_1 = 3, w_2 from 1 to 2: |F~ - F*| = 3 |x + delta|, largest 3 (1 + eps)."""
    result = robust_difference(chain(3, 1), chain(3, 2), torch.ones(1, 1), 1, eps=0.5)
    assert result.output.tolist() == pytest.approx([4.5])
    assert result.correlation == 2.0 and result.loss == pytest.approx(4.5 * math.sqrt(2))
    near = robust_difference(chain(3, 1), chain(3, 1.125), torch.tensor([[1.0], [9.0]]), 1, eps=0.5)
    assert near.output.tolist() == pytest.approx([0.5625, 3.5625])
    assert near.correlation == pytest.approx((0.5625 * math.sqrt(2) + 2) / 2)  # clipped image by image
    assert not near.trivial and near.loss == pytest.approx((0.5625 + 3.5625) / 2 * math.sqrt(2))


# --- the Lipschitz form ---


@pytest.mark.parametrize(
    ("clean", "bound", "exact"),
    [(1.5, 0.75, 0.75), (math.tanh(1.5), 0.155148253645, 0.635148952387)],
)
def test_lipschitz_form_by_hand(clean: float, bound: float, exact: float) -> None:
    """x = y, |delta| <= 1/2, F_a = x / 2, f_b = 3 z or tanh(3 z): reach 1/4, constant 3."""
    certificate = lipschitz_certificate(torch.tensor([clean, clean]), 3.0, 0.25, multiclass=False)
    assert certificate.correlation == pytest.approx(bound, abs=1e-7 if clean < 1 else 1e-12)
    assert certificate.correlation <= exact + 1e-7
    assert certificate.robust_accuracy == 1.0
    double = lipschitz_certificate(
        torch.tensor([clean] * 2, dtype=torch.float64), 3.0, 0.25, multiclass=False
    )
    assert double.correlation == pytest.approx(bound, abs=1e-12)


def test_lipschitz_form_counts_margins_above_sqrt_2_times_the_move() -> None:
    values = torch.tensor([-1.0, 0.5, math.sqrt(2), 1.5, 3.0], dtype=torch.float64)
    certificate = lipschitz_certificate(values, 2.0, 0.5)
    assert certificate.robust_accuracy == 0.4  # 1.5 and 3; sqrt(2) itself does not count
    assert certificate.correlation == pytest.approx(float(values.mean()) - math.sqrt(2), abs=1e-12)
    clipped = [-1, 0.5 - math.sqrt(2), 0, 1.5 - math.sqrt(2), 1]
    assert certificate.clipped_correlation == pytest.approx(sum(clipped) / 5, abs=1e-12)
    each = lipschitz_certificate(values, 2.0, torch.tensor([0.5, 0.0, 0.0, 5.0, 5.0]))
    assert each.robust_accuracy == 0.4  # 0.5 and sqrt(2), which cannot move


@quick
@given(st.integers(0, 10**6), st.floats(0, 0.3))
def test_certified_samples_withstand_perturbations(seed: int, eps: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(4, 3).double()
    layer.weight.data = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    images = torch.randn(20, 4, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        labels = layer(images).argmax(1)
        clean = margins(layer(images), labels)
        certificate = lipschitz_certificate(clean, operator_norm(layer, (4,)).upper, eps)
        noise = torch.randn(200, 20, 4, generator=generator, dtype=torch.float64)
        noise *= eps / noise.norm(dim=2, keepdim=True)
        attacked = torch.stack([margins(layer(images + d), labels) for d in noise]).amin(0)
    assert certificate.correlation <= float(attacked.mean()) + 1e-9
    assert certificate.clipped_correlation <= float(attacked.clamp(-1, 1).mean()) + 1e-9
    assert certificate.robust_accuracy <= float((attacked > 0).double().mean())


# --- bad input ---


def test_networks_that_do_not_fit_together() -> None:
    star, images, labels = mlp(nn.Tanh, 0), torch.rand(3, 4), torch.zeros(3, dtype=torch.int64)
    other = moved(star, 3, 0.1)
    with pytest.raises(ValueError, match=r"must share f_a, but 2\.weight differs .* f_b starts at 4"):
        telescope(star, other, images, 2)
    with pytest.raises(ValueError, match="must share f_a"):
        curvature(star, other, images, labels, 2)
    with pytest.raises(ValueError, match="must share f_a"):
        robust_difference(star, other, images, 2, eps=0.1)
    with pytest.raises(ValueError, match=r"must have the same shape: 0\.weight is \[8, 4\] and \[1, 1\]"):
        telescope(star, chain(1, 2, 3), images, 1)
    with pytest.raises(ValueError, match=r"one runs 1 Identity\(\) .*, the other 1 Tanh\(\)"):
        telescope(chain(1, 2), chain(1, 2, activation=nn.Tanh()), torch.ones(1, 1), 1)
    with pytest.raises(ValueError, match="n_fb must be an integer between 1 and 3"):
        telescope(star, star, images, 4)
    norms = warmed(models.create("resnet18", 10, (1, 8, 8), width=2, seed=0), (1, 8, 8))
    drifted = copy.deepcopy(norms)
    drifted.get_buffer("bn1.running_mean").add_(0.1)
    with pytest.raises(ValueError, match=r"conv1\.bias differs .*BatchNorm statistics"):
        telescope(norms, drifted, torch.rand(2, 1, 8, 8), 4)


def test_layers_that_no_bound_treats() -> None:
    def net() -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(2, 2, 1), nn.GroupNorm(1, 2), nn.Flatten(), nn.Linear(32, 2))

    star = net()
    with pytest.raises(ValueError, match=r"bounds cannot treat layer 1 \(GroupNorm\)"):
        telescope(star, star, torch.rand(2, 2, 4, 4), 1)

    class Shift(nn.Module):
        def __init__(self, shift: float) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
            self.shift = nn.Parameter(torch.full((1, 1), shift))
            self.one.weight.data.fill_(1.0)
            self.two.weight.data.fill_(1.0)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.two(self.one(x)) + self.shift

    with pytest.raises(ValueError, match="parameters outside layers: shift"):
        telescope(Shift(0.0), Shift(1.0), torch.ones(1, 1), 1)


def test_bad_images_and_options() -> None:
    star, images, labels = mlp(nn.Tanh, 0), torch.rand(3, 4), torch.zeros(3, dtype=torch.int64)
    with pytest.raises(ValueError, match="at least one image"):
        telescope(star, star, images[:0], 1)
    with pytest.raises(ValueError, match=r"does not take images of shape \(5,\)"):
        telescope(star, star, torch.rand(3, 5), 1)
    with pytest.raises(ValueError, match="one label per image: 3 images"):
        curvature(star, star, images, labels[:2], 1)
    for bad in ({"times": ()}, {"times": (2.0,)}, {"quadrature": 0}):
        with pytest.raises(ValueError, match=r"times in \[0, 1\] and quadrature >= 1"):
            curvature(star, star, images, labels, 1, **bad)  # type: ignore[arg-type]
    for options in ({"eps": 0.1, "norm": "l1"}, {"eps": -0.1}, {"eps": math.inf}):
        with pytest.raises(ValueError, match="norm must be linf or l2 and eps at least 0"):
            robust_difference(star, star, images, 1, **options)  # type: ignore[arg-type]
    for values in (torch.empty(0), torch.tensor([math.nan]), torch.ones(2, 2)):
        with pytest.raises(ValueError, match="at least one finite margin"):
            lipschitz_certificate(values, 1.0, 0.1)
    for constant, reach in ((-1.0, 0.1), (math.nan, 0.1), (1.0, -0.1), (1.0, torch.ones(3))):
        with pytest.raises(ValueError, match="at least 0, and reach one number or one per margin"):
            lipschitz_certificate(torch.ones(2), constant, reach)
