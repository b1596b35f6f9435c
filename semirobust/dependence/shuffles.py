"""Samples by class, and random orders within a class."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from semirobust.edge import MIN_SAMPLES

Integers: TypeAlias = npt.NDArray[np.int64]
Labels: TypeAlias = npt.ArrayLike | torch.Tensor


def by_class(labels: Labels, n: int) -> dict[int, Integers]:
    """Class -> the rows of its samples, in increasing order of the class numbers; checked."""
    array = labels.detach().cpu().numpy() if isinstance(labels, torch.Tensor) else np.asarray(labels)
    if not np.issubdtype(array.dtype, np.integer):
        raise TypeError(
            f"labels have dtype {array.dtype}; pass class numbers as integers, e.g. labels.long()"
        )
    if array.shape != (n,):
        raise ValueError(f"labels have shape {array.shape}; expected one class number per sample, ({n},)")
    if n == 0:
        raise ValueError("there are no samples")
    if array.min() < 0:
        raise ValueError(f"labels contain {array.min()}; class numbers start at 0")
    groups = {int(label): np.flatnonzero(array == label) for label in np.unique(array)}
    for label, rows in groups.items():
        if len(rows) < MIN_SAMPLES:
            raise ValueError(
                f"class {label} has {len(rows)} samples; an estimate needs at least {MIN_SAMPLES}: pass more "
                f"of that class, or leave it out (keep = labels != {label})"
            )
    return groups


def check_shuffles(shuffles: int) -> int:
    if shuffles < 1:
        raise ValueError(f"shuffles is {shuffles}; the control needs at least 1")
    return shuffles


def shuffled(n: int, shuffles: int, seed: int, label: int) -> list[Integers]:
    """Random orders of a class's n samples; they depend on the seed and the class only."""
    rng = np.random.default_rng([seed, label])
    return [rng.permutation(n) for _ in range(shuffles)]
