"""A merge over its lifetime: removed and dropped handles, copies, models that are moved or loaded anew."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch

from lokr_core import LoKrError, merge_adapter


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
