"""The compiler from the graph of a network, node by node, to a chain of ReLU layers (`chain`)."""

from __future__ import annotations

import copy
import math
import operator
from typing import Any, TypeAlias

import torch
from torch import fx, nn
from torch.nn import functional as F

from semirobust.extractors.arrays import Array
from semirobust.extractors.chain import Chained, Values, too_large
from semirobust.layers import (
    AS_MODULE,
    MEANS,
    NORMS,
    RESHAPES,
    SUMS,
    ChannelAffine,
    node_shapes,
    subgraph,
    trace,
)

_AFFINE = (nn.Linear, nn.Conv2d, ChannelAffine, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
_PASSED = (nn.Flatten, nn.Identity, nn.Dropout, nn.Dropout2d)  # in evaluation mode
_DIFFERENCES = (operator.sub, torch.sub)
_QUOTIENTS = (operator.truediv, torch.div, "div")
_PRODUCTS = (operator.mul, torch.mul, "mul", *_QUOTIENTS)
_IN_PLACE = (operator.iadd, "add_", "relu_")
_SIZES = ("size", "dim", getattr)

_Made: TypeAlias = tuple[torch.Tensor, Values]  # a value, and those needed later in the same units


def compiled(
    model: nn.Module, images_shape: tuple[int, int, int], upto: str | None, *, largest: int
) -> tuple[list[tuple[Array, Array]], bool]:
    """The layers of the chain, and whether the last one has a ReLU. Raises as `extractors.as_chain`."""
    body = _prepared(model, upto)
    node_shapes(body, images_shape)  # raises a clear error if the images do not fit
    recorded = fx.Interpreter(body, garbage_collect_values=False)
    with torch.no_grad():
        recorded.run(torch.zeros(2, *images_shape, dtype=torch.float64))
        return _Compiler(body, recorded.env, math.prod(images_shape), largest).run()


def _prepared(model: nn.Module, upto: str | None) -> fx.GraphModule:
    """The part of the model up to a layer, in float64 and evaluation mode, its BatchNorms affine."""
    traced = trace(model)
    stop = None if upto is None else _named(traced, upto)
    if stop is None and not isinstance(next(iter(reversed(traced.graph.nodes))).args[0], fx.Node):
        raise ValueError("the model has several outputs: return the logits alone, or name a layer with upto")
    body: Any = copy.deepcopy(subgraph(traced, None, stop)).cpu().double().eval()
    for name, module in list(body.named_modules()):
        if type(module) in NORMS:
            body.set_submodule(name, ChannelAffine(module))
    return body


def _named(traced: fx.GraphModule, upto: str) -> fx.Node:
    """The first run of the module of that name, or else the node of that name."""
    nodes = [node for node in traced.graph.nodes if node.op.startswith("call")]
    runs = [node for node in nodes if node.op == "call_module" and node.target == upto]
    if found := runs or [node for node in nodes if node.name == upto]:
        return found[0]
    raise ValueError(
        f"the model runs no layer named {upto!r}; it runs {', '.join(dict.fromkeys(map(_name, nodes)))}"
    )


class _Compiler:
    """One pass through the graph. Shapes and constants come from a run on two blank images."""

    def __init__(self, body: fx.GraphModule, recorded: dict[fx.Node, Any], inputs: int, largest: int) -> None:
        self._nodes = list(body.graph.nodes)
        self._modules: dict[str, nn.Module] = dict(body.named_modules())
        self._recorded, self._largest = recorded, largest
        self._last_use = {other: i for i, node in enumerate(self._nodes) for other in node.all_input_nodes}
        self._memory: dict[fx.Node, fx.Node] = {}  # node -> the node whose numbers it shows
        self._previous: fx.Node | None = None
        self._chained = Chained(inputs, largest)
        self._values: Values = {}  # of the nodes that depend on the image

    def run(self) -> tuple[list[tuple[Array, Array]], bool]:
        """The layers, and whether the last one has a ReLU."""
        for i, node in enumerate(self._nodes[:-1]):
            out = self._recorded[node]
            inputs = [other for other in node.all_input_nodes if other in self._values]
            if node.op == "placeholder" and isinstance(out, torch.Tensor):
                self._check_size(node)
                self._values[node] = _images(out.shape[1:])
            elif inputs and not (node.target in _SIZES and not isinstance(out, torch.Tensor)):
                later = {key: value for key, value in self._values.items() if self._last_use.get(key, 0) > i}
                made, self._values = self._node(node, inputs, later)
                if made.shape != (1 + self._chained.units, *out.shape[1:]):
                    raise self._unsupported(node, "it mixes images or broadcasts")
                self._values[node] = made
                self._previous = node
        (result,) = self._nodes[-1].all_input_nodes
        if result not in self._values:
            raise ValueError(f"{_name(result)} does not depend on the image, so there are no features")
        return self._chained.layers, self._chained.finish(self._values[result])

    def _node(self, node: fx.Node, inputs: list[fx.Node], later: Values) -> _Made:
        out = self._recorded[node]
        if set(inputs) - set(node.args):
            raise self._unsupported(node, "it takes tensors inside lists or by keyword")
        if not isinstance(out, torch.Tensor) or out.shape[:1] != (2,):
            raise self._unsupported(node, "its output has no axis of images in front")
        self._check_size(node)
        args: Any = fx.node.map_arg(node.args, self._recorded.__getitem__)
        kwargs: Any = fx.node.map_arg(node.kwargs, self._recorded.__getitem__)
        if node.target in SUMS or node.target in _PRODUCTS:
            self._check_in_place(node, node.target in _IN_PLACE, later)
            return self._arithmetic(node, args, kwargs), later
        value = self._values[inputs[0]]
        if len(inputs) > 1:
            raise self._unsupported(node)
        if node.target in MEANS:
            axes = args[1] if len(args) > 1 else kwargs.get("dim")
            if axes is None or 0 in {axis % value.ndim for axis in torch.tensor(axes).flatten().tolist()}:
                raise self._unsupported(node, "it averages over images")
            return torch.mean(value, *args[1:], **kwargs), later
        module = module_of(node, self._modules, args, kwargs)
        self._check_in_place(node, node.target in _IN_PLACE or getattr(module, "inplace", False), later)
        if node.target in RESHAPES or type(module) in _PASSED:
            self._memory[node] = self._memory.get(inputs[0], inputs[0])
            return value.reshape(len(value), *out.shape[1:]), later
        if type(module) in _AFFINE:
            return _affine(module, value), later
        if type(module) is nn.ReLU:
            return self._chained.relu(value, later, _name(node))
        if type(module) is nn.MaxPool2d:
            windows = _windows(module, value, out)
            if not all(window for axis in windows for window in axis):
                raise self._unsupported(node, "a window lies outside of the image")
            return self._chained.max_pool(value, windows, later, _name(node))
        raise self._unsupported(node)

    def _arithmetic(self, node: fx.Node, args: Any, kwargs: Any) -> torch.Tensor:
        """Sums, differences, and products with constants."""
        if kwargs or len(args) != 2:
            raise self._unsupported(node, "it takes further options")
        operands: Any = node.args
        varies = [operand in self._values for operand in operands]
        first, second = (
            self._values[operand] if on_image else torch.as_tensor(constant, dtype=torch.float64)
            for operand, on_image, constant in zip(operands, varies, args, strict=True)
        )
        if node.target in _PRODUCTS and varies[1] and (varies[0] or node.target in _QUOTIENTS):
            raise self._unsupported(node, "it multiplies or divides by what depends on the image")
        if node.target in _DIFFERENCES:
            second = -second
        value, other = (first, second) if varies[0] else (second, first)
        shape = value.shape if all(varies) else value[:1].shape
        if torch.broadcast_shapes(shape, other.shape) != shape or (all(varies) and other.shape != shape):
            raise self._unsupported(node, "it broadcasts")
        if node.target in _PRODUCTS:
            return first / second if node.target in _QUOTIENTS else first * second
        return value + other if all(varies) else torch.cat([value[:1] + other, value[1:]])

    def _check_in_place(self, node: fx.Node, in_place: bool, later: Values) -> None:
        """Raises ValueError if a value that is overwritten in place is read again later."""
        if not in_place:
            return
        memory = {key: self._memory.get(key, key) for key in (*later, *node.all_input_nodes)}
        if any(memory[key] is memory[node.all_input_nodes[0]] for key in later):
            raise self._unsupported(node, "it works in place on a value that is used again")

    def _check_size(self, node: fx.Node) -> None:
        numbers = self._recorded[node][0].numel()
        if numbers > self._largest:
            raise too_large(f"{_name(node)} gives {numbers:,} numbers", numbers, self._largest)

    def _unsupported(self, node: fx.Node, why: str = "") -> ValueError:
        name = _name(node)
        kind = self._modules[name] if node.op == "call_module" else node.target
        kind = type(kind).__name__ if isinstance(kind, nn.Module) else getattr(kind, "__name__", kind)
        remedy = f"; upto={_name(self._previous)!r} stops before it" if self._previous is not None else ""
        reason = f"{why and ': '}{why}{remedy}"
        return ValueError(f"layer {name} ({kind}) cannot be part of a chain of ReLUs{reason}")


def module_of(node: fx.Node, modules: dict[str, nn.Module], args: Any, kwargs: Any) -> Any:
    """The module that a node runs, or one that does the same as its function; None if there is none."""
    if node.op == "call_module":
        return modules[str(node.target)]
    if node.target is F.dropout and not kwargs.get("training", True):
        return nn.Identity()
    return AS_MODULE[node.target](*args[1:], **kwargs) if node.target in AS_MODULE else None


def _name(node: fx.Node) -> str:
    """The name of the module that the node runs, or else of the node."""
    return str(node.target) if node.op == "call_module" else node.name


def _images(shape: torch.Size) -> torch.Tensor:
    """The image itself as a value: [1 + d, C, H, W]."""
    count = shape.numel()
    return torch.cat([torch.zeros(1, count), torch.eye(count)]).double().reshape(1 + count, *shape)


def _affine(module: Any, value: torch.Tensor) -> torch.Tensor:
    """An affine layer applied to a value: its bias acts on the constant only."""
    linear = copy.deepcopy(module)
    if getattr(linear, "bias", None) is not None:
        linear.bias.zero_()
    return torch.cat([module(value[:1]), linear(value[1:])])


def _windows(module: nn.MaxPool2d, value: torch.Tensor, out: torch.Tensor) -> list[list[list[int]]]:
    """The rows, then the columns, that each output of a max-pool sees; padding is never a maximum."""
    found = []
    for axis in (0, 1):
        size, count = value.shape[axis - 2], out.shape[axis - 2]
        kernel, stride, padding, dilation = (
            option if isinstance(option, int) else option[axis]
            for option in (module.kernel_size, module.stride, module.padding, module.dilation)
        )
        starts = [stride * i - padding for i in range(count)]
        found.append(
            [[at for k in range(kernel) if 0 <= (at := start + dilation * k) < size] for start in starts]
        )
    return found
