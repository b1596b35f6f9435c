"""Causal controls of Algorithm 1, and trials until validation stops rising.

Is it f_a* that brings the robustness back? f_b is fine-tuned in the same way behind the frozen f_a of the
standard network, behind a random one, and from random weights behind f_a*. Long trials take all training
images and stop when the validation accuracy has not risen for five epochs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from semirobust import paths, runs, statistics
from semirobust.experiments import algorithm_1, tables
from semirobust.experiments.algorithm_1 import Plan, TrialConfig
from semirobust.experiments.verdicts import verdicts

CONTROLS, LONG = "algorithm_1_controls", "algorithm_1_long"
ATTACKS = ("none", "fgsm", "pgd", "autoattack")
N_FB = (4, 12)
#: (frozen f_a, start of f_b) of the causal controls; ("robust", "standard") is the trial itself
SWAPS = (("standard", "standard"), ("random", "standard"), ("robust", "random"))
_CONTROLLED = {
    "quick": ("digits",),
    "reference": ("cifar10-seed0", *(f"digits-seed{seed}" for seed in range(5))),
    "paper": ("cifar10-resnet18",),
}
_LONG = {"quick": (), "reference": ("cifar10-seed0",), "paper": ()}
TRIALS = {"quick": 1, "reference": 3, "paper": 10}


def plans(profile: str) -> list[tuple[Plan, str, TrialConfig]]:
    """(plan, experiment, configuration) of the controls and long trials, for f_b of 4 and 12 layers."""
    paths.check_profile(profile)
    controlled = [algorithm_1.plan(profile, name) for name in _CONTROLLED[profile]]
    made = [
        (plan, CONTROLS, plan.control(n_fb, number, f_a, f_b))
        for plan in controlled
        for number in range(TRIALS[profile])
        for n_fb in N_FB
        for f_a, f_b in SWAPS
    ]
    longer = [algorithm_1.plan(profile, name) for name in _LONG[profile]]
    return made + [(plan, LONG, plan.long_trial(n_fb)) for plan in longer for n_fb in N_FB]


def run(profile: str, *, say: runs.Say = runs.quiet) -> list[runs.Record]:
    """Compute (or load) the controls and long trials of a profile; each resumes where it stopped."""
    return [
        algorithm_1.trial_with_baseline(plan, config, profile, experiment, say=say)
        for plan, experiment, config in plans(profile)
    ]


# --- reading; nothing is computed ---


def start_rows(profile: str = "reference") -> list[dict[str, Any]]:
    """Acc* and Acc_sr before any fine-tuning, in per cent: a row for each attack and size of f_b.

    Printed for ResNet-18 on CIFAR-10, and ours for every pair of ResNet-18 on CIFAR-10 whose baseline is
    stored, the independent ones too."""
    rows = [
        {"source": row["source"]} | {key: row[key] for key in ("attack", "n_fb", "acc_star", "acc_sr", "n")}
        for row in tables.printed_rows(ATTACKS)
        if (row["network"], row["dataset"]) == ("resnet18", "cifar10")
    ]
    for plan in algorithm_1.plans(profile):
        record = runs.stored(plan.baseline, experiment=algorithm_1.BASELINES, profile=profile)
        if record is None or (plan.pair.robust.model, plan.pair.robust.dataset) != ("resnet18", "cifar10"):
            continue
        accuracy = record.metrics["accuracy"]
        rows += [
            {
                "source": f"ours, {plan.name}",
                "attack": attack,
                "n_fb": n_fb,
                "acc_star": 100 * accuracy["robust"][attack]["accuracy"],
                "acc_sr": 100 * accuracy[f"semirobust_{n_fb}"][attack]["accuracy"],
                "n": accuracy["robust"][attack]["n"],
            }
            for attack in ATTACKS
            for n_fb in plan.n_fb
        ]
    kept = [row | {"kept": row["acc_sr"] / row["acc_star"]} for row in rows]
    return sorted(kept, key=lambda row: (row["n_fb"], ATTACKS.index(row["attack"])))


def control_rows(profile: str = "reference") -> list[dict[str, Any]]:
    """PGD accuracy in per cent before and after fine-tuning, by the frozen f_a and the start of f_b.

    Each is the mean over the stored trials of one pair of networks, with their range."""
    rows = []
    for name in _CONTROLLED[profile]:
        plan = algorithm_1.plan(profile, name)
        for n_fb in N_FB:
            for f_a, f_b in (("robust", "standard"), *SWAPS):
                found = _stored(plan, n_fb, f_a, f_b, profile)
                if found:
                    rows.append(_row(plan, found) | {"n_fb": n_fb, "f_a": f_a, "f_b": f_b})
    return rows


def dependence_points(n_fb: int, profile: str = "reference") -> list[dict[str, Any]]:
    """PGD accuracy in per cent beside the mean excess of the dependence along f_b, in bits, of every network
    of Algorithm 1 and its controls: one row each, the mean over trials at both ends of fine-tuning."""
    points = []
    for name in _CONTROLLED[profile]:
        plan = algorithm_1.plan(profile, name)
        outcome = algorithm_1.stored(plan, profile)
        if outcome is None:
            continue
        for network, layers in outcome.baseline.metrics["dependence"].items():
            found = [row["bits"] - row["control_bits"] for row in layers[-n_fb:]]
            accuracy = 100 * outcome.baseline.metrics["accuracy"][network]["pgd"]["accuracy"]
            points.append({"network": network, "accuracy": accuracy, "excess": float(np.mean(found))})
        for f_a, f_b in (("robust", "standard"), *SWAPS):
            for epoch, when in ((0, "before"), (-1, "after")):
                rows = [record.metrics["epochs"][epoch] for record in _stored(plan, n_fb, f_a, f_b, profile)]
                if rows:
                    found = [np.subtract(row["dependence_bits"], row["control_bits"]).mean() for row in rows]
                    accuracy = 100 * float(np.mean([row["test_accuracy"]["pgd"] for row in rows]))
                    kind = f"{f_a} f_a, {f_b} f_b, {when}"
                    points.append({"network": kind, "accuracy": accuracy, "excess": float(np.mean(found))})
        points = [point | {"pair": point.get("pair", name)} for point in points]
    return points


def long_rows(attacks: Sequence[str], profile: str = "reference") -> list[dict[str, Any]]:
    """Rows of the tables for the stored long trials, at the epoch with the best validation accuracy."""
    rows = []
    for name in _LONG[profile]:
        plan = algorithm_1.plan(profile, name)
        for n_fb in N_FB:
            record = runs.stored(plan.long_trial(n_fb), experiment=LONG, profile=profile)
            outcome = algorithm_1.stored(plan, profile)
            if record is None or outcome is None:
                continue
            short = tables.our_rows(outcome, attacks, reading="sound", profile=profile)
            best = record.metrics["stops"]["best"]
            for row in (row for row in short if row["n_fb"] == n_fb):
                found = tables.summary_at(record.metrics, best, row["attack"], "best")
                star = outcome.baseline.metrics["accuracy"]["robust"][row["attack"]]
                ours, theirs = verdicts(found), verdicts(star)
                ends = [100 * value for value in statistics.paired_difference(ours, theirs)]
                rows.append(
                    row
                    | {
                        "source": f"ours, {profile}, until validation stops ({best} epochs, all images)",
                        "acc_tilde": 100 * found["accuracy"],
                        "difference": ends[0],
                        "interval": ends[1:],
                        "trials": 1,
                        "epochs": best,
                    }
                    | _dependence(record, best)
                )
    return rows


def _dependence(record: runs.Record, epoch: int) -> dict[str, tuple[float, float]]:
    """The columns of rho: (estimate, shuffled control) in bits."""
    row = record.metrics["epochs"][epoch]
    pairs = list(zip(row["dependence_bits"], row["control_bits"], strict=True))
    return {key: pairs[-back] for key, back in tables.BACK.items() if back <= len(pairs)}


def _row(plan: Plan, found: list[runs.Record]) -> dict[str, Any]:
    first, last = (
        np.array([100 * record.metrics["epochs"][at]["test_accuracy"]["pgd"] for record in found])
        for at in (0, -1)
    )
    return {
        "pair": plan.name,
        "trials": len(found),
        "before": float(first.mean()),
        "after": float(last.mean()),
        "range": [float(last.min()), float(last.max())],
        "acc_star": 100 * found[0].metrics["acc_star"]["pgd"],
        "n": plan.sizes.test,
    }


def _stored(plan: Plan, n_fb: int, f_a: str, f_b: str, profile: str) -> list[runs.Record]:
    """The stored trials of one combination of frozen f_a and start of f_b."""
    as_printed = (f_a, f_b) == ("robust", "standard")
    experiment = algorithm_1.EXPERIMENT if as_printed else CONTROLS
    numbers = range(min(plan.trials, TRIALS[profile]))
    made = [
        plan.trial(n_fb, number) if as_printed else plan.control(n_fb, number, f_a, f_b) for number in numbers
    ]
    found = (runs.stored(config, experiment=experiment, profile=profile) for config in made)
    return [record for record in found if record is not None]
