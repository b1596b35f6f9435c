"""Conflict graphs: which points can be made to collide, and the least robust loss of any classifier.

graph    ``ConflictGraph``: 0-1 loss and cross-entropy, each with a certificate
flow     maximum flow in bipartite graphs with real capacities
blocks   the decomposition of a graph into blocks of equal ratio
budgets  the losses of a whole range of budgets
checks   checks of edges and weights
exact    a slow twin in fractions
"""

from __future__ import annotations

from semirobust.conflict.budgets import Curve, ascending, curve, nearest, violated
from semirobust.conflict.exact import exact_cover, exact_cross_entropy
from semirobust.conflict.graph import Certificate, ConflictGraph, Cover, CrossEntropy

__all__ = [
    "Certificate",
    "ConflictGraph",
    "Cover",
    "CrossEntropy",
    "Curve",
    "ascending",
    "curve",
    "exact_cover",
    "exact_cross_entropy",
    "nearest",
    "violated",
]
