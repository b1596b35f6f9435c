"""The layers that a collision is searched in: checked float64 arrays, and what they compute on a fixed
pattern.

A network here is relu(L2 relu(L1 x + k1) + k2) and so on, for any number of layers. On a fixed pattern of
open and closed units (gates) every pre-activation is affine in the input; everything else builds on that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

__all__ = [
    "Array",
    "Gates",
    "Layer",
    "Network",
    "Pattern",
    "RowSpace",
    "as_float64",
    "check_pairs",
    "row_space",
]

Array: TypeAlias = npt.NDArray[np.float64]
Gates: TypeAlias = tuple[npt.NDArray[np.bool_], ...]  # one array [n_i] for each layer: the unit is open

UNIT = 2.0**-53  # unit roundoff of float64


class Layer(NamedTuple):
    """z -> relu(weight z + bias): weight [m, n], bias [m]."""

    weight: Array
    bias: Array


class Pattern(NamedTuple):
    """The gates of both points; those of the last layer are the same, for the features are."""

    u: Gates
    v: Gates

    def key(self) -> bytes:
        """The same for the same pattern of one network."""
        return b"".join(gate.tobytes() for gate in self.u + self.v)


class RowSpace(NamedTuple):
    """The row space of a matrix: an orthonormal basis [d, r], and the largest and smallest singular value.

    Singular values below max(m, d) 2^-52 of the largest are rounding errors of zero; all others count.
    """

    basis: Array
    largest: float
    smallest: float  # the smallest that is not zero; inf for the zero matrix


def row_space(weight: Array) -> RowSpace:
    """The row space of a matrix [m, d], by its singular value decomposition."""
    _, sigma, rows = np.linalg.svd(weight, full_matrices=False)
    rank = numerical_rank(sigma, weight.shape)
    return RowSpace(rows[:rank].T.copy(), *extremes(sigma, rank))


def numerical_rank(sigma: Array, shape: tuple[int, ...]) -> int:
    """The number of singular values (largest first) that are not a rounding error of zero."""
    return int((sigma > max(shape) * 2 * UNIT * sigma[0]).sum()) if sigma.size else 0


def extremes(sigma: Array, rank: int) -> tuple[float, float]:
    """The largest singular value, and the smallest that is not zero."""
    return (float(sigma[0]), float(sigma[rank - 1])) if rank else (0.0, np.inf)


@dataclass(frozen=True, eq=False)
class Network:
    """Layers that chain, each followed by ReLU; `Network.of` checks them."""

    layers: tuple[Layer, ...]

    @classmethod
    def of(cls, layers: Iterable[Any]) -> Network:
        """From [(L, k), ...]: L [m, n] and k [m], arrays or tensors; k may be None.

        Raises ValueError naming the layer that does not fit, and for values that are not finite.
        """
        if isinstance(layers, Network):
            return layers
        checked: list[Layer] = []
        for i, layer in enumerate(layers, start=1):
            try:
                weight, bias = layer
            except (TypeError, ValueError):
                raise ValueError(
                    f"layer {i} is {type(layer).__name__}, not a pair (L, k); fold other kinds of layer into "
                    "matrices first"
                ) from None
            weight = as_float64(weight, f"the matrix of layer {i}", 2)
            rows, columns = weight.shape
            bias = np.zeros(rows) if bias is None else as_float64(bias, f"the bias of layer {i}", 1)
            if len(bias) != rows:
                raise ValueError(
                    f"layer {i} has {rows} rows and a bias of {len(bias)}; they must be the same number"
                )
            if checked and columns != len(checked[-1].bias):
                raise ValueError(
                    f"layer {i} takes {columns} inputs, but layer {i - 1} gives {len(checked[-1].bias)}; "
                    "layers must chain: pass them in order, each matrix as [outputs, inputs]"
                )
            checked.append(Layer(weight, bias))
        if not checked:
            raise ValueError("there are no layers; pass at least one pair (L, k)")
        return cls(tuple(checked))

    @property
    def inputs(self) -> int:
        """d, the size of the input."""
        return self.layers[0].weight.shape[1]

    @cached_property
    def space(self) -> RowSpace:
        """The row space of the first matrix. Points differ there only; the rest of the input is idle."""
        return row_space(self.layers[0].weight)

    @cached_property
    def reduced(self) -> Array:
        """The first matrix in the basis of its row space, [n_1, r]."""
        return self.layers[0].weight @ self.space.basis

    @cached_property
    def gram(self) -> Array:
        """Products of the rows of the first matrix, [n_1, n_1]."""
        return self.reduced @ self.reduced.T

    @cached_property
    def _absolute(self) -> tuple[Array, ...]:
        return tuple(np.abs(layer.weight) for layer in self.layers)

    @cached_property
    def fuzz(self) -> float:
        """Bounds, in norm, the rounding error of every matrix that `affine` gives."""
        sizes = np.cumprod([np.linalg.norm(layer.weight) for layer in self.layers])
        terms = self.inputs + sum(len(layer.bias) for layer in self.layers)
        return float(2 * terms * UNIT * np.sqrt(self.reduced.shape[1]) * sizes.max())

    def pre_activations(self, x: Array, gates: Gates | None = None) -> list[Array]:
        """Inputs of the ReLUs, layer by layer: [..., d] -> [..., n_i]. Given gates replace the ReLUs."""
        values: list[Array] = []
        for i, (weight, bias) in enumerate(self.layers):
            values.append(x @ weight.T + bias)
            x = np.maximum(values[-1], 0) if gates is None else np.where(gates[i], values[-1], 0.0)
        return values

    def features(self, x: Array) -> Array:
        """What the last ReLU gives: [..., d] -> [..., m]."""
        return np.maximum(self.pre_activations(x)[-1], 0)

    def rounding(self, x: Array, gates: Gates) -> list[Array]:
        """Bounds of the rounding errors of `pre_activations(x, gates)` for one point [d]: [n_i] each.

        A sum of n products in any order is within n u / (1 - n u) of the sum of their magnitudes; errors of
        the layer before come on top (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1).
        """
        bounds: list[Array] = []
        error = np.zeros_like(x)
        for i, (layer, absolute) in enumerate(zip(self.layers, self._absolute, strict=True)):
            terms = len(x) + 2
            factor = terms * UNIT / (1 - terms * UNIT)
            size = absolute @ (np.abs(x) + error) + np.abs(layer.bias)
            bounds.append((1 + factor) * (absolute @ error) + 1.01 * factor * size)
            x = np.where(gates[i], layer.weight @ x + layer.bias, 0.0)
            error = np.where(gates[i], bounds[-1], 0.0)
        return bounds

    def affine(self, gates: Gates) -> list[tuple[Array, Array]]:
        """Pre-activations as A (V^T x) + a on these gates: A [n_i, r], a [n_i] for each layer.

        V is the basis of `space`.
        """
        pieces = [(self.reduced, self.layers[0].bias)]
        for gate, (weight, bias) in zip(gates, self.layers[1:], strict=False):
            rows, offset = pieces[-1]
            pieces.append((weight[:, gate] @ rows[gate], weight[:, gate] @ offset[gate] + bias))
        return pieces

    def pattern(self, x: Array) -> Pattern:
        """The pattern of a point [d] met with itself: a unit is open where its pre-activation is above 0."""
        gates = tuple(value > 0 for value in self.pre_activations(x))
        return Pattern(gates, gates)


def as_float64(values: Any, name: str, axes: int) -> Array:
    """A float64 array with so many axes, finite and not empty; tensors are detached and copied to the CPU."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().double().numpy()
    try:
        array = np.asarray(values)
        if np.iscomplexobj(array):
            raise TypeError
        array = array.astype(np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"{name} is no array of real numbers; pass a NumPy array or a tensor") from None
    if array.ndim != axes:
        expected = {1: "[n]", 2: "[rows, columns]"}[axes]
        raise ValueError(f"{name} has shape {array.shape}; expected {expected}: reshape it first")
    if array.size == 0:
        raise ValueError(f"{name} has shape {array.shape}, which is empty; pass at least one row and column")
    if not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).sum())
        raise ValueError(f"{name} has {bad} values that are NaN or infinite; remove or replace them")
    return array


def check_pairs(u: Any, v: Any, inputs: int) -> tuple[Array, Array]:
    """Both ends of the pairs as float64 [B, d]. Raises ValueError where the shapes do not fit."""
    u, v = as_float64(u, "u", 2), as_float64(v, "v", 2)
    if u.shape != v.shape:
        raise ValueError(
            f"u has shape {u.shape} and v has shape {v.shape}; row i of both is one pair, so they must agree"
        )
    check_width(u, "u", inputs)
    return u, v


def check_width(points: Array, name: str, inputs: int) -> None:
    """Raises ValueError unless the points [N, d] have the size that the first layer takes."""
    if points.shape[1] != inputs:
        raise ValueError(
            f"{name} has {points.shape[1]} columns, but the first layer takes {inputs} inputs; "
            "flatten images with reshape(len(images), -1)"
        )


def gates_equal(first: Sequence[Any], second: Sequence[Any]) -> bool:
    """The same gates in every layer."""
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
