"""What a file's header alone tells of it: for lists of files, and before anything is loaded."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from .._files import read_header
from ..adapter import LoKrWeights
from ..errors import LoKrError, LoKrFileError, blame
from ..formats import SortedKeys, config_beside, describe, names_and_writer, split_keys
from ..kronecker import Factor
from ..names import base_model_of
from ._metadata import title, trained_with, trigger_words


@dataclass(frozen=True)
class Outline:
    """A file by its header.

    kind: "LoKr", "LoKr and LoRA", or what a file without LoKr is
    base_model: as names and shapes tell, else as the metadata say, "" if unknown; guessed: whether by the names
    base_model_text: the same for a person
    modules: how many are LoKr
    """

    kind: str
    is_lokr: bool
    base_model: str
    base_model_text: str
    guessed: bool
    producer: str
    title: str
    modules: int
    trigger_words: list[str]
    metadata: dict[str, str]

    @property
    def trained_with(self) -> dict[str, str]:
        """The trainer's settings, including each of ``ss_network_args``."""
        return trained_with(self.metadata)


def outline(path: str | os.PathLike, most: int = 16_000_000) -> Outline:
    """The outline of the ``.safetensors`` file at ``path``.

    Raises LoKrFileError if it is not one, or its header has more than ``most`` bytes.
    """
    header = read_header(path, most)
    try:
        tensors = {
            name: torch.empty(info.shape, dtype=info.dtype, device="meta") for name, info in header.tensors.items()
        }
    except (RuntimeError, TypeError) as error:  # numbers that no tensor can have
        raise LoKrFileError("A tensor has an impossible shape", file=Path(path), found=str(error)[:200]) from None
    with blame(file=Path(path)):
        found = split_keys(tensors)
    names, writer = names_and_writer(found, header.metadata, config_beside(Path(path)))
    shapes = {module: _shape(parts) for module, parts in found.lokr.items()}
    base = base_model_of({module: names[module] for module in found.lokr}, shapes, header.metadata)
    return Outline(
        kind=_kind(found),
        is_lokr=bool(found.lokr),
        base_model=base.title,
        base_model_text=base.text,
        guessed=base.guessed,
        producer=writer,
        title=title(header.metadata),
        modules=len(found.lokr),
        trigger_words=trigger_words(header.metadata),
        metadata=header.metadata,
    )


def _kind(found: SortedKeys) -> str:
    foreign = Counter(each.kind for each in found.foreign.modules.values() if each.kind != "unknown")
    kinds = ["LoKr"] * bool(found.lokr) + [kind for kind, _ in foreign.most_common()]
    return " and ".join(kinds) or describe(found)


def _shape(tensors: Mapping[str, torch.Tensor]) -> tuple[int, ...] | None:
    """(out, in, *kernel) of the weight that a module's tensors are for, None if they are incomplete."""
    tensors = {name: tensor for name, tensor in tensors.items() if name != "lokr_t1"}  # ignored, as in reading
    try:
        return LoKrWeights(Factor.from_tensors(tensors, "lokr_w1"), Factor.from_tensors(tensors, "lokr_w2")).shape
    except LoKrError:
        return None
