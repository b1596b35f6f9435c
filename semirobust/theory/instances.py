"""Small exact models that decide statements of arXiv 2307.03803: counterexamples, and cases where they hold.

``LADDER`` and ``SKEW`` have three layers; the others have at most two.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType

from semirobust.theory.finite import FiniteModel, Layer


@dataclass(frozen=True)
class Triangle:
    """Points of three classes 0, 1, 2, in the arguments of ``theory.enumeration.multiclass_accuracy``."""

    labels: tuple[int, ...] = (0, 1, 2)
    masses: tuple[Fraction, ...] = (Fraction(1, 3),) * 3
    reached: tuple[tuple[str, ...], ...] = (("a", "b"), ("b", "c"), ("a", "c"))


#: Definition 1 with three classes: hard decisions are right on 1/3, soft ones on 1/2, so that "hard = soft"
#: and the conflict graph of pairs end at two classes
TRIANGLE = Triangle()

_SQUARE = tuple(itertools.product((-1, 1), repeat=2))

#: Theorem 1 fails for linear probes: layer 1 is (s, t) uniform on the square, layer 2 is s t = y. The best
#: linear readout has robust correlation 0 at layer 1 and 1 at layer 2
XOR = FiniteModel(
    labels=tuple(s * t for s, t in _SQUARE),
    masses=(Fraction(1, 4),) * 4,
    inputs=tuple((point,) for point in _SQUARE),
    layers=(lambda x: x, lambda x: x[0] * x[1]),
)


def _coin(*layers: Layer) -> FiniteModel:
    """x = y = -1 or +1, without perturbations."""
    return FiniteModel((-1, 1), (Fraction(1, 2),) * 2, ((-1,), (1,)), layers)


#: Theorem 1 fails if "layer 2" may be fed by any K: f1(x) = (x, 0) alone has Gamma* = 1, f2(s, t) = t behind
#: K(x) = (0, x) has 1, but f2 behind f1 has 0
ARBITRARY_K: Mapping[str, FiniteModel] = MappingProxyType(
    {
        "f1": _coin(lambda x: (x, 0)),
        "f2 after K": _coin(lambda x: (0, x), lambda z: z[1]),
        "f2 after f1": _coin(lambda x: (x, 0), lambda z: z[1]),
    }
)


#: Lemma 1 with constant shifts is false: x = (y, b), the shift adds 0 or 1 to b, G_{n-1}(g) = y, and
#: h = 10 y if b is odd, else 0. Both constant shifts have I = ln 2, U = 2 and growth 4 >= 1 + U, so the proof
#: claims Gamma_n >= 1 + ln 2; but the adversary can send every point to h = 0
LEMMA_1_CONSTANT = FiniteModel.from_shifts(
    tuple(itertools.product((-1, 1), (0, 1))),
    (-1, -1, 1, 1),
    (0, 1),
    (lambda g: 10 * g[0] * (g[1] % 2),),
    add=lambda x, delta: (x[0], x[1] + delta),
)

_BITS = tuple(itertools.product((-1, 1), (0, 1), (0, 1)))


def _flips_c(layer: Layer) -> FiniteModel:
    """x = (y, b, c), uniform; the adversary may flip c."""
    return FiniteModel.from_shifts(
        _BITS,
        tuple(x[0] for x in _BITS),
        (0, 1),
        (layer,),
        add=lambda x, delta: (x[0], x[1], x[2] ^ delta),
    )


#: Lemma 1 with all attack maps holds, without using B1: h = y (4 + b / 2), U = 2, rho = ln 2, growth 13/4 >=
#: 3, Gamma_{n-1} = 1 and Gamma_n = 17/4
LEMMA_1_MAPS = _flips_c(lambda g: g[0] * (4 + Fraction(g[1], 2)))
#: B2 is not necessary: h = 2 y has growth 1 < 1 + U = 2, no dependency beyond the label, and Gamma_n = 2
LEMMA_1_COLLAPSE = _flips_c(lambda g: 2 * g[0])

#: Step (22), readout z: the minimum of y G is -1, y times the minimum of G is 0
STEP_22 = FiniteModel((-1,), (Fraction(1),), ((0, 1),))
#: Step (23), readout (-1)^z: the substitution u = x + delta depends on delta; -1 against -1/2
STEP_23 = FiniteModel.from_shifts((0, 1), (1, 1), (0, 1))
#: Step (24), h = g: two shifts with disjoint supports; the infimum inside the integral is 0, so that the step
#: claims 1 >= I = ln 8
STEP_24 = FiniteModel.from_shifts(tuple(range(8)), (1,) * 8, (0, 8), (lambda g: g,))


def no_go(after: Fraction, before: Fraction, bits: int) -> FiniteModel:
    """A layer with Gamma_0* = before, Gamma_1* = after and at least ``bits`` of dependency under every
    attack.

    0 <= after <= before <= 1 and bits >= 0. x = (c, y, n): c is A, B or C with masses after, before - after
    and 1 - before; n is one of 2^bits values that the adversary cannot touch; it may flip y iff c = C, and
    the layer forgets y iff c = B. Conflicts: C before the layer, B and C after it; I(Z_0; Z_1 | y) >= H(n) =
    bits. So no function of (Gamma_{j-1}, rho_j) is a lower bound of Gamma_j* better than 0: Theorem 2 cannot
    hold.
    """
    after, before = Fraction(after), Fraction(before)
    if not 0 <= after <= before <= 1:
        raise ValueError(f"after is {after} and before {before}; they must satisfy 0 <= after <= before <= 1")
    if isinstance(bits, bool) or not isinstance(bits, int) or not 0 <= bits <= 12:
        raise ValueError(f"bits is {bits!r}; give a whole number from 0 to 12 (2^bits copies of each point)")
    share = {"A": after, "B": before - after, "C": 1 - before}
    points = [(c, y, n) for c in "ABC" if share[c] for y in (-1, 1) for n in range(2**bits)]
    return FiniteModel(
        labels=tuple(y for _, y, _ in points),
        masses=tuple(share[c] / 2 ** (bits + 1) for c, _, _ in points),
        inputs=tuple(((c, y, n), (c, -y, n)) if c == "C" else ((c, y, n),) for c, y, n in points),
        layers=(lambda x: (x[0], None if x[0] == "B" else x[1], x[2]),),
    )


def _corner(layer: Layer) -> FiniteModel:
    """g = (y, n1, n2, n3, n4), uniform, without perturbations; Gamma_0* = 1."""
    points = tuple(itertools.product((-1, 1), *[(0, 1)] * 4))
    return FiniteModel(
        tuple(x[0] for x in points), (Fraction(1, 32),) * 32, tuple((x,) for x in points), (layer,)
    )


#: dependency high or low, layer robust or not: all four combinations occur. Keys: the output h of the layer
FOUR_CORNERS: Mapping[str, FiniteModel] = MappingProxyType(
    {
        "y, n1, n2, n3": _corner(lambda g: g[:4]),
        "n1, n2, n3": _corner(lambda g: g[1:4]),
        "y": _corner(lambda g: g[0]),
        "constant": _corner(lambda g: 0),
    }
)


#: form (E) of the corrected theorem: x = y, |delta| <= 1/2, layer 1 is x / 2, layer 2 is 3 z
SLOPE = FiniteModel.from_shifts(
    (-1, 1),
    (-1, 1),
    (Fraction(0), Fraction(-1, 2), Fraction(1, 2)),
    (lambda x: Fraction(x) / 2, lambda z: 3 * z),
)


#: eight points on a line; the dependence of consecutive clean layers is 1.5 bits everywhere, while the best
#: robust correlation falls: 1, 1, 1/2, 0
LADDER = FiniteModel.from_shifts(
    (0, 1, 2, 3, 6, 7, 8, 9),
    (-1, -1, -1, -1, 1, 1, 1, 1),
    (0, -1, 1),
    (
        lambda x: (x + 1) // 2,
        dict(enumerate((0, 1, 2, 2, 3, 4))),
        dict(enumerate((0, 1, 2, 1, 3))),
    ),
)

#: five points of different mass; the best robust correlation is 1, 7/10, 3/5, 0
SKEW = FiniteModel(
    labels=(1, 1, 1, -1, -1),
    masses=tuple(Fraction(p, 20) for p in (3, 5, 2, 4, 6)),
    inputs=(("a", "b"), ("c", "d"), ("e", "g"), ("h", "i"), ("k", "l")),
    layers=(
        dict(zip("abcdeghikl", (0, 1, 2, 3, 4, 5, 6, 1, 7, 8), strict=True)),
        dict(enumerate((0, 1, 2, 3, 4, 5, 3, 6, 7))),
        dict(enumerate((0, 1, 2, 3, 4, 5, 5, 2))),
    ),
)
