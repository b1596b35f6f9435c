"""Readouts: functions of a layer's output that predict the label, and how robust they can be.

correlation  ``robust_correlation``: the gamma of a layer, between a certificate and an attack
probe        linear and MLP probes of one layer, and attacks on them
train        adversarial training of the head of a readout
certificate  certified margins of a probe
l2           readouts against l2 attacks without the box, trained and certified
descent      the l2 attack on such a readout
crown        its certificate: linear bounds through ReLUs
algorithm_2  Algorithm 2 of arXiv 2307.03803: a linear readout of all layers of f_a
features     the features of many layers, block by block
solve        least squares, ridge and Algorithm 2 on Gram matrices
leak         how much the targets leak into such a fit
"""

from __future__ import annotations

from semirobust.readouts import algorithm_2, l2, solve
from semirobust.readouts.algorithm_2 import LinearReadout
from semirobust.readouts.correlation import (
    DistillationGap,
    RobustCorrelation,
    attacked_margins,
    clipped_margins,
    distillation_gap,
    robust_correlation,
    train_probe,
)
from semirobust.readouts.features import Activations, Matrix, Sketch
from semirobust.readouts.l2 import Readout
from semirobust.readouts.leak import Simulation, leak_accuracy, noise_gram, simulate_leak
from semirobust.readouts.probe import Probe, Sum, best_scale, clip
from semirobust.readouts.solve import Solution

__all__ = [
    "Activations",
    "DistillationGap",
    "LinearReadout",
    "Matrix",
    "Probe",
    "Readout",
    "RobustCorrelation",
    "Simulation",
    "Sketch",
    "Solution",
    "Sum",
    "algorithm_2",
    "attacked_margins",
    "best_scale",
    "clip",
    "clipped_margins",
    "distillation_gap",
    "l2",
    "leak_accuracy",
    "noise_gram",
    "robust_correlation",
    "simulate_leak",
    "solve",
    "train_probe",
]
