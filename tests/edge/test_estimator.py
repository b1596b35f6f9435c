"""The estimator against the published outputs, its slow twin, closed forms and its proved bounds."""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import FrozenInstanceError, astuple
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from semirobust.edge import (
    EdgeOptions,
    Side,
    TwoPasses,
    as_samples,
    cell_information,
    compare,
    edge,
    edge_reference,
    projected_dimensions,
)
from semirobust.edge import projection as projection_module
from semirobust.edge.cells import neighbour_distances, number_cells
from semirobust.edge.projection import Moments, Projection

ORACLES = json.loads((Path(__file__).parent / "oracles.json").read_text())["outputs"]
COLUMNS: dict[str, dict[str, Any]] = {
    "single": {},
    "ensemble": {"members": 10, "renormalise": True},
    "ensemble_plain": {"members": 10},
    "cap4": {"members": 5, "cap_bits": 4.0, "smoothness": (0.8, 1.2)},
}
quick = settings(max_examples=30)


def inputs(seed: int, n: int, dx: int, dy: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """The inputs of the published outputs in oracles.json."""
    rng = np.random.default_rng(seed)
    if kind == "gauss":
        shared = min(dx, dy)
        x, y = rng.standard_normal((n, dx)), rng.standard_normal((n, dy))
        y[:, :shared] = 0.8 * x[:, :shared] + 0.6 * y[:, :shared]
    elif kind == "relu":
        z = rng.standard_normal((n, 16))
        x = np.maximum(z @ rng.standard_normal((16, dx)) - 1, 0)
        y = np.maximum(x @ rng.standard_normal((dx, dy)) / np.sqrt(dx), 0)
        x, y = x.astype(np.float32), y.astype(np.float32)
    elif kind == "indep":
        x, y = rng.standard_normal((n, dx)), rng.standard_normal((n, dy))
    else:
        assert kind == "const"
        x = rng.standard_normal((n, dx))
        x[:, 0] = 3.0
        y = x[:, :dy] ** 2
    return x, y


# The published outputs


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("row", ORACLES, ids=lambda row: f"{row['kind']}-{row['dx']}")
def test_published_outputs(row: dict[str, Any], column: str) -> None:
    x, y = inputs(row["seed"], row["n"], row["dx"], row["dy"], row["kind"])
    estimate = edge(x, y, **COLUMNS[column])
    assert float(estimate) == pytest.approx(row[column], abs=1e-9)
    assert estimate.n == row["n"]
    assert estimate.bits <= estimate.cap_bits
    assert estimate.cap_bits == min(COLUMNS[column].get("cap_bits", 10.0), math.log2(row["n"]))
    assert estimate.saturated == (row[column] > estimate.cap_bits - 0.1)


# The slow twin: the six steps as the text has them, sample by sample


@pytest.mark.parametrize("column", ["ensemble", "cap4"])
@pytest.mark.parametrize("row", ORACLES, ids=lambda row: f"{row['kind']}-{row['dx']}")
def test_slow_twin_on_the_published_inputs(row: dict[str, Any], column: str) -> None:
    x, y = inputs(row["seed"], row["n"], row["dx"], row["dy"], row["kind"])
    bits, _ = edge_reference(x, y, **COLUMNS[column])
    assert bits == pytest.approx(row[column], abs=1e-9)
    assert float(edge(x, y, **COLUMNS[column])) == pytest.approx(bits, abs=1e-9)


@st.composite
def samples(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Two related arrays of small size: continuous, with ties, rectified, of any scale, partly constant."""
    n, dx, dy = draw(st.integers(20, 90)), draw(st.integers(1, 9)), draw(st.integers(1, 9))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    noise = draw(st.sampled_from([0.0, 0.3])) * rng.standard_normal((n, dy))
    x = rng.standard_normal((n, dx)) * 10.0 ** draw(st.integers(-3, 3))
    y = np.tanh(x @ rng.standard_normal((dx, dy))) + noise
    kind = draw(st.sampled_from(["plain", "ties", "rectified", "constant", "tiny", "float32"]))
    if kind == "ties":
        x, y = np.round(x), np.round(y)
    elif kind == "rectified":
        x, y = np.maximum(x, 0), np.maximum(y, 0)
    elif kind == "constant":
        x[:, 0], y[:, -1] = 3.0, 0.0
    elif kind == "tiny":
        x[:, 0] *= 5e-5 / x[:, 0].std()  # below the deviation that is replaced by 1
    elif kind == "float32":
        x, y = x.astype(np.float32), y.astype(np.float32)
    return x, y


options = st.fixed_dictionaries(
    {
        "members": st.integers(1, 4),
        "renormalise": st.booleans(),
        "cap_bits": st.sampled_from([0.5, 3.0, 10.0]),
        "smoothness": st.sampled_from([(1.0, 1.0), (0.3, 0.7), (2.0, 0.1)]),
    }
)


@settings(quick, max_examples=150)
@given(samples(), options)
def test_fast_kernel_is_the_slow_twin(pair: tuple[np.ndarray, np.ndarray], chosen: dict[str, Any]) -> None:
    bits, members = edge_reference(*pair, **chosen)
    estimate = edge(*pair, **chosen)
    assert estimate.bits == pytest.approx(bits, abs=1e-9)
    if chosen["members"] % 2:  # then one member is the median one, or several tie
        tied = [astuple(member) for member in members if abs(member.bits - bits) < 1e-12]
        entropies = np.mean(tied, axis=0)[1:]
        assert [estimate.entropy_x_bits, estimate.entropy_y_bits] == pytest.approx(entropies, abs=1e-9)


@quick
@given(st.integers(0, 2**32), st.integers(1, 60), st.integers(1, 3), st.booleans(), st.data())
def test_neighbour_distances(seed: int, n: int, m: int, ties: bool, data: st.DataObject) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 5, (n, m)).astype(float) if ties else rng.standard_cauchy((n, m))
    k = data.draw(st.integers(1, n))
    found = neighbour_distances(values, np.arange(n), k)
    for j in range(m):
        distance = np.sort(np.abs(values[:, j, None] - values[None, :, j]), axis=1)[:, k - 1]
        assert np.array_equal(found[j], distance)


@quick
@given(st.integers(0, 2**32), st.sampled_from([2.0, 50.0, 1e6, 1e9, 1e13, 1e40, 1e150]), st.integers(1, 8))
def test_number_cells_is_exact_at_any_size(seed: int, reach: float, m: int) -> None:
    rng = np.random.default_rng(seed)
    grid = np.floor(rng.uniform(-reach, reach, (12, m)))
    grid = np.concatenate([grid, grid[rng.integers(0, 12, 20)]])[rng.permutation(32)]
    first: dict[tuple[float, ...], int] = {}
    expected = np.array([first.setdefault(tuple(row), len(first)) for row in grid.tolist()])
    numbers = number_cells(grid)
    assert sorted(set(numbers.tolist())) == list(range(len(first)))
    assert len(set(zip(expected.tolist(), numbers.tolist(), strict=True))) == len(first)  # a bijection


def test_number_cells_where_a_packed_key_would_round() -> None:
    """Two digits of base 2^30: in double precision the last bits of the second vanish."""
    grid = np.array([[2.0**30 - 1, 0.0], [2.0**30 - 1, 1.0], [0.0, 2.0**30 - 1]])
    assert number_cells(grid).tolist() == [1, 2, 0]


def test_number_cells_where_a_packed_key_would_overflow() -> None:
    """Four digits of base 2^30: modulo 2^64 the first one vanishes."""
    grid = np.array([[0.0] * 4, [2.0**30 - 1] * 4, [1.0, 0.0, 0.0, 0.0], [2.0, 0.0, 0.0, 0.0]])
    assert number_cells(grid).tolist() == [0, 3, 1, 2]


# Closed forms for given cells


def plug_in(x: np.ndarray, y: np.ndarray) -> float:
    return cell_information(x, y, math.inf, -math.inf)[0]


@pytest.mark.parametrize(
    ("n", "bits"), [(8, 3.0), (100, 6.643856189775), (1000, 9.965784284662), (5000, 10.0)]
)
def test_distinct_cells_give_log2_n_or_the_cap(n: int, bits: float) -> None:
    numbers = np.random.default_rng(0).permutation(n)
    assert cell_information(numbers, numbers[::-1], 10.0)[0] == pytest.approx(bits, abs=1e-11)


def test_closed_forms() -> None:
    i = np.arange(16)
    assert cell_information(i // 4, i // 8) == pytest.approx((1.0, 2.0, 1.0), abs=1e-12)
    assert plug_in(i // 4, i % 4) == pytest.approx(0.0, abs=1e-12)
    assert cell_information(i // 4, i % 4)[0] == pytest.approx(0.001, abs=1e-15)
    x, y = np.array([0, 0, 0, 1, 1, 1]), np.array([0, 0, 1, 0, 1, 1])  # the table (2, 1, 1, 2) / 6
    assert plug_in(x, y) == pytest.approx(0.081704165946, abs=1e-12)
    assert cell_information(x, y)[0] == pytest.approx(0.277024999519, abs=1e-12)
    constant = np.zeros(6, dtype=np.int64)
    assert cell_information(constant, y)[1:] == pytest.approx((0.0, 1.0))


@pytest.mark.parametrize(("k", "bits"), [(1000, 8.31), (100, 3.28), (10, 0.20)])
def test_independent_cells_score_far_above_the_truth(k: int, bits: float) -> None:
    rng = np.random.default_rng(0)
    pairs = rng.integers(0, k, (20, 2, 1000))
    values = [cell_information(x, y, 10.0)[0] for x, y in pairs]
    assert np.mean(values) == pytest.approx(bits, abs=0.03)


# Properties


@quick
@given(st.integers(0, 2**32), st.integers(20, 200), st.integers(1, 40), st.integers(1, 40))
def test_cell_information_properties(seed: int, n: int, kx: int, ky: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.integers(0, kx, n)
    y = np.where(rng.random(n) < 0.5, x % ky, rng.integers(0, ky, n))
    value, entropy_x, entropy_y = cell_information(x, y, 4.0)
    assert value <= min(4.0, min(entropy_x, entropy_y) + 0.001) + 1e-12
    assert cell_information(y, x, 4.0) == pytest.approx((value, entropy_y, entropy_x), abs=1e-12)
    relabelled = cell_information(rng.permutation(kx)[x], rng.permutation(ky)[y], 4.0)
    assert relabelled == pytest.approx((value, entropy_x, entropy_y), abs=1e-12)
    together = rng.permutation(n)
    assert cell_information(x[together], y[together], 4.0)[0] == pytest.approx(value, abs=1e-12)
    assert -1e-12 <= plug_in(x // 2, y) <= plug_in(x, y) + 1e-12  # coarsening never raises the plug-in
    assert plug_in(x, y) <= cell_information(x, y)[0] + 1e-12  # dropping negative terms only raises it


@quick
@given(samples(), options)
def test_proved_bounds(pair: tuple[np.ndarray, np.ndarray], chosen: dict[str, Any]) -> None:
    e = edge(*pair, **chosen)
    assert 0.001 - 1e-12 <= e.bits <= min(e.entropy_x_bits, e.entropy_y_bits) + 0.001 + 1e-12
    assert e.bits <= e.cap_bits == min(chosen["cap_bits"], math.log2(e.n))
    assert max(e.entropy_x_bits, e.entropy_y_bits) <= math.log2(e.n) + 1e-12
    assert e.saturated == (e.cap_bits - e.bits <= 0.1)


@quick
@given(samples(), options)
def test_symmetric_where_nothing_is_projected(
    pair: tuple[np.ndarray, np.ndarray], chosen: dict[str, Any]
) -> None:
    x, y = pair[0][:, :6], pair[1][:, :6]
    one, other = edge(x, y, **chosen), edge(y, x, **chosen | {"smoothness": chosen["smoothness"][::-1]})
    assert one.bits == pytest.approx(other.bits, abs=1e-12)
    assert one.entropy_x_bits == pytest.approx(other.entropy_y_bits, abs=1e-12)
    assert one.entropy_y_bits == pytest.approx(other.entropy_x_bits, abs=1e-12)


def test_members_that_tie_count_alike() -> None:
    """All three at the cap, with other entropies on both sides: there is no one median member."""
    x, y = inputs(5, 72, 2, 6, "gauss")
    tied: dict[str, Any] = {"members": 3, "cap_bits": 0.5, "smoothness": (0.05, 0.05)}
    _, members = edge_reference(x, y, **tied)
    assert [member.bits for member in members] == [0.5] * 3
    assert len({member.entropy_x_bits for member in members}) > 1
    estimate = edge(x, y, **tied)
    assert estimate.entropy_x_bits == pytest.approx(np.mean([m.entropy_x_bits for m in members]), abs=1e-12)
    assert estimate.entropy_y_bits == pytest.approx(np.mean([m.entropy_y_bits for m in members]), abs=1e-12)


def sides(x: np.ndarray | torch.Tensor, y: np.ndarray | torch.Tensor) -> tuple[Side, Side]:
    passes = TwoPasses([("x", "y")])
    for step in (passes.measure, passes.project):
        step("x", x)
        step("y", y)
    return passes.sides()[0]


def test_symmetric_up_to_the_draws_where_they_are_projected() -> None:
    x, y = inputs(5, 300, 9, 12, "gauss")
    side_x, side_y = sides(x, y)
    one, other = compare(side_x, side_y, EdgeOptions()), compare(side_y, side_x, EdgeOptions())
    assert one.bits == pytest.approx(other.bits, abs=1e-12)
    assert (one.entropy_x_bits, one.entropy_y_bits) == (other.entropy_y_bits, other.entropy_x_bits)
    assert one == edge(x, y)
    assert edge(x, y).bits != edge(y, x).bits  # other draws
    copy, again = sides(x, x)
    assert not np.allclose(copy.coordinates, again.coordinates)


def test_x_takes_the_first_draws_whatever_y_is() -> None:
    x, y = inputs(5, 300, 9, 12, "gauss")
    draws = np.random.RandomState(3334).standard_normal((9 + 12) * 4)
    for partner in (y, y[:, :7] ** 3, y[:, 0]):
        side_x, side_y = sides(x, as_samples(partner, "y"))
        scaled = x / (x.std(axis=0) * 3)
        assert np.allclose(side_x.coordinates, scaled @ draws[:36].reshape(9, 4), atol=1e-12)
        assert side_y.coordinates.shape == (300, 1 if partner.ndim == 1 else 4)
    scaled = y / (y.std(axis=0) * math.sqrt(12))
    assert np.allclose(sides(x, y)[1].coordinates, scaled @ draws[36:].reshape(12, 4), atol=1e-12)


def test_scale_of_projected_coordinates_does_not_matter() -> None:
    x, y = inputs(6, 300, 12, 9, "gauss")
    powers = 2.0 ** np.arange(-4, 8)  # exact in floating point
    assert edge(x * powers, y * 1024) == edge(x, y)


def test_dependence_raises_the_estimate() -> None:
    rng = np.random.default_rng(1)
    x, noise = rng.standard_normal((2, 2000, 1))
    values = [edge(x, a * x + math.sqrt(1 - a * a) * noise, members=5).bits for a in (0.0, 0.5, 0.9, 0.999)]
    assert values == sorted(values)
    assert values[0] < 0.1
    assert values[-1] > 1.5


def test_a_label_is_measured_right() -> None:
    """One-hot labels of ten equal classes, with themselves, in fine cells: log2 10 bits."""
    one_hot = np.eye(10)[np.arange(1000) % 10]
    assert edge(one_hot, one_hot, smoothness=(0.1, 0.1)).bits == pytest.approx(math.log2(10), abs=1e-9)


# Input


def test_tensors_floats_vectors_and_layouts_agree() -> None:
    x, y = inputs(14, 400, 64, 10, "relu")
    expected = edge(x, y)
    assert edge(torch.from_numpy(x).requires_grad_(), torch.from_numpy(y).double()) == expected
    assert edge(np.asfortranarray(x.astype(np.float64)), np.repeat(y, 2, axis=1)[:, ::2]) == expected
    rounded = torch.from_numpy(x).bfloat16()
    assert edge(rounded, y) == edge(rounded.float().numpy(), y)
    assert edge(x[:, 0], torch.from_numpy(y[:, 0])) == edge(x[:, :1], y[:, :1])


def test_wide_input_in_several_blocks() -> None:
    rng = np.random.default_rng(2)
    x = rng.standard_normal((40, 9000), dtype=np.float32)
    side, _ = sides(x, x[:, :1])
    matrix = np.random.RandomState(3334).standard_normal((9000, 2))
    wide = x.astype(np.float64)
    assert np.allclose(side.coordinates, wide / (wide.std(axis=0) * math.sqrt(9000)) @ matrix, atol=1e-12)


def test_several_draws_at_once_are_the_same_draws() -> None:
    x = np.random.default_rng(3).standard_normal((100, 5))
    wide = np.random.default_rng(4).standard_normal((100, 40))
    partners = {"wide": wide, "wider": np.hstack([wide, wide]), "narrow": x[:, :2]}
    pairs = [("x", name) for name in partners] + [(name, "x") for name in partners] + [("x", "x")]
    passes = TwoPasses(pairs)
    for step in (passes.measure, passes.project):
        for name, values in {"x": x, **partners}.items():
            step(name, values)
    for (first, second), together in zip(pairs, passes.sides(), strict=True):
        alone = sides({"x": x, **partners}[first], {"x": x, **partners}[second])
        for side, expected in zip(together, alone, strict=True):
            assert np.allclose(side.coordinates, expected.coordinates, atol=1e-13)
            assert np.allclose(side.bandwidths, expected.bandwidths, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_tensors_of_a_device_take_the_same_steps(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a CUDA tensor goes through, here on the CPU, in blocks of a few rows."""
    monkeypatch.setattr(projection_module, "DEVICE_BLOCK_VALUES", 1000)
    x, y = (torch.from_numpy(values).to(dtype) for values in inputs(14, 400, 64, 10, "relu"))
    for y_side in (y, y[:, :3]):
        found, expected = sides(x, y_side), sides(x.double().numpy(), y_side.double().numpy())
        for one, other in zip(found, expected, strict=True):
            assert isinstance(one.coordinates, np.ndarray)
            assert np.allclose(one.coordinates, other.coordinates, atol=1e-12)
        assert compare(*found, EdgeOptions()).bits == pytest.approx(edge(x, y_side).bits, abs=1e-9)
    small = sides(x[:, :3], y[:, :3])
    assert np.array_equal(small[0].coordinates, x[:, :3].double().numpy())
    x[3, 5] = math.nan
    with pytest.raises(ValueError, match="x has NaN"):
        sides(x, y)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_cuda(dtype: torch.dtype) -> None:
    x, y = (torch.from_numpy(values).to(dtype) for values in inputs(14, 400, 64, 10, "relu"))
    assert edge(x.cuda(), y.cuda()).bits == pytest.approx(edge(x, y).bits, abs=1e-9)
    assert edge(x.cuda(), y).bits == pytest.approx(edge(x, y).bits, abs=1e-9)


# Standard deviations in batches


def batches_of(values: Any, sizes: list[int]) -> list[Any]:
    """Cut into batches of these sizes, over and over."""
    cuts: list[Any] = []
    at = 0
    while at < len(values):
        size = sizes[len(cuts) % len(sizes)]
        cuts.append(values[at : at + size])
        at += size
    return cuts


@quick
@given(
    st.integers(0, 2**32),
    st.integers(2, 300),
    st.sampled_from([0.0, 1.0, 1e4, 1e8]),
    st.sampled_from(["still", "drift", "jump"]),
    st.lists(st.integers(1, 40), min_size=1, max_size=4),
    st.booleans(),
)
def test_deviations_wherever_the_data_lie(
    seed: int, n: int, offset: float, motion: str, sizes: list[int], tensor: bool
) -> None:
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((n, 3)) * [1e-3, 1.0, 30.0] + offset
    if motion == "drift":
        values += np.linspace(0, 1e3, n)[:, None]
    elif motion == "jump":
        values[n // 2 :] -= offset
    moments = Moments()
    for batch in batches_of(torch.from_numpy(values) if tensor else values, sizes):
        moments.add(batch)
    exact = [math.sqrt(_variance(column)) for column in values.T.tolist()]
    assert moments.deviation("x") == pytest.approx(exact, rel=1e-10)


def _variance(values: list[float]) -> float:
    """Exact, of the given doubles."""
    numbers = [Fraction(value) for value in values]
    mean = sum(numbers) / len(numbers)
    return float(sum((number - mean) ** 2 for number in numbers) / len(numbers))


def test_constant_coordinates_have_deviation_zero() -> None:
    moments = Moments()
    moments.add(np.full((1000, 2), [0.1, 1e12], dtype=np.float32))
    assert moments.deviation("x").tolist() == [0, 0]
    projection = Projection(np.zeros(2), [(0, 1)], np.array([1.0, 2.0]))  # deviations count as 1
    projection.add(np.array([[3.0, 5.0]] * 20))
    assert np.allclose(projection.sides()[0].coordinates, 13 / math.sqrt(2))


def test_projected_dimensions() -> None:
    assert projected_dimensions(1000, 6, 6) == (0, 0)
    assert projected_dimensions(1000, 7, 3) == (6, 3)
    assert projected_dimensions(20, 7, 1) == (1, 1)
    assert projected_dimensions(100, 8192, 8192) == (3, 3)


def test_constant_sides_have_no_information() -> None:
    x = np.random.default_rng(0).standard_normal((50, 9))
    for constant in (np.zeros((50, 1)), np.full((50, 8), 3.0)):
        e = edge(x, constant, members=3, renormalise=True)
        assert e.bits == pytest.approx(0.001)
        assert e.entropy_y_bits == 0


def test_global_random_states_are_untouched() -> None:
    before = repr(np.random.get_state()), torch.get_rng_state()  # noqa: NPY002
    edge(*inputs(13, 200, 8, 8, "gauss"), members=2, renormalise=True)
    assert repr(np.random.get_state()) == before[0]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[1])


def test_the_data_are_not_changed() -> None:
    x, y = inputs(17, 200, 20, 20, "const")
    before = x.copy(), y.copy()
    edge(x, y, members=3)
    assert np.array_equal(x, before[0])
    assert np.array_equal(y, before[1])


def test_estimate_is_frozen() -> None:
    estimate = edge(*inputs(11, 50, 2, 2, "gauss"))
    with pytest.raises(FrozenInstanceError):
        estimate.bits = 0.0  # type: ignore[misc]


# Errors


GOOD = np.random.default_rng(0).standard_normal((30, 3))


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (GOOD[:25], ValueError, "25 samples and y has 30.*same sample"),
        (GOOD[:19], ValueError, "19 samples.*at least 20"),
        (GOOD[:, :0], ValueError, "no coordinates"),
        (GOOD.reshape(30, 3, 1), ValueError, r"reshape\(len\(x\), -1\)"),
        (np.float64(1.0), ValueError, r"expected \[n, d\]"),
        (np.ones((30, 3), dtype=int), TypeError, r"int64.*astype\(numpy.float64\)"),
        (torch.ones(30, 3, dtype=torch.bool), TypeError, r"bool.*x.double\(\)"),
        (np.ones((30, 3), dtype=complex), TypeError, "complex128"),
    ],
)
def test_bad_arrays(x: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        edge(x, GOOD)


@pytest.mark.parametrize("d", [3, 9])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e200])
def test_values_that_are_not_finite(d: int, value: float) -> None:
    y = np.random.default_rng(0).standard_normal((30, d))
    y[4, 1] = value
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="y has NaN, infinite or overflowing values"):
            edge(GOOD, y)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"members": 0}, "members is 0"),
        ({"members": 2.0}, "members is 2.0"),
        ({"cap_bits": 0.0}, "cap_bits is 0.0"),
        ({"cap_bits": math.nan}, "cap_bits is nan"),
        ({"smoothness": (1.0, 0.0)}, "smoothness is"),
        ({"smoothness": (1.0,)}, "smoothness is"),
    ],
)
def test_bad_options(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        edge(GOOD, GOOD, **option)
    with pytest.raises(ValueError, match=message):
        EdgeOptions(**option)
