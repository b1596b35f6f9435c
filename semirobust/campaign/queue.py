"""The queue: jobs in processes of their own, side by side, under a time budget."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from semirobust import paths, runs
from semirobust.campaign.jobs import Job, expected_seconds, jobs

_GRACE = 10.0  # seconds between asking a process to stop and killing it
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass
class Queue:
    """Runs the unfinished jobs of a profile.

    ``side_by_side``: how many at a time, each on one thread (None: one per core; two threads of one job get
    less done than two jobs, and next to nothing beside other work). ``hours``: stop after so many (None: run
    until nothing is left). ``foreground``: at normal priority, as on a machine of its own; else at the
    lowest. Whatever is cut off goes on from its last part the next time. A job that fails does not stop the
    others; those that need it wait.
    """

    profile: str
    side_by_side: int | None = None
    hours: float | None = None
    foreground: bool = False
    say: runs.Say = print
    failed: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        paths.check_profile(self.profile)
        if self.side_by_side is None:
            self.side_by_side = paths.cores()
        if self.side_by_side < 1:
            raise paths.UsageError(f"--jobs must be at least 1, got {self.side_by_side}")
        if self.hours is not None and not self.hours > 0:
            raise paths.UsageError(f"--hours must be above 0, got {self.hours}")

    def run(self, wanted: Sequence[Job]) -> bool:
        """Run ``wanted`` until all are done, or the time is up; True where nothing is left."""
        end = time.monotonic() + 3600 * self.hours if self.hours else float("inf")
        running: dict[str, _Worker] = {}
        done: set[str] = set()
        most = self.side_by_side or 1
        try:
            while time.monotonic() < end:
                self._collect(running, wanted)
                done |= {job.key for job in wanted if job.key not in done and job.is_done()}
                for job in wanted:
                    if len(running) >= most:
                        break
                    if job.key not in (done | running.keys() | self.failed.keys()) and set(job.needs) <= done:
                        self.say(f"{job.key}: starts ({job.kind})")
                        running[job.key] = _Worker.start(job.key, self.profile, self.foreground)
                if not running:
                    break
                self._wait(running, end)
        finally:
            for key, worker in running.items():
                worker.stop()
                self.say(f"{key}: stopped; it goes on from its last part")
        return all(job.is_done() for job in wanted)

    def _collect(self, running: dict[str, _Worker], wanted: Sequence[Job]) -> None:
        """Take the processes that have ended off the list, and say how they ended."""
        by_key = {job.key: job for job in wanted}
        for key in [key for key, worker in running.items() if worker.process.poll() is not None]:
            worker = running.pop(key)
            minutes = (time.monotonic() - worker.began) / 60
            if worker.process.returncode == 0 and by_key[key].is_done():
                self.say(f"{key}: done in {minutes:.1f} min")
            else:
                self.failed[key] = worker.last_line()
                self.say(f"{key}: FAILED after {minutes:.1f} min: {self.failed[key]} (more in {worker.log})")

    @staticmethod
    def _wait(running: dict[str, _Worker], end: float) -> None:
        while time.monotonic() < end:
            if any(worker.process.poll() is not None for worker in running.values()):
                return
            time.sleep(0.2)


@dataclass
class _Worker:
    """The process of one job, and the file that its lines go to."""

    process: subprocess.Popen[bytes]
    log: Path
    began: float

    @classmethod
    def start(cls, key: str, profile: str, foreground: bool) -> _Worker:
        log = paths.cache_root() / "campaign" / f"{key.replace('/', '-')}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "semirobust", "campaign", "--profile", profile, "--job", key]
        command += ["--foreground"] if foreground else []
        with log.open("ab") as file:
            process = subprocess.Popen(
                [*command, "--parent", str(os.getpid())],
                stdout=file,
                stderr=subprocess.STDOUT,
                env=os.environ | dict.fromkeys(_THREADS, "1"),
                start_new_session=True,  # its threads are scheduled as a group, and Ctrl-C reaches us alone
            )
        return cls(process, log, time.monotonic())

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def last_line(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else f"no output, exit status {self.process.returncode}"


def run_job(key: str, profile: str, parent: int, say: runs.Say, *, foreground: bool = False) -> None:
    """Run one job in this process, with a line to ``say`` for each part. Stops when the process ``parent`` is
    gone. Raises ``UsageError`` for an unknown key."""
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    if not foreground:
        if hasattr(os, "nice"):
            os.nice(19)
        with suppress(OSError):  # Linux: nice alone does little between sessions
            Path("/proc/self/autogroup").write_text("19")
    by_key = {job.key: job for job in jobs(profile)}
    if key not in by_key:
        raise paths.unknown("job", key, by_key)
    import torch

    torch.set_num_threads(1)
    by_key[key].make(say)


def _end_with(parent: int) -> None:
    """End this process at once when its parent has ended, even if that was killed."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def report(wanted: Sequence[Job], say: runs.Say, *, every: bool = False) -> None:
    """What is done, what is left and what it will cost, by kind; with ``every`` a line for each job too."""
    done = {job.key for job in wanted if job.is_done()}
    cost = expected_seconds(wanted, done)
    if every:
        for job in wanted:
            state = "stored" if job.key in done else _duration(cost.get(job.kind))
            say(f"{job.key:<40} {state:<16} {job.kind}")
    left = [job for job in wanted if job.key not in done]
    for kind in dict.fromkeys(job.kind for job in left):
        count = sum(job.kind == kind for job in left)
        each = cost.get(kind)
        total = f"{_duration(each)} each, {_duration(each * count)} in all" if each else "cost not known yet"
        say(f"left: {count:3d} x {kind}: {total}")
    known = sum(cost.get(job.kind, 0.0) for job in left)
    unknown = sum(job.kind not in cost for job in left)
    more = f", and {unknown} jobs of unknown cost" if unknown else ""
    say(f"{len(done)} of {len(wanted)} jobs are done; left: {_duration(known)}{more}")


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "not known"
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"
