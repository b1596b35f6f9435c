"""Small networks, points and readouts that the tests of ceilings and of readouts share."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import nn

from semirobust.readouts import Readout
from semirobust.readouts.l2 import stack

SIZES = (4, 6, 5)  # inputs and units of the small networks


def network(seed, sizes=SIZES, logits=2):
    """[(L, k), ...] with Gaussian weights, the logits last."""
    rng = np.random.default_rng(seed)
    shapes = itertools.pairwise((*sizes, logits))
    return [(rng.standard_normal((m, n)), rng.standard_normal(m)) for n, m in shapes]


def points(seed, count=7, width=SIZES[0]):
    """Positive and negative points, float64 [count, width] each."""
    rng = np.random.default_rng([seed, 1])
    return rng.normal(0.3, 1, (count, width)), rng.normal(-0.3, 1, (count, width))


def labelled(positive, negative):
    x = torch.from_numpy(np.concatenate([positive, negative]))
    return x, torch.tensor([1.0] * len(positive) + [-1.0] * len(negative)).double()


def readout_of(weight, bias=0.0, features=None):
    """A linear readout of the features, or of the input."""
    weight = np.atleast_2d(np.asarray(weight, float))
    return Readout(features or nn.Sequential(), stack([(weight, np.array([bias]))], rectified=False))
