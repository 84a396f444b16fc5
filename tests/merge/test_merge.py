"""Merging changes the weights it should as it should, at any strength, and reports what became of each module."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lokr_core import Adapter, Factor, LoKrMatchError, LoKrValueError, LoKrWeights, merge_adapter
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
