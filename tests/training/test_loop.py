"""Training: it learns, it resumes to the bit after SIGKILL, it refuses what it cannot take up, it leaves no
trace.
"""

from __future__ import annotations

import copy
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch import nn

from semirobust import data, models, runs, training
from semirobust.attacks import ascend, random_start
from semirobust.layers import Split
from semirobust.training import (
    PAPER,
    PGD,
    TrainConfig,
    TrainingDiverged,
    crop_and_flip,
    epochs,
    learning_rate,
    loop,
    train,
)
from tests.cases import changed, one_thread, random_images, snapshot, tiny_network, warmed

QUICK = TrainConfig(
    epochs=3, lr=0.05, schedule="constant", batch_size=16, attack=PGD(0.05, 0.025, 2), precision="float32"
)


@pytest.fixture(autouse=True)
def single_thread() -> Iterator[None]:
    with one_thread():
        yield


def little(seed: int = 0) -> nn.Module:
    """A convolutional network with BatchNorm and dropout that trains in milliseconds."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 1),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Flatten(),
        nn.Linear(256, 10),
    )


# --- the recipe ---


def test_the_printed_recipe() -> None:
    assert asdict(PAPER) == {
        "epochs": 120,
        "lr": 0.01,
        "schedule": "steps",
        "milestones": (40, 80),
        "batch_size": 512,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "augment": True,
        "attack": {"eps": 8 / 255, "step": 2 / 255, "steps": 10},
        "precision": "auto",
        "seed": 0,
    }


@pytest.mark.parametrize(
    ("progress", "rate"),
    [(0, 0.01), (39, 0.01), (39.99, 0.01), (40, 0.001), (79.99, 0.001), (80, 0.0001), (119.9, 0.0001)],
)
def test_the_printed_rate_falls_tenfold_at_40_and_80(progress: float, rate: float) -> None:
    assert learning_rate(PAPER, progress) == pytest.approx(rate, rel=1e-12)


def test_one_cycle_rises_over_three_tenths_and_falls_to_zero() -> None:
    config = training.short(10, lr=0.2)
    assert config.schedule == "one_cycle" and config.batch_size == 128 and config.epochs == 10
    for progress, rate in [(0, 0), (1.5, 0.1), (3, 0.2), (6.5, 0.1), (10, 0)]:
        assert learning_rate(config, progress) == pytest.approx(rate, abs=1e-12)
    assert learning_rate(replace(config, schedule="constant"), 7.3) == 0.2


def test_the_rates_of_the_schedule_are_the_ones_used(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[float] = []
    step = torch.optim.SGD.step

    def watch(self: torch.optim.SGD, *args: object) -> object:
        used.append(self.param_groups[0]["lr"])
        assert self.param_groups[0]["momentum"] == 0.7 and self.param_groups[0]["weight_decay"] == 0.02
        return step(self, *args)

    monkeypatch.setattr(torch.optim.SGD, "step", watch)
    config = replace(
        QUICK, epochs=4, schedule="steps", milestones=(1, 3), attack=None, momentum=0.7, weight_decay=0.02
    )
    train(little(), random_images(40), config)
    assert used == pytest.approx(
        [0.05] * 2 + [0.005] * 4 + [0.0005] * 2
    )  # 2 whole batches of 16 in each epoch


# --- learning ---


def test_a_small_network_learns_the_digits() -> None:
    model = models.create("resnet18", 10, (1, 8, 8), width=8, seed=0)
    digits = data.load("digits", "train")
    config = training.short(6, lr=0.1, batch_size=64, augment=False)
    logs = train(model, digits, config)
    assert [log.epoch for log in logs] == [1, 2, 3, 4, 5, 6]
    assert logs[-1].train_accuracy > 0.9 > logs[0].train_accuracy
    assert logs[-1].loss < 0.3 < logs[0].loss
    assert all(log.seconds > 0 for log in logs)
    test = data.load("digits", "test")
    with torch.no_grad():
        assert (model.eval()(test.images).argmax(1) == test.labels).float().mean() > 0.9


def test_a_single_pixel_under_a_strided_convolution_is_trained_in_float32() -> None:
    """There torch's bfloat16 weight gradients are wrong on the CPU."""
    digits, weights = data.load("digits", "train", limit=128), []
    for precision in ("auto", "float32"):
        model = models.create("resnet18", 10, (1, 8, 8), width=2, seed=0)
        train(model, digits, training.short(1, batch_size=64, precision=precision))
        weights.append(model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    with pytest.raises(ValueError, match="on a single pixel: use larger images"):
        train(model, digits, training.short(1, batch_size=64, precision="bfloat16"))


@pytest.mark.parametrize("channels", [2, 3, 6, 16])
def test_a_step_follows_the_gradient_of_float64(channels: int) -> None:
    """In channels_last oneDNN corrupts memory behind a strided 1x1 convolution of few channels."""
    images = random_images(64, (1, 16, 16))
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, channels, 3, padding=1),
        nn.Tanh(),  # smooth: rounding cannot switch a unit off
        nn.Conv2d(channels, 8, 1, stride=2),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(512, 10),
    )
    before = copy.deepcopy(model).double()
    nn.functional.cross_entropy(before(images.images.double()), images.labels).backward()
    train(model, images, replace(QUICK, epochs=1, batch_size=64, momentum=0.0, attack=None, augment=False))
    for ours, theirs in zip(model.parameters(), before.parameters(), strict=True):
        assert theirs.grad is not None
        step = QUICK.lr * (theirs.grad + QUICK.weight_decay * theirs)
        torch.testing.assert_close(theirs - ours.double(), step, rtol=1e-3, atol=1e-6)


def test_adversarial_training_makes_robust() -> None:
    attack = PGD(0.15, 0.05, 4)
    digits = data.load("digits", "train", limit=640)
    robust_accuracy = {}
    for name, inner in (("standard", None), ("robust", attack)):
        model = warmed(little(), (1, 8, 8))
        train(model, digits, training.short(6, lr=0.1, batch_size=32, augment=False, attack=inner))
        model.eval()
        x = digits.images
        start = random_start(x, attack.eps, "linf", torch.Generator().manual_seed(1))
        x_adv = ascend(model, x, digits.labels, eps=attack.eps, step=attack.step, steps=10, start=start)
        robust_accuracy[name] = float((model(x_adv).argmax(1) == digits.labels).float().mean())
    assert robust_accuracy["robust"] > robust_accuracy["standard"] + 0.1


def test_the_probe_is_accuracy_on_a_fixed_part_of_the_training_images() -> None:
    images, config = (
        data.load("digits", "train", limit=300),
        replace(QUICK, epochs=8, lr=0.1, augment=False, attack=PGD(0.1, 0.05, 3)),
    )
    model = little()
    logs = train(model, images, config)
    index = torch.randperm(300, generator=torch.Generator().manual_seed(0))[: loop.PROBE_SIZE]
    model.eval()
    x, labels = images.images[index], images.labels[index]
    clean = (model(x).argmax(1) == labels).float().mean().item()
    assert logs[-1].probe_clean_accuracy == pytest.approx(clean, abs=1e-6)
    assert clean > 0.3 and 0 <= logs[-1].probe_pgd_accuracy < clean - 0.05
    again = train(little(), images, config)
    assert [replace(log, seconds=0) for log in again] == [replace(log, seconds=0) for log in logs]
    (harmless,) = train(little(), images, replace(config, epochs=1, attack=PGD(0.0, 0.0, 1)))
    assert harmless.probe_pgd_accuracy == harmless.probe_clean_accuracy


def test_every_attack_is_on_the_weights_of_the_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    model, attacked = little(), []

    def watch(view: nn.Module, x: torch.Tensor, labels: torch.Tensor, **options: object) -> torch.Tensor:
        now = copy.deepcopy(model).eval()
        torch.testing.assert_close(view(x), now(x), atol=1e-4, rtol=1e-4)
        x_adv = ascend(view, x, labels, **options)
        attacked.append((x_adv - x).abs().max())
        return x_adv

    monkeypatch.setattr(loop, "ascend", watch)
    train(model, random_images(40), replace(QUICK, lr=0.3))
    assert len(attacked) == 3 * (2 + 1)  # two batches and the probe in each of three epochs
    assert torch.tensor(attacked).tolist() == pytest.approx([0.05] * 9, abs=1e-6)


def test_bfloat16_training_runs_close_to_float32() -> None:
    digits = data.load("digits", "train", limit=320)
    config = training.short(3, lr=0.1, batch_size=32, augment=False)
    losses = [
        [log.loss for log in train(little(), digits, replace(config, precision=precision))]
        for precision in ("float32", "bfloat16")
    ]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.1)


# --- left as found ---


def test_training_leaves_modes_gradients_and_global_generators_alone() -> None:
    model = tiny_network().train()
    model.get_submodule("bn1").eval()
    modes = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    running = epochs(model, random_images(40), QUICK)
    next(running)
    assert torch.equal(torch.get_rng_state(), state)
    running.close()  # the caller has seen enough
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())
    train(little(), random_images(40), replace(QUICK, attack=None))
    torch.set_rng_state(state)
    expected = torch.rand(3)
    torch.set_rng_state(state)
    model = warmed(nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Dropout(0.5)), (1, 8, 8))
    torch.set_rng_state(state)
    train(model, random_images(40), QUICK)
    assert torch.equal(torch.rand(3), expected)
    assert not model.training


def test_frozen_parameters_do_not_change() -> None:
    model = tiny_network()
    split = Split(model, 4)
    split.freeze_a()
    before = snapshot(model)
    train(model, random_images(40), QUICK)
    assert set(changed(before, model.state_dict())) == set(split.names_b)


def test_the_seed_decides_everything() -> None:
    images = random_images(40)
    results = []
    for noise, seed in ((1, 0), (2, 0), (3, 1)):
        model = little()
        torch.manual_seed(noise)
        train(model, images, replace(QUICK, seed=seed))
        results.append(snapshot(model))
    assert changed(results[0], results[1]) == []
    assert "0.weight" in changed(results[0], results[2])


# --- augmentation ---


def test_crops_are_shifts_padded_with_black() -> None:
    x = torch.arange(1, 257, dtype=torch.float32).view(1, 1, 16, 16).expand(400, 1, 16, 16) / 256
    out = crop_and_flip(x, torch.Generator().manual_seed(0))
    assert out.shape == x.shape and out.dtype == x.dtype
    padded = nn.functional.pad(x[:1], (2,) * 4)[0, 0]
    windows = {
        padded[i : i + 16, j : j + 16].contiguous().numpy().tobytes() for i in range(5) for j in range(5)
    }
    assert {image.numpy().tobytes() for image in out[:, 0]} == windows  # all 25 and nothing else: no flip


def test_colour_images_are_flipped_half_of_the_time() -> None:
    x = torch.rand(1, 3, 8, 12).expand(2000, 3, 8, 12)
    out = crop_and_flip(x, torch.Generator().manual_seed(0))
    padded = nn.functional.pad(x[:1], (1,) * 4)[0]
    windows = [padded[:, i : i + 8, j : j + 12] for i in range(3) for j in range(3)]
    straight = {window.contiguous().numpy().tobytes() for window in windows}
    flipped = {window.flip(2).contiguous().numpy().tobytes() for window in windows}
    found = [image.contiguous().numpy().tobytes() for image in out]
    assert set(found) == straight | flipped
    assert sum(image in flipped for image in found) == pytest.approx(1000, abs=100)


def test_augmentation_draws_from_its_generator_only() -> None:
    x, state = torch.rand(6, 3, 8, 8), torch.get_rng_state()
    kept = x.clone()
    first, second = (crop_and_flip(x, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second) and torch.equal(torch.get_rng_state(), state) and torch.equal(x, kept)


# --- checkpoints ---


def test_a_run_stopped_between_epochs_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    images, config = random_images(80), replace(QUICK, epochs=4, schedule="one_cycle", augment=True)
    path = tmp_path / "c.safetensors"
    whole, parts = tiny_network(), tiny_network()
    expected = train(whole, images, config)
    running = epochs(parts, images, config, checkpoint=path)
    first = [next(running), next(running)]
    running.close()
    resumed = tiny_network(seed=5)  # its weights are replaced by the checkpoint's
    torch.rand(5)
    rest = list(epochs(resumed, images, config, checkpoint=path))
    assert [log.epoch for log in rest] == [3, 4]
    assert [replace(log, seconds=0) for log in [*first, *rest]] == [
        replace(log, seconds=0) for log in expected
    ]
    assert changed(snapshot(whole), resumed.state_dict()) == []
    finished = tiny_network(seed=6)
    logs = train(finished, images, config, checkpoint=path)  # nothing left to do
    assert logs == [*first, *rest] and changed(snapshot(whole), finished.state_dict()) == []


KILLED = """
import os, random, signal, sys, time
from dataclasses import replace
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path.insert(0, {root!r})
from tests.cases import random_images
from semirobust.runs import storage
from tests.training.test_loop import QUICK, little
from semirobust.training import train

folder, config = Path({folder!r}), replace(QUICK, epochs=5, schedule="one_cycle")

def child(name, die=None):
    pid = os.fork()
    if pid:
        return pid
    try:
        if die is not None:
            real, seen = os.replace, []
            def replace_and_die(source, target):
                seen.append(target)
                if len(seen) == die[0] and die[1] == "before":
                    os.kill(os.getpid(), signal.SIGKILL)
                real(source, target)
                if len(seen) == die[0]:
                    os.kill(os.getpid(), signal.SIGKILL)
            storage.os.replace = replace_and_die
        network = little()
        torch.manual_seed(os.getpid())  # the global generator must not matter
        train(network, random_images(96), config, checkpoint=folder / f"{{name}}.safetensors")
        os._exit(0)
    finally:
        os._exit(1)

def ended(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

train(little(), random_images(16), replace(config, epochs=1))  # torch imports much at its first step
started = time.monotonic()
assert ended(child("whole")) == 0
took = time.monotonic() - started
for number, when in ((1, "before"), (1, "after"), (2, "before")):
    assert ended(child("at_the_write", (number, when))) == -signal.SIGKILL
assert ended(child("at_the_write")) == 0
rng, kills = random.Random({seed}), 0
for _ in range(20):
    pid = child("anywhere")
    time.sleep(rng.uniform(0.1, 0.7) * took)
    os.kill(pid, signal.SIGKILL)
    status = ended(pid)
    kills += status == -signal.SIGKILL
    if kills == 6 or (status == 0 and kills):
        break
    if status == 0:  # it ended before the first kill (timed on a busier machine): again, earlier
        (folder / "anywhere.safetensors").unlink()
        took /= 2
assert ended(child("anywhere")) == 0
print(kills, took)
"""


def test_killed_at_any_moment_it_ends_with_the_same_weights(tmp_path: Path) -> None:
    code = KILLED.format(root=str(Path(__file__).parents[2]), folder=str(tmp_path), seed=0)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) >= 1
    expected, reference = runs.load_tensors(tmp_path / "whole.safetensors")
    assert len(reference["logs"]) == 5
    for name in ("at_the_write", "anywhere"):
        tensors, metadata = runs.load_tensors(tmp_path / f"{name}.safetensors")
        assert changed(expected, tensors) == []  # weights, statistics, momentum, generator
        for log, wanted in zip(metadata["logs"], reference["logs"], strict=True):
            assert {**log, "seconds": 0} == {**wanted, "seconds": 0}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """One epoch of three."""
    path = tmp_path / "c.safetensors"
    next(epochs(little(), random_images(40), QUICK, checkpoint=path))
    return path


def test_a_checkpoint_holds_all_that_a_run_needs(checkpoint: Path) -> None:
    tensors, metadata = runs.load_tensors(checkpoint)
    names = list(little().state_dict())
    trained = [name for name, _ in little().named_parameters()]
    assert set(tensors) == {f"model.{n}" for n in names} | {f"momentum.{n}" for n in trained} | {"generator"}
    assert metadata["config"] == json.loads(json.dumps(asdict(QUICK))) and len(metadata["logs"]) == 1


@pytest.mark.parametrize("change", [{"lr": 0.06}, {"attack": None}, {"seed": 1}, {"epochs": 4}])
def test_a_checkpoint_of_another_configuration_is_refused(checkpoint: Path, change: dict) -> None:
    model, content = little(1), checkpoint.read_bytes()
    before = snapshot(model)
    with pytest.raises(ValueError, match=r"another configuration.*move it away") as caught:
        train(model, random_images(40), replace(QUICK, **change), checkpoint=checkpoint)
    assert str(checkpoint) in str(caught.value)
    assert changed(before, model.state_dict()) == [] and checkpoint.read_bytes() == content


def test_a_checkpoint_of_another_network_is_refused_before_anything_is_copied(checkpoint: Path) -> None:
    wider = little(1)
    wider[7] = nn.Linear(256, 11)
    frozen = little(1)
    frozen[0].weight.requires_grad_(False)
    for model in (wider, frozen, tiny_network()):
        before = snapshot(model)
        with pytest.raises(ValueError, match="another network"):
            train(model, random_images(40), QUICK, checkpoint=checkpoint)
        assert changed(before, model.state_dict()) == []


@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped", "text"])
def test_a_damaged_checkpoint_is_reported_never_used(checkpoint: Path, damage: str) -> None:
    content = bytearray(checkpoint.read_bytes())
    if damage == "flipped":
        content[-9] ^= 4
    checkpoint.write_bytes(
        {"truncated": bytes(content[:-3]), "empty": b"", "flipped": bytes(content), "text": b"hello" * 99}[
            damage
        ]
    )
    model = little(1)
    before = snapshot(model)
    with pytest.raises(runs.CorruptFile) as caught:
        train(model, random_images(40), QUICK, checkpoint=checkpoint)
    assert caught.value.path == checkpoint
    assert changed(before, model.state_dict()) == []


def test_tensors_that_are_no_checkpoint_are_refused(tmp_path: Path) -> None:
    path = runs.save_tensors(tmp_path / "weights.safetensors", little().state_dict())
    with pytest.raises(runs.CorruptFile, match="no training checkpoint"):
        train(little(), random_images(40), QUICK, checkpoint=path)


# --- divergence ---


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    path, model = tmp_path / "c.safetensors", little().eval()
    running = epochs(model, random_images(40), QUICK, checkpoint=path)
    next(running)
    content = path.read_bytes()
    model[7].bias.data[3] = math.nan
    with pytest.raises(TrainingDiverged, match=r"nan in epoch 2, batch 1 .*c\.safetensors.*lower lr=0\.05"):
        next(running)
    assert path.read_bytes() == content
    assert not model.training and all(parameter.grad is None for parameter in model.parameters())
    resumed = train(little(), random_images(40), QUICK, checkpoint=path)
    assert len(resumed) == 3 and all(math.isfinite(log.loss) for log in resumed)


def test_a_rate_that_is_too_high_is_reported(tmp_path: Path) -> None:
    with pytest.raises(TrainingDiverged, match=r"no checkpoint yet.*lower lr=1e\+30"):
        train(little(), random_images(40), replace(QUICK, lr=1e30), checkpoint=tmp_path / "c.safetensors")
    assert not (tmp_path / "c.safetensors").exists()


def test_weights_that_overflow_in_the_last_step_are_not_saved(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    config = replace(QUICK, lr=1e38, weight_decay=1e4, batch_size=40, attack=None)  # one step in an epoch
    with pytest.raises(TrainingDiverged, match="a weight is not finite after epoch 1"):
        train(little(), random_images(40), config, checkpoint=path)
    assert not path.exists()


# --- bad input ---


@pytest.mark.parametrize(
    "change",
    [{"epochs": 0}, {"batch_size": 1}, {"lr": 0.0}, {"lr": -1.0}, {"lr": math.nan}, {"lr": math.inf}],
)
def test_impossible_configurations(change: dict) -> None:
    with pytest.raises(ValueError, match=f"got .*{next(iter(change.values()))}"):
        replace(QUICK, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schedule": "cosine"}, "'cosine'; known: steps, one_cycle, constant"),
        ({"precision": "float16"}, "'float16'; known: auto, float32, bfloat16"),
    ],
)
def test_unknown_names_list_the_known_ones(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(QUICK, **change)


def test_impossible_requests_are_refused_before_any_step() -> None:
    model = little()
    before = snapshot(model)
    with pytest.raises(ValueError, match="10 images are fewer than one batch of 16; lower batch_size"):
        train(model, random_images(10), QUICK)
    with pytest.raises(ValueError, match=r"labels must be in 0\.\.9 for a model with 10 logits, got 0\.\.10"):
        train(model, random_images(200, classes=11), QUICK)
    negative = random_images(40)
    negative.labels[3] = -100  # which torch's loss would silently leave out
    with pytest.raises(ValueError, match=r"got -100\.\."):
        train(model, negative, QUICK)
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="nothing to train"):
        train(model, random_images(40), QUICK)
    assert changed(before, model.state_dict()) == []
