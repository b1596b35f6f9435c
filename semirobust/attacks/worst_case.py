"""Attacks on images and the evaluation of a model under them, keeping the worst result for each image.

An attack looks for a misclassified point within eps of an image (in the l-infinity or l2 norm, in pixels) and
within [0, 1]. It may search on a fast approximation of the model (``layers.view``). Each point that it finds
is projected to the ball and the box, and the untouched float32 model in evaluation mode gives the verdict. An
image that only the approximation calls broken is attacked again, from the same start, on the model itself. So
the approximation never makes the model look more robust than it is. An evaluation runs each search only on
the images that are still classified rightly.

| name | what it is | linf | l2 |
| --- | --- | --- | --- |
| ``none`` | no attack | yes | yes |
| ``fgsm`` | one step of size eps from the image (arXiv 1412.6572) | yes | yes |
| ``ifgsm`` | steps without a random start (arXiv 1607.02533) | yes | yes |
| ``pgd`` | steps from a random start (arXiv 1706.06083) | yes | yes |
| ``cw`` | C&W (arXiv 1608.04644) | PGD on its margin loss (arXiv 1706.06083) | nearest point; see below |
| ``autoattack`` | the standard AutoAttack (arXiv 2003.01690) | images | images |
| ``square`` | random search, black box (arXiv 1912.00049) | images | images |

"images" means [N, C, H, W]; the others also take vectors [N, d]. AutoAttack is APGD-CE, targeted APGD-DLR,
targeted FAB and Square, in that order, each on the images that the ones before left unbroken. The DLR loss
needs four classes; with two or three, PGD on the margin loss with three random starts replaces it (part
``margin-pgd``). C&W in l2 has no budget of its own: the point that it finds counts if it is within eps, or
anywhere at ``eps=math.inf``.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from semirobust.attacks.evaluation import (
    BLACK_BOX,
    BLACK_BOX_SHARE,
    ZERO_GRADIENTS,
    Evaluation,
    GradientMaskingWarning,
    compare,
)
from semirobust.attacks.parts import Options, Part, View, check_finite, check_model, inputs, plan
from semirobust.attacks.parts import options as checked_options
from semirobust.attacks.pgd import gradient, project, random_start
from semirobust.layers import attack_view, device_of, preserve


def evaluate(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    attack: str,
    *,
    eps: float | None = None,
    norm: str = "linf",
    steps: int | None = None,
    step: float | None = None,
    restarts: int = 1,
    queries: int = 5000,
    batch_size: int = 256,
    seed: int = 0,
    fast: bool = True,
) -> Evaluation:
    """Attack ``images`` [N, ...] in [0, 1] with ``labels`` int64 [N]; the worst case found decides for each
    image.

    ``model`` maps [N, ...] to logits [N, K] and is left as found, as are the global random states, also on
    exceptions. An image that is misclassified, or broken by an earlier restart or part, is not attacked
    further.

    ``attack``: see the module. ``eps``: radius in pixels of [0, 1] (8/255 for linf, 0.5 for l2); 0 is no
    attack, and ``cw`` in l2 takes ``math.inf`` too. ``steps``: 10 (``cw`` 50, ``autoattack`` 100 for APGD and
    FAB); ``step``: their size (eps / 4, that is 2/255 for 8/255). ``restarts``: random starts of ``pgd`` and
    of ``cw`` in linf. ``queries``: of Square, per image. ``seed``: random starts are drawn for each batch,
    from the first to the last, as torchattacks' PGD draws them after ``torch.manual_seed(seed)``.
    ``fast=False`` attacks the model itself in float32.

    Warns with ``GradientMaskingWarning`` where over 1 % of the gradients are exactly zero, or where Square
    breaks what the gradient parts of AutoAttack left. Raises ``ValueError`` (``TypeError`` for anything but
    tensors) for an unknown name or norm, an option out of range, images outside [0, 1], labels out of range,
    wrong shapes, a model whose logits are not finite or differ from one call to the next.
    """
    options = checked_options(attack, eps, norm, steps, step, restarts, queries, batch_size, seed, fast)
    images, labels = inputs(model, images, labels)
    began = time.perf_counter()
    with preserve(model):
        model.eval().requires_grad_(False)
        classes = check_model(model, images, labels)
        parts_to_run = plan(options, images.shape[1:], classes)
        clean = clean_verdicts(model, images, labels, batch_size)
        share, gradient_n = zero_gradients(model, images, labels, options)
        correct, x_adv, parts, again = worst_case(model, images, labels, clean, parts_to_run, options)
    signs = _signs(share, gradient_n, parts, len(images))
    for sign in signs:
        warnings.warn(sign, GradientMaskingWarning, stacklevel=2)
    return Evaluation(
        correct=correct,
        clean_correct=clean,
        x_adv=x_adv,
        attack=attack,
        norm=norm,
        eps=options.eps,
        steps=options.steps,
        step=options.step,
        restarts=options.restarts,
        queries=options.queries,
        seed=seed,
        parts=parts,
        reattacked=again,
        zero_gradient_share=share,
        gradient_n=gradient_n,
        seconds=time.perf_counter() - began,
        warnings=signs,
    )


def perturb(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    attack: str,
    *,
    eps: float | None = None,
    norm: str = "linf",
    steps: int | None = None,
    step: float | None = None,
    queries: int = 5000,
    batch_size: int = 256,
    seed: int = 0,
    fast: bool = True,
) -> torch.Tensor:
    """Attacked inputs float32 [N, ...] on the CPU, in the ball and in [0, 1], for every image alike.

    Unlike ``evaluate`` this skips no misclassified image, and an image takes all its steps even if it is
    broken on the way. The result is the same attack map applied to every image, to measure a network on.
    Options and errors as in ``evaluate``. ``square`` leaves what it cannot break as it is and does not move
    what is misclassified already, as torchattacks does; ``autoattack`` gives ``evaluate(...).x_adv``.
    """
    if attack == "autoattack":
        return evaluate(
            model, images, labels, attack, eps=eps, norm=norm, steps=steps, step=step, queries=queries,
            batch_size=batch_size, seed=seed, fast=fast,
        ).x_adv  # fmt: skip
    options = checked_options(attack, eps, norm, steps, step, 1, queries, batch_size, seed, fast)
    images, labels = inputs(model, images, labels)
    x_adv = images.clone()
    with preserve(model):
        model.eval().requires_grad_(False)
        classes = check_model(model, images, labels)
        device, views = device_of(model), Views(model, fast)
        for part in plan(options, images.shape[1:], classes):
            view = views.get(part)
            generator = torch.Generator().manual_seed(seed)
            for at in batches(len(images), batch_size):
                start = draw_start(images[at], part, options, generator)
                x = images[at].to(device)
                found = part.run(view, x, labels[at].to(device), start.to(device), False)
                x_adv[at] = project(found, x, options.eps, norm).cpu()
    return x_adv


@dataclass(frozen=True)
class Sanity:
    """One attack at growing eps (and Square at the middle one), and the signs of gradient masking between
    them."""

    evaluations: tuple[Evaluation, ...]
    findings: tuple[str, ...]


def sanity(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    attack: str = "pgd",
    norm: str = "linf",
    eps_values: Sequence[float] = (2 / 255, 4 / 255, 8 / 255, 32 / 255, 0.5),
    queries: int = 1000,
    seed: int = 0,
) -> Sanity:
    """Check a model's robust accuracy: run ``attack`` at each of ``eps_values``, and ``square`` at the middle
    one.

    Beside the findings of ``compare``, accuracy must fall to chance once the ball holds the grey image (0.5
    in every pixel), which is the same for all images. Square is left out for vectors; the default eps values
    are for linf. Warns with ``GradientMaskingWarning`` for each finding; raises as ``evaluate`` does, and
    ``ValueError`` without eps values.
    """
    if not eps_values:
        raise ValueError("eps_values is empty: give the budgets to compare")
    images, labels = inputs(model, images, labels)
    budgets = sorted(eps_values)
    runs = [(attack, eps) for eps in budgets]
    if images.ndim == 4 and attack not in BLACK_BOX:
        runs.append(("square", budgets[len(budgets) // 2]))
    evaluations = tuple(
        evaluate(model, images, labels, name, eps=eps, norm=norm, queries=queries, seed=seed)
        for name, eps in runs
    )
    findings = list(compare(evaluations))
    widest = evaluations[len(budgets) - 1]
    chance = int(labels.bincount().max()) / len(labels)
    to_grey = 0.5 if norm == "linf" else 0.5 * math.sqrt(images[0].numel())
    if widest.eps >= to_grey and widest.accuracy > chance:
        findings.append(
            f"{attack} leaves {widest.accuracy:.1%} right at {norm} eps {widest.eps:.3g}, where all images "
            f"can become the same grey one, so that at most {chance:.1%} can be right"
        )
    for finding in findings:
        warnings.warn(finding, GradientMaskingWarning, stacklevel=2)
    return Sanity(evaluations, tuple(findings))


def _signs(share: float | None, gradient_n: int, parts: Sequence[tuple[str, int]], n: int) -> tuple[str, ...]:
    """Signs of gradient masking inside one evaluation."""
    signs = []
    if share is not None and share > ZERO_GRADIENTS:
        signs.append(
            f"the loss gradient is exactly zero on {share:.1%} of {gradient_n} images, where no step moves: "
            "compare with cw in linf, whose loss does not saturate, and with square"
        )
    by_square = dict(parts).get("square", 0)
    if len(parts) > 1 and by_square > max(2, BLACK_BOX_SHARE * n):
        signs.append(f"square broke {by_square} of {n} images that every gradient attack before it had left")
    return tuple(signs)


GRADIENT_IMAGES = 256  # images on which the share of zero gradients is measured


def worst_case(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    clean: torch.Tensor,
    parts: list[Part],
    options: Options,
) -> tuple[torch.Tensor, torch.Tensor, tuple[tuple[str, int], ...], int]:
    """(correct [N], x_adv [N, ...], (part, number it broke), images attacked again on the model itself)."""
    correct, x_adv, again = clean.clone(), images.clone(), 0
    broke: list[tuple[str, int]] = []
    device = device_of(model)
    generator = torch.Generator().manual_seed(options.seed)
    views = Views(model, options.fast)
    for part in parts:
        before = int(correct.sum())
        for at in batches(len(images), options.batch_size):
            # drawn for the whole batch, so that no draw depends on a verdict
            start = draw_start(images[at], part, options, generator)
            left = correct[at].nonzero()[:, 0]
            if len(left) == 0:
                continue
            x, y, start = images[at][left].to(device), labels[at][left].to(device), start[left].to(device)
            view = views.get(part)
            found = project(part.run(view, x, y, start, True), x, options.eps, options.norm)
            right = rightly(model, found, y)
            disputed = right.clone()
            if view is not model:
                disputed[right] = ~rightly(view, found[right], y[right])
                if disputed.any():
                    retry = part.run(model, x[disputed], y[disputed], start[disputed], True)
                    found[disputed] = project(retry, x[disputed], options.eps, options.norm)
                    right[disputed] = rightly(model, found[disputed], y[disputed])
                    again += int(disputed.sum())
            index = left + at.start
            x_adv[index], correct[index] = found.cpu(), right.cpu()
        broke.append((part.name, before - int(correct.sum())))
    return correct, x_adv, tuple(broke), again


class Views:
    """The views of ``model`` that the parts need, each made on first use."""

    def __init__(self, model: nn.Module, fast: bool) -> None:
        self.model = model
        self.fast = fast
        self._made: dict[torch.dtype | None, nn.Module] = {}

    def get(self, part: Part) -> nn.Module:
        """The fast view, in float32 for an exact part; the model itself if ``fast`` is off or no view can be
        made."""
        if not self.fast or next(self.model.parameters(), None) is None:
            return self.model
        dtype = torch.float32 if part.exact else None
        if dtype not in self._made:
            try:
                self._made[dtype] = attack_view(self.model, dtype=dtype)
            except ValueError:  # its forward pass cannot be traced
                self._made[dtype] = self.model
        return self._made[dtype]


def draw_start(
    images: torch.Tensor, part: Part, options: Options, generator: torch.Generator
) -> torch.Tensor:
    return random_start(images, options.eps, options.norm, generator) if part.random else images


def batches(n: int, size: int) -> Iterator[slice]:
    return (slice(first, min(first + size, n)) for first in range(0, n, size))


def clean_verdicts(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor, batch_size: int
) -> torch.Tensor:
    """Which images are classified rightly unattacked: bool [N] on the CPU."""
    device = device_of(model)
    return torch.cat(
        [
            rightly(model, images[at].to(device), labels[at].to(device)).cpu()
            for at in batches(len(images), batch_size)
        ]
    )


@torch.no_grad()
def rightly(view: View, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Which of ``x`` the view classifies rightly: bool [N], where ``x`` is."""
    if len(x) == 0:
        return torch.zeros(0, dtype=torch.bool, device=x.device)
    logits = view(x)
    check_finite(logits)
    return logits.argmax(1) == labels


def zero_gradients(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor, options: Options
) -> tuple[float | None, int]:
    """(share of images whose gradient of the attack's loss is exactly zero, images looked at)."""
    if options.attack == "none" or options.attack in BLACK_BOX or options.eps == 0:
        return None, 0
    index = torch.linspace(0, len(images) - 1, min(len(images), GRADIENT_IMAGES)).round().long()
    device, zero = device_of(model), 0
    for at in batches(len(index), options.batch_size):
        x, y = images[index[at]].to(device), labels[index[at]].to(device)
        try:
            grad, _ = gradient(model, x, y, options.loss)
        except RuntimeError as error:
            if "does not require grad" not in str(error):
                raise
            raise ValueError(
                f"{options.attack} follows gradients, and the model's logits do not depend differentiably on "
                "its input: use square"
            ) from error
        zero += int((grad.flatten(1) == 0).all(1).sum())
    return zero / len(index), len(index)
