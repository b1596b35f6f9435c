"""Networks that the experiments share: committed ones, cached ones, or trained now."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from semirobust import data, models, runs, training
from semirobust.training import PGD, TrainConfig


@dataclass(frozen=True)
class NetworkConfig:
    """A trained network: data set, architecture, recipe.

    ``holdout``: the last images of the training set that are not trained on (they validate). ``size``
    resizes digits. ``start``: the network whose trained weights this one starts from; None: it starts from
    its own initialisation.
    """

    dataset: str
    model: str
    width: int
    train: TrainConfig
    size: int | None = None
    stem: str = "authors"
    holdout: int = 0
    seed: int = 0
    start: NetworkConfig | None = field(default=None, metadata={"later": True})

    @property
    def label(self) -> str:
        """For a table: ``resnet18, width 16``, and the seed where it is not 0."""
        return f"{self.model}, width {self.width}" + (f", seed {self.seed}" if self.seed else "")


@dataclass(frozen=True)
class Pair:
    """(f_a, f_b) trained on clean images and (f_a*, f_b*) trained adversarially, from the weights of the
    first (`pair`) or on its own (`independent_pair`)."""

    standard: NetworkConfig
    robust: NetworkConfig

    def __post_init__(self) -> None:
        if not isinstance(self.robust.train.attack, PGD) or self.standard.train.attack is not None:
            raise ValueError(
                "a Pair is a standardly trained network and one trained against PGD, in this order"
            )

    @property
    def attack(self) -> PGD:
        """The threat model: that of adversarial training."""
        assert isinstance(self.robust.train.attack, PGD)
        return self.robust.train.attack


@dataclass(frozen=True)
class FineTunedConfig:
    """(f_a*, f_b~): the last epoch of one trial of Algorithm 1; ``fine_tune.seed`` numbers the trial.

    ``n_images``: how many training images f_b is fine-tuned on, the first of the pair's.
    """

    pair: Pair
    n_fb: int
    fine_tune: TrainConfig
    n_images: int


@dataclass(frozen=True)
class FineTuning:
    """How a trial of Algorithm 1 fine-tunes f_b."""

    config: TrainConfig
    limit: int
    validation: int


def pair(recipe: TrainConfig, attack: PGD, *, adversarial: TrainConfig | None = None, **common: Any) -> Pair:
    """Subsequent regular and adversarial training, the first line of Algorithm 1: the robust network starts
    from the trained standard one. ``adversarial``: the recipe of the second training, ``recipe`` if None."""
    standard = NetworkConfig(train=replace(recipe, attack=None), **common)
    second = replace(adversarial or recipe, attack=attack)
    return Pair(standard, NetworkConfig(train=second, start=standard, **common))


def independent_pair(recipe: TrainConfig, attack: PGD, **common: Any) -> Pair:
    """Two networks of one recipe that differ in the attack only, each trained from the same initialisation: a
    variant of ours, in which f_b never belonged behind f_a*."""
    return Pair(
        NetworkConfig(train=replace(recipe, attack=None), **common),
        NetworkConfig(train=replace(recipe, attack=attack), **common),
    )


_DIGITS = {"dataset": "digits", "size": 16, "holdout": 200}
_RESNET = {"model": "resnet18", "holdout": 2000}


def _digits(seed: int, model: str = "resnet18", width: int = 8) -> Pair:
    """Narrow networks on digits: 10 epochs on clean images, then 40 against PGD-10."""
    return pair(
        training.short(10, lr=0.2, batch_size=128, augment=False, seed=seed),
        PGD(0.1, 0.025, 10),
        adversarial=training.short(40, lr=0.05, batch_size=128, augment=False, seed=seed),
        model=model,
        width=width,
        seed=seed,
        **_DIGITS,
    )


def _digits_apart(seed: int) -> Pair:
    """The same standard network, and a robust one that was trained for 20 epochs from its own start."""
    standard = _digits(seed).standard
    recipe = training.short(20, lr=0.2, batch_size=128, augment=False, seed=seed, attack=PGD(0.1, 0.025, 10))
    return Pair(standard, replace(standard, train=recipe))


def _cifar(dataset: str, seed: int, model: str = "resnet18", holdout: int = 2000) -> Pair:
    """Networks of width 16: 15 epochs on clean images, then 10 against PGD-10 at a rate that keeps the
    lineage, on all training images but the last ``holdout``."""
    return pair(
        training.short(15, lr=0.15, batch_size=256, seed=seed),
        PGD(),
        adversarial=training.short(10, lr=0.02, batch_size=256, seed=seed),
        dataset=dataset,
        model=model,
        width=16,
        holdout=holdout,
        seed=seed,
    )


def _cifar_apart(seed: int) -> Pair:
    return independent_pair(
        training.short(12, lr=0.15, batch_size=256, seed=seed),
        PGD(),
        dataset="cifar10",
        width=16,
        seed=seed,
        **_RESNET,
    )


_FULL = pair(
    training.short(12, lr=0.1, batch_size=128),
    PGD(),
    adversarial=training.short(10, lr=0.02, batch_size=128),
    dataset="cifar10",
    width=64,
    **_RESNET,
)

#: profile -> name -> pair of networks, by the paper's protocol where the name does not say "independent"
PAIRS: dict[str, dict[str, Pair]] = {
    "quick": {"digits": _digits(0)},
    "reference": {f"cifar10-seed{seed}": _cifar("cifar10", seed) for seed in range(3)}
    | {"cifar100-seed0": _cifar("cifar100", 0)}
    # 10,000 images: an epoch of this network costs five times that of ResNet-18
    | {"cifar10-wrn34-seed0": _cifar("cifar10", 0, "wide_resnet34_10", holdout=40_000)}
    | {f"digits-seed{seed}": _digits(seed) for seed in range(5)}
    | {f"digits-independent-seed{seed}": _digits_apart(seed) for seed in range(5)}
    | {f"digits-wrn34-seed{seed}": _digits(seed, "wide_resnet34_10", 4) for seed in range(3)}
    | {"cifar10-independent": _cifar_apart(0), "cifar10-independent-seed1": _cifar_apart(1)}
    | {"cifar10-width64": _FULL},
    "paper": {
        f"{dataset}-{model}": pair(training.PAPER, PGD(), dataset=dataset, model=model, width=width)
        for model, width in (("resnet18", 64), ("wide_resnet34_10", 160))
        for dataset in ("cifar10", "cifar100")
    },
}

#: the pair of the trials of `prediction`: both networks trained for 20 epochs, each from its own start
DIGITS_TRIALS = independent_pair(
    training.short(20, lr=0.2, batch_size=128, augment=False),
    PGD(0.1, 0.025, 10),
    model="resnet18",
    width=8,
    **_DIGITS,
)

_SHIPPED = (
    ("digits-resnet18-width8", PAIRS["quick"]["digits"], "subsequent"),
    ("cifar10-resnet18-width16-seed0", PAIRS["reference"]["cifar10-seed0"], "subsequent"),
    ("cifar10-resnet18-width16-seed1", PAIRS["reference"]["cifar10-seed1"], "subsequent"),
    ("cifar10-resnet18-width16", PAIRS["reference"]["cifar10-independent-seed1"], "pgd"),
    ("cifar10-resnet18-width64", _FULL, "subsequent"),
)
#: the networks whose weights are committed once they are final: configuration hash -> name under ``weights/``
COMMITTED: dict[str, str] = {
    runs.config_hash(network): f"{name}-{kind}"
    for name, made, second in _SHIPPED
    for network, kind in ((made.standard, "standard"), (made.robust, second))
}


def test_images(config: NetworkConfig, limit: int | None = None) -> data.Images:
    """The first ``limit`` test images of the network's data set, or all where there are fewer."""
    images = _load(config.dataset, "test", config.size)
    return images.subset(range(min(limit, len(images)))) if limit else images


def training_images(config: NetworkConfig) -> data.Images:
    """The images that the network is trained on."""
    images = _load(config.dataset, "train", config.size)
    return images.subset(range(len(images) - config.holdout)) if config.holdout else images


def validation_images(config: NetworkConfig, n: int) -> data.Images:
    """The last ``n`` images of the training set: held out where the network's ``holdout`` is at least n."""
    images = _load(config.dataset, "train", config.size)
    return images.subset(range(len(images) - n, len(images)))


@lru_cache(maxsize=8)
def _load(name: str, split: str, size: int | None) -> data.Images:
    return data.load(name, split, size=size)


def build(config: NetworkConfig) -> nn.Module:
    """The network as initialised, on the accelerator where there is one."""
    images = _load(config.dataset, "test", config.size)
    return models.create(
        config.model,
        len(images.classes),
        images.shape,
        width=config.width,
        seed=config.seed,
        stem=config.stem,
    ).to("cuda" if torch.cuda.is_available() else "cpu")


def trained(config: NetworkConfig, *, say: runs.Say = runs.quiet) -> tuple[nn.Module, Mapping[str, Any]]:
    """(the trained network in evaluation mode, how it was made): committed weights, the cache, or training
    now, with a line to ``say`` for each epoch. A committed network whose file is missing is an error."""
    model = build(config)
    name = COMMITTED.get(runs.config_hash(config))
    if name is not None and name in runs.committed_weights():
        state, meta = runs.reference_weights(name, config), {"weights": name}
    else:
        state, meta = runs.network(config, partial(_train, say=say))
        if name is not None:  # what is measured on it holds for the rounded weights that are committed
            state = {key: t.half().float() if t.is_floating_point() else t for key, t in state.items()}
    model.load_state_dict(state)
    return model.eval(), meta


def _train(
    config: NetworkConfig, checkpoints: Path, say: runs.Say
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    model, images = build(config), training_images(config)
    if config.start is not None:
        model.load_state_dict(trained(config.start, say=say)[0].state_dict())
    kind = "standard" if config.train.attack is None else "adversarial"
    name = f"{config.label} on {config.dataset}, {kind}"
    return fit(model, images, config.train, checkpoints, name=name, say=say)


def fit(
    model: nn.Module,
    images: data.Images,
    config: TrainConfig,
    checkpoints: Path,
    *,
    name: str,
    say: runs.Say,
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Train ``model`` in place for `runs.network`: (its state dict, the log), with a line to ``say`` for each
    epoch. A damaged checkpoint in the folder is kept aside, and training starts again."""

    def report(log: training.EpochLog) -> None:
        say(
            f"{name}: epoch {log.epoch} of {config.epochs}, "
            f"loss {log.loss:.3f}, PGD accuracy on a training batch {100 * log.probe_pgd_accuracy:.1f} %, "
            f"{log.seconds:.0f} s"
        )

    path = checkpoints / "training.safetensors"
    train = partial(training.train, model, images, config, checkpoint=path, on_epoch=report)
    try:
        logs = train()
    except runs.CorruptFile as error:  # found before any step
        aside = path.replace(path.with_suffix(".corrupt"))
        message = f"{path}: {error.reason}; kept as {aside.name}, training starts again"
        warnings.warn(message, RuntimeWarning, stacklevel=2)
        logs = train()
    return model.state_dict(), {"epochs": [asdict(log) for log in logs], "n_train": len(images)}


def fine_tuning_images(config: NetworkConfig, limit: int, validation: int) -> data.Images:
    """The first ``limit`` images that the network is trained on, but for those among the last ``validation``
    of the training set: what a trial of Algorithm 1 fine-tunes f_b on."""
    pool = training_images(config)
    return pool.subset(range(min(limit, len(pool) - max(0, validation - config.holdout))))


def fine_tuned(
    pair: Pair,
    n_fb: int,
    fine_tune: TrainConfig,
    *,
    limit: int,
    validation: int,
    say: runs.Say = runs.quiet,
) -> tuple[nn.Module, Mapping[str, Any]]:
    """((f_a*, f_b~) in evaluation mode, how it was made): the network of
    `training.algorithm_1.trial` after its last epoch, from the cache or made now;
    f_b is fine-tuned on ``fine_tuning_images(pair.robust, limit, validation)``.

    With the ``fine_tune`` and sizes of a trial of Algorithm 1 this is the network that the trial ends with.
    """
    images = fine_tuning_images(pair.robust, limit, validation)
    robust = trained(pair.robust, say=say)[0]
    state, meta = runs.network(
        FineTunedConfig(pair, n_fb, fine_tune, len(images)),
        partial(_fine_tune, robust=robust, images=images, say=say),
    )
    model = build(pair.robust)
    model.load_state_dict(state)
    return model.eval(), meta


def subject(
    name: str, pair: Pair, fine_tuning: FineTuning | None = None, *, say: runs.Say = runs.quiet
) -> nn.Module:
    """A network made of a pair, in evaluation mode: ``standard``, ``robust``, ``semirobust_N`` (f_a* with the
    f_b of the standard one) or ``fine_tuned_N``, with N layers of f_b.

    Raises ``ValueError`` for another name, or a fine-tuned one without ``fine_tuning``.
    """
    if name in ("standard", "robust"):
        return trained(getattr(pair, name), say=say)[0]
    match = re.fullmatch(r"(semirobust|fine_tuned)_([1-9]\d*)", name)
    if match is None:
        raise ValueError(
            f"unknown subject {name!r}; known: standard, robust, semirobust_N and fine_tuned_N, "
            "N the number of layers of f_b"
        )
    n_fb = int(match[2])
    if match[1] == "semirobust":
        standard = trained(pair.standard, say=say)[0].state_dict()
        return training.algorithm_1.semirobust(trained(pair.robust, say=say)[0], standard, n_fb)[0].eval()
    if fine_tuning is None:
        raise ValueError(f"{name} needs fine_tuning: how f_b is fine-tuned")
    limit, validation = fine_tuning.limit, fine_tuning.validation
    return fine_tuned(pair, n_fb, fine_tuning.config, limit=limit, validation=validation, say=say)[0]


def _fine_tune(
    config: FineTunedConfig,
    checkpoints: Path,
    *,
    robust: nn.Module,
    images: data.Images,
    say: runs.Say,
) -> dict[str, torch.Tensor]:
    standard = trained(config.pair.standard, say=say)[0].state_dict()
    last = robust
    for epoch, last in training.algorithm_1.trial(robust, standard, config.n_fb, images, config.fine_tune):  # noqa: B007
        say(f"f_b of {config.n_fb} layers: epoch {epoch} of {config.fine_tune.epochs}")
    return last.state_dict()
