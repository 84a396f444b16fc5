"""What a file says of itself by its header alone: for lists of files, and before anything runs."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch

from .._files import read_header
from ..errors import LoKrError, LoKrFileError
from ..formats import Parts, describe, module_names, producer, split_keys
from ..kronecker import Factor
from ..names import guess
from ._metadata import base_model, title, trigger_words


@dataclass(frozen=True)
class Outline:
    """A file by its header. ``kind``: "LoKr", "LoKr and LoRA", or what the file is where it has no LoKr;
    ``modules``: of its LoKr; ``base_model``: as the names and shapes tell, or as the metadata says, "" unknown."""

    kind: str
    is_lokr: bool
    base_model: str
    producer: str
    title: str
    modules: int
    trigger_words: list[str]
    metadata: dict[str, str]


def outline(path: str | os.PathLike, most: int = 16_000_000) -> Outline:
    """The outline of the ``.safetensors`` file at ``path``; a header of over ``most`` bytes is not read.

    Raises LoKrFileError for what is no such file.
    """
    header = read_header(path, most)
    try:
        tensors = {
            name: torch.empty(info.shape, dtype=info.dtype, device="meta") for name, info in header.tensors.items()
        }
    except (RuntimeError, TypeError) as error:  # numbers that no tensor can have
        raise LoKrFileError("A tensor's shape is none", file=Path(path), found=str(error)[:200]) from None
    try:
        parts = split_keys(tensors)
    except LoKrError as error:
        error.file = Path(path)
        raise
    names, namings = module_names(parts.lokr, header.metadata)
    shapes = {names[m].path: _shape(found) for m, found in parts.lokr.items() if names[m].component in ("", "unet")}
    architecture = guess({name: shape for name, shape in shapes.items() if shape})
    said = next(iter(base_model(header.metadata).values()), "")
    return Outline(
        kind=_kind(parts),
        is_lokr=bool(parts.lokr),
        base_model=architecture or said,
        producer=producer(namings, header.metadata),
        title=title(header.metadata),
        modules=len(parts.lokr),
        trigger_words=trigger_words(header.metadata),
        metadata=header.metadata,
    )


def _kind(parts: Parts) -> str:
    others = Counter(kind for kind in parts.other_kinds.values() if kind != "unknown")
    kinds = ["LoKr"] * bool(parts.lokr) + [kind for kind, _ in others.most_common()]
    return " and ".join(kinds) or describe(parts)


def _shape(parts: dict[str, torch.Tensor]) -> tuple[int, ...] | None:
    """(out, in, *kernel) of a module's weight as its tensors tell, None where they make up no module."""
    try:
        w1, w2 = (
            Factor(parts.get(name), parts.get(f"{name}_a"), parts.get(f"{name}_b"), core).shape
            for name, core in (("lokr_w1", None), ("lokr_w2", parts.get("lokr_t2")))
        )
    except LoKrError:
        return None
    return (w1[0] * w2[0], w1[1] * w2[1], *w2[2:])
