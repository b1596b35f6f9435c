"""Experiments: one frozen configuration per table row or figure; no other module knows a table of the
papers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from semirobust import runs


def _algorithm_1(profile: str) -> Any:
    from semirobust.experiments import algorithm_1

    return algorithm_1.main(profile)


#: name -> function(profile) that computes or loads all its runs
EXPERIMENTS: dict[str, Callable[[str], Any]] = {"algorithm_1": _algorithm_1}


def main(name: str, profile: str) -> Any:
    """Run (or resume) an experiment. Raises ``ValueError`` for an unknown name or profile, listing the known
    ones."""
    if name not in EXPERIMENTS:
        raise ValueError(f"unknown experiment {name!r}; known: {', '.join(EXPERIMENTS)}")
    return EXPERIMENTS[name](runs.check_profile(profile))
