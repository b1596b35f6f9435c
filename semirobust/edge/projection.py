"""Step 1 of EDGE (`semirobust.edge`): the random projection, in two passes over batches of samples.

The first pass finds the standard deviation of every coordinate, the second projects. Only a few numbers
for each coordinate are kept between batches, and at the end a few for each sample. Data that are already in
memory are one batch. All arithmetic is in double precision, whatever the type of the data: NumPy on the CPU,
torch for tensors on another device.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from semirobust.edge.cells import Array, Side, bandwidths, published_generator

Values: TypeAlias = npt.NDArray[np.floating] | torch.Tensor
Draw: TypeAlias = tuple[int, int]  # (skip, m): d * m normal numbers after the first `skip`; m = 0: none

PLAIN_DIMENSIONS = 6  # two sides of at most this many coordinates are not projected
BLOCK_VALUES, BLOCK_COLUMNS = 1 << 16, 1 << 13  # of a block in double precision: half a core's second cache
DEVICE_BLOCK_VALUES = 1 << 24  # 128 MB of the device
FIRST = 8  # samples that decide about which point sums are taken


def projected_dimensions(n: int, dx: int, dy: int) -> tuple[int, int]:
    """The numbers of coordinates that x and y are projected to; 0, 0 where nothing is projected."""
    if dx <= PLAIN_DIMENSIONS and dy <= PLAIN_DIMENSIONS:
        return 0, 0
    limit = math.floor(math.log2(n / 10))
    return min(dx, limit), min(dy, limit)


class Moments:
    """First pass: the number of samples and the standard deviation of every coordinate.

    Sums are taken about 0. For a coordinate whose first few samples lie far from 0, compared with their
    spread, sums are taken about the first sample. With q the sum of their squared distances from their mean
    K, "far" is K^2 > 4 q. If not, the mean M of all n samples has M^2 <= 2 (M - K)^2 + 8 q <= 8 n variances;
    and a single sample is always within sqrt(n) standard deviations of M. So rounding in the variance grows
    at most 1 + 8 n fold, wherever the data lie. A constant coordinate has deviation 0, exactly.
    """

    def __init__(self) -> None:
        self.n = 0
        self.d = 0
        self._shift: Any = None  # [d], as are the sums: arrays, or tensors on the device of the data
        self._sum: Any = None
        self._squares: Any = None

    def add(self, values: Values) -> None:
        """Take in a batch [b, d]."""
        ones = _beside(np.ones(len(values)), values)
        with np.errstate(over="ignore", invalid="ignore"):  # `deviation` raises a clearer error
            if self._shift is None:
                self.d = values.shape[1]
                first = _double(values[:FIRST])
                mean = first.mean(0)
                self._shift = first[0] * (mean * mean > 4 * ((first - mean) ** 2).sum(0))
                self._sum, self._squares = (_beside(np.zeros(self.d), values) for _ in range(2))
            for columns, row_blocks in _blocks(values):
                shift = self._shift[columns]
                shifted = bool(shift.any())
                for rows in row_blocks:
                    block = _double(values[rows, columns])
                    if shifted:
                        block = block - shift
                    self._sum[columns] += ones[rows] @ block
                    self._squares[columns] += ones[rows] @ (block * block)
        self.n += len(values)

    def deviation(self, name: str) -> Array:
        """The population standard deviations [d]; ValueError if they are not finite."""
        with np.errstate(over="ignore", invalid="ignore"):
            variance = _numpy(self._squares) / self.n - np.square(_numpy(self._sum) / self.n)
        if not np.isfinite(variance).all():  # a NaN, inf or 1e155
            raise ValueError(
                f"{name} has NaN, infinite or overflowing values; check what produced it (a diverged "
                "network?) or leave those samples out"
            )
        return np.sqrt(np.maximum(variance, 0))


class Projection:
    """Second pass: values [n, d] @ (normals [d, m] / (s sqrt d)), with s the deviations, 1 where below 1e-4.

    Handles several draws at once; a draw of no numbers (m = 0) keeps the values themselves.
    """

    def __init__(self, deviation: Array, draws: Sequence[Draw], normals: Array) -> None:
        self.n, self.d = 0, len(deviation)
        self._draws = list(draws)
        self._scale: Any = np.where(deviation < 1e-4, 1.0, deviation) * math.sqrt(self.d)  # [d]
        # views of the one sequence of random numbers
        self._normals: Any = [
            normals[skip : skip + self.d * m].reshape(self.d, m) for skip, m in self._draws if m
        ]
        self._projected: list[Any] = []  # for each batch [b, sum of m]
        self._plain: list[Any] = []  # and [b, d], only where a draw has m = 0

    def add(self, values: Values) -> None:
        """Take in a batch [b, d]."""
        if not self.n:
            self._normals = [_beside(matrix, values) for matrix in self._normals]
            self._scale = _beside(self._scale, values)
        if self._normals:
            self._projected.append(self._product(values))
        if any(m == 0 for _, m in self._draws):
            self._plain.append(_double(values, copy=True))
        self.n += len(values)

    def _product(self, values: Values) -> Any:
        """[b, sum of m]. The numbers are scaled block by block: no scaled copy of a large matrix is kept."""
        join: Any = torch.cat if isinstance(values, torch.Tensor) else np.concatenate
        product = _beside(np.zeros((len(values), sum(m for _, m in self._draws))), values)
        for columns, row_blocks in _blocks(values):
            matrix = join([normals[columns] for normals in self._normals], 1) / self._scale[columns, None]
            for rows in row_blocks:
                product[rows] += _times(values[rows, columns], matrix)
        return product

    def sides(self) -> list[Side]:
        """One side for each draw."""
        projected = _stack(self._projected)
        sides, used = [], 0
        for _, m in self._draws:
            coordinates = projected[:, used : used + m] if m else _stack(self._plain)
            used += m
            sides.append(Side(coordinates, bandwidths(coordinates, self.d)))
        return sides


class TwoPasses:
    """The projected sides of pairs of named layers, whose outputs come twice, in batches of samples.

    `measure` every batch of every layer, then `project` every batch again, then take the `sides`. A layer is
    projected by different random numbers as the first and as the second of a pair. It is read once for all
    its projections.
    """

    def __init__(self, pairs: Sequence[tuple[str, str]], *, where: str = "") -> None:
        """`where` follows a layer's name in error messages."""
        self._pairs, self._where = list(pairs), where
        self._moments = {name: Moments() for pair in self._pairs for name in pair}
        self._shapes: dict[str, tuple[int, int]] = {}  # (n, d), known after the first pass
        self._draws: dict[str, list[Draw]] = {name: [] for name in self._moments}
        self._projections: dict[str, Projection] = {}

    def measure(self, name: str, values: Values) -> None:
        """First pass: a batch [b, d] of layer `name`."""
        moments = self._moments[name]
        self._require_width(name, values, moments.d if moments.n else values.shape[1])
        moments.add(values)

    def project(self, name: str, values: Values) -> None:
        """Second pass: a batch [b, d] of layer `name`."""
        if not self._shapes:
            self._plan()
        self._require_width(name, values, self._shapes[name][1])
        self._projections[name].add(values)

    def sides(self) -> list[tuple[Side, Side]]:
        """For each pair the side of its first and of its second layer."""
        sides: dict[tuple[str, Draw], Side] = {}
        for name, projection in self._projections.items():
            n = self._shapes[name][0]
            if projection.n != n:
                raise ValueError(
                    f"{name}{self._where} had {n} samples in the first pass, {projection.n} in the second; "
                    "both must give the same samples"
                )
            for draw, side in zip(self._draws[name], projection.sides(), strict=True):
                sides[name, draw] = side
        return [(sides[x, draw_x], sides[y, draw_y]) for (x, draw_x), (y, draw_y) in self._uses()]

    def _plan(self) -> None:
        """Between the passes: choose the draws of each layer, and draw one random sequence for all."""
        self._shapes = {name: (moments.n, moments.d) for name, moments in self._moments.items()}
        for use in self._uses():
            for name, draw in use:
                if draw not in self._draws[name]:
                    self._draws[name].append(draw)
        numbers = [
            skip + self._shapes[name][1] * m for name, draws in self._draws.items() for skip, m in draws
        ]
        normals = published_generator().standard_normal(max(numbers))
        for name, draws in self._draws.items():
            deviation = self._moments.pop(name).deviation(f"{name}{self._where}")
            self._projections[name] = Projection(deviation, draws, normals)

    def _uses(self) -> Iterator[tuple[tuple[str, Draw], tuple[str, Draw]]]:
        """For each pair its layers and their draws: x takes the first numbers, y the next ones."""
        for x, y in self._pairs:
            (n, dx), (other, dy) = self._shapes[x], self._shapes[y]
            if n != other:
                raise ValueError(
                    f"{x}{self._where} has {n} samples and {y} has {other}; "
                    "row i of both must be the same sample"
                )
            mx, my = projected_dimensions(n, dx, dy)
            yield (x, (0, mx)), (y, (dx * mx, my))

    def _require_width(self, name: str, values: Values, d: int) -> None:
        if values.shape[1] != d:
            raise ValueError(
                f"{name}{self._where} has {values.shape[1]} coordinates in this batch and {d} in the first; "
                "all batches must be [b, d] with the same d"
            )


# NumPy arrays, and tensors on another device


def _blocks(values: Values) -> Iterator[tuple[slice, list[slice]]]:
    """Ranges of columns, each with its ranges of rows: blocks that stay in cache, large ones on a device."""
    n, d = values.shape
    if isinstance(values, torch.Tensor):
        width, height = d, max(1, DEVICE_BLOCK_VALUES // d)
    else:
        width = math.ceil(d / math.ceil(d / BLOCK_COLUMNS))
        height = BLOCK_VALUES // width
    rows = [slice(top, top + height) for top in range(0, n, height)]
    return ((slice(left, left + width), rows) for left in range(0, d, width))


def _beside(array: Array, values: Values) -> Any:
    """`array` in the type of `values`: an array, or a tensor on the same device."""
    return torch.from_numpy(array).to(values.device) if isinstance(values, torch.Tensor) else array


def _double(values: Values, *, copy: bool = False) -> Any:
    if isinstance(values, torch.Tensor):
        return values.to(torch.float64, copy=copy)
    return values.astype(np.float64, copy=copy)


def _times(block: Values, matrix: Any) -> Any:
    return block.double() @ matrix if isinstance(block, torch.Tensor) else np.dot(block, matrix)


def _numpy(values: Any) -> Array:
    return values.cpu().numpy() if isinstance(values, torch.Tensor) else values


def _stack(batches: list[Any]) -> Array:
    return np.concatenate([_numpy(batch) for batch in batches]) if batches else np.empty((0, 0))
