"""The autograd function: exact first and second derivatives, what it keeps, and who may look into it."""

from __future__ import annotations

import copy
from math import prod

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.modules import module as hooks

from lokr_core import Factor, LoKrConfig
from lokr_core.kronecker import F_CONV, materialize
from lokr_core.tuner import Conv2d, Linear
from lokr_core.tuner._layer import untouched
from lokr_core.tuner._products import plus_update

SLOW = dict(deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


def factor(draw, rows: int, cols: int, kernel: tuple[int, ...], form: str) -> Factor:
    r = draw(st.integers(1, 3))
    make = lambda *shape: torch.randn(shape, dtype=torch.float64, requires_grad=True)  # noqa: E731
    if form == "whole":
        return Factor(whole=make(rows, cols, *kernel))
    if form == "tucker":
        return Factor(a=make(r, rows), b=make(r, cols), t=make(r, r, *kernel))
    return Factor(a=make(rows, r), b=make(r, cols, *kernel))


@st.composite
def products(draw):
    """(y or None, x, w1, w2, convolution or None), all small and in fp64."""
    torch.manual_seed(draw(st.integers(0, 1 << 20)))
    size = st.integers(1, 4)
    l, m, k, n = (draw(size) for _ in range(4))
    axes = draw(st.integers(0, 2))
    kernel = tuple(draw(st.integers(1, 2)) for _ in range(axes))
    w1 = factor(draw, l, m, (), draw(st.sampled_from(["whole", "low-rank"])))
    w2 = factor(draw, k, n, kernel, draw(st.sampled_from(["whole", "low-rank", *["tucker"] * bool(axes)])))
    conv, groups = None, 1
    if axes:
        groups = draw(st.sampled_from([g for g in (1, 2, 3) if (l * k) % g == 0]))
        stride, dilation, padding = (tuple(draw(st.integers(low, 2)) for _ in kernel) for low in (1, 1, 0))
        conv = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    lead = (draw(st.integers(1, 3)),) if axes else tuple(draw(st.lists(st.integers(0, 3), min_size=0, max_size=2)))
    space = tuple(draw(st.integers(3, 4)) for _ in kernel)
    shape = (*lead, groups * m * n, *space) if axes else (*lead, m * n)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    y = None
    if draw(st.booleans()):
        with torch.no_grad():
            y = torch.randn_like(reference(None, x, w1, w2, conv)).requires_grad_()
    return y, x, w1, w2, conv


def reference(y, x, w1: Factor, w2: Factor, conv, rows=None):
    weight = 0.7 * materialize(w1, w2)
    if rows is not None:
        weight = weight * rows.view(-1, *(1,) * (weight.ndim - 1))
    update = x @ weight.T if conv is None else F_CONV[weight.ndim - 2](x, weight, **conv)
    return update if y is None else y + update


def rank_dropout(w1: Factor, w2: Factor, dropped: bool):
    """Numbers for the rows of their product, of which some are 0."""
    rows = torch.arange(w1.shape[0] * w2.shape[0], dtype=w1.dtype) % 3 / 2
    return rows if dropped else None


def as_function(y, x, w1: Factor, w2: Factor, conv, rows, in_place: bool):
    """(a function of tensors, the tensors): every one that has a gradient."""
    names = [(w, name) for w in (w1, w2) for name in w.tensors]
    tensors = [*([] if y is None else [y]), x, *(w.tensors[name] for w, name in names)]

    def function(*given):
        given = list(given)
        base = None if y is None else given.pop(0)
        x, *rest = given
        factors = [{}, {}]
        for (w, name), tensor in zip(names, rest, strict=True):
            factors[w is w2][name] = tensor
        if base is not None and in_place:
            base = base * 1  # a leaf cannot be written to
        return plus_update(base, x, Factor(**factors[0]), Factor(**factors[1]), 0.7, conv, in_place, rows)

    return function, tuple(tensors)


@settings(**SLOW)
@given(products(), st.booleans(), st.booleans())
def test_gradients_are_exact_over_the_whole_family(product, dropped, in_place):
    y, x, w1, w2, conv = product
    rows = rank_dropout(w1, w2, dropped)
    function, tensors = as_function(*product, rows, in_place)
    assert torch.allclose(function(*tensors), reference(*product, rows), rtol=1e-9, atol=1e-9)
    with torch.no_grad():
        assert torch.allclose(function(*tensors), reference(*product, rows), rtol=1e-9, atol=1e-9)
    if x.numel():
        assert torch.autograd.gradcheck(function, tensors)


@settings(**SLOW)
@given(products(), st.booleans())
def test_second_derivatives_are_exact(product, dropped):
    _, _, w1, w2, _ = product
    function, tensors = as_function(*product, rank_dropout(w1, w2, dropped), True)
    if product[1].numel():
        assert torch.autograd.gradgradcheck(function, tensors, fast_mode=True)


def names_of_nodes(y) -> str:
    """The graph behind ``y``, by the names of its nodes."""
    todo, names = [y.grad_fn], []
    while todo:
        node = todo.pop()
        names.append(type(node).__name__)
        todo += [before for before, _ in node.next_functions if before is not None]
    return " ".join(names)


@settings(**SLOW)
@given(st.data())
def test_with_a_frozen_linear_it_is_one_function_whose_first_and_second_derivatives_are_exact(data):
    torch.manual_seed(data.draw(st.integers(0, 1 << 20)))
    columns, out = data.draw(st.sampled_from([(4, 6), (6, 4), (12, 9), (5, 7)]))
    base = nn.Linear(columns, out, bias=data.draw(st.booleans())).double().requires_grad_(False)
    fields = {"full_matrix": data.draw(st.booleans()), "decompose_both": data.draw(st.booleans())}
    layer = Linear(base, "default", LoKrConfig(init_weights=False, **fields), r=1, alpha=3)
    x = torch.randn(*data.draw(st.lists(st.integers(1, 3), max_size=2)), columns, dtype=torch.float64)
    x.requires_grad_(data.draw(st.booleans()))
    parameters = {name: p for name, p in layer.named_parameters() if p.requires_grad}

    def function(x, *values):
        given = iter(values)
        for name in parameters:  # by hand: torch.func's own way is followed by plain operations
            kind = layer.get_submodule(name.rpartition(".")[0])
            kind._parameters["default"] = next(given)
        return layer(x)

    tensors = (x, *(p.detach().clone().requires_grad_() for p in parameters.values()))
    nodes = names_of_nodes(function(*tensors))
    assert "LinearPlusChain" in nodes and "Addmm" not in nodes
    expected = nn.functional.linear(x, base.weight + layer.get_delta_weight("default"), base.bias)
    assert torch.allclose(function(*tensors), expected, rtol=1e-9, atol=1e-9)
    assert torch.autograd.gradcheck(function, tensors)
    assert torch.autograd.gradgradcheck(function, tensors, fast_mode=True)


@pytest.mark.parametrize("frozen", [False, True])
def test_an_input_that_is_not_contiguous_has_its_derivatives_too(frozen):
    torch.manual_seed(0)
    base = nn.Linear(6, 4).double().requires_grad_(not frozen)
    layer = Linear(base, "default", LoKrConfig(init_weights=False), r=1, alpha=3)
    x = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    weight = base.weight + layer.get_delta_weight("default")
    assert torch.allclose(layer(x.T), nn.functional.linear(x.T, weight, base.bias), rtol=1e-9)
    wanted = (x, *(p for name, p in layer.named_parameters() if "lokr" in name))
    second = []
    for y in (layer(x.T), layer(x.T.contiguous())):
        gradients = torch.autograd.grad(y.pow(3).sum(), wanted, create_graph=True)
        second.append(torch.autograd.grad(sum(g.square().sum() for g in gradients), wanted))
    assert all(torch.allclose(a, b, rtol=1e-9) for a, b in zip(*second, strict=True))


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


@pytest.mark.parametrize("trained", ["weight", "bias", "neither"])
def test_a_base_layer_that_is_trained_too_gets_its_gradients(trained):
    base = nn.Linear(8, 8).double().requires_grad_(False)
    layer = Linear(base, "default", LoKrConfig(init_weights=False), r=2, alpha=2)
    if trained != "neither":
        getattr(base, trained).requires_grad_()
    x = torch.randn(3, 8, dtype=torch.float64, requires_grad=True)
    wanted = [p for p in (x, *layer.parameters()) if p.requires_grad]
    found = torch.autograd.grad(layer(x).square().sum(), wanted)
    weight = base.weight + layer.get_delta_weight("default")
    expected = torch.autograd.grad(nn.functional.linear(x, weight, base.bias).square().sum(), wanted)
    assert all(torch.allclose(a, b, rtol=1e-9) for a, b in zip(found, expected, strict=True))


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
