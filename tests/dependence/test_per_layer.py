"""Class-conditional dependence: equal to one `edge` per class, with controls that mean something."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from semirobust.dependence import LayerDependence, class_conditional, class_conditional_arrays
from semirobust.edge import edge
from semirobust.layers import activations, weight_layers

ORDER = torch.randperm(120, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([2] * 40 + [0] * 30 + [7] * 50)[ORDER]
ENSEMBLE: dict[str, Any] = {"members": 3, "renormalise": True, "cap_bits": 8.0, "smoothness": (0.8, 1.2)}


def network() -> nn.Sequential:
    """Layers of 256, 72, 5, 3 and 3 outputs: wide, wide, and three small enough not to be projected."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 2, 3),
        nn.Flatten(),
        nn.Linear(72, 5),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(5, 3),
        nn.Linear(3, 3),
    )


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    noise = torch.rand(120, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return (noise * 0.7 + 0.03 * LABELS[:, None, None, None]).clamp(0, 1)


def by_hand(x: torch.Tensor, y: torch.Tensor, **options: Any) -> list[float]:
    """Estimate, cap and entropies as sums over the classes of frequency times `edge`."""
    total = np.zeros(4)
    for label in LABELS.unique():
        chosen = label == LABELS
        e = edge(x[chosen], y[chosen], **options)
        terms = np.array([e.bits, e.cap_bits, e.entropy_x_bits, e.entropy_y_bits])
        total += chosen.double().mean().item() * terms
    return total.tolist()


def four(result: LayerDependence) -> list[float]:
    return [result.bits, result.cap_bits, result.entropy_x_bits, result.entropy_y_bits]


@pytest.mark.parametrize("options", [{}, ENSEMBLE], ids=["single", "ensemble"])
def test_equals_edge_class_by_class(images: torch.Tensor, options: dict[str, Any]) -> None:
    model = network()
    layers = weight_layers(model)
    outputs = activations(model, images, layers)
    results = class_conditional(model, images, LABELS, batch_size=7, **options)
    assert [(r.earlier, r.later) for r in results] == list(pairwise(layers))
    for result in results:
        x, y = outputs[result.earlier], outputs[result.later]
        assert four(result) == pytest.approx(by_hand(x, y, **options), abs=1e-12)
        assert result.counts == {0: 30, 2: 40, 7: 50}
        assert result.excess_bits == result.bits - result.control_bits
        assert float(result) == result.bits
        alone = edge(x[LABELS == 2], y[LABELS == 2], **options)
        assert result.by_class[2].bits == pytest.approx(alone.bits, abs=1e-12)
        arrays = class_conditional_arrays(
            x, y.numpy(), LABELS, names=(result.earlier, result.later), **options
        )
        assert (arrays.earlier, arrays.later) == (result.earlier, result.later)
        assert four(arrays) == pytest.approx(four(result), abs=1e-12)
        assert arrays.control_bits == pytest.approx(result.control_bits, abs=1e-12)


def test_layers_in_several_roles(images: torch.Tensor) -> None:
    """A layer paired with wide and with small partners, in both roles, in any order."""
    model = network()
    first, second, third, fourth, last = weight_layers(model)
    outputs = activations(model, images, [first, second, third, fourth, last])
    pairs = [(third, last), (first, third), (third, first), (second, third), (fourth, fourth), (first, last)]
    results = class_conditional(model, images, LABELS, pairs=pairs)
    assert [(r.earlier, r.later) for r in results] == pairs
    for result in results:
        expected = by_hand(outputs[result.earlier], outputs[result.later])
        assert four(result) == pytest.approx(expected, abs=1e-12)


def test_n_last_is_the_end_of_the_whole_list(images: torch.Tensor) -> None:
    model = network()
    everything = class_conditional(model, images, LABELS)
    assert len(everything) == 4
    for n_last in (1, 3, 4):
        found = class_conditional(model, images, LABELS, n_last=n_last)
        assert found == everything[-n_last:]  # controls too: they do not depend on the pairs asked for


def test_every_image_goes_through_twice_class_by_class(images: torch.Tensor) -> None:
    model = network()
    sizes: list[int] = []
    model.register_forward_pre_hook(lambda _module, inputs: sizes.append(len(inputs[0])))
    class_conditional(model, images, LABELS, batch_size=20)
    one_image = [1]  # which layers run, and how often
    assert sizes == one_image + [20, 10] * 2 + [20, 20] * 2 + [20, 20, 10] * 2


def test_model_and_random_states_are_left_as_found(images: torch.Tensor) -> None:
    model = network().train()
    model[1].eval()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state(), repr(np.random.get_state())  # noqa: NPY002
    class_conditional(model, images, LABELS, n_last=2)
    assert [module.training for module in model] == [True, False] + [True] * 8
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random[0])
    assert repr(np.random.get_state()) == random[1]  # noqa: NPY002


# The control


def gaussian(
    rho: float, n: int = 1000, d: int = 1, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Correlated by rho within each of two classes, which lie far apart in both: that alone is dependence."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    x = rng.standard_normal((n, d))
    y = rho * x + math.sqrt(1 - rho * rho) * rng.standard_normal((n, d))
    return x + 20 * labels[:, None], y + 20 * labels[:, None], labels


def test_control_is_far_below_strong_dependence() -> None:
    result = class_conditional_arrays(*gaussian(0.99), members=5, shuffles=4)
    assert result.control_bits < 0.1
    assert result.excess_bits > 0.8


def test_control_matches_independence_given_the_class() -> None:
    """Nothing to find within the classes, and the dependence through the class is conditioned away."""
    x, y, labels = gaussian(0.0)
    result = class_conditional_arrays(x, y, labels, members=5, shuffles=4)
    assert abs(result.excess_bits) < 0.03
    assert edge(x, y, members=5).bits > 0.5


def test_high_dimension_fools_the_estimate_but_not_the_excess() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 1000, 64))
    result = class_conditional_arrays(x, y, np.zeros(1000, dtype=int), shuffles=4)
    assert result.bits > 1.0
    assert abs(result.excess_bits) < 0.05 * result.bits


def test_control_is_edge_of_shuffled_cells() -> None:
    """Against `edge` of really shuffled rows, whose bandwidths come from other draws: close, not equal."""
    x, y, labels = gaussian(0.9, n=2000)
    rng = np.random.default_rng(0)
    shuffled = y.copy()
    for label in (0, 1):
        place = np.flatnonzero(labels == label)
        shuffled[place] = y[rng.permutation(place)]
    direct = class_conditional_arrays(x, shuffled, labels)
    assert class_conditional_arrays(x, y, labels).control_bits == pytest.approx(direct.bits, abs=0.03)


def test_control_is_about_the_same_two_layers() -> None:
    """A wide layer and one bit: no shuffle of these two can score above the entropy of the bit."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((500, 64))
    bit = (x[:, :1] > 0).astype(float)
    for first, second in ((x, bit), (bit, x)):
        result = class_conditional_arrays(first, second, np.zeros(500, dtype=int))
        smaller = min(result.entropy_x_bits, result.entropy_y_bits)
        assert 0.001 <= result.control_bits <= smaller + 0.001 <= 1.001


def test_seed_and_shuffles() -> None:
    data = gaussian(0.5, n=200)
    one = class_conditional_arrays(*data, seed=1)
    assert one == class_conditional_arrays(*data, seed=1)
    other = class_conditional_arrays(*data, seed=2)
    assert one.bits == other.bits
    assert one.control_bits != other.control_bits
    both = class_conditional_arrays(*data, seed=1, shuffles=2)
    assert both.bits == one.bits
    assert both.control_bits != one.control_bits


def test_saturation_is_reported() -> None:
    x = np.arange(100.0)[:, None] * np.ones(2)
    labels = np.arange(100) % 2
    fine: dict[str, Any] = {"smoothness": (1e-3, 1e-3)}  # every sample a cell of its own
    result = class_conditional_arrays(x, x, labels, **fine)
    assert result.saturated
    assert result.bits == pytest.approx(math.log2(50)) == result.cap_bits
    assert result.control_bits == pytest.approx(result.bits)  # and the excess of a saturated estimate is 0
    assert not class_conditional_arrays(x, x, labels).saturated


# Errors


def test_too_few_samples_of_a_class(images: torch.Tensor) -> None:
    keep = torch.ones(120, dtype=torch.bool)
    keep[torch.nonzero(LABELS == 7)[19:]] = False
    with pytest.raises(ValueError, match=r"class 7 has 19 samples.*at least 20.*keep = labels != 7"):
        class_conditional(network(), images[keep], LABELS[keep])
    with pytest.raises(ValueError, match="class 7 has 19 samples"):
        class_conditional_arrays(images[keep].flatten(1), images[keep].flatten(1), LABELS[keep])


def changed(images: torch.Tensor, value: float) -> torch.Tensor:
    images = images.clone()
    images[3, 0, 1, 2] = value
    return images


@pytest.mark.parametrize("value", [-0.01, 1.5, math.nan, math.inf])
def test_bad_pixels(images: torch.Tensor, value: float) -> None:
    with pytest.raises(ValueError, match=r"finite and in \[0, 1\]"):
        class_conditional(network(), changed(images, value), LABELS)


def test_bytes(images: torch.Tensor) -> None:
    with pytest.raises(TypeError, match=r"uint8.*images.float\(\) / 255"):
        class_conditional(network(), (images * 255).byte(), LABELS)


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (LABELS[:100], ValueError, r"shape \(100,\); expected .*\(120,\)"),
        (LABELS[:, None], ValueError, r"shape \(120, 1\)"),
        (LABELS.float(), TypeError, "float32.*integers"),
        (LABELS - 1, ValueError, "contain -1"),
    ],
)
def test_bad_labels(images: torch.Tensor, labels: torch.Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        class_conditional(network(), images, labels)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n_last": 0}, ValueError, "n_last is 0.*pass 1 to 4"),
        ({"n_last": 5}, ValueError, "n_last is 5.*pass 1 to 4"),
        ({"n_last": 1, "pairs": [("0", "3")]}, ValueError, "not both"),
        ({"pairs": []}, ValueError, "pairs is empty"),
        ({"pairs": [("0", "2")]}, ValueError, "no weight layer is called 2; the weight layers are 0, 3, 5"),
        ({"shuffles": 0}, ValueError, "at least 1"),
        ({"members": 0}, ValueError, "members is 0"),
        ({"membres": 2}, TypeError, "membres"),
    ],
)
def test_bad_options(
    images: torch.Tensor, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        class_conditional(network(), images, LABELS, **options)


def test_a_diverged_layer_is_named(images: torch.Tensor) -> None:
    model = network()
    model.state_dict()["3.bias"][0] = math.nan  # the state dict shares its memory
    with pytest.raises(ValueError, match=r"3 \(class 0\) has NaN"):
        class_conditional(model, images, LABELS)


def test_one_layer_has_no_pair(images: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="one weight layer, 1; a dependence needs two"):
        class_conditional(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), images, LABELS)


def test_arrays_of_unequal_length() -> None:
    with pytest.raises(ValueError, match="x has 30 samples and y has 31"):
        class_conditional_arrays(np.ones((30, 1)), np.ones((31, 1)), np.zeros(30, dtype=int))
