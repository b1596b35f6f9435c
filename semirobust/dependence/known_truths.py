"""Joint laws with mutual information in closed form, to see what an estimator gets wrong.

A law is a frozen dataclass with `bits`, its mutual information (infinite where it is), `sample(n, generator)`
(x [n, d] and y [n, d'], float64), and `truths`, everything known of it by name:

* ``information``: I(x; y) in bits,
* ``conditional_entropy``: H(x | y) in bits, for discrete x,
* ``linear_cka`` and ``correlation``: the values of these measures in the limit of many samples,
* ``hsic``: 0, for independent sides.

A symbol s of q is given to an estimator as a row of the identity, so that its clusters and its largest
coordinate both tell it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.float64]


class Law(Protocol):
    """See the module. `family` groups laws in a figure; `label` names one."""

    family: ClassVar[str]

    @property
    def label(self) -> str: ...
    @property
    def bits(self) -> float: ...
    @property
    def truths(self) -> dict[str, float]: ...
    def sample(self, n: int, generator: np.random.Generator) -> tuple[Array, Array]: ...


def entropy_bits(probabilities: npt.ArrayLike) -> float:
    """Shannon entropy of a law on finitely many values, in bits."""
    p = np.asarray(probabilities, dtype=np.float64)
    p = p[p > 0]
    return float(-(p @ np.log2(p))) + 0.0


def one_hot(symbols: npt.NDArray[np.int64], q: int) -> Array:
    """Symbols [n] in range(q) -> [n, q], rows of the identity."""
    return np.eye(q)[symbols]


@dataclass(frozen=True)
class Gaussian:
    """d independent pairs of standard normal coordinates, each correlated by r: I = -d/2 log2(1 - r^2)."""

    d: int
    r: float
    family: ClassVar[str] = "gaussian"

    def __post_init__(self) -> None:
        if self.d < 1 or not -1 < self.r < 1:
            raise ValueError(f"d is {self.d} and r is {self.r}; d must be 1 or more and r between -1 and 1")

    @property
    def label(self) -> str:
        return f"Gaussian, d = {self.d}, r = {self.r:g}"

    @property
    def bits(self) -> float:
        return -self.d / 2 * math.log2(1 - self.r**2) + 0.0

    @property
    def truths(self) -> dict[str, float]:
        known = {"information": self.bits, "linear_cka": self.r**2, "correlation": abs(self.r) / self.d}
        return known | ({"hsic": 0.0} if self.r == 0 else {})

    def sample(self, n: int, generator: np.random.Generator) -> tuple[Array, Array]:
        x = generator.standard_normal((n, self.d))
        noise = generator.standard_normal((n, self.d))
        return x, self.r * x + math.sqrt(1 - self.r**2) * noise


@dataclass(frozen=True)
class SymmetricChannel:
    """A uniform symbol of q, replaced with probability `error` by another one, uniform among them.

    I = log2 q - h(error) - error log2(q - 1); q = 2 is the binary symmetric channel.
    """

    q: int
    error: float
    family: ClassVar[str] = "channel"

    def __post_init__(self) -> None:
        if self.q < 2 or not 0 <= self.error <= 1:
            raise ValueError(f"q is {self.q} and error is {self.error}; q must be 2 or more, error in [0, 1]")

    @property
    def label(self) -> str:
        return f"channel, q = {self.q}, error {self.error:g}"

    @property
    def bits(self) -> float:
        lost = entropy_bits([self.error, 1 - self.error]) + self.error * math.log2(self.q - 1)
        return math.log2(self.q) - lost

    @property
    def truths(self) -> dict[str, float]:
        # of centred one-hot sides: cross-covariance t times the covariance, t = 1 - error q / (q - 1)
        kept = 1 - self.error * self.q / (self.q - 1)
        # correlations of coordinates: t on the diagonal, -t / (q - 1) off it
        mean = abs(kept) * 2 / self.q
        return {
            "information": self.bits,
            "conditional_entropy": math.log2(self.q) - self.bits,
            "linear_cka": kept**2,
            "correlation": mean,
        }

    def sample(self, n: int, generator: np.random.Generator) -> tuple[Array, Array]:
        sent = generator.integers(self.q, size=n)
        shift = np.where(generator.random(n) < self.error, generator.integers(1, self.q, size=n), 0)
        return one_hot(sent, self.q), one_hot((sent + shift) % self.q, self.q)


@dataclass(frozen=True)
class Merging:
    """A deterministic map of symbols: x uniform on q symbols, y = x // block. I = H(y) = log2(q / block)."""

    q: int
    block: int
    family: ClassVar[str] = "deterministic"

    def __post_init__(self) -> None:
        if self.block < 1 or self.q < 2 * self.block or self.q % self.block:
            raise ValueError(f"q is {self.q} and block is {self.block}; q must be 2, 3, ... times block")

    @property
    def label(self) -> str:
        return f"merging {self.q} symbols by {self.block}"

    @property
    def bits(self) -> float:
        return math.log2(self.q // self.block)

    @property
    def truths(self) -> dict[str, float]:
        return {"information": self.bits, "conditional_entropy": math.log2(self.block)}

    def sample(self, n: int, generator: np.random.Generator) -> tuple[Array, Array]:
        x = generator.integers(self.q, size=n)
        return one_hot(x, self.q), one_hot(x // self.block, self.q // self.block)


@dataclass(frozen=True)
class Layer:
    """A deterministic layer with a continuous output: x standard normal in d dimensions, y = tanh(W x), with
    one fixed orthogonal W. I is infinite: no estimate from n samples can be right.
    """

    d: int
    family: ClassVar[str] = "deterministic"

    def __post_init__(self) -> None:
        if self.d < 1:
            raise ValueError(f"d is {self.d}; it must be 1 or more")

    @property
    def label(self) -> str:
        return f"tanh layer, d = {self.d}"

    @property
    def bits(self) -> float:
        return math.inf

    @property
    def truths(self) -> dict[str, float]:
        return {"information": math.inf}

    def sample(self, n: int, generator: np.random.Generator) -> tuple[Array, Array]:
        weight = np.linalg.qr(np.random.default_rng(self.d).standard_normal((self.d, self.d)))[0]
        x = generator.standard_normal((n, self.d))
        return x, np.tanh(x @ weight.T)


@dataclass(frozen=True)
class Overlap:
    """Discrete x, continuous y: x uniform on {0, ..., q - 1}, y uniform on [x, x + 2].

    I = log2 q - (q - 1) / q (Gao, Kannan, Oh and Viswanath, 2017); x is given as a number.
    """

    q: int
    family: ClassVar[str] = "mixed"

    def __post_init__(self) -> None:
        if self.q < 1:
            raise ValueError(f"q is {self.q}; it must be 1 or more")

    @property
    def label(self) -> str:
        return f"overlapping intervals, q = {self.q}"

    @property
    def bits(self) -> float:
        return math.log2(self.q) - (self.q - 1) / self.q

    @property
    def truths(self) -> dict[str, float]:
        return {"information": self.bits, "conditional_entropy": math.log2(self.q) - self.bits}

    def sample(self, n: int, generator: np.random.Generator) -> tuple[Array, Array]:
        x = generator.integers(self.q, size=(n, 1)).astype(np.float64)
        return x, x + 2 * generator.random((n, 1))


@dataclass(frozen=True)
class Erasure:
    """A Gaussian pair whose y is lost with probability `error`: then y = 10 in every coordinate, an atom.

    Whether y was lost tells nothing of x, so I = (1 - error) times the Gaussian information.
    """

    d: int
    r: float
    error: float
    family: ClassVar[str] = "mixed"

    def __post_init__(self) -> None:
        Gaussian(self.d, self.r)
        if not 0 <= self.error <= 1:
            raise ValueError(f"error is {self.error}; it must be in [0, 1]")

    @property
    def label(self) -> str:
        return f"erased Gaussian, d = {self.d}, r = {self.r:g}, error {self.error:g}"

    @property
    def bits(self) -> float:
        return (1 - self.error) * Gaussian(self.d, self.r).bits

    @property
    def truths(self) -> dict[str, float]:
        return {"information": self.bits}

    def sample(self, n: int, generator: np.random.Generator) -> tuple[Array, Array]:
        x, y = Gaussian(self.d, self.r).sample(n, generator)
        y[generator.random(n) < self.error] = 10.0
        return x, y
