"""Training checkpoints: the state and the log of a run in one file, written whole."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from semirobust import runs
from semirobust.training.recipe import TrainConfig


@dataclass(frozen=True)
class EpochLog:
    """The log of one epoch: mean loss in nats, accuracies in [0, 1], seconds.

    ``train_accuracy`` is measured on the inputs trained on.
    """

    epoch: int
    loss: float
    train_accuracy: float
    probe_clean_accuracy: float
    probe_pgd_accuracy: float
    seconds: float


@dataclass(frozen=True)
class State:
    """Everything that a training step changes; ``parameters`` are the trained ones, by name."""

    model: nn.Module
    parameters: dict[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    generator: torch.Generator

    def save(self, path: Path, config: TrainConfig, logs: list[EpochLog]) -> None:
        """Writes everything needed to resume to the bit."""
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        for name, parameter in self.parameters.items():
            momentum = self.optimizer.state[parameter].get("momentum_buffer")
            if momentum is not None:
                tensors[f"momentum.{name}"] = momentum
        tensors["generator"] = self.generator.get_state()
        metadata = {"config": asdict(config), "logs": [asdict(log) for log in logs]}
        runs.save_tensors(path, tensors, metadata)

    def restore(self, path: Path, tensors: dict[str, torch.Tensor]) -> None:
        """Loads the tensors that ``read`` returned. Raises ``ValueError`` for those of another network."""
        momenta = _under("momentum.", tensors)
        if not momenta.keys() <= self.parameters.keys():
            raise _other_network(path)
        load_weights(self.model, path, tensors)
        for name, momentum in momenta.items():
            parameter = self.parameters[name]
            like = torch.empty_like(parameter)  # same memory layout too: another layout may round differently
            self.optimizer.state[parameter]["momentum_buffer"] = like.copy_(momentum)
        self.generator.set_state(tensors["generator"])


def load_weights(model: nn.Module, path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Gives the model the weights that ``read`` found. Raises ``ValueError`` for those of another network."""
    state = _under("model.", tensors)
    own = {name: t.shape for name, t in model.state_dict().items()}
    if own != {name: t.shape for name, t in state.items()}:
        raise _other_network(path)
    model.load_state_dict(state)


def _other_network(path: Path) -> ValueError:
    return ValueError(
        f"{path} belongs to another network, or to one with other parameters frozen: "
        "move it away, or train that one"
    )


def _under(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def read(path: Path, config: TrainConfig) -> tuple[dict[str, torch.Tensor], list[EpochLog]]:
    """The tensors and the log in a checkpoint of ``config``.

    Raises ``ValueError`` for another configuration, ``runs.CorruptFile`` for a file that is no checkpoint.
    """
    tensors, metadata = runs.load_tensors(path)
    if not {"config", "logs"} <= metadata.keys() or "generator" not in tensors:
        raise runs.CorruptFile(path, "it is no training checkpoint", "move it away, or choose another path")
    if metadata["config"] != json.loads(runs.json_text(asdict(config))):
        raise ValueError(
            f"{path} belongs to another configuration, {metadata['config']}: "
            "move it away, or train with that one"
        )
    return tensors, [EpochLog(**log) for log in metadata["logs"]]
