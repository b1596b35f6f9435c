"""What another f_b costs on trained networks: the true difference beside the bounds of `semirobust.bounds`.

``run`` compares (f_a*, f_b*) with one subject: ``semirobust`` (f_a*, f_b), or ``fine_tuned`` (f_a*, f_b~),
the last epoch of the first trial of Algorithm 1. ``run_path`` moves the weights away from omega* in two
ways: along the segment to the fine-tuned network, and along the direction in the first layer of f_b that an
ascent finds for one image. On both paths, the right sides of (15) and (16) of arXiv 2307.03803 stand beside
the true difference.

Departures from the paper:
1. J is the mean cross-entropy in nats, not E[Y l] with l = -F. For a proper loss the sign of Y is inside.
2. omega are weights and biases with BatchNorm folded in, so that all of f_b is part of the distance.
3. (16) is written for a chain without biases. Here its product runs over the weight layers of the main path
   of f_a, folded. C_x is the largest norm of an image behind the input normalisation, and C_sigma = 1. (17)
   is its mean with Y = 1, the largest value that (17) can take.
4. Attacked losses are estimates from below: PGD finds some perturbation, not the worst.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from semirobust import attacks, bounds, paths, readouts, runs
from semirobust.bounds import Pair as Folded
from semirobust.bounds import between, distance, folded_pair, moved, peeled, steepest
from semirobust.experiments import algorithm_1, networks
from semirobust.experiments.networks import FineTuning, Pair
from semirobust.layers import fast_dtype, model_outputs

EXPERIMENT = "performance"
PATH = "performance_path"
QUANTILES = (0.05, 0.5, 0.95)


@dataclass(frozen=True)
class Sizes:
    """How many of the first test images are used: for losses and P-2, for P-1, and for single ascents."""

    images: int
    curvature: int
    ascent: int


@dataclass(frozen=True)
class Effort:
    """The effort of the bounds: ``times`` at which the largest eigenvalue is estimated, each by at most
    ``lanczos`` products; Gauss-Legendre ``quadrature`` points; ``ascent`` steps in search of a direction.
    """

    times: tuple[float, ...]
    lanczos: int
    quadrature: int
    ascent: int


@dataclass(frozen=True)
class PerformanceConfig:
    """(f_a*, f_b*) against one subject with f_b of ``n_fb`` layers. ``eps``: radii of P-3, linf, pixels."""

    subject: str
    pair: Pair
    n_fb: int
    sizes: Sizes
    effort: Effort
    eps: tuple[float, ...]
    fine_tuning: FineTuning | None = None
    seed: int = 0


@dataclass(frozen=True)
class PathConfig:
    """Networks on the segment from omega* to omega~ at ``times``, and along an ascent at ``distances``."""

    pair: Pair
    n_fb: int
    sizes: Sizes
    effort: Effort
    fine_tuning: FineTuning
    times: tuple[float, ...]
    distances: tuple[float, ...]
    seed: int = 0


@dataclass(frozen=True)
class Plan:
    """All comparisons of one pair of networks, and one path."""

    name: str
    configs: tuple[PerformanceConfig, ...]
    path: PathConfig


#: profile -> pair, sizes, effort
_SETTINGS: dict[str, tuple[str, Sizes, Effort]] = {
    "quick": ("digits", Sizes(150, 32, 12), Effort((0.0, 1.0), lanczos=6, quadrature=5, ascent=12)),
    "reference": (
        "cifar10-independent",
        Sizes(1000, 200, 100),
        Effort((0.0, 0.5, 1.0), lanczos=20, quadrature=12, ascent=30),
    ),
    "paper": (
        "cifar10-resnet18",
        Sizes(10_000, 500, 500),
        Effort((0.0, 0.5, 1.0), lanczos=20, quadrature=12, ascent=30),
    ),
}
N_FB = (1, 2, 4, 12)
_DECADES = (1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)  # times, and distances, of a path


def plans(profile: str) -> list[Plan]:
    """The plan of a profile: both subjects for f_b of 1, 2, 4 and 12 layers, and a path for f_b of 4."""
    name, sizes, effort = _SETTINGS[paths.check_profile(profile)]
    (trials,) = (plan for plan in algorithm_1.plans(profile) if plan.name == name)
    common: dict[str, Any] = {"pair": trials.pair, "sizes": sizes, "effort": effort}
    configs = []
    tunings = {}
    for n_fb in N_FB:
        trial = trials.trial(n_fb, 0)
        tunings[n_fb] = FineTuning(trial.fine_tune, trial.sizes.fine_tune, trial.sizes.validation)
        own = common | {"n_fb": n_fb, "eps": (1 / 255, trials.pair.attack.eps)}
        configs.append(PerformanceConfig("semirobust", **own))
        configs.append(PerformanceConfig("fine_tuned", fine_tuning=tunings[n_fb], **own))
    path = PathConfig(n_fb=4, fine_tuning=tunings[4], times=_DECADES, distances=_DECADES, **common)
    return [Plan(name, tuple(configs), path)]


# --- one subject ---


def run(config: PerformanceConfig, *, say: runs.Say = runs.quiet) -> dict[str, Any]:
    """Losses, accuracies and correlations of both networks, and what P-1, P-2 and P-3 say of them.

    ``clean``: test images. ``attacked``: the same images under PGD against the subject, for both networks.
    The difference there bounds that of the adversarial losses, as far as PGD is the worst attack. ``own``:
    each network under PGD against itself.
    """
    star = networks.trained(config.pair.robust, say=say)[0]
    name = f"{config.subject}_{config.n_fb}"
    tilde = networks.subject(name, config.pair, config.fine_tuning, say=say)
    test = networks.test_images(config.pair.robust, config.sizes.images)
    labels, n = test.labels, config.sizes.curvature
    options = asdict(config.pair.attack) | {"seed": config.seed}
    on_star, on_tilde = (
        attacks.perturb(model, test.images, labels, "pgd", **options) for model in (star, tilde)
    )
    kinds = {"clean": (test.images,) * 2, "attacked": (on_tilde,) * 2, "own": (on_star, on_tilde)}
    found: dict[str, Any] = {"loss": {}, "accuracy": {}, "correlation": {}, "taylor": {}, "telescope": {}}
    for kind, images in kinds.items():
        for name, measured in _scores((star, tilde), images, labels).items():
            found[name][kind] = measured
        if kind != "own":
            found["taylor"][kind] = _taylor(star, tilde, images[0][:n], labels[:n], config)
            found["telescope"][kind] = summary(bounds.telescope(star, tilde, images[0], config.n_fb))
        say(f"{config.subject}, f_b of {config.n_fb}: {kind} done")
    robust = [_robust(star, tilde, test.images, config.n_fb, eps) for eps in config.eps]
    first = found["taylor"]["clean"]
    return found | {
        "robust_difference": robust,
        "distance": first["delta_norm"],
        "dimension": first["dimension"],
        "n": len(test),
        "attack_precision": str(fast_dtype()).removeprefix("torch."),
    }


@torch.no_grad()
def _scores(
    models: tuple[nn.Module, nn.Module], images: tuple[torch.Tensor, torch.Tensor], labels: torch.Tensor
) -> dict[str, list[float]]:
    """Loss (nats), accuracy and mean clipped margin of (f_a*, f_b*) and of the subject."""
    found: dict[str, list[float]] = {"loss": [], "accuracy": [], "correlation": []}
    for model, x in zip(models, images, strict=True):
        logits = model_outputs(model, x).double()
        found["loss"].append(float(F.cross_entropy(logits, labels)))
        found["accuracy"].append(float((logits.argmax(1) == labels).double().mean()))
        found["correlation"].append(float(readouts.clipped_margins(model, x, labels).double().mean()))
    return found


def _taylor(
    star: nn.Module, tilde: nn.Module, images: torch.Tensor, labels: torch.Tensor, config: PerformanceConfig
) -> dict[str, Any]:
    effort = config.effort
    result = bounds.curvature(
        star, tilde, images, labels, config.n_fb,
        times=effort.times, steps=effort.lanczos, quadrature=effort.quadrature,
        generator=torch.Generator().manual_seed(config.seed),
    )  # fmt: skip
    kept = asdict(result) | {"remainder": result.remainder, "bound_estimate": result.bound_estimate}
    kept["largest_eigenvalue"] = [{"t": t} | asdict(ritz) for t, ritz in result.largest_eigenvalue]
    return kept | {"n": len(images)}


def _robust(star: nn.Module, tilde: nn.Module, images: torch.Tensor, n_fb: int, eps: float) -> dict[str, Any]:
    result = bounds.robust_difference(star, tilde, images, n_fb, eps=eps)
    kept = {"eps": eps, "radius": result.radius, "output": float(result.output.mean())}
    return kept | {"loss": result.loss, "correlation": result.correlation, "trivial": result.trivial}


def summary(result: bounds.Telescope) -> dict[str, Any]:
    """P-2 over images: mean and quantiles of truth and bounds, shares of images, mean share per layer."""
    names = ("difference", "bound", "product_bound", "printed_bound")
    kept: dict[str, Any] = {}
    for name in names:
        values = getattr(result, name)
        quantiles = values.quantile(torch.tensor(QUANTILES, dtype=values.dtype)).tolist()
        kept[name] = {"mean": float(values.mean()), "quantiles": quantiles}
    violated = result.printed_bound < result.difference * (1 - 1e-9)
    return kept | {
        "printed_violated": float(violated.double().mean()),
        "loss_difference": result.loss_difference,
        "layers": list(result.layers),
        "contributions": result.contributions.mean(0).tolist(),
    }


# --- a path ---


def run_path(config: PathConfig, *, say: runs.Say = runs.quiet) -> dict[str, Any]:
    """Truth and bounds on the segment to the fine-tuned network (means over images), and for single images
    along the directions that ascents in the first layer of f_b find.
    """
    star = networks.trained(config.pair.robust, say=say)[0]
    tilde = networks.subject(f"fine_tuned_{config.n_fb}", config.pair, config.fine_tuning, say=say)
    test = networks.test_images(config.pair.robust, config.sizes.images)
    pair = folded_pair(star, tilde, config.n_fb)
    device = next(star.parameters()).device
    images = test.images.to(device, torch.float64)
    whole = distance(pair)
    constant = peeled(pair.star, images, config.n_fb)
    segment = []
    for t in config.times:
        row = summary(bounds.telescope(pair.star, between(pair, t), images, config.n_fb))
        segment.append({"t": t, "distance": t * whole, "peeled": constant * t * whole} | row)
    say(f"segment of {len(segment)} networks done")
    name = f"{pair.first_b}.weight"
    own = _ascents(pair, images[: config.sizes.ascent], name, config)
    worst = max(range(len(own)), key=lambda i: own[i]["difference"] / own[i]["printed_bound"])
    return {
        "segment": segment,
        "ascents": [{k: v for k, v in row.items() if k != "change"} for row in own],
        "direction": _along(pair, images[worst : worst + 1], name, own[worst]["change"], config),
        "image": worst,
        "parameter": name,
        "n": len(images),
    }


def _ascents(pair: Folded, images: torch.Tensor, name: str, config: PathConfig) -> list[dict[str, Any]]:
    """For each image alone: the direction found (``change``, of norm 1), truth and bounds at distance 0.1."""
    size, rows = 0.1, []
    for i in range(len(images)):
        image, generator = images[i : i + 1], torch.Generator().manual_seed(config.seed + i)
        change = steepest(pair.star, image, name, size=size, steps=config.effort.ascent, generator=generator)
        rows.append({"change": change / size, "distance": size} | _single(pair, image, name, change, config))
    return rows


def _along(
    pair: Folded, image: torch.Tensor, name: str, change: torch.Tensor, config: PathConfig
) -> list[dict[str, Any]]:
    return [{"distance": d} | _single(pair, image, name, d * change, config) for d in config.distances]


def _single(
    pair: Folded, image: torch.Tensor, name: str, change: torch.Tensor, config: PathConfig
) -> dict[str, float]:
    result = bounds.telescope(pair.star, moved(pair.star, name, change), image, config.n_fb)
    names = ("difference", "bound", "product_bound", "printed_bound")
    return {key: float(getattr(result, key)) for key in names}


# --- all of a plan ---


@dataclass(frozen=True)
class Outcome:
    """The stored records of one plan: comparisons by (subject, n_fb), and the path."""

    plan: Plan
    subjects: Mapping[tuple[str, int], runs.Record]
    path: runs.Record

    @property
    def records(self) -> list[runs.Record]:
        return [*self.subjects.values(), self.path]


def run_plan(plan: Plan, profile: str, *, say: runs.Say = runs.quiet) -> Outcome:
    """Compute (or load) every comparison of a plan and its path, with a line to ``say`` for each run."""
    configs = {(config.subject, config.n_fb): config for config in plan.configs}
    found = runs.run_all(configs, run, experiment=EXPERIMENT, profile=profile, say=say)
    path = runs.run(plan.path, partial(run_path, say=say), experiment=PATH, profile=profile)
    say(f"{plan.name}: path in {path.path.name}")
    return Outcome(plan, found, path)


def stored(plan: Plan, profile: str) -> Outcome | None:
    """The plan's records where all of them are stored; None where some are not. Computes nothing."""
    configs = {(config.subject, config.n_fb): config for config in plan.configs}
    found = runs.stored_all(configs, experiment=EXPERIMENT, profile=profile)
    path = runs.stored(plan.path, experiment=PATH, profile=profile)
    return Outcome(plan, found, path) if path and found else None
