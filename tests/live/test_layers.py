"""Every kind of layer, rows of fused weights, DoRA of every sort, several adapters: live does what merging does."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from lokr_core import Adapter, LoKrMatchError, LoKrValueError, Slot, Target, attach, merge_adapter, resolve
from tests.norms import relative

DORAS = [None, "out", "in"]


def bits(model: nn.Module) -> dict[str, bytes]:
    return {name: t.detach().contiguous().numpy().tobytes() for name, t in model.state_dict().items()}


@pytest.mark.every_pair
@pytest.mark.parametrize("dora", DORAS)
@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_model_of_every_layer(everything, index, make_adapter, seed, dora, grad):
    adapter, before = make_adapter(seed, dora), bits(everything)
    with torch.set_grad_enabled(grad):
        base = everything(index)
        for strength in (-1, 0.3, 1, 2):
            with attach(everything, adapter, strength) as handle:
                assert handle.report.headline == "7 of 7 modules applied"
                live = everything(index)
                assert bits(everything) == before
            with merge_adapter(everything, adapter, strength):
                merged = everything(index)
            assert relative(live, merged) <= 1e-10
            assert relative(live, base) > 1e-2
        assert torch.equal(everything(index), base)
    assert bits(everything) == before


@pytest.mark.every_pair
@pytest.mark.parametrize("name", ["in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"])
@pytest.mark.parametrize("dora", DORAS)
@pytest.mark.parametrize("grad", [True, False])
def test_projections_inside_attention(make_lokr, name, dora, grad):
    torch.manual_seed(0)
    sizes = {} if name == "in_proj_weight" else {"kdim": 6, "vdim": 4}
    model = nn.Sequential(nn.MultiheadAttention(8, 2, batch_first=True, **sizes)).double().eval()
    weight = getattr(model[0], name)
    target = Target(
        {f"0.{n}": tuple(t.shape) for n, t in model[0].named_parameters()}, {"file": (Slot("0", parameter=name),)}
    )
    adapter = Adapter({"file": make_lokr(tuple(weight.shape), 3, dora=dora)})
    (match,) = resolve(adapter, target)[0]
    inputs = [torch.randn(2, 5, n).double() for n in (8, sizes.get("kdim", 8), sizes.get("vdim", 8))]
    with torch.set_grad_enabled(grad):
        base = model[0](*inputs)[0]
        with attach(model, adapter, 0.7, target=target):
            live = model[0](*inputs)[0]
        before = weight.detach().clone()
        match.add_to_(weight.data, 0.7, before)
        assert relative(live, model[0](*inputs)[0]) <= 1e-12
        assert relative(live, base) > 1e-3


def test_a_transformer_layers_fast_path_does_not_pass_the_adapter_by(make_lokr):
    """torch computes a whole layer in one call where it can, from the weights, unless there are hooks."""
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).double().eval()
    x = torch.randn(2, 5, 8).double()
    adapter = Adapter(
        {
            name: make_lokr(tuple(model.get_submodule(name).weight.shape), 2)
            for name in ("linear1", "self_attn.out_proj")
        }
    )
    with torch.no_grad():
        with attach(model, adapter):
            live = model(x)
        with merge_adapter(model, adapter):
            assert relative(live, model(x)) <= 1e-12


@pytest.mark.every_pair
@pytest.mark.parametrize("kind", ["linear", "conv"])
@pytest.mark.parametrize("dora", list(itertools.product(DORAS, repeat=2)))
@pytest.mark.parametrize("grad", [True, False])
def test_rows_of_a_fused_weight_and_several_adapters_on_it(make_lokr, kind, dora, grad):
    """q, k, v into one weight, v with its halves the other way round, and a second adapter over all of it."""
    torch.manual_seed(0)
    layer = nn.Linear(8, 24) if kind == "linear" else nn.Conv2d(8, 24, 3, padding=1)
    model, x = nn.Sequential(layer).double(), torch.randn(2, 8, *([8] if kind == "linear" else [5, 6])).double()
    kernel = tuple(layer.weight.shape[2:])
    slots = {"q": Slot("0", (0, 6)), "k": Slot("0", (6, 10)), "v": Slot("0", (16, 8), swap=True)}
    target = Target({"0.weight": tuple(layer.weight.shape), "0.bias": (24,)}, {n: (s,) for n, s in slots.items()})
    fused = Adapter({n: make_lokr((s.rows[1], 8, *kernel), i, dora=dora[0]) for i, (n, s) in enumerate(slots.items())})
    whole = Adapter({"0": make_lokr((24, 8, *kernel), 7, "whole", dora[1])})
    base = layer.weight.detach().clone()
    with torch.set_grad_enabled(grad):
        with attach(model, fused, 0.6, target=target) as first, attach(model, whole, -0.4) as second:
            assert first.report.complete and second.report.complete
            live = model(x)
        matches = [(match, 0.6) for match in resolve(fused, target)[0]] + [(m, -0.4) for m in resolve(whole, target)[0]]
        for match, strength in matches:
            match.add_to_(layer.weight.data, strength, base)
        assert relative(live, model(x)) <= 1e-12


def test_a_fused_file_on_split_weights(make_lokr):
    model, x = nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 10)).double(), torch.randn(3, 8).double()
    model[1] = nn.Linear(8, 10).double()
    slots = (Slot("0", source_rows=(0, 6)), Slot("1", source_rows=(6, 10)))
    target = Target({f"{i}.weight": tuple(model[i].weight.shape) for i in (0, 1)}, {"qk": slots})
    update = make_lokr((16, 8), 4, dora="out")
    before = torch.cat([layer(x) for layer in model], -1)
    with attach(model, Adapter({"qk": update}), target=target):
        live = torch.cat([layer(x) for layer in model], -1)
    weight = torch.cat([layer.weight for layer in model]).detach()
    change = nn.functional.linear(x, update.add_to_(weight.clone()) - weight)
    assert relative(live, before + change) <= 1e-12


@pytest.mark.every_value
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("dora", list(itertools.product(DORAS, repeat=2)))
def test_adapters_add_up_and_go_in_any_order(everything, index, make_adapter, dora, order):
    adapters = [make_adapter(1, dora[0]), make_adapter(2, dora[1]), make_adapter(3)]
    plain = {name: vars(module).copy() for name, module in everything.named_modules()}
    base = everything(index)
    handles = [attach(everything, adapter, 0.4) for adapter in adapters]
    left = dict(enumerate(handles))
    for i in order:
        merges = [merge_adapter(everything, adapters[j], 0.4) for j in left]
        for handle in left.values():
            handle.enabled = False
        merged = everything(index)
        for handle, merge in zip(left.values(), merges, strict=True):
            merge.remove()
            handle.enabled = True
        assert relative(everything(index), merged) <= 1e-10
        left.pop(i).remove()
    assert torch.equal(everything(index), base)
    for name, module in everything.named_modules():
        assert vars(module).keys() == plain[name].keys()
        for hooks in (
            "_forward_hooks",
            "_forward_pre_hooks",
            "_forward_hooks_with_kwargs",
            "_forward_pre_hooks_with_kwargs",
            "_forward_hooks_always_called",
        ):
            assert not getattr(module, hooks), (name, hooks)


def test_strengths_change_at_once(everything, index, make_adapter):
    adapter, base = make_adapter(), everything(index)
    expected = {}
    for strength in (0.2, 0.9):
        with merge_adapter(everything, adapter, strength):
            expected[strength] = everything(index)
    handle = attach(everything, adapter, 0.2)
    assert relative(everything(index), expected[0.2]) <= 1e-10
    handle.strength = 0.9
    assert relative(everything(index), expected[0.9]) <= 1e-10
    handle.enabled = False
    assert torch.equal(everything(index), base)
    handle.enabled, handle.strength = True, 0
    assert torch.equal(everything(index), base)
    handle.strength = lambda: 0.2
    assert relative(everything(index), expected[0.2]) <= 1e-10
    handle.strength, handle.step = {0: 0.9, 1: 0.2, 2: 0.0}.get, 0
    for step, strength in ((0, 0.9), (1, 0.2)):
        handle.step = step
        assert relative(everything(index), expected[strength]) <= 1e-10


@pytest.mark.parametrize("dora", DORAS)
def test_a_strength_for_each_module(everything, index, make_adapter, dora):
    adapter = make_adapter(2, dora)
    handle = attach(everything, adapter, 2.0)
    factors = {"linear": 0.25, "conv1": 0.0, "up": -0.5}
    for given in (factors, lambda name: factors.get(name, 1.0)):
        handle.set_factors({})
        handle.set_factors(given)
        live = everything(index)
        handle.enabled = False
        merges = [
            merge_adapter(everything, Adapter({name: weights}), 2.0 * factors.get(name, 1.0))
            for name, weights in adapter.items()
        ]
        merged = everything(index)
        for merge in merges:
            merge.remove()
        handle.enabled = True
        assert relative(live, merged) <= 1e-10
    with pytest.raises(LoKrValueError, match="does not change") as error:
        handle.set_factors({"linear": 1.0, "no.such": 1.0})
    assert error.value.found == "no.such" and "conv1" in error.value.expected
    assert torch.equal(everything(index), live), "nothing is changed by a call that fails"


@pytest.mark.parametrize("strength", [float("nan"), float("inf"), "strong", None])
def test_a_strength_that_is_no_number(everything, make_adapter, strength):
    with pytest.raises(LoKrValueError, match="finite number"):
        attach(everything, make_adapter(), strength)
    assert not any(module._forward_hooks for module in everything.modules())
    handle = attach(everything, make_adapter(), 0.5)
    with pytest.raises(LoKrValueError, match="finite number"):
        handle.strength = strength
    assert handle.strength == 0.5


def test_a_callable_that_gives_no_number_is_an_error(everything, index, make_adapter):
    attach(everything, make_adapter(), lambda: float("nan"))
    with pytest.raises(LoKrValueError, match="finite number"):
        everything(index)


def test_what_cannot_be_followed_is_refused_with_its_reason(make_lokr):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.inner = nn.Parameter(torch.randn(4, 6)), nn.Linear(6, 4)

    model = nn.Sequential(Odd(), nn.Linear(6, 4)).double()
    with attach(model, Adapter({"0": make_lokr((4, 6)), "1": make_lokr((4, 6)), "2": make_lokr((4, 6))})) as handle:
        assert handle.places == ["1"]
        reasons = {entry.module: entry.reason for entry in handle.report.refused}
        assert "Odd with modules of its own" in reasons["0"] and reasons["2"]
    with pytest.raises(LoKrMatchError):
        attach(model, Adapter({"0": make_lokr((4, 6))}))
    assert not any(module._forward_hooks for module in model.modules())


def test_the_dora_norm_follows_the_base_weight(make_lokr):
    model, x = nn.Sequential(nn.Linear(6, 4)).double(), torch.randn(3, 6).double()
    for axis in ("out", "in"):
        adapter = Adapter({"0": make_lokr((4, 6), dora=axis)})
        with attach(model, adapter) as handle:
            for change in (lambda w: w.mul_(3), lambda w: w.data.copy_(torch.randn(4, 6)), None):
                if change is None:
                    model[0].weight = nn.Parameter(torch.randn(4, 6).double())
                else:
                    with torch.no_grad():
                        change(model[0].weight)
                live = model(x)
                handle.enabled = False
                with merge_adapter(model, adapter):
                    assert relative(live, model(x)) <= 1e-12
                handle.enabled = True
