"""A readout of one layer of a frozen network, its clipped margin, and the search for the smallest margin."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from semirobust.attacks import ascend, batches, check_finite, margin, project, random_start
from semirobust.layers import attack_view, device_of, layer_features

View = Callable[[torch.Tensor], torch.Tensor]


class Probe(nn.Module):
    """x -> G(F^(j)(x)): images [N, ...] in [0, 1] -> logits [N, K], through a frozen copy of the network up
    to layer j.

    ``layer``: the name of a weight layer, whose own output is read (before BatchNorm and activation), or
    ``"input"``. ``features``: images -> float32 [N, d], in evaluation mode for good. ``head``: G, linear
    layers and ReLUs in turn, [N, d] -> [N, K]; its scale is the scale of the clipped margin.
    """

    def __init__(self, model: nn.Module, layer: str, head: nn.Module) -> None:
        """Copies what it needs of ``model``. Raises ``ValueError`` for a layer that does not exist (listing
        those that do), or a head of other modules."""
        super().__init__()
        self.layer = layer
        self.features = layer_features(model, layer)
        self.head = head if isinstance(head, nn.Sequential) else nn.Sequential(head)
        modules = list(self.head)
        ends = modules and type(modules[0]) is type(modules[-1]) is nn.Linear
        if not ends or any(type(module) not in (nn.Linear, nn.ReLU) for module in modules):
            names = ", ".join(type(module).__name__ for module in modules) or "nothing"
            raise ValueError(f"a head is Linear, or Linear, ReLU, ..., Linear; this one is {names}")
        first = modules[0]
        assert isinstance(first, nn.Linear)
        self.n_features = first.in_features
        self.head.to(device_of(model))

    def train(self, mode: bool = True) -> Probe:
        """The mode of the head only: the network below stays in evaluation mode."""
        super().train(mode)
        self.features.eval()
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x))

    def view(self, *, fast: bool = True) -> View:
        """The same function with the fast, approximate view of the network below the head, for attacks."""
        if not fast or next(self.features.parameters(), None) is None:
            return self
        below = attack_view(self.features)  # of a graph that was traced already: always possible
        return lambda x: self.head(below(x))


class Sum(nn.Module):
    """The sum of readouts, a last layer that is linear in all of them (Lemma 2 of arXiv 2307.03803): images
    [N, ...] -> logits [N, K]."""

    def __init__(self, probes: Sequence[Probe]) -> None:
        """Raises ``ValueError`` for no probes."""
        super().__init__()
        if not probes:
            raise ValueError("there is no probe to sum: give at least one")
        self.probes = nn.ModuleList(probes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([probe(x) for probe in self.probes]).sum(0)

    def view(self, *, fast: bool = True) -> View:
        views = [probe.view(fast=fast) for probe in self.probes if isinstance(probe, Probe)]
        return lambda x: torch.stack([view(x) for view in views]).sum(0)


def clip(margins: torch.Tensor) -> torch.Tensor:
    """The normalised readout: values in [-1, 1]."""
    return margins.clamp(-1, 1)


def adversarial_cross_entropy(
    view: View, x: torch.Tensor, labels: torch.Tensor, attack: dict[str, float], generator: torch.Generator
) -> torch.Tensor:
    """PGD on the cross-entropy of the composition, from a random start: [N, ...]."""
    start = random_start(x.cpu(), attack["eps"], "linf", generator).to(x.device)
    return ascend(
        view, x, labels, eps=attack["eps"], step=attack["step"], steps=int(attack["steps"]), start=start
    )


@torch.no_grad()
def margins(probe: nn.Module, images: torch.Tensor, labels: torch.Tensor, batch_size: int) -> torch.Tensor:
    """G_y - max_{k != y} G_k in float32, not clipped: [N] on the CPU."""
    device, found = device_of(probe), []
    for at in batches(len(images), batch_size):
        logits = probe(images[at].to(device))
        check_finite(logits)
        found.append(-margin(logits, labels[at].to(device)).cpu())
    return torch.cat(found)


def lowest_margins(
    probe: Probe | Sum,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    eps: float,
    step: float,
    steps: int,
    restarts: int,
    seed: int,
    batch_size: int,
    fast: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(margins of the images [N], smallest margins found within eps [N]), both by the probe in float32.

    Clipping is monotone and so is a positive scale: the perturbation with the smallest margin is the worst
    one for the clipped margin at every scale. The first search lowers the margin itself, from the image;
    search r starts at random and raises the r-th strongest other class against the label (with few classes,
    in turn). The image itself counts as found, so more searches never raise a margin.
    """
    clean = margins(probe, images, labels, batch_size)
    if eps == 0:
        return clean, clean.clone()
    device, view = device_of(probe), probe.view(fast=fast)
    lowest = clean.clone()
    for restart in range(restarts):
        generator = torch.Generator().manual_seed(1_000_003 * seed + restart)
        for at in batches(len(images), batch_size):
            x, y = images[at].to(device), labels[at].to(device)
            start, target = (
                x,
                y[:, None].expand(-1, 2),
            )  # [N, 2]: label and rival; the label itself: any rival
            if restart:
                start = random_start(images[at], eps, "linf", generator).to(device)
                target = torch.stack([y, _rival(probe, x, y, restart - 1)], 1)
            found = ascend(view, x, target, eps=eps, step=step, steps=steps, start=start, loss=_against)
            found = project(found, x, eps, "linf")
            lowest[at] = torch.minimum(lowest[at], margins(probe, found.cpu(), labels[at], batch_size))
    return clean, lowest


def _against(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The rival's logit minus the label's, the strongest rival's where it is not named: [N, K], [N, 2] ->
    [N]."""
    label, rival = target.unbind(1)
    named = (logits.gather(1, rival[:, None]) - logits.gather(1, label[:, None]))[:, 0]
    return torch.where(rival == label, margin(logits, label), named)


@torch.no_grad()
def _rival(probe: nn.Module, x: torch.Tensor, labels: torch.Tensor, rank: int) -> torch.Tensor:
    """The class of the given rank (0: strongest) among the others: int64 [N]."""
    others = probe(x).scatter(1, labels[:, None], -torch.inf)  # [N, K]
    return others.argsort(1, descending=True)[:, rank % (others.shape[1] - 1)]


def best_scale(attacked: torch.Tensor) -> float:
    """The factor s that maximises the mean of clip(s v, -1, 1) over margins v [n], between the scales that
    clip 10 % and 90 % of them.

    The range keeps s finite: where most margins are positive the mean often grows up to the hard decision. Of
    equally good factors the smallest, that is the least clipped, counts.
    """
    sizes = attacked.abs().double()
    sizes = sizes[sizes > 0]
    if len(sizes) == 0:
        return 1.0
    factors = 1 / torch.quantile(sizes, torch.linspace(0.9, 0.1, 81, dtype=torch.float64))  # ascending
    means = torch.stack([clip(factor * attacked.double()).mean() for factor in factors])
    return float(factors[int(means.argmax())])


# --- the gap between two probes ---


def gap_found(
    earlier: Probe,
    later: Probe,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    eps: float,
    step: float,
    steps: int,
    restarts: int,
    seed: int,
    batch_size: int,
    fast: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(difference of the clipped margins of the images [N], largest one found within eps [N]), both absolute.

    The search follows clip(v) + 0.01 (v - clip(v)), as clipped margins themselves have no gradient.
    """

    def gap(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        both = [clip(margins(probe, x, y, batch_size)) for probe in (earlier, later)]
        return (both[0] - both[1]).abs()

    clean = gap(images, labels)
    widest = clean.clone()
    if eps == 0:
        return clean, widest
    device, views = device_of(earlier), (earlier.view(fast=fast), later.view(fast=fast))

    def both_logits(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([view(x) for view in views], 1)  # [N, 2, K]

    for restart in range(restarts):
        for sign in (1.0, -1.0):
            generator = torch.Generator().manual_seed(1_000_003 * seed + restart)

            def apart(logits: torch.Tensor, y: torch.Tensor, sign: float = sign) -> torch.Tensor:
                first, second = (_leaky(-margin(logits[:, i], y)) for i in range(2))
                return sign * (first - second)

            for at in batches(len(images), batch_size):
                x, y = images[at].to(device), labels[at].to(device)
                start = random_start(images[at], eps, "linf", generator).to(device) if restart else x
                found = ascend(both_logits, x, y, eps=eps, step=step, steps=steps, start=start, loss=apart)
                found = project(found, x, eps, "linf").cpu()
                widest[at] = torch.maximum(widest[at], gap(found, labels[at]))
    return clean, widest


def _leaky(values: torch.Tensor) -> torch.Tensor:
    return clip(values) + 0.01 * (values - clip(values))
