"""How far f_a* may stray from f_a before f_b no longer fits behind it.

Algorithm 1 of arXiv 2307.03803 trains the robust network from the standard one. The longer that training and
the larger its rate, the further f_a* is from f_a. Here the accuracy Acc_sr of (f_a*, f_b), before any
fine-tuning, is measured against two distances: that of the weights of f_a, and that of the features at the
cut (linear CKA on clean test images; 1: the same up to rotation and scale). Robust networks trained from
their own start are the far end.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from semirobust import attacks, dependence, layers, paths, runs, training
from semirobust.experiments import networks
from semirobust.experiments.networks import Pair
from semirobust.experiments.verdicts import summary

EXPERIMENT = "lineage"


@dataclass(frozen=True)
class LineageConfig:
    """One pair of networks. ``images``: how many test images (the first ones)."""

    pair: Pair
    n_fb: tuple[int, ...]
    images: int
    seed: int = 0


_RATES, _EPOCHS = (0.005, 0.02, 0.1, 0.2), (2, 5, 10, 20)  # the plain pair of digits: 0.05 and 40 epochs
_CIFAR_RATES = (0.005, 0.02, 0.05, 0.15)


def plans(profile: str) -> list[LineageConfig]:
    """Digits: five seeds, rates and lengths of the adversarial training, and independent pairs. CIFAR-10:
    four rates on 10,000 training images, and an independent pair."""
    if paths.check_profile(profile) != "reference":
        known = networks.PAIRS[profile]
        name = "digits" if profile == "quick" else "cifar10-resnet18"
        return [LineageConfig(known[name], (4, 12), 400 if profile == "quick" else 10_000)]
    known, pairs = networks.PAIRS[profile], []
    for seed in range(5):
        plain = known[f"digits-seed{seed}"]
        pairs += [plain, known[f"digits-independent-seed{seed}"]]
        pairs += [_changed(plain, lr=rate, epochs=10) for rate in _RATES]
        pairs += [_changed(plain, epochs=epochs) for epochs in _EPOCHS]
    made = [LineageConfig(pair, (4, 8, 12), 400) for pair in pairs]
    full = known["cifar10-seed0"]
    standard = replace(full.standard, holdout=40_000)
    small = Pair(standard, replace(full.robust, holdout=40_000, start=standard))
    apart = Pair(
        standard, replace(small.robust, start=None, train=replace(standard.train, attack=full.attack))
    )
    cifar = [_changed(small, lr=rate) for rate in _CIFAR_RATES] + [apart]
    return made + [LineageConfig(pair, (4, 8, 12), 1000) for pair in cifar]


def _changed(pair: Pair, **changes: Any) -> Pair:
    """The pair with another adversarial training."""
    return replace(pair, robust=replace(pair.robust, train=replace(pair.robust.train, **changes)))


def run_pair(config: LineageConfig, *, say: runs.Say = runs.quiet) -> dict[str, Any]:
    """Accuracy of the standard and the robust network, and for each size of f_b that of (f_a*, f_b) with both
    distances of f_a* from f_a."""
    standard = networks.trained(config.pair.standard, say=say)[0]
    robust = networks.trained(config.pair.robust, say=say)[0]
    test = networks.test_images(config.pair.robust, config.images)

    def accuracy(model: nn.Module) -> dict[str, Any]:
        """Verdicts on clean images and under the attack of the robust network."""
        attack, subject = config.pair.attack, (model, test.images, test.labels)
        clean = attacks.evaluate(*subject, "none")
        attacked = attacks.evaluate(*subject, "pgd", seed=config.seed, **asdict(attack))
        return {"none": summary(clean.correct), "pgd": summary(attacked.correct)}

    rows = []
    for n_fb in config.n_fb:
        model, split = training.algorithm_1.semirobust(robust, standard.state_dict(), n_fb)
        rows.append(
            {
                "n_fb": n_fb,
                "accuracy": accuracy(model),
                "weights": weight_distance(standard, robust, split.names_a),
                "cka": feature_similarity(standard, robust, split.layers[-n_fb - 1], test.images),
            }
        )
    say(f"{config.pair.robust.label} on {config.pair.robust.dataset}: {len(rows)} sizes of f_b")
    return {"standard": accuracy(standard), "robust": accuracy(robust), "rows": rows, "n": len(test)}


def weight_distance(first: nn.Module, second: nn.Module, names: tuple[str, ...] | list[str]) -> float:
    """Distance of the trained parameters among ``names``, divided by the norm of the first's."""
    ours, theirs = (dict(model.named_parameters()) for model in (first, second))
    flat = [
        torch.cat([parameters[name].detach().double().flatten() for name in names if name in parameters])
        for parameters in (ours, theirs)
    ]
    return float((flat[1] - flat[0]).norm() / flat[0].norm())


def feature_similarity(first: nn.Module, second: nn.Module, layer: str, images: torch.Tensor) -> float:
    """Linear CKA of the outputs of a layer in two networks on the same images, in [0, 1]."""
    outputs = [
        layers.activations(model, images, [layer])[layer].flatten(1).double().numpy()
        for model in (first, second)
    ]
    return float(dependence.linear_cka()(*outputs, shuffles=1))


def run(profile: str, *, say: runs.Say = runs.quiet) -> list[runs.Record]:
    """Compute (or load) all pairs of a profile."""
    configs = dict(enumerate(plans(profile)))
    return list(runs.run_all(configs, run_pair, experiment=EXPERIMENT, profile=profile, say=say).values())


def points(profile: str = "reference") -> list[dict[str, Any]]:
    """One row for each stored pair and size of f_b: what is kept, and both distances. Computes nothing.

    ``kept``: Acc_sr / Acc*, for "none" and "pgd". ``start``: "subsequent" or "independent"."""
    rows = []
    for config in plans(profile):
        record = runs.stored(config, experiment=EXPERIMENT, profile=profile)
        if record is None:
            continue
        star = {attack: found["accuracy"] for attack, found in record.metrics["robust"].items()}
        robust = config.pair.robust
        for row in record.metrics["rows"]:
            rows.append(
                {
                    "dataset": robust.dataset,
                    "seed": robust.seed,
                    "start": "independent" if robust.start is None else "subsequent",
                    "rate": robust.train.lr,
                    "epochs": robust.train.epochs,
                    "n_fb": row["n_fb"],
                    "weights": row["weights"],
                    "cka": row["cka"],
                    "acc_star": star["pgd"],
                }
                | {
                    f"kept_{attack}": row["accuracy"][attack]["accuracy"] / star[attack]
                    if star[attack]
                    else np.nan
                    for attack in ("none", "pgd")
                }
            )
    return rows
