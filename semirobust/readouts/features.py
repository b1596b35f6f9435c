"""Features of a linear readout: outputs of weight layers side by side, [n, d], never all held at once.

``Activations`` computes a block of columns, or of rows, each time it is asked for one, so that n x n and
d x d matrices of inner products need no more memory than the blocks; ``Matrix`` is the same over a matrix in
memory, and ``Sketch`` a random projection of either.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import nn

from semirobust.layers import Features, device_of

BLOCK_BYTES = 32 * 2**20  # of float32 activations held at once


class Source(Protocol):
    """A matrix [n, d] in parts: the columns of its groups (layers) stand side by side, ``widths`` each."""

    names: tuple[str, ...]
    widths: tuple[int, ...]

    def __len__(self) -> int: ...

    def columns(self) -> Iterator[tuple[int, torch.Tensor]]:
        """(group, block [n, b]) from left to right; no block spans two groups."""
        ...

    def rows(self, size: int) -> Iterator[tuple[slice, torch.Tensor]]:
        """(which rows, float32 or float64 [size, d]) from top to bottom."""
        ...


def width(source: Source) -> int:
    """Number of columns d."""
    return sum(source.widths)


class Matrix:
    """A matrix [n, d] in memory, as one group or as groups of ``widths`` columns."""

    def __init__(self, matrix: torch.Tensor, widths: Sequence[int] | None = None) -> None:
        if matrix.ndim != 2 or matrix.numel() == 0:
            raise ValueError(f"features must be [n, d] with n and d at least 1, got {list(matrix.shape)}")
        _check_finite(matrix, "the matrix")
        self.matrix = matrix
        self.widths = tuple(widths) if widths is not None else (matrix.shape[1],)
        if sum(self.widths) != matrix.shape[1] or min(self.widths) < 1:
            raise ValueError(f"groups of {list(self.widths)} columns do not add up to {matrix.shape[1]}")
        self.names = tuple(f"group {number}" for number in range(len(self.widths)))

    def __len__(self) -> int:
        return len(self.matrix)

    def columns(self) -> Iterator[tuple[int, torch.Tensor]]:
        yield from enumerate(self.matrix.split(self.widths, dim=1))

    def rows(self, size: int) -> Iterator[tuple[slice, torch.Tensor]]:
        for first in range(0, len(self.matrix), size):
            yield slice(first, first + size), self.matrix[first : first + size]


class Activations:
    """The outputs of ``layers`` on ``images`` as a matrix [n, d], computed anew for every block.

    A block of columns costs a forward pass over all images as far as its layer, and holds at most
    ``block_bytes`` of float32; a block of rows costs one forward pass of its images. Raises as ``Features``
    does, and ``ValueError`` for no image; blocks raise ``ValueError`` for activations that are not finite.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str],
        images: torch.Tensor,
        *,
        batch_size: int = 128,
        block_bytes: int = BLOCK_BYTES,
    ) -> None:
        if len(images) == 0 or batch_size < 1:
            raise ValueError(f"give at least one image and batch, got {len(images)} and {batch_size}")
        self.features = Features(model, layers)
        self.names = self.features.layers
        self.images, self.batch_size, self.block_bytes = images, batch_size, block_bytes
        self.device = device_of(model)
        with torch.no_grad():
            self.widths = tuple(out.shape[1] for out in self.features(images[:1].to(self.device)))

    def __len__(self) -> int:
        return len(self.images)

    def columns(self) -> Iterator[tuple[int, torch.Tensor]]:
        most = max(1, self.block_bytes // (4 * len(self)))
        for group, (name, wide) in enumerate(zip(self.names, self.widths, strict=True)):
            only = Features(self.features.body, [name])  # runs no further than this layer
            for first in range(0, wide, most):
                block = torch.empty(len(self), min(most, wide - first))  # [n, b]
                for at, (out,) in self._run(only):
                    block[at] = out[:, first : first + most]
                yield group, block

    def rows(self, size: int) -> Iterator[tuple[slice, torch.Tensor]]:
        for first in range(0, len(self), size):
            stop = min(first + size, len(self))
            block = torch.empty(stop - first, sum(self.widths))  # [size, d]
            for at, outs in self._run(self.features, first, stop):
                rows = block[at.start - first : at.stop - first]
                for part, out in zip(rows.split(self.widths, 1), outs, strict=True):
                    part.copy_(out)
            yield slice(first, stop), block

    @torch.no_grad()
    def _run(
        self, features: Features, first: int = 0, stop: int | None = None
    ) -> Iterator[tuple[slice, tuple[torch.Tensor, ...]]]:
        stop = len(self) if stop is None else stop
        for begin in range(first, stop, self.batch_size):
            at = slice(begin, min(begin + self.batch_size, stop))
            outs = tuple(out.cpu() for out in features(self.images[at].to(self.device)))
            for name, out in zip(features.layers, outs, strict=True):
                _check_finite(out, f"the output of {name}")
            yield at, outs


class Sketch:
    """A random projection F S of a source F [n, d] to ``size`` columns, d never held at once (CountSketch).

    S [d, size] has one entry of +1 or -1 in each row, at a place drawn from ``seed``, so that E[S S^T] is the
    identity and (F S)(F S)^T an unbiased estimate of F F^T, with errors of the order 1 / sqrt(size).
    ``expand`` turns weights [size, K] for F S into weights S w [d, K] for F.
    """

    def __init__(self, source: Source, size: int, *, seed: int = 0) -> None:
        d = width(source)
        if not 1 <= size <= d:
            raise ValueError(f"a sketch has between 1 and d = {d} columns, got {size}")
        generator = torch.Generator().manual_seed(seed)
        self.source, self.size = source, size
        self.place = torch.randint(size, (d,), generator=generator)
        self.sign = 1.0 - 2.0 * torch.randint(2, (d,), generator=generator)
        self.names: tuple[str, ...] = ("sketch",)
        self.widths: tuple[int, ...] = (size,)

    def __len__(self) -> int:
        return len(self.source)

    def columns(self) -> Iterator[tuple[int, torch.Tensor]]:
        for at, block in self.rows(128):
            if at.start == 0:
                whole = torch.empty(len(self), self.size, dtype=block.dtype)  # [n, size]
            whole[at] = block
        yield 0, whole

    def rows(self, size: int) -> Iterator[tuple[slice, torch.Tensor]]:
        for at, block in self.source.rows(size):
            projected = torch.zeros(len(block), self.size, dtype=block.dtype)
            yield at, projected.index_add_(1, self.place, block * self.sign.to(block.dtype))

    def expand(self, weight: torch.Tensor) -> torch.Tensor:
        return weight[self.place] * self.sign.to(weight.dtype)[:, None]


def _check_finite(values: torch.Tensor, what: str) -> None:
    if not values.isfinite().all():
        raise ValueError(f"{what} is NaN or infinite: no linear map fits it; look for overflow in the model")
