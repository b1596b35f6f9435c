"""What a run of `ceiling` measures on one network: readouts under attack, under collisions, certified."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from semirobust.collisions import Transfer
from semirobust.readouts import Readout, best_scale, clip, l2

if TYPE_CHECKING:
    from semirobust.experiments.ceiling import CeilingConfig

HARD = 1e4  # by which the network's margin is multiplied to have hard answers
NEIGHBOURS = 5
LONGER = {"steps": 60, "restarts": 10}  # of the second attack, where the first left too much
SCALING = 400  # images that choose the scale of the network's margin

Columns = dict[str, list[float | None]]
Answer = Callable[[torch.Tensor], torch.Tensor]  # x [N, d] -> G [N], in [-1, 1]


@dataclass(frozen=True, eq=False)
class Points:
    """float64 [N, d] and labels [N] in {-1, +1}; positive ones come first."""

    x: torch.Tensor
    y: torch.Tensor

    @classmethod
    def of(cls, positive: Any, negative: Any) -> Points:
        both = [torch.as_tensor(part, dtype=torch.float64) for part in (positive, negative)]
        signs = [torch.ones(len(both[0])), -torch.ones(len(both[1]))]
        return cls(torch.cat(both), torch.cat(signs).double())


@dataclass(frozen=True, eq=False)
class Scene:
    """Where readouts are measured (``points``) and trained (``others``), and the collisions of their
    layer."""

    config: CeilingConfig
    points: Points
    others: Points
    transfer: Transfer


def trained(scene: Scene, features: nn.Sequential, kind: str) -> Iterator[Readout]:
    """A readout of ``features`` for each budget, each trained from that of the budget before."""
    effort, readout = scene.config.effort, None
    for budget in scene.config.budgets:
        readout = l2.train_readout(
            features, scene.others.x, scene.others.y,
            eps=budget, start=readout, hidden=effort.hidden if kind == "mlp" else None,
            epochs=effort.epochs, steps=effort.train_steps, seed=scene.config.seed,
        )  # fmt: skip
        yield readout


def rescaled(scene: Scene, own: Readout) -> Iterator[Readout]:
    """The network, for each budget with its best scale under attack, on images that train readouts."""
    generator = torch.Generator().manual_seed(scene.config.seed)
    keep = torch.randperm(len(scene.others.x), generator=generator)[:SCALING]
    x, y = scene.others.x[keep], scene.others.y[keep]
    for budget in scene.config.budgets:
        lowest, _ = l2.lowest_margins(own, x, y, eps=budget, restarts=1)
        yield Readout(own.features, own.head, best_scale(lowest))


def measured(scene: Scene, readouts: Iterable[Readout]) -> Columns:
    """The correlations of a readout, one for each budget: ``clean``; under ``pgd``; under the ``collisions``;
    ``attacked`` (the worse of both, point by point); ``certified`` (None where it was not computed); and
    ``longer``, under PGD with far more effort, where the first one left more than the ceiling (else None).
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
    """Two readouts that show PGD no gradient: ``answers``, the network's -1 and +1 instead of its margin; and
    ``neighbours``, the mean label of the nearest images that train readouts, behind the last ReLU.

    ``clean``; ``followed``: under an attack that follows the readout, or, where there is nothing to follow,
    at a random point; ``logits``: under what PGD finds on the margin of the network; under the
    ``collisions``.
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
    """y G of each point without attack, and at the worst of its collisions."""
    clean = scene.points.y * answer(scene.points.x)

    def answers(x: np.ndarray) -> np.ndarray:
        return answer(torch.from_numpy(x)).numpy()

    sent = torch.from_numpy(scene.transfer.lowest(answers, budget))
    return {"clean": clean, "collisions": torch.minimum(clean, sent)}
