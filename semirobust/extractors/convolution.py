"""A convolution as a linear operator: its action and adjoint by torch in float64, no Toeplitz matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator
from torch import nn
from torch.nn.functional import conv2d
from torch.nn.grad import conv2d_input

from semirobust.extractors.arrays import Array, as_float64, unit_scale

CHUNK = 64  # images at a time


class ConvOperator(LinearOperator):
    """x [d] -> the convolution of x as an image, flattened, without bias; d = C H W.

    A SciPy LinearOperator: `op @ X` for X [d, n], `op.H @ Y` for the adjoint. `magnitude` is the operator
    of the absolute weights.
    """

    def __init__(self, conv: nn.Conv2d, in_shape: tuple[int, int, int]) -> None:
        if not isinstance(conv, nn.Conv2d):
            raise TypeError(f"conv is {type(conv).__name__}; only torch.nn.Conv2d is supported here")
        if conv.padding_mode != "zeros":
            raise ValueError(
                f"the convolution pads with {conv.padding_mode!r}; only padding with zeros is supported"
            )
        if len(in_shape) != 3 or in_shape[0] != conv.in_channels or min(in_shape) < 1:
            raise ValueError(
                f"in_shape is {tuple(in_shape)}; expected [C, H, W] of one image with C = {conv.in_channels}"
            )
        kernel = as_float64(conv.weight.flatten(), "the weight of the convolution", 1)
        self._weight = torch.from_numpy(kernel).reshape(conv.weight.shape)
        self._in_shape = tuple(in_shape)
        self._options: dict[str, Any] = {
            "stride": conv.stride,
            "padding": _padding(conv),
            "dilation": conv.dilation,
            "groups": conv.groups,
        }
        try:
            out = conv2d(torch.zeros(1, *in_shape, dtype=torch.float64), self._weight, **self._options)
        except RuntimeError as error:
            raise ValueError(
                f"images of shape {tuple(in_shape)} do not fit the convolution ({error}); pass larger images"
            ) from None
        self._out_shape = tuple(out.shape[1:])
        filters = unit_scale(self._weight.flatten(1).numpy())
        #: [m], powers of two that bring all filters to one size, as `unit_scale` does with rows
        self.scale: Array = np.repeat(filters, out[0, 0].numel())
        super().__init__(np.float64, (out.numel(), int(np.prod(in_shape))))

    @property
    def terms(self) -> int:
        """The number of products in one sum of the convolution."""
        return int(np.prod(self._weight.shape[1:]))

    def magnitude(self, x: Array) -> Array:
        """|L| x for x [d, n]."""
        return self._forward(x, self._weight.abs())

    def _matmat(self, x: Array) -> Array:
        return self._forward(x, self._weight)

    def _matvec(self, x: Array) -> Array:
        return self._forward(np.asarray(x).reshape(-1, 1), self._weight)[:, 0]

    def _rmatvec(self, y: Array) -> Array:
        return self._rmatmat(np.asarray(y).reshape(-1, 1))[:, 0]

    def _forward(self, x: Array, weight: torch.Tensor) -> Array:
        out = np.empty((self.shape[0], x.shape[1]))
        for i in range(0, x.shape[1], CHUNK):
            images = torch.tensor(np.ascontiguousarray(x[:, i : i + CHUNK].T), dtype=torch.float64)
            with torch.no_grad():
                values = conv2d(images.reshape(-1, *self._in_shape), weight, **self._options)
            out[:, i : i + CHUNK] = values.flatten(1).numpy().T
        return out

    def _rmatmat(self, y: Array) -> Array:
        out = np.empty((self.shape[1], y.shape[1]))
        for i in range(0, y.shape[1], CHUNK):
            values = torch.tensor(np.ascontiguousarray(y[:, i : i + CHUNK].T), dtype=torch.float64)
            shape = (len(values), *self._in_shape)
            with torch.no_grad():
                images = conv2d_input(
                    shape, self._weight, values.reshape(-1, *self._out_shape), **self._options
                )
            out[:, i : i + CHUNK] = images.flatten(1).numpy().T
        return out


def _padding(conv: nn.Conv2d) -> tuple[int, ...]:
    """The padding as numbers. Raises ValueError for "same" where it is not symmetric."""
    if not isinstance(conv.padding, str):
        return conv.padding
    if conv.padding == "valid":
        return (0, 0)
    total = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
    if any(size % 2 for size in total):
        raise ValueError(
            "padding='same' pads unevenly for this kernel; pad the images first and use padding='valid'"
        )
    return tuple(size // 2 for size in total)
