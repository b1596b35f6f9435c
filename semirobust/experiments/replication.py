"""Tests on the trials of `prediction`: which (measure, layer) predicts success, and whether that repeats.

They are permutation tests over trials with a correction for the number of scores (`semirobust.statistics`).
What the first trials find is tested on the others (`replicate`). As success depends on the learning rate, a
measure is compared with the rate itself (`rate_scores`), and tried on pairs of trials with nearly the same
rate (`at_equal_rate`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from semirobust import runs, statistics, training
from semirobust.statistics import ScoreTest, Screening


def outcomes(records: Sequence[runs.Record], k: float) -> np.ndarray:
    """Success of each trial at each epoch: bool [trials, 1 + epochs], Acc*_val - Acc_val <= k."""
    return np.array(
        [
            [
                training.algorithm_1.reaches(
                    row["validation_accuracy"], record.metrics["acc_star_validation"], k
                )
                for row in record.metrics["epochs"]
            ]
            for record in records
        ]
    )


def scores(records: Sequence[runs.Record]) -> dict[str, np.ndarray]:
    """Name, "measure, layer" -> [trials, 1 + epochs]; also the excess of EDGE over its control."""

    def trajectories(name: str, kind: str, layer: int) -> np.ndarray:
        return np.array(
            [[row["measures"][name][kind][layer] for row in r.metrics["epochs"]] for r in records]
        )

    found = {}
    for layer, (_, later) in enumerate(records[0].metrics["layers"]):
        for name in records[0].metrics["epochs"][0]["measures"]:
            found[f"{name}, {later}"] = trajectories(name, "values", layer)
        excess = trajectories("edge", "values", layer) - trajectories("edge", "controls", layer)
        found[f"edge_excess, {later}"] = excess
    return found


def read(records: Sequence[runs.Record], k: float, *, permutations: int = 40_320) -> Screening:
    """The tests of all measures on all layers; see `semirobust.statistics.screen`."""
    return statistics.screen(scores(records), outcomes(records, k), permutations=permutations)


@dataclass(frozen=True)
class Replication:
    """What the first trials find, and what holds again on the rest.

    ``first``, ``rest``: the tests of every score on either part of the trials. ``found``: the scores with a
    corrected p of at most ``level`` on the first part. ``again``: the tests of these alone on the rest,
    corrected for their own number; None where there are none. ``held``: those of them with a corrected p of
    at most ``level`` on the rest too, on the same side of 1/2.
    """

    first: Screening
    rest: Screening
    found: tuple[ScoreTest, ...]
    again: Screening | None
    held: tuple[ScoreTest, ...]
    level: float


def replicate(
    records: Sequence[runs.Record], k: float, first: int, *, level: float = 0.05, permutations: int = 40_320
) -> Replication:
    """Look for predictors in the ``first`` trials, and test what is found on the rest."""
    rest = records[first:]
    searched, other = (read(part, k, permutations=permutations) for part in (records[:first], rest))
    found = _significant(searched, level)
    if not found:
        return Replication(searched, other, (), None, (), level)
    values = scores(rest)
    chosen = {test.name: values[test.name] for test in found}
    again = statistics.screen(chosen, outcomes(rest, k), permutations=permutations)
    side = {test.name: (test.within or 0.0) > 0.5 for test in found}
    held = tuple(t for t in _significant(again, level) if ((t.within or 0.0) > 0.5) == side[t.name])
    return Replication(searched, other, found, again, held, level)


def _significant(screening: Screening, level: float) -> tuple[ScoreTest, ...]:
    return tuple(t for t in screening.tests if t.p_holm is not None and t.p_holm <= level)


# --- the learning rate ---


def rates(records: Sequence[runs.Record]) -> np.ndarray:
    """The learning rates [trials]."""
    return np.array([record.config["fine_tune"]["lr"] for record in records])


def rate_scores(records: Sequence[runs.Record], k: float, first: int) -> dict[str, np.ndarray]:
    """Scores [trials, 1 + epochs] that are known without measuring anything.

    They are the rate, and its nearness to the rates that succeeded: to the mean logarithm of those among the
    ``first`` trials at the same epoch. Where no trial has succeeded, the nearness is 0 for all."""
    logarithm, won = np.log(rates(records)), outcomes(records, k)
    near = np.zeros(won.shape)
    for epoch in range(1, won.shape[1]):
        if won[:first, epoch].any():
            near[:, epoch] = -np.abs(logarithm - logarithm[:first][won[:first, epoch]].mean())
    return {"learning rate": np.tile(logarithm[:, None], won.shape[1]), "nearness to good rates": near}


def at_equal_rate(
    records: Sequence[runs.Record], k: float, *, factor: float = 1.5
) -> tuple[int, dict[str, float]]:
    """(number of pairs, name -> AUC): what a score says beyond the rate. It describes; there is no test.

    The pairs are a success and a failure at the same epoch whose rates differ by less than ``factor``. Raises
    ``ValueError`` where there are no such pairs."""
    logarithm, won = np.log(rates(records)), outcomes(records, k)[:, 1:]
    near = np.abs(logarithm[:, None] - logarithm) < np.log(factor)
    pairs = [np.nonzero(near & won[:, e, None] & ~won[:, e]) for e in range(won.shape[1])]
    count = sum(len(wins) for wins, _ in pairs)
    if not count:
        raise ValueError(f"no success and failure have rates within a factor of {factor}; give a larger one")
    found = {}
    for name, score in scores(records).items():
        signs = [np.sign(score[i, 1 + e] - score[j, 1 + e]).sum() for e, (i, j) in enumerate(pairs)]
        found[name] = 0.5 + 0.5 * float(sum(signs)) / count
    return count, found
