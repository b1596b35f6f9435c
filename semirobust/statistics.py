"""Confidence intervals, sign tests, AUC, and the screening of many scores for one that predicts success.

The screening (`screen`) asks which of many scores tells trials that succeed from trials that fail. A score
and an outcome are known for each trial at each epoch. Both drift while a network is trained, so pooling
epochs lets any drift "predict" success. Only trials at the *same* epoch are compared here (the ``within``
AUC). If a score has nothing to do with success, the outcomes of the trials (their whole trajectories) could
be exchanged in any order. The p-value comes from this permutation test, and is exact if all orders are taken.
Among many scores some look good by chance, so the p-values are corrected by Holm's step-down method.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import t as student

Bools = npt.NDArray[np.bool_]
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ScoreTest:
    """The test of one score. ``pooled``, ``within``: AUCs in [0, 1]; 1/2 is chance, below 1/2 successes score
    lower; None where there are no pairs to compare. ``null``: the middle 95 % of ``within`` over all orders
    of trials. ``p_value``: of ``within``, two-sided; ``p_holm``: corrected for all scores tested."""

    name: str
    pooled: float | None
    within: float | None
    null: tuple[float, float] | None
    p_value: float | None
    p_holm: float | None


@dataclass(frozen=True)
class Screening:
    """All tests of one set of trials, and the smallest p-value they could have reached.

    ``successes``, ``failures``: of the epochs after the start. ``pairs``: (success, failure) pairs of trials
    at the same epoch; ``within`` averages over them. ``orders``: number of permutations taken; ``exact``:
    they are all. ``smallest_p``: the smallest p-value that any score could have had, because so many orders
    leave the outcomes as they are; times the number of tests it bounds the corrected one.
    """

    tests: tuple[ScoreTest, ...]
    successes: int
    failures: int
    pairs: int
    orders: int
    exact: bool
    smallest_p: float

    @property
    def smallest_holm(self) -> float:
        """The smallest corrected p-value possible: above 0.05, nothing could have been significant."""
        return min(1.0, len(self.tests) * self.smallest_p)


def screen(
    scores: Mapping[str, npt.ArrayLike],
    success: npt.ArrayLike,
    *,
    permutations: int = 40_320,
    seed: int = 0,
) -> Screening:
    """Test every score against the outcomes of T trials at the start and at E epochs after it.

    Args:
        scores: name -> [T, 1 + E]; column 0 is the start, which all trials share: it counts once in
            ``pooled`` and not at all in ``within``.
        success: bool [T, 1 + E].
        permutations: all T! orders are taken if there are at most this many, else this many: the identity
            and random ones drawn from ``seed``.

    Raises ``ValueError`` for fewer than 2 trials, no epoch, scores of another shape or not finite, no scores.
    """
    won = np.asarray(success, dtype=bool)
    if won.ndim != 2 or won.shape[0] < 2 or won.shape[1] < 2:
        raise ValueError(f"success has shape {won.shape}; expected [trials >= 2, 1 + epochs >= 2]")
    if not scores:
        raise ValueError("there are no scores to test")
    values = {name: np.asarray(score, dtype=np.float64) for name, score in scores.items()}
    for name, score in values.items():
        if score.shape != won.shape or not np.isfinite(score).all():
            raise ValueError(
                f"the score {name!r} has shape {score.shape}; expected finite values, {won.shape}"
            )
    orders, exact = _orders(len(won), permutations, seed)
    later = won[:, 1:]
    outcomes = later[orders].astype(np.float64)  # [P, T, E]
    pairs = int((later.sum(0) * (~later).sum(0)).sum())
    raw = [_test(name, score, won, outcomes, pairs) for name, score in values.items()]
    corrected = holm([p for *_, p in raw])
    same = math.prod(math.factorial(count) for count in Counter(map(bytes, later)).values())
    return Screening(
        tuple(ScoreTest(*row, p_holm) for row, p_holm in zip(raw, corrected, strict=True)),
        int(later.sum()),
        int((~later).sum()),
        pairs,
        len(orders),
        exact,
        max(same / math.factorial(len(won)), 1 / len(orders)) if pairs else 1.0,
    )


def _orders(trials: int, permutations: int, seed: int) -> tuple[npt.NDArray[np.int64], bool]:
    """Orders of the trials [P, T], the identity first; whether they are all."""
    if math.factorial(trials) <= permutations:
        return np.array(list(itertools.permutations(range(trials)))), True
    rng = np.random.default_rng(seed)
    drawn = rng.permuted(np.tile(np.arange(trials), (permutations - 1, 1)), axis=1)
    return np.vstack([np.arange(trials), drawn]), False


def _test(
    name: str, score: Array, won: Bools, outcomes: Array, pairs: int
) -> tuple[str, float | None, float | None, tuple[float, float] | None, float | None]:
    """(name, pooled, within, null, p-value) of a score [T, 1 + E]; outcomes [P, T, E], the observed first."""
    joined = np.concatenate([score[:1, 0], score[:, 1:].ravel()])
    outcome = np.concatenate([won[:1, 0], won[:, 1:].ravel()])
    pooled = auc(joined, outcome) if 0 < outcome.sum() < len(outcome) else None
    if not pairs:
        return name, pooled, None, None, None
    total = np.zeros(len(outcomes))
    for epoch in range(outcomes.shape[2]):
        column, wins = score[:, 1 + epoch], outcomes[:, :, epoch]  # [T], [P, T]
        above = (np.sign(column[:, None] - column[None, :]) + 1) / 2  # [T, T]: a success i above a failure j
        total += ((wins @ above) * (1 - wins)).sum(axis=1)
    within = total / pairs  # [P]
    extreme = np.abs(within - 0.5) >= abs(within[0] - 0.5) - 1e-12
    low, high = np.quantile(within, [0.025, 0.975]).tolist()
    return name, pooled, float(within[0]), (low, high), float(extreme.mean())


def holm(p_values: list[float | None]) -> list[float | None]:
    """Holm's step-down correction over all tests that have a p-value; None stays None."""
    known = [index for index, p in enumerate(p_values) if p is not None]
    ranked = sorted(known, key=lambda index: p_values[index])  # type: ignore[arg-type, return-value]
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(ranked):
        p = p_values[index]
        assert p is not None
        largest = max(largest, min(1.0, (len(known) - rank) * p))
        corrected[index] = largest
    return corrected


def wilson(k: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson score interval of a proportion, k of n (Wilson 1927); ``z`` = 1.96 gives 95 %.

    Raises ``ValueError`` unless 0 <= k <= n and n >= 1.
    """
    if n < 1 or not 0 <= k <= n:
        raise ValueError(f"a proportion needs 0 <= k <= n and n >= 1, got k={k}, n={n}")
    share = k / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, min(share, centre - half)), min(
        1.0, max(share, centre + half)
    )  # rounding, at k = 0 and k = n


def sign_test(a: int, b: int) -> float:
    """Probability of at least ``a`` heads in a + b tosses of a fair coin; 1 without a toss."""
    from scipy.stats import binomtest  # takes a moment to import

    return float(binomtest(a, a + b, alternative="greater").pvalue) if a + b else 1.0


def mean_interval(values: torch.Tensor, *, low: float = -1.0, high: float = 1.0) -> tuple[float, float]:
    """Normal 95 % interval of the mean of values in [low, high]: float [n] -> (lower, upper).

    One image at each end of the range is added, so that the interval has a positive length even if all values
    agree. The mean itself is always inside.
    """
    padded = torch.cat([values.double(), torch.tensor([low, high], dtype=torch.float64)])
    centre, mean = float(padded.mean()), float(values.double().mean())
    half = 1.96 * float(padded.std(correction=0)) / math.sqrt(len(padded))
    return max(low, min(mean, centre - half)), min(high, max(mean, centre + half))


def student_interval(values: npt.ArrayLike) -> tuple[float, float, float]:
    """Mean of independent runs with Student's 95 % interval: float [n], n at least 2 -> (mean, low, high).

    Raises ``ValueError`` for fewer than two values, or values that are not finite.
    """
    runs = np.asarray(values, dtype=float)
    if runs.ndim != 1 or len(runs) < 2 or not np.isfinite(runs).all():
        raise ValueError(f"an interval over runs needs at least two finite values, got {runs.tolist()}")
    half = float(student.ppf(0.975, len(runs) - 1) * runs.std(ddof=1) / np.sqrt(len(runs)))
    return float(runs.mean()), float(runs.mean()) - half, float(runs.mean()) + half


def auc(scores: np.ndarray, success: np.ndarray) -> float:
    """Probability that a success scores above a failure, ties counted half (Mann-Whitney); both must
    occur."""
    from scipy.stats import rankdata

    success = np.asarray(success, dtype=bool)
    positives, negatives = int(success.sum()), int((~success).sum())
    if positives == 0 or negatives == 0:
        raise ValueError(f"an AUC needs successes and failures; there are {positives} and {negatives}")
    ranks = rankdata(scores)
    return float((ranks[success].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def paired_difference(ours: npt.ArrayLike, theirs: npt.ArrayLike) -> tuple[float, float, float]:
    """Difference of two accuracies on the same images with its 95 % interval: (difference, low, high) in
    [-1, 1].

    ``ours`` bool [N], or [T, N] for the mean over T trials; ``theirs`` bool [N]. The interval covers the
    sampling of images, not of trials. It is that of Bonett and Price (2012), which adds one image to each
    kind of discordance and so has a positive length even if the two never differ. Raises ``ValueError`` for
    other shapes or no image.
    """
    ours, theirs = np.atleast_2d(np.asarray(ours, dtype=float)), np.asarray(theirs, dtype=float)
    if theirs.ndim != 1 or ours.ndim != 2 or ours.shape[1] != len(theirs) or ours.size == 0:
        raise ValueError(f"verdicts on the same images are needed, not {ours.shape} and {theirs.shape}")
    difference = ours.mean(0) - theirs  # [N]
    adjusted = np.concatenate([difference, [1.0, -1.0]])
    half = 1.96 * float(adjusted.std()) / np.sqrt(len(adjusted))
    centre = float(adjusted.mean())
    return float(difference.mean()), max(-1.0, centre - half), min(1.0, centre + half)
