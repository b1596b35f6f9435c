"""Attacks: closed forms on linear models, agreement with torchattacks, the guard, masking, bad input."""

from __future__ import annotations

import gc
import math
import random
import warnings
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchattacks
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from semirobust import attacks, models, runs, statistics
from semirobust.attacks import ascend, cross_entropy, flat_norm, margin, project, random_start
from semirobust.layers import AttackView, Split

EPS = 8 / 255
ROUNDING = 1e-6  # float32, of pixels in [0, 1]
CHEAP = {"autoattack": {"steps": 4, "queries": 20}, "square": {"queries": 20}, "cw": {"steps": 5}}


class Net(nn.Module):
    """A small convolutional network with BatchNorm whose statistics are not those of a fresh one."""

    def __init__(self, classes: int = 10, channels: int = 1, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.conv1, self.bn1 = nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8)
            self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8)
            self.fc = nn.Linear(8, classes)
            nn.init.uniform_(self.bn1.running_mean, -0.2, 0.2)
            nn.init.uniform_(self.bn2.running_var, 0.5, 1.5)
            self.fc.weight.data *= 8

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.bn1(self.conv1(x)).relu()
        out = self.bn2(self.conv2(out)).relu()
        return self.fc(out.amax((2, 3)))


class Plain(nn.Module):
    """Without BatchNorm: the same arithmetic whoever calls it."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.fc1, self.fc2 = nn.Linear(64, 32), nn.Linear(32, 10)
        self.fc2.weight.data *= 8

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.fc1(x.flatten(1)).tanh())


def linear(seed: int, classes: int = 2, dimension: int = 12, scale: float = 1.0) -> nn.Linear:
    generator = torch.Generator().manual_seed(seed)
    model = nn.Linear(dimension, classes)
    model.weight.data = torch.randn(classes, dimension, generator=generator) * scale
    model.bias.data = -model.weight.data.sum(1) / 2  # zero at the middle of the box
    return model


def pictures(model: nn.Module, n: int = 24, shape: tuple[int, ...] = (1, 16, 16), seed: int = 0):
    """Random images and what ``model`` says of them, one label in eight of them wrong."""
    x = torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        logits = model.eval()(x)
    y = logits.argmax(1)
    y[::8] = (y[::8] + 1) % logits.shape[1]
    return x, y


def robust_linear(model: nn.Linear, x: torch.Tensor, y: torch.Tensor, eps: float) -> torch.Tensor:
    """Worst margin of a two-class linear model within linf eps and the box, exactly: [N], in float64."""
    weight, bias = model.weight.detach().double(), model.bias.detach().double()
    sign = (2.0 * y - 1)[:, None].double()
    direction = weight[1] - weight[0]
    worst = x.double() - sign * eps * direction.sign()
    return ((worst.clamp(0, 1) @ direction + bias[1] - bias[0]) * sign[:, 0]).detach()


# --- closed forms and invariants ---


@settings(max_examples=25)
@given(
    seed=st.integers(0, 10_000),
    eps=st.floats(0.01, 0.6),
    attack=st.sampled_from(["fgsm", "ifgsm", "pgd", "cw"]),
)
def test_verdicts_are_exact_on_linear_models(seed: int, eps: float, attack: str) -> None:
    model = linear(seed)
    x, y = pictures(model, 32, (12,), seed)
    evaluation = attacks.evaluate(model, x, y, attack, eps=eps, fast=False)
    worst = robust_linear(model, x, y, eps)
    clear = worst.abs() > 1e-4  # elsewhere rounding decides
    assert torch.equal(evaluation.correct[clear], (worst > 0)[clear])
    assert not evaluation.warnings


@settings(max_examples=15)
@given(
    seed=st.integers(0, 10_000),
    small=st.floats(0.0, 0.3),
    more=st.floats(0.0, 0.3),
    norm=st.sampled_from(["linf", "l2"]),
)
def test_a_larger_budget_never_leaves_more_right_on_linear_models(
    seed: int, small: float, more: float, norm: str
) -> None:
    model = linear(seed)
    x, y = pictures(model, 32, (12,), seed)
    few, many = (
        attacks.evaluate(model, x, y, "ifgsm", eps=e, norm=norm, fast=False) for e in (small, small + more)
    )
    assert many.accuracy <= few.accuracy


@settings(max_examples=20)
@given(
    seed=st.integers(0, 10_000),
    eps=st.floats(0.001, 1.0),
    norm=st.sampled_from(["linf", "l2"]),
    attack=st.sampled_from(["fgsm", "ifgsm", "pgd", "cw"]),
)
def test_points_stay_in_the_ball_and_the_box(seed: int, eps: float, norm: str, attack: str) -> None:
    model = Net(seed=seed % 7)
    x, y = pictures(model, 8, (1, 8, 8), seed)
    points = [
        attacks.evaluate(model, x, y, attack, eps=eps, norm=norm).x_adv,
        attacks.perturb(model, x, y, attack, eps=eps, norm=norm),
    ]
    for x_adv in points:
        distance = (x_adv - x).abs().max() if norm == "linf" else flat_norm(x_adv - x).max()
        assert distance <= eps + ROUNDING
        assert x_adv.min() >= 0 and x_adv.max() <= 1
        assert x_adv.shape == x.shape and x_adv.dtype == torch.float32


@settings(max_examples=20)
@given(
    seed=st.integers(0, 10_000),
    eps=st.floats(0.01, 0.5),
    steps=st.integers(1, 8),
    loss=st.sampled_from([cross_entropy, margin]),
)
def test_the_loss_never_falls_below_its_start_where_it_is_convex(
    seed: int, eps: float, steps: int, loss
) -> None:
    model = linear(seed, classes=5)
    x, y = pictures(model, 16, (12,), seed)
    start = random_start(x, eps, "linf", torch.Generator().manual_seed(seed))
    x_adv = ascend(model, x, y, eps=eps, step=eps / 4, steps=steps, start=start, loss=loss)
    assert (loss(model(x_adv), y) >= loss(model(start), y) - 1e-5).all()


def test_projection_is_idempotent_and_moves_nothing_inside() -> None:
    x = torch.rand(6, 3, 4, 4)
    for norm in ("linf", "l2"):
        far = x + torch.randn_like(x)
        once = project(far, x, 0.1, norm)
        assert torch.allclose(project(once, x, 0.1, norm), once, atol=ROUNDING)
        assert torch.allclose(project(x, x, 0.1, norm), x, atol=ROUNDING)
        outside = 0.05 * torch.ones_like(x)
        assert project(x + outside, x, math.inf, norm).max() <= 1


def test_more_restarts_break_no_fewer_images() -> None:
    model = Net()
    x, y = pictures(model, 64)
    few, many = (attacks.evaluate(model, x, y, "pgd", steps=2, restarts=r) for r in (1, 4))
    assert not (many.correct & ~few.correct).any()
    assert many.accuracy < few.accuracy  # here they do break more
    assert [name for name, _ in many.parts] == ["pgd"] * 4
    assert many.parts[0] == few.parts[0]
    broken = int(many.clean_correct.sum()) - int(many.correct.sum())
    assert sum(k for _, k in many.parts) == broken


@pytest.mark.parametrize("attack", ["none", "fgsm", "ifgsm", "pgd"])
def test_verdicts_do_not_depend_on_the_batch_size(attack: str) -> None:
    model = Net()
    x, y = pictures(model, 40)
    whole, parts = (attacks.evaluate(model, x, y, attack, batch_size=b, fast=False) for b in (40, 7))
    assert torch.equal(whole.correct, parts.correct)
    assert torch.allclose(whole.x_adv, parts.x_adv, atol=2 * EPS)
    assert (whole.x_adv - parts.x_adv).abs().gt(ROUNDING).float().mean() < 0.01  # signs of rounded zeros


def test_verdicts_are_the_models_own() -> None:
    model = Net().train()
    x, y = pictures(model, 64)
    evaluation = attacks.evaluate(model, x, y, "pgd")
    with torch.no_grad():
        right = model.eval()(evaluation.x_adv).argmax(1) == y
    assert torch.equal(evaluation.correct, right & evaluation.clean_correct)
    assert 0 < evaluation.accuracy < evaluation.clean_accuracy < 1
    wrong = ~evaluation.clean_correct
    assert torch.equal(evaluation.x_adv[wrong], x[wrong])


def test_the_fast_view_agrees_with_the_model() -> None:
    model = Net()
    x, y = pictures(model, 400)
    fast, slow = (attacks.evaluate(model, x, y, "pgd", fast=f) for f in (True, False))
    assert (fast.correct == slow.correct).float().mean() >= 0.98
    assert abs(fast.accuracy - slow.accuracy) <= 0.01


def test_a_view_that_calls_everything_broken_does_not_help_the_attacker_or_the_model(monkeypatch) -> None:
    class Broken(AttackView):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return -super().forward(x)

    monkeypatch.setattr("semirobust.attacks.worst_case.attack_view", lambda model, dtype=None: Broken(model))
    model = Net()
    x, y = pictures(model, 64)
    evaluation = attacks.evaluate(model, x, y, "pgd")
    reference = attacks.evaluate(model, x, y, "pgd", fast=False)
    assert evaluation.reattacked > 0
    assert torch.equal(evaluation.correct, reference.correct)


def test_no_budget_is_no_attack() -> None:
    model = Net()
    x, y = pictures(model)
    for attack in attacks.ATTACKS:
        evaluation = attacks.evaluate(model, x, y, attack, eps=0)
        assert torch.equal(evaluation.correct, evaluation.clean_correct) and evaluation.parts == ()
        assert torch.equal(attacks.perturb(model, x, y, attack, eps=0), x)


# --- agreement with torchattacks ---


def test_pgd_equals_torchattacks_from_the_same_seed() -> None:
    model = Plain()
    x, y = pictures(model, 32, (1, 8, 8))
    torch.manual_seed(5)
    theirs = torch.cat(
        [
            torchattacks.PGD(model, eps=EPS, alpha=2 / 255, steps=10)(a, b)
            for a, b in zip(x.split(16), y.split(16), strict=True)
        ]
    )
    ours = attacks.perturb(model, x, y, "pgd", seed=5, batch_size=16, fast=False)
    assert torch.equal(ours, theirs)  # batches of 16: their mean over the batch scales gradients exactly
    ours = attacks.perturb(model, x, y, "pgd", seed=5, batch_size=16)
    assert (ours - theirs).abs().gt(
        ROUNDING
    ).float().mean() < 0.1  # the view, in bfloat16 where there is hardware


@pytest.mark.parametrize(
    ("attack", "build"),
    [
        ("fgsm", lambda m: torchattacks.FGSM(m, eps=EPS)),
        ("ifgsm", lambda m: torchattacks.BIM(m, eps=EPS, alpha=2 / 255, steps=10)),
    ],
)
def test_one_step_and_iterated_fgsm_agree_with_torchattacks(attack: str, build) -> None:
    model = Plain()
    x, y = pictures(model, 16, (1, 8, 8))
    assert torch.allclose(attacks.perturb(model, x, y, attack, fast=False), build(model)(x, y), atol=ROUNDING)


def test_a_float32_view_finds_what_torchattacks_finds_on_a_residual_network() -> None:
    model = models.create("resnet18", 10, (3, 16, 16), width=4, seed=0).eval()
    x, y = pictures(model, 16, (3, 16, 16))
    torch.manual_seed(0)
    theirs = torchattacks.PGD(model, eps=EPS, alpha=2 / 255, steps=4)(x, y)
    start = random_start(x, EPS, "linf", torch.Generator().manual_seed(0))
    view = AttackView(model, dtype=torch.float32)
    ours = ascend(view, x, y, eps=EPS, step=2 / 255, steps=4, start=start)
    assert (ours - theirs).abs().gt(ROUNDING).float().mean() < 0.01


# --- the parts from torchattacks ---


def test_autoattack_runs_its_four_parts_in_turn() -> None:
    model = Net()
    x, y = pictures(model, 32)
    evaluation = attacks.evaluate(model, x, y, "autoattack", steps=5, queries=50)
    assert [name for name, _ in evaluation.parts] == ["apgd-ce", "apgd-t", "fab-t", "square"]
    assert sum(k for _, k in evaluation.parts) == int(
        evaluation.clean_correct.sum() - evaluation.correct.sum()
    )
    alone = attacks.evaluate(model, x, y, "square", queries=50)
    assert evaluation.accuracy <= alone.accuracy < evaluation.clean_accuracy
    assert (evaluation.x_adv - x).abs().max() <= EPS + ROUNDING
    again = attacks.evaluate(model, x, y, "autoattack", steps=5, queries=50)
    assert torch.equal(again.x_adv, evaluation.x_adv)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_autoattack_replaces_what_needs_four_classes(classes: int, norm: str) -> None:
    model = Net(classes)
    x, y = pictures(model, 8)
    evaluation = attacks.evaluate(model, x, y, "autoattack", norm=norm, steps=5, queries=10)
    assert [name for name, _ in evaluation.parts] == ["apgd-ce", *["margin-pgd"] * 3, "fab-t", "square"]
    assert evaluation.accuracy <= attacks.evaluate(model, x, y, "fgsm", norm=norm).accuracy


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("side", [8, 16])
def test_square_and_autoattack_take_single_small_images(norm: str, side: int) -> None:
    model = Net()
    x, y = pictures(model, 3, (1, side, side))
    for attack in ("square", "autoattack"):
        evaluation = attacks.evaluate(model, x[1:2], y[1:2], attack, norm=norm, **CHEAP[attack])
        assert evaluation.n == 1 and evaluation.clean_accuracy == 1


def test_cw_finds_near_points_and_counts_them_within_eps_only() -> None:
    model = Plain()
    x, y = pictures(model, 64, (1, 8, 8))
    anywhere = attacks.evaluate(model, x, y, "cw", norm="l2", eps=math.inf)
    broken = anywhere.clean_correct & ~anywhere.correct
    distance = flat_norm(anywhere.x_adv - x).flatten()
    assert broken.sum() >= 20
    eps = float(distance[broken].median())
    within = attacks.evaluate(model, x, y, "cw", norm="l2", eps=eps)
    assert not within.correct[broken & (distance < eps - ROUNDING)].any()
    assert anywhere.accuracy < within.accuracy < within.clean_accuracy


def test_cw_is_right_where_logits_are_negative() -> None:
    """torchattacks alone compares them with zero, and then does nothing."""
    model = Plain()
    model.fc2.bias.data -= 100
    x, y = pictures(model, 32, (1, 8, 8))
    evaluation = attacks.evaluate(model, x, y, "cw", norm="l2", eps=math.inf)
    theirs = torchattacks.CW(model)(x, y)
    assert evaluation.accuracy < 0.8 * evaluation.clean_accuracy
    assert int((model(theirs).argmax(1) == y).sum()) > int(evaluation.correct.sum())


def test_vectors_are_attacked_like_images() -> None:
    model = linear(0, classes=4, dimension=30)
    x, y = pictures(model, 32, (30,))
    for attack, norm in (("fgsm", "linf"), ("ifgsm", "l2"), ("pgd", "l2"), ("cw", "linf"), ("cw", "l2")):
        evaluation = attacks.evaluate(model, x, y, attack, norm=norm, eps=0.5)
        assert evaluation.accuracy < evaluation.clean_accuracy, (attack, norm)


# --- what an attack must leave alone ---


def state_of(model: nn.Module) -> tuple:
    return (
        {name: module.training for name, module in model.named_modules()},
        {name: p.requires_grad for name, p in model.named_parameters()},
        {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()},
        {name: value.clone() for name, value in model.state_dict().items()},
        torch.get_rng_state(),
        torch.from_numpy(np.random.get_state()[1].astype(np.int64)),  # noqa: NPY002 (the state itself)
        torch.tensor(random.getstate()[1]),
        list(warnings.filters),
    )


def same(one, two) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, tuple):
        return all(map(same, one, two))
    return one == two


@pytest.mark.parametrize("attack", list(attacks.ATTACKS))
def test_model_and_random_states_are_left_as_found(attack: str) -> None:
    model = Net()
    x, y = pictures(model, 8)
    model.train()
    model.bn1.eval()  # frozen
    model.conv1.weight.requires_grad_(False)
    model.fc.weight.grad = torch.ones_like(model.fc.weight)
    before = state_of(model)
    images, labels = x.clone(), y.clone()
    attacks.evaluate(model, x, y, attack, **CHEAP.get(attack, {}))
    attacks.perturb(model, x, y, attack, **CHEAP.get(attack, {}))
    assert same(before, state_of(model))
    assert torch.equal(x, images) and torch.equal(y, labels)


class Failing(Net):
    """Raises at its third call."""

    calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.calls == 3:
            raise RuntimeError("third call")
        return super().forward(x)


@pytest.mark.parametrize("attack", list(attacks.ATTACKS))
def test_model_is_left_as_found_when_an_attack_raises(attack: str) -> None:
    model = Failing().train()
    model.bn2.eval()
    x, y = torch.rand(8, 1, 16, 16), torch.zeros(8, dtype=torch.int64)
    before = state_of(model)
    for run in (attacks.evaluate, attacks.perturb):
        model.calls = 0
        if run is attacks.perturb and attack == "none":
            continue  # calls the model twice only
        with pytest.raises(RuntimeError, match="third call"):
            run(model, x, y, attack, fast=False, **CHEAP.get(attack, {}))
        assert same(before, state_of(model))


@pytest.mark.parametrize("batch_statistics", [False, True])
def test_a_frozen_subnetwork_stays_frozen_through_torchattacks(batch_statistics: bool) -> None:
    model = models.create("resnet18", 10, (3, 16, 16), width=4, seed=0)
    split = Split(model, 4)
    split.freeze_a(batch_statistics=batch_statistics)
    x, y = torch.rand(8, 3, 16, 16), torch.arange(8)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    frozen = {name: value.clone() for name, value in model.state_dict().items() if name in split.names_a}
    assert any("running_mean" in name for name in frozen)
    for attack in ("pgd", "autoattack", "cw"):
        model.train()
        attacks.evaluate(model, x, y, attack, fast=attack != "autoattack", **CHEAP.get(attack, {}))
        assert model.training
        torchattacks.PGD(model, steps=1)(
            x, y
        )  # the library itself, which switches frozen modules to training
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    state = model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in frozen.items())
    changed = [name for name in split.names_b if name.endswith("weight")]
    assert changed and all(name not in frozen for name in changed)


def test_torchattacks_keeps_no_model_alive() -> None:
    model = Net()
    x, y = pictures(model, 4)
    attacks.evaluate(model, x, y, "autoattack", fast=False, **CHEAP["autoattack"])
    attacks.evaluate(model, x, y, "cw", norm="l2", fast=False, **CHEAP["cw"])
    alive = weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None


# --- false robustness ---


def test_saturated_gradients_are_reported_and_the_margin_loss_sees_through_them() -> None:
    model = linear(3, dimension=20, scale=300)
    x, y = pictures(model, 200, (20,))
    with pytest.warns(attacks.GradientMaskingWarning, match="exactly zero"):
        pgd = attacks.evaluate(model, x, y, "pgd", eps=0.2)
    assert pgd.zero_gradient_share > 0.5 and pgd.gradient_n == 200
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cw = attacks.evaluate(model, x, y, "cw", eps=0.2)
    assert cw.accuracy < 0.3 < pgd.accuracy
    assert cw.zero_gradient_share == 0


class Staircase(nn.Module):
    """Gradients of another, unrelated network: the classic masked model."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.decoy = Net(), Net(seed=9)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        decoy = self.decoy(x)
        return self.net(x).detach() + decoy - decoy.detach()


def test_sanity_finds_a_masked_model_and_passes_an_honest_one() -> None:
    masked, honest = Staircase(), Net()
    x, y = pictures(honest, 100)
    with pytest.warns(attacks.GradientMaskingWarning):
        report = attacks.sanity(masked, x, y, queries=300)
    assert any("black-box" in finding for finding in report.findings)
    saturated = linear(3, dimension=20, scale=300)
    with pytest.warns(attacks.GradientMaskingWarning):
        stuck = attacks.sanity(saturated, *pictures(saturated, 200, (20,)))
    assert any("same grey one" in finding for finding in stuck.findings)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = attacks.sanity(honest, x, y, queries=300)
    assert report.findings == ()
    accuracies = [e.accuracy for e in report.evaluations if e.attack == "pgd"]
    assert accuracies == sorted(accuracies, reverse=True)


def test_autoattack_warns_where_square_breaks_what_gradients_left() -> None:
    model = Staircase()
    x, y = pictures(model, 40)
    with pytest.warns(attacks.GradientMaskingWarning, match="square broke"):
        attacks.evaluate(model, x, y, "autoattack", eps=16 / 255, steps=3, queries=300)


def test_compare_names_the_smaller_budget_that_breaks_more() -> None:
    model = Net()
    x, y = pictures(model, 100)
    weak = attacks.evaluate(model, x, y, "pgd", eps=1 / 255, steps=1, step=1e-6)
    strong = attacks.evaluate(model, x, y, "pgd", eps=EPS)
    assert attacks.compare([weak, strong]) == ()
    swapped = [replace(strong, eps=1 / 255), replace(weak, eps=EPS)]
    assert "smaller budget" in attacks.compare(swapped)[0]
    with pytest.raises(ValueError, match="same images"):
        attacks.compare([weak, attacks.evaluate(model, x.flip(0), y, "none")])


def test_wilson_interval() -> None:
    low, high = statistics.wilson(8, 10)  # Brown, Cai and DasGupta 2001 give (0.490, 0.943)
    assert (low, high) == (pytest.approx(0.4902, abs=5e-5), pytest.approx(0.9433, abs=5e-5))
    assert statistics.wilson(0, 5)[0] == 0 and statistics.wilson(5, 5)[1] == 1
    with pytest.raises(ValueError, match="proportion"):
        statistics.wilson(6, 5)


@settings(max_examples=50)
@given(n=st.integers(1, 10_000), share=st.floats(0, 1))
def test_wilson_holds_the_share_and_shrinks_with_n(n: int, share: float) -> None:
    k = round(share * n)
    low, high = statistics.wilson(k, n)
    assert 0 <= low <= k / n <= high <= 1
    wide = statistics.wilson(k, n, z=2.576)
    assert wide[0] <= low and high <= wide[1]
    more = statistics.wilson(4 * k, 4 * n)
    assert more[1] - more[0] < high - low


def test_the_record_is_plain() -> None:
    model = Net()
    x, y = pictures(model)
    record = attacks.evaluate(model, x, y, "pgd").record()
    assert record["n"] == 24 and record["parts"][0][0] == "pgd" and "x_adv" not in record
    assert '"accuracy"' in runs.json_text(record)


# --- bad input ---


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attack": "pgdd"}, "unknown attack 'pgdd'; known: none, fgsm, ifgsm, pgd, cw, autoattack, square"),
        ({"norm": "l1"}, "unknown norm 'l1'; known: linf, l2"),
        ({"eps": -0.1}, "eps must be"),
        ({"eps": math.nan}, "eps must be"),
        ({"eps": math.inf}, "eps must be"),
        ({"steps": 0}, "steps must be"),
        ({"step": 0.0}, "step must be"),
        ({"restarts": 0}, "restarts must be"),
        ({"attack": "fgsm", "restarts": 2}, "restarts must be"),
        ({"attack": "fgsm", "steps": 3}, "ifgsm takes several"),
        ({"queries": 0}, "queries must be"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"images": torch.rand(4, 1, 16, 16) * 255}, r"images must lie in \[0, 1\]"),
        ({"images": torch.rand(4, 1, 16, 16) - 0.5}, r"images must lie in \[0, 1\]"),
        ({"images": torch.full((4, 1, 16, 16), math.nan)}, "NaN"),
        ({"images": torch.zeros(4, 1, 16, 16, dtype=torch.uint8)}, "divide bytes by 255"),
        ({"images": torch.zeros(0, 1, 16, 16), "labels": torch.zeros(0, dtype=torch.int64)}, "N at least 1"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, r"labels must be int64 \[4\]"),
        ({"labels": torch.zeros(4)}, "labels must be int64"),
        ({"labels": torch.full((4,), 10)}, r"0\.\.9"),
        ({"labels": torch.full((4,), -1)}, r"0\.\.9"),
        ({"attack": "square", "images": torch.rand(4, 256)}, "use pgd or cw"),
        ({"attack": "square", "images": torch.rand(4, 1, 8, 32)}, "nearly square"),
    ],
)
def test_bad_input_is_refused_before_work(change: dict, message: str) -> None:
    class Flexible(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.view(len(x), 1, 16, -1))

    call = {
        "images": torch.rand(4, 1, 16, 16),
        "labels": torch.zeros(4, dtype=torch.int64),
        "attack": "pgd",
    } | change
    images, labels, attack = call.pop("images"), call.pop("labels"), call.pop("attack")
    with pytest.raises(ValueError, match=message):
        attacks.evaluate(Flexible(), images, labels, attack, **call)


def test_things_that_are_no_tensors_or_no_model_are_refused() -> None:
    x, y = torch.rand(4, 1, 16, 16), torch.zeros(4, dtype=torch.int64)
    with pytest.raises(TypeError, match=r"images must be a torch\.Tensor"):
        attacks.evaluate(Net(), x.numpy(), y, "pgd")
    with pytest.raises(TypeError, match="model must be"):
        attacks.evaluate(lambda x: x, x, y, "pgd")


class Noisy(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x + 0.01 * torch.randn_like(x))


class Infinite(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) / 0


class Spatial(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv1(x)


class Rounded(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.detach())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Noisy, "random in evaluation mode"),
        (Infinite, "NaN or infinite"),
        (Spatial, "logits"),
        (Rounded, "use square"),
    ],
)
def test_models_that_cannot_be_evaluated_are_refused(model: type[Net], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attacks.evaluate(model(), torch.rand(4, 1, 16, 16), torch.zeros(4, dtype=torch.int64), "pgd")


class Branching(Net):
    """Cannot be traced, so that no view of it can be made."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x if float(x.detach().sum()) > 0 else -x)


def test_a_model_without_a_view_is_attacked_itself() -> None:
    x, y = pictures(Branching(), 32)
    plain = attacks.evaluate(Net(), x, y, "pgd", fast=False)
    assert torch.equal(attacks.evaluate(Branching(), x, y, "pgd").correct, plain.correct)
