"""An adapter's folder as PEFT has it: ``adapter_config.json`` and ``adapter_model.safetensors``."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from .._files import load_tensors, replacing
from ..errors import LoKrFileError
from ._layout import CONFIG_NAME, WEIGHTS_NAME


def read_entries(text: str | bytes, source: str) -> dict[str, Any]:
    """The fields in a configuration's text. Raises LoKrFileError, naming ``source``, if it is not a JSON object."""
    try:
        entries = json.loads(text)
        if not isinstance(entries, dict):
            raise ValueError(f"it is {type(entries).__name__}, not an object")
    except (ValueError, RecursionError) as error:
        raise LoKrFileError(
            f"The adapter configuration cannot be read: {error}",
            expected="a JSON object with r and alpha",
            found=f"{source}: {text[:80]!r}",
        ) from None
    return entries


def write_entries(folder: str | os.PathLike, entries: Mapping[str, object]) -> None:
    """Write ``adapter_config.json`` into the folder, which is made if it is missing.

    The order of the fields stays: of several patterns that match a module the first counts.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / CONFIG_NAME) as temporary:
        temporary.write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")


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
