"""The ceiling on semirobustness that verified collisions prove, layer by layer, and what readouts reach.

Joins arXiv 2307.03803 (Definition 1: a layer is gamma-semirobust if some readout G of it has robust
correlation gamma) and the paper on fixed feature extractors. For the points of `feature_bounds`, at every
budget and layer:

- the ceiling 1 - 2 x the least 0-1 loss, which no readout |G| <= 1 of the layer exceeds (`transfer`);
- linear and MLP readouts, trained adversarially at that budget on other images: their robust correlation
  under PGD and under the collisions (upper bounds), and a certified lower bound;
- the network itself, which is a readout of each of its layers;
- two readouts that give PGD no gradient to follow, for which the collisions show what PGD misses.

l2 balls in pixels, without the box [0, 1], since collisions have none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from semirobust import collisions, extractors, paths, runs
from semirobust.experiments import _ceiling_run, feature_bounds, second_paper
from semirobust.experiments._ceiling_run import Points, Scene
from semirobust.experiments.feature_bounds import LAYERS, NAMES, BoundsConfig
from semirobust.experiments.second_paper import ExtractorConfig
from semirobust.readouts import l2

EXPERIMENT = "ceiling"
KINDS = ("linear", "mlp")
#: layers for which collisions are searched; the second linear layer has those of the first ReLU
SEARCHED = ("input", "linear_1", "relu_1", "relu_2")

Say = Callable[[str], None]


@dataclass(frozen=True)
class Effort:
    """What a run spends.

    per_class: training images of each class besides the points, as far as there are so many. hidden: width of
    an MLP. epochs, train_steps: of the training of a readout, train_steps those of its attack. steps,
    restarts: of the attack on it. rounds: of the search for collisions. certified: the largest budget with a
    certificate for readouts behind ReLUs (above it, it says nothing).
    """

    per_class: int = 1000
    hidden: int = 200
    epochs: int = 8
    train_steps: int = 5
    steps: int = 30
    restarts: int = 2
    rounds: int = 8
    certified: float = 1.5


@dataclass(frozen=True)
class CeilingConfig:
    """One network; the first ``per_class`` training images of each class are the points."""

    network: ExtractorConfig
    per_class: int
    budgets: tuple[float, ...]
    effort: Effort = Effort()
    seed: int = 0

    @property
    def bounds(self) -> BoundsConfig:
        """What names the points in `feature_bounds`."""
        return BoundsConfig(self.network, tuple(LAYERS), self.per_class, self.budgets)


BUDGETS = {
    "digits": (0.5, 1.0, 1.5, 2.0, 2.5, 3.0),
    "mnist": (0.5, 1.0, 2.0, 2.5, 3.0, 3.5),
    "fashion_mnist": (0.5, 1.0, 2.0, 3.0, 4.0, 5.0),
}
_EFFORT = {"quick": Effort(certified=3.0)}


def plan(profile: str, dataset: str, network: str) -> CeilingConfig:
    """The configuration of one network, such as ``fcnn-pgd-2``."""
    found = second_paper.NETWORKS[paths.check_profile(profile)][f"{dataset}-{network}"]
    effort = _EFFORT.get(profile, Effort())
    return CeilingConfig(found, feature_bounds.SCALES[profile].relu, BUDGETS[dataset], effort)


def plans(profile: str) -> list[CeilingConfig]:
    """The networks with the bounds of all their layers."""
    return [
        plan(profile, dataset, network)
        for dataset in feature_bounds.SCALES[paths.check_profile(profile)].datasets
        for network in feature_bounds.EVERY_LAYER
    ]


# --- computing ---


def run_network(config: CeilingConfig, *, say: Say = lambda line: None) -> dict[str, Any]:
    """Ceilings and readouts of one network; lists run over ``config.budgets``."""
    model, _ = second_paper.trained(config.network, say=say)
    layers = extractors.as_layers(model, second_paper.images(config.network, "train").shape)
    positive, negative = feature_bounds.points(config.bounds)
    points, others = Points.of(positive, negative), Points.of(*other_images(config))
    label = f"{config.network.label} on {config.network.dataset}"
    found: dict[str, Any] = {}
    known: collisions.Transfer | None = None
    for name, (depth, rectified) in LAYERS.items():
        started = time.perf_counter()
        if known is None or name in SEARCHED:
            known = collisions.find_transfer(
                layers[:depth] or [(np.eye(positive.shape[1]), np.zeros(positive.shape[1]))],
                positive, negative, config.budgets, rectified=rectified, known=known,
                rounds=config.effort.rounds, seed=config.seed,
            )  # fmt: skip
        scene = Scene(config, points, others, known)
        features = l2.stack(layers[:depth], rectified=rectified)
        row: dict[str, Any] = {"ceiling": [known.ceiling(budget) for budget in config.budgets]}
        row["collisions"] = len(known.pairs)
        row["readouts"] = {
            kind: _ceiling_run.measured(scene, _ceiling_run.trained(scene, features, kind)) for kind in KINDS
        }
        row["seconds"] = round(time.perf_counter() - started, 3)
        found[name] = row
        say(f"{label}, {NAMES[name]}: ceiling {_text(row['ceiling'])}, reached {_text(_reached(row))}")
    own = l2.own_readout(layers)
    return {
        "n": [len(positive), len(negative)],
        "n_train": len(others.x),
        "layers": found,
        "network": _ceiling_run.measured(scene, _ceiling_run.rescaled(scene, own)),
        "hidden": _ceiling_run.hidden(scene, own, features),
    }


def other_images(config: CeilingConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """Training images of the two classes that are not among the points, flattened: float32 [N, d] each."""
    train = second_paper.images(config.network, "train")
    return second_paper.vectors(train, config.effort.per_class, skip=config.per_class)


def _reached(row: dict[str, Any]) -> list[float]:
    """The largest attacked correlation of the layer's readouts and the constant ones, which have 0."""
    columns = [readout["attacked"] for readout in row["readouts"].values()]
    return [max(0.0, *values) for values in zip(*columns, strict=True)]


def _text(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.2f}" for value in values)


# --- running ---


def run_config(config: CeilingConfig, profile: str, *, say: Say = lambda line: None) -> runs.Record:
    """The stored run of one network, computed now where it is not there."""
    return runs.run(config, lambda made: run_network(made, say=say), experiment=EXPERIMENT, profile=profile)


def run(profile: str, *, say: Say = lambda line: None) -> list[runs.Record]:
    """All networks of a profile."""
    return [run_config(config, profile, say=say) for config in plans(profile)]


def stored(config: CeilingConfig, profile: str) -> runs.Record | None:
    """The stored run of one network; None where there is none. Computes nothing."""
    return runs.stored(config, experiment=EXPERIMENT, profile=profile)
