"""Lower bounds of a readout's margin over an l2 ball, by linear bounds of each ReLU.

The bounds are those of CROWN (arXiv 1811.00866). A ReLU whose input lies in [l, u], l < 0 < u, is at most u
(z - l) / (u - l), and at least a z for every a in [0, 1]. So a linear function of its output is at least a
linear function of its input, and, layer by layer, of the image; over a ball that has a minimum in closed
form. The intervals [l, u] come from the same bound, layer after layer. Without ReLUs it is exact.
"""

from __future__ import annotations

import torch

Map = tuple[torch.Tensor, torch.Tensor]  # (W [m, n], b [m]) of z -> W z + b
Interval = tuple[torch.Tensor, torch.Tensor]  # of the inputs of ReLUs, [N, n] each

ROUNDING = 1e-10  # allowance, relative to the sizes that a bound is the difference of


@torch.no_grad()
def lower_bounds(maps: list[Map], x: torch.Tensor, y: torch.Tensor, eps: float) -> torch.Tensor:
    """min of y g over |delta|_2 <= eps, or less: [N], for g = the last of ``maps``, with one output, of relu
    of the one before, and so on; ``x`` [N, d], ``y`` [N] in {-1, +1}, all float64.
    """
    (weight, bias), *later = maps
    basis = torch.linalg.qr(weight.T).R.T  # [m, r]: norms of a W are those of a basis
    centre = x @ weight.T + bias  # [N, m]
    if not later:
        radius = eps * weight.norm(dim=1)
        return (y * centre[:, 0] - radius) - ROUNDING * (1 + centre.abs().amax(1) + radius)
    radius = eps * basis.norm(dim=1)
    inside: list[Interval] = [(centre - radius, centre + radius)]
    for number in range(1, len(later)):
        weight, bias = later[number - 1]
        below = [
            _below(sign * weight[None], sign * bias[None], later, inside, centre, basis, eps)
            for sign in (1, -1)
        ]
        inside.append((below[0], -below[1]))
    weight, bias = later[-1]
    sign = y[:, None]
    return _below(sign[:, :, None] * weight, sign * bias, later, inside, centre, basis, eps)[:, 0]


def _below(
    a: torch.Tensor,
    c: torch.Tensor,
    later: list[Map],
    inside: list[Interval],
    centre: torch.Tensor,
    basis: torch.Tensor,
    eps: float,
) -> torch.Tensor:
    """Lower bounds [N, k] of a h + c, h the outputs of the last ReLUs of ``inside``: a [N or 1, k, n], c."""
    for number in reversed(range(len(inside))):
        low, high = inside[number]
        open_ = (low < 0) & (high > 0)
        slope = torch.where(open_, high / (high - low).clamp(min=1e-300), (low >= 0).to(low))  # from above
        least = torch.where(open_, (high > -low).to(low), slope)  # from below: the smaller triangle
        rise, fall = a.clamp(min=0), a.clamp(max=0)
        c = c - (fall * torch.where(open_, slope * low, 0)[:, None]).sum(2)
        a = rise * least[:, None] + fall * slope[:, None]  # [N, k, n]
        if number:
            weight, bias = later[number - 1]
            c, a = c + a @ bias, a @ weight
    value = (a @ centre[:, :, None])[:, :, 0] + c
    reach = eps * (a @ basis).norm(dim=2)
    return value - reach - ROUNDING * (1 + value.abs() + c.abs() + reach)
