"""Where small convolutional networks lose robustness: bounds behind a convolution, a ReLU, a pool, a residual
block. The paper on fixed feature extractors treats the first convolution as a linear layer (Figure 11), and
leaves max-pools and residual connections to future work.

The networks are for digits of 8x8 pixels, so that all their layers are compiled into chains of a few hundred
units (`extractors.as_chain`) in which collisions are searched where they can move the bound. What is known of
a layer is known of the next. Every pair of networks differs in one thing: how it pools, or its shortcut.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from semirobust import collision_search, data, extractors, models, runs, training
from semirobust._collision_layers import Array
from semirobust.experiments import networks
from semirobust.recipe import Attack
from semirobust.training import PGDL2, TrainConfig

EXPERIMENT = "small_convolutions"
CLASSES = (3, 7)
SHAPE = (1, 8, 8)
PER_CLASS = 40
BUDGETS = tuple(round(0.1 * i, 1) for i in range(21))

Say = Callable[[str], None]


class Pooled(nn.Module):
    """conv 3x3-BN-ReLU, a pool of 2x2, one linear layer: [N, 1, 8, 8] -> [N, width, 6, 6] -> [N, width, 3, 3]."""

    def __init__(self, width: int, pool: nn.Module) -> None:
        super().__init__()
        self.normalize = models.Normalize(1)
        self.conv, self.bn = nn.Conv2d(1, width, 3, bias=False), nn.BatchNorm2d(width)
        self.relu, self.pool = nn.ReLU(), pool
        self.fc = nn.Linear(9 * width, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.pool(self.relu(self.bn(self.conv(self.normalize(x))))).flatten(1))


class Block(nn.Module):
    """conv 3x3, stride 2-BN-ReLU, then conv-BN-ReLU-conv-BN, with or without a shortcut around these, a ReLU,
    one linear layer: [N, 1, 8, 8] -> [N, width, 4, 4] from the first convolution on."""

    def __init__(self, width: int, *, shortcut: bool) -> None:
        super().__init__()
        self.normalize = models.Normalize(1)
        self.conv, self.bn = nn.Conv2d(1, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width)
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.relu, self.out = nn.ReLU(), nn.ReLU()
        self.fc = nn.Linear(16 * width, 2)
        self.shortcut = shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.bn(self.conv(self.normalize(x))))
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return self.fc(self.out(out + x if self.shortcut else out).flatten(1))


#: name -> (network of a width, the layers that are bounded)
NETWORKS: dict[str, tuple[Callable[[int], nn.Module], tuple[str, ...]]] = {
    "max_pool": (lambda width: Pooled(width, nn.MaxPool2d(2)), ("bn", "relu", "pool")),
    "average_pool": (lambda width: Pooled(width, nn.AvgPool2d(2)), ("bn", "relu", "pool")),
    "residual": (lambda width: Block(width, shortcut=True), ("bn", "relu", "out")),
    "plain": (lambda width: Block(width, shortcut=False), ("bn", "relu", "out")),
}


@dataclass(frozen=True)
class SmallConfig:
    """A trained network of `NETWORKS`."""

    name: str
    width: int
    train: TrainConfig
    seed: int = 0


@dataclass(frozen=True)
class ChainConfig:
    """The bounds behind layers of one network, for the first training images of each class."""

    network: SmallConfig
    layers: tuple[str, ...]
    per_class: int = PER_CLASS
    budgets: tuple[float, ...] = BUDGETS
    audited: int = 40
    seed: int = 0


def config(name: str, *, width: int = 8, attack: Attack | None = None) -> ChainConfig:
    """The bounds behind the images and the layers of one network."""
    train = training.short(20, lr=0.05, batch_size=32, augment=False, precision="float32", attack=attack)
    return ChainConfig(SmallConfig(name, width, train), ("input", *NETWORKS[name][1]))


def images(split: str) -> data.Images:
    """Digits 3 and 7 of 8x8 pixels, labels 0 and 1."""
    return data.load("digits", split, classes=CLASSES)


def build(config: SmallConfig) -> nn.Module:
    """The network as initialised, with the seed of its configuration."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)
        return NETWORKS[config.name][0](config.width)


def trained(
    config: SmallConfig, *, say: Say = lambda line: None
) -> tuple[nn.Module, Mapping[str, Any]]:
    """(the trained network in evaluation mode, how it was made): from the cache or trained now."""
    model = build(config)
    state, meta = runs.network(config, partial(_train, say=say))
    model.load_state_dict(state)
    return model.eval(), meta


def _train(
    config: SmallConfig, checkpoints: Path, say: Say
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    return networks.fit(
        build(config), images("train"), config.train, checkpoints, name=config.name, say=say
    )
