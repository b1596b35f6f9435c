"""Benchmark of an attack (Auto-PGD) that finds collisions, beside the default of `find_collisions`.

    python benchmarks/collision_attack.py [--pairs 32] [--slow 0] [--slow-deep 0] [--threads 1]

The paper on fixed feature extractors says that Auto-PGD, made to find collisions with fixed budgets, was
"less effective and more expensive" than its descent over cone programs, and shows no numbers (section 4.1).
Here the same pairs go to "admm" and to "apgd": with its default, with four times the steps from four starts,
and without its Newton steps, where the points of the attack are verified without any change. With --slow
(one layer) and --slow-deep (two layers), the first few also go to "descent", the paper's method.

Pairs: images of 3 and 7 of MNIST (digits of scikit-learn at 28 x 28 where it is missing and cannot be
downloaded). Networks: one ReLU layer of 300 units and two of 300 and 200, with He's random weights and
trained on the two classes (`semirobust.experiments.extractor_networks`). Printed for each method:
- processor time for a pair, which other load on the machine does not change; and its ratio to that of admm;
- the share of pairs with a verified collision below that of the first linear layer;
- the ratio of epsilon to that of admm: median, smallest and largest.
All epsilons are of verified collisions; a pair without one has its linear collision.

Last, the attack at fixed budgets, in epsilons of admm: the share of pairs where |f(u~) - f(v~)| falls to 10 %
and to 1 % of |f(u) - f(v)|, which an attack would report as success, and the share where a collision within
the budget is verified, with and without the Newton steps.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from typing import Any, NamedTuple

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import nn

from semirobust.collisions import Collisions, Network, find_collisions, linear_collision
from semirobust.collisions.solvers import apgd
from semirobust.experiments import extractor_networks
from semirobust.extractors import as_layers

SIZES = (784, 300, 200)
BENIGN = {"reference": "mnist-fcnn-benign", "quick": "digits-fcnn-benign"}
NEWTON = 20
APGD: dict[str, dict[str, Any]] = {
    "apgd": {},
    "apgd, 4 starts of 400 steps": {"restarts": 4, "steps": 400},
    "apgd, no Newton steps": {"newton": 0},
}
BUDGETS = (0.8, 0.9, 1.0, 1.05, 1.1, 1.2, 1.5)  # in epsilons of admm
GAPS = (0.1, 0.01)  # of |f(u) - f(v)|


class Case(NamedTuple):
    name: str
    network: Network
    u: np.ndarray
    v: np.ndarray


def cases(count: int) -> list[Case]:
    """Random and trained networks with one and two layers, and the pairs, the same for all of them."""
    try:
        config = extractor_networks.NETWORKS["reference"][BENIGN["reference"]]
        images = extractor_networks.images(config, "test")
    except FileNotFoundError:
        config = extractor_networks.NETWORKS["quick"][BENIGN["quick"]]
        images = extractor_networks.images(config, "test")
    rng = np.random.default_rng(0)
    pixels = images.images.flatten(1).double().numpy()
    first, second = (
        pixels[rng.choice(np.flatnonzero(images.labels.numpy() == label), count)] for label in (0, 1)
    )
    model, _ = extractor_networks.trained(config)
    found = []
    for depth in (1, 2):
        units = " and ".join(map(str, SIZES[1 : depth + 1]))
        trained = as_layers(model, images.shape, depth=depth)
        for name, layers in (("random", random_layers(depth)), (f"trained on {config.dataset}", trained)):
            found.append(Case(f"{units}, {name}", Network.of(layers), first, second))
    return found


def random_layers(depth: int) -> list[tuple[np.ndarray, None]]:
    """He's initial weights, without biases."""
    generator = torch.Generator().manual_seed(0)
    layers = []
    for inputs, units in itertools.pairwise(SIZES[: depth + 1]):
        weight = torch.empty(units, inputs, dtype=torch.float64)
        nn.init.kaiming_normal_(weight, nonlinearity="relu", generator=generator)
        layers.append((weight.numpy(), None))
    return layers


def timed(case: Case, rows: slice, method: str, options: dict[str, Any]) -> tuple[Collisions, float]:
    """The collisions, and processor time in milliseconds for each pair."""
    u, v = case.u[rows], case.v[rows]
    began = time.process_time()
    found = find_collisions(case.network, u, v, method=method, **options)
    return found, 1e3 * (time.process_time() - began) / len(u)


def compare(case: Case, slow: int) -> Collisions:
    """Prints one case and returns the collisions of admm."""
    linear = linear_collision(case.network.layers[0].weight, case.u, case.v).epsilon
    timed(case, slice(2), "admm", {})  # warm-up
    everything = slice(len(case.u))
    admm, unit = timed(case, everything, "admm", {})
    print(f"\n{case.name} ({len(linear)} pairs; linear collisions cost", end=" ")
    print(f"{np.median(linear / admm.epsilon):.2f} times as much as admm's in the median)")
    print(f"  {'':28} {'ms a pair':>10} {'of admm':>8} {'below linear':>13} {'epsilon of admm':>16}")
    runs = [("admm", "admm", {}, everything)]
    runs += [(name, "apgd", options, everything) for name, options in APGD.items()]
    if slow:
        runs.append((f"descent ({slow} pairs)", "descent", {}, slice(slow)))
    for name, method, options, rows in runs:
        found, ms = (admm, unit) if method == "admm" else timed(case, rows, method, options)
        below = found.verified & (found.epsilon < linear[rows] * (1 - 1e-6))
        ratios = found.epsilon / admm.epsilon[rows]
        print(f"  {name:28} {ms:10.1f} {ms / unit:8.1f} {100 * below.mean():11.0f} %", end="   ")
        print(f"{np.median(ratios):11.4f}, {ratios.min():.4f} to {ratios.max():.4f}")
    return admm


def at_fixed_budgets(case: Case, admm: Collisions) -> None:
    """Prints what the attack reports at some budgets, and how much of that is true."""
    network, ends = case.network, list(zip(case.u, case.v, strict=True))
    clean = np.linalg.norm(network.features(case.u) - network.features(case.v), axis=1)
    heads = [f"to {100 * share:.0f} %" for share in GAPS]
    print(
        f"  {'budget / epsilon of admm':28} {heads[0]:>10} {heads[1]:>8} {'verified':>13} {'no Newton':>16}"
    )
    for factor in BUDGETS:
        budgets = factor * admm.epsilon
        found = apgd.attack(network, case.u, case.v, budgets)
        shares = [np.mean(found.gap <= share * clean) for share in GAPS]
        for newton in (NEWTON, 0):
            points = [
                apgd.exact(network, *pair, np.stack(at), newton, below=budget * (1 + 1e-9))
                for pair, at, budget in zip(ends, zip(found.u, found.v, strict=True), budgets, strict=True)
            ]
            shares.append(np.mean([point is not None for point in points]))
        first, second, verified, alone = (f"{100 * share:.0f} %" for share in shares)
        print(f"  {factor:<28} {first:>10} {second:>8} {verified:>13} {alone:>16}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=32)
    parser.add_argument("--slow", type=int, default=0, help="pairs for descent, one layer")
    parser.add_argument("--slow-deep", type=int, default=0, help="pairs for descent, two layers")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with threadpool_limits(options.threads):
        print(f"{options.threads} threads; NumPy {np.__version__}, torch {torch.__version__.split('+')[0]}")
        for case in cases(options.pairs):
            slow = options.slow if len(case.network.layers) == 1 else options.slow_deep
            admm = compare(case, min(slow, options.pairs))
            at_fixed_budgets(case, admm)
    return 0


if __name__ == "__main__":
    sys.exit(main())
