"""The queue for long work: order, needs, costs, failures, and being killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from semirobust import __main__, campaign, paths, runs
from semirobust.campaign import Job, Queue
from semirobust.experiments import lineage
from tests.cases import one_thread, use_store


def job(key, *, done=lambda: False, needs=(), kind="k", seconds=None):
    return Job(key, kind, lambda say: None, done, lambda: seconds, needs)


@pytest.mark.parametrize("profile", paths.PROFILES)
def test_each_job_comes_once_and_after_what_it_needs(profile, tmp_path, monkeypatch):
    use_store(tmp_path, monkeypatch)
    made = campaign.jobs(profile)
    place = {job.key: number for number, job in enumerate(made)}
    assert len(place) == len(made)
    assert all(place[need] < place[job.key] for job in made for need in job.needs)
    assert not any(job.is_done() for job in made if not job.key.startswith("network/"))


def test_what_is_stored_is_done_and_networks_that_nobody_needs_are_not_trained(monkeypatch):
    monkeypatch.delenv("SEMIROBUST_RESULTS", raising=False)
    by_key = {job.key: job for job in campaign.jobs("reference")}
    assert by_key["algorithm_1/eed22de1b5d9"].is_done()
    assert by_key["algorithm_1/eed22de1b5d9"].seconds() > 10
    assert by_key["network/21406de7a900"].is_done()  # not in the cache of a fresh clone, but all is measured


def test_only_some_jobs_come_with_all_that_they_need():
    every = [job("a"), job("b", needs=("a",)), job("c"), job("d", needs=("b",))]
    assert [found.key for found in campaign.with_needs([every[3]], every)] == ["a", "b", "d"]


def test_the_report_adds_up_known_costs_and_counts_the_others(capsys):
    made = [
        job("1", done=lambda: True, kind="x", seconds=60.0),
        job("2", done=lambda: True, kind="x", seconds=120.0),
        job("3", kind="x"),
        job("4", kind="x"),
        job("5", kind="y"),
    ]
    assert campaign.expected_seconds(made, ["1", "2"]) == {"x": 90.0}
    campaign.report(made, print, every=True)
    out = capsys.readouterr().out
    assert "left:   2 x x: 1.5 min each, 3.0 min in all" in out
    assert "left:   1 x y: cost not known yet" in out
    assert "2 of 5 jobs are done; left: 3.0 min, and 1 jobs of unknown cost" in out


@pytest.mark.parametrize(
    "words", [["--jobs", "0"], ["--hours", "-1"], ["--hours", "nan"], ["--only", "no such job"]]
)
def test_a_request_that_cannot_work_is_refused(words, capsys):
    assert __main__.main(["campaign", *words]) == 2
    assert "error:" in capsys.readouterr().err


def test_a_job_that_fails_is_named_and_what_needs_it_waits(tmp_path, monkeypatch):
    use_store(tmp_path, monkeypatch)
    lines = []
    queue = Queue("quick", say=lines.append)
    assert not queue.run([job("nothing/of-this-name"), job("later", needs=("nothing/of-this-name",))])
    assert "unknown job" in queue.failed["nothing/of-this-name"]
    assert not any("later" in line for line in lines)


def quick(tmp_path):
    """The command in a process group of its own, with a store of its own."""
    folders = {"SEMIROBUST_RESULTS": tmp_path / "results", "SEMIROBUST_CACHE": tmp_path / "cache"}
    return subprocess.Popen(
        [sys.executable, "-m", "semirobust", "campaign", "--foreground", "--only", "lineage"],
        env=os.environ | {name: str(path) for name, path in folders.items()} | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_killed_and_run_again_it_ends_with_the_same_results(tmp_path):
    """(All of the quick profile, killed ten times, was run by hand: the same results.)"""
    generator = random.Random(0)
    for _ in range(2):
        process = quick(tmp_path)
        time.sleep(generator.uniform(1.0, 4.0))
        process.send_signal(signal.SIGKILL)
        process.wait()
    process = quick(tmp_path)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    assert "1 of 1 jobs are done; left: 0.0 min" in out
    (path,) = (tmp_path / "results" / "quick" / "lineage").glob("[0-9a-f]*.json")
    with one_thread():
        (config,) = lineage.plans("quick")
        assert json.loads(path.read_text())["metrics"] == lineage.run_pair(config)


def test_a_process_whose_queue_was_killed_ends(tmp_path):
    process = quick(tmp_path)
    log = tmp_path / "cache" / "campaign"
    while not list(log.glob("*.log")) and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (record,) = (job for job in campaign.jobs("quick") if job.key.startswith("lineage/"))
    path = tmp_path / "results" / "quick" / f"{record.key}.json"
    time.sleep(3)  # the orphan has found out by then
    with runs.lock(path, timeout=30):
        pass
