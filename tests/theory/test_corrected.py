"""The corrected Theorem 2 on random models: no form ever exceeds the truth, and eta is inside its bracket."""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction as F

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from semirobust.theory import LADDER, SKEW, FiniteModel, corrected_bounds, information
from semirobust.theory.corrected import displacement, distillation_gap, eta, lipschitz_bound
from tests.theory.cases import attacks, few, models, quick, readouts


@quick
@given(models())
def test_no_form_exceeds_the_best_robust_correlation(model) -> None:
    for a in range(model.depth + 1):
        for n in range(a, model.depth + 1):
            found = corrected_bounds(model, a, n, tolerance=1e-6)
            truth = found.gamma_star
            assert truth == model.gamma_star(n)
            assert found.conflict <= truth
            assert found.label_information <= float(truth) + 1e-12
            assert found.dependency <= found.label_information + 1e-9
            assert float(truth) <= found.upper + 1e-7
            assert len(found.new_covers) == len(found.etas) == n - a


@quick
@given(models(), st.data())
def test_a_smaller_gamma_a_gives_a_smaller_bound(model, data) -> None:
    best = model.gamma_star(0)
    gamma = best * data.draw(st.fractions(0, 1, max_denominator=5))
    full = corrected_bounds(model, 0, 1, tolerance=1e-6)
    less = corrected_bounds(model, 0, 1, gamma_a=gamma, tolerance=1e-6)
    assert less.conflict == full.conflict - (best - gamma)
    assert less.dependency <= full.dependency + 1e-12
    assert less.label_information == full.label_information


@quick
@given(models(), st.data())
def test_no_attack_leaves_the_bracket_of_eta(model, data) -> None:
    attack = data.draw(attacks(model))
    for j in range(1, model.depth + 1):
        found = eta(model, j)
        assert 0 <= found.low <= found.high
        assert found.gap <= 1e-9 or (found.steps == 5_000 and found.gap < 1e-7)
        lost = information.conditional_entropy(information.marginal(model.law(j, attack), 0, 1))
        assert information.bits(lost) <= found.high + 1e-12
        preimages = Counter(model.layers[j - 1][z] for z in model.alphabet(j - 1))
        assert found.low <= math.log2(max(preimages.values())) + 1e-12
        losses = [model.cross_entropy(i).bits for i in (j - 1, j)]
        assert losses[1] <= losses[0] + found.high + 1e-12


@few
@given(models(points=3, inputs=3, alphabet=5, layers=1))
def test_eta_is_reached(model) -> None:
    """The lower end against a generic optimiser over the same attacks (softmax of free parameters)."""
    moves = [(v, z) for v, r in enumerate(model.inputs) for z in dict.fromkeys(r)]
    names = model.alphabet(0)
    p = [float(mass) for mass in model.masses]

    def lost(x: np.ndarray) -> float:
        weights = np.exp(x - x.max())
        mass = dict.fromkeys(names, 0.0)
        for i, (v, z) in enumerate(moves):
            total = sum(w for w, (u, _) in zip(weights, moves, strict=True) if u == v)
            mass[z] += p[v] * weights[i] / total
        image: Counter[int] = Counter()
        for z, m in mass.items():
            image[model.layers[0][z]] += m
        return sum(m * math.log2(m / image[model.layers[0][z]]) for z, m in mass.items() if m > 0)

    starts = [np.zeros(len(moves)), np.random.default_rng(0).standard_normal(len(moves))]
    best = max(-minimize(lost, start, method="L-BFGS-B").fun for start in starts)
    found = eta(model, 1)
    assert best <= found.high + 1e-9
    assert found.low >= best - 1e-9
    assert found.low == pytest.approx(best, abs=1e-4)


def test_eta_reports_the_bracket_that_it_has() -> None:
    early = eta(SKEW, 3, max_steps=2)
    final = eta(SKEW, 3, tolerance=1e-11)
    assert early.steps == 2
    assert early.low < final.low <= final.high < early.high
    assert final.gap <= 1e-11
    assert eta(SKEW, 3, tolerance=0.5).steps < final.steps


def test_eta_where_nothing_and_where_everything_is_lost() -> None:
    points = tuple(range(4))
    same = FiniteModel.from_shifts(points, (1, 1, -1, -1), (0,), (lambda x: x, lambda x: 0))
    assert eta(same, 1).high == 0
    assert eta(same, 2).low == pytest.approx(2, abs=1e-12)


@quick
@given(models(), st.data())
def test_chain_of_distillation_gaps(model, data) -> None:
    """Gamma_n(G_n) >= Gamma_0(G_0) - sum_j d_{j-1,j}."""
    chain = [data.draw(readouts(model, j)) for j in range(model.depth + 1)]
    bound = model.robust_correlation(0, chain[0])
    for j in range(1, model.depth + 1):
        bound -= distillation_gap(model, j - 1, chain[j - 1], j, chain[j])
        assert model.robust_correlation(j, chain[j]) >= bound


@quick
@given(
    st.lists(st.integers(-6, 6), min_size=1, max_size=5, unique=True),
    st.lists(st.integers(-3, 3), min_size=1, max_size=4),
    st.fractions(-3, 3, max_denominator=5),
    st.fractions(-2, 2, max_denominator=5),
)
def test_lipschitz_form(points, shifts, slope, other) -> None:
    """Layer 1 is x / 2 and G o f^(2) is linear with a kink: a bound, and tight where the slopes agree."""
    model = FiniteModel.from_shifts(
        points, [1 if x > 0 else -1 for x in points], (0, *shifts), (lambda x: F(x, 2), lambda z: z)
    )

    def readout(z: F) -> F:
        return slope * z if z > 0 else other * z

    constant = max(abs(slope), abs(other))
    bound = lipschitz_bound(model, 1, 2, readout, constant)
    assert model.robust_correlation(2, readout) >= bound
    assert displacement(model, 1) == F(max(abs(s) for s in (0, *shifts)), 2)
    with pytest.raises(ValueError, match="Lipschitz constant is not negative"):
        lipschitz_bound(model, 1, 2, readout, -1)


def test_displacement_takes_any_distance() -> None:
    model = FiniteModel.from_shifts(
        ((0, 0),), (1,), ((0, 0), (3, 4)), add=lambda x, d: (x[0] + d[0], x[1] + d[1])
    )
    assert displacement(model, 0, math.dist) == 5.0


def test_bad_input() -> None:
    for gamma in (F(-1, 10), F(3, 4)):
        with pytest.raises(ValueError, match="layer 2 is semirobust with 0 to 1/2 only"):
            corrected_bounds(LADDER, 2, 3, gamma_a=gamma)
    with pytest.raises(ValueError, match="layer n = 1 comes before layer a = 2"):
        corrected_bounds(LADDER, 2, 1)
    for a, n in ((0, 4), (-1, 2)):
        with pytest.raises(ValueError, match="does not exist; layers go from 0"):
            corrected_bounds(LADDER, a, n)
    for j, says in ((0, "no layer before it"), (4, "does not exist")):
        with pytest.raises(ValueError, match=says):
            eta(LADDER, j)
    for options in ({"tolerance": 0.0}, {"tolerance": math.nan}, {"max_steps": 0}):
        with pytest.raises(ValueError, match="both must be positive"):
            eta(LADDER, 1, **options)  # type: ignore[arg-type]
