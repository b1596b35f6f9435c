"""A bound, layer by layer, on the distance between the outputs of two networks with the same f_a."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from semirobust.bounds.constants import node_constants, upper_norm
from semirobust.bounds.pair import Pair, check_images, folded_pair
from semirobust.bounds.steps import Step, steps

LOGIT_FACTOR = math.sqrt(2)  # l2 Lipschitz constant, in the logits, of cross-entropy (nats) and of margins


@dataclass(frozen=True, eq=False)
class Telescope:
    """Bounds of ||F~(x) - F*(x)||_2 for N images; all tensors float64 on the CPU.

    difference [N]: the truth. bound [N]: the sum over the layers of f_b of the exact change that each
    makes to the activations of F*, times the operator norms of all later layers of F~. product_bound [N]: the
    same with ||W~ - W*|| ||z*|| + ||b~ - b*|| for the change. printed_bound [N]: the right side of (15) of
    arXiv 2307.03803, which is not a bound. layers: names of the L layers that differ; contributions [N, L]:
    their shares of ``bound``.
    """

    difference: torch.Tensor
    bound: torch.Tensor
    product_bound: torch.Tensor
    printed_bound: torch.Tensor
    layers: tuple[str, ...]
    contributions: torch.Tensor

    @property
    def loss_difference(self) -> float:
        """Bound of |J(tilde) - J(star)| for the mean cross-entropy J (nats): sqrt(2) times the mean bound."""
        return LOGIT_FACTOR * float(self.bound.mean())


def telescope(
    model_star: nn.Module,
    model_tilde: nn.Module,
    images: torch.Tensor,
    n_fb: int,
    *,
    batch_size: int = 64,
) -> Telescope:
    """||F~(x) - F*(x)|| for F* = (f_a*, f_b*) and F~ = (f_a*, f_b~), bounded by layerwise differences.

    ``images`` [N, ...] in [0, 1]. A layer z_j = s(W_j z_{j-1} + b_j) passes an error on with its factor
    C ||W~_j|| and adds C ||(W~_j - W*_j) z*_{j-1} + b~_j - b*_j||, where C is the Lipschitz constant of the
    activation or pooling; where branches meet, errors add up, so a residual block z + g(z) multiplies by
    1 + L_g. Zero where the weights agree.

    Corrects (15) and (16) of arXiv 2307.03803: 1. the factors of the later layers, which are missing there;
    2. operator norms at the true image size instead of kernels' Frobenius norms; 3. biases, where the shift
    of a convolution counts once per pixel; 4. BatchNorm (evaluation mode) folded in. ``printed_bound`` is
    ||omega~_b - omega*_b||_F ||z*_a(x)||, for these folded weights and biases and the input of f_b's first
    layer. The models are left as found. Raises ``ValueError`` for a layer that no rule treats (by name),
    networks of different shape, or an f_a that differs.
    """
    check_images(images)
    pair = folded_pair(model_star, model_tilde, n_fb)
    walk = Walk(pair, tuple(images.shape[1:]), radius=0.0)
    parts = list(walk.batches(images, batch_size))
    difference, exact, product, entrance = (torch.cat(column).cpu() for column in zip(*parts, strict=True))
    moved = sum(
        float((pair.tilde.get_parameter(n) - pair.star.get_parameter(n)).square().sum()) for n in pair.names_b
    )
    return Telescope(
        difference=difference,
        bound=exact.sum(1),
        product_bound=product.sum(1),
        printed_bound=math.sqrt(moved) * entrance,
        layers=tuple(walk.layers),
        contributions=exact,
    )


class Walk(fx.Interpreter):
    """Runs F* and carries, beside each value, the errors [N, L] of F~ there, by the layer that caused them.

    With a ``radius`` the errors hold for all x' with ||x' - x||_2 <= radius: the activations z* of F* move by
    at most their Lipschitz constant times the radius.
    """

    def __init__(self, pair: Pair, in_shape: tuple[int, ...], *, radius: float) -> None:
        super().__init__(pair.star)
        self.tilde, self.first_b = pair.tilde, pair.first_b
        plan = steps(pair.star, in_shape)
        self.plan: dict[fx.Node, Step] = {step.node: step for step in plan}
        parameters = dict(pair.star.named_parameters())
        differ = {n for n, p in parameters.items() if not torch.equal(p, pair.tilde.get_parameter(n))}
        owners = {name.rpartition(".")[0] for name in differ}
        affine = dict.fromkeys(str(step.node.target) for step in plan if step.kind == "affine")
        self.layers = [name for name in affine if name in owners]
        if strange := [name for name in differ if name.rpartition(".")[0] not in affine]:
            raise ValueError(f"bounds cannot treat parameters outside layers: {', '.join(sorted(strange))}")
        reach = node_constants(pair.star, plan) if radius else {}
        self.reach = {node: radius * constant for node, constant in reach.items()}
        self.norms: dict[fx.Node, tuple[float, float, float]] = {}
        self.errors: dict[fx.Node, tuple[torch.Tensor, torch.Tensor] | None] = {}
        self.entrance = torch.empty(0)

    @torch.no_grad()
    def batches(self, images: torch.Tensor, batch_size: int) -> Iterator[tuple[torch.Tensor, ...]]:
        """For each batch: difference [n], exact and product errors [n, L], norm of the input of f_b [n]."""
        device = next(self.tilde.parameters()).device
        for first in range(0, len(images), batch_size):
            x = images[first : first + batch_size].to(device, torch.float64)
            logits = self.run(x)
            difference = (self.tilde(x) - logits).flatten(1).norm(dim=1)
            last = next(node for node in self.errors if node.op == "output")
            exact, product = self.errors[last] or (x.new_zeros(len(x), len(self.layers)),) * 2
            yield difference, exact, product, self.entrance

    def run_node(self, n: fx.Node) -> Any:
        step = self.plan.get(n)
        before: Any = self.env[step.parents[0]] if step is not None and step.parents else None
        value = super().run_node(n)
        if step is None:
            return value
        incoming = [error for parent in step.parents if (error := self.errors[parent]) is not None]
        total: Any = tuple(sum(column) for column in zip(*incoming, strict=True)) or None
        if step.kind == "affine":
            if n.target == self.first_b:
                self.entrance = before.flatten(1).norm(dim=1)
            self.errors[n] = self._affine(step, before, value, total)
        else:
            self.errors[n] = total and (step.constant * total[0], step.constant * total[1])
        return value

    def _affine(self, step: Step, before: torch.Tensor, value: torch.Tensor, incoming: Any) -> Any:
        name = str(step.node.target)
        if incoming is None and name not in self.layers:
            return None
        norm, moved, shift = self._norms(step)
        exact, product = incoming or (value.new_zeros(len(value), len(self.layers)),) * 2  # [n, L]
        exact, product = norm * exact, norm * product
        if name in self.layers:
            column, spread = self.layers.index(name), moved * self.reach.get(step.parents[0], 0.0)
            change = (self.tilde.get_submodule(name)(before) - value).flatten(1).norm(dim=1)
            exact[:, column] += change + spread
            product[:, column] += moved * before.flatten(1).norm(dim=1) + shift + spread
        return exact, product

    def _norms(self, step: Step) -> tuple[float, float, float]:
        """||W~||, ||W~ - W*|| and ||b~ - b*|| as a map of the output's shape."""
        if step.node not in self.norms:
            name = str(step.node.target)
            tilde, star = self.tilde.get_submodule(name), self.module.get_submodule(name)
            change: Any = copy.deepcopy(tilde)
            for parameter, own in zip(change.parameters(), star.parameters(), strict=True):
                parameter.sub_(own)
            blank = torch.zeros(1, *step.in_shape, dtype=torch.float64, device=change.weight.device)
            moved = upper_norm(change, step.in_shape) if name in self.layers else 0.0
            self.norms[step.node] = (upper_norm(tilde, step.in_shape), moved, float(change(blank).norm()))
        return self.norms[step.node]
