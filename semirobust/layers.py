"""Weight layers in data-flow order, the split of a network into f_a and f_b, activations, and the state
guard.

The paper (arXiv 2307.03803, section 3.1) counts convolutional and linear modules. ResNet-18 has 18 of them on
its main path; its three 1x1 shortcut convolutions run beside it.
"""

from __future__ import annotations

import copy
import operator
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import fx, nn

WEIGHT_TYPES = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_NORM_TYPES = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class _Tracer(fx.Tracer):
    """Keeps modules without submodules whole, the project's own (Normalize) included."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return not any(True for _ in module.children()) and not isinstance(module, nn.Sequential)


def trace(model: nn.Module) -> fx.GraphModule:
    """The data flow of ``model`` in evaluation mode; ``.graph`` has a node for each module without
    submodules.

    Nodes are in order of execution. The result shares the modules and tensors of ``model``, which is left as
    found. Raises ``ValueError`` for a model whose forward pass branches on the values of its input.
    """
    root = copy.copy(model)  # shallow: the tracer stores tensors that a forward pass makes on the root
    modes = [(module, module.training) for module in (root, *model.modules())]
    try:
        for module, _ in modes:
            module.training = False
        return fx.GraphModule(root, _Tracer().trace(root), type(model).__name__)
    except (fx.proxy.TraceError, TypeError, RuntimeError, NotImplementedError) as error:
        raise ValueError(
            f"the data flow of {type(model).__name__} cannot be traced ({error}); "
            "write its forward pass without branches on tensor values"
        ) from error
    finally:
        for module, training in modes:
            module.training = training


def attribute(model: nn.Module, name: str) -> Any:
    """What ``model`` holds under the dotted ``name``, None if nothing."""
    owner, _, field = name.rpartition(".")
    return getattr(model.get_submodule(owner), field, None)


def weight_layers(model: nn.Module, *, include_shortcuts: bool = False) -> list[str]:
    """Names of the convolutional and linear modules in data-flow order.

    By default those on the main path, the path from input to output that crosses most of them (18 in
    ResNet-18, as in Table 2 of the paper); ``include_shortcuts`` adds the others, in order of execution (21,
    as the authors' code counts). A module that runs more than once is named once, where it runs first. Raises
    ``ValueError`` for a model without such modules, and as ``trace`` does.
    """
    graph = trace(model).graph
    modules = dict(model.named_modules())
    nodes = [
        node
        for node in graph.nodes
        if node.op == "call_module" and isinstance(modules[node.target], WEIGHT_TYPES)
    ]
    if not nodes:
        raise ValueError(f"{type(model).__name__} has no convolutional or linear module")
    if include_shortcuts:
        return list(dict.fromkeys(str(node.target) for node in nodes))
    weight = set(nodes)
    depth: dict[fx.Node, int] = {}  # weight layers on the longest path that ends at a node
    previous: dict[fx.Node, fx.Node | None] = {}
    for node in graph.nodes:
        best = max(node.all_input_nodes, key=lambda parent: depth[parent], default=None)
        depth[node] = (depth[best] if best is not None else 0) + (node in weight)
        previous[node] = best
    path: list[str] = []
    current: fx.Node | None = next(node for node in graph.nodes if node.op == "output")
    while current is not None:
        if current in weight:
            path.append(str(current.target))
        current = previous[current]
    return list(dict.fromkeys(path[::-1]))


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
        before, tensors = _before(trace(model), self.first_b)  # what runs on both sides belongs to f_a
        state = [*model.named_parameters(), *model.named_buffers()]
        self.modules_a = [name for name, _ in model.named_modules() if name in before]
        self.names_a = [name for name, tensor in state if id(tensor) in tensors]
        self.names_b = [name for name, tensor in state if id(tensor) not in tensors]
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._trainable: dict[str, bool] = {}  # requires_grad of the parameters of f_a before freezing
        self._kept_in_evaluation: set[str] = (
            set()
        )  # modules of f_a that stood in evaluation mode on their own

    def freeze_a(self, *, batch_statistics: bool = False) -> None:
        """Freeze f_a: no parameter and no BatchNorm statistic of it changes until ``unfreeze_a``.

        The modules of f_a go to evaluation mode at each call, whoever switched them back to training (attack
        libraries do). ``batch_statistics`` is the authors' variant: its BatchNorms normalise with the
        statistics of the batch while the model is in training mode, and their buffers are put back after each
        call. Gradients that the parameters of f_a still hold are dropped, so that no optimizer moves them. A
        copy of a frozen model is frozen.
        """
        self.unfreeze_a()
        parameters = {name: p for name, p in self.model.named_parameters() if name in set(self.names_a)}
        self._trainable = {name: p.requires_grad for name, p in parameters.items()}
        for parameter in parameters.values():
            parameter.requires_grad_(False)
            parameter.grad = None  # weight decay and momentum move whatever has a gradient, be it zero
        for name in self.modules_a:
            module = self.model.get_submodule(name)
            if self.model.training and not module.training:
                self._kept_in_evaluation.add(name)
            if batch_statistics and isinstance(module, _NORM_TYPES):
                self._hold_buffers(module, tuple(module._buffers))
            else:
                self._handles.append(module.register_forward_pre_hook(_to_evaluation))
        owned: dict[
            str, list[str]
        ] = {}  # buffers of f_a in modules that have submodules, hence may span the cut
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

        What depends on the mode of the model itself (not of its layers) is as in evaluation mode. Raises
        ``ValueError`` listing the valid cuts where the cut crosses a skip connection.
        """
        traced = trace(self.model)
        graph = traced.graph
        graph.eliminate_dead_code()
        crossing = _crossing(graph, self.first_b)
        if len(crossing) != 1:
            counts = range(1, len(self.layers))
            valid = [n for n in counts if len(_crossing(graph, self.layers[-n])) == 1]
            raise ValueError(
                f"the cut before {self.first_b} (n_fb={self.n_fb}) crosses a skip connection, "
                f"so f_b is no function of f_a; valid n_fb: {', '.join(map(str, valid)) or 'none'}"
            )
        return _subgraph(traced, None, crossing[0]), _subgraph(traced, crossing[0], None)


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


def _before(traced: fx.GraphModule, first_b: str) -> tuple[set[str], set[int]]:
    """What runs before module ``first_b``: names of modules, identities of their parameters and buffers."""
    nodes = list(traced.graph.nodes)
    cut = next(i for i, node in enumerate(nodes) if node.op == "call_module" and node.target == first_b)
    earlier = set(nodes[:cut])
    modules = {str(node.target) for node in earlier if node.op == "call_module"}
    tensors = {
        id(tensor)
        for name in modules
        for tensor in (*traced.get_submodule(name).parameters(), *traced.get_submodule(name).buffers())
    }
    for node in earlier:
        if node.op == "get_attr" and any(user in earlier for user in node.users):
            tensors.add(id(attribute(traced, str(node.target))))
    return modules, tensors


def _crossing(graph: fx.Graph, first_b: str) -> list[fx.Node]:
    """The values computed before module ``first_b`` runs that are used at or after it."""
    nodes = list(graph.nodes)
    cut = next(i for i, node in enumerate(nodes) if node.op == "call_module" and node.target == first_b)
    later = set(nodes[cut:])
    return [
        node for node in nodes[:cut] if node.op != "get_attr" and any(user in later for user in node.users)
    ]


def _subgraph(traced: fx.GraphModule, start: fx.Node | None, stop: fx.Node | None) -> nn.Module:
    """The part of the graph after ``start`` (exclusive) up to ``stop`` (inclusive) as a module."""
    part = fx.Graph()
    values: dict[Any, fx.Node] = {}
    if start is not None:
        values[start] = part.placeholder("x")
    active = start is None
    for node in traced.graph.nodes:
        if node.op == "output":
            part.output(values[node.args[0]])
            break
        if active or node.op == "get_attr":
            values[node] = part.node_copy(node, lambda other: values[other])
        if node is stop:
            part.output(values[node])
            break
        active = active or node is start
    module = fx.GraphModule(traced, part)
    module.graph.eliminate_dead_code()  # attributes that only the other part reads
    module.recompile()
    return module


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
