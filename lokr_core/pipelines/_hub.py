"""The file of an adapter in a repository of the Hugging Face hub."""

from __future__ import annotations

import re
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import Any

from ..errors import LoKrFileError

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_SAFE = ".safetensors"
# The names that diffusers and PEFT give an adapter; PEFT's configuration, which its file needs.
_NAMES, _CONFIG = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors"), "adapter_config.json"


def file_of(path: str | PathLike[str], weight_name: str | None, subfolder: str, options: dict[str, Any]) -> Path:
    """The adapter's file or folder on this machine: ``path`` if there is one, else that repository's, downloaded.

    weight_name: the file's name in it, None to find it; subfolder: the folder in it; options: the hub's

    Raises LoKrFileError if the hub cannot be asked, or the repository holds no adapter or several.
    """
    folder = Path(path)
    repository = str(path)
    if not folder.exists() and _REPOSITORY.fullmatch(repository) and not repository.endswith(_SAFE):
        return _downloaded(repository, weight_name, subfolder, options)
    return folder.joinpath(*filter(None, (subfolder, weight_name)))


def _downloaded(repository: str, weight_name: str | None, subfolder: str, options: dict[str, Any]) -> Path:
    hub = import_module("huggingface_hub")
    inside = f"{subfolder.strip('/')}/" if subfolder else ""
    offline = options.get("local_files_only") or hub.constants.HF_HUB_OFFLINE
    try:
        if weight_name is None and not offline:
            asked = {key: options[key] for key in ("revision", "token") if key in options}
            weight_name = _only_adapter(repository, hub.list_repo_files(repository, **asked), inside)
        patterns = [inside + (weight_name or f"*{_SAFE}"), inside + _CONFIG]
        folder = Path(hub.snapshot_download(repository, allow_patterns=patterns, **options), inside)
    except LoKrFileError:
        raise
    except Exception as error:  # of the hub's client, of its HTTP library or of the network
        raise LoKrFileError(
            f"There is no such file or folder, and the hub has not given a repository of that name: {error}",
            file=repository,
            expected="a .safetensors file, its folder, or a repository OWNER/NAME",
            hint="check the name; without a network, give the path of the file",
        ) from None
    return folder / weight_name if weight_name else folder


def _only_adapter(repository: str, names: list[str], inside: str) -> str:
    """The file to load of those in a repository's folder. Raises LoKrFileError if it is not one."""
    files = [name.removeprefix(inside) for name in names if name.startswith(inside) and name.endswith(_SAFE)]
    files = [name for name in files if "/" not in name]
    known = [name for name in _NAMES if name in files] or files
    if len(known) == 1:
        return known[0]
    raise LoKrFileError(
        "There are several files in this repository" if files else "There is no .safetensors file in this repository",
        file=repository,
        expected="weight_name=, the name of the file",
        found=", ".join(files[:5]) or f"{len(names)} other files",
        hint="the repository's page lists its files; a folder in it is named by subfolder=",
    )
