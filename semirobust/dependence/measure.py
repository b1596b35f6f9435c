"""The protocol of all measures: one call, a shuffled control, and an average over the classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from semirobust.dependence.shuffles import Integers, Labels, by_class, check_shuffles, shuffled
from semirobust.edge import Samples, as_samples

Array: TypeAlias = npt.NDArray[np.float64]
#: (row numbers of x, row numbers of y) -> the value for these rows, paired in this order
Score: TypeAlias = Callable[[Integers, Integers], float]


@dataclass(frozen=True)
class Dependence:
    """A measured dependence; `float(dependence)` is its value.

    measure, unit: its name, and "bits", or "" where it has none.
    value: for the samples as they are paired.
    controls: the same for pairs shuffled (within the class where classes were given), one value per shuffle.
    cap: the largest value that so many samples allow; None where n sets no limit.
    n: the number of samples.
    """

    measure: str
    unit: str
    value: float
    controls: tuple[float, ...]
    cap: float | None
    n: int

    def __float__(self) -> float:
        return self.value

    @property
    def control(self) -> float:
        """Mean over the shuffles: what the measure gives to these two layers when nothing pairs them."""
        return float(np.mean(self.controls))

    @property
    def excess(self) -> float:
        """value - control: the part that the pairing of the samples makes; not clipped at 0."""
        return self.value - self.control


def _no_cap(n: int, dx: int, dy: int) -> float | None:
    return None


@dataclass(frozen=True)
class Measure:
    """A measure of dependence between x [n, d] and y [n, d'].

    prepare: reads both once (float64, finite) and returns a `Score`; the generator is for measures that draw.
        What is set from the data as a whole (projections, bandwidths, clusters) is set here, so a shuffle or
        a subsample changes the pairing or the samples and nothing else.
    cap: (n, d, d') -> the largest possible value, or None.
    """

    name: str
    unit: str
    prepare: Callable[[Array, Array, np.random.Generator], Score]
    cap: Callable[[int, int, int], float | None] = _no_cap

    def __call__(
        self, x: Samples, y: Samples, *, labels: Labels | None = None, shuffles: int = 5, seed: int = 0
    ) -> Dependence:
        """The dependence of all samples together, with its control.

        Args:
            x, y: [n, d] and [n, d'], or [n] for one coordinate, n >= 20; floating-point arrays, or tensors
                (detached, brought to the CPU). Row i of both is one sample.
            labels: integers [n]; where given, the control shuffles within the classes, so that what is left
                in it is what the classes alone make. Without, over all samples.
            shuffles: how many shuffles are scored.
            seed: of the shuffles, and of what the measure draws.

        Raises:
            ValueError: unequal n, fewer than 20 samples (of a class too), no coordinates, more than two axes,
                values that are not finite, labels of another length, shuffles below 1.
            TypeError: data that are not floating point, labels that are not integers.
        """
        x, y = as_pair(x, y)
        n = len(x)
        groups = {0: np.arange(n)} if labels is None else by_class(labels, n)
        orders = within_groups(groups, check_shuffles(shuffles), seed)
        score = self.prepare(x, y, drawing(seed, 0))
        value, *controls = (score(np.arange(n), order) for order in (np.arange(n), *orders))
        return Dependence(
            self.name, self.unit, value, tuple(controls), self.cap(n, x.shape[1], y.shape[1]), n
        )


def within_classes(
    measure: Measure, x: Samples, y: Samples, labels: Labels, *, shuffles: int = 5, seed: int = 0
) -> Dependence:
    """The measure within each class, averaged with the class frequencies: value, controls and cap.

    With `edge` this is the quantity of Algorithm 1 of arXiv 2307.03803, the sum over y of
    pi(y) I(x; y-layer | y), with the numbers and the shuffles of `semirobust.dependence`.

    Options and errors as `Measure.__call__`; labels are required, and every class needs 20 samples.
    """
    x, y = as_pair(x, y)
    groups, shuffles = by_class(labels, len(x)), check_shuffles(shuffles)
    frequency = np.array([len(rows) for rows in groups.values()]) / len(x)  # pi(y)
    values, caps = [], []
    for label, rows in groups.items():
        score, n = measure.prepare(x[rows], y[rows], drawing(seed, label)), len(rows)
        orders = [np.arange(n), *shuffled(n, shuffles, seed, label)]
        values.append([score(np.arange(n), order) for order in orders])
        caps.append(measure.cap(n, x.shape[1], y.shape[1]))
    value, *controls = (frequency @ np.array(values)).tolist()  # [1 + shuffles]
    known = [cap for cap in caps if cap is not None]
    cap = float(frequency @ known) if len(known) == len(caps) else None
    return Dependence(measure.name, measure.unit, value, tuple(controls), cap, len(x))


# --- checks, classes and shuffles ---


def as_pair(x: Samples, y: Samples) -> tuple[Array, Array]:
    """Both sides as finite float64 arrays [n, d] and [n, d'] of equal n, or an error that says what to do."""
    sides = []
    for values, name in ((x, "x"), (y, "y")):
        array = np.ascontiguousarray(as_samples(values, name), dtype=np.float64)
        if not np.isfinite(array).all():
            raise ValueError(
                f"{name} has NaN or infinite values; check what produced it (a diverged network?) or leave "
                "those samples out"
            )
        sides.append(array)
    if len(sides[0]) != len(sides[1]):
        raise ValueError(
            f"x has {len(sides[0])} samples and y has {len(sides[1])}; row i of both must be the same sample"
        )
    return sides[0], sides[1]


def within_groups(groups: dict[int, Integers], shuffles: int, seed: int) -> list[Integers]:
    """Random orders of all samples that keep every sample in its class."""
    orders = [np.empty(sum(map(len, groups.values())), dtype=np.int64) for _ in range(shuffles)]
    for label, rows in groups.items():
        for order, inner in zip(orders, shuffled(len(rows), shuffles, seed, label), strict=True):
            order[rows] = rows[inner]
    return orders


def drawing(seed: int, label: int) -> np.random.Generator:
    """The generator that a measure draws from: apart from that of the shuffles."""
    return np.random.default_rng([seed, label, 1])


def standardised(values: Array) -> Array:
    """Each coordinate of [n, d] to mean 0 and deviation 1; coordinates that do not vary become exactly 0."""
    varies = values.max(axis=0) > values.min(axis=0)
    centred = np.where(varies, values - values.mean(axis=0), 0.0)
    deviation = np.sqrt(np.square(centred).mean(axis=0))
    return centred / np.where(deviation > 0, deviation, 1.0)
