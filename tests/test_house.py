"""The floors of the house: imports go downward and enter a package by its ``__init__``."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = [
    {"models", "statistics", "paths", "edge", "conflict"},
    {"runs", "layers", "theory"},
    {"data", "attacks", "bounds", "extractors", "dependence"},
    {"training", "collisions", "readouts"},
    {"experiments"},
    {"figures", "campaign"},
    {"__main__"},
]
FLOOR = {package: number for number, packages in enumerate(FLOORS) for package in packages}
#: packages that offer their files as modules, imported when they are asked for
OFFER_FILES = {"experiments", "collisions.solvers"}
FILES = sorted((ROOT / "semirobust").rglob("*.py"))
OUTSIDE = sorted(
    path for name in ("notebooks", "benchmarks", "tools") for path in (ROOT / name).rglob("*.py")
)


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """(module, name) of each ``from module import name``, and (module, "") of each ``import module``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)


def within(path: Path) -> Iterator[tuple[str, str, str]]:
    """(package, module inside semirobust, name) of what a file takes from semirobust."""
    for module, name in imports(path):
        if module == "semirobust" or module.startswith("semirobust."):
            inner = module.removeprefix("semirobust").removeprefix(".")
            yield (inner.partition(".")[0] or name, inner, name)


def package_of(path: Path) -> str:
    return path.relative_to(ROOT / "semirobust").parts[0].removesuffix(".py")


def offered(module: str) -> set[str]:
    """The names in ``__all__`` of a package; all files of one that offers its files."""
    folder = ROOT / "semirobust" / Path(*module.split("."))
    if module in OFFER_FILES:
        return {path.stem for path in folder.glob("*.py")}
    tree = ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))
    values = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"
    ]
    return set(ast.literal_eval(values[0])) if values else set()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_downward(path: Path) -> None:
    own = package_of(path)
    for package, _, name in within(path):
        if own == "__init__" or package == own or name == "__version__":
            continue
        below = own == "__main__" or FLOOR[package] < FLOOR[own]
        assert below, f"{path.name} is on floor {FLOOR[own]} and imports {package}"


@pytest.mark.parametrize("path", [*FILES, *OUTSIDE], ids=lambda path: str(path.relative_to(ROOT)))
def test_other_packages_are_entered_by_the_door(path: Path) -> None:
    own = package_of(path) if path in FILES else ""
    for package, module, name in within(path):
        assert not name.startswith("_") or name == "__main__", (module, name)
        if not module or package == own or not (ROOT / "semirobust" / package).is_dir():
            continue
        assert name in offered(module), f"semirobust.{module} does not offer {name}"


def test_no_file_is_private_and_every_package_has_a_map() -> None:
    for path in FILES:
        assert not path.name.startswith("_") or path.name in ("__init__.py", "__main__.py"), path
        if path.name == "__init__.py" and path.parent.name != "semirobust":
            text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            beside = {other.stem for other in path.parent.glob("*.py")} - {"__init__"}
            missing = {name for name in beside if f"\n{name} " not in text}
            assert not missing, f"{path.parent.name}: its docstring does not name {missing}"


def test_only_figures_and_notebooks_draw() -> None:
    for path in FILES:
        if package_of(path) != "figures":
            assert not any(module.startswith("matplotlib") for module, _ in imports(path)), path


def test_the_library_needs_no_notebook_software() -> None:
    forbidden = {"jupytext", "papermill", "nbclient", "nbformat", "jupyter_client", "tools", "fcntl"}
    for path in FILES:
        assert not forbidden & {module.partition(".")[0] for module, _ in imports(path)}, path
