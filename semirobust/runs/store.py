"""The store of results and trained networks: one JSON per run, and a cache of networks.

A configuration is a frozen dataclass whose fields JSON can hold. Its hash names the result
``results/PROFILE/EXPERIMENT/HASH.json`` or the trained network ``HASH.safetensors``. A result that is already
there is loaded, not computed. If two processes want the same result, only one computes it. A damaged file is
reported, renamed to ``*.corrupt`` and computed again. The folders are those of `semirobust.paths`.
"""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from semirobust.paths import cache_root, check_profile, results_root, weights_root
from semirobust.runs import files, storage
from semirobust.runs.provenance import SCHEMA, canonical, config_hash, provenance

_REPAIR = "install the package again, or check the file out of git again"
K = TypeVar("K")
T = TypeVar("T")
Say = Callable[[str], None]  # takes a line on what has just been done
TrainingResult = Mapping[str, Tensor] | tuple[Mapping[str, Tensor], Mapping[str, Any]]


def quiet(line: str) -> None:
    """Say nothing."""


@dataclass(frozen=True)
class Record:
    """One stored run: its configuration, what it measured, and how it was made (versions, machine, time)."""

    config: dict[str, Any]
    metrics: dict[str, Any]
    meta: dict[str, Any]
    path: Path


# --- results ---


def run(
    config: Any,
    function: Callable[[Any], Mapping[str, Any]],
    *,
    experiment: str,
    profile: str,
    force: bool = False,
) -> Record:
    """The stored result of ``function(config)``; computed now if there is none, or if `force`.

    `function` returns a mapping that JSON can hold (NumPy and torch values are converted). If it raises,
    the exception is passed on, no result is stored, and the traceback is kept in the same folder as
    ``HASH.error.json`` until the run succeeds. Raises ValueError for an unknown profile, TypeError for a
    bad configuration, and OSError for a folder that cannot be written, all before any work starts.
    """
    expected = canonical(config)
    path = _experiment_folder(experiment, profile) / f"{config_hash(config)}.json"
    if not force and (record := _stored(path, lambda: _load(path, expected))):
        return record
    with files.lock(path):
        if not force and (record := _stored(path, lambda: _load(path, expected), discard=True)):
            return record  # another process made it while this one waited
        errors = path.with_suffix(".error.json")
        entry = {"schema": SCHEMA, "experiment": experiment, "profile": profile, "config": expected}
        entry |= {"seed": getattr(config, "seed", None)} | provenance()
        start = time.perf_counter()
        try:
            metrics = function(config)
            if not isinstance(metrics, Mapping):
                raise TypeError(f"{experiment}: a run returns a mapping, not a {type(metrics).__name__}")
            seconds = round(time.perf_counter() - start, 3)
            storage.write_json(path, entry | {"status": "ok", "metrics": metrics, "wall_time_s": seconds})
        except Exception:
            with suppress(OSError):  # the exception itself matters more
                storage.write_json(errors, entry | {"status": "error", "error": traceback.format_exc()})
            raise
        errors.unlink(missing_ok=True)
        return _load(path, expected)


def find(experiment: str, profile: str) -> list[Record]:
    """All stored runs of an experiment, in the order of their hashes; empty if it was not run.

    Raises CorruptFile if one of them is damaged, so that a table never silently lacks a row.
    """
    folder = _experiment_folder(experiment, profile)
    return [_load(path) for path in sorted(folder.glob("*.json")) if re.fullmatch(r"[0-9a-f]{12}", path.stem)]


def stored(config: Any, *, experiment: str, profile: str) -> Record | None:
    """The stored run of one configuration; None if there is none. Computes nothing, reads no other run.

    Raises CorruptFile if it is damaged or holds another configuration.
    """
    path = _experiment_folder(experiment, profile) / f"{config_hash(config)}.json"
    return _load(path, canonical(config)) if path.is_file() else None


def run_all(
    configs: Mapping[K, Any],
    function: Callable[..., Mapping[str, Any]],
    *,
    experiment: str,
    profile: str,
    say: Say = quiet,
) -> dict[K, Record]:
    """`run` of each configuration under its key, with ``say`` handed on to ``function(config, say=say)``."""
    found = {}
    for key, config in configs.items():
        found[key] = run(config, partial(function, say=say), experiment=experiment, profile=profile)
        say(f"{experiment}, {key}: {found[key].path.name}")
    return found


def stored_all(configs: Mapping[K, Any], *, experiment: str, profile: str) -> dict[K, Record] | None:
    """`stored` of each configuration under its key; None where one is missing. Computes nothing."""
    found = {key: stored(config, experiment=experiment, profile=profile) for key, config in configs.items()}
    there = {key: record for key, record in found.items() if record}
    return there if len(there) == len(found) else None


def collate(experiment: str, profile: str) -> list[dict[str, Any]]:
    """One flat row per stored run: hash, seed, wall time, ``config.*`` and ``metrics.*`` with dotted keys."""
    rows = []
    for record in find(experiment, profile):
        row = {"experiment": experiment, "profile": profile, "hash": record.path.stem}
        row |= {key: record.meta[key] for key in ("seed", "wall_time_s")}
        rows.append(row | _flat("config", record.config) | _flat("metrics", record.metrics))
    return rows


def write_csv(rows: Iterable[Mapping[str, Any]], path: str | os.PathLike[str]) -> Path:
    """Writes rows as CSV, atomically; returns the path.

    Columns are those of all rows, in the order first seen. Lists are written as JSON, None and missing
    values as empty.
    """
    rows = list(rows)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        as_text = {key: storage.json_text(v, indent=None) for key, v in row.items() if isinstance(v, list)}
        writer.writerow({**row, **as_text})
    return files.write_atomic(path, text.getvalue().encode())


def step(path: Path, compute: Callable[[], Any]) -> Any:
    """A part of a long run: the JSON value at `path`, or that of ``compute()``, written there.

    A damaged file is reported, renamed to ``*.corrupt`` and made again. The caller removes the folder of its
    parts when the whole run is stored.
    """
    if found := _stored(path, lambda: [storage.read_json(path)], discard=True):
        return found[0]
    storage.write_json(path, compute())
    return storage.read_json(path)


def _flat(prefix: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    return {name: item for key in value for name, item in _flat(f"{prefix}.{key}", value[key]).items()}


def _experiment_folder(experiment: str, profile: str) -> Path:
    check_profile(profile)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", experiment):
        raise ValueError(f"{experiment!r} cannot name an experiment: use letters, digits, '_' and '-'")
    return results_root() / profile / experiment


def _load(path: Path, expected: dict[str, Any] | None = None) -> Record:
    """Reads one result; raises CorruptFile for a damaged one, another schema, or another configuration."""
    meta = storage.read_json(path)
    parts = [meta.get(key) for key in ("config", "metrics")] if isinstance(meta, dict) else []
    if not all(isinstance(part, dict) for part in parts) or len(parts) < 2:
        raise storage.CorruptFile(path, "it is not a result: its metrics or its configuration are missing")
    if meta.get("schema") != SCHEMA:
        raise storage.CorruptFile(path, f"its schema is {meta.get('schema')} where {SCHEMA} is read")
    config, metrics = meta.pop("config"), meta.pop("metrics")
    if expected is not None and config != expected:
        raise storage.CorruptFile(path, "it holds another configuration than its name says")
    return Record(config=config, metrics=metrics, meta=meta, path=path)


def _stored(path: Path, load: Callable[[], T], discard: bool = False) -> T | None:
    """The result of `load` for the file at `path`, or None.

    A damaged file counts as missing; with `discard` it is also reported and moved aside.
    """
    try:
        return load()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except storage.CorruptFile as error:
        if discard:
            aside = path.with_name(f"{path.name}.corrupt")
            os.replace(path, aside)
            warnings.warn(
                f"{path}: {error.reason}; kept as {aside.name}, made again", RuntimeWarning, stacklevel=3
            )
        return None


# --- networks ---


def network(
    config: Any, train: Callable[[Any, Path], TrainingResult]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The trained network of a configuration, cached or trained now: (state dict on the CPU, metadata).

    ``train(config, checkpoints)`` returns a state dict, or a state dict and a log (a mapping that JSON can
    hold). ``checkpoints`` is a folder for this training only; it stays if the training is killed, and is
    removed when it has finished. The metadata holds ``config``, ``log``, ``wall_time_s`` (of the last,
    resumed call), the versions and the machine, and ``sha256``, the checksum of the cached file. Errors as in
    `run`.
    """
    expected = canonical(config)
    path = cache_root() / f"{config_hash(config)}.safetensors"

    def load() -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors, meta = storage.load_tensors(path)
        if meta.get("config") != expected:
            raise storage.CorruptFile(path, "it holds another configuration than its name says")
        return tensors, meta | {"sha256": storage.sha256(path)}

    if found := _stored(path, load):
        return found
    with files.lock(path):
        if found := _stored(path, load, discard=True):
            return found
        meta = {"schema": SCHEMA, "config": expected} | provenance()
        checkpoints = path.with_suffix(".checkpoints")
        checkpoints.mkdir(exist_ok=True)
        start = time.perf_counter()
        result = train(config, checkpoints)
        state, log = result if isinstance(result, tuple) else (result, {})
        meta |= {"log": log, "wall_time_s": round(time.perf_counter() - start, 3)}
        storage.save_tensors(path, state, meta)
        shutil.rmtree(checkpoints, ignore_errors=True)
        return load()


def committed_weights() -> dict[str, str]:
    """Name -> sha256 of each committed network, from ``weights/SHA256SUMS`` in the package.

    Raises FileNotFoundError if that list is missing.
    """
    sums = weights_root() / "SHA256SUMS"
    if not sums.is_file():
        raise FileNotFoundError(f"{sums} is missing, so no committed network can be trusted: {_REPAIR}")
    lines = (line.split() for line in sums.read_text().splitlines())
    return {line[1].lstrip("*").removesuffix(".safetensors"): line[0] for line in lines if len(line) == 2}


def reference_weights(name: str, config: Any = None) -> dict[str, Tensor]:
    """The float32 state dict of a committed network, ``weights/NAME.safetensors`` (stored in half precision).

    Raises ValueError for a name that is not listed in ``weights/SHA256SUMS``, FileNotFoundError
    if a listed file is missing, and CorruptFile if its checksum differs, or if it was trained by another
    configuration than ``config`` (None: not compared).
    """
    listed = committed_weights()
    if name not in listed:
        raise ValueError(f"no reference weights {name!r}; there are: {', '.join(sorted(listed)) or 'none'}")
    path = weights_root() / f"{name}.safetensors"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: {_REPAIR}")
    if storage.sha256(path) != listed[name]:
        raise storage.CorruptFile(path, "its sha256 is not the one in SHA256SUMS", _REPAIR)
    tensors, meta = storage.load_tensors(path)
    if config is not None and meta.get("config") != canonical(config):
        remedy = "train it by its new configuration, and write it with python -m tools.weights"
        raise storage.CorruptFile(path, "it was trained by another configuration", remedy)
    return {key: t.float() if t.is_floating_point() else t for key, t in tensors.items()}
