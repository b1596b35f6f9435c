"""A guard that restores a model and the global random states, and the device of a model."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn


@contextmanager
def preserve(model: nn.Module) -> Iterator[None]:
    """Leave ``model`` and the global random states as they are found, also on exceptions.

    Restores each module's training flag, each parameter's ``requires_grad`` and gradient, every buffer (bit
    for bit), and the global generators of torch (and CUDA), NumPy and ``random``. Inside, gradients start as
    None, so that a backward pass does not add to the saved ones. Parameters themselves are not
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
