"""Guards over the committed notebooks: source and notebook agree, ran in order, keep the house rules."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import jupytext
import pytest

from tools.notebooks import pairing, sources

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
SOURCES = sorted(FOLDER.glob("*.py"))
MAX_CELLS = 15
MAX_LINES = 25

each_notebook = pytest.mark.parametrize("source", SOURCES, ids=[path.stem for path in SOURCES])


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def made(source: Path) -> Any:
    path = source.with_suffix(".ipynb")
    assert path.exists(), f"{path.name} is missing: ./run_all.sh pair --only {source.stem}"
    return jupytext.read(path)


def content(notebook: Any) -> list[tuple[str, str, list[str]]]:
    return [(cell.cell_type, cell.source, list(cell.metadata.get("tags", []))) for cell in notebook.cells]


def output_problems(notebook: Any) -> list[str]:
    """What nbval would let pass, or would compare byte by byte."""
    problems = []
    for number, cell in enumerate(code_cells(notebook), start=1):
        if cell.execution_count != number:
            problems.append(f"code cell {number} has the execution count {cell.execution_count}")
        for output in cell.outputs:
            if output.output_type == "error":
                problems.append(f"code cell {number} failed: {output.ename}")
            if output.get("name") == "stderr":
                problems.append(f"code cell {number} writes to stderr: {output.text[:80]!r}")
            shown = [text for kind, text in output.get("data", {}).items() if kind.startswith("text/")]
            if re.search(r"\b0x[0-9a-f]{6,}|/(tmp|home|root|Users)/", str([output.get("text"), *shown])):
                problems.append(f"code cell {number} shows an address or a folder of one machine")
            for kind in output.get("data", {}):
                if kind not in ("text/plain", "text/markdown", "text/html", "text/latex", "image/png"):
                    problems.append(f"code cell {number} has an output of the kind {kind}")
    return problems


def source_problems(notebook: Any) -> list[str]:
    """What the house rules forbid in a source."""
    problems = []
    cells = code_cells(notebook)
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        problems.append("the kernel is not python3")
    first = notebook.cells[0]
    if first.cell_type != "markdown" or not re.match(r"# \S", first.source):
        problems.append("the first cell is not a Markdown title")
    if len(cells) > MAX_CELLS:
        problems.append(f"{len(cells)} code cells: at most {MAX_CELLS}")
    for number, cell in enumerate(cells, start=1):
        if (lines := len(cell.source.splitlines())) > MAX_LINES:
            problems.append(f"code cell {number} has {lines} lines: at most {MAX_LINES}")
        if not cell.source.strip():
            problems.append(f"code cell {number} is empty")
        try:
            ast.parse(cell.source)
        except SyntaxError:
            problems.append(f"code cell {number} is not plain Python (a magic or a shell command?)")
        if "get_ipython" in cell.source:
            problems.append(f"code cell {number} asks for IPython")
    parameters = [cell.source for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    if len(parameters) != 1 or not re.search(r'^profile = "quick"', parameters[0], re.MULTILINE):
        problems.append('there is no one cell tagged "parameters" with profile = "quick"')
    return problems


def test_there_are_notebooks_and_all_are_numbered() -> None:
    assert [path.name for path in SOURCES] == [path.name for path in sources.find(FOLDER)]


def test_every_committed_notebook_has_its_source() -> None:
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == {path.stem for path in SOURCES}


@each_notebook
def test_source_and_notebook_have_the_same_content(source: Path) -> None:
    assert content(made(source)) == content(jupytext.read(source)), (
        f"they differ: ./run_all.sh pair --only {source.stem}"
    )
    assert made(source).metadata["kernelspec"]["name"] == "python3"


@each_notebook
def test_every_cell_was_run_in_order_without_noise(source: Path) -> None:
    assert output_problems(made(source)) == []


@each_notebook
def test_the_source_keeps_the_house_rules(source: Path) -> None:
    assert source_problems(jupytext.read(source)) == []


# --- the guards themselves ---

GOOD = """\
# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Title

# %% tags=["parameters"]
profile = "quick"
"""


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        (GOOD, None),
        (GOOD.replace("python3", "other"), "kernel is not python3"),
        (GOOD.replace("# # Title", "# Title"), "not a Markdown title"),
        (GOOD.replace("quick", "paper"), "profile"),
        (GOOD.replace("parameters", "other"), "parameters"),
        (GOOD + "\n# %%\nprint(1)\n" * MAX_CELLS, "16 code cells"),
        (GOOD + "\n# %%\n" + "print(1)\n" * (MAX_LINES + 1), "has 26 lines"),
        (GOOD + "\n# %%\n# !ls\n", "not plain Python"),
        (GOOD + "\n# %%\n# %matplotlib inline\n", "not plain Python"),
        (GOOD + "\n# %%\nget_ipython().system('ls')\n", "asks for IPython"),
    ],
)
def test_the_rules_see_what_they_forbid(source: str, problem: str | None) -> None:
    problems = source_problems(jupytext.reads(source, fmt="py:percent"))
    assert len(problems) == (problem is not None)
    assert problem is None or problem in problems[0]


@pytest.mark.parametrize(
    ("count", "output", "problem"),
    [
        (1, {"output_type": "stream", "name": "stdout", "text": "fine"}, None),
        (None, {"output_type": "stream", "name": "stdout", "text": "fine"}, "execution count None"),
        (2, {"output_type": "stream", "name": "stdout", "text": "fine"}, "execution count 2"),
        (1, {"output_type": "stream", "name": "stderr", "text": "warning"}, "stderr"),
        (1, {"output_type": "stream", "name": "stdout", "text": "<Line2D at 0x7f2a33b0>"}, "an address"),
        (1, {"output_type": "stream", "name": "stdout", "text": "wrote /home/me/x"}, "folder of one machine"),
        (1, {"output_type": "error", "ename": "E", "evalue": "", "traceback": []}, "failed: E"),
        (1, {"output_type": "display_data", "data": {"image/svg+xml": ""}, "metadata": {}}, "image/svg"),
        (1, {"output_type": "display_data", "data": {"image/png": ""}, "metadata": {}}, None),
    ],
)
def test_the_rules_see_bad_outputs(count: int | None, output: dict[str, Any], problem: str | None) -> None:
    from nbformat import v4

    cell = v4.new_code_cell("a", execution_count=count, outputs=[v4.new_output(**output)])
    problems = output_problems(v4.new_notebook(cells=[cell]))
    assert len(problems) == (problem is not None)
    assert problem is None or problem in problems[0]


def test_pairing_executes_anew_and_gives_the_same_bytes(tmp_path: Path) -> None:
    """An unchanged cell whose output changed gets the new output."""
    source, value = tmp_path / "01_demo.py", tmp_path / "value.txt"
    kernel = ("kernelspec:", "  display_name: Python 3", "  language: python", "  name: python3")
    header = "\n".join(["# ---", "# jupyter:", *(f"#   {line}" for line in kernel), "# ---", ""])
    source.write_text(header + '\n# %%\nprint(open("value.txt").read())\n')
    made = []
    for text in ("old", "old", "new"):
        value.write_text(text)
        made.append(pairing.make(source).read_bytes())
    assert made[0] == made[1] and b"new" in made[2] and b"old" not in made[2]
    kept = source.with_suffix(".ipynb").read_bytes()
    value.unlink()
    with pytest.raises(Exception, match="FileNotFoundError"):
        pairing.make(source)
    assert source.with_suffix(".ipynb").read_bytes() == kept
