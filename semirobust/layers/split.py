"""The split of a network into f_a and f_b: freezing f_a, replacing f_b, and both as functions."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from semirobust.layers.graph import before, crossing, subgraph, trace, weight_layers

_NORM_TYPES = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class Split:
    """The network as (f_a, f_b): f_b holds the last ``n_fb`` weight layers and all that runs after the first
    of them.

    The split is a partition of the parameters and buffers in order of execution (the paper, section 3.1: f_b
    starts at the n_fb-th layer from the output and includes every module in between). Inside a residual block
    the 1x1 shortcut runs after the second convolution, hence on its side of the cut. ``include_shortcuts``
    counts shortcut convolutions as layers too, as the authors' code does.

    ``names_a``, ``names_b``: parameters and buffers of each side; ``layers``: the counted layers;
    ``first_b``: the first one of f_b. As *functions*, f_a and f_b exist only where the cut crosses no skip
    connection: see ``functions``.
    """

    def __init__(self, model: nn.Module, n_fb: int, *, include_shortcuts: bool = False) -> None:
        """Raises ``ValueError`` unless n_fb is an integer with 1 <= n_fb < number of weight layers."""
        self.model = model
        self.layers = weight_layers(model, include_shortcuts=include_shortcuts)
        if isinstance(n_fb, bool) or not hasattr(n_fb, "__index__") or not 1 <= n_fb < len(self.layers):
            raise ValueError(
                f"n_fb must be an integer between 1 and {len(self.layers) - 1}, because the model has "
                f"{len(self.layers)} weight layers; got {n_fb!r}"
            )
        self.n_fb = operator.index(n_fb)
        self.first_b = self.layers[-self.n_fb]
        earlier, tensors = before(trace(model), self.first_b)  # what runs on both sides belongs to f_a
        state = [*model.named_parameters(), *model.named_buffers()]
        self.modules_a = [name for name, _ in model.named_modules() if name in earlier]
        self.names_a = [name for name, tensor in state if id(tensor) in tensors]
        self.names_b = [name for name, tensor in state if id(tensor) not in tensors]
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._trainable: dict[str, bool] = {}  # requires_grad of the parameters of f_a before freezing
        self._kept_in_evaluation: set[str] = set()  # modules of f_a in evaluation mode on their own

    def freeze_a(self, *, batch_statistics: bool = False) -> None:
        """Freeze f_a: no parameter and no BatchNorm statistic of it changes until ``unfreeze_a``.

        The modules of f_a go to evaluation mode at each call, whoever switched them back to training (attack
        libraries do). ``batch_statistics`` is the authors' variant: its BatchNorms normalise with the
        statistics of the batch while the model is in training mode, and their buffers are put back after each
        call. Gradients left on the parameters of f_a are dropped, so that no optimizer moves them. A
        copy of a frozen model is frozen.
        """
        self.unfreeze_a()
        parameters = {name: p for name, p in self.model.named_parameters() if name in set(self.names_a)}
        self._trainable = {name: p.requires_grad for name, p in parameters.items()}
        for parameter in parameters.values():
            parameter.requires_grad_(False)
            parameter.grad = None  # weight decay and momentum move any parameter with a gradient, even zero
        for name in self.modules_a:
            module = self.model.get_submodule(name)
            if self.model.training and not module.training:
                self._kept_in_evaluation.add(name)
            if batch_statistics and isinstance(module, _NORM_TYPES):
                self._hold_buffers(module, tuple(module._buffers))
            else:
                self._handles.append(module.register_forward_pre_hook(_to_evaluation))
        owned: dict[str, list[str]] = {}  # buffers of f_a in modules with submodules, which may span the cut
        for name in {name for name, _ in self.model.named_buffers()}.intersection(self.names_a):
            owner, _, field = name.rpartition(".")
            if owner not in self.modules_a:
                owned.setdefault(owner, []).append(field)
        for owner, fields in owned.items():
            self._hold_buffers(self.model.get_submodule(owner), tuple(fields))

    def _hold_buffers(self, module: nn.Module, fields: tuple[str, ...]) -> None:
        self._handles.append(module.register_forward_pre_hook(partial(_lend_buffers, fields=fields)))
        self._handles.append(module.register_forward_hook(_return_buffers, always_call=True))

    def unfreeze_a(self) -> None:
        """Undo ``freeze_a``: ``requires_grad`` as it was before, training flags as the model's own."""
        for handle in self._handles:
            handle.remove()
        parameters = dict(self.model.named_parameters())
        for name, requires_grad in self._trainable.items():
            parameters[name].requires_grad_(requires_grad)
        if self._handles:
            for name in self.modules_a:
                if name not in self._kept_in_evaluation:
                    self.model.get_submodule(name).training = self.model.training
        self._handles, self._trainable, self._kept_in_evaluation = [], {}, set()

    def graft_b(self, state: Mapping[str, torch.Tensor]) -> None:
        """Copy the parameters and buffers of f_b from the state dict of another network of the same shape.

        Raises ``ValueError`` naming a tensor that is missing or has another shape; nothing is copied then.
        """
        own = self.model.state_dict()
        wanted = [name for name in self.names_b if name in own]
        for name in wanted:
            if name not in state or state[name].shape != own[name].shape:
                found = list(state[name].shape) if name in state else "missing"
                raise ValueError(f"cannot graft f_b: {name} is {found}, wanted {list(own[name].shape)}")
        with torch.no_grad():
            for name in wanted:
                own[name].copy_(state[name])

    def functions(self) -> tuple[nn.Module, nn.Module]:
        """(f_a, f_b) as modules with ``model(x) == f_b(f_a(x))``, sharing the model's parameters.

        Code that depends on the mode of the model itself (not of its layers) behaves as in evaluation mode.
        Raises ``ValueError`` listing the valid cuts where the cut crosses a skip connection.
        """
        traced = trace(self.model)
        graph = traced.graph
        graph.eliminate_dead_code()
        values = crossing(graph, self.first_b)
        if len(values) != 1:
            counts = range(1, len(self.layers))
            valid = [n for n in counts if len(crossing(graph, self.layers[-n])) == 1]
            raise ValueError(
                f"the cut before {self.first_b} (n_fb={self.n_fb}) crosses a skip connection, "
                f"so f_b is not a function of f_a; valid n_fb: {', '.join(map(str, valid)) or 'none'}"
            )
        return subgraph(traced, None, values[0]), subgraph(traced, values[0], None)


def _to_evaluation(module: nn.Module, inputs: Any) -> None:
    module.training = False


def _lend_buffers(module: nn.Module, inputs: Any, *, fields: tuple[str, ...]) -> None:
    """Let ``module`` work on copies of its buffers; writing the old values back would spoil a pending
    backward pass.
    """
    kept = {field: module._buffers[field] for field in fields}
    module.__dict__["_lent_buffers"] = kept
    module._buffers.update({field: buffer.clone() for field, buffer in kept.items() if buffer is not None})


def _return_buffers(module: nn.Module, inputs: Any, output: Any) -> None:
    module._buffers.update(module.__dict__.pop("_lent_buffers", {}))
