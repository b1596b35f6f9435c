"""EDGE, the papers' estimator of mutual information (Noshad et al.), in bits.

estimator   ``edge``: step by step, with cap and entropies
projection  random projections of layers, in one or two passes
cells       hashing of points into cells, and their bandwidths
reference   a slow reference implementation, step by step as published
"""

from __future__ import annotations

from semirobust.edge import reference
from semirobust.edge.cells import Side, cells
from semirobust.edge.estimator import (
    MIN_SAMPLES,
    SATURATION_BITS,
    EdgeOptions,
    Estimate,
    Samples,
    as_samples,
    cell_information,
    checked_samples,
    compare,
    edge,
)
from semirobust.edge.projection import TwoPasses, projected_dimensions
from semirobust.edge.reference import edge_reference

__all__ = [
    "MIN_SAMPLES",
    "SATURATION_BITS",
    "EdgeOptions",
    "Estimate",
    "Samples",
    "Side",
    "TwoPasses",
    "as_samples",
    "cell_information",
    "cells",
    "checked_samples",
    "compare",
    "edge",
    "edge_reference",
    "projected_dimensions",
    "reference",
]
