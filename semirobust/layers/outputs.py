"""Outputs of the layers of a network: all at once, in batches, or one layer after the other.

The outputs are those of the modules themselves, before normalisation and activation, and flattened.
`activations` collects them for all images. `each_output` passes them to a function batch by batch, for layers
that are too large to hold. `Features` and `layer_features` are frozen copies of the part of a network that
computes them.

`edge_batches` is the EDGE estimate (`semirobust.edge`) for outputs that are too large to hold. The estimator
needs two passes. The first finds the standard deviation of every coordinate. The second projects each sample
to at most log2(n / 10) coordinates, from which the cells are made. So samples can come in batches, twice, and
memory is O(batch * d + n log n) for samples of d numbers, instead of O(n * d). In WideResNet-34-10 each
convolution of the first group gives 163,840 numbers for an image: 655 MB for 1,000 images in single
precision, 168 MB for a batch of 256. The estimate is the same as for the data in one piece, up to the
rounding of sums.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import fx, nn

from semirobust.edge import MIN_SAMPLES, EdgeOptions, Estimate, Samples, TwoPasses, checked_samples, compare
from semirobust.layers.graph import subgraph, trace, weight_layers
from semirobust.layers.state import device_of, preserve

See: TypeAlias = Callable[[str, Samples], None]
Arrived: TypeAlias = Callable[[str, torch.Tensor], None]


def edge_batches(batches: Iterable[tuple[Samples, Samples]], **edge_options: Any) -> Estimate:
    """The estimate of I(x; y) in bits, for samples that come in batches.

    Args:
        batches: pairs (x [b, d], y [b, d']), which are read **twice**: a list, a DataLoader, or any object
            that starts anew when iterated over again; batches may differ in size. The second reading must
            give the same samples. Their order matters a little, as it does to `edge.edge`: the bandwidths
            are those of 500 drawn positions.
        edge_options: those of `edge.edge`: members, renormalise, cap_bits, smoothness.

    Raises:
        ValueError, TypeError: as `edge.edge`, and for batches that can be read only once, that differ in d
            or that change between the two readings.
    """
    options = EdgeOptions(**edge_options)
    if isinstance(batches, Iterator):
        raise TypeError(
            "batches can be read only once, and the estimator reads them twice; pass a list, a DataLoader, "
            "or an object whose __iter__ starts anew"
        )
    passes = TwoPasses([("x", "y")])
    for step in (passes.measure, passes.project):
        n = 0
        for x, y in batches:
            x, y = checked_samples(x, "x", at_least=1), checked_samples(y, "y", at_least=1)
            if len(x) != len(y):
                raise ValueError(
                    f"a batch has {len(x)} samples of x and {len(y)} of y; "
                    "row i of both must be the same sample"
                )
            step("x", x)
            step("y", y)
            n += len(x)
        if n < MIN_SAMPLES:
            raise ValueError(f"the batches hold {n} samples; the estimator needs at least {MIN_SAMPLES}")
    return compare(*passes.sides()[0], options)


def count_runs(model: nn.Module, images: torch.Tensor, names: Sequence[str]) -> dict[str, int]:
    """How often each of the modules `names` runs in a forward pass, found with the first of `images`.

    Raises ``ValueError`` for a name that is not a module of the model, or that does not run.
    """
    _check_names(model, names)
    runs = dict.fromkeys(names, 0)

    def count(name: str, output: torch.Tensor) -> None:
        runs[name] += 1

    with _hooked(model, names, count):
        model(images[:1].to(_device(model, images)))
    if silent := [name for name, times in runs.items() if times == 0]:
        raise ValueError(f"modules that did not run in the forward pass: {', '.join(silent)}")
    return runs


def each_output(
    model: nn.Module, images: torch.Tensor, runs: Mapping[str, int], see: See, *, batch_size: int = 256
) -> None:
    """Call see(name, output [b, d]) for every batch of images and every module of `runs`.

    The outputs are those of the modules themselves, before normalisation and activation, flattened: arrays,
    or tensors on the CUDA device of the model. Each is passed on as soon as it is computed, so
    that a network's outputs need not all be in memory. Do not keep it: an in-place activation overwrites it.
    If a module runs more than once, its last output counts; `runs` is from `count_runs`. The model runs
    in evaluation mode. It and the global random states are left as found, so two calls show the same outputs.

    Raises ``ValueError`` for no images, a batch_size below 1, a module whose output is not one row for each
    image, and one that did not run as often as `runs` says.
    """
    if len(images) == 0 or batch_size < 1:
        raise ValueError(
            f"give at least one image and a batch_size of at least 1, got {len(images)} and {batch_size}"
        )
    left: dict[str, int] = {}  # runs still to come in this batch
    expected = 0

    def arrived(name: str, output: torch.Tensor) -> None:
        left[name] -= 1
        if left[name] == 0:
            if len(output) != expected:
                raise ValueError(
                    f"{name} gives {len(output)} rows for {expected} images; it needs one for each"
                )
            see(name, checked_samples(output.flatten(1), name, at_least=1))

    device = _device(model, images)
    with _hooked(model, list(runs), arrived):
        for batch in images.split(batch_size):
            left.update(runs)
            expected = len(batch)
            model(batch.to(device))
            if astray := [name for name, times in left.items() if times]:
                raise ValueError(
                    f"{', '.join(astray)} did not run as often as for the first image; layers whose "
                    "use depends on the input cannot be compared"
                )


def _check_names(model: nn.Module, names: Sequence[str]) -> None:
    known = dict(model.named_modules())
    if unknown := [name for name in names if name not in known]:
        raise ValueError(
            f"no module named {', '.join(unknown)}; weight layers: {', '.join(weight_layers(model))}"
        )


@contextmanager
def _hooked(model: nn.Module, names: Sequence[str], arrived: Arrived) -> Iterator[None]:
    """The model in evaluation mode, with arrived(name, output) called after each run of a module of `names`;
    all is as before afterwards.
    """
    modules = dict(model.named_modules())
    with preserve(model), torch.no_grad():
        model.eval()
        handles = [
            modules[name].register_forward_hook(lambda _m, _i, output, name=name: arrived(name, output))
            for name in names
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _device(model: nn.Module, images: torch.Tensor) -> torch.device:
    return next(model.parameters(), images).device


def model_outputs(model: nn.Module, images: torch.Tensor, *, batch_size: int = 256) -> torch.Tensor:
    """Outputs of the model for images [N, ...], batch by batch and without gradients: [N, K] on the CPU."""
    device = device_of(model)
    with torch.no_grad():
        return torch.cat([model(part.to(device)).cpu() for part in images.split(batch_size)])


def activations(
    model: nn.Module, images: torch.Tensor, names: Sequence[str], *, batch_size: int = 256
) -> dict[str, torch.Tensor]:
    """Outputs of the modules ``names``, flattened: float32 [N, d] on the CPU, for images [N, ...] in [0, 1].

    The outputs are those of the modules themselves, before normalisation and activation. The model runs in
    evaluation mode and is left as found. If a module runs more than once, its last output counts. Raises
    ``ValueError`` for a name that is not a module of the model, or that did not run, and for no images.
    """
    if len(images) == 0 or batch_size < 1:
        raise ValueError(
            f"give at least one image and a batch_size of at least 1, got {len(images)} and {batch_size}"
        )
    _check_names(model, names)
    collected: dict[str, torch.Tensor] = {}
    position = 0

    def keep(name: str, output: torch.Tensor) -> None:
        flat = output.detach().flatten(1)  # [batch, d]
        if name not in collected:
            collected[name] = torch.empty(len(images), flat.shape[1])
        collected[name][position : position + len(flat)] = flat

    device = _device(model, images)
    with _hooked(model, names, keep):
        for position in range(0, len(images), batch_size):
            model(images[position : position + batch_size].to(device))
    silent = [name for name in names if name not in collected]
    if silent:
        raise ValueError(f"modules that did not run in the forward pass: {', '.join(silent)}")
    return collected


class Features(nn.Module):
    """Outputs of the modules ``layers``, flattened: images [N, ...] in [0, 1] -> tuple of float32 [N, d_l].

    A frozen copy of the part of ``model`` that they need, always in evaluation mode. ``model`` is left as
    found and may be trained further. Raises ``ValueError`` for no layer, a layer named twice, a layer that
    has submodules or does not run, and as ``layers.trace`` does.
    """

    def __init__(self, model: nn.Module, layers: Sequence[str]) -> None:
        super().__init__()
        self.layers = tuple(layers)
        if not self.layers or len(set(self.layers)) < len(self.layers):
            raise ValueError(f"name at least one layer, and none twice; got {list(layers)}")
        traced = trace(model)
        graph = fx.Graph()
        values: dict[fx.Node, fx.Node] = {}
        graph.graph_copy(traced.graph, values)
        last = {str(node.target): node for node in traced.graph.nodes if node.op == "call_module"}
        if unknown := [name for name in self.layers if name not in last]:
            raise ValueError(
                f"no layer {', '.join(unknown)} runs in the model; "
                f"its weight layers: {', '.join(weight_layers(model))}"
            )
        graph.output(tuple(graph.call_method("flatten", (values[last[name]], 1)) for name in self.layers))
        part = fx.GraphModule(traced, graph)
        part.graph.eliminate_dead_code()  # what runs after the last of the layers
        part.delete_all_unused_submodules()
        part.recompile()
        self.body: nn.Module = copy.deepcopy(part).requires_grad_(False)
        self.body.zero_grad(set_to_none=True)
        super().train(False)

    def train(self, mode: bool = True) -> Features:
        """Do nothing: the copy stays in evaluation mode."""
        return self

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.body(images)


INPUT = "input"  # the name of layer 0, the image itself


def layer_features(model: nn.Module, layer: str) -> nn.Module:
    """F^(j) as a frozen copy: images [N, ...] -> the output of ``layer``, flattened: float32 [N, d]."""
    if layer == INPUT:
        return nn.Flatten()
    known = weight_layers(model)
    if layer not in known:
        raise ValueError(f"no weight layer is called {layer!r}; probe {INPUT} or one of {', '.join(known)}")
    traced = trace(model)
    # if a module runs more than once, its last output counts, as in `layers.activations`
    stop = [node for node in traced.graph.nodes if node.op == "call_module" and node.target == layer][-1]
    below = copy.deepcopy(subgraph(traced, None, stop))
    return nn.Sequential(below, nn.Flatten()).eval().requires_grad_(False)
