"""The estimator against the published outputs, a plain twin, closed forms and its proved bounds."""

from __future__ import annotations

import json
import math
import warnings
from collections import Counter
from dataclasses import FrozenInstanceError
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from semirobust._cells import neighbour_distances, number_cells, prepare
from semirobust.edge import EdgeOptions, cell_information, edge, projected_dimensions

ORACLES = json.loads((Path(__file__).parent / "oracles_edge.json").read_text())["outputs"]
COLUMNS: dict[str, dict[str, Any]] = {
    "single": {},
    "ensemble": {"members": 10, "renormalise": True},
    "ensemble_plain": {"members": 10},
    "cap4": {"members": 5, "cap_bits": 4.0, "smoothness": (0.8, 1.2)},
}
quick = settings(max_examples=30, deadline=None, derandomize=True)


def inputs(seed: int, n: int, dx: int, dy: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """The inputs of the published outputs in oracles_edge.json."""
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


# The plain twin: the six steps as the text has them, sample by sample


def edge_slow(
    x: np.ndarray,
    y: np.ndarray,
    members: int = 1,
    renormalise: bool = False,
    cap_bits: float = 10.0,
    smoothness: tuple[float, float] = (1.0, 1.0),
) -> tuple[float, list[tuple[float, float, float]]]:
    """The estimate, and (bits, H of the x cells, H of the y cells) of each member of the last pass."""
    n, dimensions = len(x), (x.shape[1], y.shape[1])
    sides = [[[float(value) for value in sample] for sample in side] for side in (x, y)]
    if max(dimensions) > 6:
        generator = np.random.RandomState(3334)
        sides = [_project_slow(side, generator) for side in sides]
    raw = [_bandwidths_slow(side, d) for side, d in zip(sides, dimensions, strict=True)]

    def one_pass(factors: list[float]) -> list[tuple[float, float, float]]:
        results = []
        for j in range(members):
            scale = np.linspace(1, 1.1, members)[j]
            keys = []
            for side, bandwidths, factor in zip(sides, raw, factors, strict=True):
                widths = [bandwidth * factor * scale for bandwidth in bandwidths]
                keys.append([_cell_slow(sample, widths, j / members) for sample in side])
            n_i, n_j, n_ij = Counter(keys[0]), Counter(keys[1]), Counter(zip(*keys, strict=True))
            terms = [
                min(max(math.log2(n_ij[i, k] * n / (n_i[i] * n_j[k])), 0.001), cap_bits)
                for i, k in zip(*keys, strict=True)
            ]
            entropies = [-sum(c / n * math.log2(c / n) for c in count.values()) for count in (n_i, n_j)]
            results.append((math.fsum(terms) / n, entropies[0], entropies[1]))
        return results

    factors = [0.4 * gamma for gamma in smoothness]
    results = one_pass(factors)
    if renormalise:
        bits = median(result[0] for result in results)
        stretch = 2 ** (-math.sqrt(2 * bits) + 0.5 / bits)
        results = one_pass([0.4 * (factor * stretch) for factor in factors])
    return median(result[0] for result in results), results


def _project_slow(side: list[list[float]], generator: np.random.RandomState) -> list[list[float]]:
    n, d = len(side), len(side[0])
    m = min(d, math.floor(math.log2(n / 10)))
    matrix = []
    for i in range(d):
        column = [sample[i] for sample in side]
        mean = math.fsum(column) / n
        deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in column) / n)
        deviation = 1.0 if deviation < 1e-4 else deviation
        matrix.append([generator.normal(0, 1 / (deviation * math.sqrt(d))) for _ in range(m)])
    return [[math.fsum(sample[i] * matrix[i][j] for i in range(d)) for j in range(m)] for sample in side]


def _cell_slow(sample: list[float], widths: list[float], shift: float) -> tuple[int, ...]:
    pairs = zip(sample, widths, strict=True)
    return tuple(math.floor((value + shift * width) / width) for value, width in pairs)


def _bandwidths_slow(side: list[list[float]], d: int) -> list[float]:
    n, m = len(side), len(side[0])
    k = math.floor(0.43 * n ** (2 / 3 + 0.17 * m / (m + 1)) * math.exp(-1 / max(10000, m**4)))
    bandwidths = []
    for j in range(m):
        column = [sample[j] for sample in side]
        drawn = np.random.RandomState(3334).choice(column, 500)
        nearest = {v: sorted(abs(other - v) for other in column)[k - 1] for v in set(drawn.tolist())}
        distance = math.fsum(nearest[v] for v in drawn.tolist()) / 500
        bandwidths.append((distance + 1e-4) * 18 * m / max(1 + math.log(d), 1))
    return bandwidths


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
def test_fast_kernel_is_the_plain_twin(pair: tuple[np.ndarray, np.ndarray], chosen: dict[str, Any]) -> None:
    bits, members = edge_slow(*pair, **chosen)
    estimate = edge(*pair, **chosen)
    assert estimate.bits == pytest.approx(bits, abs=1e-9)
    if chosen["members"] % 2:  # then one member is the median one
        assert any(
            np.allclose([estimate.bits, estimate.entropy_x_bits, estimate.entropy_y_bits], member, atol=1e-9)
            for member in members
        )


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


@pytest.mark.parametrize("members", [1, 4])
def test_symmetric_where_nothing_is_projected(members: int) -> None:
    x, y = inputs(5, 300, 6, 2, "gauss")
    one, other = edge(x, y, members=members), edge(y, x, members=members)
    assert one.bits == pytest.approx(other.bits, abs=1e-12)
    assert one.entropy_x_bits == pytest.approx(other.entropy_y_bits, abs=1e-12)


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
    side = prepare(x, [(0, 2)], "x")[0]
    matrix = np.random.RandomState(3334).standard_normal((9000, 2))
    wide = x.astype(np.float64)
    assert np.allclose(side.coordinates, wide / (wide.std(axis=0) * math.sqrt(9000)) @ matrix, atol=1e-12)


def test_several_draws_at_once_are_the_same_draws() -> None:
    x = np.random.default_rng(3).standard_normal((100, 30))
    together = prepare(x, [(0, 3), (57, 3), (0, 0)], "x")
    for side, draw in zip(together, [(0, 3), (57, 3), (0, 0)], strict=True):
        alone = prepare(x, [draw], "x")[0]
        assert np.allclose(side.coordinates, alone.coordinates, atol=1e-13)
        assert np.allclose(side.bandwidths, alone.bandwidths, atol=1e-13)


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
