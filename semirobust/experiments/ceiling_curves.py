"""Reads and draws what `ceiling` stored: where no readout can be, where readouts are, where one is proved to
be.

A readout of a layer is one of every layer before it, and a collision of a layer is one of every layer behind
it. So what readouts reach, and what is proved of them, is handed on to earlier layers, and ceilings to later
ones. A ceiling at one budget holds for larger ones, a certificate for smaller ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba

from semirobust import collisions, figures, runs
from semirobust.experiments import feature_bounds
from semirobust.experiments.bound_curves import BUDGET, training_name, training_of
from semirobust.experiments.ceiling import CeilingConfig, run_config, stored
from semirobust.experiments.feature_bounds import LAYERS, NAMES

Floats = npt.NDArray[np.float64]
Style = dict[str, Any]

ORDER = list(LAYERS)
LAST = ORDER[-1]
FORBIDDEN, IMAGES, OURS, OWN, PROVED = (
    figures.COLORS[name] for name in ("attacked", "printed", "ours", "other", "robust")
)
#: kinds of readouts and their names
KINDS = {"linear": "linear readout", "mlp": "MLP readout", "network": "the network itself"}
#: kind of a readout -> marker, place beside the middle of its layer, colour
READOUTS = {"linear": ("s", -0.22, OURS), "mlp": ("o", 0.06, OURS), "network": ("D", 0.34, OWN)}
CORRELATION = r"robust correlation $\Gamma$"
BLANK = {"facecolor": "white", "edgecolor": "none", "alpha": 0.9, "pad": 1.5}
LOW, HIGH = -0.08, 1.06  # of the axes: a constant readout has 0
TOP, MARGIN = 2.0, 0.1  # above all axes; beyond the last budget
ROUNDING = 1e-6  # by which a readout may pass its ceiling
SHOWN = 0.02  # a smaller fall from PGD to both attacks is not drawn


# --- reading ---


@dataclass(frozen=True, eq=False)
class Network:
    """One network: its run, and its bounds of `feature_bounds` where they are stored.

    Raises ``ValueError`` for bounds of another network or of other points.
    """

    record: runs.Record
    bounds: runs.Record | None = None

    def __post_init__(self) -> None:
        if self.bounds is not None and any(
            self.bounds.config[key] != self.record.config[key] for key in ("network", "per_class")
        ):
            raise ValueError(
                f"{self.bounds.path.name} has the bounds of another network, or of other points, than "
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
        """Kind -> columns of the readouts trained on a layer; on the last one the network itself too."""
        found = dict(self.record.metrics["layers"][layer]["readouts"])
        return found | ({"network": self.record.metrics["network"]} if layer == LAST else {})

    def reached(self, layer: str, column: str = "attacked") -> list[float]:
        """The best of the tested readouts of a layer, the constant ones among them, at each of `budgets`."""
        later = ORDER[ORDER.index(layer) :]
        columns = [row[column] for name in later for row in self.readouts(name).values()]
        return [max([0.0, *(v for v in values if v is not None)]) for values in zip(*columns, strict=True)]


def read(config: CeilingConfig, where: str, *, profile: str) -> Network | None:
    """The network of a configuration: computed where it is missing if ``where`` is the profile that runs; of
    another profile only what is stored, or None."""
    bounds = feature_bounds.deep(where, config.network.dataset, f"fcnn-{config.network.training}")
    if where == profile:
        return Network(run_config(config, where), feature_bounds.run_config(bounds, where))
    record = stored(config, where)
    return None if record is None else Network(record, feature_bounds.stored(bounds, where))


@dataclass(frozen=True)
class Passed:
    """A readout that an attack leaves above the ceiling of its layer: the attack missed perturbations.

    training, name, layer, budget: of the network and its readout. followed: under the attack. longer: with
    far more of it (None where that was not tried). collisions: under both the attack and the collisions.
    ceiling: of its layer.
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
    """The trained readouts that PGD leaves above the ceiling, layer by layer."""
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
    """The two readouts that show PGD no gradient, at one of the budgets, whether they pass or not."""
    i, top, found = network.budgets.index(budget), network.ceiling(LAST, budget), []
    for key, name in (("answers", "hard answers"), ("neighbours", "neighbours")):
        row = network.record.metrics["hidden"][key]
        left, after = row["followed"][i], min(row["followed"][i], row["collisions"][i])
        found.append(Passed(network.training, name, LAST, budget, left, None, after, top))
    return found


def telling(network: Network) -> float:
    """The budget at which the ceiling of the last layer is nearest to 1/2."""
    return min(network.budgets, key=lambda budget: abs(network.ceiling(LAST, budget) - 0.5))


# --- drawing ---


def draw_budgets(axis: Axes, network: Network, *, layer: str = LAST) -> None:
    """One network over the budgets: where no readout of the images and of a layer can be, the best ones that
    were tested, and up to where one is proved."""
    budgets, (grid, found) = np.array(network.budgets), network.ceilings
    inside = grid <= budgets[-1]
    grid = np.append(grid[inside], budgets[-1] + MARGIN)
    images, below = (np.append(found[name][inside], found[name][inside][-1]) for name in ("input", layer))
    _forbid(axis, grid, below, images, label="no readout of the layer")
    name = "no classifier of the images"
    axis.fill_between(grid, images, TOP, color=IMAGES, alpha=0.45, step="post", lw=0, label=name)
    axis.step(grid, images, "-", where="post", color=IMAGES, lw=1.2)
    axis.step(grid, below, "-", where="post", color=FORBIDDEN, lw=2.4)
    proved = np.array(network.reached(layer, "certified"))
    if (kept := proved > 0).any():
        at, height = np.append(0, budgets[kept]), np.append(proved[kept][0], proved[kept])
        name = f"proved: a readout of the {NAMES[layer]}"
        axis.fill_between(at, -TOP, height, color=PROVED, alpha=0.2, step="pre", lw=0, label=name)
        axis.step(at, height, "-", where="pre", color=PROVED, lw=1.6)
    line: Style = {"ls": "-", "lw": 1.2, "ms": 5.5, "marker": "o", "clip_on": False, "zorder": 5}
    for name, colour in (("input", IMAGES), (layer, FORBIDDEN)):
        label = f"best tested readout of the {NAMES[name]}"
        axis.plot(budgets, network.reached(name), color=colour, label=label, **line)
    axis.set(xlim=(0, grid[-1]), ylim=(LOW, HIGH), xlabel=BUDGET, ylabel=CORRELATION)


def draw_layers(axis: Axes, network: Network, budget: float) -> None:
    """One network at one of its budgets, layer by layer: the ceiling, and the readouts trained there. An
    arrow leads from what PGD left to what the collisions left."""
    i, sides = network.budgets.index(budget), np.arange(len(ORDER) + 1) - 0.5
    tops = np.array([network.ceiling(name, budget) for name in ORDER])
    steps = np.append(tops, tops[-1])
    _forbid(axis, sides, steps, np.full(len(steps), TOP))
    axis.step(sides, steps, "-", where="post", color=FORBIDDEN, lw=2.4)
    for x, (layer, top) in enumerate(zip(ORDER, tops, strict=True)):
        axis.annotate(
            f"{top:.2f}", (x, top), (0, 5), textcoords="offset points", ha="center", bbox=BLANK,
            color=FORBIDDEN, fontweight="bold",
        )  # fmt: skip
        for kind, row in network.readouts(layer).items():
            name, (marker, shift, colour) = KINDS[kind], READOUTS[kind]
            before, after = row["pgd"][i], row["attacked"][i]
            assert before is not None and after is not None
            style: Style = {
                "marker": marker,
                "ls": "",
                "color": colour,
                "ms": 6,
                "zorder": 5,
                "clip_on": False,
            }
            if before - after > SHOWN and before > LOW:
                _fall(axis, x + shift, before, max(after, LOW), style)
            axis.plot(x + shift, max(after, LOW), label=name if layer == LAST else None, **style)
    axis.plot([], [], "o", mfc="white", color=OURS, label="under PGD alone, where it differs")
    names = [NAMES[name].replace(" linear layer", "\nlinear").replace(" ReLU", "\nReLU") for name in ORDER]
    axis.set_xticks(range(len(ORDER)), names)
    axis.set(xlim=(sides[0], sides[-1]), ylim=(LOW, HIGH), ylabel=CORRELATION)
    axis.grid(axis="x", visible=False)


def draw_passed(axis: Axes, shown: list[Passed]) -> None:
    """Readouts side by side: what an attack that follows them leaves, the ceiling, what the collisions
    leave."""
    sides = np.arange(len(shown) + 1) - 0.5
    tops = np.array([one.ceiling for one in shown])
    _forbid(axis, sides, np.append(tops, tops[-1]), np.full(len(sides), TOP))
    axis.hlines(tops, sides[:-1], sides[1:], color=FORBIDDEN, lw=2.4, label="ceiling of its layer")
    style: Style = {"ls": "", "marker": "o", "ms": 7, "color": OURS, "zorder": 5, "clip_on": False}
    longer: str | None = "under longer PGD"
    for x, one in enumerate(shown):
        _fall(axis, x, one.followed, one.collisions, style)
        axis.plot(
            x,
            one.followed,
            label="under PGD or, without a gradient, at random" if x == 0 else None,
            **style | {"mfc": "white"},
        )
        if one.longer is not None:
            axis.plot(x, one.longer, label=longer, **style | {"marker": "v", "mfc": "white"})
            longer = None
        axis.plot(x, one.collisions, label="under the collisions too" if x == 0 else None, **style)
    ticks = [
        f"{one.name},\n{NAMES[one.layer]}\n{training_name(one.training)}, "
        + rf"$\varepsilon$ = {one.budget:g}"
        for one in shown
    ]
    axis.set_xticks(range(len(shown)), ticks)
    low = min(LOW, *(one.collisions - 0.06 for one in shown))
    axis.set(xlim=(sides[0], sides[-1]), ylim=(low, HIGH), ylabel=CORRELATION)
    axis.grid(axis="x", visible=False)


def _forbid(
    axis: Axes, x: npt.ArrayLike, low: npt.ArrayLike, high: npt.ArrayLike, label: str | None = None
) -> None:
    """Hatches where no readout can be."""
    edge = to_rgba(FORBIDDEN, 0.45)
    axis.fill_between(x, low, high, step="post", facecolor=to_rgba(FORBIDDEN, 0.13), edgecolor=edge,
                      hatch="///", lw=0, label=label)  # fmt: skip


def _fall(axis: Axes, x: float, before: float, after: float, style: Style) -> None:
    """A hollow marker, and an arrow from it to where the filled one goes."""
    axis.plot(x, before, **style | {"mfc": "white"})
    arrow = {"arrowstyle": "-|>", "color": style["color"], "lw": 1.2, "shrinkA": 4, "shrinkB": 4}
    axis.annotate("", (x, after), (x, before), arrowprops=arrow, zorder=4)
