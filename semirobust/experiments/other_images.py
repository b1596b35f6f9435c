"""The bounds of `feature_bounds` from other images of the same data set.

They show how much of a difference between two curves is due to the choice of images. The points of a
configuration are the first images of each class; here they are the next images, as many of them. Pairs that
only the guess of `collisions.pairs` excluded are not audited again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from semirobust import paths, runs
from semirobust.experiments import feature_bounds
from semirobust.experiments.feature_bounds import BoundsConfig

EXPERIMENT = "feature_bounds_other_images"

#: network -> the layers that notebooks 24 to 26 also read from other images
LAYERS: dict[str, tuple[tuple[str, ...], ...]] = {
    **dict.fromkeys(feature_bounds.EVERY_LAYER, (tuple(feature_bounds.NAMES), ("input", "linear_1"))),
    "fcnn-trades-2": (("linear_1", "relu_2"),),
    **{
        f"{width}-{training}": (("input", "linear_1"),)
        for width in ("fcnn_small", "fcnn_smaller")
        for training in ("benign", "pgd-2")
    },
}


@dataclass(frozen=True)
class OtherImages:
    """The bounds of a configuration, from the images after the first ``skip`` of each class."""

    bounds: BoundsConfig
    skip: int


def plan(config: BoundsConfig, layers: tuple[str, ...]) -> OtherImages:
    """Some layers of a configuration, from the next images after its own, and as many of them."""
    return OtherImages(replace(config, layers=layers, audited=0), config.per_class)


def run_config(
    config: BoundsConfig, layers: tuple[str, ...], profile: str, *, say: runs.Say = runs.quiet
) -> runs.Record:
    """The bounds from other images: stored, or computed now where they are missing.

    The configuration and the metrics have the form of those of `feature_bounds.run_config`."""
    found = runs.run(
        plan(config, layers),
        lambda made: feature_bounds.run_bounds(made.bounds, skip=made.skip, say=say),
        experiment=EXPERIMENT,
        profile=profile,
    )
    feature_bounds.forget(plan(config, layers).bounds)
    return _as_bounds(found)


def plans(profile: str) -> list[OtherImages]:
    """All bounds from other images of a profile."""
    return [
        plan(feature_bounds.deep(profile, dataset, network), layers)
        for dataset in feature_bounds.SCALES[paths.check_profile(profile)].datasets
        for network, choices in LAYERS.items()
        for layers in choices
    ]


def run(profile: str, *, say: runs.Say = runs.quiet) -> list[runs.Record]:
    """The bounds from other images of a profile: stored, or computed now."""
    bounds = [made.bounds for made in plans(profile)]
    return [run_config(made, made.layers, profile, say=say) for made in bounds]


def stored(config: BoundsConfig, layers: tuple[str, ...], profile: str) -> runs.Record | None:
    """The stored bounds from other images; None where there are none. Computes nothing."""
    found = runs.stored(plan(config, layers), experiment=EXPERIMENT, profile=profile)
    return None if found is None else _as_bounds(found)


def _as_bounds(record: runs.Record) -> runs.Record:
    return replace(record, config=record.config["bounds"])
