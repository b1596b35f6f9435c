"""Finite models: bad input, and properties of random models against definitions and the enumerating twin."""

from __future__ import annotations

import math
from fractions import Fraction as F
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semirobust.theory import LADDER, SKEW, FiniteModel, enumeration, information
from semirobust.theory.corrected import distillation_gap
from semirobust.theory.proof_steps import growth_range, scale_for_growth
from tests.theory.cases import attacks, few, models, quick, readouts

HALF = F(1, 2)


def some_layer(data: st.DataObject, model: FiniteModel, first: int = 0) -> int:
    return data.draw(st.integers(first, model.depth))


# Robust correlation of a readout


@quick
@given(models(), st.data())
def test_scaling_and_superadditivity(model, data) -> None:
    j = some_layer(data, model)
    g, h = data.draw(readouts(model, j)), data.draw(readouts(model, j, bound=3))
    c = data.draw(st.fractions(0, 100, max_denominator=9))
    gamma = model.robust_correlation(j, g)
    assert isinstance(gamma, F)
    assert model.robust_correlation(j, {z: c * value for z, value in g.items()}) == c * gamma
    both = model.robust_correlation(j, {z: g[z] + h[z] for z in g})
    assert both >= gamma + model.robust_correlation(j, h)
    assert gamma <= -model.robust_correlation(j, {z: -value for z, value in g.items()})


@quick
@given(models(), st.data())
def test_more_perturbations_never_help(model, data) -> None:
    j = some_layer(data, model)
    g = data.draw(readouts(model, j))
    clean = FiniteModel(model.labels, model.masses, tuple(r[:1] for r in model.inputs), model.layers)
    assert clean.robust_correlation(j, g) == model.correlation(j, g) >= model.robust_correlation(j, g)
    fewer = tuple(r[: data.draw(st.integers(1, len(r)))] for r in model.inputs)
    smaller = FiniteModel(model.labels, model.masses, fewer, model.layers)
    assert smaller.robust_correlation(j, g) >= model.robust_correlation(j, g)
    assert smaller.gamma_star(j) >= model.gamma_star(j)
    assert smaller.cross_entropy(j).nats <= model.cross_entropy(j).nats + 1e-12


@quick
@given(models(), st.data())
def test_no_attack_gets_below_and_one_map_gets_there(model, data) -> None:
    j = some_layer(data, model)
    g = data.draw(readouts(model, j))
    gamma = model.robust_correlation(j, g)
    assert model.correlation(j, g, data.draw(attacks(model))) >= gamma
    assert enumeration.robust_correlation(model, j, g) == gamma


@quick
@given(models(), st.data())
def test_pull_back(model, data) -> None:
    """Gamma_{j-1}(G o f^(j)) = Gamma_j(G), exactly."""
    j = some_layer(data, model, first=1)
    g = data.draw(readouts(model, j))
    layer = model.layers[j - 1]
    pulled = {z: g[layer[z]] for z in model.alphabet(j - 1)}
    assert model.robust_correlation(j - 1, pulled) == model.robust_correlation(j, g)


@quick
@given(models(), st.data())
def test_layer_cake(model, data) -> None:
    """Gamma(G) is the mean of Gamma(sign(G - t)) over t in [-1, 1], exactly; so a threshold is as good."""
    j = some_layer(data, model)
    g = data.draw(readouts(model, j))
    steps = sorted({F(-1), F(1), *g.values()})
    total, best = F(0), F(-1)
    for low, high in pairwise(steps):
        middle = (low + high) / 2
        gamma = model.robust_correlation(j, {z: 1 if value > middle else -1 for z, value in g.items()})
        total, best = total + (high - low) * gamma / 2, max(best, gamma)
    assert total == model.robust_correlation(j, g) <= best


@quick
@given(models(), st.data())
def test_close_readouts_have_close_robust_correlations(model, data) -> None:
    """|Gamma_i(G) - Gamma_j(G')| <= E[sup |G - G'|], at one layer and across two."""
    i, j = some_layer(data, model), some_layer(data, model)
    g, h = data.draw(readouts(model, i)), data.draw(readouts(model, j))
    gap = distillation_gap(model, i, g, j, h)
    assert abs(model.robust_correlation(i, g) - model.robust_correlation(j, h)) <= gap
    assert distillation_gap(model, i, g, i, g) == 0


@quick
@given(models(), st.data())
def test_float_readouts_and_functions(model, data) -> None:
    j = some_layer(data, model)
    g = data.draw(readouts(model, j))
    gamma = model.robust_correlation(j, g)
    assert model.robust_correlation(j, lambda z: g[z]) == gamma
    for cast in (float, np.float32, np.float64):
        found = model.robust_correlation(j, {z: cast(value) for z, value in g.items()})
        assert isinstance(found, float) or not g
        assert found == pytest.approx(float(gamma), abs=1e-6)
    signs = {z: 1 if value > 0 else -1 for z, value in g.items()}
    exact = model.robust_correlation(j, {z: np.int64(value) for z, value in signs.items()})
    assert isinstance(exact, F)
    assert exact == model.robust_correlation(j, signs)


# The best readout, the worst attack


@few
@given(models(points=4, inputs=2, alphabet=5))
def test_best_robust_correlation_is_that_of_enumeration(model) -> None:
    priors = information.marginal(model.label_law(0), 1)
    imbalance = abs(priors.get(1, F(0)) - priors.get(-1, F(0)))
    for j in range(model.depth + 1):
        gamma = model.gamma_star(j)
        assert enumeration.best_correlation(model, j) == gamma >= imbalance
        assert enumeration.best_soft_correlation(model, j) == pytest.approx(float(gamma), abs=1e-9)
        assert enumeration.minimax_correlation(model, j) == pytest.approx(float(gamma), abs=1e-9)
        assert model.robust_correlation(j, model.best_readout(j)) == gamma
        assert enumeration.minimum_cover(model.masses, model.edges(j)) == model.zero_one(j)
        assert enumeration.least_cross_entropy(model, j) == pytest.approx(
            model.cross_entropy(j).nats, abs=1e-6
        )


@quick
@given(models())
def test_cover_meets_every_conflict_at_its_weight(model) -> None:
    for j in range(model.depth + 1):
        weight, points = model.cover(model.edges(j))
        assert weight == sum((model.masses[v] for v in points), F(0))
        assert all(u in points or v in points for u, v in model.edges(j))


@quick
@given(models())
def test_cross_entropy_has_its_proof_and_one_attack_is_worst_for_both_losses(model) -> None:
    for j in range(model.depth + 1):
        found = model.cross_entropy(j)
        assert all(found.q[u] + found.q[v] <= 1 for u, v in model.edges(j))
        assert all(found.q[u] + found.q[v] == 1 for u, v in found.multipliers)
        assert all((q == 1) == all(v not in edge for edge in model.edges(j)) for v, q in enumerate(found.q))
        assert found.dual_nats == pytest.approx(found.nats, abs=1e-12)
        law = model.label_law(j, model.saddle_attack(j))
        left = model.label_entropy() - information.pair_information(law)
        assert left == pytest.approx(found.nats, abs=1e-12)
        bayes = sum(min(law.get((z, 1), F(0)), law.get((z, -1), F(0))) for z in model.alphabet(j))
        assert bayes == model.zero_one(j)


@quick
@given(models(), st.data())
def test_every_attack_leaves_the_label_information(model, data) -> None:
    j = some_layer(data, model)
    law = model.label_law(j, data.draw(attacks(model)))
    assert information.pair_information(law) >= model.label_information(j) - 1e-12


@quick
@given(models())
def test_monotone_in_the_layer_and_sandwich(model) -> None:
    gammas = [model.gamma_star(j) for j in range(model.depth + 1)]
    losses = [model.cross_entropy(j).nats for j in range(model.depth + 1)]
    kept = [model.label_information(j) for j in range(model.depth + 1)]
    assert gammas == sorted(gammas, reverse=True)
    assert all(b >= a - 1e-12 for a, b in pairwise(losses))
    assert all(b <= a + 1e-12 for a, b in pairwise(kept))
    for j in range(model.depth + 1):
        ce, error = model.cross_entropy(j).bits, float(model.zero_one(j))
        assert information.inverse_binary_entropy(min(1.0, ce)) <= error + 1e-7  # flat at one bit
        assert ce <= information.binary_entropy(error) + 1e-12
        assert error <= ce / 2 + 1e-12
    for j in range(1, model.depth + 1):
        assert model.zero_one(j) <= model.zero_one(j - 1) + model.new_cover(j)


@quick
@given(models())
def test_an_injective_layer_loses_nothing(model) -> None:
    renamed = FiniteModel(model.labels, model.masses, model.inputs, (*model.layers, lambda z: ("renamed", z)))
    last = renamed.depth
    assert renamed.edges(last) == renamed.edges(last - 1)
    assert renamed.gamma_star(last) == renamed.gamma_star(last - 1)
    assert renamed.new_cover(last) == 0


@quick
@given(models(), st.data())
def test_invariances(model, data) -> None:
    """Relabelled alphabets, permuted points, split points and exchanged labels change nothing."""
    order = data.draw(st.permutations(range(len(model.labels))))
    permuted = FiniteModel(
        *(tuple(part[v] for v in order) for part in (model.labels, model.masses, model.inputs)), model.layers
    )
    split = FiniteModel(
        model.labels * 2, tuple(p / 2 for p in model.masses) * 2, model.inputs * 2, model.layers
    )
    negated = FiniteModel(tuple(-y for y in model.labels), model.masses, model.inputs, model.layers)
    renamed = FiniteModel(
        model.labels,
        model.masses,
        tuple(tuple(("x", z) for z in r) for r in model.inputs),
        (lambda z: model.layers[0][z[1]], *model.layers[1:]),
    )
    for j in range(model.depth + 1):
        g = data.draw(readouts(model, j))
        same = {
            "permuted": (permuted, g),
            "split": (split, g),
            "negated": (negated, {z: -value for z, value in g.items()}),
            "renamed": (renamed, {("x", z): value for z, value in g.items()} if j == 0 else g),
        }
        for other, readout in same.values():
            assert other.gamma_star(j) == model.gamma_star(j)
            assert other.robust_correlation(j, readout) == model.robust_correlation(j, g)
            assert other.cross_entropy(j).nats == pytest.approx(model.cross_entropy(j).nats, abs=1e-12)
            if j:
                assert other.dependence(j) == pytest.approx(model.dependence(j), abs=1e-12)
                assert other.density_ratio(j) == model.density_ratio(j)


# Dependence


@quick
@given(models(), st.data())
def test_dependence_of_a_deterministic_layer_under_any_attack(model, data) -> None:
    attack = data.draw(attacks(model))
    for j in range(1, model.depth + 1):
        law = model.law(j, attack)
        assert information.marginal(law, 1, 2) == model.label_law(j, attack)
        entropy = information.conditional_entropy(model.label_law(j, attack))
        assert model.dependence(j, attack) == pytest.approx(entropy, abs=1e-12)
        ratio = model.density_ratio(j, attack)
        assert 1 <= math.exp(model.dependence(j, attack)) <= ratio + F(1, 10**9)
        assert model.dependence(j, attack) == pytest.approx(
            information.pair_information(information.marginal(law, 0, 1))
            - information.pair_information(information.marginal(law, 2, 1)),
            abs=1e-12,
        )


@few
@given(models(points=4, inputs=2, alphabet=5))
def test_normalised_readouts_never_grow_as_a2_demands(model) -> None:
    """Growth - (1 + E[r]) <= 0 over all label-valued readouts and attack maps; 0 only without dependence."""
    for j in range(1, model.depth + 1):
        excess = enumeration.growth_excess(model, j)
        assert excess <= 0
        if excess == 0:
            assert any(model.dependence(j, a) == 0 for a in enumeration.attack_maps(model))


def test_growth_excess_reaches_zero() -> None:
    flip = FiniteModel((1, -1), (HALF, HALF), ((0,), (1,)), (lambda x: x,))
    assert enumeration.growth_excess(flip, 1) == 0  # G_0 = -y, G_1 = y, no dependence within a class
    four = FiniteModel((1, 1, -1), (HALF, F(1, 4), F(1, 4)), ((0,), (1,), (2,)), (lambda x: x,))
    assert enumeration.growth_excess(four, 1) == 2 - 1 - (F(3, 4) * 2 + F(1, 4))


@few
@given(models(points=4, inputs=2, alphabet=5))
def test_a2_with_a_free_scale_says_that_the_conclusion_holds(model) -> None:
    """Wherever Gamma_j* > 0 some multiple of a readout grows by 1 + U_j under every attack map."""
    for j in range(1, model.depth + 1):
        before, after = model.best_readout(j - 1), model.best_readout(j)
        if model.gamma_star(j) == 0:
            with pytest.raises(ValueError, match="no scale meets A2"):
                scale_for_growth(model, j, before, after)
            continue
        scale = scale_for_growth(model, j, before, after)
        scaled = {z: scale * g for z, g in after.items()}
        demanded = 1 + enumeration.largest_density_ratio(model, j)
        assert -growth_range(model, j, before, scaled)[1] >= demanded


# Attacks, constructors


def test_attacks_of_every_kind() -> None:
    model = FiniteModel.from_shifts((0, 10), (1, -1), (0, 1, 2), (lambda x: x // 2,))
    assert model.inputs == ((0, 1, 2), (10, 11, 12))
    assert model.label_law(0) == {(0, 1): HALF, (10, -1): HALF}
    assert model.label_law(0, model.constant_attack(2)) == {(2, 1): HALF, (12, -1): HALF}
    mixed = (1, {0: F(1, 3), 2: F(2, 3)})
    assert model.label_law(0, mixed) == {(1, 1): HALF, (10, -1): F(1, 6), (12, -1): F(1, 3)}
    assert model.law(1, mixed) == {(1, 0, 1): HALF, (10, 5, -1): F(1, 6), (12, 6, -1): F(1, 3)}
    with pytest.raises(ValueError, match="points have between 1 and 2 inputs"):
        FiniteModel((1, -1), (HALF, HALF), ((0,), (1, 2))).constant_attack(0)


def test_masses_default_to_equal_and_integers_become_fractions() -> None:
    model = FiniteModel.from_shifts((0,), (1,), (0,))
    assert model.masses == (F(1),)
    assert isinstance(FiniteModel((1,), (1,), ((0,),)).masses[0], F)  # type: ignore[arg-type]
    assert model.gamma_star(0) == 1  # one class only: nothing to confuse
    assert model.label_information(0) == 0


def test_a_model_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        LADDER.labels = ()  # type: ignore[misc]


# Bad input


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"masses": (HALF, F(1, 3))}, ValueError, "masses sum to 5/6; they must sum to exactly 1"),
        ({"masses": (F(1), F(0))}, ValueError, "mass of point 1 is 0; masses are positive"),
        ({"masses": (F(3, 2), F(-1, 2))}, ValueError, "mass of point 1 is -1/2; masses are positive"),
        ({"masses": (0.5, 0.5)}, TypeError, "mass of point 0 is 0.5; pass a fractions.Fraction"),
        ({"masses": (F(1),)}, ValueError, "2 labels, 1 masses, 2 lists of inputs"),
        ({"labels": (0, 1)}, ValueError, "label of point 0 is 0; labels are -1 and \\+1"),
        ({"labels": (1, 2)}, ValueError, "label of point 1 is 2"),
        ({"labels": (True, -1)}, ValueError, "label of point 0 is True"),
        ({"inputs": ((0,), ())}, ValueError, "perturbation set of point 1 is empty"),
        ({"inputs": ((0,), ([1],))}, TypeError, "input of point 1 is \\[1\\], which is not hashable"),
        ({"layers": ({0: 0},)}, ValueError, "layer 1 has no value for the reachable input 1"),
        ({"layers": (lambda x: x, {0: 0})}, ValueError, "layer 2 has no value for the reachable input 1"),
        ({"layers": (lambda x: [x],)}, TypeError, "value of layer 1 at 0 is \\[0\\], which is not hashable"),
    ],
)
def test_bad_models(change, error, says) -> None:
    parts = {"labels": (1, -1), "masses": (HALF, HALF), "inputs": ((0,), (1,)), "layers": ()}
    FiniteModel(**parts)
    with pytest.raises(error, match=says):
        FiniteModel(**(parts | change))


def test_bad_shifts() -> None:
    with pytest.raises(ValueError, match="perturbation set is empty"):
        FiniteModel.from_shifts((0,), (1,), ())
    with pytest.raises(ValueError, match="first shift, 1, moves the point 0"):
        FiniteModel.from_shifts((0,), (1,), (1, 0))


@pytest.mark.parametrize("j", [-1, 4, True, 1.0, "1"])
def test_layers_that_do_not_exist(j) -> None:
    for method in ("gamma_star", "edges", "cross_entropy", "alphabet", "label_law", "law", "new_cover"):
        with pytest.raises(ValueError, match=r"does not exist; layers go from 0 \(the input\) to 3"):
            getattr(LADDER, method)(j)


def test_the_input_has_no_layer_before_it() -> None:
    for method in ("law", "dependence", "density_ratio", "new_cover"):
        with pytest.raises(
            ValueError, match="layer 0 is the input and has no layer before it; ask for 1 to 3"
        ):
            getattr(LADDER, method)(0)


@pytest.mark.parametrize("value", [math.nan, math.inf, "1", None])
def test_readouts_that_are_no_numbers(value) -> None:
    for method in (LADDER.robust_correlation, LADDER.correlation):
        with pytest.raises(ValueError, match="it must be a finite number"):
            method(3, lambda z: value)


def test_readout_without_a_value() -> None:
    for method in (LADDER.robust_correlation, LADDER.correlation):
        with pytest.raises(ValueError, match="readout has no value for the reachable value 3; give it one"):
            method(3, {0: 1, 1: 1, 2: 1})


@pytest.mark.parametrize(
    ("attack", "error", "says"),
    [
        ((0, 0), ValueError, "the attack has 2 entries; give one for each of the 5 points"),
        ((0, 0, 0, 0, 2), ValueError, "point 4 has no input 2; its inputs are 0 to 1"),
        ((0, 0, 0, -1, 0), ValueError, "point 3 has no input -1"),
        ((True, 0, 0, 0, 0), ValueError, "point 0 has no input True"),
        (
            ({0: HALF}, 0, 0, 0, 0),
            ValueError,
            "the attack at point 0 has probabilities that sum to 1/2, not to 1",
        ),
        (({0: F(2), 1: F(-1)}, 0, 0, 0, 0), ValueError, "it must not be negative"),
        (({0: 0.5, 1: 0.5}, 0, 0, 0, 0), TypeError, "pass a fractions.Fraction"),
    ],
)
def test_bad_attacks(attack, error, says) -> None:
    with pytest.raises(error, match=says):
        SKEW.label_law(1, attack)


def test_enumeration_refuses_what_it_cannot_do() -> None:
    with pytest.raises(ValueError, match="are too many to enumerate"):
        enumeration.best_correlation(LADDER, 0)
    big = FiniteModel.from_shifts(tuple(range(21)), (1,) * 21, (0,))
    with pytest.raises(ValueError, match="2,097,152 readouts of layer 0 are too many"):
        next(enumeration.hard_readouts(big, 0))


def test_attack_maps_are_all_of_them() -> None:
    assert list(enumeration.attack_maps(SKEW)) == list(product((0, 1), repeat=5))
    # at layer 3 the last point can only reach 5 or 2, the others two values each: nothing merges
    assert len(list(enumeration.attack_maps(SKEW, 3))) == math.prod(len(set(r)) for r in SKEW.values(3))
    laws = {frozenset(LADDER.law(2, a).items()) for a in enumeration.attack_maps(LADDER)}
    few_laws = [frozenset(LADDER.law(2, a).items()) for a in enumeration.attack_maps(LADDER, 1, 2)]
    assert set(few_laws) == laws
    assert len(few_laws) < 3**8
