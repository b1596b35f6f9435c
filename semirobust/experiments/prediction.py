"""Which measure of dependence, if any, predicts that fine-tuning f_b succeeds?

Algorithm 1 of arXiv 2307.03803 records one dependence after success. Here trials that succeed and trials that
fail are logged alike: at every epoch every measure of `semirobust.measures` on every layer of f_b, on
PGD-attacked test images, beside its shuffled control; and whether the *validation* accuracy is within k of
the robust network's. `read` asks which (measure, layer) tells the two apart, with permutation tests over
trials and a correction for their number.

The trials differ in their learning rate, drawn log-uniformly, and in the order of the images; rates that
are too small or too large fail. As each trial draws its own, trials can be exchanged, which is what the
permutation test needs; but a measure may "predict" only because both it and success follow the rate. It would
be a predictor all the same, and no cause.

A finding from so few trials is a question for new ones: so the trials are two sets, and what the first set
finds is tested on the second, and only that (`replicate`).

How the quick plan came to be: k was fixed before any trial was measured. The range of rates and the number of
images were changed after a first run; the epochs were later cut from three to two, and the trials doubled,
with the time they take in view. Of two earlier sets of eight trials, of three epochs, each had one score with
a corrected p below 0.05, and neither held in the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn

from semirobust import attacks, layers, measures, prediction, rho, runs
from semirobust.data import Images
from semirobust.experiments import networks
from semirobust.experiments.networks import Pair
from semirobust.measures import Dependence, Measure
from semirobust.prediction import ScoreTest, Screening
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
    """Two sets of ``trials`` / 2 trials, with rates drawn log-uniformly in ``rates``; ``k`` is the margin of
    success, chosen before any trial was measured."""

    name: str
    pair: Pair
    n_fb: int
    trials: int
    k: float
    rates: tuple[float, float]
    images: int
    validation: int
    test: int
    epochs: int
    batch_size: int

    def trial(self, number: int) -> TrialConfig:
        low, high = np.log(self.rates)
        rate = float(np.exp(np.random.default_rng(number).uniform(low, high)))
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


#: profile -> settings of its plan
_SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "quick": (
        "digits",
        {"trials": 16, "k": 0.1, "rates": (0.0005, 0.5), "images": 500, "validation": 200, "test": 300}
        | {"epochs": 2, "batch_size": 64},
    ),
    "reference": (
        "cifar10-width16",
        {"trials": 16, "k": 0.05, "rates": (0.001, 0.15), "images": 10_000, "validation": 2000}
        | {"test": 1000, "epochs": 3, "batch_size": 128},
    ),
    "paper": (
        "cifar10-resnet18",
        {"trials": 20, "k": 0.02, "rates": (0.0001, 0.01), "images": 50_000, "validation": 5000}
        | {"test": 10_000, "epochs": 10, "batch_size": 512},
    ),
}


def plan(profile: str) -> Plan:
    """The plan of a profile, f_b of 4 layers."""
    name, settings = _SETTINGS[runs.check_profile(profile)]
    return Plan(name, networks.PAIRS[profile][name], 4, **settings)


# --- one trial ---


def run_trial(config: TrialConfig, *, say: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """Accuracy of the robust network, and a row for epoch 0 and each epoch of fine-tuning."""
    robust = networks.trained(config.pair.robust, say=say)[0]
    standard = networks.trained(config.pair.standard, say=say)[0].state_dict()
    validation = networks.validation_images(config.pair.robust, config.validation)
    test = networks.test_images(config.pair.robust, config.test)
    images = networks.fine_tuning_images(config.pair.robust, config.images, config.validation)
    acc_star, start = _start(replace(config, images=0, fine_tune=config.pair.robust.train))
    rows = [
        {"epoch": epoch, **(_row(model, config, validation, test) if epoch else start)}
        for epoch, model in rho.trial(robust, standard, config.n_fb, images, config.fine_tune)
    ]
    names = layers.weight_layers(robust)
    return {
        "acc_star_validation": acc_star,
        "epochs": rows,
        "layers": [list(names) for names in pairwise(names)][-config.n_fb :],
        "n_test": len(test),
    }


@lru_cache(maxsize=1)
def _start(config: TrialConfig) -> tuple[float, dict[str, Any]]:
    """What the trials share, whatever they are fine-tuned on and how: the accuracy of the robust network, and
    the row of epoch 0."""
    robust = networks.trained(config.pair.robust)[0]
    standard = networks.trained(config.pair.standard)[0].state_dict()
    validation = networks.validation_images(config.pair.robust, config.validation)
    test = networks.test_images(config.pair.robust, config.test)
    model, _ = rho.semirobust(robust, standard, config.n_fb)
    acc_star = _accuracy(robust, validation, config.pair.attack)
    return acc_star, _row(model, config, validation, test)


def _row(model: nn.Module, config: TrialConfig, validation: Images, test: Images) -> dict[str, Any]:
    return {
        "validation_accuracy": _accuracy(model, validation, config.pair.attack),
        "measures": measure_layers(model, test, config.pair.attack, config.n_fb, config.shuffles),
    }


def _accuracy(model: nn.Module, images: Images, attack: PGD) -> float:
    attacked = attacks.perturb(model, images.images, images.labels, "pgd", seed=0, **asdict(attack))
    with torch.no_grad():
        batches = zip(attacked.split(256), images.labels.to(attacked.device).split(256), strict=True)
        return sum(int((model(x).argmax(1) == y).sum()) for x, y in batches) / len(images)


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
            within = partial(measures.class_conditional, measures.MEASURES[name])
            note(name, within(x, y, test.labels, shuffles=shuffles))
        whole: Measure = measures.MEASURES["conditional_entropy"]
        note("conditional_entropy", whole(x, y, shuffles=shuffles))
        note("label_information", measures.label_information(y, test.labels, shuffles=shuffles))
        moved = measures.sensitivity()
        note("sensitivity", moved(on_clean[later], y, labels=test.labels, shuffles=shuffles))
    return {
        name: {"values": [r.value for r in results], "controls": [r.control for r in results]}
        for name, results in found.items()
    }


# --- all trials ---


def run(profile: str, *, say: Callable[[str], None] = lambda line: None) -> list[runs.Record]:
    """Compute (or load) the trials of a profile."""
    made = plan(profile)
    records = []
    for number in range(made.trials):
        compute = partial(run_trial, say=say)
        record = runs.run(made.trial(number), compute, experiment=EXPERIMENT, profile=profile)
        say(f"{made.name}: trial {number + 1} of {made.trials} in {record.path.name}")
        records.append(record)
    return records


def stored(profile: str) -> list[runs.Record] | None:
    """The trials of a profile where all are stored, else None. Computes nothing."""
    made = plan(profile)
    found = {record.path.stem: record for record in runs.find(EXPERIMENT, profile)}
    hashes = [runs.config_hash(made.trial(number)) for number in range(made.trials)]
    return [found[name] for name in hashes] if all(name in found for name in hashes) else None


def outcomes(records: Sequence[runs.Record], k: float) -> np.ndarray:
    """bool [trials, 1 + epochs]: Acc*_val - Acc_val <= k."""
    return np.array(
        [
            [
                record.metrics["acc_star_validation"] - row["validation_accuracy"] <= k
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
    """The tests of all measures on all layers; see `semirobust.prediction.screen`."""
    return prediction.screen(scores(records), outcomes(records, k), permutations=permutations)


@dataclass(frozen=True)
class Replication:
    """``first``, ``second``: every score tested on either half of the trials. ``found``: the scores with a
    corrected p of at most ``level`` in the first. ``again``: these alone on the second half, corrected for
    their own number; None where there are none. ``held``: those of them with a corrected p of at most
    ``level`` once more, on the same side of 1/2."""

    first: Screening
    second: Screening
    found: tuple[ScoreTest, ...]
    again: Screening | None
    held: tuple[ScoreTest, ...]
    level: float


def replicate(
    records: Sequence[runs.Record], k: float, *, level: float = 0.05, permutations: int = 40_320
) -> Replication:
    """Look for predictors in the first half of the trials, and test what is found on the second half."""
    half = len(records) // 2
    first, second = (
        read(part, k, permutations=permutations) for part in (records[:half], records[half : 2 * half])
    )
    found = _significant(first, level)
    if not found:
        return Replication(first, second, (), None, (), level)
    chosen = {test.name: scores(records[half : 2 * half])[test.name] for test in found}
    won = outcomes(records[half : 2 * half], k)
    again = prediction.screen(chosen, won, permutations=permutations)
    side = {test.name: (test.within or 0.0) > 0.5 for test in found}
    held = tuple(t for t in _significant(again, level) if ((t.within or 0.0) > 0.5) == side[t.name])
    return Replication(first, second, found, again, held, level)


def _significant(screening: Screening, level: float) -> tuple[ScoreTest, ...]:
    return tuple(t for t in screening.tests if t.p_holm is not None and t.p_holm <= level)
