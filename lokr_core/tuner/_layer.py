"""``LoKrLayer``: a Linear or a convolution with LoKr adapters beside it."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .._layers import convolution, kernel_axes
from ..errors import LoKrValueError
from ..kronecker import Factor, fused_linear, is_compiling, plain_autograd, untouched
from ..peft import LoKrConfig
from ..trainable import (
    AdapterShapes,
    Products,
    Update,
    added,
    as_computed,
    built_kron,
    planned_linear,
    random_rows,
    trainable_dora_ratio,
    weight_norms,
)
from ._tuner_layer import TunerLayer


class LoKrLayer(TunerLayer):
    """Adds each active adapter's dW x to the output of ``base_layer``, whose weight does not change.

    Parameters and attributes are PEFT's (``tuners/lokr/layer.py``). dW itself is built by ``get_delta_weight`` alone.
    """

    def __init__(
        self,
        base_layer: nn.Module,
        adapter_name: str | None = None,
        config: LoKrConfig | None = None,
        r: int = 0,
        alpha: float = 0.0,
        **fields: Any,
    ):
        super().__init__(base_layer)
        layer: Any = self.get_base_layer()
        axes = kernel_axes(layer)
        self._products = Products(axes, *convolution(layer))
        self.in_features: int = layer.in_channels if axes else layer.in_features
        self.out_features: int = layer.out_channels if axes else layer.out_features
        if adapter_name is not None:
            self.active_adapter = [adapter_name]
            self.update_layer(adapter_name, r, alpha, config, **fields)

    def update_layer(
        self,
        adapter_name: str,
        r: int,
        alpha: float,
        config: LoKrConfig | None = None,
        *,
        device: torch.device | None = None,
        fp32: bool = False,
        **fields: Any,
    ) -> None:
        """Add an adapter of rank ``r`` and ``alpha``; all else comes from ``config``, or from its ``fields`` by name.

        Its parameters are on ``device``, by default the base weight's, and in the weight's dtype. They are in fp32 if
        the weight is quantised, and with ``fp32`` also if its dtype is narrower. Raises LoKrValueError if the name is
        taken or a number is out of range.
        """
        config = replace(config or LoKrConfig(), r=r, alpha=alpha, rank_pattern={}, alpha_pattern={}, **fields)
        if adapter_name in self.shapes:
            raise LoKrValueError(f"This layer has an adapter {adapter_name!r} already", hint="choose another name")
        shapes = AdapterShapes.of(self.get_base_layer(), config, r)
        weight = self.weight
        plain = weight.is_floating_point() and weight.element_size() > 1  # fp8 is a storage format: nothing adds to it
        device, dtype = device or weight.device, weight.dtype if plain else torch.float32
        dtype = torch.promote_types(dtype, torch.float32) if fp32 else dtype
        for name, shape in shapes.tensors.items():
            getattr(self, name)[adapter_name] = nn.Parameter(torch.empty(shape, dtype=dtype, device=device))
        self.shapes[adapter_name] = shapes
        for field in ("r", "alpha", "rank_dropout", "rank_dropout_scale", "module_dropout"):
            getattr(self, field)[adapter_name] = getattr(config, field)
        self.scaling[adapter_name] = self.trained_scaling[adapter_name] = config.scaling()
        if config.dora is not None:
            self.dora[adapter_name] = config.dora
            self.dora_scale[adapter_name] = nn.Parameter(weight_norms(weight, config.dora).to(device, dtype))
        self.reset_lokr_parameters(adapter_name, config.init_weights)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def reset_lokr_parameters(self, adapter_name: str, init_weights: bool | str = True) -> None:
        """Set the initial values: W1 = 0 if True, W2 = 0 if "lycoris"; all other factors are Kaiming-uniform."""
        shapes, zero = self.shapes[adapter_name], None
        if init_weights == "lycoris":
            zero = "lokr_w2" if shapes.r2 is None else "lokr_w2_b"
        elif init_weights:
            zero = "lokr_w1" if shapes.r1 is None else "lokr_w1_a"
        for kind in shapes.tensors:
            parameter = getattr(self, kind)[adapter_name]
            if kind == zero:
                nn.init.zeros_(parameter)
            else:
                nn.init.kaiming_uniform_(parameter, a=math.sqrt(5))

    def get_delta_weight(self, adapter_name: str) -> Tensor:
        """dW = scaling * (W1 ⊗ W2), of the base weight's shape, built whole and differentiable.

        With DoRA, W' - W: what merging adds.
        """
        w1, w2 = self._factors(adapter_name)
        delta = built_kron(w1, w2, self.shapes[adapter_name].swapped) * self.scaling[adapter_name]
        axis = self.dora.get(adapter_name)
        if axis is None:
            return delta
        ratio = self._ratio(adapter_name, w1, w2)
        shape = [-1 if d == (0 if axis == "out" else 1) else 1 for d in range(delta.ndim)]
        weight = self.weight.to(delta.dtype)
        return (weight + delta) * ratio.view(shape) - weight

    def _factors(self, adapter_name: str) -> tuple[Factor, Factor]:
        return self.shapes[adapter_name].factors(self.adapter_tensors(adapter_name))

    def _ratio(self, name: str, w1: Factor, w2: Factor, kept: Tensor | None = None) -> Tensor:
        """DoRA's c, (out,) or (in,)."""
        weight, scale, swapped = self.weight.detach(), self.scaling[name], self.shapes[name].swapped
        return trainable_dora_ratio(
            weight, w1, w2, scale, self.dora_scale[name], axis=self.dora[name], swapped=swapped, kept=kept
        )

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The base layer's output plus the active adapters' updates, in the dtype of the base layer's output."""
        if self.disable_adapters and self.merged:
            self.unmerge()
        y = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters or self.merged:
            return y
        # Add in place only if nothing else needs y: DoRA reads the base output again, and a user's hook may hold it.
        base, base_is_ours = y, not self.dora and untouched(self.base_layer)
        for name in self._present(self.active_adapter):
            y = self._add(name, x, y, base, base_is_ours or y is not base)
        return y

    def _add(self, name: str, x: Tensor, y: Tensor, base: Tensor, in_place: bool) -> Tensor:
        """``y`` plus the adapter's update for the input ``x``; ``base``: W x + b, which DoRA refers to."""
        present: Tensor | None = None
        if self.training and self.module_dropout[name]:
            present = torch.rand(1) > self.module_dropout[name]
            if not is_compiling():
                if not present:
                    return y
                present = None
        w1, w2 = as_computed(x, *self._factors(name))
        rows, axis = self._kept_rows(name, x), self.dora.get(name)
        ratio = None if axis is None else self._ratio(name, w1, w2, rows)
        update = Update(w1, w2, self.scaling[name], rows, ratio, axis, present, self.shapes[name].swapped)
        return added(update, self._products, x, y, base, self.weight, self.bias, in_place)

    def _kept_rows(self, name: str, x: Tensor) -> Tensor | None:
        """Rank dropout's factors for the rows of dW, (out,), as PEFT's: 0 or 1, or rescaled to mean 1. None: off."""
        if not (self.training and self.rank_dropout[name]):
            return None
        drawn, rescaled = torch.rand(self.out_features), self.rank_dropout_scale[name]
        return random_rows(drawn, self.rank_dropout[name], torch.float32, rescaled).to(x.device)

    def __repr__(self) -> str:
        return "lokr." + super().__repr__()


class Linear(LoKrLayer):
    """x (..., in) -> (..., out)."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """As ``LoKrLayer.forward``; in the plain case of training, one function with the base layer's own product."""
        name = self._only_update()
        if name is not None and not args and not kwargs and plain_autograd(x):
            # Read `_modules` directly: `Module.__getattr__` is measurable on small layers.
            modules: dict[str, Any] = self._modules
            layer, (plan, kinds) = modules["base_layer"], planned_linear(self.shapes[name])
            if untouched(layer):
                matrices, rows = [getattr(modules[kind], name) for kind in kinds], partial(self._kept_rows, name, x)
                y = fused_linear(layer, x, plan, matrices, self.scaling[name], rows)
                if y is not None:
                    return y
        return super().forward(x, *args, **kwargs)

    def _only_update(self) -> str | None:
        """The adapter, if a single one is active and is a plain addition (no DoRA, no module dropout); else None."""
        if self.disable_adapters or self.merged_adapters or self.dora or len(self.active_adapter) != 1:
            return None
        name = self.active_adapter[0]
        return name if name in self.shapes and not (self.training and self.module_dropout[name]) else None


class Conv1d(LoKrLayer):
    """x (batch, in, length) -> (batch, out, length'). Where W2 is whole, dW is W2 ⊗ W1, as in PEFT."""


class Conv2d(LoKrLayer):
    """x (batch, in, height, width) -> (batch, out, height', width')."""


class Conv3d(LoKrLayer):
    """x (batch, in, depth, height, width) -> (batch, out, depth', height', width')."""


KINDS: dict[type, type[LoKrLayer]] = {nn.Linear: Linear, nn.Conv1d: Conv1d, nn.Conv2d: Conv2d, nn.Conv3d: Conv3d}


def wrap(module: nn.Module) -> LoKrLayer:
    """``module``, of one of the ``KINDS``, in a layer without adapters."""
    return next(layer for base, layer in KINDS.items() if isinstance(module, base))(module).train(module.training)
