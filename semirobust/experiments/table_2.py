"""Table 2, the configuration of each profile and its rows: Algorithm 2 in four cells, with its controls.

The cells are {fitted on the scored images, on others} x {attack made for (f_a*, f_b*), for the readout}. A
run is one network and one attack. The *scored* images are the first n test images, the *other* images the
next n. All are attacked for (f_a*, f_b*) by the attack of the row. A readout is fitted on the attacked images
of either set and scored on the scored images, attacked in two ways. The printed table is the cell (fitted on
the scored images, attack made for the network).

Departures from the paper's text:
1. The paper does not say how large a batch of Algorithm 2 is. ``Sizes.batch`` does: a twentieth of the
   images at the reference scale, as 512 is of the printed 10,000.
2. Targets are the outputs of the network on the attacked images, as in the text. The true labels are a second
   reading, and ridge on the outputs is the best readout in the comparison.
3. An attack made for a readout skips misclassified images and stops at the first success, as everywhere
   here, so it is at least as strong. Attacks made for the network take all their steps, as in torchattacks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from semirobust import paths, runs
from semirobust.experiments import networks, tables
from semirobust.experiments.algorithm_2 import (
    READOUTS,
    ReadoutConfig,
    Sizes,
    StoppingConfig,
    run_readouts,
    run_stopping,
)
from semirobust.experiments.networks import NetworkConfig
from semirobust.experiments.verdicts import verdicts
from semirobust.statistics import paired_difference

EXPERIMENT = "table_2"
STOPPING = "table_2_stopping"
ATTACKS = ("none", "fgsm", "pgd", "autoattack")


@dataclass(frozen=True)
class Plan:
    """All runs of Table 2 on one network. ``autoattacked``: the readouts that AutoAttack is run against."""

    name: str
    network: NetworkConfig
    sizes: Sizes
    autoattacked: tuple[str, ...] = tuple(READOUTS)

    def config(self, attack: str) -> ReadoutConfig:
        readouts = self.autoattacked if attack == "autoattack" else tuple(READOUTS)
        return ReadoutConfig(self.network, attack, self.sizes, readouts)

    @property
    def stopping(self) -> tuple[StoppingConfig, ...]:
        """On as many images as the rows of AutoAttack have, and as the others have."""
        sizes = self.sizes
        counts = dict.fromkeys((sizes.autoattack, sizes.test))
        return tuple(StoppingConfig(self.network, images, sizes.batch) for images in counts)


#: pair of networks -> sizes, and the readouts that AutoAttack is run against
_SETTINGS: dict[str, tuple[Sizes, tuple[str, ...]]] = {
    "digits": (Sizes(250, 50, 25, steps=5, queries=50), ("algorithm_2",)),
    "cifar10-width64": (Sizes(2000, 500, 100, queries=1000), ("algorithm_2",)),  # hours
    "cifar10-independent": (Sizes(2000, 200, 100, queries=1000), tuple(READOUTS)),
    "cifar10-independent-seed1": (Sizes(2000, 500, 100, queries=1000), ("algorithm_2",)),
    "cifar10-resnet18": (Sizes(5000, 5000, 250), tuple(READOUTS)),
}


def plans(profile: str) -> list[Plan]:
    """The plans of a profile: its ResNet-18 on CIFAR-10 (digits in ``quick``), as in the paper."""
    return [
        Plan(name, pair.robust, *_SETTINGS[name])
        for name, pair in networks.PAIRS[paths.check_profile(profile)].items()
        if name in _SETTINGS
    ]


@dataclass(frozen=True)
class Outcome:
    """The stored records of one plan, by attack, and those of ``run_stopping``, by number of images."""

    plan: Plan
    records: Mapping[str, runs.Record]
    stopping: Mapping[int, runs.Record]

    def row(self, attack: str, n_fa: int) -> dict[str, Any]:
        """What was measured with f_a* of ``n_fa`` layers: ``features``, ``readouts`` and ``controls``."""
        return next(row for row in self.records[attack].metrics["rows"] if row["n_fa"] == n_fa)

    def star(self, attack: str, made: str = "transfer") -> dict[str, Any]:
        """(f_a*, f_b*) on the images that the readouts are scored on, or ("adaptive") under the attack that
        stops early."""
        return self.records[attack].metrics["acc_star"][made]


def run_plan(plan: Plan, profile: str, *, say: runs.Say = runs.quiet) -> Outcome:
    """Compute (or load) every attack of a plan, with a line to ``say`` for each readout."""
    attacks = {attack: plan.config(attack) for attack in ATTACKS}
    records = runs.run_all(attacks, run_readouts, experiment=EXPERIMENT, profile=profile, say=say)
    stops = {config.images: config for config in plan.stopping}
    stopping = runs.run_all(stops, run_stopping, experiment=STOPPING, profile=profile, say=say)
    return Outcome(plan, records, stopping)


def stored(plan: Plan, profile: str) -> Outcome | None:
    """The plan's records where all of them are stored; None where some are not. Computes nothing."""
    attacks = {attack: plan.config(attack) for attack in ATTACKS}
    records = runs.stored_all(attacks, experiment=EXPERIMENT, profile=profile)
    stops = {config.images: config for config in plan.stopping}
    stopping = runs.stored_all(stops, experiment=STOPPING, profile=profile)
    return Outcome(plan, records, stopping) if records and stopping else None


#: keys and headings of the table; accuracies in per cent
COLUMNS = {
    "source": "source",
    "attack": "attack",
    "n_fa": "f_a* layers",
    "acc_star": "Acc*",
    "acc_tilde": "Acc~",
    "difference": "Acc~ - Acc*",
    "interval": "95 % interval",
    "other_transfer": "fitted on others",
    "scored_adaptive": "attacked itself",
    "other_adaptive": "both",
    "star_adaptive": "Acc* attacked itself",
    "random": "random",
    "permuted": "permuted",
    "noise": "noise",
    "n": "n",
}
FORMATS = {key: ".1f" for key in COLUMNS if key not in ("source", "attack", "n_fa", "n")} | {"n": ","}


def our_rows(outcome: Outcome, readout: str, *, profile: str) -> list[dict[str, Any]]:
    """The rows of Table 2 for one of ``READOUTS``: the printed cell (Acc~), the three others, the controls.

    ``difference`` and its paired interval are those of the printed cell. ``other_adaptive``: fitted on other
    images and under an attack made for the readout, to be compared with ``star_adaptive``.
    """
    rows, seed = [], outcome.plan.network.seed
    source = f"ours, {profile}" + (f", seed {seed}" if seed else "")
    for attack, record in outcome.records.items():
        if readout not in record.config["readouts"]:
            continue
        for n_fa in record.config["n_fa"]:
            row, star = outcome.row(attack, n_fa), outcome.star(attack)
            cell, controls = row["readouts"][readout], row["controls"]
            tilde = cell["scored"]["transfer"]
            difference = paired_difference(verdicts(tilde), verdicts(star))
            shares = {
                "acc_star": star["accuracy"],
                "acc_tilde": tilde["accuracy"],
                "difference": difference[0],
                "other_transfer": cell["other"]["transfer"]["accuracy"],
                "scored_adaptive": cell["scored"]["adaptive"]["accuracy"],
                "other_adaptive": cell["other"]["adaptive"]["accuracy"],
                "star_adaptive": outcome.star(attack, "adaptive")["accuracy"],
                "random": np.mean(controls["random_weights"]),
                "permuted": np.mean(controls[_permuted(readout)]),
                "noise": np.mean(controls["noise"]),
            }
            texts = {"source": source, "attack": attack, "n_fa": n_fa, "n": tilde["n"]}
            interval = [100 * float(bound) for bound in difference[1:]]
            rows.append(
                texts | {key: 100 * float(share) for key, share in shares.items()} | {"interval": interval}
            )
    return rows


def _permuted(readout: str) -> str:
    """The control of permuted targets that belongs to a readout."""
    return "permuted_labels" if READOUTS[readout][1] == "labels" else "permuted"


def printed_rows() -> list[dict[str, Any]]:
    """The printed table in the same columns: one of the four cells, and one control."""
    return [
        dict.fromkeys(COLUMNS)
        | {key: row[key] for key in ("attack", "n_fa", "acc_star", "acc_tilde")}
        | {"source": "printed", "difference": row["diff"], "random": row["acc_rand"], "n": 10_000}
        for row in tables.printed(2)
    ]


def scale(plan: Plan) -> str:
    """How a plan differs from the printed setting, in one line."""
    sizes, eps = plan.sizes, plan.config("none").budget.eps
    budget = f"{255 * eps:.0f}/255" if abs(255 * eps - round(255 * eps)) < 1e-9 else f"{eps:g}"
    return (
        f"{plan.network.label} on {plan.network.dataset}, {plan.network.train.epochs} epochs; "
        f"{sizes.test:,} images fitted and {sizes.test:,} scored (AutoAttack {sizes.autoattack:,}), "
        f"batches of {sizes.batch}; eps {budget}; AutoAttack of {sizes.steps} steps and "
        f"{sizes.queries:,} queries"
    )


def not_run(profiles: Sequence[str]) -> list[str]:
    """What the profiles plan and have no stored results for yet, in words."""
    return [
        f"{profile}: {plan.network.label} on {plan.network.dataset}"
        for profile in profiles
        for plan in plans(profile)
        if stored(plan, profile) is None
    ]
