"""The style of all figures, and ``save_figure``: the same bytes on every run, and a note of the sources."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import image
from matplotlib import style as matplotlib_style
from matplotlib.figure import Figure

from semirobust import paths, runs
from semirobust.runs import versions

#: What each colour means, in every figure (Okabe and Ito's palette: told apart with any colour vision).
COLORS: dict[str, str] = {
    "printed": "#4d4d4d",  # a number the papers print
    "ours": "#0072B2",  # the same quantity, measured here
    "control": "#E69F00",  # a shuffled or otherwise uninformative baseline
    "robust": "#009E73",  # a robust network, a success, a proved bound
    "attacked": "#D55E00",  # attacked inputs, a failure, a counterexample
    "other": "#CC79A7",  # anything else: a second model, another method
    "clean": "#56B4E9",  # clean inputs, a standard network
}
STYLE_FILE = Path(__file__).with_name("semirobust.mplstyle")

_METADATA: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


@contextmanager
def styled() -> Iterator[None]:
    """Inside ``with styled():``, figures have the style of this package; the earlier one comes back after."""
    with matplotlib_style.context(["default", STYLE_FILE]):
        yield


def use_style() -> None:
    """Sets the style for the rest of the process: the first cell of a notebook calls it."""
    matplotlib_style.use(["default", STYLE_FILE])


def save_figure(
    figure: Figure,
    name: str,
    *,
    profile: str,
    alt: str | None = None,
    sources: Iterable[runs.Record | str | os.PathLike[str]] = (),
    data: Any = None,
    notebook: str | None = None,
) -> list[Path]:
    """Writes NAME.png, NAME.pdf and NAME.json under ``figures/PROFILE``, each atomically; returns the
    paths. They stay as they are where nothing that a reader can see has changed (see `_same`).

    The JSON says which result files the figure was drawn from (`sources`: records or paths, with their
    sha256), the numbers it shows (`data`: whatever JSON can hold), the alternative text (`alt`: one or two
    sentences that say what a reader who cannot see the picture needs), the notebook and the versions. Nothing
    in the three files depends on the time, the commit or the machine's folders: the same numbers and
    versions give the same bytes. Raises ValueError for an unknown profile or a bad name, FileNotFoundError
    for a missing source and OSError for a folder that cannot be written, all before anything is written.
    """
    paths.check_profile(profile)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        raise ValueError(f"{name!r} cannot name a figure: use letters, digits, '_' and '-', and no suffix")
    made_with = versions() | {"matplotlib": matplotlib.__version__}  # without the build, such as +cpu
    sidecar = {
        "name": name,
        "profile": profile,
        "notebook": notebook,
        "alt": alt,
        "sources": [_source(source) for source in sources],
        "data": data,
        "versions": {name: version and version.partition("+")[0] for name, version in made_with.items()},
    }
    text = runs.json_text(sidecar)  # refuses what JSON cannot hold, before a figure is written
    sidecar = json.loads(text)
    folder = paths.figures_root() / profile
    if _same(figure, folder / name, sidecar):
        kept = [(folder / name).with_suffix(f".{kind}") for kind in (*_METADATA, "json")]
        for path in kept:
            os.utime(path)  # made by this run too, as far as a run of notebooks can see
        return kept
    with styled():
        written = [
            runs.write_atomic(
                folder / f"{name}.{kind}", partial(figure.savefig, format=kind, metadata=volatile)
            )
            for kind, volatile in _METADATA.items()
        ]
    return [*written, runs.write_atomic(folder / f"{name}.json", f"{text}\n".encode())]


#: numbers of a figure that agree to this share (or to this much) count as the same; a grey level is 1 / 255
_TOLERANCE, _GREY_LEVELS = 0.01, 2 / 255


def _same(figure: Figure, path: Path, sidecar: dict[str, Any]) -> bool:
    """Whether the files at ``path`` show the same figure.

    It is from results of the same names, all its numbers are equal to 1 % (or 0.01), and its picture differs
    by less than two grey levels on average (root of the mean square). Networks that were trained on another
    processor differ by less, and so leave the work tree clean. A missing or damaged file is never the same.
    """
    files = [path.with_suffix(f".{kind}") for kind in (*_METADATA, "json")]
    try:
        before = json.loads(files[-1].read_text(encoding="utf-8"))
        picture = image.imread(files[0])
        if not (files[1].stat().st_size and _near(_seen(before), _seen(sidecar))):
            return False
    except (OSError, ValueError, SyntaxError, KeyError, TypeError):  # missing or damaged: written anew
        return False
    drawn = io.BytesIO()
    with styled():
        figure.savefig(drawn, format="png", metadata=_METADATA["png"])
    drawn.seek(0)
    now = image.imread(drawn)
    return now.shape == picture.shape and float(np.sqrt(np.mean((now - picture) ** 2))) < _GREY_LEVELS


def _seen(sidecar: dict[str, Any]) -> dict[str, Any]:
    """The part of a sidecar that says what is drawn: not the checksums and versions."""
    sources = [source["path"] for source in sidecar["sources"]]
    said = {key: sidecar.get(key) for key in ("name", "profile", "notebook", "alt", "data")}
    return said | {"sources": sources}


def _near(first: Any, second: Any) -> bool:
    """Equal, but for numbers that differ by at most the tolerance."""
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(_near(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return len(first) == len(second) and all(map(_near, first, second))
    numbers = (int, float)
    if isinstance(first, numbers) and isinstance(second, numbers) and not isinstance(first, bool):
        return bool(np.isclose(first, second, rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True))
    return bool(first == second)


def _source(source: runs.Record | str | os.PathLike[str]) -> dict[str, str]:
    """Path and checksum. That of a record covers its configuration and numbers, not when it was made."""
    if isinstance(source, runs.Record):
        content = runs.json_text({"config": source.config, "metrics": source.metrics}, indent=None)
        return {"path": _stable(source.path), "sha256": hashlib.sha256(content.encode()).hexdigest()}
    return {"path": _stable(Path(source)), "sha256": runs.sha256(source)}


def _stable(path: Path) -> str:
    """The path as seen from the checkout, wherever the project or its results are on this machine."""
    path = path.resolve()
    for root, prefix in ((paths.results_root(), "results"), (paths.checkout(), "")):
        if root is not None and path.is_relative_to(root.resolve()):
            return (Path(prefix) / path.relative_to(root.resolve())).as_posix()
    return path.name
