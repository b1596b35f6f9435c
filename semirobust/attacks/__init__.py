"""Adversarial attacks, and accuracy under them with verdicts by the untouched float32 model.

worst_case  ``evaluate``, ``perturb`` and ``sanity``: an attack on images, the worst result of each kept
evaluation  the result of an evaluation; evaluations of one model compared
parts       what each named attack is made of (AutoAttack: APGD, targeted APGD, FAB, Square), and its options
pgd         projected gradient ascent in l-infinity and l2: FGSM, I-FGSM, PGD and the margin loss
library     the parts that come from torchattacks: C&W, Square, APGD, FAB
"""

from __future__ import annotations

from semirobust.attacks.evaluation import Evaluation, GradientMaskingWarning, compare
from semirobust.attacks.parts import ATTACKS, check_finite, check_model, inputs
from semirobust.attacks.pgd import (
    ascend,
    check_norm,
    cross_entropy,
    flat_norm,
    gradient,
    margin,
    project,
    random_start,
)
from semirobust.attacks.worst_case import Sanity, batches, evaluate, perturb, sanity

__all__ = [
    "ATTACKS",
    "Evaluation",
    "GradientMaskingWarning",
    "Sanity",
    "ascend",
    "batches",
    "check_finite",
    "check_model",
    "check_norm",
    "compare",
    "cross_entropy",
    "evaluate",
    "flat_norm",
    "gradient",
    "inputs",
    "margin",
    "perturb",
    "project",
    "random_start",
    "sanity",
]
