"""``LoKrLayer``: a Linear or a convolution with LoKr adapters beside it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._layers import convolution, kernel_axes, untouched
from ..adapter import LoKrWeights
from ..errors import LoKrValueError
from ..kronecker import CONV, Factor, add_dora_, add_kron_, is_compiling
from ..peft import LoKrConfig
from ._dora import trainable_dora_ratio
from ._function import add_kron, as_computed
from ._shapes import AdapterShapes


class LoKrLayer(nn.Module):
    """Wraps ``base_layer``, whose weight stays as it is, and adds each active adapter's dW x to its output.

    Parameters and attributes are PEFT's (``tuners/lokr/layer.py``): one ``ParameterDict`` for each kind of tensor and
    one dict for each number, by adapter name. dW itself is built by ``get_delta_weight`` alone.
    """

    adapter_layer_names = (
        "lokr_w1",
        "lokr_w1_a",
        "lokr_w1_b",
        "lokr_w2",
        "lokr_w2_a",
        "lokr_w2_b",
        "lokr_t2",
        "dora_scale",
    )
    other_param_names = ("r", "alpha", "scaling", "rank_dropout", "rank_dropout_scale", "module_dropout")

    def __init__(
        self,
        base_layer: nn.Module,
        adapter_name: str | None = None,
        config: LoKrConfig | None = None,
        r: int = 0,
        alpha: float = 0.0,
        **fields,
    ):
        super().__init__()
        self.base_layer = base_layer
        for name in self.adapter_layer_names:
            setattr(self, name, nn.ParameterDict())
        for name in self.other_param_names:
            setattr(self, name, {})
        self.dora: dict[str, str] = {}
        self.shapes: dict[str, AdapterShapes] = {}
        self._trained_scaling: dict[str, float] = {}
        self._disable_adapters = False
        self._active_adapter: list[str] = []
        self.merged_adapters: list[str] = []
        self._unmerged_weight: Tensor | None = None
        layer = self.get_base_layer()
        self.kernel_axes = kernel_axes(layer)
        self._conv, self._padding = convolution(layer)
        self.in_features = layer.in_channels if self.kernel_axes else layer.in_features
        self.out_features = layer.out_channels if self.kernel_axes else layer.out_features
        if adapter_name is not None:
            self._active_adapter = [adapter_name]
            self.update_layer(adapter_name, r, alpha, config, **fields)

    # adapters

    def __contains__(self, adapter_name: str) -> bool:
        return adapter_name in self.shapes

    def update_layer(
        self,
        adapter_name: str,
        r: int,
        alpha: float,
        config: LoKrConfig | None = None,
        *,
        device: torch.device | None = None,
        fp32: bool = False,
        **fields,
    ) -> None:
        """Add an adapter of rank ``r`` and ``alpha``; all else comes from ``config``, or from its ``fields`` by name.

        Its parameters lie on the base weight's device (or ``device``), in its dtype, or in fp32 where that is no
        floating one or, with ``fp32``, narrower. Raises LoKrValueError for a name that is taken and for numbers that no
        adapter can have.
        """
        config = replace(config or LoKrConfig(), r=r, alpha=alpha, rank_pattern={}, alpha_pattern={}, **fields)
        if adapter_name in self.shapes:
            raise LoKrValueError(f"This layer has an adapter {adapter_name!r} already", hint="choose another name")
        shapes = AdapterShapes.of(self.get_base_layer(), config, r)
        weight = self.weight
        device, dtype = device or weight.device, weight.dtype if weight.is_floating_point() else torch.float32
        dtype = torch.promote_types(dtype, torch.float32) if fp32 else dtype
        for name, shape in shapes.tensors.items():
            getattr(self, name)[adapter_name] = nn.Parameter(torch.empty(shape, dtype=dtype, device=device))
        self.shapes[adapter_name] = shapes
        self.r[adapter_name], self.alpha[adapter_name] = r, alpha
        self.scaling[adapter_name] = self._trained_scaling[adapter_name] = config.scaling()
        self.rank_dropout[adapter_name] = config.rank_dropout
        self.rank_dropout_scale[adapter_name] = config.rank_dropout_scale
        self.module_dropout[adapter_name] = config.module_dropout
        if config.dora is not None:
            self.dora[adapter_name] = config.dora
            self.dora_scale[adapter_name] = nn.Parameter(self._weight_norm(config.dora).to(device, dtype))
        self.reset_lokr_parameters(adapter_name, config.init_weights)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def _weight_norm(self, axis: str) -> Tensor:
        """The base weight's norms, (out, 1, ...) or (1, in, 1, ...): DoRA's magnitude at the start."""
        weight = self.weight.detach()
        over = [d for d in range(weight.ndim) if d != (0 if axis == "out" else 1)]
        dtype = torch.promote_types(weight.dtype, torch.float32)
        return torch.linalg.vector_norm(weight, dim=over, keepdim=True, dtype=dtype)

    @torch.no_grad()
    def reset_lokr_parameters(self, adapter_name: str, init_weights: bool | str = True) -> None:
        """The starting values: W1 = 0 (True), W2 = 0 ("lycoris"), or none of them 0 (False); all else Kaiming's."""
        shapes = self.shapes[adapter_name]
        zero = None
        if init_weights == "lycoris":
            zero = "lokr_w2" if shapes.r2 is None else "lokr_w2_b"
        elif init_weights:
            zero = "lokr_w1" if shapes.r1 is None else "lokr_w1_a"
        for name, tensor in self._tensors(adapter_name).items():
            if name == zero:
                nn.init.zeros_(tensor)
            else:
                nn.init.kaiming_uniform_(tensor, a=math.sqrt(5))

    def load_adapter(self, adapter_name: str, tensors: Mapping[str, Tensor | None]) -> None:
        """Values for an adapter's parameters, by their kinds. Those on the meta device get the base weight's."""
        for kind in self.adapter_layer_names:
            parameters = getattr(self, kind)
            if adapter_name in parameters:
                parameter = parameters[adapter_name]
                values = tensors[kind].to(self.weight.device, parameter.dtype, copy=True)
                parameters[adapter_name] = nn.Parameter(values, requires_grad=parameter.requires_grad)

    def _tensors(self, adapter_name: str) -> dict[str, nn.Parameter]:
        return {name: getattr(self, name)[adapter_name] for name in self.shapes[adapter_name].tensors}

    def _alone(self) -> str | None:
        """The one adapter that there is to add, where it is nothing but an addition (no DoRA, no module dropout)."""
        if self._disable_adapters or self.merged_adapters or self.dora or len(self._active_adapter) != 1:
            return None
        name = self._active_adapter[0]
        return name if name in self.shapes and not (self.training and self.module_dropout[name]) else None

    def delete_adapter(self, adapter_name: str) -> None:
        """Remove an adapter; where it was the only active one, the first of the others becomes active."""
        if adapter_name in self.merged_adapters:
            raise LoKrValueError(f"The adapter {adapter_name!r} is merged", hint="call unmerge_adapter() first")
        named = (*self.adapter_layer_names, *self.other_param_names, "dora", "shapes", "_trained_scaling")
        for name in named:
            values = getattr(self, name)
            if adapter_name in values:
                del values[adapter_name]
        if adapter_name in self._active_adapter:
            left = [name for name in self._active_adapter if name != adapter_name]
            self.set_adapter(left or sorted(self.shapes)[:1])

    @property
    def active_adapter(self) -> list[str]:
        return self._active_adapter

    @property
    def active_adapters(self) -> list[str]:
        return self._active_adapter

    @property
    def disable_adapters(self) -> bool:
        return self._disable_adapters

    @property
    def merged(self) -> bool:
        return bool(self.merged_adapters)

    def set_adapter(self, adapter_names: str | Sequence[str], inference_mode: bool = False) -> None:
        """Make these adapters the active ones: theirs are the parameters that are trained (not in inference mode)."""
        self._active_adapter = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        for name in self.adapter_layer_names:
            for adapter, tensor in getattr(self, name).items():
                tensor.requires_grad_(adapter in self._active_adapter and not inference_mode)

    def enable_adapters(self, enabled: bool) -> None:
        """Add the active adapters to the output, or leave the base alone (whose parameters are then not trained)."""
        if enabled:
            self.set_adapter(self._active_adapter)
        else:
            self.set_requires_grad(self.shapes, False)
        self._disable_adapters = not enabled

    def set_requires_grad(self, adapter_names: str | Iterable[str], requires_grad: bool = True) -> None:
        """Train these adapters' parameters, or do not."""
        names = {adapter_names} if isinstance(adapter_names, str) else set(adapter_names)
        for name in self.adapter_layer_names:
            for adapter, tensor in getattr(self, name).items():
                if adapter in names:
                    tensor.requires_grad_(requires_grad)

    # scale

    def set_scale(self, adapter: str, scale: float) -> None:
        """scaling = ``scale`` times the one trained with; nothing where the layer has no such adapter."""
        if adapter in self.scaling:
            self.scaling[adapter] = scale * self._trained_scaling[adapter]

    def scale_layer(self, scale: float) -> None:
        """Multiply the active adapters' scaling."""
        for name in self._present(self._active_adapter):
            self.scaling[name] *= scale

    def unscale_layer(self, scale: float | None = None) -> None:
        """Divide the active adapters' scaling, or with None set it to the one trained with."""
        for name in self._present(self._active_adapter):
            self.scaling[name] = self._trained_scaling[name] if scale is None else self.scaling[name] / scale

    def trained_scaling(self, adapter: str) -> float:
        """The scaling that the adapter is trained with, whatever it is set to."""
        return self._trained_scaling[adapter]

    def _present(self, names: Iterable[str]) -> list[str]:
        return [name for name in names if name in self.shapes]

    # weights

    def get_base_layer(self) -> nn.Module:
        """The layer itself, under however many wrappers."""
        layer = self.base_layer
        while hasattr(layer, "base_layer"):
            layer = layer.base_layer
        return layer

    @property
    def weight(self) -> Tensor:
        return self.get_base_layer().weight

    @property
    def bias(self) -> Tensor | None:
        return self.get_base_layer().bias

    def lokr_weights(self, adapter_name: str) -> LoKrWeights:
        """The adapter as the engines and the formats of this library take it, detached, in W1 ⊗ W2's order."""
        tensors = {name: tensor.detach() for name, tensor in self._tensors(adapter_name).items()}
        if adapter_name in self.dora:
            tensors["dora_scale"] = self.dora_scale[adapter_name].detach()
        return self.shapes[adapter_name].weights(tensors, self.scaling[adapter_name])

    def get_delta_weight(self, adapter_name: str) -> Tensor:
        """dW = scaling * (W1 ⊗ W2), of the base weight's shape, built whole and differentiable.

        With DoRA, W' - W: what merging adds.
        """
        w1, w2 = self._factors(adapter_name)
        delta = self.shapes[adapter_name].delta(w1, w2) * self.scaling[adapter_name]
        axis = self.dora.get(adapter_name)
        if axis is None:
            return delta
        ratio = self._ratio(adapter_name, w1, w2)
        shape = [-1 if d == (0 if axis == "out" else 1) else 1 for d in range(delta.ndim)]
        weight = self.weight.to(delta.dtype)
        return (weight + delta) * ratio.view(shape) - weight

    def _factors(self, adapter_name: str) -> tuple[Factor, Factor]:
        return self.shapes[adapter_name].factors(self._tensors(adapter_name))

    def _ratio(self, adapter_name: str, w1: Factor, w2: Factor, kept: Tensor | None = None) -> Tensor:
        return trainable_dora_ratio(
            *(self.weight.detach(), w1, w2, self.scaling[adapter_name], self.dora_scale[adapter_name]),
            axis=self.dora[adapter_name],
            shapes=self.shapes[adapter_name],
            kept=kept,
        )

    @torch.no_grad()
    def merge(self, safe_merge: bool = False, adapter_names: Sequence[str] | None = None) -> None:
        """Add adapters (by default the active ones) to the base weight, which is kept beside for ``unmerge``.

        ``safe_merge``: LoKrValueError, and nothing changed, where a number of the result would not be finite.
        """
        if isinstance(adapter_names, str):
            raise TypeError(f"adapter_names should be a list of strings, got {adapter_names!r}")
        names = self._present(self._active_adapter if adapter_names is None else adapter_names)
        again = [name for name in names if name in self.merged_adapters]
        names = [name for name in names if name not in again]
        if again:
            warnings.warn(f"Already merged, and not merged again: {', '.join(again)}", stacklevel=2)
        if not names:
            return
        layer = self.get_base_layer()
        before = layer.weight.data
        merged = before.clone()
        base = before if self._unmerged_weight is None else self._unmerged_weight
        for name in names:
            weights = self.lokr_weights(name)
            if weights.dora_scale is None:
                add_kron_(merged, weights.w1, weights.w2, weights.scaling)
            else:
                scale = weights.dora_scale.flatten()
                add_dora_(merged, weights.w1, weights.w2, weights.scaling, scale, self.dora[name], base=base)
        if safe_merge and not torch.isfinite(merged).all():
            raise LoKrValueError(
                "The merged weight holds NaN or Inf", found=f"adapters {', '.join(names)}", hint="it seems to be broken"
            )
        self._unmerged_weight = base
        layer.weight.data = merged
        self.merged_adapters += names

    def unmerge(self) -> None:
        """Put the base weight back, bit for bit, as it was before the first ``merge``."""
        if not self.merged:
            warnings.warn("Nothing is merged, so nothing is unmerged", stacklevel=2)
            return
        weight = self.get_base_layer().weight
        weight.data = self._unmerged_weight.to(weight.device, weight.dtype)
        self._unmerged_weight = None
        self.merged_adapters.clear()

    # forward

    def forward(self, x: Tensor, *args, **kwargs) -> Tensor:
        """The base layer's output and the active adapters' updates, in the dtype of the base layer's output."""
        if self._disable_adapters and self.merged:
            self.unmerge()
        y = self.base_layer(x, *args, **kwargs)
        if self._disable_adapters or self.merged:
            return y
        # DoRA's update is one of the base's output, which then has to stay; so has one that a hook may have kept.
        base, base_is_ours = y, not self.dora and untouched(self.base_layer)
        for name in self._present(self._active_adapter):
            y = self._add(name, x, y, base, base_is_ours or y is not base)
        return y

    def _add(self, name: str, x: Tensor, y: Tensor, base: Tensor, in_place: bool) -> Tensor:
        """``y`` with the adapter's update for the input ``x`` added; ``base``: W x + b, which DoRA refers to."""
        present: Tensor | None = None
        if self.training and self.module_dropout[name]:
            present = torch.rand(1) > self.module_dropout[name]
            if not is_compiling():
                if not present:
                    return y
                present = None
        w1, w2 = as_computed(x, *self._factors(name))
        kept, axis = self._kept_rows(name, x.device), self.dora.get(name)
        if present is None and axis is None and not self.shapes[name].swapped:
            return add_kron(y, self._padded(x), w1, w2, self.scaling[name], self._conv, in_place, kept)
        if axis == "in":
            ratio = self._ratio(name, w1, w2, kept)
            groups = 1 if self._conv is None else self._conv["groups"]
            ratio = self._by_channel(ratio.repeat(groups))
            update = self._product(name, x * ratio, w1, w2, kept) + self._base_product(x * (ratio - 1))
        else:
            update = self._product(name, x, w1, w2, kept)
        if axis == "out":
            ratio = self._by_channel(self._ratio(name, w1, w2, kept))
            plain = base if self.bias is None else base - self._by_channel(self.bias)
            update = plain * (ratio - 1) + update * ratio
        if present is not None:  # a graph has no branches
            update = update * present.to(update.device)
        return (y + update).to(y.dtype)

    def _product(self, name: str, x: Tensor, w1: Factor, w2: Factor, kept: Tensor | None) -> Tensor:
        """dW x, its rows multiplied by ``kept``."""
        shapes, x = self.shapes[name], self._padded(x)
        if not shapes.swapped:
            return add_kron(None, x, w1, w2, self.scaling[name], self._conv, rows=kept)
        if self._conv["groups"] > 1:  # rows of W2 belong to the groups, not of W1: PEFT's way, and rare
            weight = shapes.delta(w1, w2) * self.scaling[name]
            update = CONV[self.kernel_axes](x.to(weight.dtype), weight, **self._conv)
        else:
            # W2 ⊗ W1 is W1 ⊗ W2 with the two halves of each axis exchanged.
            axis = x.ndim - 1 - self.kernel_axes
            x = x.unflatten(axis, (shapes.n, shapes.m)).transpose(axis, axis + 1).flatten(axis, axis + 1)
            update = add_kron(None, x, w1, w2, self.scaling[name], self._conv)
            update = update.unflatten(axis, (shapes.l, shapes.k)).transpose(axis, axis + 1).flatten(axis, axis + 1)
        return update if kept is None else update * self._by_channel(kept.to(update.dtype))

    def _base_product(self, x: Tensor) -> Tensor:
        """W x, without the bias."""
        weight = self.weight
        x = self._padded(x).to(weight.dtype)
        return F.linear(x, weight) if self._conv is None else CONV[self.kernel_axes](x, weight, **self._conv)

    def _by_channel(self, values: Tensor) -> Tensor:
        """One number for each channel, shaped to multiply an input or output."""
        return values.view(-1, *(1,) * self.kernel_axes)

    def _padded(self, x: Tensor) -> Tensor:
        return x if self._padding is None else F.pad(x, *self._padding)

    def _kept_rows(self, name: str, device: torch.device) -> Tensor | None:
        """Rank dropout: a number for each row of dW, 0 or what PEFT's ``get_delta_weight`` gives those that stay."""
        probability = self.rank_dropout[name] if self.training else 0
        if not probability:
            return None
        kept = (torch.rand(self.out_features) > probability).float().to(device)
        return kept / kept.mean() if self.rank_dropout_scale[name] else kept

    def __repr__(self) -> str:
        return "lokr." + super().__repr__()
