"""Drawings of Algorithm 1: trials, causal controls, what is kept before fine-tuning, dependence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from semirobust.experiments import algorithm_1
from semirobust.figures.style import COLORS

ATTACKS = {"none": "clean", "fgsm": "FGSM", "pgd": "PGD-10", "autoattack": "AutoAttack"}
#: (frozen f_a, start of f_b) -> label and colour
SWAPS = {
    ("robust", "standard"): ("robust $f_a^*$\n(Algorithm 1)", "ours"),
    ("robust", "random"): ("robust $f_a^*$,\nrandom $f_b$", "robust"),
    ("standard", "standard"): ("standard\n$f_a$", "clean"),
    ("random", "standard"): ("random\n$f_a$", "control"),
}


def draw_trials(axis: Axes, outcome: algorithm_1.Outcome, n_fb: int) -> None:
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
        axis.plot([place - 0.3, place + 0.3], [float(np.mean(before))] * 2, "-", color="black", lw=1.5)
    star = float(np.mean([row["acc_star"] for row in chosen]))
    axis.axhline(star, color=COLORS["robust"], ls="--")
    axis.annotate("$Acc^*$", (3.45, star), ha="right", va="bottom")
    axis.set_xticks(range(len(SWAPS)), [label for label, _ in SWAPS.values()], fontsize="small")
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


def draw_dissociation(axis: Axes, points: Sequence[Mapping[str, Any]]) -> None:
    """Mean excess of the dependence against PGD accuracy, from `experiments.controls.dependence_points`; an
    arrow is fine-tuning."""
    found = {point["network"]: (point["accuracy"], point["excess"]) for point in points}
    for network, colour in (("standard", "clean"), ("robust", "robust")):
        axis.plot(*found[network], "s", ms=7, color=COLORS[colour], label=f"{network} network")
    for (f_a, f_b), (label, colour) in SWAPS.items():
        ends = [found.get(f"{f_a} f_a, {f_b} f_b, {when}") for when in ("before", "after")]
        if ends[0] and ends[1]:
            arrow = {"arrowstyle": "->", "color": COLORS[colour], "lw": 1.5}
            axis.annotate("", ends[1], ends[0], arrowprops=arrow)
            axis.plot(*ends[0], "o", ms=5, mfc="none", color=COLORS[colour])
            axis.plot(*ends[1], "o", ms=5, color=COLORS[colour], label=label.replace("\n", " "))
    axis.set(xlabel="accuracy under PGD-10 (%)", ylabel="mean excess along $f_b$ (bits)", ylim=(0, None))
    axis.legend(fontsize="x-small")


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
            axis.plot([place - 0.35, place + 0.35], [row["acc_star"]] * 2, "-", color=COLORS["robust"], lw=2)
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


def draw_differences(
    axis: Axes, rows: Sequence[Mapping[str, Any]], shift: float, colour: str, label: str
) -> None:
    """Acc~ - Acc* of rows of a table by attack, f_b of 4 layers as circles and of 12 as squares."""
    for n_fb, marker, side in ((4, "o", -0.05), (12, "s", 0.05)):
        own = [row for row in rows if row["n_fb"] == n_fb and row["attack"] in ATTACKS]
        if not own:
            continue
        nudges = 0.012 * (np.arange(len(own)) % 4 - 1.5)
        x = np.array([list(ATTACKS).index(row["attack"]) for row in own]) + shift + side + nudges
        y = np.array([row["difference"] for row in own])
        ends = np.array([row["interval"] or [row["difference"]] * 2 for row in own])
        style: dict[str, Any] = {"fmt": marker, "ms": 4, "capsize": 2, "lw": 0.8, "color": COLORS[colour]}
        axis.errorbar(x, y, abs(ends.T - y), label=label if n_fb == 4 else None, **style)
    axis.set_xticks(range(len(ATTACKS)), list(ATTACKS.values()))


def draw_dependence(
    axes: Sequence[Axes], rows: Sequence[Mapping[str, Any]], colour: str, line: str, label: str | None
) -> None:
    """Estimate with its shuffled control (grey) on the first axis, the excess on the second, over the layers
    counted from the end (0: the output)."""
    bits, control = (np.array([row[key] for row in rows]) for key in ("bits", "control_bits"))
    place = np.arange(len(rows)) - len(rows) + 1
    axes[0].plot(place, bits, line, ms=3, color=COLORS[colour])
    axes[0].plot(place, control, line, ms=2, color="0.75", zorder=1)
    axes[1].plot(place, bits - control, line, ms=3, color=COLORS[colour], label=label)
    axes[1].axhline(0, color="black", lw=0.6)


def layers_from_end(axis: Axes, count: int) -> None:
    """Ticks for layers counted from the end, every second one."""
    places = range(1 - count, 1, 2)
    axis.set_xticks(places, [f"n-{-k}" if k else "n" for k in places])
    axis.set_xlabel("layer $j$ of the pair $(j-1, j)$; $n$ is the output")


_FOUR = {"n-11": -12, "n-7": -8, "n-3": -4, "n": -1}  # the layers that the paper prints


def draw_printed_rho(axis: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    """The printed dependence of four layers: line style the network, colour the data set, dots the caps."""
    colours = {"cifar10": "printed", "cifar100": "other"}
    for row in rows:
        values = [
            np.nan if row[name] is None else row[name] for name in ("rho_n11", "rho_n7", "rho_n3", "rho_n")
        ]
        line = "o-" if row["network"] == "resnet18" else "s--"
        label = f"{'ResNet-18' if row['network'] == 'resnet18' else 'WRN-34-10'}, {row['dataset']}"
        axis.plot(range(4), values, line, ms=4, color=COLORS[colours[row["dataset"]]], label=label)
        axis.axhline(row["cap"], color=COLORS[colours[row["dataset"]]], ls=":", lw=1)
    axis.set_xticks(range(4), list(_FOUR))
    axis.set(title="printed: estimates", ylabel="bits", ylim=(0, 10.5))
    axis.legend(fontsize="x-small")


def draw_four_layers(axis: Axes, outcome: algorithm_1.Outcome, n_fb: int, colour: str, label: str) -> None:
    """The excess of the same four layers after the last epoch: mean and range over trials."""
    values = excess(outcome.trajectories(n_fb), -1)[:, list(_FOUR.values())]
    axis.plot(range(4), values.mean(0), "o-", ms=4, color=COLORS[colour], label=label)
    axis.fill_between(range(4), values.min(0), values.max(0), color=COLORS[colour], alpha=0.2, lw=0)
    axis.set_xticks(range(4), list(_FOUR))


def draw_epochs(axis: Axes, outcome: algorithm_1.Outcome, n_fb: int) -> None:
    """The dependence of four layers over the epochs of fine-tuning, with its shuffled control (dotted)."""
    trials = outcome.trajectories(n_fb)
    epochs = [m.epoch for m in trials[0]]
    for (name, layer), colour in zip(_FOUR.items(), ("attacked", "control", "robust", "ours"), strict=True):
        for kind, line in (("dependence_bits", "o-"), ("control_bits", ":")):
            mean = np.mean([[getattr(m, kind)[layer] for m in trial] for trial in trials], axis=0)
            label = name if kind == "dependence_bits" else None
            axis.plot(epochs, mean, line, ms=3, color=COLORS[colour], label=label)
    axis.set(title="ours: estimates by epoch (CIFAR-10)", xlabel="epoch of fine-tuning $f_b$", ylim=(0, None))
    axis.legend(title="layer", fontsize="x-small", ncols=2)


def draw_seeds(axis: Axes, by_pair: Mapping[str, np.ndarray], title: str) -> None:
    """One curve for each pair of networks: mean and range over its trials, from [trials, layers]."""
    colours = ("ours", "robust", "control", "other", "clean")
    for (name, values), colour in zip(by_pair.items(), colours, strict=False):
        draw_band(axis, values, name, colour)
    axis.set_title(title)
