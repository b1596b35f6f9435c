"""Checks of the parts of a finite model: points, layers, readouts and attacks (see `theory.finite`)."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Hashable, Mapping, Sequence
from fractions import Fraction
from typing import Any

Values = tuple[tuple[Any, ...], ...]  # one tuple per point: a value for each of its inputs


def checked_points(
    labels: Sequence[int], masses: Sequence[Fraction | int], inputs: Sequence[Sequence[Hashable]]
) -> tuple[tuple[int, ...], tuple[Fraction, ...], Values]:
    """Labels, masses and inputs as tuples; see ``FiniteModel`` for what is an error."""
    if not (len(labels) == len(masses) == len(inputs)):
        raise ValueError(
            f"{len(labels)} labels, {len(masses)} masses, {len(inputs)} lists of inputs: give one per point"
        )
    for v, (label, mass, reached) in enumerate(zip(labels, masses, inputs, strict=True)):
        if isinstance(label, bool) or label not in (-1, 1):
            raise ValueError(f"the label of point {v} is {label!r}; labels are -1 and +1")
        if isinstance(mass, bool) or not isinstance(mass, int | Fraction):
            raise TypeError(f"the mass of point {v} is {mass!r}; pass a fractions.Fraction, which is exact")
        if mass <= 0:
            raise ValueError(f"the mass of point {v} is {mass}; masses are positive: leave the point out")
        if len(reached) == 0:
            raise ValueError(f"the perturbation set of point {v} is empty; it needs at least the clean input")
    if (total := sum(masses, Fraction(0))) != 1:
        raise ValueError(f"the masses sum to {total}; they must sum to exactly 1")
    return (
        tuple(int(label) for label in labels),
        tuple(Fraction(mass) for mass in masses),
        tuple(tuple(_hashable(z, f"an input of point {v}") for z in r) for v, r in enumerate(inputs)),
    )


def layer_values(j: int, layer: Mapping[Any, Hashable] | Callable[[Any], Hashable], before: Values) -> Values:
    """The values of layer j from those of layer j - 1; the layer is asked once for each."""
    known: dict[Any, Hashable] = {}
    for z in dict.fromkeys(z for reached in before for z in reached):
        value = _value(layer, z, f"layer {j}", "reachable input")
        known[z] = _hashable(value, f"the value of layer {j} at {z!r}")
    return tuple(tuple(known[z] for z in reached) for reached in before)


def readout_values(
    readout: Mapping[Any, Fraction | float] | Callable[[Any], Fraction | float], alphabet: Sequence[Any]
) -> dict[Any, Fraction | float]:
    """G at every reachable value: a Fraction where it is rational, a finite float elsewhere."""
    return {z: _number(_value(readout, z, "the readout", "reachable value"), z) for z in alphabet}


def attack_laws(attack: Sequence[int | Mapping[int, Fraction]], inputs: Values) -> list[dict[int, Fraction]]:
    """For each point the law of the number of the chosen input, without zeros."""
    if len(attack) != len(inputs):
        raise ValueError(
            f"the attack has {len(attack)} entries; give one for each of the {len(inputs)} points"
        )
    laws = []
    for v, (choice, reached) in enumerate(zip(attack, inputs, strict=True)):
        law = choice if isinstance(choice, Mapping) else {choice: Fraction(1)}
        for k, chance in law.items():
            if isinstance(k, bool) or not isinstance(k, int) or not 0 <= k < len(reached):
                raise ValueError(f"point {v} has no input {k!r}; its inputs are 0 to {len(reached) - 1}")
            if isinstance(chance, bool) or not isinstance(chance, int | Fraction):
                raise TypeError(
                    f"the attack at point {v} has probability {chance!r}; pass a fractions.Fraction"
                )
            if chance < 0:
                raise ValueError(f"the attack at point {v} has probability {chance}; it must not be negative")
        if (total := sum(law.values(), Fraction(0))) != 1:
            raise ValueError(f"the attack at point {v} has probabilities that sum to {total}, not to 1")
        laws.append({k: Fraction(chance) for k, chance in law.items() if chance})
    return laws


def _value(source: Mapping[Any, Any] | Callable[[Any], Any], z: Any, what: str, kind: str) -> Any:
    if isinstance(source, Mapping):
        if z not in source:
            raise ValueError(f"{what} has no value for the {kind} {z!r}; give it one")
        return source[z]
    return source(z)


def _hashable(value: Any, what: str) -> Hashable:
    try:
        hash(value)
    except TypeError:
        raise TypeError(
            f"{what} is {value!r}, which is not hashable; use a number, text or a tuple"
        ) from None
    return value


def _number(value: Any, z: Any) -> Fraction | float:
    if isinstance(value, numbers.Integral):
        return Fraction(int(value))
    if isinstance(value, Fraction):
        return value
    if not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise ValueError(f"the readout is {value!r} at {z!r}; it must be a finite number")
    return float(value)
