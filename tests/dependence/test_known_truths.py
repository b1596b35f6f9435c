"""Laws of known information: closed forms against integrals, enumeration and samples; the bench of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import dblquad, quad

from semirobust import dependence, runs
from semirobust.dependence import Erasure, Gaussian, Layer, Merging, Overlap, SymmetricChannel, entropy_bits
from semirobust.experiments import known_truths
from semirobust.experiments import known_truths as bench

FEW = settings(max_examples=25)


def table_bits(joint: np.ndarray) -> float:
    """Mutual information of a finite joint law, from its definition."""
    product = joint.sum(1, keepdims=True) * joint.sum(0)
    return sum(p * math.log2(p / q) for p, q in zip(joint.ravel(), product.ravel(), strict=True) if p > 0)


@pytest.mark.parametrize("r", [-0.9, 0.3, 0.7])
def test_gaussian_against_the_integral(r: float) -> None:
    def integrand(y: float, x: float) -> float:
        s = 1 - r * r
        log_ratio = -math.log(s) / 2 - (r * r * (x * x + y * y) - 2 * r * x * y) / (2 * s)
        density = math.exp(-(x * x - 2 * r * x * y + y * y) / (2 * s)) / (2 * math.pi * math.sqrt(s))
        return density * log_ratio / math.log(2)

    assert Gaussian(1, r).bits == pytest.approx(dblquad(integrand, -8, 8, -8, 8, epsabs=1e-7)[0], abs=1e-6)
    assert Gaussian(5, r).bits == pytest.approx(5 * Gaussian(1, r).bits)


@given(st.integers(2, 12), st.floats(0, 1))
@FEW
def test_channel_against_enumeration(q: int, error: float) -> None:
    joint = np.full((q, q), error / (q - 1) / q)
    np.fill_diagonal(joint, (1 - error) / q)
    law = SymmetricChannel(q, error)
    assert law.bits == pytest.approx(table_bits(joint), abs=1e-9)
    assert law.truths["conditional_entropy"] == pytest.approx(
        entropy_bits(joint.ravel()) - math.log2(q), abs=1e-9
    )


def test_binary_symmetric_channel() -> None:
    assert SymmetricChannel(2, 0.1).bits == pytest.approx(0.531004406410719)
    assert SymmetricChannel(2, 0.5).bits == pytest.approx(0, abs=1e-12)
    assert SymmetricChannel(8, 0.0).bits == 3


@given(st.integers(2, 6), st.integers(1, 5))
@FEW
def test_merging_against_enumeration(groups: int, block: int) -> None:
    q = groups * block
    joint = np.zeros((q, groups))
    joint[np.arange(q), np.arange(q) // block] = 1 / q
    law = Merging(q, block)
    assert law.bits == pytest.approx(table_bits(joint))
    assert law.bits + law.truths["conditional_entropy"] == pytest.approx(math.log2(q))


@pytest.mark.parametrize("q", [1, 2, 5, 9])
def test_overlap_against_the_integral(q: int) -> None:
    """I = h(y) - h(y | x), with h(y | x) = log2 2 = 1."""

    def surprise(y: float) -> float:
        density = sum(0.5 / q for x in range(q) if x <= y < x + 2)
        return -density * math.log2(density)

    entropy = sum(quad(surprise, a, a + 1)[0] for a in range(q + 1))
    assert Overlap(q).bits == pytest.approx(entropy - 1, abs=1e-9)


def test_erasure_by_the_chain_rule() -> None:
    """y is lost or not, which x does not decide; where it is not, it is the Gaussian."""
    assert Erasure(3, 0.8, 0.25).bits == pytest.approx(0.75 * Gaussian(3, 0.8).bits)
    x, y = Erasure(2, 0.8, 0.25).sample(20_000, np.random.default_rng(0))
    lost = (y == 10).all(1)
    assert ((y == 10).any(1) == lost).all()
    assert lost.mean() == pytest.approx(0.25, abs=0.01)
    assert abs(np.corrcoef(x[:, 0], lost)[0, 1]) < 0.03
    kept = np.corrcoef(x[~lost].T, y[~lost].T)[:2, 2:]
    assert kept == pytest.approx(0.8 * np.eye(2), abs=0.03)


@pytest.mark.parametrize(
    "law", [SymmetricChannel(2, 0.1), SymmetricChannel(5, 0.3), Merging(6, 2)], ids=lambda law: law.label
)
def test_samples_of_finite_laws_have_the_stated_information(law) -> None:
    x, y = law.sample(40_000, np.random.default_rng(0))
    a, b = x.argmax(1), y.argmax(1)
    assert (x.sum(1) == 1).all() and (y.sum(1) == 1).all()
    assert dependence.plug_in(a, b, correction="miller_madow") == pytest.approx(law.bits, abs=0.02)
    left = entropy_bits(np.bincount(a) / len(a)) - dependence.plug_in(a, b)
    assert left == pytest.approx(law.truths["conditional_entropy"], abs=0.02)


@pytest.mark.parametrize(
    "law", [Gaussian(1, 0.7), Gaussian(2, -0.5), Overlap(4), Erasure(1, 0.9, 0.3)], ids=lambda law: law.label
)
def test_samples_of_smooth_laws_have_the_stated_information(law) -> None:
    x, y = law.sample(6000, np.random.default_rng(1))
    assert dependence.ksg()(x, y, shuffles=1).value == pytest.approx(law.bits, abs=0.06)


@pytest.mark.parametrize(
    "law", [law for law in known_truths.LAWS if "linear_cka" in law.truths], ids=lambda law: law.label
)
def test_limits_of_the_linear_measures(law) -> None:
    x, y = law.sample(20_000, np.random.default_rng(2))
    for name in ("linear_cka", "correlation"):
        found = dependence.MEASURES[name](x, y, shuffles=1).value
        assert found == pytest.approx(law.truths[name], abs=0.02)


@pytest.mark.parametrize("law", known_truths.LAWS, ids=lambda law: law.label)
def test_samples_are_finite_and_of_one_seed(law) -> None:
    x, y = law.sample(50, np.random.default_rng(3))
    again = law.sample(50, np.random.default_rng(3))
    assert (x == again[0]).all() and (y == again[1]).all()
    assert len(x) == len(y) == 50 and x.dtype == y.dtype == np.float64
    assert np.isfinite(x).all() and np.isfinite(y).all()
    assert law.truths["information"] == law.bits >= 0


def test_a_deterministic_layer_is_a_function_and_infinite() -> None:
    x, y = Layer(3).sample(100, np.random.default_rng(0))
    assert Layer(3).bits == math.inf
    back = np.arctanh(y)
    assert np.linalg.lstsq(x, back, rcond=None)[1] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Gaussian(0, 0.5), "d must be 1"),
        (lambda: Gaussian(2, 1.0), "between -1 and 1"),
        (lambda: SymmetricChannel(1, 0.1), "q must be 2"),
        (lambda: SymmetricChannel(2, 1.1), "error in"),
        (lambda: Merging(7, 2), "times block"),
        (lambda: Layer(0), "1 or more"),
        (lambda: Overlap(0), "1 or more"),
        (lambda: Erasure(1, 0.5, -0.1), "in \\[0, 1\\]"),
    ],
)
def test_bad_parameters(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# --- the bench ---


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str, int], dict]:
    """Two laws, small: the independent one of many dimensions, and a channel."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEMIROBUST_RESULTS", str(tmp_path_factory.mktemp("bench")))
        laws = (Gaussian(32, 0.0), SymmetricChannel(2, 0.1), Layer(2))
        patch.setattr(
            bench, "plans", lambda profile: [known_truths.TruthConfig(law, (100, 400), 3) for law in laws]
        )
        patch.setitem(known_truths.LIMIT, "hsic", 100)
        records = known_truths.run("quick")
        assert [record.path for record in known_truths.run("quick")] == [record.path for record in records]
    return {(row["law"], row["measure"], row["n"]): row for row in known_truths.table(records)}


def test_bench_summarises_its_repetitions(rows) -> None:
    row = rows["channel, q = 2, error 0.1", "edge", 400]
    assert len(row["values"]) == len(row["controls"]) == 3
    assert row["mean"] == pytest.approx(np.mean(row["values"]))
    assert row["spread"] == pytest.approx(np.std(row["values"], ddof=1)) and row["spread"] > 0
    assert row["bias"] == pytest.approx(row["mean"] - 0.531004406)
    assert row["cap"] == pytest.approx(math.log2(400)) == row["log2_n"] and row["seconds"] > 0
    draw = SymmetricChannel(2, 0.1).sample(400, np.random.default_rng([0, 400, 1]))
    assert row["values"][1] == dependence.edge()(*draw).value


def test_infinite_and_unknown_truths_stay_what_they_are(rows) -> None:
    layer = rows["tanh layer, d = 2", "ksg", 100]
    assert layer["truth"] == math.inf and layer["bias"] == -math.inf
    assert rows["tanh layer, d = 2", "hsic", 100]["bias"] is None
    assert ("tanh layer, d = 2", "hsic", 400) not in rows, "above its limit"


def test_independent_data_in_32_dimensions_score_near_the_cap(rows) -> None:
    """With the estimator's own defaults; and it is the control that says so."""
    for n in (100, 400):
        row = rows["Gaussian, d = 32, r = 0", "edge_ensemble", n]
        assert row["mean"] > 0.97 * row["cap"] == pytest.approx(0.97 * math.log2(n))
        assert abs(row["mean"] - row["control"]) < 0.05
        assert abs(rows["Gaussian, d = 32, r = 0", "ksg", n]["mean"]) < 0.2


def test_profiles() -> None:
    with pytest.raises(ValueError, match="quick, reference, paper"):
        known_truths.plans("quik")
    sizes = known_truths.plans("reference")[0].sizes
    assert (min(sizes), max(sizes)) == (100, 10_000) and known_truths.plans("reference")[0].repeats >= 10
    hashes = [runs.config_hash(config) for config in known_truths.plans("quick")]
    assert len(set(hashes)) == len(hashes) == len({law.label for law in known_truths.LAWS})
    estimators = {measure.name for measure, _ in known_truths.ESTIMATORS.values()}
    assert estimators == set(dependence.MEASURES)
