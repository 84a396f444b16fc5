"""The names that a format gives the modules of a model."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from ..modules import OWN, SPELLINGS, TRAINED, ModuleName, Spelling
from ..names import DIFFUSERS, ORIGINAL, TEXT_ENCODERS, UNETS, Slot, SubModel, spelled

_TEXT = re.compile(r"(?:text_model[._])?(?:encoder[._](?:layers?|block)|model[._]layers)[._]|text_model[._]")


def component_of(name: ModuleName) -> str:
    """The part of a pipeline that a module belongs to, by its prefix or else by its path."""
    return name.component or ("te" if _TEXT.match(name.path) else "unet")


class Book:
    """The names that a format gives a target's modules, by the slots that an update goes to."""

    def __init__(self, models: Sequence[SubModel], spelling: Spelling, split: bool = False):
        """models: of a target, the last of which holds its aliases

        split: whether a fused weight of which the format names the parts has no name as a whole, such as ``to_qkv``,
        which diffusers' models have only after ``fuse_qkv_projections``."""
        models = models[:-1]
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
    def of(cls, models: Sequence[SubModel], format: str) -> Book:
        """The names that a format of ``SPELLINGS`` gives the modules of a target's ``models``."""
        return cls(models, SPELLINGS[format])

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
