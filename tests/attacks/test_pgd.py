"""Projected ascent: invariants, and the linear model, where the best perturbation has a closed form."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from semirobust.attacks import ascend, cross_entropy, flat_norm, gradient, margin, project, random_start

TOLERANCE = 1e-6


class Linear(nn.Module):
    """Two logits, +-(w . x + b) / 2: the loss is convex, and its gradient has one direction everywhere."""

    def __init__(self, weight: torch.Tensor, bias: float) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias
        self.calls: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls.append(len(x))
        score = x.flatten(1) @ self.weight + self.bias
        return torch.stack([-score, score], dim=1) / 2


def linear(seed: int, dimension: int = 12) -> Linear:
    generator = torch.Generator().manual_seed(seed)
    return Linear(torch.randn(dimension, generator=generator), float(torch.randn(1, generator=generator)))


def batch(seed: int, n: int = 6, shape: tuple[int, ...] = (3, 2, 2), low: float = 0.0) -> tuple:
    generator = torch.Generator().manual_seed(seed)
    x = low + (1 - 2 * low) * torch.rand(n, *shape, generator=generator)
    return x, torch.randint(0, 2, (n,), generator=generator)


def distance(a: torch.Tensor, b: torch.Tensor, norm: str) -> torch.Tensor:
    delta = (a - b).flatten(1)
    return delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)


norms = st.sampled_from(["linf", "l2"])
seeds = st.integers(0, 10_000)


@settings(max_examples=60)
@given(
    seed=seeds,
    norm=norms,
    eps=st.floats(0, 2),
    step=st.floats(0, 3),
    steps=st.integers(0, 4),
    leave=st.booleans(),
)
def test_every_example_stays_in_the_ball_and_the_box(
    seed: int, norm: str, eps: float, step: float, steps: int, leave: bool
) -> None:
    x, labels = batch(seed)
    start = random_start(x, eps, norm, torch.Generator().manual_seed(seed))
    for point in (
        start,
        ascend(
            linear(seed),
            x,
            labels,
            eps=eps,
            step=step,
            steps=steps,
            norm=norm,
            start=start,
            leave_broken=leave,
        ),
    ):
        assert point.shape == x.shape
        assert point.min() >= 0 and point.max() <= 1
        assert distance(point, x, norm).max() <= eps + TOLERANCE


@settings(max_examples=60)
@given(seed=seeds, norm=norms, eps=st.floats(1e-3, 1))
def test_projection_is_the_nearest_point_of_the_ball_and_keeps_what_is_inside(
    seed: int, norm: str, eps: float
) -> None:
    x, _ = batch(seed, low=0.3)
    away = x + (torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) - 0.5) * 0.2
    projected = project(away, x, eps, norm)
    torch.testing.assert_close(project(projected, x, eps, norm), projected, atol=TOLERANCE, rtol=0)
    inside = distance(away, x, norm) <= eps
    torch.testing.assert_close(projected[inside], away[inside], atol=TOLERANCE, rtol=0)
    if norm == "l2":  # on the segment from x, on the sphere
        direction = (projected - x) / flat_norm(away - x)
        torch.testing.assert_close(
            flat_norm(direction).flatten(),
            (eps / flat_norm(away - x).flatten()).clamp(max=1),
            atol=1e-4,
            rtol=1e-4,
        )
    else:
        torch.testing.assert_close(projected, x + (away - x).clamp(-eps, eps), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_linear_model_is_solved_in_one_step(seed: int, norm: str) -> None:
    """The best perturbation is eps * sign(w) or eps * w / |w|, away from the label, where the box is far."""
    eps, model = 0.1, linear(seed)
    x, labels = batch(seed, low=0.2)
    away = torch.where(labels == 0, 1.0, -1.0).view(-1, 1, 1, 1)
    weight = model.weight.view(1, *x.shape[1:])
    best = x + away * eps * (weight.sign() if norm == "linf" else weight / weight.norm())
    found = ascend(model, x, labels, eps=eps, step=eps, steps=1, norm=norm)
    torch.testing.assert_close(found, best, atol=1e-6, rtol=0)
    again = ascend(model, x, labels, eps=eps, step=eps / 3, steps=9, norm=norm)
    torch.testing.assert_close(again, best, atol=1e-5, rtol=0)


@settings(max_examples=40)
@given(seed=seeds, norm=norms, eps=st.floats(1e-3, 1), fraction=st.floats(0.05, 2), steps=st.integers(1, 6))
def test_convex_loss_never_falls_below_its_start(
    seed: int, norm: str, eps: float, fraction: float, steps: int
) -> None:
    x, labels = batch(seed, low=0.0 if norm == "linf" else 0.3)
    eps = eps if norm == "linf" else eps * 0.3  # a box that cuts an l2 ball may turn a step downhill
    model = linear(seed)
    before = F.cross_entropy(model(x), labels, reduction="none")
    x_adv = ascend(model, x, labels, eps=eps, step=fraction * eps, steps=steps, norm=norm)
    after = F.cross_entropy(model(x_adv), labels, reduction="none")
    assert (after >= before - 1e-5).all()


def test_leave_broken_keeps_what_the_view_gets_wrong_and_works_on_the_rest_only() -> None:
    model = Linear(torch.tensor([1.0]), -0.5)  # label 1 where x > 0.5
    x = torch.tensor([[0.2], [0.52], [0.9], [0.65]])
    labels = torch.tensor([1, 1, 1, 1])  # the first is wrong from the start
    found = ascend(model, x, labels, eps=0.3, step=0.1, steps=3, leave_broken=True)
    torch.testing.assert_close(found, torch.tensor([[0.2], [0.42], [0.6], [0.45]]))
    assert model.calls == [4, 3, 2]
    model.calls.clear()
    every = ascend(model, x, labels, eps=0.3, step=0.1, steps=3)
    torch.testing.assert_close(every, torch.tensor([[0.0], [0.22], [0.6], [0.35]]))
    assert model.calls == [4, 4, 4]


def test_leave_broken_ends_early_when_all_are_broken() -> None:
    model = Linear(torch.tensor([1.0]), -0.5)
    x, labels = torch.full((3, 1), 0.55), torch.ones(3, dtype=torch.long)
    ascend(model, x, labels, eps=0.3, step=0.1, steps=50, leave_broken=True)
    assert model.calls == [3, 3]


def test_inputs_are_not_written_to() -> None:
    x, labels = batch(0)
    start = random_start(x, 0.1, "linf", torch.Generator().manual_seed(0))
    kept_x, kept_start, kept_labels = x.clone(), start.clone(), labels.clone()
    for leave in (False, True):
        found = ascend(linear(0), x, labels, eps=0.1, step=0.05, steps=3, start=start, leave_broken=leave)
        assert not found.requires_grad
        ascend(linear(0), x, labels, eps=0.1, step=0.05, steps=0, start=start).fill_(7)
    assert torch.equal(x, kept_x) and torch.equal(start, kept_start) and torch.equal(labels, kept_labels)


def test_zero_gradient_moves_nothing_and_is_no_nan() -> None:
    x, labels = batch(0)
    flat = Linear(torch.zeros(12), 0.0)
    for norm in ("linf", "l2"):
        assert torch.equal(ascend(flat, x, labels, eps=0.5, step=0.5, steps=2, norm=norm), x)


def test_gradient_is_that_of_the_summed_cross_entropy() -> None:
    model, (x, labels) = linear(1), batch(1)
    grad, logits = gradient(model, x, labels)
    error = logits.softmax(1)[:, 1] - labels
    expected = (error[:, None] * model.weight).view_as(x)
    torch.testing.assert_close(grad, expected)
    assert not x.requires_grad and not logits.requires_grad


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_random_start_fills_the_ball_and_depends_on_its_generator_only(norm: str) -> None:
    x = torch.full((4000, 2), 0.5)
    state = torch.get_rng_state()
    first, second = (random_start(x, 0.25, norm, torch.Generator().manual_seed(9)) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)
    radius = distance(first, x, norm) / 0.25
    # uniform in a two-dimensional ball: P(radius <= r) = r ** 2
    ordered = radius.sort().values ** 2
    assert (ordered - torch.linspace(0, 1, 4000)).abs().max() < 0.04
    assert (first - x).mean().abs() < 0.01


@pytest.mark.parametrize(
    "call",
    [
        lambda x, y: project(x, x, 0.1, "l1"),
        lambda x, y: random_start(x, 0.1, "l1", torch.Generator()),
        lambda x, y: ascend(linear(0), x, y, eps=0.1, step=0.1, steps=0, norm="l1"),
    ],
)
def test_unknown_norm_lists_the_known_ones(call: Callable) -> None:
    with pytest.raises(ValueError, match=r"'l1'.*linf, l2"):
        call(*batch(0))


def test_margin_is_the_best_other_logit_minus_the_label() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0], [0.0, 0.0, 90.0]])
    assert margin(logits, torch.tensor([0, 1, 2])).tolist() == [-1.0, 2.0, -90.0]
    torch.testing.assert_close(
        cross_entropy(logits, torch.tensor([0, 1, 2])), -logits.log_softmax(1).diagonal()
    )


def test_the_margin_moves_where_the_cross_entropy_is_saturated() -> None:
    model = Linear(torch.full((4,), 1000.0), -1000.0)
    x, labels = torch.full((2, 4), 0.9), torch.ones(2, dtype=torch.long)
    stuck = ascend(model, x, labels, eps=0.8, step=0.8, steps=1)
    assert torch.equal(stuck, x)
    moved = ascend(model, x, labels, eps=0.8, step=0.8, steps=1, loss=margin)
    torch.testing.assert_close(moved, torch.full((2, 4), 0.1))
