"""The linear systems of `active_set`: the least steps with which given equations hold.

`Equations`: the steps a = R^T f / l and a' = R'^T f' / (1 - l) with the least l |a|^2 + (1 - l) |a'|^2 for
which p = p' on the joint units and p = 0, p' = 0 on the held ones. The forces f and f' solve a system with
entries of R R^T and R' R'^T, which is symmetric and positive definite: a Cholesky factorization.

`Side`: the pre-activations of one point of a pair on fixed gates, which are affine in the forces. Forces on
the units, f [n] over all layers in one vector, move the point from u to u + R^T f, where R has the rows of
all pre-activations. Everything needed lies in the span of the rows of the first matrix L, so it is written in
terms of them: R = C L, with one row of C for each unit, and products of rows are C (L L^T) C^T. They are
computed only for the few units that carry a force. For these C is short too, since the layers above do not
see closed units of the first layer.
"""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy.linalg.lapack import dpotrf, dpotrs

from semirobust.collisions.network import Gates, Network
from semirobust.extractors import Array

SINGULAR = 1e-12  # a system is singular if a squared pivot is below this share of its diagonal entry
RIDGE = 1e-9  # added to the diagonal of a singular system, relative
REFINEMENTS = 3  # steps that remove the effect of the ridge from the solution
RESIDUAL = 1e-8  # relative; a system with a larger residual has contradictory equations


class Forces(NamedTuple):
    """The solution of one system.

    values: forces on the joint units (opposite on the second point), then on the held units of both points.
    squares: the squared norms of both steps. slope: the derivative of their difference in l.
    """

    values: Array
    squares: tuple[float, float]
    slope: float


class Equations:
    """p = p' on the joint units, p = 0 and p' = 0 on the held ones: arrays of units in ascending order."""

    def __init__(
        self, first: Side, second: Side, joint: np.ndarray, held_u: np.ndarray, held_v: np.ndarray
    ) -> None:
        # deeper units come first, as `Side.block` wants them: the joint ones are in the last layer
        self.sides = first, second
        self.joint, self.held_u, self.held_v = joint, held_u[::-1], held_v[::-1]
        self._u = first.block(np.concatenate([joint, self.held_u]))
        self._v = second.block(np.concatenate([joint, self.held_v]))

    def __len__(self) -> int:
        return len(self._u) + len(self.held_v)

    def of(self, p_u: Array, p_v: Array, sign: int = -1) -> Array:
        """The residual of the equations at pre-activations [n] of both points.

        With sign 1 it turns bounds of the errors of the pre-activations into bounds of the residual's error.
        """
        return np.concatenate([p_u[self.joint] + sign * p_v[self.joint], p_u[self.held_u], p_v[self.held_v]])

    def spread(self, forces: Array, count: int) -> Array:
        """The forces on all n units, [3, n]: on joint units, on held units of u, on held units of v."""
        spread, j, k = np.zeros((3, count)), len(self.joint), len(self._u)
        spread[0, self.joint] = forces[:j]
        spread[1, self.held_u], spread[2, self.held_v] = forces[j:k], forces[k:]
        return spread

    def matrix(self, balance: float) -> Array:
        """The lower triangle of the matrix of the linear system at l, in Fortran order.

        At l = 1/2 it is twice the products of the rows of all equations.
        """
        j, k, count = len(self.joint), len(self._u), len(self)
        share_u, share_v = 1 / balance, 1 / (1 - balance)
        matrix = np.empty((count, count))  # the upper triangle of its transpose
        np.multiply(self._u, share_u, out=matrix[:k, :k])
        matrix[:j, :j] += self._v[:j, :j] * share_v
        np.multiply(self._v[:j, j:], -share_v, out=matrix[:j, k:])
        np.multiply(self._v[j:, j:], share_v, out=matrix[k:, k:])
        matrix[j:k, k:] = 0
        return matrix.T

    def solve(self, balance: float, target: Array) -> Forces | None:
        """The forces at l that change `of` by the target; None if the equations are contradictory."""
        j, k = len(self.joint), len(self._u)
        if len(target) == 0:
            return Forces(target, (0.0, 0.0), 0.0)
        factor, regular = _factor(self.matrix(balance))
        if factor is None and (factor := self._ridged(balance)) is None:
            return None
        share_u, share_v = 1 / balance, 1 / (1 - balance)
        forces, _ = dpotrs(factor, target, lower=1)
        for again in range(REFINEMENTS, -1, -1):
            on_u, on_v = forces[:k], np.concatenate([-forces[:j], forces[k:]])
            move_u, move_v = (self._u @ on_u) * share_u, (self._v @ on_v) * share_v
            miss = target - np.concatenate([move_u[:j] - move_v[:j], move_u[j:], move_v[j:]])
            if regular or again == 0:
                break
            forces = forces + dpotrs(factor, miss, lower=1)[0]
        if not np.abs(miss).max() <= RESIDUAL * (1 + np.abs(target).max()):
            return None
        change = np.concatenate(
            [move_u[:j] * share_u + move_v[:j] * share_v, move_u[j:] * share_u, move_v[j:] * -share_v]
        )
        response, _ = dpotrs(factor, change, lower=1)
        squares = (float(move_u @ on_u) * share_u, float(move_v @ on_v) * share_v)
        slope = 2 * float(change @ response - squares[0] * share_u - squares[1] * share_v)
        return Forces(forces, (max(squares[0], 0.0), max(squares[1], 0.0)), slope)

    def _ridged(self, balance: float) -> Array | None:
        """The factor of a singular system with a ridge added; None where that fails too."""
        matrix = self.matrix(balance)
        sizes = np.diagonal(matrix).copy()  # 0 where no open unit feeds a joint unit
        matrix[np.diag_indices(len(matrix))] += RIDGE * np.where(sizes > 0, sizes, sizes.max() or 1.0)
        factor, failed = dpotrf(matrix, lower=1, clean=0, overwrite_a=1)
        return None if failed else factor


def _factor(matrix: Array) -> tuple[Array | None, bool]:
    """The lower Cholesky factor and True; None and False where the matrix is singular.

    Only the lower triangle of the matrix is read, and it is overwritten.
    """
    diagonal = np.diagonal(matrix).copy()
    factor, failed = dpotrf(matrix, lower=1, clean=0, overwrite_a=1)
    if failed or not (np.diagonal(factor) ** 2 > SINGULAR * diagonal).all():
        return None, False
    return factor, True


class Side:
    """The gates of one point, and the rows of its pre-activations as combinations of the first layer's."""

    def __init__(self, network: Network, gates: Gates) -> None:
        self.network, self.gates = network, gates
        self._first = len(gates[0])
        self._cuts = np.cumsum([0, *(len(gate) for gate in gates)]).tolist()
        self._units = np.zeros(0, np.intp)  # deeper units whose rows are known, and:
        self._rows = self._inner = np.zeros((0, 0))  # C of the open units of the first layer, C L L^T C^T
        self._asked, self._block = self._units, self._inner  # the last request of `block`, and its answer

    @cached_property
    def _open(self) -> np.ndarray:
        return np.flatnonzero(self.gates[0])

    @cached_property
    def _gram(self) -> Array:
        """L L^T of the open units of the first layer."""
        return self.network.gram.take(self._open, 0).take(self._open, 1)

    @cached_property
    def varies(self) -> np.ndarray:
        """bool [n]: whether the pre-activation depends on the input at all (or seems to)."""
        masks = [self.network.moving]
        for gate, absolute in zip(self.gates, self.network.absolute[1:], strict=False):
            masks.append(absolute @ (gate & masks[-1]) > 0)
        return np.concatenate(masks)

    def base(self, first: Array) -> Array:
        """[n]: all pre-activations, from those of the first layer [n_1]."""
        values = [first]
        for gate, (weight, bias) in zip(self.gates, self.network.layers[1:], strict=False):
            values.append(weight @ (gate * values[-1]) + bias)
        return np.concatenate(values)

    def moves(self, pulled: Array) -> Array:
        """[n]: the change of the pre-activations under forces on the first layer only, [n_1]."""
        values = [self.network.gram @ pulled]
        for gate, (weight, _) in zip(self.gates, self.network.layers[1:], strict=False):
            values.append(weight @ (gate * values[-1]))
        return np.concatenate(values)

    def pull(self, force: Array) -> Array:
        """C^T f [n_1]: the forces on the first layer alone that are equivalent to forces [n] on all units."""
        last = len(self.gates) - 1
        total = force[self._cuts[last] :]
        for i in reversed(range(last)):
            pulled = total @ self.network.layers[i + 1].weight
            total = force[self._cuts[i] : self._cuts[i + 1]] + self.gates[i] * pulled
        return total

    def block(self, units: np.ndarray) -> Array:
        """R R^T of some units, [k, k]; first-layer units must come last. Do not write to the result."""
        if not np.array_equal(units, self._asked):
            self._asked, self._block = units, self._products(units)
        return self._block

    def _products(self, units: np.ndarray) -> Array:
        count = int((units >= self._first).sum())
        first, gram = units[count:], self.network.gram
        if count == 0:
            return gram.take(first, 0).take(first, 1)
        at = self._known(units[:count])
        block = np.empty((len(units), len(units)))
        block[:count, :count] = self._inner.take(at, 0).take(at, 1)
        if len(first):
            rows = gram.take(first, 0)
            cross = self._rows.take(at, 0) @ rows.take(self._open, 1).T
            block[:count, count:], block[count:, :count] = cross, cross.T
            block[count:, count:] = rows.take(first, 1)
        return block

    def _known(self, units: np.ndarray) -> np.ndarray:
        """The places of deeper units in the list of known rows; missing units are added to the list."""
        place = np.full(self._cuts[-1], -1)
        place[self._units] = np.arange(len(self._units))
        if len(new := units[place[units] < 0]):
            rows = self._coefficients(new)
            both = np.concatenate([self._rows, rows]) if len(self._units) else rows
            cross = (rows @ self._gram) @ both.T  # [new, known]
            inner = np.empty((len(both), len(both)))
            old = len(self._units)
            inner[:old, :old] = self._inner
            inner[old:], inner[:old, old:] = cross, cross[:, :old].T
            place[new] = np.arange(old, len(both))
            self._units, self._rows, self._inner = np.concatenate([self._units, new]), both, inner
        return place[units]

    def _coefficients(self, units: np.ndarray) -> Array:
        """Rows of C for deeper units, with only the columns of open first-layer units: [k, .]."""
        if len(self.gates) == 2:
            return self.network.layers[1].weight.take(units - self._first, 0).take(self._open, 1)
        return self._all[units - self._first]

    @cached_property
    def _all(self) -> Array:
        """The rows of C of all deeper units."""
        pieces = [self.network.layers[1].weight[:, self._open]]
        for gate, (weight, _) in zip(self.gates[1:], self.network.layers[2:], strict=False):
            pieces.append(weight[:, gate] @ pieces[-1][gate])
        return np.concatenate(pieces)
