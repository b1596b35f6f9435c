"""The pattern search of `admm`: alternating directions on tensors, for many pairs at once.

Write p and p' for the pre-activations of both points. In the last layer the pair (p_j, p'_j) of a unit must
lie in {p = p' >= 0} or {p <= 0, p' <= 0}, or in {p = p'} where no ReLU follows. In a hidden layer each point
must satisfy h_j = max(p_j, 0). These sets are not all convex, but the nearest point of each is known in
closed form, unit by unit. The affine maps between layers, with the squared steps l |a|^2 + (1 - l) |a'|^2 as
the cost of the first, are least-squares problems with matrices that all pairs share. The alternating
direction method of multipliers (Boyd et al., Foundations and Trends in Machine Learning 3, 2011) alternates
between the two. The penalty starts small: at first the cost dominates and units change their state freely. It
grows until the pattern has settled. The weight l replaces the maximum of both steps by a weighted sum, and
moves until the steps are equal. Deeper networks take longer steps (over-relaxation, section 3.4.3 there),
without which they hardly settle.

Only a pattern is needed, so float32 is enough.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.functional import leaky_relu

from semirobust.collisions.network import Network
from semirobust.collisions.solvers.active_set import Guess, Start
from semirobust.extractors import Array

DTYPE = torch.float32
# Pairs of values: for one layer, for more.
PENALTIES = (np.geomspace(0.25, 2, 12), np.geomspace(0.5, 16, 8))  # used in turn, relative to the cost
ITERATIONS = (60, 240)  # divided among the penalties
RELAXATION = (1.0, 1.7)
BALANCING = 10  # iterations between changes of l
BOUNDS = (0.01, 0.99)  # of l
NOISE = 1.0  # of the random starts, in root mean squares of p(u) - p(v)
KINK = 1 + math.sqrt(2)


class Splitting:
    """The least-squares maps of a network on a device, and the iterations.

    Weights make the layers comparable: that of layer i is 1 / s_i^2 times that of layer i - 1, for s_i the
    root mean square of the singular values of its matrix. Hidden values have the weight of their
    pre-activations.
    """

    def __init__(self, network: Network, device: torch.device) -> None:
        self.network, self.device = network, device
        deep = len(network.layers) > 1
        self.penalties, self.relaxation = PENALTIES[deep].tolist(), RELAXATION[deep]
        left, sigma = network.singular
        self.left, self.sigma = self._tensor(left), torch.from_numpy(sigma)  # [n_1, r], [r]
        self.weight = _weight(network.reduced)
        self.biases = [self._tensor(layer.bias) for layer in network.layers]
        self.deeper_maps = []
        for layer in network.layers[1:]:
            step, rows = _weight(layer.weight), len(layer.weight)
            inverse = np.linalg.inv(np.eye(rows) / step + layer.weight @ layer.weight.T)
            both = np.hstack([-inverse @ layer.weight, inverse])  # [n_i, n_(i-1) + n_i]
            self.deeper_maps.append((self._tensor(both.T.copy()), self._tensor(layer.weight), step))
        self.first_maps = [(self.first(penalty), self.shrink(penalty)) for penalty in self.penalties]

    def _tensor(self, array: Array) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device, DTYPE)

    def shrink(self, penalty: float) -> torch.Tensor:
        """[r]: factors from wanted changes of the pre-activations to steps, both in the singular bases."""
        scale = penalty * self.weight
        return (scale * self.sigma / (1 + scale * self.sigma**2)).to(self.device, DTYPE)

    def first(self, penalty: float) -> torch.Tensor:
        """[n_1, n_1], symmetric: maps wanted changes of the pre-activations to the least-squares changes."""
        return (self.left * (self.shrink(penalty) * self.sigma.to(self.device, DTYPE))) @ self.left.T

    def deeper(self, layer: int, hidden: torch.Tensor, p: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The nearest (h, W h + k) of layer 2, 3, ... (index 1, 2, ...) to given h [N, .] and p [N, .].

        With t the weight of p it is (h + W^T y, p - y / t) for y = (1 / t + W W^T)^-1 (p - k - W h).
        """
        both, weight, step = self.deeper_maps[layer - 1]
        y = torch.cat([hidden, p - self.biases[layer]], 1) @ both
        return torch.addmm(hidden, y, weight), torch.add(p, y, alpha=-1 / step)

    def search(self, ends: Array, starts: range, iterations: int, seed: int) -> list[list[Start]]:
        """The iterations from S starts for the pairs `ends` [2, B, d]: the results of all starts, by pair.

        States are [2 S B, n_i]: all starts of all u, then those of all v.
        """
        pairs, network = ends.shape[1], self.network
        count, depth = len(starts) * pairs, len(network.layers)
        values = [self._tensor(value) for value in network.pre_activations(ends)]  # [2, B, n_i]
        middle = [self._tensor(value) for value in network.pre_activations(ends.mean(axis=0))]  # [B, n_i]
        base = values[0].repeat(1, len(starts), 1).flatten(0, 1)
        p = [value.flatten(0, 2) for value in _start(values, middle, starts, seed)]
        h = [value.clamp(min=0) for value in p[:-1]]
        dual_p, dual_h = [torch.zeros_like(value) for value in p], [torch.zeros_like(value) for value in h]
        balance = torch.full((2 * count, 1), 0.5, dtype=DTYPE, device=self.device)  # l, then 1 - l
        done, last = 0, self.penalties[0]
        for stage, (penalty, (nearest, shrink)) in enumerate(
            zip(self.penalties, self.first_maps, strict=True), start=1
        ):
            for dual in (*dual_p, *dual_h):
                dual *= last / penalty
            last, upto = penalty, iterations * stage // len(self.penalties)
            for iteration in range(done, upto):
                wanted = p[0] - dual_p[0] - base
                at_p, at_h = [torch.addmm(base, wanted, nearest)], []
                for layer in range(1, depth):
                    hidden, value = self.deeper(
                        layer, h[layer - 1] - dual_h[layer - 1], p[layer] - dual_p[layer]
                    )
                    at_h.append(hidden)
                    at_p.append(value)
                if iteration % BALANCING == BALANCING - 1:
                    norms = ((wanted @ self.left) * shrink).norm(dim=1)
                    changed = _balance(balance, norms)
                    for dual in (*dual_p, *dual_h):
                        dual *= balance / changed
                    balance = changed
                for layer in range(depth - 1):
                    to_p = self._beyond(p[layer], at_p[layer], dual_p[layer])
                    to_h = self._beyond(h[layer], at_h[layer], dual_h[layer])
                    p[layer], h[layer] = _on_relu(to_p, to_h)
                    dual_p[layer], dual_h[layer] = to_p - p[layer], to_h - h[layer]
                target = self._beyond(p[-1], at_p[-1], dual_p[-1])
                p[-1] = _on_collision(target, balance, network.rectified)
                dual_p[-1] = target - p[-1]
            done = upto
        settled = _read(network, [value.cpu().numpy() for value in p], balance[:count, 0].tolist())
        return [settled[pair::pairs] for pair in range(pairs)]

    def _beyond(self, before: torch.Tensor, after: torch.Tensor, dual: torch.Tensor) -> torch.Tensor:
        """The over-relaxed step from `before` to `after`, plus the dual."""
        return (after if self.relaxation == 1 else torch.lerp(before, after, self.relaxation)) + dual


def _weight(matrix: Array) -> float:
    square = float((matrix**2).sum())
    return min(matrix.shape) / square if square > 0 else 1.0


def _start(
    values: Sequence[torch.Tensor], middle: Sequence[torch.Tensor], starts: range, seed: int
) -> list[torch.Tensor]:
    """Pre-activations to start from, [2, S, B, n_i]: the midpoint, the ends, then these in turn with noise.

    values: those of the ends, [2, B, n_i]. middle: those of the midpoint, [B, n_i]. The noise is the same for
    every pair, up to scale.
    """
    out = []
    for layer, (value, mean) in enumerate(zip(values, middle, strict=True)):
        generator = torch.Generator().manual_seed(seed * len(values) + layer)
        mean = mean.expand_as(value)
        size = (value[0] - value[1]).square().mean(1, keepdim=True).sqrt()  # [B, 1]
        rows = [mean, value]
        for start in range(2, starts.stop):
            noise = torch.randn(2, 1, value.shape[2], generator=generator, dtype=DTYPE).to(value.device)
            rows.append((value if start % 2 else mean) + NOISE * size * noise)
        out.append(torch.stack(rows[starts.start : starts.stop], 1))
    return out


def _balance(balance: torch.Tensor, norms: torch.Tensor) -> torch.Tensor:
    """l and 1 - l [2 B, 1], moved towards the point with the longer step; norms [2 B]."""
    count = len(norms) // 2
    ratio = (norms[:count] / norms[count:].clamp(min=1e-30)).clamp(0.25, 4).unsqueeze(1)
    share = balance[:count] * ratio
    share = (share / (share + balance[count:])).clamp(*BOUNDS)
    return torch.cat([share, 1 - share])


def _on_relu(p: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The nearest point with h = max(p, 0), for each unit.

    A unit is open where h > -p if p >= 0, and where h > (1 + sqrt 2) |p| if p < 0. Masks are floats, and
    selections are products: this is several times as fast as with booleans.
    """
    is_open = torch.gt(leaky_relu(p, KINK).add_(h), 0, out=torch.empty_like(p))
    value = (p + h).mul_(0.5)
    return torch.lerp(p.clamp(max=0), value, is_open), value.mul_(is_open)


def _on_collision(p: torch.Tensor, balance: torch.Tensor, rectified: bool = True) -> torch.Tensor:
    """The nearest p, p' [2 B, m] that are equal or both at most 0, in distances weighted by l and 1 - l.

    Without ReLU they must be equal. With ReLU equal values are nearer where both are positive, and where p >
    0 >= p' if p > sqrt(1 - l) (p - p'), and vice versa.
    """
    count = len(p) // 2
    weighed = balance * p
    value = weighed[:count] + weighed[count:]
    if not rectified:
        return value.repeat(2, 1)
    gap, root = p[:count] - p[count:], balance.sqrt()
    is_open = torch.gt(p[:count], root[count:] * gap, out=torch.empty_like(gap))
    is_open *= torch.gt(p[count:], root[:count] * -gap, out=torch.empty_like(gap))
    return torch.lerp(p.clamp(max=0), value.repeat(2, 1), is_open.repeat(2, 1))


def _read(network: Network, p: list[Array], balance: list[float]) -> list[Start]:
    """The patterns of the final pre-activations [2 B, n_i]; units at exactly 0 are held at 0."""
    count = len(balance)
    held = np.concatenate([value == 0 for value in p], axis=1)
    settled = []
    for i, share in enumerate(balance):
        values_u, values_v = ([value[row] for value in p] for row in (i, count + i))
        settled.append(Start(network.pattern_of(values_u, values_v), Guess(share, held[i], held[count + i])))
    return settled
