"""The sentences of sections 3.3 to 3.5 and B.2 of arXiv 2307.03803 about its tables, counted in rows.

A row is one of `tables` (printed or ours). Each sentence compares two rows that differ in one thing: the size
of f_b, the attack, the data set, the network, or the layer. A sentence is counted only where both are there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

ATTACKS = ("none", "fgsm", "pgd", "autoattack")
RHO = ("rho_n", "rho_n3", "rho_n7", "rho_n11")
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Count:
    """In how many of the ``cases`` a sentence holds. ``where``: what the cases have in common."""

    sentence: str
    where: str
    held: int
    cases: int

    def __str__(self) -> str:
        return f"{self.held} of {self.cases}"


def bits(value: Any) -> float | None:
    """The dependence of a row: printed as a number, ours as (estimate, shuffled control)."""
    return value[0] if isinstance(value, tuple) else value


def above_control(value: Any) -> float | None:
    """The excess of ours over shuffled pairs; None for a printed value, which has no control."""
    return value[0] - value[1] if isinstance(value, tuple) else None


def counts(rows: Sequence[Row], rho: Callable[[Any], float | None] = bits) -> list[Count]:
    """Every sentence on the rows; ``rho`` reads a dependence (`bits` or `above_control`). Where rows have no
    case for a sentence it is left out."""
    made = [_count("larger f_a* ends higher (B.2)", attack, _accuracy(rows, attack)) for attack in ATTACKS]
    made += [
        _count("a stronger attack leaves less of Acc*", f"{weak} to {strong}", _attacks(rows, weak, strong))
        for weak, strong in pairwise(ATTACKS)
    ]
    made.append(_count("smaller f_b has higher rho (B.2)", "all layers", _smaller(rows, rho)))
    made += [
        _count(
            "CIFAR-100 has lower rho (B.2)", name, _other(rows, rho, "dataset", "cifar10", "cifar100", name)
        )
        for name in RHO
    ]
    made.append(
        _count(
            "ResNet-18 has lower rho (B.2)",
            "all layers",
            (case for name in RHO for case in _other(rows, rho, "kind", "wide", "resnet18", name)),
        )
    )
    made.append(_count("the later of two layers has higher rho (3.5)", "all layers", _later(rows, rho)))
    return [count for count in made if count.cases]


def reached(rows: Sequence[Row]) -> list[Count]:
    """Under each attack: how many rows reach Acc* (section 3.5: "many")."""
    made = [
        _count(
            "Acc~ reaches Acc* (3.5)", attack, (r["difference"] >= 0 for r in rows if r["attack"] == attack)
        )
        for attack in ATTACKS
    ]
    return [count for count in made if count.cases]


def _count(sentence: str, where: str, cases: Iterator[bool]) -> Count:
    found = list(cases)
    return Count(sentence, where, sum(found), len(found))


def _kind(row: Row) -> str:
    return "wide" if row["network"].startswith("wide") else "resnet18"


def _key(row: Row, *without: str) -> tuple[Any, ...]:
    """What a row is about, but for ``without``; rows of different sources are never compared. The width and
    the seed are part of the network, but do not keep two kinds of network apart."""
    values = {
        "source": row["source"],
        "attack": row["attack"],
        "dataset": row["dataset"],
        "n_fb": row["n_fb"],
    }
    values["network"] = _kind(row) if "kind" not in without else ""
    values["own"] = row["network"] if "kind" not in without and "dataset" not in without else ""
    return tuple(value for name, value in values.items() if name not in without)


def _pairs(rows: Sequence[Row], without: str, first: Any, second: Any) -> Iterator[tuple[Row, Row]]:
    """Rows that differ in ``without`` alone: (the one with ``first``, the one with ``second``)."""

    def of(row: Row) -> Any:
        return _kind(row) if without == "kind" else row[without]

    ones = {_key(row, without): row for row in rows if of(row) == first}
    others = {_key(row, without): row for row in rows if of(row) == second}
    yield from ((ones[key], others[key]) for key in ones.keys() & others.keys())


def _accuracy(rows: Sequence[Row], attack: str) -> Iterator[bool]:
    chosen = [row for row in rows if row["attack"] == attack]
    return (four["acc_tilde"] > twelve["acc_tilde"] for four, twelve in _pairs(chosen, "n_fb", 4, 12))


def _attacks(rows: Sequence[Row], weak: str, strong: str) -> Iterator[bool]:
    chosen = [row | {"source": row["source"].split(",")[0]} for row in map(dict, rows) if row["n_fb"] == 4]
    return (
        first["acc_star"] >= second["acc_star"] for first, second in _pairs(chosen, "attack", weak, strong)
    )


def _smaller(rows: Sequence[Row], rho: Callable[[Any], float | None]) -> Iterator[bool]:
    for four, twelve in _pairs(rows, "n_fb", 4, 12):
        for name in RHO:
            first, second = rho(four[name]), rho(twelve[name])
            if first is not None and second is not None:
                yield first > second


def _other(
    rows: Sequence[Row], rho: Callable[[Any], float | None], what: str, more: str, less: str, name: str
) -> Iterator[bool]:
    for high, low in _pairs(rows, what, more, less):
        first, second = rho(high[name]), rho(low[name])
        if first is not None and second is not None:
            yield second < first


def _later(rows: Sequence[Row], rho: Callable[[Any], float | None]) -> Iterator[bool]:
    for row in rows:
        for later, earlier in pairwise(RHO):
            first, second = rho(row[later]), rho(row[earlier])
            if first is not None and second is not None:
                yield first > second


def widest(rows: Sequence[Row], attacks: Sequence[str] = ATTACKS) -> tuple[float, str]:
    """The largest difference of one dependence between attacks, in bits, and where it is (B.2: "similar")."""
    groups: dict[str, list[float]] = {}
    for row in rows:
        if row["attack"] in attacks:
            for name in RHO:
                if (value := bits(row[name])) is not None:
                    where = f"{name}, {row['network']}, {row['dataset']}, f_b of {row['n_fb']}"
                    groups.setdefault(where, []).append(value)
    return max((max(values) - min(values), where) for where, values in groups.items())
