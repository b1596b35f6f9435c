"""Verdicts on single images as results store them, for paired differences and intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from semirobust.statistics import wilson


def summary(correct: torch.Tensor) -> dict[str, Any]:
    """Accuracy, interval, n, and the verdict on each image (``correct``: packed bits in hexadecimal)."""
    n, right = len(correct), int(correct.sum())
    packed = np.packbits(correct.numpy()).tobytes().hex()
    return {"accuracy": right / n, "interval": list(wilson(right, n)), "n": n, "correct": packed}


def verdicts(summary: Mapping[str, Any]) -> np.ndarray:
    """The stored verdicts: bool [n], whether each image is classified correctly under the attack."""
    packed = np.frombuffer(bytes.fromhex(summary["correct"]), np.uint8)
    return np.unpackbits(packed, count=summary["n"]).astype(bool)
