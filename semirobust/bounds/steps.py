"""A folded network as steps, each of which stretches a difference of its inputs by a known factor."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from semirobust.bounds.operators import average_norm, max_pool_norm
from semirobust.layers import AFFINE, AS_MODULE, MEANS, RESHAPES, SUMS, node_shapes

#: modules that work on each number alone, and how much they can stretch a difference
_POINTWISE: dict[type[nn.Module], Callable[[Any], float]] = {
    **dict.fromkeys((nn.ReLU, nn.Tanh, nn.Softplus, nn.Identity, nn.Flatten), lambda _: 1.0),
    **dict.fromkeys((nn.Dropout, nn.Dropout2d), lambda _: 1.0),  # evaluation mode
    nn.Sigmoid: lambda _: 0.25,
    nn.LeakyReLU: lambda module: max(1.0, abs(module.negative_slope)),
}
_POOLS: dict[type[nn.Module], Callable[[Any, tuple[int, int]], float]] = {
    nn.MaxPool2d: max_pool_norm,
    nn.AvgPool2d: average_norm,
    nn.AdaptiveAvgPool2d: average_norm,
}


@dataclass(frozen=True)
class Step:
    """One node of the graph. Differences d of its inputs, in l2, become at most

    - "affine": ||layer|| d, with ``in_shape`` the shape of one input;
    - "map": ``constant`` * d;
    - "sum": the sum of those of all ``parents``;
    - "input", "output": d itself.
    """

    node: fx.Node
    kind: str
    parents: tuple[fx.Node, ...] = ()
    in_shape: tuple[int, ...] = ()
    constant: float = 1.0


def untreatable(layer: nn.Module) -> str | None:
    """Why no operator norm of this layer is known here; None if there is one."""
    if type(layer) not in AFFINE:  # not isinstance: a subclass may compute something else
        return "only Linear, Conv2d, BatchNorm and Normalize layers have one here"
    if isinstance(layer, nn.Conv2d):
        if layer.groups != 1 or set(layer.dilation) != {1}:
            return "convolutions with groups or dilation are not treated"
        if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
            return "only convolutions with zero padding, given in numbers, are treated"
    return None


def steps(body: fx.GraphModule, in_shape: tuple[int, ...]) -> list[Step]:
    """The graph of ``folded`` as steps, in order of execution, for images of ``in_shape`` [C, H, W].

    Raises ``ValueError`` naming the layer that no rule treats, or the shape that the model does not take.
    """
    shapes = node_shapes(body, in_shape)
    modules: dict[str, nn.Module] = dict(body.named_modules())
    plan: list[Step] = []
    data: set[fx.Node] = set()  # nodes whose values depend on the image, beyond its shape
    for node in body.graph.nodes:
        parents = tuple(arg for arg in node.args if isinstance(arg, fx.Node) and arg in data)
        if node.op == "placeholder":
            step = Step(node, "input")
        elif not any(other in data for other in node.all_input_nodes):
            continue  # a weight, a constant, or arithmetic on shapes
        elif node not in shapes and (node.target in ("size", "dim") or node.target is getattr):
            continue
        elif node.op == "output":
            if not parents:
                raise ValueError("bounds cannot treat a model with several outputs: return the logits alone")
            step = Step(node, "output", parents)
        else:
            module = modules[str(node.target)] if node.op == "call_module" else None
            rule = _rule(node, module, parents, shapes)
            if isinstance(rule, str):
                name, kind = (node.target, module) if module is not None else (node.name, node.target)
                kind_name = type(kind).__name__ if module is not None else getattr(kind, "__name__", kind)
                raise ValueError(f"bounds cannot treat layer {name} ({kind_name}){rule and ': '}{rule}")
            step = rule
        plan.append(step)
        data.add(node)
    return plan


def _rule(
    node: fx.Node,
    module: nn.Module | None,
    parents: tuple[fx.Node, ...],
    shapes: dict[fx.Node, torch.Size],
) -> Step | str:
    """How the node passes on differences, or why that is not known."""
    if set(node.all_input_nodes) - set(node.args) or not parents:
        return "it takes tensors inside lists or by keyword"
    if node not in shapes or shapes[node][:1] != (2,):
        return "its output has no axis of images in front"
    before, after = shapes[parents[0]], shapes[node]
    if node.target in SUMS and not node.kwargs:
        same = all(shapes[parent] == after for parent in parents)  # broadcasting repeats a difference
        return Step(node, "sum", parents) if same else "it broadcasts"
    if len(parents) != 1:
        return ""
    if node.target in RESHAPES:
        return Step(node, "map", parents)
    if node.target in MEANS:
        axes = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
        if axes is None or 0 in {axis % len(before) for axis in torch.tensor(axes).flatten().tolist()}:
            return "it averages over images"
        return Step(node, "map", parents, constant=math.sqrt(after.numel() / before.numel()))
    if module is None and node.target in AS_MODULE:
        module = AS_MODULE[node.target](*node.args[1:], **node.kwargs)
    if module is None:
        return ""
    kind = type(module)
    if kind in _POINTWISE:
        return Step(node, "map", parents, constant=_POINTWISE[kind](module))
    if kind in _POOLS and len(before) == 4 and getattr(module, "divisor_override", None) is None:
        return Step(node, "map", parents, constant=_POOLS[kind](module, (before[2], before[3])))
    if kind in AFFINE:
        return untreatable(module) or Step(node, "affine", parents, tuple(before[1:]))
    return ""
