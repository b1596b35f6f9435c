"""Measures of dependence between two layers behind one protocol, each beside its shuffled control.

A `Measure` is called with the outputs of two layers for the same samples, x [n, d] and y [n, d'], and gives
a `Dependence`: value, unit, cap, n, and the values for shuffled pairs. `class_conditional` averages it over
the classes, `excess_interval` puts an interval around the excess over the control. Nothing is clipped, but
for the published floor and cap of EDGE.

=====================  ======  ==========================================================================
measure                unit    what, and what it is blind to
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
"""

from __future__ import annotations

from semirobust.dependence.cells import conditional_entropy, edge
from semirobust.dependence.clusters import classes
from semirobust.dependence.hsic import hsic
from semirobust.dependence.ksg import ksg
from semirobust.dependence.linear import correlation, linear_cka
from semirobust.dependence.measure import Measure

#: every measure of two layers with its default options, by name
MEASURES: dict[str, Measure] = {
    measure.name: measure
    for measure in (edge(), ksg(), classes(), conditional_entropy(), linear_cka(), hsic(), correlation())
}
