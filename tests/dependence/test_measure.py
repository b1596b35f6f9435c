"""Measures: closed forms, invariances, slow twins, one protocol of controls and errors for all."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import digamma
from sklearn.feature_selection import mutual_info_regression

from semirobust import dependence
from semirobust.dependence import (
    MEASURES,
    biased_hsic,
    class_conditional_arrays,
    excess_interval,
    gaussian_kernel,
    ksg_bits,
    plug_in,
    unbiased_hsic,
    within_classes,
)
from semirobust.dependence.ksg import _counts_by_distances, _counts_by_trees
from semirobust.edge import edge

FEW = settings(max_examples=25)
seeds = st.integers(0, 10_000)


def gaussian(n: int, d: int, r: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x, noise = rng.standard_normal((2, n, d))
    return x, r * x + math.sqrt(1 - r * r) * noise


def rotation(d: int, seed: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((d, d)))[0]


# --- the protocol, the same for all measures ---


@pytest.mark.parametrize("name", MEASURES)
def test_controls_are_the_measure_of_really_shuffled_rows(name: str) -> None:
    """What a shuffle does to the prepared sides is what it does to the data."""
    measure = MEASURES[name]
    x, y = gaussian(60, 3, 0.8)
    found = measure(x, y, shuffles=2, seed=5)
    rng = np.random.default_rng([5, 0])
    for control in found.controls:
        order = rng.permutation(60)
        # the noise against ties and the start of k-means are drawn for rows, and so move with them
        tolerance = {"ksg": 0.02, "classes": 0.5}.get(name, 1e-9)
        # the bandwidths of EDGE are taken from 500 draws of *rows*
        tolerance = 0.35 if name in ("edge", "conditional_entropy") else tolerance
        assert measure(x, y[order], seed=5).value == pytest.approx(control, abs=tolerance)
    assert found.excess == pytest.approx(found.value - np.mean(found.controls))
    assert found.n == 60 and float(found) == found.value


@pytest.mark.parametrize("name", MEASURES)
def test_dependence_is_told_from_its_control(name: str) -> None:
    x, y = gaussian(400, 2, 0.95)
    found = MEASURES[name](x, y)
    sign = -1 if name == "conditional_entropy" else 1
    spread = np.std(found.controls)
    assert sign * found.excess > 10 * spread
    if found.cap is not None:
        assert 0 <= found.value <= found.cap <= math.log2(400) + 1e-12


@pytest.mark.parametrize("name", MEASURES)
def test_same_seed_same_numbers_and_global_random_states_untouched(name: str) -> None:
    x, y = gaussian(50, 8, 0.5)
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    first, second = MEASURES[name](x, y, seed=1), MEASURES[name](x, y, seed=1)
    assert first == second
    assert first.controls != MEASURES[name](x, y, seed=2).controls
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002


@pytest.mark.parametrize("name", MEASURES)
def test_tensors_and_vectors(name: str) -> None:
    x, y = gaussian(40, 1, 0.9)
    expected = MEASURES[name](x, y)
    assert MEASURES[name](torch.from_numpy(x).requires_grad_(), y[:, 0]) == expected


@pytest.mark.parametrize("name", MEASURES)
def test_constant_sides_share_nothing(name: str) -> None:
    """Also for a constant that is not a sum of powers of two, whose computed mean is another number."""
    x = gaussian(45, 3, 0.0)[0]
    constant = np.full((45, 2), 0.1)
    expected = {"edge": 0.001, "conditional_entropy": None}.get(name, 0.0)
    found = MEASURES[name](x, constant).value
    if expected is None:  # nothing of x is told
        expected = MEASURES[name](x, x).value + edge(x, x, cap_bits=60).entropy_x_bits
    assert found == pytest.approx(expected, abs=1e-12)
    assert MEASURES[name](constant, constant).value == pytest.approx(
        0.001 if name == "edge" else 0, abs=1e-12
    )


@pytest.mark.parametrize("name", MEASURES)
def test_class_conditional_is_the_average_over_the_classes(name: str) -> None:
    x, y = gaussian(100, 4, 0.7)
    labels = np.array([3] * 30 + [0] * 70)
    found = within_classes(MEASURES[name], x, y, labels, shuffles=2)
    alone = [within_classes(MEASURES[name], x[a], y[a], labels[a], shuffles=2)
             for a in (labels == 0, labels == 3)]  # fmt: skip
    for get in (lambda d: d.value, lambda d: d.controls[1], lambda d: d.cap or 0.0):
        assert get(found) == pytest.approx(0.7 * get(alone[0]) + 0.3 * get(alone[1]), abs=1e-12)
    assert found.n == 100


def test_within_class_shuffles_leave_what_the_classes_make() -> None:
    """Two far classes and nothing within them: all of the dependence is in the control, or none."""
    x, y = gaussian(200, 1, 0.0)
    labels = np.arange(200) % 2
    x, y = x + 50 * labels[:, None], y + 50 * labels[:, None]
    for name in ("linear_cka", "correlation", "hsic"):
        found = MEASURES[name](x, y, labels=labels)
        plain = MEASURES[name](x, y)
        assert abs(found.excess) < 0.05 * found.value < 0.05 * plain.excess + 0.05 * found.value
        assert within_classes(MEASURES[name], x, y, labels).value < 0.2 * found.value


def test_edge_is_the_class_conditional_dependence_with_its_controls() -> None:
    x, y = gaussian(150, 9, 0.6)
    labels = np.repeat([0, 2, 1], 50)
    options = {"members": 3, "renormalise": True}
    ours = within_classes(dependence.edge(**options), x, y, labels, shuffles=3, seed=4)
    theirs = class_conditional_arrays(x, y, labels, shuffles=3, seed=4, **options)
    assert ours.value == pytest.approx(theirs.bits, abs=1e-12)
    assert ours.control == pytest.approx(theirs.control_bits, abs=1e-12)
    assert ours.cap == pytest.approx(theirs.cap_bits, abs=1e-12)
    assert dependence.edge()(x, y).value == pytest.approx(edge(x, y).bits, abs=1e-12)


X, Y = gaussian(40, 2, 0.5)


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize(
    ("x", "y", "options", "error", "message"),
    [
        (X[:39], Y, {}, ValueError, "39 samples and y has 40"),
        (X[:19], Y[:19], {}, ValueError, "at least 20"),
        (np.where(X > 2, np.nan, X), Y, {}, ValueError, "x has NaN or infinite.*leave those samples out"),
        (X, np.where(Y > 1, np.inf, Y), {}, ValueError, "y has NaN or infinite"),
        ((X > 0).astype(int), Y, {}, TypeError, "int64"),
        (X, Y[:, :0], {}, ValueError, "no coordinates"),
        (X.reshape(40, 2, 1), Y, {}, ValueError, r"\[n, d\]"),
        (X, Y, {"shuffles": 0}, ValueError, "at least 1"),
        (X, Y, {"labels": np.zeros(39, int)}, ValueError, r"shape \(39,\)"),
        (X, Y, {"labels": np.zeros(40)}, TypeError, "integers"),
        (X, Y, {"labels": np.arange(40) - 20}, ValueError, "start at 0"),
        (X, Y, {"labels": (np.arange(40) > 20).astype(int)}, ValueError, "1 has 19 .*keep = labels != 1"),
    ],
)  # fmt: skip
def test_bad_input(name: str, x, y, options, error, message: str) -> None:
    with pytest.raises(error, match=message):
        MEASURES[name](x, y, **options)
    if "labels" in options:
        with pytest.raises(error, match=message):
            within_classes(MEASURES[name], x, y, **options)
        with pytest.raises(error, match=message):
            excess_interval(MEASURES[name], x, y, **options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: dependence.ksg(neighbours=0), "neighbours is 0"),
        (lambda: dependence.ksg(neighbours=40)(X, Y), "lower neighbours"),
        (lambda: dependence.classes(clusters=1), "clusters is 1"),
        (lambda: dependence.classes(correction="none "), "known: none, miller_madow"),
        (lambda: dependence.edge(members=0), "members is 0"),
        (lambda: dependence.sensitivity()(X, Y[:, :1]), "2 coordinates and the attacked ones 1"),
        (lambda: excess_interval(MEASURES["edge"], X, Y, replicates=19), "at least 20"),
        (lambda: excess_interval(MEASURES["edge"], X, Y, level=95), "between 0 and 1"),
        (lambda: plug_in([0, 1], [0]), "shapes"),
        (lambda: plug_in([], np.empty(0, int)), "dtype float64|shapes"),
    ],
)
def test_bad_options(make, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        make()


# --- KSG ---


def slow_ksg(x: np.ndarray, y: np.ndarray, k: int) -> float:
    """Kraskov, Stoegbauer and Grassberger, equation 8, sample by sample."""
    n, total = len(x), 0.0
    for i in range(n):
        others = [j for j in range(n) if j != i]
        from_x = {j: max(abs(x[i] - x[j])) for j in others}
        from_y = {j: max(abs(y[i] - y[j])) for j in others}
        radius = sorted(max(from_x[j], from_y[j]) for j in others)[k - 1]
        n_x, n_y = (sum(d[j] < radius for j in others) for d in (from_x, from_y))
        total += digamma(n_x + 1) + digamma(n_y + 1)
    return (digamma(k) + digamma(n) - total / n) / math.log(2)


@given(seeds, st.integers(1, 5), st.sampled_from([(1, 1), (2, 3), (1, 12), (7, 6)]))
@FEW
def test_ksg_against_the_slow_twin(seed: int, k: int, d: tuple[int, int]) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((30, d[0])), rng.standard_normal((30, d[1]))
    assert ksg_bits(x, y, k) == pytest.approx(slow_ksg(x, y, k), abs=1e-12)


@given(seeds, st.integers(1, 5), st.integers(1, 4))
@FEW
def test_trees_and_distances_count_alike(seed: int, k: int, d: int) -> None:
    x, y = gaussian(100, d, 0.7, seed)
    for trees, distances in zip(_counts_by_trees(x, y, k), _counts_by_distances(x, y, k), strict=True):
        assert (trees == distances).all()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("k", [1, 3, 10])
def test_ksg_against_scikit_learn_in_one_dimension(seed: int, k: int) -> None:
    x, y = gaussian(300, 1, 0.8, seed)
    theirs = mutual_info_regression(x, y[:, 0], n_neighbors=k, random_state=0)[0] / math.log(2)
    assert dependence.ksg(neighbours=k)(x, y).value == pytest.approx(theirs, abs=1e-6)


@given(seeds, st.floats(-6, 6), st.floats(-3, 3))
@FEW
def test_ksg_ignores_units_and_order(seed: int, scale: float, shift: float) -> None:
    x, y = gaussian(60, 2, 0.8, seed)
    expected = MEASURES["ksg"](x, y).value
    moved = x * np.array([10.0**scale, -(10.0**-scale)]) + shift
    assert MEASURES["ksg"](moved, y).value == pytest.approx(
        expected, abs=0.02
    )  # rounding may swap a neighbour
    assert dependence.ksg()(y, x).value == pytest.approx(expected, abs=0.02)


def test_ksg_is_right_for_gaussians_and_ties_and_is_not_clipped() -> None:
    x, y = gaussian(3000, 2, 0.6)
    truth = -math.log2(1 - 0.36)
    assert MEASURES["ksg"](x, y).value == pytest.approx(truth, abs=0.08)
    rng = np.random.default_rng(0)
    symbol = rng.integers(0, 4, 1000).astype(float)
    assert MEASURES["ksg"](symbol, symbol).value == pytest.approx(2, abs=0.05)
    controls = MEASURES["ksg"](x[:200], y[:200], shuffles=20).controls
    assert min(controls) < 0 < max(controls)


# --- plug-in ---


def exact_plug_in(a: list[int], b: list[int]) -> float:
    n = len(a)
    cells = itertools.product(set(a), set(b))
    total = 0.0
    for i, j in cells:
        both = sum((p, q) == (i, j) for p, q in zip(a, b, strict=True))
        if both:
            total += both / n * math.log2(both * n / (a.count(i) * b.count(j)))
    return total


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=40))
@FEW
def test_plug_in_against_the_exact_sum(pairs: list[tuple[int, int]]) -> None:
    a, b = [p for p, _ in pairs], [q for _, q in pairs]
    value = plug_in(a, b)
    assert value == pytest.approx(exact_plug_in(a, b), abs=1e-12)
    assert -1e-12 <= value <= math.log2(min(len(set(a)), len(set(b)))) + 1e-12
    corrected = value + (len(set(a)) + len(set(b)) - len(set(pairs)) - 1) / (2 * len(a) * math.log(2))
    assert plug_in(a, b, correction="miller_madow") == pytest.approx(corrected, abs=1e-12)


def test_miller_madow_takes_most_of_the_bias_away() -> None:
    rng = np.random.default_rng(0)
    tables = rng.integers(0, 5, (200, 2, 150))
    plain = np.mean([plug_in(a, b) for a, b in tables])
    corrected = np.mean([plug_in(a, b, correction="miller_madow") for a, b in tables])
    assert plain == pytest.approx(16 / (2 * 150 * math.log(2)), rel=0.15)
    assert abs(corrected) < 0.15 * plain


def test_argmax_and_clusters_tell_symbols() -> None:
    symbols = np.random.default_rng(0).integers(0, 4, 200)
    x, y = np.eye(4)[symbols], np.eye(2)[symbols // 2]
    for clusters in (None, 4):
        assert dependence.classes(clusters=clusters)(x, y).value == pytest.approx(
            plug_in(symbols, symbols // 2)
        )
    assert dependence.classes(clusters=None)(x, y).cap == 1


def test_label_information() -> None:
    labels = np.repeat(np.arange(3), 40)
    outputs = np.eye(3)[labels] + 0.01 * np.random.default_rng(0).standard_normal((120, 3))
    for clusters in (None, 3):
        found = dependence.label_information(outputs, labels, clusters=clusters)
        assert found.value == pytest.approx(math.log2(3)) == found.cap
        assert found.control < 0.15
    noise = np.random.default_rng(1).standard_normal((120, 3))
    found = dependence.label_information(noise, torch.from_numpy(labels), correction="miller_madow")
    assert abs(found.excess) < 0.15 and found.cap is None
    with pytest.raises(TypeError, match="integers"):
        dependence.label_information(outputs, labels.astype(float))


# --- CKA, correlation ---


@given(seeds, st.sampled_from([(30, 4, 6), (25, 60, 7), (25, 40, 50)]), st.floats(-3, 3))
@FEW
def test_cka_ignores_rotations_and_one_scale(seed: int, shape: tuple[int, int, int], scale: float) -> None:
    n, d, e = shape
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d))
    y = x @ rng.standard_normal((d, e)) + rng.standard_normal((n, e))
    value = MEASURES["linear_cka"](x, y).value
    assert 0 <= value <= 1 + 1e-12
    moved = 10.0**scale * (x @ rotation(d, seed)) + rng.standard_normal(d)
    assert MEASURES["linear_cka"](moved, y).value == pytest.approx(value, abs=1e-9)
    assert MEASURES["linear_cka"](y, x).value == pytest.approx(value, abs=1e-12)
    assert MEASURES["linear_cka"](x, moved).value == pytest.approx(1, abs=1e-9)
    centre = [side - side.mean(0) for side in (x, y)]
    grams = [side @ side.T for side in centre]
    twin = np.trace(grams[0] @ grams[1]) / math.sqrt(
        np.trace(grams[0] @ grams[0]) * np.trace(grams[1] @ grams[1])
    )
    assert value == pytest.approx(twin, abs=1e-9)


@given(seeds, st.integers(1, 5), st.integers(1, 5))
@FEW
def test_correlation_against_numpy(seed: int, d: int, e: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((25, d)), rng.standard_normal((25, e))
    table = np.corrcoef(x.T, y.T)[:d, d:]
    found = MEASURES["correlation"](x, y).value
    assert found == pytest.approx(np.abs(table).mean(), abs=1e-12)
    dead = np.hstack([x, np.full((25, d), 0.1)])  # as many coordinates again, which do not vary
    assert MEASURES["correlation"](dead, y).value == pytest.approx(found / 2, abs=1e-12)


# --- HSIC ---


def slow_unbiased(k: np.ndarray, m: np.ndarray) -> float:
    """Mean over all quadruples of different samples (Gretton et al., 2005)."""
    n, total = len(k), 0.0
    for i, j, q, r in itertools.permutations(range(n), 4):
        total += k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q])
    return total / (n * (n - 1) * (n - 2) * (n - 3))


@given(seeds)
@FEW
def test_hsic_against_its_definition(seed: int) -> None:
    x, y = gaussian(8, 2, 0.8, seed)
    k, m = gaussian_kernel(x), gaussian_kernel(y)
    assert unbiased_hsic(k, m) == pytest.approx(slow_unbiased(k, m), abs=1e-12)
    h = np.eye(8) - 1 / 8
    assert biased_hsic(k, m) == pytest.approx(np.trace(k @ h @ m @ h) / 64, abs=1e-12)


def test_kernel_has_the_median_as_its_width() -> None:
    values = np.array([[0.0], [1.0], [3.0]])  # distances 1, 2, 3
    expected = np.exp(-np.square(values - values.T) / (2 * 4))
    assert gaussian_kernel(values) == pytest.approx(expected)
    sparse = np.array([[0.0]] * 9 + [[1.0]])  # most distances are 0: their mean square instead
    assert gaussian_kernel(sparse)[0, 9] == pytest.approx(math.exp(-1 / (2 * 9 / 45)))


@given(seeds, st.floats(-3, 3))
@FEW
def test_hsic_ignores_rotations_and_one_scale(seed: int, scale: float) -> None:
    x, y = gaussian(30, 3, 0.7, seed)
    moved = 10.0**scale * (x @ rotation(3, seed)) + 2
    for measure in (dependence.hsic(), dependence.hsic(biased=True)):
        assert measure(moved, y).value == pytest.approx(measure(x, y).value, abs=1e-9)


def test_hsic_is_unbiased_and_sees_what_correlation_does_not() -> None:
    values = [MEASURES["hsic"](*gaussian(30, 2, 0.0, seed)).value for seed in range(200)]
    assert abs(np.mean(values)) < 3 * np.std(values) / math.sqrt(200)
    biased = [dependence.hsic(biased=True)(*gaussian(30, 2, 0.0, seed)).value for seed in range(20)]
    assert np.mean(biased) > 0.003 > 10 * abs(np.mean(values))
    x = np.random.default_rng(0).uniform(-1, 1, 300)
    assert MEASURES["hsic"](x, x**2).excess > 20 * np.std(MEASURES["hsic"](x, x**2, shuffles=20).controls)
    assert MEASURES["correlation"](x, x**2).value < 0.15


# --- conditional entropy, sensitivity ---


def test_conditional_entropy_of_a_map_of_symbols() -> None:
    symbols = np.repeat(np.arange(6), 25)
    merged = MEASURES["conditional_entropy"](np.eye(6)[symbols], np.eye(3)[symbols // 2])
    assert merged.value == pytest.approx(1, abs=1e-9)
    assert merged.cap == pytest.approx(math.log2(150))
    assert 2 < merged.control <= math.log2(6)
    back = MEASURES["conditional_entropy"](np.eye(3)[symbols // 2], np.eye(6)[symbols])
    assert back.value == pytest.approx(0, abs=1e-9)


@given(seeds, st.sampled_from([1, 5, 20]))
@FEW
def test_conditional_entropy_is_between_zero_and_the_entropy(seed: int, d: int) -> None:
    x, y = gaussian(80, d, 0.9, seed)
    found = MEASURES["conditional_entropy"](x, y)
    entropy = edge(x, y).entropy_x_bits
    assert -1e-9 <= found.value <= entropy + 1e-9 <= math.log2(80) + 1e-9
    assert found.control >= found.value - 1e-9 or d == 20


@given(seeds, st.floats(0, 3))
@FEW
def test_sensitivity_of_a_stretch(seed: int, by: float) -> None:
    clean = gaussian(30, 4, 0.0, seed)[0]
    found = dependence.sensitivity()(clean, (1 + by) * clean)
    assert found.value == pytest.approx(by, abs=1e-12)
    assert found.control > 0.5


def test_sensitivity_of_outputs_that_are_zero() -> None:
    clean = np.ones((20, 2))
    clean[0] = 0
    assert dependence.sensitivity()(clean, clean).value == 0
    assert dependence.sensitivity()(clean, clean + 1).value == math.inf


# --- the interval ---


def channel(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A binary symmetric channel with error 0.2: 0.278 bits."""
    rng = np.random.default_rng(seed)
    sent = rng.integers(0, 2, n)
    return np.eye(2)[sent], np.eye(2)[sent ^ (rng.random(n) < 0.2)]


def test_interval_covers_a_known_truth() -> None:
    """60 intervals of nominally 95 %: fewer than 51 have a chance of 1 in 1,000.

    The bias of plug-in information of two symbols is the same for shuffled pairs (to second order), so the
    excess is to cover the truth itself.
    """
    truth = 1 + 0.2 * math.log2(0.2) + 0.8 * math.log2(0.8)
    measure = dependence.classes(clusters=None)
    found = [excess_interval(measure, *channel(300, seed), replicates=30, shuffles=2) for seed in range(60)]
    covered = sum(interval.low <= truth <= interval.high for interval in found)
    assert covered >= 51
    # and not by being wide: its standard error is that of the excess over the repetitions
    spread = np.std([interval.value for interval in found])
    assert np.mean([interval.standard_error for interval in found]) == pytest.approx(spread, rel=0.3)


def test_drawing_with_replacement_would_have_been_wrong() -> None:
    """Why subsampling: copies make independent data dependent."""
    x, y = gaussian(200, 1, 0.0)
    rng = np.random.default_rng(0)
    copies = [rng.integers(0, 200, 200) for _ in range(20)]
    bootstrap = np.mean([MEASURES["ksg"](x[rows], y[rows]).value for rows in copies])
    interval = excess_interval(MEASURES["ksg"], x, y)
    assert bootstrap > interval.high + interval.standard_error
    assert interval.low < 0 < interval.high


def test_interval_is_about_the_excess_and_widens_with_its_level() -> None:
    x, y = gaussian(120, 2, 0.8)
    labels = np.repeat([0, 1], 60)
    for chosen in (None, labels):
        narrow = excess_interval(MEASURES["edge"], x, y, labels=chosen, level=0.5, seed=3)
        wide = excess_interval(MEASURES["edge"], x, y, labels=chosen, level=0.99, seed=3)
        whole = (
            MEASURES["edge"](x, y, seed=3)
            if chosen is None
            else within_classes(MEASURES["edge"], x, y, labels, seed=3)
        )
        assert wide.value == narrow.value == pytest.approx(whole.excess, abs=1e-12)
        assert wide.low < narrow.low < wide.value < narrow.high < wide.high
        assert narrow.high - narrow.value == pytest.approx(0.6770 * narrow.standard_error, rel=1e-3)


@pytest.mark.parametrize("name", MEASURES)
def test_every_measure_has_an_interval(name: str) -> None:
    x, y = gaussian(60, 2, 0.9)
    found = excess_interval(MEASURES[name], x, y, replicates=20, shuffles=1)
    assert found.low < found.value < found.high and found.replicates == 20
