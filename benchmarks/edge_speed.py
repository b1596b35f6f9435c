"""Benchmark of `semirobust.edge`: its speed beside `edge.reference` and the estimator's published code.

    python benchmarks/edge_speed.py [--published EDGE_4_4_1.py] [--repeats 5] [--threads 2]
    python benchmarks/edge_speed.py --layers [--images 10000] [--stem authors] [--threads 2]

All get the same arrays: n = 5,000 with 512 coordinates on both sides, and n = 1,000 with 8,192. They are
rectified random features of 16 hidden Gaussians. Each estimate is taken as the published code does by default
(10 members, renormalised; at its cap on such wide data) and as the semirobustness experiments do (1 member,
not renormalised). It is taken by `semirobust.edge`, by `edge.reference`, and by the published code where
--published names its file (EDGE_4_4_1.py of https://github.com/mrtnoshad/EDGE, which is not part of this
project). Runs alternate, times are medians. All must give the same number to 1e-9. Targets: 25 and 12 times
as fast as the published code. The floor is reading the data: a sum of both arrays is timed too (the estimator
reads them twice).

--layers: the class-conditional dependence of all consecutive pairs of the 18 weight layers of ResNet-18 at
width 64, streamed, on random images of 10 classes and random weights: what is timed does not depend on them.
Estimator time is the total less the forward passes. Target: under 2 minutes. --stem cifar leaves out the
max-pool: three times as many features.

The exit status is 1 where a target is missed.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from semirobust import dependence, layers, models
from semirobust.edge import edge, edge_reference

Published = Callable[..., float]
CASES = ((5000, 512, 25.0), (1000, 8192, 12.0))  # n, d, target
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # name -> (our options, the published ones)
    "published defaults": ({"members": 10, "renormalise": True}, {}),
    "semirobustness": ({}, {"L_ensemble": 1, "normalize_epsilon": False}),
}
TOLERANCE, LIMIT_SECONDS, CLASSES = 1e-9, 120.0, 10


def arrays(n: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = np.maximum(rng.standard_normal((n, 16)) @ rng.standard_normal((16, d)) - 1, 0)
    return x, np.maximum(x @ rng.standard_normal((d, d)) / np.sqrt(d), 0)


def load_published(path: Path) -> Published:
    """The function EDGE of the published file.

    The file imports cvxpy, which only an ensemble by quadratic program needs: an empty module stands in for
    it. EDGE sets NumPy's global seed, which nothing else here uses.
    """
    specification = importlib.util.spec_from_file_location("published_edge", path)
    if specification is None or specification.loader is None or not path.is_file():
        raise SystemExit(f"{path} is no Python file; --published takes EDGE_4_4_1.py of mrtnoshad/EDGE")
    module = importlib.util.module_from_spec(specification)
    absent = "cvxpy" not in sys.modules
    sys.modules.setdefault("cvxpy", types.ModuleType("cvxpy"))
    try:
        specification.loader.exec_module(module)
    finally:
        if absent:
            del sys.modules["cvxpy"]
    return module.EDGE


def compare_estimators(published: Published | None, repeats: int) -> bool:
    """Prints a block for each case and variant and returns whether a target was missed."""
    missed = False
    for n, d, target in CASES:
        x, y = arrays(n, d)
        edge(x, y)  # warm-up
        for variant, (ours, theirs) in VARIANTS.items():
            runs: dict[str, Callable[[], float]] = {
                "sum": lambda: float(x.sum() + y.sum()),  # noqa: B023
                "semirobust": lambda: edge(x, y, **ours).bits,  # noqa: B023
                "slow twin": lambda: edge_reference(x, y, **ours)[0],  # noqa: B023
            }
            if published is not None:
                runs["published"] = lambda: float(published(x, y, **theirs))  # noqa: B023
            value, seconds = time_alternating(runs, repeats)
            mine = seconds["semirobust"]
            print(f"\nn = {n}, d = d' = {d}, float64, {variant}: {value['semirobust']:.6f} bits")
            print(f"  sum of x and y  {1e3 * seconds['sum']:9.1f} ms")
            print(f"  semirobust      {1e3 * mine:9.1f} ms, {mine / seconds['sum']:.1f} times the sum")
            for name in list(runs)[2:]:
                ratio, difference = seconds[name] / mine, abs(value[name] - value["semirobust"])
                goal = f" (target {target:g})" if name == "published" else ""
                print(
                    f"  {name:14}  {1e3 * seconds[name]:9.1f} ms, ratio {ratio:.1f}{goal}, "
                    f"differs by {difference:.0e} bits"
                )
                missed |= difference > TOLERANCE or (name == "published" and ratio < target)
    print(f"\nmedians of {repeats} alternating runs")
    return missed


def time_alternating(
    runs: dict[str, Callable[[], float]], repeats: int
) -> tuple[dict[str, float], dict[str, float]]:
    """The value and the median seconds of each of `runs`, in alternating runs."""
    value: dict[str, float] = {}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            began = time.perf_counter()
            value[name] = run()
            seconds[name].append(time.perf_counter() - began)
    return value, {name: statistics.median(times) for name, times in seconds.items()}


def time_layers(images: int, stem: str) -> bool:
    """Prints the estimator time of all consecutive pairs and returns whether it is over the limit."""
    model = models.create("resnet18", CLASSES, width=64, seed=0, stem=stem)
    pixels = torch.rand(images, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(images) % CLASSES
    features: dict[str, int] = {}
    forward = 0.0
    each_output = layers.each_output

    def timed(model: Any, images: Any, runs: Any, see: Any, **options: Any) -> None:
        """A pass over some images, with the time that is not spent in `see` added to `forward`."""
        nonlocal forward
        inside = 0.0

        def timed_see(name: str, values: Any) -> None:
            nonlocal inside
            began = time.perf_counter()
            see(name, values)
            inside += time.perf_counter() - began
            features[name] = values.shape[1]

        began = time.perf_counter()
        each_output(model, images, runs, timed_see, **options)
        forward += time.perf_counter() - began - inside

    with mock.patch("semirobust.dependence.per_layer.each_output", timed):
        began = time.perf_counter()
        pairs = dependence.class_conditional(model, pixels, labels)
        total = time.perf_counter() - began
    estimator, numbers = total - forward, sum(features.values())
    print(
        f"network    ResNet-18, width 64, stem {stem}: {len(features)} layers, {numbers:,} numbers an image"
    )
    print(f"images     {images:,} random ones of {CLASSES} classes; {len(pairs)} pairs")
    print(f"data       {4 * numbers * images / 1e9:.1f} GB of activations, seen twice, never held")
    print(f"total      {total:.1f} s")
    print(f"forward    {forward:.1f} s, both passes")
    print(f"estimator  {estimator:.1f} s (target {LIMIT_SECONDS:g})")
    return estimator > LIMIT_SECONDS


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--published", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--layers", action="store_true")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--stem", choices=("authors", "cifar"), default="authors")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with threadpool_limits(options.threads):
        print(f"{options.threads} threads; NumPy {np.__version__}, torch {torch.__version__.split('+')[0]}")
        if options.layers:
            return int(time_layers(options.images, options.stem))
        published = None if options.published is None else load_published(options.published)
        return int(compare_estimators(published, options.repeats))


if __name__ == "__main__":
    sys.exit(main())
