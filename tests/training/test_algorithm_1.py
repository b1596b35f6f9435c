"""Algorithm 1: the trial leaves f_a* alone, and both readings do what they say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from semirobust import data, layers, models, statistics, training
from semirobust.training.algorithm_1 import Measurement


def make(accuracies, validation=None, bits=None):
    """A trajectory of PGD test accuracies from epoch 0 on."""
    validation = validation or accuracies
    bits = bits or [(1.0, 2.0)] * len(accuracies)
    return [
        Measurement(epoch, validation[epoch], {"pgd": accuracy}, tuple(bits[epoch]), (0.1, 0.2))
        for epoch, accuracy in enumerate(accuracies)
    ]


def test_printed_reading_stops_at_the_first_test_success_and_takes_the_smallest_rho():
    first = make([0.1, 0.3, 0.52, 0.9], bits=[(9, 9), (8, 8), (3, 7), (0, 0)])
    second = make([0.1, 0.5, 0.2, 0.2], bits=[(9, 9), (4, 6), (0, 0), (0, 0)])
    failed = make([0.1, 0.2, 0.3, 0.4], bits=[(9, 9), (1, 1), (1, 1), (1, 1)])
    reading = training.algorithm_1.printed([first, second, failed], 0.5, "pgd")
    assert reading.epochs == (2, 1, 3)
    assert reading.succeeded == (True, True, False)
    assert reading.accuracy == 0.52  # the 0.9 comes after the stop
    assert reading.accuracies == (0.52, 0.5, 0.4)
    assert reading.rho == (3, 6)  # per layer, from different trials, failures left out
    assert reading.mean_epochs == 1.5


def test_printed_reading_without_success_reports_the_largest_rho():
    trials = [
        make([0.1, 0.4, 0.3], bits=[(9, 9), (1, 1), (2, 5)]),
        make([0.1, 0.2, 0.2], bits=[(9, 9), (1, 1), (3, 4)]),
    ]
    reading = training.algorithm_1.printed(trials, 0.5, "pgd")
    assert reading.rho == (3, 5)
    assert reading.accuracy == 0.4
    assert reading.mean_epochs is None


def test_a_larger_k_is_reached_earlier_and_epoch_zero_never_counts():
    trajectory = make([0.5, 0.46, 0.49, 0.5])
    assert training.algorithm_1.printed([trajectory], 0.5, "pgd").epochs == (3,)
    assert training.algorithm_1.printed([trajectory], 0.5, "pgd", k=0.02).epochs == (2,)
    assert training.algorithm_1.printed([trajectory], 0.5, "pgd", k=0.05).epochs == (1,)


def test_success_is_decided_on_shares_of_images_not_on_their_rounding():
    assert 0.685 - 0.585 > 0.1  # in float64
    trajectory = make([0.1, 0.585, 0.5])
    assert training.algorithm_1.printed([trajectory], 0.685, "pgd", k=0.1).epochs == (1,)
    assert training.algorithm_1.sound([trajectory], 0.685, "pgd", k=0.1).epochs == (1,)
    assert training.algorithm_1.printed([trajectory], 0.685, "pgd", k=0.099).succeeded == (False,)


def test_sound_reading_never_looks_at_the_test_set_to_decide():
    trials = [
        make([0.1, 0.9, 0.3, 0.4], validation=[0, 0.1, 0.6, 0.7]),
        make([0.1, 0.9, 0.3, 0.2], validation=[0, 0.2, 0.4, 0.3]),
    ]
    reading = training.algorithm_1.sound(trials, 0.5, "pgd")
    assert reading.epochs == (2, 2)  # a success, and the best validation epoch of a failure
    assert reading.succeeded == (True, False)
    assert reading.accuracies == (0.3, 0.3)
    changed = [[replace(m, test_accuracy={"pgd": 1.0}) for m in trial] for trial in trials]
    assert training.algorithm_1.sound(changed, 0.5, "pgd").epochs == reading.epochs


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=20))
def test_auc_is_the_probability_that_a_success_scores_higher(points):
    scores, success = np.array([p[0] for p in points], float), np.array([p[1] for p in points])
    if success.all() or not success.any():
        with pytest.raises(ValueError, match="needs successes and failures"):
            statistics.auc(scores, success)
        return
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[success] for b in scores[~success]]
    assert statistics.auc(scores, success) == pytest.approx(np.mean(pairs), abs=1e-12)


def test_paired_difference():
    mean, low, high = statistics.paired_difference(
        np.array([1, 1, 0, 0, 1], bool), np.array([1, 0, 0, 0, 0], bool)
    )
    assert mean == pytest.approx(0.4)
    # Bonett and Price: (f12 + 1, f21 + 1) = (3, 1) of n + 2 = 7
    half = 1.96 * np.sqrt((4 / 7 - (2 / 7) ** 2) / 7)
    assert (low, high) == pytest.approx((2 / 7 - half, 2 / 7 + half))
    same = np.ones(100, bool)
    mean, low, high = statistics.paired_difference(same, same)
    assert mean == 0 and low == -high and 0.02 < high < 0.06  # never a point
    trials = np.array([[1, 0, 1], [1, 1, 1]], bool)
    assert statistics.paired_difference(trials, np.array([1, 0, 0], bool))[0] == pytest.approx(0.5)
    for ours, theirs in (([], []), ([1, 0], [1]), ([1], [[1]])):
        with pytest.raises(ValueError, match="same images"):
            statistics.paired_difference(ours, theirs)


def test_readings_of_nothing_are_refused():
    with pytest.raises(ValueError, match="at least one trial"):
        training.algorithm_1.printed([], 0.5, "pgd")
    with pytest.raises(ValueError, match="at least one epoch"):
        training.algorithm_1.sound([make([0.1])], 0.5, "pgd")
    with pytest.raises(ValueError, match="measured: pgd"):
        training.algorithm_1.printed([make([0.1, 0.2])], 0.5, "square")


@pytest.fixture(scope="module")
def networks():
    build = lambda seed: models.create("resnet18", 10, (1, 16, 16), width=4, seed=seed)  # noqa: E731
    robust, standard = build(0), build(1)
    with torch.no_grad():
        for model in (robust, standard):  # statistics that are not those of initialisation
            model.train()(torch.rand(64, 1, 16, 16))
    return robust.eval(), standard.eval()


CONFIG = training.short(
    2, lr=0.05, batch_size=32, attack=training.PGD(0.1, 0.05, 2), augment=False, precision="float32"
)


@pytest.mark.parametrize("batch_statistics", [False, True])
def test_a_trial_changes_f_b_only(networks, batch_statistics):
    robust, standard = networks
    before = {name: value.clone() for name, value in robust.state_dict().items()}
    images = data.load("digits", "train", size=16, limit=64)
    split = layers.Split(robust, 4)
    seen = []
    for epoch, model in training.algorithm_1.trial(
        robust, standard.state_dict(), 4, images, CONFIG, batch_statistics=batch_statistics
    ):
        state = model.state_dict()
        assert all(torch.equal(state[name], before[name]) for name in split.names_a), "f_a* changed"
        if epoch == 0:
            assert all(torch.equal(state[name], standard.state_dict()[name]) for name in split.names_b)
        else:
            assert not torch.equal(state["fc.weight"], standard.state_dict()["fc.weight"])
        seen.append(epoch)
    assert seen == [0, 1, 2]
    assert all(torch.equal(value, before[name]) for name, value in robust.state_dict().items())
    assert all(parameter.requires_grad for parameter in robust.parameters())


def test_bad_input(networks):
    robust, standard = networks
    images = data.load("digits", "train", size=16, limit=64)
    with pytest.raises(ValueError, match="give config an attack"):
        next(
            training.algorithm_1.trial(robust, standard.state_dict(), 4, images, replace(CONFIG, attack=None))
        )
    with pytest.raises(ValueError, match="n_fb must be"):
        next(training.algorithm_1.trial(robust, standard.state_dict(), 18, images, CONFIG))
    with pytest.raises(ValueError, match="cannot graft"):
        next(training.algorithm_1.trial(robust, {}, 4, images, CONFIG))
