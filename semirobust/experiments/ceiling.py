"""The ceiling on semirobustness that verified collisions prove, layer by layer, and what readouts reach.

Joins arXiv 2307.03803 (Definition 1: a layer is gamma-semirobust if some readout G of it has robust
correlation gamma) and the paper on fixed feature extractors. For the points of `feature_bounds`, at every
budget and layer:

- the ceiling 1 - 2 x the least 0-1 loss, which no readout |G| <= 1 of the layer exceeds
  (`collisions.transfer`);
- linear and MLP readouts, trained adversarially at that budget on other images: their robust correlation
  under PGD and under the collisions (upper bounds), and a certified lower bound;
- the network itself, which is a readout of each of its layers;
- two readouts that give PGD no gradient to follow, for which the collisions show what PGD misses.

Perturbations lie in l2 balls, in pixels, without the box [0, 1], since collisions have none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from semirobust import collisions, extractors, paths, runs
from semirobust.collisions import Transfer
from semirobust.experiments import extractor_networks, feature_bounds
from semirobust.experiments.extractor_networks import ExtractorConfig
from semirobust.experiments.feature_bounds import LAYERS, NAMES, BoundsConfig
from semirobust.readouts import Readout, best_scale, clip, l2

HARD = 1e4  # the network's margin is multiplied by this to get hard answers
NEIGHBOURS = 5
LONGER = {"steps": 60, "restarts": 10}  # the second attack, where the first leaves more than the ceiling
SCALING = 400  # images on which the scale of the network's margin is chosen

Columns = dict[str, list[float | None]]
Answer = Callable[[torch.Tensor], torch.Tensor]  # x [N, d] -> G [N], in [-1, 1]


@dataclass(frozen=True, eq=False)
class Points:
    """Points x, float64 [N, d], and labels y [N] in {-1, +1}. The positive ones come first."""

    x: torch.Tensor
    y: torch.Tensor

    @classmethod
    def of(cls, positive: Any, negative: Any) -> Points:
        both = [torch.as_tensor(part, dtype=torch.float64) for part in (positive, negative)]
        signs = [torch.ones(len(both[0])), -torch.ones(len(both[1]))]
        return cls(torch.cat(both), torch.cat(signs).double())


@dataclass(frozen=True, eq=False)
class Scene:
    """The data of one layer: images to measure readouts on (``points``) and to train them on (``others``),
    and the collisions of the layer (``transfer``).
    """

    config: CeilingConfig
    points: Points
    others: Points
    transfer: Transfer


def trained(scene: Scene, features: nn.Sequential, kind: str) -> Iterator[Readout]:
    """A readout of ``features`` for each budget; training starts from the readout of the budget before."""
    effort, readout = scene.config.effort, None
    for budget in scene.config.budgets:
        readout = l2.train_readout(
            features, scene.others.x, scene.others.y,
            eps=budget, start=readout, hidden=effort.hidden if kind == "mlp" else None,
            epochs=effort.epochs, steps=effort.train_steps, seed=scene.config.seed,
        )  # fmt: skip
        yield readout


def rescaled(scene: Scene, own: Readout) -> Iterator[Readout]:
    """The network itself for each budget. The scale of its margin is the best under attack on ``others``."""
    generator = torch.Generator().manual_seed(scene.config.seed)
    keep = torch.randperm(len(scene.others.x), generator=generator)[:SCALING]
    x, y = scene.others.x[keep], scene.others.y[keep]
    for budget in scene.config.budgets:
        lowest, _ = l2.lowest_margins(own, x, y, eps=budget, restarts=1)
        yield Readout(own.features, own.head, best_scale(lowest))


def measured(scene: Scene, readouts: Iterable[Readout]) -> Columns:
    """The correlations of a readout, one for each budget.

    ``clean``: without attack. ``pgd``: under PGD. ``collisions``: under the collisions. ``attacked``: the
    worse of both, point by point. ``certified``: a lower bound (None where it was not computed). ``longer``:
    under PGD with far more effort, where the first PGD left more than the ceiling (else None).
    """
    config, points, columns = scene.config, scene.points, Columns()
    for budget, readout in zip(config.budgets, readouts, strict=True):
        found = _at_collisions(scene, _answer(readout), budget)
        lowest, _ = l2.lowest_margins(readout, points.x, points.y, eps=budget, **_search(config))
        found["pgd"] = clip(lowest)
        found["attacked"] = torch.minimum(found["pgd"], found["collisions"])
        if readout.affine or budget <= config.effort.certified:
            found["certified"] = clip(l2.certified_margins(readout, points.x, points.y, eps=budget))
        if float(found["pgd"].mean()) > scene.transfer.ceiling(budget):
            attack = _search(config) | LONGER
            lowest, _ = l2.lowest_margins(readout, points.x, points.y, eps=budget, **attack)
            found["longer"] = torch.minimum(found["pgd"], clip(lowest))
        for name in ("clean", "pgd", "collisions", "attacked", "certified", "longer"):
            mean = float(found[name].mean()) if name in found else None
            columns.setdefault(name, []).append(mean)
    return columns


def hidden(scene: Scene, own: Readout, last: nn.Sequential) -> dict[str, Columns]:
    """The correlations of two readouts that give PGD no gradient to follow.

    The readouts: ``answers``, the network's -1 or +1 instead of its margin; and ``neighbours``, the mean
    label of the nearest training images, measured behind the last ReLU.
    Their correlations: ``clean``, without attack; ``followed``, under an attack on the readout itself, or at
    a random point where there is no gradient to follow; ``logits``, under what PGD finds on the margin of the
    network; ``collisions``, under the collisions.
    """
    config, points, columns = scene.config, scene.points, {"answers": Columns(), "neighbours": Columns()}
    hard, known = Readout(own.features, own.head, HARD), last(scene.others.x)

    def neighbours(x: torch.Tensor) -> torch.Tensor:
        near = torch.cdist(last(x), known).topk(min(NEIGHBOURS, len(known)), largest=False).indices
        return scene.others.y[near].mean(1)

    for budget in config.budgets:
        attack = {"eps": budget, **_search(config)}
        _, followed = l2.lowest_margins(hard, points.x, points.y, objective="value", **attack)
        _, at = l2.lowest_margins(own, points.x, points.y, **attack)
        random = l2.on_sphere(points.x, budget, seed=config.seed)
        for name, answer, blind in (
            ("answers", _answer(hard), followed),
            ("neighbours", neighbours, random),
        ):
            found = _at_collisions(scene, answer, budget)
            for key, where in (("followed", blind), ("logits", at)):
                found[key] = torch.minimum(found["clean"], points.y * answer(where))
            for key, values in found.items():
                columns[name].setdefault(key, []).append(float(values.mean()))
    return columns


def _answer(readout: Readout) -> Answer:
    return lambda x: clip(readout(x)).detach()


def _search(config: CeilingConfig) -> dict[str, Any]:
    return {"steps": config.effort.steps, "restarts": config.effort.restarts, "seed": config.seed}


def _at_collisions(scene: Scene, answer: Answer, budget: float) -> dict[str, torch.Tensor]:
    """y G of each point: without attack, and the lower of that and the worst of its collisions."""
    clean = scene.points.y * answer(scene.points.x)

    def answers(x: np.ndarray) -> np.ndarray:
        return answer(torch.from_numpy(x)).numpy()

    sent = torch.from_numpy(scene.transfer.lowest(answers, budget))
    return {"clean": clean, "collisions": torch.minimum(clean, sent)}


EXPERIMENT = "ceiling"
KINDS = ("linear", "mlp")
#: layers for which collisions are searched; the second linear layer takes those of the first ReLU
SEARCHED = ("input", "linear_1", "relu_1", "relu_2")


@dataclass(frozen=True)
class Effort:
    """The effort of a run.

    per_class: images of each class to train readouts on (or all there are besides the points). hidden: width
    of an MLP. epochs: of the training of a readout. train_steps: steps of the attack in this training. steps,
    restarts: of the attack on a trained readout. rounds: of the search for collisions. certified: the largest
    budget at which readouts behind ReLUs are certified (above it, the certificate says nothing).
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
        """The configuration of `feature_bounds` that has the same points."""
        return BoundsConfig(self.network, tuple(LAYERS), self.per_class, self.budgets)


BUDGETS = {
    "digits": (0.5, 1.0, 1.5, 2.0, 2.5, 3.0),
    "mnist": (0.5, 1.0, 2.0, 2.5, 3.0, 3.5),
    "fashion_mnist": (0.5, 1.0, 2.0, 3.0, 4.0, 5.0),
}
_EFFORT = {"quick": Effort(certified=3.0)}


def plan(profile: str, dataset: str, network: str) -> CeilingConfig:
    """The configuration of one network, such as ``fcnn-pgd-2``."""
    found = extractor_networks.NETWORKS[paths.check_profile(profile)][f"{dataset}-{network}"]
    effort = _EFFORT.get(profile, Effort())
    return CeilingConfig(found, feature_bounds.SCALES[profile].relu, BUDGETS[dataset], effort)


def plans(profile: str) -> list[CeilingConfig]:
    """One configuration for each network whose layers all have bounds in `feature_bounds`."""
    return [
        plan(profile, dataset, network)
        for dataset in feature_bounds.SCALES[paths.check_profile(profile)].datasets
        for network in feature_bounds.EVERY_LAYER
    ]


# --- computing ---


def run_network(config: CeilingConfig, *, say: runs.Say = runs.quiet) -> dict[str, Any]:
    """Ceilings and readouts of one network. Each list has one entry per budget of ``config.budgets``."""
    model, _ = extractor_networks.trained(config.network, say=say)
    layers = extractors.as_layers(model, extractor_networks.images(config.network, "train").shape)
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
        row["readouts"] = {kind: measured(scene, trained(scene, features, kind)) for kind in KINDS}
        row["seconds"] = round(time.perf_counter() - started, 3)
        found[name] = row
        say(f"{label}, {NAMES[name]}: ceiling {_text(row['ceiling'])}, reached {_text(_reached(row))}")
    own = l2.own_readout(layers)
    return {
        "n": [len(positive), len(negative)],
        "n_train": len(others.x),
        "layers": found,
        "network": measured(scene, rescaled(scene, own)),
        "hidden": hidden(scene, own, features),
    }


def other_images(config: CeilingConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """Training images of the two classes that are not among the points, flattened: float32 [N, d] each."""
    train = extractor_networks.images(config.network, "train")
    return extractor_networks.vectors(train, config.effort.per_class, skip=config.per_class)


def _reached(row: dict[str, Any]) -> list[float]:
    """The largest correlation under attack, over the layer's readouts and a constant one, which has 0."""
    columns = [readout["attacked"] for readout in row["readouts"].values()]
    return [max(0.0, *values) for values in zip(*columns, strict=True)]


def _text(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.2f}" for value in values)


# --- running ---


def run_config(config: CeilingConfig, profile: str, *, say: runs.Say = runs.quiet) -> runs.Record:
    """The run of one network: stored, or computed now where it is missing."""
    return runs.run(config, lambda made: run_network(made, say=say), experiment=EXPERIMENT, profile=profile)


def run(profile: str, *, say: runs.Say = runs.quiet) -> list[runs.Record]:
    """The runs of all networks of a profile."""
    return [run_config(config, profile, say=say) for config in plans(profile)]


def stored(config: CeilingConfig, profile: str) -> runs.Record | None:
    """The stored run of one network; None where there is none. Computes nothing."""
    return runs.stored(config, experiment=EXPERIMENT, profile=profile)
