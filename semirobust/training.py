"""Standard and adversarial training by the recipe of arXiv 2307.03803 (section 3.1), resumable to the bit.

``PAPER`` is the printed recipe: SGD, 120 epochs, rate 0.01 divided by 10 at epochs 40 and 80, weight decay
5e-4, batch 512; adversarial training with PGD-10, eps 8/255, step 2/255. Two things are the authors' code's
and not the paper's: momentum 0.9 and random crop and flip. ``short`` is a one-cycle schedule for machines
without an accelerator.

Where this differs from a plain loop:
1. Inner attacks run on the folded view of the model in evaluation mode (torchattacks does the latter too), in
   bfloat16 where the processor has it; the training step itself uses the same precision by autocast.
2. A checkpoint holds weights, momentum, generator and log, and is written whole at the end of each epoch: a
   run that was killed and started again ends with the weights of an uninterrupted one (same machine, same
   number of threads).
3. PGD accuracy on a fixed training batch is logged each epoch: catastrophic overfitting shows as its fall to
   zero.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from semirobust import storage
from semirobust.ascent import ascend, random_start
from semirobust.data import Images
from semirobust.layers import preserve
from semirobust.view import AttackView, fast_dtype

PROBE_SIZE = 256  # images of the fixed training batch on which PGD accuracy is logged


@dataclass(frozen=True)
class PGD:
    """The inner attack, in pixels of [0, 1], l-infinity."""

    eps: float = 8 / 255
    step: float = 2 / 255
    steps: int = 10


@dataclass(frozen=True)
class TrainConfig:
    """One training run. ``schedule``: "steps" (rate / 10 at each milestone) or "one_cycle" (up to ``lr``,
    then to zero).
    """

    epochs: int = 120
    lr: float = 0.01
    schedule: str = "steps"
    milestones: tuple[int, ...] = (40, 80)
    batch_size: int = 512
    momentum: float = 0.9
    weight_decay: float = 5e-4
    augment: bool = True
    attack: PGD | None = None
    precision: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 2 or not 0 < self.lr < math.inf:
            raise ValueError(
                f"epochs must be at least 1, batch_size at least 2 and lr positive and finite; "
                f"got {self.epochs}, {self.batch_size} and {self.lr}"
            )
        if self.schedule not in ("steps", "one_cycle", "constant"):
            raise ValueError(f"unknown schedule {self.schedule!r}; known: steps, one_cycle, constant")
        if self.precision not in ("auto", "float32", "bfloat16"):
            raise ValueError(f"unknown precision {self.precision!r}; known: auto, float32, bfloat16")

    @property
    def dtype(self) -> torch.dtype:
        if self.precision == "auto":
            return torch.bfloat16 if torch.cuda.is_available() else fast_dtype()
        return getattr(torch, self.precision)


#: the printed recipe; ``replace(PAPER, attack=None)`` is its standard training
PAPER = TrainConfig(attack=PGD())


def short(epochs: int, *, lr: float = 0.1, batch_size: int = 128, **changes: Any) -> TrainConfig:
    """A one-cycle schedule: the rate rises linearly over the first 30 % of the steps and falls to zero."""
    return TrainConfig(
        epochs=epochs, lr=lr, batch_size=batch_size, schedule="one_cycle", milestones=(), **changes
    )


@dataclass(frozen=True)
class EpochLog:
    """What one epoch left: accuracies in [0, 1] (``train`` on the inputs trained on), mean loss in nats,
    seconds.
    """

    epoch: int
    loss: float
    train_accuracy: float
    probe_clean_accuracy: float
    probe_pgd_accuracy: float
    seconds: float


class TrainingDiverged(RuntimeError):
    """The loss became infinite or NaN."""


def learning_rate(config: TrainConfig, progress: float) -> float:
    """The rate at ``progress`` epochs (fractional) from the start."""
    if config.schedule == "constant":
        return config.lr
    if config.schedule == "steps":
        return config.lr * 0.1 ** sum(progress >= milestone for milestone in config.milestones)
    share, peak = progress / config.epochs, 0.3
    return config.lr * (share / peak if share < peak else (1 - share) / (1 - peak))


def train(
    model: nn.Module,
    images: Images,
    config: TrainConfig,
    *,
    checkpoint: Path | None = None,
    on_epoch: Callable[[EpochLog], object] = lambda log: None,
) -> list[EpochLog]:
    """Train ``model`` in place through all epochs; returns the log. See ``epochs``.

    ``on_epoch`` is called with the log of each epoch trained now.
    """
    logs = _read(checkpoint, config)[1] if checkpoint is not None and checkpoint.exists() else []
    for log in epochs(model, images, config, checkpoint=checkpoint):
        on_epoch(log)
        logs.append(log)
    return logs


def epochs(
    model: nn.Module, images: Images, config: TrainConfig, *, checkpoint: Path | None = None
) -> Iterator[EpochLog]:
    """Train ``model`` in place, yielding after each epoch (stop iterating to stop training).

    Only parameters that require a gradient are trained. With ``checkpoint`` (a .safetensors path) the state
    is written there after each epoch and, if it is there already, taken up from it: finished epochs are not
    yielded again. The model is in training mode while training and is left as found, but for what was learnt
    (and for channels_last as the layout of its weights in memory).

    Raises ``ValueError`` for labels out of range or a checkpoint of another configuration or network,
    ``TrainingDiverged`` for a loss or a weight that is not finite (the last good checkpoint stays),
    ``storage.CorruptFile`` for a damaged checkpoint; all but the loss before any step.
    """
    if len(images) < config.batch_size:
        raise ValueError(
            f"{len(images)} images are fewer than one batch of {config.batch_size}; lower batch_size"
        )
    device = next(model.parameters()).device
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not parameters:
        raise ValueError("no parameter requires a gradient: nothing to train")
    _check_labels(model, images, device)
    optimizer = torch.optim.SGD(
        parameters.values(), lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
    )
    generator = torch.Generator().manual_seed(config.seed)
    logs: list[EpochLog] = []
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a layout only: faster convolutions
    if checkpoint is not None and checkpoint.exists():
        tensors, logs = _read(checkpoint, config)
        _restore(checkpoint, tensors, model, parameters, optimizer, generator)
    modes = [(module, module.training) for module in model.modules()]
    view = AttackView(model, dtype=config.dtype)
    probe = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:PROBE_SIZE].sort().values
    try:
        for epoch in range(len(logs), config.epochs):
            started = time.perf_counter()
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                _seed_dropout(config.seed + 1_000_003 * (epoch + 1), device)
                loss, accuracy = _epoch(
                    model, view, images, config, optimizer, generator, epoch, device, checkpoint
                )
            if not _finite(model):
                raise _diverged(f"a weight is not finite after epoch {epoch + 1}", config, checkpoint)
            clean, attacked = _probe(model, view, images, probe, config, device)
            log = EpochLog(epoch + 1, loss, accuracy, clean, attacked, time.perf_counter() - started)
            logs.append(log)
            if checkpoint is not None:
                _save(checkpoint, model, parameters, optimizer, generator, config, logs)
            yield log
    finally:
        for module, training in modes:
            module.training = training
        optimizer.zero_grad(set_to_none=True)


def _check_labels(model: nn.Module, images: Images, device: torch.device) -> None:
    """Raises ``ValueError`` unless every label is the index of a logit."""
    with preserve(model), torch.no_grad():
        model.eval()
        classes = model(images.batch(slice(0, 1)).to(device)).shape[1]
    low, high = int(images.labels.min()), int(images.labels.max())
    if low < 0 or high >= classes:
        raise ValueError(
            f"labels must be in 0..{classes - 1} for a model with {classes} logits, got {low}..{high}"
        )


def _finite(model: nn.Module) -> bool:
    return all(bool(t.isfinite().all()) for t in model.state_dict().values() if t.is_floating_point())


def _diverged(what: str, config: TrainConfig, checkpoint: Path | None) -> TrainingDiverged:
    kept = checkpoint is not None and checkpoint.exists()
    where = f"the last good checkpoint is {checkpoint}" if kept else "there is no checkpoint yet"
    return TrainingDiverged(f"{what} ({where}): lower lr={config.lr}")


def _seed_dropout(seed: int, device: torch.device) -> None:
    """Dropout draws from the global generators only: the caller has forked them."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


def _epoch(
    model: nn.Module,
    view: AttackView,
    images: Images,
    config: TrainConfig,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    epoch: int,
    device: torch.device,
    checkpoint: Path | None,
) -> tuple[float, float]:
    """One pass over the training images: (mean loss in nats, accuracy on the inputs trained on)."""
    order = torch.randperm(len(images), generator=generator)
    batches = len(images) // config.batch_size  # the last, partial batch is left out
    total, correct = 0.0, 0
    for number in range(batches):
        index = order[number * config.batch_size : (number + 1) * config.batch_size].sort().values
        x, labels = images.batch(index), images.labels[index].to(device)
        if config.augment:
            x = crop_and_flip(x, generator)
        x = x.to(device)
        if config.attack is not None:
            view.refresh()
            start = random_start(x, config.attack.eps, "linf", generator)
            x = ascend(
                view,
                x,
                labels,
                eps=config.attack.eps,
                step=config.attack.step,
                steps=config.attack.steps,
                start=start,
            )
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, epoch + number / batches)
        model.train()
        x = x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.dtype == torch.bfloat16):
            logits = model(x)
        loss = F.cross_entropy(logits.float(), labels)
        value = float(loss.detach())
        if not math.isfinite(value):
            what = f"the loss is {value} in epoch {epoch + 1}, batch {number + 1}"
            raise _diverged(what, config, checkpoint)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        total += value
        correct += int((logits.detach().argmax(1) == labels).sum())
    return total / batches, correct / (batches * config.batch_size)


def crop_and_flip(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A random crop of each image padded by an eighth of its side, and a random horizontal flip where there
    are three channels.

    [N, C, H, W] -> the same shape. Grey images (digits, clothes with a left and a right) are not flipped.
    """
    n, channels, height, width = x.shape
    pad = max(1, height // 8)
    padded = F.pad(x, (pad,) * 4)
    rows = torch.randint(0, 2 * pad + 1, (n, 1), generator=generator) + torch.arange(height)  # [N, H]
    columns = torch.randint(0, 2 * pad + 1, (n, 1), generator=generator) + torch.arange(width)  # [N, W]
    if channels == 3:
        flip = torch.rand(n, 1, generator=generator) < 0.5
        columns = torch.where(flip, columns.flip(1), columns)
    each = torch.arange(n)[:, None, None]
    return (
        padded.permute(0, 2, 3, 1)[each, rows[:, :, None], columns[:, None, :]]
        .permute(0, 3, 1, 2)
        .contiguous()
    )


def _probe(
    model: nn.Module,
    view: AttackView,
    images: Images,
    index: torch.Tensor,
    config: TrainConfig,
    device: torch.device,
) -> tuple[float, float]:
    """(clean, PGD) accuracy on the fixed training batch; the attack is the one trained with, or PGD-10 at
    8/255.
    """
    attack = config.attack or PGD()
    x, labels = images.batch(index).to(device), images.labels[index].to(device)
    start = random_start(x, attack.eps, "linf", torch.Generator().manual_seed(0))
    x_adv = ascend(
        view.refresh(), x, labels, eps=attack.eps, step=attack.step, steps=attack.steps, start=start
    )
    with preserve(model), torch.no_grad():
        model.eval()
        clean, attacked = (float((model(batch).argmax(1) == labels).float().mean()) for batch in (x, x_adv))
    return clean, attacked


def _save(
    path: Path,
    model: nn.Module,
    parameters: dict[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    config: TrainConfig,
    logs: list[EpochLog],
) -> None:
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for name, parameter in parameters.items():
        momentum = optimizer.state[parameter].get("momentum_buffer")
        if momentum is not None:
            tensors[f"momentum.{name}"] = momentum
    tensors["generator"] = generator.get_state()
    storage.save_tensors(path, tensors, {"config": asdict(config), "logs": [asdict(log) for log in logs]})


def _read(path: Path, config: TrainConfig) -> tuple[dict[str, torch.Tensor], list[EpochLog]]:
    tensors, metadata = storage.load_tensors(path)
    if not {"config", "logs"} <= metadata.keys() or "generator" not in tensors:
        raise storage.CorruptFile(
            path, "it is no training checkpoint", "move it away, or choose another path"
        )
    if metadata["config"] != json.loads(storage.json_text(asdict(config))):
        raise ValueError(
            f"{path} belongs to another configuration, {metadata['config']}: "
            "move it away, or train with that one"
        )
    return tensors, [EpochLog(**log) for log in metadata["logs"]]


def _restore(
    path: Path,
    tensors: dict[str, torch.Tensor],
    model: nn.Module,
    parameters: dict[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
) -> None:
    state = {name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")}
    momenta = {
        name.removeprefix("momentum."): t for name, t in tensors.items() if name.startswith("momentum.")
    }
    own = {name: t.shape for name, t in model.state_dict().items()}
    if own != {name: t.shape for name, t in state.items()} or not momenta.keys() <= parameters.keys():
        raise ValueError(
            f"{path} belongs to another network, or to one with other parameters frozen: "
            "move it away, or train that one"
        )
    model.load_state_dict(state)
    for name, momentum in momenta.items():
        like = torch.empty_like(parameters[name])  # its layout too: another one may round differently
        optimizer.state[parameters[name]]["momentum_buffer"] = like.copy_(momentum)
    generator.set_state(tensors["generator"])
