"""Random small finite models, readouts and attacks for the tests of the theory; all rational."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from semirobust.theory import FiniteModel

quick = settings(max_examples=40)
few = settings(max_examples=15)


def simplex(draw: st.DrawFn, size: int) -> tuple[Fraction, ...]:
    """Positive rational masses that sum to one."""
    weights = draw(st.lists(st.integers(1, 6), min_size=size, max_size=size))
    return tuple(Fraction(w, sum(weights)) for w in weights)


@st.composite
def models(
    draw: st.DrawFn, points: int = 5, inputs: int = 3, alphabet: int = 6, layers: int = 2
) -> FiniteModel:
    """1 to ``points`` points, each with 1 to ``inputs`` inputs out of ``alphabet``; 1 to ``layers`` layers
    that narrow to 4 and 3 values.
    """
    n = draw(st.integers(1, points))
    reach = st.lists(st.integers(0, alphabet - 1), min_size=1, max_size=inputs).map(tuple)
    sizes = [alphabet, 4, 3][: draw(st.integers(1, layers)) + 1]
    return FiniteModel(
        labels=tuple(draw(st.lists(st.sampled_from((-1, 1)), min_size=n, max_size=n))),
        masses=simplex(draw, n),
        inputs=tuple(draw(st.lists(reach, min_size=n, max_size=n))),
        layers=tuple(
            dict(enumerate(draw(st.lists(st.integers(0, after - 1), min_size=before, max_size=before))))
            for before, after in pairwise(sizes)
        ),
    )


@st.composite
def readouts(draw: st.DrawFn, model: FiniteModel, j: int, bound: int = 1) -> dict[Any, Fraction]:
    """A rational readout of layer j with |G| <= bound."""
    number = st.fractions(-bound, bound, max_denominator=7)
    return {z: draw(number) for z in model.alphabet(j)}


@st.composite
def attacks(draw: st.DrawFn, model: FiniteModel) -> tuple[dict[int, Fraction], ...]:
    """A randomised attack that gives every input a chance."""
    laws = []
    for reached in model.inputs:
        laws.append(dict(enumerate(simplex(draw, len(reached)))))
    return tuple(laws)


@st.composite
def joints(draw: st.DrawFn) -> dict[tuple[int, int, int], Fraction]:
    """A joint law of (g, h, y) on 3 x 3 x 2 outcomes, some of them left out."""
    outcomes = [(g, h, y) for g in range(3) for h in range(3) for y in (-1, 1)]
    kept = draw(st.lists(st.sampled_from(outcomes), min_size=1, max_size=12, unique=True))
    return dict(zip(kept, simplex(draw, len(kept)), strict=True))
