"""Experiments: one frozen configuration per table row or figure; no other module knows a table of the
papers."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from semirobust import paths

Say = Callable[[str], None]

#: the modules of this package that make results, in a sensible order; each has ``plans`` and ``run_plan``,
#: or ``run`` for all of a profile
EXPERIMENTS = (
    "algorithm_1",
    "subsequent",
    "layerwise",
    "performance",
    "known_truths",
    "saturation",
    "prediction",
    "figure_1",
    "table_2",
    "feature_bounds",
    "other_images",
    "ceiling",
)


def main(name: str, profile: str, *, say: Say = lambda line: None) -> None:
    """Run (or resume) an experiment; ``say`` gets a line for each epoch and each finished run.

    Raises ``ValueError`` for an unknown name or profile, listing the known ones.
    """
    if name not in EXPERIMENTS:
        raise ValueError(f"unknown experiment {name!r}; known: {', '.join(EXPERIMENTS)}")
    paths.check_profile(profile)
    experiment = import_module(f"{__name__}.{name}")  # on demand: some need torch, others are quick to load
    if hasattr(experiment, "run_plan"):
        for plan in experiment.plans(profile):
            experiment.run_plan(plan, profile, say=say)
    else:
        experiment.run(profile, say=say)


def stored_outcomes(name: str, profile: str) -> list[tuple[str, Any]]:
    """(profile, outcome) of every plan of an experiment whose records are all stored: those of ``profile``,
    then of ``reference`` and ``paper``. Computes nothing.
    """
    experiment = import_module(f"{__name__}.{name}")
    wanted = dict.fromkeys([paths.check_profile(profile), "reference", "paper"])
    found = ((where, experiment.stored(plan, where)) for where in wanted for plan in experiment.plans(where))
    return [(where, outcome) for where, outcome in found if outcome is not None]
