"""Training against l2 budgets and with TRADES: formulas, finite gradients, closed forms, checkpoints."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from semirobust import data, models, training
from semirobust.attacks import ascend, flat_norm, random_start
from semirobust.training import PGD, PGDL2, TRADES, TrainConfig, epochs, loop, trades, train
from tests.cases import changed, one_thread, random_images, snapshot

QUICK = TrainConfig(epochs=1, lr=0.05, schedule="constant", batch_size=16, augment=False, precision="float32")


@pytest.fixture(autouse=True)
def single_thread() -> Iterator[None]:
    with one_thread():
        yield


def little(seed: int = 0) -> nn.Module:
    """Without BatchNorm and dropout: the same function in training and evaluation."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))


# --- the divergence ---

logits = st.lists(st.floats(-30, 30), min_size=3, max_size=3)


@settings(max_examples=50)
@given(logits, logits)
def test_divergence_and_its_gradients_are_the_formulas(first: list[float], second: list[float]) -> None:
    def log_softmax(values: list[float]) -> list[float]:
        top = max(values)
        return [v - top - math.log(math.fsum(math.exp(w - top) for w in values)) for v in values]

    lp, lq = log_softmax(first), log_softmax(second)
    expected = math.fsum(math.exp(a) * (a - b) for a, b in zip(lp, lq, strict=True))
    z = torch.tensor([first], dtype=torch.float64, requires_grad=True)
    moved = torch.tensor([second], dtype=torch.float64, requires_grad=True)
    value = training.divergence(moved, z.log_softmax(1))
    assert value.shape == (1,) and value.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert value.item() >= -1e-12
    grad_z, grad_moved = torch.autograd.grad(value.sum(), (z, moved))
    for j in range(3):
        assert grad_moved[0, j].item() == pytest.approx(math.exp(lq[j]) - math.exp(lp[j]), abs=1e-12)
        assert grad_z[0, j].item() == pytest.approx(math.exp(lp[j]) * (lp[j] - lq[j] - expected), abs=1e-9)


def test_divergence_of_a_distribution_from_itself_is_zero() -> None:
    z = torch.randn(20, 4, dtype=torch.float64)
    assert training.divergence(z + 3, z.log_softmax(1)).abs().max() < 1e-14
    assert (training.divergence(z.flip(1), z.log_softmax(1)) > 0).all()


@pytest.mark.parametrize("moved", [[0.0, 1e4], [1e4, 0.0], [0.0, 0.0], [-1e4, 1e4]])
def test_saturated_logits_give_finite_losses_and_gradients(moved: list[float]) -> None:
    z = torch.tensor([[1e4, 0.0]], requires_grad=True)
    other = torch.tensor([moved], requires_grad=True)
    value = training.divergence(other, z.log_softmax(1)).sum()
    expected = max(moved[1] - moved[0], 0.0) if moved[0] != moved[1] else math.log(2)
    assert value.item() == pytest.approx(expected, rel=1e-6)
    gradients = torch.autograd.grad(value, (z, other))
    assert all(bool(g.isfinite().all()) for g in gradients)
    if expected:
        assert gradients[1].abs().max() >= 0.5
    # with probabilities, as in the authors' code, the first of these gradients is not a number
    theirs = F.kl_div(other.log_softmax(1), z.softmax(1), reduction="sum")
    assert torch.autograd.grad(theirs, z)[0].isnan().any()


# --- the inner maximisation ---


class Linear(nn.Module):
    """Logits (w x + b, 0): the divergence grows on both sides of x along w."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.w = torch.empty(36, dtype=torch.float64).normal_(generator=generator)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        value = x.double().flatten(1) @ self.w - 0.5 * self.w.sum()
        return torch.stack([value, torch.zeros_like(value)], 1)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_on_a_linear_network_the_inner_maximum_is_the_closed_form(norm: str) -> None:
    model = Linear()
    x = 0.5 + 0.1 * torch.rand(40, 1, 6, 6, dtype=torch.float64)
    attack = TRADES(0.3 if norm == "l2" else 0.05, 0.02, 60, norm=norm)
    moved = training.maximise(model, x, attack, torch.Generator().manual_seed(0))
    direction = model.w / model.w.norm() if norm == "l2" else model.w.sign()
    along = ((moved - x).flatten(1) @ direction) / (direction @ direction) / attack.eps
    assert along.abs().min() > 0.999 and 0 < (along > 0).float().mean() < 1  # both ends are met
    best = x.flatten(1) + attack.eps * along.sign()[:, None] * direction
    torch.testing.assert_close(moved.flatten(1), best, atol=5e-3, rtol=0)


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("eps", [0.0, 1e-4, 0.4])
def test_it_stays_in_the_ball_and_the_box_and_never_at_the_start(norm: str, eps: float) -> None:
    x = torch.rand(30, 1, 8, 8).round(decimals=1)  # many pixels at 0 and 1
    kept = x.clone()
    attack = TRADES(eps, eps / 4, 10, norm=norm)
    moved = training.maximise(little(), x, attack, torch.Generator().manual_seed(0))
    size = flat_norm(moved - x).flatten() if norm == "l2" else (moved - x).abs().flatten(1).amax(1)
    assert size.max() <= eps * (1 + 1e-5) + 1e-7
    assert moved.min() >= 0 and moved.max() <= 1 and torch.equal(x, kept) and not moved.requires_grad
    if eps == 0.4:
        assert size.min() > 0.5 * eps  # from x itself, where the gradient is zero, nothing would move


def test_it_finds_more_than_chance_and_draws_from_its_generator_only() -> None:
    model, attack = little(), TRADES(0.5, 0.125)
    x = torch.rand(50, 1, 8, 8)
    state = torch.get_rng_state()
    moved, again = (
        training.maximise(model, x, attack, torch.Generator().manual_seed(seed)) for seed in (4, 4)
    )
    other = training.maximise(model, x, attack, torch.Generator().manual_seed(5))
    assert torch.equal(moved, again) and not torch.equal(moved, other)
    assert torch.equal(torch.get_rng_state(), state)
    chance = random_start(x, attack.eps, "l2", torch.Generator().manual_seed(1))
    with torch.no_grad():
        reference = model(x).log_softmax(1)
        found, drawn = (training.divergence(model(points), reference) for points in (moved, chance))
    assert (found > drawn).all() and found.mean() > 5 * drawn.mean()
    assert all(parameter.grad is None for parameter in model.parameters())


# --- training ---


def test_a_step_of_trades_is_the_formula() -> None:
    """The slow twin: one batch by hand."""
    images, attack = random_images(16), TRADES(0.8, 0.2, 5, beta=3.0)
    model, twin = little(), little()
    (log,) = train(model, images, replace(QUICK, attack=attack, weight_decay=0.0))
    generator = torch.Generator().manual_seed(QUICK.seed)
    order = torch.randperm(16, generator=generator).sort().values
    x, labels = images.images[order], images.labels[order]
    moved = training.maximise(twin, x, attack, generator)
    p, q = twin(x).softmax(1), twin(moved).softmax(1)
    loss = F.cross_entropy(twin(x), labels) + 3.0 * (p * (p.log() - q.log())).sum(1).mean()
    loss.backward()
    assert log.loss == pytest.approx(loss.item(), rel=1e-5)
    assert loss.item() > F.cross_entropy(twin(x), labels).item() + 0.005
    for name, parameter in twin.named_parameters():
        expected = parameter - QUICK.lr * parameter.grad
        torch.testing.assert_close(model.state_dict()[name], expected.detach(), atol=1e-6, rtol=1e-4)


def test_without_its_second_term_trades_is_benign_training() -> None:
    images, results = random_images(40), []
    for attack in (None, TRADES(0.5, 0.1, 2, beta=0.0), TRADES(0.5, 0.1, 2, beta=1.0)):
        model = little()
        train(model, images, replace(QUICK, attack=attack))
        results.append(snapshot(model))
    assert changed(results[0], results[1]) == []
    assert len(changed(results[0], results[2])) == 4


@pytest.mark.parametrize("attack", [PGD(0.3, 0.1, 4), PGDL2(0.6, 0.2, 4), TRADES(0.6, 0.2, 4)])
def test_training_and_its_probe_use_norm_and_budget(
    attack: PGD | PGDL2 | TRADES, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, float]] = []

    def watch(view: nn.Module, x: torch.Tensor, *args: object, **options: object) -> torch.Tensor:
        assert (options["eps"], options["step"], options["steps"]) == (attack.eps, attack.step, attack.steps)
        moved = ascend(view, x, *args, **options)
        for name, size in (("l2", flat_norm(moved - x)), ("linf", (moved - x).abs())):
            seen.append((name, size.max().item())) if name == options["norm"] else None
        return moved

    monkeypatch.setattr(loop, "ascend", watch)
    monkeypatch.setattr(trades, "ascend", watch)
    train(little(), random_images(40), replace(QUICK, attack=attack))
    assert [name for name, _ in seen] == [attack.norm] * 3  # two batches and the probe
    assert all(0.9 * attack.eps < size <= attack.eps * (1 + 1e-5) for _, size in seen)  # the box may cut


@pytest.mark.parametrize("attack", [PGDL2(0.9, 0.3, 5), TRADES(0.9, 0.3, 5)])
def test_training_makes_robust_in_l2(attack: PGDL2 | TRADES) -> None:
    threes = data.load("digits", "train", classes=(3, 7), size=16)
    accuracy = []
    for inner in (None, attack):
        model = models.create("fcnn", 2, threes.shape, width=30, seed=0)
        train(model, threes, training.short(16, lr=0.05, batch_size=32, augment=False, attack=inner))
        x, labels, options = threes.images, threes.labels, {"eps": 0.9, "step": 0.225, "steps": 20}
        moved = ascend(model.eval(), x, labels, norm="l2", **options)
        accuracy.append(float((model(moved).argmax(1) == labels).float().mean()))
    assert accuracy[1] > accuracy[0] + 0.05 and accuracy[1] > 0.75


@pytest.mark.parametrize("attack", [PGDL2(0.5, 0.2, 2), TRADES(0.5, 0.2, 2)])
def test_a_stopped_run_goes_on_to_the_bit(attack: PGDL2 | TRADES, tmp_path: Path) -> None:
    images, config = random_images(48), replace(QUICK, epochs=3, augment=True, attack=attack)
    whole, path = little(), tmp_path / "c.safetensors"
    train(whole, images, config)
    running = epochs(little(), images, config, checkpoint=path)
    next(running)
    running.close()
    resumed = little(seed=1)
    assert len(list(epochs(resumed, images, config, checkpoint=path))) == 2
    assert changed(snapshot(whole), resumed.state_dict()) == []


def test_a_checkpoint_of_one_attack_is_refused_by_another_of_the_same_numbers(tmp_path: Path) -> None:
    images, attacks = random_images(48), (PGD(0.5, 0.2, 2), PGDL2(0.5, 0.2, 2), TRADES(0.5, 0.2, 2))
    for i, attack in enumerate(attacks):
        path = tmp_path / f"{i}.safetensors"
        train(little(), images, replace(QUICK, attack=attack), checkpoint=path)
        for other in attacks:
            config = replace(QUICK, attack=other)
            if other is attack:
                assert len(train(little(), images, config, checkpoint=path)) == 1
            else:
                with pytest.raises(ValueError, match="another configuration"):
                    train(little(), images, config, checkpoint=path)


# --- configurations ---


def test_pgd_keeps_its_fields() -> None:
    """Stored runs and checkpoints are known by them; its norm is no field."""
    assert asdict(PGD()) == {"eps": 8 / 255, "step": 2 / 255, "steps": 10} and PGD().norm == "linf"
    assert asdict(PGDL2(2, 0.5)) == {"eps": 2, "step": 0.5, "steps": 10, "norm": "l2"}


def test_trades_is_trained_in_float32() -> None:
    attack = TRADES(2.0, 0.5)
    assert replace(QUICK, precision="auto", attack=attack).dtype == torch.float32
    with pytest.raises(ValueError, match="use precision='float32'"):
        replace(QUICK, precision="bfloat16", attack=attack)
    assert replace(QUICK, precision="bfloat16", attack=PGDL2(2.0, 0.5)).dtype == torch.bfloat16


@pytest.mark.parametrize("kind", [PGDL2, TRADES])
@pytest.mark.parametrize(
    "bad", [{"eps": -1.0}, {"eps": math.nan}, {"eps": math.inf}, {"step": -0.1}, {"steps": 0}]
)
def test_impossible_budgets_are_refused(kind: type, bad: dict) -> None:
    with pytest.raises(ValueError, match=r"in pixels of \[0, 1\], and steps at least 1; got"):
        kind(**{"eps": 1.0, "step": 0.25, **bad})


@pytest.mark.parametrize("beta", [-1.0, math.inf, math.nan])
def test_impossible_betas_and_norms_are_refused(beta: float) -> None:
    with pytest.raises(ValueError, match="beta must be finite and not negative"):
        TRADES(1.0, 0.25, beta=beta)
    with pytest.raises(ValueError, match="known: linf, l2"):
        TRADES(1.0, 0.25, norm="l1")
