"""Trained networks as matrices and ReLUs, in float64.

weights      ``as_layers`` and ``as_chain``: a network as layers (L, k)
compiled     max-pools, shortcuts and convolutions compiled into such a chain
chain        the chain while it is built
convolution  a convolution as a linear operator
arrays       checked float64 arrays, numerical ranks, units
"""

from __future__ import annotations

from semirobust.extractors.arrays import (
    UNIT,
    Array,
    as_float64,
    check_pairs,
    check_points,
    check_whole,
    check_width,
    extremes,
    numerical_rank,
    unit_scale,
)
from semirobust.extractors.convolution import CHUNK, ConvOperator
from semirobust.extractors.weights import LARGEST, Chain, Layer, as_chain, as_layers

__all__ = [
    "CHUNK",
    "LARGEST",
    "UNIT",
    "Array",
    "Chain",
    "ConvOperator",
    "Layer",
    "as_chain",
    "as_float64",
    "as_layers",
    "check_pairs",
    "check_points",
    "check_whole",
    "check_width",
    "extremes",
    "numerical_rank",
    "unit_scale",
]
