"""Drawings in one style, with the same bytes on every run and a note of where each figure came from.

style          colours, ``use_style`` and ``save_figure``
finite_models  exact models: what attacks reach, conflict graphs, layers
bounds         the bounds of `experiments.bound_curves`
algorithm_1    trials, causal controls, dependence along f_b
ceiling        the ceilings and readouts of `experiments.ceiling_curves`
"""

from __future__ import annotations

from semirobust.figures import algorithm_1, bounds, ceiling
from semirobust.figures.finite_models import (
    CLASS_COLORS,
    CLASS_MARKERS,
    MOST_POINTS,
    columns,
    draw_conflicts,
    draw_layers,
    draw_reach,
)
from semirobust.figures.style import COLORS, save_figure, styled, use_style

__all__ = [
    "CLASS_COLORS",
    "CLASS_MARKERS",
    "COLORS",
    "MOST_POINTS",
    "algorithm_1",
    "bounds",
    "ceiling",
    "columns",
    "draw_conflicts",
    "draw_layers",
    "draw_reach",
    "save_figure",
    "styled",
    "use_style",
]
