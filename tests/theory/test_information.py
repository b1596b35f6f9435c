"""Exact dependence: closed forms, and the facts about U on random joint laws."""

from __future__ import annotations

import math
from fractions import Fraction as F

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semirobust.theory import information
from tests.theory.cases import joints, quick

LN2 = math.log(2)


def test_binary_symmetric_channel() -> None:
    chain = information.markov_chain(
        {0: F(1)}, {0: {-1: F(1, 2), 1: F(1, 2)}}, information.binary_symmetric_channel(F(1, 10))
    )
    found = information.dependency(chain)
    assert found.nats == pytest.approx(0.3680642071684971, abs=1e-12)
    assert found.bits == pytest.approx(1 - information.binary_entropy(F(1, 10)), abs=1e-12)
    assert found.mean_density_ratio == F(41, 25)
    assert found.least_growth == F(66, 25)
    assert math.log(found.mean_density_ratio) == pytest.approx(0.494696241836, abs=1e-12)


def test_markov_chain_of_two_binary_symmetric_channels() -> None:
    law = information.markov_chain(
        {-1: F(1, 2), 1: F(1, 2)},
        information.binary_symmetric_channel(F(1, 10)),
        information.binary_symmetric_channel(F(1, 5)),
    )
    assert information.mutual_information(law) == pytest.approx(0.072654493593, abs=1e-12)
    assert math.exp(information.mutual_information(law)) == pytest.approx(1.075358929322, abs=1e-12)
    assert information.mean_density_ratio(law) == F(562, 481)
    assert information.pair_information(information.marginal(law, 2, 0)) == pytest.approx(
        0.368064207168, abs=1e-12
    )
    assert information.pair_information(information.marginal(law, 2, 1)) == pytest.approx(
        0.120090263429, abs=1e-12
    )


@quick
@given(joints())
def test_mean_density_ratio_is_at_least_the_exponential_of_the_information(law) -> None:
    found = information.dependency(law)
    assert found.nats >= 0
    assert found.mean_density_ratio >= 1
    assert found.mean_density_ratio >= math.exp(found.nats) - 1e-12
    assert (found.mean_density_ratio == 1) == (found.nats < 1e-14)


@quick
@given(joints())
def test_information_from_entropies_and_by_class(law) -> None:
    """I(g; h | y) = H(g | y) - H(g | h, y), and it is the mean of the information within the classes."""
    g_y = information.conditional_entropy(information.marginal(law, 0, 2))
    g_hy = information.conditional_entropy({(g, (h, y)): m for (g, h, y), m in law.items()})
    assert information.mutual_information(law) == pytest.approx(g_y - g_hy, abs=1e-12)
    by_class = 0.0
    for label, prior in information.marginal(law, 2).items():
        inside = {(g, h): m / prior for (g, h, y), m in law.items() if y == label}
        by_class += float(prior) * information.pair_information(inside)
    assert information.mutual_information(law) == pytest.approx(by_class, abs=1e-12)


@quick
@given(joints(), st.lists(st.integers(0, 2), min_size=3, max_size=3))
def test_deterministic_layer(law, images) -> None:
    """I = H(h | y), and E[r] is the mean number of values of h within a class."""
    inputs = information.marginal(law, 0, 2)
    joint = information.joint_from_channel(inputs, {g: {h: F(1)} for g, h in enumerate(images)})
    h_y = information.marginal(joint, 1, 2)
    assert information.mutual_information(joint) == pytest.approx(
        information.conditional_entropy(h_y), abs=1e-12
    )
    support = sum(
        p * sum(1 for _, label in h_y if label == y) for y, p in information.marginal(joint, 2).items()
    )
    assert information.mean_density_ratio(joint) == support


@quick
@given(joints(), joints())
def test_for_a_markov_chain_the_label_is_not_counted(law, other) -> None:
    """I(g; h | y) = I(g; h) - I(y; h) for y -> g -> h."""
    channel = {}
    for g in range(3):
        row = {h: m for (a, h, y), m in other.items() if a == g and y == 1}
        total = sum(row.values())
        channel[g] = {h: m / total for h, m in row.items()} if row else {g: F(1)}
    chain = information.joint_from_channel(information.marginal(law, 0, 2), channel)
    without = information.pair_information(information.marginal(chain, 0, 1))
    label = information.pair_information(information.marginal(chain, 2, 1))
    assert information.mutual_information(chain) == pytest.approx(without - label, abs=1e-12)


def test_a_channel_of_point_masses_is_a_map() -> None:
    inputs = {(0, 1): F(1, 4), (1, 1): F(1, 4), (1, -1): F(1, 2)}
    found = information.joint_from_channel(inputs, {0: {5: F(1)}, 1: {6: F(1)}})
    assert found == {(g, g + 5, y): mass for (g, y), mass in inputs.items()}


def test_entropies() -> None:
    assert information.entropy({"a": F(1, 2), "b": F(1, 4), "c": F(1, 4)}) == pytest.approx(
        1.5 * LN2, abs=1e-15
    )
    pair = {(0, 0): F(1, 4), (1, 0): F(1, 4), (2, 1): F(1, 2)}
    assert information.conditional_entropy(pair) == pytest.approx(0.5 * LN2, abs=1e-15)
    assert information.pair_information(pair) == pytest.approx(LN2, abs=1e-15)
    assert information.entropy({0: F(1)}) == 0.0
    tiny = F(1, 10**400)  # below the smallest float
    assert information.entropy({0: tiny, 1: 1 - tiny}) == 0.0


def test_distinct_activations_need_no_network() -> None:
    """10,000 test images of ten classes: U = 1000, and A2 would ask for a growth of 1001."""
    found = information.distinct_activations([1000] * 10)
    assert found.least_growth == 1001
    assert found.bits == pytest.approx(math.log2(1000), abs=1e-12)
    counts = (3, 1, 2)
    law = {((c, i), (c, i), c): F(1, 6) for c, n in enumerate(counts) for i in range(n)}
    assert information.distinct_activations(counts).mean_density_ratio == information.mean_density_ratio(law)
    assert information.distinct_activations(counts).nats == pytest.approx(
        information.mutual_information(law), abs=1e-12
    )


def test_binary_entropy_and_its_inverse() -> None:
    assert information.binary_entropy(F(1, 2)) == 1.0
    assert information.binary_entropy(0.0) == information.binary_entropy(1) == 0.0
    assert information.binary_entropy(0.25) == pytest.approx(2 - 0.75 * math.log2(3), abs=1e-15)
    assert information.inverse_binary_entropy(0.5) == pytest.approx(0.11002786443835955, abs=1e-15)
    assert information.inverse_binary_entropy(1.0) == 0.5
    assert information.inverse_binary_entropy(0) == 0.0
    assert information.binary_entropy(1e-300) == pytest.approx(
        1e-300 * (300 * math.log2(10) + 1 / LN2), rel=1e-12
    )
    assert information.inverse_binary_entropy(information.binary_entropy(1e-300)) == pytest.approx(
        1e-300, rel=1e-12
    )


@quick
@given(st.floats(0, 0.5))
def test_inverse_binary_entropy_returns(p: float) -> None:
    """Near 1/2 the entropy moves by (1 - 2 p)^2 only, so there only the entropy can be compared."""
    value = information.binary_entropy(p)
    q = information.inverse_binary_entropy(value)
    assert 0 <= q <= 0.5
    assert information.binary_entropy(q) == pytest.approx(value, abs=4e-16, rel=1e-14)
    if p < 0.49:
        assert q == pytest.approx(p, abs=1e-12)


@pytest.mark.parametrize("k", [2, 5, 10, 20, 30, 40, 50, 53])
def test_inverse_is_exact_where_the_entropy_is_flat(k: int) -> None:
    """1 - 2^-k is a double, and 1 - h_b((1 - t) / 2) = sum of t^(2i) / (2i (2i - 1) ln 2) is solved for t in
    rational arithmetic.
    """
    target = F(1, 2**k) * F(LN2)
    low, high = F(0), F(1)
    for _ in range(70):
        middle = F(round((low + high) / 2 * 2**75), 2**75)
        deficit = sum(float(middle) ** (2 * i) / (2 * i * (2 * i - 1)) for i in range(2, 200))
        low, high = (middle, high) if middle**2 / 2 + F(deficit) < target else (low, middle)
    found = information.inverse_binary_entropy(1 - 2.0**-k)
    assert found == pytest.approx(float(1 - high) / 2, abs=1e-12)
    assert 1 - 2 * found == pytest.approx(float(high), rel=1e-7)


def test_inverse_is_monotone_across_its_two_branches() -> None:
    values = [information.inverse_binary_entropy(0.5 + k * 1e-15) for k in range(-40, 41)]
    assert values == sorted(values)
    assert values[-1] - values[0] < 1e-13


@pytest.mark.parametrize(
    ("law", "error", "says"),
    [
        ({(0, 0, 1): F(1, 2)}, ValueError, "sum to 1/2; they must sum to exactly 1"),
        ({(0, 0, 1): F(3, 2), (1, 0, 1): F(-1, 2)}, ValueError, "must not be negative"),
        ({(0, 0, 1): 0.5, (1, 0, 1): 0.5}, TypeError, "pass a fractions.Fraction"),
        ({(0, 0, 1): True}, TypeError, "pass a fractions.Fraction"),
        ({(0, 1): F(1)}, TypeError, "not a triple"),
        ({}, ValueError, "sum to 0"),
    ],
)
def test_a_joint_law_that_is_none(law, error, says) -> None:
    for function in (
        information.checked_joint,
        information.mutual_information,
        information.mean_density_ratio,
        information.dependency,
    ):
        with pytest.raises(error, match=says):
            function(law)


def test_zero_probabilities_do_not_matter() -> None:
    law = {(0, 0, 1): F(1, 2), (1, 1, 1): F(1, 2), (0, 1, 1): F(0)}
    assert information.mutual_information(law) == pytest.approx(LN2, abs=1e-15)
    assert information.mean_density_ratio(law) == 2
    assert len(information.checked_joint(law)) == 2


def test_other_bad_input() -> None:
    inputs = {(0, 1): F(1, 2), (1, 1): F(1, 2)}
    with pytest.raises(ValueError, match="no row for 1"):
        information.joint_from_channel(inputs, {0: {0: F(1)}})
    with pytest.raises(ValueError, match="sum to 1/2"):
        information.joint_from_channel(inputs, {0: {0: F(1, 2)}, 1: {0: F(1)}})
    with pytest.raises(ValueError, match=r"error is 3/2; a probability lies in \[0, 1\]"):
        information.binary_symmetric_channel(F(3, 2))
    with pytest.raises(TypeError, match=r"pass a fractions\.Fraction"):
        information.binary_symmetric_channel(0.1)  # type: ignore[arg-type]
    for p in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=r"lies in \[0, 1\]"):
            information.binary_entropy(p)
        with pytest.raises(ValueError, match=r"lies in \[0, 1\] bits"):
            information.inverse_binary_entropy(p)
    for counts in ((), (3, 0), (2.0,), (True,)):
        with pytest.raises(ValueError, match="number of samples of each class"):
            information.distinct_activations(counts)  # type: ignore[arg-type]
    for rho in ([-1.0], [math.nan], [math.inf]):
        with pytest.raises(ValueError, match="finite and not negative"):
            information.required_scale(rho)
