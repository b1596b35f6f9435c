"""The loss of TRADES (Zhang et al. 2019, arXiv 1901.08573): KL divergence and its inner maximisation.

These are the two halves of Algorithm 1 of that paper, computed from log-probabilities:

    min  cross-entropy(x, y) + beta * max KL(p(x) || p(x')) over x' in the ball around x

Where this differs from the authors' code:
1. KL is computed from log-probabilities on both sides. The authors pass the probabilities of x; once these
   underflow, their logarithm has no finite gradient. Here loss and gradient are finite for all finite logits.
2. The start lies in the ball and in [0, 1]. The authors project only after the first step.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from semirobust.attacks import ascend, project
from semirobust.training.recipe import TRADES

NOISE = 1e-3  # standard deviation of the start, in pixels: at x itself the gradient of KL is zero


def divergence(logits: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """KL(p || q) of each example in nats: logits [N, K] of q, log-probabilities [N, K] of p -> [N].

    Zero where q is p, else positive up to rounding; differentiable in both.
    """
    return (reference.exp() * (reference - logits.log_softmax(1))).sum(1)


def maximise(
    view: Callable[[torch.Tensor], torch.Tensor],
    x: torch.Tensor,
    attack: TRADES,
    generator: torch.Generator,
) -> torch.Tensor:
    """Points x' with large KL(p(x) || p(x')), in the ball around x and in [0, 1]: [N, ...] -> [N, ...].

    Ascends from Gaussian noise around x, drawn from ``generator`` on the CPU. ``view`` should compute in
    float32: in bfloat16, x and the start have the same logits for many images, and these never move.
    """
    noise = torch.empty(x.shape).normal_(0, NOISE, generator=generator).to(x.device)
    start = project(x + noise, x, attack.eps, attack.norm)
    with torch.no_grad():
        reference = view(x).log_softmax(1)  # [N, K], in place of labels
    return ascend(
        view,
        x,
        reference,
        eps=attack.eps,
        step=attack.step,
        steps=attack.steps,
        norm=attack.norm,
        start=start,
        loss=divergence,
    )
