"""Profiles, folders and the number of cores, for the library and the command line; imports nothing heavy.

In a checkout, results, figures and trained networks are stored in the project; otherwise in the user's own
folders. The environment variables of `VARIABLES` move each of them.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import platformdirs

PACKAGE = Path(__file__).resolve().parent
PROFILES = ("quick", "reference", "paper")

#: environment variable -> what it moves (`semirobust.data` reads SEMIROBUST_DATA)
VARIABLES = {
    "SEMIROBUST_RESULTS": "results, one JSON for each run",
    "SEMIROBUST_FIGURES": "figures",
    "SEMIROBUST_CACHE": "trained networks and unfinished runs",
    "SEMIROBUST_DATA": "image data sets",
}


class UsageError(ValueError):
    """A request that cannot work; the message says why and what to do. Nothing has been started."""


def unknown(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a name that is not one of `known`; it lists them, and suggests the closest."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    return UsageError(f"unknown {kind} {name!r}{hint}; known: {', '.join(names) or 'none'}")


def check_profile(name: str) -> str:
    """The name, if it is one of PROFILES. Raises UsageError, a ValueError, listing them."""
    if name not in PROFILES:
        raise unknown("profile", name, PROFILES)
    return name


def checkout() -> Path | None:
    """The folder that holds the package and pyproject.toml; None where the package is installed."""
    return PACKAGE.parent if (PACKAGE.parent / "pyproject.toml").is_file() else None


def results_root() -> Path:
    """``$SEMIROBUST_RESULTS``, else ``results`` in the checkout, else in the user's data folder."""
    return _folder("SEMIROBUST_RESULTS", "results", platformdirs.user_data_path)


def figures_root() -> Path:
    """``$SEMIROBUST_FIGURES``, else ``figures`` in the checkout, else in the user's data folder."""
    return _folder("SEMIROBUST_FIGURES", "figures", platformdirs.user_data_path)


def cache_root() -> Path:
    """``$SEMIROBUST_CACHE``, else ``.cache/networks`` in the checkout, else in the user's cache folder."""
    return _folder("SEMIROBUST_CACHE", ".cache/networks", platformdirs.user_cache_path)


def weights_root() -> Path:
    """The committed reference networks, part of the package."""
    return PACKAGE / "weights"


def given(variable: str) -> Path | None:
    """The folder that an environment variable names, as an absolute path; None where it is not set."""
    chosen = os.environ.get(variable)
    return Path(chosen).expanduser().resolve() if chosen else None


def _folder(variable: str, default: str, users: Callable[[str], Path]) -> Path:
    top = checkout()
    fallback = top / default if top is not None else users("semirobust") / Path(default).name
    return given(variable) or fallback


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
