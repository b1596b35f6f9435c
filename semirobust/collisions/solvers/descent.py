"""Collisions by descent over patterns: Algorithms 1 and 2 of the paper on fixed feature extractors.

The descent starts on the pattern of the midpoint, solves its cone program, flips units whose multipliers
indicate that the neighbouring pattern is cheaper, and repeats this until nothing improves. The budget never
rises, and the first is at most that of the linear closed form. This is the slow, trusted twin of the faster
methods.

Where `rule="repaired"` departs from the printed algorithms (`rule="printed"` has points 1 and 4 only):
1. Algorithm 2 starts from a forward pass of the midpoint through all layers; its misprinted indices and
   primes are read as meant. Multipliers count as positive above 1e-7.
2. The printed test of the last layer, z_j > 0 and z'_j > 0, depends on which of many optimal multipliers
   the solver returns: for an open unit only z_j + z'_j is determined, and that is tested. For a closed unit
   whose other branch costs nothing (mu = 0) one positive multiplier is enough: the idle branch can move to
   the kink.
3. Flipping every flagged unit can be worse than flipping one, and in a hidden layer z_j > 0 does not mean
   that flipping helps: it changes what the layers above ask for. So a unit is a candidate unless the
   multipliers at hand also prove optimality on its other side (they do if the gain of `_gains` is not
   positive, for the program is convex). Tried in turn: all candidates together, all units with a positive
   multiplier together, every candidate alone, largest gain first; the first strict improvement is accepted.
   It stops when there is none: no flip of a single unit helps.
4. A pattern is never solved twice, and a program that fails ends only its own pair.

The printed claim "finds a local minimum" needs unique multipliers and strict complementarity; without them
the printed rule stops too early.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np

from semirobust.collisions.network import Network, Pattern
from semirobust.collisions.result import Collisions, Known, Point, collect
from semirobust.collisions.solvers.active_set import Start
from semirobust.collisions.solvers.cone import Cell, solve
from semirobust.collisions.solvers.proof import verify_pair
from semirobust.extractors import Array, check_whole

Rule: TypeAlias = Literal["repaired", "quick", "printed"]
Solver: TypeAlias = Callable[[Network, Array, Array, Pattern], Cell]

POSITIVE = 1e-7  # multipliers above this are positive
ZERO = 1e-6  # pre-activations up to this size are at the kink
PROGRESS = 1e-7  # smallest relative gain of a step
MARGIN = 1e-6  # of the second solve, where the optimum itself cannot be verified


@dataclass(frozen=True, eq=False)
class Descent:
    """The path of one pair: the accepted patterns and their optima, cheapest last.

    status: "stopped" (no flip helps, by the rule), "limit" (programs used up) or "unsolved" (the solver
        failed on the first pattern: the path is empty).
    programs: the number of cone programs solved.
    """

    patterns: tuple[Pattern, ...]
    cells: tuple[Cell, ...]
    status: str
    programs: int


def descent(
    network: Network,
    u: Array,
    v: Array,
    known: Known,
    *,
    rule: Rule = "repaired",
    margin: float = MARGIN,
    max_programs: int = 200,
) -> Collisions:
    """`descend` for each pair [B, d], from the midpoint and from the given collision, if there is one.

    The result is the cheapest point on the paths that can be proved.
    """
    _check(rule, margin, max_programs)
    paths = []
    for i, pair in enumerate(zip(u, v, strict=True)):
        path = descend(network, *pair, rule=rule, max_programs=max_programs)
        if known.given[i] and path.programs < max_programs:
            start = Start.at(network, known.u[i], known.v[i]).pattern
            left = max_programs - path.programs
            path = joined([path, descend(network, *pair, rule=rule, start=start, max_programs=left)])
        paths.append(path)
    points = [
        proved(network, first, second, path, margin) for first, second, path in zip(u, v, paths, strict=True)
    ]
    return collect(
        network,
        points,
        method="descent",
        status=tuple(path.status for path in paths),
        iterations=np.array([path.programs for path in paths]),
    )


def _check(rule: str, margin: float, max_programs: int) -> None:
    if rule not in (known := get_args(Rule)):
        raise ValueError(f"unknown rule {rule!r}; known: {', '.join(known)}")
    if not 0 < margin < np.inf:
        raise ValueError(f"margin is {margin!r}; it must be positive and finite, such as {MARGIN}")
    check_whole(max_programs=(max_programs, 1))


def joined(paths: Sequence[Descent]) -> Descent:
    """Several descents of one pair as one, with every optimum, cheapest last."""
    best = min(paths, key=lambda path: path.cells[-1].epsilon if path.cells else np.inf)
    entries = [entry for path in paths for entry in zip(path.patterns, path.cells, strict=True)]
    entries.sort(key=lambda entry: -entry[1].epsilon)
    return Descent(
        patterns=tuple(pattern for pattern, _ in entries),
        cells=tuple(cell for _, cell in entries),
        status=best.status,
        programs=sum(path.programs for path in paths),
    )


def proved(network: Network, u: Array, v: Array, path: Descent, margin: float) -> Point:
    """The cheapest collision of the path that can be proved.

    Each pattern is tried at its optimum, then at the optimum with all signs a margin away from the kinks.
    """
    for pattern, cell in zip(reversed(path.patterns), reversed(path.cells), strict=True):
        point = verify_pair(network, u, v, cell.u, cell.v)
        if point.verified:
            return point
        inner = solve(network, u, v, pattern, margin=margin)
        if inner.status == "solved":
            point = verify_pair(network, u, v, inner.u, inner.v)
            if point.verified:
                return point
    middle = (u + v) / 2
    return verify_pair(network, u, v, middle, middle)


def descend(
    network: Network,
    u: Array,
    v: Array,
    *,
    rule: Rule = "repaired",
    start: Pattern | None = None,
    max_programs: int = 200,
    patience: int = 200,
    solver: Solver = solve,
) -> Descent:
    """The descent of one pair, u and v [d], from the pattern of the midpoint or a given one.

    rule: "quick" is "repaired" without its second kind of step, which rarely helps; its stopping condition is
        the same.
    patience: how many patterns in a row may fail to help.
    """
    pattern = network.pattern((u + v) / 2) if start is None else start
    cell = solver(network, u, v, pattern)
    programs, seen = 1, {pattern.key()}
    if cell.status != "solved":
        return Descent((), (), "unsolved", programs)
    patterns, cells = [pattern], [cell]
    while True:
        failed = 0
        for candidate in _neighbours(network, pattern, cell, rule):
            if candidate.key() in seen:
                continue
            if programs == max_programs or failed == patience:
                return Descent(tuple(patterns), tuple(cells), "limit", programs)
            seen.add(candidate.key())
            found = solver(network, u, v, candidate)
            programs += 1
            if found.status == "solved" and found.epsilon < cell.epsilon - PROGRESS * (1 + cell.epsilon):
                pattern, cell = candidate, found
                patterns.append(pattern)
                cells.append(cell)
                break
            failed += 1
        else:
            return Descent(tuple(patterns), tuple(cells), "stopped", programs)


Flip: TypeAlias = tuple[int, int, int]  # branch (0: u, 1: v, 2: both, in the last layer), layer, unit


def _neighbours(network: Network, pattern: Pattern, cell: Cell, rule: Rule) -> Iterator[Pattern]:
    """The patterns to try from an optimum, in order."""
    if rule == "printed":
        if flips := _printed(network, cell):
            yield _flipped(pattern, flips)
        return
    gains = _gains(network, pattern, cell)
    candidates = sorted((entry for entry in gains if entry[1] > POSITIVE), key=lambda entry: -entry[1])
    if candidates:
        yield _flipped(pattern, [flip for flip, _, _ in candidates])
    if rule == "repaired" and (flips := [flip for flip, _, z in gains if z > POSITIVE]):
        yield _flipped(pattern, flips)
    for flip, _, _ in candidates:
        yield _flipped(pattern, [flip])


def _printed(network: Network, cell: Cell) -> list[Flip]:
    """Hidden units with z > 0, branch by branch; units of the last layer with z > 0 and z' > 0."""
    last = len(cell.p_u) - 1
    flips = [
        (branch, layer, int(unit))
        for branch, multipliers in enumerate((cell.z_u, cell.z_v))
        for layer in range(last)
        for unit in np.flatnonzero(multipliers[layer] > POSITIVE)
    ]
    both = (cell.z_u[last] > POSITIVE) & (cell.z_v[last] > POSITIVE) & network.rectified
    return flips + [(2, last, int(unit)) for unit in np.flatnonzero(both)]


def _gains(network: Network, pattern: Pattern, cell: Cell) -> list[tuple[Flip, float, float]]:
    """Units that may be flipped, each with its gain (the multiplier that the other side lacks) and its own
    multiplier.

    Where the gain is not positive, the multipliers satisfy the optimality conditions on the other side too,
    so the flip cannot help. Where it is positive and the multipliers are unique, the flip helps.

    Last layer: closing an open unit keeps the optimum if both forces are at most 0; opening a closed one if
    their sum is at least 0. Without ReLU its units have no other side.

    Hidden layer: the row of the unit must carry the force z_j + g_j, where g_j is the force that the layers
    above exert on its value. The other side can carry only the opposite sign.
    """
    last = len(cell.p_u) - 1
    alpha, beta = cell.forces(pattern)
    at_u, at_v = (np.abs(values[last]) <= ZERO for values in (cell.p_u, cell.p_v))
    own = cell.z_u[last] + cell.z_v[last]
    idle = min(cell.mu) <= POSITIVE
    chosen = ((at_u & at_v) | ((own > POSITIVE) & (pattern.u[last] | idle))) & network.rectified
    gain = np.where(pattern.u[last], np.maximum(alpha, beta), own)
    gains = [((2, last, int(unit)), float(gain[unit]), float(own[unit])) for unit in np.flatnonzero(chosen)]
    for branch, (gates, values, multipliers, force) in enumerate(
        ((pattern.u, cell.p_u, cell.z_u, alpha), (pattern.v, cell.p_v, cell.z_v, beta))
    ):
        for layer in reversed(range(last)):
            asked = network.layers[layer + 1].weight.T @ force  # g [n_i]
            z = multipliers[layer]
            for unit in np.flatnonzero((np.abs(values[layer]) <= ZERO) | (z > POSITIVE)):
                gains.append(((branch, layer, int(unit)), float(z[unit] + asked[unit]), float(z[unit])))
            force = np.where(gates[layer], z + asked, -z)
    return gains


def _flipped(pattern: Pattern, flips: list[Flip]) -> Pattern:
    gates: tuple[list[np.ndarray], list[np.ndarray]] = (
        [gate.copy() for gate in pattern.u],
        [gate.copy() for gate in pattern.v],
    )
    for branch, layer, unit in flips:
        for side in (0, 1) if branch == 2 else (branch,):
            gates[side][layer][unit] ^= True
    return Pattern(tuple(gates[0]), tuple(gates[1]))
