"""The run of the notebooks: skips what is up to date, runs the rest side by side, and says how it went.

Sources are ``ROOT/notebooks/NN_name.py``. Outputs, under ``ROOT/build``: ``notebooks/PROFILE/NN_name.ipynb``
(a failed one as ``NN_name.failed.ipynb``), ``logs/PROFILE/NN_name.log``, and ``manifest.json``, the memory of
what has passed. Every mistake that can be found beforehand is reported before anything starts. After that,
the failure of one notebook stops no other.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

from semirobust.paths import UsageError, check_profile, cores
from tools.notebooks import outputs, sources
from tools.notebooks.outputs import Folders, Outcome
from tools.notebooks.sources import Notebook
from tools.notebooks.workers import Workers

__all__ = ["Outcome", "run", "summary"]


def _run_one(
    notebook: Notebook,
    parameters: Mapping[str, object],
    folders: Folders,
    workers: Workers,
    *,
    key: str,
    timeout: float | None,
    threads: int,
) -> Outcome:
    start, clock = time.time(), time.monotonic()
    log = folders.logs / f"{notebook.name}.log"
    try:
        error, output = workers.execute(
            notebook, parameters, folder=folders.notebooks, log=log, timeout=timeout, threads=threads
        )
        tops = (folders.results / folders.profile, folders.figures)
        products = [] if error or output is None else [output, *outputs.written_since(start, *tops)]
    except OSError as problem:  # a full disk, an interrupted run: this notebook's failure, not the others'
        error, output, products = str(problem), None, []
    outcome = Outcome(
        notebook.name, "failed" if error else "passed", time.monotonic() - clock, error, output, log
    )
    try:
        outputs.remember(folders, outcome, key, products)
    except OSError as problem:
        return replace(outcome, status="failed", error=error or str(problem))
    return outcome


def run(
    root: Path,
    *,
    profile: str = "quick",
    only: Sequence[str] = (),
    jobs: int | None = None,
    timeout: float | None = None,
    parameters: Mapping[str, object] | None = None,
    force: bool = False,
    say: Callable[[str], None] = lambda line: None,
    progress: Callable[[str], None] = lambda line: None,
) -> list[Outcome]:
    """Runs the notebooks of ``root/notebooks``, or those named in `only`; one outcome each, in order.

    `jobs` notebooks run at a time, on cores / jobs threads each; by default one job per core, at most 4.
    `timeout` is in seconds, for each notebook. `parameters` go to every chosen notebook, which must
    know them. `say` gets one line per notebook, `progress` a short state about once a second. Raises
    UsageError, before anything starts, for a name, parameter or folder that cannot work.
    """
    check_profile(profile)
    chosen = sources.choose(root / "notebooks", only)
    settings = {
        n.name: sources.check_parameters(n, {**(parameters or {}), "profile": profile}) for n in chosen
    }
    if (jobs is not None and jobs < 1) or (timeout is not None and timeout <= 0):
        raise UsageError("--jobs and --timeout must be positive")
    folders = Folders(root, profile)
    folders.check()

    inputs = sources.fingerprint(root, folders.results)
    manifest = outputs.read_manifest(folders.manifest, say)
    keys = {n.name: sources.key(n, settings[n.name], inputs) for n in chosen}
    done: dict[str, Outcome] = {}
    for notebook in chosen:
        entry = manifest.get(f"{profile}/{notebook.name}", {})
        if not force and outputs.up_to_date(entry, keys[notebook.name]):
            output = folders.notebooks / f"{notebook.name}.ipynb"
            log = folders.logs / f"{notebook.name}.log"
            done[notebook.name] = Outcome(notebook.name, "up to date", 0.0, "", output, log)
    todo = [notebook for notebook in chosen if notebook.name not in done]
    jobs = max(1, min(jobs or min(cores(), 4), len(todo)))
    threads = max(1, cores() // jobs)
    how = f"; {jobs} at a time, threads each: {threads}" if todo else ""
    say(f"profile {profile}: {len(todo)} notebooks to run, {len(done)} up to date{how}")

    workers = Workers()
    start = time.monotonic()
    with ThreadPoolExecutor(jobs) as pool, _sigterm_interrupts():
        futures: set[Future[Outcome]] = {
            pool.submit(
                _run_one,
                notebook,
                settings[notebook.name],
                folders,
                workers,
                key=keys[notebook.name],
                timeout=timeout,
                threads=threads,
            )
            for notebook in (_from_both_ends(todo) if jobs > 1 else todo)
        }
        try:
            while futures:
                finished, futures = wait(futures, timeout=1.0, return_when=FIRST_COMPLETED)
                for outcome in sorted((future.result() for future in finished), key=lambda o: o.name):
                    done[outcome.name] = outcome
                    say(_line(outcome, len(done), len(chosen)))
                bar = ("#" * (20 * len(done) // len(chosen))).ljust(20, ".")
                names = ", ".join(sorted(workers.running))
                progress(f"[{bar}] {len(done)}/{len(chosen)}  {time.monotonic() - start:.0f} s  {names}")
        except BaseException:
            workers.stop()
            for future in futures:
                future.cancel()
            raise
    return [done[notebook.name] for notebook in chosen]


def _from_both_ends(notebooks: Sequence[Notebook]) -> list[Notebook]:
    """First, last, second, ...: neighbours share stored runs, and would wait for each other."""
    front, back = (len(notebooks) + 1) // 2, notebooks[::-1]
    pairs = zip_longest(notebooks[:front], back[: len(notebooks) - front])
    return [notebook for pair in pairs for notebook in pair if notebook is not None]


class _sigterm_interrupts:
    """In this context SIGTERM acts like Ctrl-C, so that the kernels are ended first."""

    def __enter__(self) -> None:
        self._main = threading.current_thread() is threading.main_thread()
        if self._main:
            self._before = signal.signal(signal.SIGTERM, signal.default_int_handler)

    def __exit__(self, *_: object) -> None:
        if self._main:
            signal.signal(signal.SIGTERM, self._before)


def _line(outcome: Outcome, count: int, total: int) -> str:
    width = len(str(total))
    head = f"[{count:{width}d}/{total}] {outcome.name:<28} {outcome.status:<6} {outcome.seconds:7.1f} s"
    return f"{head}  {outcome.error}".rstrip()


def summary(outcomes: Sequence[Outcome], root: Path) -> list[str]:
    """The last lines of a run: every failed notebook with its error and where to look, then the counts."""
    lines = []
    for outcome in outcomes:
        if outcome.status == "failed":
            lines.append(f"FAILED {outcome.name}: {outcome.error}")
            for what, path in (("notebook", outcome.output), ("log", outcome.log)):
                if path is not None and path.exists():
                    lines.append(f"       {what}: {path.relative_to(root)}")
    words = ("passed", "failed", "up to date")
    counts = {word: sum(outcome.status == word for outcome in outcomes) for word in words}
    return [*lines, ", ".join(f"{count} {word}" for word, count in counts.items())]
