"""Standard and adversarial training by the recipe of arXiv 2307.03803 (`recipe`), resumable to the bit.

The inner attack is PGD in l-infinity (as in the paper) or in l2, or the inner maximisation of TRADES
(`trades`). `crop_and_flip` augments the training images.

Where this differs from a plain loop:
1. Inner attacks run on the folded view of the model in evaluation mode (torchattacks does the latter too), in
   bfloat16 where the processor has it; the training step itself uses the same precision by autocast.
2. A checkpoint holds weights, momentum, generator and log, and is written whole at the end of each epoch: a
   run that was killed and started again ends with the weights of an uninterrupted one (same machine, same
   number of threads).
3. PGD accuracy on a fixed training batch is logged each epoch: if it falls to zero, catastrophic overfitting
   has set in.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from semirobust.attacks import ascend, random_start
from semirobust.data import Images
from semirobust.layers import AttackView, preserve
from semirobust.training import trades
from semirobust.training.checkpoint import EpochLog, State, load_weights, read
from semirobust.training.recipe import PGD, TRADES, Attack, TrainConfig, learning_rate

PROBE_SIZE = 256  # images of the fixed training batch on which PGD accuracy is logged


class TrainingDiverged(RuntimeError):
    """The loss became infinite or NaN."""


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
    logs = read(checkpoint, config)[1] if checkpoint is not None and checkpoint.exists() else []
    for log in epochs(model, images, config, checkpoint=checkpoint):
        on_epoch(log)
        logs.append(log)
    return logs


def resumed(model: nn.Module, config: TrainConfig, checkpoint: Path | None) -> int:
    """How many epochs of ``config`` the checkpoint holds (0 where there is none); ``model`` takes its
    weights. Errors as ``epochs``."""
    if checkpoint is None or not checkpoint.exists():
        return 0
    tensors, logs = read(checkpoint, config)
    load_weights(model, checkpoint, tensors)
    return len(logs)


def epochs(
    model: nn.Module, images: Images, config: TrainConfig, *, checkpoint: Path | None = None
) -> Iterator[EpochLog]:
    """Train ``model`` in place, yielding after each epoch (stop iterating to stop training).

    Only parameters that require a gradient are trained. With ``checkpoint`` (a .safetensors path) the state
    is written there after each epoch. If the file exists already, training resumes from it, and finished
    epochs are not yielded again. The model is in training mode while training. Afterwards its mode is as
    before; only what was learnt has changed (and the memory layout of its weights: channels_last, where that
    is safe).

    Raises ``ValueError`` for labels out of range or a checkpoint of another configuration or network,
    ``TrainingDiverged`` for a loss or a weight that is not finite (the last good checkpoint stays),
    ``runs.CorruptFile`` for a damaged checkpoint. All but ``TrainingDiverged`` are raised before any step.
    """
    if len(images) < config.batch_size:
        raise ValueError(
            f"{len(images)} images are fewer than one batch of {config.batch_size}; lower batch_size"
        )
    device = next(model.parameters()).device
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not parameters:
        raise ValueError("no parameter requires a gradient: nothing to train")
    dtype = _check(model, images, config, device)
    optimizer = torch.optim.SGD(
        parameters.values(), lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
    )
    state = State(model, parameters, optimizer, torch.Generator().manual_seed(config.seed))
    logs: list[EpochLog] = []
    layout = _layout(model, device, dtype)
    model.to(memory_format=layout)  # type: ignore[call-overload]
    if checkpoint is not None and checkpoint.exists():
        tensors, logs = read(checkpoint, config)
        state.restore(checkpoint, tensors)
    modes = [(module, module.training) for module in model.modules()]
    view = AttackView(model, dtype=dtype)
    probe = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:PROBE_SIZE].sort().values
    try:
        for epoch in range(len(logs), config.epochs):
            started = time.perf_counter()
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                _seed_dropout(config.seed + 1_000_003 * (epoch + 1), device)
                loss, accuracy = _epoch(state, view, images, config, epoch, layout, checkpoint)
            if not _finite(model):
                raise _diverged(f"a weight is not finite after epoch {epoch + 1}", config, checkpoint)
            clean, attacked = _probe(model, view, images, probe, config, device)
            log = EpochLog(epoch + 1, loss, accuracy, clean, attacked, time.perf_counter() - started)
            logs.append(log)
            if checkpoint is not None:
                state.save(checkpoint, config, logs)
            yield log
    finally:
        for module, training in modes:
            module.training = training
        optimizer.zero_grad(set_to_none=True)


def _check(model: nn.Module, images: Images, config: TrainConfig, device: torch.device) -> torch.dtype:
    """The precision to train in; raises ``ValueError`` unless every label is the index of a logit.

    On the CPU, torch 2.13 gives wrong bfloat16 weight gradients for a padded convolution of stride 2 that
    sees a single pixel (8 x 8 images reach one in ResNet-18): such a model is trained in float32, or refused
    where bfloat16 was asked for by name.
    """
    single: list[str] = []

    def watch(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if isinstance(module, nn.Conv2d) and max(module.stride) > 1 and inputs[0].shape[-2:] == (1, 1):
            single.append(f"{tuple(module.weight.shape)} of stride {module.stride}")

    handles = [module.register_forward_pre_hook(watch) for module in model.modules()]
    try:
        with preserve(model), torch.no_grad():
            model.eval()
            classes = model(images.batch(slice(0, 1)).to(device)).shape[1]
    finally:
        for handle in handles:
            handle.remove()
    low, high = int(images.labels.min()), int(images.labels.max())
    if low < 0 or high >= classes:
        raise ValueError(
            f"labels must be in 0..{classes - 1} for a model with {classes} logits, got {low}..{high}"
        )
    if config.dtype != torch.bfloat16 or device.type != "cpu" or not single:
        return config.dtype
    if config.precision == "bfloat16":
        raise ValueError(
            f"torch's bfloat16 weight gradients are wrong on the CPU for a convolution {single[0]} on a "
            "single pixel: use larger images or precision='float32'"
        )
    return torch.float32


def _layout(model: nn.Module, device: torch.device, dtype: torch.dtype) -> torch.memory_format:
    """channels_last, in which convolutions are faster, unless it is unsafe.

    In float32 on the CPU, oneDNN 3.12 (in torch 2.13) writes the weight gradient of a strided 1x1 convolution
    past its buffer if a channels_last input has fewer channels than a vector register holds numbers, at most
    16 (uxlfoundation/oneDNN issue 6035): wrong gradients or a crash, in the shortcuts of a narrow ResNet.
    """
    unsafe = (device.type, dtype) == ("cpu", torch.float32) and any(
        isinstance(module, nn.Conv2d)
        and module.kernel_size == (1, 1)
        and max(module.stride) > 1
        and module.in_channels // module.groups < 16
        for module in model.modules()
    )
    return torch.contiguous_format if unsafe else torch.channels_last


def _finite(model: nn.Module) -> bool:
    return all(bool(t.isfinite().all()) for t in model.state_dict().values() if t.is_floating_point())


def _diverged(what: str, config: TrainConfig, checkpoint: Path | None) -> TrainingDiverged:
    kept = checkpoint is not None and checkpoint.exists()
    where = f"the last good checkpoint is {checkpoint}" if kept else "there is no checkpoint yet"
    return TrainingDiverged(f"{what} ({where}): lower lr={config.lr}")


def _seed_dropout(seed: int, device: torch.device) -> None:
    """Seeds the global generators, the only ones that dropout draws from; the caller has forked them."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


def _epoch(
    state: State,
    view: AttackView,
    images: Images,
    config: TrainConfig,
    epoch: int,
    layout: torch.memory_format,
    checkpoint: Path | None,
) -> tuple[float, float]:
    """One pass over the training images: (mean loss in nats, accuracy on the inputs trained on)."""
    model, optimizer, generator = state.model, state.optimizer, state.generator
    device = next(model.parameters()).device
    order = torch.randperm(len(images), generator=generator)
    batches = len(images) // config.batch_size  # the last, partial batch is left out
    total, correct = 0.0, 0
    for number in range(batches):
        index = order[number * config.batch_size : (number + 1) * config.batch_size].sort().values
        x, labels = images.batch(index), images.labels[index].to(device)
        if config.augment:
            x = crop_and_flip(x, generator)
        x = x.to(device)
        beside = None
        if isinstance(config.attack, TRADES):
            beside = trades.maximise(view.refresh(), x, config.attack, generator)
        elif config.attack is not None:
            x = _attacked(view.refresh(), x, labels, config.attack, generator)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, epoch + number / batches)
        model.train()
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=view.dtype == torch.bfloat16):
            logits = model(_as(layout, x)).float()
            moved = model(_as(layout, beside)).float() if beside is not None else None
        loss = F.cross_entropy(logits, labels)
        if isinstance(config.attack, TRADES) and moved is not None:
            loss = loss + config.attack.beta * trades.divergence(moved, logits.log_softmax(1)).mean()
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


def _as(layout: torch.memory_format, x: torch.Tensor) -> torch.Tensor:
    """A copy in the layout; with one channel both layouts count as contiguous, but convolutions go by the
    strides."""
    return x.clone(memory_format=layout) if x.ndim == 4 else x


def _attacked(
    view: AttackView, x: torch.Tensor, labels: torch.Tensor, attack: Attack, generator: torch.Generator
) -> torch.Tensor:
    """The images under PGD with the budget and norm of ``attack``, from a random start: [N, ...]."""
    start = random_start(x, attack.eps, attack.norm, generator)
    return ascend(
        view, x, labels, eps=attack.eps, step=attack.step, steps=attack.steps, norm=attack.norm, start=start
    )


def _probe(
    model: nn.Module,
    view: AttackView,
    images: Images,
    index: torch.Tensor,
    config: TrainConfig,
    device: torch.device,
) -> tuple[float, float]:
    """(clean, PGD) accuracy on the fixed training batch.

    PGD has the budget, step size, number of steps and norm of training. For standard training it is PGD-10
    at 8/255.
    """
    attack = config.attack or PGD()
    x, labels = images.batch(index).to(device), images.labels[index].to(device)
    x_adv = _attacked(view.refresh(), x, labels, attack, torch.Generator().manual_seed(0))
    with preserve(model), torch.no_grad():
        model.eval()
        clean, attacked = (float((model(batch).argmax(1) == labels).float().mean()) for batch in (x, x_adv))
    return clean, attacked


def crop_and_flip(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A random crop of each image, padded by an eighth of its side; RGB images are also randomly flipped.

    [N, C, H, W] -> the same shape. The flip is horizontal. Grey images (digits, and clothes with a left
    and a right side) are not flipped.
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
