"""The configuration of a training run and its learning rate: the recipe of arXiv 2307.03803, section 3.1.

``PAPER`` is the printed recipe: SGD, 120 epochs, rate 0.01 divided by 10 at epochs 40 and 80, weight decay
5e-4, batch 512; adversarial training with PGD-10, eps 8/255, step 2/255. Two settings come from the authors'
code and not from the paper: momentum 0.9, and random crop and flip. ``short`` is a one-cycle schedule for
machines without an accelerator.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

import torch

from semirobust.attacks import check_norm
from semirobust.layers import fast_dtype


@dataclass(frozen=True)
class PGD:
    """The inner attack, in pixels of [0, 1], l-infinity."""

    norm: ClassVar[str] = "linf"  # not a field: the fields are part of the names of stored runs

    eps: float = 8 / 255
    step: float = 2 / 255
    steps: int = 10


@dataclass(frozen=True)
class PGDL2:
    """The inner attack in l2: budget and step in pixels of [0, 1].

    Raises ``ValueError`` for a budget or step that is negative or not finite, or less than one step.
    """

    eps: float
    step: float
    steps: int = 10
    norm: str = field(default="l2", init=False)  # a field, so that a checkpoint can tell this from PGD

    def __post_init__(self) -> None:
        _check_budget(self.eps, self.step, self.steps)


@dataclass(frozen=True)
class TRADES:
    """Training with the loss of TRADES (arXiv 1901.08573, Algorithm 1) in place of an attack on the labels:

        cross-entropy(x, y) + beta * max KL(p(x) || p(x')) over x' in the ball around x.

    ``eps``, ``step``, ``steps``, ``norm``: the inner maximisation, in pixels of [0, 1]; ``beta``: 1 / lambda
    there, 6 by default in the authors' code. The logged training accuracy is that on x. Raises
    ``ValueError`` as ``PGDL2``, and for a ``beta`` that is negative or not finite or an unknown norm.
    """

    eps: float
    step: float
    steps: int = 10
    beta: float = 6.0
    norm: str = "l2"

    def __post_init__(self) -> None:
        _check_budget(self.eps, self.step, self.steps)
        check_norm(self.norm)
        if not 0 <= self.beta < math.inf:
            raise ValueError(f"beta must be finite and not negative, got {self.beta}")


def _check_budget(eps: float, step: float, steps: int) -> None:
    if not (0 <= eps < math.inf and 0 <= step < math.inf and steps >= 1):
        raise ValueError(
            "eps and step must be finite and not negative, in pixels of [0, 1], and steps at least 1; "
            f"got {eps}, {step} and {steps}"
        )


#: the attacks that a network can be trained against
Attack: TypeAlias = PGD | PGDL2 | TRADES


@dataclass(frozen=True)
class TrainConfig:
    """One training run. ``schedule``: "steps" (rate / 10 at each milestone) or "one_cycle" (up to ``lr``,
    then to zero). ``precision``: "auto" is bfloat16 where the processor has it, but float32 for TRADES, whose
    inner maximisation starts closer to the image than bfloat16 can tell apart.
    """

    epochs: int = 120
    lr: float = 0.01
    schedule: str = "steps"
    milestones: tuple[int, ...] = (40, 80)
    batch_size: int = 512
    momentum: float = 0.9
    weight_decay: float = 5e-4
    augment: bool = True
    attack: Attack | None = None
    precision: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 2 or not 0 < self.lr < math.inf:
            raise ValueError(
                f"epochs must be at least 1, batch_size at least 2 and lr positive and finite; "
                f"got {self.epochs}, {self.batch_size} and {self.lr}"
            )
        if self.schedule not in ("steps", "one_cycle", "constant"):
            raise ValueError(f"unknown schedule {self.schedule!r}; known: steps, one_cycle, constant")
        if self.precision not in ("auto", "float32", "bfloat16"):
            raise ValueError(f"unknown precision {self.precision!r}; known: auto, float32, bfloat16")
        if self.precision == "bfloat16" and isinstance(self.attack, TRADES):
            raise ValueError(
                "bfloat16 cannot represent the small random start of TRADES: use precision='float32'"
            )

    @property
    def dtype(self) -> torch.dtype:
        if self.precision == "auto" and isinstance(self.attack, TRADES):
            return torch.float32
        if self.precision == "auto":
            return torch.bfloat16 if torch.cuda.is_available() else fast_dtype()
        return getattr(torch, self.precision)


#: the printed recipe; ``replace(PAPER, attack=None)`` is its standard training
PAPER = TrainConfig(attack=PGD())


def short(epochs: int, *, lr: float = 0.1, batch_size: int = 128, **changes: Any) -> TrainConfig:
    """A one-cycle schedule: the rate rises linearly over the first 30 % of the steps and falls to zero."""
    return TrainConfig(
        epochs=epochs, lr=lr, batch_size=batch_size, schedule="one_cycle", milestones=(), **changes
    )


def learning_rate(config: TrainConfig, progress: float) -> float:
    """The rate at ``progress`` epochs (fractional) from the start."""
    if config.schedule == "constant":
        return config.lr
    if config.schedule == "steps":
        return config.lr * 0.1 ** sum(progress >= milestone for milestone in config.milestones)
    share, peak = progress / config.epochs, 0.3
    return config.lr * (share / peak if share < peak else (1 - share) / (1 - peak))
