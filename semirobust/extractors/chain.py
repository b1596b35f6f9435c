"""A network with max-pools and shortcuts as one chain relu(L2 relu(L1 x + k1) + k2) of matrices, exactly.

Every value on the way is an affine function of the units of the last layer so far (of the input, before the
first one). It is stored as a tensor [1 + n, *shape]: first the constant, then the coefficients of the n
units. Linear operations (convolutions, averages, sums) act on that tensor and make no layer. Layers come from

- a ReLU: one unit for each number;
- max(a, b) = relu(a - b) + b: one unit for a - b, and b is carried on. A max-pool is a tournament of these,
  first along rows, then along columns, so that windows that overlap share what they have in common.

Values that are used again later are carried past a new layer: by units that repeat those they depend on
(relu(h) = h for h >= 0), or by units of their own: one for a number that is never negative, the pair
relu(z), relu(-z) for any other. The choice is whichever needs fewer units. Equal units are made once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from scipy import sparse
from torch import fx

from semirobust.extractors.arrays import Array

Values: TypeAlias = dict[fx.Node, torch.Tensor]  # of nodes of a graph, each [1 + n, *shape], float64


class _Recipe(NamedTuple):
    """A value in the units of a layer: constant [n], and coefficients [k] of units [k] in entries [k]."""

    shape: tuple[int, ...]
    constant: Array
    units: np.ndarray
    entries: np.ndarray
    coefficients: Array

    def value(self, count: int) -> torch.Tensor:
        """[1 + count, *shape]."""
        where = (1 + self.units, self.entries)
        out = sparse.coo_array((self.coefficients, where), shape=(1 + count, len(self.constant))).toarray()
        out[0] = self.constant
        return torch.from_numpy(out).reshape(1 + count, *self.shape)


class _Units:
    """The rows [1 + n] of a layer under construction, constant first; equal rows are kept once."""

    def __init__(self) -> None:
        self._index: dict[bytes, int] = {}
        self._rows: list[Array] = []

    def __len__(self) -> int:
        return len(self._rows)

    def new(self, rows: Array) -> int:
        """How many units these rows [q, 1 + n] would add."""
        return len({row.tobytes() for row in rows + 0.0} - self._index.keys())

    def add(self, rows: Array) -> np.ndarray:
        """The units of these rows [q, 1 + n]: [q]."""
        found = np.empty(len(rows), np.int64)
        for i, row in enumerate(rows + 0.0):  # no negative zeros
            found[i] = self._index.setdefault(row.tobytes(), len(self._rows))
            if found[i] == len(self._rows):
                self._rows.append(row)
        return found

    def layer(self) -> tuple[Array, Array]:
        matrix = np.stack(self._rows)
        return matrix[:, 1:].copy(), matrix[:, 0].copy()


class Chained:
    """The layers made so far. Every method that makes one takes the values that are needed later, and
    returns them in terms of the new units.
    """

    def __init__(self, inputs: int, largest: int) -> None:
        self.layers: list[tuple[Array, Array]] = []
        self._inputs, self._largest = inputs, largest

    @property
    def units(self) -> int:
        """The number of units of the last layer, or of inputs where there is no layer yet."""
        return len(self.layers[-1][1]) if self.layers else self._inputs

    def relu(self, value: torch.Tensor, later: Values, name: str) -> tuple[torch.Tensor, Values]:
        """max(value, 0); no layer where nothing can be negative."""
        rows = _rows(value)
        if self._nonnegative(rows).all():
            return value, later
        units = _Units()
        count = np.arange(len(rows))
        recipe = _Recipe(value.shape[1:], np.zeros(len(rows)), units.add(rows), count, np.ones(len(rows)))
        return self._make(units, recipe, later, name)

    def max_pool(
        self, value: torch.Tensor, windows: Sequence[list[list[int]]], later: Values, name: str
    ) -> tuple[torch.Tensor, Values]:
        """The maxima over windows of positions along the last axes, [[positions of each window], ...]: for
        rows [1 + n, ..., H, W], then columns.
        """
        for axis, lists in zip((-1, -2), reversed(windows), strict=True):
            value = value.movedim(axis, -1)
            while max(map(len, lists)) > 1:
                pairs, lists = _round(lists)
                first, second = (torch.tensor(side) for side in zip(*pairs, strict=True))
                value, later = self._maximum(value[..., first], value[..., second], later, name)
            value = value[..., [entry for (entry,) in lists]].movedim(-1, axis)
        return value, later

    def finish(self, value: torch.Tensor) -> bool:
        """Makes `value` the output of the last layer; returns whether that layer has a ReLU."""
        rows = _rows(value)
        if self.layers and not rows[:, 0].any() and ((rows != 0).sum(axis=1) == 1).all():
            units = rows[:, 1:].argmax(axis=1)
            if (rows[np.arange(len(rows)), 1 + units] == 1).all():  # units of the last layer
                matrix, bias = self.layers[-1]
                self.layers[-1] = (matrix[units], bias[units])
                return True
        self.layers.append((rows[:, 1:].copy(), rows[:, 0].copy()))
        return False

    def _maximum(
        self, first: torch.Tensor, second: torch.Tensor, later: Values, name: str
    ) -> tuple[torch.Tensor, Values]:
        """max(first, second), of the same shape."""
        rows = _rows(second)
        difference = _rows(first) - rows
        differ = np.flatnonzero(difference.any(axis=1))
        units = _Units()
        carried = self._carry(units, rows, second.shape[1:])
        added = units.add(difference[differ])
        recipe = _Recipe(
            carried.shape,
            carried.constant,
            np.append(carried.units, added),
            np.append(carried.entries, differ),
            np.append(carried.coefficients, np.ones(len(differ))),
        )
        return self._make(units, recipe, later, name)

    def _make(self, units: _Units, recipe: _Recipe, later: Values, name: str) -> tuple[torch.Tensor, Values]:
        """Closes a layer, with the units that carry the later values."""
        carried = {key: self._carry(units, _rows(value), value.shape[1:]) for key, value in later.items()}
        if len(units) > self._largest:
            raise too_large(
                f"the layer that {name} needs has {len(units):,} units", len(units), self._largest
            )
        self.layers.append(units.layer())
        return recipe.value(len(units)), {key: entry.value(len(units)) for key, entry in carried.items()}

    def _carry(self, units: _Units, rows: Array, shape: tuple[int, ...]) -> _Recipe:
        """The rows [q, 1 + n] past a layer, with the fewest new units."""
        entries = np.arange(len(rows))
        signed = np.flatnonzero(~self._nonnegative(rows))
        own = np.concatenate([rows, -rows[signed]])
        if self.layers:
            used = np.flatnonzero(rows[:, 1:].any(axis=0))
            same = np.eye(rows.shape[1])[1 + used]
            if units.new(same) < units.new(own):
                units_of = units.add(same)
                entry, column = np.nonzero(rows[:, 1 + used])
                return _Recipe(
                    shape, rows[:, 0].copy(), units_of[column], entry, rows[entry, 1 + used[column]]
                )
        coefficients = np.append(np.ones(len(rows)), -np.ones(len(signed)))
        return _Recipe(shape, np.zeros(len(rows)), units.add(own), np.append(entries, signed), coefficients)

    def _nonnegative(self, rows: Array) -> np.ndarray:
        """[q], True where a row cannot give a negative value: units are at least 0, inputs are anything."""
        coefficients = rows[:, 1:]
        kept = (coefficients >= 0) if self.layers else (coefficients == 0)
        return np.asarray(kept.all(axis=1)) & (rows[:, 0] >= 0)


def _rows(value: torch.Tensor) -> Array:
    """[1 + n, *shape] -> one row [1 + n] for each number."""
    return np.ascontiguousarray(value.flatten(1).T.numpy())


def _round(windows: list[list[int]]) -> tuple[list[tuple[int, int]], list[list[int]]]:
    """One round of the tournament: the pairs that meet, and the windows as positions of their winners. A
    position without an opponent meets itself. The one that meets more others comes second: it is carried on.
    """
    index: dict[tuple[int, int], int] = {}
    winners = []
    for window in windows:
        pairs = [(window[i], window[min(i + 1, len(window) - 1)]) for i in range(0, len(window), 2)]
        winners.append([index.setdefault(pair, len(index)) for pair in pairs])
    meets = Counter(position for pair in index for position in pair)
    return [(a, b) if meets[a] <= meets[b] else (b, a) for a, b in index], winners


def too_large(what: str, units: int, largest: int) -> ValueError:
    """What is said of a layer that is refused for its size."""
    return ValueError(
        f"{what}; at most {largest:,} are compiled (its Gram matrix alone would take "
        f"{units**2 * 8 / 1e9:.2g} GB): use a narrower network or smaller images, or stop at an earlier layer"
    )
