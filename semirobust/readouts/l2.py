"""Readouts of a layer of a fully connected network under l2 perturbations that may leave the box [0, 1].

The threat model is that of collisions (`semirobust.collisions`): every x + delta with |delta|_2 <= eps,
pixels below 0 and above 1 included. Points and weights are float64 and the same that collisions are verified
with (`extractors.as_layers`), so that two colliding points get the same answer, up to rounding. Two classes,
y = +1 and -1; a readout G with values in [-1, 1] has the robust correlation

    Gamma(G) = E[min over |delta|_2 <= eps of y G(f(x + delta))].

As in `readouts.correlation`, G is a margin clipped to [-1, 1], and its scale is part of it. An attack gives
an upper bound of Gamma(G), and nothing about other readouts; `certified_margins` gives a lower bound.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from semirobust.attacks import batches
from semirobust.readouts.crown import Map, lower_bounds
from semirobust.readouts.descent import descend, into_ball, sphere
from semirobust.readouts.probe import best_scale
from semirobust.readouts.train import fit, fresh_head, standardise

#: what an attack follows: the margin y g, or the value y clip(g) itself, flat where it is clipped
OBJECTIVES = ("margin", "value")


class Readout(nn.Module):
    """x [N, d] -> g [N], float64; the readout is G(f(x)) = clip(g, -1, 1).

    ``features``: f, frozen, Linear and ReLU in turn (or nothing: f(x) = x). ``head``: features [N, m] -> [N,
    1]. ``scale`` multiplies its output.
    """

    def __init__(self, features: nn.Sequential, head: nn.Sequential, scale: float = 1.0) -> None:
        super().__init__()
        self.features, self.head, self.scale = features, head, scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * self.head(self.features(x))[:, 0]

    @property
    def chain(self) -> list[nn.Module]:
        """All its modules in order, Linear and ReLU."""
        return [*self.features, *self.head]

    @property
    def affine(self) -> bool:
        return all(isinstance(module, nn.Linear) for module in self.chain)


def stack(layers: Sequence[tuple[Any, Any]], *, rectified: bool) -> nn.Sequential:
    """Frozen float64 modules of [(L, k), ...], a ReLU behind each but the last, and there if ``rectified``.

    No layers give the identity. Raises ``ValueError`` for layers that do not chain.
    """
    modules: list[nn.Module] = []
    for weight, bias in layers:
        weight, bias = (torch.tensor(part, dtype=torch.float64) for part in (weight, bias))
        if modules and modules[-2].out_features != weight.shape[1]:
            raise ValueError(
                f"a layer of {weight.shape[1]} inputs follows one of {modules[-2].out_features} units: they "
                "do not chain"
            )
        module = nn.Linear(weight.shape[1], weight.shape[0], dtype=torch.float64)
        module.weight.data, module.bias.data = weight, bias
        modules += [module, nn.ReLU()]
    return nn.Sequential(*modules[: None if rectified else -1]).requires_grad_(False)


def own_readout(layers: Sequence[tuple[Any, Any]]) -> Readout:
    """The network itself, with logits [N, 2] of the classes +1 and -1: a readout of each of its layers.

    Raises ``ValueError`` for another number of logits.
    """
    *hidden, (weight, bias) = layers
    if len(weight) != 2:
        raise ValueError(f"a readout of two classes needs 2 logits, the network has {len(weight)}")
    last = (weight[:1] - weight[1:], bias[:1] - bias[1:])
    return Readout(nn.Sequential(), stack([*hidden, last], rectified=False))


# --- the attack ---


def lowest_margins(
    readout: Readout,
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    eps: float,
    steps: int = 30,
    restarts: int = 3,
    seed: int = 0,
    objective: str = "margin",
    batch_size: int = 400,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(smallest y g found within eps [N], where [N, d]), by projected gradient descent.

    ``x`` [N, d] and ``y`` [N] in {-1, +1}, float64. The first of ``restarts`` searches starts at the point,
    the others on the sphere around it; the steps are in l2 and shrink to zero. What a search passes counts as
    found, and so does the point itself. ``objective``: one of `OBJECTIVES`; where "value" is clipped it has
    no gradient, as any saturated readout. The search follows float32, the values are those of float64.

    Raises ``ValueError`` for a radius, an effort or an objective out of range, and for points or labels that
    do not fit.
    """
    _check(readout, x, y, eps)
    if steps < 1 or restarts < 1 or batch_size < 1:
        raise ValueError(
            f"steps, restarts and batch_size must be at least 1, got {steps}, {restarts} and {batch_size}"
        )
    if objective not in OBJECTIVES:
        raise ValueError(f"unknown objective {objective!r}; known: {', '.join(OBJECTIVES)}")
    generator = torch.Generator().manual_seed(seed)
    view = copy.deepcopy(readout).float()
    with torch.no_grad():
        lowest, at = y * readout(x), x.clone()
    for restart in range(restarts if eps > 0 else 0):
        start = sphere(x, eps, generator) if restart else torch.zeros_like(x)
        for part in batches(len(x), batch_size):
            delta = descend(
                view, x[part].float(), y[part].float(), start[part].float(),
                eps=eps, steps=steps, clipped=objective == "value",
            )  # fmt: skip
            found = x[part] + into_ball(delta.double(), eps)
            with torch.no_grad():
                values = y[part] * readout(found)
            better = values < lowest[part]
            lowest[part] = torch.where(better, values, lowest[part])
            at[part] = torch.where(better[:, None], found, at[part])
    return lowest, at


def on_sphere(x: torch.Tensor, eps: float, *, seed: int = 0) -> torch.Tensor:
    """A random point at distance eps from each: [N, d] -> [N, d]."""
    return x + sphere(x, eps, torch.Generator().manual_seed(seed))


def _check(readout: Readout, x: torch.Tensor, y: torch.Tensor, eps: float) -> None:
    _check_points(x, y, eps)
    width = readout.chain[0].in_features
    if x.shape[1] != width:
        raise ValueError(f"the readout takes {width} inputs, x has {x.shape[1]}")


def _check_points(x: torch.Tensor, y: torch.Tensor, eps: float) -> None:
    if not 0 <= eps < math.inf:
        raise ValueError(f"eps must be a finite l2 radius of at least 0, got {eps}")
    if x.ndim != 2 or x.dtype != torch.float64 or not len(x) or not x.isfinite().all():
        raise ValueError(f"x must be float64 [N, d], finite, got {x.dtype} {list(x.shape)}")
    if y.shape != x.shape[:1] or not (y.abs() == 1).all():
        raise ValueError(f"y must hold -1 and +1, one for each of the {len(x)} points")


# --- the certificate ---


@torch.no_grad()
def certified_margins(
    readout: Readout, x: torch.Tensor, y: torch.Tensor, *, eps: float, batch_size: int = 100
) -> torch.Tensor:
    """A lower bound of y g over all perturbations within eps: [N]; attained where the readout is affine in x.

    Each ReLU is replaced by linear bounds (`crown`). An allowance for rounding is taken
    off. Errors as `lowest_margins`.
    """
    _check(readout, x, y, eps)
    maps: list[Map] = []
    bent = True  # a ReLU is before the next layer, or it is the first
    for module in readout.chain:
        if not isinstance(module, nn.Linear):
            bent = True
            continue
        here: Map = (module.weight, module.bias)
        if not bent:
            weight, bias = maps.pop()
            here = here[0] @ weight, here[0] @ bias + here[1]
        maps.append(here)
        bent = False
    maps[-1] = readout.scale * maps[-1][0], readout.scale * maps[-1][1]
    parts = batches(len(x), batch_size)
    return torch.cat([lower_bounds(maps, x[part], y[part], eps) for part in parts])


# --- training ---


def train_readout(
    features: nn.Sequential,
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    eps: float,
    hidden: int | None = None,
    start: Readout | None = None,
    epochs: int = 8,
    steps: int = 5,
    batch_size: int = 128,
    lr: float = 1.5,
    held_out: float = 0.2,
    seed: int = 0,
) -> Readout:
    """A readout of ``features``, trained adversarially at ``eps`` through the whole composition.

    Args:
        features: a `stack`; it stays as it is, and the readout shares it.
        x, y: float64 [N, d] and [N] in {-1, +1}: training points. The share ``held_out`` of them, drawn by
            the seed, chooses the scale, under attack, and trains nothing.
        hidden: width of the hidden ReLU layer of an MLP; None for a linear readout.
        start: a readout of the same shape to begin from, as that of a smaller ``eps``.
        steps: of the attack in training; an affine readout needs one, which is the worst case itself.
        lr: Adam's rate at the start, per 1 / sqrt(inputs) of a layer; it falls linearly to zero.

    The loss is ln(1 + exp(-y g)). No global random state changes. Raises ``ValueError`` for points or labels
    that do not fit, fewer than ten points or one class only, an option out of range.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, value in (("epochs", epochs), ("steps", steps), ("batch_size", batch_size), ("hidden", hidden)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if not 0 < lr < math.inf or not 0 < held_out < 1:
        raise ValueError(f"lr must be positive and held_out between 0 and 1, got {lr} and {held_out}")
    _check_points(x, y, eps)
    if len(x) < 10 or len(y.unique()) < 2:
        raise ValueError(f"a readout needs at least 10 training points of both classes, got {len(x)}")
    if math.ceil(held_out * len(x)) == len(x):
        raise ValueError(f"held_out = {held_out} leaves none of {len(x)} points to train on; make it smaller")
    with torch.no_grad():
        z = features(x)  # [N, m]
    head = (
        fresh_head(z.shape[1], 1, hidden, generator, torch.float64)
        if start is None
        else copy.deepcopy(start.head)
    )
    readout = Readout(features, head)
    _check(readout, x, y, eps)
    keep, used = torch.randperm(len(x), generator=generator).tensor_split([math.ceil(held_out * len(x))])
    centre = z[used].mean(0)
    spread = math.sqrt(max(float((z[used] - centre).square().sum(1).mean()), 1e-12))
    standardise(head, centre, spread)
    fit(features, head, centre, spread, x[used], y[used], eps=eps, epochs=epochs, batch_size=batch_size,
         steps=1 if readout.affine else steps, lr=lr, generator=generator)  # fmt: skip
    standardise(head, -centre / spread, 1 / spread)
    lowest, _ = lowest_margins(readout, x[keep], y[keep], eps=eps, steps=4 * steps, restarts=1, seed=seed)
    readout.scale = best_scale(lowest)
    return readout
