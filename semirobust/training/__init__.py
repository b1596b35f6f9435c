"""Standard and adversarial training, resumable to the bit, and Algorithm 1.

recipe       a training run's configuration; ``PAPER`` is the printed recipe
loop         ``train`` and ``epochs``; ``crop_and_flip``
trades       the loss of TRADES
checkpoint   training checkpoints
algorithm_1  Algorithm 1 of arXiv 2307.03803: fine-tune f_b behind a frozen robust f_a*
"""

from __future__ import annotations

from semirobust.training import algorithm_1
from semirobust.training.checkpoint import EpochLog
from semirobust.training.loop import TrainingDiverged, crop_and_flip, epochs, train
from semirobust.training.recipe import PAPER, PGD, PGDL2, TRADES, Attack, TrainConfig, learning_rate, short
from semirobust.training.trades import NOISE, divergence, maximise

__all__ = [
    "NOISE",
    "PAPER",
    "PGD",
    "PGDL2",
    "TRADES",
    "Attack",
    "EpochLog",
    "TrainConfig",
    "TrainingDiverged",
    "algorithm_1",
    "crop_and_flip",
    "divergence",
    "epochs",
    "learning_rate",
    "maximise",
    "short",
    "train",
]
