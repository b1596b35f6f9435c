"""The process that runs one notebook: ``python -m tools.notebooks.execute REQUEST``.

`workers` starts this file in a process of its own, for two reasons: papermill changes the working directory
of its whole process, and it can stop single cells only, not notebooks. REQUEST is a JSON object: ``source``
(the .py file), ``target`` (the notebook to write), ``verdict`` (the JSON file to write), ``parameters``
(name -> value), ``timeout`` (seconds for the whole notebook, or null), ``parent`` (the id of the process that
asks). The verdict is ``{"error": null}``, or says in one line what went wrong and in which cell.

Papermill's own status cannot be trusted: cells that never ran, because the kernel was killed, are marked
"completed", and the cell that was running when it died has an execution count. A notebook has passed when
nothing was raised, every code cell has an execution count and no output is an error.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jupytext
import papermill
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import DeadKernelError

START_TIMEOUT = 120  # seconds for a kernel to answer, on a busy machine


class Watch(threading.Thread):
    """Kills the kernel when its time is up, when this process is asked to end, or when its parent is gone."""

    def __init__(self, manager: AsyncKernelManager, timeout: float | None, parent: int) -> None:
        super().__init__(daemon=True)
        self.reason: str | None = None
        self.finished = threading.Event()
        self._manager = manager
        self._timeout = timeout
        self._parent = parent  # from the request: it may be gone before this process asks for it
        self._asked = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: self._asked.set())

    def run(self) -> None:
        start = time.monotonic()
        while not self.finished.wait(0.2):
            if self.reason is None:
                if self._timeout is not None and time.monotonic() - start > self._timeout:
                    self.reason = f"timed out: it was still running after {self._timeout:g} s"
                elif self._asked.is_set():
                    self.reason = "interrupted"
                elif os.getppid() != self._parent:
                    self.reason = "interrupted: the process that started it is gone"
            if self.reason is not None:
                self.kill()

    def kill(self) -> None:
        """Ends the kernel, if there is one, and all processes that it has started."""
        # None before the start and after the end
        process = getattr(self._manager.provisioner, "process", None)
        if process is not None and process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # the kernel leads its own group


def _code_cells(notebook: Any) -> Iterator[tuple[str, Any]]:
    """The code cells that are not empty, each with its place as a reader of the source counts cells."""
    number = 0
    for cell in notebook.cells:
        if cell.cell_type == "code" and cell.source.strip():
            number += "injected-parameters" not in cell.metadata.get("tags", [])
            yield f"code cell {number}", cell


def last_begun(notebook: Any) -> str:
    """The place of the last code cell that was started."""
    begun = [
        where for where, cell in _code_cells(notebook) if cell.metadata.get("papermill", {}).get("start_time")
    ]
    return f"in {begun[-1]}" if begun else "before the first cell"


def first_problem(notebook: Any) -> str | None:
    """The first thing that is wrong with an executed notebook, in one line; None where it has passed."""
    for where, cell in _code_cells(notebook):
        for output in cell.outputs:
            if output.output_type == "error":
                message = (output.evalue or "").strip().splitlines() or [""]
                return f"{where}: {output.ename}: {message[0]}".rstrip(": ")
        if cell.execution_count is None:
            return f"{where} was not run to its end"
    return None


def execute(
    source: Path, target: Path, parameters: dict[str, Any], timeout: float | None, parent: int
) -> str | None:
    """Runs `source`, writes the executed notebook to `target`, and returns what went wrong, or None.

    Ends early when the process ``parent`` is gone."""
    notebook = jupytext.read(source)
    with tempfile.TemporaryDirectory(prefix="semirobust-") as private:
        # a folder of its own for sockets: kernels that start together race for ports, and for a shared folder
        manager = AsyncKernelManager(
            kernel_name="python3",
            kernel_spec_manager=KernelSpecManager(kernel_dirs=[]),  # this Python, whatever is registered
            transport="ipc",
            ip=f"{private}/k",
            connection_file=f"{private}/connection.json",
        )
        watch = Watch(manager, timeout, parent)
        watch.start()
        failure: Exception | None = None
        try:
            papermill.execute_notebook(
                notebook,
                str(target).replace("{", "{{").replace("}", "}}"),  # it formats paths with the parameters
                parameters=parameters,
                progress_bar=False,
                start_timeout=START_TIMEOUT,
                km=manager,
            )
        except Exception as error:
            failure = error
        finally:
            watch.finished.set()
            watch.join()
            watch.kill()  # papermill leaves a kernel running that it did not start itself
    executed = jupytext.read(target) if target.exists() else None
    where = "before the first cell" if executed is None else last_begun(executed)
    if watch.reason is not None:
        return f"{watch.reason} ({where})"
    if isinstance(failure, DeadKernelError):
        return f"the kernel died: it was killed, or ended itself ({where})"
    if failure is not None and not isinstance(failure, papermill.PapermillExecutionError):
        message = str(failure).strip().splitlines() or [""]
        return f"{type(failure).__name__}: {message[0]} ({where})"
    return first_problem(executed) if executed is not None else "no notebook was written"


def main(argument: str) -> int:
    request = json.loads(argument)
    source, target = Path(request["source"]), Path(request["target"])
    error = execute(source, target, request["parameters"], request["timeout"], request["parent"])
    Path(request["verdict"]).write_text(json.dumps({"error": error}))
    return int(error is not None)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
