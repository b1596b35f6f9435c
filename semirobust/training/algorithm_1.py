"""Algorithm 1 of arXiv 2307.03803: fine-tuning of f_b behind a frozen robust f_a*.

The algorithm fine-tunes f_b until the network is as robust as (f_a*, f_b*). A trial grafts the standardly
trained f_b onto f_a*, freezes f_a* and trains f_b adversarially. It measures the network before fine-tuning
(epoch 0) and after every epoch. A trial always runs through all its epochs, so that one logged trajectory can
be read in two ways:

* ``printed``: the algorithm as printed. The *test* accuracy stops a trial, the largest test accuracy over
  epochs and trials is reported, and rho_j is the smallest dependence among the trials that succeeded (the
  largest of all where none did).
* ``sound``: accuracy on a *validation* part of the training set stops a trial and chooses the epoch that
  counts; the test set is only used to report.

Departures from the paper's text:
1. A trial that the paper would stop early runs on; the epochs after its stop are logged, and ignored by both
   readings.
2. Dependence is measured at every epoch, for failures too, always together with its within-class shuffled
   control, and always on PGD-attacked test images.
3. The BatchNorms of f_a* stay in evaluation mode; the authors' variant is ``batch_statistics=True``.
4. k is 0 unless said otherwise (the paper: "as small as possible"), and the sound reading averages rho over
   all trials instead of taking the smallest value of the successes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from semirobust.data import Images
from semirobust.layers import Split
from semirobust.training import loop, recipe


@dataclass(frozen=True)
class Measurement:
    """The network at one epoch of a trial (0: before fine-tuning).

    ``validation_accuracy`` under the attack of training, in [0, 1]; ``test_accuracy`` by attack name;
    ``dependence_bits`` and ``control_bits``: I_j of each pair of consecutive layers from (f^(a), f^(a+1)) to
    (f^(n-1), f^(n)), and the same for pairs shuffled within the class.
    """

    epoch: int
    validation_accuracy: float
    test_accuracy: Mapping[str, float]
    dependence_bits: tuple[float, ...]
    control_bits: tuple[float, ...]


Trial = Sequence[Measurement]


def semirobust(
    robust: nn.Module, standard_state: Mapping[str, torch.Tensor], n_fb: int
) -> tuple[nn.Module, Split]:
    """(f_a*, f_b): a copy of ``robust`` with its last ``n_fb`` layers from ``standard_state``; its split."""
    model = copy.deepcopy(robust)
    split = Split(model, n_fb)
    split.graft_b(standard_state)
    return model, split


def trial(
    robust: nn.Module,
    standard_state: Mapping[str, torch.Tensor],
    n_fb: int,
    images: Images,
    config: recipe.TrainConfig,
    *,
    batch_statistics: bool = False,
    checkpoint: Path | None = None,
) -> Iterator[tuple[int, nn.Module]]:
    """Yield (epoch, network): (f_a*, f_b) at epoch 0, then (f_a*, f_b~) after each epoch of adversarial
    training.

    ``robust`` is (f_a*, f_b*) and is not changed; ``standard_state`` is the state dict of (f_a, f_b);
    ``images`` are what f_b is trained on; ``config`` must have an attack. ``batch_statistics``: the authors'
    variant of freezing (see ``Split.freeze_a``). The next step trains the yielded network further: measure or
    copy it before. If the file ``checkpoint`` exists, the first pair yielded is its epoch and its network.

    Raises ``ValueError`` for n_fb out of range, a state dict of another shape, or a config without an attack.
    """
    if config.attack is None:
        raise ValueError("Algorithm 1 trains f_b adversarially: give config an attack")
    model, split = semirobust(robust, standard_state, n_fb)
    split.freeze_a(batch_statistics=batch_statistics)
    yield loop.resumed(model, config, checkpoint), model
    for log in loop.epochs(model, images, config, checkpoint=checkpoint):
        yield log.epoch, model


@dataclass(frozen=True)
class Reading:
    """What Algorithm 1 reports over T trials; accuracies in [0, 1], dependence in bits.

    ``epochs``: the epoch at which each trial stopped; ``succeeded``: which trials reached Acc* - Acc <= k;
    ``accuracy``: Acc~; ``rho``: one value for each layer of f_b, from rho_{a+1} to rho_n, with ``control``
    beside it (same trial, same epoch).
    """

    epochs: tuple[int, ...]
    succeeded: tuple[bool, ...]
    accuracy: float
    accuracies: tuple[float, ...]
    rho: tuple[float, ...]
    control: tuple[float, ...]

    @property
    def mean_epochs(self) -> float | None:
        """Average number of epochs over the trials that succeeded; None where none did."""
        taken = [epoch for epoch, success in zip(self.epochs, self.succeeded, strict=True) if success]
        return float(np.mean(taken)) if taken else None


def reaches(accuracy: float, acc_star: float, k: float) -> bool:
    """Acc* - Acc <= k, with a tolerance of 1e-9: 68.5 % - 58.5 % <= 10 % would be false in float64."""
    return acc_star - accuracy <= k + 1e-9


def printed(trials: Sequence[Trial], acc_star: float, attack: str, *, k: float = 0.0) -> Reading:
    """Algorithm 1 as printed: a trial stops at the first epoch e >= 1 with Acc* - Acc_t^e <= k on the *test*
    set.

    Acc~ is the largest test accuracy under ``attack`` up to the stops, over all trials (so it is selected on
    the test set).
    """
    _check(trials, attack)
    stops = [_first(trial, lambda m: reaches(m.test_accuracy[attack], acc_star, k)) for trial in trials]
    ends = [stop if stop is not None else trial[-1].epoch for trial, stop in zip(trials, stops, strict=True)]
    at_end = [_at(trial, end) for trial, end in zip(trials, ends, strict=True)]
    best = max(
        m.test_accuracy[attack]
        for trial, end in zip(trials, ends, strict=True)
        for m in trial
        if 1 <= m.epoch <= end
    )
    succeeded = tuple(stop is not None for stop in stops)
    pool = [m for m, success in zip(at_end, succeeded, strict=True) if success] or at_end
    bits = np.array([m.dependence_bits for m in pool])  # [trials, layers of f_b]
    pick = bits.argmin(0) if any(succeeded) else bits.argmax(0)
    control = np.array([m.control_bits for m in pool])
    columns = np.arange(bits.shape[1])
    return Reading(
        tuple(ends),
        succeeded,
        best,
        tuple(m.test_accuracy[attack] for m in at_end),
        tuple(bits[pick, columns].tolist()),
        tuple(control[pick, columns].tolist()),
    )


def sound(trials: Sequence[Trial], acc_star_validation: float, attack: str, *, k: float = 0.0) -> Reading:
    """Algorithm 1 with decisions made on validation images; test accuracies and dependences are means over
    trials.

    A trial stops at the first epoch e >= 1 with Acc*_val - Acc_val <= k (a success). A trial that
    never gets there counts at its best validation epoch.
    """
    _check(trials, attack)
    stops = [
        _first(trial, lambda m: reaches(m.validation_accuracy, acc_star_validation, k)) for trial in trials
    ]
    ends = [
        stop if stop is not None else max(trial[1:], key=lambda m: m.validation_accuracy).epoch
        for trial, stop in zip(trials, stops, strict=True)
    ]
    at_end = [_at(trial, end) for trial, end in zip(trials, ends, strict=True)]
    accuracies = tuple(m.test_accuracy[attack] for m in at_end)
    return Reading(
        tuple(ends),
        tuple(stop is not None for stop in stops),
        float(np.mean(accuracies)),
        accuracies,
        tuple(np.mean([m.dependence_bits for m in at_end], axis=0).tolist()),
        tuple(np.mean([m.control_bits for m in at_end], axis=0).tolist()),
    )


def _check(trials: Sequence[Trial], attack: str) -> None:
    if not trials or any(len(trial) < 2 for trial in trials):
        raise ValueError("a reading needs at least one trial, each of at least one epoch of fine-tuning")
    known = set.intersection(*(set(m.test_accuracy) for trial in trials for m in trial))
    if attack not in known:
        raise ValueError(f"no test accuracy under {attack!r}; measured: {', '.join(sorted(known))}")


def _first(trial: Trial, reached: Callable[[Measurement], bool]) -> int | None:
    return next((m.epoch for m in trial if m.epoch >= 1 and reached(m)), None)


def _at(trial: Trial, epoch: int) -> Measurement:
    return next(m for m in trial if m.epoch == epoch)


def as_measurements(rows: Sequence[Mapping[str, Any]]) -> list[Measurement]:
    """The trajectory of a stored trial."""
    return [
        Measurement(
            row["epoch"],
            row["validation_accuracy"],
            row["test_accuracy"],
            tuple(row["dependence_bits"]),
            tuple(row["control_bits"]),
        )
        for row in rows
    ]
