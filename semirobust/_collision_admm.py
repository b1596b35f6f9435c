"""Collisions by alternating directions: a batched search for good patterns, then the optimum on each.

Write p and p' for the pre-activations of both points. In the last layer the pair (p_j, p'_j) of a unit has to
lie in {p = p' >= 0} or {p <= 0, p' <= 0}; in a hidden layer each point has to satisfy h_j = max(p_j, 0). Both
sets are not convex, but the nearest point of each is known in closed form, unit by unit. The affine maps
between layers, with the squared steps l |a|^2 + (1 - l) |a'|^2 as the cost of the first, are least squares
with matrices that all pairs share. The alternating direction method of multipliers (Boyd et al., Foundations
and Trends in Machine Learning 3, 2011) goes back and forth between the two for all pairs at once. The penalty
starts small, where the cost rules and units change their state freely, and grows until the pattern is
settled; l, which stands for the maximum of both steps, moves until these are equal. Other starts give other
patterns.

For each pattern found, `_collision_polish` gives the optimum, and the descent of `_collision_descent` goes on
from there; the cheapest collision is kept. Where no start gives a collision below that of the first linear
layer, the descent starts from the midpoint too.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from semirobust._collision_descent import MARGIN, Descent, descend, proved
from semirobust._collision_layers import Array, Network, Pattern
from semirobust._collision_polish import Guess, Polisher
from semirobust._collision_result import Collisions, collect

__all__ = ["admm"]

ROWS = 128  # pairs times starts at a time: their state stays in the processor's cache
PENALTIES = np.geomspace(0.5, 16, 6)  # in units of the cost; each for the same number of iterations
ITERATIONS = (60, 180)  # with one layer, with more
SMALL = 64  # networks of at most so many units get more starts, and the midpoint's pattern besides
STARTS = (24, 2)
BALANCING = 10  # iterations between changes of l
BOUNDS = (0.01, 0.99)  # of l
NOISE = 1.0  # of the random starts, in root mean squares of p(u) - p(v)


def admm(
    network: Network,
    u: Array,
    v: Array,
    *,
    starts: int | None = None,
    iterations: int | None = None,
    seed: int = 0,
) -> Collisions:
    """Batched splitting, then the optimum on the patterns found, for pairs u, v [B, d].

    A pair's result does not depend on the other pairs, but for rounding. Options as in `find_collisions`.
    """
    small = sum(len(layer.bias) for layer in network.layers) <= SMALL
    starts = STARTS[not small] if starts is None else starts
    iterations = ITERATIONS[len(network.layers) > 1] if iterations is None else iterations
    _check(starts, iterations, seed)
    splitting, polisher = _Splitting(network), Polisher(network)
    chunk = max(ROWS // starts, 1)
    points, status = [], []
    for first in range(0, len(u), chunk):
        rows = slice(first, first + chunk)
        found = _settle(network, splitting, u[rows], v[rows], starts, iterations, seed)
        for ends, candidates in zip(zip(u[rows], v[rows], strict=True), found, strict=True):
            path = _polished(network, *ends, candidates, polisher, midpoint=small)
            points.append(proved(network, *ends, path, MARGIN))
            status.append(path.status)
    return collect(
        network,
        points,
        method="admm",
        status=tuple(status),
        iterations=np.full(len(u), starts * iterations),
    )


def _check(starts: int, iterations: int, seed: int) -> None:
    for name, value, least in (
        ("starts", starts, 1),
        ("iterations", iterations, len(PENALTIES)),
        ("seed", seed, 0),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} is {value!r}; it must be a whole number, {least} or more")


class _Settled(NamedTuple):
    """The pattern of one pair at the end of the iterations, and where to start on it."""

    pattern: Pattern
    guess: Guess


def _polished(
    network: Network, u: Array, v: Array, candidates: list[_Settled], polisher: Polisher, *, midpoint: bool
) -> Descent:
    """The descents from the candidates, joined, and from the midpoint where that is asked for or the others
    cost as much as the linear collision: every optimum, cheapest last.
    """
    paths: list[Descent] = []
    seen: set[bytes] = set()
    polisher.rescue = midpoint  # cone programs of large networks are left to the midpoint
    for pattern, guess in candidates:
        if pattern.key() not in seen:
            seen.add(pattern.key())
            polisher.guess = guess
            paths.append(descend(network, u, v, start=pattern, solver=polisher))
    cheapest = min((path.cells[-1].epsilon for path in paths if path.cells), default=np.inf)
    if midpoint or cheapest >= np.linalg.norm((u - v) @ network.space.basis) / 2:
        polisher.guess, polisher.rescue = None, True
        paths.append(descend(network, u, v, solver=polisher))
    best = min(paths, key=lambda path: path.cells[-1].epsilon if path.cells else np.inf)
    entries = [entry for path in paths for entry in zip(path.patterns, path.cells, strict=True)]
    entries.sort(key=lambda entry: -entry[1].epsilon)
    return Descent(
        patterns=tuple(pattern for pattern, _ in entries),
        cells=tuple(cell for _, cell in entries),
        status=best.status,
        programs=sum(path.programs for path in paths),
    )


class _Splitting:
    """The least-squares maps of a network; tensors, float64.

    Weights make the layers comparable: that of layer i is 1 / s_i^2 times that of layer i - 1, for s_i the
    root mean square of the singular values of its matrix. Hidden values weigh as their pre-activations.
    """

    def __init__(self, network: Network) -> None:
        left, sigma, _ = np.linalg.svd(network.reduced, full_matrices=False)
        self.left, self.sigma = torch.from_numpy(left.copy()), torch.from_numpy(sigma)  # [n_1, r], [r]
        self.weights = [_weight(network.reduced)]
        self.biases = [torch.from_numpy(layer.bias) for layer in network.layers]
        self.maps = []  # for layers 2, 3, ...: [n_(i-1) + n_i, the same]
        for layer in network.layers[1:]:
            step = _weight(layer.weight)
            self.weights.append(self.weights[-1] * step)
            columns = layer.weight.shape[1]
            normal = np.eye(columns) + step * layer.weight.T @ layer.weight
            hidden = np.linalg.solve(normal, np.hstack([np.eye(columns), step * layer.weight.T]))
            self.maps.append(torch.from_numpy(np.vstack([hidden, layer.weight @ hidden]).T.copy()))

    def shrink(self, penalty: float) -> torch.Tensor:
        """[r]: of the steps in the singular basis that would give given pre-activations, the share taken."""
        return penalty * self.weights[0] * self.sigma / (1 + penalty * self.weights[0] * self.sigma**2)

    def first(self, penalty: float) -> torch.Tensor:
        """[n_1, n_1], symmetric: from wanted changes of the pre-activations to those that are worth it."""
        return (self.left * (self.shrink(penalty) * self.sigma)) @ self.left.T

    def deeper(self, layer: int, hidden: torch.Tensor, p: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The nearest (h, W h + k) of layer 2, 3, ... (1, 2, ... here) to given h [N, .] and p [N, .]."""
        bias, columns = self.biases[layer], hidden.shape[1]
        both = torch.cat([hidden, p - bias], 1) @ self.maps[layer - 1]
        return both[:, :columns], both[:, columns:] + bias


def _weight(matrix: Array) -> float:
    square = float((matrix**2).sum())
    return min(matrix.shape) / square if square > 0 else 1.0


def _settle(
    network: Network, splitting: _Splitting, u: Array, v: Array, starts: int, iterations: int, seed: int
) -> list[list[_Settled]]:
    """The iterations from S starts for B pairs [B, d]: for each pair what every start gave.

    States are [2 S B, n_i]: all starts of all u, then those of v.
    """
    count, depth = starts * len(u), len(network.layers)
    values = [torch.from_numpy(value) for value in network.pre_activations(np.stack([u, v]))]  # [2, B, n_i]
    base = values[0].repeat(1, starts, 1).flatten(0, 1)
    p = [value.flatten(0, 2) for value in _start(values, starts, seed)]
    h = [value.clamp(min=0) for value in p[:-1]]
    dual_p, dual_h = [torch.zeros_like(value) for value in p], [torch.zeros_like(value) for value in h]
    balance = torch.full((2 * count, 1), 0.5, dtype=base.dtype)  # l, then 1 - l
    done, last = 0, float(PENALTIES[0])
    for stage, penalty in enumerate(PENALTIES.tolist(), start=1):
        for dual in (*dual_p, *dual_h):
            dual *= last / penalty
        last, first, shrink = penalty, splitting.first(penalty), splitting.shrink(penalty)
        upto = iterations * stage // len(PENALTIES)
        for iteration in range(done, upto):
            wanted = p[0] - dual_p[0] - base
            at_p, at_h = [base + wanted @ first], []
            for layer in range(1, depth):
                hidden, value = splitting.deeper(
                    layer, h[layer - 1] - dual_h[layer - 1], p[layer] - dual_p[layer]
                )
                at_h.append(hidden)
                at_p.append(value)
            if iteration % BALANCING == BALANCING - 1:
                norms = ((wanted @ splitting.left) * shrink).norm(dim=1)
                changed = _balance(balance, norms)
                for dual in (*dual_p, *dual_h):
                    dual *= balance / changed
                balance = changed
            for layer in range(depth - 1):
                to_p, to_h = at_p[layer] + dual_p[layer], at_h[layer] + dual_h[layer]
                p[layer], h[layer] = _on_relu(to_p, to_h)
                dual_p[layer], dual_h[layer] = to_p - p[layer], to_h - h[layer]
            target = at_p[-1] + dual_p[-1]
            p[-1] = _on_collision(target, balance)
            dual_p[-1] = target - p[-1]
        done = upto
    settled = _read([value.numpy() for value in p], balance[:count, 0].tolist())
    return [settled[pair :: len(u)] for pair in range(len(u))]


def _start(values: list[torch.Tensor], starts: int, seed: int) -> list[torch.Tensor]:
    """Pre-activations to start from, [2, S, B, n_i]: of the ends, of their mean, then these in turn with
    noise, the same for every pair.
    """
    out = []
    for layer, value in enumerate(values):
        generator = torch.Generator().manual_seed(seed * len(values) + layer)
        mean = value.mean(0, keepdim=True).expand_as(value)
        size = (value[0] - value[1]).square().mean(1, keepdim=True).sqrt()  # [B, 1]
        rows = []
        for start in range(starts):
            noise = torch.randn(2, 1, value.shape[2], generator=generator, dtype=value.dtype)
            rows.append((mean if start % 2 else value) + (NOISE * size * noise if start >= 2 else 0.0))
        out.append(torch.stack(rows, 1))
    return out


def _balance(balance: torch.Tensor, norms: torch.Tensor) -> torch.Tensor:
    """l and 1 - l [2 B, 1], moved towards the point with the longer step; norms [2 B]."""
    count = len(norms) // 2
    ratio = (norms[:count] / norms[count:].clamp(min=1e-300)).clamp(0.25, 4).unsqueeze(1)
    share = balance[:count] * ratio
    share = (share / (share + balance[count:])).clamp(*BOUNDS)
    return torch.cat([share, 1 - share])


def _on_relu(p: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The nearest point with h = max(p, 0), for each unit."""
    value = ((p + h) / 2).clamp(min=0)
    is_open = (p - value) ** 2 + (h - value) ** 2 < p.clamp(min=0) ** 2 + h**2
    return torch.where(is_open, value, p.clamp(max=0)), torch.where(is_open, value, 0.0)


def _on_collision(p: torch.Tensor, balance: torch.Tensor) -> torch.Tensor:
    """The nearest p, p' [2 B, m] that are equal or both at most 0, in distances weighed by l and 1 - l."""
    count = len(p) // 2
    weighed = balance * p
    value = (weighed[:count] + weighed[count:]).clamp(min=0).repeat(2, 1)
    open_cost, closed_cost = balance * (p - value) ** 2, balance * p.clamp(min=0) ** 2
    is_open = (open_cost[:count] + open_cost[count:] < closed_cost[:count] + closed_cost[count:]).repeat(2, 1)
    return torch.where(is_open, value, p.clamp(max=0))


def _read(p: list[Array], balance: list[float]) -> list[_Settled]:
    """The patterns of the final pre-activations [2 B, n_i]; units at exactly 0 are held there."""
    count = len(balance)
    last = (p[-1][:count] > 0) & (p[-1][count:] > 0)
    held = np.concatenate([value == 0 for value in p], axis=1)
    settled = []
    for i, share in enumerate(balance):
        gates_u, gates_v = ((*(value[row] > 0 for value in p[:-1]), last[i]) for row in (i, count + i))
        settled.append(_Settled(Pattern(gates_u, gates_v), Guess(share, held[i], held[count + i])))
    return settled
