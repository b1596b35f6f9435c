"""A copy of a network without BatchNorm, in float64 by default, for the bounds."""

from __future__ import annotations

import copy
import operator
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights

from semirobust.layers.graph import trace
from semirobust.layers.view import fold
from semirobust.models import Normalize


class ChannelAffine(nn.Module):
    """weight[c] * x[:, c] + bias[c]: Normalize, or a BatchNorm in evaluation mode."""

    def __init__(self, layer: nn.Module) -> None:
        """Raises ``ValueError`` for a BatchNorm without running statistics."""
        super().__init__()
        norm: Any = layer
        if isinstance(layer, Normalize):
            scale, mean, bias = 1 / norm.std.double().flatten(), norm.mean.double().flatten(), 0.0
        elif norm.running_var is None:
            raise ValueError(f"{layer} normalises with batch statistics, so it is not a fixed function")
        else:
            scale, mean = (norm.running_var.double() + norm.eps).rsqrt(), norm.running_mean.double()
            scale = scale if norm.weight is None else scale * norm.weight.double()
            bias = 0.0 if norm.bias is None else norm.bias.double()
        self.weight = nn.Parameter(scale.detach().clone(), requires_grad=False)
        self.bias = nn.Parameter((bias - scale * mean).detach().clone(), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shape = (-1, *(1,) * (x.ndim - 2))
        return x * self.weight.view(shape) + self.bias.view(shape)


NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, Normalize)
AFFINE = (nn.Linear, nn.Conv2d, ChannelAffine)
#: functions and methods that do the same as a module built from their arguments
AS_MODULE: dict[Any, type[nn.Module]] = {
    **dict.fromkeys((F.relu, torch.relu, "relu", "relu_"), nn.ReLU),
    **dict.fromkeys((F.tanh, torch.tanh, "tanh"), nn.Tanh),
    **dict.fromkeys((F.sigmoid, torch.sigmoid, "sigmoid"), nn.Sigmoid),
    **dict.fromkeys((torch.flatten, "flatten"), nn.Flatten),
    F.leaky_relu: nn.LeakyReLU,
    F.softplus: nn.Softplus,
    F.max_pool2d: nn.MaxPool2d,
    F.avg_pool2d: nn.AvgPool2d,
    F.adaptive_avg_pool2d: nn.AdaptiveAvgPool2d,
}
SUMS = (operator.add, operator.iadd, operator.sub, torch.add, torch.sub, "add", "add_")
RESHAPES = ("view", "reshape", "contiguous", torch.reshape)
MEANS = ("mean", torch.mean)


def folded(model: nn.Module, *, dtype: torch.dtype = torch.float64) -> fx.GraphModule:
    """A copy of ``model`` in evaluation mode without BatchNorm: the same function of weights and biases.

    A BatchNorm behind a convolution is folded into it. Any other BatchNorm, and the input normalisation,
    becomes a ``ChannelAffine`` layer. Module names are those of the model, which is left as found. Raises
    ``ValueError`` as ``layers.trace`` does.
    """
    traced = trace(model)
    pairs = fold(traced)
    body: Any = copy.deepcopy(fx.GraphModule(traced, traced.graph))  # without the folded norms
    body.requires_grad_(False).eval().double().zero_grad(set_to_none=True)
    for name, norm_name in pairs:
        if norm_name is not None:
            layer: Any = body.get_submodule(name)
            norm: Any = copy.deepcopy(model.get_submodule(norm_name)).double()
            statistics = (norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
            layer.weight, layer.bias = fuse_conv_bn_weights(layer.weight, layer.bias, *statistics)
    for name, module in list(body.named_modules()):
        if type(module) in NORMS:
            body.set_submodule(name, ChannelAffine(module))
    return body.to(dtype).requires_grad_(False)


class _Recorder(fx.Interpreter):
    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.shapes: dict[fx.Node, torch.Size] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, torch.Tensor):
            self.shapes[n] = value.shape
        return value


def node_shapes(body: fx.GraphModule, in_shape: tuple[int, ...]) -> dict[fx.Node, torch.Size]:
    """Shapes of all tensors of the graph for a batch of two blank images."""
    parameter = next(body.parameters(), torch.empty(0, dtype=torch.float64))
    recorder = _Recorder(body)
    try:
        with torch.no_grad():
            recorder.run(torch.zeros(2, *in_shape, dtype=parameter.dtype, device=parameter.device))
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise ValueError(
            f"the model does not take images of shape {tuple(in_shape)} ({str(error).splitlines()[0]}); "
            "give the shape [C, H, W] of one of its images"
        ) from error
    return recorder.shapes
