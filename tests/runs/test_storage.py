"""Files are whole or not there, damage is noticed, and one process at a time holds a lock."""

from __future__ import annotations

import errno
import math
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from semirobust import runs
from semirobust.runs import storage

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text().filter(lambda key: key != "$float"), inner),
    max_leaves=12,
)


def same(a: object, b: object) -> bool:
    """Equality that takes NaN as equal to itself, and tells 1 from 1.0."""
    return repr(a) == repr(b)


def ordered(value: object) -> object:
    if isinstance(value, dict):
        return {key: ordered(value[key]) for key in sorted(value)}
    return [ordered(item) for item in value] if isinstance(value, list) else value


@given(value=JSON_VALUES)
def test_json_reads_back_exactly_what_was_written(value: object) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = runs.write_json(Path(folder) / "deep" / "value.json", value)
        assert same(ordered(runs.read_json(path)), ordered(value))


def test_json_is_strict_and_sorted(tmp_path: Path) -> None:
    path = runs.write_json(tmp_path / "a.json", {"b": math.nan, "a": [math.inf, -math.inf], "é": 0.1})
    assert "NaN" not in path.read_text() and "Infinity" not in path.read_text()
    assert path.read_text().index('"a"') < path.read_text().index('"b"')
    value = runs.read_json(path)
    assert math.isnan(value["b"]) and value["a"] == [math.inf, -math.inf] and value["é"] == 0.1


def test_json_takes_numpy_and_torch_values() -> None:
    value = {
        "a": np.float64(0.5),
        "b": torch.tensor([1, 2]),
        "c": np.array([[True]]),
        "d": (torch.tensor(2.0),),
    }
    assert runs.json_text(value, indent=None) == '{"a":0.5,"b":[1,2],"c":[[true]],"d":[2.0]}'


@pytest.mark.parametrize("value", [{"a": [object()]}, {"a": {1: 2}}, {"a": {"$float": "nan"}}, {"a": {1, 2}}])
def test_json_names_the_place_of_what_it_cannot_hold(tmp_path: Path, value: object) -> None:
    with pytest.raises(TypeError, match=r"value\.a"):
        runs.write_json(tmp_path / "a.json", value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "damage", [b"", b'{"a": 1', b'{"a": NaN}', b"\xff\xfe", b'{"$float": "one"}', b"[" * 10**5]
)
def test_a_damaged_json_is_named_with_a_remedy(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(damage)
    with pytest.raises(
        runs.CorruptFile, match=r"a\.json is corrupt or truncated .*delete it and run again"
    ) as caught:
        runs.read_json(path)
    assert caught.value.path == path
    copy = pickle.loads(pickle.dumps(caught.value))  # as between the processes of a pool
    assert str(copy) == str(caught.value)


def example_tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 4, 2, 2, generator=generator)
    return {
        "view": x[:, ::2],
        "channels_last": x.to(memory_format=torch.channels_last),
        "shared": x,
        "half": x.half(),
        "bfloat": x.bfloat16(),
        "scalar": torch.tensor(3),
        "flag": torch.tensor(True),
        "empty": torch.zeros(0, 3),
        "generator": generator.get_state(),
        "parameter": torch.nn.Parameter(x),
    }


def test_tensors_read_back_bit_for_bit_and_the_file_is_stable(tmp_path: Path) -> None:
    tensors = example_tensors()
    path = runs.save_tensors(tmp_path / "a.safetensors", tensors, {"epoch": 3, "loss": math.nan, "lr": [0.1]})
    first = path.read_bytes()
    found, metadata = runs.load_tensors(path)
    assert set(found) == set(tensors)
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    assert all(found[name].dtype == tensors[name].dtype for name in tensors)
    assert metadata["epoch"] == 3 and math.isnan(metadata["loss"]) and metadata["lr"] == [0.1]
    runs.save_tensors(path, dict(reversed(tensors.items())), {"lr": [0.1], "loss": math.nan, "epoch": 3})
    assert path.read_bytes() == first
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_every_truncation_and_a_flipped_bit_are_noticed(tmp_path: Path) -> None:
    path = runs.save_tensors(tmp_path / "a.safetensors", {"x": torch.arange(40.0)}, {"epoch": 1})
    whole = path.read_bytes()
    flipped = whole[:-9] + bytes([whole[-9] ^ 4]) + whole[-8:]
    for damaged in [whole[:length] for length in range(0, len(whole), 7)] + [whole + b"\0", flipped]:
        path.write_bytes(damaged)
        with pytest.raises(runs.CorruptFile, match=r"a\.safetensors"):
            runs.load_tensors(path)
    with pytest.raises(FileNotFoundError, match=r"b\.safetensors"):
        runs.load_tensors(tmp_path / "b.safetensors")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = runs.write_atomic(tmp_path / "a", b"old")

    def fails(temporary: Path) -> None:
        temporary.write_bytes(b"half of the n")
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        runs.write_atomic(path, fails)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_the_new_file_is_on_the_disk_before_it_replaces_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = runs.write_atomic(tmp_path / "a", b"old")
    events = []
    fsync, replace = os.fsync, os.replace

    def seen_fsync(descriptor: int) -> None:
        events.append(("flushed", os.fstat(descriptor).st_ino))
        fsync(descriptor)

    def seen_replace(source: Path, target: Path) -> None:
        events.append(("renamed", os.stat(source).st_ino))
        assert target.read_bytes() == b"old" and source.parent == target.parent
        replace(source, target)

    monkeypatch.setattr(os, "fsync", seen_fsync)
    monkeypatch.setattr(os, "replace", seen_replace)
    runs.write_atomic(path, b"new")
    new, folder = path.stat().st_ino, tmp_path.stat().st_ino
    assert events == [("flushed", new), ("renamed", new), ("flushed", folder)]


def test_a_writer_killed_in_the_middle_leaves_the_old_file(tmp_path: Path) -> None:
    path = runs.write_atomic(tmp_path / "a", b"old")
    program = (
        "import os, signal, sys\n"
        "from semirobust.runs import storage\n"
        "def half(file):\n"
        "    file.write_bytes(b'half of the n')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "storage.write_atomic(sys.argv[1], half)\n"
    )
    killed = subprocess.run([sys.executable, "-c", program, path], timeout=60, env=child_environment())
    assert killed.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    (leftover,) = set(tmp_path.iterdir()) - {path}
    runs.write_atomic(path, b"new")
    assert leftover.exists()  # it could belong to a living writer
    os.utime(leftover, (0, 0))
    runs.write_atomic(path, b"newer")
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == b"newer"


def child_environment() -> dict[str, str]:
    root = str(Path(storage.__file__).parents[2])
    return os.environ | {"PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}


@pytest.mark.parametrize("below", ["a", "deeper/a"])
def test_a_folder_whose_parent_is_a_file(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("")
    target = tmp_path / "file" / below
    with pytest.raises(OSError, match="a part of the folder's path is a file"):
        runs.write_atomic(target, b"")
    with pytest.raises(OSError, match="a part of the folder's path is a file"), runs.lock(target):
        pass


def test_a_read_only_folder() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o555)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)  # permissions do not bind root
        try:
            with pytest.raises(PermissionError, match="not writable: change its permissions"):
                runs.write_atomic(folder / "a", b"")
            with pytest.raises(PermissionError, match="not writable"), runs.lock(folder / "a"):
                pass
        finally:
            os.seteuid(user)
            folder.chmod(0o755)
        assert list(folder.iterdir()) == []


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = runs.write_atomic(tmp_path / "a", b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="the disk is full: free some space"):
        runs.write_atomic(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_the_lock_admits_one_at_a_time_and_leaves_no_file(tmp_path: Path) -> None:
    inside, most, path = [], [], tmp_path / "thing"

    def work() -> None:
        for _ in range(20):
            with runs.lock(path):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.0005)
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(most) == 80 and max(most) == 1
    assert list(tmp_path.iterdir()) == []


def test_the_lock_times_out_naming_its_holder_and_is_freed_by_a_kill(tmp_path: Path) -> None:
    program = (
        "import sys, time\n"
        "from semirobust import runs\n"
        "with runs.lock(sys.argv[1]):\n"
        "    print('held', flush=True)\n"
        "    time.sleep(60)\n"
    )
    arguments = [sys.executable, "-c", program, str(tmp_path / "thing")]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, env=child_environment()) as holder:
        try:
            assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
            with (
                pytest.raises(TimeoutError, match=f"number {holder.pid}"),
                runs.lock(tmp_path / "thing", timeout=0.1),
            ):
                pass
        finally:
            holder.kill()
    with runs.lock(tmp_path / "thing", timeout=5):
        assert True  # the system freed it


def test_the_lock_is_released_by_an_exception(tmp_path: Path) -> None:
    with pytest.raises(KeyError), runs.lock(tmp_path / "thing"):
        raise KeyError
    with runs.lock(tmp_path / "thing", timeout=0):
        pass
    assert list(tmp_path.iterdir()) == []
