"""The stored bounds of `feature_bounds` as curves: reading them, differences, crossings and tables.

A curve is a step function that is known at some budgets. It never falls, because the conflict graph of a
smaller budget is part of that of a larger one. So between two budgets the bound is at least that of the
smaller one. `semirobust.figures.bounds` draws the curves.
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

#: name of a bounded loss in a record -> its axis label
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
        """The curve [K] of one loss, a key of `LOSSES`. Raises ValueError for another name."""
        if name not in LOSSES:
            raise ValueError(f"there is no loss {name!r}; use one of {', '.join(LOSSES)}")
        return self.zero_one if name == "zero_one" else self.cross_entropy_nats

    def guessing(self, name: str) -> float:
        """The loss of the best constant classifier, which ignores the image. No bound can be above it."""
        shares = np.array(self.points) / sum(self.points)
        return float(shares.min() if name == "zero_one" else -shares @ np.log(shares))

    def at(self, budget: float, name: str) -> float:
        """The loss at one of the budgets. Raises ValueError for a budget without a bound."""
        (found,) = np.nonzero(np.isclose(self.budgets, budget))
        if not len(found):
            raise ValueError(f"no bound was computed at budget {budget}; there are {self.budgets.tolist()}")
        return float(self.loss(name)[found[0]])


# --- reading ---


def places(profile: str) -> list[tuple[str, str]]:
    """(profile, data set) of all that a notebook shows: those of its profile, then the reference ones."""
    shown = dict.fromkeys((paths.check_profile(profile), "reference"))
    return [(where, dataset) for where in shown for dataset in feature_bounds.SCALES[where].datasets]


def read(configs: Mapping[str, BoundsConfig], where: str, *, profile: str) -> dict[str, runs.Record]:
    """The records of the profile ``where``, by name.

    If ``where`` is the profile that runs, missing records are computed. Of another profile, only stored
    records are returned.
    """
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
    """The bound of one layer in a record. Raises ValueError for a layer that the record lacks."""
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
    """The largest and the smallest difference of two curves, each with the budget where it occurs."""

    above: float
    above_at: float
    below: float
    below_at: float


def gap(first: Bound, second: Bound, loss: str) -> Gap:
    """The extremes of first - second over the budgets. Raises ValueError where the budgets differ."""
    if not np.array_equal(first.budgets, second.budgets):
        raise ValueError("the two bounds have different budgets, so they cannot be compared")
    difference = first.loss(loss) - second.loss(loss)
    high, low = int(difference.argmax()), int(difference.argmin())
    budgets = first.budgets
    return Gap(float(difference[high]), float(budgets[high]), float(difference[low]), float(budgets[low]))


def crossing(found: Bound, level: float, loss: str) -> float | None:
    """The budget at which the curve reaches ``level``, interpolated linearly; None if it never does.

    Interpolation compares curves more finely than the spacing of the budgets allows. It proves nothing: only
    the losses at the budgets are proved.
    """
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
    """How much smaller the budget that forces a given loss is behind ``after`` than behind ``before``.

    This is the average over all losses from zero to that of guessing: the area between both curves
    (interpolated linearly) divided by the loss of guessing. Both curves have to reach that loss, or the rest
    of the area is missing. In pixels; 0 for equal curves. Raises ValueError where the budgets differ.
    """
    if not np.array_equal(after.budgets, before.budgets):
        raise ValueError("the two bounds have different budgets, so they cannot be compared")
    area = np.trapezoid(after.loss(loss) - before.loss(loss), after.budgets)
    return float(area / before.guessing(loss))


# --- tables ---


def loss_table(bounds: Mapping[str, Bound], budgets: Sequence[float], loss: str) -> str:
    """Markdown table: one line per bound, with its loss at a few budgets."""
    rows = [{"name": name} | {f"{b:g}": found.at(b, loss) for b in budgets} for name, found in bounds.items()]
    columns = {"name": LOSSES[loss]} | {f"{b:g}": f"at {b:g}" for b in budgets}
    return runs.markdown_table(rows, columns, {f"{b:g}": ".3f" for b in budgets})


def forced_table(bounds: Mapping[str, Bound], levels: Sequence[float], loss: str) -> str:
    """Markdown table: one line per bound, with the budgets that force a few losses (see `crossing`)."""
    rows = [
        {"name": name} | {f"{level:g}": crossing(found, level, loss) for level in levels}
        for name, found in bounds.items()
    ]
    columns = {"name": LOSSES[loss].partition(",")[0] + ": budget that forces it"}
    columns |= {f"{level:g}": f"{level:g}" for level in levels}
    return runs.markdown_table(rows, columns, {f"{level:g}": ".2f" for level in levels})


# --- names for titles and legends ---


def scale(dataset: str, found: Bound) -> str:
    """Text for a title: ``MNIST, 400 + 400 images``."""
    first, second = found.points
    return f"{DATASETS[dataset].partition(' ')[0]}, {first:,} + {second:,} images"


def training_name(training: str) -> str:
    """Text for a legend: ``PGD at 2``."""
    method, _, budget = training.partition("-")
    return f"{method.upper()} at {budget}" if budget else training
