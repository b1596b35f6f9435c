"""The networks of the paper on fixed feature extractors: two classes, three ways of training, l2 budgets.

The paper prints the architectures (Appendix E), the data sets MNIST and Fashion-MNIST, benign training, PGD
and TRADES in l2, and the budget 2 of PGD (its Figures 4 and 9). What it leaves open is chosen here:
1. Classes 3 against 7, as in the work that it builds on (Bhagoji et al. 2019 and 2021).
2. Budgets 1, 2 and 3 for PGD and for TRADES, 10 steps of a quarter of the budget, TRADES' beta 6.
3. The recipe: one cycle of SGD in float32, without augmentation (`_recipe`).
4. Narrower networks are trained benignly and with PGD at 2; the convolutional one also with TRADES at 2.
5. On digits, in the quick profile, every network has 3/10 of the printed width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from semirobust import data, models, runs
from semirobust.experiments import networks
from semirobust.training import PGDL2, TRADES, Attack, TrainConfig, short

CLASSES = (3, 7)
BUDGETS = (1.0, 2.0, 3.0)
PRINTED_BUDGET = 2.0

#: name in the paper -> (model, printed width)
ARCHITECTURES: dict[str, tuple[str, int]] = {
    "fcnn": ("fcnn", 300),
    "fcnn_small": ("fcnn", 150),
    "fcnn_smaller": ("fcnn", 75),
    "cnn": ("cnn", 20),
}


@dataclass(frozen=True)
class ExtractorConfig:
    """A trained network for two classes of a data set; ``size`` resizes digits."""

    dataset: str
    model: str
    width: int
    train: TrainConfig
    classes: tuple[int, int] = CLASSES
    size: int | None = None
    seed: int = 0

    @property
    def training(self) -> str:
        """The way of training, as networks are named: ``benign``, ``pgd-2``, ``trades-1``."""
        attack = self.train.attack
        return "benign" if attack is None else f"{_METHODS[type(attack)].lower()}-{attack.eps:g}"

    @property
    def label(self) -> str:
        """Text for a table: ``fcnn, width 300, TRADES at 2``."""
        attack = self.train.attack
        kind = "benign" if attack is None else f"{_METHODS[type(attack)]} at {attack.eps:g}"
        return f"{self.model}, width {self.width}, {kind}"


_METHODS: dict[type, str] = {PGDL2: "PGD", TRADES: "TRADES"}
_EPOCHS = {"fcnn": 20, "cnn": 10}


def _recipe(dataset: str, model: str) -> TrainConfig:
    return short(
        _EPOCHS[model],
        lr=0.05,
        batch_size=32 if dataset == "digits" else 128,
        augment=False,
        precision="float32",
    )


def _attacks() -> dict[str, Attack | None]:
    """Name of a way of training -> its attack."""
    found: dict[str, Attack | None] = {"benign": None}
    for eps in BUDGETS:
        found[f"pgd-{eps:g}"] = PGDL2(eps, eps / 4)
        found[f"trades-{eps:g}"] = TRADES(eps, eps / 4)
    return found


def _networks(dataset: str) -> dict[str, ExtractorConfig]:
    """The networks of one data set, by name: ``mnist-fcnn_small-pgd-2``."""
    found = {}
    for name, (model, width) in ARCHITECTURES.items():
        for training_name, attack in _attacks().items():
            at_printed = attack is None or attack.eps == PRINTED_BUDGET
            if name == "fcnn" or (at_printed and (name == "cnn" or not isinstance(attack, TRADES))):
                found[f"{dataset}-{name}-{training_name}"] = ExtractorConfig(
                    dataset,
                    model,
                    width * 3 // 10 if dataset == "digits" else width,
                    replace(_recipe(dataset, model), attack=attack),
                    size=28 if dataset == "digits" else None,
                )
    return found


_PRINTED = _networks("mnist") | _networks("fashion_mnist")

#: profile -> name -> network; small enough that the reference profile has the printed sizes
NETWORKS: dict[str, dict[str, ExtractorConfig]] = {
    "quick": _networks("digits"),
    "reference": _PRINTED,
    "paper": _PRINTED,
}


def images(config: ExtractorConfig, split: str) -> data.Images:
    """The images of its two classes, "train" or "test", with labels 0 and 1 in the order of ``classes``."""
    return _load(config.dataset, split, config.size, config.classes)


@lru_cache(maxsize=8)
def _load(name: str, split: str, size: int | None, classes: tuple[int, int]) -> data.Images:
    return data.load(name, split, size=size, classes=classes)


def vectors(train: data.Images, count: int, *, skip: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Flattened images of each of two classes: float32 [N, d], in [0, 1].

    They are as many as asked for, or all there are, after the first ``skip``."""
    first, second = (train.images[train.labels == label][skip : skip + count].flatten(1) for label in (0, 1))
    return first, second


def build(config: ExtractorConfig) -> nn.Module:
    """The network as initialised, on the accelerator where there is one."""
    shape = images(config, "train").shape
    model = models.create(config.model, len(config.classes), shape, width=config.width, seed=config.seed)
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def trained(config: ExtractorConfig, *, say: runs.Say = runs.quiet) -> tuple[nn.Module, Mapping[str, Any]]:
    """(the trained network in evaluation mode, how it was made), from the cache or trained now.

    ``say`` gets a line for each epoch."""
    model = build(config)
    state, meta = runs.network(config, partial(_train, say=say))
    model.load_state_dict(state)
    return model.eval(), meta


def last_epoch(meta: Mapping[str, Any]) -> dict[str, Any]:
    """How the training of a network ended, for a results file."""
    last = meta["log"]["epochs"][-1]
    return {key: last[key] for key in ("epoch", "loss", "train_accuracy")}


def _train(
    config: ExtractorConfig, checkpoints: Path, say: runs.Say
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    name = f"{config.label} on {config.dataset} {' against '.join(map(str, config.classes))}"
    return networks.fit(build(config), images(config, "train"), config.train, checkpoints, name=name, say=say)
