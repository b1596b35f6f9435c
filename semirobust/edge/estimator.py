"""EDGE, the ensemble dependency graph estimator of mutual information, in bits.

Both layers are projected to a few random coordinates and cut into cells of the size of a nearest-neighbour
bandwidth; the estimate is the plug-in information of the two cell numbers, averaged over the samples
(Noshad, Zeng and Hero, ICASSP 2019, arXiv 1801.09125). The numbers equal those of the published code up to
rounding; `edge` without options is the variant of the semirobustness experiments (arXiv 2307.03803).

Symmetry. Once the samples have cells, x and y play the same part. If nothing is projected (both sides have at
most 6 coordinates) the estimate is symmetric: `edge(y, x)`, with the two smoothnesses exchanged, is
`edge(x, y)` with the entropies exchanged. If they are projected, x takes the first random numbers and y the
next ones. So exchanging them draws other projections, and gives another number of the same distribution. For
the same reason x and a copy of x do not fall into the same cells.

How to read a value. It is the information between two *cells*: never more than either cell entropy (plus
0.001), log2 of the number of samples, or the cap. For a deterministic layer with a continuous output the true
information is infinite, and the cell size and the number of samples set the reported value. In high
dimension, independent data also give several bits. So never read a value without its shuffled control
(`semirobust.dependence`).

Where this departs from the published code:
1. Neighbour distances come from sorting and bisection, and cells are counted exactly, instead of by a search
   tree and dictionaries: the same numbers, faster. `edge.reference` does it the plain way.
2. NumPy's global random state is neither read nor set: the same draws come from a private RandomState(3334).
3. One coordinate works; fewer than 20 samples, values that are not finite and integer input are errors.
4. The semirobustness copy adds a random shift of up to a tenth of a cell; here the first member has none.
5. The ensemble is summarised by its median only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from semirobust.edge.cells import Integers, Side, cells
from semirobust.edge.projection import TwoPasses

Samples: TypeAlias = npt.NDArray[np.floating] | torch.Tensor

MIN_SAMPLES = 20  # below, no coordinate is left after the projection
FLOOR_BITS = 0.001  # lower clip of every sample's term
SATURATION_BITS = 0.1  # an estimate this close to its cap counts as saturated


@dataclass(frozen=True)
class Estimate:
    """A mutual information estimate; `float(estimate)` is its value in bits.

    bits: the estimate, in [0.001, cap_bits].
    cap_bits: the largest value it could have taken, min(U, log2 n).
    entropy_x_bits, entropy_y_bits: plug-in entropies of the cells of the median member (averaged over the two
        middle members when their number is even, and over members that tie); bits is at most
        min(entropy_x_bits, entropy_y_bits) + 0.001.
    saturated: bits is within 0.1 of cap_bits, so the cap or the sample size set the number, not the data.
    n: the number of samples.
    """

    bits: float
    cap_bits: float
    entropy_x_bits: float
    entropy_y_bits: float
    saturated: bool
    n: int

    def __float__(self) -> float:
        return self.bits


@dataclass(frozen=True)
class EdgeOptions:
    """The options of `edge`, checked; `edge` explains them."""

    members: int = 1
    renormalise: bool = False
    cap_bits: float = 10.0
    smoothness: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self) -> None:
        if isinstance(self.members, bool) or not isinstance(self.members, int) or self.members < 1:
            raise ValueError(f"members is {self.members!r}; it must be a whole number, 1 or more")
        if not (FLOOR_BITS < self.cap_bits < math.inf):
            raise ValueError(f"cap_bits is {self.cap_bits!r}; it must be finite and above {FLOOR_BITS} bits")
        if len(self.smoothness) != 2 or not all(0 < gamma < math.inf for gamma in self.smoothness):
            raise ValueError(
                f"smoothness is {self.smoothness!r}; it must be two positive numbers, for x and for y"
            )


def edge(
    x: Samples,
    y: Samples,
    *,
    members: int = 1,
    renormalise: bool = False,
    cap_bits: float = 10.0,
    smoothness: tuple[float, float] = (1.0, 1.0),
) -> Estimate:
    """The EDGE estimate of I(x; y), in bits.

    Args:
        x, y: [n, d] and [n, d'], or [n] for one coordinate, n >= 20; floating-point arrays or tensors. Row i
            of both is one sample. Tensors are detached; those of a CUDA device are projected there, and all
            arithmetic is in double precision. For data too large to hold see `layers.edge_batches`.
        members: L, the number of shifted and scaled cell grids whose median is taken: 1 in the semirobustness
            copy, 10 in the estimator's own repository.
        renormalise: run a second pass with the bandwidths rescaled by the first estimate; the default of the
            estimator's own repository, off in the semirobustness copy.
        cap_bits: U, upper clip of every sample's term, in bits.
        smoothness: gamma, a factor of the bandwidths of x and of y.

    Raises:
        ValueError: unequal n, fewer than 20 samples, no coordinates, more than two axes, values that are not
            finite, an option out of range.
        TypeError: the data are not floating point.
    """
    options = EdgeOptions(members, renormalise, cap_bits, smoothness)
    x, y = checked_samples(x, "x"), checked_samples(y, "y")
    if len(x) != len(y):
        raise ValueError(f"x has {len(x)} samples and y has {len(y)}; row i of both must be the same sample")
    passes = TwoPasses([("x", "y")])
    for step in (passes.measure, passes.project):
        step("x", x)
        step("y", y)
    side_x, side_y = passes.sides()[0]
    return compare(side_x, side_y, options)


def as_samples(values: Samples, name: str) -> npt.NDArray[np.floating]:
    """`values` as an array [n, d], not copied where possible; its shape and dtype are checked."""
    checked = checked_samples(values.cpu() if isinstance(values, torch.Tensor) else values, name)
    assert isinstance(checked, np.ndarray)
    return checked


def checked_samples(values: Samples, name: str, *, at_least: int = MIN_SAMPLES) -> Samples:
    """`values` as [n, d] after checks of shape and dtype: an array, or a detached tensor on a CUDA device."""
    if isinstance(values, torch.Tensor):
        values = values.detach()
        if not values.is_cuda:
            # bfloat16 and half become float32, without loss
            small = values.is_floating_point() and values.itemsize < 4
            values = (values.float() if small else values).cpu().numpy()
    else:
        values = np.asarray(values)
    if isinstance(values, torch.Tensor):
        floating = values.is_floating_point()
    else:
        floating = np.issubdtype(values.dtype, np.floating)
        values = values.astype(np.float64) if floating and values.itemsize > 8 else values
    if not floating:
        raise TypeError(
            f"{name} has dtype {values.dtype}; the estimator needs floating point: pass "
            f"{name}.astype(numpy.float64), or {name}.double() for a tensor"
        )
    if values.ndim == 1:
        values = values[:, None]
    if values.ndim != 2:
        raise ValueError(
            f"{name} has shape {tuple(values.shape)}; expected [n, d]: pass {name}.reshape(len({name}), -1)"
        )
    if len(values) < at_least:
        raise ValueError(f"{name} has {len(values)} samples; the estimator needs at least {at_least}")
    if values.shape[1] == 0:
        raise ValueError(f"{name} has shape {tuple(values.shape)}, no coordinates; pass at least one")
    return values


# Step 1, the projection: `edge.projection`. Steps 2 and 3, from coordinates to cells: `edge.cells`.
# Step 4: the estimate of one member


def cell_information(
    x: Integers,
    y: Integers,
    cap_bits: float = math.inf,
    floor_bits: float = FLOOR_BITS,
) -> tuple[float, float, float]:
    """Mean over the samples of clip(log2(N_ij N / (N_i N_j)), floor, cap), and both cell entropies, in bits.

    x, y: the samples' cell numbers [n], not negative. With floor -inf and cap inf this is the plug-in mutual
    information of the two numberings.
    """
    n = len(x)
    count_x, count_y = np.bincount(x), np.bincount(y)  # N_i, N_j
    joint, count = np.unique(x * len(count_y) + y, return_counts=True)  # N_ij > 0
    expected = count_x[joint // len(count_y)] * count_y[joint % len(count_y)]
    terms = np.clip(np.log2(count * n / expected), floor_bits, cap_bits)
    return float(count @ terms) / n, entropy_bits(count_x), entropy_bits(count_y)


def entropy_bits(counts: Integers) -> float:
    """Plug-in entropy of the given counts, in bits."""
    share = counts[counts > 0] / counts.sum()
    return float(-(share @ np.log2(share))) + 0.0  # no minus zero


# Steps 5 and 6: ensemble, renormalisation


def compare(x: Side, y: Side, options: EdgeOptions) -> Estimate:
    """The estimate for two prepared sides with equal n."""
    factors = [0.4 * gamma for gamma in options.smoothness]
    bits, entropy_x, entropy_y = _ensemble(x, y, factors, options)
    if options.renormalise:
        stretch = 2 ** (-math.sqrt(2 * bits) + 0.5 / bits)
        factors = [0.4 * (factor * stretch) for factor in factors]  # 0.4 twice, as published
        bits, entropy_x, entropy_y = _ensemble(x, y, factors, options)
    n = len(x.coordinates)
    cap = min(options.cap_bits, math.log2(n))
    bits = min(bits, cap)  # against rounding only
    return Estimate(bits, cap, entropy_x, entropy_y, cap - bits <= SATURATION_BITS, n)


def _ensemble(x: Side, y: Side, factors: list[float], options: EdgeOptions) -> tuple[float, float, float]:
    """Median over the members, with the cell entropies of the median members."""
    results = []
    for j, scale in enumerate(np.linspace(1, 1.1, options.members)):
        cells_x = cells(x, factors[0], scale, j / options.members)
        cells_y = cells(y, factors[1], scale, j / options.members)
        results.append(cell_information(cells_x, cells_y, options.cap_bits))
    table = np.array(results)  # [members, 3]
    ordered = np.sort(table[:, 0])
    middle = ordered[[(len(ordered) - 1) // 2, len(ordered) // 2]]  # [2]
    # average over tied members: which one sorting puts in the middle is arbitrary, and not symmetric
    entropies = [table[np.abs(table[:, 0] - bits) < 1e-12, 1:].mean(axis=0) for bits in middle]
    entropy_x, entropy_y = np.mean(entropies, axis=0).tolist()
    return float(middle.mean()), entropy_x, entropy_y
