"""What all tests share: the `data` marker, and folders of their own for everything the package writes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

from tests.cases import use_store

ROOT = Path(__file__).resolve().parent.parent

# the same examples on each run and machine, however slow it is
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


def data_root() -> Path:
    return Path(os.environ.get("SEMIROBUST_DATA") or "~/.cache/semirobust").expanduser()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips a test marked ``@pytest.mark.data("cifar10", ...)`` where one of its sets is not on disk."""
    for marker in item.iter_markers("data"):
        if not marker.args:
            raise pytest.UsageError(
                f"{item.nodeid}: name the sets it needs, e.g. @pytest.mark.data('cifar10')"
            )
        for name in marker.args:
            files = [
                data_root() / name / f"{split}_{part}.npy"
                for split in ("train", "test")
                for part in ("images", "labels")
            ]
            if missing := [path for path in files if not path.is_file()]:
                pytest.skip(
                    f"{missing[0]} is not there: download the set with semirobust.data.load({name!r}, ...), "
                    "or set SEMIROBUST_DATA to a folder that has it"
                )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the stored runs that the tests of a module share."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture(autouse=True)
def own_folders(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the results, networks or figures of the checkout: each has a folder of its own,
    those of a module with ``pytestmark = pytest.mark.one_store`` the same one.
    """
    shared = request.node.get_closest_marker("one_store")
    use_store(
        request.getfixturevalue("store") if shared else request.getfixturevalue("tmp_path") / "own",
        monkeypatch,
    )
