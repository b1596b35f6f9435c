"""Parts of a trained network as float64 matrices: the fixed feature extractors of collisions.

Everything affine around a weight layer is folded into it: the input normalisation in front of the first one,
a BatchNorm behind a convolution (paper on fixed feature extractors, section 3.3). What is left is
relu(L2 relu(L1 x + k1) + k2) and so on, of flattened images in [0, 1], so that budgets stay in pixels.

`as_layers` takes the weight layers as they are, for networks that are such a chain. `as_chain` compiles
networks with max-pools and shortcuts, which the paper leaves open, into a longer chain of the same kind.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import fx, nn

from semirobust.extractors.arrays import Array
from semirobust.extractors.compiled import compiled, module_of
from semirobust.extractors.convolution import ConvOperator
from semirobust.layers import ChannelAffine, folded

#: units of a layer, and numbers of a value on the way, that `as_chain` accepts: the Gram matrix of a layer,
#: which a search for collisions keeps, takes 8 n^2 bytes (288 MB here)
LARGEST = 6000

#: (L, k) of z -> L z + k: L float64 [m, n] or an operator of that shape, k float64 [m]
Layer: TypeAlias = tuple[npt.NDArray[np.float64] | ConvOperator, npt.NDArray[np.float64]]

_PASSED = (nn.Flatten, nn.Identity, nn.Dropout)  # what changes no value in evaluation mode


@dataclass(frozen=True, eq=False)
class Chain:
    """x [d] -> relu(L2 relu(L1 x + k1) + k2) ..., what a network gives at one of its layers, flattened.

    layers: [(L, k), ...], dense float64, as `collisions.find_collisions` takes them.
    rectified: whether a ReLU is behind the last layer too, as behind all others.
    """

    layers: list[tuple[Array, Array]]
    rectified: bool

    @property
    def units(self) -> tuple[int, ...]:
        """The number of units of every layer."""
        return tuple(len(bias) for _, bias in self.layers)

    def features(self, x: Array) -> Array:
        """What the network gives for flattened images: [..., d] -> [..., m]."""
        for i, (weight, bias) in enumerate(self.layers, start=1):
            x = x @ weight.T + bias
            if self.rectified or i < len(self.layers):
                x = np.maximum(x, 0)
        return x


def as_chain(model: nn.Module, images_shape: tuple[int, int, int], *, upto: str | None = None) -> Chain:
    """The part of ``model`` up to a layer, compiled into an equivalent chain of matrices and ReLUs.

    The chain computes what the layer gives, flattened, exactly up to rounding of the matrices; so its
    collisions are those of the layer. Max-pools and shortcuts, which the paper leaves open, need no finder of
    their own:

    - max(a, b) = relu(a - b) + b: a max-pool is a few layers more;
    - what is used again later, as the shortcut of a residual block, is carried on by further units: one for a
      number that is never negative, relu(z) and relu(-z) for others.

    The last layer has a ReLU where the network has one there. Sums and maxima at the end become one more
    linear layer without a ReLU (``rectified=False``), which asks less of a collision finder than signs would.

    Supported: convolutions and linear layers of any kind, BatchNorm, input normalisation, average pools
    and means, ReLU, max-pools, sums, products with constants, reshaping, dropout in evaluation mode. The
    model is read in evaluation mode and left as found.

    Args:
        images_shape: [C, H, W] of one image; the chain takes C H W inputs.
        upto: name of a module (its first run, where it runs more than once), or, for a function, of its
            node in the graph of `torch.fx`, such as "relu" or "max_pool2d_1"; default: the whole network.

    Raises:
        ValueError: no layer of that name (the message lists them); a layer that is not piecewise linear or
            not supported, named; a layer of more than `LARGEST` units; a shape that does not fit.
    """
    return Chain(*compiled(model, images_shape, upto, largest=LARGEST))


def as_layers(
    model: nn.Module, images_shape: tuple[int, int, int], *, depth: int | None = None
) -> list[Layer]:
    """The first ``depth`` weight layers of ``model`` (default: all, the logits included), in order.

    There is a ReLU between two layers and none after the last. Read without a ReLU at the end, this is what
    `collisions.linear_collision` takes (depth 1); with one, what `collisions.find_collisions` takes. The
    model is read in evaluation mode and left as found.

    Args:
        images_shape: [C, H, W] of one image; the first layer takes C H W inputs.
        depth: a first layer that is a convolution comes as a `ConvOperator`, with ``depth=1`` only.

    Raises:
        ValueError: a network that is not a chain of linear layers and ReLUs up to ``depth``, naming it;
            a depth or a shape that does not fit.
    """
    if depth is not None and depth < 1:
        raise ValueError(f"depth must be at least 1 (or None for all layers), got {depth}")
    body = folded(model)
    modules: dict[str, nn.Module] = dict(body.named_modules())
    channels = images_shape[0]
    scale, shift = torch.ones(channels).double(), torch.zeros(channels).double()
    layers: list[Layer] = []
    rectified = False  # a ReLU is behind the last layer seen
    previous: fx.Node | None = None
    for node in body.graph.nodes:
        if node.op == "output" or len(layers) == depth:
            break
        if node.op == "placeholder":
            previous = node
            continue
        module = module_of(node, modules, node.args, node.kwargs)
        if module is None or node.all_input_nodes != [previous]:
            raise _unsupported(node, module, "is not one of a chain of linear layers and ReLUs", layers)
        previous = node
        if isinstance(module, ChannelAffine) and not layers and len(module.weight) == channels:
            scale, shift = scale * module.weight, shift * module.weight + module.bias
        elif isinstance(module, nn.ReLU) and layers and not rectified:
            rectified = True
        elif isinstance(module, nn.Linear | nn.Conv2d) and not layers:
            layers.append(_first(node, module, images_shape, scale, shift))
        elif isinstance(module, nn.Linear) and rectified and not isinstance(layers[-1][0], ConvOperator):
            layers.append((_numpy(module.weight), _numpy(_bias(module))))
            rectified = False
        elif not isinstance(module, _PASSED):
            raise _unsupported(node, module, "is out of place: layers alternate with ReLUs", layers)
    if not layers or len(layers) < (depth or 1):
        raise ValueError(f"the network has {len(layers)} weight layers in a chain; depth={depth} is too many")
    return layers


def _first(
    node: fx.Node, module: Any, shape: tuple[int, int, int], scale: torch.Tensor, shift: torch.Tensor
) -> Layer:
    """The first layer, of images in [0, 1]: that of scale x + shift, channel by channel."""
    pixels = math.prod(shape[1:])
    if isinstance(module, nn.Conv2d):
        if module.groups != 1:
            raise _unsupported(node, module, "has groups, which are not treated", [])
        conv = copy.deepcopy(module)
        conv.weight = nn.Parameter(module.weight * scale[:, None, None], requires_grad=False)
        operator = ConvOperator(conv, shape)
        with torch.no_grad():  # a padded convolution: its border sees fewer of the shifts
            constant = module(shift[None, :, None, None].expand(1, *shape))
        return operator, _numpy(constant.flatten())
    if module.in_features != len(scale) * pixels:
        raise ValueError(
            f"layer {node.target} takes {module.in_features} inputs, but images of shape {tuple(shape)} have "
            f"{len(scale) * pixels}; pass the shape that the network was made for"
        )
    constant = _bias(module) + module.weight @ shift.repeat_interleave(pixels)
    return _numpy(module.weight * scale.repeat_interleave(pixels)), _numpy(constant)


def _bias(module: Any) -> torch.Tensor:
    return torch.zeros(len(module.weight)).double() if module.bias is None else module.bias


def _numpy(tensor: torch.Tensor) -> npt.NDArray[np.float64]:
    return tensor.detach().cpu().double().numpy().copy()


def _unsupported(node: fx.Node, module: nn.Module | None, why: str, layers: list[Layer]) -> ValueError:
    kind = type(module).__name__ if module is not None else getattr(node.target, "__name__", node.target)
    remedy = f"depth={len(layers)} stops before it" if layers else "no layer comes before it"
    return ValueError(f"layer {node.name} ({kind}) {why}; {remedy}")
