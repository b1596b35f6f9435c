"""Steps 2 and 3 of EDGE (`semirobust.edge`): bandwidths, and the cell number of each sample.

The input is the coordinates of one side. Step 1, the projection to a few coordinates, is `edge.projection`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Side:
    """One side of a pair, ready to be cut into cells.

    coordinates: [n, m]. bandwidths: [m], before the factor 0.4 gamma.
    """

    coordinates: Array
    bandwidths: Array

    def reordered(self, order: Integers) -> Side:
        """The same samples in another order, with the same bandwidths: for shuffled controls."""
        return Side(self.coordinates[order], self.bandwidths)


def published_generator() -> np.random.RandomState:
    """A private copy of the published code's generator: NumPy's legacy one, seeded anew each time."""
    return np.random.RandomState(3334)


# Step 2: bandwidths


def neighbours(n: int, m: int) -> int:
    """k, the rank of the neighbour whose distance is the raw bandwidth."""
    return math.floor(0.43 * n ** (2 / 3 + 0.17 * m / (m + 1)) * math.exp(-1 / max(10000, m**4)))


def bandwidths(coordinates: Array, d: int) -> Array:
    """The bandwidths [m] of coordinates [n, m] that came from d dimensions, without the factor 0.4 gamma."""
    n, m = coordinates.shape
    drawn = published_generator().choice(n, 500)
    distance = neighbour_distances(coordinates, drawn, neighbours(n, m))  # [m, 500]
    return (distance.mean(axis=1) + 1e-4) * 18 * m / max(1 + math.log(d), 1)


def neighbour_distances(coordinates: Array, drawn: Integers, k: int) -> Array:
    """Distances [m, q] from q samples to their k-th nearest value (themselves included), per coordinate.

    In sorted order the k nearest values are a window around the sample. As the start of the window moves
    right, its reach to the left falls and its reach to the right rises: bisect for the crossing.
    """
    n = len(coordinates)
    ordered = np.sort(coordinates.T, axis=1)  # [m, n], row j from index j * n of the flat array
    flat, start = ordered.ravel(), n * np.arange(len(ordered))[:, None]
    centre = coordinates[drawn].T  # [m, q]
    position = np.stack([np.searchsorted(row, points) for row, points in zip(ordered, centre, strict=True)])
    first = start + np.maximum(position - k + 1, 0)
    last = start + np.minimum(position, n - k)  # the window starts at one of first..last, at most k of them

    def reaches(window: Integers) -> tuple[Array, Array]:
        """How far windows reach to the left and to the right of their sample."""
        return centre - flat.take(window), flat.take(window + (k - 1)) - centre

    low, high = first, last
    for _ in range((k - 1).bit_length()):
        # to the first start whose right reach is not below its left reach, else the last
        middle = (low + high) >> 1
        left, right = reaches(middle)
        crossed = right >= left
        low, high = np.where(crossed, low, np.minimum(middle + 1, high)), np.where(crossed, middle, high)
    before = np.maximum(low - 1, first)
    return np.minimum(np.maximum(*reaches(low)), np.maximum(*reaches(before)))


# Step 3: cells


def cells(side: Side, factor: float, scale: float, shift: float) -> Integers:
    """Cell numbers [n], dense from 0: cells of bandwidth * factor * scale, shifted by `shift` of a cell."""
    width = side.bandwidths * factor * scale
    return number_cells(np.floor((side.coordinates + shift * width) / width))


def number_cells(grid: Array) -> Integers:
    """Number the distinct rows of a grid of whole numbers [n, m] densely from 0, exactly, however large."""
    columns = np.ascontiguousarray(grid.T)  # [m, n]
    low, high = columns.min(axis=1), columns.max(axis=1)
    spans = high - low + 1
    if (
        math.prod(spans.tolist()) < 1 << 53
    ):  # then the row as one number with these bases is exact in a double
        weights = np.append(np.cumprod(spans[:0:-1])[::-1], 1.0)
        return dense((weights @ (columns - low[:, None])).astype(np.int64), int(np.prod(spans)))
    n = len(grid)
    key, size = np.zeros(n, dtype=np.int64), 1
    for column, lowest, span in zip(columns, low, spans.tolist(), strict=True):
        if span <= 1 << 31:
            digit, span = (column - lowest).astype(np.int64), int(span)
        else:
            digit, span = np.unique(column, return_inverse=True)[1], n
        if size * span >= 1 << 62:
            key, size = dense(key, size), n
        key, size = key * span + digit, size * span
    return dense(key, size)


def dense(key: Integers, size: int) -> Integers:
    """Ranks of the distinct values of key, all in [0, size): by counting where cheap, else by sorting."""
    if size > 8 * len(key):
        return np.unique(key, return_inverse=True)[1]
    return (np.cumsum(np.bincount(key, minlength=size) > 0) - 1)[key]
