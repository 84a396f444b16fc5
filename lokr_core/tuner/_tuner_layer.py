"""``TunerLayer``: which adapters a layer has, which of them are active or merged, and how strong they are."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..adapter import LoKrWeights
from ..errors import LoKrValueError
from ..trainable import FACTORS, AdapterShapes


class TunerLayer(nn.Module):
    """Wraps ``base_layer``; the surface is PEFT's ``BaseTunerLayer`` (``tuners/tuners_utils.py``).

    An adapter's parameters are in one ``ParameterDict`` for each kind of tensor, its numbers in one dict for each kind
    of number, all by adapter name.
    """

    adapter_layer_names = (*FACTORS, "dora_scale")
    other_param_names = ("r", "alpha", "scaling", "rank_dropout", "rank_dropout_scale", "module_dropout")
    dora_scale: nn.ParameterDict

    def __init__(self, base_layer: nn.Module):
        super().__init__()
        self.base_layer = base_layer
        for name in self.adapter_layer_names:
            setattr(self, name, nn.ParameterDict())
        self.r: dict[str, int] = {}
        self.alpha: dict[str, float] = {}
        self.scaling: dict[str, float] = {}
        self.trained_scaling: dict[str, float] = {}  # the scaling without ``set_scale`` and ``scale_layer``
        self.rank_dropout: dict[str, float] = {}
        self.rank_dropout_scale: dict[str, bool] = {}
        self.module_dropout: dict[str, float] = {}
        self.dora: dict[str, str] = {}
        self.shapes: dict[str, AdapterShapes] = {}
        self.disable_adapters = False
        self.active_adapter: list[str] = []
        self.merged_adapters: list[str] = []
        self._unmerged_weight: Tensor | None = None

    def __contains__(self, adapter_name: str) -> bool:
        return adapter_name in self.scaling

    def _present(self, names: Iterable[str]) -> list[str]:
        return [name for name in names if name in self]

    def get_base_layer(self) -> nn.Module:
        """The layer itself, without any wrappers."""
        layer: Any = self.base_layer
        while hasattr(layer, "base_layer"):
            layer = layer.base_layer
        return layer

    @property
    def weight(self) -> Tensor:
        return cast(Tensor, self.get_base_layer().weight)

    @property
    def bias(self) -> Tensor | None:
        return cast("Tensor | None", self.get_base_layer().bias)

    def adapter_tensors(self, adapter_name: str) -> dict[str, nn.Parameter]:
        """An adapter's parameters, by kind."""
        kinds = list(self.shapes[adapter_name].tensors)
        if adapter_name in self.dora:
            kinds.append("dora_scale")
        return {kind: getattr(self, kind)[adapter_name] for kind in kinds}

    def lokr_weights(self, adapter_name: str) -> LoKrWeights:
        """The adapter, detached, for the engines and formats of this library: as the usual product W1 ⊗ W2."""
        tensors = {kind: tensor.detach() for kind, tensor in self.adapter_tensors(adapter_name).items()}
        return self.weights_of(adapter_name, tensors, self.scaling[adapter_name])

    def weights_of(self, adapter_name: str, tensors: Mapping[str, Tensor], scaling: float) -> LoKrWeights:
        """The adapter with these tensors, by kind, and this scaling, as the usual product W1 ⊗ W2."""
        w1, w2 = self.shapes[adapter_name].product(tensors)
        return LoKrWeights(w1, w2, scaling, tensors.get("dora_scale")).with_alpha()

    def delete_adapter(self, adapter_name: str) -> None:
        """Remove an adapter; if it was the only active one, the first of the others becomes active."""
        if adapter_name in self.merged_adapters:
            raise LoKrValueError(f"The adapter {adapter_name!r} is merged", hint="call unmerge_adapter() first")
        for name in (*self.adapter_layer_names, *self.other_param_names, "trained_scaling", "shapes", "dora"):
            values = getattr(self, name)
            if adapter_name in values:
                del values[adapter_name]
        if adapter_name in self.active_adapter:
            left = [name for name in self.active_adapter if name != adapter_name]
            self.set_adapter(left or sorted(self.scaling)[:1])

    @property
    def active_adapters(self) -> list[str]:
        return self.active_adapter

    @property
    def merged(self) -> bool:
        return bool(self.merged_adapters)

    def set_adapter(self, adapter_names: str | Sequence[str], inference_mode: bool = False) -> None:
        """Make these adapters the active ones, and train their parameters alone; in inference mode none are trained."""
        self.active_adapter = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        self.set_requires_grad(self.scaling, False)
        self.set_requires_grad(self.active_adapter, not inference_mode)

    def enable_adapters(self, enabled: bool) -> None:
        """Add the active adapters to the output and train them; if not ``enabled``, do neither."""
        if enabled:
            self.set_adapter(self.active_adapter)
        else:
            self.set_requires_grad(self.scaling, False)
        self.disable_adapters = not enabled

    def set_requires_grad(self, adapter_names: str | Iterable[str], requires_grad: bool = True) -> None:
        """Set ``requires_grad`` of these adapters' parameters."""
        for name in self._present([adapter_names] if isinstance(adapter_names, str) else adapter_names):
            for parameter in self.adapter_tensors(name).values():
                parameter.requires_grad_(requires_grad)

    @torch.no_grad()
    def merge(self, safe_merge: bool = False, adapter_names: Sequence[str] | None = None) -> None:
        """Add adapters (by default the active ones) to the base weight; a copy of it is kept for ``unmerge``.

        With ``safe_merge``, raises LoKrValueError if a merged number is not finite; nothing has changed then.
        """
        if isinstance(adapter_names, str):
            raise TypeError(f"adapter_names should be a list of strings, got {adapter_names!r}")
        names = self._present(self.active_adapter if adapter_names is None else adapter_names)
        merged_before = [name for name in names if name in self.merged_adapters]
        names = [name for name in names if name not in merged_before]
        if merged_before:
            warnings.warn(f"Already merged, and not merged again: {', '.join(merged_before)}", stacklevel=2)
        if not names:
            return
        layer: Any = self.get_base_layer()
        base = layer.weight.data if self._unmerged_weight is None else self._unmerged_weight  # DoRA needs it
        merged = layer.weight.data.clone()
        for name in names:
            self.lokr_weights(name).add_to_(merged, base=base)
        if safe_merge and not torch.isfinite(merged).all():
            raise LoKrValueError(
                "The merged weight holds NaN or Inf",
                found=f"adapters {', '.join(names)}",
                hint="use an earlier checkpoint",
            )
        self._unmerged_weight = base
        layer.weight.data = merged
        self.merged_adapters += names

    def unmerge(self) -> None:
        """Restore the base weight, bit for bit, as it was before the first ``merge``."""
        if self._unmerged_weight is None:
            warnings.warn("Nothing is merged, so nothing is unmerged", stacklevel=2)
            return
        weight = self.weight
        weight.data = self._unmerged_weight.to(weight.device, weight.dtype)
        self._unmerged_weight = None
        self.merged_adapters.clear()

    def set_scale(self, adapter: str, scale: float) -> None:
        """Set an adapter's scaling to ``scale`` times the trained one; no effect if the layer does not have it."""
        if adapter in self.scaling:
            self.scaling[adapter] = scale * self.trained_scaling[adapter]

    def scale_layer(self, scale: float) -> None:
        """Multiply the active adapters' scaling."""
        for name in self._present(self.active_adapter):
            self.scaling[name] *= scale

    def unscale_layer(self, scale: float | None = None) -> None:
        """Divide the active adapters' scaling; None restores the trained one."""
        for name in self._present(self.active_adapter):
            self.scaling[name] = self.trained_scaling[name] if scale is None else self.scaling[name] / scale
