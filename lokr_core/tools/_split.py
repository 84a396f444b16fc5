"""One file of several models as a file for each, and back: the experts of Wan 2.2, a denoiser and its text encoders."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from .._files import json_object, load_tensors, save_tensors
from ..adapter import Adapter, ModuleName
from ..display import human_bytes
from ..errors import LoKrFileError, LoKrValueError
from ..formats import EXPERTS
from ..peft import METADATA_KEY
from ._updates import load_any

MODEL, TEXT = "model", "te"
PARTS = (*EXPERTS, MODEL, TEXT, *(f"{TEXT}{n}" for n in range(1, 5)))
"""What a part of a file is called: an expert, the denoiser of other models, a text encoder."""

_ALONE = re.compile(r"(transformer|pipe\.dit)_?[12]\.")  # in place of the prefix that any other model has
_INSIDE = re.compile(r"(?:transformer_[12]|(?:high|low)_noise(?:_model)?)[._]")
_WORDS = {"high": "transformer_1", "low": "transformer_2"}


@dataclass
class Parts:
    """Files that were written: part -> (file, its modules, its bytes)."""

    files: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def text(self) -> str:
        """For a person."""
        files = self.files.items()
        lines = [f"{part}: {count} modules, {human_bytes(size)}: {file}" for part, (file, count, size) in files]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def as_dict(self) -> dict:
        """For a program."""
        files = {part: {"file": f, "modules": count, "bytes": size} for part, (f, count, size) in self.files.items()}
        return {"files": files, "notes": self.notes}


def split_file(path: str | os.PathLike, folder: str | os.PathLike | None = None, overwrite: bool = False) -> Parts:
    """Write a file for each model that the adapter ``path`` is for, ``NAME.PART.safetensors``.

    folder: where; None for that of ``path``

    A part's tensors keep their names; those of an expert lose the word for it, so that any loader takes them. Raises
    LoKrValueError if the file is of one model alone, LoKrFileError if a file exists.
    """
    path = Path(path)
    tensors, metadata = load_tensors(path)
    adapter = load_any(path)
    sorted_keys = _parts_of(adapter, tensors)
    if len(sorted_keys) < 2:
        raise LoKrValueError(
            "The file is of one model alone",
            file=path,
            expected="modules of two experts, or of a denoiser and text encoders",
            found=next(iter(sorted_keys), "no modules"),
            hint="use the file as it is: there is nothing to split",
        )
    outs = {part: Path(folder or path.parent) / f"{path.stem}.{part}.safetensors" for part in sorted_keys}
    taken = next((out for out in outs.values() if out.exists() and not overwrite), None)
    if taken:
        raise LoKrFileError("The output exists", file=taken, hint="move it away, or allow it: --overwrite")
    found = Parts()
    for part, keys in sorted_keys.items():
        renamed = {_without_expert(key) if part in EXPERTS else key: tensors[key] for key in keys}
        save_tensors(renamed, outs[part], _metadata(metadata, part))
        found.files[part] = str(outs[part]), _modules(adapter, keys), outs[part].stat().st_size
    return found


def join_files(paths: Sequence[str | os.PathLike], parts: Sequence[str], out: str | os.PathLike) -> Parts:
    """Write the adapters ``paths`` side by side to one file, each as the part of a model that it is for.

    parts: one of ``PARTS`` for each file; an expert's modules get the word for it into their names

    Raises LoKrValueError if a part is unknown or given twice, LoKrFileError if two files have a tensor of one name.
    """
    unknown = [part for part in parts if part not in PARTS]
    if unknown or len(parts) != len(paths) or len(set(parts)) != len(parts):
        raise LoKrValueError(
            "Each file needs a part of its own",
            expected=f"{len(paths)} of {', '.join(PARTS)}",
            found=", ".join(parts) or "none",
            hint="lokr join HIGH.safetensors LOW.safetensors --as high,low -o BOTH.safetensors",
        )
    joined: dict[str, Tensor] = {}
    metadata: dict[str, str] = {}
    configs: dict[str, object] = {}
    found = Parts()
    for path, part in zip(paths, parts, strict=True):
        tensors, entries = load_tensors(path)
        adapter = load_any(path)
        names = {**adapter.names, **{m: each.name for m, each in adapter.foreign.modules.items()}}
        for module, keys in _keys_by_module(names, tensors).items():
            for key in keys:
                new = _with_expert(names[module], part) + key[len(module) :] if part in EXPERTS and module else key
                if new in joined:
                    raise LoKrFileError(
                        "Two files have a tensor of one name",
                        file=path,
                        module=key,
                        expected="files of different parts of a pipeline",
                        hint="sum files of one model with lokr combine",
                    )
                joined[new] = tensors[key]
        found.files[part] = str(path), len(names), Path(path).stat().st_size
        configs |= {_config_key(key, part): value for key, value in json_object(entries.get(METADATA_KEY)).items()}
        metadata = {**entries, **metadata}
    if configs:
        metadata[METADATA_KEY] = json.dumps(configs, sort_keys=True)
    save_tensors(joined, out, metadata)
    return found


def _part_of(name: ModuleName) -> str:
    return name.expert or (name.component if name.component.startswith(TEXT) else MODEL)


def _parts_of(adapter: Adapter, tensors: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Part -> the keys of its tensors, in the order of ``PARTS``."""
    names = {**adapter.names, **{m: each.name for m, each in adapter.foreign.modules.items()}}
    found: dict[str, list[str]] = {}
    for module, keys in _keys_by_module(names, tensors).items():
        found.setdefault(_part_of(names[module]) if module else MODEL, []).extend(keys)
    return {part: found[part] for part in PARTS if part in found}


def _keys_by_module(names: Mapping[str, ModuleName], tensors: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Module -> the keys of its tensors; "" for keys of none."""
    found: dict[str, list[str]] = {}
    for key in tensors:
        words = re.split(r"(?=[._])", key)
        starts = ("".join(words[:count]) for count in range(len(words), 0, -1))
        found.setdefault(next((start for start in starts if start in names), ""), []).append(key)
    return found


def _modules(adapter: Adapter, keys: Sequence[str]) -> int:
    names = {**adapter.names, **{m: each.name for m, each in adapter.foreign.modules.items()}}
    return len([module for module in _keys_by_module(names, dict.fromkeys(keys)) if module])  # type: ignore[arg-type]


def _without_expert(key: str) -> str:
    """A key without the word for its expert.

    >>> _without_expert("diffusion_model.transformer_1.blocks.0.lokr_w1"), _without_expert("transformer_2.a.lokr_w1")
    ('diffusion_model.blocks.0.lokr_w1', 'transformer.a.lokr_w1')
    """
    alone = _ALONE.match(key)
    if alone:
        return f"{alone[1]}.{key[alone.end() :]}"
    return _INSIDE.sub("", key, count=1)


def _with_expert(name: ModuleName, expert: str) -> str:
    """A module's full name with the word for its expert."""
    head = name.full[: len(name.full) - len(name.path)]
    if head == "transformer.":  # a diffusers pipeline's: the first has the name that any other model has
        return name.full if expert == "high" else f"transformer_2.{name.path}"
    return f"{head}{_WORDS[expert]}{'_' if name.flattened else '.'}{name.path}"


def _config_key(key: str, part: str) -> str:
    """A key of diffusers' configuration, for the part that its file becomes."""
    rest = key.removeprefix("transformer.")
    return f"transformer_2.{rest}" if part == "low" and rest != key else key


def _metadata(metadata: Mapping[str, str], part: str) -> dict[str, str]:
    """The metadata of a part: diffusers' configuration loses the entries of the others."""
    config = json_object(metadata.get(METADATA_KEY))
    if not config:
        return dict(metadata)
    own = {"high": ("transformer.",), "low": ("transformer_2.",), "te1": ("text_encoder.",)}
    starts = own.get(part, ("transformer.", "unet.") if part == MODEL else (f"text_encoder_{part[2:]}.",))
    kept = {key: value for key, value in config.items() if key.startswith(starts)} or config
    if part == "low":
        kept = {re.sub(r"^transformer_2\.", "transformer.", key): value for key, value in kept.items()}
    return {**metadata, METADATA_KEY: json.dumps(kept, sort_keys=True)}
