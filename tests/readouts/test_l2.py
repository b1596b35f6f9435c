"""Readouts in l2 without the box: attack and certificate against closed forms and grids; training; errors."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from semirobust.readouts import Readout, clip
from semirobust.readouts.l2 import certified_margins, lowest_margins, own_readout, stack, train_readout
from tests.readouts.cases import labelled, network, points, readout_of

# --- the attack ---


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.3, 2.0]))
def test_an_affine_readout_is_attacked_and_certified_exactly(seed, eps):
    rng = np.random.default_rng(seed)
    layers = [(rng.standard_normal((3, 5)), rng.standard_normal(3))]
    readout = readout_of(rng.standard_normal((1, 3)), rng.normal(), stack(layers, rectified=False))
    readout.scale = float(rng.uniform(0.5, 2))
    x, y = labelled(*points(seed, width=5))
    with torch.no_grad():
        gradient = readout.scale * readout.head[0].weight @ readout.features[0].weight
        exact = y * readout(x) - eps * gradient.norm()
    lowest, at = lowest_margins(readout, x, y, eps=eps)
    certified = certified_margins(readout, x, y, eps=eps)
    assert readout.affine and (lowest - exact).abs().max() < 1e-5 * (1 + exact.abs().max())
    assert (certified <= lowest).all() and (certified - exact).abs().max() < 1e-8 * (1 + exact.abs().max())
    assert ((at - x).norm(dim=1) <= eps * (1 + 1e-12)).all()
    assert torch.equal(y * readout(at), lowest)


def test_the_attack_leaves_the_box_and_stays_in_the_ball():
    x, y = torch.full((4, 3), 0.95, dtype=torch.float64), torch.tensor([1.0, 1.0, -1.0, -1.0]).double()
    readout = readout_of([[1.0, 1.0, 1.0]], -2.85)
    lowest, at = lowest_margins(readout, x, y, eps=0.5)
    assert float(at[2:].max()) > 1.2  # y = -1 is attacked upwards, out of [0, 1]
    assert (at - x).norm(dim=1).max() <= 0.5 * (1 + 1e-12)
    boxed = y * readout(at.clamp(0, 1))
    assert (lowest[2:] < boxed[2:] - 0.5).all()


def grid(x, eps, ticks=61):
    """Perturbations that fill the disc: [M, N, 2]."""
    line = torch.linspace(-eps, eps, ticks, dtype=torch.float64)
    square = torch.cartesian_prod(line, line)
    return x + square[square.norm(dim=1) <= eps][:, None]


@settings(max_examples=15)
@given(st.integers(0, 10_000), st.sampled_from([0.1, 0.5, 1.0]), st.booleans())
def test_certificate_grid_and_attack_are_in_order(seed, eps, deep):
    layers = network(seed, sizes=(2, 6, 5) if deep else (2, 8))
    readout = own_readout(layers)
    x, y = labelled(*points(seed, width=2))
    with torch.no_grad():
        everywhere = (y * readout(grid(x, eps).flatten(0, 1)).view(-1, len(x))).amin(0)
    lowest, _ = lowest_margins(readout, x, y, eps=eps, restarts=4)
    certified = certified_margins(readout, x, y, eps=eps, batch_size=5)
    assert (certified <= everywhere).all() and (certified <= lowest).all()
    near = lowest <= everywhere + 0.15 * eps * (1 + everywhere.abs())
    assert float(near.double().mean()) > 0.7  # a search can end in a local minimum
    assert (lowest <= y * readout(x)).all()


def test_the_certificate_says_something_at_small_budgets_and_merges_what_is_affine():
    layers = network(1)
    features, head = (
        stack(layers[:1], rectified=False),
        stack([layers[1], (np.ones((1, 5)), np.zeros(1))], rectified=False),
    )
    readout, x = Readout(features, head, 0.1), labelled(*points(1))
    merged = stack(
        [(layers[1][0] @ layers[0][0], layers[1][0] @ layers[0][1] + layers[1][1])], rectified=True
    )
    same = Readout(nn.Sequential(), nn.Sequential(*merged, head[2]), 0.1)
    assert not readout.affine
    first, second = (certified_margins(each, *x, eps=0.05) for each in (readout, same))
    assert torch.allclose(first, second, atol=1e-9)
    with torch.no_grad():
        fall = x[1] * readout(x[0]) - first
    assert 0 < fall.max() < 1


def test_more_restarts_and_budget_never_raise_what_is_found():
    readout, (x, y) = own_readout(network(2)), labelled(*points(2, count=20))
    few, _ = lowest_margins(readout, x, y, eps=0.5, restarts=1)
    more, _ = lowest_margins(readout, x, y, eps=0.5, restarts=4)
    assert (more <= few).all() and (more < few - 1e-9).any()
    again, _ = lowest_margins(readout, x, y, eps=0.5, restarts=4, batch_size=7)
    assert torch.allclose(again, more, atol=1e-6)


def test_an_attack_on_hard_answers_finds_nothing_where_the_margin_shows_the_way():
    own = own_readout(network(4))
    x, y = labelled(*points(4, count=40))
    y = torch.where(own(x) > 0, 1.0, -1.0).double()  # all right without attack
    hard, eps = Readout(own.features, own.head, 1e9), 0.6
    blind, _ = lowest_margins(hard, x, y, eps=eps, restarts=1, objective="value")
    assert (clip(blind) == 1).all()
    seen, _ = lowest_margins(hard, x, y, eps=eps, restarts=1)
    assert float(clip(seen).mean()) < 0.5


# --- training ---


def test_an_adversarially_trained_readout_beats_one_trained_without_attack():
    rng = np.random.default_rng(0)
    y = torch.from_numpy(rng.choice([-1.0, 1.0], 200))
    x = torch.from_numpy(rng.standard_normal((200, 12)))
    x[:, 0] = 2 * y + 0.3 * x[:, 0]  # robust
    x[:, 1:] = 0.15 * y[:, None] + 0.1 * x[:, 1:]  # helps without attack, hurts under it
    found = {}
    for eps in (0.0, 1.0):
        readout = train_readout(nn.Sequential(), x, y, eps=eps, epochs=15)
        lowest, _ = lowest_margins(readout, x, y, eps=1.0)
        found[eps] = float(clip(lowest).mean())
    assert found[1.0] > found[0.0] + 0.1 and found[1.0] > 0.5


def test_training_changes_nothing_but_its_own_readout():
    layers, (x, y) = network(6), labelled(*points(6, count=30))
    features = stack(layers[:1], rectified=True)
    before = {name: tensor.clone() for name, tensor in features.state_dict().items()}
    states = torch.get_rng_state(), random.getstate()
    options = {"eps": 0.2, "hidden": 8, "epochs": 2, "steps": 2}
    first = train_readout(features, x, y, **options)
    second = train_readout(features, x, y, **options)
    further = train_readout(features, x, y, start=first, **options)
    assert all(torch.equal(before[name], tensor) for name, tensor in features.state_dict().items())
    assert torch.equal(states[0], torch.get_rng_state()) and random.getstate() == states[1]
    assert torch.equal(first(x), second(x)) and not torch.equal(first(x), further(x))
    assert not any(parameter.requires_grad for parameter in first.parameters())
    lowest_margins(first, x, y, eps=0.1)
    assert torch.equal(first(x), second(x)) and first.head[0].weight.dtype == torch.float64


def test_the_network_is_its_own_readout():
    layers, (x, _) = network(7), labelled(*points(7))
    readout = own_readout(layers)
    logits = stack(layers, rectified=False)(x)
    assert torch.allclose(readout(x), logits[:, 0] - logits[:, 1], atol=1e-12)
    with pytest.raises(ValueError, match="needs 2 logits, the network has 3"):
        own_readout(network(7, logits=3))


GOOD = labelled(*points(0, count=10))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eps": -1.0}, "eps must be a finite l2 radius"),
        ({"eps": np.inf}, "eps must be a finite l2 radius"),
        ({"steps": 0}, "must be at least 1"),
        ({"restarts": 0}, "must be at least 1"),
        ({"objective": "loss"}, "unknown objective 'loss'; known: margin, value"),
        ({"x": GOOD[0].float()}, "must be float64"),
        ({"x": GOOD[0][:, :2]}, "takes 4 inputs, x has 2"),
        ({"x": GOOD[0] * np.nan}, "finite"),
        ({"y": (GOOD[1] + 1) / 2}, "-1 and \\+1"),
        ({"y": GOOD[1][:3]}, "one for each of the 20 points"),
    ],
)
def test_what_the_attack_refuses(change, message):
    options = {"x": GOOD[0], "y": GOOD[1], "eps": 0.1} | change
    with pytest.raises(ValueError, match=message):
        lowest_margins(own_readout(network(0)), **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"hidden": 0}, "hidden must be at least 1"),
        ({"lr": 0.0}, "lr must be positive"),
        ({"held_out": 1.0}, "held_out between 0 and 1"),
        ({"held_out": 0.96}, "none of 20 points to train on"),
        ({"x": GOOD[0].float()}, "must be float64"),
        ({"x": GOOD[0][:5], "y": GOOD[1][:5]}, "at least 10 training points"),
        ({"y": GOOD[1].abs()}, "of both classes"),
    ],
)
def test_what_training_refuses(change, message):
    options = {"x": GOOD[0], "y": GOOD[1], "eps": 0.1} | change
    with pytest.raises(ValueError, match=message):
        train_readout(nn.Sequential(), **options)


def test_layers_that_do_not_chain_are_refused():
    layers = network(0)
    with pytest.raises(ValueError, match="do not chain"):
        stack([layers[0], layers[2]], rectified=True)
