"""Identity and origin of a run: the hash of its configuration; versions, machine, commit and time.

A configuration is a frozen dataclass whose fields JSON can hold. Its hash is the sha256 of its canonical
JSON, with every default filled in and every field that does not change the numbers left out.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import platform
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from semirobust import paths
from semirobust.runs import storage

SCHEMA = 1  # part of every hash: raise it when the meaning of a configuration or the layout of a file changes
PACKAGES = ("numpy", "scipy", "torch", "torchattacks", "semirobust")


def canonical(config: Any) -> dict[str, Any]:
    """The configuration as plain values: its class name under ``class``, then every meaningful field.

    Nested dataclasses are treated alike; tuples become lists. Fields declared with
    ``field(metadata={"semantic": False})`` (device, number of threads, folders) are left out. Fields with
    ``metadata={"later": True}`` were added after results had been stored; they are left out while they have
    their default. Raises TypeError for anything but a frozen dataclass of values that JSON can hold,
    ValueError for a field that is NaN.
    """
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise TypeError(f"a configuration is an instance of a frozen dataclass, not {config!r}")
    if not type(config).__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise TypeError(
            f"{type(config).__name__} can change after it is hashed: declare it @dataclass(frozen=True)"
        )
    fields = [
        f
        for f in dataclasses.fields(config)
        if f.metadata.get("semantic", True)
        and not (f.metadata.get("later") and getattr(config, f.name) == f.default)
    ]
    name = type(config).__name__
    return {"class": name} | {
        f.name: _canonical_value(getattr(config, f.name), f"{name}.{f.name}") for f in fields
    }


def _canonical_value(value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return canonical(value)
    if isinstance(value, list | tuple):
        return [_canonical_value(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _canonical_value(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, float):
        if math.isnan(value):
            raise ValueError(f"{where} is NaN, which cannot name a run: use None or a number")
        # 1 and 1.0 are equal, and mean the same run
        return int(value) if value.is_integer() else float(value)
    if value is None or isinstance(value, bool | int | str):
        return value
    raise TypeError(
        f"{where} is a {type(value).__name__}: a configuration holds numbers, strings, booleans, None, "
        "tuples, mappings with string keys and frozen dataclasses; a field that changes no number is "
        "declared field(metadata={'semantic': False})"
    )


def config_hash(config: Any) -> str:
    """12 hexadecimal digits that name the configuration (errors as in `canonical`)."""
    text = storage.json_text({"schema": SCHEMA, "config": canonical(config)}, indent=None)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def provenance() -> dict[str, Any]:
    """Versions, machine, threads, git commit of the code (None outside a checkout) and the time in UTC."""
    return {
        "versions": versions(),
        "machine": {
            "cpu": _cpu_name(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "threads": torch.get_num_threads(),
        },
        "git": _git_state(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that numbers depend on; None for one that is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def _cpu_name() -> str:
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine()


def _git_state() -> dict[str, Any] | None:
    if paths.checkout() is None:
        return None  # an installed copy: a repository around it is not the one of this code
    try:
        commit, changes = (
            subprocess.run(
                ["git", "-C", paths.PACKAGE, *words], capture_output=True, text=True, check=True, timeout=30
            ).stdout.strip()
            for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "--", "."))
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "dirty": bool(changes)}
