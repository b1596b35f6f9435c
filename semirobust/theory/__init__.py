"""Exact models of the statements of arXiv 2307.03803: every quantity is a fraction or a closed form.

finite        ``FiniteModel``: points, layers and attacks with exact robust correlations
instances     the models of the counterexamples: ``LADDER``, ``SKEW``, triangles, coins
enumeration   best readouts and attacks by enumeration: a slow twin
conflicts     conflict graphs of finite models
information   entropies, mutual information and density ratios of finite laws
corrected     the corrected bounds that stand in place of Theorem 2
proof_steps   the steps of the printed proofs, (22) to (24), evaluated
connectivity  linear connectivity: Lemma 2 and Theorem 3 as sums over paths
gaussian      Gaussian chains in closed form
checks        checks of points, layers and attacks
"""

from __future__ import annotations

from semirobust.theory import (
    connectivity,
    corrected,
    enumeration,
    finite,
    gaussian,
    information,
    instances,
    proof_steps,
)
from semirobust.theory.conflicts import CrossEntropy
from semirobust.theory.connectivity import LinearConnectivity, linear_correlation, path_count
from semirobust.theory.corrected import corrected_bounds
from semirobust.theory.finite import FiniteModel
from semirobust.theory.gaussian import GAUSS
from semirobust.theory.information import bits
from semirobust.theory.instances import ARBITRARY_K, LADDER, LEMMA_1_CONSTANT, SKEW, TRIANGLE, XOR, no_go

__all__ = [
    "ARBITRARY_K",
    "GAUSS",
    "LADDER",
    "LEMMA_1_CONSTANT",
    "SKEW",
    "TRIANGLE",
    "XOR",
    "CrossEntropy",
    "FiniteModel",
    "LinearConnectivity",
    "bits",
    "connectivity",
    "corrected",
    "corrected_bounds",
    "enumeration",
    "finite",
    "gaussian",
    "information",
    "instances",
    "linear_correlation",
    "no_go",
    "path_count",
    "proof_steps",
]
