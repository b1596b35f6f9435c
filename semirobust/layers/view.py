"""A fast, approximate view of a model, for finding adversarial examples.

An attack needs many gradients in the input but no exact logits: the untouched float32 model gives the verdict
on the points that it finds. The view folds every BatchNorm that follows a convolution into it (evaluation
statistics), keeps its weights in ``channels_last`` layout, and computes in bfloat16 where the processor has
instructions for it.
"""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from semirobust.layers.graph import attribute, trace

_Pair = tuple[str, str | None]  # names of a weight layer and of the BatchNorm folded into it
_NORMS: dict[type, tuple[type[nn.Module], ...]] = {nn.Conv1d: (nn.BatchNorm1d,), nn.Conv2d: (nn.BatchNorm2d,)}


def fast_dtype() -> torch.dtype:
    """bfloat16 on processors that multiply it in hardware, else float32."""
    capable = [
        getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    ]
    return torch.bfloat16 if any(check is not None and check() for check in capable) else torch.float32


class AttackView(nn.Module):
    """A folded copy of ``model`` in evaluation mode: float32 [N, ...] in [0, 1] -> float32 logits [N, K].

    Differentiable in its input only. ``refresh()`` copies the weights anew after the model was trained
    further.
    """

    def __init__(self, model: nn.Module, *, dtype: torch.dtype | None = None) -> None:
        """Raises ``ValueError`` (from ``layers.trace``) for a model whose forward pass branches on the values
        of its input.
        """
        super().__init__()
        self.training = False
        self._source = [model]  # in a list: not a submodule
        device = next(model.parameters(), torch.empty(0)).device
        self.dtype = dtype or (fast_dtype() if device.type == "cpu" else torch.bfloat16)
        traced = trace(model)
        self._pairs = fold(traced)
        self.body: nn.Module = copy.deepcopy(fx.GraphModule(traced, traced.graph))  # without the folded norms
        self.body.requires_grad_(False).eval().float().zero_grad(set_to_none=True)
        for name, _ in self._pairs:
            layer: Any = self.body.get_submodule(name)
            layer.to(self.dtype, memory_format=torch.channels_last)
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> AttackView:
        """Copy weights and statistics from the model, folded; returns the view."""
        source = self._source[0]
        for name, norm_name in self._pairs:
            layer: Any = source.get_submodule(name)
            target: Any = self.body.get_submodule(name)
            weight, bias = layer.weight, layer.bias
            if norm_name is not None:
                norm: Any = source.get_submodule(norm_name)
                weight, bias = fuse_conv_bn_weights(
                    weight, bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
                )
                if target.bias is None:
                    target.bias = nn.Parameter(torch.empty_like(bias, dtype=self.dtype), requires_grad=False)
            target.weight.copy_(weight)
            if target.bias is not None:
                target.bias.copy_(bias)
        done = {name for name, _ in self._pairs}
        for name, own in (*self.body.named_parameters(), *self.body.named_buffers()):
            theirs = attribute(source, name) if name.rpartition(".")[0] not in done else None
            if theirs is not None:  # None: done, or a constant made in the forward pass
                own.copy_(theirs)
        return self

    def train(self, mode: bool = True) -> AttackView:
        """Do nothing: a view stays in evaluation mode, even if an attack library switches it."""
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x
        if self.dtype == torch.float32:
            return self.body(x)
        with torch.autocast(x.device.type, dtype=self.dtype):
            return self.body(x).float()


def attack_view(model: nn.Module, *, dtype: torch.dtype | None = None) -> AttackView:
    """The fast view of ``model``; ``dtype`` overrides the choice of ``fast_dtype``."""
    return AttackView(model, dtype=dtype)


def fold(traced: fx.GraphModule) -> list[_Pair]:
    """Take each BatchNorm that alone uses a convolution out of the graph; list the weight layers left.

    Only plain layers that run once and share their weights with nothing are touched: a subclass may compute
    something else.
    """
    graph = traced.graph
    modules: dict[Any, Any] = dict(traced.named_modules())
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    uses = Counter(id(p) for _, p in traced.named_parameters(remove_duplicate=False))
    uses.update(id(attribute(traced, str(node.target))) for node in graph.nodes if node.op == "get_attr")

    def alone(node: fx.Node, types: tuple[type[nn.Module], ...]) -> bool:
        if node.op != "call_module" or type(modules[node.target]) not in types or calls[node.target] > 1:
            return False
        return all(uses[id(parameter)] == 1 for parameter in modules[node.target].parameters())

    pairs: list[_Pair] = []
    for node in list(graph.nodes):
        if not alone(node, (nn.Conv1d, nn.Conv2d, nn.Linear)):
            continue
        users = list(node.users)
        norm = (
            users[0]
            if len(users) == 1 and alone(users[0], _NORMS.get(type(modules[node.target]), ()))
            else None
        )
        if norm is not None and modules[norm.target].running_mean is not None:
            norm.replace_all_uses_with(node)
            graph.erase_node(norm)
            pairs.append((node.target, norm.target))
        else:
            pairs.append((node.target, None))
    return pairs
