"""Adversarial training of the head of a readout: in l2 without the box [0, 1], or in l-infinity."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn
from torch.nn import functional as F

from semirobust.attacks import batches
from semirobust.layers import device_of
from semirobust.readouts.descent import descend, sphere
from semirobust.readouts.probe import View, adversarial_cross_entropy


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


# --- training ---


def train_head(
    features: nn.Module,
    view: View,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    classes: int,
    hidden: int | None,
    attack: dict[str, float],
    epochs: int,
    batch_size: int,
    lr: float,
    generator: torch.Generator,
) -> nn.Sequential:
    """A head trained adversarially by Adam on cross-entropy; ``view`` is the fast one of ``features``.

    It is trained on centred features of mean squared norm 1, which its first layer absorbs in the end. As
    Adam moves every weight by about the rate, the rate of a layer is ``lr`` / sqrt(inputs), times a factor
    that falls linearly to zero.
    """
    device = device_of(features)
    with torch.no_grad():
        total, power = torch.zeros((), dtype=torch.float64, device=device), 0.0
        for at in batches(len(images), batch_size):
            z = view(images[at].to(device)).double()  # [n, d]
            total, power = total + z.sum(0), power + float(z.square().sum())
        mean = total / len(images)  # [d]
        scale = math.sqrt(max(power / len(images) - float(mean.square().sum()), 1e-12))
        centre = mean.float()
    head = _fresh_head(len(centre), classes, hidden, generator).to(device)
    groups = [
        {"params": module.parameters(), "lr": lr / math.sqrt(module.in_features)}
        for module in head
        if isinstance(module, nn.Linear)
    ]
    optimizer = torch.optim.Adam(groups)
    steps = epochs * math.ceil(len(images) / batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: 1 - done / steps)
    whole: View = lambda x: head((view(x) - centre) / scale)  # noqa: E731
    for _ in range(epochs):
        order = torch.randperm(len(images), generator=generator)
        for index in order.split(batch_size):
            x, y = images[index].to(device), labels[index].to(device)
            head.requires_grad_(False)
            x = adversarial_cross_entropy(whole, x, y, attack, generator)
            head.requires_grad_(True)
            with torch.no_grad():
                z = (features(x) - centre) / scale  # [n, d], float32
            loss = F.cross_entropy(head(z), y)
            if not math.isfinite(float(loss.detach())):
                raise ValueError(f"the loss of the probe is {float(loss.detach())}: lower lr={lr}")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
    head.requires_grad_(False)
    optimizer.zero_grad(set_to_none=True)
    first = head[0]
    assert isinstance(first, nn.Linear)
    first.weight.div_(scale)
    first.bias.sub_(first.weight @ centre)
    return head


def _fresh_head(d: int, classes: int, hidden: int | None, generator: torch.Generator) -> nn.Sequential:
    """Zero weights for a linear head, He's for a hidden layer; draws from ``generator`` only."""
    sizes = [(d, classes)] if hidden is None else [(d, hidden), (hidden, classes)]
    layers = [nn.utils.skip_init(nn.Linear, inputs, outputs) for inputs, outputs in sizes]
    for module in layers:
        nn.init.zeros_(module.weight)
        nn.init.zeros_(module.bias)
    if hidden is None:
        return nn.Sequential(layers[0])
    # features have mean squared norm 1, not d: so does the hidden layer, with this variance
    nn.init.normal_(layers[0].weight, std=math.sqrt(2 / hidden), generator=generator)
    return nn.Sequential(layers[0], nn.ReLU(), layers[1])
