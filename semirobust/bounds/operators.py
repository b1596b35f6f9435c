"""Spectral norms of the linear maps of a network: the basis of ``bounds.constants``, in float64."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

Pair = tuple[int, int]


def largest_singular(matrices: torch.Tensor) -> float:
    """Largest singular value of the real or complex matrices [..., R, C] together.

    By the eigenvalues of the smaller Gram matrix: the largest one loses nothing to squaring.
    """
    if matrices.shape[-2] > matrices.shape[-1]:
        matrices = matrices.mH
    gram = matrices @ matrices.mH  # [..., r, r] with r = min(R, C)
    return math.sqrt(max(0.0, float(torch.linalg.eigvalsh(gram).amax())))


def torus_norm(weight: torch.Tensor, size: Pair) -> float:
    """Exact norm of the circular, stride-1 convolution with ``weight`` [C_out, C_in, k, k'] on a torus.

    The Fourier transform makes it one C_out x C_in matrix per frequency of the ``size`` grid (Sedghi, Gupta
    and Long 2019). The kernel is real, so half of the frequencies have the singular values of all.
    """
    symbols = torch.fft.rfft2(weight, s=size)  # [C_out, C_in, N, N' // 2 + 1]
    return largest_singular(symbols.permute(2, 3, 0, 1))


def conv_upper(weight: torch.Tensor, size: Pair, stride: Pair, padding: Pair) -> float:
    """Rigorous upper bound of the zero-padded, strided convolution on images of ``size`` (H, W).

    A stride of s reads the padded image as s * s phases of 1 / s the size: an isometry, after which the
    convolution has stride 1, s * s times the channels and a kernel of ceil(k / s). On a torus of at least
    (phase + kernel - 1) nothing wraps around: the zero-padded map is rows and columns of the circular one,
    whose norm is exact.
    """
    c_out, c_in, *kernel = weight.shape
    small = [-(-k // s) for k, s in zip(kernel, stride, strict=True)]
    fill = [q * s - k for q, s, k in zip(small, stride, kernel, strict=True)]
    phases = F.pad(weight, (0, fill[1], 0, fill[0]))  # [C_out, C_in, q s, q' s']
    phases = phases.reshape(c_out, c_in, small[0], stride[0], small[1], stride[1])
    phases = phases.permute(0, 1, 3, 5, 2, 4).reshape(c_out, -1, *small)  # [C_out, C_in s s', q, q']
    sides = [
        (p + n - 1) // s - p // s + q  # the image covers the samples p ... p + n - 1 of the padded one
        for n, p, s, q in zip(size, padding, stride, small, strict=True)
    ]
    return torus_norm(phases, (sides[0], sides[1]))


def conv_lower(
    weight: torch.Tensor,
    size: Pair,
    stride: Pair,
    padding: Pair,
    *,
    iterations: int,
    tolerance: float,
    generator: torch.Generator,
) -> float:
    """Power iteration on the zero-padded, strided convolution A: ||A v|| / ||v|| for the last v.

    A lower bound for whatever v, which rises to the norm; stops when a step raises it by less than
    ``tolerance`` (relative).
    """
    pairs = zip(size, weight.shape[2:], padding, stride, strict=True)
    rest = [(n + 2 * p - k) % s for n, k, p, s in pairs]
    vector = torch.randn(1, weight.shape[1], *size, generator=generator, dtype=torch.float64)
    vector = vector.to(weight.device)
    vector /= vector.norm()
    value = 0.0
    for _ in range(iterations):
        image = F.conv2d(vector, weight, stride=stride, padding=padding)
        before, value = value, max(value, float(image.norm()))
        if value - before <= tolerance * value:
            break
        vector = F.conv_transpose2d(image, weight, stride=stride, padding=padding, output_padding=rest)
        vector /= vector.norm()
    return value


def max_pool_norm(module: nn.MaxPool2d, size: Pair) -> float:
    """l2 Lipschitz constant of max-pooling images of ``size``: the root of the most windows on one pixel.

    A window's maximum moves by at most the largest move in it; a pixel counts once per window that it is in.
    """
    return math.sqrt(math.prod(_most_windows(module, n, axis) for axis, n in enumerate(size)))


def _most_windows(module: nn.MaxPool2d, n: int, axis: int) -> int:
    kernel, stride, padding, dilation = (
        value[axis] if isinstance(value, tuple) else int(value)
        for value in (module.kernel_size, module.stride, module.padding, module.dilation)
    )
    line = torch.zeros(1, 1, n)
    windows = F.max_pool1d(line, kernel, stride, padding, dilation, module.ceil_mode).shape[-1]
    starts = torch.arange(windows) * stride - padding
    pixels = (starts[:, None] + torch.arange(kernel) * dilation).flatten()  # every pixel of every window
    return int(torch.bincount(pixels[(pixels >= 0) & (pixels < n)]).amax())


def average_norm(module: nn.AvgPool2d | nn.AdaptiveAvgPool2d, size: Pair) -> float:
    """Exact norm of average-pooling images of ``size``: one averaging matrix per axis, and their product."""
    return math.prod(largest_singular(_averages(module, n, axis)) for axis, n in enumerate(size))


def _averages(module: nn.AvgPool2d | nn.AdaptiveAvgPool2d, n: int, axis: int) -> torch.Tensor:
    """The averaging matrix of one axis, transposed: float64 [n, windows]."""
    basis = torch.eye(n, dtype=torch.float64)[:, None]  # [n, 1, n]: one image per basis vector
    if isinstance(module, nn.AdaptiveAvgPool2d):
        wanted = module.output_size if isinstance(module.output_size, tuple) else (module.output_size,) * 2
        side = wanted[axis]
        return F.adaptive_avg_pool1d(basis, n if side is None else side)[:, 0]
    kernel, stride, padding = (
        value[axis] if isinstance(value, tuple) else int(value)
        for value in (module.kernel_size, module.stride, module.padding)
    )
    pooled = F.avg_pool1d(basis, kernel, stride, padding, module.ceil_mode, module.count_include_pad)
    return pooled[:, 0]
