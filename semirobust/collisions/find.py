"""The functions that find and verify collisions: perturbed inputs that an extractor cannot tell apart.

The distance that an extractor f induces on its inputs is the smallest l2 budget with which both points of a
pair can be moved to the same features (paper on fixed feature extractors, Definition 2):

    epsilon_f(u, v) = min max(|u~ - u|, |v~ - v|)  subject to  f(u~) = f(v~).

For a linear layer it has a closed form (`linear_collision`, `linear_distances`). With ReLUs it is hard to
find. `find_collisions` gives upper bounds, each with a proof that an exact collision exists within it. That
is all that a conflict graph needs (`graph`): every edge is real, and missed edges only loosen the bound.

BLAS and torch run on one thread here (`one_thread`): many small factorizations are slower on several.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from threadpoolctl import threadpool_limits

from semirobust.collisions.linear import Linear, LinearPoints, closed_form, distances, space_of
from semirobust.collisions.network import Network
from semirobust.collisions.result import Collisions, Known, best_of, collect
from semirobust.collisions.solvers.admm import admm
from semirobust.collisions.solvers.apgd import apgd
from semirobust.collisions.solvers.batched_proof import prove, prove_given
from semirobust.collisions.solvers.descent import MARGIN, descent, proved
from semirobust.collisions.solvers.enumeration import LARGEST, enumerate_pair
from semirobust.conflict import ConflictGraph
from semirobust.extractors import Array, ConvOperator, as_float64, check_pairs, check_points, check_width


@contextmanager
def one_thread() -> Iterator[None]:
    """Run BLAS, OpenMP and torch on one thread each; restore the numbers of threads after. Also a decorator.

    A matrix of 300 rows is factored fifteen times as fast on one thread as on two, and with the same rounding
    on every machine. To use more cores, divide the pairs among processes.
    """
    threads = torch.get_num_threads()
    try:
        with threadpool_limits(1):
            torch.set_num_threads(1)
            yield
    finally:
        torch.set_num_threads(threads)


Layers: TypeAlias = Iterable[Any] | Network  # [(L, k), ...]

#: name -> function(network, u, v, known, *, options) -> Collisions, for checked float64 u, v [B, d]
METHODS: dict[str, Callable[..., Collisions]] = {"admm": admm, "descent": descent, "apgd": apgd}


def linear_collision(weight: Any, u: Any, v: Any) -> Collisions:
    """The cheapest collisions of a linear layer, in closed form: epsilon = |V^T (u - v)| / 2.

    V is an orthonormal basis of the row space of the layer. The rank may be smaller than the number of rows.
    The bias plays no part (paper on fixed feature extractors, section 3.1).

    Args:
        weight: [m, d], an array or tensor, or a `ConvOperator`.
        u, v: [B, d], row i of both is pair i.

    Raises:
        ValueError: shapes that do not fit, values that are not finite, empty arrays.
        TypeError: an array is not real.
    """
    linear = _linear(weight)
    u, v = check_pairs(u, v, linear.shape[1])
    return _linear_result(closed_form(linear, space_of(linear), u, v))


def _linear_result(points: LinearPoints) -> Collisions:
    return Collisions(
        epsilon=points.epsilon,
        u=points.u,
        v=points.v,
        residual=points.residual,
        verified=np.isfinite(points.epsilon),
        method="linear",
        status=("found",) * len(points.epsilon),
        iterations=np.zeros(len(points.epsilon), np.int64),
    )


def linear_distances(weight: Any, positive: Any, negative: Any) -> Array:
    """The distances that a linear layer induces, for all pairs of two sets at once: [N+, N-].

    The points are projected onto the row space once; the rest is one blocked matrix product. Squared
    distances are clipped at 0. With R the largest distance of a point from the centre of the data, the error
    is below 150 d 2^-53 R.

    Args:
        weight: as for `linear_collision`.
        positive, negative: [N+, d] and [N-, d].

    Raises:
        As `linear_collision`.
    """
    linear = _linear(weight)
    positive, negative = as_float64(positive, "positive", 2), as_float64(negative, "negative", 2)
    check_width(positive, "positive", linear.shape[1])
    check_width(negative, "negative", linear.shape[1])
    return distances(space_of(linear), positive, negative)


def _linear(weight: Any) -> Linear:
    return weight if isinstance(weight, ConvOperator) else as_float64(weight, "weight", 2)


@one_thread()
def find_collisions(
    layers: Layers,
    u: Any,
    v: Any,
    *,
    method: str = "admm",
    rectified: bool = True,
    at: tuple[Any, Any] | None = None,
    **options: Any,
) -> Collisions:
    """Cheap, verified collisions in a network of ReLU layers.

    They never cost more than those of the first linear layer. This function runs on one thread, which is
    fastest for matrices of this size. To use more cores, divide the pairs among processes.

    Args:
        layers: [(L, k), ...], L [n_i, n_(i-1)] and k [n_i] (or None), each followed by ReLU. Many calls with
            the same `Network.of(layers, rectified)` are faster than with the list.
        u, v: [B, d], row i of both is pair i.
        method: "admm" (default) searches good patterns for all pairs at once and descends from their exact
            optima. "descent" is Algorithms 1 and 2 of the paper, from the midpoint, with a cone program for
            each pattern: hundreds of times slower, and mostly with costlier collisions. "apgd" is an attack
            at bisected budgets, the baseline that the paper found weaker (`solvers.apgd`).
        rectified: whether a ReLU follows the last layer too. If not, and it is the only one, the result is
            that of `linear_collision`, which is optimal.
        at: (u~, v~), [B, d] each: collisions that are known already, such as those of earlier layers (a
            collision of a layer is one of every later layer). They are verified, and where that succeeds the
            result never costs more. A descent starts there too ("admm": in networks of more than 64 units
            only where nothing cheaper was found; "apgd": never). Put a row of NaN in both where none is
            known.
        options: of the method. For "admm": `starts` (default 1, or 24 for networks of up to 64 units), the
            midpoint, the ends, then these with noise; `iterations` from each start (default 60, or 240 with
            more than one layer); `seed` (default 0) of the noise; `device` of the search for patterns, "cpu"
            (default) or "cuda". For "descent": `rule`, "repaired" (default), "quick" (the same without a step
            that rarely helps) or "printed" (the stopping rule of the paper, which can stop too early);
            `margin` (default 1e-6), the distance of pre-activations from zero in the second solve of a pair
            whose optimum cannot be verified; `max_programs` (default 200) for each pair. For "apgd":
            `budgets` (default 10) tried for each pair, with `steps` (default 100) of gradients from
            `restarts` (default 1) points; `seed` (default 0); `newton` (default 20) steps onto an exact
            collision, 0 for the attack alone.

    Returns:
        `Collisions`. `status` is "stopped" (no flip of a unit helps), "limit" (programs used up) or
        "unsolved" (nothing was solved: the pair has the best collision known before). For "apgd" it is
        "found" or "none" (nothing cheaper than the linear collision). `iterations` counts iterations from all
        starts for "admm" (more for pairs that had to be searched again), cone programs for "descent" and
        gradients for "apgd".

    Raises:
        ValueError: an unknown method, layers that do not chain, u and v of different shapes, points `at` of
            another shape, values that are not finite, empty arrays, an option out of range.
        TypeError: an unknown option, an array that is not real.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; known: {', '.join(METHODS)}")
    inspect.signature(METHODS[method]).bind(None, u, v, None, **options)  # TypeError for an unknown option
    network = Network.of(layers, rectified)
    u, v = check_pairs(u, v, network.inputs)
    points = None if at is None else check_points(at, u)
    linear = _linear_fallback(network, u, v)
    if network.signed == 0:
        return linear
    known = Known(linear.epsilon, linear.u, linear.v, np.zeros(len(u), bool))
    if points is None:
        return best_of(METHODS[method](network, u, v, known, **options), linear)
    given = prove_given(network, u, v, *points)
    there = np.isfinite(given.epsilon)
    best = best_of(linear, given)
    at_u, at_v = (
        np.where(there[:, None], end, other) for end, other in ((given.u, linear.u), (given.v, linear.v))
    )
    known = Known(best.epsilon, at_u, at_v, there)
    return best_of(METHODS[method](network, u, v, known, **options), best)


def _linear_fallback(network: Network, u: Array, v: Array) -> Collisions:
    """The collisions of the first linear layer, which are collisions of every later layer too."""
    points = closed_form(network.layers[0].weight, network.space, u, v)
    residual = np.abs(network.features(points.u) - network.features(points.v)).max(axis=1)
    return _linear_result(points._replace(residual=residual))


@one_thread()
def verify_collisions(
    layers: Layers, u: Any, v: Any, at_u: Any, at_v: Any, *, rectified: bool = True
) -> Collisions:
    """Exact collisions near given points [B, d], however these were found.

    Points are moved onto an exact collision where the inflation lemma proves one (`solvers.proof`). Other
    points are returned unchanged, with `verified` False. `rectified` and errors are as for
    `find_collisions`.
    """
    network = Network.of(layers, rectified)
    u, v = check_pairs(u, v, network.inputs)
    at_u, at_v = check_pairs(at_u, at_v, network.inputs)
    if len(at_u) != len(u):
        raise ValueError(f"there are {len(u)} pairs, but points for {len(at_u)}; pass one row for each pair")
    return collect(network, prove(network, u, v, at_u, at_v), method="given")


@one_thread()
def enumerate_patterns(layers: Layers, u: Any, v: Any, *, rectified: bool = True) -> Collisions:
    """The globally cheapest collision, by enumeration of activation patterns: exact and slow.

    Arguments are as for `find_collisions`. Meant for up to about six units a layer; ValueError above ten. A
    last layer without ReLU has one pattern only and may have any number of units.

    Returns: `Collisions`, with epsilon within 1e-6 of the global optimum where `status` is "optimal". Other
        values are "unproved" (a cheaper pattern has no verified collision) and "incomplete" (the solver
        failed on a pattern).
    """
    network = Network.of(layers, rectified)
    if max((len(layer.bias) for layer in network.layers[: network.signed]), default=0) > LARGEST:
        raise ValueError(
            f"a layer has more than {LARGEST} units, too many patterns to enumerate; use find_collisions"
        )
    u, v = check_pairs(u, v, network.inputs)
    points, status, programs = [], [], []
    for pair in zip(u, v, strict=True):
        path = enumerate_pair(network, *pair)
        point = proved(network, *pair, path, MARGIN)
        cheapest = path.cells[-1].epsilon if path.cells else 0.0
        missed = point.epsilon > cheapest + 1e-6 * (1 + cheapest)
        points.append(point)
        status.append("unproved" if missed and path.status == "optimal" else path.status)
        programs.append(path.programs)
    found = collect(
        network, points, method="enumeration", status=tuple(status), iterations=np.array(programs)
    )
    return best_of(found, _linear_fallback(network, u, v))


def graph(
    epsilon: npt.ArrayLike,
    verified: npt.ArrayLike,
    budget: float,
    *,
    positive_weights: Any = None,
    negative_weights: Any = None,
) -> ConflictGraph:
    """The conflict graph at a budget: an edge wherever a verified collision costs at most the budget.

    Args:
        epsilon: [N+, N-], budgets of the collisions; infinity where none is known.
        verified: bool [N+, N-], or a single True if all are (as for linear layers).
        budget: l2, not negative, in the unit of the input.
        positive_weights, negative_weights: [N+], [N-], both or neither; default: all equal, with sum 1.

    Raises:
        ValueError: a negative budget, shapes that do not fit, and what `ConflictGraph` raises.
        TypeError: `verified` is not boolean.
    """
    mask = np.asarray(verified)
    if mask.dtype != np.bool_:
        raise TypeError(f"verified has dtype {mask.dtype}; pass booleans")
    values = np.asarray(epsilon)
    if mask.shape not in ((), values.shape):
        raise ValueError(f"verified has shape {mask.shape} and epsilon {values.shape}; they must agree")
    known = np.where(mask, values, np.inf)
    return ConflictGraph.from_distances(known, budget, positive_weights, negative_weights)
