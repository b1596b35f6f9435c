"""Reading, comparing and drawing stored bounds."""

from __future__ import annotations

from dataclasses import replace
from math import log
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from semirobust import figures, runs
from semirobust.experiments import bound_curves, feature_bounds
from semirobust.experiments.bound_curves import Bound

matplotlib.use("agg")
BUDGETS = (0.0, 1.0, 2.0, 3.0)


def made(*zero_one: float, points: tuple[int, int] = (5, 5)) -> Bound:
    values = np.array(zero_one)
    return Bound("pgd-2", "linear_1", np.array(BUDGETS), values, values * 1.2, points)


def record(attack: dict[str, object] | None) -> runs.Record:
    layer = {"zero_one": [0, 0, 0.25, 0.5], "cross_entropy_nats": [0, 0, 0.3, 0.69]}
    config = {"budgets": list(BUDGETS), "network": {"train": {"attack": attack}}}
    return runs.Record(config, {"n": [4, 5], "layers": {"linear_1": layer}}, {}, Path("0123.json"))


@pytest.mark.parametrize(
    ("attack", "training", "name"),
    [
        (None, "benign", "benign"),
        ({"class": "PGDL2", "eps": 2}, "pgd-2", "PGD at 2"),
        ({"class": "TRADES", "eps": 0.5}, "trades-0.5", "TRADES at 0.5"),
    ],
)
def test_a_bound_is_read_from_a_record(attack: dict[str, object] | None, training: str, name: str) -> None:
    found = bound_curves.bound(record(attack), "linear_1")
    assert (found.training, found.points) == (training, (4, 5))
    assert bound_curves.training_name(training) == name
    assert found.at(2, "zero_one") == 0.25 and found.at(2, "cross_entropy_nats") == 0.3
    assert found.guessing("zero_one") == pytest.approx(4 / 9)
    with pytest.raises(ValueError, match="no layer 'relu_1'; it has linear_1"):
        bound_curves.bound(record(attack), "relu_1")
    with pytest.raises(ValueError, match=r"no bound was computed at budget 1\.5"):
        found.at(1.5, "zero_one")
    with pytest.raises(ValueError, match="no loss 'hinge'"):
        found.loss("hinge")


def test_guessing_is_that_of_equal_classes() -> None:
    assert made(0, 0, 0, 0).guessing("zero_one") == 0.5
    assert made(0, 0, 0, 0).guessing("cross_entropy_nats") == pytest.approx(log(2))


def test_the_gap_has_both_signs() -> None:
    first, second = made(0, 0.1, 0.2, 0.5), made(0, 0.0, 0.4, 0.5)
    assert bound_curves.gap(first, second, "zero_one") == pytest.approx((0.1, 1.0, -0.2, 2.0))
    other = replace(second, budgets=second.budgets + 1)
    with pytest.raises(ValueError, match="different budgets"):
        bound_curves.gap(first, other, "zero_one")


@pytest.mark.parametrize(("level", "about"), [(0.25, 1.75), (0.28, 1.6), (0.4, 2.0), (0.45, None)])
def test_the_budget_that_forces_a_loss(level: float, about: float | None) -> None:
    found = made(0, 0.1, 0.4, 0.4)
    if level == 0.25:
        found = replace(found, zero_one=np.array([0, 0.1, 0.3, 0.4]))
    assert bound_curves.crossing(found, level, "zero_one") == pytest.approx(about)


def test_a_loss_forced_at_once_is_forced_at_the_first_budget() -> None:
    found = made(0.2, 0.2, 0.3, 0.5)
    assert bound_curves.crossing(found, 0.1, "zero_one") == 0


def test_tables_have_a_line_for_each_bound() -> None:
    bounds = {"a": made(0, 0.1, 0.2, 0.5), "b": made(0, 0, 0, 0.2)}
    losses = bound_curves.loss_table(bounds, (1, 3), "zero_one").splitlines()
    assert [cell.strip() for cell in losses[2].split("|")[1:-1]] == ["a", "0.100", "0.500"]
    forced = bound_curves.forced_table(bounds, (0.2, 0.4), "zero_one").splitlines()
    assert [cell.strip() for cell in forced[3].split("|")[1:-1]] == ["b", "3.00", "—"]


def test_the_span_is_where_a_curve_moves() -> None:
    bounds = [made(0, 0, 0.2, 0.499), made(0, 0, 0.5, 0.5)]
    assert figures.bounds.span(bounds, "zero_one") == (1.0, 3.0)
    assert figures.bounds.span(bounds[1:], "zero_one") == (1.0, 2.0)
    assert figures.bounds.span([made(0, 0, 0, 0.1)], "zero_one") == (2.0, 3.0)


def test_every_training_layer_and_width_has_a_look_of_its_own() -> None:
    trainings = ["images", "benign", *(f"{m}-{eps}" for m in ("pgd", "trades") for eps in (1, 2, 3))]
    for names, style in (
        (trainings, figures.bounds.training_style),
        (list(feature_bounds.LAYERS), figures.bounds.layer_style),
        (["fcnn", "fcnn_small", "fcnn_smaller"], figures.bounds.width_style),
    ):
        assert len({tuple(style(name).items()) for name in names}) == len(names)


def test_a_panel_shows_its_curves_and_guessing() -> None:
    axis = Figure().subplots()
    found = made(0, 0.1, 0.2, 0.5)
    style = figures.bounds.training_style("pgd-2")
    figures.bounds.draw(axis, found, "zero_one", label="PGD at 2", style=style)
    figures.bounds.finish(axis, [found], "zero_one", title="a title")
    curve, guessing = axis.lines
    np.testing.assert_array_equal(curve.get_xydata(), np.stack([found.budgets, found.zero_one], axis=1))
    assert set(guessing.get_ydata()) == {0.5} and axis.get_xlim() == (0, 3)
    assert axis.get_ylabel() == "0-1 loss, at least" and axis.get_title() == "a title"


def test_other_profiles_are_read_and_never_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    configs = {"benign": feature_bounds.linear("quick", "digits", "fcnn-benign")}
    other = {"benign": feature_bounds.linear("reference", "mnist", "fcnn-benign")}
    computed = []

    def run(config: feature_bounds.BoundsConfig, profile: str) -> runs.Record:
        computed.append((config, profile))
        return record(None)

    monkeypatch.setattr(feature_bounds, "run_config", run)
    assert bound_curves.read(other, "reference", profile="quick") == {}
    assert list(bound_curves.read(configs, "quick", profile="quick")) == ["benign"]
    assert computed == [(configs["benign"], "quick")]


def test_a_notebook_shows_its_own_profile_first() -> None:
    assert bound_curves.places("quick") == [
        ("quick", "digits"),
        ("reference", "mnist"),
        ("reference", "fashion_mnist"),
    ]
    assert bound_curves.places("reference") == bound_curves.places("quick")[1:]
    with pytest.raises(ValueError, match="profile"):
        bound_curves.places("other")


def test_the_budget_lost_is_the_mean_shift_of_a_curve() -> None:
    """Three curves that rise in one straight line each: the second a step later, the third half as steep."""
    steep, later, slow = made(0, 0.5, 0.5, 0.5), made(0, 0, 0.5, 0.5), made(0, 0.25, 0.5, 0.5)
    assert bound_curves.budget_lost(steep, later, "zero_one") == pytest.approx(1)
    assert bound_curves.budget_lost(steep, slow, "zero_one") == pytest.approx(0.5)  # none to one, evenly
    assert bound_curves.budget_lost(slow, steep, "zero_one") == pytest.approx(-0.5)
    assert bound_curves.budget_lost(steep, steep, "zero_one") == 0
    with pytest.raises(ValueError, match="different budgets"):
        bound_curves.budget_lost(steep, replace(steep, budgets=2 * steep.budgets), "zero_one")


def test_a_title_says_how_many_images() -> None:
    assert bound_curves.scale("fashion_mnist", made(0, 0.5)).startswith("Fashion-MNIST, ")
