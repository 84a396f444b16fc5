"""Calls that fail, end early or nest leave nothing behind, and give W' to nobody else."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from lokr_core import attach
from tests.live.through import clean, expected
from tests.norms import relative


class _Failed(Exception):
    pass


class _Fails(nn.Linear):
    error: type[BaseException] | None = None

    def forward(self, x):
        if self.error is not None:
            raise self.error
        return super().forward(x)


@pytest.mark.usefixtures("through")
@pytest.mark.parametrize("where", ["an earlier pre-hook", "a later pre-hook", "forward", "an earlier forward hook"])
def test_a_call_that_fails_leaves_nothing(layer, adapter, x, where):
    failing = True

    def fail(*arguments):
        if failing:
            raise _Failed

    layer.__class__ = _Fails
    expect = expected(layer, adapter, x, 0.5)
    if where == "an earlier pre-hook":
        layer.register_forward_pre_hook(fail)
    elif where == "an earlier forward hook":
        layer.register_forward_hook(fail)
    with attach(nn.Sequential(layer), adapter, 0.5):
        if where == "a later pre-hook":
            layer.register_forward_pre_hook(fail)
        layer.error = _Failed if where == "forward" else None
        with pytest.raises(_Failed):
            layer(x)
        assert clean()
        failing, layer.error = False, None
        assert relative(layer(x), expect) <= 1e-12


@pytest.mark.usefixtures("through")
def test_a_call_that_an_interrupt_ends_gives_its_weight_to_nobody(layer, adapter, x):
    """No hook hears of a KeyboardInterrupt: torch calls them for an ``Exception`` alone."""
    layer.__class__ = _Fails
    other = nn.Linear(8, 12).double()
    with attach(nn.Sequential(layer), adapter, 0.5):
        layer.error = KeyboardInterrupt
        with pytest.raises(KeyboardInterrupt):
            layer(x.clone())
        assert torch.equal(F.linear(x, other.weight, other.bias), other(x))
        layer.error = None
        assert relative(layer(x), expected(layer, adapter, x, 0.5)) <= 1e-12
        assert clean()


@pytest.mark.usefixtures("through")
def test_a_later_pre_hook_replaces_the_input(layer, adapter, x):
    with attach(nn.Sequential(layer), adapter, 0.5):
        layer.register_forward_pre_hook(lambda module, args: (args[0] * 2,))
        assert relative(layer(x), expected(layer, adapter, 2 * x, 0.5)) <= 1e-12
        assert clean()


@pytest.mark.usefixtures("through")
def test_a_mode_that_other_hooks_enter_and_leave_around(layer, adapter, x):
    class Mode(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            return func(*args, **(kwargs or {}))

    mode = Mode()
    with attach(nn.Sequential(layer), adapter, 0.5):
        layer.register_forward_pre_hook(lambda module, args: mode.__enter__() and None)
        layer.register_forward_hook(lambda module, args, output: mode.__exit__(None, None, None))
        for _ in range(2):
            assert relative(layer(x), expected(layer, adapter, x, 0.5)) <= 1e-12
        assert len(torch.overrides._get_current_function_mode_stack()) <= 1, "modes pile up"
        other = nn.Linear(8, 12).double()
        assert torch.equal(other(x), torch.addmm(other.bias, x, other.weight.T))
    torch.overrides._pop_mode()
