"""Adversarial training of the head of a readout, in l2 without the box [0, 1]."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn
from torch.nn import functional as F

from semirobust._l2_attack import descend, sphere


def fit(
    features: nn.Sequential,
    head: nn.Sequential,
    centre: torch.Tensor,
    spread: float,
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    eps: float,
    epochs: int,
    batch_size: int,
    steps: int,
    lr: float,
    generator: torch.Generator,
) -> None:
    """Adversarial training of ``head``, which reads (features - centre) / spread, in float32."""
    head.float()
    below, middle = copy.deepcopy(features).float(), centre.float()
    x, y = x.float(), y.float()
    linear = [module for module in head if isinstance(module, nn.Linear)]
    groups = [{"params": module.parameters(), "lr": lr / math.sqrt(module.in_features)} for module in linear]
    optimizer = torch.optim.Adam(groups)
    total = epochs * math.ceil(len(x) / batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: 1 - done / total)

    def whole(points: torch.Tensor) -> torch.Tensor:
        return head((below(points) - middle) / spread)[:, 0]

    for _ in range(epochs):
        for index in torch.randperm(len(x), generator=generator).split(batch_size):
            head.requires_grad_(False)
            begin = torch.zeros_like(x[index]) if steps == 1 else sphere(x[index], eps, generator)
            delta = descend(whole, x[index], y[index], begin, eps=eps, steps=steps)
            head.requires_grad_(True)
            loss = F.softplus(-y[index] * whole(x[index] + delta)).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
    optimizer.zero_grad(set_to_none=True)
    head.requires_grad_(False).double()


def standardise(head: nn.Sequential, centre: torch.Tensor, spread: float) -> None:
    """Makes a head of z one of (z - centre) / spread, without changing what it computes."""
    first = head[0]
    assert isinstance(first, nn.Linear)
    first.bias.data += first.weight.data @ centre
    first.weight.data *= spread


def fresh_head(inputs: int, hidden: int | None, generator: torch.Generator) -> nn.Sequential:
    """Zero weights for a linear head, He's for a hidden layer; draws from ``generator`` only."""
    sizes = [(inputs, 1)] if hidden is None else [(inputs, hidden), (hidden, 1)]
    layers = [nn.utils.skip_init(nn.Linear, *size, dtype=torch.float64) for size in sizes]
    for layer in layers:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    if hidden is not None:  # standardised features have mean squared norm 1: so has the hidden layer
        nn.init.normal_(layers[0].weight, std=math.sqrt(2 / hidden), generator=generator)
        return nn.Sequential(layers[0], nn.ReLU(), layers[1]).requires_grad_(False)
    return nn.Sequential(layers[0]).requires_grad_(False)
