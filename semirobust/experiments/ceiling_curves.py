"""The stored ceilings of `ceiling`: where no readout can be, where readouts are, where one is proved to be.

A readout of a layer is also a readout of every earlier layer. So what readouts reach, and what is proved of
them, holds for earlier layers too. A collision of a layer is also a collision of every later layer. So
ceilings hold for later layers too. A ceiling at one budget holds at larger ones, a certificate at smaller
ones. `semirobust.figures.ceiling` draws all this.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from semirobust import collisions, runs
from semirobust.experiments import feature_bounds
from semirobust.experiments.bound_curves import training_of
from semirobust.experiments.ceiling import CeilingConfig, run_config, stored
from semirobust.experiments.feature_bounds import LAYERS

Floats = npt.NDArray[np.float64]

ORDER = list(LAYERS)
LAST = ORDER[-1]
#: kind of readout -> its name
KINDS = {"linear": "linear readout", "mlp": "MLP readout", "network": "the network itself"}
ROUNDING = 1e-6  # a readout may exceed its ceiling by this much


# --- reading ---


@dataclass(frozen=True, eq=False)
class Network:
    """One network: its run, and its bounds by `feature_bounds` where they are stored.

    Raises ``ValueError`` for bounds of another network or of other points.
    """

    record: runs.Record
    bounds: runs.Record | None = None

    def __post_init__(self) -> None:
        if self.bounds is not None and any(
            self.bounds.config[key] != self.record.config[key] for key in ("network", "per_class")
        ):
            raise ValueError(
                f"{self.bounds.path.name} was computed for another network or other points than "
                f"{self.record.path.name}"
            )

    @property
    def budgets(self) -> list[float]:
        return [float(budget) for budget in self.record.config["budgets"]]

    @property
    def training(self) -> str:
        return training_of(self.record)

    @property
    def sources(self) -> list[runs.Record]:
        return [self.record] if self.bounds is None else [self.record, self.bounds]

    @cached_property
    def ceilings(self) -> tuple[Floats, dict[str, Floats]]:
        """(budgets [K], layer -> [K]): the smallest ceilings that the run and the bounds prove."""
        rows = self.record.metrics["layers"].items()
        known = [(self.record, {name: np.asarray(row["ceiling"], float) for name, row in rows})]
        if self.bounds is not None:
            rows = self.bounds.metrics["layers"].items()
            known.append((self.bounds, {name: collisions.ceiling(row["zero_one"]) for name, row in rows}))
        grid = np.unique(np.concatenate([[0.0], *(source.config["budgets"] for source, _ in known)]))
        lowest, found = np.ones(len(grid)), {}
        for name in ORDER:
            for source, values in known:
                place = np.searchsorted(source.config["budgets"], grid, side="right") - 1  # -1: none so small
                if name in values:
                    lowest = np.minimum(lowest, np.where(place < 0, 1.0, values[name][place]))
            found[name] = lowest = np.minimum.accumulate(lowest)
        return grid, found

    def ceiling(self, layer: str, budget: float) -> float:
        """No readout |G| <= 1 of the layer has a larger robust correlation at this budget."""
        grid, found = self.ceilings
        return float(found[layer][np.searchsorted(grid, budget, side="right") - 1])

    def readouts(self, layer: str) -> dict[str, dict[str, list[float | None]]]:
        """Kind -> columns of the readouts trained on a layer; the last layer has the network itself too."""
        found = dict(self.record.metrics["layers"][layer]["readouts"])
        return found | ({"network": self.record.metrics["network"]} if layer == LAST else {})

    def reached(self, layer: str, column: str = "attacked") -> list[float]:
        """The best correlation of a tested readout of a layer, or of a constant one, at each of `budgets`."""
        later = ORDER[ORDER.index(layer) :]
        columns = [row[column] for name in later for row in self.readouts(name).values()]
        return [max([0.0, *(v for v in values if v is not None)]) for values in zip(*columns, strict=True)]


def read(config: CeilingConfig, where: str, *, profile: str) -> Network | None:
    """The network of a configuration in the profile ``where``.

    If ``where`` is the profile that runs, a missing network is computed. Of another profile, only a stored
    one is returned, else None.
    """
    bounds = feature_bounds.deep(where, config.network.dataset, f"fcnn-{config.network.training}")
    if where == profile:
        return Network(run_config(config, where), feature_bounds.run_config(bounds, where))
    record = stored(config, where)
    return None if record is None else Network(record, feature_bounds.stored(bounds, where))


@dataclass(frozen=True)
class Passed:
    """A readout whose correlation under an attack is above the ceiling: the attack missed perturbations.

    training, name, layer, budget: say which network and which readout. followed: the correlation under the
    attack. longer: under a far longer attack (None where that was not tried). collisions: under both the
    attack and the collisions. ceiling: that of the layer.
    """

    training: str
    name: str
    layer: str
    budget: float
    followed: float
    longer: float | None
    collisions: float
    ceiling: float


def passed(network: Network) -> list[Passed]:
    """The trained readouts whose correlation under PGD is above the ceiling, layer by layer."""
    found = []
    for layer in ORDER:
        for kind, row in network.readouts(layer).items():
            for i, budget in enumerate(network.budgets):
                left, after, top = row["pgd"][i], row["attacked"][i], network.ceiling(layer, budget)
                if left is not None and after is not None and left > top + ROUNDING:
                    values = left, row["longer"][i], after, top
                    found.append(Passed(network.training, KINDS[kind], layer, budget, *values))
    return found


def hidden(network: Network, budget: float) -> list[Passed]:
    """The two readouts without a gradient for PGD, at one of the budgets, above the ceiling or not."""
    i, top, found = network.budgets.index(budget), network.ceiling(LAST, budget), []
    for key, name in (("answers", "hard answers"), ("neighbours", "neighbours")):
        row = network.record.metrics["hidden"][key]
        left, after = row["followed"][i], min(row["followed"][i], row["collisions"][i])
        found.append(Passed(network.training, name, LAST, budget, left, None, after, top))
    return found


def telling(network: Network) -> float:
    """The budget at which the ceiling of the last layer is nearest to 1/2."""
    return min(network.budgets, key=lambda budget: abs(network.ceiling(LAST, budget) - 0.5))
