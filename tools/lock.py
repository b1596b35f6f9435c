"""Makes requirements.lock and environment.yml from pyproject.toml.

    python tools/lock.py            write both
    python tools/lock.py --check    compare, change nothing, exit 1 where they differ

The lock pins everything that pyproject.toml asks for, directly or through other packages, at the version that
is installed in the environment of the Python that runs this: no network, same environment, same bytes. To
move to new versions, install them (``pip install --upgrade ...``), run the tests, and run this.

What is not pinned: packages that only a GPU build of torch needs (pip adds the ones that belong to that
build), and packages that only another operating system than Linux, or a newer Python than the oldest
supported one, needs (pip adds them where they are needed). So the same lock serves every supported Python,
whichever of them makes it.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tomllib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
BANNER = "# Generated from pyproject.toml by tools/lock.py: edit that file, not this one.\n"
GPU_ONLY = re.compile(r"(nvidia|cuda|triton)(-|$)")  # belong to one build of torch, not to the project
LINUX = {
    "sys_platform": "linux",
    "platform_system": "Linux",
    "os_name": "posix",
    "platform_machine": "x86_64",
    "platform_python_implementation": "CPython",
    "implementation_name": "cpython",
}


def oldest_python(project: dict[str, Any]) -> str:
    """For example "3.11": environment.yml asks for it, and the lock is made for it."""
    return project["project"]["requires-python"].removeprefix(">=")


def applies(requirement: Requirement, extras: Iterable[str], python: str) -> bool:
    """Whether the requirement's marker holds on Linux under this Python, for any of these extras."""
    marker = requirement.marker
    return marker is None or any(
        marker.evaluate(
            {**LINUX, "python_version": python, "python_full_version": f"{python}.0", "extra": extra}
        )
        for extra in ("", *extras)
    )


def closure(project: dict[str, Any]) -> dict[str, str]:
    """name -> installed version, of everything that the project and its extras need, directly or not.

    Exits with a message where something needed is not installed, or is installed at a version that is not
    allowed.
    """
    python = oldest_python(project)
    groups = project["project"]["optional-dependencies"].values()
    lists = [project["build-system"]["requires"], project["project"]["dependencies"], *groups]
    todo = [("pyproject.toml", Requirement(line)) for lines in lists for line in lines]
    pins: dict[str, str] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    while todo:
        parent, requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        if GPU_ONLY.match(name):
            continue
        try:
            installed = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            sys.exit(
                f"tools/lock.py: {parent} needs {requirement}, which is not installed: pip install it first"
            )
        if not requirement.specifier.contains(installed.version, prereleases=True):
            sys.exit(f"tools/lock.py: {parent} needs {requirement}, but {installed.version} is installed")
        pins[name] = installed.version.partition("+")[0]  # 2.13.0+cpu and 2.13.0+cu130 are both 2.13.0
        if (key := (name, frozenset(requirement.extras))) not in seen:
            seen.add(key)
            needs = [Requirement(line) for line in installed.requires or ()]
            todo += [(name, need) for need in needs if applies(need, requirement.extras, python)]
    return pins


def lock_text(pins: dict[str, str]) -> str:
    return BANNER + "".join(f"{name}=={pins[name]}\n" for name in sorted(pins))


def environment_text(project: dict[str, Any]) -> str:
    no_deps = ", ".join(project["tool"]["semirobust"]["no-deps"])
    return f"""{BANNER}#     conda env create -f environment.yml && conda activate semirobust && ./run_all.sh
# A pip section cannot say "--no-deps". So the first ./run_all.sh in this environment adds what is missing:
# {no_deps} without its dependencies, and the package itself in editable form.
name: semirobust
channels:
  - conda-forge
  - nodefaults
dependencies:
  - python={oldest_python(project)}
  - pip
  - pip:
      - -r requirements.lock
"""


def generate(root: Path = ROOT) -> dict[str, str]:
    """file name -> the text it should have."""
    project = tomllib.loads((root / "pyproject.toml").read_text())
    return {"requirements.lock": lock_text(closure(project)), "environment.yml": environment_text(project)}


def differences(root: Path = ROOT) -> list[str]:
    """The lines that differ, as "- NAME: line in the file" and "+ NAME: line that should be there"."""
    lines = []
    for name, text in generate(root).items():
        path = root / name
        there = path.read_text().splitlines() if path.exists() else []
        wanted = text.splitlines()
        lines += [f"- {name}: {line}" for line in there if line not in wanted]
        lines += [f"+ {name}: {line}" for line in wanted if line not in there]
        if there != wanted and not lines:
            lines.append(f"- {name}: its lines are in another order")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--check", action="store_true", help="compare, change nothing, exit 1 where they differ"
    )
    if parser.parse_args().check:
        if lines := differences():
            print(*lines, sep="\n")
            print(
                "The files differ from pyproject.toml, or this environment from the lock. Install the lock "
                "(./run_all.sh setup), or, where the new versions are meant, run: python tools/lock.py"
            )
        return int(bool(lines))
    for name, text in generate().items():
        temporary = ROOT / f".{name}.tmp"
        temporary.write_text(text)
        os.replace(temporary, ROOT / name)
        print(f"{name}: {len(text.splitlines())} lines")
    return 0


if __name__ == "__main__":
    sys.exit(main())
