"""Pictures of finite models show what the models say: positions, conflicts, covers, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Annotation

from semirobust.figures import (
    CLASS_COLORS,
    COLORS,
    MOST_POINTS,
    columns,
    draw_conflicts,
    draw_layers,
    draw_reach,
)
from semirobust.theory import LADDER, SKEW, XOR, FiniteModel

MODELS = {"LADDER": LADDER, "SKEW": SKEW, "XOR": XOR}
each_layer = pytest.mark.parametrize(
    ("model", "j"),
    [
        pytest.param(model, j, id=f"{name}-{j}")
        for name, model in MODELS.items()
        for j in range(model.depth + 1)
    ],
)


def new_axis() -> Axes:
    return Figure().subplots()


def nodes(axis: Axes) -> dict[tuple[float, float], str]:
    """Position -> face colour of every drawn point."""
    found: dict[tuple[float, float], str] = {}
    for dots in axis.collections:
        assert isinstance(dots, PathCollection)
        for x, y in np.asarray(dots.get_offsets()):
            found[float(x), float(y)] = to_hex(np.asarray(dots.get_facecolor())[0])
    return found


def edges_drawn(axis: Axes) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    ends = [np.asarray(line.get_xydata()) for line in axis.lines]
    return [((float(a[0]), float(a[1])), (float(b[0]), float(b[1]))) for a, b in ends]


def test_columns_are_sorted_numbers_or_values_in_order_of_appearance() -> None:
    assert columns(LADDER, 0) == {x: x + 1 for x in range(-1, 11)}
    assert list(columns(SKEW, 0)) == list("abcdeghikl")
    halves = FiniteModel.from_shifts((1, -1), (1, -1), (0, Fraction(1, 2)))
    assert list(columns(halves, 0)) == [-1, Fraction(-1, 2), 1, Fraction(3, 2)]


@each_layer
def test_every_point_has_its_reachable_values_in_its_row(model: FiniteModel, j: int) -> None:
    axis = new_axis()
    draw_reach(axis, model, j)
    column = columns(model, j)
    for row, (label, reached) in enumerate(zip(model.labels, model.values(j), strict=True)):
        own = [line for line in axis.lines if set(np.atleast_1d(line.get_ydata())) == {row}]
        assert {to_hex(line.get_color()) for line in own} == {CLASS_COLORS[label].lower()}
        hollow, filled = own
        assert set(np.asarray(hollow.get_xdata())) == {column[z] for z in reached}
        assert list(np.asarray(filled.get_xdata())) == [column[reached[0]]]
        assert hollow.get_markerfacecolor() == "white" != filled.get_markerfacecolor()


@each_layer
def test_exactly_the_conflicting_values_are_shaded(model: FiniteModel, j: int) -> None:
    axis = new_axis()
    draw_reach(axis, model, j)
    bands = [patch for patch in axis.patches if isinstance(patch, Rectangle)]
    shaded = sorted(band.get_x() + band.get_width() / 2 for band in bands)
    points = list(zip(model.labels, model.values(j), strict=True))
    both = [z for z in model.alphabet(j) if len({y for y, reached in points if z in reached}) == 2]
    assert shaded == pytest.approx(sorted(columns(model, j)[z] for z in both))
    assert bool(bands) == bool(model.edges(j))


@each_layer
def test_the_graph_has_all_conflicts_and_its_cover_leaves_none(model: FiniteModel, j: int) -> None:
    axis = new_axis()
    draw_conflicts(axis, model, j)
    drawn, at = edges_drawn(axis), nodes(axis)
    assert len(drawn) == len(set(drawn)) == len(model.edges(j))
    assert len(at) == len(model.labels)
    covered = {place for place, colour in at.items() if colour == COLORS["attacked"].lower()}
    assert all(start[0] == 0 and end[0] == 1 and {start, end} & covered for start, end in drawn)
    assert len(covered) == len(model.cover(model.edges(j))[1])


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_layers_have_an_arrow_from_every_value_to_its_image(model: FiniteModel) -> None:
    axis = new_axis()
    readouts = [{z: Fraction(k, 7) for k, z in enumerate(model.alphabet(j))} for j in range(model.depth + 1)]
    draw_layers(axis, model, readouts)
    arrows = [note for note in axis.texts if isinstance(note, Annotation) and note.arrow_patch is not None]
    starts = [(round(note.xyann[0]), note.xyann[1]) for note in arrows]
    at = nodes(axis)
    assert sorted(starts) == sorted(place for place in at if place[0] < model.depth)
    assert {(float(x), float(y)) for x, y in (note.xy for note in arrows)} == {
        place for place in at if place[0] > 0
    }
    for j in range(model.depth + 1):
        conflicts = [p for p, colour in at.items() if p[0] == j and colour == COLORS["attacked"].lower()]
        assert len([place for place in at if place[0] == j]) == len(model.alphabet(j))
        assert bool(conflicts) == bool(model.edges(j))
    written = [note.get_text() for note in axis.texts if "/" in note.get_text()]
    assert len(written) == sum(
        (k % 7 != 0) for j in range(model.depth + 1) for k in range(len(model.alphabet(j)))
    )


def test_readouts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="3 readouts for 4 layers"):
        draw_layers(new_axis(), LADDER, [{}] * 3)
    with pytest.raises(ValueError, match="layer 0 has no entry for the reachable value"):
        draw_layers(new_axis(), LADDER, [{}] * 4)


def test_names_masses_and_one_legend_entry_each() -> None:
    axis = new_axis()
    draw_conflicts(axis, SKEW, 2)
    assert [text.get_text() for text in axis.texts] == [
        "a  (3/20)",
        "c  (1/4)",
        "e  (1/10)",
        "h  (1/5)",
        "k  (3/10)",
    ]
    assert sorted(axis.get_legend_handles_labels()[1]) == sorted(
        ["conflict", "minimum cover", "$y = +1$", "$y = -1$"]
    )
    axis = new_axis()
    draw_reach(axis, XOR, 1)
    assert sorted(axis.get_legend_handles_labels()[1]) == ["$y = +1$", "$y = -1$"]
    assert [text.get_text() for text in axis.get_yticklabels()] == [
        "(\N{MINUS SIGN}1,\N{MINUS SIGN}1)",
        "(\N{MINUS SIGN}1,1)",
        "(1,\N{MINUS SIGN}1)",
        "(1,1)",
    ]


@pytest.mark.parametrize("draw", [draw_reach, draw_conflicts])
def test_what_cannot_be_drawn_is_refused(draw: Callable[[Axes, FiniteModel, int], Any]) -> None:
    axis = new_axis()
    with pytest.raises(ValueError, match="layer 4 does not exist"):
        draw(axis, LADDER, 4)
    points = tuple(range(MOST_POINTS + 1))
    with pytest.raises(ValueError, match="41 points; a picture shows at most 40"):
        draw(axis, FiniteModel.from_shifts(points, (1,) * len(points), (0,)), 0)
    assert not axis.lines and not axis.collections
