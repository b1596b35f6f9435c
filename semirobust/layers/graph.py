"""The data flow of a network: its modules in order of execution, its weight layers, and cuts through it.

The paper (arXiv 2307.03803, section 3.1) counts convolutional and linear modules. ResNet-18 has 18 of them on
its main path; its three 1x1 shortcut convolutions run beside it.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import fx, nn

WEIGHT_TYPES = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


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
    """The attribute of ``model`` with the dotted ``name``; None if there is none."""
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


# --- the cut before a module ---


def _cut(graph: fx.Graph, first_b: str) -> tuple[list[fx.Node], set[fx.Node]]:
    """The nodes before module ``first_b`` runs, in order, and those from there on."""
    nodes = list(graph.nodes)
    cut = next(i for i, node in enumerate(nodes) if node.op == "call_module" and node.target == first_b)
    return nodes[:cut], set(nodes[cut:])


def before(traced: fx.GraphModule, first_b: str) -> tuple[set[str], set[int]]:
    """What runs before module ``first_b``: names of modules, identities of their parameters and buffers."""
    earlier = set(_cut(traced.graph, first_b)[0])
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


def crossing(graph: fx.Graph, first_b: str) -> list[fx.Node]:
    """The values computed before module ``first_b`` runs that are used at or after it."""
    earlier, later = _cut(graph, first_b)
    return [node for node in earlier if node.op != "get_attr" and any(user in later for user in node.users)]


def subgraph(traced: fx.GraphModule, start: fx.Node | None, stop: fx.Node | None) -> nn.Module:
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
