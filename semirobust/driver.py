"""Runs the notebooks: skips what is up to date, runs the rest side by side, and says how it went.

Sources are ``ROOT/notebooks/NN_name.py``. Outputs, under ``ROOT/build``: ``notebooks/PROFILE/NN_name.ipynb``
(a failed one as ``NN_name.failed.ipynb``), ``logs/PROFILE/NN_name.log``, and ``manifest.json``, the memory of
what has passed. Everything that can be known to be wrong is reported before anything starts; after that, one
notebook's failure stops no other.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from semirobust import sources
from semirobust.sources import Notebook, UsageError

MINIMUM_FREE_MB = 200
GRACE = 60.0  # seconds in which a worker ends its own kernel and saves the notebook, before it is killed


@dataclass(frozen=True)
class Outcome:
    """How one notebook went; `error` is one line, empty unless it failed; `output` the executed notebook."""

    name: str
    status: Literal["passed", "failed", "up to date"]
    seconds: float
    error: str
    output: Path | None
    log: Path


@dataclass(frozen=True)
class Folders:
    """Where one run reads and writes."""

    root: Path
    profile: str

    @property
    def notebooks(self) -> Path:
        return self.root / "build" / "notebooks" / self.profile

    @property
    def logs(self) -> Path:
        return self.root / "build" / "logs" / self.profile

    @property
    def manifest(self) -> Path:
        return self.root / "build" / "manifest.json"

    @property
    def results(self) -> Path:
        return Path(os.environ.get("SEMIROBUST_RESULTS") or self.root / "results").expanduser()

    @property
    def figures(self) -> Path:
        return Path(os.environ.get("SEMIROBUST_FIGURES") or self.root / "figures").expanduser()

    def check(self) -> None:
        """Raises UsageError for an output folder that cannot be written, or a disk that is nearly full."""
        for folder in (self.notebooks, self.logs, self.results / self.profile, self.figures / self.profile):
            probe = folder / f".probe-{os.getpid()}"
            try:
                folder.mkdir(parents=True, exist_ok=True)
                probe.write_bytes(b"probe")
                probe.unlink()
            except OSError as error:
                raise UsageError(
                    f"cannot write in {folder} ({error.strerror}): make it writable, or free some space"
                ) from None
            if (free := shutil.disk_usage(folder).free // 2**20) < MINIMUM_FREE_MB:
                raise UsageError(
                    f"only {free} MB are free on the disk of {folder}, and {MINIMUM_FREE_MB} are needed: "
                    "free some space"
                )


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def thread_environment(threads: int = 1) -> dict[str, str]:
    """The environment of a child with so many computing threads, unless the user has set their number."""
    counts = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    above = str(Path(__file__).resolve().parents[1])  # the same package, installed or not
    path = os.pathsep.join(filter(None, (above, os.environ.get("PYTHONPATH"))))
    return counts | dict(os.environ) | {"PYTHONPATH": path, "PYDEVD_DISABLE_FILE_VALIDATION": "1"}


# --- the memory of what has passed ---


def read_manifest(path: Path, say: Callable[[str], None] = lambda line: None) -> dict[str, dict[str, Any]]:
    """``PROFILE/NAME`` -> what is known of its last run. A damaged file is reported, and counts as empty."""
    try:
        entries = json.loads(path.read_text())
        if isinstance(entries, dict) and all(isinstance(entry, dict) for entry in entries.values()):
            return entries
    except FileNotFoundError:
        return {}
    except ValueError:
        pass
    say(f"{path} is damaged: every notebook counts as not yet run")
    return {}


_manifest_lock = threading.Lock()


def _remember(folders: Folders, outcome: Outcome, key: str, products: Sequence[Path]) -> None:
    with _manifest_lock:
        entries = read_manifest(folders.manifest)  # another run may have added to it meanwhile
        entries[f"{folders.profile}/{outcome.name}"] = {
            "key": key,
            "status": outcome.status,
            "error": outcome.error,
            "seconds": round(outcome.seconds, 1),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "products": [str(path) for path in products],
        }
        temporary = folders.manifest.with_name(f".manifest.{os.getpid()}.tmp")
        temporary.write_text(json.dumps(entries, indent=1, sort_keys=True) + "\n")
        os.replace(temporary, folders.manifest)


def _up_to_date(entry: Mapping[str, Any], key: str) -> bool:
    """Whether the last run passed with the same inputs, and everything it wrote is still there."""
    same = entry.get("status") == "passed" and entry.get("key") == key
    return same and all(Path(path).exists() for path in entry.get("products", ["/missing"]))


def _written_since(start: float, *tops: Path) -> list[Path]:
    # some may be those of a neighbour at work: then this one runs once too often, never too seldom
    files = (path for top in tops for path in sorted(top.rglob("*")))
    return [path for path in files if path.is_file() and path.stat().st_mtime >= start - 1]


# --- one notebook ---


class Workers:
    """The processes at work, so that an interrupted run leaves none behind."""

    def __init__(self) -> None:
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self._stopped = False
        self._lock = threading.Lock()  # no process starts between the request to stop and its end

    def start(self, name: str, request: Mapping[str, object], log: Path, cwd: Path, threads: int) -> None:
        """Starts `semirobust.execute` on the request. Raises InterruptedError after `stop`."""
        with self._lock, log.open("wb") as stream:
            if self._stopped:
                raise InterruptedError("interrupted before it began")
            self.running[name] = subprocess.Popen(
                [sys.executable, "-m", "semirobust.execute", json.dumps(request)],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env=thread_environment(threads),
                start_new_session=True,  # Ctrl-C comes to us, and we end it in order
            )

    def finish(self, name: str, timeout: float | None) -> int:
        """Waits for it, kills it after `timeout`, and returns its exit status."""
        process = self.running[name]
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()  # its kernel notices that its parent is gone, and ends
            process.wait()
        self.running.pop(name, None)
        return process.returncode

    def stop(self) -> None:
        """Asks every process to end its kernel and itself; those that wait in `finish` see it end."""
        with self._lock:
            self._stopped = True
            for process in list(self.running.values()):
                process.terminate()
                last_resort = threading.Timer(GRACE, process.kill)
                last_resort.daemon = True
                last_resort.start()


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
        error, output = _execute(
            notebook, parameters, folders, workers, log, timeout=timeout, threads=threads
        )
        tops = (folders.results / folders.profile, folders.figures)
        products = [] if error or output is None else [output, *_written_since(start, *tops)]
    except OSError as problem:  # a full disk, an interrupted run: this notebook's failure, not the others'
        error, output, products = str(problem), None, []
    outcome = Outcome(
        notebook.name, "failed" if error else "passed", time.monotonic() - clock, error, output, log
    )
    try:
        _remember(folders, outcome, key, products)
    except OSError as problem:
        return replace(outcome, status="failed", error=error or f"cannot write {folders.manifest}: {problem}")
    return outcome


def _execute(
    notebook: Notebook,
    parameters: Mapping[str, object],
    folders: Folders,
    workers: Workers,
    log: Path,
    *,
    timeout: float | None,
    threads: int,
) -> tuple[str, Path | None]:
    """Runs it in a process of its own; returns the error (empty: it passed) and the executed notebook."""
    temporary = folders.notebooks / f".{notebook.name}.{os.getpid()}.ipynb"
    verdict = temporary.with_suffix(".verdict")
    passed, failed = (folders.notebooks / f"{notebook.name}{end}" for end in (".ipynb", ".failed.ipynb"))
    request = {
        "source": str(notebook.path),
        "target": str(temporary),
        "verdict": str(verdict),
        "parameters": dict(parameters),
        "timeout": timeout,
    }
    try:
        workers.start(notebook.name, request, log, notebook.path.parent, threads)
        status = workers.finish(notebook.name, None if timeout is None else timeout + GRACE)
        try:
            error = json.loads(verdict.read_text())["error"] or ""
        except (OSError, ValueError):
            error = f"the process that ran it ended with status {status}, without a verdict"
        failed.unlink(missing_ok=True)  # of an earlier run
        if not temporary.exists():
            return error or "it wrote no notebook", None
        output = failed if error else passed
        os.replace(temporary, output)
        return error, output
    finally:
        temporary.unlink(missing_ok=True)
        verdict.unlink(missing_ok=True)


# --- all of them ---


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

    `jobs` notebooks run at a time, on cores / jobs threads each; by default as many as there are cores, at
    most 4. `timeout` is in seconds, for each notebook. `parameters` go to every chosen notebook, which must
    know them. `say` gets one line per notebook, `progress` a short state about once a second. Raises
    UsageError, before anything starts, for a name, parameter or folder that cannot work.
    """
    sources.check_profile(profile)
    chosen = sources.choose(root / "notebooks", only)
    settings = {
        n.name: sources.check_parameters(n, {**(parameters or {}), "profile": profile}) for n in chosen
    }
    if (jobs is not None and jobs < 1) or (timeout is not None and timeout <= 0):
        raise UsageError("--jobs and --timeout must be positive")
    folders = Folders(root, profile)
    folders.check()

    inputs = sources.fingerprint(root, folders.results)
    manifest = read_manifest(folders.manifest, say)
    keys = {n.name: sources.key(n, settings[n.name], inputs) for n in chosen}
    done: dict[str, Outcome] = {}
    for notebook in chosen:
        if not force and _up_to_date(manifest.get(f"{profile}/{notebook.name}", {}), keys[notebook.name]):
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
            for notebook in todo
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


class _sigterm_interrupts:
    """Inside this context a request to terminate acts like Ctrl-C, so that the kernels are ended first."""

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
    """The closing lines: every failed notebook with its error and where to look, then the counts."""
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
