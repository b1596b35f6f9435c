"""The measures of dependence with their default options, by name."""

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
