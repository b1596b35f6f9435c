"""The entropy of a coin and its inverse, in bits, to the last digits."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction


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
