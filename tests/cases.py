"""Small builders that several test modules share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from semirobust import models
from semirobust.data import Images


@contextmanager
def one_thread() -> Iterator[None]:
    """Sums in one order, so that results agree to the bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def random_images(
    n: int, shape: tuple[int, int, int] = (1, 8, 8), *, classes: int = 10, seed: int = 0
) -> Images:
    """Noise with random labels: ``shape`` is [C, H, W]."""
    rng = np.random.default_rng(seed)
    channels, height, width = shape
    pixels = rng.integers(0, 256, (n, height, width, channels), dtype=np.uint8)
    labels = torch.from_numpy(rng.integers(0, classes, n))
    return Images(pixels, labels, tuple(map(str, range(classes))), "noise", "train")


def warmed(model: nn.Module, shape: tuple[int, ...] = (3, 32, 32), *, seed: int = 0) -> nn.Module:
    """The model with BatchNorm statistics, scales and shifts away from 0 and 1, in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.affine:
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.uniform_(-0.5, 0.5, generator=generator)
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(torch.rand(16, *shape, generator=generator))
    return model.eval()


def tiny_network(
    name: str = "resnet18", *, shape: tuple[int, int, int] = (1, 8, 8), seed: int = 0
) -> nn.Module:
    """The printed architecture, two channels wide, with non-trivial BatchNorm statistics."""
    return warmed(models.create(name, 10, shape, width=2, seed=seed), shape)


class Residual(nn.Module):
    """A small network whose skip connection, pooling and scale are written as functions: 4 weight layers, 1
    beside.
    """

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([1.5]))
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.first = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.beside = nn.Conv2d(4, 4, 1)
        self.last = nn.Linear(4, 3)
        self.shift = nn.Parameter(torch.tensor([[0.25, -0.25, 0.5]]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x * self.scale - torch.tensor(0.5)))
        out = self.second(torch.relu(self.norm(self.first(x))))
        out = torch.relu(out + self.beside(x)).mean((2, 3))
        return self.last(out) + self.shift


def snapshot(model: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of every parameter and buffer."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def changed(before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor]) -> list[str]:
    """Names of the tensors that differ in any bit."""
    assert before.keys() == after.keys()

    def bits(tensor: torch.Tensor) -> bytes:
        return tensor.detach().cpu().contiguous().numpy().tobytes()

    return [name for name in before if bits(before[name]) != bits(after[name])]


def use_store(store, patch) -> None:
    """Results, trained networks and figures in one folder, for tests that look at the same stored runs."""
    for variable in ("RESULTS", "CACHE", "FIGURES"):
        patch.setenv(f"SEMIROBUST_{variable}", str(store / variable.lower()))
