"""Steps 1 to 3 of EDGE (`semirobust.edge`): from the samples of one side to the number of each one's cell."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]

BLOCK_VALUES = 1 << 17  # doubles of one column block, about 1 MB: stays in a core's cache


@dataclass(frozen=True)
class Side:
    """One side of a pair, ready to be cut into cells.

    coordinates: [n, m]. bandwidths: [m], still without the factor 0.4 gamma.
    """

    coordinates: Array
    bandwidths: Array

    def reordered(self, order: Integers) -> Side:
        """The same samples in another order, with the same bandwidths: for shuffled controls."""
        return Side(self.coordinates[order], self.bandwidths)


# Step 1: projection


def prepare(values: npt.NDArray[np.floating], draws: list[tuple[int, int]], name: str) -> list[Side]:
    """Project `values` [n, d] once for each draw (skip, m), in one pass over them, and find the bandwidths.

    A draw takes d * m normal numbers of RandomState(3334) after the first `skip`, which the other side of the
    pair took before: 0 for x, dx * mx for y. m = 0 means no projection.
    """
    d = values.shape[1]
    matrices = [standard_normals(skip, d, m) for skip, m in draws if m]
    projected = project(values, np.hstack(matrices), name) if matrices else np.empty((len(values), 0))
    sides, used = [], 0
    for _, m in draws:
        if m:
            coordinates = projected[:, used : used + m]
            used += m
        else:
            coordinates = values.astype(np.float64)
            with np.errstate(over="ignore", invalid="ignore"):
                require_finite(np.square(coordinates).sum(axis=0), name)
        sides.append(Side(coordinates, bandwidths(coordinates, d)))
    return sides


def standard_normals(skip: int, d: int, m: int) -> Array:
    """The [d, m] standard normal numbers of the private generator after the first `skip`."""
    return _published_generator().standard_normal(skip + d * m)[skip:].reshape(d, m)


def _published_generator() -> np.random.RandomState:
    """The published code draws from NumPy's legacy generator, seeded anew each time; this one is private."""
    return np.random.RandomState(3334)


def project(values: npt.NDArray[np.floating], normals: Array, name: str) -> Array:
    """values [n, d] @ (normals [d, m] / (s sqrt d)), with s [d] the standard deviations, 1 where below 1e-4.

    By blocks of columns, so that the data come from memory once: a block gives its deviations and its share
    of the product while it is in the cache. All arithmetic is in double precision, whatever the data are.
    """
    n, d = values.shape
    width = max(64, BLOCK_VALUES // n)
    projected = np.zeros((n, normals.shape[1]))
    for start in range(0, d, width):
        block = values[:, start : start + width].astype(np.float64, copy=False)  # [n, width]
        with np.errstate(over="ignore", invalid="ignore"):  # the next check says it better
            centred = block - block.mean(axis=0)
            deviation = np.sqrt(np.einsum("ij,ij->j", centred, centred) / n)  # [width]
        require_finite(deviation, name)
        deviation[deviation < 1e-4] = 1.0
        projected += block @ (normals[start : start + width] / (deviation * math.sqrt(d))[:, None])
    return projected


def require_finite(summary: Array, name: str) -> None:
    """Raise unless the columns' deviations or sums of squares are finite; a NaN, inf or 1e155 spoils them."""
    if not np.isfinite(summary).all():
        raise ValueError(
            f"{name} has NaN, infinite or overflowing values; mend what produced it (a diverged network?) "
            "or leave those samples out"
        )


# Step 2: bandwidths


def neighbours(n: int, m: int) -> int:
    """k, the rank of the neighbour whose distance is the raw bandwidth."""
    return math.floor(0.43 * n ** (2 / 3 + 0.17 * m / (m + 1)) * math.exp(-1 / max(10000, m**4)))


def bandwidths(coordinates: Array, d: int) -> Array:
    """The bandwidths [m] of coordinates [n, m] that came from d dimensions, without the factor 0.4 gamma."""
    n, m = coordinates.shape
    drawn = _published_generator().choice(n, 500)
    distance = neighbour_distances(coordinates, drawn, neighbours(n, m))  # [m, 500]
    return (distance.mean(axis=1) + 1e-4) * 18 * m / max(1 + math.log(d), 1)


def neighbour_distances(coordinates: Array, drawn: Integers, k: int) -> Array:
    """Distances [m, q] from q samples to their k-th nearest value, themselves counted, per coordinate.

    In sorted order the k nearest values are a window around the sample. As the start of the window moves
    right, its reach to the left falls and its reach to the right rises: bisect for the crossing.
    """
    n = len(coordinates)
    ordered = np.sort(coordinates.T, axis=1)  # [m, n]
    centre = coordinates[drawn].T  # [m, q]
    position = np.stack([np.searchsorted(row, points) for row, points in zip(ordered, centre, strict=True)])
    flat, offset = ordered.ravel(), n * np.arange(len(ordered))[:, None]

    def at(index: Integers) -> Array:
        return flat[index + offset]

    first, last = np.maximum(position - k + 1, 0), np.minimum(position, n - k)  # possible window starts
    low, high = first, last
    # to the first start whose right reach is not below its left reach, else the last
    while (low < high).any():
        middle = (low + high) // 2
        crossed = at(middle + k - 1) - centre >= centre - at(middle)
        low, high = np.where(crossed, low, np.minimum(middle + 1, high)), np.where(crossed, middle, high)
    here = np.maximum(at(low + k - 1) - centre, centre - at(low))
    before = np.maximum(low - 1, first)
    return np.minimum(here, np.maximum(at(before + k - 1) - centre, centre - at(before)))


# Step 3: cells


def cells(side: Side, factor: float, scale: float, shift: float) -> Integers:
    """Cell numbers [n], dense from 0: cells of bandwidth * factor * scale, shifted by `shift` of a cell."""
    width = side.bandwidths * factor * scale
    return number_cells(np.floor((side.coordinates + shift * width) / width))


def number_cells(grid: Array) -> Integers:
    """Number the distinct rows of a grid of whole numbers [n, m] densely from 0, exactly, however large."""
    n = len(grid)
    low, high = grid.min(axis=0), grid.max(axis=0)
    key, size = np.zeros(n, dtype=np.int64), 1
    for column, lowest, highest in zip(grid.T, low, high, strict=True):
        if highest - lowest < 1 << 31:
            digit, span = (column - lowest).astype(np.int64), int(highest - lowest) + 1
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
