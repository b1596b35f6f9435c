"""Robust correlation of a layer: closed forms, enumeration, certified <= attacked <= clean, the guard."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from semirobust import attacks, data, layers, readouts, statistics
from semirobust.readouts import (
    Probe,
    best_scale,
    clipped_margins,
    correlation,
    distillation_gap,
    robust_correlation,
    train_probe,
)
from semirobust.readouts.certificate import feature_constant, is_affine, pair_constants
from tests.cases import Residual, changed, random_images, snapshot, tiny_network, warmed


def linear(weight, bias=None):
    """A linear module with the given weights [out, in]."""
    weight = torch.as_tensor(weight, dtype=torch.float32)
    module = nn.Linear(weight.shape[1], weight.shape[0])
    module.weight.data = weight
    module.bias.data = torch.zeros(len(weight)) if bias is None else torch.as_tensor(bias).float()
    return module


def probe_of_input(weight, bias=None):
    head = linear(weight, bias)
    return Probe(nn.Sequential(linear(torch.eye(head.in_features))), "input", head)


def small_mlp(seed=0, inputs=2, classes=3):
    generator = torch.Generator().manual_seed(seed)
    sizes = [(8, inputs), (8, 8), (classes, 8)]
    first, second, third = (linear(torch.randn(s, generator=generator)) for s in sizes)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third)


def corners(x, eps):
    """All corners of the box of perturbations of each image: [2^d, N, d]."""
    low, high = (x - eps).clamp(min=0), (x + eps).clamp(max=1)
    choices = itertools.product([False, True], repeat=x.shape[1])
    return torch.stack([torch.where(torch.tensor(choice), high, low) for choice in choices])


def raw_margins(function, x, labels):
    with torch.no_grad():
        logits = function(x).double()
    label = logits.gather(1, labels[:, None])[:, 0]
    return label - logits.scatter(1, labels[:, None], -np.inf).amax(1)


# --- closed forms and enumeration ---


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.02, 0.1]))
def test_two_classes_interior_points_give_w_mu_minus_eps_times_the_l1_norm(seed, eps):
    rng = np.random.default_rng(seed)
    w, n = rng.normal(size=4), 12
    x = torch.from_numpy(rng.uniform(0.2, 0.8, (n, 4))).float()
    y = torch.from_numpy(rng.integers(0, 2, n))
    bias = -w.sum() / 2
    scale = 0.9 / (np.abs(w).sum() / 2 + eps * np.abs(w).sum())  # nothing is clipped
    probe = probe_of_input(scale * np.stack([-w / 2, w / 2]), scale * np.array([-bias / 2, bias / 2]))
    sign = 2.0 * y.numpy() - 1
    closed = scale * ((sign * (x.double().numpy() @ w + bias)).mean() - eps * np.abs(w).sum())
    found = robust_correlation(probe, x, y, eps=eps, steps=8, restarts=1)
    assert found.certificate == "exact" and found.lipschitz is None
    assert found.attacked == pytest.approx(closed, abs=1e-5)
    assert found.certified == pytest.approx(closed, abs=1e-4)
    assert found.certified <= found.attacked <= found.clean


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.integers(2, 4), st.floats(0, 0.6))
def test_an_affine_probe_has_the_minimum_over_the_corners_of_the_box(seed, classes, eps):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(9, 3, generator=generator).round(decimals=1)  # some pixels are at the walls of [0, 1]
    y = torch.randint(0, classes, (9,), generator=generator)
    weight, bias = (torch.randn(s, generator=generator) for s in ((classes, 3), (classes,)))
    probe = probe_of_input(weight, bias)
    all_corners = torch.stack([raw_margins(probe, corner, y) for corner in corners(x, eps)]).amin(0)
    exact = all_corners.clamp(-1, 1)  # the margin is concave in the image: its minimum is at a corner
    # one search against each rival reaches that corner: the gradient of each is constant
    found = robust_correlation(probe, x, y, eps=eps, steps=10, restarts=classes)
    assert found.attacked_values.double().sub(exact).abs().max() < 1e-5
    assert (found.certified_values.double() <= exact).all()
    assert found.certified_values.double().sub(exact).abs().max() < 2e-4
    assert found.hard_attacked == pytest.approx(2 * float((all_corners > 0).double().mean()) - 1)


def test_the_first_weight_layer_behind_normalisation_is_exact_too():
    model = tiny_network()
    head = linear(torch.randn(10, 128, generator=torch.Generator().manual_seed(0)) / 40)
    probe = Probe(model, "conv1", head)
    assert is_affine(probe)
    subset = random_images(12)
    eps = 0.05
    found = robust_correlation(
        probe, subset.images, subset.labels, eps=eps, steps=10, restarts=10, fast=False
    )
    assert found.certificate == "exact"
    # slow twin: gradient of each difference by autograd, image by image
    for image, label, sure in zip(subset.images, subset.labels, found.certified_values, strict=True):
        gaps = []
        for rival in set(range(10)) - {int(label)}:
            leaf = image[None].clone().requires_grad_()
            logits = probe(leaf)[0]
            (grad,) = torch.autograd.grad(logits[label] - logits[rival], leaf)
            low, high = (image - eps).clamp(min=0), (image + eps).clamp(max=1)
            worst = torch.where(grad[0] > 0, low, high)
            with torch.no_grad():
                out = probe(worst[None])[0]
            gaps.append(float(out[label] - out[rival]))
        assert float(sure) == pytest.approx(np.clip(min(gaps), -1, 1), abs=2e-4)
    assert found.attacked == pytest.approx(found.certified, abs=1e-3)  # ten searches: one for each rival


def test_a_nonlinear_network_lies_between_certificate_and_grid():
    model = small_mlp()
    generator = torch.Generator().manual_seed(1)
    x, y = torch.rand(20, 2, generator=generator), torch.randint(0, 3, (20,), generator=generator)
    eps = 0.08
    probe = Probe(model, "2", linear(torch.randn(3, 8, generator=generator) / 8))
    ticks = torch.linspace(-eps, eps, 41)
    grid = torch.cartesian_prod(ticks, ticks)
    lowest = torch.stack([raw_margins(probe, (x + d).clamp(0, 1), y) for d in grid]).amin(0).clamp(-1, 1)
    found = robust_correlation(probe, x, y, eps=eps, steps=30, restarts=4)
    assert found.certificate == "lipschitz" and found.lipschitz > 0
    assert (found.certified_values <= lowest).all()
    # the grid misses the true minimum by little, and so does the attack
    assert found.attacked == pytest.approx(float(lowest.mean()), abs=0.01)
    assert (found.attacked_values.double() <= lowest + 0.1).all()


def test_the_lipschitz_certificate_is_at_least_the_mean_form_and_says_something_at_small_eps():
    model, eps = small_mlp(3), 0.002
    generator = torch.Generator().manual_seed(2)
    x = torch.rand(30, 2, generator=generator)
    y = model(x).argmax(1)
    head = linear(torch.randn(3, 8, generator=generator) / 4)
    for hidden in (head, nn.Sequential(linear(torch.eye(8)), nn.ReLU(), head)):
        probe = Probe(model, "2", hidden)
        found = robust_correlation(probe, x, y, eps=eps)
        constant = feature_constant(probe, x.shape[1:]) * float(pair_constants(probe.head).max())
        mean_form = found.clean - constant * eps * 2**0.5
        assert mean_form - 1e-3 <= found.certified <= found.attacked <= found.clean
        assert not found.certificate_is_trivial
    wide = robust_correlation(probe, x, y, eps=1.0)
    assert wide.certificate_is_trivial and wide.certified == -1


@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_pair_constants_bound_every_difference(seed):
    generator = torch.Generator().manual_seed(seed)
    head = nn.Sequential(
        linear(torch.randn(5, 4, generator=generator)),
        nn.ReLU(),
        linear(torch.randn(3, 5, generator=generator)),
    )
    constants = pair_constants(head)
    a, b = torch.randn(2, 50, 4, generator=generator)
    with torch.no_grad():
        moved = head(a) - head(b)  # [50, 3]
    pairs = (moved[:, :, None] - moved[:, None, :]).abs() / (a - b).norm(dim=1)[:, None, None]
    assert (pairs.amax(0) <= constants * (1 + 1e-5)).all()
    assert constants.diagonal().abs().max() == 0
    only = pair_constants(nn.Sequential(head[2]))
    row = head[2].weight.detach()
    assert float(only[0, 2]) == pytest.approx(float((row[0] - row[2]).norm()), rel=1e-6)


def test_a_network_without_a_known_constant_has_no_certificate():
    model = nn.Sequential(linear(torch.eye(2)), nn.GELU(), linear(torch.eye(2)))
    found = robust_correlation(
        Probe(model, "2", linear(torch.eye(2))), torch.rand(5, 2), torch.zeros(5).long(), eps=0.1
    )
    assert found.certificate.startswith("none: ") and "GELU" in found.certificate.upper()
    assert found.certified == -1 and found.certificate_is_trivial and found.hard_certified == -1


# --- the order of the three numbers, and what moves them ---

IMAGES = random_images(14, seed=5)


@settings(max_examples=20)
@given(
    st.integers(0, 3),
    st.sampled_from(["input", "conv1", "stages.0.1.conv2", "stages.3.0.conv1", "fc"]),
    st.sampled_from([0.0, 0.001, 0.03, 0.3]),
    st.floats(0.1, 30),
    st.booleans(),
)
def test_certified_attacked_clean_are_in_order_image_by_image(seed, layer, eps, size, fast):
    model = tiny_network(seed=seed)
    width = layers.activations(model, IMAGES.images[:1], [layer])[layer].shape[1] if layer != "input" else 64
    weight = torch.randn(10, width, generator=torch.Generator().manual_seed(seed)) * size / width**0.5
    probe = Probe(model, layer, linear(weight))
    found = robust_correlation(
        probe, IMAGES.images, IMAGES.labels, eps=eps, steps=3, restarts=2, fast=fast, batch_size=5
    )
    assert (found.certified_values <= found.attacked_values).all()
    assert (found.attacked_values <= found.clean_values).all()
    assert -1 <= found.certified <= found.attacked <= found.clean <= 1
    assert found.hard_certified <= found.hard_attacked <= found.hard_clean
    for value, (low, high) in (
        (found.clean, found.clean_interval),
        (found.attacked, found.attacked_interval),
        (found.certified, found.certified_interval),
    ):
        assert -1 <= low <= value <= high <= 1
    if eps == 0:
        assert torch.equal(found.attacked_values, found.clean_values)
    again = clipped_margins(probe, IMAGES.images, IMAGES.labels, batch_size=5)
    assert torch.equal(found.clean_values, again)


def test_more_searches_never_raise_and_a_larger_ball_never_raises_the_certificate():
    probe = Probe(
        tiny_network(),
        "stages.0.0.conv1",
        linear(torch.randn(10, 32, generator=torch.Generator().manual_seed(3)) / 9),
    )
    few, more = (
        robust_correlation(probe, IMAGES.images, IMAGES.labels, eps=0.1, steps=4, restarts=restarts)
        for restarts in (1, 4)
    )
    assert (more.attacked_values <= few.attacked_values).all() and more.attacked < few.attacked
    sure = [
        robust_correlation(probe, IMAGES.images, IMAGES.labels, eps=eps, steps=1, restarts=1).certified_values
        for eps in (0.0, 1e-4, 1e-3, 1e-2)
    ]
    assert all((wide <= narrow).all() for narrow, wide in itertools.pairwise(sure))
    assert float(sure[0].mean()) > float(sure[2].mean())


def test_a_positive_factor_scales_the_margin_and_not_the_decisions():
    weight = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)) / 20
    x, y = torch.rand(25, 4, generator=torch.Generator().manual_seed(1)), torch.arange(25) % 3
    one, ten = (robust_correlation(probe_of_input(c * weight), x, y, eps=0.05, restarts=3) for c in (1, 10))
    assert float(one.clean_values.abs().max()) < 1  # not clipped: so the scale is all that differs
    assert torch.allclose(ten.attacked_values, (10 * one.attacked_values).clamp(-1, 1), atol=1e-5)
    assert (one.hard_clean, one.hard_attacked) == (ten.hard_clean, ten.hard_attacked)


@settings(max_examples=40)
@given(st.lists(st.floats(-3, 3, allow_subnormal=False), min_size=1, max_size=30))
def test_the_scale_is_the_best_of_its_range(values):
    v = torch.tensor(values, dtype=torch.float64)
    sizes = v.abs()[v.abs() > 0]
    chosen = best_scale(v)
    if len(sizes) == 0:
        assert chosen == 1.0
        return
    levels = torch.quantile(sizes, torch.tensor([0.9, 0.7, 0.5, 0.3, 0.1], dtype=torch.float64))
    assert float(1 / levels[0]) - 1e-9 <= chosen <= float(1 / levels[-1]) * (1 + 1e-9)
    best = float((chosen * v).clamp(-1, 1).mean())
    assert all(best >= float((v / level).clamp(-1, 1).mean()) - 1e-9 for level in levels)


def test_the_scale_by_hand():
    # clipped early, the two large errors count as no more than the eight small successes
    assert best_scale(torch.tensor([0.1] * 8 + [-1.0] * 2)) == pytest.approx(10)
    # small errors, large successes: clip as little as allowed
    assert best_scale(torch.tensor([-0.1] * 5 + [1.0] * 5)) == pytest.approx(1)


@settings(max_examples=40)
@given(st.lists(st.floats(-1, 1), min_size=1, max_size=50))
def test_intervals_hold_the_mean_and_stay_open(values):
    low, high = statistics.mean_interval(torch.tensor(values))
    assert -1 <= low <= np.float32(values).mean(dtype=float) + 1e-12 and high <= 1 and high - low > 0


# --- features, training, the guard ---


@pytest.mark.parametrize("model", [tiny_network(), warmed(Residual(), (1, 8, 8))])
def test_features_are_the_outputs_of_the_layer_itself(model):
    model.train()
    names = layers.weight_layers(model)
    wanted = layers.activations(model, IMAGES.images, names)
    for name in names:
        probe = Probe(model, name, nn.Linear(wanted[name].shape[1], 3)).train()
        assert torch.equal(probe.features(IMAGES.images), wanted[name])
    assert torch.equal(
        Probe(model, "input", nn.Linear(64, 3)).features(IMAGES.images), IMAGES.images.flatten(1)
    )


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", "train", size=16), data.load("digits", "test", size=16)


@pytest.fixture(scope="module")
def digit_probes(digits):
    """Two probes of an untrained network, one trained under attack and one on clean images."""
    train, model = digits[0].subset(range(500)), tiny_network(shape=(1, 16, 16))
    effort = {"step": 0.05, "steps": 3, "epochs": 4}
    return model, {
        eps: train_probe(model, "conv1", train.images, train.labels, eps=eps, **effort) for eps in (0.1, 0.0)
    }


def test_adversarial_training_of_a_probe_pays_on_digits(digits, digit_probes):
    test, (_, probes) = digits[1].subset(range(200)), digit_probes
    found = {
        eps: robust_correlation(probe, test.images, test.labels, eps=0.1, step=0.025, steps=10)
        for eps, probe in probes.items()
    }
    assert found[0.1].clean > 0.4
    assert found[0.1].attacked > found[0.0].attacked + 0.1
    assert found[0.1].certificate == "exact" and not found[0.1].certificate_is_trivial
    # a linear composite: the attack is nearly the worst case
    assert found[0.1].certified > found[0.1].attacked - 0.1


def test_a_probe_is_a_model_for_the_evaluation(digits, digit_probes):
    test, probe = digits[1].subset(range(100)), digit_probes[1][0.1]
    found = robust_correlation(probe, test.images, test.labels, eps=0.1, step=0.025, steps=10)
    evaluation = attacks.evaluate(probe, test.images, test.labels, "cw", eps=0.1, step=0.025, steps=10)
    assert 2 * evaluation.clean_accuracy - 1 == pytest.approx(found.hard_clean, abs=1e-9)
    assert found.hard_certified <= 2 * evaluation.accuracy - 1
    assert 2 * evaluation.accuracy - 1 == pytest.approx(found.hard_attacked, abs=0.1)


def test_an_mlp_probe_learns_what_a_linear_one_cannot():
    generator = torch.Generator().manual_seed(0)
    corner = torch.randint(0, 2, (400, 2), generator=generator)
    x = 0.2 + 0.6 * corner + 0.05 * torch.randn(400, 2, generator=generator)
    y = (corner[:, 0] ^ corner[:, 1]).long()
    model = nn.Sequential(linear(torch.eye(2)))
    effort = {"eps": 0.02, "steps": 2, "epochs": 30, "batch_size": 50, "lr": 0.3}
    plain = train_probe(model, "0", x.clamp(0, 1), y, **effort)
    mlp = train_probe(model, "0", x.clamp(0, 1), y, hidden=32, **effort)
    measured = [robust_correlation(probe, x.clamp(0, 1), y, eps=0.02) for probe in (plain, mlp)]
    assert measured[0].hard_clean < 0.6 < 0.95 < measured[1].hard_attacked
    assert measured[1].certificate == "lipschitz" and measured[1].certified > 0.2


def random_states():
    return torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002


def same_states(before):
    now = random_states()
    return torch.equal(before[0], now[0]) and (before[1] == now[1]).all() and before[2] == now[2]


def test_nothing_of_the_model_changes_and_seeds_reproduce(monkeypatch):
    model = tiny_network().train()
    model.fc.eval()
    model.conv1.weight.requires_grad_(False)
    before, states = snapshot(model), random_states()
    flags = [module.training for module in model.modules()]
    needs = [parameter.requires_grad for parameter in model.parameters()]
    subset = random_images(60, seed=1)
    options = {"eps": 0.05, "steps": 2, "epochs": 2, "batch_size": 16}

    def untouched():
        assert changed(before, snapshot(model)) == [] and same_states(states)
        assert [module.training for module in model.modules()] == flags
        assert [parameter.requires_grad for parameter in model.parameters()] == needs
        assert all(parameter.grad is None for parameter in model.parameters())
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())

    def make(seed, hidden=None):
        probe = train_probe(
            model, "stages.0.0.conv2", subset.images, subset.labels, seed=seed, hidden=hidden, **options
        )
        untouched()
        return probe

    one, again, other = make(0), make(0), make(1)
    assert changed(snapshot(one), snapshot(again)) == []
    assert not torch.equal(one.head[0].weight, other.head[0].weight)
    assert changed(snapshot(make(0, 8)), snapshot(make(0, 8))) == []

    measure = [robust_correlation(one, subset.images, subset.labels, eps=0.05, steps=2) for _ in range(2)]
    untouched()
    assert torch.equal(measure[0].attacked_values, measure[1].attacked_values)
    assert measure[0].record() == measure[1].record()
    distillation_gap(one, other, subset.images, subset.labels, eps=0.05, steps=2)
    untouched()

    def broken(*args, **kwargs):
        torch.rand(3)
        model.bn1.running_mean.add_(1)
        raise RuntimeError("in the middle")

    monkeypatch.setattr(correlation, "lowest_margins", broken)
    with pytest.raises(RuntimeError, match="in the middle"):
        make(0)
    untouched()


def test_a_probe_outlives_changes_of_its_model():
    model = tiny_network()
    probe = Probe(model, "fc", linear(torch.eye(10)))
    before = probe(IMAGES.images)
    with torch.no_grad():
        model.fc.weight.zero_()
    assert torch.equal(probe(IMAGES.images), before)
    assert not any(parameter.requires_grad for parameter in probe.features.parameters())


# --- the gap between two probes ---


@settings(max_examples=15)
@given(st.integers(0, 10_000))
def test_the_gap_found_is_below_the_enumerated_one_and_bounds_the_difference(seed):
    generator = torch.Generator().manual_seed(seed)
    model, eps = small_mlp(seed, classes=2), 0.1
    x, y = torch.rand(15, 2, generator=generator), torch.randint(0, 2, (15,), generator=generator)
    earlier, later = (
        Probe(model, name, linear(torch.randn(2, 8, generator=generator) / 8)) for name in ("0", "2")
    )
    ticks = torch.linspace(-eps, eps, 31)
    values = torch.stack(
        [
            torch.stack([raw_margins(p, (x + d).clamp(0, 1), y).clamp(-1, 1) for p in (earlier, later)])
            for d in torch.cartesian_prod(ticks, ticks)
        ]
    )  # [grid, 2, N]
    exact = float((values[:, 0] - values[:, 1]).abs().amax(0).mean())
    found = distillation_gap(earlier, later, x, y, eps=eps, steps=20, restarts=2)
    assert found.clean <= found.lower_estimate <= exact + 0.02  # the grid itself misses a little
    assert found.lower_estimate >= exact - 0.1
    gammas = values.amin(0).mean(1)
    assert abs(float(gammas[0] - gammas[1])) <= exact + 1e-9
    same = distillation_gap(later, later, x, y, eps=eps, steps=3)
    assert same.lower_estimate == 0 and same.interval[1] > 0


# --- bad input ---


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer": "conv7"}, "no weight layer is called 'conv7'; probe input or one of conv1, stages"),
        ({"layer": "bn1"}, "no weight layer is called 'bn1'"),
        ({"eps": -0.1}, "eps must be a finite radius of at least 0"),
        ({"eps": float("nan")}, "eps must be a finite radius"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"step": 0.0}, "step must be a positive size"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"hidden": 0}, "hidden must be at least 1"),
        ({"lr": 0.0}, "lr must be positive"),
        ({"images": IMAGES.images * 3 - 1}, r"must lie in \[0, 1\]"),
        (
            {"images": IMAGES.images[:9], "labels": IMAGES.labels[:9]},
            "no training image is of class|at least 10",
        ),
        (
            {"labels": torch.zeros(14, dtype=torch.int64)},
            "no training image is of class 1, 2, 3, 4, 5, 6, 7, 8, 9:",
        ),
        ({"labels": IMAGES.labels + 5}, r"labels must lie in 0\.\.9"),
        ({"labels": IMAGES.labels[:5]}, r"labels must be int64 \[14\]"),
    ],
)
def test_bad_training_input(changes, message):
    options = {"layer": "conv1", "images": IMAGES.images, "labels": IMAGES.labels, "eps": 0.1} | changes
    with pytest.raises(ValueError, match=message):
        train_probe(
            tiny_network(), options.pop("layer"), options.pop("images"), options.pop("labels"), **options
        )


def test_bad_measurement_input():
    probe = Probe(tiny_network(), "fc", linear(torch.eye(10)))
    with pytest.raises(ValueError, match="eps must be"):
        robust_correlation(probe, IMAGES.images, IMAGES.labels, eps=-1)
    with pytest.raises(ValueError, match="restarts and batch_size"):
        robust_correlation(probe, IMAGES.images, IMAGES.labels, eps=0.1, restarts=0)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        clipped_margins(probe, IMAGES.images + 1, IMAGES.labels)
    with pytest.raises(ValueError, match="labels must lie"):
        distillation_gap(probe, probe, IMAGES.images, IMAGES.labels + 10, eps=0.1)
    with pytest.raises(ValueError, match="10 and 3 classes"):
        other = Probe(tiny_network(), "fc", linear(torch.eye(3, 10)))
        distillation_gap(probe, other, IMAGES.images, IMAGES.labels % 3, eps=0.1)
    with pytest.raises(ValueError, match="a head is Linear"):
        Probe(tiny_network(), "fc", nn.Sequential(nn.Linear(10, 4), nn.Tanh(), nn.Linear(4, 10)))


# --- sums of readouts (Lemma 2) ---


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000))
def test_a_sum_of_readouts_keeps_at_least_what_its_terms_keep(seed):
    """The margin of affine readouts is concave, so its minimum over a box is at a corner: exact by
    enumeration."""
    generator = torch.Generator().manual_seed(seed)
    probes = [probe_of_input(torch.randn(3, 2, generator=generator)) for _ in range(3)]
    together = readouts.Sum(probes)
    images, labels = (
        torch.rand(12, 2, generator=generator),
        torch.tensor([0, 1, 2]).repeat(4),
    )
    worst = [
        torch.stack([raw_margins(f, x, labels) for x in corners(images, 0.2)]).amin(0)
        for f in (*probes, together)
    ]
    assert (worst[-1] >= sum(worst[:-1]) - 1e-5).all()  # (32) with >=
    clean, found = readouts.attacked_margins(together, images, labels, eps=0.2, steps=20, restarts=8)
    assert torch.allclose(clean.double(), raw_margins(together, images, labels), atol=1e-5)
    assert (found.double() >= worst[-1] - 1e-5).all() and (found <= clean + 1e-6).all()
    assert float((found.double() - worst[-1]).mean()) < 0.1  # and the attack comes close


def test_a_sum_needs_a_probe_and_a_valid_attack():
    with pytest.raises(ValueError, match="no probe"):
        readouts.Sum([])
    with pytest.raises(ValueError, match="eps"):
        readouts.attacked_margins(
            probe_of_input(torch.eye(2)), torch.rand(2, 2), torch.tensor([0, 1]), eps=-1
        )
