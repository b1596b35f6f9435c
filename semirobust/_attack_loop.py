"""The loop of an evaluation: each search on what is left, the verdict by the model itself."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from semirobust._attack_plan import Options, Part, View, check_finite
from semirobust.ascent import gradient, project, random_start
from semirobust.evaluation import BLACK_BOX
from semirobust.layers import attack_view, device_of

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
    """The views of ``model`` that the parts ask for, made when first asked for."""

    def __init__(self, model: nn.Module, fast: bool) -> None:
        self.model = model
        self.fast = fast
        self._made: dict[torch.dtype | None, nn.Module] = {}

    def get(self, part: Part) -> nn.Module:
        """The fast view, in float32 for an exact part; the model itself if it is to be used or no view of it
        can be made."""
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
