"""Random changes of training images that keep their labels."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def crop_and_flip(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A random crop of each image padded by an eighth of its side, and a random horizontal flip where there
    are three channels.

    [N, C, H, W] -> the same shape. Grey images (digits, clothes with a left and a right) are not flipped.
    """
    n, channels, height, width = x.shape
    pad = max(1, height // 8)
    padded = F.pad(x, (pad,) * 4)
    rows = torch.randint(0, 2 * pad + 1, (n, 1), generator=generator) + torch.arange(height)  # [N, H]
    columns = torch.randint(0, 2 * pad + 1, (n, 1), generator=generator) + torch.arange(width)  # [N, W]
    if channels == 3:
        flip = torch.rand(n, 1, generator=generator) < 0.5
        columns = torch.where(flip, columns.flip(1), columns)
    each = torch.arange(n)[:, None, None]
    return (
        padded.permute(0, 2, 3, 1)[each, rows[:, :, None], columns[:, None, :]]
        .permute(0, 3, 1, 2)
        .contiguous()
    )
