"""The paper's sentences about the first linear layer, checked against stored bounds.

They are in Section 4.2 and Figures 2 and 7 of the paper on fixed feature extractors. It prints curves and
sentences, no numbers. Each sentence is split into checks of two or more curves, so that "true", "false" and
"mixed" have a meaning. What counts as a difference is chosen here (`COUNTS`, `DIFFERS`), as a share of the
loss of guessing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import combinations, pairwise

import numpy as np

from semirobust.experiments import feature_bounds
from semirobust.experiments.bound_curves import Bound, crossing, gap, training_name
from semirobust.experiments.feature_bounds import BoundsConfig

METHODS = ("pgd", "trades")
BUDGETS = ("1", "2", "3")
#: a curve is above another where it exceeds it by this share of guessing
COUNTS = 0.02
#: two trainings differ "significantly" where their curves do by this share of guessing
DIFFERS = 0.05
#: loss -> the level of it whose forcing budget measures robustness in one number
LEVELS = {"cross_entropy_nats": 0.25, "zero_one": 0.15}

CLAIMS = {
    "benign": "benign training is the least robust",
    "increasing": "robustness increases with the training budget",
    "marginal": "its marginal benefit shrinks",
    "methods": "PGD and TRADES differ significantly",
    "smaller": "a larger training budget can be less robust at smaller budgets",
}


@dataclass(frozen=True)
class Claim:
    """One sentence: which of its checks hold, and how large the effect is, in words.

    checks: one for each pair of curves (or of steps) that the sentence is about; only one for "smaller".
    """

    checks: tuple[bool, ...]
    size: str


def configs(where: str, dataset: str, seed: int) -> dict[str, BoundsConfig]:
    """The bounds for "images" and for each training, of networks initialised and trained with one seed."""
    found = {"images": feature_bounds.linear(where, dataset, "fcnn-benign", layer="input")}
    for name in feature_bounds.names(where, dataset, "fcnn"):
        config = feature_bounds.linear(where, dataset, name)
        network = replace(config.network, seed=seed, train=replace(config.network.train, seed=seed))
        found[name.removeprefix("fcnn-")] = replace(config, network=network)
    return found


def claims(found: Mapping[str, Bound], loss: str) -> dict[str, Claim]:
    """The sentences of `CLAIMS`, for the networks of one data set and one seed, by training."""
    return {
        "benign": _benign(found, loss),
        "increasing": _increasing(found, loss),
        "marginal": _marginal(found, loss),
        "methods": _methods(found, loss),
        "smaller": _smaller(found, loss),
    }


def verdict(checks: Iterable[bool]) -> str:
    """``true (6 of 6)``: true where all checks hold, false where none does, else mixed."""
    held = list(checks)
    word = "true" if all(held) else "mixed" if any(held) else "false"
    return f"{word} ({sum(held)} of {len(held)})"


def _steps(method: str) -> list[str]:
    return ["benign", *(f"{method}-{budget}" for budget in BUDGETS)]


def _worse(first: Bound, second: Bound, loss: str) -> bool:
    """Whether the first curve is above the second somewhere and below it nowhere."""
    least = COUNTS * first.guessing(loss)
    difference = gap(first, second, loss)
    return difference.above > least and difference.below >= -least


def _largest(found: Mapping[str, Bound], pairs: Iterable[tuple[str, str]], loss: str) -> str:
    """The largest excess of a first curve over its second: how much, for which pair, at which budget."""
    sizes = {pair: gap(found[pair[0]], found[pair[1]], loss) for pair in pairs}
    first, second = max(sizes, key=lambda pair: sizes[pair].above)
    size = sizes[first, second]
    if size.above <= 0:
        return "nowhere"
    return f"{size.above:.3f} ({training_name(first)} above {training_name(second)}, at {size.above_at:g})"


def _benign(found: Mapping[str, Bound], loss: str) -> Claim:
    others = [name for method in METHODS for name in _steps(method)[1:]]
    above = _largest(found, [("benign", name) for name in others], loss)
    below = _largest(found, [(name, "benign") for name in others], loss)
    held = tuple(_worse(found["benign"], found[name], loss) for name in others)
    return Claim(held, f"for it up to {above}; against it {below}")


def _increasing(found: Mapping[str, Bound], loss: str) -> Claim:
    pairs = [pair for method in METHODS for pair in pairwise(_steps(method))]
    held = tuple(_worse(found[low], found[high], loss) for low, high in pairs)
    up, down = _largest(found, pairs, loss), _largest(found, [(b, a) for a, b in pairs], loss)
    return Claim(held, f"for it up to {up}; against it {down}")


def _marginal(found: Mapping[str, Bound], loss: str) -> Claim:
    held, sizes = [], []
    for method in METHODS:
        reached = [crossing(found[name], LEVELS[loss], loss) for name in _steps(method)]
        gains = np.diff([np.nan if budget is None else budget for budget in reached])
        held += [bool(after < before) for before, after in pairwise(gains)]
        sizes.append(f"{method.upper()} " + ", ".join(f"{gain:+.2f}" for gain in gains))
    return Claim(tuple(held), "gains in budget: " + "; ".join(sizes))


def _methods(found: Mapping[str, Bound], loss: str) -> Claim:
    held, sizes = [], []
    for budget in BUDGETS:
        pgd = found[f"pgd-{budget}"]
        difference = gap(pgd, found[f"trades-{budget}"], loss)
        largest = max(difference.above, difference.below, key=abs)
        held.append(abs(largest) > DIFFERS * pgd.guessing(loss))
        sizes.append(f"{largest:+.3f}")
    return Claim(tuple(held), "PGD minus TRADES, largest at 1, 2, 3: " + ", ".join(sizes))


def _smaller(found: Mapping[str, Bound], loss: str) -> Claim:
    largest = (0.0, "nowhere")
    for method in METHODS:
        for low, high in combinations(BUDGETS, 2):
            tighter, wider = found[f"{method}-{low}"], found[f"{method}-{high}"]
            below = wider.budgets < float(high)
            difference = (wider.loss(loss) - tighter.loss(loss))[below]
            at, size = wider.budgets[difference.argmax()], float(difference.max())
            names = f"{training_name(wider.training)} above {training_name(tighter.training)}"
            largest = max(largest, (size, f"{size:.3f} ({names}, at {at:g})"))
    held = largest[0] > COUNTS * found["benign"].guessing(loss)
    return Claim((held,), f"up to {largest[1]}")
