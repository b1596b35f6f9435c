"""Five lower bounds that hold in place of Theorem 2 of arXiv 2307.03803, on finite models.

The printed theorem adds dependencies I(Z_{j-1}; Z_j | y) to a robust correlation. No function of the two
bounds the robust correlation of the next layer from below by more than 0 (``theory.no_go``). With |G| <= 1
and layers j = a+1, ..., n, these bounds hold:

(A) Conflicts: Gamma_n* >= Gamma_a* - 2 sum_j MVC(E_j minus E_{j-1}). A cover of E_{j-1} and a cover of the
    new conflicts together cover E_j.
(B) Label information: 1 - CE_n* <= Gamma_n* <= 1 - 2 h_b^{-1}(CE_n*), in bits. Hellman and Raviv's inequality
    at the attack that is worst for 0-1 loss; Fano's at the one that is worst for cross-entropy.
(C) Dependency: Gamma_n* >= 1 - h_b((1 - gamma_a) / 2) - sum_j eta_j for 0 <= gamma_a <= Gamma_a*, where eta_j
    is the largest H(Z_{j-1} | Z_j) over randomised attacks, in bits. From H(y | Z_j) <= H(y | Z_{j-1}) +
    H(Z_{j-1} | Z_j) under every attack, CE_j* <= CE_{j-1}* + eta_j; then Fano and (B). The threshold on the
    dependency is relative: I(Z_{j-1}; Z_j) >= H(Z_{j-1}) - eta_j.
(D) Distillation gap: Gamma_n(G_n) >= Gamma_a(G_a) - sum_j d_{j-1,j}, with d_ij the mean largest difference of
    the two readouts under attack.
(E) Lipschitz: Gamma_n(G_n) >= E[y G_n(F^(n)(X))] - L E[D_a(X)], if the map from layer a to G_n is L-Lipschitz
    and D_a is the largest displacement of layer a under attack.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from semirobust.theory import information
from semirobust.theory.checks import readout_values
from semirobust.theory.finite import FiniteModel, Readout

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Bracket:
    """low <= eta_j <= high, in bits, up to rounding; gap: high - low; steps: how many were taken."""

    low: float
    high: float
    steps: int

    @property
    def gap(self) -> float:
        return self.high - self.low


@dataclass(frozen=True)
class Bounds:
    """Gamma_n* and what forms (A), (B) and (C) say about it from layer a.

    conflict: (A), exact. label_information: (B). dependency: (C), with the upper ends of the brackets of eta,
    so that it is a bound whatever their gaps. upper: the upper bound of (B). gamma_star: the truth, exact.
    new_covers, etas: one for each layer a+1, ..., n.
    """

    gamma_star: Fraction
    conflict: Fraction
    label_information: float
    dependency: float
    upper: float
    new_covers: tuple[Fraction, ...]
    etas: tuple[Bracket, ...]


def corrected_bounds(
    model: FiniteModel, a: int, n: int, *, gamma_a: Fraction | None = None, tolerance: float = 1e-9
) -> Bounds:
    """Forms (A), (B) and (C) from layer a to layer n, 0 <= a <= n.

    gamma_a: what layer a is known to be semirobust with, 0 <= gamma_a <= Gamma_a*; by default Gamma_a*.
    tolerance: see ``eta``. Raises ``ValueError`` for layers and gamma_a out of range.
    """
    best = model.gamma_star(a)
    gamma = best if gamma_a is None else gamma_a
    if not 0 <= gamma <= best:
        raise ValueError(f"gamma_a is {gamma}; layer {a} is semirobust with 0 to {best} only")
    if n < a:
        raise ValueError(f"layer n = {n} comes before layer a = {a}; give a <= n")
    model.values(n)
    covers = tuple(model.new_cover(j) for j in range(a + 1, n + 1))
    etas = tuple(eta(model, j, tolerance=tolerance) for j in range(a + 1, n + 1))
    ce = model.cross_entropy(n).bits
    lost = math.fsum(bracket.high for bracket in etas)
    return Bounds(
        gamma_star=model.gamma_star(n),
        conflict=gamma - 2 * sum(covers, Fraction(0)),
        label_information=1 - ce,
        dependency=1 - information.binary_entropy((1 - Fraction(gamma)) / 2) - lost,
        upper=1 - 2 * information.inverse_binary_entropy(min(1.0, ce)),
        new_covers=covers,
        etas=etas,
    )


def eta(model: FiniteModel, j: int, *, tolerance: float = 1e-9, max_steps: int = 5_000) -> Bracket:
    """eta_j, the largest H(Z_{j-1} | Z_j) over randomised attacks, between two bounds in bits.

    H is concave in the attack, and -H is smooth relative to the negative entropy of the attack: mirror
    ascent, alpha_v(z) proportional to alpha_v(z) / Q(z | w)^s, never lowers H with step s = 1. Q is the
    current law of Z_{j-1} given Z_j. Longer steps are tried, and kept while they raise H. The upper bound is
    that of Frank and Wolfe; it holds for every Q: eta_j <= sum_v p_v max_z -log Q(z | w) over what point v
    reaches. Stops at a gap of ``tolerance`` bits or after ``max_steps``, and reports the bracket that it has.
    """
    if not tolerance > 0 or max_steps < 1:
        raise ValueError(f"tolerance is {tolerance!r} and max_steps {max_steps!r}; both must be positive")
    model.law(j)  # raises for a layer that does not exist
    before, after = model.values(j - 1), model.values(j)
    names = {z: i for i, z in enumerate(model.alphabet(j - 1))}
    targets = {w: i for i, w in enumerate(model.alphabet(j))}
    image = {z: w for zs, ws in zip(before, after, strict=True) for z, w in zip(zs, ws, strict=True)}
    w_of = np.array([targets[image[z]] for z in names])  # [Z]
    moves = [sorted({names[z] for z in reached}) for reached in before]
    z_of = np.array([z for reached in moves for z in reached])  # [M]: all moves, point by point
    sizes = np.array([len(reached) for reached in moves])  # [V]
    point = np.repeat(np.arange(len(moves)), sizes)  # [M]
    first = np.cumsum(sizes) - sizes  # [V]: where the moves of each point start
    p = np.array([float(mass) for mass in model.masses])  # [V]

    def ascend(log_alpha: Floats, by: Floats) -> tuple[Floats, float, Floats, Floats]:
        """The attack after a step [M], its H, -ln Q(z | w) of each move [M], the largest of a point [V]."""
        moved = log_alpha + by
        moved = moved - np.maximum.reduceat(moved, first)[point]
        moved -= np.log(np.add.reduceat(np.exp(moved), first))[point]
        moved = np.maximum(moved, -600.0)  # so that no mass is zero
        spent = p[point] * np.exp(moved)
        mass = np.bincount(z_of, spent, len(names))  # [Z]
        cost = (np.log(np.bincount(w_of, mass)[w_of]) - np.log(mass))[z_of]
        return moved, float(spent @ cost), cost, np.maximum.reduceat(cost, first)

    state = ascend(np.zeros(len(z_of)), np.zeros(len(z_of)))  # uniform
    high, length = float(p @ state[3]), 1.0
    for step in range(1, max_steps + 1):
        if high - state[1] <= tolerance * math.log(2) or step == max_steps:
            break
        tried = ascend(state[0], length * state[2])
        high = min(high, float(p @ tried[3]))
        if tried[1] > state[1] or length == 1.0:
            state, length = tried, 2 * length
        else:
            length = 1.0
    return Bracket(information.bits(max(0.0, state[1])), information.bits(max(0.0, state[1], high)), step)


def distillation_gap(
    model: FiniteModel, i: int, readout_i: Readout, j: int, readout_j: Readout
) -> Fraction | float:
    """d_ij = E[max over the inputs |G_j(F^(j)) - G_i(F^(i))|], of form (D)."""
    g_i, g_j = readout_values(readout_i, model.alphabet(i)), readout_values(readout_j, model.alphabet(j))
    total: Fraction | float = Fraction(0)
    for p, zs, ws in zip(model.masses, model.values(i), model.values(j), strict=True):
        gaps: list[Any] = [abs(g_j[w] - g_i[z]) for z, w in zip(zs, ws, strict=True)]
        total += p * max(gaps)
    return total


def displacement(
    model: FiniteModel, j: int, distance: Callable[[Any, Any], Fraction | float] = lambda z, w: abs(z - w)
) -> Fraction | float:
    """E[max over the inputs of the distance of F^(j) to its clean value], of form (E)."""
    points = zip(model.masses, model.values(j), strict=True)
    return sum((p * max(distance(z, zs[0]) for z in zs) for p, zs in points), Fraction(0))


def lipschitz_bound(
    model: FiniteModel,
    a: int,
    n: int,
    readout: Readout,
    lipschitz: Fraction | float,
    distance: Callable[[Any, Any], Fraction | float] = lambda z, w: abs(z - w),
) -> Fraction | float:
    """Form (E): the clean correlation of the readout of layer n less lipschitz * E[displacement of layer a].

    ``lipschitz`` is yours to guarantee: a Lipschitz constant, in ``distance``, of the map from layer a to the
    readout on a convex set that holds the attacked values.
    """
    if not lipschitz >= 0:
        raise ValueError(f"lipschitz is {lipschitz!r}; a Lipschitz constant is not negative")
    return model.correlation(n, readout) - lipschitz * displacement(model, a, distance)
