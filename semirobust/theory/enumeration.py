"""A slow twin for `theory.finite` and `theory.corrected`: the same numbers from their definitions.

Nothing here knows about conflict graphs. Readouts, attack maps and covers are enumerated in rational
arithmetic; soft readouts, randomised attacks and several classes are linear or convex programs handed to
SciPy (floats). It is for models of a few points: anything above a million combinations is refused.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import LinearConstraint, linprog, minimize

from semirobust.theory.finite import FiniteModel, Readout

LIMIT = 1_000_000  # combinations
Floats = npt.NDArray[np.float64]


def hard_readouts(model: FiniteModel, j: int) -> Iterator[dict[Any, int]]:
    """All readouts of layer j with values in {-1, +1}."""
    alphabet = model.alphabet(j)
    _affordable(2 ** len(alphabet), f"readouts of layer {j}")
    for signs in itertools.product((-1, 1), repeat=len(alphabet)):
        yield dict(zip(alphabet, signs, strict=True))


def attack_maps(model: FiniteModel, *layers: int) -> Iterator[tuple[int, ...]]:
    """All attack maps; with layers, only the first of those that give every point the same values there."""
    seen_by = [model.values(i) for i in layers] or [tuple(tuple(range(len(r))) for r in model.inputs)]
    choices: list[list[int]] = []
    for v, inputs in enumerate(model.inputs):
        first: dict[Any, int] = {}
        for k in range(len(inputs)):
            first.setdefault(tuple(values[v][k] for values in seen_by), k)
        choices.append(list(first.values()))
    _affordable(math.prod(map(len, choices)), "attack maps")
    yield from itertools.product(*choices)


def robust_correlation(model: FiniteModel, j: int, readout: Readout) -> Fraction | float:
    """Gamma_j(G) as the least correlation over all attack maps."""
    return min(model.correlation(j, readout, attack) for attack in attack_maps(model, j))


def best_correlation(model: FiniteModel, j: int) -> Fraction:
    """Gamma_j*: the largest over all readouts in {-1, +1} of the least correlation over all attack maps."""
    laws = [model.label_law(j, attack) for attack in attack_maps(model, j)]
    _affordable(len(laws) * 2 ** len(model.alphabet(j)), "pairs of a readout and an attack map")
    return max(
        min(sum((p * y * g[z] for (z, y), p in law.items()), Fraction(0)) for law in laws)
        for g in hard_readouts(model, j)
    )


def best_soft_correlation(model: FiniteModel, j: int) -> float:
    """sup of Gamma_j(G) over readouts with -1 <= G <= 1, by linear programming."""
    return _best_on(model, j, np.eye(len(model.alphabet(j))))


def best_linear_correlation(model: FiniteModel, j: int) -> float:
    """sup of Gamma_j(G) over linear readouts G(z) = <w, z> with |G| <= 1 at every reachable value.

    Values of layer j are numbers or tuples of numbers. Linear readouts are not closed under pull-back, so
    that this one can rise with j.
    """
    return _best_on(model, j, np.array([np.atleast_1d(z) for z in model.alphabet(j)], dtype=float))


def _best_on(model: FiniteModel, j: int, features: Floats) -> float:
    """max sum_v p_v t_v with t_v <= y_v <w, features(z)> where v reaches z, and |<w, features(z)>| <= 1."""
    index = {z: i for i, z in enumerate(model.alphabet(j))}
    rows, bound = [], []
    n, d = len(model.labels), features.shape[1]
    for v, reached in enumerate(model.values(j)):
        for z in set(reached):
            rows.append(np.concatenate([np.eye(n)[v], -model.labels[v] * features[index[z]]]))
            bound.append(0.0)
    for z in features:
        rows += [np.concatenate([np.zeros(n), s * z]) for s in (1, -1)]
        bound += [1.0, 1.0]
    cost = np.concatenate([[-float(p) for p in model.masses], np.zeros(d)])
    return 0.0 - _program(cost, A_ub=np.array(rows), b_ub=bound, bounds=(None, None))


def minimax_correlation(model: FiniteModel, j: int) -> float:
    """min over randomised attacks of sum_z |P(z, +1) - P(z, -1)|, by linear programming."""
    index = {z: i for i, z in enumerate(model.alphabet(j))}
    moves = [(v, z) for v, reached in enumerate(model.values(j)) for z in dict.fromkeys(reached)]
    m, n, size = len(moves), len(model.labels), len(index)
    net, total = np.zeros((size, m)), np.zeros((n, m))
    for i, (v, z) in enumerate(moves):
        net[index[z], i], total[v, i] = model.labels[v], 1.0
    rows = np.block([[net, -np.eye(size)], [-net, -np.eye(size)]])
    return _program(
        np.concatenate([np.zeros(m), np.ones(size)]),
        A_ub=rows,
        b_ub=np.zeros(2 * size),
        A_eq=np.hstack([total, np.zeros((n, size))]),
        b_eq=[float(p) for p in model.masses],
    )


def minimum_cover(masses: Sequence[Fraction], edges: Sequence[tuple[int, int]]) -> Fraction:
    """The least mass of a set of points that meets every edge, over all sets of points."""
    _affordable(2 ** len(masses), "sets of points")
    best = sum(masses, Fraction(0))
    for chosen in itertools.product((False, True), repeat=len(masses)):
        if all(chosen[u] or chosen[v] for u, v in edges):
            best = min(best, sum(itertools.compress(masses, chosen), Fraction(0)))
    return best


def least_cross_entropy(model: FiniteModel, j: int) -> float:
    """CE_j* in nats, as the best classifier z -> P(+1) for its worst case, by convex programming."""
    return multiclass_cross_entropy([(y + 1) // 2 for y in model.labels], model.masses, model.values(j))


def largest_density_ratio(model: FiniteModel, j: int) -> Fraction:
    """The largest E[r] between layers j - 1 and j over all attack maps: the least U_j of A2."""
    return max(model.density_ratio(j, attack) for attack in attack_maps(model, j - 1, j))


def growth_excess(model: FiniteModel, j: int) -> Fraction:
    """The largest growth - (1 + E[r]) over label-valued readouts of layers j - 1 and j and attack maps.

    A2 asks for a value of 0 or more (with E[r] <= U_j). Growth is at most 2 and E[r] at least 1, so it is
    never positive, and 0 only where I(Z_{j-1}; Z_j | y) = 0.
    """
    before, after = list(hard_readouts(model, j - 1)), list(hard_readouts(model, j))

    def excess(attack: tuple[int, ...]) -> Fraction:
        start = min(Fraction(model.correlation(j - 1, g, attack)) for g in before)
        end = max(Fraction(model.correlation(j, g, attack)) for g in after)
        return end - start - 1 - model.density_ratio(j, attack)

    return max(excess(attack) for attack in attack_maps(model, j - 1, j))


def multiclass_accuracy(
    labels: Sequence[int], masses: Sequence[Fraction], reached: Sequence[Sequence[Any]]
) -> tuple[Fraction, float]:
    """Best robust accuracy of hard and of soft classifiers, for any number of classes.

    labels: 0, 1, ...; reached: what the adversary can turn each point into. A soft classifier answers at
    random, and its robust accuracy is E[min over z of the probability of the true label].
    """
    alphabet, classes = list(dict.fromkeys(z for r in reached for z in r)), max(labels) + 1
    _affordable(classes ** len(alphabet), "classifiers")
    points = list(zip(labels, masses, reached, strict=True))
    hard = Fraction(0)
    for answers in itertools.product(range(classes), repeat=len(alphabet)):
        g = dict(zip(alphabet, answers, strict=True))
        hard = max(hard, sum((p for y, p, r in points if all(g[z] == y for z in r)), Fraction(0)))
    rows, total = _guarantees(labels, reached)
    n = len(labels)
    cost = np.concatenate([[-float(p) for p in masses], np.zeros(total.shape[1] - n)])
    soft = 0.0 - _program(cost, A_ub=rows, b_ub=np.zeros(len(rows)), A_eq=total, b_eq=np.ones(len(total)))
    return hard, soft


def multiclass_cross_entropy(
    labels: Sequence[int], masses: Sequence[Fraction], reached: Sequence[Sequence[Any]]
) -> float:
    """The least robust cross-entropy of a soft classifier, in nats; see ``multiclass_accuracy``."""
    rows, total = _guarantees(labels, reached)
    n, size = len(labels), total.shape[1]
    p = np.array([float(mass) for mass in masses])
    start = np.concatenate([np.full(n, 0.5 / (max(labels) + 1)), np.full(size - n, 1 / (max(labels) + 1))])
    tiny = 1e-9

    def loss(x: Floats) -> tuple[float, Floats]:
        q = np.maximum(x[:n], tiny)
        return float(-p @ np.log(q)), np.concatenate([-p / q, np.zeros(size - n)])

    found = minimize(
        loss,
        start,
        jac=True,
        method="SLSQP",
        bounds=[(tiny, 1)] * n + [(0, 1)] * (size - n),
        constraints=[LinearConstraint(rows, -np.inf, 0), LinearConstraint(total, 1, 1)],
        options={"ftol": 1e-14, "maxiter": 1000},
    )
    if not found.success:
        raise RuntimeError(f"the convex program did not converge: {found.message}")
    return float(found.fun)


def _guarantees(labels: Sequence[int], reached: Sequence[Sequence[Any]]) -> tuple[Floats, Floats]:
    """Rows of t_v - g(y_v | z) <= 0 and of sum_y g(y | z) = 1, in the variables t (points), then g(y | z)."""
    alphabet, classes = list(dict.fromkeys(z for r in reached for z in r)), max(labels) + 1
    n, size = len(labels), len(alphabet)
    rows = []
    for v, (y, r) in enumerate(zip(labels, reached, strict=True)):
        for z in dict.fromkeys(r):
            row = np.zeros(n + size * classes)
            row[v], row[n + alphabet.index(z) * classes + y] = 1, -1
            rows.append(row)
    total = np.hstack([np.zeros((size, n)), np.kron(np.eye(size), np.ones(classes))])
    return np.array(rows), total


def _program(cost: Floats, **rest: Any) -> float:
    found = linprog(cost, method="highs", **rest)
    if not found.success:
        raise RuntimeError(f"the linear program did not converge: {found.message}")
    return float(found.fun) + 0.0


def _affordable(count: int, what: str) -> None:
    if count > LIMIT:
        raise ValueError(
            f"{count:,} {what} are too many to enumerate (at most {LIMIT:,}); use semirobust.theory.finite"
        )
