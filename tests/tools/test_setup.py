"""The set-up: what is generated from pyproject.toml, and run_all.sh up to the point where it starts Python.

run_all.sh runs here in a folder of its own, with a Python whose ``-m venv`` and ``-m pip`` are imitations
that write down what they were asked; everything else in it is the real thing.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import semirobust

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
TOOLS = ["awk", "bash", "cat", "chmod", "df", "dirname", "env", "find", "flock", "grep"]
TOOLS += ["mkdir", "mktemp", "rm", "sleep", "tail", "touch"]

# --- what is generated ---


def pins() -> dict[str, str]:
    """Name -> version of the pins that hold here."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    here = [one for one in found if one.marker is None or one.marker.evaluate({"extra": ""})]
    return {one.name: str(one.specifier).removeprefix("==") for one in here}


def test_the_lock_pins_exactly_and_for_any_build_of_torch() -> None:
    assert (pins()["torch"], pins()["torchvision"]) == ("2.13.0", "0.28.0")
    assert all(re.fullmatch(r"[0-9][0-9a-z.]*", version) for version in pins().values())
    assert not [name for name in pins() if name.startswith(("nvidia", "cuda", "triton", "torchattacks"))]


def test_the_lock_has_everything_that_is_asked_for_and_all_that_these_need() -> None:
    extras = PROJECT["project"]["optional-dependencies"].values()
    lines = PROJECT["project"]["dependencies"] + [line for extra in extras for line in extra]
    lines += [line for name in pins() for line in metadata.distribution(name).requires or ()]
    wanted = [requirement for line in lines if (requirement := Requirement(line))]
    here = [r for r in wanted if r.marker is None or r.marker.evaluate({"extra": ""})]
    gpu = re.compile(r"nvidia|cuda|triton")
    names = {r.name.lower().replace("_", "-").replace(".", "-") for r in here}
    assert {name for name in names if not gpu.match(name)} <= set(pins())
    assert all(r.specifier.contains(pins()[r.name.lower()]) for r in here if r.name.lower() in pins())


def test_the_lock_serves_other_systems_and_every_supported_python() -> None:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    for python in ("3.11", "3.12", "3.13", "3.14"):
        for system in ("linux", "darwin"):
            place = {"python_version": python, "python_full_version": f"{python}.5", "sys_platform": system}
            place |= {"platform_system": system.capitalize(), "os_name": "posix", "extra": ""}
            names = [one.name for one in found if one.marker is None or one.marker.evaluate(place)]
            assert len(names) == len(set(names)) and {"torch", "jupyterlab", "nbval", "uv"} <= set(names)


def test_environment_yml_is_one_that_conda_reads() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["channels"][0] == "conda-forge"
    assert environment["dependencies"] == ["python=3.11", "pip", {"pip": ["-r requirements.lock"]}]


def test_every_import_of_the_package_is_declared() -> None:
    declared = {re.split(r"[<>=\[;]", line)[0] for line in PROJECT["project"]["dependencies"]}
    declared |= {line.partition("==")[0] for line in PROJECT["tool"]["semirobust"]["no-deps"]}
    names = {"sklearn": "scikit-learn", "jupyter_client": "jupyter-client"}
    imported = set()
    for path in (ROOT / "semirobust").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                imported.add(node.module.partition(".")[0])
    outside = {names.get(name, name) for name in imported - sys.stdlib_module_names - {"semirobust"}}
    assert outside <= declared


def test_the_versions_agree() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == semirobust.__version__
    assert "The semirobust authors" in (ROOT / "LICENSE").read_text()


def test_the_public_checks_run_the_test_command_on_the_oldest_and_newest_python() -> None:
    job = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]["test"]
    prefix = "Programming Language :: Python :: "
    known = [line.removeprefix(prefix) for line in PROJECT["project"]["classifiers"] if prefix in line]
    assert job["strategy"]["matrix"]["python"] == [known[0], known[-1]]
    assert f">={known[0]}" == PROJECT["project"]["requires-python"]
    assert "./run_all.sh test" in [step.get("run") for step in job["steps"]]
    assert all(re.search(r"@[0-9a-f]{40}$", step["uses"]) for step in job["steps"] if "uses" in step)
    assert "./run_all.sh test" in (ROOT / ".ci" / "run").read_text()


# --- run_all.sh ---

PYTHON = """\
#!/usr/bin/env bash
# the real Python, but for venv (copies this file), pip (writes down, then does as told) and tools
case "$1 ${2:-} ${3:-}" in
    "-m venv "*)
        mkdir -p "$3/bin"
        touch "$3/pyvenv.cfg"
        cat "$0" >"$3/bin/python"
        chmod +x "$3/bin/python" ;;
    "-m pip --version") echo pip ;;
    "-m pip install")
        echo "$*" >>"$RECORD"
        case "$FAKE_PIP" in
            ok) ;;
            sleep) sleep 60 ;;
            *) echo "$FAKE_PIP"; exit 1 ;;
        esac ;;
    "-m tools "*) shift 2; echo "ran: $*" ;;
    *) exec "REAL" "$@" ;;
esac
"""


class Sandbox:
    """A checkout with run_all.sh, and a PATH with nothing but its tools and one imitated Python."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "check out"  # a name with a space
        self.bin = folder / "bin"
        self.record = folder / "pip.txt"
        (self.root / "semirobust").mkdir(parents=True)
        self.bin.mkdir()
        shutil.copy(ROOT / "run_all.sh", self.root)
        shutil.copy(ROOT / "pyproject.toml", self.root)
        (self.root / "semirobust" / "__init__.py").touch()
        (self.root / "requirements.lock").write_text("# pins\nnot-installed-anywhere==1.0\n")
        for tool in TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool))
        self.script("python3", PYTHON.replace("REAL", sys.executable))

    def script(self, name: str, text: str, folder: Path | None = None) -> None:
        path = (folder or self.bin) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def start(self, *words: str, pip: str = "ok", **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(self.root / "run_all.sh"), *words],
            env={"PATH": str(self.bin), "RECORD": str(self.record), "FAKE_PIP": pip} | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def call(self, *words: str, **options: str) -> tuple[int, str, str]:
        process = self.start(*words, **options)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def wait_for_pip(self, process: subprocess.Popen[str]) -> None:
        deadline = time.monotonic() + 30
        while not self.record.exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)

    def asked(self) -> list[str]:
        """What pip was asked to install since the last question, without its common options."""
        lines = self.record.read_text().splitlines() if self.record.exists() else []
        self.record.unlink(missing_ok=True)
        return [line.partition("--progress-bar off ")[2] for line in lines]


EVERYTHING = [
    "-r requirements.lock",
    "--no-deps torchattacks==3.5.1",
    "--no-deps --no-build-isolation --editable .",
]


@pytest.fixture
def sandbox(tmp_path) -> Sandbox:
    return Sandbox(tmp_path)


def test_the_first_call_installs_and_the_second_does_not(sandbox) -> None:
    status, out, err = sandbox.call("--profile", "quick")
    assert (status, out) == (0, "ran: --profile quick\n"), err
    assert sandbox.asked() == EVERYTHING
    assert all(line.startswith("set-up: ") for line in err.splitlines()) and len(err.splitlines()) == 5
    start = time.perf_counter()
    assert sandbox.call() == (0, "ran: \n", "")
    assert time.perf_counter() - start < 3 and sandbox.asked() == []
    assert sandbox.call("python", "-c", "print(6 * 7)") == (0, "42\n", "")


@pytest.mark.parametrize("name", ["requirements.lock", "pyproject.toml"])
def test_a_changed_list_is_installed_into_the_same_venv(sandbox, name) -> None:
    sandbox.call("setup")
    sandbox.asked()
    (sandbox.root / ".venv" / "mine").touch()
    with (sandbox.root / name).open("a") as file:
        file.write("# changed\n")
    status, _, err = sandbox.call("setup")
    assert status == 0 and "has changed" in err
    assert sandbox.asked() == EVERYTHING and (sandbox.root / ".venv" / "mine").exists()


def test_a_moved_folder_is_noticed(sandbox) -> None:
    sandbox.call("setup")
    sandbox.asked()
    sandbox.root = sandbox.root.rename(sandbox.root.with_name("elsewhere"))
    status, _, err = sandbox.call("setup")
    assert status == 0 and "place has changed" in err and sandbox.asked() == EVERYTHING


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            "NewConnectionError: Failed to establish a new connection",
            ["could not reach the package index", "pip config"],
        ),
        ("OSError: [Errno 28] No space left on device", ["disk is full", "Free some space"]),
        ("ERROR: something else", ["its own words are above"]),
    ],
)
def test_a_failed_installation_says_why_and_the_next_call_finishes_it(sandbox, answer, words) -> None:
    status, out, err = sandbox.call(pip=answer)
    assert status == 1 and out == ""
    assert all(word in err for word in [answer, "set-up stopped", *words]), err
    assert sandbox.asked() == EVERYTHING[:1]
    status, out, err = sandbox.call()
    assert (status, out) == (0, "ran: \n") and "not finished" in err
    assert sandbox.asked() == EVERYTHING


def test_a_killed_set_up_is_made_again_from_the_start(sandbox) -> None:
    process = sandbox.start(pip="sleep")
    sandbox.wait_for_pip(process)
    (sandbox.root / ".venv" / "half a package").touch()
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=10)
    sandbox.asked()
    status, out, err = sandbox.call()
    assert (status, out) == (0, "ran: \n") and "not finished: starting it again" in err
    assert sandbox.asked() == EVERYTHING
    assert not (sandbox.root / ".venv" / "half a package").exists()


def test_two_at_once_set_up_once(sandbox) -> None:
    sandbox.script("sleep", "#!/usr/bin/env bash\nexec REAL 2\n".replace("REAL", shutil.which("sleep")))
    first = sandbox.start(pip="sleep")
    sandbox.wait_for_pip(first)
    second = sandbox.start()
    answers = [process.communicate(timeout=60) for process in (first, second)]
    assert [process.returncode for process in (first, second)] == [0, 0]
    assert [out for out, _ in answers] == ["ran: \n"] * 2
    assert "waiting for it" in answers[1][1] and sandbox.asked() == EVERYTHING


def test_a_python_that_is_too_old(sandbox) -> None:
    old = '#!/usr/bin/env bash\ncase "$2" in *exit*) exit 1 ;; *) echo 3.9.2 ;; esac\n'
    sandbox.script("python3", old)
    sandbox.script("python3.13", "#!/usr/bin/env bash\nexit 127\n")  # a shim of a version that is not there
    status, _, err = sandbox.call()
    assert status == 1
    assert "Python 3.11 to 3.14 is needed (found: python3 is 3.9.2, python3.13 is broken)" in err
    sandbox.script("python3.12", PYTHON.replace("REAL", sys.executable))
    assert sandbox.call()[:2] == (0, "ran: \n")


def test_a_tested_python_wins_over_one_that_is_too_new(sandbox) -> None:
    new = '#!/usr/bin/env bash\ncase "$2" in *"not (3"*) exit 1 ;; *exit*) exit 0 ;; *) echo 3.19.0 ;; esac\n'
    sandbox.script("python3", new)
    sandbox.script("python3.12", PYTHON.replace("REAL", sys.executable))
    assert sandbox.call("setup")[0] == 0 and sandbox.asked() == EVERYTHING


def test_no_python_at_all(sandbox) -> None:
    (sandbox.bin / "python3").unlink()
    status, _, err = sandbox.call()
    assert status == 1 and "found: none" in err and "Install it" in err


def test_a_python_without_venv(sandbox) -> None:
    lacking = PYTHON.replace('"-m venv "*)', '"-c import venv"*) exit 1 ;;\n    "-m venv "*)')
    sandbox.script("python3", lacking.replace("REAL", sys.executable))
    status, _, err = sandbox.call()
    assert status == 1 and "no venv module" in err and "python3-venv" in err
    assert not (sandbox.root / ".venv").exists()


def test_a_disk_that_is_nearly_full(sandbox) -> None:
    sandbox.script("df", "#!/usr/bin/env bash\necho Filesystem\necho /dev/x 100 90 2048000 99% /\n")
    status, _, err = sandbox.call()
    assert status == 1 and "about 4 GB are needed" in err and "2000 MB are free" in err
    assert not (sandbox.root / ".venv").exists()


def test_a_venv_of_somebody_else_is_not_touched(sandbox) -> None:
    (sandbox.root / ".venv" / "bin").mkdir(parents=True)
    status, _, err = sandbox.call()
    assert status == 1 and "did not make it" in err and sandbox.asked() == []
    assert [path.name for path in (sandbox.root / ".venv").iterdir()] == ["bin"]


@pytest.mark.parametrize("variable", ["VIRTUAL_ENV", "CONDA_PREFIX"])
def test_an_activated_environment_that_has_the_package_is_used_as_it_is(sandbox, tmp_path, variable) -> None:
    sandbox.script("python", PYTHON.replace("REAL", sys.executable), tmp_path / "env" / "bin")
    (sandbox.root / "torchattacks.py").touch()
    has_it = {variable: str(tmp_path / "env"), "PYTHONPATH": str(sandbox.root)}
    assert sandbox.call("list", **has_it) == (0, "ran: list\n", "")
    assert sandbox.asked() == [] and not (sandbox.root / ".venv").exists()


def test_an_activated_environment_with_every_pin_gets_the_last_two(sandbox, tmp_path) -> None:
    sandbox.script("python", PYTHON.replace("REAL", sys.executable), tmp_path / "env" / "bin")
    (sandbox.root / "requirements.lock").write_text(f"pytest=={metadata.version('pytest')}\n")
    status, out, err = sandbox.call(VIRTUAL_ENV=str(tmp_path / "env"))
    assert (status, out) == (0, "ran: \n") and "using the activated environment" in err
    assert sandbox.asked() == EVERYTHING[1:] and not (sandbox.root / ".venv").exists()


def test_any_other_activated_environment_is_left_alone(sandbox, tmp_path) -> None:
    sandbox.script("python", PYTHON.replace("REAL", sys.executable), tmp_path / "env" / "bin")
    status, out, err = sandbox.call(CONDA_PREFIX=str(tmp_path / "env"))
    assert (status, out) == (0, "ran: \n") and "leaving it alone" in err
    assert sandbox.asked() == EVERYTHING and (sandbox.root / ".venv").exists()
    assert sandbox.call(CONDA_PREFIX=str(tmp_path / "env")) == (0, "ran: \n", "")
