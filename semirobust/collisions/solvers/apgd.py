"""Collisions by attack: Auto-PGD on the distance between the features, the baseline that the paper names.

The paper on fixed feature extractors also tried "a modification of the Auto-PGD (Croce & Hein, 2020)
algorithm to find collisions at deeper layers with fixed budgets as done in Engstrom et al. (2019)" (section
4.1). For a budget it minimises |f(u + a) - f(v + a')| over |a|, |a'| <= budget, both ends at once, with the
steps of Algorithm 1 of Croce and Hein (arXiv 2003.01690): momentum, and a test at ever closer checkpoints
whether to halve the steps and to go back to the best point.

The paper does not specify the rest. The choices here favour the attack where in doubt:
1. Steps stay in the row space of the first matrix, as in the paper's own method (its Appendix D.1). They are
   normalised for each end, because the budget bounds each end. There is no box constraint.
2. The first start is the linear collision, as far as the budget reaches; further ones are random.
3. Budgets are bisected for each pair on its own, below that of its linear collision.
4. An edge needs an exact collision. So `meet` moves the best points onto one, which costs a little budget,
   and they are then verified like the points of every other method. A budget is met only by a verified
   collision that costs at most as much. One that costs more, but less than the cheapest so far, is kept as
   well, and is an upper bound of the budgets tried later.

An attack that minimises |f(u~) - f(v~)| ends close to a collision, never on one. `meet` closes the gap. With
the current gates the difference of the features is affine in both points. So a Gauss-Newton step, the
shortest step of both points together onto the equality, ends on it unless units change their state; then a
few more steps follow.

Where u~ and v~ disagree about a unit, these steps converge to its kink, often with more such equations than
are independent. Nothing can be proved there. `clear` moves such units a little below zero, where they are
closed at both points and their values do not matter.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from scipy.linalg import cho_solve
from scipy.linalg.lapack import dpotrf

from semirobust.collisions.linear import closed_form
from semirobust.collisions.network import Gates, Network
from semirobust.collisions.result import Collisions, Known, Point, budget, collect
from semirobust.collisions.solvers.proof import verify_pair
from semirobust.extractors import Array, check_whole

ROWS = 256  # pairs times restarts at a time: their state fits into the processor's cache
MOMENTUM = 0.75  # weight of the new step; the last one has the rest
SUCCESSES = 0.75  # this share of the steps between checkpoints must lower the loss, or steps are halved
FIRST, CLOSER, CLOSEST = 22, 3, 6  # checkpoints, in hundredths of all steps
SOLVED = 1e-9  # a gap up to this share of the distance between the features of u and v counts as closed
GAIN = 1e-6  # relative to the cheapest collision known; a smaller gain does not count


class Attacked(NamedTuple):
    """The best points of an attack, u~ and v~ [B, d], and their |f(u~) - f(v~)| [B]."""

    u: Array
    v: Array
    gap: Array


def apgd(
    network: Network,
    u: Array,
    v: Array,
    known: Known,
    *,
    budgets: int = 10,
    steps: int = 100,
    restarts: int = 1,
    seed: int = 0,
    newton: int = 20,
) -> Collisions:
    """Auto-PGD at bisected budgets, exact collisions from its best points, for pairs u, v [B, d].

    `known` is not used. A pair's result does not depend on the other pairs, except for rounding, which many
    steps can amplify. Options are as in `find_collisions`.
    """
    check_whole(budgets=(budgets, 1), steps=(steps, 1), restarts=(restarts, 1))
    check_whole(seed=(seed, 0), newton=(newton, 0))
    linear = closed_form(network.layers[0].weight, network.space, u, v)
    best = [Point(*row, True) for row in zip(linear.epsilon.tolist(), linear.u, linear.v, strict=True)]
    lower, upper = np.zeros(len(u)), linear.epsilon.copy()
    clean = np.linalg.norm(network.features(u) - network.features(v), axis=1)
    for i in np.flatnonzero(clean == 0).tolist():  # the ends collide already
        if (point := exact(network, u[i], v[i], np.stack([u[i], v[i]]), 0, below=upper[i])) is not None:
            best[i], upper[i] = point, point.epsilon
    for _ in range(budgets):
        asked = (lower + upper) / 2
        found = attack(network, u, v, asked, steps=steps, restarts=restarts, seed=seed)
        for i, ends in enumerate(zip(u, v, strict=True)):
            point = exact(network, *ends, np.stack([found.u[i], found.v[i]]), newton, below=upper[i])
            if point is not None and point.epsilon < (1 - GAIN) * upper[i]:
                best[i], upper[i] = point, point.epsilon
            if upper[i] > asked[i]:
                lower[i] = asked[i]
    return collect(
        network,
        best,
        method="apgd",
        status=tuple(
            "found" if new < old else "none" for new, old in zip(upper, linear.epsilon, strict=True)
        ),
        iterations=np.full(len(u), budgets * restarts * steps),
    )


def exact(
    network: Network, u: Array, v: Array, points: Array, newton: int, *, below: float = np.inf
) -> Point | None:
    """A verified collision near (u~, v~), [2, d], by up to `newton` Newton steps.

    None where none is proved, or none that costs less than `below`.
    """
    if newton:
        enough = SOLVED * float(np.linalg.norm(network.features(u) - network.features(v)))
        points, gap = meet(network, points, newton, enough)
        if not gap <= enough or budget(u, v, *points) >= below:
            return None
    point = verify_pair(network, u, v, *points)
    if newton and not point.verified:
        point = verify_pair(network, u, v, *clear(network, points))
    return point if point.verified and point.epsilon < below else None


def attack(
    network: Network,
    u: Array,
    v: Array,
    budgets: Array,
    *,
    steps: int = 100,
    restarts: int = 1,
    seed: int = 0,
) -> Attacked:
    """The points within the budgets [B] of u, v [B, d] whose features Auto-PGD brings closest together."""
    model, basis = _Model(network), network.space.basis
    start = (v - u) @ basis / 2  # [B, r]
    base = np.stack([u, v]) @ network.layers[0].weight.T + network.layers[0].bias  # [2, B, n_1]
    parts = []
    chunk = max(ROWS // restarts, 1)
    for first in range(0, len(u), chunk):
        rows = slice(first, first + chunk)
        radius = torch.from_numpy(budgets[rows])
        starts = _starts(torch.from_numpy(start[rows]), radius, restarts, seed)
        pre = torch.from_numpy(base[:, rows]).repeat(1, restarts, 1)
        at, gap = _minimise(model, pre, starts, radius.repeat(restarts), steps)
        best = gap.unflatten(0, (restarts, -1)).argmin(0)  # [B]
        chosen = at.unflatten(1, (restarts, -1))[:, best, torch.arange(len(best))]  # [2, B, r]
        parts.append(chosen.numpy())
    move_u, move_v = np.concatenate(parts, axis=1) @ basis.T
    at_u, at_v = u + move_u, v + move_v
    gaps = np.linalg.norm(network.features(at_u) - network.features(at_v), axis=1)
    return Attacked(at_u, at_v, gaps)


def _starts(linear: torch.Tensor, radius: torch.Tensor, restarts: int, seed: int) -> torch.Tensor:
    """Steps to start from, [2, S B, r]: the linear collision, then random points of the balls.

    The random points are the same for every pair, up to scale.
    """
    count, rank = linear.shape
    generator = torch.Generator().manual_seed(seed)
    starts = [_within(torch.stack([linear, -linear]), radius)]
    for _ in range(restarts - 1):
        noise = torch.randn(2, 1, rank, generator=generator, dtype=linear.dtype)
        size = torch.rand(2, 1, 1, generator=generator, dtype=linear.dtype) ** (1 / max(rank, 1))
        starts.append((size * _unit(noise)).expand(2, count, rank) * radius[:, None])
    return torch.cat(starts, 1)


class _Model:
    """The network in coordinates of the row space, as float64 tensors."""

    def __init__(self, network: Network) -> None:
        self.first = torch.from_numpy(network.reduced)  # [n_1, r]
        self.deeper = [
            (torch.from_numpy(weight), torch.from_numpy(bias)) for weight, bias in network.layers[1:]
        ]
        self.rectified = network.rectified

    def loss(self, base: torch.Tensor, at: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """|f(u~) - f(v~)| [N], and its gradient in the steps, up to a factor.

        The steps `at` [2, N, r] start from points with first pre-activations `base` [2, N, n_1].
        """
        values = [base + at @ self.first.T]
        for weight, bias in self.deeper:
            values.append(values[-1].clamp(min=0) @ weight.T + bias)
        last = values[-1].clamp(min=0) if self.rectified else values[-1]
        difference = last[0] - last[1]
        force = torch.stack([difference, -difference])
        if self.rectified:
            force *= values[-1] > 0
        for (weight, _), value in zip(reversed(self.deeper), reversed(values[:-1]), strict=True):
            force = (force @ weight) * (value > 0)
        return difference.norm(dim=1).nan_to_num(nan=math.inf), force @ self.first


def _minimise(
    model: _Model, base: torch.Tensor, start: torch.Tensor, radius: torch.Tensor, steps: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Algorithm 1 of Croce and Hein, as a minimisation: the best steps [2, N, r] and their losses [N]."""
    marks = set(checkpoints(steps))
    at = before = start
    loss, slope = model.loss(base, at)
    best, best_loss, best_slope = at, loss, slope
    size = 2 * radius
    since, best_then = 0, best_loss  # at the last checkpoint
    halved = torch.zeros_like(loss, dtype=torch.bool)
    helped = torch.zeros_like(loss)
    for step in range(1, steps + 1):
        new = _within(at - size[:, None] * _unit(slope), radius)
        if step > 1:
            new = _within(at + MOMENTUM * (new - at) + (1 - MOMENTUM) * (at - before), radius)
        before, at, last = at, new, loss
        loss, slope = model.loss(base, at)
        helped += loss < last
        better = loss < best_loss
        best, best_slope = _where(better, at, best), _where(better, slope, best_slope)
        best_loss = torch.where(better, loss, best_loss)
        if step in marks:
            stuck = ~halved & (best_loss == best_then)
            halved = (helped < SUCCESSES * (step - since)) | stuck
            size = torch.where(halved, size / 2, size)
            at, slope = _where(halved, best, at), _where(halved, best_slope, slope)
            loss = torch.where(halved, best_loss, loss)
            since, best_then, helped = step, best_loss, torch.zeros_like(helped)
    return best, best_loss


def checkpoints(steps: int) -> list[int]:
    """The steps after which the test for halving is made."""
    marks, last, share = [], 0, FIRST
    while share <= 100:
        marks.append(-(-share * steps // 100))  # rounded up
        last, share = share, share + max(share - last - CLOSER, CLOSEST)
    return sorted(set(marks))


def _where(mask: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    return torch.where(mask[:, None], first, second)


def _unit(x: torch.Tensor) -> torch.Tensor:
    """x divided by its norm; 0 where x is 0."""
    return x / x.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)


def _within(x: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
    """x [2, N, r] projected onto the balls of radii [N]."""
    norms = x.norm(dim=2, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
    return x * (radius[:, None] / norms).clamp(max=1)


RIDGE = 1e-10  # relative to the mean of the diagonal, for linearly dependent equations
KINK = 1e-6  # pre-activations up to this size are at the kink; `clear` moves them to minus this
ROUNDS = 3  # of clearing, because it can move other units to the kink


def meet(network: Network, points: Array, steps: int, enough: float) -> tuple[Array, float]:
    """Up to `steps` Gauss-Newton steps from (u~, v~), [2, d], until |f(u~) - f(v~)| is at most `enough`.

    Returns the points and their |f(u~) - f(v~)|; nothing is proved.
    """
    for _ in range(steps):
        values = network.pre_activations(points)  # [2, n_i]
        difference = _difference(network, values)
        if not enough < np.linalg.norm(difference) < np.inf:
            break
        ends = [_gates(network, values, end) for end in (0, 1)]
        rows = np.flatnonzero(ends[0][-1] | ends[1][-1])
        matrix = np.zeros((len(rows), len(rows)))
        for gates in ends:
            where = np.flatnonzero(gates[-1][rows])
            matrix[np.ix_(where, where)] += _products(network, gates)
        force = np.zeros_like(difference)
        force[rows] = _solve(matrix, difference[rows])
        pulls = np.stack([-_pull(network, ends[0], force), _pull(network, ends[1], force)])
        points = points + pulls @ network.space.basis.T
    return points, float(np.linalg.norm(_difference(network, network.pre_activations(points))))


def clear(network: Network, points: Array) -> Array:
    """(u~, v~), [2, d], moved so that units at their kinks close and open units of the last layer agree."""
    rank = network.space.basis.shape[1]
    for _ in range(ROUNDS):
        values = network.pre_activations(points)
        pattern = network.pattern_of([value[0] for value in values], [value[1] for value in values], KINK)
        joint = pattern.u[-1]
        blocks, errors, lasts = [], [], []
        for end, gates in enumerate((pattern.u, pattern.v)):
            at = network.pre_activations(points[end], gates)
            rows = [matrix for matrix, _ in network.affine(gates)]
            held = [np.abs(value) <= KINK for value in at]
            held[-1] = ~joint & (at[-1] >= -KINK)
            block = np.concatenate([matrix[mask] for matrix, mask in zip(rows, held, strict=True)])
            empty = np.zeros_like(block)
            blocks.append(np.hstack([empty, block] if end else [block, empty]))
            errors += [value[mask] + KINK for value, mask in zip(at, held, strict=True)]
            lasts.append((rows[-1][joint], at[-1][joint]))
        (rows_u, at_u), (rows_v, at_v) = lasts
        matrix = np.vstack([np.hstack([rows_u, -rows_v]), *blocks])
        error = np.concatenate([at_u - at_v, *errors])
        step = np.zeros(2 * rank)
        for _ in range(2):  # the second removes the error from the ridge
            step += matrix.T @ _solve(matrix @ matrix.T, error - matrix @ step)
        points = points - step.reshape(2, rank) @ network.space.basis.T
    return points


def _difference(network: Network, values: list[Array]) -> Array:
    """f(u~) - f(v~), [m], from the pre-activations."""
    last = np.maximum(values[-1], 0) if network.rectified else values[-1]
    return last[0] - last[1]


def _gates(network: Network, values: list[Array], end: int) -> Gates:
    """The open units of one point; in a last layer without ReLU, all of them."""
    last = values[-1][end] > 0 if network.rectified else np.ones(len(values[-1][end]), bool)
    return (*(value[end] > 0 for value in values[:-1]), last)


def _products(network: Network, gates: Gates) -> Array:
    """J J^T for one point, with J the derivatives of the open units of the last layer in the input."""
    products = network.gram[np.ix_(gates[0], gates[0])]
    for (weight, _), before, after in zip(network.layers[1:], gates[:-1], gates[1:], strict=True):
        passed = weight[np.ix_(after, before)]
        products = passed @ products @ passed.T
    return products


def _pull(network: Network, gates: Gates, force: Array) -> Array:
    """J^T f [r], in the row space."""
    for (weight, _), gate in zip(reversed(network.layers[1:]), reversed(gates[1:]), strict=True):
        force = (force * gate) @ weight
    return (force * gates[0]) @ network.reduced


def _solve(matrix: Array, target: Array) -> Array:
    """A solution of a positive semidefinite system, up to the ridge; zeros where the factorization fails."""
    size = len(matrix)
    if size == 0:
        return target
    matrix[np.diag_indices(size)] += RIDGE * np.trace(matrix) / size
    factor, failed = dpotrf(matrix, lower=1)
    return np.zeros_like(target) if failed else cho_solve((factor, True), target, check_finite=False)
