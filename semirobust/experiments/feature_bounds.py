"""Lower bounds on the robust loss behind each layer of a trained network.

Figures 2 to 11 of the paper on fixed feature extractors. The points are the first training images of each
class, equally likely. Behind linear layers the bounds are exact and use thousands of images a class. Behind
ReLUs they use hundreds, and collisions are searched where they can move the bound (`collisions.pairs`). A
collision of a layer is also a collision of the next one, so each search starts from those known already.

The paper leaves the number of images and the budgets open; both are chosen here. The budgets are chosen so
that the bound on the images themselves goes from zero to its largest value.
"""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from semirobust import collisions, conflict, extractors, paths, runs
from semirobust.collisions import Search, linear_distances
from semirobust.experiments import extractor_networks
from semirobust.experiments.extractor_networks import ExtractorConfig
from semirobust.extractors import Array
from semirobust.paths import cores

EXPERIMENT = "feature_bounds"

#: the representations, in order: name -> (weight layers, a ReLU behind the last of them)
LAYERS: dict[str, tuple[int, bool]] = {
    "input": (0, False),
    "linear_1": (1, False),
    "relu_1": (1, True),
    "linear_2": (2, False),
    "relu_2": (2, True),
}
NAMES = {
    "input": "images",
    "linear_1": "first linear layer",
    "relu_1": "first ReLU",
    "linear_2": "second linear layer",
    "relu_2": "second ReLU",
}
#: quantiles of the distances of all pairs that are kept
QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class BoundsConfig:
    """The bounds behind some layers of one network, at l2 ``budgets`` in pixels.

    The points are the first ``per_class`` training images of each class (all there are, where there are
    fewer). ``audited``: how many of the excluded pairs are searched after all, as a check.
    """

    network: ExtractorConfig
    layers: tuple[str, ...]
    per_class: int
    budgets: tuple[float, ...]
    audited: int = 256
    seed: int = 0


@dataclass(frozen=True)
class Scale:
    """The scale of a profile: its data sets, the images of each class for linear layers and behind ReLUs, and
    the pairs of an audit."""

    datasets: tuple[str, ...]
    linear: int
    relu: int
    audited: int


_PRINTED = Scale(("mnist", "fashion_mnist"), 5000, 400, 256)
SCALES = {"quick": Scale(("digits",), 5000, 40, 40), "reference": _PRINTED, "paper": _PRINTED}

#: the largest budget: there the bound on the images themselves reaches its largest value
_LARGEST = {"digits": 5.0, "mnist": 6.0, "fashion_mnist": 7.5}
STEP = 0.25


def budgets(dataset: str) -> tuple[float, ...]:
    """The l2 budgets of a data set, in pixels."""
    return tuple(STEP * i for i in range(round(_LARGEST[dataset] / STEP) + 1))


def linear(profile: str, dataset: str, network: str, *, layer: str = "linear_1") -> BoundsConfig:
    """An exact bound: behind the first linear layer of a network (``fcnn-pgd-2``), or on the images."""
    found = extractor_networks.NETWORKS[paths.check_profile(profile)][f"{dataset}-{network}"]
    return BoundsConfig(found, (layer,), SCALES[profile].linear, budgets(dataset))


#: networks with the bounds of all their layers
EVERY_LAYER = ("fcnn-benign", "fcnn-pgd-2")


def deep(profile: str, dataset: str, network: str) -> BoundsConfig:
    """The bounds behind the layers of a fully connected network, ReLUs included, on fewer images."""
    found = extractor_networks.NETWORKS[paths.check_profile(profile)][f"{dataset}-{network}"]
    if network in EVERY_LAYER:
        layers = tuple(LAYERS)
    elif network.startswith("fcnn-"):
        layers = ("linear_1", "relu_2")
    else:
        layers = ("linear_1", "relu_1", "relu_2")
    return BoundsConfig(found, layers, SCALES[profile].relu, budgets(dataset), SCALES[profile].audited)


def names(profile: str, dataset: str, architecture: str) -> list[str]:
    """The networks of an architecture, ``fcnn``: ``fcnn-benign``, ``fcnn-pgd-1`` and so on."""
    known = extractor_networks.NETWORKS[paths.check_profile(profile)]
    start = f"{dataset}-{architecture}-"
    return [name.removeprefix(f"{dataset}-") for name in known if name.startswith(start)]


def plans(profile: str) -> list[BoundsConfig]:
    """All bounds of a profile."""
    made = []
    for dataset in SCALES[paths.check_profile(profile)].datasets:
        fcnn, cnn = names(profile, dataset, "fcnn"), names(profile, dataset, "cnn")
        made.append(linear(profile, dataset, "fcnn-benign", layer="input"))
        made += [linear(profile, dataset, name) for name in (*fcnn, *cnn)]
        narrow = [n for width in ("fcnn_small", "fcnn_smaller") for n in names(profile, dataset, width)]
        made += [deep(profile, dataset, name) for name in (*fcnn, *narrow)]
    return made


# --- computing ---


def run_bounds(config: BoundsConfig, *, skip: int = 0, say: runs.Say = runs.quiet) -> dict[str, Any]:
    """The bounds behind each layer, and how they were found.

    At each budget: the 0-1 loss, the cross-entropy in nats and the edges. Besides: how many pairs were
    searched, and what the audit found. A killed run resumes where it stopped; the chunks that it keeps for
    this stay until `forget` removes them, once the result is on disk.

    skip: how many images of each class are left out first, for the same bounds from other images.
    """
    model, meta = extractor_networks.trained(config.network, say=say)
    positive, negative = points(config, skip=skip)
    label = f"{config.network.label} on {config.network.dataset}"
    search: Search | None = None
    folder = _chunks(config)
    found: dict[str, Any] = {}
    for name in config.layers:
        started = time.perf_counter()

        def tell(line: str, name: str = name) -> None:
            say(f"{label}, {NAMES[name]}: {line}")

        row, search = _layer(config, model, name, positive, negative, search, folder, tell)
        row["seconds"] = round(time.perf_counter() - started, 3)
        found[name] = row
        tell(f"0-1 loss up to {max(row['zero_one']):.3f}, {row['searched']} pairs searched")
    return {
        "n": [len(positive), len(negative)],
        "layers": found,
        "network": extractor_networks.last_epoch(meta),
    }


def _chunks(config: BoundsConfig) -> Path:
    return paths.cache_root() / f"{runs.config_hash(config)}.chunks"


def forget(config: BoundsConfig) -> None:
    """Removes the chunks of pairs that `run_bounds` kept."""
    shutil.rmtree(_chunks(config), ignore_errors=True)


def _layer(
    config: BoundsConfig,
    model: Any,
    name: str,
    positive: Array,
    negative: Array,
    after: Search | None,
    folder: Any,
    say: runs.Say,
) -> tuple[dict[str, Any], Search | None]:
    depth, rectified = LAYERS[name]
    shape = extractor_networks.images(config.network, "train").shape
    if depth < 2 and not rectified:
        weight = (
            np.eye(positive.shape[1]) if depth == 0 else extractors.as_layers(model, shape, depth=1)[0][0]
        )
        epsilon, search = linear_distances(weight, positive, negative), None
        curve = conflict.curve(epsilon, config.budgets, say=say)
        row = curve.record() | {"pairs": epsilon.size, "searched": 0, "audit": None}
    else:
        search = collisions.search(
            extractors.as_layers(model, shape, depth=depth),
            positive,
            negative,
            config.budgets,
            rectified=rectified,
            after=after,
            folder=folder,
            processes=_processes(),
            seed=config.seed,
            say=say,
            audited=config.audited,
        )
        epsilon, row = search.epsilon, search.record()
    return row | {"quantiles": np.quantile(epsilon, QUANTILES)}, search


def points(config: BoundsConfig, *, skip: int = 0) -> tuple[Array, Array]:
    """The first ``per_class`` training images of each class after ``skip``, flattened: float64 [N, d], in
    [0, 1]."""
    train = extractor_networks.images(config.network, "train")
    first, second = extractor_networks.vectors(train, config.per_class, skip=skip)
    return first.double().numpy(), second.double().numpy()


def _processes() -> int:
    """One process for each core, or one if one thread was asked for (notebooks that run side by side)."""
    return 1 if os.environ.get("OMP_NUM_THREADS") == "1" else cores()


# --- running and reading ---


def run_config(config: BoundsConfig, profile: str, *, say: runs.Say = runs.quiet) -> runs.Record:
    """The bounds of one configuration: stored, or computed now where they are missing."""
    made = runs.run(config, lambda one: run_bounds(one, say=say), experiment=EXPERIMENT, profile=profile)
    forget(config)
    return made


def run(profile: str, *, say: runs.Say = runs.quiet) -> list[runs.Record]:
    """All bounds of a profile."""
    return [run_config(config, profile, say=say) for config in plans(profile)]


def stored(config: BoundsConfig, profile: str) -> runs.Record | None:
    """The stored bounds of one configuration; None where there are none. Computes nothing."""
    return runs.stored(config, experiment=EXPERIMENT, profile=profile)
