"""Rigorous l2 Lipschitz constants of layers and networks.

The proof of (16) in arXiv 2307.03803 takes Frobenius norms of weight matrices. For a convolution the kernel's
Frobenius norm is not a bound: a 3x3 kernel of ones has Frobenius norm 3, but its map has norm 9. Here a layer
has its operator norm at the true input size, and a network has the product along each path, summed over the
branches of a residual block. "Rigorous" is up to float64 rounding.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import fx, nn

from semirobust.bounds.operators import Pair, conv_lower, conv_upper, largest_singular
from semirobust.bounds.steps import Step, steps, untreatable
from semirobust.layers import NORMS, WEIGHT_TYPES, ChannelAffine, folded


@dataclass(frozen=True)
class NormBound:
    """The l2 operator norm of an affine map without its shift lies in [lower, upper]."""

    lower: float
    upper: float


@dataclass(frozen=True)
class Constants:
    """l2 Lipschitz constants from the image to the output of each weight layer (before normalisation and
    activation), by name in order of execution, and to the logits.
    """

    layers: dict[str, float]
    logits: float


def operator_norm(
    module: nn.Module,
    in_shape: Sequence[int],
    *,
    iterations: int = 1000,
    tolerance: float = 1e-12,
    generator: torch.Generator | None = None,
) -> NormBound:
    """l2 operator norm of an affine layer in evaluation mode, on inputs of ``in_shape`` ([C, H, W] or [d]).

    Exact (lower == upper) for Linear, BatchNorm and Normalize. For Conv2d with zero padding, any stride:
    ``lower`` by power iteration at that size (at most ``iterations`` steps, until a step gains less than
    ``tolerance``), started from ``generator`` (default: a new one with seed 0); ``upper`` by the Fourier
    transform on a torus large enough that nothing wraps around. Raises ``ValueError`` for another layer,
    groups, dilation, other padding, or an input that does not fit.
    """
    upper = upper_norm(module, in_shape)
    if not isinstance(module, nn.Conv2d):
        return NormBound(upper, upper)
    weight, size, stride, padding = _convolution(module, in_shape)
    generator = generator or torch.Generator().manual_seed(0)
    options: dict[str, Any] = {"iterations": iterations, "tolerance": tolerance, "generator": generator}
    lower = conv_lower(weight, size, stride, padding, **options)
    return NormBound(min(lower, upper), upper)  # rounding, where both are the norm


def lipschitz(model: nn.Module, in_shape: Sequence[int], *, upto: str | None = None) -> float:
    """An upper bound of ||F(x) - F(x')|| / ||x - x'|| over all images x, x' of ``in_shape`` [C, H, W].

    F goes from the image in [0, 1] (normalisation included) to the output of the weight layer ``upto``,
    before its BatchNorm and activation, or to the logits. The model counts as in evaluation mode and is left
    as found; of a layer that runs more than once the last run counts. Raises ``ValueError`` for a layer that
    no rule treats (by name), one that is not there, or a shape that the model does not take.
    """
    constants = _constants(model, in_shape, upto)
    return constants.logits if upto is None else constants.layers[upto]


def lipschitz_constants(model: nn.Module, in_shape: Sequence[int]) -> Constants:
    """``lipschitz`` for every weight layer and the logits, in one pass; raises as it does."""
    return _constants(model, in_shape, None)


def _constants(model: nn.Module, in_shape: Sequence[int], upto: str | None) -> Constants:
    body = folded(model)
    targets = [str(node.target) for node in body.graph.nodes if node.op == "call_module"]
    layers = [name for name in targets if isinstance(body.get_submodule(name), WEIGHT_TYPES)]
    if upto is not None and upto not in layers:
        raise ValueError(f"no weight layer named {upto}; there are: {', '.join(dict.fromkeys(layers))}")
    plan = steps(body, tuple(in_shape))
    last = plan[-1] if upto is None else [step for step in plan if step.node.target == upto][-1]
    needed = _ancestors(last.node)
    plan = [step for step in plan if step.node in needed]
    constants = node_constants(body, plan)
    found: dict[str, float] = {}
    for step in plan:
        if (name := str(step.node.target)) in ([upto] if upto else layers):
            plain = copy.deepcopy(model.get_submodule(name)).double()  # BatchNorm not folded in
            found[name] = upper_norm(plain, step.in_shape) * constants[step.parents[0]]
    return Constants(found, constants[last.node])


def node_constants(body: fx.GraphModule, plan: list[Step]) -> dict[fx.Node, float]:
    """Upper bounds of the l2 Lipschitz constants from the image to every node of ``plan``."""
    constants: dict[fx.Node, float] = {}
    for step in plan:
        factor = step.constant
        if step.kind == "affine":
            factor = upper_norm(body.get_submodule(str(step.node.target)), step.in_shape)
        before = sum(constants[parent] for parent in step.parents)  # one term but for sums
        constants[step.node] = 1.0 if step.kind == "input" else factor * before
    return constants


def _ancestors(node: fx.Node) -> set[fx.Node]:
    seen, waiting = {node}, [node]
    while waiting:
        new = set(waiting.pop().all_input_nodes) - seen
        seen |= new
        waiting += new
    return seen


@torch.no_grad()
def upper_norm(layer: nn.Module, in_shape: Sequence[int]) -> float:
    """Upper bound of the operator norm; exact but for convolutions. Raises as ``operator_norm``."""
    layer = ChannelAffine(layer) if type(layer) in NORMS else layer
    if why := untreatable(layer):
        raise ValueError(f"no operator norm of {layer}: {why}")
    if isinstance(layer, nn.Conv2d):
        return conv_upper(*_convolution(layer, in_shape))
    if isinstance(layer, nn.Linear):
        if not in_shape or in_shape[-1] != layer.in_features:
            raise ValueError(f"{layer} takes {layer.in_features} numbers, not an input of {tuple(in_shape)}")
        return largest_singular(layer.weight.double())
    return float(cast(torch.Tensor, layer.weight).abs().amax())


def _convolution(layer: nn.Conv2d, in_shape: Sequence[int]) -> tuple[torch.Tensor, Pair, Pair, Pair]:
    """Weight (float64), image size, stride and padding of a convolution, which must fit the image."""
    kernel, stride, padding = (cast(Pair, v) for v in (layer.kernel_size, layer.stride, layer.padding))
    fits = len(in_shape) == 3 and in_shape[0] == layer.in_channels
    if not fits or any(n + 2 * p < k for n, p, k in zip(in_shape[1:], padding, kernel, strict=True)):
        raise ValueError(
            f"{layer} does not take an input of {tuple(in_shape)}: give [{layer.in_channels}, H, W], "
            "at least as large as the kernel"
        )
    return layer.weight.detach().double(), (in_shape[1], in_shape[2]), stride, padding
