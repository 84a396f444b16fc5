"""The kinds of layer that can have LoKr adapters."""

from __future__ import annotations

from torch import Tensor, nn

from .._layers import untouched
from ._function import LinearKron
from ._layer import LoKrLayer


class Linear(LoKrLayer):
    """x (..., in) -> (..., out)."""

    def forward(self, x: Tensor, *args, **kwargs) -> Tensor:
        """As ``LoKrLayer.forward``; in the plain case of training, one function with the base layer's own product."""
        name = self._alone()
        if name is not None and not args and not kwargs and LinearKron.takes(x):
            # By the dicts that modules keep: what __getattr__ costs shows beside a small layer.
            modules, product = self._modules, LinearKron.of(self.shapes[name])
            layer = modules["base_layer"]
            weight, bias = layer._parameters.get("weight"), layer._parameters.get("bias")
            matrices = [getattr(modules[kind], name) for kind in product.names]
            one_dtype = all(tensor.dtype == x.dtype for tensor in (weight, *matrices) if tensor is not None)
            if _frozen(weight, bias) and untouched(layer) and one_dtype and x.shape[-1] == weight.shape[1]:
                kept = self._kept_rows(name, x.device)
                return product(x, weight, bias, self.scaling[name], matrices, kept)
        return super().forward(x, *args, **kwargs)


def _frozen(weight: Tensor | None, bias: Tensor | None) -> bool:
    """Whether they are a Linear's own parameters (not quantised ones), which are not trained."""
    return type(weight) is nn.Parameter and not weight.requires_grad and (bias is None or not bias.requires_grad)


class Conv1d(LoKrLayer):
    """x (batch, in, length) -> (batch, out, length'). Where W2 is whole, dW is W2 ⊗ W1, as PEFT has it."""


class Conv2d(LoKrLayer):
    """x (batch, in, height, width) -> (batch, out, height', width')."""


class Conv3d(LoKrLayer):
    """x (batch, in, depth, height, width) -> (batch, out, depth', height', width')."""


KINDS: dict[type[nn.Module], type[LoKrLayer]] = {
    nn.Linear: Linear,
    nn.Conv1d: Conv1d,
    nn.Conv2d: Conv2d,
    nn.Conv3d: Conv3d,
}


def layer_class(module: nn.Module) -> type[LoKrLayer] | None:
    """The class that wraps ``module``, or None for a kind that cannot have an adapter."""
    return next((layer for base, layer in KINDS.items() if isinstance(module, base)), None)
