"""Which base model a file is for: as its metadata say, and as its names and shapes look."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from .._files import json_object
from ..modules import ModuleName
from ._registry import guesses

_KEYS = (
    "ss_base_model_version",
    "modelspec.architecture",
    "ss_sd_model_name",
    "modelspec.implementation",
    "modelspec.resolution",
    "base_model_name_or_path",
)
_LENGTH = 120  # characters kept of one value


class BaseModel(NamedTuple):
    """The answer to "for which model is this file?".

    title: as the names look, else as the metadata say, "" if unknown; guessed: whether it is by the names
    stated: metadata key -> value, for the keys that describe the base model
    """

    title: str
    guessed: bool
    stated: Mapping[str, str]

    @property
    def text(self) -> str:
        """The title for a person, with how it is known."""
        return f"{self.title} (guessed from its names)" if self.guessed else self.title


def base_model_of(
    names: Mapping[str, ModuleName], shapes: Mapping[str, tuple[int, ...] | None], metadata: Mapping[str, str]
) -> BaseModel:
    """The base model of a file.

    names: module -> its name taken apart; shapes: module -> (out, in, *kernel) of its weight, None if unknown
    metadata: of the file. They also choose among architectures that share the file's names

    >>> names = {"a": ModuleName("a", "double_blocks_0_img_mod_lin", "unet", True)}
    >>> base_model_of(names, {"a": (18432, 3072)}, {}).text
    'Flux.1 (guessed from its names)'
    >>> base_model_of({}, {}, {"ss_base_model_version": "flux1"}).text
    'flux1'
    """
    denoiser = {n.path: shape for m, n in names.items() if n.component in ("", "unet") and (shape := shapes.get(m))}
    stated, found = stated_base_model(metadata), guesses(denoiser)
    if not found:
        return BaseModel(next(iter(stated.values()), ""), False, stated)
    said = _plain(" ".join(stated.values()))
    named = [title for title in found if _plain(title) in said]
    return BaseModel(max(named, key=len) if named else found[0], True, stated)


def stated_base_model(metadata: Mapping[str, str]) -> dict[str, str]:
    """Metadata key -> value, for the keys that describe the base model."""
    adapter_config = json_object(metadata.get("lora_adapter_metadata"))
    peft = {key.rpartition(".")[2]: str(value) for key, value in adapter_config.items() if value}
    found = {**peft, **metadata}
    values = {key: " ".join(str(found[key]).split()) for key in _KEYS if key in found}
    return {
        key: text[: _LENGTH - 1] + "…" if len(text) > _LENGTH else text
        for key, text in values.items()
        if text not in ("", "None", "null")
    }


def _plain(title: str) -> str:
    return "".join(sign for sign in title.lower() if sign.isalnum())
