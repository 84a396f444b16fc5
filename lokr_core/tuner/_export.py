"""An adapter in a model's layers as an ``Adapter``; PEFT's folder, written and read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from .._files import load_tensors, save_tensors
from ..adapter import Adapter, LoKrWeights
from ..errors import LoKrFileError, LoKrValueError
from ..peft import PREFIX, WEIGHTS_NAME, LoKrConfig
from ..trainable import AdapterShapes
from ._all_layers import layers_of

_RANK_OF_WHOLE = 1 << 20
"""A rank at which PEFT leaves both factors of any layer whole."""


def to_adapter(model: nn.Module, name: str, tensors: dict[str, Tensor]) -> Adapter:
    """The adapter ``name`` in the layers of ``model``, under the model's module names.

    tensors: the adapter's, by PEFT's keys

    Raises LoKrValueError if modules or biases were trained whole, which adapter files do not hold.
    """
    rest = dict(tensors)
    modules: dict[str, LoKrWeights] = {}
    for path, layer in layers_of(model, name):
        found = {kind: rest.pop(f"{PREFIX}{path}.{kind}") for kind in layer.adapter_tensors(name)}
        modules[path] = layer.weights_of(name, found, layer.trained_scaling[name])
    if rest:
        raise LoKrValueError(
            "Whole modules or biases were trained beside the adapter, and an adapter's file does not hold them",
            module=next(iter(rest)).removeprefix(PREFIX),
            found=f"{len(rest)} tensors that are not LoKr",
            hint="save_pretrained keeps them, in PEFT's layout",
        )
    return Adapter(modules, producer="lokr_core")


def check_described(model: nn.Module, name: str, config: LoKrConfig) -> None:
    """Raises LoKrValueError if ``config`` does not give the shapes of the adapter's factors: a reader would create
    others. That may be so for an adapter loaded from another trainer's file."""
    for path, layer in layers_of(model, name):
        described = AdapterShapes.of(layer.get_base_layer(), config, layer.r[name])
        if layer.shapes[name] != described:
            raise LoKrValueError(
                "PEFT's layout cannot hold the factors that this adapter was loaded with",
                module=path,
                expected=described.tensors,
                found=layer.shapes[name].tensors,
                hint='save_adapter(model, path, format="kohya") writes them as they are',
            )


def save_folder(model: nn.Module, name: str, config: LoKrConfig, tensors: dict[str, Tensor], folder: Path) -> None:
    """Write the adapter as PEFT does: ``adapter_config.json``, and ``tensors`` as ``adapter_model.safetensors``."""
    # For each module the rank with which PEFT creates factors of the same form, and the scaling.
    modules = {
        path: (_RANK_OF_WHOLE if config.full_matrix else layer.r[name], layer.trained_scaling[name])
        for path, layer in layers_of(model, name)
    }
    replace(config, inference_mode=True).save_pretrained(folder, modules)
    save_tensors(tensors, folder / WEIGHTS_NAME, {"format": "pt"})


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of ``adapter_model.safetensors`` in the folder. Raises LoKrFileError if it is missing."""
    path = folder / WEIGHTS_NAME
    if not path.is_file():
        pickled = (folder / "adapter_model.bin").is_file()
        raise LoKrFileError(
            "There are no adapter weights in this folder",
            file=folder,
            expected=WEIGHTS_NAME,
            found="adapter_model.bin, a pickle" if pickled else "no such file",
            hint="save it again with safe_serialization=True" if pickled else "give the folder of save_pretrained",
        )
    return load_tensors(path)[0]
