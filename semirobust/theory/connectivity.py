"""Layers that are linear in all earlier ones: Lemma 2 and Theorem 3 of arXiv 2307.03803, corrected.

There every layer j > a is f^(j) = sum over i < j of lambda_ij^T f^(i). Unrolled, f^(n) is a linear function
of f^(1), ..., f^(a) whose matrix M_l is a sum over paths, so (with Gamma the robust correlation)

    Gamma(f^(n)) >= sum_l Gamma_l(M_l) >= sum_l sum_paths Gamma_l(product along the path),

since an infimum of a sum is at least the sum of the infima. Where this departs from the paper:
1. The given lambda have to certify their layers. That layer l is semirobust with some other readout says
   nothing: with lambda = 0 the output is constant.
2. (32) is ">=", not "=".
3. The number of paths from each l <= a is 2^m with m = n - 1 - a. The theorem states m (m + 1) / 2 and its
   proof gives 1 + m (m + 1) / 2. Any of them is pure scale: normalised, no path gains over layer 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import combinations, pairwise
from numbers import Rational
from typing import Any, NamedTuple

import numpy as np

Path = tuple[int, ...]


class PathCount(NamedTuple):
    """The factor of gamma_a in Theorem 3: as stated, as its proof derives it, and the number of paths."""

    stated: int
    derived: int
    exact: int


def path_count(m: int) -> PathCount:
    """The three constants for ``m`` = n - 1 - a layers between f_a and the output; m >= 0."""
    if m < 0:
        raise ValueError(f"m = n - 1 - a must be at least 0, got {m}")
    return PathCount(m * (m + 1) // 2, 1 + m * (m + 1) // 2, 2**m)


class LinearConnectivity:
    """The connections of Theorem 3: f^(j) = sum over i < j of lambda_ij^T f^(i) for j = a + 1, ..., n.

    ``connections[i, j]`` is lambda_ij, a matrix [dim_i, dim_j]; a number stands for 1 x 1, a list of numbers
    for one column. Whole numbers and fractions stay exact (arrays of ``Fraction``); anything else is float64.
    Lemma 2 is a = n - 1.
    """

    def __init__(self, connections: Mapping[tuple[int, int], Any], *, a: int, n: int) -> None:
        """Raises ``ValueError`` unless 1 <= a < n, for a missing or extra connection, or shapes that do not
        chain.
        """
        if not 1 <= a < n:
            raise ValueError(f"a and n must satisfy 1 <= a < n, got a={a} and n={n}")
        wanted = {(i, j) for j in range(a + 1, n + 1) for i in range(1, j)}
        if missing := sorted(wanted - set(connections)):
            raise ValueError(
                f"no connection {missing[0]}: give one for each i < j, zeros where there is none"
            )
        if extra := sorted(set(connections) - wanted, key=str):
            raise ValueError(f"connection {extra[0]} is not one of (i, j) with 1 <= i < j, {a} < j <= {n}")
        self.a, self.n, self.m = a, n, n - 1 - a
        self.connections = {key: _matrix(connections[key], key) for key in sorted(wanted)}
        self.dimensions: dict[int, int] = {}
        for (i, j), matrix in self.connections.items():
            for layer, size in zip((i, j), matrix.shape, strict=True):
                if self.dimensions.setdefault(layer, size) != size:
                    raise ValueError(
                        f"connection {i, j} has shape {matrix.shape}, but layer {layer} has dimension "
                        f"{self.dimensions[layer]}: give matrices [dim_i, dim_j]"
                    )

    def paths(self, layer: int) -> list[Path]:
        """All increasing paths layer -> ... -> n through layers above a, 2^m of them; 1 <= layer <= a."""
        self._check(layer)
        between = range(self.a + 1, self.n)
        inner = (nodes for size in range(self.m + 1) for nodes in combinations(between, size))
        return [(layer, *nodes, self.n) for nodes in inner]

    def path_products(self, layer: int) -> dict[Path, np.ndarray]:
        """lambda_{l i} lambda_{i k} ... lambda_{z n} for every path: [dim_l, dim_n]."""
        products: dict[Path, np.ndarray] = {}
        for path in self.paths(layer):
            steps = [self.connections[step] for step in pairwise(path)]
            product = steps[0]
            for matrix in steps[1:]:
                product = product @ matrix
            products[path] = product
        return products

    def transfer(self) -> dict[int, np.ndarray]:
        """M_l [dim_l, dim_n] for l = 1, ..., a, with f^(n) = sum_l M_l^T f^(l): one backward recursion."""
        to_output: dict[int, np.ndarray] = {}  # of layer i, all ways to the output
        for i in range(self.n - 1, 0, -1):
            through = [self.connections[i, k] @ to_output[k] for k in range(max(i, self.a) + 1, self.n)]
            to_output[i] = sum(through, start=self.connections[i, self.n])
        return {layer: to_output[layer] for layer in range(1, self.a + 1)}

    def unroll(self, features: Mapping[int, Any]) -> dict[int, np.ndarray]:
        """Run the layers: values [N, dim_l] of layers 1, ..., a give those of all layers up to n.

        Values are exact where they and the connections are. Raises ``ValueError`` for a layer that is
        missing or has another dimension.
        """
        values = {layer: _rows(features.get(layer), layer) for layer in range(1, self.a + 1)}
        for layer, value in values.items():
            if value.shape[1] != self.dimensions[layer] or len(value) != len(values[1]):
                raise ValueError(
                    f"features of layer {layer} have shape {value.shape}, wanted "
                    f"({len(values[1])}, {self.dimensions[layer]})"
                )
        for j in range(self.a + 1, self.n + 1):
            values[j] = sum(
                (values[i] @ self.connections[i, j] for i in range(2, j)),
                start=values[1] @ self.connections[1, j],
            )
        return values

    def _check(self, layer: int) -> None:
        if not 1 <= layer <= self.a:
            raise ValueError(f"layer must be one of f_a, 1 to {self.a}, got {layer}")


def linear_correlation(weights: Sequence[Any], mean: Sequence[Any], eps: Any, *, norm: str = "linf") -> Any:
    """Robust correlation of the readout w . x: E min over the ball of y w . (x + delta).

    ``mean``: E[y x]; the ball has radius ``eps`` in ``norm`` "linf" or "l2". Equals w . mean - eps ||w||_1 or
    - eps ||w||_2 (the dual norm), whatever the law of x; exact in linf for whole numbers and fractions.
    Raises ``ValueError`` for lengths that differ, another norm, or a negative eps.
    """
    w, mu = _column(weights), _column(mean)
    if len(w) != len(mu) or len(w) == 0:
        raise ValueError(f"weights and mean must have the same length, got {len(w)} and {len(mu)}")
    if norm not in ("linf", "l2") or not eps >= 0:
        raise ValueError(f"norm must be linf or l2 and eps at least 0, got {norm!r} and {eps}")
    dual = sum(abs(value) for value in w) if norm == "linf" else float(np.linalg.norm([float(v) for v in w]))
    return sum(x * y for x, y in zip(w, mu, strict=True)) - eps * dual


def _array(values: Any) -> np.ndarray:
    """Exact (objects) if all entries are whole numbers or fractions, else float64."""
    array = np.array(values, dtype=object)
    entries = [entry.item() if isinstance(entry, np.generic) else entry for entry in array.flat]
    exact = all(isinstance(entry, Rational) and not isinstance(entry, bool) for entry in entries)
    if exact:
        result = np.empty(len(entries), dtype=object)
        result[:] = [Fraction(entry) for entry in entries]
        return result.reshape(array.shape)
    return np.array([float(entry) for entry in entries]).reshape(array.shape)


def _matrix(values: Any, key: tuple[int, int]) -> np.ndarray:
    try:
        array = _array(values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"connection {key} is not a number or a matrix of numbers: {error}") from error
    array = array.reshape(-1, 1) if array.ndim < 2 else array
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"connection {key} must be a number or a matrix, got shape {array.shape}")
    if array.dtype != object and not np.isfinite(array).all():
        raise ValueError(f"connection {key} is not finite")
    return array


def _rows(values: Any, layer: int) -> np.ndarray:
    if values is None:
        raise ValueError(f"no features of layer {layer}: give values [N, dim] for every layer of f_a")
    array = _array(values)
    return array.reshape(-1, 1) if array.ndim < 2 else array


def _column(values: Sequence[Any]) -> list[Any]:
    return list(_array(values).ravel())
