"""Adapters merged, changed, interrupted and removed in any order: the base comes back bit for bit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lokr_core import LoKrWeights, merge_adapter

HALVES = [
    ["linear", "block.0", "block.1", "conv1", "conv3"],
    ["linear", "block.0", "conv3"],
    ["block.0", "block.1"],
]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]

strengths = st.sampled_from([0.0, 0.5, 1.0, -1.3])
steps = st.lists(st.tuples(st.sampled_from(["merge", "strength", "remove"]), st.integers(0, 2), strengths), max_size=12)


@given(steps=steps, last=st.permutations([0, 1, 2]), dtype=st.sampled_from(DTYPES), through=st.permutations([0, 1, 2]))
def test_any_order_of_merging_changing_and_removing(make_model, make_adapter, bits, steps, last, dtype, through):
    """Each adapter goes in through another door: the module, its state dict, a dict of its parameters."""
    model = make_model(dtype)
    doors = [lambda: model, model.state_dict, lambda: dict(model.named_parameters())]
    before = bits(model)
    handles = {}
    for step, which, strength in steps:
        if step == "merge" and which not in handles:
            adapter = make_adapter(which, HALVES[which])
            handles[which] = merge_adapter(doors[through[which]](), adapter, strength)
        elif step == "strength" and which in handles:
            handles[which].strength = strength
        elif step == "remove" and which in handles:
            handles.pop(which).remove()

    # What is merged now, merged anew into a fresh model in the same order, is the same to the last bit.
    fresh = make_model(dtype)
    anew = [merge_adapter(fresh, make_adapter(which, HALVES[which]), handles[which].strength) for which in handles]
    assert bits(model) == bits(fresh)

    for which in last:
        if which in handles:
            handles.pop(which).remove()
    assert bits(model) == before
    for handle in anew:
        handle.remove()
    assert bits(fresh) == before


def test_the_same_adapter_twice(model, adapter, bits):
    before = bits(model)
    first = merge_adapter(model, adapter)
    once = bits(model)
    second = merge_adapter(model, adapter)
    assert bits(model) != once
    first.remove()
    assert bits(model) == once
    second.remove()
    assert bits(model) == before


def test_nested_contexts_left_in_the_wrong_order(model, adapter, make_adapter, bits):
    before = bits(model)
    first, second = merge_adapter(model, adapter), merge_adapter(model, make_adapter(2))
    with first:
        second.strength = 0.25
    with second:
        assert bits(model) != before
    assert bits(model) == before


def test_weights_that_share_memory_in_part(adapter, bits):
    """A fused weight and a view of its rows in one dict."""
    fused = torch.randn(16, 6)
    weights = {"linear.weight": fused[:8], "linear2.weight": fused[4:12], "other.weight": fused}
    update = adapter["linear"]
    both = type(adapter)({"linear": update, "linear2": update})
    before = bits(weights)
    merge_adapter(weights, both).remove()
    assert bits(weights) == before


class Interrupt:
    """Makes the ``at``-th addition of an update raise, once or ever after, half done."""

    def __init__(self, monkeypatch, problem: type[BaseException]):
        self.problem, self.left, self.times, self.original = problem, None, 0, LoKrWeights.add_to_
        interrupt = self

        def add_to_(weights, weight, strength=1.0, base=None):
            if interrupt.left is not None:
                interrupt.left -= 1
                if interrupt.left < 0 and interrupt.times > 0:
                    interrupt.times -= 1
                    weight[: len(weight) // 2].fill_(7)
                    raise interrupt.problem("stop")
            return interrupt.original(weights, weight, strength, base)

        monkeypatch.setattr(LoKrWeights, "add_to_", add_to_)

    def arm(self, at: int, times: int = 1) -> None:
        self.left, self.times = at, times


PROBLEMS = [KeyboardInterrupt, RuntimeError, SystemExit, MemoryError]


@pytest.fixture(params=PROBLEMS, ids=lambda problem: problem.__name__)
def interrupt(request, monkeypatch):
    return Interrupt(monkeypatch, request.param)


@pytest.mark.parametrize("at", range(5))
def test_merging_interrupted_half_way(model, adapter, bits, interrupt, at):
    before = bits(model)
    interrupt.arm(at)
    with pytest.raises(interrupt.problem):
        merge_adapter(model, adapter)
    assert bits(model) == before
    with merge_adapter(model, adapter):
        assert bits(model) != before
    assert bits(model) == before


@pytest.mark.parametrize("at", range(5))
def test_merging_a_second_interrupted_leaves_the_first(model, adapter, make_adapter, bits, interrupt, at):
    before = bits(model)
    with merge_adapter(model, adapter):
        first = bits(model)
        interrupt.arm(2 * at + 1)  # each weight's refresh adds the first anew, then the second
        with pytest.raises(interrupt.problem):
            merge_adapter(model, make_adapter(2))
        assert bits(model) == first
    assert bits(model) == before


@pytest.mark.parametrize("at", range(5))
def test_a_change_of_strength_interrupted_leaves_the_former(model, adapter, bits, interrupt, at):
    before = bits(model)
    with merge_adapter(model, adapter, 0.5) as handle:
        merged = bits(model)
        interrupt.arm(at)
        with pytest.raises(interrupt.problem):
            handle.strength = 2.0
        assert handle.strength == 0.5 and bits(model) == merged
        handle.strength = 2.0
        assert bits(model) != merged
    assert bits(model) == before


@pytest.mark.parametrize("at", range(5))
def test_a_removal_interrupted_is_finished_first(model, adapter, make_adapter, bits, monkeypatch, at):
    interrupt = Interrupt(monkeypatch, KeyboardInterrupt)
    first, second = merge_adapter(model, adapter), merge_adapter(model, make_adapter(2))
    second.strength = 0
    first_alone = bits(model)
    second.strength = 1
    interrupt.arm(at, times=3)  # an impatient user
    with pytest.raises(KeyboardInterrupt):
        second.remove()
    assert bits(model) == first_alone
    first.remove()


def test_a_removal_that_fails_for_one_weight_finishes_the_others_and_can_be_tried_again(
    make_model, make_adapter, bits, monkeypatch
):
    interrupt = Interrupt(monkeypatch, RuntimeError)
    model = make_model()
    first, second = merge_adapter(model, make_adapter(1)), merge_adapter(model, make_adapter(2))
    interrupt.arm(0)
    with pytest.raises(RuntimeError):
        second.remove()
    second.remove()
    fresh = make_model()
    merge_adapter(fresh, make_adapter(1))
    assert bits(model) == bits(fresh)
    first.remove()
    assert bits(model) == bits(make_model())
