"""The state guard, and activations, which are taken inside it."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from semirobust._graph import weight_layers


@contextmanager
def preserve(model: nn.Module) -> Iterator[None]:
    """Leave ``model`` and the global random states as they are found, also on exceptions.

    Restores each module's training flag, each parameter's ``requires_grad`` and gradient, every buffer (bit
    for bit), and the global generators of torch (and CUDA), NumPy and ``random``. Inside, gradients start as
    None, so that what a backward pass adds does not reach the ones kept. Parameters themselves are not
    copied.
    """
    flags = [(module, module.training) for module in model.modules()]
    parameters = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    try:
        for parameter, _, _ in parameters:
            parameter.grad = None
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        for module, training in flags:
            module.training = training
        for parameter, requires_grad, gradient in parameters:
            parameter.requires_grad_(requires_grad)
            parameter.grad = gradient
        with torch.no_grad():
            for module, name, buffer, value in buffers:
                module._buffers[name] = buffer.copy_(value)
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)


def device_of(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def outputs(model: nn.Module, images: torch.Tensor, *, batch_size: int = 256) -> torch.Tensor:
    """What the model gives for images [N, ...], batch by batch and without gradients: [N, K] on the CPU."""
    device = device_of(model)
    with torch.no_grad():
        return torch.cat([model(part.to(device)).cpu() for part in images.split(batch_size)])


def activations(
    model: nn.Module, images: torch.Tensor, names: Sequence[str], *, batch_size: int = 256
) -> dict[str, torch.Tensor]:
    """Outputs of the modules ``names``, flattened: float32 [N, d] on the CPU, for images [N, ...] in [0, 1].

    The outputs are those of the modules themselves, before normalisation and activation. The model runs in
    evaluation mode and is left as found; of a module that runs more than once the last output counts. Raises
    ``ValueError`` for a name that is no module of the model, or that did not run, and for no images.
    """
    if len(images) == 0 or batch_size < 1:
        raise ValueError(
            f"give at least one image and a batch_size of at least 1, got {len(images)} and {batch_size}"
        )
    modules = dict(model.named_modules())
    unknown = [name for name in names if name not in modules]
    if unknown:
        raise ValueError(
            f"no module named {', '.join(unknown)}; weight layers: {', '.join(weight_layers(model))}"
        )
    collected: dict[str, torch.Tensor] = {}
    position = 0

    def keep(name: str, output: torch.Tensor) -> None:
        flat = output.detach().flatten(1)  # [batch, d]
        if name not in collected:
            collected[name] = torch.empty(len(images), flat.shape[1])
        collected[name][position : position + len(flat)] = flat

    device = next(model.parameters(), images).device
    with preserve(model), torch.no_grad():
        model.eval()
        handles = [modules[n].register_forward_hook(lambda _m, _i, out, n=n: keep(n, out)) for n in names]
        try:
            for position in range(0, len(images), batch_size):
                model(images[position : position + batch_size].to(device))
        finally:
            for handle in handles:
                handle.remove()
    silent = [name for name in names if name not in collected]
    if silent:
        raise ValueError(f"modules that did not run in the forward pass: {', '.join(silent)}")
    return collected
