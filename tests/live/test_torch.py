"""Attached adapters under what else torch does with models: copies, pickles, threads, replicas, dtypes."""

from __future__ import annotations

import copy
import gc
import io
import threading
import weakref

import pytest
import torch
from torch import nn

from lokr_core import LiveHandle, attach
from tests.live.merged import merged_output
from tests.norms import relative

DORAS = [None, "out", "in"]


def factors_of(model: nn.Module) -> int:
    """How many sets of factors the attached adapters hold for devices and dtypes."""
    return sum(len(part._factors) for handle in LiveHandle.of(model) for _, part in handle._sites)


@pytest.mark.parametrize("dora", DORAS)
def test_a_deep_copy_has_the_adapter_and_its_own_strength(everything, index, make_adapter, dora):
    adapter = make_adapter(2, dora)
    base = everything(index)
    handle = attach(everything, adapter, 0.5)
    expected = everything(index)
    twin = copy.deepcopy(everything)
    (own,) = LiveHandle.of(twin)
    assert own.places == handle.places and own.strength == 0.5
    assert torch.equal(twin(index), expected)
    handle.strength = 2
    assert torch.equal(twin(index), expected)
    own.strength = -1
    assert relative(twin(index), merged_output(twin, adapter, index, -1)) <= 1e-10
    handle.remove()
    assert torch.equal(everything(index), base)
    assert relative(twin(index), base) > 1e-2
    own.remove()
    assert torch.equal(twin(index), base)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in twin.modules())


def test_a_copy_of_one_layer_takes_no_other_along(everything, make_adapter):
    handle = attach(everything, make_adapter())
    memo: dict = {}
    layer = copy.deepcopy(everything.linear, memo)
    assert not any(isinstance(made, nn.Conv1d) for made in memo.values())
    (own,) = LiveHandle.of(layer)
    x = torch.randn(3, 8).double()
    assert torch.equal(layer(x), everything.linear(x))
    own.remove()
    handle.remove()
    assert torch.equal(layer(x), everything.linear(x))


@pytest.mark.parametrize("dora", DORAS)
def test_a_model_is_saved_and_loaded_with_its_adapter(everything, index, make_adapter, dora):
    attach(everything, make_adapter(2, dora), 0.5)
    expected = everything(index)
    file = io.BytesIO()
    torch.save(everything, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(index), expected)


def test_a_state_dict_knows_nothing_of_it(everything, make_adapter):
    names = list(everything.state_dict())
    with attach(everything, make_adapter()):
        assert list(everything.state_dict()) == names


@pytest.mark.parametrize("dora", DORAS)
def test_threads_that_share_a_model_and_threads_that_have_their_own(everything, index, make_adapter, dora):
    adapter, twin = make_adapter(2, dora), copy.deepcopy(everything)
    one, two = attach(everything, adapter, 0.5), attach(twin, adapter, -1)
    expected = {}
    for name, model in (("one", everything), ("two", twin)):
        with torch.no_grad():
            expected[name] = model(index)
    one.release()
    two.release()
    wrong = []

    def work(name, model):
        for _ in range(20):
            with torch.no_grad():
                if not torch.equal(model(index), expected[name]):
                    wrong.append(name)

    threads = [threading.Thread(target=work, args=a) for a in (("one", everything), ("two", twin)) * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("dora", DORAS)
def test_a_replica_computes_with_its_own_tensors(everything, index, make_adapter, dora):
    """What ``nn.DataParallel`` does for each device: a shallow copy of every module, with weights of its own."""
    adapter = make_adapter(2, dora)
    attach(everything, adapter, 0.5)
    originals = list(everything.named_modules())
    replicas = {name: module._replicate_for_data_parallel() for name, module in originals}
    for name, module in originals:
        for child in module._modules:
            replicas[name]._modules[child] = replicas[f"{name}.{child}" if name else child]
        for key, parameter in module._parameters.items():
            # A replica's weights are no parameters, but results of copying them.
            setattr(replicas[name], key, None if parameter is None else parameter * 1.5)
    live = replicas[""](index)
    with torch.no_grad():
        for parameter in everything.parameters():
            parameter.mul_(1.5)
    assert relative(live, merged_output(everything, adapter, index, 0.5)) <= 1e-10


@pytest.mark.parametrize("dora", DORAS)
def test_factors_made_under_inference_mode_serve_a_backward_later(everything, make_adapter, dora):
    handle = attach(everything, make_adapter(2, dora), 0.5)
    x = torch.randn(3, 8).double()
    with torch.inference_mode():
        expected = everything.linear(x)
    assert factors_of(everything) > 0
    x.requires_grad_()
    y = everything.linear(x)
    assert relative(y, expected) <= 1e-12
    y.sum().backward()
    assert x.grad is not None
    handle.remove()
    with torch.inference_mode():
        model = copy.deepcopy(everything)
        adapter = make_adapter(2, dora)
        with attach(model, adapter, 0.5):
            assert relative(model.linear(x), expected) <= 1e-12


@pytest.mark.parametrize("dora", DORAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_inputs_dtype_is_followed(everything, index, make_adapter, dora, dtype):
    adapter = make_adapter(1, dora)
    with attach(everything, adapter, 0.5):
        expected = everything.linear(torch.ones(3, 8).double())
    model = everything.to(dtype)
    with attach(model, adapter, 0.5), torch.no_grad():
        found = model.linear(torch.ones(3, 8, dtype=dtype))
        assert found.dtype == dtype
        assert relative(found.double(), expected) <= 8 * torch.finfo(dtype).eps
        assert model(index).dtype == dtype


@pytest.mark.parametrize("dora", DORAS)
@pytest.mark.parametrize("grad", [True, False])
def test_under_autocast_the_outputs_dtype_is_followed(everything, make_adapter, dora, grad):
    model = everything.float()
    x = torch.ones(3, 8)
    with attach(model, make_adapter(1, dora), 0.5) as handle, torch.set_grad_enabled(grad):
        expected = model.linear(x)
        with torch.autocast("cpu", torch.bfloat16):
            found = model.linear(x)
            handle.enabled = False
            assert found.dtype == model.linear(x).dtype == torch.bfloat16
    assert relative(found.float(), expected) <= 8 * torch.finfo(torch.bfloat16).eps


def test_factors_are_cast_once_and_let_go(everything, index, make_adapter):
    handle = attach(everything, make_adapter())
    assert factors_of(everything) == 0
    everything(index)
    made = factors_of(everything)
    everything(index)
    assert factors_of(everything) == made > 0
    handle.release()
    assert factors_of(everything) == 0
    everything(index)
    part = handle._sites[2][1]
    factor = weakref.ref(next(iter(part._factors.values()))[0][0])
    handle.remove()
    del part
    gc.collect()
    assert factor() is None


def test_a_forward_of_someone_elses_on_the_instance(everything, make_adapter):
    """accelerate, ComfyUI and others put a forward on a module; theirs and ours come and go in any order."""
    layer, x = everything.linear, torch.randn(3, 8).double()
    base = layer(x)
    handle = attach(everything, make_adapter(), 0.5)
    change = layer(x) - base
    theirs = layer.forward
    layer.forward = lambda x: theirs(x) * 2
    assert torch.allclose(layer(x), 2 * base + change)
    handle.remove()
    assert torch.equal(layer(x), 2 * base)
    handle = attach(everything, make_adapter(), 0.5)
    del layer.forward
    assert torch.allclose(layer(x), base + change)
    handle.remove()
    assert torch.equal(layer(x), base)


def test_an_input_passed_by_name(everything, make_adapter):
    x = torch.randn(3, 8).double()
    for dora in DORAS:
        with attach(everything, make_adapter(1, dora)):
            assert torch.equal(everything.linear(input=x), everything.linear(x))
