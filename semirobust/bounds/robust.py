"""Bounds on the price of another f_b: differences of outputs, losses and robustness.

Section 2.2 of arXiv 2307.03803 bounds the loss of (f_a*, f_b~) by that of (f_a*, f_b*) and the distance of
their weights. Its inequalities (13) to (17) do not hold as printed; these do, with the paper's idea kept:

- ``curvature``: Taylor's formula with the f_b block of the Hessian (for (11) to (13));
- ``telescope``: outputs, sample by sample, through operator norms (for (14) to (16));
- ``robust_difference``: losses and robust correlation over a ball of perturbations (for (17));
- ``lipschitz_certificate``: robustness of one network from its clean margins.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from semirobust.bounds.layerwise import LOGIT_FACTOR, Walk
from semirobust.bounds.pair import check_images, folded_pair


@dataclass(frozen=True, eq=False)
class RobustDifference:
    """Certified bounds over all perturbations of l2 norm at most ``radius``.

    output [N]: sup over the ball of ||F~ - F*||_2, by image. loss: bound on the difference of the
    adversarial cross-entropies, in nats. correlation: bound on the difference of the robust correlations of
    the margins clipped to [-1, 1]; never more than 2. trivial: that bound is 2, which says nothing.
    """

    radius: float
    output: torch.Tensor
    loss: float
    correlation: float
    trivial: bool


@dataclass(frozen=True)
class Certificate:
    """Certified lower bounds for one network and one budget.

    correlation: of the robust correlation of the margin as it is. clipped_correlation: of the margin clipped
    to [-1, 1], in [-1, 1]. robust_accuracy: of the share of images classified rightly whatever the
    perturbation, in [0, 1].
    """

    correlation: float
    clipped_correlation: float
    robust_accuracy: float


def robust_difference(
    model_star: nn.Module,
    model_tilde: nn.Module,
    images: torch.Tensor,
    n_fb: int,
    *,
    eps: float,
    norm: str = "linf",
    batch_size: int = 64,
) -> RobustDifference:
    """How much less robust (f_a*, f_b~) can be than (f_a*, f_b*), for any attack of the given strength.

    ``images`` [N, ...] in [0, 1], ``eps`` in pixels of [0, 1], ``norm`` "linf" or "l2". The telescoped bound
    holds at every x + delta: an activation z*_j moves by at most Lip(F*_j) ||delta||_2, and in l2 the linf
    ball of d pixels has radius eps sqrt(d). |sup u - sup v| <= sup |u - v| carries it to the worst case of
    each network; cross-entropy and margins are sqrt(2)-Lipschitz in the logits.

    This is what (17) of arXiv 2307.03803 aims at: close weights of f_b mean close robustness. The product of
    norms grows with depth, so for real networks it is often trivial, and the result says so. Raises
    ``ValueError`` as ``telescope`` does, and for another norm or a negative eps.
    """
    check_images(images)
    if norm not in ("linf", "l2") or not 0 <= eps < math.inf:
        raise ValueError(f"norm must be linf or l2 and eps at least 0 (in pixels), got {norm!r} and {eps}")
    radius = eps * math.sqrt(images[0].numel()) if norm == "linf" else eps
    walk = Walk(folded_pair(model_star, model_tilde, n_fb), tuple(images.shape[1:]), radius=radius)
    output = torch.cat([exact.sum(1) for _, exact, _, _ in walk.batches(images, batch_size)]).cpu()  # [N]
    correlation = float((LOGIT_FACTOR * output).clamp(max=2).mean())
    loss = LOGIT_FACTOR * float(output.mean())
    return RobustDifference(radius, output, loss, correlation, trivial=correlation >= 2)


def lipschitz_certificate(
    margins: torch.Tensor, constant: float, reach: torch.Tensor | float, *, multiclass: bool = True
) -> Certificate:
    """Robustness from clean ``margins`` [N] alone, in the form that takes the place of Theorem 2.

    ``reach``: for each image (or all) a bound of sup_delta ||F^(a)(x + delta) - F^(a)(x)||_2, the most that
    the layer below moves; ``constant``: l2 Lipschitz constant of the rest of the network on a convex set
    that holds the attacked values. ``multiclass``: margins are logit(y) - max of the others and the constant
    is that of the logits, so that margins move by sqrt(2) times it; otherwise margins are y G(x) of a scalar
    output with that constant. A margin equal to its largest move does not count as robust. Raises
    ``ValueError`` for no or non-finite margins, or a constant or reach that is negative.
    """
    if margins.ndim != 1 or len(margins) == 0 or not bool(torch.isfinite(margins).all()):
        raise ValueError("give at least one finite margin, as a tensor [N]")
    moves = torch.as_tensor(reach, dtype=torch.float64).cpu()
    if (moves.ndim and moves.shape != margins.shape) or not bool((moves >= 0).all()) or not constant >= 0:
        raise ValueError("constant and reach must be at least 0, and reach one number or one per margin")
    factor = LOGIT_FACTOR if multiclass else 1.0
    worst = margins.double().cpu() - factor * constant * moves  # [N]
    return Certificate(
        correlation=float(worst.mean()),
        clipped_correlation=float(worst.clamp(-1, 1).mean()),
        robust_accuracy=float((worst > 0).double().mean()),
    )
