"""The modules of an adapter under the names of another format, with or without a model to look them up in."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch

from ..adapter import Adapter, LoKrWeights, ModuleName
from ..errors import LoKrError, LoKrMatchError, LoKrShapeError, LoKrValueError
from ..kronecker import Factor
from ..matching import Match, Part, Target, other_places, resolve
from ..names import DIFFUSERS, ORIGINAL, TEXT_ENCODERS, UNETS, Slot, spelled
from ._spellings import OWN, TRAINED, Layout, component_of, is_unet


@dataclass(frozen=True)
class Renamed:
    """A module under its new name. ``path`` is the name behind the prefix; ``weights`` has the axes of its weight as
    far as they are known; ``source`` is the module's name in the adapter."""

    component: str
    path: str
    weights: LoKrWeights
    source: str


def rename(adapter: Adapter, layout: Layout, target: Target | None) -> tuple[dict[str, Renamed], dict[str, str]]:
    """(new full name -> module, old name -> new name of the modules that are no LoKr).

    Without ``target`` only prefixes and "_" for "." change. With it, names are translated between diffusers' and the
    original ones; an update of a fused weight is cut where the format names its parts.

    Raises LoKrMatchError where a module has no place in ``target``, LoKrValueError where the names do not suffice.
    """
    if target is None:
        if is_unet(name.path for name in adapter.names.values()):
            layout = layout.for_unet()
        modules = {name: [_as_it_is(name, adapter[name], adapter.names[name], layout)] for name in adapter}
        others = {module: _spelled_as_it_is(name, layout) for module, name in adapter.other_names.items()}
    else:
        book = _Book(target, layout)
        modules = dict(_looked_up(adapter, target, book))
        others = {module: book.name_of((slot,)) for module, slot in other_places(adapter, target).items()}
    found: dict[str, Renamed] = {}
    for renamed in modules.values():
        for full, module in renamed:
            if full in found:
                raise LoKrValueError(
                    "Two modules of the adapter have the same name in this format",
                    module=full,
                    expected="a name for each",
                    found=f"{found[full].source} and {module.source}",
                    hint="save the adapters of the parts of a pipeline one by one",
                )
            found[full] = module
    return found, {module: name for module, name in others.items() if name is not None}


def _as_it_is(module: str, weights: LoKrWeights, name: ModuleName, layout: Layout) -> tuple[str, Renamed]:
    if name.flattened and "_" in name.path and not layout.flattened:
        raise LoKrValueError(
            "This format has dots in its names, and the adapter has _ for them",
            module=module,
            expected="dotted names, or a model to look them up in",
            found=name.path,
            hint="give the model that the adapter is for: save_adapter(..., model=model)",
        )
    component = name.component or component_of(name.path)
    return layout.spell(component, name.path), Renamed(component, name.path, weights, module)


def _spelled_as_it_is(name: ModuleName, layout: Layout) -> str | None:
    if name.full == name.path or (name.flattened and not layout.flattened):
        return None
    return layout.spell(name.component or component_of(name.path), name.path)


class _Book:
    """A target's modules in a format's names, looked up by where an update goes."""

    def __init__(self, target: Target, layout: Layout):
        unet = any(part.architecture in UNETS for part in target.parts)
        self._layout = layout.for_unet() if unet else layout
        self._names: dict[tuple[Slot, ...], tuple[str, str, bool]] = {}
        self._parts: dict[str, list[tuple[int, int, str, str]]] = defaultdict(list)
        taken = [part.prefix for part in target.parts if part.prefix]
        # kohya numbers text encoders where there are several.
        self._numbered = sum(map(_is_text, target.parts)) > 1
        for part in target.parts[:-1]:  # the last are aliases
            shapes = {
                name[len(part.prefix) :]: shape
                for name, shape in target.shapes.items()
                if name.startswith(part.prefix) and (part.prefix or not name.startswith(tuple(taken)))
            }
            self._add(part, shapes)

    def _add(self, part: Part, shapes: Mapping[str, tuple[int, ...]]) -> None:
        text = _is_text(part)
        component = f"te{part.number if self._numbered else ''}" if text else part.component or "unet"
        side = self._layout.names
        if side == TRAINED:
            side = DIFFUSERS if text or part.architecture in UNETS else ORIGINAL
        if text and side == ORIGINAL:
            side = DIFFUSERS  # all formats have transformers' names for text encoders
        if side == OWN:
            names = {part.prefix + m: s for m, s in part.names.items() if s == (Slot(part.prefix + m),)}
            self._note(names, component, "")
            return
        self._note(spelled(shapes, side), component, part.prefix)
        if side == ORIGINAL and self._layout.parts is not None:
            self._note(spelled(shapes, DIFFUSERS), component, part.prefix, part=True)

    def _note(self, names: Mapping[str, tuple[Slot, ...]], component: str, prefix: str, part: bool = False) -> None:
        for name, slots in names.items():
            slots = tuple(replace(slot, module=prefix + slot.module) for slot in slots)
            self._names.setdefault(slots, (component, name, part))
            if len(slots) == 1 and slots[0].rows and not part:
                self._parts[slots[0].module].append((*slots[0].rows, component, name))

    def entry(self, slots: tuple[Slot, ...]) -> tuple[str, str, bool] | None:
        """(component, name, whether it is one of a part of a fused weight) of what goes to ``slots``."""
        return self._names.get(slots)

    def name_of(self, slots: tuple[Slot, ...]) -> str | None:
        found = self.entry(slots)
        return self._layout.spell(*found) if found else None

    def cuts(self, slots: tuple[Slot, ...], rows: int) -> list[tuple[int, int, str, str]]:
        """(first row of the update, number of rows, component, name) of the modules that the update is cut into."""
        if len(slots) == 1 and slots[0] == Slot(slots[0].module, parameter=slots[0].parameter):
            parts = sorted(self._parts[slots[0].module])
            ends = [0, *(start + length for start, length, *_ in parts)]
            return parts if ends[-1] == rows and all(p[0] == end for p, end in zip(parts, ends, strict=False)) else []
        found = [(slot.source_rows, self.entry((replace(slot, source_rows=None),))) for slot in slots]
        return [(*rows, *entry[:2]) for rows, entry in found if rows and entry]

    def spell(self, component: str, name: str) -> str:
        return self._layout.spell(component, name)


def _is_text(part: Part) -> bool:
    return part.component[:2] == "te" or part.architecture in TEXT_ENCODERS


def _looked_up(adapter: Adapter, target: Target, book: _Book) -> Iterator[tuple[str, list[tuple[str, Renamed]]]]:
    matches: dict[str, list[Match]] = defaultdict(list)
    placed, report = resolve(adapter, target)
    for match in placed:
        matches[match.module].append(match)
    missing = [module for module in adapter if module not in matches]
    if missing:
        why = next(entry for entry in report.entries if entry.module == missing[0])
        raise LoKrMatchError(
            f"{len(missing)} of the {len(adapter)} modules do not belong to the model that names are looked up in",
            module=missing[0],
            found=why.reason,
            hint="give the model that the adapter was trained on, or save without one under the names it has",
        )
    for module, weights in adapter.items():
        slots = tuple(match.slot for match in matches[module])
        weights = weights.fit((weights.shape[0], *target.shape_of(slots[0])[1:]))
        entry = book.entry(slots)
        try:
            if entry:
                full = book.name_of(slots)
                yield module, [(full, Renamed(*entry[:2], weights, module))]
            else:
                yield module, list(_cut(module, weights, slots, book))
        except LoKrError as error:
            error.module = error.module or module
            raise


def _cut(module: str, weights: LoKrWeights, slots: tuple[Slot, ...], book: _Book) -> Iterator[tuple[str, Renamed]]:
    """The update of a fused weight as one for each part that the format names."""
    cuts = book.cuts(slots, weights.shape[0])
    if not cuts:
        raise LoKrShapeError(
            "This format has no name for where the module's update goes",
            expected="a weight of its own",
            found=", ".join(f"rows {s.rows[0]} to {sum(s.rows)} of {s.module}" if s.rows else s.module for s in slots),
            hint="save in a format that names parts of fused weights: kohya, comfyui or diffusers",
        )
    for start, length, component, name in cuts:
        pieces = list(weights.rows(start, length))
        part = pieces[0][1] if len(pieces) == 1 else _whole([piece for _, piece in pieces])
        yield book.spell(component, name), Renamed(component, name, part, module)


def _whole(pieces: list[LoKrWeights]) -> LoKrWeights:
    """Products above each other as one whose w1 is 1: of several no other form exists in general."""
    w2 = Factor(torch.cat([piece.delta() for piece in pieces]))
    scales = [piece.dora_scale for piece in pieces if piece.dora_scale is not None]
    dora_scale = torch.cat(scales).reshape(-1, *[1] * (len(w2.shape) - 1)) if scales else None
    return LoKrWeights(Factor(torch.ones(1, 1, dtype=w2.whole.dtype)), w2, 1.0, dora_scale)
