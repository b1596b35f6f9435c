"""The printed tables of arXiv 2307.03803 and ours in the same columns, from stored results only."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from semirobust import data, runs, statistics, training
from semirobust.experiments import algorithm_1
from semirobust.experiments.algorithm_1 import Outcome, Plan
from semirobust.experiments.verdicts import verdicts

#: keys and headings of Tables 1 and 3; accuracies in per cent, dependence in bits with its shuffled control
COLUMNS = {
    "source": "source",
    "network": "network",
    "dataset": "data",
    "scale": "scale",
    "n_fb": "f_b layers",
    "attack": "attack",
    "acc_star": "Acc*",
    "acc_sr": "Acc_sr",
    "acc_tilde": "Acc~",
    "difference": "Acc~ - Acc*",
    "interval": "95 % interval",
    "trials": "trials",
    "succeeded": "succeeded",
    "epochs": "epochs",
    "rho_n": "rho_n",
    "rho_n3": "rho_n-3",
    "rho_n7": "rho_n-7",
    "rho_n11": "rho_n-11",
    "cap": "cap",
    "n": "n",
}
SHOWN = tuple(key for key in COLUMNS if key != "scale")  # see ``scales``
FORMATS = dict.fromkeys(
    ("acc_star", "acc_sr", "acc_tilde", "difference", "interval", "epochs", "cap"), ".2f"
) | {"n": ","}
READINGS = ("printed", "sound")
BACK = {"rho_n": 1, "rho_n3": 4, "rho_n7": 8, "rho_n11": 12}  # how far from the end of f_b
_PRINTED_SCALE = "120 epochs, then at most 10 of f_b on all images; T = 10; eps 8/255"
_ORDER = ("resnet18", "wideresnet34_10", "cifar10", "cifar100")  # of printed networks and data sets


def printed(table: int) -> list[dict[str, Any]]:
    """Rows of printed Table 1, 2 or 3: text and numbers, None where the paper leaves a field empty."""
    path = Path(__file__).with_name("printed") / f"table{table}.csv"
    with path.open(newline="") as file:
        return [{key: _value(text) for key, text in row.items()} for row in csv.DictReader(file)]


def _value(text: str) -> Any:
    if text == "":
        return None
    try:
        return int(text) if text.isdigit() else float(text)
    except ValueError:
        return text


def printed_rows(attacks: Sequence[str]) -> list[dict[str, Any]]:
    """Printed rows: Table 1 for AutoAttack, Table 3 for the other attacks ("none" is its "clean").

    The cap is that of the estimator on 10,000 test images, class by class: log2 of the images of a class.
    """
    rows = []
    for attack in attacks:
        table = 1 if attack == "autoattack" else 3
        wanted = {"none": "clean"}.get(attack, attack)
        for row in printed(table):
            if row.get("attack", "autoattack") == wanted:
                kept = {key: row[key] for key in COLUMNS if key in row} | {"trials": 10}
                rows.append(
                    dict.fromkeys(COLUMNS)
                    | kept
                    | {
                        "source": f"printed, Table {table}",
                        "scale": _PRINTED_SCALE,
                        "attack": attack,
                        "difference": row["diff"],
                        "cap": min(10.0, math.log2(10_000 / len(data.DATASETS[row["dataset"]][1]))),
                        "n": 10_000,
                    }
                )
    return rows


def our_rows(outcome: Outcome, attacks: Sequence[str], *, reading: str, profile: str) -> list[dict[str, Any]]:
    """The same columns from stored trials, for one reading.

    "printed": the test accuracy under the attack itself stops a trial (for AutoAttack, that under PGD). Acc~
    is the largest test accuracy, whose difference has no valid interval. rho is the smallest value of the
    successful trials, or the largest of all where none succeeds.
    "sound": the PGD accuracy on validation images stops a trial. Acc~ and rho are means over all trials, with
    the interval of the paired difference over test images. ``trials``: how many of them were measured on all
    ``n`` images (AutoAttack: perhaps the first alone); Acc~ is of these.
    """
    rows = []
    for n_fb in outcome.plan.n_fb:
        for attack in attacks:
            rows.append(_our_row(outcome, n_fb, attack, reading, profile))
    return rows


def _our_row(outcome: Outcome, n_fb: int, attack: str, reading: str, profile: str) -> dict[str, Any]:
    plan, baseline = outcome.plan, outcome.baseline.metrics
    star, start = (baseline["accuracy"][name][attack] for name in ("robust", f"semirobust_{n_fb}"))
    found = reading_of(outcome, n_fb, reading, attack)
    stopped = [
        summary_at(record.metrics, epoch, attack, reading)
        for record, epoch in zip(outcome.trials[n_fb], found.epochs, strict=True)
    ]
    stopped = [summary for summary in stopped if summary["n"] == star["n"]]  # AutoAttack: not all trials
    difference, low, high = statistics.paired_difference(
        np.array([verdicts(summary) for summary in stopped]), verdicts(star)
    )
    accuracy = float(np.mean([summary["accuracy"] for summary in stopped]))
    if reading == "printed":
        best = max(summary["accuracy"] for summary in stopped)
        accuracy = best if attack == "autoattack" else found.accuracy
        difference = accuracy - star["accuracy"]
    held_out = "" if baseline["robust_validation"]["held_out"] else " (validation images were trained on)"
    row = dict.fromkeys(COLUMNS) | {
        "source": f"ours, {profile}, {reading} reading{held_out if reading == 'sound' else ''}",
        "network": plan.pair.robust.label + (", independent" if "independent" in plan.name else ""),
        "dataset": plan.pair.robust.dataset,
        "scale": scale(plan),
        "n_fb": n_fb,
        "attack": attack,
        "acc_star": 100 * star["accuracy"],
        "acc_sr": 100 * start["accuracy"],
        "acc_tilde": 100 * accuracy,
        "difference": 100 * difference,
        "interval": [100 * low, 100 * high] if reading == "sound" else None,
        "trials": len(stopped),
        "succeeded": f"{sum(found.succeeded)} of {len(found.succeeded)}",
        "epochs": found.mean_epochs,
        "cap": outcome.trials[n_fb][0].metrics["epochs"][0]["cap_bits"][-1],
        "n": star["n"],
    }
    for key, back in BACK.items():
        if back <= len(found.rho):
            row[key] = (found.rho[-back], found.control[-back])
    return row


def scale(plan: Plan) -> str:
    """How a plan differs from the printed setting, in one line."""
    recipe, sizes, eps = plan.pair.robust.train, plan.sizes, plan.pair.attack.eps
    budget = f"{255 * eps:.0f}/255" if abs(255 * eps - round(255 * eps)) < 1e-9 else f"{eps:g}"
    effort = "" if (sizes.steps, sizes.queries) == (100, 5000) else (
        f"; AutoAttack of {sizes.steps} steps and {sizes.queries} queries"
    )  # fmt: skip
    return (
        f"{recipe.epochs} epochs, then {plan.fine_tune.epochs} of f_b on {sizes.fine_tune:,} images; "
        f"T = {plan.trials}; eps {budget}{effort}"
    )


def reading_of(
    outcome: Outcome, n_fb: int, reading: str, attack: str = "pgd", *, k: float = 0.0
) -> training.algorithm_1.Reading:
    """What one reading (see ``our_rows``) makes of all trials with f_b of ``n_fb`` layers, for one attack. A
    trial succeeds at the first epoch with Acc* - Acc <= ``k``, both in [0, 1]."""
    metrics = outcome.trials[n_fb][0].metrics
    decides = "pgd" if attack == "autoattack" else attack
    if reading == "printed":
        return training.algorithm_1.printed(
            outcome.trajectories(n_fb), metrics["acc_star"][decides], decides, k=k
        )
    if reading == "sound":
        return training.algorithm_1.sound(
            outcome.trajectories(n_fb), metrics["acc_star_validation"], decides, k=k
        )
    raise ValueError(f"unknown reading {reading!r}; known: {', '.join(READINGS)}")


def summary_at(metrics: dict[str, Any], epoch: int, attack: str, reading: str) -> dict[str, Any]:
    """The stored evaluation of a trial's network. AutoAttack was run where the reading stopped the trial."""
    if attack == "autoattack":
        return metrics["autoattack"][reading]
    return next(row["test"][attack] for row in metrics["epochs"] if row["epoch"] == epoch)


def over_seeds(
    outcomes: Sequence[Outcome], attacks: Sequence[str], *, profile: str, name: str
) -> list[dict[str, Any]]:
    """Rows of the sound reading, each the mean over pairs of networks of one kind.

    The interval is Student's over the pairs: what it covers is other seeds, not other images. ``trials`` and
    ``n`` are those of each pair. Raises ``ValueError`` for fewer than two outcomes.
    """
    if len(outcomes) < 2:
        raise ValueError(f"a mean over seeds needs two pairs of networks, not {len(outcomes)}")
    rows = [our_rows(outcome, attacks, reading="sound", profile=profile) for outcome in outcomes]
    made = []
    for group in zip(*rows, strict=True):
        mean, low, high = statistics.student_interval([row["difference"] for row in group])
        merged = dict(group[0]) | {
            "source": f"ours, {profile}, mean of {len(group)} pairs",
            "network": name,
            "difference": mean,
            "interval": [low, high],
        }
        for key in ("acc_star", "acc_sr", "acc_tilde"):
            merged[key] = float(np.mean([row[key] for row in group]))
        for key in BACK:
            if group[0][key] is not None:
                merged[key] = tuple(float(x) for x in np.mean([row[key] for row in group], axis=0))
        counts = [row["succeeded"].split(" of ") for row in group]
        merged["succeeded"] = " of ".join(str(sum(map(int, column))) for column in zip(*counts, strict=True))
        taken = [row["epochs"] for row in group if row["epochs"] is not None]
        merged["epochs"] = float(np.mean(taken)) if taken else None
        made.append(merged)
    return made


def compact(rows: Sequence[dict[str, Any]]) -> str:
    """The accuracies as a Markdown table of eight columns; a difference with its interval in brackets."""
    shown = []
    for row in rows:
        ends = row["interval"]
        bracket = "" if ends is None else f" [{ends[0]:+.1f}, {ends[1]:+.1f}]"
        shown.append(
            {
                "source": row["source"].replace(", sound reading", ""),
                "network": f"{row['network']}, {row['dataset']}",
                "n_fb": row["n_fb"],
                "acc_star": row["acc_star"],
                "acc_sr": row["acc_sr"],
                "acc_tilde": row["acc_tilde"],
                "difference": f"{row['difference']:+.1f}{bracket}",
                "n": row["n"],
            }
        )
    names = {key: COLUMNS[key] for key in ("source", "network", "n_fb", "acc_star", "acc_sr", "acc_tilde")}
    names |= {"difference": "Acc~ - Acc* [95 %]", "n": "n"}
    formats = dict.fromkeys(("acc_star", "acc_sr", "acc_tilde"), ".1f") | {"n": ","}
    return runs.markdown_table(shown, names, formats)


def side_by_side(
    profiles: Sequence[str], attacks: Sequence[str], *, readings: Sequence[str] = READINGS
) -> list[dict[str, Any]]:
    """All printed rows, with our rows below those that they reproduce (rows of other data come last).

    Our rows are those of every stored plan of the profiles. Plans that differ in the seed alone come as their
    mean over seeds where they are on digits."""
    rows = printed_rows(attacks)
    for profile in profiles:
        many: dict[str, list[Outcome]] = {}
        for plan in algorithm_1.plans(profile):
            outcome = algorithm_1.stored(plan, profile)
            if outcome is None:
                continue
            family = plan.name.rpartition("-seed")[0]
            if family.startswith("digits"):
                many.setdefault(family, []).append(outcome)
                continue
            for reading in readings:
                rows += our_rows(outcome, attacks, reading=reading, profile=profile)
        for family, outcomes in many.items():
            if len(outcomes) > 1:
                robust = outcomes[0].plan.pair.robust
                apart = ", independent" if "independent" in family else ""
                name = f"{robust.model}, width {robust.width}{apart}"
                rows += over_seeds(outcomes, attacks, profile=profile, name=name)

    def rank(name: str) -> int:
        network = name.split(",")[0].replace("wide_resnet", "wideresnet")
        return _ORDER.index(network) if network in _ORDER else len(_ORDER)

    return sorted(
        rows,
        key=lambda row: (
            attacks.index(row["attack"]),
            rank(row["dataset"]),
            rank(row["network"]),
            row["n_fb"],
        ),
    )


def scales(rows: Sequence[dict[str, Any]]) -> str:
    """The scale of each network in the rows, as a Markdown list: too long for a column."""
    found = dict.fromkeys(f"{row['network']} on {row['dataset']}: {row['scale']}" for row in rows)
    return "Scale:\n\n" + "\n".join(f"* {line}." for line in found)


def as_markdown(rows: Sequence[dict[str, Any]], keys: Sequence[str] = SHOWN) -> str:
    """The rows as a Markdown table of the columns ``keys``; dependence as "estimate (shuffled control)"."""

    def shown(value: Any, is_rho: bool) -> Any:
        if isinstance(value, tuple):
            return "{:.2f} ({:.2f})".format(*value)
        return f"{value:.2f}" if is_rho and value is not None else value

    plain = [{key: shown(row[key], key in BACK) for key in keys} for row in rows]
    formats = {key: text for key, text in FORMATS.items() if key in keys}
    return runs.markdown_table(plain, {key: COLUMNS[key] for key in keys}, formats)


def not_run(profiles: Sequence[str]) -> list[str]:
    """What the profiles plan and have not all results for yet, in words."""
    missing = []
    for profile in profiles:
        for plan in algorithm_1.plans(profile):
            outcome = algorithm_1.stored(plan, profile)
            wanted = plan.trials * len(plan.n_fb)
            if outcome is None:
                missing.append(f"{profile}: {plan.name}")
            elif not outcome.complete:
                there = sum(len(group) for group in outcome.trials.values())
                missing.append(f"{profile}: {wanted - there} of {wanted} trials of {plan.name}")
    return missing
