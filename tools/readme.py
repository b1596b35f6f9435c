"""Writer of the tables of README.md and of results/TABLES.md: python -m tools.readme [--check]."""

from __future__ import annotations

import argparse
from pathlib import Path

from semirobust import runs
from semirobust.experiments import controls, sentences, tables

ROOT = Path(__file__).resolve().parents[1]
README, TABLES = ROOT / "README.md", ROOT / "results" / "TABLES.md"
BEGIN, END = "<!-- results: made by tools/readme.py -->", "<!-- results: end -->"
START, START_END = "<!-- controls: made by tools/readme.py -->", "<!-- controls: end -->"
PROFILES = ("reference", "paper")


def section() -> str:
    """The rows of ResNet-18 on CIFAR-10 under PGD and AutoAttack, and what has not been run."""
    parts = [BEGIN]
    for attack, title in (("autoattack", "Table 1, AutoAttack"), ("pgd", "Table 3, PGD")):
        rows = tables.side_by_side(PROFILES, [attack], readings=["sound"]) + controls.long_rows([attack])
        rows = [
            row
            for row in rows
            if row["network"].startswith("resnet18") and row["dataset"] == "cifar10" and row["n_fb"] != 8
        ]
        rows.sort(key=lambda row: row["n_fb"])
        parts += [f"**{title}**", tables.compact(rows)]
    missing = "; ".join(tables.not_run(PROFILES)) or "nothing"
    return "\n\n".join([*parts, f"Not run, or not all of it: {missing}.", END])


def control_section() -> str:
    """The causal controls on CIFAR-10, and on digits as the mean over pairs of networks."""
    names = {
        "n_fb": "f_b layers",
        "f_a": "frozen f_a",
        "f_b": "f_b starts from",
        "trials": "trials",
        "before": "PGD before",
        "after": "PGD after",
        "range": "range",
        "n": "n",
    }
    rows = [row for row in controls.control_rows() if row["pair"].startswith("cifar10")]
    formats = dict.fromkeys(("before", "after", "range"), ".1f") | {"n": ","}
    return "\n\n".join([START, runs.markdown_table(rows, names, formats), START_END])


def full_tables() -> str:
    """Every row of Tables 1 and 3 with every column, in both readings, and Acc_sr before fine-tuning."""
    parts = [
        "# Tables 1 and 3 of arXiv 2307.03803, printed and ours, with every column",
        "Made by `python -m tools.readme` from the stored results. Accuracies in per cent; dependence in "
        "bits, with that of pairs shuffled within their class in brackets. *printed reading*: the test set "
        "decides when a trial stops, the best one is reported. *sound reading*: held-out images decide; the "
        "interval is that of the paired difference on the same test images, or of the mean over pairs of "
        "networks.",
    ]
    for attack in sentences.ATTACKS:
        rows = tables.side_by_side(PROFILES, [attack]) + controls.long_rows([attack])
        parts += [f"## {attack}", tables.as_markdown(rows)]
    start = {"source": "source", "n_fb": "f_b layers", "attack": "attack", "acc_star": "Acc*"}
    start |= {"acc_sr": "Acc_sr", "kept": "Acc_sr / Acc*", "n": "n"}
    formats = {"acc_star": ".1f", "acc_sr": ".1f", "kept": ".2f", "n": ","}
    parts += ["## Before any fine-tuning", runs.markdown_table(controls.start_rows(), start, formats)]
    return "\n\n".join([*parts, tables.scales(rows)]) + "\n"


def render(text: str) -> str:
    """``text`` with its results written anew. Raises ``ValueError`` where one of the marks is missing."""
    for begin, end, made in ((BEGIN, END, section()), (START, START_END, control_section())):
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
    texts = {README: render(README.read_text(encoding="utf-8")), TABLES: full_tables()}
    stale = [path.name for path, made in texts.items() if not path.exists() or path.read_text() != made]
    if arguments.check:
        print(f"out of date: {', '.join(stale)}; run python -m tools.readme" if stale else "up to date")
        return int(bool(stale))
    for path, made in texts.items():
        runs.write_atomic(path, made.encode())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
