"""A model's tensors as autograd takes them: ComfyUI makes most of them under ``torch.inference_mode``."""

from __future__ import annotations

import opcode
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from types import CodeType

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import is_traceable_wrapper_subclass


@contextmanager
def normal_tensors(model: nn.Module) -> Iterator[None]:
    """While the block runs, the model's inference tensors are normal ones in the same memory; then its own again."""
    with ExitStack() as undo:
        for module in model.modules():
            for place in (module._parameters, module._buffers):
                for name, tensor in place.items():
                    if tensor is not None and tensor.is_inference():
                        undo.callback(place.__setitem__, name, tensor)
                        place[name] = _normal_parameter(tensor) if place is module._parameters else normal(tensor)
        yield


def _normal_parameter(parameter: Tensor) -> nn.Parameter:
    return nn.Parameter(normal(parameter), requires_grad=False)


def normal(tensor: Tensor) -> Tensor:
    """A normal tensor in the memory of an inference tensor; a copy if its class does not tell where that is."""
    if is_traceable_wrapper_subclass(tensor):
        names, context = tensor.__tensor_flatten__()
        inner = {name: normal(getattr(tensor, name)) for name in names}
        return type(tensor).__tensor_unflatten__(inner, context, tensor.shape, tensor.stride())
    if not tensor.is_inference():
        return tensor
    if type(tensor) not in (Tensor, nn.Parameter):
        return tensor.clone()
    empty = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    return empty.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.shape, tensor.stride())


_PLAIN = {Tensor.add_: torch.add, Tensor.sub_: torch.sub, Tensor.mul_: torch.mul, Tensor.div_: torch.div}


class OutOfPlace(TorchFunctionMode):
    """``x += y`` makes a new tensor, as ``x = x + y`` does, while this mode is entered on this thread.

    Models of ComfyUI write so to save memory. What autograd has kept of x is then lost, with an error; where a
    checkpoint computes the block again, gradients would be wrong without one. ``x.add_(y)`` stays in place, and
    ``x[i] += y`` still changes x.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        plain = _PLAIN.get(func)
        if plain is not None:
            caller = sys._getframe(1)
            if _is_operator(caller.f_code, caller.f_lasti):
                return plain(*args)
        return func(*args, **(kwargs or {}))


@lru_cache(maxsize=1024)
def _is_operator(code: CodeType, at: int) -> bool:
    """Whether the instruction is an operator such as ``+=``: torch has the same function for the method."""
    return opcode.opname[code.co_code[at]].startswith(("BINARY_OP", "INPLACE_"))


@contextmanager
def out_of_place(module: nn.Module) -> Iterator[None]:
    """While the block runs, ``module.forward`` enters ``OutOfPlace``, on any thread: CUDA's backward has its own."""
    forward = module.forward

    def entered(*args, **kwargs):
        with OutOfPlace():
            return forward(*args, **kwargs)

    before = vars(module).get("forward")
    module.forward = entered
    try:
        yield
    finally:
        del module.forward
        if before is not None:
            module.forward = before
