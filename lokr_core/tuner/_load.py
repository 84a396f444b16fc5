"""From any trainer's file to a ``LoKrModel`` that goes on training."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import nn

from ..adapter import Adapter, LoKrWeights
from ..errors import LoKrError, LoKrValueError
from ..formats import SPELLINGS, load_adapter, peft_layout, rename
from ..matching import Target
from ..peft import LoKrConfig
from ._layer import LoKrLayer
from ._model import LoKrModel
from ._shapes import AdapterShapes


def load_lokr_model(
    model: nn.Module,
    adapter: Adapter | str | os.PathLike,
    adapter_name: str = "default",
    is_trainable: bool = True,
    **fields,
) -> LoKrModel:
    """``model`` with an adapter of any trainer in its layers, to go on training from where that stopped.

    adapter: an ``Adapter`` or a file of PEFT, LyCORIS, kohya, ComfyUI and so on; its names are looked up in the model
    fields: of ``LoKrConfig``, such as ``rank_dropout``, that a file does not tell and that do not change its tensors

    Parameters keep the file's forms and are fp32 at least; the model computes what its trainer's did. An update of a
    fused weight that the model has in parts is cut into updates of the parts.

    Raises LoKrMatchError where a module has no place in the model, LoKrValueError for a file with more than LoKr in it.
    """
    adapter = adapter if isinstance(adapter, Adapter) else load_adapter(adapter)
    if adapter.foreign.tensors:
        module, kind = next(iter(adapter.other_kinds.items()))
        raise LoKrValueError(
            "The file holds more than LoKr, which would be lost in training",
            file=adapter.path,
            module=module,
            found=f"{kind}, {len(adapter.foreign.tensors)} tensors in all",
            hint="merge that part into the model first, or take it out of the file",
        )
    try:
        renamed, _ = rename(adapter, SPELLINGS["peft"], Target.of(dict(model.named_parameters())))
    except LoKrError as error:
        error.file = error.file or adapter.path
        raise
    updates = {module.path: module.weights for module in renamed.values()}
    config = _config(updates, is_trainable, fields)
    wrapped = LoKrModel(model, config, adapter_name, autocast_adapter_dtype=True)
    for path, layer in wrapped.get_base_model().named_modules():
        if path in updates:
            _install(layer, adapter_name, updates[path], config)
    wrapped.set_adapter(adapter_name, inference_mode=not is_trainable)
    return wrapped


def _config(updates: Mapping[str, LoKrWeights], is_trainable: bool, fields: Mapping[str, object]) -> LoKrConfig:
    """A configuration that names the modules, and PEFT's own where it has one for these updates."""
    try:
        _, entries = peft_layout(updates, updates)
    except LoKrValueError:
        entries = {"r": max(w.rank or 1 for w in updates.values()), "target_modules": list(updates), "order": "lycoris"}
        entries["alpha"] = entries["r"]
    return LoKrConfig(**{**entries, "inference_mode": not is_trainable, **fields})


@torch.no_grad()
def _install(layer: LoKrLayer, name: str, weights: LoKrWeights, config: LoKrConfig) -> None:
    """Put the update into the layer in the form that it has, in place of what the configuration made."""
    w1, w2 = weights.w1, weights.w2
    (l, m), (k, n, *kernel) = w1.shape, w2.shape
    tensors = {"dora_scale": weights.dora_scale}
    for kind, factor in (("lokr_w1", w1), ("lokr_w2", w2)):
        tensors |= {kind: factor.whole, f"{kind}_a": factor.a, f"{kind}_b": factor.b}
    if w2.b is not None and w2.t is None:
        tensors["lokr_w2_b"] = w2.b.flatten(1)
    shapes = AdapterShapes(l, k, m, n, tuple(kernel), w1.rank, w2.rank, tucker=w2.t is not None)
    described = AdapterShapes.of(layer.get_base_layer(), config, layer.r[name])
    if described == replace(shapes, tucker_tail=described.tucker_tail):
        shapes = described
    else:  # the configuration has no such form, and ``save_pretrained`` will say so
        layer.r[name] = weights.rank or 1
    if w2.t is not None:
        tensors["lokr_t2"] = w2.t.unsqueeze(-1) if shapes.tucker_tail else w2.t
    for kind in layer.adapter_layer_names:
        parameters, tensor = getattr(layer, kind), tensors.get(kind)
        if name in parameters:
            del parameters[name]
        if tensor is not None:
            dtype = torch.promote_types(tensor.dtype, torch.float32)
            parameters[name] = nn.Parameter(tensor.to(layer.weight.device, dtype, copy=True))
    layer.shapes[name] = shapes
    layer.dora.pop(name, None)
    if weights.dora_axis is not None:
        layer.dora[name] = weights.dora_axis
    layer.alpha[name] = weights.scaling * layer.r[name]
    layer.scaling[name] = layer._trained_scaling[name] = weights.scaling
