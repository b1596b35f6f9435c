"""The processes that run notebooks, one `execute` each. Requests are JSON, and the answer is a file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

from semirobust import paths
from tools.notebooks.sources import Notebook

ROOT = Path(__file__).resolve().parents[2]  # the folder of the checkout
GRACE = 60.0  # seconds in which a worker ends its own kernel and saves the notebook, before it is killed


def environment(threads: int = 1) -> dict[str, str]:
    """The environment of a child process.

    It sets the number of computing threads, unless the user has set it, and makes the paths of folders
    absolute, so that they are right in every working directory."""
    counts = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    folders = {name: str(folder) for name in paths.VARIABLES if (folder := paths.given(name))}
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    fixed = {"PYTHONPATH": path, "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    return counts | dict(os.environ) | folders | fixed


class Workers:
    """The processes at work, so that an interrupted run leaves none behind."""

    def __init__(self) -> None:
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self._stopped = False
        self._lock = threading.Lock()  # so that no process starts while `stop` is at work

    def execute(
        self,
        notebook: Notebook,
        parameters: Mapping[str, object],
        *,
        folder: Path,
        log: Path,
        timeout: float | None,
        threads: int,
    ) -> tuple[str, Path | None]:
        """Runs one notebook in its own process; returns the error (empty: it passed) and what was executed.

        Raises OSError for a disk that cannot be written, InterruptedError (an OSError too) after `stop`.
        """
        temporary = folder / f".{notebook.name}.{os.getpid()}.ipynb"
        verdict = temporary.with_suffix(".verdict")
        passed, failed = (folder / f"{notebook.name}{end}" for end in (".ipynb", ".failed.ipynb"))
        request = {
            "source": str(notebook.path),
            "target": str(temporary),
            "verdict": str(verdict),
            "parameters": dict(parameters),
            "timeout": timeout,
            "parent": os.getpid(),
        }
        try:
            self._start(notebook.name, request, log, notebook.path.parent, threads)
            status = self._finish(notebook.name, None if timeout is None else timeout + GRACE)
            try:
                error = json.loads(verdict.read_text())["error"] or ""
            except (OSError, ValueError):
                error = f"the process that ran it ended with status {status}, without a verdict"
            failed.unlink(missing_ok=True)  # left by an earlier run
            if not temporary.exists():
                return error or "it wrote no notebook", None
            output = failed if error else passed
            os.replace(temporary, output)
            return error, output
        finally:
            temporary.unlink(missing_ok=True)
            verdict.unlink(missing_ok=True)

    def stop(self) -> None:
        """Asks every process to end its kernel and itself. Waiting calls of `execute` then return."""
        with self._lock:
            self._stopped = True
            for process in list(self.running.values()):
                process.terminate()
                last_resort = threading.Timer(GRACE, process.kill)
                last_resort.daemon = True
                last_resort.start()

    def _start(self, name: str, request: Mapping[str, object], log: Path, cwd: Path, threads: int) -> None:
        """Starts `tools.notebooks.execute` on the request."""
        with self._lock, log.open("wb") as stream:
            if self._stopped:
                raise InterruptedError("interrupted before it began")
            self.running[name] = subprocess.Popen(
                [sys.executable, "-m", "tools.notebooks.execute", json.dumps(request)],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env=environment(threads),
                start_new_session=True,  # Ctrl-C reaches only us, and we end the child in order
            )

    def _finish(self, name: str, timeout: float | None) -> int:
        """Waits for the process, kills it after `timeout`, and returns its exit status."""
        process = self.running[name]
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()  # its kernel notices that its parent is gone, and ends
            process.wait()
        self.running.pop(name, None)
        return process.returncode
