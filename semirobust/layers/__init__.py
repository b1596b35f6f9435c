"""The layers of a network: its graph, its split into f_a and f_b, and their outputs.

graph    the traced graph, ``weight_layers`` in data-flow order, subgraphs
split    ``Split``: f_a and f_b as a partition of parameters and buffers
outputs  outputs of layers: all at once, in batches, or one after another
state    a guard that leaves a model as it was found
folded   a network without BatchNorm: the same function of weights and biases
view     a fast approximate view of a model, for attacks
"""

from __future__ import annotations

from semirobust.layers.folded import (
    AFFINE,
    AS_MODULE,
    MEANS,
    NORMS,
    RESHAPES,
    SUMS,
    ChannelAffine,
    folded,
    node_shapes,
)
from semirobust.layers.graph import WEIGHT_TYPES, attribute, subgraph, trace, weight_layers
from semirobust.layers.outputs import (
    INPUT,
    Features,
    activations,
    count_runs,
    each_output,
    edge_batches,
    layer_features,
    model_outputs,
)
from semirobust.layers.split import Split
from semirobust.layers.state import device_of, preserve
from semirobust.layers.view import AttackView, attack_view, fast_dtype

__all__ = [
    "AFFINE",
    "AS_MODULE",
    "INPUT",
    "MEANS",
    "NORMS",
    "RESHAPES",
    "SUMS",
    "WEIGHT_TYPES",
    "AttackView",
    "ChannelAffine",
    "Features",
    "Split",
    "activations",
    "attack_view",
    "attribute",
    "count_runs",
    "device_of",
    "each_output",
    "edge_batches",
    "fast_dtype",
    "folded",
    "layer_features",
    "model_outputs",
    "node_shapes",
    "preserve",
    "subgraph",
    "trace",
    "weight_layers",
]
