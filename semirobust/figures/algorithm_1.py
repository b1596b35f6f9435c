"""Drawings of Algorithm 1: trials, causal controls, what is kept before fine-tuning, dependence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from semirobust.experiments.algorithm_1 import Outcome
from semirobust.figures.style import COLORS

ATTACKS = {"none": "clean", "fgsm": "FGSM", "pgd": "PGD-10", "autoattack": "AutoAttack"}
#: (frozen f_a, start of f_b) -> label and colour
SWAPS = {
    ("robust", "standard"): ("Algorithm 1: robust $f_a^*$", "ours"),
    ("robust", "random"): ("robust $f_a^*$, random $f_b$", "robust"),
    ("standard", "standard"): ("standard $f_a$", "clean"),
    ("random", "standard"): ("random $f_a$", "control"),
}


def draw_trials(axis: Axes, outcome: Outcome, n_fb: int) -> None:
    """PGD accuracy over the epochs of each trial, between (f_a*, f_b) and the line of (f_a*, f_b*)."""
    for number, trial in enumerate(outcome.trajectories(n_fb)):
        pgd = [100 * m.test_accuracy["pgd"] for m in trial]
        label = "one trial each" if number == 0 else None
        axis.plot([m.epoch for m in trial], pgd, "o-", ms=3, color=COLORS["ours"], label=label)
    summary = outcome.baseline.metrics["accuracy"]["robust"]["pgd"]
    low, high = (100 * bound for bound in summary["interval"])
    axis.axhspan(low, high, color=COLORS["robust"], alpha=0.15, lw=0)
    axis.axhline(100 * summary["accuracy"], color=COLORS["robust"], label="$Acc^*$, 95 % interval")
    axis.set(title=f"$f_b$ of {n_fb} layers", xlabel="epoch of fine-tuning $f_b$", ylim=(0, None))


def draw_controls(axis: Axes, rows: Sequence[Mapping[str, Any]], n_fb: int) -> None:
    """PGD accuracy after fine-tuning (bars, mean over pairs; a dot for each pair) behind different f_a; the
    tick is the accuracy before it."""
    chosen = [row for row in rows if row["n_fb"] == n_fb]
    for place, (key, (_, colour)) in enumerate(SWAPS.items()):
        own = [row for row in chosen if (row["f_a"], row["f_b"]) == key]
        if not own:
            continue
        after, before = ([row[when] for row in own] for when in ("after", "before"))
        axis.bar(place, float(np.mean(after)), 0.6, color=COLORS[colour], alpha=0.75)
        spots = place + 0.06 * (np.arange(len(own)) - (len(own) - 1) / 2)
        axis.plot(spots, after, "o", ms=3, color="black")
        axis.plot([place - 0.3, place + 0.3], [float(np.mean(before))] * 2, color="black", lw=1.5)
    star = float(np.mean([row["acc_star"] for row in chosen]))
    axis.axhline(star, color=COLORS["robust"], ls="--")
    axis.annotate("$Acc^*$", (3.45, star), ha="right", va="bottom")
    axis.set_xticks(range(len(SWAPS)), [label for label, _ in SWAPS.values()], rotation=20, ha="right")
    axis.set(title=f"$f_b$ of {n_fb} layers", ylim=(0, 1.25 * star), xlim=(-0.5, 3.5))


def draw_kept(axis: Axes, rows: Sequence[Mapping[str, Any]], n_fb: int) -> None:
    """Acc_sr / Acc* by attack, from the rows of `experiments.controls.start_rows`."""
    kinds = {
        "printed": ("printed", "printed", "s", -0.18),
        "ours": ("ours", "ours, trained from the standard network", "o", 0.0),
        "independent": ("attacked", "ours, independent pairs", "x", 0.18),
    }
    seen = set()
    for row in (row for row in rows if row["n_fb"] == n_fb):
        apart = "independent" in row["source"]
        kind = "printed" if row["source"].startswith("printed") else "independent" if apart else "ours"
        colour, label, marker, shift = kinds[kind]
        x = list(ATTACKS).index(row["attack"]) + shift
        axis.plot(x, row["kept"], marker, ms=5, color=COLORS[colour], label=None if kind in seen else label)
        seen.add(kind)
    axis.set_xticks(range(len(ATTACKS)), list(ATTACKS.values()))
    axis.set(title=f"$f_b$ of {n_fb} layers", ylim=(0, 1.05), ylabel="$Acc_{sr} / Acc^*$")


def excess(trials: Sequence[Any], epoch: int) -> np.ndarray:
    """Dependence less that of shuffled pairs at one epoch, in bits: [trials, layers]."""
    return np.array(
        [np.subtract(trial[epoch].dependence_bits, trial[epoch].control_bits) for trial in trials]
    )


def draw_band(axis: Axes, values: np.ndarray, label: str | None, colour: str, style: str = "o-") -> None:
    """Mean and range of ``values`` [runs, layers] over the layers, the output last."""
    place = np.arange(values.shape[1])
    axis.plot(place, values.mean(0), style, ms=4, color=COLORS[colour], label=label)
    axis.fill_between(place, values.min(0), values.max(0), color=COLORS[colour], alpha=0.2, lw=0)
    layer_ticks(axis, values.shape[1])


def layer_ticks(axis: Axes, count: int) -> None:
    """Ticks n-11, ..., n for the later layers of ``count`` pairs."""
    axis.set_xticks(range(count), [f"n-{k}" if k else "n" for k in range(count - 1, -1, -1)])
    axis.set_xlabel("layer $j$ of the pair $(j-1, j)$; $n$ is the output")


def draw_lineage(axis: Axes, points: Iterable[Mapping[str, Any]], distance: str, n_fb: int) -> None:
    """Acc_sr / Acc* under PGD against a distance of f_a* from f_a ("weights" or "cka")."""
    kinds = {
        ("digits", "subsequent"): ("digits", "ours", "o"),
        ("digits", "independent"): ("digits, independent", "attacked", "x"),
        ("cifar10", "subsequent"): ("CIFAR-10", "robust", "s"),
        ("cifar10", "independent"): ("CIFAR-10, independent", "other", "P"),
    }
    chosen = [point for point in points if point["n_fb"] == n_fb]
    for key, (label, colour, marker) in kinds.items():
        own = [point for point in chosen if (point["dataset"], point["start"]) == key]
        x, y = ([point[name] for point in own] for name in (distance, "kept_pgd"))
        if own:
            axis.plot(x, y, marker, ms=4, color=COLORS[colour], label=label, alpha=0.8)
    names = {"weights": "distance of the weights of $f_a$, relative", "cka": "CKA of the features at the cut"}
    axis.set(xlabel=names[distance], ylabel="$Acc_{sr} / Acc^*$ under PGD", title=f"$f_b$ of {n_fb} layers")
    axis.set_ylim(0, None)


def draw_rows(axis: Axes, groups: Sequence[tuple[str, Sequence[Mapping[str, Any]]]]) -> None:
    """Acc* (line), Acc_sr (open) and Acc~ (filled) of the rows of a table, in groups side by side."""
    place, ticks, labels = 0.0, [], []
    for title, rows in groups:
        for row in rows:
            colour = COLORS["printed" if row["source"].startswith("printed") else "ours"]
            axis.plot([place - 0.35, place + 0.35], [row["acc_star"]] * 2, color=COLORS["robust"], lw=2)
            axis.plot(place, row["acc_sr"], "o", ms=5, mfc="none", color=colour)
            axis.plot(place, row["acc_tilde"], "o", ms=5, color=colour)
            axis.annotate(
                "", (place, row["acc_tilde"]), (place, row["acc_sr"]),
                arrowprops={"arrowstyle": "->", "color": colour, "shrinkA": 3, "shrinkB": 3},
            )  # fmt: skip
            ticks.append(place)
            labels.append(str(row["n_fb"]))
            place += 1
        axis.annotate(title, (place - 0.5 - len(rows) / 2, 1.01), xycoords=("data", "axes fraction"),
                      ha="center", va="bottom", fontsize="small")  # fmt: skip
        place += 0.8
    axis.set_xticks(ticks, labels)
    axis.set(xlabel="layers of $f_b$", ylabel="accuracy (%)", ylim=(0, None))
