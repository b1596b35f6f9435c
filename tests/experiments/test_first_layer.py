"""What the paper says of the first linear layer, on curves where the answer is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from semirobust.experiments import feature_bounds, first_layer
from semirobust.experiments.bound_curves import LOSSES, Bound

GRID = np.arange(0, 8, 0.25)


def curve(training: str, middle: float) -> Bound:
    """A ramp of one unit around the budget where half of guessing is forced."""
    share = np.clip(GRID - middle + 0.5, 0, 1)
    return Bound(training, "linear_1", GRID, 0.5 * share, np.log(2) * share, (10, 10))


def found(**middles: float) -> dict[str, Bound]:
    names = {"images": 6.0, "benign": 2.0, "pgd_1": 3.0, "pgd_2": 3.5, "pgd_3": 3.75}
    names |= {"trades_1": 3.25, "trades_2": 3.75, "trades_3": 4.0}
    return {n.replace("_", "-"): curve(n.replace("_", "-"), m) for n, m in (names | middles).items()}


@pytest.mark.parametrize("loss", LOSSES)
def test_what_the_paper_sees(loss: str) -> None:
    claims = first_layer.claims(found(), loss)
    assert {name: first_layer.verdict(claim.checks) for name, claim in claims.items()} == {
        "benign": "true (6 of 6)",
        "increasing": "true (6 of 6)",
        "marginal": "true (4 of 4)",
        "methods": "true (3 of 3)",
        "smaller": "false (0 of 1)",
    }
    assert "against it nowhere" in claims["benign"].size
    assert claims["marginal"].size == ("gains in budget: PGD +1.00, +0.50, +0.25; TRADES +1.25, +0.50, +0.25")


@pytest.mark.parametrize("loss", LOSSES)
def test_the_opposite(loss: str) -> None:
    others = {f"{m}_{b}": 1.5 - 0.25 * int(b) ** 2 / 4 for m in ("pgd", "trades") for b in "123"}
    claims = first_layer.claims(found(**others), loss)
    assert {name: first_layer.verdict(claim.checks) for name, claim in claims.items()} == {
        "benign": "false (0 of 6)",
        "increasing": "false (0 of 6)",
        "marginal": "mixed (2 of 4)",
        "methods": "false (0 of 3)",
        "smaller": "true (1 of 1)",
    }
    assert claims["methods"].size.endswith("+0.000, +0.000, +0.000")


def test_one_curve_out_of_order_makes_it_mixed() -> None:
    """PGD at 3 falls back behind PGD at 1 from budget 2.25 on, and stays more robust than benign training."""
    claims = first_layer.claims(found(pgd_3=2.75), "zero_one")
    assert first_layer.verdict(claims["increasing"].checks) == "mixed (5 of 6)"
    assert first_layer.verdict(claims["benign"].checks) == "true (6 of 6)"
    assert claims["increasing"].size.endswith("against it 0.375 (PGD at 3 above PGD at 2, at 3)")
    assert claims["smaller"].checks == (True,)
    assert claims["smaller"].size == "up to 0.250 (PGD at 3 above PGD at 2, at 2.75)"


def test_a_tie_is_no_benefit() -> None:
    claims = first_layer.claims(found(benign=3.0), "zero_one")
    assert claims["benign"].checks == (False, True, True, True, True, True)


def test_curves_that_cross_are_not_in_order() -> None:
    base = found()
    benign = base["benign"]
    lower_first = replace(benign, zero_one=np.where(GRID < 3, 0, 0.5))
    claims = first_layer.claims(base | {"benign": lower_first}, "zero_one")
    assert claims["benign"].checks[0] is False  # PGD at 1 is above it at 2.75 and below at 3


def test_a_level_that_is_never_forced_is_no_gain() -> None:
    claims = first_layer.claims(found(pgd_3=9.0), "zero_one")
    assert claims["marginal"].checks == (True, False, True, True)


def test_the_networks_of_a_seed() -> None:
    first, second = (first_layer.configs("quick", "digits", seed) for seed in (0, 1))
    assert set(first) == set(second) == set(found())
    assert first["pgd-2"] == feature_bounds.linear("quick", "digits", "fcnn-pgd-2")
    assert first["images"] == second["images"] and first["images"].layers == ("input",)
    assert (second["benign"].network.seed, second["benign"].network.train.seed) == (1, 1)
