"""Projected gradient descent of a margin in l2, without the box [0, 1]."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from semirobust.readouts.probe import clip

REACH = 2.5  # the steps of a search add up to so many radii

View = Callable[[torch.Tensor], torch.Tensor]  # x [N, d] -> g [N]


def descend(
    view: View,
    x: torch.Tensor,
    y: torch.Tensor,
    start: torch.Tensor,
    *,
    eps: float,
    steps: int,
    clipped: bool = False,
) -> torch.Tensor:
    """The perturbation with the smallest y g on the way of a search: [N, d]."""
    delta, best = start, start.clone()
    lowest = torch.full((len(x),), math.inf, dtype=x.dtype)
    sizes = torch.linspace(1, 0, steps + 1)[:-1]
    for size in (REACH * eps * sizes / sizes.sum()).tolist():
        with torch.enable_grad():
            leaf = (x + delta).requires_grad_()
            values = y * view(leaf)
            (grad,) = torch.autograd.grad((clip(values) if clipped else values).sum(), leaf)
        better = values.detach() < lowest
        lowest = torch.where(better, values.detach(), lowest)
        best = torch.where(better[:, None], delta, best)
        norm = grad.norm(dim=1, keepdim=True)
        delta = into_ball(delta - size * grad / norm.clamp(min=1e-30), eps)
    with torch.no_grad():
        better = y * view(x + delta) < lowest
    return torch.where(better[:, None], delta, best)


def into_ball(delta: torch.Tensor, eps: float) -> torch.Tensor:
    """The nearest perturbations of l2 norm at most eps: [N, d]."""
    norm = delta.norm(dim=1, keepdim=True)
    return delta * (eps / norm.clamp(min=1e-30)).clamp(max=1)


def sphere(x: torch.Tensor, eps: float, generator: torch.Generator) -> torch.Tensor:
    """Random perturbations of norm eps: [N, d]."""
    noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
    return eps * noise / noise.norm(dim=1, keepdim=True)
