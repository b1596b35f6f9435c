"""Which score predicts success: permutation tests against ``rho``, Holm, and the experiment."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semirobust import dependence, runs, statistics, training
from semirobust.experiments import networks, prediction, replication
from semirobust.statistics import holm, screen
from semirobust.training import PGD

FEW = settings(max_examples=25)


def random_trials(seed: int, trials: int, epochs: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores with ties, [T, 1 + E], and outcomes; all trials share their start."""
    rng = np.random.default_rng(seed)
    score = rng.integers(0, 4, (trials, 1 + epochs)).astype(float)
    success = rng.random((trials, 1 + epochs)) < 0.5
    score[:, 0], success[:, 0] = score[0, 0], False
    return score, success


def plain_within(score: np.ndarray, success: np.ndarray) -> float | None:
    """Share of pairs of a success and a failure at the same epoch in which the success scores higher."""
    pairs = [
        (a > b) + 0.5 * (a == b)
        for scores, won in zip(score[:, 1:].T, success[:, 1:].T, strict=True)
        for a in scores[won]
        for b in scores[~won]
    ]
    return float(np.mean(pairs)) if pairs else None


@given(st.integers(0, 10_000), st.integers(2, 5), st.integers(1, 4))
@FEW
def test_the_same_as_the_plain_version(seed: int, trials: int, epochs: int) -> None:
    score, success = random_trials(seed, trials, epochs)
    found = screen({"s": score}, success)
    (test,) = found.tests
    assert (found.successes, found.failures) == (success[:, 1:].sum(), (~success[:, 1:]).sum())
    slow = plain_within(score, success)
    assert found.exact and (test.within is None) == (slow is None)
    joined, won = np.append(score[:, 1:], score[0, 0]), np.append(success[:, 1:], False)
    assert (test.pooled is None) == (not won.any())
    if test.pooled is not None:
        assert test.pooled == pytest.approx(
            np.mean([(a > joined[~won]) + 0.5 * (a == joined[~won]) for a in joined[won]])
        )
    if slow is not None:
        assert test.within == pytest.approx(slow)
        null = [plain_within(score, success[list(order)]) for order in itertools.permutations(range(trials))]
        extreme = [abs(value - 0.5) >= abs(slow - 0.5) - 1e-12 for value in null if value is not None]
        assert test.p_value == pytest.approx(np.mean(extreme)) and found.orders == math.factorial(trials)
        assert test.p_value >= found.smallest_p - 1e-12


def test_smallest_p_is_reached_and_never_beaten() -> None:
    """Four trials that succeed from epoch 1, 2, 3 and never: every order differs."""
    success = np.array([[False, e <= 0, e <= 1, e <= 2] for e in range(4)])
    perfect = np.repeat([[4.0], [3.0], [2.0], [1.0]], 4, axis=1)
    found = screen({"perfect": perfect, "its opposite": -perfect}, success)
    assert found.smallest_p == 1 / 24 and found.smallest_holm == 2 / 24
    # two-sided: the reversed order is as extreme where all ranks reverse
    assert found.tests[0].within == 1 and found.tests[1].within == 0
    assert found.tests[0].p_value == found.tests[1].p_value >= found.smallest_p
    twins = np.array([[False, True]] * 2 + [[False, False]] * 4)
    assert screen({"s": np.arange(12.0).reshape(6, 2)}, twins).smallest_p == 2 * 24 / 720
    best = min(
        screen({"s": np.array([[0.0, v] for v in order])}, twins).tests[0].p_value
        for order in itertools.permutations(range(6))
    )
    assert best >= 48 / 720


def test_random_orders_and_their_floor() -> None:
    rng = np.random.default_rng(0)
    success = np.hstack([np.zeros((9, 1), bool), np.arange(9)[:, None] > np.array([1, 3, 5])])
    score = rng.standard_normal((9, 4))
    found = screen({"s": score}, success, permutations=500, seed=1)
    assert not found.exact and found.orders == 500 and found.smallest_p >= 1 / 500
    assert found == screen({"s": score}, success, permutations=500, seed=1)
    other = screen({"s": score}, success, permutations=5000, seed=2)
    assert found.tests[0].p_value == pytest.approx(other.tests[0].p_value, abs=0.08)


def test_p_values_are_uniform_when_nothing_predicts() -> None:
    """Independent scores: 5 % tests reject about 5 times in 100, and corrected ones hardly ever any."""
    _, success = random_trials(3, 6, 3)
    rng = np.random.default_rng(0)
    scores = {str(i): rng.standard_normal((6, 4)) for i in range(100)}
    found = screen(scores, success)
    p_values = np.array([test.p_value for test in found.tests])
    assert (p_values <= 0.05).sum() <= 12
    assert 0.35 < p_values.mean() < 0.65
    assert min(test.p_holm for test in found.tests) > 0.05


def test_drift_does_not_predict() -> None:
    """Score and success both rise with the epoch: pooled looks perfect, within sees nothing."""
    success = np.tile([False, False, True], (4, 1))
    found = screen({"drift": np.tile([0.0, 1.0, 2.0], (4, 1))}, success)
    assert found.tests[0].pooled == 1 and found.tests[0].within is None and found.tests[0].p_holm is None
    assert found.pairs == 0 and found.smallest_p == 1


@pytest.mark.parametrize(
    ("p_values", "expected"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # Holm's own kind of example
        ([0.5, None, 0.5], [1.0, None, 1.0]),
        ([0.2], [0.2]),
        ([None], [None]),
        ([], []),
    ],
)
def test_holm(p_values, expected) -> None:
    assert holm(p_values) == [pytest.approx(p) if p is not None else None for p in expected]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
@FEW
def test_holm_is_between_the_raw_value_and_bonferroni(p_values: list[float]) -> None:
    for raw, corrected in zip(p_values, holm(list(p_values)), strict=True):
        assert raw <= corrected <= min(1.0, len(p_values) * raw) + 1e-12 or corrected == 1.0
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(np.array(holm(list(p_values)))[order]) >= 0).all()


@pytest.mark.parametrize(
    ("scores", "success", "message"),
    [
        ({}, np.zeros((2, 2)), "no scores"),
        ({"s": np.zeros((2, 2))}, np.zeros((1, 2)), "trials >= 2"),
        ({"s": np.zeros((2, 1))}, np.zeros((2, 1)), "epochs >= 2"),
        ({"s": np.zeros((2, 3))}, np.zeros((2, 2)), r"'s' has shape \(2, 3\)"),
        ({"s": np.full((2, 2), np.nan)}, np.zeros((2, 2)), "finite"),
    ],
)
def test_bad_input(scores, success, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        screen(scores, success)


# --- the experiment ---


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory) -> tuple[prediction.Plan, list[runs.Record]]:
    """Two trials of one epoch on a network of width 2."""
    recipe = training.short(1, lr=0.05, batch_size=64, augment=False)
    attack = PGD(0.1, 0.05, 1)
    pair = networks.pair(recipe, attack, dataset="digits", size=16, model="resnet18", width=2, holdout=50)
    plan = prediction.Plan("tiny", pair, 2, 2, 1, 0.1, (0.01, 0.1), 64, 50, 300, 1, 32)
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("RESULTS", "CACHE"):
            patch.setenv(f"SEMIROBUST_{variable}", str(tmp_path_factory.mktemp(variable.lower())))
        assert prediction.stored(plan, "quick") is None
        records = prediction.run_plan(plan, "quick")
        assert [r.metrics for r in prediction.stored(plan, "quick")] == [r.metrics for r in records]
    return plan, records


def test_a_trial_logs_every_measure_at_every_epoch(trials) -> None:
    _, records = trials
    names = {*prediction.WITHIN, "conditional_entropy", "label_information", "sensitivity"}
    assert set(prediction.WITHIN) < set(dependence.MEASURES)
    for record in records:
        assert [row["epoch"] for row in record.metrics["epochs"]] == [0, 1]
        assert len(record.metrics["layers"]) == 2 and record.metrics["n_test"] == 300
        for row in record.metrics["epochs"]:
            assert row["measures"].keys() == names
            for found in row["measures"].values():
                assert len(found["values"]) == len(found["controls"]) == 2
                assert np.isfinite(found["values"]).all() and np.isfinite(found["controls"]).all()
    first, second = (record.metrics["epochs"] for record in records)
    prediction._start.cache_clear()
    prediction._networks.cache_clear()
    fresh = prediction.run_trial(trials[0].trial(1))["epochs"]
    assert first[0] == second[0] == fresh[0], "all trials share their start"
    assert second[1] == fresh[1], "what was measured at the start does not touch what follows"
    assert first[1]["measures"] != second[1]["measures"]
    sensitivity = first[1]["measures"]["sensitivity"]
    assert all(
        0 < value < control
        for value, control in zip(sensitivity["values"], sensitivity["controls"], strict=True)
    )


def test_trials_draw_their_own_rates(trials) -> None:
    plan, _ = trials
    rates = [plan.trial(number).fine_tune.lr for number in range(50)]
    assert all(0.01 <= rate <= 0.1 for rate in rates) and len(set(rates)) == 50
    assert np.median(rates) == pytest.approx(math.sqrt(0.01 * 0.1), rel=0.3)  # uniform in the logarithm
    assert plan.trial(3) == plan.trial(3) and plan.trial(3).fine_tune.seed == 4


def test_scores_and_outcomes_are_what_was_logged(trials) -> None:
    plan, records = trials
    scores = replication.scores(records)
    assert len(scores) == 2 * 9
    later = records[0].metrics["layers"][1][1]
    row = records[1].metrics["epochs"][1]["measures"]["edge"]
    assert scores[f"edge, {later}"][1, 1] == row["values"][1]
    assert scores[f"edge_excess, {later}"][1, 1] == row["values"][1] - row["controls"][1]
    acc = records[0].metrics["acc_star_validation"]
    within = acc - records[0].metrics["epochs"][1]["validation_accuracy"]
    assert (
        replication.outcomes(records, within + 1e-6)[0, 1]
        and not replication.outcomes(records, within - 1e-6)[0, 1]
    )
    found = replication.read(records, plan.k)
    assert [test.name for test in found.tests] == list(scores)
    assert isinstance(found, statistics.Screening)


def made_records(predictive: float) -> list[runs.Record]:
    """Sixteen trials that succeed from an epoch of their own; `a, last` follows that in the first half, and
    ``predictive`` times as much in the second."""
    records = []
    for number, order in enumerate([*np.random.default_rng(0).permutation(8)] * 2):
        sign = 1.0 if number < 8 else predictive
        rows = [
            {
                "validation_accuracy": float(epoch > order / 2),
                "measures": {
                    name: {"values": [value], "controls": [0.0]}
                    for name, value in (("a", sign * -order), ("edge", float((7 * number) % 16)))
                },
            }
            for epoch in range(5)
        ]
        metrics = {"acc_star_validation": 1.0, "layers": [["first", "last"]], "epochs": rows}
        config = {"fine_tune": {"lr": 8.0 ** int((order + 1) // 2)}}
        records.append(SimpleNamespace(metrics=metrics, config=config))
    return records  # type: ignore[return-value]


@pytest.mark.parametrize(("predictive", "holds"), [(1.0, True), (-1.0, False), (0.0, False)])
def test_what_the_first_half_finds_must_hold_in_the_second(predictive: float, holds: bool) -> None:
    """As strong with the opposite sign is no replication."""
    result = replication.replicate(made_records(predictive), 0.0, 8, permutations=2000)
    assert [test.name for test in result.found] == ["a, last"]
    assert result.found[0].within == 1 and result.again is not None and len(result.again.tests) == 1
    again = result.again.tests[0]
    assert again.p_holm == again.p_value, "one finding, one test"
    assert again.within == {1.0: 1.0, -1.0: 0.0, 0.0: 0.5}[predictive]
    assert [test.name for test in result.held] == ["a, last"] * holds
    assert len(result.first.tests) == len(result.rest.tests) == 3


def test_an_accuracy_at_the_margin_is_a_success() -> None:
    """137 and 117 right of 200, k = 20 of 200: a difference of 0.10000000000000009 in doubles."""
    metrics = {
        "acc_star_validation": 137 / 200,
        "epochs": [{"validation_accuracy": n / 200} for n in (117, 116)],
    }
    record = SimpleNamespace(metrics=metrics)
    assert 137 / 200 - 117 / 200 > 0.1
    assert replication.outcomes([record], 0.1).tolist() == [[True, False]]  # type: ignore[list-item]


def test_nothing_found_is_nothing_tested_again() -> None:
    records = made_records(1.0)
    result = replication.replicate(records[:4] + records[8:12], 0.0, 4)
    assert result.found == result.held == () and result.again is None
    assert result.first.smallest_holm > 0.05


def test_null_band_is_that_of_the_orders() -> None:
    """The AUC of one success among six trials is uniform on 0, 1/5, ..., 1."""
    success = np.zeros((6, 2), dtype=bool)
    success[0, 1] = True
    test = screen({"s": np.tile(np.arange(6.0)[:, None], (1, 2))}, success).tests[0]
    assert test.null == (0.0, 1.0) and test.within == 0
    rng = np.random.default_rng(0)
    _, success = random_trials(3, 6, 3)
    found = screen({str(i): rng.standard_normal((6, 4)) for i in range(100)}, success)
    outside = sum(not t.null[0] <= t.within <= t.null[1] for t in found.tests)  # type: ignore[index,operator]
    assert 0 < outside <= 12


def test_the_rate_as_a_predictor() -> None:
    """Low orders succeed first, and the rate rises with the order."""
    records = made_records(1.0)
    known, won = replication.rate_scores(records, 0.0, 8), replication.outcomes(records, 0.0)
    assert np.allclose(np.exp(known["learning rate"]), replication.rates(records)[:, None])
    good = np.log(replication.rates(records)[:8][won[:8, 1]])
    assert sorted(good) == pytest.approx([0.0, np.log(8)]), "orders 0 and 1 succeed in the first epoch"
    distance = np.abs(np.log(replication.rates(records)) - np.log(8) / 2)
    assert known["nearness to good rates"][:, 1] == pytest.approx(-distance)
    fresh = {name: score[8:] for name, score in known.items()}
    rate, near = screen(fresh, won[8:]).tests
    assert rate.within == pytest.approx(0, abs=0.05) and near.within is not None and near.within > 0.5
    never = replication.rate_scores(records, -2.0, 8)["nearness to good rates"]
    assert (never == 0).all(), "nobody succeeds"


def test_at_equal_rate_only_pairs_of_nearly_the_same_rate_count() -> None:
    """Orders 2 i - 1 and 2 i share a rate; `a` tells them apart in the first half, backwards later."""
    forwards, backwards = made_records(1.0)[:8], made_records(-1.0)[8:]
    pairs, found = replication.at_equal_rate(forwards, 0.0)
    won = replication.outcomes(forwards, 0.0)[:, 1:]
    rate = replication.rates(forwards)
    counted = [
        (i, j, e)
        for e in range(won.shape[1])
        for i, j in itertools.permutations(range(8), 2)
        if won[i, e] and not won[j, e] and rate[i] == rate[j]
    ]
    assert pairs == len(counted) > 0 and found["a, last"] == 1
    assert replication.at_equal_rate(backwards, 0.0)[1]["a, last"] == 0
    everything = replication.at_equal_rate(forwards, 0.0, factor=1e9)
    assert everything[0] == screen(replication.scores(forwards), np.insert(won, 0, False, 1)).pairs > pairs
    with pytest.raises(ValueError, match="larger one"):
        replication.at_equal_rate(forwards[:1], 0.0)


def test_plans() -> None:
    known = {id(pair) for pairs in networks.PAIRS.values() for pair in pairs.values()}
    known.add(id(networks.DIGITS_TRIALS))
    for profile in ("quick", "reference", "paper"):
        for plan in prediction.plans(profile):
            assert plan.trials >= 14 and 0 < plan.first < plan.trials and id(plan.pair) in known
            configs = [plan.trial(number) for number in range(plan.trials)]
            assert len({runs.config_hash(config) for config in configs}) == plan.trials
            assert len({replace(c.fine_tune, lr=1.0, seed=0) for c in configs}) == 1
    with pytest.raises(ValueError, match="known: quick"):
        prediction.plans("quik")
