"""Least squares F w = Y from inner products, without the matrix F [n, d].

With more columns than rows every solution asked for here is w = F^T A: the minimum-norm least-squares
solution, ridge, and the average of batch-wise solutions. So A [n, K] comes from F F^T [n, n], which is summed
block by block in float64 (*dual*), and w from one more pass. With at most as many columns as rows,
F^T F [d, d] takes its place (*primal*).

Squaring F squares its condition number. Measured on a robust ResNet-18 (width 16, n = 1,000, d = 47,104) that
number is 503, and the weights agree with those of a dense float64 SVD to 1e-12 of their norm. A randomised
range finder was measured beside it and left out. What is fitted has no small numerical rank (half of the
singular values lie within a factor of 4.2 of the smallest), so that a range of 900 dimensions leaves the
weights 36 % off, and the whole of it costs 2.6 times as long as the products.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg.blas import dsyrk

from semirobust.readouts.features import Source, width

COLUMNS = 1024  # float64 columns added at once
ROWS = 64  # rows of F held at once
ACCURATE = 1e-8  # relative error of a solution above which it carries a warning
STRENGTHS = tuple(10.0**exponent for exponent in range(-8, 3))


def grams(source: Source, upto: Sequence[int] | None = None) -> list[torch.Tensor]:
    """F F^T, float64 [n, n], of the first g groups of columns for each g in ``upto`` (default: all), in one
    pass.

    Raises ``ValueError`` unless ``upto`` rises within 1..groups.
    """
    wanted = [len(source.widths)] if upto is None else list(upto)
    if not wanted or wanted != sorted(set(wanted)) or not 1 <= wanted[0] <= wanted[-1] <= len(source.widths):
        raise ValueError(f"upto must rise within 1..{len(source.widths)}, got {wanted}")
    total = np.zeros((len(source), len(source)), order="F")
    found: list[torch.Tensor] = []
    for group, block in source.columns():
        if group == wanted[len(found)]:
            found.append(_mirrored(total))
            if len(found) == len(wanted):
                return found
        for part in block.split(COLUMNS, dim=1):
            total = dsyrk(1.0, part.double().numpy().T, beta=1.0, c=total, trans=1, lower=1, overwrite_c=1)
    return [*found, _mirrored(total)]


def _mirrored(lower: np.ndarray) -> torch.Tensor:
    """The symmetric matrix [n, n] of a lower triangle."""
    whole = torch.from_numpy(np.tril(lower))
    return whole.add_(whole.tril(-1).T)


def combine(source: Source, coefficients: torch.Tensor) -> torch.Tensor:
    """F^T A, float64 [d, K], of ``coefficients`` A [n, K], in one pass."""
    weight = torch.zeros(width(source), coefficients.shape[1], dtype=torch.float64)
    for at, block in source.rows(ROWS):
        for first in range(0, block.shape[1], 8 * COLUMNS):
            part = slice(first, first + 8 * COLUMNS)
            weight[part].addmm_(block[:, part].double().T, coefficients[at])
    return weight


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Eigenvalues (ascending, above the cutoff only) and vectors of F F^T or F^T F: of ``size`` rows.

    Eigenvalues below max(n, d) * 2.2e-16 of the largest count as zero: float64 inner products do not resolve
    them.
    """

    values: torch.Tensor  # [rank]
    vectors: torch.Tensor  # [size, rank]
    size: int

    @property
    def rank(self) -> int:
        return len(self.values)

    @property
    def condition(self) -> float:
        """Largest over smallest singular value of F that counts."""
        return float((self.values[-1] / self.values[0]).sqrt())

    def solve(self, right: torch.Tensor, shift: float = 0.0) -> torch.Tensor:
        """(M + shift)^+ ``right`` for ``right`` [size, K] within the range of M."""
        return self.vectors @ ((self.vectors.T @ right) / (self.values + shift)[:, None])


def spectrum(products: torch.Tensor, other: int) -> Spectrum:
    """Of F F^T or F^T F [size, size], ``other`` being the length of the sums in it.

    Raises ``ValueError`` where F is zero.
    """
    values, vectors = torch.linalg.eigh(products)
    cutoff = max(len(products), other) * torch.finfo(torch.float64).eps * float(values[-1])
    kept = values > cutoff
    if float(values[-1]) <= 0 or not kept.any():
        raise ValueError("all features are zero: there is nothing to read; check the layers and the images")
    return Spectrum(values[kept], vectors[:, kept], len(products))


@dataclass(frozen=True, eq=False)
class Solution:
    """``coefficients`` [n, K] (dual: w = F^T A) or the weights [d, K] themselves (primal), and diagnostics.

    ``rank`` and ``condition`` of F; for batches the smallest and the largest. ``strength`` and
    ``validation_error`` (mean squared error by strength) of ridge.
    """

    coefficients: torch.Tensor
    rank: int
    condition: float
    strength: float = 0.0
    validation_error: tuple[tuple[float, float], ...] = ()

    @property
    def relative_error(self) -> float:
        """About how far rounding moves the solution, relative: squared condition number times 2.2e-16."""
        return self.condition**2 * float(torch.finfo(torch.float64).eps)


def least_squares(gram: torch.Tensor, targets: torch.Tensor, d: int) -> Solution:
    """Dual: A = (F F^T)^+ Y, so that F^T A is the minimum-norm least-squares solution; float64 [n, K]."""
    found = spectrum(gram, d)
    return Solution(found.solve(targets), found.rank, found.condition)


def ridge(
    gram: torch.Tensor,
    targets: torch.Tensor,
    d: int,
    validation: torch.Tensor,
    strengths: Sequence[float] = STRENGTHS,
) -> Solution:
    """Dual ridge, A = (F F^T + s t I)^-1 Y, t = trace(F F^T) / n, with a strength s that validates best.

    ``validation`` bool [n]: the rows that choose. One eigendecomposition of the other rows' products serves
    all strengths, the mean squared error on the validation rows decides, and all rows are fitted with the
    choice. Raises ``ValueError`` unless both parts have a row and strengths are positive.
    """
    fit = ~validation
    if not fit.any() or not validation.any():
        raise ValueError("ridge needs rows to fit and rows to validate: choose a part of the rows, not all")
    if not strengths or min(strengths) <= 0:
        raise ValueError(f"strengths must be positive (least squares has none), got {list(strengths)}")
    values, vectors = torch.linalg.eigh(gram[fit][:, fit])
    scale = float(gram.diagonal()[fit].mean())
    if scale <= 0:
        raise ValueError("all features are zero: there is nothing to read; check the layers and the images")
    across, rotated = (
        gram[validation][:, fit] @ vectors,
        vectors.T @ targets[fit],
    )  # [n_val, n_fit], [n_fit, K]
    errors = []
    for strength in strengths:
        predicted = across @ (rotated / (values.clamp(min=0) + strength * scale)[:, None])
        errors.append((float(strength), float((predicted - targets[validation]).square().mean())))
    strength = min(errors, key=lambda pair: pair[1])[0]
    found = spectrum(gram, d)
    shift = strength * float(gram.diagonal().mean())
    # outside the range of F F^T the coefficients do not matter: F^T maps them to zero
    condition = ((float(found.values[-1]) + shift) / (float(found.values[0]) + shift)) ** 0.5
    return Solution(found.solve(targets, shift), found.rank, condition, strength, tuple(errors))


def batches(n: int, batch_size: int, classes: int) -> list[slice]:
    """The batches of Algorithm 2. Raises ``ValueError`` for one with fewer images than classes."""
    last = n % batch_size or batch_size if batch_size >= 1 else 0
    if min(batch_size, last) < classes or batch_size > n:
        raise ValueError(
            f"{n} images in batches of {batch_size} leave a batch of {min(batch_size, last, n)}: a batch "
            f"needs at least as many images as there are classes ({classes}), and at most all images"
        )
    return [slice(first, min(first + batch_size, n)) for first in range(0, n, batch_size)]


def algorithm_2(gram: torch.Tensor, targets: torch.Tensor, d: int, batch_size: int) -> Solution:
    """Algorithm 2 in dual form: A_k = (F_k F_k^T)^+ Y_k / K in batch k, so that F^T A is the mean of
    F_k^+ Y_k."""
    parts = batches(len(gram), batch_size, targets.shape[1])
    found = [spectrum(gram[part, part], d) for part in parts]
    rows = [one.solve(targets[part]) / len(parts) for one, part in zip(found, parts, strict=True)]
    return Solution(torch.cat(rows), min(one.rank for one in found), max(one.condition for one in found))


def out_of_batch(
    gram: torch.Tensor, solution: Solution, targets: torch.Tensor, batch_size: int
) -> torch.Tensor:
    """What Algorithm 2 says of each image without that image's own batch: mean over l != k of F_k F_l^+ Y_l.

    float64 [n, K]. Nothing leaks into it, and it costs nothing: the own batch adds F_k F_k^+ Y_k / K (which
    is Y_k / K in a batch of full row rank). Raises ``ValueError`` for a single batch.
    """
    parts = batches(len(gram), batch_size, targets.shape[1])
    if len(parts) < 2:
        raise ValueError(
            "there is only one batch, and none is left without an image's own: use a smaller batch_size"
        )
    predicted = gram @ solution.coefficients  # [n, K]
    for part in parts:
        predicted[part] -= gram[part, part] @ solution.coefficients[part]
    return predicted * (len(parts) / (len(parts) - 1))
