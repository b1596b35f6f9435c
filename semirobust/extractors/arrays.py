"""Checked float64 arrays, with their numerical rank and scale.

What is passed to the extractors and collision finders becomes float64 here, or raises a clear error.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

Array: TypeAlias = npt.NDArray[np.float64]


def as_float64(values: Any, name: str, axes: int) -> Array:
    """A float64 array with `axes` axes, finite, not empty; tensors are detached and copied to the CPU."""
    array = as_reals(values, name)
    if array.ndim != axes:
        expected = {1: "[n]", 2: "[rows, columns]"}[axes]
        raise ValueError(f"{name} has shape {array.shape}; expected {expected}: reshape it first")
    if array.size == 0:
        raise ValueError(f"{name} has shape {array.shape}, which is empty; pass at least one row and column")
    if not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).sum())
        raise ValueError(f"{name} has {bad} values that are NaN or infinite; remove or replace them")
    return array


def as_reals(values: Any, name: str) -> Array:
    """A float64 array of any shape; tensors are detached and copied to the CPU."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().double().numpy()
    try:
        array = np.asarray(values)
        if np.iscomplexobj(array):
            raise TypeError
        return array.astype(np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"{name} is not a real array; pass a NumPy array or a tensor") from None


def check_pairs(u: Any, v: Any, inputs: int) -> tuple[Array, Array]:
    """Both ends of the pairs as float64 [B, d]. Raises ValueError where the shapes do not fit."""
    u, v = as_float64(u, "u", 2), as_float64(v, "v", 2)
    if u.shape != v.shape:
        raise ValueError(
            f"u has shape {u.shape} and v has shape {v.shape}; row i of both is one pair, so they must agree"
        )
    check_width(u, "u", inputs)
    return u, v


def check_points(at: Any, u: Array) -> tuple[Array, Array]:
    """Known collisions (u~, v~) of the pairs with ends u [B, d], as float64 [B, d]; NaN in both where there
    is none. Raises ValueError where the shapes do not fit or values are infinite, or NaN in parts of a row.
    """
    if not isinstance(at, tuple | list) or len(at) != 2:
        raise ValueError(
            f"at must be a pair (u~, v~), got {type(at).__name__}; pass two arrays of shape {u.shape}"
        )
    missing = [np.isnan(as_reals(values, "at")) for values in at]
    for values in missing:
        if values.shape != u.shape:
            raise ValueError(f"at has points of shape {values.shape} and u {u.shape}; they must agree")
    both = np.hstack(missing)  # [B, 2 d]
    partly = np.flatnonzero(both.any(axis=1) & ~both.all(axis=1))
    if len(partly):
        raise ValueError(
            f"row {partly[0]} of at is partly NaN; where no collision is known, fill both rows with NaN"
        )
    none = both[:, :1]
    first, second = (as_float64(np.where(none, 0.0, as_reals(values, "at")), "at", 2) for values in at)
    return np.where(none, np.nan, first), np.where(none, np.nan, second)


def check_whole(**options: tuple[Any, int]) -> None:
    """Raises ValueError unless each option, name = (value, least), is a whole number >= its least value."""
    for name, (value, least) in options.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} is {value!r}; it must be a whole number, {least} or more")


def check_width(points: Array, name: str, inputs: int) -> None:
    """Raises ValueError unless the points [N, d] have the size that the first layer takes."""
    if points.shape[1] != inputs:
        raise ValueError(
            f"{name} has {points.shape[1]} columns, but the first layer takes {inputs} inputs; "
            "flatten images with reshape(len(images), -1)"
        )


UNIT = 2.0**-53  # unit roundoff of float64


def unit_scale(rows: Array) -> Array:
    """Powers of two [m] that bring the largest entry of each row [m, d] into [1/2, 1), without rounding.

    Without this, a row far smaller than the others would be taken for their rounding error.
    """
    exponents = np.frexp(np.abs(rows).max(axis=1))[1]
    return np.ldexp(1.0, np.clip(-exponents, -1000, 1000))


def numerical_rank(sigma: Array, shape: tuple[int, ...]) -> int:
    """The number of singular values (largest first) that are not a rounding error of zero."""
    return int((sigma > max(shape) * 2 * UNIT * sigma[0]).sum()) if sigma.size else 0


def extremes(sigma: Array, rank: int) -> tuple[float, float]:
    """The largest and the smallest nonzero singular value; (0, infinity) for rank 0."""
    return (float(sigma[0]), float(sigma[rank - 1])) if rank else (0.0, np.inf)
