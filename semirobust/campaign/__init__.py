"""The queue for long work: every run of a profile that is not stored yet, most wanted first.

A job is one run (or one plan) of an experiment. Each can be killed at any moment and goes on from its last
part. The queue runs one job after another, or several side by side, each in a process of its own.

jobs    the jobs of a profile, what each needs first, and what it will cost
queue   running them under a time budget, and the report of what is left
"""

from __future__ import annotations

from semirobust.campaign.jobs import Job, expected_seconds, jobs, with_needs
from semirobust.campaign.queue import Queue, report, run_job

__all__ = ["Job", "Queue", "expected_seconds", "jobs", "report", "run_job", "with_needs"]
