"""Networks on a path away from (f_a*, f_b*), and the peeled bound of arXiv 2307.03803 for a chain."""

from __future__ import annotations

import copy
import math

import torch
from torch import fx, nn
from torch.func import functional_call

from semirobust import layers
from semirobust.bounds.pair import Pair


def distance(pair: Pair) -> float:
    """||omega~_b - omega*_b||_2, weights and biases with BatchNorm folded in."""
    square = 0.0
    for name in pair.names_b:
        square += float((pair.tilde.get_parameter(name) - pair.star.get_parameter(name)).square().sum())
    return math.sqrt(square)


def between(pair: Pair, t: float) -> fx.GraphModule:
    """The network with f_b at omega* + t (omega~ - omega*), BatchNorm folded in; f_a is the shared one."""
    body = copy.deepcopy(pair.star)
    for name in pair.names_b:
        body.get_parameter(name).lerp_(pair.tilde.get_parameter(name), t)
    return body


def moved(star: nn.Module, name: str, change: torch.Tensor) -> nn.Module:
    """A copy of ``star`` with ``change`` added to the parameter ``name``."""
    body = copy.deepcopy(star)
    with torch.no_grad():
        body.get_parameter(name).add_(change)
    return body


def steepest(
    star: nn.Module, image: torch.Tensor, name: str, *, size: float, steps: int, generator: torch.Generator
) -> torch.Tensor:
    """A change of the parameter ``name``, of l2 norm ``size``, that moves the output of one ``image`` far.

    ``image`` [1, ...]. Ascent on ||F~(x) - F*(x)||: each step takes the gradient, scaled to ``size``. For a
    map that is linear in the parameter this is a power iteration; in general the result is a lower bound of
    the worst change. The best of all steps is kept.
    """
    own = star.get_parameter(name).detach()
    change = torch.randn(own.shape, generator=generator, dtype=torch.float64).to(own)
    change *= size / change.norm()
    best, found = change, -math.inf
    with torch.no_grad():
        still = star(image)
    for _ in range(steps + 1):
        with torch.enable_grad():
            leaf = (own + change).requires_grad_()
            apart = (functional_call(star, {name: leaf}, (image,)) - still).norm()
            (gradient,) = torch.autograd.grad(apart, leaf)
        if (reached := float(apart.detach())) > found:
            best, found = change, reached
        if not float(gradient.norm()) > 0:
            break
        change = gradient * (size / gradient.norm())
    return best


def peeled(star: nn.Module, images: torch.Tensor, n_fb: int) -> float:
    """The right side of (16) without ||omega~_b - omega*_b||: C_x times the Frobenius norms of f_a's layers.

    ``star`` has its BatchNorm folded in. C_x: the largest norm of what enters its first weight layer.
    """
    names = layers.weight_layers(star)
    largest: list[float] = []

    def look(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        largest.append(float(inputs[0].flatten(1).norm(dim=1).max()))

    hook = star.get_submodule(names[0]).register_forward_pre_hook(look)
    try:
        with torch.no_grad():
            star(images)
    finally:
        hook.remove()
    norms = (float(star.get_parameter(f"{name}.weight").detach().norm()) for name in names[:-n_fb])
    return max(largest) * math.prod(norms)
