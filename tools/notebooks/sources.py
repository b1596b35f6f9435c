"""The sources of the notebooks: choosing and reading them, their parameters, what their outputs depend on.

A source is ``NN_name.py`` in percent format, with a header that names the kernel ``python3`` and one cell
tagged ``parameters`` whose assignments are the defaults.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from semirobust.paths import PACKAGE, UsageError, unknown

UNKNOWN = object()  # stands for a default that is an expression; any value may replace it


@dataclass(frozen=True)
class Notebook:
    """``parameters``: name -> default value, or UNKNOWN where the default is more than a literal."""

    name: str
    path: Path
    source: str
    parameters: Mapping[str, object]


def find(folder: Path) -> list[Path]:
    """The sources in `folder`, in order. Raises UsageError where there are none."""
    paths = sorted(path for path in folder.glob("*.py") if re.match(r"\d\d_", path.name))
    if not paths:
        raise UsageError(f"there are no notebooks (NN_name.py) in {folder}")
    return paths


def choose(folder: Path, only: Sequence[str] = ()) -> list[Notebook]:
    """All notebooks of `folder`, or those that `only` names. Raises UsageError for an unknown name."""
    paths = {path.stem: path for path in find(folder)}
    wanted = [name.removesuffix(".py").removesuffix(".ipynb").removeprefix("notebooks/") for name in only]
    for name in wanted:
        if name not in paths:
            raise unknown("notebook", name, paths)
    return [read(path) for name, path in paths.items() if not wanted or name in wanted]


def read(path: Path) -> Notebook:
    """Reads one source. Raises UsageError where its header or its parameters cell is wrong."""
    import jupytext  # here, since they take a moment, and most users of this module read no source
    from nbformat import ValidationError

    try:
        notebook = jupytext.read(path)
    except (ValueError, ValidationError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UsageError(f"{path.name} is not a notebook in percent format: {reason}") from None
    if (kernel := notebook.metadata.get("kernelspec", {}).get("name")) != "python3":
        raise UsageError(f"{path.name} names the kernel {kernel!r}: its header must say python3")
    cells = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    if len(cells) != 1:
        raise UsageError(f"{path.name} has {len(cells)} cells tagged 'parameters': it must have one")
    return Notebook(path.stem, path, path.read_text(), _assignments(cells[0].source, path))


def _assignments(source: str, path: Path) -> dict[str, object]:
    try:
        statements = ast.parse(source).body
    except SyntaxError as error:
        raise UsageError(f"{path.name}: its parameters cell is not Python ({error.msg})") from None
    found: dict[str, object] = {}
    for statement in statements:
        if isinstance(statement, ast.Assign):
            targets = statement.targets
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            targets = [statement.target]
        else:
            continue
        assert statement.value is not None
        try:
            value = ast.literal_eval(statement.value)
        except ValueError:
            value = UNKNOWN
        found |= {target.id: value for target in targets if isinstance(target, ast.Name)}
    return found


def parse_parameter(text: str) -> tuple[str, object]:
    """``NAME=VALUE`` -> (name, value). The value is a Python literal where it can be read as one, else text.

    Raises UsageError for a text that is not of this form.
    """
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise UsageError(f"-p {text}: write NAME=VALUE")
    try:
        parsed = ast.literal_eval(value)
        json.dumps(parsed)  # it is sent to the notebook's process as JSON, so sets and bytes are refused
    except (ValueError, SyntaxError, TypeError):
        return name, value
    return name, parsed


def check_parameters(notebook: Notebook, parameters: Mapping[str, object]) -> dict[str, object]:
    """The parameters, if this notebook knows them all and each has the type of its default.

    Raises UsageError otherwise. An integer may stand for a float; where the default is None or an expression,
    any value may.
    """
    for name, value in parameters.items():
        if name not in notebook.parameters:
            error = unknown("parameter", name, notebook.parameters)
            raise UsageError(f"{notebook.name}: {error} (choose the notebooks that know it with --only)")
        default = notebook.parameters[name]
        allowed = (int, float) if type(default) is float else (type(default),)
        if default is not None and default is not UNKNOWN and type(value) not in allowed:
            kind = type(default).__name__
            raise UsageError(f"{notebook.name}: {name} is a {kind} ({default!r} by default), not {value!r}")
    return dict(parameters)


# --- what an output depends on ---


def fingerprint(root: Path, results: Path) -> str:
    """A hash of what all notebooks may depend on: the package, the lock, and the committed results."""
    files = [path for path in PACKAGE.rglob("*") if path.suffix not in (".pyc", "")]
    files += [root / "requirements.lock"]
    for folder in (results / "reference", results / "paper"):
        files += [path for path in folder.rglob("*") if not path.name.startswith(".")]
    digest = hashlib.sha256()
    for path in sorted(set(files)):
        if path.is_file():
            digest.update(f"{path}\0".encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def key(notebook: Notebook, parameters: Mapping[str, object], inputs: str) -> str:
    """A hash of a notebook's source, its parameters (the profile is one of them) and the common `inputs`."""
    content = json.dumps(
        [notebook.name, notebook.source, dict(parameters), inputs], sort_keys=True, default=repr
    )
    return hashlib.sha256(content.encode()).hexdigest()
