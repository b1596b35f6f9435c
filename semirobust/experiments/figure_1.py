"""Figures 1 and 3 of arXiv 2307.03803: dependence after fine-tuning, by size of f_b, attack and network.

Each network is (f_a*, f_b~) of one trial of Algorithm 1 after its last epoch. For comparison, (f_a*, f_b)
before fine-tuning is measured too. Each attack is made anew for the network that is measured. Figure 3 is
under FGSM, for several pairs of networks that differ in their seed.

Where this differs from the figures:
1. The paper averages over the trials that reach Acc*. At a small scale few do. So here a trial counts
   whatever it reached, and its accuracy is stored beside.
2. Each estimate comes with its shuffled control and its cap.
3. Figure 1 is of one trial. The spread over trials is that of the trials of `algorithm_1`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from semirobust import attacks, dependence, layers, paths, runs
from semirobust.experiments import algorithm_1, networks
from semirobust.experiments.networks import FineTuning, Pair
from semirobust.experiments.verdicts import summary

EXPERIMENT = "figure_1"
ATTACKS = ("none", "fgsm", "pgd", "autoattack")
N_FB = (12, 8, 4)


@dataclass(frozen=True)
class SizeConfig:
    """One fine-tuned network. ``images``: how many test images (the first ones). ``steps``, ``queries``: the
    effort of AutoAttack."""

    pair: Pair
    n_fb: int
    fine_tuning: FineTuning
    images: int
    steps: int
    queries: int
    shuffles: int = 5
    seed: int = 0
    attacks: tuple[str, ...] = field(default=ATTACKS, metadata={"later": True})


#: profile -> pair of Figure 1, pairs of Figure 3, trials of each, (test images, steps and queries of
#: AutoAttack)
_SETTINGS: dict[str, tuple[str, tuple[str, ...], int, tuple[int, int, int]]] = {
    "quick": ("digits", (), 1, (300, 5, 50)),
    "reference": (
        "cifar10-seed0",
        (*(f"cifar10-seed{seed}" for seed in range(3)), *(f"digits-seed{seed}" for seed in range(5))),
        3,
        (2000, 20, 100),
    ),
    "paper": ("cifar10-resnet18", (), 10, (10_000, 100, 5000)),
}


def plans(profile: str) -> list[SizeConfig]:
    """The configurations of Figure 1, the largest f_b first, then those of Figure 3."""
    return by_size(profile) + [config for _, _, config in by_seed(profile)]


def by_size(profile: str) -> list[SizeConfig]:
    """Figure 1: one configuration for each size of f_b, under every attack."""
    name, _, _, effort = _SETTINGS[paths.check_profile(profile)]
    plan = algorithm_1.plan(profile, name)
    return [_config(plan, n_fb, 0, effort) for n_fb in N_FB]


def by_seed(profile: str) -> list[tuple[str, int, SizeConfig]]:
    """Figure 3: (pair, trial, configuration) of the largest f_b under FGSM, the first trial of all pairs
    before the second."""
    _, names, trials, effort = _SETTINGS[paths.check_profile(profile)]
    return [
        (
            name,
            number,
            replace(_config(algorithm_1.plan(profile, name), 12, number, effort), attacks=("fgsm",)),
        )
        for number in range(trials)
        for name in names
    ]


def _config(plan: algorithm_1.Plan, n_fb: int, number: int, effort: tuple[int, int, int]) -> SizeConfig:
    trial = plan.trial(n_fb, number)
    tuning = FineTuning(trial.fine_tune, trial.sizes.fine_tune, trial.sizes.validation)
    return SizeConfig(plan.pair, n_fb, tuning, *effort)


def run_size(config: SizeConfig, *, say: runs.Say = runs.quiet) -> dict[str, Any]:
    """For "before" and "after" fine-tuning and each attack: "accuracy" under it, "dependence" along f_b."""
    found: dict[str, Any] = {}
    for when, kind in (("before", "semirobust"), ("after", "fine_tuned")):
        model = networks.subject(f"{kind}_{config.n_fb}", config.pair, config.fine_tuning, say=say)
        found[when] = _by_attack(model, config)
    say(f"f_b of {config.n_fb} layers: dependence under {', '.join(config.attacks)}")
    test = networks.test_images(config.pair.robust, config.images)
    return found | {"layers": layers.weight_layers(model)[-config.n_fb - 1 :], "n": len(test)}


def _by_attack(model: nn.Module, config: SizeConfig) -> dict[str, Any]:
    test, attack = networks.test_images(config.pair.robust, config.images), config.pair.attack
    effort: dict[str, dict[str, Any]] = {
        "pgd": {"step": attack.step, "steps": attack.steps},
        "autoattack": {"steps": config.steps, "queries": config.queries},
    }
    found = {}
    for name in config.attacks:
        options = {"eps": attack.eps, "seed": config.seed} | effort.get(name, {})
        attacked = attacks.perturb(model, test.images, test.labels, name, **options)
        along = dependence.class_conditional(
            model, attacked, test.labels, n_last=config.n_fb, shuffles=config.shuffles, seed=config.seed
        )
        right = attacks.evaluate(model, attacked, test.labels, "none").correct
        found[name] = {"accuracy": summary(right), "dependence": [item.record() for item in along]}
    return found


def run(profile: str, *, say: runs.Say = runs.quiet) -> list[runs.Record]:
    """Compute (or load) all configurations of a profile."""
    configs = dict(enumerate(plans(profile)))
    return list(runs.run_all(configs, run_size, experiment=EXPERIMENT, profile=profile, say=say).values())


def stored(profile: str) -> list[runs.Record] | None:
    """The records of Figure 1 where all of them are stored; None where some are not. Computes nothing."""
    configs = {config.n_fb: config for config in by_size(profile)}
    found = runs.stored_all(configs, experiment=EXPERIMENT, profile=profile)
    return list(found.values()) if found else None


def stored_by_seed(profile: str) -> dict[str, list[runs.Record]]:
    """Pair -> the stored records of Figure 3. Computes nothing."""
    found: dict[str, list[runs.Record]] = {}
    for name, _, config in by_seed(profile):
        if record := runs.stored(config, experiment=EXPERIMENT, profile=profile):
            found.setdefault(name, []).append(record)
    return found
