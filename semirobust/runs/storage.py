"""JSON and safetensors files: strict, written atomically, and checked when read.

A process killed at any moment leaves either the old file or the new one, never half of it
(`files.write_atomic`). Tensors are stored with a checksum. A damaged file raises `CorruptFile`, which names
the file and says what to do.

JSON cannot write a float that is not finite, and `null` would not tell which one it was. Such a float is
stored without loss as ``{"$float": "nan"}``, ``{"$float": "inf"}`` or ``{"$float": "-inf"}``. So a vacuous
(infinite) bound stays infinite, every file is valid JSON, and `read_json` gives the float back.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from semirobust.runs.files import write_atomic


class CorruptFile(ValueError):
    """A file that exists but cannot be trusted: `path` is the file, `reason` what is wrong with it."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        reason: str,
        remedy: str = "delete it and run again, and it is made anew",
    ) -> None:
        super().__init__(path, reason, remedy)  # all three, so that it can be sent between processes
        self.path = Path(path)
        self.reason = reason
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.path} is corrupt or truncated ({self.reason}): {self.remedy}"


# --- JSON ---


def _plain(value: Any, where: str) -> Any:
    """The same value in JSON types: scalars become numbers; arrays, tensors and tuples become lists."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"$float": repr(float(value))}
    if isinstance(value, Tensor):
        return _plain(value.detach().cpu().tolist(), where)
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist(), where)
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str) or key == "$float":
                raise TypeError(f"{where} has the key {key!r}: use strings other than '$float' as keys")
        return {str(key): _plain(item, f"{where}.{key}") for key, item in value.items()}
    raise TypeError(
        f"{where} is a {type(value).__name__}, which JSON cannot hold: "
        "give numbers, strings, booleans, None, lists, mappings, arrays or tensors"
    )


def _untag(mapping: dict[str, Any]) -> Any:
    if "$float" in mapping:
        if len(mapping) > 1 or mapping["$float"] not in ("nan", "inf", "-inf"):
            raise ValueError("a '$float' entry is not one of 'nan', 'inf', '-inf'")
        return float(mapping["$float"])
    return mapping


def _refuse(word: str) -> float:
    raise ValueError(f"{word} is not valid JSON")


def json_text(value: Any, *, indent: int | None = 1) -> str:
    """Canonical JSON: sorted keys, and floats in `repr`, which read back exactly.

    Floats that are not finite are written as the docstring of this module says. NumPy and torch values become
    numbers and lists. Raises TypeError, naming the place, for anything else.
    """
    separators = None if indent is not None else (",", ":")
    content = _plain(value, "value")
    return json.dumps(
        content, sort_keys=True, indent=indent, separators=separators, ensure_ascii=False, allow_nan=False
    )


def write_json(path: str | os.PathLike[str], value: Any) -> Path:
    """Writes canonical JSON atomically. Raises TypeError as `json_text` does, OSError as `write_atomic`."""
    return write_atomic(path, (json_text(value) + "\n").encode())


def read_json(path: str | os.PathLike[str]) -> Any:
    """Reads what `write_json` wrote. Raises FileNotFoundError, or CorruptFile for anything but whole JSON."""
    content = Path(path).read_bytes()
    try:
        return json.loads(content.decode(), object_hook=_untag, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or not written by write_json
        raise CorruptFile(path, str(error)) from error


# --- tensors ---


def save_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None
) -> Path:
    """Writes named tensors as one safetensors file, atomically, with a checksum of the contents in its
    header.

    `metadata` is any mapping that JSON can hold. The same tensors and metadata give the same bytes. Tensors
    that share memory are written as separate copies.
    """
    # one owned, contiguous copy on the CPU: the file is a snapshot, even if training goes on meanwhile
    copies = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    header = {"semirobust": json_text({"metadata": metadata or {}, "sha256": _digest(copies)}, indent=None)}
    return write_atomic(path, lambda temporary: save_file(copies, temporary, metadata=header))


def load_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads (tensors, metadata) back, on the CPU, in the precision they were saved in.

    Raises FileNotFoundError, or CorruptFile where the file is truncated, is not safetensors, or differs
    from its checksum. A file not made by `save_tensors` has no checksum: only its header is checked, and
    its metadata is returned unchanged.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(errno.ENOENT, "there is no such file", str(path))
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (not a mapping)
        if "semirobust" not in header:
            return tensors, dict(header)
        ours = json.loads(header["semirobust"], object_hook=_untag, parse_constant=_refuse)
        expected, metadata = ours["sha256"], ours["metadata"]
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise CorruptFile(path, str(error) or type(error).__name__) from error
    if _digest(tensors) != expected:
        raise CorruptFile(path, "its tensors do not match their checksum")
    return tensors, metadata


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over name, type, shape and bytes of every tensor, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def sha256(path: str | os.PathLike[str]) -> str:
    """The sha256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
