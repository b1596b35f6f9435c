"""Results of evaluations under attack: accuracy, its interval, and signs of gradient masking.

Robust accuracy is measured with attacks, so it is an upper bound. The bound is loose where gradients carry no
information ("gradient masking", Athalye, Carlini and Wagner, arXiv 1802.00420). ``compare`` looks for the
signs listed in that paper, between several evaluations of one model on the same images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch

from semirobust.statistics import sign_test, wilson

BLACK_BOX = ("square",)
ONE_STEP = ("fgsm",)
WHITE_BOX = ("fgsm", "ifgsm", "pgd", "cw", "autoattack")
SIGNIFICANCE = 0.01  # level of the one-sided sign test behind each finding of `compare`
ZERO_GRADIENTS = 0.01  # share of images with a zero gradient above which an evaluation warns
BLACK_BOX_SHARE = 0.02  # share of images that only a black-box attack breaks above which a finding is made


class GradientMaskingWarning(UserWarning):
    """The evaluation looks as if it overstated robustness."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Verdicts of the float32 model, in evaluation mode, on the worst case found for each of n images.

    correct: bool [N], still classified rightly; an image that is misclassified unattacked counts as broken.
    clean_correct: bool [N], classified rightly unattacked. x_adv: float32 [N, ...] on the CPU, in the ball
    and in [0, 1]: the point that broke the image, the image itself where it was misclassified already, else
    the last point tried.
    attack, norm, eps (in pixels of [0, 1]), steps, step, restarts, queries, seed: the threat model and the
        effort; what the attack does not use is zero (restarts: one).
    parts: (name, number of images it broke) for each attack that ran, in order; each saw only what was left.
    reattacked: images that only the fast view of the model called broken, attacked again on the model itself.
    zero_gradient_share: share of ``gradient_n`` images, evenly spaced in the set, where the float32 gradient
    of the loss in the unattacked image is exactly zero; None for an attack that uses no gradient.
    warnings: signs of gradient masking.
    """

    correct: torch.Tensor
    clean_correct: torch.Tensor
    x_adv: torch.Tensor
    attack: str
    norm: str
    eps: float
    steps: int
    step: float
    restarts: int
    queries: int
    seed: int
    parts: tuple[tuple[str, int], ...]
    reattacked: int
    zero_gradient_share: float | None
    gradient_n: int
    seconds: float
    warnings: tuple[str, ...]

    @property
    def n(self) -> int:
        """Number of images."""
        return len(self.correct)

    @property
    def accuracy(self) -> float:
        """Share of images still classified rightly, in [0, 1]."""
        return int(self.correct.sum()) / self.n

    @property
    def clean_accuracy(self) -> float:
        """Share of images classified rightly unattacked, in [0, 1]."""
        return int(self.clean_correct.sum()) / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval of ``accuracy``: sampling of the images only, not the strength of the
        attack."""
        return wilson(int(self.correct.sum()), self.n)

    def record(self) -> dict[str, Any]:
        """All but the tensors, as plain values for a results file."""
        left_out = ("correct", "clean_correct", "x_adv")
        plain = {name: value for name, value in vars(self).items() if name not in left_out}
        return plain | {
            "n": self.n,
            "accuracy": self.accuracy,
            "interval": self.interval,
            "clean_accuracy": self.clean_accuracy,
        }


def compare(evaluations: Sequence[Evaluation]) -> tuple[str, ...]:
    """Signs of gradient masking between evaluations of one model on the same images, each a sentence.

    Looks at every pair in one norm: a black-box attack that beats a white-box one, or one step that beats
    many, at the same eps; an attack that leaves more images right at a larger eps. "Beats" is a one-sided
    sign test at 1 % on the images where the two differ; a black-box attack is also named when it alone breaks
    more than 2 % of the images. Raises ``ValueError`` for evaluations that are not of the same images and
    model.
    """
    for other in evaluations[1:]:
        if not torch.equal(other.clean_correct, evaluations[0].clean_correct):
            raise ValueError(
                "the evaluations differ on unattacked images: compare one model on the same images"
            )
    findings: list[str] = []
    for one, two in combinations(evaluations, 2):
        if one.norm == two.norm:
            for weak, strong in ((one, two), (two, one)):
                findings += _pair(weak, strong)
    return tuple(findings)


def _pair(weak: Evaluation, strong: Evaluation) -> list[str]:
    """Findings where ``weak``, which should break no more images than ``strong``, does."""
    only_weak = int((strong.correct & ~weak.correct).sum())
    only_strong = int((weak.correct & ~strong.correct).sum())
    p = sign_test(only_weak, only_strong)
    counts = (
        f"only the first breaks {only_weak} of {weak.n} images, only the second {only_strong}, p = {p:.2g}"
    )
    names = f"{_label(weak)} against {_label(strong)}"
    black_box = weak.attack in BLACK_BOX and strong.attack in WHITE_BOX
    same = math.isclose(weak.eps, strong.eps, rel_tol=1e-6)
    if weak.attack == strong.attack and weak.eps < strong.eps and not same and p < SIGNIFICANCE:
        return [f"{names}: the smaller budget breaks more images ({counts})"]
    if same and black_box and (p < SIGNIFICANCE or only_weak > max(2, BLACK_BOX_SHARE * weak.n)):
        return [f"{names}: a black-box attack breaks images that a white-box one leaves ({counts})"]
    one_step = weak.attack in ONE_STEP and strong.attack in WHITE_BOX and strong.attack not in ONE_STEP
    if same and one_step and p < SIGNIFICANCE:
        return [f"{names}: one step breaks more images than many ({counts})"]
    return []


def _label(evaluation: Evaluation) -> str:
    budget = f"{evaluation.eps * 255:.4g}/255" if evaluation.norm == "linf" else f"{evaluation.eps:.4g}"
    return f"{evaluation.attack} at {evaluation.norm} eps {budget}"
