"""Drawings of the ceilings and readouts that `experiments.ceiling_curves` reads, by budget and by layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba

from semirobust.experiments import bound_curves, ceiling_curves, feature_bounds
from semirobust.figures.bounds import BUDGET
from semirobust.figures.style import COLORS

Style = dict[str, Any]
FORBIDDEN, IMAGES, OURS, OWN, PROVED = (
    COLORS[name] for name in ("attacked", "printed", "ours", "other", "robust")
)
#: kind of a readout -> marker, horizontal offset from the middle of its layer, colour
READOUTS = {"linear": ("s", -0.22, OURS), "mlp": ("o", 0.06, OURS), "network": ("D", 0.34, OWN)}
CORRELATION = r"robust correlation $\Gamma$"
BLANK = {"facecolor": "white", "edgecolor": "none", "alpha": 0.9, "pad": 1.5}
LOW, HIGH = -0.08, 1.06  # limits of the vertical axes; a constant readout has 0
TOP, MARGIN = 2.0, 0.1  # a height above all axes; how far the axis goes beyond the last budget
SHOWN = 0.02  # the smallest fall, from PGD alone to PGD and collisions, that is drawn


# --- drawing ---


def draw_budgets(axis: Axes, network: ceiling_curves.Network, *, layer: str = ceiling_curves.LAST) -> None:
    """One network over the budgets: ceilings, the best tested readouts, and what is proved of one.

    The ceilings are those of the images and of ``layer``: no readout can lie above them.
    """
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
        name = f"proved: a readout of the {feature_bounds.NAMES[layer]}"
        axis.fill_between(at, -TOP, height, color=PROVED, alpha=0.2, step="pre", lw=0, label=name)
        axis.step(at, height, "-", where="pre", color=PROVED, lw=1.6)
    line: Style = {"ls": "-", "lw": 1.2, "ms": 5.5, "marker": "o", "clip_on": False, "zorder": 5}
    for name, colour in (("input", IMAGES), (layer, FORBIDDEN)):
        label = f"best tested readout of the {feature_bounds.NAMES[name]}"
        axis.plot(budgets, network.reached(name), color=colour, label=label, **line)
    axis.set(xlim=(0, grid[-1]), ylim=(LOW, HIGH), xlabel=BUDGET, ylabel=CORRELATION)


def draw_layers(axis: Axes, network: ceiling_curves.Network, budget: float) -> None:
    """One network at one of its budgets, layer by layer: the ceiling, and the readouts trained on the layer.

    An arrow leads from the correlation under PGD to that under PGD and the collisions.
    """
    i, sides = network.budgets.index(budget), np.arange(len(ceiling_curves.ORDER) + 1) - 0.5
    tops = np.array([network.ceiling(name, budget) for name in ceiling_curves.ORDER])
    steps = np.append(tops, tops[-1])
    _forbid(axis, sides, steps, np.full(len(steps), TOP))
    axis.step(sides, steps, "-", where="post", color=FORBIDDEN, lw=2.4)
    for x, (layer, top) in enumerate(zip(ceiling_curves.ORDER, tops, strict=True)):
        axis.annotate(
            f"{top:.2f}", (x, top), (0, 5), textcoords="offset points", ha="center", bbox=BLANK,
            color=FORBIDDEN, fontweight="bold",
        )  # fmt: skip
        for kind, row in network.readouts(layer).items():
            name, (marker, shift, colour) = ceiling_curves.KINDS[kind], READOUTS[kind]
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
            axis.plot(
                x + shift, max(after, LOW), label=name if layer == ceiling_curves.LAST else None, **style
            )
    axis.plot([], [], "o", mfc="white", color=OURS, label="under PGD alone, where it differs")
    names = [
        feature_bounds.NAMES[name].replace(" linear layer", "\nlinear").replace(" ReLU", "\nReLU")
        for name in ceiling_curves.ORDER
    ]
    axis.set_xticks(range(len(ceiling_curves.ORDER)), names)
    axis.set(xlim=(sides[0], sides[-1]), ylim=(LOW, HIGH), ylabel=CORRELATION)
    axis.grid(axis="x", visible=False)


def draw_passed(axis: Axes, shown: list[ceiling_curves.Passed]) -> None:
    """Readouts side by side: their correlation under an attack that follows them, the ceiling, and their
    correlation under the collisions too.
    """
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
        f"{one.name},\n{feature_bounds.NAMES[one.layer]}\n{bound_curves.training_name(one.training)}, "
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
    """Hatches the area where no readout can be."""
    edge = to_rgba(FORBIDDEN, 0.45)
    axis.fill_between(x, low, high, step="post", facecolor=to_rgba(FORBIDDEN, 0.13), edgecolor=edge,
                      hatch="///", lw=0, label=label)  # fmt: skip


def _fall(axis: Axes, x: float, before: float, after: float, style: Style) -> None:
    """Draws a hollow marker at ``before`` and an arrow to ``after``, where the filled marker goes."""
    axis.plot(x, before, **style | {"mfc": "white"})
    arrow = {"arrowstyle": "-|>", "color": style["color"], "lw": 1.2, "shrinkA": 4, "shrinkB": 4}
    axis.annotate("", (x, after), (x, before), arrowprops=arrow, zorder=4)
