"""An active-set method for the cheapest collision of one pattern: a much faster twin of the cone program.

With the gates fixed, the programs of `cone` are, up to the square,

    max over l in [0, 1] of  min (l |a|^2 + (1 - l) |a'|^2) / 2

over steps a, a' of the two points in the row space. The forces are the multipliers of the constraints on the
units. Given l and the set of units whose pre-activation is held at zero, the inner minimum is the solution of
a linear system in the forces, with entries of R R^T, the products of the rows of the pre-activations. A held
unit whose force has the wrong sign is released; a free unit whose pre-activation has the wrong sign is held.
All of them change at once while that helps, else one at a time (block principal pivoting: Judice and Pires,
Computers and Operations Research 21, 1994). At the same time l takes Newton steps towards |a| = |a'|. The
method ends at the optimum, up to rounding, or gives up. Then the cone program decides, if that is wanted.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np

from semirobust.collisions.network import Network, Pattern
from semirobust.collisions.solvers.cone import Cell, solve, without
from semirobust.collisions.solvers.equations import Equations, Side
from semirobust.extractors import Array

ROUNDS = 40  # at most so many systems for one pattern
PATIENCE = 4  # rounds without fewer wrong units before they change one at a time
WORST = 20  # such rounds change the worst unit; later ones change the last, which is slower but ends
AT_ZERO = 1e-7  # pre-activations of a given point up to this size count as zero
EDGE = 1e-5  # l stays this far from 0 and 1; the error for an idle point is the square of this
STEP = 0.2  # the largest change of l
TOLERANCE = 1e-11  # of signs, relative
BALANCED = 1e-10  # tolerance of |a|^2 = |a'|^2, relative
NEAR = 1e-3  # while l changes by less, signs are not checked: they are checked once l has settled


class Guess(NamedTuple):
    """A starting point: l, and the units held at zero, one bool array over all layers for each point."""

    balance: float
    held_u: np.ndarray
    held_v: np.ndarray


class Start(NamedTuple):
    """A pattern to begin with, and a guess of its optimum."""

    pattern: Pattern
    guess: Guess

    @classmethod
    def at(cls, network: Network, u: Array, v: Array) -> Start:
        """The start at a collision (u, v), [d] each: units at zero there are held at zero."""
        p_u, p_v = network.pre_activations(u), network.pre_activations(v)
        held_u, held_v = (np.abs(np.concatenate(values)) <= AT_ZERO for values in (p_u, p_v))
        return cls(network.pattern_of(p_u, p_v, AT_ZERO), Guess(0.5, held_u, held_v))


class _Part(NamedTuple):
    """One point of a pair on its gates."""

    side: Side
    base: Array  # [n]: the pre-activations at the original point
    signs: Array  # [n]: 1 open, -1 closed, 0 without ReLU: any sign is allowed


class _Optimum(NamedTuple):
    """The end of the pivoting: forces [n], also as equivalent forces on the first layer [n_1], the squared
    norms of both steps, and the pre-activations [n] of both points.
    """

    guess: Guess
    equations: Equations
    squares: tuple[float, float]
    nu: Array
    on_u: Array
    on_v: Array
    pulled_u: Array
    pulled_v: Array
    p_u: Array
    p_v: Array


class Polisher:
    """Solves patterns of one network. Calls have the form that `descend` expects.

    Each pattern starts from the optimum of the one before; set `guess` to start elsewhere. `fallbacks` counts
    the patterns on which this method failed. The cone program solves these, unless `rescue` is False.
    """

    def __init__(self, network: Network) -> None:
        self.rescue = True
        self.guess: Guess | None = None
        self.fallbacks = 0
        self._network = network
        cuts = np.cumsum([0, *(len(layer.bias) for layer in network.layers)]).tolist()
        self._slices = [slice(*pair) for pair in itertools.pairwise(cuts)]
        self._ends: list[tuple[Array, Array]] = []  # u and v, each with its first pre-activations
        self._sides: dict[bytes, Side] = {}  # of the last pattern

    def __call__(self, network: Network, u: Array, v: Array, pattern: Pattern) -> Cell:
        first, second = self._parts((u, v), pattern)
        joint = self._slices[-1].start + np.flatnonzero(pattern.u[-1])
        optimum = _pivot(first, second, joint, self.guess)
        if optimum is None:
            self.fallbacks += 1
            return solve(network, u, v, pattern) if self.rescue else without("failed")
        self.guess = optimum.guess
        return self._cell(u, v, optimum)

    def _parts(self, pair: tuple[Array, Array], pattern: Pattern) -> list[_Part]:
        """Both points on their gates. Sides that the last pattern shares with this one are reused."""
        if not self._ends or any(end is not kept for end, (kept, _) in zip(pair, self._ends, strict=True)):
            weight, bias = self._network.layers[0]
            values = np.stack(pair) @ weight.T + bias
            self._ends = [(pair[0], values[0]), (pair[1], values[1])]
        parts, before, self._sides = [], self._sides, {}
        for gates, (_, values) in zip((pattern.u, pattern.v), self._ends, strict=True):
            key = b"".join(gate.tobytes() for gate in gates[:-1])  # the last gates change no row
            side = self._sides.get(key) or before.get(key) or Side(self._network, gates)
            self._sides[key] = side
            signs = np.where(np.concatenate(gates), 1.0, -1.0)
            if not self._network.rectified:
                signs[self._slices[-1]] = 0
            parts.append(_Part(side, side.base(values), signs))
        return parts

    def _cell(self, u: Array, v: Array, optimum: _Optimum) -> Cell:
        """The optimum as the `Cell` that the cone program would give; its objective is not squared."""
        balance = optimum.guess.balance
        epsilon = float(np.sqrt(max(optimum.squares)))
        scale = 1 / epsilon if epsilon > 0 else 0.0
        idle = not EDGE < balance < 1 - EDGE
        weight = self._network.layers[0].weight

        def points() -> tuple[Array, Array]:
            pulled = np.stack([optimum.pulled_u / balance, optimum.pulled_v / (1 - balance)])
            at_u, at_v = np.stack([u, v]) + pulled @ weight
            return at_u, at_v

        return Cell(
            status="solved",
            epsilon=epsilon,
            points=points,
            p_u=self._split(optimum.p_u),
            p_v=self._split(optimum.p_v),
            z_u=self._split(np.abs(optimum.on_u) * scale),
            z_v=self._split(np.abs(optimum.on_v) * scale),
            nu=optimum.nu[self._slices[-1]] * scale,
            mu=(float(balance > 0.5), float(balance < 0.5)) if idle else (balance, 1 - balance),
            equations=optimum.equations,
        )

    def _split(self, values: Array) -> list[Array]:
        return [values[layer] for layer in self._slices]


def _pivot(first: _Part, second: _Part, joint: np.ndarray, guess: Guess | None) -> _Optimum | None:
    """The optimum, or None where there is none or none was found."""
    count = len(first.base)
    apart = np.ones(count, bool)
    apart[joint] = False
    balance, held_u, held_v = guess or Guess(0.5, ~apart & False, ~apart & False)
    # units that may be held; for joint units (p = p' >= 0) one of the two signs is enough
    free_u, free_v = first.side.varies & (first.signs != 0), second.side.varies & (second.signs != 0) & apart
    held_u, held_v = held_u & free_u, held_v & free_v
    size = TOLERANCE * (1 + max(np.abs(first.base).max(), np.abs(second.base).max()))
    for part in (first, second):
        if (part.signs * part.base < -size)[~part.side.varies].any():
            return None
    fewest, patience, near = 2 * count + 1, PATIENCE, False
    equations = None
    for _ in range(ROUNDS):
        if equations is None:
            held = np.flatnonzero(held_u), np.flatnonzero(held_v)
            equations = Equations(first.side, second.side, joint, *held)
            target = -equations.of(first.base, second.base)
        forces = equations.solve(balance, target)
        if forces is None:
            return None
        moved = _step(balance, forces.squares, forces.slope)
        if near and abs(moved - balance) > 0:  # the held units were right already
            near, balance = abs(moved - balance) < NEAR, moved
            continue
        nu, on_u, on_v = equations.spread(forces.values, count)
        pulled_u, pulled_v = first.side.pull(nu + on_u), second.side.pull(on_v - nu)
        p_u = first.base + first.side.moves(pulled_u) / balance
        p_v = second.base + second.side.moves(pulled_v) / (1 - balance)
        z_u, z_v = first.signs * on_u, second.signs * on_v
        small = TOLERANCE * max(np.abs(nu).max(), np.abs(on_u).max(), np.abs(on_v).max())
        wrong_u = np.where(held_u, z_u < -small, free_u & (first.signs * p_u < -size))
        wrong_v = np.where(held_v, z_v < -small, free_v & (second.signs * p_v < -size))
        wrong = int(wrong_u.sum() + wrong_v.sum())
        if wrong == 0:
            if moved == balance:
                guess = Guess(balance, held_u, held_v)
                pulled = pulled_u, pulled_v
                return _Optimum(guess, equations, forces.squares, nu, on_u, on_v, *pulled, p_u, p_v)
            near, balance = abs(moved - balance) < NEAR, moved
            continue
        near, balance, equations = False, moved, None
        if wrong < fewest:
            fewest, patience = wrong, PATIENCE
        else:
            patience -= 1
        if patience < 0:
            sizes = [(on_u, p_u), (on_v, p_v)]
            worst = _worst(sizes, (held_u, held_v), (wrong_u, wrong_v), last=patience < -WORST)
            wrong_u, wrong_v = worst[:count], worst[count:]
        held_u, held_v = held_u ^ wrong_u, held_v ^ wrong_v
    return None


def _worst(
    sizes: list[tuple[Array, Array]],
    held: tuple[np.ndarray, np.ndarray],
    wrong: tuple[np.ndarray, np.ndarray],
    *,
    last: bool,
) -> np.ndarray:
    """bool [2 n]: one of the wrong units.

    It is the one with the largest force or pre-activation, relative to the largest of all, or, with `last`,
    the last one. Always choosing the last cannot cycle.
    """
    both = np.concatenate(wrong)
    chosen = np.flatnonzero(both)[-1]
    if not last:
        shares = [
            np.where(mask, *(np.abs(values) / max(np.abs(values).max(), 1e-300) for values in pair))
            for mask, pair in zip(held, sizes, strict=True)
        ]
        chosen = np.argmax(np.concatenate(shares) * both)
    return np.arange(len(both)) == chosen


def _step(balance: float, squares: tuple[float, float], slope: float) -> float:
    """The next l; unchanged where the two steps are balanced or l is at its bound."""
    gap, total = squares[0] - squares[1], squares[0] + squares[1]
    if abs(gap) <= BALANCED * total:
        return balance
    step = -gap / slope if slope < -1e-12 * total else math.copysign(STEP, gap)
    return min(max(balance + min(max(step, -STEP), STEP), EDGE), 1 - EDGE)
