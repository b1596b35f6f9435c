"""The maker of one committed notebook: ``python -m tools.notebooks.pairing notebooks/NN_name.py``.

The .ipynb is made from the .py beside it, executed as it stands. ``jupytext --update --execute`` cannot be
used: it executes first and then puts the *old* outputs back wherever a cell is unchanged. Here every output
is new, and the same outputs give the same bytes: cells are numbered instead of given random names, and no
time is recorded.
"""

from __future__ import annotations

import sys
from pathlib import Path

import jupytext
from nbclient import NotebookClient

from semirobust.runs import write_atomic


def make(source: Path) -> Path:
    """Executes ``source`` in its folder and writes the .ipynb beside it.

    If a cell raises an exception, the old .ipynb stays."""
    notebook = jupytext.read(source)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02d}"
    resources = {"metadata": {"path": str(source.parent)}}
    NotebookClient(notebook, timeout=None, resources=resources, record_timing=False).execute()
    notebook.metadata["language_info"] = {"name": "python"}  # without the version of this Python
    text = jupytext.writes(notebook, fmt="ipynb")
    return write_atomic(source.with_suffix(".ipynb"), text.rstrip("\n").encode() + b"\n")


if __name__ == "__main__":
    make(Path(sys.argv[1]))
