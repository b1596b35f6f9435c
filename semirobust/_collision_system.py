"""The linear system of `_collision_polish`: the least steps with which given equations hold.

The steps a = R^T f / l and a' = R'^T f' / (1 - l) with the least l |a|^2 + (1 - l) |a'|^2 for which p = p' on
the joint units and p = 0, p' = 0 on the held ones. For the forces this is a system with entries of R R^T and
R' R'^T, symmetric and positive definite: a Cholesky factorization.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.linalg.lapack import dpotrf, dpotrs

from semirobust._collision_side import Side
from semirobust.extractors import Array

__all__ = ["Equations", "Forces"]

SINGULAR = 1e-12  # of its diagonal: a system with a smaller squared pivot is singular
RIDGE = 1e-9  # added to the diagonal of a singular system, relative
REFINEMENTS = 3  # of its solution, which take out the ridge
RESIDUAL = 1e-8  # of the linear system, relative: above, its equations contradict each other


class Forces(NamedTuple):
    """The solution of one system: forces on the joint units (opposite on the second point) and on the held
    ones of both, the squares of both steps, and the derivative of their difference in l.
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
        """How far pre-activations [n] of both points are from solving the equations; with sign 1, bounds of
        its errors from theirs.
        """
        return np.concatenate([p_u[self.joint] + sign * p_v[self.joint], p_u[self.held_u], p_v[self.held_v]])

    def spread(self, forces: Array, count: int) -> Array:
        """The forces on all n units, [3, n]: on the joint ones, on the held ones of both points."""
        spread, j, k = np.zeros((3, count)), len(self.joint), len(self._u)
        spread[0, self.joint] = forces[:j]
        spread[1, self.held_u], spread[2, self.held_v] = forces[j:k], forces[k:]
        return spread

    def matrix(self, balance: float) -> Array:
        """Of the linear system at l, in Fortran order; its lower triangle. At l = 1/2, twice the products of
        the rows of all equations.
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
        """The forces at l that change `of` by the target; None where the equations contradict each other."""
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
        """The factor of a singular system, moved by a ridge; None where that does not help."""
        matrix = self.matrix(balance)
        sizes = np.diagonal(matrix).copy()  # 0 where a joint unit has no open unit behind it
        matrix[np.diag_indices(len(matrix))] += RIDGE * np.where(sizes > 0, sizes, sizes.max() or 1.0)
        factor, failed = dpotrf(matrix, lower=1, clean=0, overwrite_a=1)
        return None if failed else factor


def _factor(matrix: Array) -> tuple[Array | None, bool]:
    """The Cholesky factor, below the diagonal, of a matrix of which the lower triangle is read (and
    overwritten); None and False where it is singular.
    """
    diagonal = np.diagonal(matrix).copy()
    factor, failed = dpotrf(matrix, lower=1, clean=0, overwrite_a=1)
    if failed or not (np.diagonal(factor) ** 2 > SINGULAR * diagonal).all():
        return None, False
    return factor, True
