"""Through the weight: the layer's own forward runs on W', which nothing else ever sees."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lokr_core import Adapter, attach
from lokr_core.kronecker import _scratch as scratch
from lokr_core.live import FACTORED, THROUGH, forced
from tests.live.through import clean, expected
from tests.norms import relative


def ways(handle) -> set[str]:
    return {layer.way for layer in handle.plan()}


@pytest.mark.usefixtures("through")
def test_the_operation_gets_the_weight_and_the_module_keeps_its_own(layer, adapter, x):
    class Seen(nn.Linear):
        def forward(self, x):
            assert torch.equal(self.weight, before)
            return F.linear(x, self.weight, self.bias)

    layer.__class__ = Seen
    before, version = layer.weight.clone(), layer.weight._version
    with attach(nn.Sequential(layer), adapter, 0.5) as handle:
        assert relative(layer(x), expected(layer, adapter, x, 0.5)) <= 1e-12
        assert ways(handle) == {THROUGH}
    assert layer.weight._version == version and torch.equal(layer.weight, before) and clean()


@pytest.mark.usefixtures("through")
def test_the_weight_as_the_host_hands_it_over(layer, adapter, x):
    """Cast, patched, dequantised: whatever the layer's forward makes of its weight gets the update."""

    class Cast(nn.Linear):
        def forward(self, x):
            return F.linear(x, self.weight.double() * 3, bias=self.bias.double())

    expect = F.linear(x, layer.weight * 3 + 0.5 * adapter["0"].delta(torch.float64), layer.bias)
    layer.__class__ = Cast
    with attach(nn.Sequential(layer), adapter, 0.5) as handle:
        assert relative(layer(x), expect) <= 1e-12
        assert ways(handle) == {THROUGH}


@pytest.mark.usefixtures("through")
def test_a_layer_that_multiplies_twice_by_one_weight(layer, adapter, x):
    class Halves(nn.Linear):
        def forward(self, x):
            a, b = x.tensor_split(2)
            return torch.cat([F.linear(a, self.weight, self.bias), F.linear(b, weight=self.weight, bias=self.bias)])

    layer.__class__ = Halves
    with attach(nn.Sequential(layer), adapter, 0.5):
        assert relative(layer(x), expected(layer, adapter, x, 0.5)) <= 1e-12


@pytest.mark.usefixtures("through")
def test_an_unknown_operation_is_factored_from_then_on(layer, adapter, x):
    class Own(nn.Linear):
        def forward(self, x):
            return x @ self.weight.T + self.bias

    layer.__class__ = Own
    expect = expected(layer, adapter, x, 0.5)
    with attach(nn.Sequential(layer), adapter, 0.5) as handle:
        for _ in range(2):
            assert relative(layer(x), expect) <= 1e-12
            assert clean()
        with forced(None):
            assert ways(handle) == {FACTORED}


@pytest.mark.usefixtures("through")
@pytest.mark.parametrize("dora", ["out", "in"])
def test_an_unknown_operation_with_dora(layer, make_lokr, x, dora):
    from tests.live.merged import merged_output

    class Own(nn.Linear):
        def forward(self, x):
            return x @ self.weight.T + self.bias

    adapter, model = Adapter({"0": make_lokr((12, 8), dora=dora)}), nn.Sequential(layer)
    expect = merged_output(model, adapter, x, 0.5)
    layer.__class__ = Own
    with attach(model, adapter, 0.5):
        for _ in range(2):
            assert relative(layer(x), expect) <= 1e-10


@pytest.mark.usefixtures("through")
def test_nested_calls_of_equal_layers(make_lokr, x):
    """A layer calls another of its shape, each with an adapter of its own: neither takes the other's operation."""

    class Outer(nn.Linear):
        def forward(self, x):
            return F.linear(self.inner(x), self.weight, self.bias)

    torch.manual_seed(0)
    outer = Outer(8, 8).double()
    outer.inner = nn.Linear(8, 8).double()
    x = torch.randn(5, 8).double()
    both = Adapter({name: make_lokr((8, 8), seed) for seed, name in enumerate(("0", "0.inner"))})
    inner_weight = outer.inner.weight + both["0.inner"].delta(torch.float64)
    y = F.linear(x, inner_weight, outer.inner.bias)
    expect = F.linear(y, outer.weight + both["0"].delta(torch.float64), outer.bias)
    for names in (("0", "0.inner"), ("0",), ("0.inner",)):
        with attach(nn.Sequential(outer), Adapter({name: both[name] for name in names})):
            found = outer(x)
            assert clean()
        if len(names) == 2:
            assert relative(found, expect) <= 1e-12
    weights = {"0": outer.weight + both["0"].delta(torch.float64), "0.inner": outer.inner.weight}
    with attach(nn.Sequential(outer), Adapter({"0": both["0"]})):
        y = F.linear(x, weights["0.inner"], outer.inner.bias)
        assert relative(outer(x), F.linear(y, weights["0"], outer.bias)) <= 1e-12


@pytest.mark.parametrize("dora", ["out", "in"])
def test_what_another_adds_in_the_layers_forward_is_left_alone_either_way(layer, make_lokr, x, dora):
    """ComfyUI's bypass adds to the output within the layer's forward; DoRA scales W and ΔW, not that."""

    class Bypass(nn.Linear):
        def forward(self, x):
            return F.linear(x, self.weight, self.bias) + x.sin().sum(-1, keepdim=True)

    from tests.live.merged import merged_output

    adapter, model = Adapter({"0": make_lokr((12, 8), dora=dora)}), nn.Sequential(layer)
    layer.__class__ = Bypass
    expect = merged_output(model, adapter, x, 0.5)
    with attach(model, adapter, 0.5), torch.no_grad():
        for way in (FACTORED, THROUGH) if dora == "out" else (THROUGH,):
            with forced(way):
                assert relative(layer(x), expect) <= 1e-10, way


@pytest.mark.usefixtures("through")
def test_threads_at_strengths_of_their_own(layer, adapter, x):
    """One module, eight threads: each sees its own strength, and a thread without any sees the base."""
    strength, failures = threading.local(), []
    base = layer(x)

    def run(number: int) -> None:
        strength.now = number / 8
        with torch.no_grad():
            for _ in range(50):
                if relative(layer(x), expected(layer, adapter, x, number / 8)) > 1e-12:
                    failures.append(number)

    with attach(nn.Sequential(layer), adapter, lambda: strength.now):
        threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures and torch.equal(layer(x), base)


@pytest.mark.usefixtures("through")
def test_a_deep_copy_goes_its_own_way(layer, adapter, x):
    model = nn.Sequential(layer)
    with attach(model, adapter, 0.5) as handle:
        twin = copy.deepcopy(model)
        handle.strength = 2.0
        assert relative(twin(x), expected(layer, adapter, x, 0.5)) <= 1e-12
        assert relative(model(x), expected(layer, adapter, x, 2.0)) <= 1e-12


def test_gradients_keep_to_the_factors(layer, adapter, x):
    with attach(nn.Sequential(layer), adapter, 0.5) as handle, forced(THROUGH):
        layer(x).sum().backward()
        assert handle.plan() == []


@pytest.mark.usefixtures("through")
def test_the_scratch_is_one_buffer_and_goes_with_the_handle(layer, adapter, x):
    scratch.release_scratch()
    with attach(nn.Sequential(layer), adapter, 0.5) as handle:
        for _ in range(3):
            layer(x)
        assert [flat.numel() for flat in scratch._free[torch.float64]] == [layer.weight.numel()]
        handle.enabled = False
        assert not scratch._free


@pytest.mark.usefixtures("through")
def test_inside_and_outside_inference_mode(layer, adapter, x):
    scratch.release_scratch()
    with attach(nn.Sequential(layer), adapter, 0.5):
        with torch.inference_mode():
            inside = layer(x)
        assert torch.equal(layer(x), inside)
