"""The test command, and the command that makes the committed notebooks.

Both run notebooks with one thread each. The printed lines of notebooks are compared, and with more threads
sums are taken in another order, which can change the answers of a trained network.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from semirobust.paths import cores
from tools.notebooks import sources
from tools.notebooks.workers import environment

CELL_TIMEOUT = 600  # seconds; even on a busy machine a cell of the quick profile takes far less


def test(root: Path, *, say: Callable[[str], None]) -> bool:
    """Runs every check of the project, each in a process of its own; True if all passed.

    Checks of style and types print only when they fail; pytest and nbval print their own output. One failure
    stops no other check.
    """
    python = [sys.executable, "-m"]
    count = str(min(cores(), 4))
    workers = ["-n", count, "--dist", "loadfile"]  # whole files: cells of a notebook belong together
    nbval = ["--nbval", "--nbval-current-env", f"--nbval-cell-timeout={CELL_TIMEOUT}", "notebooks"]
    steps: list[tuple[str, list[str], bool]] = [
        ("ruff check", [*python, "ruff", "check", "."], True),
        ("ruff format", [*python, "ruff", "format", "--check", "."], True),
        ("mypy", [*python, "mypy", "semirobust", "tools"], True),
        ("pytest", [*python, "pytest", "-q", "--durations=5", *workers, "tests"], False),
        ("nbval", [*python, "pytest", "-q", *workers, *nbval], False),
    ]
    results = []
    for name, command, quiet in steps:
        if not quiet:
            say(f"{name}: {' '.join(command[1:])}")
        start = time.monotonic()
        done = _run(command, root, quiet=quiet)
        passed = done.returncode == 0
        if quiet and not passed:
            say(done.stdout.rstrip())
        results.append(passed)
        say(f"{name:<12} {'passed' if passed else 'FAILED'} {time.monotonic() - start:7.1f} s")
    failed = [name for (name, _, _), passed in zip(steps, results, strict=True) if not passed]
    say(f"failed: {', '.join(failed)}" if failed else f"all {len(steps)} checks passed")
    return not failed


def pair(root: Path, *, only: Sequence[str] = (), say: Callable[[str], None]) -> bool:
    """Makes ``notebooks/NN_name.ipynb`` from the .py beside it, executed as it stands; True if all passed.

    The source is never written. A notebook that fails leaves its .ipynb as it was.
    """
    passed = True
    for notebook in sources.choose(root / "notebooks", only):
        start = time.monotonic()
        command = [sys.executable, "-m", "tools.notebooks.pairing", notebook.path.name]
        done = _run(command, notebook.path.parent, quiet=True)
        if done.returncode:
            passed = False
            say(done.stdout.rstrip())
        state = "FAILED" if done.returncode else "made"
        say(f"{notebook.name:<28} {state:<6} {time.monotonic() - start:7.1f} s")
    return passed


def _run(command: Sequence[str], folder: Path, *, quiet: bool) -> subprocess.CompletedProcess[str]:
    """Runs a command on one thread. Its output is kept in ``.stdout`` if `quiet`, else shown at once."""
    return subprocess.run(
        command,
        cwd=folder,
        env=environment(1),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if quiet else None,
        stderr=subprocess.STDOUT if quiet else None,
        text=True,
    )
