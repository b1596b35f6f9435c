"""The cheapest collision of one pattern by an active-set method: what the cone program gives, much faster.

With the gates fixed, the programs of `_collision_cone` are, up to the square,

    max over l in [0, 1] of  min (l |a|^2 + (1 - l) |a'|^2) / 2

over steps a, a' of the two points in the row space. Given l and the set of units whose pre-activation is held
at zero, the inner minimum is a linear system in the forces on the units, with entries of R R^T, the products
of the rows of the pre-activations. A unit whose force points the wrong way is let go, a unit whose sign is
wrong is held: all of them at once while that helps, else one at a time (block principal pivoting: Judice and
Pires, Computers and Operations Research 21, 1994), and l takes Newton steps on |a| = |a'| at the same time.
It ends with the optimum to rounding, or is given up: then the cone program decides.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.linalg.blas import dsymv
from scipy.linalg.lapack import dpotrf, dpotrs

from semirobust._collision_cone import Cell, solve, without
from semirobust._collision_layers import Array, Gates, Network, Pattern

__all__ = ["Guess", "Polisher"]

ROUNDS = 40  # systems for one pattern
PATIENCE = 4  # rounds without fewer wrong units before they change one at a time
EDGE = 1e-5  # l stays so far from 0 and 1: a point that is idle then is off by its square
STEP = 0.2  # the largest change of l
TOLERANCE = 1e-11  # of signs, relative
BALANCED = 1e-13  # of |a|^2 = |a'|^2, relative
SINGULAR = 1e-12  # of its diagonal: a system with a smaller squared pivot is singular
RIDGE = 1e-9  # added to the diagonal of a singular system, relative
REFINEMENTS = 3  # of its solution, which take out the ridge
ZERO_ROW = 1e-14  # of the largest |R_j|^2: smaller ones are rounding errors of zero
RESIDUAL = 1e-8  # of the linear system, relative: above, its equations contradict each other


class Guess(NamedTuple):
    """Where to start: l, and the units that are held at zero, one array over all layers for each point."""

    balance: float
    held_u: np.ndarray
    held_v: np.ndarray


class _Rows(NamedTuple):
    """The pre-activations of one point on its gates, all layers in one: R a + b."""

    base: Array  # b [n]: the pre-activations at the end of the pair
    gram: Array  # R R^T [n, n]
    signs: Array  # 1 open, -1 closed
    varies: np.ndarray  # bool [n]: the row is not zero


class _Found(NamedTuple):
    """The solution of one system: forces and pre-activations [n] of both points, the squares of both norms,
    and the derivative of their difference in l.
    """

    nu: Array
    force_u: Array
    force_v: Array
    p_u: Array
    p_v: Array
    squares: tuple[float, float]
    slope: float


class Polisher:
    """Solves patterns of one network; calls have the form that `descend` expects.

    The optimum of a pattern is where the next one starts; set `guess` to start elsewhere. `fallbacks` counts
    the patterns that went to the cone program; without `rescue` these are given up.
    """

    def __init__(self, network: Network) -> None:
        self.rescue = True
        self.guess: Guess | None = None
        self.fallbacks = 0
        sizes = [len(layer.bias) for layer in network.layers]
        self._cuts = np.cumsum(sizes)[:-1]
        self._last = slice(sum(sizes[:-1]), sum(sizes))

    def __call__(self, network: Network, u: Array, v: Array, pattern: Pattern) -> Cell:
        first, second = _rows(network, u, pattern.u), _rows(network, v, pattern.v)
        joint = np.zeros(len(first.base), bool)
        joint[self._last] = pattern.u[-1]  # p = p' here
        optimum = _pivot(first, second, joint, self.guess)
        if optimum is None:
            self.fallbacks += 1
            return solve(network, u, v, pattern) if self.rescue else without("failed")
        self.guess, found = optimum
        return self._cell(network, u, v, pattern, found)

    def _cell(self, network: Network, u: Array, v: Array, pattern: Pattern, found: _Found) -> Cell:
        """The optimum in the words of the cone program, whose objective is not squared."""
        assert self.guess is not None
        balance = self.guess.balance
        epsilon = float(np.sqrt(max(found.squares)))
        scale = 1 / epsilon if epsilon > 0 else 0.0
        idle = not EDGE < balance < 1 - EDGE
        force_u, force_v = found.nu + found.force_u, found.force_v - found.nu
        return Cell(
            status="solved",
            epsilon=epsilon,
            u=u + network.space.basis @ self._pull(network, pattern.u, force_u) / balance,
            v=v + network.space.basis @ self._pull(network, pattern.v, force_v) / (1 - balance),
            p_u=np.split(found.p_u, self._cuts),
            p_v=np.split(found.p_v, self._cuts),
            z_u=np.split(np.abs(found.force_u) * scale, self._cuts),
            z_v=np.split(np.abs(found.force_v) * scale, self._cuts),
            nu=found.nu[self._last] * scale,
            mu=(float(balance > 0.5), float(balance < 0.5)) if idle else (balance, 1 - balance),
        )

    def _pull(self, network: Network, gates: Gates, force: Array) -> Array:
        """R^T f [r], from the last layer to the first."""
        forces = np.split(force, self._cuts)
        total = forces[-1]
        for i in reversed(range(len(forces) - 1)):
            total = forces[i] + np.where(gates[i], network.layers[i + 1].weight.T @ total, 0.0)
        return network.reduced.T @ total


def _rows(network: Network, point: Array, gates: Gates) -> _Rows:
    base = np.concatenate(network.pre_activations(point, gates))
    gram = network.gram
    if len(gates) > 1:
        before = len(gram)
        gram = np.zeros((len(base), len(base)))
        gram[:before, :before] = network.gram
        opened = np.flatnonzero(gates[0])
        for gate, (weight, _), last in zip(gates[1:], network.layers[1:], gates[:-1], strict=True):
            rows = slice(before, before + len(gate))
            cross = weight[:, last] @ gram[opened, :before]
            gram[rows, :before], gram[:before, rows] = cross, cross.T
            gram[rows, rows] = cross[:, opened] @ weight[:, last].T
            opened = before + np.flatnonzero(gate)
            before += len(gate)
    squares = np.diagonal(gram)
    varies = squares > ZERO_ROW * squares.max()
    return _Rows(base, gram, np.where(np.concatenate(gates), 1.0, -1.0), varies)


def _pivot(
    first: _Rows, second: _Rows, joint: np.ndarray, guess: Guess | None
) -> tuple[Guess, _Found] | None:
    """The held units and l of the optimum; None where there is none or none was found."""
    count = len(joint)
    nothing = np.zeros(count, bool)
    balance, held_u, held_v = guess or Guess(0.5, nothing, nothing)
    free_u, free_v = first.varies, second.varies & ~joint  # may be held; p = p' >= 0 is needed only once
    held_u, held_v = held_u & free_u, held_v & free_v
    size = TOLERANCE * (1 + max(np.abs(first.base).max(), np.abs(second.base).max()))
    for side in (first, second):
        if (side.signs * side.base < -size)[~side.varies].any():
            return None
    fewest, patience = 2 * count + 1, PATIENCE
    for _ in range(ROUNDS):
        found = _system(first, second, joint, held_u, held_v, balance)
        if found is None:
            return None
        z_u, z_v = first.signs * found.force_u, second.signs * found.force_v
        small = TOLERANCE * max(np.abs(found.nu).max(), np.abs(z_u).max(), np.abs(z_v).max())
        wrong_u = np.where(held_u, z_u < -small, free_u & (first.signs * found.p_u < -size))
        wrong_v = np.where(held_v, z_v < -small, free_v & (second.signs * found.p_v < -size))
        wrong = int(wrong_u.sum() + wrong_v.sum())
        moved = _step(balance, found.squares, found.slope)
        if wrong == 0 and moved == balance:
            return Guess(balance, held_u, held_v), found
        balance = moved
        if wrong < fewest:
            fewest, patience = wrong, PATIENCE
        else:
            patience -= 1
        if wrong and patience < 0:  # the last one alone
            both = np.concatenate([wrong_u, wrong_v])
            both[: np.flatnonzero(both)[-1]] = False
            wrong_u, wrong_v = both[:count], both[count:]
        held_u, held_v = held_u ^ wrong_u, held_v ^ wrong_v
    return None


def _step(balance: float, squares: tuple[float, float], slope: float) -> float:
    """The next l; the same where nothing is to be gained."""
    gap, total = squares[0] - squares[1], squares[0] + squares[1]
    if abs(gap) <= BALANCED * total:
        return balance
    step = -gap / slope if slope < -1e-12 * total else np.copysign(STEP, gap)
    return float(np.clip(balance + np.clip(step, -STEP, STEP), EDGE, 1 - EDGE))


def _system(
    first: _Rows, second: _Rows, joint: np.ndarray, held_u: np.ndarray, held_v: np.ndarray, balance: float
) -> _Found | None:
    """The least l |a|^2 + (1 - l) |a'|^2 with p = p' on the joint units and p = 0 on the held ones."""
    weight_u, weight_v = balance, 1 - balance
    both, on_u, on_v = (np.flatnonzero(mask) for mask in (joint, held_u, held_v))
    j, k = len(both), len(both) + len(on_u)
    count = k + len(on_v)
    nu, force_u, force_v = np.zeros((3, len(joint)))
    p_u, p_v, change = first.base, second.base, np.zeros(0)
    if count:
        matrix = np.zeros((count, count), order="F")
        rows_u, rows_v = np.concatenate([both, on_u]), np.concatenate([both, on_v])
        matrix[:k, :k] = first.gram[rows_u[:, None], rows_u] / weight_u
        block = second.gram[rows_v[:, None], rows_v] / weight_v
        matrix[:j, :j] += block[:j, :j]
        matrix[k:, :j] = -block[j:, :j]
        matrix[k:, k:] = block[j:, j:]  # the lower triangle is read
        target = np.concatenate([second.base[both] - first.base[both], -first.base[on_u], -second.base[on_v]])
        factor, regular = _factor(matrix)
        if factor is None:
            return None
        forces, _ = dpotrs(factor, target, lower=1)
        for _ in range(0 if regular else REFINEMENTS):
            forces += dpotrs(factor, target - dsymv(1.0, matrix, forces, lower=1), lower=1)[0]
        nu[both], force_u[on_u], force_v[on_v] = np.split(forces, [j, k])
        move_u, move_v = first.gram @ (nu + force_u) / weight_u, second.gram @ (force_v - nu) / weight_v
        p_u, p_v = first.base + move_u, second.base + move_v
        change = np.concatenate(
            [
                move_u[both] / weight_u + move_v[both] / weight_v,
                move_u[on_u] / weight_u,
                -move_v[on_v] / weight_v,
            ]
        )
        miss = np.concatenate([p_u[both] - p_v[both], p_u[on_u], p_v[on_v]])
        if not np.abs(miss).max() <= RESIDUAL * (1 + np.abs(target).max()):
            return None
        response, _ = dpotrs(factor, change, lower=1)
        squares = (float(move_u @ (nu + force_u)) / weight_u, float(move_v @ (force_v - nu)) / weight_v)
        slope = 2 * float(change @ response - squares[0] / weight_u - squares[1] / weight_v)
    else:
        squares, slope = (0.0, 0.0), 0.0
    return _Found(nu, force_u, force_v, p_u, p_v, (max(squares[0], 0.0), max(squares[1], 0.0)), slope)


def _factor(matrix: Array) -> tuple[Array | None, bool]:
    """The Cholesky factor of a matrix, of which the lower triangle is read, and whether it is regular: a
    singular one is moved by a ridge. None where that does not help.
    """
    factor, failed = dpotrf(matrix, lower=1)
    if not failed and (np.diagonal(factor) ** 2 > SINGULAR * np.diagonal(matrix)).all():
        return factor, True
    ridged = matrix.copy(order="F")
    ridged[np.diag_indices(len(matrix))] *= 1 + RIDGE
    factor, failed = dpotrf(ridged, lower=1)
    return (None if failed else factor), False
