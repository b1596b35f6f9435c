"""Weight layers, the split, freezing bit for bit, activations and the state guard."""

from __future__ import annotations

import copy
import pickle
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from semirobust import models
from semirobust.layers import Split, activations, preserve, trace, weight_layers
from tests.cases import Residual, changed, one_thread, snapshot, tiny_network, warmed

SHORTCUTS = [f"stages.{stage}.0.shortcut.0" for stage in (1, 2, 3)]
MAIN = [
    "conv1",
    *(f"stages.{stage}.{block}.conv{i}" for stage in range(4) for block in (0, 1) for i in (1, 2)),
    "fc",
]


def frozen_loop(model: nn.Module, *, steps: int = 3, attack: bool = True) -> None:
    """Attack and training steps, switching the whole model to training by hand, over all parameters."""
    import torchattacks

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        x = torch.rand(8, 1, 8, 8, generator=generator)
        labels = torch.randint(0, 10, (8,), generator=generator)
        if attack:
            pgd = torchattacks.PGD(model, eps=0.1, alpha=0.05, steps=2)
            pgd.set_model_training_mode(model_training=step % 2 == 0, batchnorm_training=step % 2 == 0)
            x = pgd(x, labels)
        model.train()
        optimizer.zero_grad(set_to_none=False)
        F.cross_entropy(model(x), labels).backward()
        optimizer.step()


# --- weight layers ---


@pytest.mark.parametrize("stem", ["authors", "cifar"])
def test_resnet18_has_18_layers_on_its_main_path_and_21_in_all(stem: str) -> None:
    model = models.create("resnet18", 10, width=2, stem=stem)
    assert weight_layers(model) == MAIN
    every = weight_layers(model, include_shortcuts=True)
    assert [name for name in every if name not in SHORTCUTS] == MAIN
    for shortcut in SHORTCUTS:  # they run after the second convolution of their block
        assert every[every.index(shortcut) - 1] == shortcut.replace("shortcut.0", "conv2")
    assert len(every) == 21


def test_wide_resnet34_10_has_32_layers_on_its_main_path() -> None:
    model = models.create("wide_resnet34_10", 10, width=2)
    main = weight_layers(model)
    assert len(main) == 32 and main[0] == "conv1" and main[-1] == "fc"
    assert [name for name in weight_layers(model, include_shortcuts=True) if "shortcut" in name] == [
        "stages.0.0.shortcut",
        "stages.1.0.shortcut",
        "stages.2.0.shortcut",
    ]


def test_order_is_that_of_the_data_not_of_the_definition() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.first = nn.Linear(3, 2), nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.first(x))

    assert weight_layers(Backwards()) == ["first", "last"]


def test_generic_networks() -> None:
    plain = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 5), nn.Linear(5, 3))
    assert weight_layers(plain) == ["0", "3", "4"]
    assert weight_layers(Residual()) == ["stem", "first", "second", "last"]
    assert weight_layers(Residual(), include_shortcuts=True) == ["stem", "first", "second", "beside", "last"]


def test_a_shared_module_is_named_once() -> None:
    shared = nn.Linear(4, 4)
    assert weight_layers(nn.Sequential(shared, nn.ReLU(), shared, nn.Linear(4, 2))) == ["0", "3"]


def test_networks_that_cannot_be_read_say_why() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x) if x.sum() > 0 else x

    class Counts(Branches):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x) * len(x)

    for model in (Branches(), Counts()):
        with pytest.raises(ValueError, match=rf"{type(model).__name__} cannot be traced .*without branches"):
            weight_layers(model)
        assert model.training
    with pytest.raises(ValueError, match="no convolutional or linear module"):
        weight_layers(nn.Sequential(nn.ReLU()))


def test_tracing_leaves_the_model_as_found_and_reads_it_in_evaluation_mode() -> None:
    class Mode(Residual):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.dropout(super().forward(x), training=self.training)

    model = Mode().train()
    model.norm.eval()
    attributes, modes = set(model.__dict__), [module.training for module in model.modules()]
    traced = trace(model)
    assert set(model.__dict__) == attributes
    assert [module.training for module in model.modules()] == modes
    dropout = next(node for node in traced.graph.nodes if node.target is F.dropout)
    assert dropout.kwargs["training"] is False
    assert traced.get_submodule("first") is model.first  # shared, not copied


# --- the split ---


@pytest.mark.parametrize("shortcuts", [False, True])
@pytest.mark.parametrize("name", list(models.MODELS))
def test_split_is_a_partition_that_grows_with_n_fb(name: str, shortcuts: bool) -> None:
    model = models.create(name, 10, width=2)
    state = list(model.state_dict())
    layers = weight_layers(model, include_shortcuts=shortcuts)
    smaller: set[str] = set()
    for n_fb in range(1, len(layers)):
        split = Split(model, n_fb, include_shortcuts=shortcuts)
        assert sorted(split.names_a + split.names_b) == sorted(state)
        assert split.layers == layers and split.first_b == layers[-n_fb]
        inside = {f"{layer}.weight" for layer in layers[-n_fb:]}
        assert inside <= set(split.names_b)
        assert {f"{layer}.weight" for layer in layers[:-n_fb]} <= set(split.names_a)
        assert smaller < set(split.names_b)
        smaller = set(split.names_b)


def test_the_split_of_table_1_of_the_paper() -> None:
    split = Split(models.create("resnet18", 10, width=2), 4)
    modules = {name.rpartition(".")[0] for name in split.names_b}
    assert modules == {f"stages.3.{m}" for m in ("0.conv2", "0.bn2", "0.shortcut.0", "0.shortcut.1")} | {
        f"stages.3.1.{m}" for m in ("conv1", "bn1", "conv2", "bn2")
    } | {"fc"}


def test_split_places_what_no_module_call_shows() -> None:
    split = Split(Residual(), 2)  # f_b: second, last
    assert split.first_b == "second"
    assert {name for name in split.names_a if "." not in name} == {"scale"}
    assert {name for name in split.names_b if "." not in name} == {"shift"}

    class Tied(nn.Module):
        """The weight of the last layer is defined last and read first."""

        def __init__(self) -> None:
            super().__init__()
            self.last, self.first = nn.Linear(4, 4), nn.Linear(4, 4)
            self.first.weight = self.last.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(torch.relu(self.first(x)))

    tied = Split(Tied(), 1)  # what f_a reads belongs to f_a
    assert tied.names_a == ["last.weight", "first.bias"] and tied.names_b == ["last.bias"]


@pytest.mark.parametrize("n_fb", [0, -1, 18, 100, True, 2.0, None, "4"])
def test_impossible_n_fb(n_fb: object) -> None:
    model = models.create("resnet18", 10, width=2)
    with pytest.raises(ValueError, match=r"n_fb must be an integer between 1 and 17.*18 weight layers"):
        Split(model, n_fb)  # type: ignore[arg-type]


def test_numpy_integers_are_integers() -> None:
    split = Split(models.create("resnet18", 10, width=2), np.int64(4))  # type: ignore[arg-type]
    assert split.n_fb == 4 and type(split.n_fb) is int


# --- freezing ---


@pytest.mark.parametrize("batch_statistics", [False, True])
@pytest.mark.parametrize("name", ["resnet18", "wide_resnet34_10"])
def test_nothing_of_a_frozen_f_a_changes(name: str, batch_statistics: bool) -> None:
    model = tiny_network(name)
    frozen_loop(model, steps=1, attack=False)  # gradients and statistics are there already
    split = Split(model, 4)
    split.freeze_a(batch_statistics=batch_statistics)
    before = snapshot(model)
    frozen_loop(model)
    assert set(changed(before, model.state_dict())) == set(split.names_b)
    split.unfreeze_a()
    frozen_loop(model)
    after = set(changed(before, model.state_dict()))
    # all but the constants of normalisation and biases that BatchNorm cancels
    assert {name for name in split.names_a if not name.startswith("normalize")} <= after


def test_nothing_changes_when_an_optimizer_still_holds_the_old_gradients() -> None:
    model = tiny_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    model.train()
    model(torch.rand(8, 1, 8, 8)).square().sum().backward()
    optimizer.step()
    split = Split(model, 4)
    split.freeze_a()
    before = snapshot(model)
    for _ in range(2):  # no zero_grad, no backward: weight decay and momentum alone
        optimizer.step()
    assert changed(before, model.state_dict())
    assert not set(changed(before, model.state_dict())) & set(split.names_a)


def test_without_freezing_the_same_loop_does_change_f_a() -> None:
    model = tiny_network()
    before = snapshot(model)
    frozen_loop(model, steps=1)
    assert set(changed(before, model.state_dict())) & set(Split(model, 4).names_a)


def test_frozen_f_a_computes_as_in_evaluation_and_the_variant_by_the_batch() -> None:
    model = tiny_network()
    x = torch.rand(8, 1, 8, 8)
    split = Split(model, 1)
    name = "stages.3.1.bn2"  # the last module with statistics of f_a
    evaluated = activations(model, x, [name])[name]

    def output() -> torch.Tensor:
        kept: list[torch.Tensor] = []
        handle = model.get_submodule(name).register_forward_hook(lambda _m, _i, out: kept.append(out))
        model.train()
        model(x)
        handle.remove()
        return kept[0].detach().flatten(1)

    split.freeze_a()
    torch.testing.assert_close(output(), evaluated)
    split.freeze_a(batch_statistics=True)
    before = snapshot(model)
    assert (output() - evaluated).abs().max() > 0.1
    assert changed(before, model.state_dict()) == []
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(activations(model, x, [name])[name], evaluated)
    split.unfreeze_a()
    output()
    assert f"{name}.running_mean" in changed(before, model.state_dict())


def test_the_variant_lets_gradients_through() -> None:
    model = tiny_network()
    plain = copy.deepcopy(model).train()
    Split(model, 4).freeze_a(batch_statistics=True)
    model.train()
    x, y = (torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in "ab")
    model(x).square().sum().backward()
    plain(y).square().sum().backward()
    torch.testing.assert_close(x.grad, y.grad)


def test_the_variant_puts_buffers_back_when_the_forward_pass_raises() -> None:
    model = tiny_network()
    Split(model, 4).freeze_a(batch_statistics=True)
    norm = model.get_submodule("bn1")
    buffers, attributes = dict(norm.named_buffers()), set(norm.__dict__)
    model.train()
    with pytest.raises(RuntimeError):
        norm(torch.rand(2, 5, 8, 8))
    assert all(norm.get_buffer(name) is buffer for name, buffer in buffers.items())
    model(torch.rand(4, 1, 8, 8))
    assert all(norm.get_buffer(name) is buffer for name, buffer in buffers.items())
    assert set(norm.__dict__) == attributes


def test_dropout_of_a_frozen_f_a_is_off() -> None:
    model = nn.Sequential(
        nn.Linear(50, 50), nn.Dropout(0.5), nn.Linear(50, 50), nn.Dropout(0.5), nn.Linear(50, 2)
    )
    split = Split(model, 1)
    x = torch.rand(3, 50)
    expected = model.eval()(x)
    split.freeze_a()
    torch.testing.assert_close(model.train()(x), expected)
    split.unfreeze_a()
    assert all(module.training for module in model.modules())
    assert not torch.equal(model(x), model(x))


def test_functional_batch_norm_of_f_a_is_frozen_too() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 2)
            for name in ("a", "b"):
                self.register_buffer(f"mean_{name}", torch.zeros(3 if name == "a" else 2))
                self.register_buffer(f"var_{name}", torch.ones(3 if name == "a" else 2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = F.batch_norm(self.first(x), self.mean_a, self.var_a, training=self.training)
            return F.batch_norm(self.second(x), self.mean_b, self.var_b, training=self.training)

    model = Functional()
    split = Split(model, 1)
    assert {"mean_a", "var_a"} <= set(split.names_a) and {"mean_b", "var_b"} <= set(split.names_b)
    split.freeze_a()
    before = snapshot(model)
    model.train()(torch.rand(5, 3))
    assert changed(before, model.state_dict()) == ["mean_b", "var_b"]


def test_unfreezing_restores_what_was_trainable_before() -> None:
    model = tiny_network().train()
    split = Split(model, 4)
    model.get_parameter("conv1.weight").requires_grad_(False)  # by the user
    model.get_submodule("bn1").eval()
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    modes = {name: module.training for name, module in model.named_modules()}
    hooks = {name: (len(m._forward_pre_hooks), len(m._forward_hooks)) for name, m in model.named_modules()}
    split.freeze_a()
    split.freeze_a(batch_statistics=True)  # a second call forgets nothing
    split.freeze_a()
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {
        n for n, _ in model.named_parameters() if n in split.names_b
    }
    model(torch.rand(2, 1, 8, 8))
    split.unfreeze_a()
    assert {name: p.requires_grad for name, p in model.named_parameters()} == flags
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert {
        name: (len(m._forward_pre_hooks), len(m._forward_hooks)) for name, m in model.named_modules()
    } == hooks
    split.unfreeze_a()  # nothing to undo
    assert {name: p.requires_grad for name, p in model.named_parameters()} == flags


@pytest.mark.parametrize("batch_statistics", [False, True])
def test_a_copy_of_a_frozen_model_is_frozen_and_its_own(batch_statistics: bool) -> None:
    model = tiny_network()
    split = Split(model, 4)
    split.freeze_a(batch_statistics=batch_statistics)
    twin = copy.deepcopy(model)
    original, twins = snapshot(model), snapshot(twin)
    frozen_loop(twin, steps=2)
    assert set(changed(twins, twin.state_dict())) == set(split.names_b)
    assert changed(original, model.state_dict()) == []
    split.unfreeze_a()  # of the original only
    frozen_loop(twin, steps=1)
    assert set(changed(twins, twin.state_dict())) == set(split.names_b)
    frozen_loop(model, steps=1)
    assert "conv1.weight" in changed(original, model.state_dict())
    assert set(changed(twins, pickle.loads(pickle.dumps(twin)).state_dict())) == set(split.names_b)


# --- grafting ---


def test_graft_copies_f_b_and_nothing_else() -> None:
    robust, standard = tiny_network(seed=1), tiny_network(seed=2)
    standard.get_submodule("bn1").running_mean.add_(1)
    split = Split(robust, 4)
    before, other = snapshot(robust), snapshot(standard)
    split.graft_b(standard.state_dict())
    assert set(changed(before, robust.state_dict())) <= set(split.names_b)
    assert not set(changed(other, robust.state_dict())) & set(split.names_b)
    assert set(changed(other, robust.state_dict())) >= {"conv1.weight", "bn1.running_mean"}
    robust.get_parameter("fc.weight").data.zero_()  # copies, not views
    assert changed(other, standard.state_dict()) == []


def test_graft_of_another_network_changes_nothing_and_names_the_tensor() -> None:
    robust = tiny_network()
    before = snapshot(robust)
    other = models.create("resnet18", 7, (1, 8, 8), width=2).state_dict()
    with pytest.raises(ValueError, match=r"fc.weight is \[7, 16\], wanted \[10, 16\]"):
        Split(robust, 4).graft_b(other)
    other.pop("fc.weight")
    with pytest.raises(ValueError, match=r"fc.weight is missing"):
        Split(robust, 4).graft_b(other)
    assert changed(before, robust.state_dict()) == []


# --- f_a and f_b as functions ---


@pytest.mark.parametrize("name", ["resnet18", "wide_resnet34_10"])
def test_functions_compose_to_the_model_at_every_valid_cut(name: str) -> None:
    model = tiny_network(name)
    x = torch.rand(4, 1, 8, 8)
    expected = model(x)
    n_layers = len(weight_layers(model))
    # before the first convolution of a block; with pre-activation, only where the shortcut reads the same
    valid = [1, 11, 21, 31] if name == "wide_resnet34_10" else list(range(1, 18, 2))
    for n_fb in range(1, n_layers):
        split = Split(model, n_fb)
        if n_fb in valid:
            f_a, f_b = split.functions()
            assert torch.equal(f_b(f_a(x)), expected)
            own = {id(parameter) for parameter in (*f_a.parameters(), *f_b.parameters())}
            assert own == {id(parameter) for parameter in model.parameters()}  # shared
            owned_b = {n for n, p in model.named_parameters() if id(p) in {id(q) for q in f_b.parameters()}}
            assert owned_b == {n for n in split.names_b if n in dict(model.named_parameters())}
        else:
            listed = ", ".join(map(str, valid))
            with pytest.raises(ValueError, match=rf"crosses a skip connection.*valid n_fb: {listed}$"):
                split.functions()


def test_functions_of_a_network_with_parameters_and_constants_of_its_own() -> None:
    model = warmed(Residual(), (1, 8, 8))
    attributes = set(model.__dict__)
    x = torch.rand(4, 1, 8, 8)
    for n_fb in (1, 3):
        f_a, f_b = Split(model, n_fb).functions()
        assert torch.equal(f_b(f_a(x)), model(x))
    with pytest.raises(ValueError, match=r"valid n_fb: 1, 3$"):
        Split(model, 2).functions()
    assert set(model.__dict__) == attributes


def test_functions_are_differentiable_and_train_the_model() -> None:
    model = tiny_network()
    f_a, f_b = Split(model, 3).functions()
    f_b(f_a(torch.rand(2, 1, 8, 8))).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


# --- activations ---


def test_activations_are_what_a_hook_sees_whatever_the_batch() -> None:
    model = tiny_network().train()
    model.get_submodule("stages.1").eval()
    x = torch.rand(7, 1, 8, 8)
    names = weight_layers(model)
    before, modes = snapshot(model), [module.training for module in model.modules()]
    seen: dict[str, torch.Tensor] = {}
    twin = copy.deepcopy(model).eval()
    for name in names:
        twin.get_submodule(name).register_forward_hook(lambda _m, _i, out, n=name: seen.update({n: out}))
    twin(x)
    with one_thread():
        for batch_size in (1, 3, 7, 256):
            found = activations(model, x, names, batch_size=batch_size)
            assert list(found) == names
            for name, output in found.items():
                assert output.dtype == torch.float32 and output.device.type == "cpu"
                assert output.shape == (7, seen[name][0].numel()) and not output.requires_grad
                torch.testing.assert_close(output, seen[name].detach().flatten(1), atol=1e-5, rtol=1e-5)
    assert changed(before, model.state_dict()) == []
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks for module in model.modules())


def test_activations_of_impossible_requests() -> None:
    model = tiny_network()
    x = torch.rand(2, 1, 8, 8)
    with pytest.raises(ValueError, match=r"no module named layer9, nope; weight layers: conv1, .*fc"):
        activations(model, x, ["conv1", "layer9", "nope"])
    with pytest.raises(ValueError, match="at least one image"):
        activations(model, x[:0], ["conv1"])
    with pytest.raises(ValueError, match="batch_size of at least 1"):
        activations(model, x, ["conv1"], batch_size=0)
    model.add_module("idle", nn.Linear(2, 2))
    with pytest.raises(ValueError, match="did not run in the forward pass: idle"):
        activations(model, x, ["idle"])
    with pytest.raises(RuntimeError):
        activations(model, x[:, :, :, None], ["conv1"])
    assert not any(module._forward_hooks for module in model.modules())


# --- the guard ---


def disturb(model: nn.Module) -> None:
    model.train()
    model(torch.rand(4, 1, 8, 8)).square().sum().backward()  # statistics and gradients
    model.get_submodule("bn1").running_mean = torch.zeros(2)
    for parameter in model.parameters():
        parameter.requires_grad_(not parameter.requires_grad)
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002
    random.seed(99)
    torch.rand(3), np.random.rand(3), random.random()  # noqa: NPY002


@pytest.mark.parametrize("raises", [False, True])
def test_the_guard_puts_everything_back(raises: bool) -> None:
    model = tiny_network().train()
    model.get_submodule("stages.2").eval()
    model.get_parameter("conv1.weight").requires_grad_(False)
    model(torch.rand(4, 1, 8, 8)).square().sum().backward()
    model.get_parameter("fc.bias").grad = None
    state, buffers = snapshot(model), dict(model.named_buffers())
    modes = [module.training for module in model.modules()]
    flags = [parameter.requires_grad for parameter in model.parameters()]
    objects = [parameter.grad for parameter in model.parameters()]
    grads = [None if grad is None else grad.clone() for grad in objects]
    torch_state, numpy_state, python_state = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002

    try:
        with preserve(model):
            disturb(model)
            if raises:
                raise KeyError("on the way")
    except KeyError:
        assert raises
    else:
        assert not raises

    assert changed(state, model.state_dict()) == []
    assert all(model.get_buffer(name) is buffer for name, buffer in buffers.items())
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    for parameter, kept, grad in zip(model.parameters(), objects, grads, strict=True):
        assert parameter.grad is kept
        assert grad is None or torch.equal(parameter.grad, grad)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert random.getstate() == python_state
    for now, then in zip(np.random.get_state(), numpy_state, strict=True):  # noqa: NPY002
        assert np.array_equal(now, then)


def test_the_guard_holds_around_torchattacks() -> None:
    import torchattacks

    model = tiny_network().train()
    model.get_submodule("bn1").eval()
    before, modes = snapshot(model), [module.training for module in model.modules()]
    state = torch.get_rng_state()
    with preserve(model):
        torchattacks.APGD(model, eps=0.1, steps=2)(torch.rand(4, 1, 8, 8), torch.tensor([1, 2, 3, 4]))
        assert not torch.equal(torch.get_rng_state(), state)  # it seeds the global generator
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes
    assert changed(before, model.state_dict()) == []
