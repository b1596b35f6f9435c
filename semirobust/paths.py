"""Profiles and folders, one place for the library and the command line; imports nothing heavy.

Results, trained networks and figures lie in the project unless an environment variable moves them.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
PROFILES = ("quick", "reference", "paper")


class UsageError(ValueError):
    """What was asked for cannot work; the message says why and what to do. Nothing has been started."""


def unknown(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a name that is not one of `known`; it lists them, the closest first."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    return UsageError(f"unknown {kind} {name!r}{hint}; known: {', '.join(names) or 'none'}")


def check_profile(name: str) -> str:
    """The name, if it is one of PROFILES. Raises UsageError, a ValueError, listing them."""
    if name not in PROFILES:
        raise unknown("profile", name, PROFILES)
    return name


def project_root() -> Path:
    """The folder above the package if that is the project (it holds pyproject.toml), else the current one."""
    above = PACKAGE.parent
    return above if (above / "pyproject.toml").is_file() else Path.cwd()


def results_root(root: Path | None = None) -> Path:
    """``$SEMIROBUST_RESULTS``, or ``results`` in the project (or in `root`)."""
    return _folder("SEMIROBUST_RESULTS", root, "results")


def cache_root(root: Path | None = None) -> Path:
    """``$SEMIROBUST_CACHE``, or ``.cache/networks`` in the project (or in `root`): trained networks."""
    return _folder("SEMIROBUST_CACHE", root, ".cache/networks")


def figures_root(root: Path | None = None) -> Path:
    """``$SEMIROBUST_FIGURES``, or ``figures`` in the project (or in `root`)."""
    return _folder("SEMIROBUST_FIGURES", root, "figures")


def _folder(variable: str, root: Path | None, default: str) -> Path:
    chosen = os.environ.get(variable)
    return Path(chosen).expanduser() if chosen else (root or project_root()) / default


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
