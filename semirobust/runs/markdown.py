"""Rows of results as a Markdown table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

MISSING = "—"  # a value that a table does not have


def markdown_table(
    rows: Sequence[Mapping[str, Any]],
    columns: Mapping[str, str],
    formats: Mapping[str, str] | None = None,
) -> str:
    """A Markdown table with one line per row; `columns` gives each key and its heading, in order.

    `formats` gives format specifications such as ``.1f`` by key; a pair or list of numbers is shown as an
    interval, its two ends in that format. A value that a row lacks (or that is None) is a dash. Columns of
    numbers are aligned to the right. Raises KeyError for a column that no row has, and for a format of a
    column that is not there, so that a misspelt key never becomes a column of dashes.
    """
    formats = formats or {}
    there = set().union(*rows) if rows else set(columns)
    if unknown := set(formats) - set(columns) or set(columns) - there:
        raise KeyError(
            f"unknown columns {sorted(unknown)}: the table has {list(columns)}, its rows {sorted(there)}"
        )

    def cell(row: Mapping[str, Any], key: str) -> str:
        value = row.get(key)
        if value is None:
            return MISSING
        if isinstance(value, str):
            return value.replace("|", "\\|").replace("\n", " ")
        if isinstance(value, list | tuple):
            return f"[{', '.join(format(item, formats.get(key, '')) for item in value)}]"
        return format(value, formats.get(key, ""))

    cells = [list(columns.values()), *([cell(row, key) for key in columns] for row in rows)]
    lines: list[list[str]] = [[] for _ in range(len(cells) + 1)]  # the heading, the rule, the rows
    for key, (heading, *body) in zip(columns, zip(*cells, strict=True), strict=True):
        width = max(3, *map(len, (heading, *body)))
        right = not any(isinstance(row.get(key), str) for row in rows)
        rule = "-" * (width - 1) + (":" if right else "-")
        for line, text in zip(lines, (heading, rule, *body), strict=True):
            line.append(text.rjust(width) if right else text.ljust(width))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
