"""Algorithm 2 of arXiv 2307.03803: replace f_b* by one linear map of all the layers of f_a*.

The features F [n, d] are the outputs of the first n_a weight layers (17, 13 or 9 of the 18 of ResNet-18), as
the layers give them, before normalisation and activation, flattened and side by side; the targets Y [n, K]
are the outputs of (f_a*, f_b*); and the readout is x -> F(x) w with F w = Y "solved". Three ways:

* ``algorithm_2``: as printed. Batch by batch, w_k = F_k^+ Y_k, and their average.
* ``least_squares``: the minimum-norm least-squares solution over all the data.
* ``ridge``: with a strength chosen on a validation part of the data.

``LinearReadout`` is the network that results, differentiable from image to logits, so that
``attacks.evaluate`` can be aimed at it as at any other.

What to mind when reading the paper's Table 2:

1. The paper fits w on the data that it scores. On its own batch the average returns Y_k / K, so that targets
   leak into the score: ``leak_accuracy`` is the law for features that are pure noise, ``out_of_batch`` the
   same predictions without their own batch.
2. The paper's control, a random w, cannot see that. Permuted targets and noise features can.
3. The paper scores inputs that were attacked for (f_a*, f_b*). They say little about the readout, which is
   another network: attack it itself.
4. The text takes the outputs of (f_a*, f_b*) as targets and speaks of predicting labels. ``targets`` has
   the outputs first, and both other readings by name: the true labels, which leak far more, and the
   network's predicted labels.
5. The paper writes F^-1. F_k has fewer rows than columns and no inverse; F_k^+ is meant.

No matrix [n, d] is ever held: see ``solve``. At full width ResNet-18 has d = 188,416 over 17 layers
(557,056 without its pool). F F^T of n images takes 8 n^2 bytes and three times that while it is solved, and
n^2 d multiplications: 2,000 images are 32 MB and 7.5e11, 10,000 are 0.8 GB and 1.9e13. Where both n and d are
beyond that, ``sketch`` projects the features to m columns at random, to solve [m, m] instead; its solution is
again a linear map of all the features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from semirobust.layers import Features, device_of, model_outputs, preserve
from semirobust.readouts import solve
from semirobust.readouts.features import Matrix, Sketch, Source, width
from semirobust.readouts.solve import STRENGTHS, Solution, combine, grams

TARGETS = ("outputs", "labels", "predictions")


class LinearReadout(nn.Module):
    """sum_i w_i^T f^(i)(x): images [N, ...] in [0, 1] -> logits [N, K], differentiable in the images.

    ``weight`` [d, K] over the concatenated outputs of ``layers`` of ``model``. The layers are a frozen copy
    in evaluation mode (see ``Features``): the model is left as found. Raises ``ValueError`` as ``Features``
    does, and at the first images for a weight of another height.
    """

    def __init__(self, model: nn.Module, layers: Sequence[str], weight: torch.Tensor) -> None:
        super().__init__()
        if weight.ndim != 2 or not weight.isfinite().all():
            raise ValueError(f"the weight must be finite, [d, K]; got {list(weight.shape)}")
        self.features = Features(model, layers)
        self.weight = nn.Parameter(weight.detach().float().to(device_of(model)), requires_grad=False)
        super().train(False)

    def train(self, mode: bool = True) -> LinearReadout:
        """Nothing: a readout stays in evaluation mode."""
        return self

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.cat(self.features(images), 1) @ self.weight  # [N, d] [d, K]


@dataclass(frozen=True, eq=False)
class Fit:
    """A fitted linear map and how far to trust it.

    ``weight`` float64 [d, K]; ``layers`` and ``widths``: whose outputs its rows belong to; ``solution``:
    rank, condition number of F (for ``algorithm_2`` the smallest and the largest over batches), strength of
    ridge; ``warnings``: sentences, empty where all is well.
    """

    weight: torch.Tensor
    layers: tuple[str, ...]
    widths: tuple[int, ...]
    n: int
    solution: Solution
    warnings: tuple[str, ...]

    def readout(self, model: nn.Module) -> LinearReadout:
        """The network x -> F(x) w on the layers of ``model``."""
        return LinearReadout(model, self.layers, self.weight)


def targets(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    kind: str = "outputs",
    *,
    batch_size: int = 256,
) -> torch.Tensor:
    """What Algorithm 2 fits, float64 [N, K]: ``outputs`` of the model (the paper's), one-hot ``labels``, or
    its one-hot ``predictions``.

    The model is left as found. Raises ``ValueError`` for an unknown kind or outputs that are not finite.
    """
    if kind not in TARGETS:
        raise ValueError(f"unknown targets {kind!r}; known: {', '.join(TARGETS)}")
    with preserve(model):
        values = model_outputs(model.eval(), images, batch_size=batch_size).double()
    if not values.isfinite().all():
        raise ValueError("the model's outputs are NaN or infinite: nothing can be fitted to them")
    if kind == "outputs":
        return values
    chosen = labels if kind == "labels" else values.argmax(1)
    return nn.functional.one_hot(chosen, values.shape[1]).double()


def algorithm_2(source: Source, targets: torch.Tensor, *, batch_size: int) -> Fit:
    """Algorithm 2 as printed: the mean over batches of w_k = F_k^+ Y_k (its equation 54), in one pass.

    ``source`` F [n, d] (``Activations`` or ``Matrix``), ``targets`` Y [n, K]. The last batch may be smaller,
    and counts as much as the others. Raises ``ValueError`` for targets of another shape or not finite,
    for a batch with fewer images than there are classes, and for features that are zero or not finite.
    """
    goal, d = _check(source, targets), width(source)
    parts = solve.batches(len(source), batch_size, goal.shape[1])
    weight, found = torch.zeros(d, goal.shape[1], dtype=torch.float64), []
    for at, block in source.rows(batch_size):
        batch = Matrix(block)
        found.append(solve.least_squares(grams(batch)[0], goal[at], d))
        weight += combine(batch, found[-1].coefficients) / len(parts)
    rows = torch.cat([one.coefficients for one in found]) / len(parts)
    rank, condition = min(one.rank for one in found), max(one.condition for one in found)
    return _fit(source, weight, Solution(rows, rank, condition), full=min(batch_size, d))


def least_squares(source: Source, targets: torch.Tensor) -> Fit:
    """The least-squares solution of F w = Y over all rows; of several, the one of smallest norm.

    Sums d x d products where d <= n, else n x n ones. Raises ``ValueError`` as ``algorithm_2``.
    """
    goal, d = _check(source, targets), width(source)
    if d <= len(source):
        products, right = _primal(source, goal)
        found = solve.spectrum(products, len(source))
        solution = Solution(found.solve(right), found.rank, found.condition)
        return _fit(source, solution.coefficients, solution, full=d)
    solution = solve.least_squares(grams(source)[0], goal, d)
    return _fit(source, combine(source, solution.coefficients), solution, full=len(source))


def ridge(
    source: Source,
    targets: torch.Tensor,
    *,
    validation: torch.Tensor,
    strengths: Sequence[float] = STRENGTHS,
) -> Fit:
    """The minimum of |F w - Y|^2 + s t |w|^2 with t = |F|^2 / n, s the best of ``strengths`` on
    ``validation``.

    ``validation`` bool [n] marks the rows that choose s by mean squared error; all rows are then fitted with
    it. Raises ``ValueError`` as ``algorithm_2``, for a validation part that is empty or everything, and for
    strengths that are not positive.
    """
    goal, d = _check(source, targets), width(source)
    if validation.shape != (len(source),) or validation.dtype != torch.bool:
        raise ValueError(
            f"validation must be bool [{len(source)}], got {validation.dtype} {list(validation.shape)}"
        )
    solution = solve.ridge(grams(source)[0], goal, d, validation, strengths)
    return _fit(source, combine(source, solution.coefficients), solution, full=min(len(source), d))


def sketched(source: Source, targets: torch.Tensor, *, size: int, seed: int = 0) -> Fit:
    """``least_squares`` on a random projection of the features to ``size`` columns (see ``Sketch``).

    For n and d both too large for the exact one: memory is ``size`` squared. The weight is over all features.
    """
    sketch = Sketch(source, size, seed=seed)
    small = least_squares(sketch, targets)
    return _fit(source, sketch.expand(small.weight), small.solution, full=min(size, len(source)))


def _primal(source: Source, goal: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(F^T F [d, d], F^T Y [d, K]) in float64, in one pass over the rows."""
    d = width(source)
    products = torch.zeros(d, d, dtype=torch.float64)
    right = torch.zeros(d, goal.shape[1], dtype=torch.float64)
    for at, block in source.rows(solve.ROWS):
        rows = block.double()
        products.addmm_(rows.T, rows)
        right.addmm_(rows.T, goal[at])
    return products, right


def _check(source: Source, targets: torch.Tensor) -> torch.Tensor:
    """The targets in float64, checked."""
    if targets.ndim != 2 or len(targets) != len(source) or targets.shape[1] < 1:
        raise ValueError(
            f"targets must be [{len(source)}, K], one row for each image; got {list(targets.shape)}"
        )
    goal = targets.detach().cpu().double()
    if not goal.isfinite().all():
        raise ValueError("the targets are NaN or infinite: nothing can be fitted to them")
    return goal


def _fit(source: Source, weight: torch.Tensor, solution: Solution, full: int) -> Fit:
    found = []
    if solution.rank < full:
        found.append(
            f"the features have rank {solution.rank} of {full}: the solution of smallest norm is one of many"
        )
    if solution.relative_error > solve.ACCURATE:
        found.append(
            f"the condition number is {solution.condition:.2g}, and its square makes a relative error of "
            f"about {solution.relative_error:.1g} possible: use ridge, or fewer layers"
        )
    return Fit(weight, source.names, source.widths, len(source), solution, tuple(found))
