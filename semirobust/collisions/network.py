"""Networks in which collisions are searched: float64 layers, and their affine maps on a fixed pattern.

A network here is relu(L2 relu(L1 x + k1) + k2) and so on, for any number of layers. The last layer may have
no ReLU. A unit is open where its ReLU passes the pre-activation, and closed where it gives 0. On a fixed
pattern of open and closed units (the gates) every pre-activation is affine in the input; all solvers build on
that. The units of a last layer without ReLU are open on every pattern.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from semirobust.extractors import UNIT, Array, as_float64, extremes, numerical_rank, unit_scale

Gates: TypeAlias = tuple[npt.NDArray[np.bool_], ...]  # one array [n_i] for each layer: True for an open unit


class Layer(NamedTuple):
    """z -> relu(weight z + bias): weight [m, n], bias [m]."""

    weight: Array
    bias: Array


class Pattern(NamedTuple):
    """The gates of both points. Those of the last layer are the same, because the features are."""

    u: Gates
    v: Gates

    def key(self) -> bytes:
        """Bytes that identify the pattern among those of one network."""
        return b"".join(gate.tobytes() for gate in self.u + self.v)


class RowSpace(NamedTuple):
    """The row space of a matrix: an orthonormal basis [d, r], and the largest and smallest singular value.

    The singular values are those of the matrix after `unit_scale` has scaled all rows to one size, which does
    not change the row space. Values below max(m, d) 2^-52 times the largest count as zero.
    """

    basis: Array
    largest: float
    smallest: float  # nonzero singular value; inf for the zero matrix


def row_space(weight: Array) -> RowSpace:
    """The row space of a matrix [m, d], by an SVD of the matrix with its rows scaled to one size."""
    _, sigma, rows = np.linalg.svd(weight * unit_scale(weight)[:, None], full_matrices=False)
    rank = numerical_rank(sigma, weight.shape)
    return RowSpace(rows[:rank].T.copy(), *extremes(sigma, rank))


@dataclass(frozen=True, eq=False)
class Network:
    """Layers that chain, each followed by ReLU; the last only if `rectified`. `Network.of` checks them."""

    layers: tuple[Layer, ...]
    rectified: bool = True

    @classmethod
    def of(cls, layers: Iterable[Any] | Network, rectified: bool = True) -> Network:
        """From [(L, k), ...]: L [m, n] and k [m], arrays or tensors; k may be None.

        Raises ValueError, naming the layer, where shapes do not fit or values are not finite, and TypeError
        where `rectified` is not a bool. A network is returned unchanged.
        """
        if not isinstance(rectified, bool):
            raise TypeError(f"rectified is {rectified!r}; it must be True or False")
        if isinstance(layers, Network):
            if layers.rectified != rectified:
                raise ValueError(f"the network was made with rectified={layers.rectified}; pass the same")
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
        return cls(tuple(checked), rectified)

    @property
    def signed(self) -> int:
        """The number of layers followed by a ReLU: their gates fix the signs of the pre-activations."""
        return len(self.layers) - (not self.rectified)

    @property
    def inputs(self) -> int:
        """d, the size of the input."""
        return self.layers[0].weight.shape[1]

    @cached_property
    def prefixes(self) -> tuple[Network, ...]:
        """The first layer, the first two layers and so on, with their ReLUs, but not the whole network."""
        shorter = tuple(Network(self.layers[:depth]) for depth in range(1, len(self.layers)))
        for network in shorter:
            network.__dict__["_factors"] = self._factors  # shared: the first matrix is the same
        return shorter

    @cached_property
    def _factors(self) -> tuple[Array, Array, RowSpace]:
        """The first matrix as U diag(sigma) V^T: U [n_1, r], sigma [r], and V [d, r] in its row space."""
        weight = self.layers[0].weight
        space = row_space(weight)
        left, sigma, turn = np.linalg.svd(weight @ space.basis, full_matrices=False)
        return left, sigma, space._replace(basis=space.basis @ turn.T)

    @property
    def space(self) -> RowSpace:
        """The row space of the first matrix: the only part of the input that the network depends on."""
        return self._factors[2]

    @property
    def singular(self) -> tuple[Array, Array]:
        """The first matrix in the basis of its row space is U diag(sigma): U [n_1, r] and sigma [r]."""
        return self._factors[:2]

    @cached_property
    def reduced(self) -> Array:
        """The first matrix in the basis of its row space, [n_1, r]."""
        return self.layers[0].weight @ self.space.basis

    @cached_property
    def gram(self) -> Array:
        """Products of the rows of the first matrix, [n_1, n_1]."""
        return self.reduced @ self.reduced.T

    @cached_property
    def reach(self) -> tuple[Array, ...]:
        """[n_i] for each layer: upper bounds of the norms of the rows of `affine`, for any gates."""
        return self._bounds(2)

    @cached_property
    def sizes(self) -> tuple[Array, ...]:
        """As `reach`, but also for matrices of absolute values: rounding errors are relative to this size."""
        return self._bounds("fro")

    def _bounds(self, norm: Any) -> tuple[Array, ...]:
        size, bounds = 1.001, []
        for weight, _ in self.layers:
            bounds.append(size * np.linalg.norm(weight, axis=1))
            size *= 1.001 * float(np.linalg.norm(weight, norm))
        return tuple(bounds)

    @cached_property
    def absolute(self) -> tuple[Array, ...]:
        """The matrices with absolute values as entries."""
        return tuple(np.abs(layer.weight) for layer in self.layers)

    @cached_property
    def moving(self) -> np.ndarray:
        """bool [n_1]: units of the first layer that depend on the input."""
        return np.asarray(self.layers[0].weight.any(axis=1))

    @cached_property
    def fuzz(self) -> float:
        """An upper bound of the norm of the rounding error of every matrix that `affine` gives."""
        sizes = np.cumprod([np.linalg.norm(layer.weight) for layer in self.layers])
        terms = self.inputs + sum(len(layer.bias) for layer in self.layers)
        return float(2 * terms * UNIT * np.sqrt(self.reduced.shape[1]) * sizes.max())

    def pre_activations(self, x: Array, gates: Gates | None = None) -> list[Array]:
        """Values before the ReLUs, by layer: [..., d] -> [..., n_i]. Gates, if given, replace the ReLUs."""
        values: list[Array] = []
        for i, (weight, bias) in enumerate(self.layers):
            values.append(x @ weight.T + bias)
            x = np.maximum(values[-1], 0) if gates is None else np.where(gates[i], values[-1], 0.0)
        return values

    def features(self, x: Array) -> Array:
        """The output of the last layer: [..., d] -> [..., m]."""
        last = self.pre_activations(x)[-1]
        return np.maximum(last, 0) if self.rectified else last

    def rounding(self, x: Array, gates: Gates) -> list[Array]:
        """Bounds of the rounding errors of `pre_activations(x, gates)`: [..., d] -> [..., n_i].

        A sum of n products in any order has an error of at most n u / (1 - n u) times the sum of their
        magnitudes. Errors of the layer before are added (Higham, Accuracy and Stability of Numerical
        Algorithms, section 3.1).
        """
        bounds: list[Array] = []
        error = np.zeros_like(x)
        for i, (layer, absolute) in enumerate(zip(self.layers, self.absolute, strict=True)):
            terms = x.shape[-1] + 2
            factor = terms * UNIT / (1 - terms * UNIT)
            size = (np.abs(x) + error) @ absolute.T + np.abs(layer.bias)
            bounds.append(1.01 * factor * size)
            if i > 0:
                bounds[-1] += (1 + factor) * (error @ absolute.T)
            if i + 1 < len(self.layers):
                x = np.where(gates[i], x @ layer.weight.T + layer.bias, 0.0)
                error = np.where(gates[i], bounds[-1], 0.0)
        return bounds

    def affine(self, gates: Gates) -> list[tuple[Array, Array]]:
        """The pre-activations on these gates as A (V^T x) + a: A [n_i, r], a [n_i] for each layer.

        V is the basis of `space`.
        """
        pieces = [(self.reduced, self.layers[0].bias)]
        for gate, (weight, bias) in zip(gates, self.layers[1:], strict=False):
            rows, offset = pieces[-1]
            pieces.append((weight[:, gate] @ rows[gate], weight[:, gate] @ offset[gate] + bias))
        return pieces

    def pattern(self, x: Array) -> Pattern:
        """The pattern of one point [d], taken twice: a unit is open where its pre-activation is above 0."""
        values = self.pre_activations(x)
        return self.pattern_of(values, values)

    def pattern_of(self, p_u: list[Array], p_v: list[Array], above: float = 0.0) -> Pattern:
        """The pattern of two points from their pre-activations [n_i].

        A unit is open where its pre-activation exceeds the threshold; a unit of the last layer where it does
        at both points, or where there is no ReLU.
        """
        last = (p_u[-1] > above) & (p_v[-1] > above) | (not self.rectified)
        gates_u, gates_v = ((*(value > above for value in values[:-1]), last) for values in (p_u, p_v))
        return Pattern(gates_u, gates_v)


def gates_equal(first: Sequence[Any], second: Sequence[Any]) -> bool:
    """Whether two sets of gates agree in every layer."""
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
