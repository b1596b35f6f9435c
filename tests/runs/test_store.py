"""Hashes name what a run means; what is there is loaded; what is damaged is reported and made again."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import multiprocessing
import os
import subprocess
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from semirobust import paths, runs
from semirobust.runs import provenance, store


@dataclass(frozen=True)
class Attack:
    name: str = "pgd"
    steps: int = 10


@dataclass(frozen=True)
class OtherAttack:
    name: str = "pgd"
    steps: int = 10


@dataclass(frozen=True)
class Config:
    seed: int = 0
    eps: float = 8 / 255
    layers: tuple[int, ...] = (4, 12)
    attack: Attack | OtherAttack = Attack()
    label: str | None = None
    device: str = field(default="cpu", metadata={"semantic": False})


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEMIROBUST_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("SEMIROBUST_CACHE", str(tmp_path / "cache"))
    return tmp_path


def measure(config: Config) -> dict[str, Any]:
    return {
        "accuracy": np.float32(0.5),
        "interval": torch.tensor([0.25, 0.75]),
        "n": {"test": 4},
        "bound": math.inf,
    }


def never(config: Config) -> dict[str, Any]:
    raise AssertionError("it was computed again")


def go(config: Config = Config(), function: Any = measure, **options: Any) -> runs.Record:
    return runs.run(config, function, experiment="table_1", profile="quick", **options)


CONFIGS = st.builds(
    Config,
    seed=st.integers(),
    eps=st.floats(allow_nan=False),
    layers=st.lists(st.integers(0, 3), max_size=3).map(tuple),
    attack=st.builds(Attack, steps=st.integers(0, 3)) | st.builds(OtherAttack, steps=st.integers(0, 3)),
    label=st.none() | st.text(max_size=2),
)


@given(a=CONFIGS, b=CONFIGS)
def test_hashes_are_equal_exactly_where_configurations_are(a: Config, b: Config) -> None:
    assert (runs.config_hash(a) == runs.config_hash(b)) == (a == b)
    assert runs.config_hash(a) == runs.config_hash(dataclasses.replace(a))


def test_the_hash_is_the_same_in_every_process_and_release() -> None:
    assert runs.config_hash(Config()) == "3b17650bee5d"


def test_what_the_hash_sees() -> None:
    base = runs.config_hash(Config())
    assert runs.config_hash(Config(device="cuda")) == base
    assert runs.config_hash(Config(seed=0, eps=8 / 255)) == base
    assert runs.config_hash(Config(eps=1)) == runs.config_hash(Config(eps=1.0))
    assert runs.config_hash(Config(attack=OtherAttack())) != base
    assert runs.config_hash(Config(layers=(4, 12, 0))) != base


def test_a_new_schema_renames_every_run(monkeypatch: pytest.MonkeyPatch) -> None:
    base = runs.config_hash(Config())
    monkeypatch.setattr(provenance, "SCHEMA", runs.SCHEMA + 1)
    assert runs.config_hash(Config()) != base


@dataclass
class Mutable:
    seed: int = 0


@pytest.mark.parametrize(
    ("config", "kind", "message"),
    [
        (Mutable(), TypeError, "declare it @dataclass"),
        (Config, TypeError, "instance of a frozen dataclass"),
        ({"seed": 0}, TypeError, "instance of a frozen dataclass"),
        (Config(eps=math.nan), ValueError, r"Config\.eps is NaN"),
        (Config(label=torch.zeros(2)), TypeError, r"Config\.label is a Tensor"),  # type: ignore[arg-type]
        (Config(layers=(0, {1, 2})), TypeError, r"Config\.layers\[1\] is a set"),  # type: ignore[arg-type]
        (Config(attack=Mutable()), TypeError, "Mutable can change"),  # type: ignore[arg-type]
    ],
)
def test_a_bad_configuration_stops_before_any_work(
    config: Any, kind: type, message: str, folders: Path
) -> None:
    with pytest.raises(kind, match=message):
        go(config, never)
    assert list(folders.iterdir()) == []


def test_a_run_is_stored_once_and_then_loaded() -> None:
    first = go(Config(seed=3))
    assert first.path.name == f"{runs.config_hash(Config(seed=3))}.json"
    assert first.metrics == {"accuracy": 0.5, "interval": [0.25, 0.75], "n": {"test": 4}, "bound": math.inf}
    assert (
        first.config["attack"] == {"class": "Attack", "name": "pgd", "steps": 10}
        and "device" not in first.config
    )
    assert first.meta["status"] == "ok" and first.meta["seed"] == 3 and first.meta["wall_time_s"] >= 0
    assert (
        first.meta["versions"]["torch"] == torch.__version__.split("+")[0]
        or "+" in first.meta["versions"]["torch"]
    )
    assert first.meta["machine"]["threads"] == torch.get_num_threads()
    assert first.meta["started"].endswith("+00:00")
    assert go(Config(seed=3, device="cuda"), never) == first
    assert sorted(file.name for file in first.path.parent.iterdir()) == [first.path.name]


def test_force_computes_again() -> None:
    go()
    assert go(function=lambda config: {"x": 1}, force=True).metrics == {"x": 1}
    assert go(function=never).metrics == {"x": 1}


def rewrite(path: Path, **changes: Any) -> bytes:
    return json.dumps(json.loads(path.read_text()) | changes).encode()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.read_bytes()[:-20], "line "),
        (lambda path: b"", "Expecting value"),
        (lambda path: b"[]", "it is not a result"),
        (lambda path: rewrite(path, metrics=None), "it is not a result"),
        (lambda path: rewrite(path, schema=0), "its schema is 0"),
        (lambda path: rewrite(path, config={"seed": 9}), "another configuration"),
    ],
)
def test_a_damaged_result_is_reported_kept_aside_and_made_again(damage: Any, reason: str) -> None:
    first = go()
    broken = damage(first.path)
    first.path.write_bytes(broken)
    with pytest.warns(RuntimeWarning, match=rf"{first.path.name}: .*{reason}.*\.corrupt, made again"):
        again = go()
    assert again.metrics == first.metrics
    assert first.path.with_name(f"{first.path.name}.corrupt").read_bytes() == broken
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert go(function=never) == again
    assert [record.path for record in runs.find("table_1", "quick")] == [first.path]


def test_a_failing_run_stores_no_result() -> None:
    def fails(config: Config) -> dict[str, Any]:
        raise ZeroDivisionError("in the attack")

    with pytest.raises(ZeroDivisionError, match="in the attack"):
        go(function=fails)
    assert runs.find("table_1", "quick") == []
    (error,) = (paths.results_root() / "quick" / "table_1").iterdir()
    assert error.name == f"{runs.config_hash(Config())}.error.json"
    story = runs.read_json(error)
    assert story["status"] == "error" and "ZeroDivisionError: in the attack" in story["error"]
    go()
    assert not error.exists()


@pytest.mark.parametrize("returned", [None, [1], {"model": object()}])
def test_a_run_that_returns_no_metrics_is_an_error(returned: Any) -> None:
    with pytest.raises(TypeError, match=r"a run returns a mapping|metrics\.model is a object"):
        go(function=lambda config: returned)
    assert runs.find("table_1", "quick") == []


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown profile 'smoke'; known: quick, reference, paper"):
        runs.run(Config(), never, experiment="table_1", profile="smoke")
    with pytest.raises(ValueError, match=r"'\.\./x' cannot name an experiment"):
        runs.find("../x", "quick")


def test_an_output_folder_that_is_a_file_stops_before_any_work(folders: Path) -> None:
    (folders / "results").write_text("")
    with pytest.raises(OSError, match="a part of the folder's path is a file"):
        go(function=never)
    (folders / "cache").write_text("")
    with pytest.raises(OSError, match="a part of the folder's path is a file"):
        runs.network(Config(), lambda config, checkpoints: never(config))


def test_find_names_a_damaged_result() -> None:
    record = go()
    record.path.write_text("{")
    with pytest.raises(runs.CorruptFile, match=record.path.name):
        runs.find("table_1", "quick")


def test_collate_gives_flat_rows_and_a_csv(folders: Path) -> None:
    for seed in (0, 1):
        go(Config(seed=seed))
    go(Config(seed=2), lambda config: {"accuracy": math.nan, "note": None})
    rows = runs.collate("table_1", "quick")
    assert [row["hash"] for row in rows] == sorted(runs.config_hash(Config(seed=seed)) for seed in range(3))
    by_seed = {row["seed"]: row for row in rows}
    assert by_seed[1]["metrics.n.test"] == 4 and by_seed[1]["config.attack.steps"] == 10
    path = runs.write_csv(rows, folders / "out" / "table.csv")
    with path.open(newline="") as file:
        table = {row["seed"]: row for row in csv.DictReader(file)}
    assert table["1"]["metrics.interval"] == "[0.25,0.75]" and table["1"]["metrics.bound"] == "inf"
    assert table["2"]["metrics.interval"] == "" and table["2"]["metrics.accuracy"] == "nan"
    assert float(table["0"]["config.eps"]) == 8 / 255
    assert runs.collate("never_run", "paper") == []


# --- networks ---


def train(config: Config, checkpoints: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    assert checkpoints.is_dir()
    (checkpoints / "last").write_text("epoch 1")
    weight = torch.randn(3, 4, generator=torch.Generator().manual_seed(config.seed))
    return {"weight": weight}, {"accuracy": [0.1, 0.2]}


def never_train(config: Config, checkpoints: Path) -> dict[str, torch.Tensor]:
    raise AssertionError("it was trained again")


def test_a_network_is_trained_once() -> None:
    state, meta = runs.network(Config(seed=1), train)
    again, meta_again = runs.network(Config(seed=1), never_train)
    assert torch.equal(state["weight"], again["weight"]) and meta == meta_again
    (path,) = paths.cache_root().iterdir()  # neither a lock nor checkpoints are left
    assert meta["sha256"] == runs.sha256(path)
    assert (
        meta["log"] == {"accuracy": [0.1, 0.2]} and meta["config"]["seed"] == 1 and meta["wall_time_s"] >= 0
    )
    plain, meta = runs.network(Config(seed=2), lambda config, checkpoints: train(config, checkpoints)[0])
    assert set(plain) == {"weight"} and meta["log"] == {}


def test_a_killed_training_finds_its_checkpoints_again() -> None:
    def fails(config: Config, checkpoints: Path) -> dict[str, torch.Tensor]:
        (checkpoints / "last").write_text("epoch 7")
        raise KeyboardInterrupt

    def resumes(config: Config, checkpoints: Path) -> dict[str, torch.Tensor]:
        assert (checkpoints / "last").read_text() == "epoch 7"
        return {"weight": torch.ones(1)}

    with pytest.raises(KeyboardInterrupt):
        runs.network(Config(), fails)
    assert torch.equal(runs.network(Config(), resumes)[0]["weight"], torch.ones(1))


@pytest.mark.parametrize("damage", ["truncated", "flipped", "another"])
def test_a_damaged_network_is_reported_and_trained_again(damage: str) -> None:
    state, meta = runs.network(Config(), train)
    path = paths.cache_root() / f"{runs.config_hash(Config())}.safetensors"
    whole = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(whole[:-4])
    elif damage == "flipped":
        path.write_bytes(whole[:-4] + bytes([whole[-4] ^ 1]) + whole[-3:])
    else:
        runs.save_tensors(path, state, meta | {"config": {"seed": 5}})
    with pytest.warns(RuntimeWarning, match=r"\.safetensors: .*\.corrupt, made again"):
        again, _ = runs.network(Config(), train)
    assert torch.equal(again["weight"], state["weight"])
    runs.network(Config(), never_train)


def train_slowly(config: Config, checkpoints: Path | None = None) -> dict[str, torch.Tensor]:
    with open(os.environ["CALLS"], "a") as file:
        file.write(f"{os.getpid()}\n")
    time.sleep(0.5)
    return {"weight": torch.full((2,), float(os.getpid()))}


def want_both(ready: Any, answers: Any) -> None:
    ready.wait(timeout=60)
    state, _ = runs.network(Config(), train_slowly)
    ready.wait(timeout=60)
    record = go(function=train_slowly)
    answers.put((state["weight"].tolist(), record.metrics["weight"]))


def test_two_processes_that_want_the_same_network_or_result_compute_it_once(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CALLS", str(folders / "calls"))
    context = multiprocessing.get_context("spawn")
    ready, answers = context.Barrier(2), context.Queue()
    processes = [context.Process(target=want_both, args=(ready, answers)) for _ in range(2)]
    for process in processes:
        process.start()
    first, second = answers.get(timeout=60), answers.get(timeout=60)
    for process in processes:
        process.join(timeout=60)
    assert [process.exitcode for process in processes] == [0, 0]
    trainer, runner = (folders / "calls").read_text().split()
    assert first == second == ([float(trainer)] * 2, [float(runner)] * 2)


# --- reference weights ---


@pytest.fixture
def weights(folders: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(store, "weights_root", lambda: folders / "weights")
    tensors = {"weight": torch.tensor([0.5, 1.5]).half(), "steps": torch.tensor(7)}
    path = runs.save_tensors(folders / "weights" / "robust.safetensors", tensors)
    (path.parent / "SHA256SUMS").write_text(f"{runs.sha256(path)}  robust.safetensors\n")
    return path


def test_reference_weights_are_checked_and_come_in_single_precision(weights: Path) -> None:
    state = runs.reference_weights("robust")
    assert state["weight"].dtype == torch.float32 and state["weight"].tolist() == [0.5, 1.5]
    assert state["steps"].dtype == torch.int64


def test_reference_weights_that_cannot_be_trusted(weights: Path) -> None:
    with pytest.raises(ValueError, match=r"no reference weights 'other'; there are: robust"):
        runs.reference_weights("other")
    runs.save_tensors(weights, {"weight": torch.tensor([0.5, 1.0]).half()})
    with pytest.raises(runs.CorruptFile, match=r"not the one in SHA256SUMS.*check the file out of git again"):
        runs.reference_weights("robust")
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"robust\.safetensors is missing: install the package again"):
        runs.reference_weights("robust")
    (weights.parent / "SHA256SUMS").unlink()
    with pytest.raises(FileNotFoundError, match=r"SHA256SUMS is missing"):
        runs.reference_weights("robust")


# --- folders and provenance ---


def test_folders_are_those_of_the_checkout_of_the_user_or_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("RESULTS", "CACHE", "FIGURES"):
        monkeypatch.delenv(f"SEMIROBUST_{name}", raising=False)
    monkeypatch.setattr(paths, "checkout", lambda: tmp_path)
    assert paths.results_root() == tmp_path / "results"
    assert paths.cache_root() == tmp_path / ".cache" / "networks"
    assert paths.figures_root() == tmp_path / "figures"
    monkeypatch.setattr(paths, "checkout", lambda: None)
    monkeypatch.chdir(tmp_path)
    for found in (paths.results_root(), paths.cache_root(), paths.figures_root()):
        assert found.is_absolute() and "semirobust" in found.parts and not found.is_relative_to(tmp_path)
    monkeypatch.setenv("SEMIROBUST_RESULTS", "here")
    assert paths.results_root() == tmp_path / "here"


def test_a_checkout_has_pyproject_toml_beside_the_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(paths, "PACKAGE", tmp_path / "checkout" / "semirobust")
    assert paths.checkout() is None
    assert provenance.provenance()["git"] is None
    (tmp_path / "checkout").mkdir()
    (tmp_path / "checkout" / "pyproject.toml").touch()
    assert paths.checkout() == tmp_path / "checkout"


def test_the_commit_and_uncommitted_changes_of_the_code_are_noted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = tmp_path / "checkout" / "semirobust"
    package.mkdir(parents=True)
    (package / "module.py").write_text("x = 1\n")
    (package.parent / "pyproject.toml").touch()
    monkeypatch.setattr(paths, "PACKAGE", package)
    assert provenance.provenance()["git"] is None

    def git(*words: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", str(package.parent), *identity, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "one")
    assert provenance.provenance()["git"] == {"commit": git("rev-parse", "HEAD"), "dirty": False}
    (package.parent / "results.json").write_text("{}")  # a new result does not change the code
    assert provenance.provenance()["git"]["dirty"] is False
    (package / "module.py").write_text("x = 2\n")
    assert provenance.provenance()["git"]["dirty"] is True
