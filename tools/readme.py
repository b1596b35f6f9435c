"""Writer of the results table of README.md from the committed results: python tools/readme.py [--check]."""

from __future__ import annotations

import argparse
from pathlib import Path

from semirobust import runs
from semirobust.experiments import controls, tables

README = Path(__file__).resolve().parents[1] / "README.md"
BEGIN, END = "<!-- results: made by tools/readme.py -->", "<!-- results: end -->"
START, START_END = "<!-- start: made by tools/readme.py -->", "<!-- start: end -->"
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
    """The section of results: the rows of PGD and AutoAttack as a table, and what has not been run."""
    rows = [
        row
        for row in tables.side_by_side(PROFILES, ["pgd", "autoattack"])
        if row["network"].startswith("resnet18") and row["dataset"] == "cifar10"
    ]
    missing = "; ".join(tables.not_run(PROFILES)) or "nothing"
    parts = [tables.as_markdown(rows, COLUMNS), tables.scales(rows), f"Not run yet: {missing}."]
    return "\n\n".join([BEGIN, *parts, END])


def start_section() -> str:
    """The section with Acc_sr by the paper's protocol beside the printed one, and the causal controls."""
    start = {
        "source": "source",
        "n_fb": "f_b layers",
        "attack": "attack",
        "acc_star": "Acc*",
        "acc_sr": "Acc_sr",
        "kept": "Acc_sr / Acc*",
        "n": "n",
    }
    control = {
        "n_fb": "f_b layers",
        "f_a": "frozen f_a",
        "f_b": "f_b starts from",
        "trials": "trials",
        "before": "PGD before",
        "after": "PGD after",
        "range": "range",
        "n": "n",
    }
    rows = [row for row in controls.start_rows() if row["attack"] in ("none", "pgd", "autoattack")]
    rows = [row for row in rows if row["n_fb"] in (4, 12)]
    formats = {"acc_star": ".1f", "acc_sr": ".1f", "kept": ".2f", "n": ","}
    parts = [runs.markdown_table(rows, start, formats)]
    if found := controls.control_rows():
        formats = dict.fromkeys(("before", "after", "range"), ".1f") | {"n": ","}
        parts.append(runs.markdown_table(found, control, formats))
    return "\n\n".join([START, *parts, START_END])


def render(text: str) -> str:
    """``text`` with its results written anew. Raises ``ValueError`` where one of the marks is missing."""
    for begin, end, made in ((BEGIN, END, section()), (START, START_END, start_section())):
        head, first, rest = text.partition(begin)
        _, last, tail = rest.partition(end)
        if not (first and last):
            raise ValueError(f"{README} lacks the marks {begin} and {end}: put them where the table belongs")
        text = head + made + tail
    return text


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
