"""Gaussian models in closed form: robust correlation falls from layer to layer whatever the dependence does.

Two balanced classes, and an adversary that moves the input by at most a radius. Because the noise is
symmetric and unimodal, the best readout is the sign (for 0-1 loss) or the logistic function (for
cross-entropy) of the layer, and the worst attack is the largest shift towards the other class. So every
number below is exact, or one integral of one variable. The dependence is that under any attack that shifts
each class by a constant, so that the laws stay Gaussian. Information is in nats.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.integrate import quad
from scipy.special import ndtr


def gaussian_information(correlation: float) -> float:
    """I of a Gaussian pair, -ln(1 - r^2) / 2 in nats; infinite for |r| = 1."""
    return 0.5 * math.log(gaussian_density_ratio(correlation))


def gaussian_density_ratio(correlation: float) -> float:
    """E[p(g, h) / (p(g) p(h))] of a Gaussian pair, 1 / (1 - r^2) = e^{2 I}; infinite for |r| = 1."""
    if not abs(correlation) <= 1:
        raise ValueError(f"correlation is {correlation!r}; it lies in [-1, 1]")
    rest = (1 - correlation) * (1 + correlation)
    return 1 / rest if rest else math.inf


@dataclass(frozen=True)
class GaussianChain:
    """Z_1 = X with X | y ~ N(y mean, noise_1), and Z_j = Z_{j-1} + N(0, noise_j): a random layer each.

    mean: half the distance of the classes, 0 or more. radius: of the attack |delta| <= radius on X. noises:
    the variances that the layers add; the first is positive, and 0 makes a layer deterministic. Layers are
    numbered from 1. Raises ``ValueError`` for numbers out of range and for layers that do not exist.
    """

    mean: float
    radius: float
    noises: tuple[float, ...]

    def __post_init__(self) -> None:
        _not_negative(mean=self.mean, radius=self.radius)
        object.__setattr__(self, "noises", tuple(self.noises))
        if not self.noises or not self.noises[0] > 0:
            raise ValueError(
                f"noises is {self.noises}; the first variance, that of the input, must be positive"
            )
        _not_negative(**{f"noises[{i}]": noise for i, noise in enumerate(self.noises)})

    @property
    def depth(self) -> int:
        return len(self.noises)

    @property
    def margin(self) -> float:
        """What the attack leaves of the mean: max(0, mean - radius)."""
        return max(0.0, self.mean - self.radius)

    def variance(self, j: int) -> float:
        """V_j, the variance of Z_j given the label."""
        if isinstance(j, bool) or not isinstance(j, int) or not 1 <= j <= self.depth:
            raise ValueError(f"layer {j!r} does not exist; layers go from 1 (the input) to {self.depth}")
        return math.fsum(self.noises[:j])

    def gamma_star(self, j: int) -> float:
        """Gamma_j* = 2 Phi(margin / sqrt(V_j)) - 1, of the readout sign(z)."""
        return _correlation(self.margin / math.sqrt(self.variance(j)))

    def cross_entropy(self, j: int) -> float:
        """CE_j*, in nats: H(y | Z_j) where the classes are N(+-margin, V_j)."""
        return _label_entropy(self.margin / math.sqrt(self.variance(j)))

    def threshold_correlation(self, j: int, threshold: float) -> float:
        """Gamma_j of the readout sign(z - threshold): least at both classes shifted by the whole radius."""
        scale, left = math.sqrt(self.variance(j)), self.mean - self.radius
        return float(ndtr((left - threshold) / scale) + ndtr((left + threshold) / scale)) - 1

    def linear_correlation(self, scale: float, shift: float | None = None) -> float:
        """E[y scale Z_j] at every layer if the attack shifts each class by ``shift`` away from the other.

        shift in [-radius, radius]; without it the worst one, so that the value is Gamma_j(G) of G(z) = scale
        z: proportional to the scale.
        """
        if shift is None:
            shift = -math.copysign(self.radius, scale)
        if not abs(shift) <= self.radius:
            raise ValueError(f"shift is {shift!r}; the attack moves by at most {self.radius}")
        return scale * (self.mean + shift)

    def dependence(self, j: int) -> float:
        """I(Z_{j-1}; Z_j | y), in nats: ln(V_j / noise_j) / 2; infinite behind a deterministic layer."""
        return 0.5 * math.log(self.density_ratio(j))

    def density_ratio(self, j: int) -> float:
        """E[r] between layers j - 1 and j: V_j / noise_j, infinite behind a deterministic layer."""
        variance = self.variance(j)
        if j == 1:
            raise ValueError(f"layer 1 is the input and has no layer before it; ask for 2 to {self.depth}")
        return variance / self.noises[j - 1] if self.noises[j - 1] else math.inf


def _correlation(margin: float) -> float:
    """2 Phi(margin) - 1 of classes N(+-margin, 1)."""
    return math.erf(margin / math.sqrt(2))


def _label_entropy(margin: float) -> float:
    """H(y | z) in nats of classes N(+-margin, 1): E[ln(1 + e^{-2 margin z})], z ~ N(margin, 1)."""

    def integrand(t: float) -> float:
        return math.exp(-t * t / 2) * float(np.logaddexp(0.0, -2 * margin * (margin + t)))

    # beyond 40 standard deviations of either factor nothing is left; the kink of the second is at -margin
    value = sum(
        quad(integrand, low, high, epsabs=1e-15, epsrel=1e-13, limit=200)[0]
        for low, high in ((-margin - 40, -margin), (-margin, 0.0), (0.0, 40.0))
    )
    return min(math.log(2), value / math.sqrt(2 * math.pi))


def _not_negative(**numbers: float) -> None:
    for name, value in numbers.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} is {value!r}; it must be a finite number, 0 or more")


#: three layers; Gamma* = 0.683, 0.520, 0.436 while G = s z with s = 1, 4, 8 meets A2
GAUSS = GaussianChain(mean=1.5, radius=0.5, noises=(1.0, 1.0, 1.0))
