"""Algorithm 1 and Tables 1 and 3: the configurations of each profile, what a run measures, and the rows of
the tables."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from semirobust import attacks, dependence, layers, rho, runs
from semirobust.experiments import networks
from semirobust.experiments.networks import Pair
from semirobust.training import TrainConfig

EXPERIMENT = "algorithm_1"
BASELINES = "algorithm_1_baselines"
ATTACKS = ("none", "fgsm", "pgd")  # measured at every epoch; AutoAttack where a trial starts and stops
WEAK = "autoattack-10"  # AutoAttack with 10 steps in its APGD and FAB: what torchattacks' class of that name does


@dataclass(frozen=True)
class Sizes:
    """How many images each part takes (the first of their set)."""

    fine_tune: int
    validation: int
    test: int
    autoattack: int


@dataclass(frozen=True)
class BaselineConfig:
    """(f_a, f_b), (f_a*, f_b*) and every (f_a*, f_b), before any fine-tuning."""

    pair: Pair
    n_fb: tuple[int, ...]
    sizes: Sizes
    seed: int = 0


@dataclass(frozen=True)
class TrialConfig:
    """One trial: fine-tune the last ``n_fb`` layers; ``fine_tune.seed`` numbers the trial."""

    pair: Pair
    n_fb: int
    sizes: Sizes
    fine_tune: TrainConfig
    batch_statistics: bool = False


@dataclass(frozen=True)
class Plan:
    """All runs of one row group of Table 1."""

    name: str
    pair: Pair
    n_fb: tuple[int, ...]
    trials: int
    sizes: Sizes
    fine_tune: TrainConfig

    @property
    def baseline(self) -> BaselineConfig:
        return BaselineConfig(self.pair, self.n_fb, self.sizes)

    def trial(self, n_fb: int, number: int) -> TrialConfig:
        return TrialConfig(self.pair, n_fb, self.sizes, replace(self.fine_tune, seed=1 + number))


def _fine_tune(pair: Pair, *, epochs: int, lr: float, batch_size: int) -> TrainConfig:
    """Adversarial training of f_b at a constant rate, with the attack of the robust network."""
    recipe = pair.robust.train
    return replace(recipe, epochs=epochs, lr=lr, batch_size=batch_size, schedule="constant", milestones=())


#: (sizes, trials, and what fine-tuning changes in the recipe of the robust network) by plan name, else by profile
_SETTINGS: dict[str, tuple[Sizes, int, dict[str, Any]]] = {
    "quick": (Sizes(1000, 200, 400, 100), 3, {"epochs": 6, "lr": 0.02, "batch_size": 128}),
    "reference": (Sizes(10_000, 2000, 2000, 500), 3, {"epochs": 10, "lr": 0.001, "batch_size": 128}),
    "cifar10-width16": (Sizes(10_000, 2000, 2000, 200), 3, {"epochs": 10, "lr": 0.001, "batch_size": 128}),
    "paper": (Sizes(50_000, 5000, 10_000, 10_000), 10, {"epochs": 10, "lr": 0.001, "batch_size": 512}),
}


def plans(profile: str) -> list[Plan]:
    """The plans of a profile; ``paper`` is as printed: T = 10 trials of at most 10 epochs, rate 0.001, batch
    512."""
    made = []
    for name, pair in networks.PAIRS[runs.check_profile(profile)].items():
        sizes, trials, changes = _SETTINGS.get(name, _SETTINGS[profile])
        made.append(Plan(name, pair, (4, 12), trials, sizes, _fine_tune(pair, **changes)))
    return made


# --- what a run measures ---


@lru_cache(maxsize=4)
def _pair_networks(pair: Pair) -> tuple[nn.Module, nn.Module]:
    return networks.trained(pair.standard)[0], networks.trained(pair.robust)[0]


@dataclass(frozen=True)
class _Star:
    """Evaluations of (f_a*, f_b*): what every trial is compared with."""

    test: Mapping[str, attacks.Evaluation]
    validation: attacks.Evaluation


@lru_cache(maxsize=4)
def _star(pair: Pair, sizes: Sizes) -> _Star:
    robust = _pair_networks(pair)[1]
    test = networks.test_images(pair.robust, sizes.test)
    validation = networks.validation_images(pair.robust, sizes.validation)
    found = {attack: _evaluate(robust, pair, test.images, test.labels, attack) for attack in ATTACKS}
    few = sizes.autoattack
    for attack in ("autoattack", WEAK):
        found[attack] = _evaluate(robust, pair, test.images[:few], test.labels[:few], attack)
    return _Star(found, _evaluate(robust, pair, validation.images, validation.labels, "pgd"))


def _evaluate(
    model: nn.Module, pair: Pair, images: torch.Tensor, labels: torch.Tensor, attack: str
) -> attacks.Evaluation:
    steps: dict[str, Any] = {"step": pair.attack.step, "steps": pair.attack.steps} if attack == "pgd" else {}
    if attack == WEAK:
        attack, steps = "autoattack", {"steps": 10}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", attacks.GradientMaskingWarning)  # kept in the result instead
        return attacks.evaluate(model, images, labels, attack, eps=pair.attack.eps, seed=0, **steps)


def _summary(evaluation: attacks.Evaluation, reference: attacks.Evaluation | None = None) -> dict[str, Any]:
    """Accuracy, interval and n; with a ``reference`` on the same images also the paired difference."""
    summary: dict[str, Any] = {
        "accuracy": evaluation.accuracy,
        "interval": list(evaluation.interval),
        "n": len(evaluation.correct),
        "zero_gradient_share": evaluation.zero_gradient_share,
        "warnings": list(evaluation.warnings),
    }
    if reference is not None:
        summary["difference"] = list(
            rho.paired_difference(evaluation.correct.numpy(), reference.correct.numpy())
        )
    return summary


def _dependence(
    model: nn.Module, pair: Pair, images: torch.Tensor, labels: torch.Tensor, n_fb: int
) -> list[dict[str, Any]]:
    """I_j of the last ``n_fb`` pairs of layers on PGD-attacked test images, with its control."""
    attacked = attacks.perturb(
        model,
        images,
        labels,
        "pgd",
        eps=pair.attack.eps,
        step=pair.attack.step,
        steps=pair.attack.steps,
        seed=0,
    )
    found = dependence.class_conditional(model, attacked, labels, n_last=n_fb)
    return [
        {
            "layers": [item.earlier, item.later],
            "bits": item.bits,
            "control_bits": item.control_bits,
            "cap_bits": item.cap_bits,
            "entropy_x_bits": item.entropy_x_bits,
            "entropy_y_bits": item.entropy_y_bits,
            "saturated": item.saturated,
            "n_by_class": list(item.counts.values()),
        }
        for item in found
    ]


def run_baseline(config: BaselineConfig) -> dict[str, Any]:
    """Accuracies of (f_a, f_b), (f_a*, f_b*) and (f_a*, f_b) under every attack, and the dependence along
    (f_a*, f_b*)."""
    standard, robust = _pair_networks(config.pair)
    test = networks.test_images(config.pair.robust, config.sizes.test)
    images, labels, few = test.images, test.labels, config.sizes.autoattack
    subjects = {"standard": standard, "robust": robust}
    for n_fb in config.n_fb:
        subjects[f"semirobust_{n_fb}"] = next(
            rho.trial(robust, standard.state_dict(), n_fb, test, config.pair.robust.train)
        )[1]
    accuracies: dict[str, dict[str, Any]] = {}
    star = _star(config.pair, config.sizes)
    for name, model in subjects.items():
        found = (
            dict(star.test)
            if name == "robust"
            else {
                **{attack: _evaluate(model, config.pair, images, labels, attack) for attack in ATTACKS},
                "autoattack": _evaluate(model, config.pair, images[:few], labels[:few], "autoattack"),
            }
        )
        accuracies[name] = {attack: _summary(evaluation) for attack, evaluation in found.items()}
        accuracies[name]["autoattack"]["parts"] = [list(part) for part in found["autoattack"].parts]
    return {
        "accuracy": accuracies,
        "robust_validation": _summary(star.validation)
        | {"held_out": config.pair.robust.holdout >= config.sizes.validation},
        "dependence": {
            name: _dependence(subjects[name], config.pair, images, labels, max(config.n_fb))
            for name in ("standard", "robust")
        },
        "layers": layers.weight_layers(robust),
    }


def run_trial(config: TrialConfig) -> dict[str, Any]:
    """One trial, measured before fine-tuning and after each epoch; AutoAttack at the start and where each
    reading stops."""
    standard, robust = _pair_networks(config.pair)
    test = networks.test_images(config.pair.robust, config.sizes.test)
    validation = networks.validation_images(config.pair.robust, config.sizes.validation)
    pool = networks.training_images(config.pair.robust)
    usable = len(pool) - max(
        0, config.sizes.validation - config.pair.robust.holdout
    )  # never a validation image
    images = pool.subset(range(min(config.sizes.fine_tune, usable)))
    star = _star(config.pair, config.sizes)

    rows, states = [], []
    for epoch, model in rho.trial(
        robust,
        standard.state_dict(),
        config.n_fb,
        images,
        config.fine_tune,
        batch_statistics=config.batch_statistics,
    ):
        found = {
            attack: _evaluate(model, config.pair, test.images, test.labels, attack) for attack in ATTACKS
        }
        along = _dependence(model, config.pair, test.images, test.labels, config.n_fb)
        rows.append(
            {
                "epoch": epoch,
                "validation_accuracy": _evaluate(
                    model, config.pair, validation.images, validation.labels, "pgd"
                ).accuracy,
                "test_accuracy": {attack: evaluation.accuracy for attack, evaluation in found.items()},
                "test": {
                    attack: _summary(evaluation, star.test[attack]) for attack, evaluation in found.items()
                },
                "dependence_bits": [item["bits"] for item in along],
                "control_bits": [item["control_bits"] for item in along],
                "cap_bits": [item["cap_bits"] for item in along],
                "saturated": [item["saturated"] for item in along],
            }
        )
        states.append({name: value.clone() for name, value in model.state_dict().items()})

    trajectory = [rho.as_measurements(rows)]
    stops = {
        "printed": rho.printed(trajectory, star.test["pgd"].accuracy, "pgd").epochs[0],
        "sound": rho.sound(trajectory, star.validation.accuracy, "pgd").epochs[0],
    }
    few, final = config.sizes.autoattack, copy.deepcopy(robust)
    strongest = {}
    for epoch in sorted(set(stops.values())):
        final.load_state_dict(states[epoch])
        evaluation = _evaluate(final, config.pair, test.images[:few], test.labels[:few], "autoattack")
        strongest[epoch] = _summary(evaluation, star.test["autoattack"])
    return {
        "epochs": rows,
        "layers": [list(names) for names in pairwise(layers.weight_layers(robust))][-config.n_fb :],
        "acc_star": {attack: evaluation.accuracy for attack, evaluation in star.test.items()},
        "acc_star_validation": star.validation.accuracy,
        "stops": stops,
        "autoattack": {reading: strongest[epoch] for reading, epoch in stops.items()},
        "n_fine_tune": len(images),
    }


# --- all of a plan, and the tables ---


@dataclass(frozen=True)
class Outcome:
    """The stored records of one plan: its baseline, and the trials by n_fb."""

    plan: Plan
    baseline: runs.Record
    trials: Mapping[int, list[runs.Record]]

    @property
    def records(self) -> list[runs.Record]:
        return [self.baseline, *(record for group in self.trials.values() for record in group)]

    def trajectories(self, n_fb: int) -> list[list[rho.Measurement]]:
        return [rho.as_measurements(record.metrics["epochs"]) for record in self.trials[n_fb]]


def run_plan(plan: Plan, profile: str) -> Outcome:
    """Compute (or load) everything of a plan."""
    baseline = runs.run(plan.baseline, run_baseline, experiment=BASELINES, profile=profile)
    trials = {
        n_fb: [
            runs.run(plan.trial(n_fb, number), run_trial, experiment=EXPERIMENT, profile=profile)
            for number in range(plan.trials)
        ]
        for n_fb in plan.n_fb
    }
    return Outcome(plan, baseline, trials)


def stored(plan: Plan, profile: str) -> Outcome | None:
    """The plan's records where all of them are stored; None where some are not. Computes nothing."""
    found = {
        record.path.stem: record for name in (BASELINES, EXPERIMENT) for record in runs.find(name, profile)
    }
    wanted = {
        n_fb: [runs.config_hash(plan.trial(n_fb, number)) for number in range(plan.trials)]
        for n_fb in plan.n_fb
    }
    baseline = runs.config_hash(plan.baseline)
    if any(name not in found for name in [baseline, *(name for names in wanted.values() for name in names)]):
        return None
    return Outcome(
        plan, found[baseline], {n_fb: [found[name] for name in names] for n_fb, names in wanted.items()}
    )


def main(profile: str) -> list[Outcome]:
    """Every plan of the profile."""
    return [run_plan(plan, profile) for plan in plans(profile)]


def configuration(plan: Plan) -> dict[str, Any]:
    """What a caption says of a plan."""
    return {
        "network": plan.pair.robust.label,
        "dataset": plan.pair.robust.dataset,
        **asdict(plan.sizes),
        "trials": plan.trials,
    }
