"""The search of many pairs in chunks, by several processes, with finished chunks stored on disk.

The name of a chunk's file is a hash of everything that it depends on, including its pairs. So a killed run
resumes with the chunks that it finished. Each chunk is computed on its own and in the same way, so the result
does not depend on the number of processes.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from semirobust import runs
from semirobust.collisions import find
from semirobust.collisions.network import Network
from semirobust.extractors import Array

CHUNK = 128  # pairs
REPORTED = 16  # chunks between two progress lines

Integers = np.ndarray


@dataclass(frozen=True, eq=False)
class Task:
    """A network, and two sets of points [N+, d] and [N-, d] whose pairs are to be searched.

    options: of `find_collisions` with method "admm". With more than one layer the search starts from the
        collisions of all layers but the last, which are collisions of the whole network.
    """

    network: Network
    positive: Array
    negative: Array
    options: dict[str, Any]

    def digest(self) -> str:
        """A hash of the task, which names its results."""
        found = hashlib.sha256(repr((self.network.rectified, sorted(self.options.items()))).encode())
        arrays = [array for layer in self.network.layers for array in layer]
        for array in (*arrays, self.positive, self.negative):
            found.update(str(array.shape).encode() + np.ascontiguousarray(array).tobytes())
        return found.hexdigest()[:16]

    def solve(self, pairs: Integers) -> Array:
        """[M]: the verified budgets of the pairs [M, 2]; infinity where none is known."""
        u, v = self.positive[pairs[:, 0]], self.negative[pairs[:, 1]]
        at = None
        if len(self.network.layers) > 1:
            before = find.find_collisions(self.network.prefixes[-1], u, v, **self.options)
            at = (before.u, before.v)
        rectified = self.network.rectified
        found = find.find_collisions(self.network, u, v, rectified=rectified, at=at, **self.options)
        return np.where(found.verified, found.epsilon, np.inf)


@contextmanager
def solver(
    task: Task, folder: Path | None, processes: int, say: runs.Say
) -> Iterator[Callable[[Integers], Array]]:
    """A function that does what `Task.solve` does, in chunks; its processes end with the ``with`` block.

    folder: where chunks are stored; None stores nothing. Raises OSError before any work if it cannot be
        written.
    """
    if folder is not None:
        folder = folder / task.digest()
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()  # raises OSError if it is read-only
    if processes == 1:
        yield lambda pairs: _solve(pairs, folder, map, task.solve, say)
        return
    context = multiprocessing.get_context("spawn")  # torch does not survive a fork with its threads
    with ProcessPoolExecutor(processes, context, initializer=_begin, initargs=(task,)) as pool:
        yield lambda pairs: _solve(pairs, folder, pool.map, _at_work, say)


_task: Task | None = None  # of this worker


def _begin(task: Task) -> None:
    global _task
    _task = task
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this worker when its parent ends; it would run on if the parent were killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _at_work(pairs: Integers) -> Array:
    assert _task is not None
    return _task.solve(pairs)


def _solve(
    pairs: Integers,
    folder: Path | None,
    over: Callable[..., Any],
    function: Callable[[Integers], Array],
    say: runs.Say,
) -> Array:
    chunks = [pairs[first : first + CHUNK] for first in range(0, len(pairs), CHUNK)]
    files = [None if folder is None else folder / _name(chunk) for chunk in chunks]
    parts = [None if file is None else _load(file) for file in files]
    todo = [i for i, part in enumerate(parts) if part is None]
    for done, (i, part) in enumerate(
        zip(todo, over(function, [chunks[i] for i in todo]), strict=True), start=1
    ):
        parts[i] = part
        if (file := files[i]) is not None:
            runs.save_tensors(file, {"epsilon": torch.from_numpy(part)})
        if done % REPORTED == 0:
            say(f"{done * CHUNK} of {len(todo) * CHUNK} pairs")
    found = [part for part in parts if part is not None]
    return np.concatenate(found) if found else np.zeros(0)


def _name(chunk: Integers) -> str:
    return hashlib.sha256(np.ascontiguousarray(chunk, np.int64).tobytes()).hexdigest()[:16] + ".safetensors"


def _load(file: Path) -> Array | None:
    """The budgets of a chunk; None where the file is missing or damaged (it is then computed again)."""
    try:
        tensors, _ = runs.load_tensors(file)
    except (FileNotFoundError, runs.CorruptFile):
        return None
    return tensors["epsilon"].numpy()
