"""Benchmark of `semirobust.attacks.evaluate`: its speed beside plain torchattacks, on the same images.

    python benchmarks/attack_speed.py [--weights FILE] [--images 1000] [--repeats 5] [--threads 2]

Both run PGD-10 (l-infinity, eps 8/255, step 2/255) from the same random starts on a width-16 ResNet-18 and
say for each image whether it is classified correctly, without attack and under it. The peer is
`torchattacks.PGD` on the float32 model, then the model's verdict. Runs alternate, and times are medians. The
images are CIFAR-10's test set, where it is on disk (else scikit-learn's digits at 32 x 32). The network is
read from --weights (a safetensors file of the model, or a training checkpoint) or else trained for two epochs
of PGD. Targets: at least 2.5 times as fast, equal verdicts on at least 99.5 % of the images, accuracies
within 0.3 points. The exit status is 1 where one is missed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch
import torchattacks
from torch import nn

from semirobust import attacks, data, models, runs, training
from semirobust.layers import preserve

EPS, STEP, STEPS, BATCH = 8 / 255, 2 / 255, 10, 256
TRAINING_IMAGES = 10_000


def load(split: str, limit: int) -> data.Images:
    folder = data.data_root() / "cifar10"
    if (folder / f"{split}_images.npy").exists():
        return data.load("cifar10", split, limit=limit)
    return data.load("digits", split, size=32, limit=limit)


def network(weights: Path | None, shape: tuple[int, int, int]) -> tuple[nn.Module, str]:
    """(a width-16 ResNet-18, the origin of its weights)."""
    model = models.create("resnet18", 10, shape, width=16, seed=0)
    if weights is not None:
        tensors, _ = runs.load_tensors(weights)
        prefix = "model." if any(name.startswith("model.") for name in tensors) else ""
        model.load_state_dict({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})
        return model, str(weights)
    images = load("train", TRAINING_IMAGES)
    training.train(model, images, training.short(2, attack=training.PGD()))
    return model, f"two epochs of PGD training on {len(images)} images of {images.name}"


def ours(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> attacks.Evaluation:
    return attacks.evaluate(model, images, labels, "pgd", eps=EPS, step=STEP, steps=STEPS, batch_size=BATCH)


def plain(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(correct without attack, correct under it) by torchattacks alone, as its users write it."""
    attack = torchattacks.PGD(model, eps=EPS, alpha=STEP, steps=STEPS, random_start=True)
    torch.manual_seed(0)
    clean, attacked = [], []
    for x, y in zip(images.split(BATCH), labels.split(BATCH), strict=True):
        x_adv = attack(x, y)
        with torch.no_grad():
            clean.append(model(x).argmax(1) == y)
            attacked.append(model(x_adv).argmax(1) == y)
    return torch.cat(clean), torch.cat(attacked)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    test = load("test", options.images)
    model, origin = network(options.weights, test.shape)
    model.eval()
    images, labels = test.images, test.labels
    seconds: dict[str, list[float]] = {"semirobust": [], "torchattacks": []}
    with preserve(model):
        ours(model, images[:BATCH], labels[:BATCH])  # warm-up
        plain(model, images[:BATCH], labels[:BATCH])
        for _ in range(options.repeats):
            began = time.perf_counter()
            evaluation = ours(model, images, labels)
            seconds["semirobust"].append(time.perf_counter() - began)
            began = time.perf_counter()
            clean, attacked = plain(model, images, labels)
            seconds["torchattacks"].append(time.perf_counter() - began)

    mine, theirs = (statistics.median(times) for times in seconds.values())
    verdicts = clean & attacked  # a misclassified image counts as broken
    their_accuracy = float(verdicts.float().mean())
    equal = float((verdicts == evaluation.correct).float().mean())
    points = 100 * (evaluation.accuracy - their_accuracy)
    again = evaluation.reattacked
    print(
        f"network       {origin}; ResNet-18, width 16; {options.threads} threads; torch {torch.__version__}"
    )
    print(
        f"images        {len(images)}, {test.name} test set, {evaluation.clean_accuracy:.2%} right unattacked"
    )
    print(f"torchattacks  {theirs:.2f} s, accuracy {their_accuracy:.2%}")
    print(
        f"semirobust    {mine:.2f} s, accuracy {evaluation.accuracy:.2%}, {again} attacked again in float32"
    )
    print(f"ratio         {theirs / mine:.2f} (target 2.5), medians of {options.repeats} alternating runs")
    print(f"same verdict  {equal:.2%} of the images (target 99.5 %)")
    print(f"accuracy      differs by {points:+.2f} points (target 0.3)")
    return int(theirs / mine < 2.5 or equal < 0.995 or abs(points) > 0.3)


if __name__ == "__main__":
    sys.exit(main())
