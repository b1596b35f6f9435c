"""Two networks that share f_a, ready for the bounds: (f_a*, f_b*) and (f_a*, f_b~)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest

import torch
from torch import fx, nn

from semirobust.layers import Split, folded


@dataclass(frozen=True, eq=False)
class Pair:
    """Both networks with BatchNorm folded in; names of the parameters of f_b and of its first layer."""

    star: fx.GraphModule
    tilde: fx.GraphModule
    names_b: list[str]
    first_b: str


def folded_pair(
    model_star: nn.Module, model_tilde: nn.Module, n_fb: int, *, dtype: torch.dtype = torch.float64
) -> Pair:
    """Both networks with BatchNorm folded in.

    Raises ``ValueError`` for networks of different shape, or that differ in f_a.
    """
    star, tilde = folded(model_star, dtype=dtype), folded(model_tilde, dtype=dtype)
    shapes = [{name: tuple(p.shape) for name, p in body.named_parameters()} for body in (star, tilde)]
    for name in {**shapes[0], **shapes[1]}:
        if shapes[0].get(name) != shapes[1].get(name):
            found = [list(s[name]) if name in s else "missing" for s in shapes]
            raise ValueError(
                f"the two networks must have the same shape: {name} is {found[0]} and {found[1]}"
            )
    for one, other in zip_longest(_calls(star), _calls(tilde), fillvalue="nothing"):
        if one != other:
            raise ValueError(f"the two networks must have the same shape: one runs {one}, the other {other}")
    split = Split(star, n_fb)
    state = [dict(body.state_dict(keep_vars=True)) for body in (star, tilde)]
    for name in split.names_a:
        if name in state[0] and not torch.equal(state[0][name], state[1][name]):
            raise ValueError(
                f"the two networks must share f_a, but {name} differs (weights or BatchNorm statistics; "
                f"f_b starts at {split.first_b}): freeze f_a in training, or choose a larger n_fb"
            )
    parameters = {name for name, _ in star.named_parameters()}
    return Pair(star, tilde, [name for name in split.names_b if name in parameters], split.first_b)


def check_images(images: torch.Tensor, labels: torch.Tensor | None = None) -> None:
    """Raises ``ValueError`` for no images, or labels that are not one per image."""
    if images.ndim < 2 or len(images) == 0:
        raise ValueError(f"give at least one image, as a tensor [N, ...]; got {list(images.shape)}")
    if labels is not None and labels.shape != images.shape[:1]:
        raise ValueError(f"give one label per image: {len(images)} images, labels {list(labels.shape)}")


def _calls(body: fx.GraphModule) -> list[str]:
    """What the graph does, in order, in words: two networks of one shape do the same."""
    calls = []
    for node in body.graph.nodes:
        called = body.get_submodule(str(node.target)) if node.op == "call_module" else ""
        calls.append(f"{node.target} {called} {node.args} {node.kwargs}".replace("  ", " "))
    return calls
