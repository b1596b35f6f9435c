"""Collisions: perturbed points of two classes that a feature extractor maps to the same features.

After the paper on fixed feature extractors. Every collision is verified, to a stated tolerance.

find      ``find_collisions``, ``linear_collision``, ``verify_collisions``: the functions that a user calls
linear    linear layers and convolutions: collisions and distances of all pairs, in closed form
network   layers relu(L x + k), and their affine maps on a fixed pattern of open units
result    what a search returns
pairs     ``search``: the least losses at a range of budgets, from the pairs that matter
pool      the search of many pairs on several processes, resumable
transfer  ``find_transfer``, ``ceiling``: what collisions imply for every readout of a layer
solvers   one method per file; ``descent`` is the paper's, ``admm`` the fast one
"""

from __future__ import annotations

from semirobust.collisions import solvers
from semirobust.collisions.find import (
    METHODS,
    enumerate_patterns,
    find_collisions,
    graph,
    linear_collision,
    linear_distances,
    verify_collisions,
)
from semirobust.collisions.network import Network, Pattern
from semirobust.collisions.pairs import Audit, Search, search
from semirobust.collisions.result import Collisions
from semirobust.collisions.transfer import Transfer, ceiling, find_transfer

__all__ = [
    "METHODS",
    "Audit",
    "Collisions",
    "Network",
    "Pattern",
    "Search",
    "Transfer",
    "ceiling",
    "enumerate_patterns",
    "find_collisions",
    "find_transfer",
    "graph",
    "linear_collision",
    "linear_distances",
    "search",
    "solvers",
    "verify_collisions",
]
