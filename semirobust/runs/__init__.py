"""Runs and their results: one JSON for each run, and a cache of trained networks.

A configuration is a frozen dataclass whose fields JSON can hold. Its hash names the result
``results/PROFILE/EXPERIMENT/HASH.json`` or the trained network ``HASH.safetensors``.

store       ``run``, ``find``, ``stored``, ``step``, ``network``, ``reference_weights``, ``collate``
storage     JSON and safetensors with checksums; an error that names a damaged file
files       atomic writing of files, and locks between processes
provenance  hashes of configurations; versions, machine and commit of a run
markdown    rows as a Markdown table
"""

from __future__ import annotations

from semirobust.runs.files import lock, write_atomic
from semirobust.runs.markdown import markdown_table
from semirobust.runs.provenance import SCHEMA, canonical, config_hash, versions
from semirobust.runs.storage import (
    CorruptFile,
    json_text,
    load_tensors,
    read_json,
    save_tensors,
    sha256,
    write_json,
)
from semirobust.runs.store import (
    Record,
    Say,
    collate,
    committed_weights,
    find,
    network,
    quiet,
    reference_weights,
    run,
    run_all,
    step,
    stored,
    stored_all,
    write_csv,
)

__all__ = [
    "SCHEMA",
    "CorruptFile",
    "Record",
    "Say",
    "canonical",
    "collate",
    "committed_weights",
    "config_hash",
    "find",
    "json_text",
    "load_tensors",
    "lock",
    "markdown_table",
    "network",
    "quiet",
    "read_json",
    "reference_weights",
    "run",
    "run_all",
    "save_tensors",
    "sha256",
    "step",
    "stored",
    "stored_all",
    "versions",
    "write_atomic",
    "write_csv",
    "write_json",
]
