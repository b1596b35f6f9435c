"""The algebraically largest eigenvalue of a symmetric matrix that is known by its products (Lanczos 1950)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Ritz:
    """An estimate from below of the largest eigenvalue: the Rayleigh quotient of a vector.

    Some eigenvalue lies within ``residual`` of ``value``; not surely the largest one. ``steps``: products.
    """

    value: float
    residual: float
    steps: int


def largest_eigenvalue(
    product: Callable[[torch.Tensor], torch.Tensor],
    start: torch.Tensor,
    *,
    steps: int = 60,
    tolerance: float = 1e-8,
) -> Ritz:
    """Lanczos with full reorthogonalisation on v -> ``product(v)``, from ``start`` [d], a random vector.

    Works for any sign of the spectrum: the largest eigenvalue is the largest, not that of largest modulus.
    Stops after ``steps`` products, when the space is exhausted, or when the residual is below ``tolerance``
    times the largest modulus met. Keeps ``steps`` vectors of length d.
    """
    if start.ndim != 1 or not float(start.norm()) > 0 or steps < 1:
        raise ValueError(f"start must be a vector other than 0, and steps at least 1; got {steps} steps")
    steps = min(steps, len(start))
    basis = torch.empty(steps, len(start), dtype=start.dtype, device=start.device)
    triangle = torch.zeros(steps, steps, dtype=torch.float64)  # the matrix in the basis: tridiagonal
    vector = start / start.norm()
    for k in range(steps):
        basis[k] = vector
        image = product(vector)
        triangle[k, k] = float(image @ vector)
        for _ in range(2):  # once loses orthogonality to rounding, twice is enough
            image = image - basis[: k + 1].T @ (basis[: k + 1] @ image)
        rest = float(image.norm())
        values, vectors = torch.linalg.eigh(triangle[: k + 1, : k + 1])  # ascending
        residual = rest * abs(float(vectors[-1, -1]))
        size = float(values.abs().amax())
        exhausted = rest <= torch.finfo(start.dtype).eps * size
        if exhausted or residual <= tolerance * size or k + 1 == steps:
            break
        triangle[k, k + 1] = triangle[k + 1, k] = rest
        vector = image / rest
    return Ritz(float(values[-1]), residual, k + 1)
