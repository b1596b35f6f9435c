"""A test of whether any measure of dependence predicts that fine-tuning f_b succeeds.

Algorithm 1 of arXiv 2307.03803 records one dependence after success. Here trials that succeed and trials that
fail are logged alike. At every epoch, every measure of `semirobust.dependence` is taken on every layer of
f_b, on PGD-attacked test images, beside its shuffled control. It is also logged whether the *validation*
accuracy is within k of the robust network's. `replication` asks which (measure, layer) tells successes and
failures apart.

The trials differ in their learning rate, drawn log-uniformly, and in the order of the images. Rates that are
too small or too large fail. As each trial draws its own, trials can be exchanged, which is what the
permutation test needs. But a measure may "predict" only because both it and success depend on the rate. Then
it is still a predictor, but no cause.

A finding needs new trials to confirm it. So the trials of a plan come in two parts: predictors are searched
in the ``first`` trials, and only those found are tested on the rest.

How the plans on digits came about: k was fixed before any trial was measured. The range of rates and the
number of images were changed after a first run. The epochs were later cut from three to two to save time. In
sets of 8 trials, nothing that one set found was significant in another, and sets of 16 mostly found other
scores each time. So 48 trials were searched together. Trials 48 to 79, which test what those find, were
measured only after that was decided.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn

from semirobust import attacks, dependence, layers, paths, runs, training
from semirobust.data import Images
from semirobust.dependence import Dependence, Measure
from semirobust.experiments import networks
from semirobust.experiments.networks import Pair
from semirobust.training import PGD, TrainConfig

EXPERIMENT = "prediction"
#: measured between consecutive layers, within each class, and averaged
WITHIN = ("edge", "ksg", "linear_cka", "hsic", "correlation")


@dataclass(frozen=True)
class TrialConfig:
    """One trial; ``fine_tune.lr`` and ``fine_tune.seed`` are its own."""

    pair: Pair
    n_fb: int
    images: int
    validation: int
    test: int
    fine_tune: TrainConfig
    shuffles: int = 2


@dataclass(frozen=True)
class Plan:
    """``trials`` trials with rates drawn log-uniformly in ``rates``.

    The ``first`` of them are searched for predictors, the others test what is found. ``k`` is the margin of
    success, chosen before any trial was measured."""

    name: str
    pair: Pair
    n_fb: int
    trials: int
    first: int
    k: float
    rates: tuple[float, float]
    images: int
    validation: int
    test: int
    epochs: int
    batch_size: int

    def trial(self, number: int) -> TrialConfig:
        # not numpy: the last bits of its exp depend on the processor, and stored runs are found by them
        low, high = (math.log(rate) for rate in self.rates)
        rate = math.exp(np.random.default_rng(number).uniform(low, high))
        recipe = replace(
            self.pair.robust.train,
            epochs=self.epochs,
            lr=rate,
            batch_size=self.batch_size,
            schedule="constant",
            milestones=(),
            seed=1 + number,
        )
        return TrialConfig(self.pair, self.n_fb, self.images, self.validation, self.test, recipe)


_DIGITS = Plan(
    name="digits",
    pair=networks.DIGITS_TRIALS,
    n_fb=4,
    trials=14,
    first=7,
    k=0.1,
    rates=(0.0005, 0.5),
    images=500,
    validation=200,
    test=300,
    epochs=2,
    batch_size=64,
)
_PLANS: dict[str, list[Plan]] = {
    "quick": [_DIGITS],
    "reference": [
        replace(_DIGITS, trials=80, first=48),
        Plan(
            name="cifar10-independent",
            pair=networks.PAIRS["reference"]["cifar10-independent"],
            n_fb=4,
            trials=16,
            first=8,
            k=0.05,
            rates=(0.001, 0.15),
            images=10_000,
            validation=2000,
            test=1000,
            epochs=3,
            batch_size=128,
        ),
    ],
    "paper": [
        Plan(
            name="cifar10-resnet18",
            pair=networks.PAIRS["paper"]["cifar10-resnet18"],
            n_fb=4,
            trials=20,
            first=10,
            k=0.02,
            rates=(0.0001, 0.01),
            images=50_000,
            validation=5000,
            test=10_000,
            epochs=10,
            batch_size=512,
        )
    ],
}


def plans(profile: str) -> list[Plan]:
    """The plans of a profile, all with f_b of 4 layers; the smallest first."""
    return list(_PLANS[paths.check_profile(profile)])


# --- one trial ---


def run_trial(config: TrialConfig, *, say: runs.Say = runs.quiet) -> dict[str, Any]:
    """Accuracy of the robust network, and a row for epoch 0 and each epoch of fine-tuning."""
    robust, standard = _networks(config.pair, say)
    validation = networks.validation_images(config.pair.robust, config.validation)
    test = networks.test_images(config.pair.robust, config.test)
    images = networks.fine_tuning_images(config.pair.robust, config.images, config.validation)
    acc_star, start = _start(replace(config, images=0, fine_tune=config.pair.robust.train), say)
    rows = [
        {"epoch": epoch, **(_row(model, config, validation, test) if epoch else start)}
        for epoch, model in training.algorithm_1.trial(
            robust, standard, config.n_fb, images, config.fine_tune
        )
    ]
    names = layers.weight_layers(robust)
    return {
        "acc_star_validation": acc_star,
        "epochs": rows,
        "layers": [list(names) for names in pairwise(names)][-config.n_fb :],
        "n_test": len(test),
    }


@lru_cache(maxsize=1)
def _networks(pair: Pair, say: runs.Say) -> tuple[nn.Module, Mapping[str, torch.Tensor]]:
    """(f_a*, f_b*) and the state of (f_a, f_b); trials copy them."""
    return networks.trained(pair.robust, say=say)[0], networks.trained(pair.standard, say=say)[0].state_dict()


@lru_cache(maxsize=1)
def _start(config: TrialConfig, say: runs.Say) -> tuple[float, dict[str, Any]]:
    """What all trials share, however they are fine-tuned: the accuracy of the robust network, and the row of
    epoch 0."""
    robust, standard = _networks(config.pair, say)
    validation = networks.validation_images(config.pair.robust, config.validation)
    test = networks.test_images(config.pair.robust, config.test)
    model, _ = training.algorithm_1.semirobust(robust, standard, config.n_fb)
    acc_star = _accuracy(robust, validation, config.pair.attack)
    return acc_star, _row(model, config, validation, test)


def _row(model: nn.Module, config: TrialConfig, validation: Images, test: Images) -> dict[str, Any]:
    return {
        "validation_accuracy": _accuracy(model, validation, config.pair.attack),
        "measures": measure_layers(model, test, config.pair.attack, config.n_fb, config.shuffles),
    }


def _accuracy(model: nn.Module, images: Images, attack: PGD) -> float:
    attacked = attacks.perturb(model, images.images, images.labels, "pgd", seed=0, **asdict(attack))
    return attacks.evaluate(model, attacked, images.labels, "none").accuracy


def measure_layers(
    model: nn.Module, test: Images, attack: PGD, n_fb: int, shuffles: int
) -> dict[str, dict[str, list[float]]]:
    """Name -> {"values", "controls"}: a number for each of the last ``n_fb`` layers, with the one before.

    Class-conditional for ``WITHIN``; over all images for ``conditional_entropy``, as the corrected theorem
    has it; of the layer alone for ``label_information`` and ``sensitivity``.
    """
    pairs = list(pairwise(layers.weight_layers(model)))[-n_fb:]
    names = list(dict.fromkeys(name for names in pairs for name in names))
    attacked = attacks.perturb(model, test.images, test.labels, "pgd", seed=0, **asdict(attack))
    on_clean = layers.activations(model, test.images, names)
    on_attacked = layers.activations(model, attacked, names)
    found: dict[str, list[Dependence]] = {}

    def note(name: str, result: Dependence) -> None:
        found.setdefault(name, []).append(result)

    for earlier, later in pairs:
        x, y = on_attacked[earlier], on_attacked[later]
        for name in WITHIN:
            within = partial(dependence.within_classes, dependence.MEASURES[name])
            note(name, within(x, y, test.labels, shuffles=shuffles))
        whole: Measure = dependence.MEASURES["conditional_entropy"]
        note("conditional_entropy", whole(x, y, shuffles=shuffles))
        note("label_information", dependence.label_information(y, test.labels, shuffles=shuffles))
        moved = dependence.sensitivity()
        note("sensitivity", moved(on_clean[later], y, labels=test.labels, shuffles=shuffles))
    return {
        name: {"values": [r.value for r in results], "controls": [r.control for r in results]}
        for name, results in found.items()
    }


# --- all trials ---


def run_plan(plan: Plan, profile: str, *, say: runs.Say = runs.quiet) -> list[runs.Record]:
    """Compute (or load) the trials of a plan."""
    trials = {f"{plan.name} {number}": plan.trial(number) for number in range(plan.trials)}
    return list(runs.run_all(trials, run_trial, experiment=EXPERIMENT, profile=profile, say=say).values())


def stored(plan: Plan, profile: str) -> list[runs.Record] | None:
    """The trials of a plan where all are stored, else None. Computes nothing."""
    trials = {number: plan.trial(number) for number in range(plan.trials)}
    found = runs.stored_all(trials, experiment=EXPERIMENT, profile=profile)
    return list(found.values()) if found else None
