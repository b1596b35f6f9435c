"""Experiments: one frozen configuration per table row or figure.

No other package knows a table of the papers. The files for arXiv 2307.03803 (semirobustness):

algorithm_1         Algorithm 1, Tables 1 and 3: the configuration of each profile; one trial
controls            causal controls of Algorithm 1, and long trials
table_2             Table 2: the configuration of each profile, and its rows
algorithm_2         one run behind Table 2: the readouts of one network under one attack
lineage             how far f_a* may stray from f_a before f_b no longer fits behind it
figure_1            Figure 1: dependence after fine-tuning, by size of f_b and by attack
layerwise           robust correlation and dependence, layer by layer (Theorem 2)
performance         what another f_b costs, beside the bounds (15), (16) and (17)
known_truths        every estimator of dependence on laws of known mutual information
saturation          whether the estimator's cap explains CIFAR-10 against CIFAR-100
prediction          whether a measure of dependence predicts that fine-tuning succeeds
replication         the tests on the trials of `prediction`
networks            the networks that these experiments share: committed, cached or trained now
tables              the printed tables, and ours in the same columns
sentences           the sentences about the tables, counted in printed rows and in ours
printed             the numbers of Tables 1 to 3 as the paper prints them (CSV)
verdicts            verdicts on single images as results store them

The files for the paper on fixed feature extractors, and for both papers together (`ceiling`):

extractor_networks  the networks for two classes that these experiments share
feature_bounds      lower bounds on the robust loss behind each layer (Figures 2 to 11)
other_images        the same bounds from other images of the same data set
small_convolutions  bounds behind convolutions, pools and residual blocks of small networks
bound_curves        the stored bounds as curves: differences, crossings, tables
first_layer         the paper's sentences about the first linear layer, checked
ceiling             ceilings on semirobustness from collisions, and what readouts reach
ceiling_curves      the stored ceilings and readouts, compared
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from semirobust import paths, runs

#: the modules of this package that make results, in a sensible order to run them; each has ``plans`` and
#: ``run_plan``, or ``run`` for all of a profile
EXPERIMENTS = (
    "algorithm_1",
    "controls",
    "lineage",
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


def main(name: str, profile: str, *, say: runs.Say = runs.quiet) -> None:
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
    """(profile, outcome) of every plan of an experiment whose records are all stored. Computes nothing.

    The plans of ``profile`` come first, then those of ``reference`` and ``paper``.
    """
    experiment = import_module(f"{__name__}.{name}")
    wanted = dict.fromkeys([paths.check_profile(profile), "reference", "paper"])
    found = ((where, experiment.stored(plan, where)) for where in wanted for plan in experiment.plans(where))
    return [(where, outcome) for where, outcome in found if outcome is not None]
