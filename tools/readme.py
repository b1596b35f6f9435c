"""Write the results table of README.md from the committed results: python tools/readme.py [--check]."""

from __future__ import annotations

import argparse
from pathlib import Path

from semirobust import runs
from semirobust.experiments import tables

README = Path(__file__).resolve().parents[1] / "README.md"
BEGIN, END = "<!-- results: made by tools/readme.py -->", "<!-- results: end -->"
PROFILES = ("reference", "paper")
COLUMNS = (
    "source",
    "network",
    "n_fb",
    "attack",
    "acc_star",
    "acc_sr",
    "acc_tilde",
    "difference",
    "interval",
    "succeeded",
    "rho_n",
    "rho_n3",
    "cap",
    "n",
)


def section() -> str:
    """The table of PGD and AutoAttack rows, and what has not been run."""
    rows = [
        row
        for row in tables.side_by_side(PROFILES, ["pgd", "autoattack"])
        if row["network"].startswith("resnet18") and row["dataset"] == "cifar10"
    ]
    missing = "; ".join(tables.not_run(PROFILES)) or "nothing"
    parts = [tables.as_markdown(rows, COLUMNS), tables.scales(rows), f"Not run yet: {missing}."]
    return "\n\n".join([BEGIN, *parts, END])


def render(text: str) -> str:
    """``text`` with its results section made anew. Raises ``ValueError`` where the two marks are missing."""
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{README} lacks the marks {BEGIN} and {END}: put them where the table belongs")
    return head + section() + tail


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail where README.md is out of date"
    )
    arguments = parser.parse_args()
    text = README.read_text(encoding="utf-8")
    made = render(text)
    if arguments.check:
        print(
            "README.md: up to date" if made == text else "README.md: out of date; run python tools/readme.py"
        )
        return int(made != text)
    runs.write_atomic(README, made.encode())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
