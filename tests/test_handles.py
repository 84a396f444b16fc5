"""One list of calls walks every handle: after each call the weights, or the outputs, are those of the settings.

The same list (``handle_calls.py``) runs inside Forge (``tests/webui/in_forge.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from torch import nn

from lokr_core import (
    Adapter,
    Factor,
    Handle,
    LiveHandle,
    LoKrValueError,
    LoKrWeights,
    MergeHandle,
    attach,
    merge_adapter,
)
from tests.handle_calls import Call, calls

FIRST, SECOND = "block.0", "block.2"
FILE_NAMES = {FIRST: "block_0", SECOND: SECOND}


def make_model() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential()
    model.block = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))
    return model.double()


def make_adapter(dora: bool) -> Adapter:
    generator = torch.Generator().manual_seed(1)

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).double()

    return Adapter(
        {
            FILE_NAMES[FIRST]: LoKrWeights(
                Factor(randn(2, 2)), Factor(randn(4, 3)), 0.3, dora_scale=randn(8, 1).abs() + 0.5 if dora else None
            ),
            FILE_NAMES[SECOND]: LoKrWeights(Factor(randn(2, 4)), Factor(a=randn(2, 1), b=randn(1, 2)), 0.2),
        }
    )


@dataclass
class Walk:
    """A handle on a model of its own, and what it has to give."""

    make: Callable[..., Handle]
    dora: bool
    model: nn.Module = field(default_factory=make_model)
    x: torch.Tensor = field(default_factory=lambda: torch.randn(3, 6).double())

    def __post_init__(self):
        self.adapter = make_adapter(self.dora)
        self.base = make_model()
        self.handle = self.make(self.model, self.adapter, 0.5)

    def expected(self, strengths: tuple[float, float]) -> torch.Tensor:
        reference = make_model()
        with torch.no_grad():
            for place, strength in zip((FIRST, SECOND), strengths, strict=True):
                self.adapter[FILE_NAMES[place]].add_to_(reference.get_submodule(place).weight, strength)
        return reference(self.x)

    def check(self, call: Call) -> None:
        if call.error is None:
            call.do(self.handle)
        else:
            with pytest.raises(call.error):
                call.do(self.handle)
        output = self.model(self.x)
        if call.strengths == (0.0, 0.0):
            assert torch.equal(output, self.base(self.x)), call.what
        else:
            assert torch.allclose(output, self.expected(call.strengths), rtol=1e-10, atol=1e-12), call.what


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("make", [merge_adapter, attach])
def test_one_list_of_calls(make, dora):
    walk = Walk(make, dora)
    for call in calls(FIRST, SECOND, FILE_NAMES[FIRST]):
        walk.check(call)
    weights = walk.model.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in walk.base.state_dict().items())


@pytest.mark.parametrize("make, kind", [(merge_adapter, MergeHandle), (attach, LiveHandle)])
def test_what_a_handle_tells(make, kind):
    walk = Walk(make, False)
    with walk.handle as handle:
        assert isinstance(handle, kind) and isinstance(handle, Handle)
        assert handle.places == [FIRST, SECOND] and handle.report.complete
        assert (handle.strength, handle.enabled) == (0.5, True)
        handle.enabled = 0
        assert handle.enabled is False
    assert handle.places == [] and handle.report.complete
    assert torch.equal(walk.model(walk.x), walk.base(walk.x))


@pytest.mark.parametrize("make", [merge_adapter, attach])
@pytest.mark.parametrize("given", [{FIRST: 0.5}, {FILE_NAMES[FIRST]: 0.5}, lambda name: 0.5 if name == FIRST else 1.0])
def test_factors_from_the_start(make, given):
    walk = Walk(lambda *arguments: make(*arguments, factors=given), True)
    walk.check(Call("as made", lambda handle: None, (0.25, 0.5)))


@pytest.mark.parametrize("make", [merge_adapter, attach])
def test_factors_that_are_refused_leave_the_model_alone(make):
    model, base = make_model(), make_model()
    with pytest.raises(LoKrValueError, match="does not change"):
        make(model, make_adapter(False), 0.5, factors={"elsewhere": 1.0})
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), base.parameters(), strict=True))


def test_a_merge_takes_no_callable_strength():
    model = make_model()
    with pytest.raises(LoKrValueError, match="use attach"):
        merge_adapter(model, make_adapter(False), lambda: 0.5)
    with merge_adapter(model, make_adapter(False), 0.5) as handle:
        with pytest.raises(LoKrValueError, match="use attach"):
            handle.strength = lambda: 0.5
        assert handle.strength == 0.5


@pytest.mark.parametrize("make", [merge_adapter, attach])
def test_old_names_warn_and_act(make):
    walk = Walk(make, False)
    with pytest.warns(DeprecationWarning, match=r"handle\.strength = s"):
        walk.handle.set_strength(1.0)
    with pytest.warns(DeprecationWarning, match="set_factors"):
        walk.handle.set_strengths({FIRST: 0.5})
    walk.check(Call("as set", lambda handle: None, (0.5, 1.0)))


def test_disabling_one_merge_keeps_the_other():
    model, adapter = make_model(), make_adapter(True)
    with merge_adapter(model, adapter, 0.7):
        expected = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        with merge_adapter(model, adapter, 0.4) as handle:
            handle.enabled = False
            assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in expected.items())
