"""Atomic writing of files, and a lock between processes.

Every file is written under a temporary name in its own folder, flushed to the disk, and then renamed over
the old one. So a process killed at any moment leaves either the old file or the new one, never half of it.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

STALE_SECONDS = 24 * 3600.0  # a temporary file this old was left behind by a killed process


def write_atomic(path: str | os.PathLike[str], content: bytes | Callable[[Path], object]) -> Path:
    """Writes a whole file or nothing; returns its path.

    `content` is the bytes, or a function that writes the file it is given (a temporary one, in the same
    folder). Missing folders are made; an old file is replaced only when the new one is complete and on the
    disk. Raises OSError, of the same class as its cause and saying what to do, where the folder cannot be
    written or the disk is full.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path)
        try:
            temporary.touch()
            mode = temporary.stat().st_mode  # as the user's umask sets it: some writers make private files
            if callable(content):
                content(temporary)
            else:
                temporary.write_bytes(content)
            temporary.chmod(mode)
            _flush(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)  # still there only if something above failed
        _flush(path.parent)
    return path


def _flush(path: Path) -> None:
    """Waits until the file, or the folder's list of names, is on the disk (Windows opens no folder)."""
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_stale(path: Path) -> None:
    """Removes the temporary files that a killed writer of this same file left behind."""
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):
        with suppress(OSError):
            if time.time() - leftover.stat().st_mtime > STALE_SECONDS:
                leftover.unlink()


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turns an OSError of the folder or the disk into one of the same class that says what to do about it."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            advice = "the disk is full: free some space, or choose another folder"
        elif error.errno in (errno.ENOTDIR, errno.EEXIST):
            advice = "a part of the folder's path is a file: move that file away, or choose another folder"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            advice = "the folder is not writable: change its permissions, or choose another folder"
        else:
            raise
        raise OSError(error.errno, f"cannot write {path} ({error.strerror}); {advice}") from error


# --- one process at a time ---


@contextmanager
def lock(path: str | os.PathLike[str], timeout: float | None = None) -> Iterator[None]:
    """Lets only one process (and one thread) at a time into ``with lock(path)``.

    `path` is what is protected, and need not exist: the lock is the file ``.NAME.lock`` beside it, removed on
    release. The system releases it when its process ends, for whatever reason. Not re-entrant. Waits for
    `timeout` seconds (None: forever), then raises TimeoutError naming the process that holds it. Raises
    OSError, as `write_atomic` does, for a folder that cannot be written.
    """
    path = Path(path)
    name = path.with_name(f".{path.name}.lock")
    guard = FileLock(name, timeout=-1 if timeout is None else timeout, is_singleton=False)
    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            guard.acquire()
        except Timeout:
            number = name.read_text() or "unknown"
            raise TimeoutError(
                f"another process (number {number}) still holds {name}: "
                "wait until it ends, or end it, and run again"
            ) from None
    try:
        with suppress(OSError):  # Windows lets nobody write to a locked file
            name.write_text(str(os.getpid()))
        yield
    finally:
        with suppress(OSError):
            name.unlink()  # before the release: a waiting process notices that its file has been removed
        guard.release()
