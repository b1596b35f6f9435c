"""The relative change of a layer's output under attack."""

from __future__ import annotations

import numpy as np

from semirobust.dependence.measure import Array, Measure, Score
from semirobust.dependence.shuffles import Integers


def sensitivity() -> Measure:
    """Mean over the samples of |attacked - clean| / |clean| (Euclidean norms), >= 0, no unit.

    The one measure whose two sides are the *same* layer: x its clean, y its attacked outputs, both [n, d].
    The control pairs each clean output with the attacked one of another image (of its class), so value over
    control compares the attack with an exchange of images. A clean output of 0 gives 0 where the attack
    leaves it, else infinity. Raises ValueError for unequal d.
    """

    def begin(x: Array, y: Array, generator: np.random.Generator) -> Score:
        if x.shape != y.shape:
            raise ValueError(
                f"the clean outputs have {x.shape[1]} coordinates and the attacked ones {y.shape[1]}; pass "
                "the outputs of one and the same layer"
            )
        size = np.linalg.norm(x, axis=1)

        def score(rows_x: Integers, rows_y: Integers) -> float:
            moved, whole = np.linalg.norm(y[rows_y] - x[rows_x], axis=1), size[rows_x]
            with np.errstate(divide="ignore", invalid="ignore"):
                return float(np.mean(np.where(moved == 0, 0.0, moved / whole)))

        return score

    return Measure("sensitivity", "", begin)
