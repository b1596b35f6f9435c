"""Benchmark of `semirobust.readouts.algorithm_2.least_squares`: its memory beside that of a dense solve.

    python benchmarks/readout_memory.py [--images 1000] [--width 16] [--threads 1]

Both fit the outputs of a ResNet-18 by the outputs of its first 17 weight layers: 47,104 features at width 16.
The peer holds the matrix of activations [n, d] in float64 and calls `torch.linalg.lstsq` (driver gelsd, an
SVD) on it. Each runs in a process of its own, and its peak is that of the process (`ru_maxrss`) above what it
held before (torch, the network and the images loaded, one forward pass made). The network is as
initialised, after one pass in training mode for its BatchNorms, and the images are noise: neither matters for
the memory. Targets: at least 5 times less memory, and solutions that differ by at most 1e-8 of their norm.
The exit status is 1 where one is missed.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from semirobust import layers, models, readouts
from semirobust.readouts import algorithm_2

LAYERS, WAYS = 17, ("semirobust", "dense")


def peak() -> float:
    """The peak memory of this process so far, in MiB."""
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes there, in KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def fit(way: str, n: int, width: int) -> tuple[torch.Tensor, float, float]:
    """(weights [d, K], MiB above the start, seconds)."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(n, 3, 32, 32, generator=generator)
    model = models.create("resnet18", 10, width=width, seed=0)
    with torch.no_grad():
        model.train()(images[:128])
    model.eval()
    source = readouts.Activations(model, layers.weight_layers(model)[:LAYERS], images)
    goal = algorithm_2.targets(model, images, torch.zeros(n, dtype=torch.int64), batch_size=128)
    before, began = peak(), time.perf_counter()
    if way == "semirobust":
        weight = algorithm_2.least_squares(source, goal).weight
    else:
        features = torch.empty(n, sum(source.widths), dtype=torch.float64)
        for at, block in source.rows(128):
            features[at] = block
        weight = torch.linalg.lstsq(features, goal, driver="gelsd").solution
    return weight, peak() - before, time.perf_counter() - began


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)  # for the child processes only
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.way:
        torch.save(fit(options.way, options.images, options.width), options.into)
        return 0

    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for way in WAYS:
            into = Path(folder) / way
            subprocess.run(
                [sys.executable, __file__, *sys.argv[1:], "--way", way, "--into", str(into)], check=True
            )
            found[way] = torch.load(into)
    (ours, mine, my_seconds), (theirs, dense, dense_seconds) = (found[way] for way in WAYS)
    ratio, difference = dense / mine, float((ours - theirs).norm() / theirs.norm())
    d, n = len(ours), options.images
    print(f"features      {d:,} of {LAYERS} layers, {n:,} images: {8 * d * n / 2**20:,.0f} MiB in float64")
    print(f"dense         {dense:,.0f} MiB above the start, {dense_seconds:.1f} s")
    print(f"semirobust    {mine:,.0f} MiB above the start, {my_seconds:.1f} s")
    print(f"ratio         {ratio:.1f} (target 5)")
    print(f"solutions     differ by {difference:.1e} of their norm (target 1e-8)")
    return int(ratio < 5 or difference > 1e-8)


if __name__ == "__main__":
    sys.exit(main())
