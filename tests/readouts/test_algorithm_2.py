"""Algorithm 2: every solver against a dense one, the readout as a network, and the law of the leak."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from semirobust import attacks, data, layers, readouts
from semirobust.readouts import Activations, LinearReadout, Matrix, Sketch, algorithm_2, solve
from tests.cases import Residual, changed, snapshot, tiny_network, warmed

KINDS = 3


def problem(n, d, *, seed=0, rank=None, widths=None):
    """(F as a source, F, Y), float64."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(n, d, generator=generator, dtype=torch.float64)
    if rank is not None:
        features = features[:, :rank] @ torch.randn(rank, d, generator=generator, dtype=torch.float64)
    return (
        Matrix(features, widths),
        features,
        torch.randn(n, KINDS, generator=generator, dtype=torch.float64),
    )


def close(found, wanted, tolerance=1e-9):
    return float((found - wanted).norm()) <= tolerance * max(1.0, float(wanted.norm()))


# --- closed forms ---


def test_two_images_two_batches_by_hand():
    """F_1 = (1 0), F_2 = (0 2), Y = 1 and 4: the batches give (1, 0) and (0, 2), their mean (1/2, 1)."""
    source = Matrix(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
    goal = torch.tensor([[1.0], [4.0]])
    fit = algorithm_2.algorithm_2(source, goal, batch_size=1)
    assert torch.equal(fit.weight, torch.tensor([[0.5], [1.0]], dtype=torch.float64))
    assert close(algorithm_2.least_squares(source, goal).weight, torch.tensor([[1.0], [2.0]]).double())


def test_ridge_by_hand():
    """F = I, so that the mean square of a row is 1: w = Y / (1 + s)."""
    goal = torch.tensor([[1.0], [3.0], [-2.0], [5.0]])
    fit = algorithm_2.ridge(
        Matrix(torch.eye(4)), goal, validation=torch.tensor([True, False, False, False]), strengths=[0.25]
    )
    assert close(fit.weight, goal.double() / 1.25, 1e-12)
    assert fit.solution.strength == 0.25
    assert fit.solution.validation_error == ((0.25, 1.0),)  # nothing says anything of the first row


@pytest.mark.parametrize(
    ("d", "batch", "batches", "accuracy"),
    [
        (400, 20, 10, 0.926617),
        (2000, 100, 10, 0.926830),
        (1000, 100, 20, 0.754231),
        (600, 100, 2, 0.987253),
        (400, 200, 2, 0.840738),
    ],
)
def test_leak_law(d, batch, batches, accuracy):
    assert readouts.leak_accuracy(d, batch, batches) == pytest.approx(accuracy, abs=1e-6)
    runs = 10 if d > 600 else 30
    found = readouts.simulate_leak(d, batch, batches, runs=runs, seed=1)
    assert abs(found.mean - accuracy) <= 3 * found.standard_error
    held_out = found.held_out
    assert abs(held_out.mean() - 0.5) <= 3 * np.sqrt(0.25 / (runs * batch * batches))
    assert accuracy - 0.5 > 10 * found.standard_error  # so that the comparison could fail


def test_one_batch_leaks_everything():
    assert readouts.leak_accuracy(50, 10, 1) == 1.0
    assert readouts.simulate_leak(50, 10, 1, runs=3).mean == 1.0


def test_noise_gram_has_the_law_of_drawn_features():
    """Mean d I and variances d (2 d on the diagonal), and the leak through it is the leak of the law."""
    n, d, draws = 6, 40, 4000
    found = torch.stack([readouts.noise_gram(n, d, seed=seed) for seed in range(draws)])
    mean, variance = found.mean(0), found.var(0)
    eye = torch.eye(n, dtype=torch.float64)
    assert (mean - d * eye).abs().max() < 5 * np.sqrt(2 * d / draws)
    assert ((variance / (d * (1 + eye))) - 1).abs().max() < 0.2
    scores = []
    for seed in range(20):
        gram = readouts.noise_gram(200, 400, seed=seed)
        goal = torch.from_numpy(np.random.default_rng(seed).choice([-1.0, 1.0], (200, 1)))
        fit = solve.algorithm_2(gram, goal, 400, 20)
        scores.append(float(((gram @ fit.coefficients).sign() == goal).double().mean()))
    error = np.std(scores, ddof=1) / np.sqrt(len(scores))
    assert abs(np.mean(scores) - readouts.leak_accuracy(400, 20, 10)) <= 3 * error


# --- against dense twins ---

SHAPES = st.tuples(st.integers(4, 30), st.integers(1, 40), st.integers(0, 10**6))


@settings(max_examples=40)
@given(SHAPES)
def test_least_squares_is_the_pseudo_inverse(shape):
    n, d, seed = shape
    source, features, goal = problem(n, d, seed=seed)
    fit = algorithm_2.least_squares(source, goal)
    condition = float(torch.linalg.cond(features))
    assert close(fit.weight, torch.linalg.pinv(features) @ goal, 1e-13 * condition**2 + 1e-10)
    assert fit.solution.rank == min(n, d)
    assert fit.solution.condition == pytest.approx(condition, rel=1e-3)


@settings(max_examples=30)
@given(SHAPES, st.integers(3, 9))
def test_algorithm_2_is_the_mean_of_pseudo_inverses(shape, batch_size):
    n, d, seed = shape
    n = batch_size * max(1, n // batch_size)
    source, features, goal = problem(n, d, seed=seed)
    fit = algorithm_2.algorithm_2(source, goal, batch_size=batch_size)
    parts = list(zip(features.split(batch_size), goal.split(batch_size), strict=True))
    wanted = torch.stack([torch.linalg.pinv(f) @ y for f, y in parts]).mean(0)
    worst = max(float(torch.linalg.cond(f)) for f, _ in parts)
    assert fit.solution.condition == pytest.approx(worst, rel=1e-3)
    assert close(fit.weight, wanted, 1e-13 * worst**2 + 1e-10)


@pytest.mark.parametrize("rank", [1, 5])
@pytest.mark.parametrize(("n", "d"), [(20, 30), (30, 20)])
def test_rank_deficient_features_give_the_minimum_norm_solution_and_say_so(n, d, rank):
    source, features, goal = problem(n, d, rank=rank)
    fit = algorithm_2.least_squares(source, goal)
    assert close(fit.weight, torch.linalg.pinv(features, rtol=1e-10) @ goal)
    assert fit.solution.rank == rank
    assert f"rank {rank} of 20" in fit.warnings[0]
    batchwise = algorithm_2.algorithm_2(source, goal, batch_size=10)
    assert batchwise.solution.rank == rank and f"rank {rank} of 10" in batchwise.warnings[0]
    ridge = algorithm_2.ridge(source, goal, validation=torch.arange(n) % 4 == 0, strengths=[1e-3])
    shift = 1e-3 * float(features.square().sum()) / n
    dense = torch.linalg.solve(
        features.T @ features + shift * torch.eye(d, dtype=torch.float64), features.T @ goal
    )
    assert close(ridge.weight, dense, 1e-8)


@pytest.mark.parametrize(("n", "d"), [(24, 60), (60, 24)])
def test_ridge_is_the_dense_one_and_picks_the_best_strength(n, d):
    source, features, goal = problem(n, d, seed=3)
    goal = goal + features[:, :KINDS]
    validation = torch.arange(n) % 3 == 0
    fit = algorithm_2.ridge(source, goal, validation=validation, strengths=[1e-6, 1e-2, 0.3, 1e3])

    def dense(rows, strength):
        f, y = features[rows], goal[rows]
        shift = strength * float(f.square().sum()) / len(f)
        return torch.linalg.solve(f.T @ f + shift * torch.eye(d, dtype=torch.float64), f.T @ y)

    for strength, error in fit.solution.validation_error:
        missed = features[validation] @ dense(~validation, strength) - goal[validation]
        assert error == pytest.approx(float(missed.square().mean()), rel=1e-6)
    best = min(fit.solution.validation_error, key=lambda pair: pair[1])[0]
    assert fit.solution.strength == best
    assert close(fit.weight, dense(slice(None), best), 1e-7)


def test_what_an_image_is_told_in_its_own_batch_is_its_target():
    """F_k w = (Y_k + sum over l != k of F_k F_l^+ Y_l) / K, and ``out_of_batch`` is the other part alone."""
    source, features, goal = problem(40, 90, seed=5)
    gram = solve.grams(source)[0]
    assert close(gram, features @ features.T, 1e-12)
    found = solve.algorithm_2(gram, goal, 90, 10)
    others = solve.out_of_batch(gram, found, goal, 10)
    predicted = features @ solve.combine(source, found.coefficients)
    assert close(predicted, (goal + 3 * others) / 4, 1e-9)
    for k, at in enumerate([slice(0, 10), slice(10, 20), slice(20, 30), slice(30, 40)]):
        weights = [torch.linalg.pinv(f) @ y for f, y in zip(features.split(10), goal.split(10), strict=True)]
        rest = torch.stack(weights[:k] + weights[k + 1 :]).mean(0)
        assert close(others[at], features[at] @ rest, 1e-9)
    with pytest.raises(ValueError, match="only one batch"):
        solve.out_of_batch(gram, found, goal, 40)


def test_grams_of_the_first_groups_come_from_one_pass():
    source, features, _ = problem(12, 30, widths=(4, 11, 15))
    first, both, whole = solve.grams(source, (1, 2, 3))
    for gram, d in ((first, 4), (both, 15), (whole, 30)):
        assert close(gram, features[:, :d] @ features[:, :d].T, 1e-12)
    (only,) = solve.grams(source, (2,))
    assert torch.equal(only, both)
    for wrong in ((), (0,), (2, 1), (4,)):
        with pytest.raises(ValueError, match=r"upto must rise within 1\.\.3"):
            solve.grams(source, wrong)


# --- the projection ---


def test_a_sketch_has_unbiased_products_and_errors_that_fall_with_its_size():
    source, features, _ = problem(8, 400)
    exact = features @ features.T
    mean = torch.stack([solve.grams(Sketch(source, 20, seed=seed))[0] for seed in range(400)]).mean(0)
    assert (mean - exact).norm() < 0.1 * exact.norm()
    errors = []
    for size in (25, 100, 400):
        found = [solve.grams(Sketch(source, size, seed=seed))[0] for seed in range(20)]
        errors.append(float(torch.stack([(gram - exact).norm() for gram in found]).mean()))
    assert errors[0] > 1.5 * errors[1] > 2.25 * errors[2]  # twice, were the law exact


def test_a_sketched_fit_is_a_linear_map_of_all_features_near_the_exact_one():
    """Targets that a linear map explains: the exact solution finds them, a sketch of d / 4 nearly so."""
    _, features, _ = problem(500, 800, rank=40, seed=2)
    _, mixing, _ = problem(800, KINDS, seed=3)
    goal = features @ mixing
    fit, half = goal[:250], Matrix(features[:250])
    exact = algorithm_2.least_squares(half, fit)
    rough = algorithm_2.sketched(half, fit, size=200)
    assert rough.weight.shape == exact.weight.shape
    missed = [
        float((features[250:] @ w.weight - goal[250:]).norm() / goal[250:].norm()) for w in (exact, rough)
    ]
    assert missed[0] < 1e-8
    assert missed[1] < 1e-6  # 200 columns still span the rank
    with pytest.raises(ValueError, match="between 1 and d = 800"):
        algorithm_2.sketched(half, fit, size=801)


# --- as a network ---


@pytest.fixture(scope="module")
def network():
    return tiny_network()


IMAGES = data.load("digits", "test", limit=30)


def test_features_are_the_outputs_of_the_layers_in_blocks_of_any_size(network):
    names = layers.weight_layers(network)[:9]
    wanted = layers.activations(network, IMAGES.images, names)
    together = torch.cat([wanted[name] for name in names], 1)
    source = Activations(network, names, IMAGES.images, batch_size=7, block_bytes=4 * 30 * 50)
    assert source.widths == tuple(wanted[name].shape[1] for name in names)
    blocks = list(source.columns())
    assert max(block.shape[1] for _, block in blocks) == 50
    assert torch.allclose(torch.cat([block for _, block in blocks], 1), together, atol=1e-5)
    assert torch.allclose(torch.cat([block for _, block in source.rows(11)]), together, atol=1e-5)


@pytest.mark.parametrize("n_fa", [17, 13, 9])
def test_the_readout_computes_the_fitted_map_and_leaves_the_model_as_found(network, n_fa):
    before, flags = snapshot(network), [module.training for module in network.modules()]
    names = layers.weight_layers(network)[:n_fa]
    goal = algorithm_2.targets(network, IMAGES.images, IMAGES.labels)
    with torch.no_grad():
        assert torch.allclose(goal.float(), network(IMAGES.images), atol=1e-5)
    source = Activations(network, names, IMAGES.images)
    fit = algorithm_2.least_squares(source, goal)
    readout = fit.readout(network)
    assert torch.allclose(readout(IMAGES.images).double(), goal, atol=1e-3)  # more columns than images
    assert readout.train().training is False and not any(m.training for m in readout.modules())
    evaluation = attacks.evaluate(readout, IMAGES.images, IMAGES.labels, "pgd", eps=0.1, steps=3)
    assert evaluation.zero_gradient_share == 0.0
    assert evaluation.accuracy <= evaluation.clean_accuracy
    assert changed(before, snapshot(network)) == []
    assert flags == [module.training for module in network.modules()]
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_gradient_in_the_image_is_the_derivative(network):
    exact, names = copy.deepcopy(network).double(), layers.weight_layers(network)[:5]
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, 1, 8, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    d = sum(out.shape[1] for out in layers.Features(exact, names)(x))
    model = LinearReadout(exact, names, torch.randn(d, 2, generator=generator)).double()
    (slope,) = torch.autograd.grad(model(x)[0, 0], x)
    push, step = torch.randn(x.shape, generator=generator, dtype=torch.float64), 1e-7
    with torch.no_grad():
        rise = (model(x + step * push) - model(x - step * push))[0, 0] / (2 * step)
    assert float((slope * push).sum()) == pytest.approx(float(rise), rel=1e-5)


def test_a_model_trained_further_does_not_change_its_readout():
    model = warmed(Residual(), (1, 8, 8))
    names = layers.weight_layers(model)[:2]
    images = torch.rand(4, 1, 8, 8)
    readout = LinearReadout(model, names, torch.randn(512, 3))
    source = Activations(model, names, images)
    before, columns = readout(images), [block for _, block in source.columns()]
    with torch.no_grad():
        model.stem.weight.add_(1.0)
    model.train()
    assert torch.equal(readout(images), before)
    assert all(torch.equal(a, b) for a, (_, b) in zip(columns, source.columns(), strict=True))
    assert "last" not in dict(readout.features.body.named_modules())  # nor does it keep what it does not need


def test_targets(network):
    images, labels = IMAGES.images, IMAGES.labels
    outputs = algorithm_2.targets(network, images, labels, "outputs", batch_size=7)
    assert algorithm_2.targets(network, images, labels, "labels").argmax(1).equal(labels)
    predictions = algorithm_2.targets(network, images, labels, "predictions")
    assert predictions.argmax(1).equal(outputs.argmax(1)) and predictions.sum() == len(images)
    with pytest.raises(ValueError, match="known: outputs, labels, predictions"):
        algorithm_2.targets(network, images, labels, "logits")


# --- bad input ---


@pytest.mark.parametrize("names", [[], ["conv1", "conv1"], ["nowhere"], ["stages.0"]])
def test_layers_that_cannot_be_read_are_refused(network, names):
    with pytest.raises(ValueError, match=r"at least one layer|its weight layers: conv1"):
        Activations(network, names, IMAGES.images)


def test_activations_that_are_not_finite_are_refused(network):
    broken = copy.deepcopy(network)
    with torch.no_grad():
        broken.conv1.weight[0] = torch.inf
    source = Activations(broken, ["conv1"], IMAGES.images)
    for fit in (
        lambda: algorithm_2.algorithm_2(source, torch.zeros(30, 10), batch_size=10),
        lambda: algorithm_2.least_squares(source, torch.zeros(30, 10)),
    ):
        with pytest.raises(ValueError, match="the output of conv1 is NaN or infinite"):
            fit()
    with pytest.raises(ValueError, match="outputs are NaN or infinite"):
        algorithm_2.targets(broken, IMAGES.images, IMAGES.labels)


def test_bad_input():
    source, _, goal = problem(20, 30)
    for batch_size in (2, 0, 21, 18):  # 18 leaves a last batch of two
        with pytest.raises(ValueError, match="as many images as there are classes"):
            algorithm_2.algorithm_2(source, goal, batch_size=batch_size)
    for wrong in (goal[:5], goal[0]):
        with pytest.raises(ValueError, match=r"targets must be \[20, K\]"):
            algorithm_2.least_squares(source, wrong)
    with pytest.raises(ValueError, match="targets are NaN"):
        algorithm_2.least_squares(source, goal / 0)
    for features in (torch.zeros(0, 3), torch.zeros(3, 0), torch.zeros(3)):
        with pytest.raises(ValueError, match="n and d at least 1"):
            Matrix(features)
    with pytest.raises(ValueError, match="NaN or infinite"):
        Matrix(torch.full((3, 3), torch.nan))
    zero = Matrix(torch.zeros(20, 30))
    half = torch.arange(20) < 10
    for fit in (
        lambda: algorithm_2.least_squares(zero, goal),
        lambda: algorithm_2.algorithm_2(zero, goal, batch_size=5),
        lambda: algorithm_2.ridge(zero, goal, validation=half),
    ):
        with pytest.raises(ValueError, match="all features are zero"):
            fit()
    for validation in (torch.zeros(20, dtype=torch.bool), torch.ones(20, dtype=torch.bool)):
        with pytest.raises(ValueError, match="rows to fit and rows to validate"):
            algorithm_2.ridge(source, goal, validation=validation)
    with pytest.raises(ValueError, match=r"validation must be bool \[20\]"):
        algorithm_2.ridge(source, goal, validation=torch.arange(20))
    with pytest.raises(ValueError, match="strengths must be positive"):
        algorithm_2.ridge(source, goal, validation=half, strengths=[0.0])
    for d, batch, count in ((21, 20, 3), (50, 0, 3), (50, 5, 0)):
        with pytest.raises(ValueError, match="the law holds for d > batch"):
            readouts.leak_accuracy(d, batch, count)
    with pytest.raises(ValueError, match="runs must be at least 2"):
        readouts.simulate_leak(50, 10, 2, runs=1)
    with pytest.raises(ValueError, match="1 <= n <= d"):
        readouts.noise_gram(5, 4)


def test_a_condition_number_too_large_for_its_square_is_said():
    features = torch.diag(torch.tensor([1.0, 1.0, 1e-5], dtype=torch.float64))
    fit = algorithm_2.least_squares(Matrix(features), torch.ones(3, 1))
    assert "condition number is 1e+05" in fit.warnings[0]
    hidden = torch.diag(torch.tensor([1.0, 1.0, 1e-9], dtype=torch.float64))  # its square is below rounding
    assert "rank 2 of 3" in algorithm_2.least_squares(Matrix(hidden), torch.ones(3, 1)).warnings[0]
