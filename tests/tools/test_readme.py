"""The README's table is the committed results, and its code runs."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def _tool():
    spec = importlib.util.spec_from_file_location("readme_tool", ROOT / "tools" / "readme.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_is_made_from_the_committed_results(monkeypatch):
    monkeypatch.delenv("SEMIROBUST_RESULTS", raising=False)
    tool, text = _tool(), (ROOT / "README.md").read_text(encoding="utf-8")
    assert tool.render(text) == text, "run python -m tools.readme"
    assert tool.full_tables() == tool.TABLES.read_text(encoding="utf-8"), "run python -m tools.readme"


def test_every_file_it_names_is_there():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / target).exists(), target


def test_its_example_runs():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    names: dict = {}
    exec(code, names)
    assert 0 <= names["evaluation"].accuracy <= 1
    assert names["estimate"].n == 64
