"""Pictures of finite models: reachable sets of points, conflict graphs, and the values that layers merge.

All functions draw on an axis that the caller owns. They set its ticks and limits, and leave title, size and
legend to the caller (``axis.legend()`` finds the labels). The two classes differ in colour and in marker, so
that a picture still works in black and white. The terms are those of `theory.finite`, which makes
Definition 1 of arXiv 2307.03803 precise.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from numbers import Real
from types import MappingProxyType
from typing import Any

from matplotlib.axes import Axes

from semirobust.figures.style import COLORS
from semirobust.theory import FiniteModel

#: label -> the colour and the marker of its class
CLASS_COLORS: Mapping[int, str] = MappingProxyType({1: COLORS["ours"], -1: COLORS["other"]})
CLASS_MARKERS: Mapping[int, str] = MappingProxyType({1: "o", -1: "s"})
MOST_POINTS = 40  # with more points the rows of a picture cannot be told apart
_CONFLICT = COLORS["attacked"]


def columns(model: FiniteModel, j: int) -> dict[Hashable, int]:
    """Reachable values of layer j -> their columns 0, 1, ... in a picture.

    Real numbers are in increasing order, other values in order of appearance. Raises ``ValueError`` for a
    layer that does not exist.
    """
    values = model.alphabet(j)
    if all(isinstance(value, Real) for value in values):
        values = tuple(sorted(values))
    return {value: column for column, value in enumerate(values)}


def draw_reach(axis: Axes, model: FiniteModel, j: int) -> None:
    """The reachable set of each point at layer j: one row per point (the first on top), one column per value.

    A line joins the values that one point can be sent to; the marker of its clean value is filled. A column
    is shaded where both classes reach the value: a conflict. Rows are named by the clean input of the point.
    Raises ``ValueError`` for a layer that does not exist and for more than MOST_POINTS points.
    """
    _check_size(model)
    column, rows = columns(model, j), len(model.labels)
    for row, (label, reached) in enumerate(zip(model.labels, model.values(j), strict=True)):
        at = sorted({column[value] for value in reached})
        looks: dict[str, Any] = {
            "marker": CLASS_MARKERS[label],
            "color": CLASS_COLORS[label],
            "ls": "-",
            "lw": 1.2,
            "ms": 6,
        }
        axis.plot(at, [row] * len(at), **looks, mfc="white", zorder=3, label=_once(axis, _name(label)))
        axis.plot([column[reached[0]]], [row], **looks, zorder=4)
    for value, reached_by in _reached_by(model, j).items():
        if reached_by is None:
            left = column[value] - 0.4
            name = _once(axis, "conflict: both classes reach the value")
            axis.axvspan(left, left + 0.8, color=_CONFLICT, alpha=0.22, lw=0, zorder=1, label=name)
    names = [_text(value) for value in column]
    crowded = sum(map(len, names)) > 18 and max(map(len, names)) > 2
    axis.set_xticks(range(len(column)), names, rotation=90 if crowded else 0)
    axis.set_yticks(range(rows), [_text(inputs[0]) for inputs in model.inputs])
    axis.set(xlim=(-0.6, len(column) - 0.4), ylim=(rows - 0.4, -0.6))
    axis.tick_params(length=0)
    axis.grid(axis="y", visible=False)


def draw_conflicts(axis: Axes, model: FiniteModel, j: int) -> None:
    """The conflict graph of layer j: positive points left, negative ones right, conflicts as edges.

    Beside each point stand its clean input and its mass; heavier points are larger. The points of one minimum
    cover are filled: removing them removes every conflict, and their mass is the least robust 0-1 error.
    Raises ``ValueError`` for a layer that does not exist and for more than MOST_POINTS points.
    """
    _check_size(model)
    edges = model.edges(j)
    _, cover = model.cover(edges)
    sides = {label: [v for v, y in enumerate(model.labels) if y == label] for label in (1, -1)}
    tallest = max(map(len, sides.values()))
    place = {
        v: (0.0 if label == 1 else 1.0, (i + 0.5) * tallest / len(side) - 0.5)
        for label, side in sides.items()
        for i, v in enumerate(side)
    }
    for u, v in edges:
        (x_u, y_u), (x_v, y_v) = place[u], place[v]
        axis.plot(
            [x_u, x_v], [y_u, y_v], "-", color=_CONFLICT, lw=1.2, zorder=1, label=_once(axis, "conflict")
        )
    largest = max(model.masses)
    for v, (label, mass) in enumerate(zip(model.labels, model.masses, strict=True)):
        x, y = place[v]
        looks: dict[str, Any] = {
            "marker": CLASS_MARKERS[label],
            "edgecolor": CLASS_COLORS[label],
            "linewidth": 1.6,
        }
        axis.scatter([], [], 60, **looks, facecolor="white", label=_once(axis, _name(label)))
        fill = _CONFLICT if v in cover else "white"
        axis.scatter([x], [y], 40 + 120 * float(mass / largest), **looks, facecolor=fill, zorder=3)
        axis.annotate(
            f"{_text(model.inputs[v][0])}  ({_text(mass)})", (x, y), (-10 if label == 1 else 10, 0),
            textcoords="offset points", va="center", ha="right" if label == 1 else "left",
        )  # fmt: skip
    if cover:
        axis.scatter([], [], 60, color=_CONFLICT, label="minimum cover")
    axis.set(xlim=(-0.9, 1.9), ylim=(tallest - 0.4, -0.6))
    axis.set_xticks([0, 1], ["$y = +1$", "$y = -1$"])
    axis.set_yticks([])
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    axis.grid(visible=False)


def draw_layers(
    axis: Axes, model: FiniteModel, readouts: Sequence[Mapping[Any, object]] | None = None
) -> None:
    """The values of all layers, one column per layer, and arrows from each value to its image.

    Where arrows meet, a layer merges values. A value that both classes reach is marked as a conflict.
    ``readouts``: one mapping per layer, the input included. What it maps a value to is written to the right
    of the value. Raises ``ValueError`` for more than MOST_POINTS points, for a number of readouts that does
    not fit, and for a readout that lacks a reachable value.
    """
    _check_size(model)
    if readouts is not None and len(readouts) != model.depth + 1:
        raise ValueError(
            f"{len(readouts)} readouts for {model.depth + 1} layers: give one for each, 0 included"
        )
    orders = [columns(model, j) for j in range(model.depth + 1)]
    tallest = max(map(len, orders))
    heights = [{z: (row + 0.5) * tallest / len(order) for z, row in order.items()} for order in orders]
    for j, here in enumerate(heights):
        for value, label in _reached_by(model, j).items():
            looks = (CLASS_MARKERS[label], CLASS_COLORS[label]) if label else ("D", _CONFLICT)
            name = _name(label) if label else "conflict: both classes reach the value"
            axis.scatter(
                [j], [here[value]], 190, marker=looks[0], color=looks[1], zorder=3, label=_once(axis, name)
            )
            axis.text(
                j, here[value], _text(value), color="white", ha="center", va="center_baseline", zorder=4
            )
            if readouts is not None:
                if value not in readouts[j]:
                    raise ValueError(
                        f"the readout of layer {j} has no entry for the reachable value {value!r}"
                    )
                axis.annotate(
                    _text(readouts[j][value]), (j, here[value]), (11, 0), textcoords="offset points",
                    va="center_baseline", zorder=4, bbox={"fc": "white", "ec": "none", "pad": 0.6},
                )  # fmt: skip
        if j:
            pairs = zip(model.values(j - 1), model.values(j), strict=True)
            moves = {move for before, after in pairs for move in zip(before, after, strict=True)}
            for z, w in sorted(moves, key=lambda move: (heights[j - 1][move[0]], heights[j][move[1]])):
                axis.annotate(
                    "", (j, here[w]), (j - 1, heights[j - 1][z]), zorder=1,
                    arrowprops={"arrowstyle": "->", "color": COLORS["printed"], "lw": 0.9, "shrinkB": 9},
                )  # fmt: skip
    axis.set_xticks(range(len(orders)), [f"layer {j}" if j else "input" for j in range(len(orders))])
    axis.set_yticks([])
    axis.set(xlim=(-0.3, model.depth + 0.5), ylim=(tallest + 0.1, -0.1))
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    axis.grid(visible=False)


def _reached_by(model: FiniteModel, j: int) -> dict[Hashable, int | None]:
    """Value of layer j -> the label of the points that reach it, or None where both classes do."""
    found: dict[Hashable, int | None] = {}
    for label, reached in zip(model.labels, model.values(j), strict=True):
        for value in reached:
            found[value] = label if found.get(value, label) == label else None
    return found


def _check_size(model: FiniteModel) -> None:
    if len(model.labels) > MOST_POINTS:
        raise ValueError(
            f"the model has {len(model.labels)} points; a picture shows at most {MOST_POINTS}: "
            f"draw a smaller one"
        )


def _name(label: int) -> str:
    return f"$y = {label:+d}$"


def _once(axis: Axes, label: str) -> str | None:
    """The label, or None where the axis has it already: the legend gets a single entry."""
    return None if label in axis.get_legend_handles_labels()[1] else label


def _text(value: object) -> str:
    """Short text of a value: tuples without spaces, negative numbers with a minus sign."""
    if isinstance(value, tuple):
        return "(" + ",".join(map(_text, value)) + ")"
    if isinstance(value, float):
        return f"{value:.3g}".replace("-", "\N{MINUS SIGN}")
    return str(value).replace("-", "\N{MINUS SIGN}") if isinstance(value, Real) else str(value)
