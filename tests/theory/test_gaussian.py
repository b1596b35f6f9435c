"""Gaussian models: closed forms against simulation-free numerical integration of their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import multivariate_normal, norm

from semirobust.theory import GAUSS
from semirobust.theory.gaussian import (
    GaussianChain,
    gaussian_density_ratio,
    gaussian_information,
)

quick = settings(max_examples=40)
LN2 = math.log(2)
chains = st.builds(
    GaussianChain,
    mean=st.floats(0, 4),
    radius=st.floats(0, 2),
    noises=st.lists(st.floats(0.1, 3), min_size=2, max_size=4).map(tuple),
)


@quick
@given(chains)
def test_the_sign_is_the_best_threshold_and_layers_only_lose(chain: GaussianChain) -> None:
    gammas = [chain.gamma_star(j) for j in range(1, chain.depth + 1)]
    losses = [chain.cross_entropy(j) for j in range(1, chain.depth + 1)]
    assert gammas == sorted(gammas, reverse=True)
    assert losses == sorted(losses)
    for j in range(1, chain.depth + 1):
        if chain.mean >= chain.radius:
            assert chain.threshold_correlation(j, 0.0) == pytest.approx(gammas[j - 1], abs=1e-12)
        for threshold in (-1.0, -0.1, 0.2, 3.0):
            assert chain.threshold_correlation(j, threshold) <= gammas[j - 1] + 1e-12


@quick
@given(chains, st.floats(-3, 3))
def test_threshold_correlation_from_its_definition(chain: GaussianChain, threshold: float) -> None:
    """The worst shift on a grid, class by class."""
    scale = math.sqrt(chain.variance(1))
    shifts = np.linspace(-chain.radius, chain.radius, 9)
    plus = min(norm.sf(threshold, chain.mean + s, scale) for s in shifts)
    minus = min(norm.cdf(threshold, -chain.mean + s, scale) for s in shifts)
    assert chain.threshold_correlation(1, threshold) == pytest.approx(plus + minus - 1, abs=1e-12)


@quick
@given(chains)
def test_sandwich(chain: GaussianChain) -> None:
    for j in range(1, chain.depth + 1):
        error, bits = (1 - chain.gamma_star(j)) / 2, chain.cross_entropy(j) / LN2
        assert error <= bits / 2 + 1e-12
        entropy = -(error * math.log2(error) + (1 - error) * math.log2(1 - error)) if error > 0 else 0.0
        assert bits <= entropy + 1e-9


@pytest.mark.parametrize(("margin", "variance"), [(0.0, 1.0), (0.3, 2.0), (1.0, 1.0), (2.5, 0.5), (4.0, 1.0)])
def test_cross_entropy_is_the_entropy_of_the_label(margin: float, variance: float) -> None:
    """H(y) + h(z | y) - h(z), with the differential entropy of the mixture by integration."""
    chain = GaussianChain(mean=margin, radius=0.0, noises=(variance,))
    scale = math.sqrt(variance)

    def minus_log_density(z: float) -> float:
        density = (norm.pdf(z, margin, scale) + norm.pdf(z, -margin, scale)) / 2
        return -density * math.log(density) if density > 0 else 0.0

    mixture = 2 * quad(minus_log_density, 0, margin + 14 * scale, epsabs=1e-13, limit=400, points=[margin])[0]
    noise = 0.5 * math.log(2 * math.pi * math.e * variance)
    assert chain.cross_entropy(1) == pytest.approx(LN2 + noise - mixture, abs=1e-10)


def test_cross_entropy_at_the_ends() -> None:
    assert GaussianChain(mean=0.5, radius=0.5, noises=(1.0,)).cross_entropy(1) == LN2
    assert GaussianChain(mean=0.5, radius=2.0, noises=(1.0,)).cross_entropy(1) == LN2
    far = [GaussianChain(mean=m, radius=0.0, noises=(1.0,)).cross_entropy(1) for m in (5.0, 10.0, 30.0)]
    assert 1e-6 > far[0] > 1e-9 > far[1] > far[2] > 0
    # large margins: E[ln(1 + e^{-2 m z})] ~ phi(m) * integral of ln(1 + e^{-2 m z}) e^{m z} dz = phi(m) pi /
    # m
    assert far[2] == pytest.approx(math.exp(-450) / math.sqrt(2 * math.pi) * math.pi / 30, rel=0.01)


def test_a_shift_the_size_of_the_mean_hides_the_class() -> None:
    chain = GaussianChain(mean=0.4, radius=0.5, noises=(1.0, 1.0))
    assert chain.gamma_star(1) == chain.gamma_star(2) == chain.margin == 0
    assert chain.threshold_correlation(1, 0.0) < 0


@pytest.mark.parametrize("r", [-0.9, 0.0, 0.3, 0.7])
def test_gaussian_pair_by_integration(r: float) -> None:
    """E[r] and I of a Gaussian pair on a grid."""
    axis = np.linspace(-9, 9, 1201)
    g, h = np.meshgrid(axis, axis, indexing="ij")
    joint = multivariate_normal([0, 0], [[1, r], [r, 1]]).pdf(np.stack([g, h], -1))
    ratio = joint / (norm.pdf(g) * norm.pdf(h))
    cell = (axis[1] - axis[0]) ** 2
    kept = joint > 0
    assert gaussian_information(r) == pytest.approx(
        float((joint[kept] * np.log(ratio[kept])).sum() * cell), abs=1e-9
    )
    if abs(r) < 0.5:  # the mean of the ratio converges slowly for strong correlations
        assert gaussian_density_ratio(r) == pytest.approx(float((joint * ratio).sum() * cell), abs=1e-6)
    assert gaussian_density_ratio(r) == pytest.approx(math.exp(2 * gaussian_information(r)), rel=1e-12)


@quick
@given(chains)
def test_dependence_is_that_of_the_correlation_of_the_layers(chain: GaussianChain) -> None:
    for j in range(2, chain.depth + 1):
        r = math.sqrt(chain.variance(j - 1) / chain.variance(j))
        assert chain.dependence(j) == pytest.approx(gaussian_information(r), rel=1e-9)
        assert chain.density_ratio(j) == pytest.approx(gaussian_density_ratio(r), rel=1e-9)


def test_a_deterministic_layer_has_infinite_dependence_and_loses_nothing() -> None:
    chain = GaussianChain(mean=1.5, radius=0.5, noises=(1.0, 0.0))
    assert chain.dependence(2) == chain.density_ratio(2) == math.inf
    assert chain.gamma_star(2) == chain.gamma_star(1)
    assert gaussian_information(1.0) == gaussian_density_ratio(-1.0) == math.inf


def test_linear_readouts_scale() -> None:
    assert GAUSS.linear_correlation(4.0) == 4 * GAUSS.linear_correlation(1.0) == 4.0
    assert GAUSS.linear_correlation(1.0, 0.25) == 1.75
    assert GAUSS.linear_correlation(-1.0) == -2.0
    assert all(GAUSS.linear_correlation(2.0) <= GAUSS.linear_correlation(2.0, s) for s in (-0.5, 0.1, 0.5))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"mean": -1.0}, "mean is -1.0; it must be a finite number, 0 or more"),
        ({"radius": math.nan}, "radius is nan"),
        ({"radius": math.inf}, "radius is inf"),
        ({"noises": ()}, "the first variance, that of the input, must be positive"),
        ({"noises": (0.0, 1.0)}, "the first variance, that of the input, must be positive"),
        ({"noises": (1.0, -1.0)}, r"noises\[1\] is -1.0"),
    ],
)
def test_bad_chains(change, says) -> None:
    with pytest.raises(ValueError, match=says):
        GaussianChain(**({"mean": 1.0, "radius": 0.5, "noises": (1.0,)} | change))


def test_other_bad_input() -> None:
    for j in (0, 4, True, 1.0):
        with pytest.raises(ValueError, match=r"does not exist; layers go from 1 \(the input\) to 3"):
            GAUSS.gamma_star(j)
    with pytest.raises(ValueError, match="layer 1 is the input and has no layer before it; ask for 2 to 3"):
        GAUSS.dependence(1)
    with pytest.raises(ValueError, match=r"moves by at most 0\.5"):
        GAUSS.linear_correlation(1.0, 0.6)
    for r in (1.1, math.nan):
        with pytest.raises(ValueError, match=r"lies in \[-1, 1\]"):
            gaussian_information(r)
