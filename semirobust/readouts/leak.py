"""The leak of targets through Algorithm 2: in closed form for features that carry no information.

On its k-th batch of B images, of full row rank, the average of K batch-wise solutions predicts
F_k w = (Y_k + sum over l != k of F_k F_l^+ Y_l) / K: the target itself comes back. For independent standard
Gaussian features [N, d] and targets +1 and -1 that have nothing to do with them, the other batches add a
Gaussian of variance |v|^2 with v = sum of F_l^+ y_l, so that a prediction is right with probability
Phi(1 / |v|), and E|v|^2 = (K - 1) B / (d - B - 1) (mean of the inverse Wishart law; cross terms vanish by
symmetry).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch


def leak_accuracy(d: int, batch: int, batches: int) -> float:
    """Accuracy of Algorithm 2, on the data it was fitted on, for features that are pure noise; in [1/2, 1].

    Phi(1 / sqrt((K - 1) B / (d - B - 1))) with B = ``batch`` and K = ``batches``: |v| is put at its root mean
    square, which it approaches as N = B K and d grow. 1 for one batch. Two classes, balanced or not. Raises
    ``ValueError`` unless d > B + 1 and both are at least 1: with fewer columns the mean is infinite.
    """
    _check(d, batch, batches)
    if batches == 1:
        return 1.0
    spread = math.sqrt((batches - 1) * batch / (d - batch - 1))
    return 0.5 * (1 + math.erf(1 / spread / math.sqrt(2)))


@dataclass(frozen=True, eq=False)
class Simulation:
    """Accuracies of ``runs`` fits to pure noise: ``in_sample`` and ``held_out`` float64 [runs], in [0, 1]."""

    in_sample: np.ndarray
    held_out: np.ndarray

    @property
    def mean(self) -> float:
        return float(self.in_sample.mean())

    @property
    def standard_error(self) -> float:
        """Of ``mean``."""
        return float(self.in_sample.std(ddof=1) / math.sqrt(len(self.in_sample)))


def simulate_leak(d: int, batch: int, batches: int, *, runs: int = 30, seed: int = 0) -> Simulation:
    """Algorithm 2 on Gaussian features [N, d] and coin-flip targets, scored on them and on as many new ones.

    Plain on purpose: pseudo-inverses of the batches themselves. Raises as ``leak_accuracy``, and for fewer
    than two runs.
    """
    _check(d, batch, batches)
    if runs < 2:
        raise ValueError(f"runs must be at least 2 to have a standard error, got {runs}")
    rng = np.random.default_rng(seed)
    n, scores = batch * batches, np.empty((2, runs))
    for run in range(runs):
        features, targets = rng.standard_normal((2, n, d)), rng.choice([-1.0, 1.0], (2, n))
        weight = np.zeros(d)
        for first in range(0, n, batch):
            part = slice(first, first + batch)
            weight += np.linalg.pinv(features[0, part]) @ targets[0, part] / batches
        scores[:, run] = (np.sign(features @ weight) == targets).mean(1)
    return Simulation(scores[0], scores[1])


def noise_gram(n: int, d: int, *, seed: int = 0) -> torch.Tensor:
    """F F^T, float64 [n, n], of standard Gaussian features [n, d] that are never drawn: Bartlett's
    factorisation of the Wishart law (1933).

    It is L L^T, L lower triangular with standard Gaussian entries below a diagonal of chi variables of
    d, d - 1, ... degrees of freedom. Raises ``ValueError`` unless d >= n >= 1.
    """
    if not 1 <= n <= d:
        raise ValueError(f"the Wishart law has a density for 1 <= n <= d only, got n = {n} and d = {d}")
    rng = np.random.default_rng(seed)
    factor = np.tril(rng.standard_normal((n, n)), -1)
    factor[np.diag_indices(n)] = np.sqrt(rng.chisquare(d - np.arange(n)))
    return torch.from_numpy(factor @ factor.T)


def _check(d: int, batch: int, batches: int) -> None:
    if batch < 1 or batches < 1 or d <= batch + 1:
        raise ValueError(
            f"the law holds for d > batch + 1 columns, batch and batches of at least 1; "
            f"got d = {d}, batch = {batch}, batches = {batches}"
        )
