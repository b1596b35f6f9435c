"""A test of whether the estimator's cap explains the printed difference of CIFAR-10 and CIFAR-100.

The printed dependences of early layers (arXiv 2307.03803, Table 1) are larger on CIFAR-10, which has 1,000
test images of a class, than on CIFAR-100, which has 100. The paper credits the diversity of features. But no
estimate from N samples exceeds log2 N bits, and log2 1000 - log2 100 = log2 10 = 3.32. So here the *same*
network and the *same* attacked images are measured with ever fewer images of each class. Only N changes.

N enters in three ways. The cap is log2 N. The estimator keeps floor(log2(N / 10)) random projections of a
layer (6 for 1,000 samples, 3 for 100). And with the same cells, fewer samples make the plug-in estimate
larger, even for layers whose samples are shuffled against each other. The sizes lie on either side of changes
in the number of projections, which isolates the second effect. The shuffled control shows the third.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import nn

from semirobust import attacks, dependence, paths, runs
from semirobust.edge import projected_dimensions
from semirobust.experiments import networks, tables
from semirobust.experiments.networks import NetworkConfig
from semirobust.training import PGD

EXPERIMENT = "saturation"


@dataclass(frozen=True)
class SaturationConfig:
    """One network, measured on ``attack``ed test images with ``per_class`` images of each class.

    ``subsamples``: random draws for each number (a single one where it takes all images). ``renormalise``,
    ``members``: options of the estimator.
    """

    network: NetworkConfig
    attack: PGD
    per_class: tuple[int, ...]
    subsamples: int
    shuffles: int = 3
    members: int = 1
    renormalise: bool = False
    seed: int = 0


#: they include the 100 and 1,000 of the two data sets, and both sides of the change from 3 to 4 projections
_CIFAR10 = (20, 50, 100, 159, 160, 200, 500, 1000)
_SIZES: dict[str, tuple[int, ...]] = {
    "quick": (20, 39, 40),
    "reference": _CIFAR10,
    "paper": _CIFAR10,
}
_NETWORKS = {"quick": ("digits",), "reference": ("cifar10-independent",), "paper": ("cifar10-resnet18",)}


def plans(profile: str) -> list[SaturationConfig]:
    """The robust network, measured twice: with the options of the semirobustness experiments for the
    estimator, and with the estimator's own defaults.
    """
    made, draws = [], 2 if profile == "quick" else 3
    for name in _NETWORKS[paths.check_profile(profile)]:
        pair = networks.PAIRS[profile][name]
        robust = SaturationConfig(pair.robust, pair.attack, _SIZES[profile], draws)
        made += [robust, replace(robust, members=10, renormalise=True)]
    return made


def run_network(config: SaturationConfig, *, say: runs.Say = runs.quiet) -> dict[str, Any]:
    """The rows: for each number of images per class and each draw, all consecutive pairs of layers.

    Raises ``ValueError`` where a class has fewer images than asked for.
    """
    test = networks.test_images(config.network)
    counts = torch.bincount(test.labels, minlength=len(test.classes))
    if max(config.per_class) > counts.min():
        raise ValueError(
            f"per_class asks for {max(config.per_class)} images of each class, and the test set has "
            f"{int(counts.min())} of class {int(counts.argmin())}; ask for fewer"
        )
    model, attacked, accuracy = _attacked(config.network, config.attack, say)
    rows = []
    for n in config.per_class:
        draws = 1 if n == int(counts.min()) == int(counts.max()) else config.subsamples
        for draw in range(draws):
            chosen = torch.from_numpy(subsample(test.labels.numpy(), n, [config.seed, n, draw]))
            found = dependence.class_conditional(
                model,
                attacked[chosen],
                test.labels[chosen],
                shuffles=config.shuffles,
                seed=draw,
                members=config.members,
                renormalise=config.renormalise,
            )
            rows.append({"per_class": n, "draw": draw} | _columns(found))
        say(f"{config.network.label} on {config.network.dataset}: {n} images of each class, {draws} draws")
    return {
        "layers": [[item.earlier, item.later] for item in found],
        "rows": rows,
        "projections": {str(n): projected_dimensions(n, 1 << 20, 1 << 20)[0] for n in config.per_class},
        "attacked_accuracy": accuracy,
        "n": len(test),
    }


@lru_cache(maxsize=1)
def _attacked(network: NetworkConfig, attack: PGD, say: runs.Say) -> tuple[nn.Module, torch.Tensor, float]:
    """(the trained network, its test images under PGD, its accuracy on them)."""
    model, _ = networks.trained(network, say=say)
    test = networks.test_images(network)
    attacked = attacks.perturb(model, test.images, test.labels, "pgd", seed=0, **asdict(attack))
    return model, attacked, attacks.evaluate(model, attacked, test.labels, "none").accuracy


def _columns(found: Sequence[dependence.LayerDependence]) -> dict[str, Any]:
    """The columns of a row: for each quantity a list over the pairs of layers, in bits."""
    rows = [item.record() for item in found]
    return {key: [row[key] for row in rows] for key in rows[0] if key != "layers"}


def subsample(labels: np.ndarray, n: int, seed: Sequence[int]) -> np.ndarray:
    """Sorted positions of n random samples of each class, without replacement, from integer labels [N]."""
    rng = np.random.default_rng(list(seed))
    drawn = [rng.permutation(np.flatnonzero(labels == label))[:n] for label in np.unique(labels)]
    return np.sort(np.concatenate(drawn))


def run(profile: str, *, say: runs.Say = runs.quiet) -> list[runs.Record]:
    """Compute (or load) all networks of a profile."""
    configs = dict(enumerate(plans(profile)))
    return list(runs.run_all(configs, run_network, experiment=EXPERIMENT, profile=profile, say=say).values())


def stored(profile: str) -> list[runs.Record]:
    """The records of a profile that are there, in the order of ``plans``. Computes nothing."""
    found = [runs.stored(config, experiment=EXPERIMENT, profile=profile) for config in plans(profile)]
    return [record for record in found if record]


# --- reading ---


def by_size(record: runs.Record, key: str = "bits") -> dict[int, np.ndarray]:
    """Images per class -> the values [draws, pairs of layers] of a column of the rows."""
    rows = record.metrics["rows"]
    return {
        n: np.array([row[key] for row in rows if row["per_class"] == n])
        for n in sorted({row["per_class"] for row in rows})
    }


def drop(record: runs.Record, large: int, small: int) -> dict[str, np.ndarray]:
    """What each pair of layers loses from ``large`` to ``small`` images per class: arrays [pairs], in bits.

    ``bits``: the mean over the draws at ``large`` minus that at ``small``. ``spread``: the standard deviation
    of a draw at ``small``. ``cap``: log2(large / small), what the cap loses. ``control``: what shuffled pairs
    lose. ``excess``: what the excess over the control loses.
    """
    bits, control, cap = (by_size(record, key) for key in ("bits", "control_bits", "cap_bits"))
    for n in (large, small):
        if n not in bits:
            raise ValueError(f"there are no rows with {n} images of each class; there are {list(bits)}")
    lost = {
        name: values[large].mean(0) - values[small].mean(0)
        for name, values in (("bits", bits), ("control", control), ("cap", cap))
    }
    spread = bits[small].std(0, ddof=1) if len(bits[small]) > 1 else np.full_like(lost["bits"], np.nan)
    return lost | {"excess": lost["bits"] - lost["control"], "spread": spread}


def printed_drops() -> list[dict[str, Any]]:
    """What the printed dependences of Table 1 lose from CIFAR-10 to CIFAR-100.

    One row for each network, n_fb and layer that is printed for both."""
    rows = tables.printed(1)
    drops = []
    for row in rows:
        other = [r for r in rows if r["dataset"] == "cifar100" and row["dataset"] == "cifar10"
                 and (r["network"], r["n_fb"]) == (row["network"], row["n_fb"])]  # fmt: skip
        for key in ("rho_n", "rho_n3", "rho_n7", "rho_n11"):
            if other and row[key] is not None and other[0][key] is not None:
                drops.append(
                    {"network": row["network"], "n_fb": row["n_fb"], "layer": key}
                    | {"cifar10": row[key], "cifar100": other[0][key], "drop": row[key] - other[0][key]}
                )
    return drops
