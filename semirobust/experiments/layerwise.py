"""Robust correlation layer by layer, the dependence beside it, and the growth that Theorem 2 asks for.

The robust correlation of each chosen layer is bracketed by its certificate and its attack. The growth of
correlation that Theorem 2 of arXiv 2307.03803 asks for is compared with the growth that is measured.

Each subject is one network: ``standard`` (f_a, f_b), ``robust`` (f_a*, f_b*), ``semirobust_N`` (f_a*, f_b)
with f_b of N layers, and ``fine_tuned_N`` (f_a*, f_b~), the last epoch of the first trial of Algorithm 1. The
layers of f_a* are those of ``robust``. So the last two kinds are probed only from the last chosen layer of
f_a* on, which is where Theorem 2 has its hypotheses.

Departures from the paper:
1. Its condition A2 wants the correlation E[y G_j] to grow by 1 + U_j from layer j-1 to j, where U_j bounds
   the mean density ratio given the class. For a deterministic layer and n images that mean is exactly sum
   over c of pi_c N_c, where N_c is the number of distinct values of the layer in class c. That is the U_j
   here. The growth is that of the clipped margins of the two probes on the same attacked images; as
   |G| <= 1 it cannot exceed 2.
2. Everything between two chosen layers counts as one layer. The dependence is measured as in Algorithm 1,
   between consecutive weight layers, and also between chosen layers where these are not consecutive.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn

from semirobust import attacks, dependence, layers, models, paths, readouts, runs
from semirobust.experiments import algorithm_1, networks
from semirobust.experiments.networks import FineTuning, Pair
from semirobust.layers import fast_dtype

EXPERIMENT = "layerwise"
SHUFFLES = 5  # the control of the dependence is a mean over this many shuffles
BATCH = 512  # images attacked at once


@dataclass(frozen=True)
class Sizes:
    """How many images each part takes, always the first of their set.

    Probes are trained on ``train`` images. Gaps between probes are measured on the first ``gap`` test images,
    all else on ``test`` of them.
    """

    train: int
    test: int
    gap: int


@dataclass(frozen=True)
class ProbeConfig:
    """How a probe is trained; ``steps`` of size ``step`` (in units of eps) of PGD. ``hidden``: None for
    linear.
    """

    epochs: int
    steps: int
    step: float
    batch_size: int = 128
    lr: float = 3.0
    hidden: int | None = None


@dataclass(frozen=True)
class Effort:
    """The attack on a trained probe: ``steps`` of the size in the pair's attack, ``restarts`` times."""

    steps: int
    restarts: int


@dataclass(frozen=True)
class LayerwiseConfig:
    """One network. ``layers``: names of weight layers in order, or "input" as the first."""

    subject: str
    pair: Pair
    layers: tuple[str, ...]
    probe: ProbeConfig
    effort: Effort
    sizes: Sizes
    fine_tuning: FineTuning | None = None
    seed: int = 0


@dataclass(frozen=True)
class Plan:
    """All subjects of one pair of networks."""

    name: str
    configs: tuple[LayerwiseConfig, ...]


#: profile -> pair, layers by number (None: all; 0: the image), sizes, probe, effort, n_fb of the others
_SETTINGS: dict[str, tuple[str, tuple[int, ...] | None, Sizes, ProbeConfig, Effort, tuple[int, ...]]] = {
    "quick": (
        "digits",
        (0, 1, 5, 10, 14, 15, 17, 18),
        Sizes(800, 300, 50),
        ProbeConfig(epochs=4, steps=3, step=0.5),
        Effort(steps=10, restarts=2),
        (4,),
    ),
    "reference": (
        "cifar10-independent",
        None,
        Sizes(10_000, 2000, 500),
        ProbeConfig(epochs=5, steps=7, step=0.25),
        Effort(steps=20, restarts=3),
        (4, 12),
    ),
    "paper": (
        "cifar10-resnet18",
        None,
        Sizes(50_000, 10_000, 2000),
        ProbeConfig(epochs=10, steps=10, step=0.25),
        Effort(steps=50, restarts=5),
        (4, 12),
    ),
}


def plans(profile: str) -> list[Plan]:
    """The plan of a profile: standard, robust, and (f_a*, f_b) before and after fine-tuning."""
    name, numbers, sizes, probe, effort, n_fbs = _SETTINGS[paths.check_profile(profile)]
    (trials,) = (plan for plan in algorithm_1.plans(profile) if plan.name == name)
    narrow = models.create(trials.pair.robust.model, 10, width=2)  # has the names of every width
    names = [layers.INPUT, *layers.weight_layers(narrow)]
    chosen = tuple(names) if numbers is None else tuple(names[number] for number in numbers)
    common: dict[str, Any] = {"pair": trials.pair, "probe": probe, "effort": effort, "sizes": sizes}
    configs = [LayerwiseConfig(subject, layers=chosen, **common) for subject in ("standard", "robust")]
    for n_fb in n_fbs:
        first = next(i for i, layer in enumerate(chosen) if names.index(layer) > len(names) - 1 - n_fb)
        own = chosen[max(0, first - 1) :]  # from the last chosen layer of f_a on
        trial = trials.trial(n_fb, 0)
        tuning = FineTuning(trial.fine_tune, trial.sizes.fine_tune, trial.sizes.validation)
        configs.append(LayerwiseConfig(f"semirobust_{n_fb}", layers=own, **common))
        configs.append(LayerwiseConfig(f"fine_tuned_{n_fb}", layers=own, fine_tuning=tuning, **common))
    return [Plan(name, tuple(configs))]


# --- what a run measures ---


def run(config: LayerwiseConfig, *, say: runs.Say = runs.quiet) -> dict[str, Any]:
    """Correlations, dependences and growth of one network, on test images."""
    model = networks.subject(config.subject, config.pair, config.fine_tuning, say=say)
    known = [layers.INPUT, *layers.weight_layers(model)]
    _check_layers(config.layers, known)
    attack = asdict(config.pair.attack)
    pool = networks.training_images(config.pair.robust)
    pool = pool.subset(range(min(config.sizes.train, len(pool))))
    test = networks.test_images(config.pair.robust, config.sizes.test)
    images, labels = test.images, test.labels
    attacked = attacks.perturb(model, images, labels, "pgd", seed=config.seed, **attack)

    intervals, along, gaps = [], [], []
    previous: readouts.Probe | None = None
    for layer in config.layers:
        probe = _probe(model, layer, config, pool.images, pool.labels)
        found = readouts.robust_correlation(
            probe, images, labels,
            eps=attack["eps"], step=attack["step"], steps=config.effort.steps,
            restarts=config.effort.restarts, seed=config.seed, batch_size=BATCH,
        )  # fmt: skip
        values = readouts.clipped_margins(probe, attacked, labels)
        along.append(float(values.double().mean()))
        intervals.append(found.record() | {"under_pgd_on_the_network": along[-1]})
        if previous is not None and config.sizes.gap:
            gap = readouts.distillation_gap(
                previous, probe, images[: config.sizes.gap], labels[: config.sizes.gap],
                eps=attack["eps"], step=attack["step"], steps=config.effort.steps, seed=config.seed,
                batch_size=BATCH,
            )  # fmt: skip
            gaps.append(asdict(gap))
        previous = probe
        say(f"{config.subject}, {layer}: robust correlation in [{found.certified:.3f}, {found.attacked:.3f}]")

    demanded = empirical_u(model, attacked, labels, config.layers)
    growth = [
        {
            "layers": [earlier, later],
            "growth": after - before,
            "u": demanded[later],
            "demanded": 1 + demanded[later],
        }
        for (earlier, later), (before, after) in zip(pairwise(config.layers), pairwise(along), strict=True)
    ]
    measured = [layer for layer in config.layers if layer != layers.INPUT]
    return {
        "layers": list(config.layers),
        "numbers": [known.index(layer) for layer in config.layers],
        "correlation": intervals,
        "growth": growth,
        "distillation_gap": gaps,
        "dependence": _dependence(model, attacked, labels, _consecutive(measured, known)),
        "dependence_between_chosen": _dependence(model, attacked, labels, list(pairwise(measured))),
        "accuracy": float(_accuracy(model, images, labels)),
        "attacked_accuracy": float(_accuracy(model, attacked, labels)),
        "n_train": len(pool),
        "n_test": len(test),
        "attack_precision": str(fast_dtype()).removeprefix("torch."),
    }


def _check_layers(chosen: Sequence[str], known: Sequence[str]) -> None:
    unknown = [layer for layer in chosen if layer not in known]
    if unknown or not chosen:
        problem = f"no layer is called {', '.join(unknown)}" if unknown else "layers is empty"
        raise ValueError(f"{problem}; the layers are {', '.join(known)}")
    order = [known.index(layer) for layer in chosen]
    if order != sorted(set(order)):
        raise ValueError(f"layers must be in order of execution, each once: {', '.join(chosen)}")


def _probe(
    model: nn.Module, layer: str, config: LayerwiseConfig, images: torch.Tensor, labels: torch.Tensor
) -> readouts.Probe:
    recipe, eps = config.probe, config.pair.attack.eps
    return readouts.train_probe(
        model, layer, images, labels,
        eps=eps, step=recipe.step * eps, steps=recipe.steps, hidden=recipe.hidden, epochs=recipe.epochs,
        batch_size=recipe.batch_size, lr=recipe.lr, seed=config.seed,
    )  # fmt: skip


def _consecutive(measured: Sequence[str], known: Sequence[str]) -> list[tuple[str, str]]:
    """(weight layer before it, layer) for each measured layer; the first layer has no such pair."""
    return [(known[known.index(layer) - 1], layer) for layer in measured if known.index(layer) > 1]


def _dependence(
    model: nn.Module, attacked: torch.Tensor, labels: torch.Tensor, pairs: Sequence[tuple[str, str]]
) -> list[dict[str, Any]]:
    if not pairs:
        return []
    found = dependence.class_conditional(model, attacked, labels, pairs=pairs, shuffles=SHUFFLES)
    return [item.record() for item in found]


def empirical_u(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor, names: Sequence[str]
) -> dict[str, float]:
    """Layer -> U, the sum over classes c of pi_c N_c.

    N_c is the number of distinct outputs of the layer on the images of class c. U is exactly the mean, over
    the empirical law of the images, of the density ratio p(g, h | y) / (p(g | y) p(h | y)), where h is a
    function of g. Outputs are compared bit for bit; for ``"input"`` they are the images themselves.
    """
    total = dict.fromkeys(names, 0.0)
    modules = [name for name in names if name != layers.INPUT]
    for label in labels.unique().tolist():
        own = images[labels == label]
        outputs = layers.activations(model, own, modules) if modules else {}
        if layers.INPUT in total:
            outputs[layers.INPUT] = own.flatten(1)
        for name, values in outputs.items():
            distinct = len({row.tobytes() for row in np.ascontiguousarray(values.numpy())})
            total[name] += distinct * len(own) / len(images)
    return total


def _accuracy(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    return attacks.evaluate(model, images, labels, "none").accuracy


# --- all of a plan ---


@dataclass(frozen=True)
class Outcome:
    """The stored records of one plan, by subject."""

    plan: Plan
    subjects: Mapping[str, runs.Record]

    @property
    def records(self) -> list[runs.Record]:
        return list(self.subjects.values())


def run_plan(plan: Plan, profile: str, *, say: runs.Say = runs.quiet) -> Outcome:
    """Compute (or load) every subject of a plan, with a line to ``say`` for each layer and each run."""
    configs = {config.subject: config for config in plan.configs}
    return Outcome(plan, runs.run_all(configs, run, experiment=EXPERIMENT, profile=profile, say=say))


def stored(plan: Plan, profile: str) -> Outcome | None:
    """The plan's records where all of them are stored; None where some are not. Computes nothing."""
    configs = {config.subject: config for config in plan.configs}
    found = runs.stored_all(configs, experiment=EXPERIMENT, profile=profile)
    return Outcome(plan, found) if found else None
