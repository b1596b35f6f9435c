"""The printed tables of arXiv 2307.03803 and ours in the same columns, from stored results only."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from semirobust import figures, rho
from semirobust.experiments import algorithm_1
from semirobust.experiments.algorithm_1 import Outcome

SOURCE = "arXiv 2307.03803"
#: keys and headings of Tables 1 and 3; accuracies in per cent, dependence in bits
COLUMNS = {
    "source": "source",
    "network": "network",
    "dataset": "data",
    "n_fb": "f_b layers",
    "attack": "attack",
    "acc_star": "Acc*",
    "acc_sr": "Acc_sr",
    "acc_tilde": "Acc~",
    "difference": "Acc~ - Acc*",
    "interval": "95 % interval",
    "epochs": "epochs",
    "rho_n": "rho_n",
    "rho_n3": "rho_n-3",
    "rho_n7": "rho_n-7",
    "rho_n11": "rho_n-11",
    "control_n": "shuffled rho_n",
    "cap": "cap",
    "n": "n",
}
FORMATS = dict.fromkeys(
    ("acc_star", "acc_sr", "acc_tilde", "difference", "interval", "epochs"), ".2f"
) | dict.fromkeys(("rho_n", "rho_n3", "rho_n7", "rho_n11", "control_n", "cap"), ".2f")
_BACK = {"rho_n": 1, "rho_n3": 4, "rho_n7": 8, "rho_n11": 12}  # how far from the end of f_b


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


def printed_rows(attacks: Sequence[str], network: str, dataset: str) -> list[dict[str, Any]]:
    """Printed rows of one network and data set: Table 1 for AutoAttack, Table 3 for the other attacks
    ("none" is its "clean")."""
    rows = []
    for attack in attacks:
        table = 1 if attack == "autoattack" else 3
        wanted = {"none": "clean"}.get(attack, attack)
        for row in printed(table):
            if (
                row["network"] == network
                and row["dataset"] == dataset
                and row.get("attack", "autoattack") == wanted
            ):
                kept = {key: row[key] for key in COLUMNS if key in row}
                rows.append(
                    dict.fromkeys(COLUMNS)
                    | kept
                    | {
                        "source": f"printed, Table {table}",
                        "attack": attack,
                        "difference": row["diff"],
                        "n": 10_000,
                    }
                )
    return rows


def our_rows(
    outcome: Outcome, attacks: Sequence[str], *, reading: str = "sound", profile: str = ""
) -> list[dict[str, Any]]:
    """The same columns from stored trials. ``reading``: "sound" (validation images decide) or "printed"
    (test images decide).

    Acc~ is the mean over trials for "sound" and the largest value for "printed", whose difference has no
    valid interval. PGD decides where a trial stops; the row of another attack evaluates the network of that
    same epoch.
    """
    baseline, plan = outcome.baseline.metrics, outcome.plan
    rows = []
    for n_fb in plan.n_fb:
        decided = reading_of(outcome, n_fb, reading)
        for attack in attacks:
            star, start = (baseline["accuracy"][name][attack] for name in ("robust", f"semirobust_{n_fb}"))
            at_stop = [summary_at_stop(record.metrics, reading, attack) for record in outcome.trials[n_fb]]
            values = [100 * summary["accuracy"] for summary in at_stop]
            differences = 100 * np.array([summary["difference"] for summary in at_stop])  # [trials, 3]
            best = int(np.argmax(values))
            row: dict[str, Any] = dict.fromkeys(COLUMNS) | {
                "source": f"ours, {profile}, {reading} reading",
                "network": plan.pair.robust.label,
                "dataset": plan.pair.robust.dataset,
                "n_fb": n_fb,
                "attack": attack,
                "acc_star": 100 * star["accuracy"],
                "acc_sr": 100 * start["accuracy"],
                "acc_tilde": float(np.mean(values)) if reading == "sound" else values[best],
                "difference": float(differences[:, 0].mean())
                if reading == "sound"
                else float(differences[best, 0]),
                "interval": [float(differences[:, i].mean()) for i in (1, 2)] if reading == "sound" else None,
                "epochs": decided.mean_epochs,
                "control_n": decided.control[-1],
                "cap": outcome.trials[n_fb][0].metrics["epochs"][0]["cap_bits"][-1],
                "n": star["n"],
            }
            row |= {key: decided.rho[-back] for key, back in _BACK.items() if back <= len(decided.rho)}
            rows.append(row)
    return rows


def reading_of(outcome: Outcome, n_fb: int, reading: str) -> rho.Reading:
    """The reading of all trials with f_b of ``n_fb`` layers; PGD decides."""
    metrics = outcome.trials[n_fb][0].metrics
    if reading == "printed":
        return rho.printed(outcome.trajectories(n_fb), metrics["acc_star"]["pgd"], "pgd")
    if reading == "sound":
        return rho.sound(outcome.trajectories(n_fb), metrics["acc_star_validation"], "pgd")
    raise ValueError(f"unknown reading {reading!r}; known: printed, sound")


def summary_at_stop(metrics: dict[str, Any], reading: str, attack: str) -> dict[str, Any]:
    """Summary of the network where the trial stopped."""
    if attack == "autoattack":
        return metrics["autoattack"][reading]
    stop = metrics["stops"][reading]
    return next(row["test"][attack] for row in metrics["epochs"] if row["epoch"] == stop)


def side_by_side(profiles: Sequence[str], attacks: Sequence[str]) -> list[dict[str, Any]]:
    """Printed rows of ResNet-18 on CIFAR-10, then ours from every stored plan of the profiles, in both
    readings."""
    rows = printed_rows(attacks, "resnet18", "cifar10")
    for profile in profiles:
        for plan in algorithm_1.plans(profile):
            outcome = algorithm_1.stored(plan, profile)
            if outcome is not None:
                for reading in ("printed", "sound"):
                    rows += our_rows(outcome, attacks, reading=reading, profile=profile)
    return sorted(rows, key=lambda row: (attacks.index(row["attack"]), row["n_fb"]))


def as_markdown(rows: Sequence[dict[str, Any]], keys: Sequence[str] = tuple(COLUMNS)) -> str:
    """The rows as a Markdown table of the columns ``keys``."""
    formats = {key: text for key, text in FORMATS.items() if key in keys}
    shown = [{key: row[key] for key in keys} for row in rows]
    return figures.markdown_table(shown, {key: COLUMNS[key] for key in keys}, formats)


def not_run(profiles: Sequence[str]) -> list[str]:
    """What the profiles hold that has no stored results yet, in words."""
    return [
        f"{profile}: {plan.pair.robust.label} on {plan.pair.robust.dataset}"
        for profile in profiles
        for plan in algorithm_1.plans(profile)
        if algorithm_1.stored(plan, profile) is None
    ]
