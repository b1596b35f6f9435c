"""Dependence between two layers, each value beside its shuffled control and its cap.

A `Measure` is called with the outputs of two layers for the same samples, x [n, d] and y [n, d'], and
gives a `Dependence`: value, unit, cap, n, and the values for shuffled pairs. `class_conditional` measures
EDGE along the layers of a network, class by class; `within_classes` averages any measure over the classes.

=====================  ======  ==========================================================================
measure                unit    what it is, and what it is blind to
=====================  ======  ==========================================================================
`edge`                 bits    the papers' estimator; information between cells, at most log2 n and its cap
`ksg`                  bits    nearest neighbours; right in few dimensions, far too low in many
`classes`              bits    plug-in information of k-means clusters (or argmax); at most log2 of them
`conditional_entropy`  bits    H(x | y) of the cells of EDGE: *small* where x can be told from y
`linear_cka`           none    in [0, 1]; linear dependence, weighted by variance
`hsic`                 none    any dependence that a Gaussian kernel sees; mean 0 if independent
`correlation`          none    in [0, 1]; mean absolute correlation of single coordinates
`sensitivity`          none    relative change of a layer under attack: x clean, y attacked outputs
=====================  ======  ==========================================================================

`label_information` says what a layer's clusters (or its prediction) know of the class.

per_layer     ``class_conditional``: EDGE between consecutive layers of a network
measure       what a measure is and returns; its shuffled control; averages over classes
catalogue     ``MEASURES``: every measure with its default options, by name
cells         measures on the cells of EDGE
clusters      measures on k-means clusters
hsic          the Hilbert-Schmidt independence criterion
ksg           the estimator of Kraskov, Stoegbauer and Grassberger
linear        linear CKA and mean correlation
sensitivity   the change of a layer under attack
interval      an interval around the excess over the control
shuffles      samples by class, and shuffled within it
known_truths  laws whose dependence is known in closed form, to test estimators on
"""

from __future__ import annotations

from semirobust.dependence.catalogue import MEASURES
from semirobust.dependence.cells import conditional_entropy, edge
from semirobust.dependence.clusters import classes, label_information, plug_in
from semirobust.dependence.hsic import biased_hsic, gaussian_kernel, hsic, unbiased_hsic
from semirobust.dependence.interval import Interval, excess_interval
from semirobust.dependence.known_truths import (
    Erasure,
    Gaussian,
    Law,
    Layer,
    Merging,
    Overlap,
    SymmetricChannel,
    entropy_bits,
    one_hot,
)
from semirobust.dependence.ksg import ksg, ksg_bits
from semirobust.dependence.linear import centred, correlation, linear_cka
from semirobust.dependence.measure import (
    Dependence,
    Measure,
    as_pair,
    drawing,
    standardised,
    within_classes,
    within_groups,
)
from semirobust.dependence.per_layer import LayerDependence, class_conditional, class_conditional_arrays
from semirobust.dependence.sensitivity import sensitivity

__all__ = [
    "MEASURES",
    "Dependence",
    "Erasure",
    "Gaussian",
    "Interval",
    "Law",
    "Layer",
    "LayerDependence",
    "Measure",
    "Merging",
    "Overlap",
    "SymmetricChannel",
    "as_pair",
    "biased_hsic",
    "centred",
    "class_conditional",
    "class_conditional_arrays",
    "classes",
    "conditional_entropy",
    "correlation",
    "drawing",
    "edge",
    "entropy_bits",
    "excess_interval",
    "gaussian_kernel",
    "hsic",
    "ksg",
    "ksg_bits",
    "label_information",
    "linear_cka",
    "one_hot",
    "plug_in",
    "sensitivity",
    "standardised",
    "unbiased_hsic",
    "within_classes",
    "within_groups",
]
