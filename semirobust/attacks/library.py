"""Attacks computed by torchattacks 3.5.1, each as a plain function of a view of the model.

Side effects and faults of torchattacks, and how this module keeps them from the caller:
1. It switches the model between evaluation and training mode and takes its device from the parameters. So it
   is handed a shell around the view; the shell has no submodules.
2. It keeps every object it was ever given in a mutable default argument (``Attack.__setattr__``). So the
   shell drops the view after each call, and only the shell stays in memory.
3. It reseeds torch's global generator. So callers run it inside ``layers.preserve``.
4. Its C&W takes the masked logits to be zero, which is wrong wherever logits are negative. So the shell
   shifts the logits of each example to start at zero; differences between logits do not change.
5. Its AutoAttack gives APGD and FAB 10 iterations and one target per other class, where the published one
   (Croce and Hein, arXiv 2003.01690) has 100 and at most nine. Here the parts are put together as published.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import nn

View = Callable[[torch.Tensor], torch.Tensor]
Run = Callable[
    [View, torch.Tensor, torch.Tensor], torch.Tensor
]  # (view, x [N, ...], labels [N]) -> x_adv [N, ...]

TARGETS = 9  # most targets of the targeted parts of AutoAttack
_NORMS = {"linf": "Linf", "l2": "L2"}


def _library() -> ModuleType:
    try:
        import torchattacks
    except ImportError as error:
        raise ImportError(
            "this attack needs torchattacks: python -m pip install --no-deps torchattacks==3.5.1 "
            "(with its dependencies it cannot be installed beside JupyterLab)"
        ) from error
    return torchattacks


class _Shell(nn.Module):
    """Calls ``view`` without owning it, with logits shifted so that the smallest of each example is zero."""

    def __init__(self, view: View, device: torch.device) -> None:
        super().__init__()
        self._view: list[View] = [view]  # in a list: not a submodule
        self.where = nn.Parameter(torch.empty(0, device=device), requires_grad=False)  # gives the device

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = self._view[0](x)
        return logits - logits.detach().amin(1, keepdim=True)

    def release(self) -> None:
        self._view.clear()


def _call(build: Callable[[nn.Module], Any]) -> Run:
    """``build`` makes a torchattacks attack on a model; the result runs it."""

    def run(view: View, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        shell = _Shell(view, x.device)
        try:
            return build(shell)(x, labels).detach()
        finally:
            shell.release()

    return run


def carlini_wagner(steps: int) -> Run:
    """C&W (arXiv 1608.04644), which seeks the nearest misclassified point in l2; c = 1, no margin, Adam at
    rate 0.01.

    As in torchattacks there is no search over c, and a batch ends early when its summed cost rises.
    """
    library = _library()
    return _call(lambda shell: library.CW(shell, c=1, kappa=0, steps=steps, lr=0.01))


def square(norm: str, eps: float, queries: int, seed: int) -> Run:
    """Square Attack (arXiv 1912.00049), random search by queries alone; [N, C, H, W] only."""
    library = _library()
    return _call(
        lambda shell: library.Square(shell, norm=_NORMS[norm], eps=eps, n_queries=queries, seed=seed)
    )


def apgd_ce(norm: str, eps: float, steps: int, seed: int) -> Run:
    """Auto-PGD on the cross-entropy (arXiv 2003.01690, Algorithm 1); [N, C, H, W] only."""
    library = _library()
    return _call(
        lambda shell: library.APGD(shell, norm=_NORMS[norm], eps=eps, steps=steps, seed=seed, loss="ce")
    )


def apgd_targeted(norm: str, eps: float, steps: int, seed: int, classes: int) -> Run:
    """Auto-PGD on the targeted difference-of-logits ratio, which needs four classes; [N, C, H, W] only."""
    library, targets = _library(), min(classes, TARGETS + 1)
    return _call(
        lambda shell: library.APGDT(
            shell, norm=_NORMS[norm], eps=eps, steps=steps, seed=seed, n_classes=targets
        )
    )


def fab_targeted(norm: str, eps: float, steps: int, seed: int, classes: int) -> Run:
    """Targeted Fast Adaptive Boundary attack (arXiv 1907.02044), two classes or more."""
    library, targets = _library(), min(classes, TARGETS + 1)
    return _call(
        lambda shell: library.FAB(
            shell, norm=_NORMS[norm], eps=eps, steps=steps, seed=seed, multi_targeted=True, n_classes=targets
        )
    )
