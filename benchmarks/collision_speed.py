"""Benchmark of `find_collisions`: speed and quality beside the paper's descent over cone programs.

    python benchmarks/collision_speed.py [--pairs 256] [--slow 8] [--slow-deep 3] [--small 40]

Pairs: digits 3 and 7 of scikit-learn, enlarged to 28 x 28 pixels (784 inputs). Networks: one ReLU layer of
300 units and two of 300 and 200, with He's random weights and trained on the ten digits. All pairs go to the
default method in one batch, and the first few also to "descent". Times are processor time for each pair, so
other load on the machine does not change them. Collisions of both methods are verified. One counts as at or
below the other up to 1e-8 of it. Last come random networks of at most 6 units a layer, where enumeration
gives the global optimum.

Targets: one layer 200 times as fast, at or below on 95 % of pairs, mean ratio at most 0.995; two layers 50
times, at or below on 90 %; the global optimum on 80 %, and never below it. The exit status is 1 where one is
missed.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from typing import NamedTuple

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy, interpolate

from semirobust.collisions import Collisions, Network, enumerate_patterns, find_collisions

Layers = list[tuple[np.ndarray, np.ndarray]]
SAME = 1e-8


class Case(NamedTuple):
    name: str
    sizes: tuple[int, ...]
    trained: bool
    speed: float
    share: float
    ratio: float


CASES = (
    Case("300, random", (784, 300), False, 200, 0.95, 0.995),
    Case("300, trained", (784, 300), True, 200, 0.95, 0.995),
    Case("300 and 200, random", (784, 300, 200), False, 50, 0.9, 1.0),
    Case("300 and 200, trained", (784, 300, 200), True, 50, 0.9, 1.0),
)
SMALL = ((3,), (6,), (4, 3), (6, 6), (3, 4, 3))  # units of each layer
FOUND = 0.8  # share of the global optima to find


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Images [N, 784] in [0, 1] and labels."""
    raw = load_digits()
    images = torch.tensor(raw.images / 16, dtype=torch.float32).unsqueeze(1)
    large = interpolate(images, size=(28, 28), mode="bilinear", align_corners=False)
    return large.flatten(1), torch.tensor(raw.target)


def network(sizes: tuple[int, ...], trained: bool) -> Layers:
    """ReLU layers with He's initial weights; trained with a linear readout on top, if wanted."""
    generator = torch.Generator().manual_seed(0)
    layers = [nn.Linear(n, m) for n, m in itertools.pairwise(sizes)]
    readout = nn.Linear(sizes[-1], 10)
    with torch.no_grad():
        for layer in (*layers, readout):
            layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator))
            layer.weight.mul_((2 / layer.in_features) ** 0.5)
            layer.bias.zero_()
    if trained:
        images, labels = digits()
        model = nn.Sequential(*itertools.chain(*((layer, nn.ReLU()) for layer in layers)), readout)
        optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
        for _ in range(20):
            for rows in torch.randperm(len(images), generator=generator).split(64):
                optimiser.zero_grad()
                cross_entropy(model(images[rows]), labels[rows]).backward()
                optimiser.step()
    return [(layer.weight.detach().numpy(), layer.bias.detach().numpy()) for layer in layers]


def pairs(count: int) -> tuple[np.ndarray, np.ndarray]:
    images, labels = digits()
    rng = np.random.default_rng(0)
    first, second = (
        images[rng.choice(np.flatnonzero(labels == digit), count)].double().numpy() for digit in (3, 7)
    )
    return first, second


def timed(network: Network, u: np.ndarray, v: np.ndarray, method: str) -> tuple[Collisions, float]:
    """The collisions, and processor time in milliseconds for each pair."""
    began = time.process_time()
    found = find_collisions(network, u, v, method=method)
    return found, 1e3 * (time.process_time() - began) / len(u)


def compare(case: Case, count: int, slow: int) -> bool:
    """Prints one case and returns whether a target was missed."""
    prepared, (u, v) = Network.of(network(case.sizes, case.trained)), pairs(count)
    find_collisions(prepared, u[:2], v[:2])  # warm-up
    fast, fast_time = timed(prepared, u, v, "admm")
    twin, twin_time = timed(prepared, u[:slow], v[:slow], "descent")
    ratios = fast.epsilon[:slow] / twin.epsilon
    speed, share, ratio = twin_time / fast_time, float(np.mean(ratios <= 1 + SAME)), float(ratios.mean())
    print(f"\n{case.name}")
    print(
        f"  admm           {fast_time:10.1f} ms a pair ({count} pairs; {int(fast.verified.sum())} verified)"
    )
    print(f"  descent        {twin_time:10.1f} ms a pair ({slow} pairs)")
    print(f"  speed          {speed:10.0f} times (target {case.speed:g})")
    print(f"  at or below    {100 * share:10.0f} % (target {100 * case.share:g} %)")
    print(f"  mean of ratios {ratio:10.4f} (target {case.ratio:g}), {ratios.min():.4f} to {ratios.max():.4f}")
    return speed < case.speed or share < case.share or ratio > case.ratio or not fast.verified.all()


def against_optimum(count: int) -> bool:
    """Prints how often the global optimum is found and returns whether a target was missed."""
    rng = np.random.default_rng(0)
    reached, total, below = {"admm": 0, "descent": 0}, 0, 0
    for sizes in itertools.islice(itertools.cycle(SMALL), count):
        widths = [int(rng.integers(1, 7)), *sizes]
        layers = [
            (rng.standard_normal((m, n)), rng.standard_normal(m)) for n, m in itertools.pairwise(widths)
        ]
        u, v = 2 * rng.standard_normal((2, 1, widths[0]))
        best = enumerate_patterns(layers, u, v)
        if best.status != ("optimal",):
            continue
        total += 1
        optimum = best.epsilon[0]
        for method in reached:
            epsilon = find_collisions(layers, u, v, method=method).epsilon[0]
            reached[method] += epsilon <= optimum + 1e-6 * (1 + optimum)
            below += epsilon < best.epsilon[0] - 1e-6 * (1 + optimum)
    share = reached["admm"] / total
    print(f"\nup to 6 units a layer: {total} random pairs with a known global optimum")
    print(f"  admm           {100 * share:10.0f} % reach it (target {100 * FOUND:g} %)")
    print(f"  descent        {100 * reached['descent'] / total:10.0f} %")
    print(f"  below it       {below:10d}")
    return share < FOUND or below > 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=256)
    parser.add_argument("--slow", type=int, default=8, help="pairs for descent, one layer")
    parser.add_argument("--slow-deep", type=int, default=3, help="pairs for descent, two layers")
    parser.add_argument("--small", type=int, default=40, help="networks with a known optimum")
    options = parser.parse_args()
    missed = False
    print(f"NumPy {np.__version__}, torch {torch.__version__.split('+')[0]}; one thread")
    for case in CASES:
        slow = options.slow if len(case.sizes) == 2 else options.slow_deep
        missed |= compare(case, options.pairs, min(slow, options.pairs))
    missed |= against_optimum(options.small)
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
