"""The notebook driver and the command line, on tiny notebooks in a folder of the test's own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jupytext
import pytest

from semirobust import paths, runs
from semirobust.paths import UsageError
from tools import __main__ as cli
from tools import checks
from tools.notebooks import run as driver
from tools.notebooks import sources, workers
from tools.notebooks.outputs import Outcome, read_manifest

HEADER = """\
# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A statement

# %% tags=["parameters"]
profile = "quick"
trials = 3
rate = 0.5
"""


def write(root: Path, name: str, *cells: str) -> Path:
    path = root / "notebooks" / f"{name}.py"
    path.parent.mkdir(exist_ok=True)
    path.write_text(HEADER + "".join(f"\n# %%\n{cell}\n" for cell in cells))
    return path


def statuses(outcomes: list[Outcome]) -> dict[str, str]:
    return {outcome.name: outcome.status for outcome in outcomes}


def alive(pid: int) -> bool:
    """Whether the process still runs (one that has ended but was not yet collected does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition, seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


# --- before anything starts ---


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"profile": "quik"}, ["unknown profile 'quik'", "did you mean quick?", "quick, reference, paper"]),
        ({"only": ["02_b", "03_c"]}, ["unknown notebook '03_c'", "01_a, 02_b"]),
        (
            {"parameters": {"trails": 3}},
            ["01_a", "'trails'", "did you mean trials?", "profile, trials, rate"],
        ),
        ({"parameters": {"rate": "8/255"}}, ["rate is a float", "0.5 by default", "'8/255'"]),
        ({"parameters": {"trials": True}}, ["trials is a int", "not True"]),
        ({"jobs": 0}, ["--jobs"]),
        ({"timeout": 0.0}, ["--timeout"]),
    ],
)
def test_a_request_that_cannot_work_stops_before_the_start(tmp_path, options, words) -> None:
    write(tmp_path, "01_a", "1 / 0")
    write(tmp_path, "02_b")
    with pytest.raises(UsageError) as caught:
        driver.run(tmp_path, **options)
    assert all(word in str(caught.value) for word in words), caught.value
    assert not (tmp_path / "build").exists()


@pytest.mark.parametrize(
    ("source", "word"),
    [
        (HEADER.replace("python3", "my-env"), "'my-env'"),
        (HEADER.replace("#     display_name: Python 3\n", ""), "'display_name' is a required property"),
        (HEADER.replace(' tags=["parameters"]', ""), "0 cells tagged 'parameters'"),
        (HEADER.replace("trials = 3", "trials = ="), "not Python"),
    ],
)
def test_a_source_that_is_not_as_it_must_be(tmp_path, source, word) -> None:
    write(tmp_path, "01_a").write_text(source)
    with pytest.raises(UsageError, match="01_a") as caught:
        driver.run(tmp_path)
    assert word in str(caught.value)


def test_no_notebooks(tmp_path) -> None:
    with pytest.raises(UsageError, match="no notebooks"):
        driver.run(tmp_path)


def test_an_output_folder_that_cannot_be_written(tmp_path) -> None:
    write(tmp_path, "01_a")
    (tmp_path / "build").write_text("a file where a folder must be")
    with pytest.raises(UsageError, match=r"cannot write in .*build"):
        driver.run(tmp_path)


def test_a_disk_that_is_nearly_full(tmp_path, monkeypatch) -> None:
    write(tmp_path, "01_a")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=5 * 2**20))
    with pytest.raises(UsageError, match="only 5 MB are free"):
        driver.run(tmp_path)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a=3", 3),
        ("a=0.5", 0.5),
        ("a=cifar10", "cifar10"),
        ("a=[1, 2]", [1, 2]),
        ("a=", ""),
        ("a=x=y", "x=y"),
        ("a={1}", "{1}"),
    ],
)
def test_parameters_from_the_command_line(text, value) -> None:
    assert sources.parse_parameter(text) == ("a", value)


@pytest.mark.parametrize("text", ["a", "=3", "a b=3", ""])
def test_not_a_parameter(text) -> None:
    with pytest.raises(UsageError, match="NAME=VALUE"):
        sources.parse_parameter(text)


# --- running ---


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """One run, two at a time, of notebooks that pass, raise, lose their kernel and take too long."""
    root = tmp_path_factory.mktemp("braces {in} path")
    child = "import subprocess; child = subprocess.Popen(['sleep', '600']); print(child.pid)"
    write(root, "01_pass", "print(profile, trials, __import__('os').environ['OMP_NUM_THREADS'])", "")
    write(root, "02_raise", "print('before')", "raise ValueError('first line\\nsecond')", "print('after')")
    write(root, "03_die", "import os", "os._exit(3)", "print('after')")
    write(root, "04_slow", child, "import time; time.sleep(600)", "print('after')")
    write(root, "05_also_pass", "print('still here')", "import warnings; warnings.warn('noise')")
    write(root, "06_die_at_the_end", "import os; os.kill(os.getpid(), 9)")
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("OMP_NUM_THREADS", raising=False)
        for name in ("RESULTS", "FIGURES"):
            patch.delenv(f"SEMIROBUST_{name}", raising=False)
        before = process_state()
        outcomes = driver.run(root, jobs=2, timeout=12.0, parameters={"trials": 7}, say=lines.append)
        assert process_state() == before
    return root, outcomes, lines


def process_state() -> tuple[object, ...]:
    return signal.getsignal(signal.SIGTERM), Path.cwd(), threading.active_count(), dict(os.environ)


def test_one_failure_stops_no_other(mixed) -> None:
    _, outcomes, _ = mixed
    passed = dict.fromkeys(("01_pass", "05_also_pass"), "passed")
    failed = dict.fromkeys(("02_raise", "03_die", "04_slow", "06_die_at_the_end"), "failed")
    assert statuses(outcomes) == passed | failed


@pytest.mark.parametrize("count", range(8))
def test_notebooks_start_from_both_ends_in_turn(count: int) -> None:
    order = driver._from_both_ends(list(range(count)))
    assert order[::2] == list(range((count + 1) // 2))
    assert order[1::2] == list(range(count - 1, (count - 1) // 2, -1))


def test_each_failure_says_what_and_where(mixed) -> None:
    _, outcomes, _ = mixed
    errors = {outcome.name: outcome.error for outcome in outcomes}
    assert errors["02_raise"] == "code cell 3: ValueError: first line"
    assert errors["03_die"] == "the kernel died: it was killed, or ended itself (in code cell 3)"
    assert errors["06_die_at_the_end"] == "the kernel died: it was killed, or ended itself (in code cell 2)"
    assert errors["04_slow"] == "timed out: it was still running after 12 s (in code cell 3)"


def test_outputs_are_whole_and_named_by_how_it_went(mixed) -> None:
    root, outcomes, _ = mixed
    folder = root / "build" / "notebooks" / "quick"
    names = sorted(path.name for path in folder.iterdir())
    failed = ["02_raise", "03_die", "04_slow", "06_die_at_the_end"]
    assert names == sorted(
        ["01_pass.ipynb", "05_also_pass.ipynb", *(f"{name}.failed.ipynb" for name in failed)]
    )
    text = jupytext.read(folder / "01_pass.ipynb").cells[3].outputs[0].text
    assert text == f"quick 7 {max(1, paths.cores() // 2)}\n"
    assert "before" in (folder / "02_raise.failed.ipynb").read_text()
    assert all(outcome.log.is_file() for outcome in outcomes)


def test_a_timeout_leaves_no_process_behind(mixed) -> None:
    root, _, _ = mixed
    slow = jupytext.read(root / "build" / "notebooks" / "quick" / "04_slow.failed.ipynb")
    text = next(cell.outputs[0].text for cell in slow.cells if "child.pid" in cell.source)
    assert wait_until(lambda: not alive(int(text)))


def test_one_line_each_and_a_summary_that_names_the_failures(mixed) -> None:
    root, outcomes, lines = mixed
    assert len(lines) == 1 + len(outcomes)
    assert "6 notebooks to run" in lines[0] and "2 at a time" in lines[0]
    assert sorted(line.split("]")[0] for line in lines[1:]) == [f"[{i}/6" for i in range(1, 7)]
    summary = driver.summary(outcomes, root)
    assert "FAILED 02_raise: code cell 3: ValueError: first line" in summary
    assert "       notebook: build/notebooks/quick/02_raise.failed.ipynb" in summary
    assert summary[-1] == "2 passed, 4 failed, 0 up to date"


def test_the_sources_are_not_touched(mixed) -> None:
    root, _, _ = mixed
    assert sorted(path.suffix for path in (root / "notebooks").iterdir()) == [".py"] * 6


# --- resuming ---


def runs_again(root: Path, **options) -> bool:
    (outcome,) = driver.run(root, only=["01_a"], **options)
    assert outcome.status in ("passed", "up to date"), outcome.error
    return outcome.status == "passed"


def test_what_has_passed_is_skipped_until_something_changes(tmp_path, monkeypatch) -> None:
    figure = tmp_path / "figures" / "quick" / "a.txt"
    monkeypatch.setenv("SEMIROBUST_FIGURES", str(tmp_path / "figures"))
    write(tmp_path, "01_a", f"open({str(figure)!r}, 'w').write('drawn')")
    monkeypatch.setattr(sources, "fingerprint", lambda root, results: "the same")  # tested below
    assert runs_again(tmp_path)
    assert not runs_again(tmp_path)
    figure.unlink()
    assert runs_again(tmp_path) and figure.exists()
    assert not runs_again(tmp_path)
    assert runs_again(tmp_path, force=True)


def test_what_a_notebook_depends_on(tmp_path) -> None:
    write(tmp_path, "01_a")
    results = tmp_path / "results"

    def key(**parameters: object) -> str:
        (notebook,) = sources.choose(tmp_path / "notebooks")
        return sources.key(
            notebook, {"profile": "quick"} | parameters, sources.fingerprint(tmp_path, results)
        )

    seen = [key(), key(profile="reference"), key(trials=4)]
    write(tmp_path, "01_a", "print('one more cell')")
    seen.append(key())
    for folder, text in (("reference", "1"), ("reference", "2"), ("paper", "1")):
        (results / folder / "table_1").mkdir(parents=True, exist_ok=True)
        (results / folder / "table_1" / "0123456789ab.json").write_text(text)
        seen.append(key())
    (tmp_path / "requirements.lock").write_text("torch==2.13.0\n")
    seen.append(key())
    assert len(set(seen)) == len(seen)
    (results / "quick").mkdir()
    (results / "quick" / "x.json").write_text("made by the run itself")
    assert key() == seen[-1]


@pytest.mark.parametrize("damage", ["{", "[]", '{"quick/01_a": 3}'])
def test_a_damaged_manifest_is_reported_and_made_again(tmp_path, damage) -> None:
    manifest = tmp_path / "manifest.json"
    manifest.write_text(damage)
    lines: list[str] = []
    assert read_manifest(manifest, lines.append) == {}
    assert "damaged" in lines[0]


def test_a_failed_notebook_runs_again_and_its_failure_is_cleared(tmp_path) -> None:
    path = write(tmp_path, "01_a", "1 / 0")
    (failed,) = driver.run(tmp_path)
    assert failed.output is not None and failed.output.name == "01_a.failed.ipynb"
    path.write_text(path.read_text().replace("1 / 0", "1 / 1"))
    (passed,) = driver.run(tmp_path)
    assert passed.status == "passed"
    assert [p.name for p in passed.output.parent.iterdir()] == ["01_a.ipynb"]


# --- interruptions ---


def start_run(root: Path) -> tuple[subprocess.Popen[str], int]:
    """A run of a notebook that never ends, and the process id of its kernel."""
    pid_file = root / "kernel.pid"
    write(
        root,
        "01_a",
        f"import os, time; open({str(pid_file)!r}, 'w').write(str(os.getpid()) + ' ')",
        "time.sleep(600)",
    )
    code = f"from pathlib import Path; from tools.notebooks import run; run.run(Path({str(root)!r}))"
    environment = workers.environment()
    process = subprocess.Popen(
        [sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, env=environment, cwd=root
    )
    assert wait_until(lambda: pid_file.exists() and pid_file.read_text().endswith(" "), 60)
    return process, int(pid_file.read_text())


def test_a_run_asked_to_stop_ends_its_kernels_first(tmp_path) -> None:
    process, kernel = start_run(tmp_path)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert "KeyboardInterrupt" in errors and process.returncode != 0
    assert not alive(kernel)
    entry = json.loads((tmp_path / "build" / "manifest.json").read_text())["quick/01_a"]
    assert entry["status"] == "failed" and entry["error"].startswith("interrupted")


def test_a_killed_run_leaves_no_kernel_behind(tmp_path) -> None:
    process, kernel = start_run(tmp_path)
    process.kill()
    process.communicate(timeout=30)
    assert wait_until(lambda: not alive(kernel))


def workers_of(root: Path) -> list[int]:
    """The processes that run a notebook of ``root``."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if "tools.notebooks.execute" in words and str(root) in words and alive(int(folder.name)):
            found.append(int(folder.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="reads /proc")
def test_a_run_killed_before_its_worker_is_up_leaves_no_worker_behind(tmp_path) -> None:
    """The worker needs seconds to import; its parent is gone before it can ask who that was."""
    root = tmp_path
    write(root, "01_a", "import time; time.sleep(600)")
    code = f"from pathlib import Path; from tools.notebooks import run; run.run(Path({str(root)!r}))"
    process = subprocess.Popen([sys.executable, "-c", code], env=workers.environment(), cwd=root)
    assert wait_until(lambda: bool(workers_of(root)), 60)
    process.kill()
    process.wait()
    assert wait_until(lambda: not workers_of(root), 60)


def test_relative_folders_mean_the_same_place_in_every_worker(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for variable in paths.VARIABLES:
        monkeypatch.setenv(variable, variable.lower())
    environment = workers.environment()
    assert [environment[name] for name in paths.VARIABLES] == [
        str(tmp_path / name.lower()) for name in paths.VARIABLES
    ]


# --- the verdict ---


def notebook_of(*cells: tuple[str, int | None, list[dict]]):
    notebook = jupytext.reads("# %%\n", fmt="py:percent")
    notebook.cells = [
        jupytext.reads(f"# %%\n{source}\n", fmt="py:percent").cells[0]
        | {"execution_count": count, "outputs": outputs}
        for source, count, outputs in cells
    ]
    return jupytext.reads(json.dumps(notebook), fmt="ipynb")


def test_a_cell_that_never_ran_is_a_failure_whatever_its_status_says() -> None:
    from tools.notebooks.execute import first_problem

    error = {"output_type": "error", "ename": "ZeroDivisionError", "evalue": "", "traceback": []}
    assert first_problem(notebook_of(("a", 1, []), ("b", 2, []))) is None
    assert first_problem(notebook_of(("a", 1, []), ("b", None, []))) == "code cell 2 was not run to its end"
    assert first_problem(notebook_of(("a", 1, []), ("b", 2, [error]))) == "code cell 2: ZeroDivisionError"


# --- the command line ---


def test_the_command_line_runs_lists_and_tells_failure(tmp_path, capsys) -> None:
    write(tmp_path, "01_a", "print(trials)")
    write(tmp_path, "02_b", "1 / 0")
    assert cli.main(["list"], root=tmp_path) == 0
    assert capsys.readouterr().out.count("not run") == 2
    assert cli.main(["--only", "01_a", "-p", "trials=4"], root=tmp_path) == 0
    assert "1 passed, 0 failed" in capsys.readouterr().out
    assert cli.main(["run", "--jobs", "1", "--only", "02_b"], root=tmp_path) == 1
    assert "FAILED 02_b: code cell 2: ZeroDivisionError: division by zero" in capsys.readouterr().out
    assert cli.main(["list"], root=tmp_path) == 0
    listed = capsys.readouterr().out.splitlines()
    assert listed[0].split()[:2] == ["01_a", "passed"] and "ZeroDivisionError" in listed[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--profile", "huge"], "unknown profile 'huge'"),
        (["list", "--profile", "huge"], "unknown profile 'huge'"),
        (["collate", "--profile", "huge"], "unknown profile 'huge'"),
        (["collate"], "no results"),
        (["--only", "99_z"], "unknown notebook '99_z'"),
        (["-p", "speed=3"], "unknown parameter 'speed'"),
        (["-p", "speed"], "NAME=VALUE"),
        (["pair", "--only", "99_z"], "unknown notebook '99_z'"),
        (["lst"], "unknown command 'lst' (did you mean list?); known: run, list, pair"),
        (["setpu", "--force"], "unknown command 'setpu' (did you mean setup?)"),
    ],
)
def test_the_command_line_says_what_is_wrong(tmp_path, capsys, words, message) -> None:
    write(tmp_path, "01_a")
    assert cli.main(words, root=tmp_path) == 2
    assert message in capsys.readouterr().err


def test_the_command_line_starts_without_what_takes_seconds_to_import() -> None:
    code = "import sys, tools.__main__; print(*{'torch', 'jupytext', 'papermill'} & set(sys.modules))"
    command = [sys.executable, "-c", code]
    answer = subprocess.run(command, env=workers.environment(), capture_output=True, text=True, check=True)
    assert answer.stdout == "\n"


def test_collate_writes_one_table_per_experiment(tmp_path, monkeypatch, capsys) -> None:
    from dataclasses import dataclass

    @dataclass(frozen=True)
    class Config:
        seed: int = 0

    monkeypatch.setattr(paths, "checkout", lambda: tmp_path)
    for seed in (0, 1):
        runs.run(
            Config(seed), lambda config: {"accuracy": config.seed / 2}, experiment="tiny", profile="quick"
        )
    assert cli.main(["collate"], root=tmp_path) == 0
    table = (tmp_path / "build" / "tables" / "quick" / "tiny.csv").read_text().splitlines()
    assert len(table) == 3 and "metrics.accuracy" in table[0]
    assert "2 runs" in capsys.readouterr().out


# --- the committed notebooks and the checks ---


def test_a_pair_is_made_and_made_again_byte_for_byte(tmp_path) -> None:
    shutil.copy(Path(__file__).parents[2] / "jupytext.toml", tmp_path)
    source = write(tmp_path, "01_a", "print(trials)")
    before = source.read_bytes()
    target = source.with_suffix(".ipynb")
    lines: list[str] = []
    assert checks.pair(tmp_path, say=lines.append), lines
    first = target.read_bytes()
    assert json.loads(first)["cells"][-1]["outputs"][0]["text"] == ["3\n"]
    assert checks.pair(tmp_path, say=lines.append)
    assert target.read_bytes() == first and source.read_bytes() == before
    source.write_text(source.read_text().replace("print(trials)", "print(trials / 0)"))
    assert not checks.pair(tmp_path, say=lines.append)
    assert target.read_bytes() == first
    assert any("ZeroDivisionError" in line for line in lines)


def test_the_test_command_runs_every_check_and_shows_what_failed(tmp_path, monkeypatch) -> None:
    commands: list[str] = []

    def answer(command, **options):
        commands.append(" ".join(command))
        failed = "mypy" in command
        return subprocess.CompletedProcess(
            command, int(failed), stdout="a.py:1: error: wrong\n" if failed else ""
        )

    monkeypatch.setattr(checks.subprocess, "run", answer)
    lines: list[str] = []
    assert not checks.test(tmp_path, say=lines.append)
    assert len(commands) == 5
    assert "a.py:1: error: wrong" in lines and lines[-1] == "failed: mypy"
    assert any("--nbval" in command for command in commands)
