"""The second-order bound on the price of another f_b, with what (11) to (13) of arXiv 2307.03803 leave out.

The bound needs the largest eigenvalue of the f_b block of a Hessian. This symmetric matrix is known only by
its products with vectors, so ``largest_eigenvalue`` uses the method of Lanczos (1950).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.func import functional_call
from torch.nn import functional as F

from semirobust.bounds.pair import check_images, folded_pair
from semirobust.layers import AFFINE, AS_MODULE, MEANS, RESHAPES, SUMS

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
_FLAT_TYPES = (nn.Identity, nn.Dropout, nn.Dropout2d, nn.Flatten, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
_SMOOTH_TYPES = (*AFFINE, *_FLAT_TYPES, nn.Tanh, nn.Sigmoid, nn.Softplus, nn.GELU, nn.SiLU)


@dataclass(frozen=True)
class Taylor:
    """J(tilde) - J(star) along the segment omega* + t Delta, for the block of f_b, d numbers.

    difference: J(tilde) - J(star), computed directly. gradient_term: grad_b J(omega*) . Delta.
    quadratic_integral: the integral over t in [0, 1] of (1 - t) Delta' H_bb(omega* + t Delta) Delta.
    largest_eigenvalue: (t, estimate) of H_bb at points of the segment. delta_norm: ||Delta||_2.
    dimension: d. smooth: no ReLU or max-pool acts on what f_b computes, so that J has two derivatives; where
    it is False the numbers are formal: kinks carry curvature that no second derivative sees.
    """

    difference: float
    gradient_term: float
    quadratic_integral: float
    largest_eigenvalue: tuple[tuple[float, Ritz], ...]
    delta_norm: float
    dimension: int
    smooth: bool

    @property
    def remainder(self) -> float:
        """difference - gradient_term - quadratic_integral: zero up to quadrature and rounding, if smooth."""
        return self.difference - self.gradient_term - self.quadratic_integral

    @property
    def bound_estimate(self) -> float:
        """gradient_term + 1/2 (largest eigenvalue met) ||Delta||^2. An estimate of the upper bound: the
        eigenvalues are estimates from below, at some points of the segment.
        """
        worst = max(ritz.value for _, ritz in self.largest_eigenvalue)
        return self.gradient_term + 0.5 * worst * self.delta_norm**2


def curvature(
    model_star: nn.Module,
    model_tilde: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    n_fb: int,
    *,
    loss: Loss = F.cross_entropy,
    times: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
    quadrature: int = 12,
    steps: int = 60,
    tolerance: float = 1e-8,
    batch_size: int = 256,
    dtype: torch.dtype = torch.float64,
    generator: torch.Generator | None = None,
) -> Taylor:
    """Taylor's formula with integral remainder for J = mean ``loss``, from (f_a*, f_b*) to (f_a*, f_b~).

    ``images`` [N, ...] in [0, 1] (clean ones, or those of a fixed attack), ``labels`` [N]; ``loss(logits,
    labels)`` is a mean over images, cross-entropy in nats by default, without regulariser. ``times``: where
    on the segment the largest eigenvalue is estimated, by Lanczos with at most ``steps`` products, from
    ``generator`` (default: new, seed 0). ``quadrature``: Gauss-Legendre points. ``dtype`` float32 is for
    networks too large for float64.

    Corrects (11) to (13) of arXiv 2307.03803, where three things are wrong:
    1. The gradient term stays: omega* is stationary, if at all, for the training objective, not for each
       sample and not for J on other images; (11) drops it.
    2. lambda_max is that of the f_b block of the Hessian of J, the largest on the segment; not that of one
       sample's loss at omega* multiplied by the label Y, whose sign can turn (13) around.
    3. omega are weights and biases with BatchNorm folded in (evaluation mode), so that running statistics,
       which differ between f_b* and f_b~, are part of Delta.

    The models are left as found. Raises ``ValueError`` for models of different shape, an f_a that differs, or
    images and labels that do not fit.
    """
    check_images(images, labels)
    if quadrature < 1 or not times or not all(0 <= t <= 1 for t in times):
        raise ValueError(f"give times in [0, 1] and quadrature >= 1, got {list(times)} and {quadrature}")
    pair = folded_pair(model_star, model_tilde, n_fb, dtype=dtype)
    objective = _Objective(pair.star, pair.names_b, images, labels, loss, batch_size)
    star, tilde = objective.vector(pair.star), objective.vector(pair.tilde)  # [d]
    delta = tilde - star

    def curve(t: float) -> float:
        return float(objective.product(star + t * delta, delta) @ delta)

    nodes, weights = np.polynomial.legendre.leggauss(quadrature)  # on [-1, 1]
    points = [((1 + float(u)) / 2, float(w) / 2) for u, w in zip(nodes, weights, strict=True)]
    generator = generator or torch.Generator().manual_seed(0)
    start = torch.randn(len(star), generator=generator, dtype=torch.float64).to(star)
    eigenvalues = []
    for t in times:
        hessian = partial(objective.product, star + t * delta)
        ritz = largest_eigenvalue(hessian, start, steps=steps, tolerance=tolerance)
        eigenvalues.append((float(t), ritz))
    return Taylor(
        difference=objective.value(tilde) - objective.value(star),
        gradient_term=float(objective.gradient(star) @ delta),
        quadratic_integral=sum(w * (1 - t) * curve(t) for t, w in points),
        largest_eigenvalue=tuple(eigenvalues),
        delta_norm=float(delta.norm()),
        dimension=len(star),
        smooth=_smooth(pair.star, pair.names_b),
    )


class _Objective:
    """J as a function of the parameters ``names`` of ``body``, as one vector [d]."""

    def __init__(
        self,
        body: fx.GraphModule,
        names: Sequence[str],
        images: torch.Tensor,
        labels: torch.Tensor,
        loss: Loss,
        batch_size: int,
    ) -> None:
        self.body, self.names, self.loss = body, names, loss
        self.images, self.labels, self.batch_size = images, labels, batch_size

    def vector(self, body: nn.Module) -> torch.Tensor:
        return torch.cat([body.get_parameter(name).detach().flatten() for name in self.names])

    def _batches(self, omega: torch.Tensor) -> Iterator[torch.Tensor]:
        """The share of each batch in J, as scalars differentiable in ``omega``."""
        shapes = [self.body.get_parameter(name).shape for name in self.names]
        parts = omega.split([shape.numel() for shape in shapes])
        values = {n: p.view(s) for n, p, s in zip(self.names, parts, shapes, strict=True)}
        for first in range(0, len(self.images), self.batch_size):
            x = self.images[first : first + self.batch_size].to(omega)
            y = self.labels[first : first + self.batch_size].to(omega.device)
            yield self.loss(functional_call(self.body, values, (x,)), y) * (len(x) / len(self.images))

    @torch.no_grad()
    def value(self, omega: torch.Tensor) -> float:
        return sum(float(share) for share in self._batches(omega))

    def gradient(self, omega: torch.Tensor) -> torch.Tensor:
        """grad J at omega: [d]."""
        total = torch.zeros_like(omega)
        with torch.enable_grad():
            for share in self._batches(leaf := omega.detach().requires_grad_()):
                total += torch.autograd.grad(share, leaf, retain_graph=True)[0]
        return total

    def product(self, omega: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
        """The Hessian of J at omega times ``vector`` [d], by differentiating twice."""
        total = torch.zeros_like(omega)
        with torch.enable_grad():
            for share in self._batches(leaf := omega.detach().requires_grad_()):
                (gradient,) = torch.autograd.grad(share, leaf, create_graph=True)
                if gradient.requires_grad:  # else J is linear here
                    (image,) = torch.autograd.grad(
                        gradient @ vector, leaf, retain_graph=True, allow_unused=True
                    )
                    total += 0 if image is None else image
        return total


def _smooth(body: fx.GraphModule, names: Sequence[str]) -> bool:
    """Whether all that works on the output of a layer with parameters ``names`` is twice differentiable."""
    owners = {name.rpartition(".")[0] for name in names}
    modules: dict[str, nn.Module] = dict(body.named_modules())
    after: set[fx.Node] = set()  # nodes that depend on the parameters
    for node in body.graph.nodes:
        touched = any(parent in after for parent in node.all_input_nodes)
        if touched and node.op != "output":
            kind: Any = type(modules[str(node.target)]) if node.op == "call_module" else None
            kind = kind or AS_MODULE.get(node.target)
            if kind not in _SMOOTH_TYPES and node.target not in (*SUMS, *RESHAPES, *MEANS):
                return False
        if touched or node.target in owners or node.target in names:
            after.add(node)
    return True


@dataclass(frozen=True)
class Ritz:
    """An estimate from below of the largest eigenvalue: the Rayleigh quotient of a vector.

    Some eigenvalue lies within ``residual`` of ``value``, not necessarily the largest. ``steps``: products.
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

    Works for any sign of the spectrum: it estimates the largest eigenvalue, not that of largest modulus.
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
