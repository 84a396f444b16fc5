"""The autograd function's first and second derivatives are exact, whatever the factors, the layer and the input are."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from lokr_core import Factor, LoKrConfig
from lokr_core.kronecker import F_CONV, materialize
from lokr_core.trainable import plus_update
from lokr_core.tuner import Linear

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
