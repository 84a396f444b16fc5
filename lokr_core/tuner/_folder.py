"""An adapter of a model as named tensors, in PEFT's layout: ``adapter_model.safetensors``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from .._files import load_tensors
from ..errors import LoKrFileError, LoKrMatchError
from ..peft import LoKrConfig
from ._layer import LoKrLayer
from ._modules_to_save import ModulesToSaveWrapper

WEIGHTS_NAME = "adapter_model.safetensors"
PREFIX = "base_model.model."
"""What PEFT's keys begin with: its own wrappers around the model."""


def adapter_parameters(model: nn.Module, adapter_name: str, config: LoKrConfig) -> dict[str, Tensor]:
    """What is saved of an adapter: PEFT's key (without the adapter's name) -> the parameter itself."""
    found: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, LoKrLayer) and adapter_name in module.shapes:
            for kind in module.adapter_layer_names:
                if adapter_name in getattr(module, kind):
                    found[f"{PREFIX}{name}.{kind}"] = getattr(module, kind)[adapter_name]
            if config.bias == "lokr_only" and module.bias is not None:
                found[f"{PREFIX}{name}.base_layer.bias"] = module.bias
        elif isinstance(module, ModulesToSaveWrapper) and adapter_name in module.modules_to_save:
            saved = module.modules_to_save[adapter_name].state_dict(keep_vars=True)
            found.update({f"{PREFIX}{name}.{key}": tensor for key, tensor in saved.items()})
    if config.bias == "all":
        biases = {n: p for n, p in model.named_parameters() if n == "bias" or n.endswith(".bias")}
        found.update({PREFIX + name: p for name, p in biases.items() if ".modules_to_save." not in name})
    return found


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of a folder's ``adapter_model.safetensors``. Raises LoKrFileError where it has none."""
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


def check_fits(tensors: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], file: object) -> None:
    """LoKrMatchError where names or shapes of a file's tensors are not those that the model's adapter would have."""
    missing, strange = sorted(set(expected) - set(tensors)), sorted(set(tensors) - set(expected))
    wrong = [key for key in sorted(set(expected) & set(tensors)) if tuple(tensors[key].shape) != expected[key]]
    if not (missing or strange or wrong):
        return
    kinds = {"tensors are missing": missing, "belong to no target": strange, "are of another shape": wrong}
    problems = [f"{len(keys)} {what}, such as {keys[0]}" for what, keys in kinds.items() if keys]
    first = wrong[0] if wrong else (missing or strange)[0]
    raise LoKrMatchError(
        "The adapter does not fit this model: " + "; ".join(problems),
        file=file,
        module=first.removeprefix(PREFIX).rpartition(".")[0],
        expected=expected.get(first, "no such tensor"),
        found=tuple(tensors[first].shape) if first in tensors else "no such tensor",
        hint="load it onto the model that it was trained on; the model is unchanged",
    )
