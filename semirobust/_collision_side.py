"""The pre-activations of one point of a pair on fixed gates: affine in the forces on the units.

Forces on the units, f [n] over all layers in one, pull the point from u to u + R^T f, with R the rows of all
pre-activations. Everything that is asked for lies in the span of the rows of the first matrix L, so it is
written in its units: R = C L, with one row of C for each unit, and products of rows are C (L L^T) C^T. These
are worked out for the few units that carry a force only, for which C is short too: closed units of the first
layer are not seen by the layers above.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from semirobust._collision_layers import Gates, Network
from semirobust.extractors import Array

__all__ = ["Side"]


class Side:
    """One point's gates, and the rows of its pre-activations in units of the first layer's."""

    def __init__(self, network: Network, gates: Gates) -> None:
        self.network, self.gates = network, gates
        self._first = len(gates[0])
        self._cuts = np.cumsum([0, *(len(gate) for gate in gates)]).tolist()
        self._units = np.zeros(0, np.intp)  # deeper units whose rows are known, and:
        self._rows = self._inner = np.zeros((0, 0))  # C of the open units of the first layer, C L L^T C^T
        self._asked, self._block = self._units, self._inner  # the products that were asked for last

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
        """[n]: the pre-activations where those of the first layer are given, [n_1]."""
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
        """C^T f [n_1]: forces [n] on the first layer only that do the same."""
        last = len(self.gates) - 1
        total = force[self._cuts[last] :]
        for i in reversed(range(last)):
            pulled = total @ self.network.layers[i + 1].weight
            total = force[self._cuts[i] : self._cuts[i + 1]] + self.gates[i] * pulled
        return total

    def block(self, units: np.ndarray) -> Array:
        """R R^T of some units, [k, k]; those of the first layer come last. Not to be written to."""
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
        """Where deeper units are in the list of those whose rows are known; the others are added to it."""
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
        """Rows of C for deeper units, the columns of the open units of the first layer: [k, .]."""
        if len(self.gates) == 2:
            return self.network.layers[1].weight.take(units - self._first, 0).take(self._open, 1)
        return self._all[units - self._first]

    @cached_property
    def _all(self) -> Array:
        """C of all deeper units."""
        pieces = [self.network.layers[1].weight[:, self._open]]
        for gate, (weight, _) in zip(self.gates[1:], self.network.layers[2:], strict=False):
            pieces.append(weight[:, gate] @ pieces[-1][gate])
        return np.concatenate(pieces)
