"""Drawings of the bounds that `experiments.bound_curves` reads: a curve for each layer or way of training."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from matplotlib.axes import Axes

from semirobust.experiments import bound_curves
from semirobust.figures.style import COLORS

BUDGET = r"budget $\varepsilon$ ($\ell_2$, pixels in [0, 1])"
SATURATED = 0.995  # share of the loss of guessing: a curve is shown up to the first budget that reaches it

_BY_BUDGET = {"1": ":", "2": "--", "3": "-"}
Style = dict[str, Any]


def training_style(training: str) -> Style:
    """Colour by the way of training, line by its budget. "images": the bound on the images themselves."""
    method, _, budget = training.partition("-")
    colours = {"images": "printed", "benign": "clean", "pgd": "robust", "trades": "other"}
    lines = {"images": "-", "benign": "-."}
    return {"color": COLORS[colours[method]], "ls": lines.get(method) or _BY_BUDGET[budget]}


def layer_style(layer: str) -> Style:
    """Colour by the kind of a layer, line by its number."""
    kind, _, number = layer.partition("_")
    colours = {"input": "printed", "linear": "ours", "relu": "attacked"}
    return {"color": COLORS[colours[kind]], "ls": "--" if number == "2" else "-"}


def width_style(architecture: str) -> Style:
    """Line by width; the colour is that of the training."""
    return {"ls": {"fcnn": "-", "fcnn_small": "--", "fcnn_smaller": ":"}[architecture]}


def draw(axis: Axes, found: bound_curves.Bound, loss: str, *, label: str, style: Style) -> None:
    """One curve; its points are joined by straight lines."""
    axis.plot(found.budgets, found.loss(loss), label=label, **style)


def finish(
    axis: Axes, bounds: Iterable[bound_curves.Bound], loss: str, *, title: str = "", note: bool = True
) -> None:
    """Sets labels and limits (see `span`), and draws the dashed line of guessing, with a ``note`` on it."""
    shown = list(bounds)
    top = max(found.guessing(loss) for found in shown)
    axis.axhline(top, color=COLORS["printed"], lw=0.8, ls="--")
    low, high = span(shown, loss)
    if note:
        name = r"guessing: $\ln 2$" if loss != "zero_one" else "guessing: 1/2"
        axis.annotate(name, (low, top), (3, 3), textcoords="offset points")
    axis.set(
        xlim=(low, high), ylim=(0, 1.12 * top), xlabel=BUDGET, ylabel=bound_curves.LOSSES[loss], title=title
    )


def span(bounds: Iterable[bound_curves.Bound], loss: str) -> tuple[float, float]:
    """(low, high): the last budget at which all bounds are zero, the first at which all reach guessing."""
    shown = list(bounds)
    starts = [found.budgets[found.loss(loss) <= 1e-9].max(initial=found.budgets[0]) for found in shown]
    ends = []
    for found in shown:
        at_end = found.loss(loss) >= SATURATED * found.guessing(loss)
        ends.append(found.budgets[at_end].min(initial=found.budgets[-1]))
    return float(min(starts)), float(max(ends))
