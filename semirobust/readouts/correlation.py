"""Robust correlation of a layer of a real network, between a certificate and an attack.

Definition 1 of arXiv 2307.03803 calls a subnetwork F^(j) gamma-semirobust if some readout G of it has
Gamma_j(G) = E[min over perturbations of y G(F^(j)(x + delta))] >= gamma. Here G is a trained probe, and for a
given one Gamma_j(G) lies in an interval: [certified, attacked].

Departures from the paper:
1. Its G has no normalisation, and Gamma_j(cG) = c Gamma_j(G) for c >= 0: then a value of gamma has no meaning
   but its sign. Here |G| <= 1: for K classes y G is the clipped margin, clip(G_y - max_{k != y} G_k, -1, 1).
2. The scale at which the margin is clipped is part of the readout. `train_probe` chooses it on training
   images that it keeps from training, under attack, never on test images.
3. An attack gives the value for one attack map, hence an upper bound of Gamma_j(G), and nothing about other
   probes: the best correlation of the layer may be larger. Probes may also see more at a later layer than at
   an earlier one, since linear probes are not closed under composition with a layer (the best correlation
   itself never rises).
4. The lower bound is a Lipschitz bound, image by image; Theorem 2 of the paper gives none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from semirobust.attacks import check_model, inputs
from semirobust.layers import attack_view, layer_features, preserve
from semirobust.readouts.certificate import certified_margins
from semirobust.readouts.probe import Probe, Sum, best_scale, clip, gap_found, lowest_margins, margins
from semirobust.readouts.train import train_head
from semirobust.statistics import mean_interval

HELD_OUT = 0.2  # share of the training images that choose the scale of the margin and train nothing
TRIVIAL = 1e-6  # a certificate within this of -1 says no more than |G| <= 1


def train_probe(
    model: nn.Module,
    layer: str,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    eps: float,
    step: float | None = None,
    steps: int = 10,
    hidden: int | None = None,
    epochs: int = 10,
    batch_size: int = 128,
    lr: float = 3.0,
    seed: int = 0,
    fast: bool = True,
) -> Probe:
    """A probe of ``layer`` trained adversarially through the whole frozen composition.

    ``layer``: one of `layers.weight_layers`, whose own output is read (before BatchNorm and activation), or
    ``"input"``. ``images`` [N, ...] in [0, 1] and ``labels`` int64 [N]: training images; a fifth of them,
    drawn by the seed, is kept out of training and chooses the scale, the one with the largest attacked
    correlation among those that clip between 10 % and 90 % of these images. ``eps``, ``step`` (default eps /
    4), ``steps``: PGD in l-infinity on the cross-entropy of the probe, in pixels. ``hidden``: width of the
    hidden ReLU layer of an MLP; None for a linear probe. ``lr``: Adam's rate at the start, per 1 /
    sqrt(inputs) of a layer.

    Nothing of ``model`` changes, nor do the global random states; the probe holds a frozen copy of what it
    needs. Raises ``ValueError`` for a layer that does not exist, images outside [0, 1], labels out of range,
    a class without images, fewer than ten images, an option out of range.
    """
    attack = _attack(eps, step, steps)
    images, labels = inputs(model, images, labels)
    for name, value, least in (("epochs", epochs, 1), ("batch_size", batch_size, 1), ("hidden", hidden, 1)):
        if value is not None and value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    if not 0 < lr < math.inf:
        raise ValueError(f"lr must be positive and finite, got {lr}")
    features = layer_features(model, layer)
    with preserve(model):
        model.eval()
        classes = check_model(model, images, labels)
        _check_classes(labels, classes)
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(images), generator=generator)
        held_out, used = order.tensor_split([math.ceil(HELD_OUT * len(images))])
        quick = fast and next(features.parameters(), None) is not None
        head = train_head(
            features,
            attack_view(features) if quick else features,
            images[used],
            labels[used],
            classes=classes,
            hidden=hidden,
            attack=attack,
            epochs=epochs,
            batch_size=batch_size,
            lr=lr,
            generator=generator,
        )
        probe = Probe(model, layer, head).eval()
        _, lowest = lowest_margins(
            probe, images[held_out], labels[held_out],
            restarts=1, seed=seed, batch_size=batch_size, fast=fast, **attack,
        )  # fmt: skip
    last = head[-1]
    assert isinstance(last, nn.Linear)
    factor = best_scale(lowest)
    last.weight.mul_(factor)
    last.bias.mul_(factor)
    return probe


@dataclass(frozen=True, eq=False)
class RobustCorrelation:
    """Gamma(G) of a probe on n images: certified <= Gamma(G) <= attacked <= clean, all in [-1, 1].

    layer, features: which layer, and its number of features.
    clean: correlation without attack.
    attacked: with the worst perturbation found.
    certified: a lower bound that holds for every perturbation.
    clean_interval, attacked_interval, certified_interval: 95 %, for sampling of the images only.
    hard_clean, hard_attacked, hard_certified: 2 * (robust) accuracy - 1 of the probe's decisions; a tie
        counts as wrong.
    certificate: ``"exact"`` (the probe is affine in the image: the worst case itself, up to rounding),
        ``"lipschitz"``, or ``"none: REASON"`` where no constant is known.
    certificate_is_trivial: it says no more than |G| <= 1.
    lipschitz: the l2 constant used, image -> features; None where it is not.
    eps, step, steps, restarts, seed: the attack, in pixels.
    clean_values, attacked_values, certified_values: the clipped margins, float32 [n].
    """

    layer: str
    features: int
    clean: float
    attacked: float
    certified: float
    clean_interval: tuple[float, float]
    attacked_interval: tuple[float, float]
    certified_interval: tuple[float, float]
    hard_clean: float
    hard_attacked: float
    hard_certified: float
    certificate: str
    certificate_is_trivial: bool
    lipschitz: float | None
    eps: float
    step: float
    steps: int
    restarts: int
    seed: int
    n: int
    clean_values: torch.Tensor
    attacked_values: torch.Tensor
    certified_values: torch.Tensor

    def record(self) -> dict[str, Any]:
        """All but the tensors, as plain values for a results file."""
        return {name: value for name, value in vars(self).items() if not name.endswith("_values")}


def robust_correlation(
    probe: Probe,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    eps: float,
    step: float | None = None,
    steps: int = 20,
    restarts: int = 3,
    seed: int = 0,
    batch_size: int = 256,
    fast: bool = True,
) -> RobustCorrelation:
    """The interval of Gamma(G) for a probe, on ``images`` [N, ...] in [0, 1] with ``labels`` int64 [N],
    l-infinity.

    The attack lowers the margin itself, which for every scale is to lower the clipped one: ``restarts``
    searches of ``steps`` steps of size ``step`` (default eps / 4), the first from the image, the others from
    random starts and against one rival class each. It follows the fast view of the network; values are those
    of the float32 network.

    The certificate is, for an image in the box of its perturbations with centre c and half widths h, min_k
    [G_y(c) - G_k(c) - D_k], with D_k = |w_y - w_k| . h, exact for a probe that is affine in the image, else
    Lip(G_y - G_k) Lip(F^(j)) ||h||_2, or the same around the image itself where that gives more. So it is
    never below the mean form E[y G] - Lambda E[||delta||_2] of the corrected Theorem 2. A small allowance for
    rounding is taken off. Raises ``ValueError`` for images outside [0, 1], labels out of range, an option out
    of range.
    """
    attack = _attack(eps, step, steps)
    _check_effort(restarts, batch_size)
    images, labels = inputs(probe, images, labels)
    with preserve(probe):
        probe.eval().requires_grad_(False)
        check_model(probe, images, labels)
        clean, lowest = lowest_margins(
            probe, images, labels, restarts=restarts, seed=seed, batch_size=batch_size, fast=fast, **attack
        )
        sure, certificate, constant = certified_margins(probe, images, labels, eps=eps, batch_size=batch_size)
    values = [clip(value) for value in (clean, lowest, sure)]
    means = [float(value.double().mean()) for value in values]
    hard = [2 * float((value > 0).double().mean()) - 1 for value in values]
    intervals = [mean_interval(value) for value in values]
    return RobustCorrelation(
        layer=probe.layer,
        features=probe.n_features,
        clean=means[0],
        attacked=means[1],
        certified=means[2],
        clean_interval=intervals[0],
        attacked_interval=intervals[1],
        certified_interval=intervals[2],
        hard_clean=hard[0],
        hard_attacked=hard[1],
        hard_certified=hard[2],
        certificate=certificate,
        certificate_is_trivial=means[2] <= -1 + TRIVIAL,
        lipschitz=constant,
        eps=attack["eps"],
        step=attack["step"],
        steps=steps,
        restarts=restarts,
        seed=seed,
        n=len(images),
        clean_values=values[0],
        attacked_values=values[1],
        certified_values=values[2],
    )


def attacked_margins(
    readout: Probe | Sum,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    eps: float,
    step: float | None = None,
    steps: int = 20,
    restarts: int = 1,
    seed: int = 0,
    batch_size: int = 256,
    fast: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(G_y - max_{k != y} G_k on the images, the smallest found within eps), not clipped: float32 [N] each.

    The mean of the second is an upper bound of the robust correlation of the readout as it is, without a
    normalisation. Options and errors as in `robust_correlation`.
    """
    attack = _attack(eps, step, steps)
    _check_effort(restarts, batch_size)
    images, labels = inputs(readout, images, labels)
    with preserve(readout):
        readout.eval().requires_grad_(False)
        check_model(readout, images, labels)
        return lowest_margins(
            readout, images, labels, restarts=restarts, seed=seed, batch_size=batch_size, fast=fast, **attack
        )


def clipped_margins(
    probe: nn.Module, images: torch.Tensor, labels: torch.Tensor, *, batch_size: int = 256
) -> torch.Tensor:
    """y G on the images as they are: float32 [N] in [-1, 1]. Their mean is the correlation under the attack
    map that made the images. Errors as in `robust_correlation`.
    """
    images, labels = inputs(probe, images, labels)
    _check_effort(1, batch_size)
    with preserve(probe):
        probe.eval()
        check_model(probe, images, labels)
        return clip(margins(probe, images, labels, batch_size))


@dataclass(frozen=True)
class DistillationGap:
    """E sup over delta of |y G_j F^(j)(x + delta) - y G_i F^(i)(x + delta)|, seen from below, in [0, 2].

    ``lower_estimate``: its mean over n images at the perturbations found, so never above it; ``interval``: 95
    %, for sampling of the images; ``clean``: the mean difference without perturbation.
    """

    earlier: str
    later: str
    lower_estimate: float
    interval: tuple[float, float]
    clean: float
    eps: float
    n: int


def distillation_gap(
    earlier: Probe,
    later: Probe,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    eps: float,
    step: float | None = None,
    steps: int = 20,
    restarts: int = 1,
    seed: int = 0,
    batch_size: int = 256,
    fast: bool = True,
) -> DistillationGap:
    """How far two probes come apart within eps: d of the corrected Theorem 2, |Gamma_j(G_j) - Gamma_i(G_i)|
    <= d.

    An attack maximises the difference, so this is a *lower* estimate: no certificate follows from it. For
    each of both signs ``restarts`` searches, the first from the image, the others from random starts. Options
    and errors as in `robust_correlation`; ``ValueError`` too for probes with different numbers of classes.
    """
    attack = _attack(eps, step, steps)
    _check_effort(restarts, batch_size)
    images, labels = inputs(earlier, images, labels)
    with preserve(earlier), preserve(later):
        earlier.eval().requires_grad_(False)
        later.eval().requires_grad_(False)
        classes = [check_model(probe, images, labels) for probe in (earlier, later)]
        if classes[0] != classes[1]:
            raise ValueError(
                f"the probes have {classes[0]} and {classes[1]} classes: compare probes of one task"
            )
        clean, widest = gap_found(
            earlier, later, images, labels,
            restarts=restarts, seed=seed, batch_size=batch_size, fast=fast, **attack,
        )  # fmt: skip
    return DistillationGap(
        earlier.layer,
        later.layer,
        float(widest.double().mean()),
        mean_interval(widest, low=0.0, high=2.0),
        float(clean.double().mean()),
        eps,
        len(images),
    )


# --- checks ---


def _attack(eps: float, step: float | None, steps: int) -> dict[str, Any]:
    if not 0 <= eps < math.inf:
        raise ValueError(f"eps must be a finite radius of at least 0, in pixels of [0, 1], got {eps}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if step is not None and not 0 < step < math.inf:
        raise ValueError(f"step must be a positive size in pixels of [0, 1], got {step}")
    return {"eps": float(eps), "step": eps / 4 if step is None else float(step), "steps": steps}


def _check_effort(restarts: int, batch_size: int) -> None:
    if restarts < 1 or batch_size < 1:
        raise ValueError(f"restarts and batch_size must be at least 1, got {restarts} and {batch_size}")


def _check_classes(labels: torch.Tensor, classes: int) -> None:
    if len(labels) < 10:
        raise ValueError(f"a probe needs at least 10 training images, got {len(labels)}")
    missing: Sequence[int] = sorted(set(range(classes)) - set(labels.tolist()))
    if missing:
        raise ValueError(
            f"no training image is of class {', '.join(map(str, missing))}: the probe needs images of all "
            f"the model's {classes} classes"
        )
