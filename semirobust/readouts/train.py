"""Adversarial training of the head of a readout: in l2 without the box [0, 1], or in l-infinity."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

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
    """Adversarial training in l2 of ``head``, which reads (features - centre) / spread, in float32.

    ``x`` [N, d] and ``y`` [N] in {-1, +1}; the loss is ln(1 + exp(-y g))."""
    head.float()
    below, middle = copy.deepcopy(features).float(), centre.float()
    x, y = x.float(), y.float()

    def whole(points: torch.Tensor) -> torch.Tensor:
        return head((below(points) - middle) / spread)[:, 0]

    def attacked(index: torch.Tensor) -> torch.Tensor:
        begin = torch.zeros_like(x[index]) if steps == 1 else sphere(x[index], eps, generator)
        return x[index] + descend(whole, x[index], y[index], begin, eps=eps, steps=steps)

    def loss(index: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        return F.softplus(-y[index] * whole(points)).mean()

    _adam(head, len(x), attacked, loss, epochs=epochs, batch_size=batch_size, lr=lr, generator=generator)
    head.double()


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
    """A head trained adversarially in l-infinity on cross-entropy; ``view`` is the fast one of ``features``.

    It is trained on centred features of mean squared norm 1, which its first layer absorbs in the end.
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
    head = fresh_head(len(centre), classes, hidden, generator).to(device)
    whole: View = lambda x: head((view(x) - centre) / scale)  # noqa: E731

    def attacked(index: torch.Tensor) -> torch.Tensor:
        x, y = images[index].to(device), labels[index].to(device)
        return adversarial_cross_entropy(whole, x, y, attack, generator)

    def loss(index: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            z = (features(x) - centre) / scale  # [n, d], float32
        return F.cross_entropy(head(z), labels[index].to(device))

    _adam(head, len(images), attacked, loss, epochs=epochs, batch_size=batch_size, lr=lr, generator=generator)
    first = head[0]
    assert isinstance(first, nn.Linear)
    first.weight.div_(scale)
    first.bias.sub_(first.weight @ centre)
    return head


def _adam(
    head: nn.Sequential,
    count: int,
    attacked: Callable[[torch.Tensor], torch.Tensor],
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    *,
    epochs: int,
    batch_size: int,
    lr: float,
    generator: torch.Generator,
) -> None:
    """Adam on ``loss(index, attacked(index))`` over batches of ``count`` examples; ``attacked`` sees a frozen
    head, and the head is left frozen.

    As Adam moves every weight by about the rate, the rate of a layer is ``lr`` / sqrt(inputs), times a factor
    that falls linearly to zero. Raises ``ValueError`` for a loss that is not finite.
    """
    linear = [module for module in head if isinstance(module, nn.Linear)]
    groups = [{"params": module.parameters(), "lr": lr / math.sqrt(module.in_features)} for module in linear]
    optimizer = torch.optim.Adam(groups)
    steps = epochs * math.ceil(count / batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: 1 - done / steps)
    for _ in range(epochs):
        for index in torch.randperm(count, generator=generator).split(batch_size):
            head.requires_grad_(False)
            x = attacked(index)
            head.requires_grad_(True)
            value = loss(index, x)
            if not math.isfinite(float(value.detach())):
                raise ValueError(f"the loss of the readout is {float(value.detach())}: lower lr={lr}")
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            optimizer.step()
            schedule.step()
    head.requires_grad_(False)
    optimizer.zero_grad(set_to_none=True)


# --- heads ---


def standardise(head: nn.Sequential, centre: torch.Tensor, spread: float) -> None:
    """Makes a head of z one of (z - centre) / spread, without changing what it computes."""
    first = head[0]
    assert isinstance(first, nn.Linear)
    first.bias.data += first.weight.data @ centre
    first.weight.data *= spread


def fresh_head(
    inputs: int,
    outputs: int,
    hidden: int | None,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
) -> nn.Sequential:
    """Zero weights for a linear head, He's for a hidden layer; draws from ``generator`` only."""
    sizes = [(inputs, outputs)] if hidden is None else [(inputs, hidden), (hidden, outputs)]
    layers = [nn.utils.skip_init(nn.Linear, *size, dtype=dtype) for size in sizes]
    for layer in layers:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    if hidden is None:
        return nn.Sequential(layers[0]).requires_grad_(False)
    # features have mean squared norm 1, not d: so does the hidden layer, with this variance
    nn.init.normal_(layers[0].weight, std=math.sqrt(2 / hidden), generator=generator)
    return nn.Sequential(layers[0], nn.ReLU(), layers[1]).requires_grad_(False)
