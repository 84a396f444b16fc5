"""Whether a layer's own product and its update can be one function: the plain case of training."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from torch import Tensor, nn
from torch.nn.modules import module as all_modules

from ..kronecker import Plan, linear_plan
from ._shapes import AdapterShapes

# torch's own forwards, and the hooks of every module.
_FORWARDS = tuple(kind.forward for kind in (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d))
_GLOBAL_HOOKS = (
    all_modules._global_forward_pre_hooks,
    all_modules._global_forward_hooks,
    all_modules._global_backward_pre_hooks,
    all_modules._global_backward_hooks,
)


def untouched(layer: nn.Module) -> bool:
    """Whether a call of ``layer`` is torch's own forward and nothing else: no hook changes it or sees it."""
    hooks = layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks
    if type(layer).forward not in _FORWARDS or hooks or any(_GLOBAL_HOOKS):
        return False
    placed = vars(layer).get("forward")  # accelerate and LyCORIS restore a patched forward as an instance attribute
    return placed is None or own_forward(placed) is layer


def own_forward(forward: object) -> nn.Module | None:
    """The layer whose own forward, torch's, the bound method ``forward`` is; None for anything else."""
    layer = getattr(forward, "__self__", None)
    if not isinstance(layer, nn.Module) or getattr(forward, "__func__", None) not in _FORWARDS:
        return None
    return layer if type(layer).forward in _FORWARDS else None


def fusible(layer: nn.Module, x: Tensor, matrices: Iterable[Tensor]) -> bool:
    """Whether ``linear_plus_kron`` can compute the Linear ``layer`` and its update: a frozen weight that is not
    quantised, an input (..., in) that fits it, and one dtype of all."""
    # Read `_parameters` directly: `Module.__getattr__` is measurable on small layers.
    weight, bias = layer._parameters.get("weight"), layer._parameters.get("bias")
    if type(weight) is not nn.Parameter or weight.requires_grad or (bias is not None and bias.requires_grad):
        return False
    dtype = x.dtype
    one_dtype = weight.dtype == dtype and all(matrix.dtype == dtype for matrix in matrices)
    return one_dtype and x.shape[-1] == weight.shape[1]


@lru_cache(maxsize=4096)
def planned_linear(shapes: AdapterShapes) -> tuple[Plan, list[str]]:
    """The plan of a Linear's adapter of these shapes, and the kinds of its parameters in the plan's order."""
    tensors = shapes.tensors
    chains = [[kind] if kind in tensors else [f"{kind}_b", f"{kind}_a"] for kind in ("lokr_w1", "lokr_w2")]
    first, second = ([tensors[kind] for kind in chain] for chain in chains)
    plan = linear_plan(first, second)
    return plan, plan.interleave(*chains)
