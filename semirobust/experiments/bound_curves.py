"""The stored bounds of `feature_bounds` as curves: differences, crossings, tables. Nothing new is computed.

A curve is a step function known at some budgets. It never falls, because the graph of a smaller budget is
part of that of a larger one. So between two budgets the bound is at least that of the smaller one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from semirobust import paths, runs
from semirobust.experiments import feature_bounds
from semirobust.experiments.feature_bounds import BoundsConfig
from semirobust.extractors import Array

#: the losses that are bounded, by the name they have in a record -> axis label
LOSSES = {"cross_entropy_nats": "cross-entropy (nats), at least", "zero_one": "0-1 loss, at least"}
#: data sets and classes, for a title
DATASETS = {
    "digits": "digits 3 against 7",
    "mnist": "MNIST 3 against 7",
    "fashion_mnist": "Fashion-MNIST dress against sneaker",
}


@dataclass(frozen=True, eq=False)
class Bound:
    """The bound behind one layer of one network: at K budgets the least loss of any classifier there.

    training: "benign", "pgd-2", "trades-1". layer: a key of `feature_bounds.LAYERS`. budgets: [K], ascending.
    zero_one: [K], in [0, 1/2]. cross_entropy_nats: [K], in [0, ln 2]. points: images of the two classes.
    """

    training: str
    layer: str
    budgets: Array
    zero_one: Array
    cross_entropy_nats: Array
    points: tuple[int, int]

    def loss(self, name: str) -> Array:
        """[K], of a key of `LOSSES`."""
        if name not in LOSSES:
            raise ValueError(f"there is no loss {name!r}; use one of {', '.join(LOSSES)}")
        return self.zero_one if name == "zero_one" else self.cross_entropy_nats

    def guessing(self, name: str) -> float:
        """The loss of the best classifier that never looks: no bound can be above it."""
        shares = np.array(self.points) / sum(self.points)
        return float(shares.min() if name == "zero_one" else -shares @ np.log(shares))

    def at(self, budget: float, name: str) -> float:
        """The loss at one of the budgets."""
        (found,) = np.nonzero(np.isclose(self.budgets, budget))
        if not len(found):
            raise ValueError(f"no bound was computed at budget {budget}; there are {self.budgets.tolist()}")
        return float(self.loss(name)[found[0]])


# --- reading ---


def places(profile: str) -> list[tuple[str, str]]:
    """(profile, data set) of what a notebook shows: its own, and the reference results beside them."""
    shown = dict.fromkeys((paths.check_profile(profile), "reference"))
    return [(where, dataset) for where in shown for dataset in feature_bounds.SCALES[where].datasets]


def read(configs: Mapping[str, BoundsConfig], where: str, *, profile: str) -> dict[str, runs.Record]:
    """The records of a profile by name: made where they are missing if it is the profile that runs, and only
    those that are stored if it is another one."""
    if where == profile:
        return {name: feature_bounds.run_config(config, where) for name, config in configs.items()}
    stored = {name: feature_bounds.stored(config, where) for name, config in configs.items()}
    return {name: record for name, record in stored.items() if record is not None}


def training_of(record: runs.Record) -> str:
    """How the network of a record was trained: ``benign``, ``pgd-2``, ``trades-1``."""
    attack = record.config["network"]["train"]["attack"]
    method = {"PGDL2": "pgd", "TRADES": "trades"}
    return "benign" if attack is None else f"{method[attack['class']]}-{attack['eps']:g}"


def bound(record: runs.Record, layer: str) -> Bound:
    """The bound of one layer in a record. Raises ValueError where it has no such layer."""
    layers = record.metrics["layers"]
    if layer not in layers:
        raise ValueError(f"{record.path.name} has no layer {layer!r}; it has {', '.join(layers)}")
    first, second = record.metrics["n"]
    return Bound(
        training=training_of(record),
        layer=layer,
        budgets=np.array(record.config["budgets"], float),
        zero_one=np.array(layers[layer]["zero_one"], float),
        cross_entropy_nats=np.array(layers[layer]["cross_entropy_nats"], float),
        points=(first, second),
    )


# --- comparing ---


class Gap(NamedTuple):
    """Of two curves: the largest and the smallest difference, each with the budget where it is."""

    above: float
    above_at: float
    below: float
    below_at: float


def gap(first: Bound, second: Bound, loss: str) -> Gap:
    """first - second over the budgets; ValueError where these are not the same."""
    if not np.array_equal(first.budgets, second.budgets):
        raise ValueError("the two bounds have other budgets, so they cannot be compared")
    difference = first.loss(loss) - second.loss(loss)
    high, low = int(difference.argmax()), int(difference.argmin())
    budgets = first.budgets
    return Gap(float(difference[high]), float(budgets[high]), float(difference[low]), float(budgets[low]))


def crossing(found: Bound, level: float, loss: str) -> float | None:
    """About where the curve reaches ``level``: by a straight line between the two budgets next to it. For
    comparing curves closer than the budgets are; what is proved is the loss at the budgets."""
    values = found.loss(loss)
    (reached,) = np.nonzero(values >= level)
    if not len(reached):
        return None
    k = int(reached[0])
    if k == 0:
        return float(found.budgets[0])
    share = (level - values[k - 1]) / (values[k] - values[k - 1])
    return float(found.budgets[k - 1] + share * (found.budgets[k] - found.budgets[k - 1]))


def budget_lost(after: Bound, before: Bound, loss: str) -> float:
    """How much smaller the budget is that forces a loss behind ``after``, on average over all losses up to
    that of guessing: the area between both curves, straight between the budgets, over the loss of guessing.

    Both have to reach that loss, or the rest of the area is missing. In pixels; 0 for equal curves.
    """
    if not np.array_equal(after.budgets, before.budgets):
        raise ValueError("the two bounds have other budgets, so they cannot be compared")
    area = np.trapezoid(after.loss(loss) - before.loss(loss), after.budgets)
    return float(area / before.guessing(loss))


# --- tables ---


def loss_table(bounds: Mapping[str, Bound], budgets: Sequence[float], loss: str) -> str:
    """Markdown: a line for each bound, its loss at a few budgets."""
    rows = [{"name": name} | {f"{b:g}": found.at(b, loss) for b in budgets} for name, found in bounds.items()]
    columns = {"name": LOSSES[loss]} | {f"{b:g}": f"at {b:g}" for b in budgets}
    return runs.markdown_table(rows, columns, {f"{b:g}": ".3f" for b in budgets})


def forced_table(bounds: Mapping[str, Bound], levels: Sequence[float], loss: str) -> str:
    """Markdown: a line for each bound, about the budget at which it forces a few losses (see `crossing`)."""
    rows = [
        {"name": name} | {f"{level:g}": crossing(found, level, loss) for level in levels}
        for name, found in bounds.items()
    ]
    columns = {"name": LOSSES[loss].partition(",")[0] + ": budget that forces it"}
    columns |= {f"{level:g}": f"{level:g}" for level in levels}
    return runs.markdown_table(rows, columns, {f"{level:g}": ".2f" for level in levels})


# --- drawing ---


def scale(dataset: str, found: Bound) -> str:
    """For a title: ``MNIST, 400 + 400 images``."""
    first, second = found.points
    return f"{DATASETS[dataset].partition(' ')[0]}, {first:,} + {second:,} images"


def training_name(training: str) -> str:
    """For a legend: ``PGD at 2``."""
    method, _, budget = training.partition("-")
    return f"{method.upper()} at {budget}" if budget else training
