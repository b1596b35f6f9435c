"""Algorithm 1 by the paper's protocol: the adversarial training starts from the trained standard network.

`algorithm_1` measures independent pairs: two networks trained apart from one initialisation, so f_b was never
trained behind anything like f_a*. The first line of Algorithm 1 of arXiv 2307.03803 asks for *subsequent*
regular and adversarial training, and the authors' scripts do so. Here the second training has a small rate,
so that its network stays related to the first: 0.02 at its peak against 0.15. Fine-tuning takes a tenth of
it, as in the paper (0.01 and 0.001).

The causal controls ask whether it is f_a* that brings the robustness back. f_b is fine-tuned in the same way
behind the frozen f_a of the standard network, behind a random one, and from random weights behind f_a*.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from semirobust import paths, runs, training
from semirobust.experiments import algorithm_1, networks, tables
from semirobust.experiments.algorithm_1 import Plan, Sizes
from semirobust.experiments.networks import Pair

CONTROLS, LONG = "algorithm_1_controls", "algorithm_1_long"
ATTACKS = ("none", "fgsm", "pgd", "autoattack")
#: (frozen f_a, start of f_b) of the causal controls; ("robust", "standard") is the trial itself
SWAPS = (("standard", "standard"), ("random", "standard"), ("robust", "random"))
#: profile -> sizes, images under AutoAttack after the first trial of each size, epochs of fine-tuning, batch
_SETTINGS = {
    "quick": (Sizes(1000, 200, 400, 100, steps=20, queries=300), 0, 4, 128),
    "reference": (Sizes(10_000, 2000, 2000, 1000, queries=1000), 200, 6, 128),
    "paper": (Sizes(50_000, 5000, 10_000, 10_000), None, 10, 512),
}


def plans(profile: str) -> list[Plan]:
    """Three trials (ten in the printed setting) for f_b of 4, 8 and 12 layers behind each robust network."""
    sizes, fewer, epochs, batch = _SETTINGS[paths.check_profile(profile)]
    trials = 10 if profile == "paper" else 3
    return [
        Plan(name, pair, (4, 8, 12), trials, sizes, _fine_tune(pair, epochs, batch), fewer)
        for name, pair in networks.SUBSEQUENT[profile].items()
    ]


def _fine_tune(pair: Pair, epochs: int, batch_size: int) -> training.TrainConfig:
    lr = pair.robust.train.lr / 10
    return algorithm_1.fine_tuning(pair, epochs=epochs, lr=lr, batch_size=batch_size)


def controls(plan: Plan) -> list[algorithm_1.TrialConfig]:
    """The causal controls of a plan, for f_b of 4 and 12 layers and every trial."""
    return [
        plan.control(n_fb, number, f_a, f_b)
        for number in range(plan.trials)
        for n_fb in (4, 12)
        for f_a, f_b in SWAPS
    ]


def run(profile: str, *, say: Callable[[str], None] = lambda line: None) -> None:
    """Compute (or load) the trials, controls and long trials of a profile; each resumes where it stopped."""
    for plan in plans(profile):
        outcome = algorithm_1.run_plan(plan, profile, say=say)
        wanted = [(CONTROLS, config) for config in controls(plan)]
        wanted += [(LONG, plan.long_trial(n_fb)) for n_fb in (4, 12)]
        for experiment, config in wanted:
            metrics = outcome.baseline.metrics
            algorithm_1.trial_record(config, metrics, profile, experiment=experiment, say=say)


def start_rows() -> list[dict[str, Any]]:
    """Acc* and Acc_sr before any fine-tuning, in per cent: a row for each attack and size of f_b.

    Printed for ResNet-18 on CIFAR-10, ours by the paper's protocol, and ours for the independent pair.
    Computes nothing; a pair whose baseline is not stored is left out."""
    sources = [(f"ours, {plan.name}", plan) for plan in plans("reference")]
    apart = next(plan for plan in algorithm_1.plans("reference") if plan.name == "cifar10-width16")
    sources.append(("ours, independent pair", apart))
    rows = [
        {"source": row["source"]} | {key: row[key] for key in ("attack", "n_fb", "acc_star", "acc_sr", "n")}
        for row in tables.printed_rows(ATTACKS)
        if (row["network"], row["dataset"]) == ("resnet18", "cifar10")
    ]
    for source, plan in sources:
        record = runs.stored(plan.baseline, experiment=algorithm_1.BASELINES, profile="reference")
        if record is None:
            continue
        for attack in ATTACKS:
            accuracy = {name: found[attack] for name, found in record.metrics["accuracy"].items()}
            rows += [
                {
                    "source": source,
                    "attack": attack,
                    "n_fb": n_fb,
                    "acc_star": 100 * accuracy["robust"]["accuracy"],
                    "acc_sr": 100 * accuracy[f"semirobust_{n_fb}"]["accuracy"],
                    "n": accuracy["robust"]["n"],
                }
                for n_fb in plan.n_fb
            ]
    kept = [row | {"kept": row["acc_sr"] / row["acc_star"]} for row in rows]
    return sorted(kept, key=lambda row: (row["n_fb"], ATTACKS.index(row["attack"])))


def control_rows(profile: str = "reference") -> list[dict[str, Any]]:
    """PGD accuracy in per cent before and after fine-tuning, by the frozen f_a and the start of f_b.

    Each is the mean over the stored trials, with their range. Computes nothing."""
    rows = []
    for plan in plans(profile):
        for n_fb in (4, 12):
            for f_a, f_b in (("robust", "standard"), *SWAPS):
                found = _stored(plan, n_fb, f_a, f_b, profile)
                if not found:
                    continue
                first, last = (
                    np.array([100 * record.metrics["epochs"][at]["test_accuracy"]["pgd"] for record in found])
                    for at in (0, -1)
                )
                rows.append(
                    {
                        "pair": plan.name,
                        "n_fb": n_fb,
                        "f_a": f_a,
                        "f_b": f_b,
                        "trials": len(found),
                        "before": float(first.mean()),
                        "after": float(last.mean()),
                        "range": [float(last.min()), float(last.max())],
                        "acc_star": 100 * found[0].metrics["acc_star"]["pgd"],
                        "n": plan.sizes.test,
                    }
                )
    return rows


def _stored(plan: Plan, n_fb: int, f_a: str, f_b: str, profile: str) -> list[runs.Record]:
    """The stored trials of one combination of frozen f_a and start of f_b."""
    if (f_a, f_b) == ("robust", "standard"):
        configs, experiment = (
            [plan.trial(n_fb, number) for number in range(plan.trials)],
            algorithm_1.EXPERIMENT,
        )
    else:
        configs = [plan.control(n_fb, number, f_a, f_b) for number in range(plan.trials)]
        experiment = CONTROLS
    found = (runs.stored(config, experiment=experiment, profile=profile) for config in configs)
    return [record for record in found if record is not None]
