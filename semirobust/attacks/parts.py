"""The parts of each named attack (AutoAttack has four), and the checks of options and inputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from semirobust.attacks import library
from semirobust.attacks.pgd import NORMS, Loss, ascend, cross_entropy, margin
from semirobust.layers import device_of

#: name -> default number of steps (0: the attack has no steps)
ATTACKS = {"none": 0, "fgsm": 1, "ifgsm": 10, "pgd": 10, "cw": 50, "autoattack": 100, "square": 0}
DEFAULT_EPS = {"linf": 8 / 255, "l2": 0.5}
MARGIN_STARTS = 3  # random starts of the part that replaces targeted APGD-DLR
SAME_LOGITS = 1e-4  # relative difference that two calls on the same images may show (parallel sums)

View = Callable[[torch.Tensor], torch.Tensor]
Run = Callable[[View, torch.Tensor, torch.Tensor, torch.Tensor, bool], torch.Tensor]


@dataclass(frozen=True)
class Options:
    """The options of an attack, checked. Options that it does not use are zero (restarts: one)."""

    attack: str
    eps: float
    norm: str
    steps: int
    step: float
    restarts: int
    queries: int
    batch_size: int
    seed: int
    fast: bool

    @property
    def loss(self) -> Loss:
        """The loss whose gradient the attack follows (at first, for AutoAttack)."""
        return margin if self.attack == "cw" else cross_entropy


@dataclass(frozen=True)
class Part:
    """One search: ``run(view, x, labels, start, leave_broken)`` -> x_adv.

    ``random``: it begins at a random start. ``exact``: it needs a float32 view, because it follows
    differences too small for bfloat16: searches along the decision boundary (C&W, FAB) or by small gains
    (Square).
    """

    name: str
    run: Run
    random: bool = False
    exact: bool = False


def options(
    attack: str, eps: float | None, norm: str, steps: int | None, step: float | None,
    restarts: int, queries: int, batch_size: int, seed: int, fast: bool,
) -> Options:  # fmt: skip
    if attack not in ATTACKS:
        raise ValueError(f"unknown attack {attack!r}; known: {', '.join(ATTACKS)}")
    if norm not in NORMS:
        raise ValueError(f"unknown norm {norm!r}; known: {', '.join(NORMS)}")
    eps = DEFAULT_EPS[norm] if eps is None else float(eps)
    unbounded = attack == "cw" and norm == "l2"
    if not (0 <= eps < math.inf or (unbounded and eps == math.inf)):
        raise ValueError(f"eps must be a finite radius of at least 0, in pixels of [0, 1], got {eps}")
    steps = ATTACKS[attack] if steps is None else steps
    if steps < 1 and ATTACKS[attack]:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if attack == "fgsm" and steps != 1:
        raise ValueError(f"fgsm is one step, got steps={steps}; ifgsm takes several")
    if step is not None and not 0 < step < math.inf:
        raise ValueError(f"step must be a positive size in pixels of [0, 1], got {step}")
    starts = attack == "pgd" or (attack == "cw" and norm == "linf")
    if restarts < 1 or (restarts > 1 and not starts):
        raise ValueError(
            f"restarts must be 1 or more (1 for {attack} in {norm}: no random start), got {restarts}"
        )
    if queries < 1:
        raise ValueError(f"queries must be at least 1, got {queries}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    size = eps if attack == "fgsm" else eps / 4 if step is None else step
    return Options(
        attack, eps, norm,
        steps=steps if ATTACKS[attack] else 0,
        step=size if attack in ("fgsm", "ifgsm") or starts else 0.0,
        restarts=restarts,
        queries=queries if attack in ("autoattack", "square") else 0,
        batch_size=batch_size, seed=seed, fast=fast,
    )  # fmt: skip


def inputs(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """``images`` as contiguous float32 and ``labels``, on the CPU, checked."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    for name, value in (("images", images), ("labels", labels)):
        if not isinstance(value, torch.Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    if not images.is_floating_point():
        raise ValueError(f"images must be floating point in [0, 1], got {images.dtype}: divide bytes by 255")
    if images.ndim < 2 or images.numel() == 0:
        raise ValueError(f"images must be [N, C, H, W] or [N, d] with N at least 1, got {list(images.shape)}")
    if labels.shape != images.shape[:1] or labels.dtype != torch.int64:
        raise ValueError(f"labels must be int64 [{len(images)}], got {labels.dtype} {list(labels.shape)}")
    images = images.detach().cpu().float().contiguous()
    if not images.isfinite().all():
        raise ValueError("images hold NaN or infinite pixels")
    low, high = float(images.min()), float(images.max())
    if low < 0 or high > 1:
        raise ValueError(
            f"images must lie in [0, 1], got [{low:.4g}, {high:.4g}]: "
            "a model normalises its inputs itself, in its first layer"
        )
    return images, labels.detach().cpu()


def check_model(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> int:
    """Number of classes of ``model``; two calls on the first images check that it can be evaluated."""
    x = images[:16].to(device_of(model))
    with torch.no_grad():
        first, second = model(x), model(x)
    if not isinstance(first, torch.Tensor) or first.ndim != 2 or len(first) != len(x) or first.shape[1] < 2:
        shape = list(first.shape) if isinstance(first, torch.Tensor) else type(first).__name__
        raise ValueError(
            f"the model must return logits [N, K] with K at least 2, got {shape} for {len(x)} images"
        )
    check_finite(first)
    difference = float((first - second).abs().max())
    if difference > SAME_LOGITS * max(1.0, float(first.abs().max())):
        raise ValueError(
            f"the model is random in evaluation mode (two calls differ by {difference:.2g}): "
            "one verdict for each image says nothing; remove the randomness, or average it inside the model"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= first.shape[1]:
        raise ValueError(f"labels must lie in 0..{first.shape[1] - 1} for these logits, got {low}..{high}")
    return first.shape[1]


def check_finite(logits: torch.Tensor) -> None:
    if not logits.isfinite().all():
        raise ValueError("the model's logits are NaN or infinite: a verdict on them would mean nothing")


def plan(options: Options, shape: torch.Size, classes: int) -> list[Part]:
    """The searches to run in turn for images of ``shape`` [C, H, W] or [d]; none at eps 0.

    Raises ``ValueError`` for Square or AutoAttack where their windows do not fit the shape.
    """
    o = options
    if o.attack in ("square", "autoattack"):
        _check_windows(o, shape)
    if o.attack == "none" or o.eps == 0:
        return []
    if o.attack in ("fgsm", "ifgsm"):
        return [Part(o.attack, _ascent(o, o.step, o.loss))]
    if o.attack == "pgd" or (o.attack == "cw" and o.norm == "linf"):
        name = "pgd" if o.attack == "pgd" else "margin-pgd"
        return [Part(name, _ascent(o, o.step, o.loss), random=True)] * o.restarts
    if o.attack == "cw":
        return [Part("cw", _foreign(library.carlini_wagner(o.steps)), exact=True)]
    square = Part("square", _foreign(library.square(o.norm, o.eps, o.queries, o.seed)), exact=True)
    if o.attack == "square":
        return [square]
    common: dict[str, Any] = {"norm": o.norm, "eps": o.eps, "steps": o.steps, "seed": o.seed}
    targeted = [Part("apgd-t", _foreign(library.apgd_targeted(**common, classes=classes)))]
    if classes < 4:
        targeted = [Part("margin-pgd", _ascent(o, o.eps / 4, margin), random=True)] * MARGIN_STARTS
    return [
        Part("apgd-ce", _foreign(library.apgd_ce(**common))),
        *targeted,
        Part("fab-t", _foreign(library.fab_targeted(**common, classes=classes)), exact=True),
        square,
    ]


def _ascent(options: Options, step: float, loss: Loss) -> Run:
    o = options

    def run(
        view: View, x: torch.Tensor, labels: torch.Tensor, start: torch.Tensor, leave_broken: bool
    ) -> torch.Tensor:
        return ascend(
            view,
            x,
            labels,
            eps=o.eps,
            step=step,
            steps=o.steps,
            norm=o.norm,
            start=start,
            leave_broken=leave_broken,
            loss=loss,
        )

    return run


def _foreign(attack: library.Run) -> Run:
    """Wrap a library attack, which chooses its own start and its own end."""
    return lambda view, x, labels, start, leave_broken: attack(view, x, labels)


def _check_windows(options: Options, shape: torch.Size) -> None:
    """Square's first windows cover 80 % of the image, and in l2 it tiles it five by five."""
    if len(shape) != 3:
        raise ValueError(
            f"{options.attack} needs images [N, C, H, W], got {['N', *shape]}: use pgd or cw for vectors"
        )
    height, width = shape[1:]
    side = max(round(math.sqrt(0.8 * height * width)), 1)
    side += options.norm == "l2" and side % 2 == 0
    if side > min(height, width) or (options.norm == "l2" and min(height, width) < 5):
        raise ValueError(
            f"{options.attack} in {options.norm} needs nearly square images, 5 pixels wide or more, "
            f"got {height} x {width}"
        )
