"""A written adapter loaded by the program that it is for, where that is installed."""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path
from typing import Any

import torch

from ..checkpoints import Checkpoint
from ..errors import LoKrError, LoKrFileError, LoKrMatchError, LoKrValueError
from ._comfyui import taken_by_comfyui

CHECKS = ("diffusers", "peft", "comfyui")
_COMPONENTS = ("transformer", "unet")


def check_with(program: str, path: str | os.PathLike, model: str | os.PathLike | None, modules: int) -> str:
    """Load ``path`` into ``model`` with the program's own loader, and say what it took.

    model: a diffusers folder, of which the configuration is read; for ComfyUI a file, of which the header is
    modules: how many the file has for the denoiser

    Returns a line for a person. Raises LoKrValueError if the program is not installed or does not read such a model,
    LoKrMatchError if it takes fewer modules.
    """
    if program == "comfyui":
        return _compared("ComfyUI", taken_by_comfyui(path, model), modules, path)
    network = _network(program, model)
    try:
        if program == "diffusers":
            network.load_lora_adapter(str(path), prefix=network.lokr_component)
        else:
            network = importlib.import_module("peft").PeftModel.from_pretrained(network, str(_folder(path)))
    except LoKrError:
        raise
    except Exception as error:  # of any kind: it is another program's
        raise LoKrMatchError(f"{program} does not load the file: {error}", file=path) from error
    taken = sum(1 for name, _ in network.named_modules() if name.endswith((".lora_A", ".lokr_w1", ".lokr_w1_a")))
    return _compared(program, taken, modules, path)


def _compared(program: str, taken: int, modules: int, path: str | os.PathLike) -> str:
    if taken < modules:
        raise LoKrMatchError(
            f"{program} takes not all modules", file=path, expected=f"{modules} modules", found=f"{taken}"
        )
    return f"{program} loads it: {taken} of {modules} modules"


def _folder(path: str | os.PathLike) -> Path:
    return Path(path).parent if Path(path).suffix == ".safetensors" else Path(path)


def _network(program: str, model: str | os.PathLike | None) -> Any:
    """The denoiser of a diffusers folder, without numbers."""
    if program not in CHECKS:
        raise LoKrValueError("Unknown program", expected=", ".join(CHECKS), found=repr(program))
    folder = None if model is None else Path(model)
    inside = [folder, *(folder / name for name in _COMPONENTS)] if folder else []
    found = next((place for place in inside if (place / "config.json").is_file()), None)
    if found is None:
        raise LoKrValueError(
            "A check needs the model as a folder that diffusers reads",
            expected="--model FOLDER with a config.json",
            found=model,
        )
    try:
        diffusers = importlib.import_module("diffusers")
        importlib.import_module("peft")
    except ImportError as error:
        raise LoKrValueError(f"{program} is not installed: {error}", hint="pip install diffusers peft") from None
    config = json.loads((found / "config.json").read_text())
    cls = getattr(diffusers, config.get("_class_name", ""), None)
    if cls is None:
        raise LoKrFileError("diffusers has no such model", file=found / "config.json", found=config.get("_class_name"))
    Checkpoint.of(found)  # its files are there
    with torch.device("meta"):
        network = cls.from_config(config)
    network.lokr_component = "unet" if "UNet" in cls.__name__ else "transformer"
    return network
