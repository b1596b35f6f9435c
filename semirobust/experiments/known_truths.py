"""Every estimator on laws of known mutual information: bias, spread and time over the number of samples."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from semirobust import dependence, paths, runs
from semirobust.dependence import Erasure, Gaussian, Layer, Measure, Merging, Overlap, SymmetricChannel

EXPERIMENT = "known_truths"

LAWS = (
    *(Gaussian(d, r) for d in (1, 4, 32) for r in (0.0, 0.5, 0.9)),
    SymmetricChannel(2, 0.1),
    SymmetricChannel(10, 0.2),
    Merging(8, 2),
    Layer(2),
    Layer(32),
    Overlap(5),
    Erasure(1, 0.9, 0.5),
)

#: name -> (measure, the true value that it estimates)
ESTIMATORS: dict[str, tuple[Measure, str]] = {
    "edge": (dependence.edge(), "information"),
    "edge_ensemble": (dependence.edge(members=10, renormalise=True), "information"),
    "ksg": (dependence.ksg(), "information"),
    "classes": (dependence.classes(), "information"),
    "classes_miller_madow": (dependence.classes(correction="miller_madow"), "information"),
    "conditional_entropy": (dependence.conditional_entropy(), "conditional_entropy"),
    "linear_cka": (dependence.linear_cka(), "linear_cka"),
    "hsic": (dependence.hsic(), "hsic"),
    "correlation": (dependence.correlation(), "correlation"),
}
#: the most samples that are tried, as memory and time grow with their square
LIMIT = {"hsic": 3000}


@dataclass(frozen=True)
class TruthConfig:
    """One law: the numbers of samples, and how often each number is drawn anew."""

    law: Any
    sizes: tuple[int, ...]
    repeats: int
    shuffles: int = 1
    seed: int = 0


_SIZES = {
    "quick": ((100, 300, 1000), 3),
    "reference": ((100, 200, 500, 1000, 2000, 5000, 10_000), 10),
    "paper": ((100, 200, 500, 1000, 2000, 5000, 10_000), 100),
}


def plans(profile: str) -> list[TruthConfig]:
    """One configuration for each law."""
    sizes, repeats = _SIZES[paths.check_profile(profile)]
    return [TruthConfig(law, sizes, repeats) for law in LAWS]


def run_law(config: TruthConfig) -> dict[str, Any]:
    """The rows of one law: for each estimator and n, all estimates and controls, and their summary.

    `bias` is None where no truth is known, and infinite where the truth is infinite. `seconds` is the median
    processor time of an estimate with its `shuffles` controls, on one machine.
    """
    rows = []
    for n in config.sizes:
        found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in ESTIMATORS}
        caps: dict[str, float | None] = {}
        for repeat in range(config.repeats):
            x, y = config.law.sample(n, np.random.default_rng([config.seed, n, repeat]))
            for name, (measure, _) in ESTIMATORS.items():
                if n <= LIMIT.get(name, n):
                    began = time.process_time()
                    result = measure(x, y, shuffles=config.shuffles, seed=repeat)
                    found[name].append((result.value, result.control, time.process_time() - began))
                    caps[name] = result.cap
        rows += [
            _row(config, name, n, np.array(values), caps[name]) for name, values in found.items() if values
        ]
    return {"label": config.law.label, "bits": config.law.bits, "truths": config.law.truths, "rows": rows}


def _row(config: TruthConfig, name: str, n: int, values: np.ndarray, cap: float | None) -> dict[str, Any]:
    """One row of results from values [repeats, 3]: estimate, control, seconds."""
    estimates, controls, seconds = values.T
    measure, quantity = ESTIMATORS[name]
    truth = config.law.truths.get(quantity)
    return {
        "measure": name,
        "unit": measure.unit,
        "n": n,
        "truth": truth,
        "values": estimates,
        "controls": controls,
        "mean": estimates.mean(),
        "bias": None if truth is None else estimates.mean() - truth,
        "spread": estimates.std(ddof=1),
        "control": controls.mean(),
        "cap": cap,
        "log2_n": np.log2(n),
        "seconds": np.median(seconds),
    }


def run(profile: str, *, say: runs.Say = runs.quiet) -> list[runs.Record]:
    """Compute (or load) all laws of a profile."""
    records = []
    for config in plans(profile):
        record = runs.run(config, run_law, experiment=EXPERIMENT, profile=profile)
        say(f"{config.law.label} in {record.path.name}")
        records.append(record)
    return records


def table(records: list[runs.Record]) -> list[dict[str, Any]]:
    """All rows of stored laws in one list, each with the label and the class name of its law."""
    return [
        {"law": record.metrics["label"], "kind": record.config["law"]["class"]} | row
        for record in records
        for row in record.metrics["rows"]
    ]
