"""One run behind Table 2: the readouts of one network under one attack, in four cells each, with controls."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from semirobust import attacks, layers, readouts, runs
from semirobust.experiments import networks
from semirobust.experiments.networks import NetworkConfig
from semirobust.experiments.verdicts import summary
from semirobust.layers import model_outputs
from semirobust.readouts import Activations, LinearReadout, Solution, algorithm_2, solve
from semirobust.training import PGD

N_FA = (17, 13, 9)
#: readout -> (how it is solved, its targets)
READOUTS = {
    "algorithm_2": ("algorithm_2", "outputs"),
    "algorithm_2_labels": ("algorithm_2", "labels"),
    "ridge": ("ridge", "outputs"),
}
FITS = ("scored", "other")  # the images that a readout is fitted on
DRAWS = 5  # of random weights, permutations and noise in each control


@dataclass(frozen=True)
class Sizes:
    """Sizes: images in each of the two sets (``autoattack``: under that attack), images in a batch of
    Algorithm 2, and the effort of AutoAttack."""

    test: int
    autoattack: int
    batch: int
    steps: int = 100
    queries: int = 5000

    def images(self, attack: str) -> int:
        return self.autoattack if attack == "autoattack" else self.test


@dataclass(frozen=True)
class ReadoutConfig:
    """Which readouts of which network, under one attack."""

    network: NetworkConfig
    attack: str
    sizes: Sizes
    readouts: tuple[str, ...] = tuple(READOUTS)
    n_fa: tuple[int, ...] = N_FA
    seed: int = 0

    @property
    def budget(self) -> PGD:
        """The threat model: that of the network's adversarial training."""
        if not isinstance(self.network.train.attack, PGD):
            raise ValueError("Algorithm 2 starts from an adversarially trained network: train it against PGD")
        return self.network.train.attack

    @property
    def effort(self) -> dict[str, Any]:
        """Options of the attack."""
        found: dict[str, Any] = {"eps": self.budget.eps, "seed": self.seed}
        if self.attack == "pgd":
            found |= {"step": self.budget.step, "steps": self.budget.steps}
        elif self.attack == "autoattack":
            found |= {"steps": self.sizes.steps, "queries": self.sizes.queries}
        return found


@dataclass(frozen=True)
class StoppingConfig:
    """Algorithm 2 on images of one PGD with two stopping rules; ``images`` in each of the two sets."""

    network: NetworkConfig
    images: int
    batch: int
    n_fa: int = max(N_FA)
    seed: int = 0


@dataclass(frozen=True)
class _Subject:
    """The network and both sets of images: the first ``n`` are scored, the next n are the others."""

    net: nn.Module
    layers: list[str]
    clean: torch.Tensor  # [2n, C, H, W]
    attacked: torch.Tensor  # [2n, C, H, W], for (f_a*, f_b*)
    labels: torch.Tensor  # [2n]
    outputs: torch.Tensor  # of the network on ``attacked``, float64 [2n, K]
    n: int

    def part(self, fit: str) -> slice:
        return slice(0, self.n) if fit == "scored" else slice(self.n, 2 * self.n)

    def targets(self, readout: str, fit: str) -> torch.Tensor:
        one_hot = READOUTS[readout][1] == "labels"
        whole = _one_hot(self.labels, self.outputs.shape[1]) if one_hot else self.outputs
        return whole[self.part(fit)]


def run_readouts(config: ReadoutConfig, *, say: runs.Say = runs.quiet) -> dict[str, Any]:
    """All readouts of one network under one attack, in four cells each; controls; and (f_a*, f_b*) itself.

    Raises ``ValueError`` for a network without adversarial training, and where the test set is smaller than
    two such sets.
    """
    subject = _subject(config, say)
    sizes, n = sorted(config.n_fa), subject.n
    grams: dict[str, dict[int, torch.Tensor]] = {}
    for fit in FITS:
        source = Activations(subject.net, subject.layers[: sizes[-1]], subject.attacked[subject.part(fit)])
        grams[fit] = dict(zip(sizes, solve.grams(source, sizes), strict=True))
        widths = np.cumsum(source.widths).tolist()
    say(f"{config.attack}: inner products of {widths[-1]:,} features")
    rows = []
    for n_fa in sorted(config.n_fa, reverse=True):
        of_size, d = {fit: grams[fit][n_fa] for fit in FITS}, widths[n_fa - 1]
        cells: dict[str, dict[str, Any]] = {readout: {} for readout in config.readouts}
        for fit in FITS:
            for readout, cell in _cells(subject, n_fa, d, fit, of_size[fit], config).items():
                cells[readout][fit] = cell
                shares = [f"{100 * cell[kind]['accuracy']:.1f} %" for kind in ("transfer", "adaptive")]
                say(f"{config.attack}, {n_fa} layers, {readout}, fitted on {fit}: {', itself '.join(shares)}")
        controls = _controls(subject, n_fa, d, of_size["scored"], config)
        rows.append({"n_fa": n_fa, "features": d, "readouts": cells, "controls": controls})
    star = summary(subject.outputs[:n].argmax(1) == subject.labels[:n])
    return {
        "acc_star": {"transfer": star, "adaptive": _adaptive(subject.net, subject, config)},
        "rows": rows,
        "layers": subject.layers,
        "batches": len(solve.batches(n, config.sizes.batch, subject.outputs.shape[1])),
    }


def run_stopping(config: StoppingConfig, *, say: runs.Say = runs.quiet) -> dict[str, Any]:
    """Algorithm 2 on PGD images with the outputs as targets, for each rule by which PGD stops on an image.

    ``all_steps``: PGD takes all steps on every image (as in the rows of the table). ``first_success``: it
    skips misclassified images and stops once it breaks an image, as AutoAttack does. Each rule has ``star``
    (the network), and of the readout ``scored``, ``out_of_batch`` and ``other``, all under the attack made
    for the network.
    """
    as_row = ReadoutConfig(config.network, "pgd", Sizes(config.images, 0, config.batch), seed=config.seed)
    subject, n = _subject(as_row, say), config.images
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", attacks.GradientMaskingWarning)
        stopped = attacks.evaluate(subject.net, subject.clean, subject.labels, "pgd", **as_row.effort).x_adv
    found = {}
    for rule, attacked in (("all_steps", subject.attacked), ("first_success", stopped)):
        outputs = algorithm_2.targets(subject.net, attacked, subject.labels)
        predicted = {"star": outputs[:n]}
        for fit in FITS:
            part = subject.part(fit)
            source = Activations(subject.net, subject.layers[: config.n_fa], attacked[part])
            fitted = algorithm_2.algorithm_2(source, outputs[part], batch_size=config.batch)
            predicted[fit] = _logits(fitted.readout(subject.net), attacked[:n])
            if fit == "scored":
                (gram,) = solve.grams(source)
                others = solve.out_of_batch(gram, fitted.solution, outputs[part], config.batch)
                predicted["out_of_batch"] = others
        labels = subject.labels[:n]
        found[rule] = {name: summary(logits.argmax(1) == labels) for name, logits in predicted.items()}
        shares = ", ".join(f"{name} {100 * cell['accuracy']:.1f} %" for name, cell in found[rule].items())
        say(f"PGD, {rule}, {n} images: {shares}")
    return found


def _subject(config: ReadoutConfig, say: runs.Say) -> _Subject:
    budget, n = config.budget, config.sizes.images(config.attack)
    test = networks.test_images(config.network)
    if len(test) < 2 * n:
        raise ValueError(f"two sets of {n} test images are needed; {test.name} has {len(test)}")
    net = networks.trained(config.network, say=say)[0]
    clean, labels = test.batch(slice(0, 2 * n)), test.labels[: 2 * n]
    attacked = clean
    if config.attack != "none":
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", attacks.GradientMaskingWarning
            )  # see ``_adaptive`` of the network
            attacked = attacks.perturb(net, clean, labels, config.attack, **config.effort)
    say(f"{config.attack}: {2 * n} images attacked for (f_a*, f_b*), eps {budget.eps:g}")
    outputs = algorithm_2.targets(net, attacked, labels)
    return _Subject(net, layers.weight_layers(net), clean, attacked, labels, outputs, n)


def _cells(
    subject: _Subject, n_fa: int, d: int, fit: str, gram: torch.Tensor, config: ReadoutConfig
) -> dict[str, dict[str, Any]]:
    """The readouts fitted on one of the two sets: scored as in the paper, and under attacks on themselves."""
    names, labels, batch = subject.layers[:n_fa], subject.labels[: subject.n], config.sizes.batch
    found: dict[str, Solution] = {}
    for readout in config.readouts:
        goal = subject.targets(readout, fit)
        if READOUTS[readout][0] == "algorithm_2":
            found[readout] = solve.algorithm_2(gram, goal, d, batch)
        else:
            found[readout] = solve.ridge(gram, goal, d, torch.arange(len(gram)) % 5 == 4)
    source = Activations(subject.net, names, subject.attacked[subject.part(fit)])
    stacked = torch.cat([solution.coefficients for solution in found.values()], 1)  # one pass for all
    weights = solve.combine(source, stacked).split(subject.outputs.shape[1], 1)
    cells = {}
    for (readout, solution), weight in zip(found.items(), weights, strict=True):
        model = LinearReadout(subject.net, names, weight)
        cells[readout] = {
            "transfer": summary(_logits(model, subject.attacked[: subject.n]).argmax(1) == labels),
            "adaptive": _adaptive(model, subject, config),
            "rank": solution.rank,
            "condition": solution.condition,
            "strength": solution.strength,
        }
        if fit == "scored" and READOUTS[readout][0] == "algorithm_2":
            others = solve.out_of_batch(gram, solution, subject.targets(readout, fit), batch)
            cells[readout]["out_of_batch"] = summary(others.argmax(1) == labels)
    return cells


def _controls(
    subject: _Subject, n_fa: int, d: int, gram: torch.Tensor, config: ReadoutConfig
) -> dict[str, Any]:
    """Accuracies in [0, 1] of uninformative readouts, for each of ``DRAWS`` draws.

    ``random_weights`` (the paper's): a readout with Gaussian weights. ``permuted``, ``permuted_labels``:
    Algorithm 2 fitted to the outputs, or labels, of other images of the set, and scored on the labels
    of those. ``noise``: Algorithm 2 on the labels and Gaussian features of the same size, scored on the
    images that it was fitted on; ``noise_held_out``: on as many others. ``chance``: the share of the
    largest class.
    """
    n, batch, kinds = subject.n, config.sizes.batch, subject.outputs.shape[1]
    labels = subject.labels[:n]
    goals = {"permuted": subject.outputs[:n], "permuted_labels": _one_hot(labels, kinds)}
    found: dict[str, list[float]] = {name: [] for name in (*goals, "noise", "noise_held_out")}
    for draw in range(DRAWS):
        order = torch.randperm(n, generator=torch.Generator().manual_seed(1 + draw))
        for name, goal in goals.items():
            solution = solve.algorithm_2(gram, goal[order], d, batch)
            found[name].append(_share((gram @ solution.coefficients).argmax(1) == labels[order]))
        noise = readouts.noise_gram(2 * n, d, seed=1 + draw)
        solution = solve.algorithm_2(noise[:n, :n], goals["permuted_labels"], d, batch)
        predicted = noise[:, :n] @ solution.coefficients  # [2n, K]
        found["noise"].append(_share(predicted[:n].argmax(1) == labels))
        found["noise_held_out"].append(_share(predicted[n:].argmax(1) == labels))
    generator = torch.Generator().manual_seed(config.seed)
    drawn = torch.randn(d, DRAWS * kinds, generator=generator)
    model = LinearReadout(subject.net, subject.layers[:n_fa], drawn)
    random = _logits(model, subject.attacked[:n]).unflatten(1, (DRAWS, kinds)).argmax(2)  # [n, DRAWS]
    return {
        **found,
        "random_weights": [_share(random[:, draw] == labels) for draw in range(DRAWS)],
        "chance": int(labels.bincount().max()) / n,
    }


def _adaptive(model: nn.Module, subject: _Subject, config: ReadoutConfig) -> dict[str, Any]:
    """The scored images under the attack made for ``model`` itself."""
    images, labels = subject.clean[: subject.n], subject.labels[: subject.n]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", attacks.GradientMaskingWarning)  # kept in the result instead
        found = attacks.evaluate(model, images, labels, config.attack, **config.effort)
    return summary(found.correct) | {
        "zero_gradient_share": found.zero_gradient_share,
        "warnings": list(found.warnings),
        "parts": [list(part) for part in found.parts],
    }


def _one_hot(labels: torch.Tensor, kinds: int) -> torch.Tensor:
    return nn.functional.one_hot(labels, kinds).double()


def _share(correct: torch.Tensor) -> float:
    return float(correct.double().mean())


def _logits(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    return model_outputs(model, images, batch_size=128)
