"""Figure 1 of arXiv 2307.03803: dependence after fine-tuning, by the size of f_b and by the attack.

For each size of f_b the network is (f_a*, f_b~) of the first trial of Algorithm 1. For comparison,
(f_a*, f_b) before fine-tuning is measured too. Each attack is made anew for the network that is measured.

Where this differs from the figure:
1. The paper averages over the trials that reach Acc*. At a small scale few do. So here the first trial counts
   after its last epoch, whatever it reached, and its accuracy is stored beside. The spread over trials is
   that of the trials of `algorithm_1`, for the sizes that it has.
2. Each estimate comes with its shuffled control and its cap.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from semirobust import attacks, dependence, layers, paths, runs, training
from semirobust.experiments import algorithm_1, networks
from semirobust.experiments.layerwise import FineTuning
from semirobust.experiments.networks import Pair
from semirobust.experiments.verdicts import summary

EXPERIMENT = "figure_1"
ATTACKS = ("none", "fgsm", "pgd", "autoattack")
N_FB = (4, 8, 12)


@dataclass(frozen=True)
class SizeConfig:
    """One size of f_b. ``images``: how many test images (the first ones). ``steps``, ``queries``: the effort
    of AutoAttack."""

    pair: Pair
    n_fb: int
    fine_tuning: FineTuning
    images: int
    steps: int
    queries: int
    shuffles: int = 5
    seed: int = 0


#: profile -> pair, test images, steps and queries of AutoAttack
_SETTINGS = {
    "quick": ("digits", 300, 5, 50),
    "reference": ("cifar10-independent", 500, 100, 1000),
    "paper": ("cifar10-resnet18", 10_000, 100, 5000),
}


def plans(profile: str) -> list[SizeConfig]:
    """One configuration for each size of f_b, the largest first."""
    name, *effort = _SETTINGS[paths.check_profile(profile)]
    (plan,) = (plan for plan in algorithm_1.plans(profile) if plan.name == name)
    made = []
    for n_fb in sorted(N_FB, reverse=True):
        trial = plan.trial(n_fb, 0)
        tuning = FineTuning(trial.fine_tune, trial.sizes.fine_tune, trial.sizes.validation)
        made.append(SizeConfig(plan.pair, n_fb, tuning, *effort))
    return made


def run_size(config: SizeConfig, *, say: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """For "before" and "after" fine-tuning and each attack: "accuracy" under it, "dependence" along f_b."""
    robust = networks.trained(config.pair.robust, say=say)[0]
    standard = networks.trained(config.pair.standard, say=say)[0]
    tuning = config.fine_tuning
    tuned = networks.fine_tuned(
        config.pair, config.n_fb, tuning.config, limit=tuning.limit, validation=tuning.validation, say=say
    )[0]
    subjects: dict[str, nn.Module] = {
        "before": training.algorithm_1.semirobust(robust, standard.state_dict(), config.n_fb)[0],
        "after": tuned,
    }
    found: dict[str, Any] = {name: _by_attack(model, config) for name, model in subjects.items()}
    say(f"f_b of {config.n_fb} layers: dependence under {len(ATTACKS)} attacks, before and after fine-tuning")
    return found | {"layers": layers.weight_layers(robust)[-config.n_fb - 1 :], "n": config.images}


def _by_attack(model: nn.Module, config: SizeConfig) -> dict[str, Any]:
    test, attack = networks.test_images(config.pair.robust, config.images), config.pair.attack
    effort: dict[str, dict[str, Any]] = {
        "pgd": {"step": attack.step, "steps": attack.steps},
        "autoattack": {"steps": config.steps, "queries": config.queries},
    }
    found = {}
    for name in ATTACKS:
        options = {"eps": attack.eps, "seed": config.seed} | effort.get(name, {})
        attacked = attacks.perturb(model, test.images, test.labels, name, **options)
        along = dependence.class_conditional(
            model, attacked, test.labels, n_last=config.n_fb, shuffles=config.shuffles, seed=config.seed
        )
        right = attacks.evaluate(model, attacked, test.labels, "none").correct
        found[name] = {"accuracy": summary(right), "dependence": [item.record() for item in along]}
    return found


def run(profile: str, *, say: Callable[[str], None] = lambda line: None) -> list[runs.Record]:
    """Compute (or load) all sizes of a profile."""
    compute = partial(run_size, say=say)
    return [runs.run(config, compute, experiment=EXPERIMENT, profile=profile) for config in plans(profile)]


def stored(profile: str) -> list[runs.Record] | None:
    """The records of a profile where all of them are stored; None where some are not. Computes nothing."""
    records = [runs.stored(config, experiment=EXPERIMENT, profile=profile) for config in plans(profile)]
    return None if None in records else [record for record in records if record]
