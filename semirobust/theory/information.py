"""Exact dependence of two discrete layers given the label.

These are the quantities in A1, A2, B1 and B2 of arXiv 2307.03803.

A *joint law* is a dict ``{(g, h, y): Fraction}``: g and h are the values of two layers, y is the label. Its
probabilities are rational and sum to exactly one, so that everything but the logarithms is exact.

Three facts that a reader of A2 needs, with r = p(g, h | y) / (p(g | y) p(h | y)):

1. 1 <= e^I <= E[r], because I = E[ln r] and by Jensen's inequality. So U >= e^rho, and A2 demands a growth of
   at least 1 + e^rho: the stronger the dependency of A1, the harder A2.
2. For a deterministic layer h = phi(g), r = 1 / p(h | y): so I(g; h | y) = H(h | y) and E[r] =
   sum_y pi(y) |supp(h | y)|.
3. For y -> g -> h, I(g; h | y) = I(g; h) - I(y; h), by the chain rule for I(g, y; h): it counts what h keeps
   *besides* the label.

Information is in nats, except where a name says bits. The binary entropy (of a coin) and its inverse are
exact to the last digits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeAlias

Joint: TypeAlias = Mapping[tuple[Any, Any, Any], Fraction]
Channel: TypeAlias = Mapping[Any, Mapping[Any, Fraction]]


@dataclass(frozen=True)
class Dependency:
    """What A1 and A2 say about a pair of layers.

    nats: I(g; h | y), the rho of A1; bits: the same in bits.
    mean_density_ratio: E[r], the least U that A2 allows; never below e^nats.
    """

    nats: float
    mean_density_ratio: Fraction

    @property
    def bits(self) -> float:
        return bits(self.nats)

    @property
    def least_growth(self) -> Fraction:
        """1 + E[r] >= 1 + e^rho: the growth of E[y G] that A2 demands at the least."""
        return 1 + self.mean_density_ratio


def checked_joint(joint: Joint) -> dict[tuple[Any, Any, Any], Fraction]:
    """The joint law without its zeros.

    Raises:
        TypeError: a key that is not (g, h, y), or a probability that is not a Fraction or an integer.
        ValueError: a negative probability, or probabilities that do not sum to exactly one.
    """
    for key in joint:
        if not (isinstance(key, tuple) and len(key) == 3):
            raise TypeError(f"the key {key!r} is not a triple (g, h, y); give each outcome its three values")
    return checked_law(joint)


def checked_law(law: Mapping[Any, Fraction]) -> dict[Any, Fraction]:
    """Any law without its zeros; errors as for ``checked_joint``."""
    found = {}
    for outcome, mass in law.items():
        if isinstance(mass, bool) or not isinstance(mass, int | Fraction):
            raise TypeError(f"the probability of {outcome!r} is {mass!r}; pass a fractions.Fraction")
        if mass < 0:
            raise ValueError(f"the probability of {outcome!r} is {mass}; it must not be negative")
        if mass:
            found[outcome] = Fraction(mass)
    total = sum(found.values(), Fraction(0))
    if total != 1:
        raise ValueError(f"the probabilities sum to {total}; they must sum to exactly 1")
    return found


def marginal(law: Mapping[tuple[Any, ...], Fraction], *axes: int) -> dict[Any, Fraction]:
    """The law of some coordinates: a tuple of them, or the bare value for one axis."""
    found: dict[Any, Fraction] = {}
    for key, mass in law.items():
        part = key[axes[0]] if len(axes) == 1 else tuple(key[axis] for axis in axes)
        found[part] = found.get(part, Fraction(0)) + mass
    return found


def entropy(law: Mapping[Any, Fraction]) -> float:
    """H, in nats; same errors as ``checked_joint``."""
    return max(0.0, -math.fsum(float(mass) * _log(mass) for mass in checked_law(law).values()))


def conditional_entropy(pair: Mapping[tuple[Any, Any], Fraction]) -> float:
    """H(Z | W) of a law {(z, w): mass}, in nats."""
    pair = checked_law(pair)
    w = marginal(pair, 1)
    return max(0.0, -math.fsum(float(m) * _log(m / w[key[1]]) for key, m in pair.items()))


def pair_information(pair: Mapping[tuple[Any, Any], Fraction]) -> float:
    """I(Z; W) of a law {(z, w): mass}, in nats."""
    return mutual_information({(z, w, None): mass for (z, w), mass in checked_law(pair).items()})


def mutual_information(joint: Joint) -> float:
    """I(g; h | y) = sum_y pi(y) I(g; h | y), in nats: (5) and (6) of arXiv 2307.03803."""
    return max(0.0, math.fsum(float(mass) * _log(ratio) for mass, ratio in _ratios(joint)))


def mean_density_ratio(joint: Joint) -> Fraction:
    """E[r] under the joint law, exactly: the left side of the first line of A2 and B2.

    E[r] = 1 + chi^2 >= 1, and E[r] >= e^{E[ln r]} = e^I by Jensen's inequality.
    """
    return sum((mass * ratio for mass, ratio in _ratios(joint)), Fraction(0))


def dependency(joint: Joint) -> Dependency:
    """Both numbers of A1 and A2 for one joint law."""
    return Dependency(mutual_information(joint), mean_density_ratio(joint))


def _ratios(joint: Joint) -> list[tuple[Fraction, Fraction]]:
    """(probability, r) of each outcome, r = p(g, h, y) p(y) / (p(g, y) p(h, y))."""
    joint = checked_joint(joint)
    gy, hy, y = marginal(joint, 0, 2), marginal(joint, 1, 2), marginal(joint, 2)
    return [(m, m * y[k[2]] / (gy[k[0], k[2]] * hy[k[1], k[2]])) for k, m in joint.items()]


def _log(value: Fraction) -> float:
    """ln of a positive rational of any size, exact at 1."""
    return math.log(value.numerator) - math.log(value.denominator) if value != 1 else 0.0


def joint_from_channel(
    inputs: Mapping[tuple[Any, Any], Fraction], channel: Channel
) -> dict[tuple[Any, Any, Any], Fraction]:
    """The joint law of (g, h, y) for a random layer: channel[g] is the law of h given g.

    Raises ``ValueError`` for a g without a row, and the errors of ``checked_joint`` for the law of the inputs
    and each row.
    """
    found: dict[tuple[Any, Any, Any], Fraction] = {}
    for (g, y), mass in checked_law(inputs).items():
        if g not in channel:
            raise ValueError(f"the channel has no row for {g!r}; give it one for every g of positive mass")
        for h, chance in checked_law(channel[g]).items():
            found[g, h, y] = mass * chance
    return found


def markov_chain(
    prior: Mapping[Any, Fraction], first: Channel, second: Channel
) -> dict[tuple[Any, Any, Any], Fraction]:
    """The joint law of (g, h, y) for y -> g -> h: the prior of y, the channels y -> g and g -> h."""
    pairs = joint_from_channel({(y, None): mass for y, mass in prior.items()}, first)
    return joint_from_channel({(g, y): mass for (y, g, _), mass in pairs.items()}, second)


def binary_symmetric_channel(error: Fraction) -> dict[int, dict[int, Fraction]]:
    """The channel on {-1, +1} that flips its input with probability ``error`` in [0, 1]."""
    if isinstance(error, bool) or not isinstance(error, int | Fraction):
        raise TypeError(f"error is {error!r}; pass a fractions.Fraction")
    if not 0 <= error <= 1:
        raise ValueError(f"error is {error}; a probability lies in [0, 1]")
    return {s: {s: 1 - Fraction(error), -s: Fraction(error)} for s in (-1, 1)}


def distinct_activations(counts: Sequence[int]) -> Dependency:
    """Plug-in dependency of two layers on a sample in which no activation repeats.

    counts: N_c, the number of samples of each class, each 1 or more. Both layers number the samples of a
    class one to one, so I = sum_c pi_c ln N_c and E[r] = sum_c pi_c N_c, whatever the network does.
    """
    if not counts or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in counts):
        raise ValueError(f"counts is {counts!r}; give the number of samples of each class, 1 or more")
    total = sum(counts)
    nats = math.fsum(n / total * math.log(n) for n in counts)
    return Dependency(nats, Fraction(sum(n * n for n in counts), total))


def required_scale(rho_bits: Iterable[float], gamma_a: float = 0.0) -> float:
    """gamma_a + sum_j (1 + 2^rho_j): the least bound B on |G_n| with which A1 and A2 can hold at these
    layers.

    A2 asks for a growth of 1 + U_j >= 1 + e^{rho_j} at each layer, from at least gamma_a, and ends at most at
    B. rho_bits: dependencies in bits, not negative.
    """
    rho = [float(value) for value in rho_bits]
    if not all(math.isfinite(value) and value >= 0 for value in rho):
        raise ValueError(f"rho_bits is {rho}; dependencies in bits are finite and not negative")
    return gamma_a + math.fsum(1 + 2**value for value in rho)


def bits(nats: float) -> float:
    """Nats in bits."""
    return nats / math.log(2)


def binary_entropy(p: float | Fraction) -> float:
    """h_b(p) in bits, for p in [0, 1]."""
    if not 0 <= p <= 1:
        raise ValueError(f"p is {p!r}; a probability lies in [0, 1]")
    p, q = float(p), float(1 - p)
    if not p or not q:
        return 0.0
    log_p = math.log(p) if p < 0.5 else math.log1p(-q)
    log_q = math.log(q) if q < 0.5 else math.log1p(-p)
    return min(1.0, bits(-(p * log_p + q * log_q)))


def inverse_binary_entropy(entropy_bits: float) -> float:
    """The p in [0, 1/2] with h_b(p) = entropy_bits, by bisection to the last digit.

    entropy_bits in [0, 1]. Above one half it solves 1 - h_b((1 - t) / 2) = 1 - entropy_bits for t instead:
    h_b is flat at 1/2, and solving for p there would lose half of the digits.
    """
    if not 0 <= entropy_bits <= 1:
        raise ValueError(f"entropy_bits is {entropy_bits!r}; a binary entropy lies in [0, 1] bits")
    if entropy_bits in (0, 1):
        return entropy_bits / 2
    if entropy_bits < 0.5:
        return _bisect(binary_entropy, entropy_bits, 0.0, 0.5)
    return (1 - _bisect(_entropy_deficit, 1 - entropy_bits, 0.0, 1.0)) / 2


def _entropy_deficit(t: float) -> float:
    """1 - h_b((1 - t) / 2) in bits, for t in [0, 1]."""
    tail = (1 - t) * math.log1p(-t) if t < 1 else 0.0
    return bits((1 + t) * math.log1p(t) + tail) / 2


def _bisect(increasing: Callable[[float], float], target: float, low: float, high: float) -> float:
    while low < (middle := (low + high) / 2) < high:
        if increasing(middle) < target:
            low = middle
        else:
            high = middle
    return high
