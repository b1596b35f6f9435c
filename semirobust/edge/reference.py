"""A slow reference implementation of EDGE in six steps, as in Noshad, Zeng and Hero (arXiv 1801.09125).

It uses whole distance matrices instead of sorting, and dictionaries of cells instead of numbers, one sample
at a time. It shares no code with `edge.estimator`, which tests and the benchmark compare with it. Input is
not checked. The notation: N samples, X [N, d], Y [N, d'], in bits.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from statistics import fmean, median

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Cell = tuple[int, ...]

SEED = 3334  # of NumPy's legacy generator, whose draws are part of the estimator's definition
MOST_PLAIN = 6  # coordinates that both sides may have without being projected
DRAWN = 500  # samples whose neighbours give the bandwidth


@dataclass(frozen=True)
class Member:
    """One member of the ensemble: its estimate and the entropies of its X cells and Y cells, in bits."""

    bits: float
    entropy_x_bits: float
    entropy_y_bits: float


def edge_reference(
    x: npt.NDArray[np.floating],
    y: npt.NDArray[np.floating],
    *,
    members: int = 1,
    renormalise: bool = False,
    cap_bits: float = 10.0,
    smoothness: tuple[float, float] = (1.0, 1.0),
) -> tuple[float, list[Member]]:
    """The estimate for x [N, d] and y [N, d'], and the members of the last pass; options as in `edge`."""
    dimensions = x.shape[1], y.shape[1]
    projected = step_1_project(x.astype(np.float64), y.astype(np.float64))
    raw = [step_2_bandwidths(side, d) for side, d in zip(projected, dimensions, strict=True)]

    def one_pass(factors: list[float]) -> list[Member]:
        results = []
        for j in range(members):
            scale, shift = np.linspace(1, 1.1, members)[j], j / members
            widths = [bandwidths * factor * scale for bandwidths, factor in zip(raw, factors, strict=True)]
            cells = [step_3_cells(*side, shift) for side in zip(projected, widths, strict=True)]
            results.append(step_4_estimate(cells[0], cells[1], cap_bits))
        return results

    factors = [0.4 * gamma for gamma in smoothness]
    results = one_pass(factors)
    if renormalise:
        factors = step_6_renormalise(factors, step_5_ensemble(results))
        results = one_pass(factors)
    return step_5_ensemble(results), results


def step_1_project(x: Array, y: Array) -> list[Array]:
    """Both sides times a random matrix each, [N, m]; X's is drawn first. Small sides stay as they are."""
    if x.shape[1] <= MOST_PLAIN and y.shape[1] <= MOST_PLAIN:
        return [x, y]
    generator = np.random.RandomState(SEED)
    projected = []
    for side in (x, y):
        n, d = side.shape
        m = min(d, math.floor(math.log2(n / 10)))
        matrix = np.empty((d, m))
        for i in range(d):
            deviation = float(np.std(side[:, i]))
            if deviation < 1e-4:
                deviation = 1.0
            for j in range(m):
                matrix[i, j] = generator.normal(0, 1 / (deviation * math.sqrt(d)))
        projected.append(side @ matrix)
    return projected


def step_2_bandwidths(side: Array, d: int) -> Array:
    """For each coordinate [m] the mean distance to the k-th nearest value (itself included), scaled."""
    n, m = side.shape
    k = math.floor(0.43 * n ** (2 / 3 + 0.17 * m / (m + 1)) * math.exp(-1 / max(10000, m**4)))
    bandwidths = np.empty(m)
    for j in range(m):
        drawn = np.random.RandomState(SEED).choice(side[:, j], DRAWN)  # the same positions for all j
        distances = np.abs(drawn[:, None] - side[None, :, j])  # [500, N]
        nearest = np.sort(distances, axis=1)[:, k - 1]
        bandwidths[j] = np.mean(nearest) + 1e-4
    return bandwidths * 18 * m / max(1 + math.log(d), 1)


def step_3_cells(side: Array, widths: Array, shift: float) -> list[Cell]:
    """Each sample's cell on the grid of these widths, moved by `shift` of a cell."""
    return [
        tuple(
            math.floor((value + shift * width) / width) for value, width in zip(sample, widths, strict=True)
        )
        for sample in side
    ]


def step_4_estimate(cells_x: list[Cell], cells_y: list[Cell], cap_bits: float) -> Member:
    """The mean over the samples of log2(N_ij N / (N_i N_j)), clipped to [0.001, U]."""
    n = len(cells_x)
    n_i, n_j, n_ij = Counter(cells_x), Counter(cells_y), Counter(zip(cells_x, cells_y, strict=True))
    terms = [
        min(max(math.log2(n_ij[i, j] * n / (n_i[i] * n_j[j])), 0.001), cap_bits)
        for i, j in zip(cells_x, cells_y, strict=True)
    ]
    return Member(fmean(terms), _entropy(n_i, n), _entropy(n_j, n))


def step_5_ensemble(results: list[Member]) -> float:
    """The median over the members."""
    return median(member.bits for member in results)


def step_6_renormalise(factors: list[float], bits: float) -> list[float]:
    """Bandwidth factors of the second pass; 0.4 enters twice, as in the published code."""
    stretch = 2 ** (-math.sqrt(2 * bits) + 0.5 / bits)
    return [0.4 * (factor * stretch) for factor in factors]


def _entropy(counts: Counter[Cell], n: int) -> float:
    return -math.fsum(count / n * math.log2(count / n) for count in counts.values())
