"""One call of a layer: what its forward's pre-hook leaves for its forward hook, and W' for the operation between them.

Through the weight, the layer's own forward runs, and a ``TorchFunctionMode`` gives its operation W' instead of the
weight that the host hands it (cast, patched, dequantised): on this thread alone. ``module.weight`` is not touched.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, _get_current_function_mode

from ..kronecker import back, take

OPERATIONS = frozenset((F.linear, F.conv1d, F.conv2d, F.conv3d))
_PLAIN = (Tensor, nn.Parameter)


class Call(TorchFunctionMode):
    """One call of a module, from its forward's pre-hook to its forward hook.

    owner: the hook it is for; module: what is called; active: the updates in force, each with its strength
    before: the input; scaled: the input that the forward was given instead, scaled for DoRA, or None
    answered: the weight in whose place an operation was given W', or None
    outputs: of the operations that used the weight itself, if the call was entered with no ``update``
    """

    def __init__(self, owner: Any, module: nn.Module, active: list, x: Tensor):
        self.owner, self.module, self.active, self.before = owner, module, active, x
        self.scaled: Tensor | None = None
        self.answered: Tensor | None = None
        self.outputs: list[Tensor] = []
        self.entered = self.done = False
        self.key: tuple = ()
        self._frame = sys._getframe(2)  # of the module's call

    def enter(self, shape: tuple[int, ...], update: Callable[[Tensor, Tensor], Tensor] | None) -> None:
        """Give the operation that gets a weight of ``shape`` what ``update(weight, out)`` returns instead; None: only
        keep its output."""
        self._shape, self._update = shape, update
        self.entered = True
        self.__enter__()

    @property
    def goes_through(self) -> bool:
        """Whether an operation is to be given W'."""
        return self.entered and self._update is not None

    def leave(self) -> None:
        """Leave the mode, if it was entered: no operation after this one is answered."""
        self.done = True
        # A mode that another hook has entered since, and leaves later, must not be left in place of this one.
        if self.entered and _get_current_function_mode() is self:
            self.__exit__(None, None, None)

    def runs(self) -> bool:
        """Whether the module's call is on the stack. No hook hears of a call that a KeyboardInterrupt ended."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and frame is not self._frame:
            frame = frame.f_back
        return frame is not None

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func not in OPERATIONS or current() is not self:
            return func(*args, **kwargs)
        x = args[0] if args else kwargs["input"]
        weight = args[1] if len(args) > 1 else kwargs["weight"]
        if not self._takes(x, weight) or not self.runs():
            return func(*args, **kwargs)
        if self._update is None:
            self.outputs.append(output := func(*args, **kwargs))
            return output
        self.answered = weight
        out, buffer = take(weight)
        try:
            new = self._update(weight, out)
            if len(args) > 1:
                return func(x, new, *args[2:], **kwargs)
            return func(*args, **{**kwargs, "weight": new})
        finally:
            back(buffer)

    def _takes(self, x: Tensor, weight: Tensor) -> bool:
        """Whether W' may stand in for ``weight``: of a layer that multiplies twice, each time the same tensor."""
        if type(weight) not in _PLAIN or tuple(weight.shape) != self._shape or not weight.is_floating_point():
            return False
        if weight is not self.module._parameters.get("weight") and (
            isinstance(weight, nn.Parameter) or (self.answered is not None and self.answered is not weight)
        ):
            return False  # a layer's within this one
        return not (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad))


_local = threading.local()


def _calls() -> list[Call]:
    try:
        return _local.calls
    except AttributeError:
        calls = _local.calls = []
        return calls


def current() -> Call | None:
    """The innermost call on this thread."""
    calls = _calls()
    return calls[-1] if calls else None


def begin(call: Call) -> None:
    """Make ``call`` the innermost on this thread, and drop what ended without its hook."""
    calls = _calls()
    while calls and not calls[-1].runs():
        calls.pop().leave()
    while isinstance(mode := _get_current_function_mode(), Call) and mode.done:  # could not be left before another's
        mode.__exit__(None, None, None)
    calls.append(call)


def finish(owner: Any, x: Tensor, failed: bool) -> Call | None:
    """The call that ``owner``'s pre-hook began on this thread. Returns None if it began none.

    failed: the call ended by an exception, which an earlier pre-hook may have raised, before ``owner``'s ran: then only
    the call of this input is meant
    """
    calls = _calls()
    if not calls or calls[-1].owner is not owner:
        return None
    if failed and x is not calls[-1].before and x is not calls[-1].scaled:
        return None
    call = calls.pop()
    call.leave()
    return call
