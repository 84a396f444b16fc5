"""One list of calls walks every handle: after each call the weights, or the outputs, are those of the settings.

The same list runs inside Forge (``tests/webui/in_forge.py``).
"""

from __future__ import annotations

import math
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
    LoKrError,
    LoKrValueError,
    LoKrWeights,
    MergeHandle,
    attach,
    merge_adapter,
)

FIRST, SECOND = "block.0", "block.2"
FILE_NAMES = {FIRST: "block_0", SECOND: SECOND}
NAN = math.nan


@dataclass(frozen=True)
class Call:
    """What is done to a handle, the strengths of ``FIRST`` and ``SECOND`` after it, and the error that it raises."""

    what: str
    do: Callable[[Handle], object]
    strengths: tuple[float, float]
    error: type[Exception] | None = None


def assign(name: str, value: object) -> Callable[[Handle], object]:
    return lambda handle: setattr(handle, name, value)


def factors(value: object) -> Callable[[Handle], object]:
    return lambda handle: handle.set_factors(value)


def calls(first: str, second: str, file_name: str) -> list[Call]:
    """The list, for a handle made with a strength of 0.5. ``file_name``: the file's name for ``first``."""
    return [
        Call("as made", lambda handle: None, (0.5, 0.5)),
        Call("another strength", assign("strength", 1.0), (1.0, 1.0)),
        Call("the same strength again", assign("strength", 1.0), (1.0, 1.0)),
        Call("text that is a number", assign("strength", "-0.25"), (-0.25, -0.25)),
        Call("NaN", assign("strength", NAN), (-0.25, -0.25), LoKrValueError),
        Call("not a number", assign("strength", "much"), (-0.25, -0.25), LoKrValueError),
        Call("None", assign("strength", None), (-0.25, -0.25), LoKrValueError),
        Call("0", assign("strength", 0), (0.0, 0.0)),
        Call("back from 0", assign("strength", 0.8), (0.8, 0.8)),
        Call("a mapping of the model's names", factors({first: 0.5}), (0.4, 0.8)),
        Call("a mapping of the file's names", factors({file_name: 2.0, second: 0.0}), (1.6, 0.0)),
        Call("a strength keeps the factors", assign("strength", 0.4), (0.8, 0.0)),
        Call("an unknown name", factors({"elsewhere": 1.0}), (0.8, 0.0), LoKrValueError),
        Call("a factor of NaN", factors({first: NAN}), (0.8, 0.0), LoKrValueError),
        Call("a function", factors(lambda name: -1.0 if name == first else 0.5), (-0.4, 0.2)),
        Call(
            "a function that gives NaN", factors(lambda name: NAN), (-0.4, 0.2), LoKrValueError
        ),
        Call("a function that fails", factors(lambda name: 1 / 0), (-0.4, 0.2), ZeroDivisionError),
        Call("disabled", assign("enabled", False), (0.0, 0.0)),
        Call("a strength while disabled", assign("strength", 1.5), (0.0, 0.0)),
        Call("NaN while disabled", assign("strength", NAN), (0.0, 0.0), LoKrValueError),
        Call("factors while disabled", factors({second: 2.0}), (0.0, 0.0)),
        Call("disabled twice", assign("enabled", False), (0.0, 0.0)),
        Call("enabled: what was set meanwhile", assign("enabled", True), (1.5, 3.0)),
        Call("None: 1 for all", factors(None), (1.5, 1.5)),
        Call("an empty mapping", factors({}), (1.5, 1.5)),
        Call("removed", lambda handle: handle.remove(), (0.0, 0.0)),
        Call("removed twice", lambda handle: handle.remove(), (0.0, 0.0)),
        Call("a strength after that", assign("strength", 1.0), (0.0, 0.0), LoKrError),
        Call("factors after that", factors({first: 1.0}), (0.0, 0.0), LoKrError),
        Call("enabled after that", assign("enabled", True), (0.0, 0.0), LoKrError),
    ]


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
