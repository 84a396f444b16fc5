"""The modules of an adapter under the names of another format, looked up in a model if there is one."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from ..adapter import Adapter, LoKrWeights
from ..errors import LoKrMatchError, LoKrShapeError, LoKrValueError, blame
from ..kronecker import Factor
from ..matching import Match, Target, foreign_places, resolve
from ..modules import OWN, SPELLINGS, TRAINED, ModuleName, Spelling
from ..names import DIFFUSERS, ORIGINAL, TEXT_ENCODERS, UNETS, Slot, SubModel, spelled

_UNET = re.compile(r"(?:down|up|mid)_block")
_TEXT = re.compile(r"(?:text_model[._])?(?:encoder[._](?:layers?|block)|model[._]layers)[._]|text_model[._]")


@dataclass(frozen=True)
class Renamed:
    """A module under its new name.

    path: the name behind the prefix; weights: with the axes of its weight, if known; source: its name in the adapter
    """

    path: str
    weights: LoKrWeights
    source: str


def rename(adapter: Adapter, spelling: Spelling, target: Target | None) -> tuple[dict[str, Renamed], dict[str, str]]:
    """The modules under the names of a format.

    target: the model in which names are translated between diffusers' and the original ones, and updates of fused
        weights are cut if the format names their parts. None: only prefixes and "_" for "." change

    Returns (new full name -> module, old name -> new name of the foreign modules). Raises LoKrMatchError if a module
    does not belong to ``target``, LoKrValueError if the names do not suffice.
    """
    if target is None:
        if any(_UNET.match(name.path) for name in adapter.names.values()):
            spelling = spelling.for_unet()
        modules = [_respelled(name, adapter[name], adapter.names[name], spelling) for name in adapter]
        foreign = {
            module: spelling.spell(component_of(each.name), each.name.path)
            for module, each in adapter.foreign.modules.items()
            if each.name.full != each.name.path and (spelling.flattened or not each.name.flattened)
        }
    else:
        book = Book(target, spelling)
        modules = list(_looked_up(adapter, target, book))
        places = {module: (slot,) for module, slot in foreign_places(adapter, target).items()}
        foreign = {module: book.names[slots].full for module, slots in places.items() if slots in book.names}
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
    return found, foreign


def component_of(name: ModuleName) -> str:
    """The part of a pipeline that a module belongs to, by its prefix or else by its path."""
    return name.component or ("te" if _TEXT.match(name.path) else "unet")


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


class Book:
    """The names that a format gives a target's modules, by the slots that an update goes to."""

    def __init__(self, target: Target, spelling: Spelling, split: bool = False):
        """split: whether a fused weight of which the format names the parts has no name as a whole, such as ``to_qkv``,
        which diffusers' models have only after ``fuse_qkv_projections``."""
        models = target.models[:-1]  # the last holds aliases
        unet = any(model.architecture in UNETS for model in models)
        self._split = split
        self._spelling = spelling.for_unet() if unet else spelling
        self.names: dict[tuple[Slot, ...], ModuleName] = {}
        # module of a fused weight -> the parts of it that have names
        self._parts: dict[str, list[_Cut]] = defaultdict(list)
        # module -> the names, without those of ``split``, whose updates go to it or to rows of it
        self._covering: dict[str, list[tuple[ModuleName, tuple[Slot, ...]]]] = defaultdict(list)
        # kohya numbers text encoders if there are several.
        numbered = sum(map(_is_text, models)) > 1
        for model in models:
            self._add(model, numbered)

    def _add(self, model: SubModel, numbered: bool) -> None:
        text = _is_text(model)
        component = f"te{model.number if numbered else ''}" if text else model.component or "unet"
        side = self._spelling.names
        if side == TRAINED:
            side = DIFFUSERS if model.architecture in UNETS else ORIGINAL
        if text and side == ORIGINAL:
            side = DIFFUSERS  # all formats have transformers' names for text encoders
        if side == OWN:
            names = {model.prefix + m: s for m, s in model.names.items() if s == (Slot(model.prefix + m),)}
            self._note(names, component, "")
            return
        self._note(spelled(model.shapes, side), component, model.prefix)
        if side == ORIGINAL and self._spelling.split is not None:
            self._note(spelled(model.shapes, DIFFUSERS), component, model.prefix, split=True)

    def _note(self, names: Mapping[str, tuple[Slot, ...]], component: str, prefix: str, split: bool = False) -> None:
        cut = {slot.module for slots in names.values() for slot in slots if slot.rows and len(slots) == 1}
        if self._split:
            names = {p: s for p, s in names.items() if p == s[0].module or s[0].module not in cut or s[0].rows}
        for path, slots in names.items():
            slots = tuple(replace(slot, module=prefix + slot.module) for slot in slots)
            name = ModuleName(self._spelling.spell(component, path, split), path, component)
            if self.names.setdefault(slots, name) is name and not split:
                for module in dict.fromkeys(slot.module for slot in slots):
                    self._covering[module].append((name, slots))
            if len(slots) == 1 and slots[0].rows and not split:
                self._parts[slots[0].module].append(_Cut(*slots[0].rows, name))

    def covering(self, module: str) -> list[tuple[ModuleName, tuple[Slot, ...]]]:
        """(name, slots) of the format's modules that hold all or some rows of a weight of the target."""
        return self._covering[module]

    @classmethod
    def of(cls, target: Target, format: str) -> Book:
        """The names that a format of ``SPELLINGS`` gives the modules of ``target``."""
        return cls(target, SPELLINGS[format])

    def parts(self, module: str, rows: int) -> list[NamedModule]:
        """The names of the parts of a fused weight with so many rows, in their order; empty if they do not cover it."""
        found = [
            NamedModule(name, slots[0].rows)
            for slots, name in self.names.items()
            if len(slots) == 1 and slots[0].module == module and slots[0].rows and not slots[0].swap
        ]
        found.sort(key=lambda part: part.rows)
        ends = [0, *(sum(part.rows) for part in found)]
        covered = ends[-1] == rows and all(part.rows[0] == end for part, end in zip(found, ends, strict=False))
        return found if covered and len(found) > 1 else []

    def cuts(self, slots: tuple[Slot, ...], rows: int) -> list[_Cut]:
        """The modules that an update of ``rows`` rows is cut into, empty if their names do not cover it."""
        if len(slots) == 1 and slots[0] == Slot(slots[0].module, parameter=slots[0].parameter):
            parts = sorted(self._parts[slots[0].module], key=lambda part: part.start)
            ends = [0, *(part.start + part.length for part in parts)]
            covered = ends[-1] == rows and all(part.start == end for part, end in zip(parts, ends, strict=False))
            return parts if covered else []
        found = [(slot.source_rows, self.names.get((replace(slot, source_rows=None),))) for slot in slots]
        return [_Cut(*rows, name) for rows, name in found if rows and name]


class NamedModule(NamedTuple):
    """A module of a format, and the rows (start, length) of a weight that it has."""

    name: ModuleName
    rows: tuple[int, int]


class _Cut(NamedTuple):
    """Rows start:start+length of an update, and the name of the module that they become."""

    start: int
    length: int
    name: ModuleName


def _is_text(model: SubModel) -> bool:
    return model.component[:2] == "te" or model.architecture in TEXT_ENCODERS


def _looked_up(adapter: Adapter, target: Target, book: Book) -> Iterator[tuple[str, Renamed]]:
    """(new full name, module) of all modules; of an update that is cut, several."""
    placed, report = resolve(adapter, target)
    matches: dict[str, list[Match]] = {}
    for match in placed:
        matches.setdefault(match.module, []).append(match)
    missing = [entry for entry in report.refused if entry.kind == "LoKr"]
    if missing:
        raise LoKrMatchError(
            f"{len(missing)} of the {len(adapter)} modules do not belong to the model that names are looked up in",
            module=missing[0].module,
            found=missing[0].reason,
            hint="give the model that the adapter was trained on, or save without one under the names it has",
        )
    for module, weights in adapter.items():
        slots = tuple(match.slot for match in matches[module])
        weights = weights.fit((weights.shape[0], *target.shape_of(slots[0])[1:]))
        name = book.names.get(slots)
        if name:
            yield name.full, Renamed(name.path, weights, module)
            continue
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
