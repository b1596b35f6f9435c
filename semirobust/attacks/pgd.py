"""Projected gradient ascent on the loss: the loop inside FGSM, I-FGSM, PGD and adversarial training.

``x_adv <- project(x_adv + step * direction(gradient))``, with the sign of the gradient for l-infinity and the
gradient divided by its l2 norm for l2; ``project`` keeps x_adv in the ball around x and in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional as F

NORMS = ("linf", "l2")

#: a loss to ascend: (logits [N, K], labels [N]) -> [N]
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each example in nats: [N, K], [N] -> [N]."""
    return F.cross_entropy(logits, labels, reduction="none")


def margin(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Best other logit minus the label's: [N, K], [N] -> [N], positive where the example is misclassified.

    The loss of Carlini and Wagner (arXiv 1608.04644, f_6 without its floor). It does not saturate. The
    cross-entropy does: its float32 gradient is zero where the label's probability rounds to one.
    """
    label = logits.gather(1, labels[:, None])  # [N, 1]
    others = logits.scatter(1, labels[:, None], -torch.inf)  # [N, K]
    return others.amax(1) - label[:, 0]


def flat_norm(delta: torch.Tensor) -> torch.Tensor:
    """l2 norm of each example: [N, ...] -> [N, 1, ...], broadcastable."""
    return delta.flatten(1).norm(dim=1).view(-1, *(1,) * (delta.ndim - 1))


def check_norm(norm: str) -> None:
    """Raises ``ValueError`` for a norm that is not in ``NORMS``."""
    if norm not in NORMS:
        raise ValueError(f"unknown norm {norm!r}; known: {', '.join(NORMS)}")


def project(x_adv: torch.Tensor, x: torch.Tensor, eps: float, norm: str) -> torch.Tensor:
    """The point of the eps-ball around ``x`` nearest to ``x_adv``, clipped to [0, 1]; all [N, ...], eps in
    pixels.
    """
    check_norm(norm)
    if norm == "linf":
        return (x_adv - x).clamp_(-eps, eps).add_(x).clamp_(0, 1)
    delta = x_adv - x
    return (x + delta * (eps / flat_norm(delta).clamp(min=1e-12)).clamp(max=1)).clamp_(0, 1)


def random_start(x: torch.Tensor, eps: float, norm: str, generator: torch.Generator) -> torch.Tensor:
    """A uniform draw from the eps-ball around each example, clipped to [0, 1]: [N, ...] -> [N, ...], eps in
    pixels.
    """
    check_norm(norm)
    if norm == "linf":
        noise = torch.empty(x.shape).uniform_(-eps, eps, generator=generator)
    else:
        noise = torch.empty(x.shape).normal_(generator=generator)
        dimension = noise[0].numel()
        radius = torch.empty(len(x), *(1,) * (x.ndim - 1)).uniform_(generator=generator) ** (1 / dimension)
        noise = noise / flat_norm(noise).clamp(min=1e-12) * radius * eps
    return (x + noise.to(x.device)).clamp_(0, 1)


def gradient(
    view: Callable[[torch.Tensor], torch.Tensor],
    x: torch.Tensor,
    labels: torch.Tensor,
    loss: Loss = cross_entropy,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(gradient in x of each example's loss [N, ...], logits [N, K])."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        logits = view(leaf)
        (grad,) = torch.autograd.grad(loss(logits, labels).sum(), leaf)
    return grad, logits.detach()


def ascend(
    view: Callable[[torch.Tensor], torch.Tensor],
    x: torch.Tensor,
    labels: torch.Tensor,
    *,
    eps: float,
    step: float,
    steps: int,
    norm: str = "linf",
    start: torch.Tensor | None = None,
    leave_broken: bool = False,
    loss: Loss = cross_entropy,
) -> torch.Tensor:
    """``steps`` projected gradient steps from ``start`` (default x): adversarial examples [N, ...] in the
    ball and the box.

    With ``leave_broken`` an example that ``view`` misclassifies is kept as it is and costs no further step;
    the loop then ends early when all are broken. Without it, every example takes all steps (as in training).
    Raises ``ValueError`` for an unknown norm.
    """
    check_norm(norm)
    x = x.detach()
    current = (x if start is None else start.detach()).clone()
    active = torch.arange(len(x), device=x.device)
    for _ in range(steps):
        here, origin, target = (
            (current, x, labels) if len(active) == len(x) else (current[active], x[active], labels[active])
        )
        grad, logits = gradient(view, here, target, loss)
        direction = grad.sign() if norm == "linf" else grad / flat_norm(grad).clamp(min=1e-12)
        moved = project(here + step * direction, origin, eps, norm)
        if leave_broken:
            intact = logits.argmax(1) == target
            active = active[intact]
            if len(active) == 0:
                break
            current[active] = moved[intact]
        else:
            current = moved
    return current
