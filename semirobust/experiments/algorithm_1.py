"""Algorithm 1 and Tables 1 and 3: the configuration of each profile, and what one run measures."""

from __future__ import annotations

import copy
import shutil
import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

from semirobust import attacks, dependence, layers, paths, runs, training
from semirobust.data import Images
from semirobust.experiments import networks
from semirobust.experiments.networks import Pair
from semirobust.experiments.verdicts import summary
from semirobust.layers import fast_dtype
from semirobust.training import TrainConfig

EXPERIMENT = "algorithm_1"
BASELINES = "algorithm_1_baselines"
ATTACKS = ("none", "fgsm", "pgd")  # measured at every epoch; AutoAttack where a trial starts and stops
SHUFFLES = 5  # the control is a mean over so many
WEAK = "autoattack-10"  # 10 steps in its APGD and FAB, as torchattacks' class AutoAttack runs them


@dataclass(frozen=True)
class Sizes:
    """How many images each part takes (the first of their set; ``autoattack`` 0: not measured), and the
    effort of AutoAttack."""

    fine_tune: int
    validation: int
    test: int
    autoattack: int
    steps: int = 100
    queries: int = 5000


@dataclass(frozen=True)
class BaselineConfig:
    """(f_a, f_b), (f_a*, f_b*) and every (f_a*, f_b), before any fine-tuning."""

    pair: Pair
    n_fb: tuple[int, ...]
    sizes: Sizes
    seed: int = 0


@dataclass(frozen=True)
class TrialConfig:
    """One trial: fine-tune the last ``n_fb`` layers; ``fine_tune.seed`` numbers the trial.

    ``f_a`` ("robust", "standard" or "random") is what is frozen, ``f_b`` ("standard" or "random") what
    fine-tuning starts from: the causal controls. ``patience``: stop after so many epochs in which the best
    validation accuracy did not rise (None: run through all).
    """

    pair: Pair
    n_fb: int
    sizes: Sizes
    fine_tune: TrainConfig
    batch_statistics: bool = False
    f_a: str = field(default="robust", metadata={"later": True})
    f_b: str = field(default="standard", metadata={"later": True})
    patience: int | None = field(default=None, metadata={"later": True})

    @property
    def as_printed(self) -> bool:
        """Whether the trial ends with the (f_a*, f_b~) of Algorithm 1: no control, no variant."""
        return (self.f_a, self.f_b) == ("robust", "standard") and not (self.patience or self.batch_statistics)

    def __post_init__(self) -> None:
        if self.f_a not in ("robust", "standard", "random") or self.f_b not in ("standard", "random"):
            raise ValueError(
                "f_a is robust, standard or random and f_b standard or random, "
                f"not {self.f_a!r} and {self.f_b!r}"
            )


@dataclass(frozen=True)
class Plan:
    """All runs of one row group of Table 1."""

    name: str
    pair: Pair
    n_fb: tuple[int, ...]
    trials: int
    sizes: Sizes
    fine_tune: TrainConfig
    fewer: int | None = None  # images under AutoAttack after the first trial of each size; None: as many

    @property
    def baseline(self) -> BaselineConfig:
        return BaselineConfig(self.pair, self.n_fb, self.sizes)

    def trial(self, n_fb: int, number: int) -> TrialConfig:
        sizes = self.sizes
        if number and self.fewer is not None:
            sizes = replace(sizes, autoattack=self.fewer)
        return TrialConfig(self.pair, n_fb, sizes, replace(self.fine_tune, seed=1 + number))

    def control(self, n_fb: int, number: int, f_a: str, f_b: str) -> TrialConfig:
        """The trial with another frozen f_a, or another start of f_b; not measured under AutoAttack."""
        trial = self.trial(n_fb, number)
        return replace(trial, sizes=replace(trial.sizes, autoattack=0), f_a=f_a, f_b=f_b)

    def long_trial(self, n_fb: int) -> TrialConfig:
        """On all training images, until the validation accuracy has not risen for 5 epochs, at most 30."""
        sizes = replace(self.sizes, fine_tune=50_000)
        return TrialConfig(self.pair, n_fb, sizes, replace(self.fine_tune, epochs=30, seed=1), patience=5)


def fine_tuning(pair: Pair, *, epochs: int, lr: float, batch_size: int) -> TrainConfig:
    """Adversarial training of f_b at a constant rate, with the attack of the robust network."""
    recipe = pair.robust.train
    return replace(recipe, epochs=epochs, lr=lr, batch_size=batch_size, schedule="constant", milestones=())


_DIGITS = Sizes(1000, 200, 400, 100, steps=20, queries=300)
_CIFAR = Sizes(10_000, 2000, 2000, 1000, queries=1000)
#: beginning of a plan's name, the longest that fits -> sizes of f_b, trials, images, epochs of fine-tuning,
#: batch, and images under AutoAttack after the first trial of each size (None: as many)
_SETTINGS: dict[str, tuple[tuple[int, ...], int, Sizes, int, int, int | None]] = {
    "quick/": ((4, 12), 3, _DIGITS, 4, 128, None),
    "reference/digits-seed": ((4, 8, 12), 10, _DIGITS, 4, 128, None),
    "reference/digits-independent": ((4, 12), 3, _DIGITS, 4, 128, None),
    "reference/digits-wrn34": ((4, 12), 3, _DIGITS, 4, 128, None),
    "reference/cifar10-seed": ((4, 8, 12), 3, _CIFAR, 6, 128, 200),
    # 10,000 test images, so that there are 100 of each class
    "reference/cifar100-seed": ((4, 8, 12), 3, replace(_CIFAR, test=10_000), 6, 128, 200),
    "reference/cifar10-wrn34": ((4, 12), 3, replace(_CIFAR, fine_tune=5000, autoattack=200), 6, 128, 100),
    "reference/cifar10-width64": ((4, 12), 3, replace(_CIFAR, autoattack=500), 6, 128, 200),
    "reference/cifar10-independent": ((4, 12), 3, Sizes(10_000, 2000, 2000, 200), 6, 128, None),
    "reference/cifar10-independent-seed1": (
        (4, 12),
        3,
        Sizes(10_000, 2000, 2000, 500, queries=1000),
        6,
        128,
        None,
    ),
    "paper/": ((4, 12), 10, Sizes(50_000, 5000, 10_000, 10_000), 10, 512, None),
}


def plans(profile: str) -> list[Plan]:
    """The plans of a profile, those of the paper's protocol first.

    The rate of fine-tuning is a tenth of that of the robust network, as in the paper (0.01 and 0.001).
    ``paper`` is as printed (T = 10 trials of at most 10 epochs, rate 0.001, batch 512), but that f_b is not
    trained on the images that validate.
    """
    made = []
    for name, pair in networks.PAIRS[paths.check_profile(profile)].items():
        fits = max((key for key in _SETTINGS if f"{profile}/{name}".startswith(key)), key=len)
        n_fb, trials, sizes, epochs, batch, fewer = _SETTINGS[fits]
        tuning = fine_tuning(pair, epochs=epochs, lr=pair.robust.train.lr / 10, batch_size=batch)
        made.append(Plan(name, pair, n_fb, trials, sizes, tuning, fewer))
    return made


def plan(profile: str, name: str) -> Plan:
    """The plan of a profile with this name. Raises ``ValueError`` for an unknown one, listing the known."""
    known = {plan.name: plan for plan in plans(profile)}
    if name not in known:
        raise paths.unknown("plan", name, known)
    return known[name]


# --- what a run measures ---


@lru_cache(maxsize=4)
def _pair_networks(pair: Pair, say: runs.Say = runs.quiet) -> tuple[nn.Module, nn.Module]:
    return networks.trained(pair.standard, say=say)[0], networks.trained(pair.robust, say=say)[0]


def _evaluate(model: nn.Module, pair: Pair, sizes: Sizes, subject: Images, attack: str) -> attacks.Evaluation:
    """One attack on the images; AutoAttack on the first ``sizes.autoattack`` of them."""
    images, labels = subject.images, subject.labels
    effort: dict[str, Any] = {}
    if attack == "pgd":
        effort = {"step": pair.attack.step, "steps": pair.attack.steps}
    elif attack in ("autoattack", WEAK):
        images, labels = images[: sizes.autoattack], labels[: sizes.autoattack]
        effort = {"steps": 10 if attack == WEAK else sizes.steps, "queries": sizes.queries}
    name = "autoattack" if attack == WEAK else attack
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", attacks.GradientMaskingWarning)  # kept in the result instead
        return attacks.evaluate(model, images, labels, name, eps=pair.attack.eps, seed=0, **effort)


def _summary(evaluation: attacks.Evaluation) -> dict[str, Any]:
    """The verdicts, and what the evaluation says of itself."""
    return summary(evaluation.correct) | {
        "zero_gradient_share": evaluation.zero_gradient_share,
        "warnings": list(evaluation.warnings),
    }


def _dependence(model: nn.Module, pair: Pair, test: Images, n_fb: int) -> list[dict[str, Any]]:
    """I_j of the last ``n_fb`` pairs of layers on PGD-attacked test images, with its control."""
    attacked = attacks.perturb(model, test.images, test.labels, "pgd", seed=0, **asdict(pair.attack))
    found = dependence.class_conditional(model, attacked, test.labels, n_last=n_fb, shuffles=SHUFFLES)
    return [item.record() | {"n_by_class": list(item.counts.values())} for item in found]


def run_baseline(config: BaselineConfig, *, say: runs.Say = runs.quiet) -> dict[str, Any]:
    """Accuracies of (f_a, f_b), (f_a*, f_b*) and (f_a*, f_b) under every attack, and the dependence along
    (f_a*, f_b*)."""
    standard, robust = _pair_networks(config.pair, say)
    test = networks.test_images(config.pair.robust, config.sizes.test)
    subjects = {"standard": standard, "robust": robust}
    for n_fb in config.n_fb:
        subjects[f"semirobust_{n_fb}"] = training.algorithm_1.semirobust(robust, standard.state_dict(), n_fb)[
            0
        ]
    folder = _folder(config)
    accuracies: dict[str, dict[str, Any]] = {}
    for name, model in subjects.items():
        wanted = (*ATTACKS, "autoattack", WEAK) if name == "robust" else (*ATTACKS, "autoattack")
        accuracies[name] = {}
        for attack in wanted:
            compute = partial(_measured, model, config, test, attack)
            found = accuracies[name][attack] = runs.step(folder / f"{name}_{attack}.json", compute)
            say(f"{_label(config.pair)}, {name}: {attack} {100 * found['accuracy']:.1f} %")
    validation = networks.validation_images(config.pair.robust, config.sizes.validation)
    held_out = _evaluate(robust, config.pair, config.sizes, validation, "pgd")
    return {
        "accuracy": accuracies,
        "robust_validation": _summary(held_out)
        | {"held_out": config.pair.robust.holdout >= config.sizes.validation},
        "dependence": {
            name: _dependence(subjects[name], config.pair, test, max(config.n_fb))
            for name in ("standard", "robust")
        },
        "layers": layers.weight_layers(robust),
        "attack_precision": str(fast_dtype()).removeprefix("torch."),
    }


def _measured(model: nn.Module, config: BaselineConfig, test: Images, attack: str) -> dict[str, Any]:
    """The verdicts under one attack, with the parts of AutoAttack as published."""
    found = _evaluate(model, config.pair, config.sizes, test, attack)
    parts = {"parts": [list(part) for part in found.parts]} if attack == "autoattack" else {}
    return _summary(found) | parts


def run_trial(
    config: TrialConfig, baseline: Mapping[str, Any], *, say: runs.Say = runs.quiet
) -> dict[str, Any]:
    """One trial, measured before fine-tuning and after each epoch, and under AutoAttack where each reading
    stops; ``baseline`` holds the metrics of ``run_baseline``, which it is compared with."""
    folder = _folder(config)
    standard, robust = _pair_networks(config.pair, say)
    test = networks.test_images(config.pair.robust, config.sizes.test)
    validation = networks.validation_images(config.pair.robust, config.sizes.validation)
    images = networks.fine_tuning_images(config.pair.robust, config.sizes.fine_tune, config.sizes.validation)
    star = {attack: summary["accuracy"] for attack, summary in baseline["accuracy"]["robust"].items()}
    star_validation = baseline["robust_validation"]["accuracy"]
    frozen = {"robust": robust, "standard": standard}.get(config.f_a)
    if frozen is None:
        frozen = random_network(config)
    start = standard if config.f_b == "standard" else random_network(config)

    epochs = partial(_epochs, config, frozen, start.state_dict(), images, test, validation, say)
    try:
        rows = epochs()
    except runs.CorruptFile as error:
        aside = folder.replace(folder.with_suffix(f".{time.time_ns()}.corrupt"))
        message = f"{error.path}: {error.reason}; kept in {aside.name}, the trial starts again"
        warnings.warn(message, RuntimeWarning, stacklevel=2)
        rows = epochs()

    trajectory = [training.algorithm_1.as_measurements(rows)]
    stops = {
        "printed": training.algorithm_1.printed(trajectory, star["pgd"], "pgd").epochs[0],
        "sound": training.algorithm_1.sound(trajectory, star_validation, "pgd").epochs[0],
    }
    if config.patience is not None:  # a long trial asks how far it gets: its best validation epoch
        stops["best"] = max(rows[1:], key=lambda row: row["validation_accuracy"])["epoch"]
    final, strongest = copy.deepcopy(robust), {}
    for epoch in sorted(set(stops.values()) if config.sizes.autoattack else ()):
        final.load_state_dict(runs.load_tensors(folder / f"epoch_{epoch}.safetensors")[0])
        measure = partial(_evaluate, final, config.pair, config.sizes, test, "autoattack")
        strongest[epoch] = runs.step(folder / f"autoattack_{epoch}.json", lambda: _summary(measure()))  # noqa: B023
    if (config.f_a, config.f_b, config.patience) == (
        "robust",
        "standard",
        None,
    ) and not config.batch_statistics:
        last = runs.load_tensors(folder / f"epoch_{rows[-1]['epoch']}.safetensors")[0]
        made = networks.FineTunedConfig(config.pair, config.n_fb, config.fine_tune, len(images))
        runs.network(made, lambda *_: last)
    return {
        "epochs": rows,
        "layers": [list(names) for names in pairwise(layers.weight_layers(robust))][-config.n_fb :],
        "acc_star": star,
        "acc_star_validation": star_validation,
        "stops": stops,
        "autoattack": {reading: strongest[epoch] for reading, epoch in stops.items() if epoch in strongest},
        "n_fine_tune": len(images),
    }


def _epochs(
    config: TrialConfig,
    frozen: nn.Module,
    start: Mapping[str, torch.Tensor],
    images: Images,
    test: Images,
    validation: Images,
    say: runs.Say,
) -> list[dict[str, Any]]:
    """The measurements of all epochs; the trial's folder keeps them, and the weights of each epoch."""
    folder = _folder(config)
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    while (path := folder / f"epoch_{len(rows)}.json").exists():
        rows.append(runs.read_json(path))
    checkpoint = folder / "training.safetensors"
    for epoch, model in training.algorithm_1.trial(
        frozen,
        start,
        config.n_fb,
        images,
        config.fine_tune,
        batch_statistics=config.batch_statistics,
        checkpoint=checkpoint,
    ):
        if epoch > len(rows):
            raise runs.CorruptFile(checkpoint, f"epoch {len(rows)} before it was not measured")
        if epoch == len(rows):
            row = _measure(model, config, test, validation, epoch)
            runs.save_tensors(folder / f"epoch_{epoch}.safetensors", model.state_dict(), {"epoch": epoch})
            runs.write_json(folder / f"epoch_{epoch}.json", row)
            rows.append(row)
            pgd = 100 * row["test_accuracy"]["pgd"]
            say(f"{_name(config)}: epoch {epoch} of {config.fine_tune.epochs}, PGD accuracy {pgd:.1f} %")
        if config.patience is not None and _stopped_rising(rows, config.patience):
            break
    return rows


def _folder(config: BaselineConfig | TrialConfig) -> Path:
    """Where an unfinished run keeps its parts: of a trial a checkpoint and each epoch's weights too."""
    kind = "trial" if isinstance(config, TrialConfig) else "baseline"
    return paths.cache_root() / f"{runs.config_hash(config)}.{kind}"


def _label(pair: Pair) -> str:
    return f"{pair.robust.label} on {pair.robust.dataset}"


def _name(config: TrialConfig) -> str:
    kinds = f"{config.f_a} f_a, {config.f_b} f_b of {config.n_fb}"
    return f"{_label(config.pair)}, {kinds}, trial {config.fine_tune.seed}"


def _measure(
    model: nn.Module, config: TrialConfig, test: Images, validation: Images, epoch: int
) -> dict[str, Any]:
    """One epoch of a trial: accuracies on test and validation images, and the dependence along f_b."""
    found = {attack: _evaluate(model, config.pair, config.sizes, test, attack) for attack in ATTACKS}
    held_out = _evaluate(model, config.pair, config.sizes, validation, "pgd")
    along = _dependence(model, config.pair, test, config.n_fb)
    return {
        "epoch": epoch,
        "validation_accuracy": held_out.accuracy,
        "test_accuracy": {attack: evaluation.accuracy for attack, evaluation in found.items()},
        "test": {attack: _summary(evaluation) for attack, evaluation in found.items()},
        "dependence_bits": [item["bits"] for item in along],
        "control_bits": [item["control_bits"] for item in along],
        "cap_bits": [item["cap_bits"] for item in along],
        "saturated": [item["saturated"] for item in along],
    }


def _stopped_rising(rows: list[dict[str, Any]], patience: int) -> bool:
    accuracies = [row["validation_accuracy"] for row in rows[1:]]
    return len(accuracies) > patience and max(accuracies[-patience:]) <= max(accuracies[:-patience])


def random_network(config: TrialConfig) -> nn.Module:
    """The network with random weights, another draw for each trial, its BatchNorms with the statistics of
    2,048 training images (else the signal would not pass through many layers)."""
    network = networks.build(replace(config.pair.standard, seed=1000 + config.fine_tune.seed))
    images = networks.training_images(config.pair.standard)
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = None  # the plain average over the batches
        norm.reset_running_stats()
    network.train()
    with torch.no_grad():
        for first in range(0, min(2048, len(images)), 256):
            network(images.batch(slice(first, first + 256)).to(next(network.parameters()).device))
    for norm in norms:
        norm.momentum = 0.1
    return network.eval()


# --- all of a plan, and the tables ---


@dataclass(frozen=True)
class Outcome:
    """The stored records of one plan: its baseline, and the trials by n_fb."""

    plan: Plan
    baseline: runs.Record
    trials: Mapping[int, list[runs.Record]]

    @property
    def complete(self) -> bool:
        """Whether every trial is there."""
        return all(len(group) == self.plan.trials for group in self.trials.values())

    @property
    def records(self) -> list[runs.Record]:
        return [self.baseline, *(record for group in self.trials.values() for record in group)]

    def trajectories(self, n_fb: int) -> list[list[training.algorithm_1.Measurement]]:
        return [
            training.algorithm_1.as_measurements(record.metrics["epochs"]) for record in self.trials[n_fb]
        ]


def baseline_record(plan: Plan, profile: str, *, say: runs.Say = runs.quiet) -> runs.Record:
    """The stored baselines of a plan, resumed or computed now."""
    compute = partial(run_baseline, say=say)
    record = runs.run(plan.baseline, compute, experiment=BASELINES, profile=profile)
    shutil.rmtree(_folder(plan.baseline), ignore_errors=True)
    return record


def trial_record(
    config: TrialConfig,
    baseline: Mapping[str, Any],
    profile: str,
    *,
    experiment: str = EXPERIMENT,
    say: runs.Say = runs.quiet,
) -> runs.Record:
    """The stored run of one trial, resumed or computed now."""
    compute = partial(run_trial, baseline=baseline, say=say)
    record = runs.run(config, compute, experiment=experiment, profile=profile)
    shutil.rmtree(_folder(config), ignore_errors=True)
    return record


def trial_with_baseline(
    plan: Plan, config: TrialConfig, profile: str, experiment: str, *, say: runs.Say = runs.quiet
) -> runs.Record:
    """`trial_record` of a trial of ``plan``, after the plan's baselines."""
    metrics = baseline_record(plan, profile, say=say).metrics
    return trial_record(config, metrics, profile, experiment=experiment, say=say)


def run_plan(plan: Plan, profile: str, *, say: runs.Say = runs.quiet) -> Outcome:
    """Compute (or load) everything of a plan, with a line to ``say`` for each epoch of training and each
    run."""
    baseline = baseline_record(plan, profile, say=say)
    say(f"{plan.name}: baselines in {baseline.path.name}")
    trials: dict[int, list[runs.Record]] = {}
    for n_fb in plan.n_fb:
        trials[n_fb] = []
        for number in range(plan.trials):
            config = plan.trial(n_fb, number)
            record = trial_record(config, baseline.metrics, profile, say=say)
            say(f"{plan.name}: n_fb = {n_fb}, trial {number + 1} of {plan.trials} in {record.path.name}")
            trials[n_fb].append(record)
    return Outcome(plan, baseline, trials)


def stored(plan: Plan, profile: str) -> Outcome | None:
    """What is stored of a plan: its baseline and at least one trial of each size (see
    ``Outcome.complete``); else None. Computes nothing."""
    baseline = runs.stored(plan.baseline, experiment=BASELINES, profile=profile)
    trials = {
        n_fb: [
            record
            for number in range(plan.trials)
            if (record := runs.stored(plan.trial(n_fb, number), experiment=EXPERIMENT, profile=profile))
        ]
        for n_fb in plan.n_fb
    }
    return Outcome(plan, baseline, trials) if baseline and all(trials.values()) else None
