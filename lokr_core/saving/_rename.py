"""The modules of an adapter under the names of another format."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from ..adapter import Adapter, LoKrWeights
from ..errors import LoKrShapeError, LoKrValueError, blame
from ..kronecker import Factor
from ..modules import ModuleName, Spelling
from ..names import Slot
from ._book import Book, component_of

_UNET = re.compile(r"(?:down|up|mid)_block")


@dataclass(frozen=True)
class Renamed:
    """A module under its new name.

    path: the name behind the prefix; weights: with the axes of its weight, if known; source: its name in the adapter
    """

    path: str
    weights: LoKrWeights
    source: str


def respelled(adapter: Adapter, spelling: Spelling) -> tuple[list[tuple[str, Renamed]], dict[str, str]]:
    """``rename`` without a model: only prefixes and "_" for "." change."""
    if any(_UNET.match(name.path) for name in adapter.names.values()):
        spelling = spelling.for_unet()
    foreign = {
        module: spelling.spell(component_of(each.name), each.name.path)
        for module, each in adapter.foreign.modules.items()
        if each.name.full != each.name.path and (spelling.flattened or not each.name.flattened)
    }
    return [_respelled(name, adapter[name], adapter.names[name], spelling) for name in adapter], foreign


def by_name(modules: Iterable[tuple[str, Renamed]]) -> dict[str, Renamed]:
    """New full name -> module. Raises LoKrValueError if two have the same name."""
    found: dict[str, Renamed] = {}
    for full, module in modules:
        if full in found:
            raise LoKrValueError(
                "Two modules of the adapter have the same name in this format",
                module=full,
                expected="a name for each",
                found=f"{found[full].source} and {module.source}",
                hint="save the adapters of the parts of a pipeline one by one",
            )
        found[full] = module
    return found


def _respelled(module: str, weights: LoKrWeights, name: ModuleName, spelling: Spelling) -> tuple[str, Renamed]:
    """(new full name, module) with the prefix and "_" for "." changed."""
    if name.flattened and "_" in name.path and not spelling.flattened:
        raise LoKrValueError(
            "This format has dots in its names, and the adapter has _ for them",
            module=module,
            expected="dotted names, or a model to look them up in",
            found=name.path,
            hint="give the model that the adapter is for: save_adapter(..., model=model)",
        )
    return spelling.spell(component_of(name), name.path), Renamed(name.path, weights, module)


def renamed(module: str, weights: LoKrWeights, slots: tuple[Slot, ...], book: Book) -> Iterator[tuple[str, Renamed]]:
    """(new full name, module) of an update that goes to ``slots``; of one that is cut, several."""
    name = book.names.get(slots)
    if name:
        yield name.full, Renamed(name.path, weights, module)
        return
    with blame(module=module):
        yield from _cut(module, weights, slots, book)


def _cut(module: str, weights: LoKrWeights, slots: tuple[Slot, ...], book: Book) -> Iterator[tuple[str, Renamed]]:
    """The update of a fused weight as one for each part that the format names."""
    cuts = book.cuts(slots, weights.shape[0])
    if not cuts:
        raise LoKrShapeError(
            "This format has no name for where the module's update goes",
            expected="a weight of its own",
            found=", ".join(f"rows {s.rows[0]} to {sum(s.rows)} of {s.module}" if s.rows else s.module for s in slots),
            hint="save in a format that names parts of fused weights: kohya, comfyui or diffusers",
        )
    for start, length, name in cuts:
        pieces = list(weights.rows(start, length))
        part = pieces[0][1] if len(pieces) == 1 else _stacked([piece for _, piece in pieces])
        yield name.full, Renamed(name.path, part, module)


def _stacked(pieces: list[LoKrWeights]) -> LoKrWeights:
    """Updates of consecutive rows as one: 1 ⊗ ΔW, since several products have no common factor in general."""
    delta = torch.cat([piece.delta() for piece in pieces])
    scales = [piece.dora_scale for piece in pieces if piece.dora_scale is not None]
    dora_scale = torch.cat(scales).reshape(-1, *[1] * (delta.ndim - 1)) if scales else None
    norms = [piece.dora_norm for piece in pieces if piece.dora_norm is not None]
    one = Factor(torch.ones(1, 1, dtype=delta.dtype))
    return LoKrWeights(one, Factor(delta), 1.0, dora_scale, dora_norm=torch.cat(norms) if norms else None)
