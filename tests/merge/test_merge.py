"""Merging changes the weights it should as it should, in whatever holds them, and tells what became of each module."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
from torch import nn

from lokr_core import Adapter, Factor, LoKrError, LoKrMatchError, LoKrValueError, LoKrWeights, merge_adapter
from lokr_core.adapter import Foreign, ForeignModule, ModuleName

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def expected_weights(model: nn.Module, adapter: Adapter, strength: float) -> dict[str, torch.Tensor]:
    """Every weight after the adapter, dense and in fp64."""
    weights = {name: tensor.double().clone() for name, tensor in model.state_dict().items()}
    for module, update in adapter.items():
        w = weights[f"{module}.weight"]
        fitted = update.fit(tuple(w.shape))
        after = w + fitted.delta(torch.float64)
        if update.dora_axis:
            axes = [axis for axis in range(w.ndim) if axis != (0 if update.dora_axis == "out" else 1)]
            magnitude = update.dora_scale.double().reshape([-1 if i not in axes else 1 for i in range(w.ndim)])
            after = after * magnitude / torch.linalg.vector_norm(after, dim=axes, keepdim=True)
        weights[f"{module}.weight"] = w + strength * (after - w)
    return weights


def holders(model: nn.Module) -> dict[str, object]:
    return {"module": model, "state_dict": model.state_dict(), "dict": dict(model.named_parameters())}


@pytest.mark.every_pair
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("strength", [1.0, 0.3, -1.5])
@pytest.mark.parametrize("holder", ["module", "state_dict", "dict"])
def test_every_weight_is_what_it_should_be_and_then_what_it_was(make_model, adapter, bits, holder, strength, dtype):
    model = make_model(dtype)
    before, expected = bits(model), expected_weights(model, adapter, strength)
    handle = merge_adapter(holders(model)[holder], adapter, strength)
    for name, tensor in model.state_dict().items():
        tolerance = 4 * torch.finfo(dtype).eps
        assert torch.allclose(tensor.double(), expected[name], rtol=tolerance, atol=tolerance), name
        assert (bits({name: tensor})[name] == before[name]) == (name.removesuffix(".weight") not in adapter), name
    assert handle.report.complete and handle.report.headline == "5 of 5 modules applied"
    handle.remove()
    assert bits(model) == before


@pytest.mark.parametrize("holder", ["module", "state_dict", "dict"])
def test_a_context_manager_puts_the_weights_back_also_after_an_exception(model, adapter, bits, holder):
    before = bits(model)
    with merge_adapter(holders(model)[holder], adapter):
        assert bits(model) != before
    assert bits(model) == before
    with pytest.raises(ZeroDivisionError), merge_adapter(model, adapter):
        raise ZeroDivisionError
    assert bits(model) == before


def test_two_adapters_add_what_each_does_to_the_base(model, make_adapter):
    """Also with DoRA, whose change depends on the weight it is made to."""
    first, second = make_adapter(1), make_adapter(2)
    base = {name: tensor.double().clone() for name, tensor in model.state_dict().items()}
    changed1, changed2 = expected_weights(model, first, 0.5), expected_weights(model, second, 0.8)
    with merge_adapter(model, first, 0.5), merge_adapter(model, second, 0.8):
        for name, tensor in model.state_dict().items():
            assert torch.allclose(tensor.double(), changed1[name] + changed2[name] - base[name], atol=1e-5), name


def test_strength_0_is_the_base(model, adapter, bits):
    before = bits(model)
    with merge_adapter(model, adapter, 0) as handle:
        assert bits(model) == before
        handle.strength = 1
        assert bits(model) != before
        handle.strength = 0
        assert bits(model) == before


def test_a_new_strength_is_merging_at_that_strength(model, adapter, bits):
    with merge_adapter(model, adapter, 0.7):
        expected = bits(model)
    with merge_adapter(model, adapter, -2.0) as handle:
        handle.strength = "0.7"
        assert handle.strength == 0.7
        assert bits(model) == expected


@pytest.mark.parametrize("strength", [float("nan"), float("inf"), "much", None])
def test_a_strength_that_is_no_number_changes_nothing(model, adapter, bits, strength):
    with merge_adapter(model, adapter, 0.7) as handle:
        merged = bits(model)
        with pytest.raises(LoKrValueError):
            handle.strength = strength
        assert handle.strength == 0.7 and bits(model) == merged


def test_a_removed_handle_cannot_change_the_model(model, adapter, bits):
    before = bits(model)
    handle = merge_adapter(model, adapter)
    handle.remove()
    assert bits(model) == before
    with torch.no_grad():
        model.linear.weight.add_(1)
    trained = bits(model)
    handle.remove()
    with pytest.raises(LoKrError, match="removed"):
        handle.strength = 0.5
    assert bits(model) == trained


def test_signed_zeros_and_nans_come_back_as_they_were(model, adapter, bits):
    with torch.no_grad():
        weight = model.linear.weight.view(-1).view(torch.int32)
        weight[:3] = torch.tensor([-(2**31), 0x7FC12345, 0x7F800000])  # -0.0, a NaN with a payload, Inf
    before = bits(model)
    merge_adapter(model, adapter).remove()
    assert bits(model) == before


def test_nothing_matches(model, bits):
    before = bits(model)
    adapter = Adapter({"elsewhere": LoKrWeights(Factor(torch.ones(2, 2)), Factor(torch.ones(2, 2)))})
    with pytest.raises(LoKrMatchError) as error:
        merge_adapter(model, adapter)
    for said in ("None of the 1 modules", "modules such as elsewhere", "no such weight", "what to do: use the adapter"):
        assert said in str(error.value)
    assert bits(model) == before


def test_a_partial_match_is_merged_and_the_rest_refused_with_reasons(model, make_adapter, bits):
    some = make_adapter(1, ["linear", "block.0"])
    square = LoKrWeights(Factor(torch.ones(2, 2)), Factor(torch.ones(2, 2)))
    lora = Foreign(modules={"x": ForeignModule("LoRA", ModuleName("x", "x"))})
    adapter = Adapter({**some, "conv1": square, "no.where": square}, foreign=lora)
    with merge_adapter(model, some):
        expected = bits(model)
    with merge_adapter(model, adapter) as handle:
        assert bits(model) == expected
        report = handle.report
        assert [(e.module, e.where) for e in report.applied] == [
            ("linear", "linear.weight"), ("block.0", "block.0.weight")
        ]  # fmt: skip
        reasons = {entry.module: f"{entry.reason} {entry.detail}".strip() for entry in report.refused}
        assert "(4, 3, 3)" in reasons["conv1"] and "(4, 4)" in reasons["conv1"]
        assert reasons["no.where"] == "no such weight in this model" and reasons["x"].startswith("LoRA is not LoKr")
        assert not report.complete


def test_entries_of_a_dict_that_are_no_weights_are_left_alone(model, adapter, bits):
    weights = {**model.state_dict(), "step": 3, "name": "x", "nothing": None, "scalar": torch.tensor(1.0),
               "sparse": torch.eye(3).to_sparse(), "empty": torch.zeros(0, 3)}  # fmt: skip
    before = bits(model)
    with merge_adapter(weights, adapter) as handle:
        assert handle.report.complete and weights["step"] == 3
    assert bits(model) == before


def test_non_contiguous_weights(model, adapter, bits):
    weights = dict(model.state_dict())
    with merge_adapter(weights, adapter):
        expected = {name: tensor.clone() for name, tensor in weights.items()}
    views = {}
    for name, tensor in weights.items():
        reverse = list(range(tensor.ndim))[::-1]
        views[name] = tensor.permute(reverse).contiguous().permute(reverse)
        buffer = torch.zeros(2 * tensor.shape[0], *tensor.shape[1:])
        views[name + "x"] = buffer[::2].copy_(tensor)
    assert not views["conv3.weight"].is_contiguous() and not views["conv3.weightx"].is_contiguous()
    strided = {name: views[name + "x"] for name in weights}
    for held in ({name: views[name] for name in weights}, strided):
        before = bits(held)
        with merge_adapter(held, adapter):
            assert all(torch.allclose(held[name], expected[name], atol=1e-6) for name in weights)
        assert bits(held) == before


def test_gradients_flow_around_a_merge(model, adapter):
    assert all(parameter.requires_grad for parameter in model.parameters())
    x = torch.randn(2, 6)
    with merge_adapter(model, adapter):
        assert all(parameter.requires_grad and parameter.is_leaf for parameter in model.parameters())
        model.linear(x).sum().backward()
    assert model.linear.weight.grad is not None


@pytest.mark.parametrize("merged_in_inference_mode", [True, False])
@pytest.mark.parametrize("made_in_inference_mode", [True, False])
def test_inference_mode(make_model, adapter, bits, made_in_inference_mode, merged_in_inference_mode):
    with torch.inference_mode(made_in_inference_mode):
        model = make_model()
        weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert weights["linear.weight"].is_inference() == made_in_inference_mode
    for held in (model, weights):
        before = bits(held)
        with torch.inference_mode(merged_in_inference_mode):
            handle = merge_adapter(held, adapter)
        assert bits(held) != before
        handle.strength = 0.5
        with torch.inference_mode(not merged_in_inference_mode):
            handle.strength = 0.7
            handle.remove()
        assert bits(held) == before


@pytest.mark.parametrize("as_dict", [True, False])
@pytest.mark.parametrize("named", [["first"], ["second"], ["first", "second"]])
def test_tied_weights_are_changed_once_under_any_of_their_names_and_the_report_says_so(bits, named, as_dict):
    model = nn.Sequential()
    model.first, model.second = nn.Linear(4, 4), nn.Linear(4, 4)
    model.second.weight = model.first.weight
    update = LoKrWeights(Factor(torch.eye(2)), Factor(torch.ones(2, 2)))
    before, original = bits(model), model.first.weight.detach().clone()
    with merge_adapter(model.state_dict() if as_dict else model, Adapter(dict.fromkeys(named, update))) as handle:
        assert handle.report.complete
        assert torch.allclose(model.first.weight, original + len(named) * update.delta())
        assert model.second.weight is model.first.weight
        assert "first.weight = second.weight" in handle.report.text()
    assert bits(model) == before


def test_no_note_on_sharing_where_nothing_shared_is_changed(make_adapter, model):
    model.twin = nn.Linear(6, 8)
    model.twin2 = model.twin
    with merge_adapter(model, make_adapter(1)) as handle:
        assert handle.report.notes == []


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.complex64])
def test_a_quantised_weight_is_refused_by_module_and_the_others_put_back(model, adapter, bits, dtype):
    weights = dict(model.state_dict())
    weights["conv3.weight"] = torch.ones(4, 4, 3, 1, 2).to(dtype)
    adapter.path = "file.safetensors"
    before = bits(weights)
    with pytest.raises(LoKrValueError) as error:
        merge_adapter(weights, adapter)
    for said in ("file: file.safetensors", "module: conv3", str(dtype).removeprefix("torch."), "what to do: "):
        assert said in str(error.value)
    assert bits(weights) == before


def test_a_weight_that_is_not_loaded_is_refused(model, adapter, bits):
    model.conv3.to("meta")
    before = bits({"linear.weight": model.linear.weight})
    with pytest.raises(LoKrValueError, match="meta") as error:
        merge_adapter(model, adapter)
    assert error.value.module == "conv3"
    assert bits({"linear.weight": model.linear.weight}) == before


def test_a_copy_of_a_merged_model_is_a_model_of_its_own(model, adapter, bits):
    before = bits(model)
    handle = merge_adapter(model, adapter)
    merged = bits(model)
    other = copy.deepcopy(model)
    handle.remove()
    assert bits(model) == before and bits(other) == merged
    with merge_adapter(other, adapter):
        assert bits(other) != merged and bits(model) == before
    assert bits(other) == merged


def test_a_dropped_handle_leaves_the_weights_merged_and_nothing_behind(make_model, adapter, bits):
    model = make_model()
    handle = merge_adapter(model, adapter)
    merged = bits(model)
    dropped = weakref.ref(handle)
    del handle
    gc.collect()
    assert dropped() is None and bits(model) == merged
    with merge_adapter(model, adapter):
        assert bits(model) != merged
    assert bits(model) == merged, "what was merged for good is the base now"
    gone = [weakref.ref(model), *map(weakref.ref, model.parameters())]
    del model
    gc.collect()
    assert not any(ref() is not None for ref in gone)


def test_a_handle_dropped_while_another_lives_stays_in_force(model, adapter, make_adapter, bits):
    before = bits(model)
    with merge_adapter(model, adapter):
        alone = bits(model)
    merge_adapter(model, adapter)
    gc.collect()
    assert bits(model) == alone
    other = merge_adapter(model, make_adapter(2))
    other.remove()
    assert bits(model) == alone != before


def test_a_model_moved_while_merged(make_model, adapter, make_adapter, bits):
    """``model.to`` gives parameters new memory; they are the same weights still, and others may get the old memory."""
    model, other = make_model(), make_model()
    handle = merge_adapter(model, adapter)
    model.double()
    second = merge_adapter(model.state_dict(), make_adapter(2))
    handle.remove()
    second.remove()
    assert bits(model) == bits(make_model().double())
    handle = merge_adapter(model, adapter)
    for parameter, taker in zip(model.parameters(), other.parameters(), strict=True):
        old = parameter.data
        parameter.data = old.clone()
        taker.data = old.float()
        taker.data = old  # memory that was merged into is another weight's now
    taken = bits(other)
    with merge_adapter(other, make_adapter(3)):
        assert bits(other) != taken
    assert bits(other) == taken
    handle.remove()
    assert bits(model) == bits(make_model().double())


def test_each_module_can_have_a_strength_of_its_own(make_model, adapter, bits):
    model = make_model(torch.float32)
    first = next(iter(adapter))
    before, whole, other = bits(model), make_model(torch.float32), make_model(torch.float32)
    merge_adapter(whole, adapter, 0.5)
    merge_adapter(other, adapter, -0.25)
    handle = merge_adapter(model, adapter, 0.5, factors=lambda module: float(module != first))
    for name, changed in bits(model).items():
        assert changed == (before if name == f"{first}.weight" else bits(whole))[name], name
    handle.set_factors(lambda module: -0.5 if module == first else 1.0)
    for name, changed in bits(model).items():
        assert changed == bits(other if name == f"{first}.weight" else whole)[name], name
    with pytest.raises(LoKrValueError):
        handle.set_factors(lambda module: float("nan"))
    handle.set_factors(None)
    assert bits(model) == bits(whole)
    handle.remove()
    assert bits(model) == before


def test_weights_that_were_loaded_anew_are_left_as_they_are(make_model, adapter, bits):
    model = make_model(torch.float32)
    handle = merge_adapter(model, adapter)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.5)
    loaded = bits(model)
    handle.forget()
    handle.remove()
    assert bits(model) == loaded
    with merge_adapter(model, adapter):
        assert bits(model) != loaded
    assert bits(model) == loaded
