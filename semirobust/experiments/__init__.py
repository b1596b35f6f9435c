"""Experiments: one frozen configuration per table row or figure; no other module knows a table of the
papers."""

from __future__ import annotations

from collections.abc import Callable

from semirobust import runs

Say = Callable[[str], None]


def _algorithm_1(profile: str, say: Say) -> None:
    from semirobust.experiments import algorithm_1

    for plan in algorithm_1.plans(profile):
        algorithm_1.run_plan(plan, profile, say=say)


#: name -> function(profile, say) that computes or loads all its runs
EXPERIMENTS: dict[str, Callable[[str, Say], None]] = {"algorithm_1": _algorithm_1}


def main(name: str, profile: str, *, say: Say = lambda line: None) -> None:
    """Run (or resume) an experiment; ``say`` gets a line for each epoch and each finished run.

    Raises ``ValueError`` for an unknown name or profile, listing the known ones.
    """
    if name not in EXPERIMENTS:
        raise ValueError(f"unknown experiment {name!r}; known: {', '.join(EXPERIMENTS)}")
    EXPERIMENTS[name](runs.check_profile(profile), say)
