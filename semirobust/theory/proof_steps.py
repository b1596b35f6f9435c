"""The steps of the proof of Lemma 1 (arXiv 2307.03803, A.2), both sides of each, on a finite model.

Integrals are sums and densities are probabilities. The adversary of the proof is a constant shift: all points
of the model must have the same number of inputs, and entry k of every list is shift k. "Holds" is a statement
about this model only; the instances of `theory.instances` make each step fail.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from semirobust.theory import enumeration, information
from semirobust.theory.checks import readout_values
from semirobust.theory.finite import FiniteModel, Readout


@dataclass(frozen=True)
class Step:
    """What a step sets equal, or claims to be ordered: ``left`` and ``right`` as printed; ``holds`` here."""

    left: Fraction | float
    right: Fraction | float
    holds: bool


def step_22(model: FiniteModel, j: int, readout: Readout) -> Step:
    """(22): E[inf y G] = sum_y y pi(y) int inf D(x|y) G dx. The right side takes y out of the infimum."""
    g = readout_values(readout, model.alphabet(j))
    points = zip(model.labels, model.masses, model.values(j), strict=True)
    right = sum((y * p * min(g[z] for z in reached) for y, p, reached in points), Fraction(0))
    left = model.robust_correlation(j, readout)
    return Step(left, right, left == right)


def step_23(model: FiniteModel, j: int, readout: Readout) -> Step:
    """(23): E[inf y G] = sum_y y pi(y) int inf p(g_delta|y) G(g) dg. It substitutes a variable that depends
    on delta under the infimum over delta.
    """
    g = readout_values(readout, model.alphabet(j))
    laws = [model.label_law(j, model.constant_attack(k)) for k in range(len(model.inputs[0]))]
    right = sum(
        (y * min(law.get((z, y), Fraction(0)) * g[z] for law in laws) for z, y in _keys(laws)), Fraction(0)
    )
    left = model.robust_correlation(j, readout)
    return Step(left, right, left == right)


def step_24(model: FiniteModel, j: int) -> Step:
    """(24): sum_y pi(y) int int inf p(g, h|y) r + 1 >= rho, with the largest rho that B1 allows, in nats.

    It moves the infimum over delta into the integral of the information.
    """
    laws = [model.law(j, model.constant_attack(k)) for k in range(len(model.inputs[0]))]
    terms = []
    for law in laws:
        gy, hy = information.marginal(law, 0, 2), information.marginal(law, 1, 2)
        y = information.marginal(law, 2)
        terms.append({k: m * m * y[k[2]] / (gy[k[0], k[2]] * hy[k[1], k[2]]) for k, m in law.items()})
    left = sum((min(term.get(key, Fraction(0)) for term in terms) for key in _keys(terms)), Fraction(1))
    rho = min(information.mutual_information(law) for law in laws)
    return Step(left, rho, left >= rho)


def growth_range(
    model: FiniteModel, j: int, before: Readout, after: Readout
) -> tuple[Fraction | float, Fraction | float]:
    """(26) to (27): the least and the largest E[y (G_{j-1} - G_j)] over all attack maps.

    The proof asks for the least one to be at most -(1 + U). It needs the same of the largest one.
    """
    model.law(j)  # raises for a layer that does not exist
    g = readout_values(before, model.alphabet(j - 1))
    h = readout_values(after, model.alphabet(j))
    low: Fraction | float = Fraction(0)
    high: Fraction | float = Fraction(0)
    for y, p, zs, ws in zip(model.labels, model.masses, model.values(j - 1), model.values(j), strict=True):
        losses = [y * (g[z] - h[w]) for z, w in zip(zs, ws, strict=True)]
        low, high = low + p * min(losses), high + p * max(losses)
    return low, high


def scale_for_growth(model: FiniteModel, j: int, before: Readout, after: Readout) -> Fraction | float:
    """A scale c with which c G_j meets A2 under every attack map: growth >= 1 + U_j from G_{j-1}.

    c = (1 + U_j + max_a E[y G_{j-1}]) / Gamma_j(G_j). So A2 holds for some unnormalised readout as soon as
    Gamma_j(G_j) > 0, which is what the theorem concludes. Raises ``ValueError`` where Gamma_j(G_j) <= 0.
    """
    gamma = model.robust_correlation(j, after)
    if gamma <= 0:
        raise ValueError(f"the readout of layer {j} has robust correlation {gamma}; no scale meets A2")
    g = readout_values(before, model.alphabet(j - 1))
    highest = -model.robust_correlation(j - 1, {z: -value for z, value in g.items()})
    return (1 + enumeration.largest_density_ratio(model, j) + highest) / gamma


def _keys(laws: Iterable[dict[Any, Fraction]]) -> list[Any]:
    return list(dict.fromkeys(key for law in laws for key in law))
