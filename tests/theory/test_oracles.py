"""Every number that the notebooks of Definition 1, Theorem 1, Lemma 1 and Theorem 2 rest on, recomputed.

Rationals are exact, floats to 1e-9. The expected numbers are closed forms, or an independent program's.
"""

from __future__ import annotations

import math
from fractions import Fraction as F
from itertools import product

import pytest

from semirobust.experiments import tables
from semirobust.theory import (
    GAUSS,
    LADDER,
    SKEW,
    FiniteModel,
    corrected_bounds,
    enumeration,
    information,
    instances,
)
from semirobust.theory.corrected import displacement, distillation_gap, eta, lipschitz_bound
from semirobust.theory.proof_steps import growth_range, scale_for_growth, step_22, step_23, step_24

LN2 = math.log(2)
HALF = F(1, 2)


def close(value: float) -> object:
    return pytest.approx(value, abs=1e-9)


# Definition 1: the canonical models

CANONICAL = [
    # model, layer, Gamma*, CE in nats, h_b^{-1}(CE in bits), q, conflicts
    (LADDER, 0, F(1), 0.0, 0.0, "1 1 1 1 1 1 1 1", ""),
    (LADDER, 1, F(1), 0.0, 0.0, "1 1 1 1 1 1 1 1", ""),
    (LADDER, 2, HALF, 0.34657359027997264, 0.11002786443835955, "1 1 1/2 1/2 1/2 1/2 1 1", "42 43 52 53"),
    (
        LADDER,
        3,
        F(0),
        0.6931471805599453,
        0.5,
        "1/2 1/2 1/2 1/2 1/2 1/2 1/2 1/2",
        "40 41 42 43 50 51 52 53 60 61 62 63 70 71 72 73",
    ),
    (SKEW, 0, F(1), 0.0, 0.0, "1 1 1 1 1", ""),
    (SKEW, 1, F(7, 10), 0.23901783664516513, 0.06444163385417317, "3/7 1 1 4/7 1", "03"),
    (SKEW, 2, F(3, 5), 0.3819085009768878, 0.12765707037276414, "2/3 2/3 1 1/3 1", "03 13"),
    (SKEW, 3, F(0), 0.6931471805599453, 0.5, "1/2 1/2 1/2 1/2 1/2", "03 13 14 24"),
]


@pytest.mark.parametrize(("model", "j", "gamma", "ce", "error", "q", "edges"), CANONICAL)
def test_canonical_models(model, j, gamma, ce, error, q, edges) -> None:
    assert model.gamma_star(j) == gamma
    assert model.zero_one(j) == (1 - gamma) / 2
    assert model.edges(j) == tuple((int(e[0]), int(e[1])) for e in edges.split())
    found = model.cross_entropy(j)
    assert found.nats == close(ce)
    assert found.dual_nats == close(ce)
    assert found.bits == close(ce / LN2)
    assert found.q == tuple(F(value) for value in q.split())
    assert model.label_information(j) == close(model.label_entropy() - ce)
    assert information.inverse_binary_entropy(found.bits) == close(error)
    assert enumeration.best_soft_correlation(model, j) == close(float(gamma))
    assert enumeration.minimax_correlation(model, j) == close(float(gamma))
    if j > 1:
        assert enumeration.best_correlation(model, j) == gamma


@pytest.mark.parametrize("j", [1, 2, 3])
def test_dependence_does_not_move_while_robustness_is_lost(j) -> None:
    assert LADDER.dependence(j) / LN2 == close(1.5)
    assert LADDER.density_ratio(j) == 3
    assert SKEW.dependence(j) == close(0.8513323405369151)
    assert SKEW.density_ratio(j) == F(5, 2)
    assert SKEW.dependence(j) / LN2 == close(1.2282129458410016)


def test_scale_gauge() -> None:
    """A readout has the robust correlation that one likes: c / 2 at layer 2 of LADDER."""
    best = LADDER.best_readout(2)
    scaled = [LADDER.robust_correlation(2, {z: c * g for z, g in best.items()}) for c in (1, 10, 1000)]
    assert scaled == [HALF, 5, 500]


def test_three_classes() -> None:
    triangle = (instances.TRIANGLE.labels, instances.TRIANGLE.masses, instances.TRIANGLE.reached)
    hard, soft = enumeration.multiclass_accuracy(*triangle)
    assert hard == F(1, 3)
    assert soft == close(0.5)
    # the sandwich for soft classifiers: R <= CE / 2 (here equal) and CE <= h_b(R) + R log2(K - 1), in bits
    ce = enumeration.multiclass_cross_entropy(*triangle) / LN2
    assert ce == pytest.approx(1, abs=1e-6)
    assert 1 - soft == pytest.approx(ce / 2, abs=1e-6)
    assert ce <= 1 + 0.5


def test_sandwich_for_soft_classifiers_of_three_classes() -> None:
    """All models of three points, one per class, with two inputs each out of four values, equal masses."""
    pairs = list(product(range(4), repeat=2))
    for reached in list(product(pairs, repeat=3))[::97]:
        _, soft = enumeration.multiclass_accuracy((0, 1, 2), (F(1, 3),) * 3, reached)
        ce = enumeration.multiclass_cross_entropy((0, 1, 2), (F(1, 3),) * 3, reached) / LN2
        error = min(max(1 - soft, 0.0), 1.0)
        assert error <= ce / 2 + 1e-6
        assert ce <= information.binary_entropy(error) + error + 1e-6


def test_two_classes_are_the_same_by_every_route() -> None:
    labels = [(y + 1) // 2 for y in SKEW.labels]
    for j in range(1, 4):
        hard, soft = enumeration.multiclass_accuracy(labels, SKEW.masses, SKEW.values(j))
        assert hard == 1 - SKEW.zero_one(j)
        assert soft == close(float(hard))
        assert enumeration.least_cross_entropy(SKEW, j) == pytest.approx(SKEW.cross_entropy(j).nats, abs=1e-7)


# Theorem 1


def test_pull_back_identity() -> None:
    """G_3(z) = z / 3 and its pull-backs have the same robust correlation at all layers."""
    readout = {z: F(z, 3) for z in LADDER.alphabet(3)}
    gammas = [LADDER.robust_correlation(3, readout)]
    for j in (3, 2, 1):
        steps = zip(LADDER.values(j - 1), LADDER.values(j), strict=True)
        image = {z: w for zs, ws in steps for z, w in zip(zs, ws, strict=True)}
        readout = {z: readout[image[z]] for z in LADDER.alphabet(j - 1)}
        gammas.append(LADDER.robust_correlation(j - 1, readout))
    assert gammas == [F(-1, 12)] * 4


def test_linear_probes_can_rise_with_depth() -> None:
    assert [enumeration.best_linear_correlation(instances.XOR, j) for j in (1, 2)] == [close(0), close(1)]
    assert [instances.XOR.gamma_star(j) for j in (1, 2)] == [1, 1]


def test_arbitrary_feature_maps_before_a_layer() -> None:
    assert [m.gamma_star(m.depth) for m in instances.ARBITRARY_K.values()] == [1, 1, 0]
    assert list(instances.ARBITRARY_K) == ["f1", "f2 after K", "f2 after f1"]


# Lemma 1


def label(g: tuple[int, ...]) -> int:
    return g[0]


def value(h: F) -> F:
    return h


def test_lemma_1_with_constant_shifts_is_false() -> None:
    model = instances.LEMMA_1_CONSTANT
    assert model.robust_correlation(0, label) == 1
    for k in (0, 1):  # B1 and B2 hold for every constant shift
        shift = model.constant_attack(k)
        assert model.dependence(1, shift) == close(LN2)
        assert model.density_ratio(1, shift) == 2
        growth = model.correlation(1, value, shift) - model.correlation(0, label, shift)
        assert growth == 4 >= 1 + model.density_ratio(1, shift)
    claimed = 1 + model.dependence(1)
    assert claimed == close(1.693147180560)
    assert model.robust_correlation(1, value) == 0 == model.gamma_star(1)
    assert growth_range(model, 1, label, value) == (-9, 1)


def test_lemma_1_with_all_attack_maps_does_not_need_b1() -> None:
    model = instances.LEMMA_1_MAPS
    assert model.dependence(1) == close(LN2)
    assert enumeration.largest_density_ratio(model, 1) == 2
    assert growth_range(model, 1, label, value) == (F(-13, 4), F(-13, 4))
    assert model.robust_correlation(0, label) == 1
    assert model.robust_correlation(1, value) == F(17, 4) >= 1 + 1 + 2
    collapse = instances.LEMMA_1_COLLAPSE
    assert growth_range(collapse, 1, label, value) == (-1, -1)  # growth 1 < 1 + U
    assert enumeration.largest_density_ratio(collapse, 1) == 1
    assert collapse.dependence(1) == 0
    assert collapse.robust_correlation(1, value) == 2


def test_the_steps_of_the_proof() -> None:
    step = step_22(instances.STEP_22, 0, value)
    assert (step.left, step.right, step.holds) == (-1, 0, False)
    step = step_23(instances.STEP_23, 0, lambda z: (-1) ** z)
    assert (step.left, step.right, step.holds) == (-1, -HALF, False)
    step = step_24(instances.STEP_24, 1)
    assert (step.left, step.holds) == (1, False)
    assert step.right == close(2.079441541680)


def test_the_steps_keep_y_outside_the_infimum_as_printed() -> None:
    """Step (23) for y = -1: E[inf -G] = -1, but -int inf p(g|y) G dg = 1/2."""
    model = FiniteModel.from_shifts((0, 1), (-1, -1), (0, 1))
    step = step_23(model, 0, lambda z: (-1) ** z)
    assert (step.left, step.right, step.holds) == (-1, HALF, False)
    step = step_22(model, 0, lambda z: (-1) ** z)
    assert (step.left, step.right, step.holds) == (-1, 1, False)


def test_the_steps_hold_without_an_adversary() -> None:
    """With one perturbation all infima are trivial: (22) needs labels +1, (23) nothing, (24) is loose."""
    for model in (instances.XOR, *instances.FOUR_CORNERS.values()):
        readout = {z: F(i, 7) for i, z in enumerate(model.alphabet(1))}
        assert step_23(model, 1, readout).holds
        assert step_22(model, 1, readout).holds
        step = step_24(model, 1)
        assert step.left == 1 + model.density_ratio(1)
        assert step.holds
    with pytest.raises(ValueError, match="no shift is common to all"):
        step_23(FiniteModel((1, -1), (HALF, HALF), ((0,), (1, 2))), 0, value)
    with pytest.raises(ValueError, match="no layer before it"):
        growth_range(LADDER, 0, value, value)


# Theorem 2


def test_required_scale_from_the_printed_dependencies() -> None:
    """gamma_a + sum (1 + 2^rho) over the reported layers of printed Table 1."""
    found = {
        (row["network"], row["dataset"], row["n_fb"]): information.required_scale(
            row[key] for key in ("rho_n", "rho_n3", "rho_n7", "rho_n11") if row[key] is not None
        )
        for row in tables.printed(1)
    }
    expected = {
        ("resnet18", "cifar10", 4): 83.424038,
        ("resnet18", "cifar10", 12): 450.076176,
        ("resnet18", "cifar100", 12): 99.316222,
        ("wideresnet34_10", "cifar10", 12): 1074.624149,
        ("wideresnet34_10", "cifar100", 12): 154.104253,
    }
    for key, scale in expected.items():
        assert found[key] == pytest.approx(scale, abs=5e-7)
    assert information.required_scale([1.0, 2.0], 0.5) == 0.5 + 3 + 5


def test_a2_can_be_met_by_scaling_wherever_the_conclusion_holds() -> None:
    before, after = LADDER.best_readout(1), LADDER.best_readout(2)
    assert enumeration.largest_density_ratio(LADDER, 2) == 3
    scale = scale_for_growth(LADDER, 2, before, after)
    assert scale == 10
    scaled = {z: scale * g for z, g in after.items()}
    assert growth_range(LADDER, 2, before, scaled)[1] == -4  # growth exactly 1 + U under the worst attack
    with pytest.raises(ValueError, match="no scale meets A2"):
        scale_for_growth(LADDER, 3, after, LADDER.best_readout(3))


def test_gauss() -> None:
    assert [GAUSS.gamma_star(j) for j in (1, 2, 3)] == [
        close(0.6826894921370859),
        close(0.5204998778130465),
        close(0.4362971383492269),
    ]
    assert [GAUSS.cross_entropy(j) for j in (1, 2, 3)] == [
        close(0.356316360213),
        close(0.491801708975),
        close(0.549695302400),
    ]
    assert [GAUSS.dependence(j) for j in (2, 3)] == [close(0.34657359027997264), close(0.5493061443340549)]
    assert [GAUSS.density_ratio(j) for j in (2, 3)] == [2.0, 3.0]


def test_gauss_meets_a2_at_a_growing_scale_while_robustness_falls() -> None:
    scales = (1.0, 4.0, 8.0)
    assert [GAUSS.linear_correlation(s) for s in scales] == [1.0, 4.0, 8.0]
    for j in (2, 3):
        for shift in (-0.5, 0.0, 0.5):
            before, after = (GAUSS.linear_correlation(s, shift) for s in scales[j - 2 : j])
            assert after - before >= 1 + GAUSS.density_ratio(j)


@pytest.mark.parametrize(
    ("after", "before", "bits"),
    [
        (F(0), F(0), 0),
        (F(0), F(1), 3),
        (F(1, 3), F(3, 4), 2),
        (F(1), F(1), 1),
        (F(2, 5), F(2, 5), 3),
        (F(1, 7), F(6, 7), 4),
    ],
)
def test_no_go(after, before, bits) -> None:
    model = instances.no_go(after, before, bits)
    assert model.gamma_star(0) == before
    assert model.gamma_star(1) == after
    assert model.label_entropy() == close(LN2)
    for attack in (None, model.saddle_attack(0), model.saddle_attack(1)):
        assert model.dependence(1, attack) >= bits * LN2 - 1e-12


def test_no_go_refuses_other_numbers() -> None:
    for after, before in ((F(1, 2), F(1, 3)), (F(-1, 2), F(1, 3)), (F(1, 2), F(4, 3))):
        with pytest.raises(ValueError, match="0 <= after <= before <= 1"):
            instances.no_go(after, before, 1)
    for bits in (-1, 13, 1.0, True):
        with pytest.raises(ValueError, match="whole number from 0 to 12"):
            instances.no_go(F(0), F(1), bits)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "bits", "ratio", "after"),
    [("y, n1, n2, n3", 3, 8, 1), ("n1, n2, n3", 3, 8, 0), ("y", 0, 1, 1), ("constant", 0, 1, 0)],
)
def test_four_corners(name, bits, ratio, after) -> None:
    model = instances.FOUR_CORNERS[name]
    assert model.dependence(1) / LN2 == close(bits)
    assert model.density_ratio(1) == ratio
    assert (model.gamma_star(0), model.gamma_star(1)) == (1, after)


def test_conflict_form() -> None:
    assert [LADDER.new_cover(j) for j in (1, 2, 3)] == [0, F(1, 4), HALF]
    assert [SKEW.new_cover(j) for j in (1, 2, 3)] == [F(3, 20), F(1, 5), F(3, 10)]
    assert corrected_bounds(SKEW, 0, 2).conflict == F(3, 10)


def test_label_information_form() -> None:
    found = corrected_bounds(SKEW, 1, 2)
    assert found.label_information == close(1 - 0.5509775004326939)
    assert found.upper == close(1 - 2 * 0.12765707037276414)
    # what the sandwich says at layer 2 of SKEW: 0.1277 <= R* = 1/5 <= 0.2755
    assert information.inverse_binary_entropy(SKEW.cross_entropy(2).bits) == close(0.127657070)
    assert SKEW.cross_entropy(2).bits / 2 == close(0.275488750)


def test_dependency_form() -> None:
    ladder = [eta(LADDER, j) for j in (1, 2, 3)]
    assert [e.low for e in ladder] == [close(1), close(HALF), close(1)]
    assert [e.high for e in ladder] == [close(1), close(HALF), close(1)]
    skew = [eta(SKEW, j) for j in (1, 2, 3)]
    assert skew[0].high == close(0.344829848)
    assert skew[1].high == pytest.approx(0.445984, abs=5e-7)
    assert skew[2].high == pytest.approx(0.647223, abs=5e-7)
    assert max(e.gap for e in ladder + skew) < 1e-9
    tight = corrected_bounds(LADDER, 1, 2, gamma_a=F(1))
    assert tight.dependency == close(HALF) == close(float(tight.gamma_star))
    assert corrected_bounds(SKEW, 0, 1).dependency == close(0.655170152)
    assert corrected_bounds(SKEW, 0, 1).gamma_star == F(7, 10)


def test_distillation_gap_form() -> None:
    sign = {z: 1 if z >= 3 else -1 for z in range(6)}
    assert LADDER.robust_correlation(1, sign) == 1
    assert LADDER.robust_correlation(2, sign) == HALF
    assert distillation_gap(LADDER, 1, sign, 2, sign) == HALF


def test_lipschitz_form() -> None:
    model = instances.SLOPE
    assert displacement(model, 1) == F(1, 4)
    assert model.correlation(2, value) == F(3, 2)
    assert lipschitz_bound(model, 1, 2, value, 3) == F(3, 4) == model.robust_correlation(2, value)
    assert model.correlation(2, math.tanh) == close(0.905148253645)
    assert lipschitz_bound(model, 1, 2, math.tanh, 3) == close(0.155148253645)
    assert model.robust_correlation(2, math.tanh) == close(0.635148952387)
