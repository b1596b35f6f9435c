"""Lipschitz constants of layers, and bounds on what a change of weights can do to a network.

Section 2.2 of arXiv 2307.03803.

constants  ``lipschitz``: rigorous constants of a network, and the norms of its layers
operators  norms of convolutions and pools
steps      a network as steps that stretch a difference by a known factor
pair       two networks of one architecture, folded alike
layerwise  ``telescope``: the difference of two networks as a sum over layers
taylor     ``curvature``: the Taylor identity along the segment between two networks
robust     ``robust_difference``: bounds on the difference under attack
path       paths in weight space: distances, points between, steepest directions
"""

from __future__ import annotations

from semirobust.bounds.constants import Constants, NormBound, lipschitz, lipschitz_constants, operator_norm
from semirobust.bounds.layerwise import Telescope, telescope
from semirobust.bounds.pair import Pair, folded_pair
from semirobust.bounds.path import between, distance, moved, peeled, steepest
from semirobust.bounds.robust import Certificate, RobustDifference, lipschitz_certificate, robust_difference
from semirobust.bounds.taylor import Ritz, Taylor, curvature

__all__ = [
    "Certificate",
    "Constants",
    "NormBound",
    "Pair",
    "Ritz",
    "RobustDifference",
    "Taylor",
    "Telescope",
    "between",
    "curvature",
    "distance",
    "folded_pair",
    "lipschitz",
    "lipschitz_certificate",
    "lipschitz_constants",
    "moved",
    "operator_norm",
    "peeled",
    "robust_difference",
    "steepest",
    "telescope",
]
