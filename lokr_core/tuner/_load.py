"""From any trainer's file to a ``LoKrModel`` that continues the training."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ..adapter import Adapter, LoKrWeights
from ..errors import LoKrValueError, blame
from ..formats import load_adapter
from ..matching import Target
from ..peft import LoKrConfig
from ..saving import SPELLINGS, peft_layout, rename
from ..trainable import AdapterShapes
from ._layer import LoKrLayer
from ._model import LoKrModel


def load_lokr_model(
    model: nn.Module,
    adapter: Adapter | str | os.PathLike,
    adapter_name: str = "default",
    is_trainable: bool = True,
    **fields,
) -> LoKrModel:
    """``model`` with an adapter of any trainer in its layers, to continue its training.

    adapter: an ``Adapter`` or a file of PEFT, LyCORIS, kohya, ComfyUI and so on; its names are looked up in the model
    fields: of ``LoKrConfig``, such as ``rank_dropout``, that files do not hold and that do not change the tensors

    Parameters keep the file's forms and are at least fp32; the model computes what its trainer's did. An update of a
    fused weight that the model has in parts is cut into updates of the parts.

    Raises LoKrMatchError if a module does not belong to the model, LoKrValueError if the file holds more than LoKr.
    """
    adapter = adapter if isinstance(adapter, Adapter) else load_adapter(adapter)
    foreign = adapter.foreign
    if foreign.tensors:
        module, each = next(iter(foreign.modules.items()))
        raise LoKrValueError(
            "The file holds more than LoKr, which would be lost in training",
            file=adapter.path,
            module=module,
            found=f"{each.kind}, {len(foreign.tensors)} tensors in all",
            hint="merge that part into the model first, or take it out of the file",
        )
    with blame(file=adapter.path):
        renamed, _ = rename(adapter, SPELLINGS["peft"], Target.of(dict(model.named_parameters())))
    updates = {module.path: module.weights for module in renamed.values()}
    config = _config(updates, is_trainable, fields)
    wrapped = LoKrModel(model, config, adapter_name, autocast_adapter_dtype=True)
    for path, layer in wrapped.get_base_model().named_modules():
        if path in updates:
            _install(layer, adapter_name, updates[path], config)
    wrapped.set_adapter(adapter_name, inference_mode=not is_trainable)
    return wrapped


def _config(updates: Mapping[str, LoKrWeights], is_trainable: bool, fields: Mapping[str, Any]) -> LoKrConfig:
    """PEFT's configuration for these updates, or, if its layout cannot hold them, one that names their modules."""
    entries: dict[str, Any]
    try:
        _, entries = peft_layout(updates, updates)
    except LoKrValueError:
        r = max(w.rank or 1 for w in updates.values())
        entries = {"r": r, "alpha": r, "target_modules": list(updates), "order": "lycoris"}
    return LoKrConfig(**{**entries, "inference_mode": not is_trainable, **fields})


@torch.no_grad()
def _install(layer: LoKrLayer, name: str, weights: LoKrWeights, config: LoKrConfig) -> None:
    """Replace the parameters that the layer was created with by the update's tensors, in the form that they have."""
    (l, m), (k, n, *kernel) = weights.w1.shape, weights.w2.shape
    shapes = AdapterShapes(l, k, m, n, tuple(kernel), weights.w1.rank, weights.w2.rank, tucker=weights.is_tucker)
    described = AdapterShapes.of(layer.get_base_layer(), config, layer.r[name])
    if described == replace(shapes, tucker_tail=described.tucker_tail):
        shapes = described
    else:  # the configuration cannot describe this form, and ``save_pretrained`` will say so
        layer.r[name] = weights.rank or 1
    tensors = weights.tensors
    if shapes.tucker and shapes.tucker_tail:
        tensors["lokr_t2"] = tensors["lokr_t2"].unsqueeze(-1)
    for kind in layer.adapter_tensors(name):
        del getattr(layer, kind)[name]
    for kind, tensor in tensors.items():
        dtype = torch.promote_types(tensor.dtype, torch.float32)
        getattr(layer, kind)[name] = nn.Parameter(tensor.to(layer.weight.device, dtype, copy=True))
    layer.shapes[name] = shapes
    layer.dora.pop(name, None)
    if weights.dora_axis is not None:
        layer.dora[name] = weights.dora_axis
    layer.alpha[name] = weights.scaling * layer.r[name]
    layer.scaling[name] = layer.trained_scaling[name] = weights.scaling
