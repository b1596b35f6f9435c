"""Outputs of a run under ``ROOT/build``, and ``manifest.json``, the memory of what has passed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from semirobust import paths
from semirobust.paths import UsageError

MINIMUM_FREE_MB = 200


@dataclass(frozen=True)
class Outcome:
    """How one notebook went. `error`: one line, empty unless it failed. `output`: the executed notebook."""

    name: str
    status: Literal["passed", "failed", "up to date"]
    seconds: float
    error: str
    output: Path | None
    log: Path


@dataclass(frozen=True)
class Folders:
    """Where one run reads and writes."""

    root: Path
    profile: str

    @property
    def notebooks(self) -> Path:
        return self.root / "build" / "notebooks" / self.profile

    @property
    def logs(self) -> Path:
        return self.root / "build" / "logs" / self.profile

    @property
    def manifest(self) -> Path:
        return self.root / "build" / "manifest.json"

    @property
    def results(self) -> Path:
        return paths.given("SEMIROBUST_RESULTS") or self.root / "results"

    @property
    def figures(self) -> Path:
        return paths.given("SEMIROBUST_FIGURES") or self.root / "figures"

    def check(self) -> None:
        """Raises UsageError for an output folder that cannot be written, or a disk that is nearly full."""
        for folder in (self.notebooks, self.logs, self.results / self.profile, self.figures / self.profile):
            probe = folder / f".probe-{os.getpid()}"
            try:
                folder.mkdir(parents=True, exist_ok=True)
                probe.write_bytes(b"probe")
                probe.unlink()
            except OSError as error:
                raise UsageError(
                    f"cannot write in {folder} ({error.strerror}): make it writable, or free some space"
                ) from None
            if (free := shutil.disk_usage(folder).free // 2**20) < MINIMUM_FREE_MB:
                raise UsageError(
                    f"only {free} MB are free on the disk of {folder}, and {MINIMUM_FREE_MB} are needed: "
                    "free some space"
                )


# --- the memory of what has passed ---


def read_manifest(path: Path, say: Callable[[str], None] = lambda line: None) -> dict[str, dict[str, Any]]:
    """``PROFILE/NAME`` -> what is known of the last run. A damaged file is reported and counts as empty."""
    try:
        entries = json.loads(path.read_text())
        if isinstance(entries, dict) and all(isinstance(entry, dict) for entry in entries.values()):
            return entries
    except FileNotFoundError:
        return {}
    except ValueError:
        pass
    say(f"{path} is damaged: every notebook counts as not yet run")
    return {}


def remember(folders: Folders, outcome: Outcome, key: str, products: Sequence[Path]) -> None:
    """Adds one outcome to the manifest. Raises OSError, which says what to do, if it cannot be written."""
    from semirobust.runs import lock, write_atomic  # here, since it imports torch, which takes seconds

    with lock(folders.manifest):
        entries = read_manifest(folders.manifest)  # another run may have added to it meanwhile
        entries[f"{folders.profile}/{outcome.name}"] = {
            "key": key,
            "status": outcome.status,
            "error": outcome.error,
            "seconds": round(outcome.seconds, 1),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "products": [str(path) for path in products],
        }
        text = json.dumps(entries, indent=1, sort_keys=True) + "\n"
        write_atomic(folders.manifest, text.encode())


def up_to_date(entry: Mapping[str, Any], key: str) -> bool:
    """Whether the last run passed with the same inputs, and everything it wrote is still there."""
    same = entry.get("status") == "passed" and entry.get("key") == key
    return same and all(Path(path).exists() for path in entry.get("products", ["/missing"]))


def written_since(start: float, *tops: Path) -> list[Path]:
    """The files under `tops` written since a moment, which is given in seconds of `time.time`.

    Some may be written by another notebook that runs at the same time. Then a notebook may run once too
    often, but never too seldom.
    """
    files = (path for top in tops for path in sorted(top.rglob("*")))
    return [path for path in files if path.is_file() and path.stat().st_mtime >= start - 1]
