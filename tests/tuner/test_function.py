"""The autograd function: what it keeps, and hooks, ``torch.func``, checkpointing and the compiler around it."""

from __future__ import annotations

import copy
from math import prod

import pytest
import torch
from torch import nn
from torch.nn.modules import module as hooks

from lokr_core import LoKrConfig
from lokr_core.kronecker import untouched
from lokr_core.tuner import Conv2d, Linear


@pytest.mark.parametrize("where", ["layer", "everywhere"])
@pytest.mark.parametrize("kind", ["forward", "forward_pre", "full_backward", "full_backward_pre"])
def test_hooks_of_a_frozen_base_layer_are_called(kind, where):
    layer = Linear(nn.Linear(8, 8).requires_grad_(False), "default", LoKrConfig(init_weights=False), r=2, alpha=2)
    seen: list[nn.Module] = []
    if where == "layer":
        handle = getattr(layer.base_layer, f"register_{kind}_hook")(lambda module, *_: seen.append(module) and None)
    else:
        handle = getattr(hooks, f"register_module_{kind}_hook")(lambda module, *_: seen.append(module) and None)
    try:
        layer(torch.randn(3, 8, requires_grad=True)).sum().backward()
    finally:
        handle.remove()
    assert layer.base_layer in seen


def saved_numbers(run) -> int:
    """Numbers that the backward pass keeps, each storage counted once."""
    storages: dict[int, int] = {}

    def pack(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run()
    assert result is not None
    return sum(storages.values())


@pytest.mark.parametrize("r", [4, 16])
@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_it_keeps_the_input_the_factors_and_nothing_larger_than_half_the_input(kind, r):
    x = torch.randn(2, 64, 8, 8) if kind == "conv" else torch.randn(50, 64)
    base = nn.Conv2d(64, 64, 3, padding=1) if kind == "conv" else nn.Linear(64, 64)
    layer = (Conv2d if kind == "conv" else Linear)(base, "default", LoKrConfig(init_weights=False), r=r, alpha=r)
    layer.base_layer.requires_grad_(False)
    factors = sum(p.numel() for n, p in layer.named_parameters() if "lokr" in n)
    weight = layer.weight.numel()
    kept = saved_numbers(lambda: layer(x.requires_grad_()))
    assert kept <= 2 * x.numel() + 2 * factors + weight
    assert kept < x.numel() + factors + 2 * weight  # no dW anywhere


def test_the_layers_own_output_is_written_to_and_a_hooked_one_is_not():
    layer = Linear(nn.Linear(8, 8), "default", LoKrConfig(init_weights=False), r=2, alpha=2)
    x, seen = torch.randn(3, 8), []
    expected = layer(x)
    handle = layer.base_layer.register_forward_hook(lambda module, args, output: seen.append(output))
    assert torch.equal(layer(x), expected)
    assert torch.equal(seen[0], nn.functional.linear(x, layer.weight, layer.bias))
    handle.remove()
    plain = layer.base_layer.forward
    layer.base_layer.forward = lambda x: seen[0]  # as accelerate and others replace it
    layer(x)
    assert torch.equal(seen[0], nn.functional.linear(x, layer.weight, layer.bias))
    layer.base_layer.forward = plain  # and as they put it back
    assert untouched(layer.base_layer) and torch.equal(layer(x), expected)
    layer.base_layer.forward = nn.Linear(8, 8).forward  # another layer's
    assert not untouched(layer.base_layer)


@pytest.mark.parametrize("shape", [(3, 8), (2, 3, 8), (2, 2, 2, 8)])
def test_the_output_may_be_written_to_in_place(shape):
    layer = Linear(nn.Linear(8, 8).requires_grad_(False), "default", LoKrConfig(init_weights=False), r=2, alpha=2)
    x, other = torch.randn(shape, requires_grad=True), torch.randn(shape)
    (expected,) = torch.autograd.grad((layer(x) + other).relu().square().sum(), x)
    y = layer(x)
    y += other
    y.relu_().square().sum().backward()
    assert torch.allclose(x.grad, expected)


def test_torch_func_sees_through_it():
    from torch.func import functional_call, grad, vmap

    torch.manual_seed(0)
    layer = Linear(nn.Linear(6, 8).double(), "default", LoKrConfig(init_weights=False), r=1, alpha=2)
    parameters = {n: p.detach() for n, p in layer.named_parameters() if "lokr" in n}
    x = torch.randn(5, 6, dtype=torch.float64)

    def loss(parameters, x):
        return functional_call(layer, parameters, (x[None],)).square().sum()

    per_sample = vmap(grad(loss), in_dims=(None, 0))(parameters, x)
    for i in range(len(x)):
        layer.zero_grad()
        layer(x[i : i + 1]).square().sum().backward()
        for name, parameter in layer.named_parameters():
            if "lokr" in name:
                assert torch.allclose(per_sample[name][i], parameter.grad, rtol=1e-9)


def test_forward_mode_sees_through_it():
    layer = Linear(nn.Linear(6, 8).double(), "default", LoKrConfig(init_weights=False), r=1, alpha=2)
    x, v = torch.randn(2, 3, 6, dtype=torch.float64)
    _, found = torch.func.jvp(layer, (x,), (v,))
    weight = layer.weight + layer.get_delta_weight("default")
    assert torch.allclose(found, v @ weight.T, rtol=1e-9)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, v)
        tangent = torch.autograd.forward_ad.unpack_dual(layer(dual)).tangent
    assert torch.allclose(tangent, v @ weight.T, rtol=1e-9)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients(reentrant, frozen):
    from torch.utils.checkpoint import checkpoint

    torch.manual_seed(0)
    model = nn.Sequential(
        *(Linear(nn.Linear(8, 8), "default", LoKrConfig(init_weights=False), r=2, alpha=2) for _ in "ab")
    )
    for layer in model:
        layer.base_layer.requires_grad_(not frozen)
    x = torch.randn(3, 8, requires_grad=True)
    results = []
    for run in (model, lambda x: checkpoint(model, x, use_reentrant=reentrant)):
        model.zero_grad()
        x.grad = None
        run(x).square().sum().backward()
        results.append([x.grad.clone(), *(p.grad.clone() for p in model.parameters() if p.requires_grad)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.skipif(
    not hasattr(torch.compiler, "is_compiling"),
    reason="TORCH BEFORE 2.3 HERE: its compiler breaks off in every adapter",
)
@pytest.mark.parametrize("kind", ["linear", "frozen", "dora", "dropout", "conv"])
def test_compiled_without_a_graph_break_it_gives_the_same(kind):
    torch.manual_seed(0)
    fields = {"dora": dict(dora="out"), "dropout": dict(rank_dropout=0.2)}.get(kind, {})
    base, x = (nn.Conv2d(8, 8, 3), torch.randn(2, 8, 5, 5)) if kind == "conv" else (nn.Linear(8, 12), torch.randn(3, 8))
    layer = (Conv2d if kind == "conv" else Linear)(
        base, "default", LoKrConfig(init_weights=False, **fields), r=2, alpha=2
    )
    layer.train(kind == "dropout")
    layer.base_layer.requires_grad_(kind != "frozen")
    compiled = torch.compile(copy.deepcopy(layer), fullgraph=True, backend="aot_eager")
    results = []
    for module in (layer, compiled):
        torch.manual_seed(1)
        y = module(x)
        y.square().sum().backward()
        results.append([y, *(p.grad for p in module.parameters() if p.requires_grad)])
    for plain, found in zip(*results, strict=True):
        assert torch.allclose(found, plain, rtol=1e-4, atol=1e-5)


def test_an_output_in_channels_last_and_an_empty_batch():
    layer = Conv2d(nn.Conv2d(8, 8, 3).double(), "default", LoKrConfig(init_weights=False), r=1, alpha=2)
    layer = layer.to(memory_format=torch.channels_last)
    x = torch.randn(2, 8, 5, 5, dtype=torch.float64)
    weight = layer.weight + layer.get_delta_weight("default")
    expected = nn.functional.conv2d(x, weight, layer.bias)
    assert torch.allclose(layer(x.to(memory_format=torch.channels_last)), expected, rtol=1e-9)
    assert torch.allclose(layer(x[0]), expected[0], rtol=1e-9)  # without a batch axis
    assert layer(x[:0]).shape == (0, *expected.shape[1:])
    empty = Linear(nn.Linear(8, 4), "default", LoKrConfig(), r=1, alpha=2)(torch.zeros(0, 8))
    assert prod(empty.shape) == 0
