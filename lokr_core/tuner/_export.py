"""From a ``LoKrModel`` to an ``Adapter``, which ``save_adapter`` writes in any format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from ..adapter import Adapter, LoKrWeights
from ..errors import LoKrValueError
from ..peft import as_trained
from ._folder import PREFIX
from ._layer import LoKrLayer
from ._shapes import AdapterShapes

if TYPE_CHECKING:
    from ._model import LoKrModel


def to_adapter(model: LoKrModel, adapter_name: str | None = None) -> Adapter:
    """An adapter in training (the active one) as an ``Adapter``, under the module names of the wrapped model.

    Its tensors are the parameters themselves, detached; where those are sharded they are gathered, and every process
    has to call. Raises LoKrValueError where modules or biases are trained whole, which adapter files do not hold.
    """
    name = model.active_adapters[0] if adapter_name is None else adapter_name
    tensors = model.adapter_state_dict(name)
    modules: dict[str, LoKrWeights] = {}
    for path, layer in model.get_base_model().named_modules():
        if isinstance(layer, LoKrLayer) and name in layer:
            found = {kind: tensors.pop(f"{PREFIX}{path}.{kind}", None) for kind in layer.adapter_layer_names}
            modules[path] = _weights(layer, name, {kind: t for kind, t in found.items() if t is not None})
    if tensors:
        raise LoKrValueError(
            "Whole modules or biases were trained beside the adapter, and an adapter's file does not hold them",
            module=next(iter(tensors)).removeprefix(PREFIX),
            found=f"{len(tensors)} tensors that are no LoKr",
            hint="save_pretrained keeps them, in PEFT's layout",
        )
    return Adapter(modules, producer="lokr_core")


def _weights(layer: LoKrLayer, name: str, tensors: Mapping[str, Tensor]) -> LoKrWeights:
    shapes, scaling = layer.shapes[name], layer.trained_scaling(name)
    w1, w2 = shapes.factors(tensors)
    if shapes.swapped:
        w1, w2 = as_trained(w1, w2)
    rank = w1.rank if w2.rank is None else w2.rank
    return LoKrWeights(w1, w2, scaling, tensors.get("dora_scale"), None if rank is None else scaling * rank)


def check_described(model: LoKrModel, name: str) -> None:
    """LoKrValueError where the adapter's configuration does not give the shapes that its factors have, as it may be for
    one loaded from another trainer's file: a reader of the configuration would make others."""
    config = model.peft_config[name]
    for path, layer in model.get_base_model().named_modules():
        if isinstance(layer, LoKrLayer) and name in layer:
            described = AdapterShapes.of(layer.get_base_layer(), config, layer.r[name])
            if layer.shapes[name] != described:
                raise LoKrValueError(
                    "PEFT's layout cannot hold the factors that this adapter was loaded with",
                    module=path,
                    expected=described.tensors,
                    found=layer.shapes[name].tensors,
                    hint='save_adapter(model, path, format="kohya") writes them as they are',
                )
