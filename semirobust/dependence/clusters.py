"""Plug-in information between discrete values: clusters or predictions of layers, or labels."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import numpy.typing as npt
from sklearn.cluster import KMeans
from sklearn.metrics import mutual_info_score

from semirobust.dependence.measure import Array, Dependence, Measure, Score, as_pair
from semirobust.dependence.shuffles import Integers, Labels, by_class
from semirobust.edge import Samples

Correction = Literal["none", "miller_madow"]


def plug_in(a: npt.ArrayLike, b: npt.ArrayLike, *, correction: Correction = "none") -> float:
    """I(a; b) of the empirical joint law of two numberings, integers [n], in bits (scikit-learn's).

    In [0, log2 min(#a, #b)]; too large by about (#a - 1)(#b - 1) / (2 n ln 2) for independent data.
    correction: "miller_madow" adds (#a + #b - #ab - 1) / (2 n ln 2) with the numbers of values and of pairs
    that occur (Miller, 1955); the result may then be negative.
    Raises TypeError for anything but integers, ValueError for unequal n, no samples, an unknown correction.
    """
    a, b = np.asarray(a), np.asarray(b)
    for values in (a, b):
        if not np.issubdtype(values.dtype, np.integer):
            raise TypeError(f"class numbers have dtype {values.dtype}; pass integers")
    if a.shape != b.shape or a.ndim != 1 or len(a) == 0:
        raise ValueError(f"class numbers have shapes {a.shape} and {b.shape}; expected [n] twice, n >= 1")
    _check_correction(correction)
    dense_a, dense_b = (np.unique(values, return_inverse=True)[1] for values in (a, b))
    seen_a, seen_b = int(dense_a.max()) + 1, int(dense_b.max()) + 1
    table = np.bincount(dense_a * seen_b + dense_b, minlength=seen_a * seen_b).reshape(seen_a, seen_b)
    nats = float(mutual_info_score(None, None, contingency=table))
    if correction == "miller_madow":
        nats += (seen_a + seen_b - np.count_nonzero(table) - 1) / (2 * len(a))
    return nats / math.log(2)


def classes(*, clusters: int | None = 10, correction: Correction = "none") -> Measure:
    """Plug-in information in bits between the clusters of x and those of y; at most log2 of their number.

    clusters: of scikit-learn's k-means, one start, on the values as they are; a layer with fewer different
    rows gets as many. None takes the largest coordinate instead: the prediction, for logits.
    correction: as in `plug_in`. Raises ValueError for fewer than 2 clusters or an unknown correction.
    """
    _check_clusters(clusters)
    _check_correction(correction)

    def begin(x: Array, y: Array, generator: np.random.Generator) -> Score:
        return _pairs(_numbers(x, clusters, generator), _numbers(y, clusters, generator), correction)

    def cap(n: int, dx: int, dy: int) -> float:
        return math.log2(min(n, dx, dy) if clusters is None else min(n, clusters))

    return Measure("classes", "bits", begin, cap if correction == "none" else lambda n, dx, dy: None)


def label_information(
    outputs: Samples,
    labels: Labels,
    *,
    clusters: int | None = 10,
    correction: Correction = "none",
    shuffles: int = 5,
    seed: int = 0,
) -> Dependence:
    """Plug-in I(class of the layer's output; label) in bits: what a layer [n, d] knows of the labels [n].

    The other signature of this package: the second argument is the labels, integers, and the control shuffles
    them over all samples. It bounds the layer's information about the label from below (but for the bias of
    plug-in estimates, which the control shows). Options and errors as `classes` and `Measure.__call__`.
    """
    _check_clusters(clusters)
    _check_correction(correction)
    rows = by_class(labels, len(outputs))
    numbers = np.empty(len(outputs), dtype=np.int64)
    for label, index in rows.items():
        numbers[index] = label
    x, y = as_pair(outputs, numbers.astype(np.float64))

    def begin(x: Array, y: Array, generator: np.random.Generator) -> Score:
        return _pairs(_numbers(x, clusters, generator), y[:, 0].astype(np.int64), correction)

    def cap(n: int, dx: int, dy: int) -> float | None:
        return math.log2(min(n, dx if clusters is None else clusters, len(rows)))

    measure = Measure(
        "label_information", "bits", begin, cap if correction == "none" else lambda n, dx, dy: None
    )
    return measure(x, y, shuffles=shuffles, seed=seed)


def _pairs(a: Integers, b: Integers, correction: Correction) -> Score:
    return lambda rows_x, rows_y: plug_in(a[rows_x], b[rows_y], correction=correction)


def _numbers(values: Array, clusters: int | None, generator: np.random.Generator) -> Integers:
    """Class numbers [n] of the rows: the largest coordinate, or the k-means cluster."""
    if clusters is None:
        return values.argmax(axis=1)
    count = min(clusters, len(np.unique(values, axis=0)))
    seed = int(generator.integers(2**31))
    return KMeans(count, n_init=1, random_state=seed).fit_predict(values).astype(np.int64)


def _check_clusters(clusters: int | None) -> None:
    if clusters is not None and clusters < 2:
        raise ValueError(f"clusters is {clusters}; it must be 2 or more, or None for the largest coordinate")


def _check_correction(correction: str) -> None:
    if correction not in ("none", "miller_madow"):
        raise ValueError(f"unknown correction {correction!r}; known: none, miller_madow")
