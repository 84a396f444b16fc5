"""The weights in an adapter's folder as PEFT has it: ``adapter_model.safetensors``."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from .._files import load_tensors
from ..errors import LoKrFileError
from ..peft import WEIGHTS_NAME


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
