"""Lower bounds of a probe's margin that hold for every perturbation of l-infinity norm eps inside [0, 1]."""

from __future__ import annotations

import torch
from torch import fx, nn

from semirobust.attacks import batches
from semirobust.bounds import lipschitz
from semirobust.layers import INPUT, WEIGHT_TYPES, device_of, trace
from semirobust.models import Normalize
from semirobust.readouts.probe import Probe

ROUNDING = 1e-5  # allowance, relative to the numbers that the margin is the difference of
_AFFINE = (*WEIGHT_TYPES, Normalize, nn.Flatten, nn.Identity, nn.Dropout, nn.AvgPool2d, nn.AdaptiveAvgPool2d)


def certified_margins(
    probe: Probe, images: torch.Tensor, labels: torch.Tensor, *, eps: float, batch_size: int
) -> tuple[torch.Tensor, str, float | None]:
    """(lower bound of the margin over the perturbations [N], kind of certificate, Lipschitz constant used).

    The perturbed images of x fill the box [max(0, x - eps), min(1, x + eps)] with centre c and half widths h
    <= eps.
    """
    exact = is_affine(probe)
    constant: float | None = None
    device = device_of(probe)
    if exact:
        weight = jacobian(probe, images[:1].to(device))  # [K, d]
    else:
        try:
            constant = feature_constant(probe, images.shape[1:])
        except ValueError as error:
            return torch.full((len(images),), -torch.inf), f"none: {error}", None
        pairs = pair_constants(probe.head) * constant  # [K, K]
    bounds = []
    for at in batches(len(images), batch_size):
        x, y = images[at].to(device), labels[at].to(device)
        low, high = (x - eps).clamp(min=0), (x + eps).clamp(max=1)
        centre, half = (low + high) / 2, ((high - low) / 2).flatten(1)  # [n, ...], [n, d]
        with torch.no_grad():
            if exact:
                bound = _lower(probe(centre), y, exact_radius(weight, half, y))
            else:
                around_centre = _lower(probe(centre), y, pairs[y] * half.norm(dim=1)[:, None])
                far = torch.maximum(high - x, x - low).flatten(1).norm(dim=1)  # [n]
                bound = torch.maximum(around_centre, _lower(probe(x), y, pairs[y] * far[:, None]))
        bounds.append(bound.cpu())
    return torch.cat(bounds), "exact" if exact else "lipschitz", constant


def is_affine(probe: Probe) -> bool:
    """Whether every step from the image to the logits is affine, by the type of each module."""
    traced = trace(probe)
    for node in traced.graph.nodes:
        if node.op == "call_module" and type(traced.get_submodule(node.target)) not in _AFFINE:
            return False
        if node.op in ("call_function", "call_method") and not _flattens(node):
            return False
    return True


def _flattens(node: fx.Node) -> bool:
    return node.target in (torch.flatten, "flatten")


def jacobian(probe: Probe, x: torch.Tensor) -> torch.Tensor:
    """Of an affine probe: weights [K, d] of its logits in the pixels; ``x`` [1, ...] gives the shape only."""
    with torch.no_grad():
        classes = probe(x).shape[1]
    with torch.enable_grad():
        leaf = torch.zeros_like(x).repeat(classes, *(1,) * (x.ndim - 1)).requires_grad_()
        (grad,) = torch.autograd.grad(probe(leaf).diagonal().sum(), leaf)  # row k: gradient of logit k
    return grad.flatten(1)


def exact_radius(weight: torch.Tensor, half: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The largest fall of G_y - G_k from the centre, |w_y - w_k| . h: [K, d], [n, d], [n] -> [n, K]."""
    radius = half.new_zeros(len(half), len(weight))
    for label in labels.unique().tolist():
        own = labels == label
        radius[own] = half[own] @ (weight[label] - weight).abs().T
    return radius


def pair_constants(head: nn.Sequential) -> torch.Tensor:
    """l2 Lipschitz constants of G_y - G_k, features -> number, for each pair: [K, K]."""
    linear = [module.weight.detach().double() for module in head if isinstance(module, nn.Linear)]
    below = 1.0
    for weight in linear[:-1]:  # ReLU is 1-Lipschitz
        below *= float(torch.linalg.matrix_norm(weight, 2)) * (1 + 1e-6)
    return (below * torch.cdist(linear[-1], linear[-1], compute_mode="donot_use_mm_for_euclid_dist")).float()


def feature_constant(probe: Probe, shape: torch.Size) -> float:
    """A rigorous l2 Lipschitz constant of images of ``shape`` -> features.

    Raises ``ValueError`` for a network that `lipschitz` cannot treat.
    """
    if probe.layer == INPUT:
        return 1.0
    assert isinstance(probe.features, nn.Sequential)
    return float(lipschitz(probe.features[0], tuple(shape), upto=probe.layer))


def _lower(logits: torch.Tensor, labels: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
    """min over k != y of G_y - G_k - radius_k, less the rounding of float32: [n, K], [n], [n, K] -> [n]."""
    label = logits.gather(1, labels[:, None])
    slack = ROUNDING * (1 + logits.abs().amax(1, keepdim=True) + radius)
    gaps = label - logits - radius - slack  # [n, K]
    return gaps.scatter(1, labels[:, None], torch.inf).amin(1)
