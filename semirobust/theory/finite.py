"""Finite models of a layered network under attack, in exact rational arithmetic.

A model has labelled points with rational masses, for each point a finite list of inputs that the adversary
can choose from (the first is the clean one), and layers that are plain maps. Layer j is the value of F^(j) =
f^(j) o ... o f^(1); layer 0 is the input. A *readout* G of layer j maps its values to real numbers.

The number that arXiv 2307.03803 calls gamma_j is, for one readout, the robust correlation Gamma_j(G) = E[min
over the adversary of y G(F^(j)(X + delta))]. It scales with G, so the best one is taken over |G| <= 1; that
is as good as over labels G in {-1, +1}, because Gamma_j(G) is the mean of Gamma_j(sign(G - t)) over
thresholds t in [-1, 1]. Then everything follows from the *conflict graph* of layer j, which joins a positive
and a negative point that the adversary can send to the same value:

* Gamma_j* = 1 - 2 R_j*, and R_j*, the least robust 0-1 error, is the weight of a minimum vertex cover;
* CE_j*, the least robust cross-entropy, is min sum_v -p_v ln q_v over q_u + q_v <= 1 on the edges;
* A_j = H(y) - CE_j* is the least information I(y; Z_j) that an attack leaves: the label information.

Where this departs from the paper (arXiv 2307.03803, Definition 1):
1. Readouts are normalised by |G| <= 1; without a normalisation every gamma_j > 0 can be reached, or none.
2. The infimum is inside the expectation: the adversary is a map that sees the point and its label. A constant
   shift is the special case ``constant_attack(k)``.
3. "Layer j" is always preceded by the network itself (K_{j-1} = F^(j-1)).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, TypeAlias

from semirobust.theory import information
from semirobust.theory.checks import attack_laws, checked_points, layer_values, readout_values
from semirobust.theory.conflicts import (
    CrossEntropy,
    Edges,
    conflicts,
    least_cover,
    least_cross_entropy,
    saddle,
)

Layer: TypeAlias = Mapping[Any, Hashable] | Callable[[Any], Hashable]
Readout: TypeAlias = Mapping[Any, Fraction | float] | Callable[[Any], Fraction | float]
#: one entry per point: the number of the chosen input, or a law {number: probability} (a randomised attack)
Attack: TypeAlias = Sequence[int | Mapping[int, Fraction]]


@dataclass(frozen=True, eq=False)
class FiniteModel:
    """Points, what the adversary can turn them into, and layers.

    labels: -1 or +1 for each point. masses: positive Fractions that sum to exactly one. inputs: for each
    point the inputs that the adversary can choose, not empty, the clean one first; entry k is "perturbation
    k" where all lists have the same length. layers: f^(1), f^(2), ...: dicts, or functions of a hashable
    value.

    Raises ``TypeError`` or ``ValueError``, before any work, for a label outside {-1, +1}, masses that are not
    exact, not positive or do not sum to one, a point without an input, and a layer without a value for a
    reachable input. Methods raise ``ValueError`` for a layer that does not exist, an attack that does not fit
    and a readout without a value for a reachable layer value.
    """

    labels: tuple[int, ...]
    masses: tuple[Fraction, ...]
    inputs: tuple[tuple[Hashable, ...], ...]
    layers: tuple[Layer, ...] = ()
    _values: tuple[tuple[tuple[Any, ...], ...], ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        labels, masses, inputs = checked_points(self.labels, self.masses, self.inputs)
        values = [inputs]
        for j, layer in enumerate(self.layers, 1):
            values.append(layer_values(j, layer, values[-1]))
        for name, value in (("labels", labels), ("masses", masses), ("inputs", inputs)):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "layers", tuple(self.layers))
        object.__setattr__(self, "_values", tuple(values))

    @classmethod
    def from_shifts(
        cls,
        points: Sequence[Any],
        labels: Sequence[int],
        shifts: Sequence[Any],
        layers: Sequence[Layer] = (),
        *,
        masses: Sequence[Fraction] | None = None,
        add: Callable[[Any, Any], Hashable] = operator.add,
    ) -> FiniteModel:
        """A model with the same perturbations at every point: input k of x is add(x, shifts[k]).

        The first shift must change nothing. Masses are equal where none are given.
        """
        if len(shifts) == 0:
            raise ValueError(
                "the perturbation set is empty; it needs at least the shift that changes nothing"
            )
        for x in points:
            if add(x, shifts[0]) != x:
                raise ValueError(
                    f"the first shift, {shifts[0]!r}, moves the point {x!r}; "
                    f"put the shift that changes nothing first"
                )
        given = masses if masses is not None else [Fraction(1, len(points))] * len(points)
        inputs = tuple(tuple(add(x, shift) for shift in shifts) for x in points)
        return cls(tuple(labels), tuple(given), inputs, tuple(layers))

    @property
    def depth(self) -> int:
        """The number of layers, n."""
        return len(self.layers)

    def values(self, j: int) -> tuple[tuple[Any, ...], ...]:
        """F^(j) of every input: one tuple per point, in the order of its inputs."""
        if isinstance(j, bool) or not isinstance(j, int) or not 0 <= j <= self.depth:
            raise ValueError(f"layer {j!r} does not exist; layers go from 0 (the input) to {self.depth}")
        return self._values[j]

    def alphabet(self, j: int) -> tuple[Any, ...]:
        """The reachable values of layer j, each once, in order of appearance."""
        return tuple(dict.fromkeys(value for reached in self.values(j) for value in reached))

    def edges(self, j: int) -> Edges:
        """Conflicts of layer j: (u, v), numbers of a positive and a negative point with a common value."""
        return conflicts(self.labels, self.values(j))

    def cover(self, edges: Edges) -> tuple[Fraction, frozenset[int]]:
        """A minimum-mass vertex cover of conflicts between points: its mass, and its points."""
        return least_cover(self.labels, self.masses, edges)

    def zero_one(self, j: int) -> Fraction:
        """R_j*: the least robust 0-1 error of a classifier that sees layer j only, in [0, 1/2]."""
        return self.cover(self.edges(j))[0]

    def gamma_star(self, j: int) -> Fraction:
        """Gamma_j* = 1 - 2 R_j*: the best robust correlation of a readout |G| <= 1 of layer j, in [0, 1]."""
        return 1 - 2 * self.zero_one(j)

    def new_cover(self, j: int) -> Fraction:
        """The mass of a minimum cover of the conflicts that layer j adds to those of layer j - 1."""
        before = set(self.edges(self._transition(j) - 1))
        return self.cover(tuple(edge for edge in self.edges(j) if edge not in before))[0]

    def cross_entropy(self, j: int) -> CrossEntropy:
        """CE_j*, the least robust cross-entropy of a classifier that sees layer j only, with its proof."""
        return least_cross_entropy(self.labels, self.masses, self.edges(j))

    def label_entropy(self) -> float:
        """H(y), in nats."""
        return information.entropy(information.marginal(self.label_law(0), 1))

    def label_information(self, j: int) -> float:
        """A_j = H(y) - CE_j*, in nats: the least I(y; Z_j) over randomised attacks."""
        return max(0.0, self.label_entropy() - self.cross_entropy(j).nats)

    def best_readout(self, j: int) -> dict[Any, int]:
        """A readout in {-1, +1} with Gamma_j(G) = Gamma_j*: +1 on what positive points off a minimum cover
        reach.
        """
        _, covered = self.cover(self.edges(j))
        free = [v for v, y in enumerate(self.labels) if y == 1 and v not in covered]
        plus = {z for v in free for z in self.values(j)[v]}
        return {z: 1 if z in plus else -1 for z in self.alphabet(j)}

    def saddle_attack(self, j: int) -> tuple[dict[int, Fraction], ...]:
        """One randomised attack that is worst for 0-1 loss and for cross-entropy at once.

        Point v sends mass q_v x_uv to a value that it shares with u, for every tight conflict; points without
        a conflict stay clean. The posterior there is (q_u, q_v), so that H(y | Z_j) = CE_j* and, as the
        smaller q of every tight conflict marks a minimum cover, the Bayes error of Z_j is R_j*.
        """
        return saddle(self.cross_entropy(j), self.values(j), self.masses)

    def constant_attack(self, k: int) -> tuple[int, ...]:
        """Perturbation k at every point; it exists where all points have the same number of inputs."""
        sizes = sorted({len(reached) for reached in self.inputs})
        if len(sizes) > 1:
            raise ValueError(
                f"points have between {sizes[0]} and {sizes[-1]} inputs: no shift is common to all"
            )
        return (k,) * len(self.labels)

    def robust_correlation(self, j: int, readout: Readout) -> Fraction | float:
        """Gamma_j(G) = E[min over the inputs of y G]; a Fraction where every value of G is rational."""
        g = readout_values(readout, self.alphabet(j))
        points = zip(self.labels, self.masses, self.values(j), strict=True)
        return sum((p * min(y * g[z] for z in reached) for y, p, reached in points), Fraction(0))

    def correlation(self, j: int, readout: Readout, attack: Attack | None = None) -> Fraction | float:
        """E[y G(Z_j)] under one attack (None: clean); a Fraction where every value of G is rational."""
        g = readout_values(readout, self.alphabet(j))
        return sum((p * y * g[z] for (z, y), p in self.label_law(j, attack).items()), Fraction(0))

    def label_law(self, j: int, attack: Attack | None = None) -> dict[tuple[Any, int], Fraction]:
        """The law {(z, y): mass} of layer j and the label under an attack (None: clean)."""
        return self._law((j,), attack)

    def law(self, j: int, attack: Attack | None = None) -> dict[tuple[Any, Any, int], Fraction]:
        """The law {(g, h, y): mass} of layers j - 1 and j and the label under an attack (None: clean)."""
        return self._law((self._transition(j) - 1, j), attack)

    def dependence(self, j: int, attack: Attack | None = None) -> float:
        """I(Z_{j-1}; Z_j | y) in nats under an attack (None: clean): the rho_j of A1."""
        return information.mutual_information(self.law(j, attack))

    def density_ratio(self, j: int, attack: Attack | None = None) -> Fraction:
        """E[r] between layers j - 1 and j under an attack (None: clean): the least U_j that A2 allows."""
        return information.mean_density_ratio(self.law(j, attack))

    def _law(self, layers: tuple[int, ...], attack: Attack | None) -> dict[Any, Fraction]:
        chosen = attack_laws((0,) * len(self.labels) if attack is None else attack, self.inputs)
        columns = [self.values(j) for j in layers]
        found: dict[Any, Fraction] = {}
        for v, (y, p) in enumerate(zip(self.labels, self.masses, strict=True)):
            for k, chance in chosen[v].items():
                key = (*(column[v][k] for column in columns), y)
                found[key] = found.get(key, Fraction(0)) + p * chance
        return found

    def _transition(self, j: int) -> int:
        self.values(j)
        if j == 0:
            raise ValueError(f"layer 0 is the input and has no layer before it; ask for 1 to {self.depth}")
        return j
