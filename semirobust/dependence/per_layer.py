"""Class-conditional dependence between consecutive layers, always beside its controls, in bits.

The quantity is that of Algorithm 1 of arXiv 2307.03803, I_j = sum over y of pi(y) I(f^(j-1); f^(j) | y), with
the EDGE estimate (`semirobust.edge`) of each term, on the outputs of the convolutional and linear modules
themselves, flattened, for **attacked** images; pi(y) is the frequency of class y among them.

An estimate alone says little: samples per class, cell size and dimension set its size. So each comes with
the value that the same cells give when the pairs are shuffled within the class (which destroys all dependence
given the class and leaves both layers as they are), with the largest value it could have taken, and with the
entropies of both layers' cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from semirobust.dependence.shuffles import by_class, check_shuffles, shuffled
from semirobust.edge import (
    SATURATION_BITS,
    EdgeOptions,
    Estimate,
    Samples,
    Side,
    TwoPasses,
    checked_samples,
    compare,
)
from semirobust.layers import count_runs, each_output, weight_layers

ROWS = 256  # of arrays, taken at a time


@dataclass(frozen=True)
class LayerDependence:
    """Class-conditional dependence of a pair of layers and its controls, averaged over the classes; bits.

    earlier, later: the names of the two layers.
    bits: the estimate; `float(dependence)` is this.
    control_bits: the same for pairs shuffled within the class, averaged over the shuffles. The shuffle leaves
        each layer's cells as they are, so both numbers have the same cap.
    cap_bits: the largest value the estimate could have taken: the average of min(U, log2 N_y).
    entropy_x_bits, entropy_y_bits: entropies of the cells of the earlier and of the later layer.
    saturated: bits is within 0.1 of cap_bits.
    counts: class -> number of samples.
    by_class: class -> its own estimate, not weighted.
    """

    earlier: str
    later: str
    bits: float
    control_bits: float
    cap_bits: float
    entropy_x_bits: float
    entropy_y_bits: float
    saturated: bool
    counts: dict[int, int]
    by_class: dict[int, Estimate]

    def __float__(self) -> float:
        return self.bits

    def record(self) -> dict[str, Any]:
        """The pair and its numbers, as plain values for a results file."""
        return {
            "layers": [self.earlier, self.later],
            "bits": self.bits,
            "control_bits": self.control_bits,
            "cap_bits": self.cap_bits,
            "entropy_x_bits": self.entropy_x_bits,
            "entropy_y_bits": self.entropy_y_bits,
            "saturated": self.saturated,
        }

    @property
    def excess_bits(self) -> float:
        """bits - control_bits: the part of the estimate that the pairing of the samples makes."""
        return self.bits - self.control_bits


def class_conditional(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    pairs: Sequence[tuple[str, str]] | None = None,
    n_last: int | None = None,
    batch_size: int = 256,
    seed: int = 0,
    shuffles: int = 1,
    **edge_options: Any,
) -> list[LayerDependence]:
    """The dependence of each pair of consecutive weight layers, in data-flow order.

    Activations are not kept: the images of a class go through the network twice, in batches, and each layer's
    output is reduced, on the device of the model, as soon as it is there (`layers.outputs`). So memory
    is O(batch_size * d) for the largest layer of d numbers, 24 bytes for each of the numbers of all layers,
    and a few numbers for each image of the class at hand. The model runs in evaluation mode and is left as it
    was.

    Args:
        images: the **attacked** images, floating point [N, ...] in [0, 1].
        labels: their classes, integers [N].
        pairs: (earlier, later) module names; by default all consecutive layers of `layers.weight_layers`.
        n_last: instead, only the last `n_last` of those: for f_b of n_last layers, the pairs of Algorithm 1,
            from (last layer of f_a, first of f_b) to the last two layers.
        batch_size: images per forward pass.
        seed: of the shuffles; a class's shuffle depends on the seed and the class, not on the pairs.
        shuffles: how many shuffles the control is averaged over.
        edge_options: those of `edge.edge`: members, renormalise, cap_bits, smoothness.

    Raises:
        ValueError: images outside [0, 1] or not finite, labels of another length, a class with fewer than 20
            samples, unknown layers, both `pairs` and `n_last`, an option out of range; all before any forward
            pass. Outputs that are not finite, naming the layer and the class.
        TypeError: images that are not floating point, labels that are not integers, an unknown option.
    """
    options, shuffles = EdgeOptions(**edge_options), check_shuffles(shuffles)
    classes = by_class(labels, len(images))
    _check_images(images)
    wanted = _layer_pairs(model, pairs, n_last)
    names = list(dict.fromkeys(name for pair in wanted for name in pair))
    runs = count_runs(model, images, names)
    results = []
    for label, index in classes.items():
        chosen = images[torch.from_numpy(index).to(images.device)]
        passes = TwoPasses(wanted, where=f" (class {label})")
        for see in (passes.measure, passes.project):
            each_output(model, chosen, runs, see, batch_size=batch_size)
        results.append(_one_class(passes.sides(), label, seed, shuffles, options))
    return _combine(wanted, classes, results)


def class_conditional_arrays(
    x: Samples,
    y: Samples,
    labels: npt.ArrayLike | torch.Tensor,
    *,
    names: tuple[str, str] = ("x", "y"),
    seed: int = 0,
    shuffles: int = 1,
    **edge_options: Any,
) -> LayerDependence:
    """The same for one pair of arrays or tensors x [N, d], y [N, d'] and their classes, integers [N].

    `names` are those of the two layers in the result; the other options and the errors are those of
    `class_conditional`.
    """
    options, shuffles = EdgeOptions(**edge_options), check_shuffles(shuffles)
    x, y = checked_samples(x, "x"), checked_samples(y, "y")
    if len(x) != len(y):
        raise ValueError(f"x has {len(x)} samples and y has {len(y)}; row i of both must be the same sample")
    classes = by_class(labels, len(x))
    results = []
    for label, index in classes.items():
        passes = TwoPasses([("x", "y")], where=f" (class {label})")
        for see in (passes.measure, passes.project):
            for rows in np.split(index, range(ROWS, len(index), ROWS)):
                see("x", x[rows])
                see("y", y[rows])
        results.append(_one_class(passes.sides(), label, seed, shuffles, options))
    return _combine([names], classes, results)[0]


def _one_class(
    sides: Sequence[tuple[Side, Side]], label: int, seed: int, shuffles: int, options: EdgeOptions
) -> list[tuple[Estimate, float]]:
    """Estimate and control of each pair of sides, all of the samples of one class."""
    orders = shuffled(len(sides[0][0].coordinates), shuffles, seed, label)
    results = []
    for x, y in sides:
        controls = [compare(x, y.reordered(order), options).bits for order in orders]
        results.append((compare(x, y, options), float(np.mean(controls))))
    return results


def _combine(
    pairs: Sequence[tuple[str, str]],
    classes: dict[int, npt.NDArray[np.int64]],
    results: list[list[tuple[Estimate, float]]],
) -> list[LayerDependence]:
    """Averages with the class frequencies; results[c][p] belongs to class c and pair p."""
    counts = {label: len(index) for label, index in classes.items()}
    frequency = np.array(list(counts.values())) / sum(counts.values())  # pi(y)
    combined = []
    for p, (earlier, later) in enumerate(pairs):
        estimates = [result[p][0] for result in results]
        table = [
            (estimate.bits, result[p][1], estimate.cap_bits, estimate.entropy_x_bits, estimate.entropy_y_bits)
            for estimate, result in zip(estimates, results, strict=True)
        ]  # [classes, 5]
        bits, control, cap, entropy_x, entropy_y = (frequency @ np.array(table)).tolist()
        combined.append(
            LayerDependence(
                earlier=earlier,
                later=later,
                bits=bits,
                control_bits=control,
                cap_bits=cap,
                entropy_x_bits=entropy_x,
                entropy_y_bits=entropy_y,
                saturated=cap - bits <= SATURATION_BITS,
                counts=dict(counts),
                by_class=dict(zip(counts, estimates, strict=True)),
            )
        )
    return combined


def _check_images(images: torch.Tensor) -> None:
    if not images.is_floating_point():
        raise TypeError(f"images have dtype {images.dtype}; pass floats in [0, 1], e.g. images.float() / 255")
    low, high = (float(value) for value in torch.aminmax(images))
    if not (low >= 0 and high <= 1):  # NaN is caught too
        raise ValueError(
            f"images have values from {low:g} to {high:g}; they must be finite and in [0, 1]: networks "
            "normalise inside, so pass pixels (divide bytes by 255)"
        )


def _layer_pairs(
    model: nn.Module, pairs: Sequence[tuple[str, str]] | None, n_last: int | None
) -> list[tuple[str, str]]:
    """The pairs asked for, checked, or the (last) consecutive ones."""
    if pairs is not None and n_last is not None:
        raise ValueError("pass pairs or n_last, not both")
    if pairs is not None:
        known = weight_layers(model, include_shortcuts=True)
        unknown = sorted({name for pair in pairs for name in pair} - set(known))
        if unknown or not pairs:
            problem = f"no weight layer is called {', '.join(unknown)}" if unknown else "pairs is empty"
            raise ValueError(f"{problem}; the weight layers are {', '.join(known)}")
        return [(earlier, later) for earlier, later in pairs]
    layers = weight_layers(model)
    consecutive = list(pairwise(layers))
    if not consecutive:
        raise ValueError(f"the model has one weight layer, {layers[0]}; a dependence needs two")
    count = len(consecutive) if n_last is None else n_last
    if not 1 <= count <= len(consecutive):
        raise ValueError(
            f"n_last is {n_last}; {len(layers)} weight layers have {len(consecutive)} consecutive pairs: "
            f"pass 1 to {len(consecutive)}"
        )
    return consecutive[-count:]
