"""The networks of the papers, with input normalisation as their first layer.

Every model takes images in [0, 1] and returns logits, so that a perturbation budget is always in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

#: channel means and standard deviations of the training sets; one grey channel for the digit-like sets
_STATISTICS = {
    1: ((0.5,), (0.5,)),
    3: ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),  # CIFAR-10 training set
}


class Normalize(nn.Module):
    """(x - mean) / std for each channel: [N, C, H, W] in [0, 1] -> [N, C, H, W]."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        mean, std = _STATISTICS.get(channels, ((0.5,) * channels, (0.5,) * channels))
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - self.mean) / self.std


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)


class BasicBlock(nn.Module):
    """conv-BN-ReLU-conv-BN plus identity (or a 1x1 shortcut), then ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(inputs, outputs, 3, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = _conv(outputs, outputs, 3), nn.BatchNorm2d(outputs)
        same = stride == 1 and inputs == outputs
        self.shortcut = (
            nn.Sequential()
            if same
            else nn.Sequential(_conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.shortcut(x))


class ResNet18(nn.Module):
    """ResNet-18 (He et al. 2016) for small images: a 3x3, stride-1 first convolution.

    ``stem="authors"`` keeps the 3x3, stride-2 max-pool behind it, as the code behind the printed numbers of
    arXiv 2307.03803 does; ``stem="cifar"`` leaves the pool out. Width 64 is the printed network.
    """

    def __init__(self, num_classes: int, channels: int, width: int, stem: str) -> None:
        super().__init__()
        self.normalize = Normalize(channels)
        self.conv1, self.bn1 = _conv(channels, width, 3), nn.BatchNorm2d(width)
        self.pool: nn.Module = nn.MaxPool2d(3, stride=2, padding=1) if stem == "authors" else nn.Identity()
        widths = [width, width, 2 * width, 4 * width, 8 * width]
        self.stages = nn.Sequential(
            *(
                nn.Sequential(BasicBlock(w_in, w_out, stride), BasicBlock(w_out, w_out, 1))
                for w_in, w_out, stride in zip(widths, widths[1:], (1, 2, 2, 2), strict=False)
            )
        )
        self.fc = nn.Linear(widths[-1], num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.pool(F.relu(self.bn1(self.conv1(self.normalize(x)))))  # [N, width, H/2, W/2] with the pool
        out = F.adaptive_avg_pool2d(self.stages(out), 1).flatten(1)  # [N, 8 width]
        return self.fc(out)


class PreActivationBlock(nn.Module):
    """BN-ReLU-conv-BN-ReLU-conv plus identity (or a 1x1 shortcut of the activated input)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), _conv(inputs, outputs, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(outputs), _conv(outputs, outputs, 3)
        self.shortcut = None if inputs == outputs else _conv(inputs, outputs, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        activated = F.relu(self.bn1(x))
        out = self.conv2(F.relu(self.bn2(self.conv1(activated))))
        return out + (x if self.shortcut is None else self.shortcut(activated))


class WideResNet(nn.Module):
    """Wide ResNet of depth 34 (Zagoruyko and Komodakis 2016); ``width`` 160 is WideResNet-34-10."""

    def __init__(self, num_classes: int, channels: int, width: int) -> None:
        super().__init__()
        self.normalize = Normalize(channels)
        self.conv1 = _conv(channels, 16, 3)
        widths = [16, width, 2 * width, 4 * width]
        self.stages = nn.Sequential(
            *(
                nn.Sequential(
                    *(
                        PreActivationBlock(w_in if i == 0 else w_out, w_out, stride if i == 0 else 1)
                        for i in range(5)
                    )
                )
                for w_in, w_out, stride in zip(widths, widths[1:], (1, 2, 2), strict=False)
            )
        )
        self.bn = nn.BatchNorm2d(widths[-1])
        self.fc = nn.Linear(widths[-1], num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.relu(self.bn(self.stages(self.conv1(self.normalize(x)))))
        return self.fc(F.adaptive_avg_pool2d(out, 1).flatten(1))


class FCNN(nn.Module):
    """The fully connected network of the paper on fixed feature extractors (Appendix E): two ReLU layers.

    ``width`` and two thirds of it (rounded up) are the numbers of units: 300 is the printed 300-200, 150 and
    75 are its "Small" and "Smaller" versions, 2 and 4 times narrower.
    """

    def __init__(self, num_classes: int, in_shape: tuple[int, int, int], width: int) -> None:
        super().__init__()
        second = -(-2 * width // 3)
        self.normalize = Normalize(in_shape[0])
        self.fc1 = nn.Linear(math.prod(in_shape), width)
        self.fc2 = nn.Linear(width, second)
        self.fc = nn.Linear(second, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.relu(self.fc1(self.normalize(x).flatten(1)))  # [N, width]
        return self.fc(F.relu(self.fc2(out)))


class CNN(nn.Module):
    """The convolutional network of the paper on fixed feature extractors (Appendix E).

    ``width`` filters of 5x5, then two and a half times as many (rounded up), each with BatchNorm, ReLU and a
    2x2 max-pool; then a linear layer of 25 ``width`` units and the logits. 20 is the printed 20-50-500.

    Not printed, and chosen here:
    1. No padding: images of 28x28 become 20 x 24 x 24 = 11,520 features, more than there are pixels.
    2. A ReLU behind the 500 units, without which the last two layers would be one linear map.
    """

    def __init__(self, num_classes: int, in_shape: tuple[int, int, int], width: int) -> None:
        super().__init__()
        channels, height, side = in_shape
        second, rows, columns = -(-5 * width // 2), *(((n - 4) // 2 - 4) // 2 for n in (height, side))
        self.normalize = Normalize(channels)
        self.conv1, self.bn1 = nn.Conv2d(channels, width, 5, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, second, 5, bias=False), nn.BatchNorm2d(second)
        self.fc1 = nn.Linear(second * rows * columns, 25 * width)
        self.fc = nn.Linear(25 * width, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.max_pool2d(F.relu(self.bn1(self.conv1(self.normalize(x)))), 2)  # [N, width, (H - 4) / 2, ...]
        out = F.max_pool2d(F.relu(self.bn2(self.conv2(out))), 2)
        return self.fc(F.relu(self.fc1(out.flatten(1))))


_Builder = Callable[[int, tuple[int, int, int], int, str], nn.Module]

#: name -> (builder(num_classes, in_shape, width, stem), printed width, smallest image side)
MODELS: dict[str, tuple[_Builder, int, int]] = {
    "resnet18": (lambda classes, shape, width, stem: ResNet18(classes, shape[0], width, stem), 64, 8),
    "wide_resnet34_10": (lambda classes, shape, width, stem: WideResNet(classes, shape[0], width), 160, 8),
    "fcnn": (lambda classes, shape, width, stem: FCNN(classes, shape, width), 300, 1),
    "cnn": (lambda classes, shape, width, stem: CNN(classes, shape, width), 20, 16),
}


def create(
    name: str,
    num_classes: int,
    in_shape: tuple[int, int, int] = (3, 32, 32),
    *,
    width: int | None = None,
    seed: int | None = None,
    stem: str = "authors",
) -> nn.Module:
    """A freshly initialised network, in training mode.

    ``in_shape`` [C, H, W] of one image in [0, 1]; ``width`` the channels of the first stage, the units of the
    first layer of ``fcnn`` or the filters of the first layer of ``cnn``; all others scale with it (default:
    as printed, 64 for ``resnet18`` with 11.17 M parameters, 160 for ``wide_resnet34_10`` with 46.16 M, 300
    and 20 for the other two); ``seed`` fixes the initial weights without touching the global random state
    (None draws them from it); ``stem`` concerns ``resnet18`` only.

    Initialisation: He normal (fan out) for convolutions, ones and zeros for BatchNorm, torch's default for
    linear layers. Raises ``ValueError`` for an unknown name or stem, fewer than two classes, or an impossible
    shape or width.
    """
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}; known: {', '.join(MODELS)}")
    if stem not in ("authors", "cifar"):
        raise ValueError(f"unknown stem {stem!r}; known: authors (with the max-pool), cifar (without)")
    builder, printed_width, smallest = MODELS[name]
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, got {num_classes}")
    if len(in_shape) != 3 or in_shape[0] < 1 or min(in_shape[1:]) < smallest:
        raise ValueError(
            f"in_shape must be [C, H, W] with H and W at least {smallest}, got {tuple(in_shape)}"
        )
    if width is not None and width < 1:
        raise ValueError(f"width must be at least 1, got {width}")
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.default_generator.manual_seed(seed)  # the processor's only: others are not forked
        model = builder(num_classes, in_shape, width or printed_width, stem)
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model
