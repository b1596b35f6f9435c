"""Figures are the same bytes on every run, say where they came from, and share one style."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from semirobust import figures, paths, runs
from semirobust.figures import style


@dataclass(frozen=True)
class Config:
    seed: int = 0


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("SEMIROBUST_RESULTS", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("SEMIROBUST_FIGURES", str(tmp_path / "figures"))
    with matplotlib.rc_context():
        yield tmp_path


def draw() -> Figure:
    with figures.styled():
        figure = Figure()
        axes = figure.subplots()
        axes.errorbar([1, 2, 3], [3.2, 2.9, 3.0], yerr=0.1, color=figures.COLORS["ours"], label="ours")
        axes.plot([1, 2, 3], [1.0, 1.1, 1.2], color=figures.COLORS["control"], label="control $\\rho$")
        axes.set(xlabel="layer", ylabel="dependence [bits]", title="Dependence")
        axes.legend()
    return figure


def test_two_calls_and_two_processes_give_the_same_bytes(folders: Path) -> None:
    written = figures.save_figure(draw(), "demo", profile="quick", data={"y": np.array([3.2, np.nan])})
    assert [path.relative_to(folders).as_posix() for path in written] == [
        f"figures/quick/demo.{kind}" for kind in ("png", "pdf", "json")
    ]
    first = [path.read_bytes() for path in written]
    assert first[0].startswith(b"\x89PNG") and first[1].startswith(b"%PDF")
    assert b"matplotlib" not in first[0] and b"CreationDate" not in first[1]
    for path in written:
        path.unlink()
    figures.save_figure(draw(), "demo", profile="quick", data={"y": np.array([3.2, np.nan])})
    assert [path.read_bytes() for path in written] == first

    program = (
        "import numpy as np, tests.figures.test_style as t\n"
        "from semirobust import figures\n"
        "figures.save_figure(t.draw(), 'demo', profile='paper', data=None)\n"
    )
    environment = os.environ | {
        "PYTHONPATH": str(paths.PACKAGE.parent),
        "PYTHONHASHSEED": "7",
        "TZ": "Asia/Tokyo",
    }
    subprocess.run([sys.executable, "-c", program], check=True, env=environment, timeout=120)
    other = folders / "figures" / "paper"
    assert [(other / f"demo.{kind}").read_bytes() for kind in ("png", "pdf")] == first[:2]


def test_a_figure_is_written_anew_only_where_it_changed(folders: Path) -> None:
    def save(height: float, drawn: Figure | None = None) -> list[bytes]:
        data = {"y": [height, np.nan], "name": "ours"}
        written = figures.save_figure(drawn or draw(), "demo", profile="quick", data=data)
        return [path.read_bytes() for path in written]

    first = save(3.2)
    picture = folders / "figures" / "quick" / "demo.png"
    os.utime(picture, (0, 0))
    assert save(3.21) == first  # 0.3 %
    assert picture.stat().st_mtime > 0  # a run of notebooks finds its outputs by their times
    assert save(3.5)[2] != first[2]  # 9 %
    other = draw()
    other.axes[0].plot([1, 2, 3], [1.0, 3.0, 2.0], lw=8)
    assert save(3.5, other)[0] != first[0]  # the same numbers, another picture
    assert save(3.2) == first


@pytest.mark.parametrize("kind", ["png", "pdf", "json"])
@pytest.mark.parametrize("content", [None, b"", b"torn"])
def test_a_missing_or_damaged_figure_is_written_anew(folders: Path, kind: str, content: bytes | None) -> None:
    written = figures.save_figure(draw(), "demo", profile="quick")
    whole = [path.read_bytes() for path in written]
    path = next(path for path in written if path.suffix == f".{kind}")
    path.unlink() if content is None else path.write_bytes(content)
    if (kind, content) != ("pdf", b"torn"):  # nothing reads the pdf
        assert [path.read_bytes() for path in figures.save_figure(draw(), "demo", profile="quick")] == whole


def test_the_sidecar_says_where_the_figure_came_from(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = runs.run(Config(), lambda config: {"x": 1.5}, experiment="table_1", profile="quick")
    outside = runs.write_json(folders / "outside" / "more.json", [1])
    *_, path = figures.save_figure(
        draw(),
        "demo",
        profile="quick",
        sources=[record, outside],
        data={"x": record.metrics["x"]},
        notebook="10_table_1",
    )
    sidecar = runs.read_json(path)
    first, second = sidecar["sources"]
    assert first["path"] == f"results/quick/table_1/{record.path.name}"
    assert second == {"path": "more.json", "sha256": runs.sha256(outside)}
    again = runs.run(Config(), lambda config: {"x": 1.5}, experiment="table_1", profile="quick", force=True)
    changed = dataclasses.replace(again, metrics={"x": 1.6})
    checksums = [style._source(r)["sha256"] for r in (again, changed)]
    assert checksums[0] == first["sha256"] != checksums[1]  # the numbers count, not when they were made
    assert sidecar["data"] == {"x": 1.5}
    assert (sidecar["name"], sidecar["profile"], sidecar["notebook"]) == ("demo", "quick", "10_table_1")
    assert sidecar["versions"]["matplotlib"] == matplotlib.__version__
    assert str(folders) not in path.read_text()


def test_a_source_in_the_project_is_named_from_there(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "checkout", lambda: folders)
    source = runs.write_json(folders / "weights" / "a.json", 1)
    *_, path = figures.save_figure(draw(), "demo", profile="quick", sources=[str(source)])
    assert runs.read_json(path)["sources"][0]["path"] == "weights/a.json"


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"profile": "smoke"}, ValueError, "unknown profile 'smoke'"),
        ({"name": "demo.png"}, ValueError, "no suffix"),
        ({"name": "../demo"}, ValueError, "cannot name a figure"),
        ({"sources": ["missing.json"]}, FileNotFoundError, r"missing\.json"),
        ({"data": {"model": object()}}, TypeError, r"data\.model is a object"),
    ],
)
def test_bad_input_stops_before_anything_is_written(
    options: dict, kind: type, message: str, folders: Path
) -> None:
    arguments = {"name": "demo", "profile": "quick"} | options
    with pytest.raises(kind, match=message):
        figures.save_figure(draw(), **arguments)
    assert not (folders / "figures").exists()


def test_a_figures_folder_that_is_a_file(folders: Path) -> None:
    (folders / "figures").write_text("")
    with pytest.raises(OSError, match="a part of the folder's path is a file"):
        figures.save_figure(draw(), "demo", profile="quick")


def test_the_style_is_legible_and_comes_off_again() -> None:
    before = dict(matplotlib.rcParams)
    with figures.styled():
        inside = dict(matplotlib.rcParams)
    assert dict(matplotlib.rcParams) == before
    assert inside["font.family"] == ["DejaVu Sans"] and not inside["axes.spines.top"]
    assert all(
        9 <= inside[key] <= 10
        for key in ("font.size", "legend.fontsize", "xtick.labelsize", "axes.titlesize")
    )
    figures.use_style()
    assert matplotlib.rcParams["savefig.dpi"] == inside["savefig.dpi"] == 200


def test_the_callers_settings_neither_change_nor_matter() -> None:
    written = figures.save_figure(draw(), "demo", profile="quick")
    first = [path.read_bytes() for path in written]
    matplotlib.rcParams["savefig.dpi"] = 70
    matplotlib.rcParams["pdf.fonttype"] = 3
    figures.save_figure(draw(), "demo", profile="quick")
    assert [path.read_bytes() for path in written] == first
    assert matplotlib.rcParams["savefig.dpi"] == 70


def test_colours_differ_in_hue_and_in_print() -> None:
    values = list(figures.COLORS.values())
    assert len(set(values)) == len(values)

    def grey(colour: str) -> float:
        r, g, b = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    for one, two in [("ours", "control"), ("printed", "control"), ("ours", "clean"), ("attacked", "control")]:
        assert (
            abs(grey(figures.COLORS[one]) - grey(figures.COLORS[two])) > 0.1
        )  # told apart in black and white


ROWS = [
    {"attack": "none", "printed": 69.7, "ours": 68.25, "interval": (66.1, 70.3), "n": 2000, "extra": 1},
    {"attack": "auto|attack", "printed": 39.45, "ours": None},
]
COLUMNS = {
    "attack": "Attack",
    "printed": "Printed",
    "ours": "Ours",
    "interval": "95 %",
    "n": "n",
}


def test_a_table_shows_everything_side_by_side() -> None:
    formats = {"printed": ".1f", "ours": ".1f", "interval": ".1f"}
    assert runs.markdown_table(ROWS, COLUMNS, formats).splitlines() == [
        "| Attack       | Printed | Ours |         95 % |    n |",
        "| ------------ | ------: | ---: | -----------: | ---: |",
        "| none         |    69.7 | 68.2 | [66.1, 70.3] | 2000 |",
        "| auto\\|attack |    39.5 |    — |            — |    — |",
    ]


def test_a_misspelt_column_is_an_error() -> None:
    with pytest.raises(KeyError, match="'paper'"):
        runs.markdown_table(ROWS, COLUMNS | {"paper": "Paper"})
    with pytest.raises(KeyError, match="'pinted'"):
        runs.markdown_table(ROWS, COLUMNS, {"pinted": ".1f"})
    assert runs.markdown_table([], {"a": "A"}) == "|   A |\n| --: |"
