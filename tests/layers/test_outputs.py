"""Streamed estimates equal those of the data in one piece, and hold no more than a batch."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, TensorDataset

from semirobust.dependence import class_conditional
from semirobust.edge import Samples, edge
from semirobust.layers import activations, count_runs, each_output, edge_batches, weight_layers
from semirobust.layers import outputs as outputs_module
from tests.cases import Residual, changed, one_thread, random_images, snapshot, tiny_network

quick = settings(max_examples=40)
ENSEMBLE: dict[str, Any] = {"members": 3, "renormalise": True, "cap_bits": 8.0, "smoothness": (0.8, 1.2)}


def related(seed: int, n: int, dx: int, dy: int, dtype: Any = np.float64) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, dx)) * 3 + 10
    y = np.maximum((x - 10) @ rng.standard_normal((dx, dy)) / 3 + 0.2 * rng.standard_normal((n, dy)), 0)
    return x.astype(dtype), y.astype(dtype)


def cut(x: Any, y: Any, sizes: list[int]) -> list[tuple[Any, Any]]:
    """Batches of these sizes, over and over."""
    batches: list[tuple[Any, Any]] = []
    at = 0
    while at < len(x):
        size = sizes[len(batches) % len(sizes)]
        batches.append((x[at : at + size], y[at : at + size]))
        at += size
    return batches


# Samples in batches


@quick
@given(
    st.integers(0, 2**32),
    st.integers(20, 200),
    st.integers(1, 12),
    st.integers(1, 12),
    st.sampled_from([np.float32, np.float64]),
    st.lists(st.integers(1, 90), min_size=1, max_size=4),
    st.sampled_from([{}, ENSEMBLE]),
)
def test_batches_give_the_estimate_of_the_whole(
    seed: int, n: int, dx: int, dy: int, dtype: Any, sizes: list[int], options: dict[str, Any]
) -> None:
    x, y = related(seed, n, dx, dy, dtype)
    whole, streamed = edge(x, y, **options), edge_batches(cut(x, y, sizes), **options)
    assert streamed.bits == pytest.approx(whole.bits, abs=1e-9)
    assert streamed.entropy_x_bits == pytest.approx(whole.entropy_x_bits, abs=1e-9)
    assert streamed.entropy_y_bits == pytest.approx(whole.entropy_y_bits, abs=1e-9)
    assert (streamed.cap_bits, streamed.n, streamed.saturated) == (whole.cap_bits, n, whole.saturated)


def test_wide_batches_of_any_kind() -> None:
    x, y = related(0, 300, 20_000, 700, np.float32)
    expected = edge(x, y).bits
    tensors = torch.from_numpy(x), torch.from_numpy(y).double()
    loader = DataLoader(TensorDataset(*tensors), batch_size=64)
    assert edge_batches(loader).bits == pytest.approx(expected, abs=1e-9)
    assert edge_batches(cut(np.asfortranarray(x), y[:, ::-1][:, ::-1], [7, 120])).bits == pytest.approx(
        expected, abs=1e-9
    )
    vectors = cut(x[:, 0], tensors[1][:, 0], [50])
    assert edge_batches(vectors).bits == pytest.approx(edge(x[:, 0], y[:, 0]).bits, abs=1e-9)


@pytest.mark.parametrize("d", [3, 9])
def test_batches_may_share_their_memory(d: int) -> None:
    x, y = related(0, 60, d, d)

    class Reusing:
        def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
            buffer = np.empty((20, 2 * d))
            for start in range(0, 60, 20):
                buffer[:, :d], buffer[:, d:] = x[start : start + 20], y[start : start + 20]
                yield buffer[:, :d], buffer[:, d:]

    assert edge_batches(Reusing()).bits == pytest.approx(edge(x, y).bits, abs=1e-9)


class Generated:
    """Batches that are made when they are read, anew each time."""

    def __init__(self, n: int, d: int, batch: int) -> None:
        self.n, self.d, self.batch = n, d, batch

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for seed in range(self.n // self.batch):
            x = np.random.default_rng(seed).standard_normal((self.batch, self.d), dtype=np.float32)
            yield x, np.tanh(x)


def peak_bytes(batches: Generated) -> int:
    tracemalloc.start()
    edge_batches(batches)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_memory_does_not_grow_with_the_samples() -> None:
    d, batch = 10_000, 20
    few, many = (peak_bytes(Generated(n, d, batch)) for n in (400, 1200))
    whole = 2 * 1200 * d * 4  # the data themselves
    assert many < whole / 8
    assert many - few < 16 * d * 8  # more random numbers for each coordinate, not more rows


def test_what_cannot_be_read_twice_is_refused() -> None:
    x, y = related(0, 60, 9, 9)
    with pytest.raises(TypeError, match=r"only once.*pass a list, a DataLoader"):
        edge_batches(iter(cut(x, y, [20])))

    class Tiring(list[Any]):
        """Gives one batch less each time."""

        def __iter__(self) -> Iterator[Any]:
            batches = list(super().__iter__())
            self.pop()
            return iter(batches)

    with pytest.raises(ValueError, match="x had 60 samples in the first pass, 40 in the second"):
        edge_batches(Tiring(cut(x, y, [20])))


@pytest.mark.parametrize(
    ("batches", "error", "message"),
    [
        ([], ValueError, "hold 0 samples.*at least 20"),
        (cut(*related(0, 19, 9, 9), [5]), ValueError, "hold 19 samples.*at least 20"),
        ([(np.ones((30, 9)), np.ones((29, 9)))], ValueError, "30 samples of x and 29 of y"),
        (
            [(np.ones((30, 9)), np.ones((30, 2))), (np.ones((3, 8)), np.ones((3, 2)))],
            ValueError,
            "x has 8 coo",
        ),
        ([(np.ones((30, 9), dtype=int), np.ones((30, 9)))], TypeError, "x has dtype int64"),
        ([(np.ones((30, 9)), np.full((30, 9), np.nan))], ValueError, "y has NaN"),
        ([(np.full((30, 2), np.inf), np.ones((30, 1)))], ValueError, "x has NaN"),
        ([(np.ones((30, 2, 2)), np.ones((30, 1)))], ValueError, r"expected \[n, d\]"),
    ],
)
def test_bad_batches(batches: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        edge_batches(batches)


def test_bad_options() -> None:
    with pytest.raises(ValueError, match="members is 0"):
        edge_batches([], members=0)
    with pytest.raises(TypeError, match="membres"):
        edge_batches([], membres=1)


# The outputs of a network


class Repeating(nn.Module):
    """Runs one layer twice and changes outputs in place, before and after other layers see them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 12)
        self.again = nn.Linear(12, 12)
        self.last = nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.again(self.first(x.flatten(1)).relu_()).relu_()
        return self.last(self.again(x).relu_())


def gathered(model: nn.Module, images: torch.Tensor, names: list[str], **options: Any) -> dict[str, Any]:
    seen: dict[str, list[np.ndarray]] = {name: [] for name in names}

    def see(name: str, values: Samples) -> None:
        assert isinstance(values, np.ndarray)
        seen[name].append(values.copy())

    each_output(model, images, count_runs(model, images, names), see, **options)
    return {name: np.concatenate(batches) for name, batches in seen.items()}


@pytest.mark.parametrize("make", [Repeating, Residual, tiny_network], ids=lambda make: make.__name__)
@pytest.mark.parametrize("batch_size", [7, 30, 256])
def test_each_output_is_the_activations(make: Any, batch_size: int) -> None:
    torch.manual_seed(0)
    model, images = make(), random_images(30).images
    names = weight_layers(model, include_shortcuts=True)
    with one_thread():
        found = gathered(model, images, names, batch_size=batch_size)
        expected = activations(model, images, names, batch_size=batch_size)
    for name in names:
        assert np.array_equal(found[name], expected[name].numpy())


def test_of_a_layer_that_runs_twice_the_last_output_counts() -> None:
    torch.manual_seed(0)
    model, images = Repeating(), random_images(30).images
    assert count_runs(model, images, ["again", "first"]) == {"again": 2, "first": 1}
    with torch.no_grad():
        inner = model.again(model.first(images.flatten(1)).relu()).relu()
        assert np.allclose(gathered(model, images, ["again"])["again"], model.again(inner), atol=1e-6)


class Noisy(nn.Module):
    """Adds noise in evaluation mode too, as randomised smoothing does."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 9), nn.BatchNorm1d(9), nn.Linear(9, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x.flatten(1) + torch.randn(len(x), 64) * np.random.rand())  # noqa: NPY002


def test_two_passes_see_the_same_outputs_and_leave_no_trace() -> None:
    torch.manual_seed(0)
    model, images = Noisy().train(), random_images(40).images
    before, random = snapshot(model), (torch.get_rng_state(), repr(np.random.get_state()))  # noqa: NPY002
    first, second = (gathered(model, images, ["layers.0"], batch_size=16)["layers.0"] for _ in range(2))
    assert np.array_equal(first, second)
    assert changed(before, snapshot(model)) == []
    assert model.training
    assert torch.equal(torch.get_rng_state(), random[0])
    assert repr(np.random.get_state()) == random[1]  # noqa: NPY002


def test_a_failing_visitor_leaves_the_model_as_found() -> None:
    model, images = Residual().train(), random_images(5).images

    def fail(name: str, values: Samples) -> None:
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        each_output(model, images, {"first": 1}, fail)
    assert model.training
    assert not model.first._forward_hooks


def test_bad_names_and_batches() -> None:
    model, images = Residual(), random_images(5).images
    with pytest.raises(ValueError, match="no module named nope; weight layers: stem, first"):
        count_runs(model, images, ["stem", "nope"])
    model.unused = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"did not run.*unused"):
        count_runs(model, images, ["stem", "unused"])
    for wrong, size in ((images[:0], 2), (images, 0)):
        with pytest.raises(ValueError, match="at least one image and a batch_size of at least 1"):
            each_output(model, wrong, {"stem": 1}, lambda name, values: None, batch_size=size)


class Wayward(nn.Module):
    """Runs its layer once more for bright images; then for patches instead of images."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.patches = nn.Linear(64, 64), nn.Linear(32, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer(x.flatten(1))
        if len(x) > 1:
            x = self.layer(x)
        return self.patches(x.reshape(-1, 32))


def test_layers_whose_use_depends_on_the_input_are_refused() -> None:
    model, images = Wayward(), random_images(5).images
    with pytest.raises(ValueError, match="layer did not run as often"):
        gathered(model, images, ["layer"])
    with pytest.raises(ValueError, match="patches gives 10 rows for 5 images"):
        gathered(model, images, ["patches"])


# Class by class


class Largest(TorchDispatchMode):
    """The number of values of the largest tensor that any operation gives."""

    def __init__(self) -> None:
        super().__init__()
        self.values = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.values = max(self.values, out.numel())
        return out


def test_no_layer_is_held_for_a_whole_class() -> None:
    torch.manual_seed(0)
    d, batch, n = 16 * 16 * 16, 10, 400
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.Flatten(),
        nn.Linear(d, 2),
    )
    images, labels = torch.rand(n, 1, 16, 16), torch.zeros(n, dtype=torch.int64)
    with Largest() as largest:  # tensors; it also imports what a first run does
        class_conditional(model, images, labels, batch_size=batch)
    assert batch * d <= largest.values <= max(batch * d, images.numel())
    tracemalloc.start()  # NumPy arrays: random numbers, moments, blocks, results
    class_conditional(model, images, labels, batch_size=batch)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < n * d * 4 / 2  # the data of one of the two large layers are n * d * 4


def test_class_conditional_on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps of a CUDA model, here on the CPU: outputs stay tensors."""
    model, images = tiny_network(), random_images(90, classes=2)
    plain = class_conditional(model, images.images, images.labels, batch_size=32)
    monkeypatch.setattr(outputs_module, "checked_samples", lambda values, name, at_least: values.detach())
    for one, other in zip(
        plain, class_conditional(model, images.images, images.labels, batch_size=32), strict=True
    ):
        assert one.bits == pytest.approx(other.bits, abs=1e-9)
        assert one.control_bits == pytest.approx(other.control_bits, abs=1e-9)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_class_conditional_on_cuda() -> None:
    model, images = tiny_network(), random_images(90, classes=2)
    outputs = activations(model.cuda(), images.images, weight_layers(model))
    found = class_conditional(model, images.images, images.labels)
    for result in found:
        for label, estimate in result.by_class.items():
            chosen = images.labels == label
            alone = edge(outputs[result.earlier][chosen], outputs[result.later][chosen])
            assert estimate.bits == pytest.approx(alone.bits, abs=1e-3 * math.log2(alone.n))
