"""Bounds behind the layers of small convolutional networks: a convolution, a ReLU, a pool, a residual block.

They show where such networks lose robustness. The paper on fixed feature extractors treats the first
convolution as a linear layer (Figure 11), and leaves max-pools and residual connections to future work.

The networks are for digits of 8x8 pixels. So all their layers can be compiled into chains of a few hundred
units (`extractors.as_chain`), in which collisions are searched where they can move the bound. A collision of
a layer is also a collision of the next one, so each search starts from those known already. Every pair of
networks differs in one thing: how it pools, or its shortcut.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from semirobust import collisions, data, extractors, models, runs, training
from semirobust.experiments import extractor_networks, networks
from semirobust.extractors import Array, Chain
from semirobust.training import TrainConfig

EXPERIMENT = "small_convolutions"
CLASSES = (3, 7)
SHAPE = (1, 8, 8)
PER_CLASS = 16
BUDGETS = tuple(round(0.1 * i, 1) for i in range(21))


class Pooled(nn.Module):
    """conv 3x3-BN-ReLU, a pool of 2x2, one linear layer.

    [N, 1, 8, 8] -> [N, width, 6, 6] -> [N, width, 3, 3] -> [N, 2].
    """

    def __init__(self, width: int, pool: nn.Module) -> None:
        super().__init__()
        self.normalize = models.Normalize(1)
        self.conv, self.bn = nn.Conv2d(1, width, 3, bias=False), nn.BatchNorm2d(width)
        self.relu, self.pool = nn.ReLU(), pool
        self.fc = nn.Linear(9 * width, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.pool(self.relu(self.bn(self.conv(self.normalize(x))))).flatten(1))


class Block(nn.Module):
    """conv 3x3 (stride 2)-BN-ReLU, then conv-BN-ReLU-conv-BN with or without a shortcut, a ReLU, one linear
    layer.

    [N, 1, 8, 8] -> [N, width, 4, 4], from the first convolution on -> [N, 2].
    """

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


#: name -> (network of a width, its width, the layers that are bounded). The outputs of the first layers have
#: more coordinates than there are pixels (144 and 96, against 64).
NETWORKS: dict[str, tuple[Callable[[int], nn.Module], int, tuple[str, ...]]] = {
    "max_pool": (lambda width: Pooled(width, nn.MaxPool2d(2)), 4, ("bn", "relu", "pool")),
    "average_pool": (lambda width: Pooled(width, nn.AvgPool2d(2)), 4, ("bn", "relu", "pool")),
    "residual": (lambda width: Block(width, shortcut=True), 6, ("bn", "relu", "out")),
    "plain": (lambda width: Block(width, shortcut=False), 6, ("bn", "relu", "out")),
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
    """The bounds behind layers of one network ("input": on the images), at l2 ``budgets`` in pixels.

    The points are the first ``per_class`` training images of each class. ``audited``: as in
    `collisions.search`.
    """

    network: SmallConfig
    layers: tuple[str, ...]
    per_class: int = PER_CLASS
    budgets: tuple[float, ...] = BUDGETS
    audited: int = 16
    seed: int = 0


def config(name: str, *, seed: int = 0) -> ChainConfig:
    """The bounds on the images and behind the layers of a network, trained on clean images with a seed."""
    _, width, layers = NETWORKS[name]
    train = training.short(20, lr=0.05, batch_size=32, augment=False, precision="float32", seed=seed)
    return ChainConfig(SmallConfig(name, width, train, seed), ("input", *layers))


@lru_cache(maxsize=2)
def images(split: str) -> data.Images:
    """Digits 3 and 7 of 8x8 pixels, labels 0 and 1."""
    return data.load("digits", split, classes=CLASSES)


def build(config: SmallConfig) -> nn.Module:
    """The untrained network, initialised with the seed of its configuration."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)
        return NETWORKS[config.name][0](config.width)


def trained(config: SmallConfig, *, say: runs.Say = runs.quiet) -> tuple[nn.Module, Mapping[str, Any]]:
    """(the trained network in evaluation mode, how it was made): from the cache or trained now."""
    model = build(config)
    state, meta = runs.network(config, partial(_train, say=say))
    model.load_state_dict(state)
    return model.eval(), meta


def _train(
    config: SmallConfig, checkpoints: Path, say: runs.Say
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    name = f"{config.name} on digits, seed {config.seed}"
    return networks.fit(build(config), images("train"), config.train, checkpoints, name=name, say=say)


def points(config: ChainConfig) -> tuple[Array, Array]:
    """The first ``per_class`` training images of the two classes, flattened: float64 [N, 64], in [0, 1]."""
    first, second = extractor_networks.vectors(images("train"), config.per_class)
    return first.double().numpy(), second.double().numpy()


def chain(model: nn.Module, layer: str) -> Chain:
    """The map from the images to a layer, compiled into a chain; the identity for "input"."""
    if layer == "input":
        return Chain([(np.eye(math.prod(SHAPE)), np.zeros(math.prod(SHAPE)))], rectified=False)
    return extractors.as_chain(model, SHAPE, upto=layer)


def difference(model: nn.Module, layer: str, first: Array, second: Array) -> float:
    """The largest difference of what a layer of the network itself gives for two sets of points [N, 64], in
    float64."""
    body = copy.deepcopy(model).double().eval()
    seen: list[torch.Tensor] = []
    body.get_submodule(layer).register_forward_hook(lambda module, inputs, out: seen.append(out))
    with torch.no_grad():
        for points in (first, second):
            body(torch.from_numpy(points).reshape(-1, *SHAPE))
    return float((seen[0] - seen[1]).abs().max())


def local_rank(part: Chain, points: Array) -> Array:
    """The rank of the Jacobian at each point [N, d]: int [N], at most d.

    It is the number of directions that change the features near the point. All others leave them unchanged.
    """
    ranks = []
    for x in points:
        jacobian = np.eye(len(x))
        for i, (weight, bias) in enumerate(part.layers, start=1):
            x, jacobian = weight @ x + bias, weight @ jacobian
            if part.rectified or i < len(part.layers):
                jacobian, x = jacobian * (x > 0)[:, None], np.maximum(x, 0)
        ranks.append(np.linalg.matrix_rank(jacobian))
    return np.array(ranks)


def run_chain(config: ChainConfig, *, say: runs.Say = runs.quiet) -> dict[str, Any]:
    """The bounds behind each layer, in the form of `feature_bounds.run_bounds`.

    Besides, for each layer: the units of its chain, and the median rank of its Jacobian over all points."""
    model, meta = trained(config.network, say=say)
    positive, negative = points(config)
    search: collisions.Search | None = None
    found: dict[str, Any] = {}
    for layer in config.layers:
        started, part = time.perf_counter(), chain(model, layer)
        search = collisions.search(
            part.layers,
            positive,
            negative,
            config.budgets,
            rectified=part.rectified,
            after=search,
            seed=config.seed,
            audited=config.audited,
        )
        found[layer] = {
            **search.record(),
            "units": part.units,
            "rank": float(np.median(local_rank(part, np.concatenate([positive, negative])))),
            "seconds": round(time.perf_counter() - started, 3),
        }
        say(f"{config.network.name}, {layer}: {found[layer]['searched']} pairs searched")
    network = extractor_networks.last_epoch(meta)
    return {"n": [len(positive), len(negative)], "layers": found, "network": network}


def run_config(config: ChainConfig, profile: str, *, say: runs.Say = runs.quiet) -> runs.Record:
    """The bounds of one configuration: stored, or computed now where they are missing."""
    return runs.run(config, lambda made: run_chain(made, say=say), experiment=EXPERIMENT, profile=profile)
