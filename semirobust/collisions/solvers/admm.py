"""Collisions by alternating directions: a batched search for good patterns, then the optimum on each.

`splitting` searches patterns for many pairs at once. `active_set` computes the optimum on each pattern found,
and `descent` descends from there. The cheapest collision that can be proved is kept. Where it is no better
than what is known already (the linear collision, or the one given), a descent starts there too. Pairs without
any solved pattern are searched again from other starts.

Small networks have more starts, start from the pattern of the midpoint too, and use cone programs for
patterns on which `active_set` fails. Larger networks, where a cone program takes seconds, do not.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from semirobust.collisions.network import Network, Pattern
from semirobust.collisions.result import Collisions, Known, Point, collect
from semirobust.collisions.solvers.active_set import Polisher, Start
from semirobust.collisions.solvers.batched_proof import prove
from semirobust.collisions.solvers.descent import MARGIN, Descent, descend, joined, proved
from semirobust.collisions.solvers.proof import verify_pair
from semirobust.collisions.solvers.splitting import ITERATIONS, Splitting
from semirobust.extractors import Array, check_whole

ROWS = {"cpu": 128, "cuda": 1024}  # pairs times starts at a time: on a CPU their state fits into the cache
SMALL = 64  # networks of at most this many units are small
STARTS = (24, 1)  # small, large
AGAIN = ((1, 1), (2, 2))  # (more starts, times the iterations) of further rounds where nothing was found
PROGRAMS = (200, 12)  # small, large: patterns tried in one descent
PATIENCE = (200, 2)  # small, large: how many patterns in a row may fail to help
GAIN = 1e-9  # relative; a smaller gain does not count as an improvement


def admm(
    network: Network,
    u: Array,
    v: Array,
    known: Known,
    *,
    starts: int | None = None,
    iterations: int | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> Collisions:
    """Batched splitting, then the optimum on the patterns found, for pairs u, v [B, d].

    A pair's result does not depend on the other pairs, except for rounding, which many iterations can amplify
    to another pattern. Options are as in `find_collisions`.
    """
    small = sum(len(layer.bias) for layer in network.layers) <= SMALL
    starts = STARTS[not small] if starts is None else starts
    iterations = ITERATIONS[len(network.layers) > 1] if iterations is None else iterations
    check_whole(starts=(starts, 1), iterations=(iterations, 1), seed=(seed, 0))
    place = _place(device)
    search = _Search(network, _splitting(network, place), iterations, seed, small)
    points: list[Point] = []
    status: list[str] = []
    spent: list[int] = []
    chunk = max(ROWS[place.type] // starts, 1)
    for first in range(0, len(u), chunk):
        rows = slice(first, first + chunk)
        paths, efforts = search(u[rows], v[rows], known.rows(rows), starts)
        points += _proofs(network, u[rows], v[rows], paths, small)  # now, which frees the paths' memory
        status += [path.status for path in paths]
        spent += efforts
    return collect(network, points, method="admm", status=tuple(status), iterations=np.array(spent))


def _place(device: str) -> torch.device:
    try:
        place = torch.device(device)
    except (RuntimeError, TypeError):
        place = None
    if place is None or place.type not in ROWS:
        raise ValueError(f"device is {device!r}; it must be cpu or cuda")
    if place.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device is {device!r}, but torch finds no CUDA device here; pass cpu")
    return place


@lru_cache(maxsize=2)
def _splitting(network: Network, device: torch.device) -> Splitting:
    """The `Splitting` of a network, cached for the next call with the same network object."""
    return Splitting(network, device)


class _Search:
    """The descents of some pairs."""

    def __init__(
        self, network: Network, splitting: Splitting, iterations: int, seed: int, small: bool
    ) -> None:
        self._network, self._splitting, self._polisher = network, splitting, Polisher(network)
        self._iterations, self._seed, self._small = iterations, seed, small
        self._polisher.rescue = small

    def __call__(self, u: Array, v: Array, known: Known, starts: int) -> tuple[list[Descent], list[int]]:
        """For each pair [B, d] its descents, joined, and the iterations spent on it."""
        count = len(u)
        paths: list[list[Descent]] = [[] for _ in range(count)]
        spent, done, todo = [0] * count, 0, np.arange(count)
        for more, times in ((starts, 1), *AGAIN):
            if len(todo) == 0:
                break
            effort, rows = times * self._iterations, range(done, done + more)
            ends = np.stack([u[todo], v[todo]])
            found = self._splitting.search(ends, rows, effort, self._seed)
            for i, candidates in zip(todo.tolist(), found, strict=True):
                paths[i] += self._descents(u[i], v[i], candidates)
                spent[i] += more * effort
            todo = np.array([i for i in todo if not any(path.cells for path in paths[i])], np.intp)
            done += more
        for i in range(count):
            cheapest = min((path.cells[-1].epsilon for path in paths[i] if path.cells), default=np.inf)
            if self._small or cheapest >= known.epsilon[i] * (1 - GAIN):
                start = Start.at(self._network, known.u[i], known.v[i])
                paths[i] += self._descents(u[i], v[i], [start])
            if self._small:
                self._polisher.guess = None
                paths[i].append(self._descent(u[i], v[i], None))
        return [joined(path) for path in paths], spent

    def _descents(self, u: Array, v: Array, candidates: list[Start]) -> list[Descent]:
        """One descent from each distinct pattern among the candidates."""
        paths: list[Descent] = []
        seen: set[bytes] = set()
        for pattern, guess in candidates:
            if (key := pattern.key()) not in seen:
                seen.add(key)
                self._polisher.guess = guess
                paths.append(self._descent(u, v, pattern))
        return paths

    def _descent(self, u: Array, v: Array, start: Pattern | None) -> Descent:
        return descend(
            self._network,
            u,
            v,
            rule="repaired" if self._small else "quick",
            start=start,
            max_programs=PROGRAMS[not self._small],
            patience=PATIENCE[not self._small],
            solver=self._polisher,
        )


def _proofs(network: Network, u: Array, v: Array, paths: list[Descent], small: bool) -> list[Point]:
    """The cheapest point of each path that can be proved; else an unverified point."""
    points = [Point(np.inf, *ends, False) for ends in zip(u, v, strict=True)]
    solved = [i for i, path in enumerate(paths) if path.cells]
    if solved:
        at_u, at_v = (np.stack(at) for at in zip(*(paths[i].cells[-1].points() for i in solved), strict=True))
        equations = [paths[i].cells[-1].equations for i in solved]
        found = prove(network, u[solved], v[solved], at_u, at_v, equations)
        for i, point in zip(solved, found, strict=True):
            points[i] = point
            if not point.verified and small:
                points[i] = proved(network, u[i], v[i], paths[i], MARGIN)
            elif not point.verified:
                others = (verify_pair(network, u[i], v[i], *cell.points()) for cell in paths[i].cells[-2::-1])
                points[i] = next((other for other in others if other.verified), point)
    return points
