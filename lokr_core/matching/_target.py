"""What an adapter is for: a model's weights by all the names that adapters know them by."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

from torch import Tensor

from ..adapter import ModuleName
from ..errors import LoKrShapeError
from ..names import Architecture, Slot, aliases, detect


class PartRow(NamedTuple):
    """A row of the table of models inside a model: below which prefix they lie, and what they are.

    ``known_only``: the prefix is a common word, so it counts only where the weights below it are of an architecture
    that the name tables know.
    """

    prefix: str
    component: str
    known_only: bool = False


# Checkpoints of SD, SDXL and SD3 and ComfyUI's saves of them; ComfyUI's models and text encoders; A1111's; diffusers
# pipelines. Text encoders count from 1 in the order in which they stand here.
PARTS = (
    PartRow(r"model\.diffusion_model\.", "unet"),
    PartRow(r"diffusion_model\.", "unet"),
    PartRow(r"(unet|transformer|prior)\.", "unet", known_only=True),
    PartRow(r"cond_stage_model\.(transformer|model|wrapped\.transformer|wrapped\.model)\.", "te"),
    PartRow(r"conditioner\.embedders\.\d\.(transformer|model|wrapped\.transformer|wrapped\.model)\.", "te"),
    PartRow(r"(text_encoders\.)?clip_l\.transformer\.", "te"),
    PartRow(r"(text_encoders\.)?clip_h\.transformer\.", "te"),
    PartRow(r"(text_encoders\.)?clip_g\.transformer\.", "te"),
    PartRow(r"(text_encoders\.)?\w+\.transformer\.", "te", known_only=True),
    PartRow(r"text_encoder(_\d)?\.", "te", known_only=True),
)


class Part(NamedTuple):
    """One model inside a target: ``names`` are relative to ``prefix``, the slots they point to are not."""

    prefix: str
    component: str
    number: int
    architecture: Architecture | None
    names: Mapping[str, tuple[Slot, ...]]
    flat: Mapping[str, list[str]]

    def takes(self, component: str) -> bool:
        """Whether a module of that component of a file may be this part's. Which of several text encoders it is,
        names and shapes tell: trainers do not agree on numbers."""
        return not component or not self.component or component[:2] == self.component[:2]


class Target:
    """Weight name -> shape, and every other name by which adapters know those weights.

    ``aliases`` are further names, of a host's own, looked up by a module's full name.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], aliases: Mapping[str, tuple[Slot, ...]] | None = None):
        # Norms count too: they tell architectures apart.
        self.shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self.parts = list(_parts(self.shapes))
        own = aliases or {}
        self.parts.append(Part("", "", 0, None, own, _flat(own)))

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Target:
        """A model's parameters, or a state dict."""
        return cls({name: tuple(tensor.shape) for name, tensor in tensors.items()})

    @property
    def architectures(self) -> list[str]:
        """The titles of the architectures it is made of, as far as they are known."""
        return [part.architecture.title for part in self.parts if part.architecture]

    def has(self, component: str) -> bool:
        """Whether there is a model for modules of that component ("unet", "te1", ...)."""
        # A host's own names are of the same models as the others.
        models = [part for part in self.parts[:-1] if part.names] or self.parts[-1:]
        return any(part.takes(component) for part in models if part.names)

    def candidates(self, name: ModuleName) -> Iterator[tuple[str, tuple[Slot, ...]]]:
        """(a name the target knows, where it points to) for every way to read a module's name, the likeliest first."""
        number = int(name.component[2:] or 1) if name.component.startswith("te") else 0
        parts = [part for part in self.parts if part.takes(name.component)]
        for part in sorted(parts, key=lambda part: part.number != number):
            spellings = dict.fromkeys((name.path, name.full, *_without(name.path, part.prefix)))
            for path in spellings:
                if path in part.names:
                    yield path, part.names[path]
            # Names with "_" for "." may stand for several dotted ones; their weights' shapes tell which.
            for path in spellings:
                for known in part.flat.get(path.replace(".", "_"), ()):
                    if known not in spellings:
                        yield known, part.names[known]

    def shape_of(self, slot: Slot) -> tuple[int, ...]:
        """Shape of the rows that ``slot`` names, (n, 1) for a bias. Raises LoKrShapeError where there is none."""
        shape = self.shapes.get(weight_name(slot))
        if not shape:
            raise LoKrShapeError("The model has no such parameter", expected=weight_name(slot))
        out, *rest = shape
        return (slot.rows[1] if slot.rows else out, *(rest or (1,)))


def weight_name(slot: Slot) -> str:
    """The name of the parameter that a slot is in."""
    return f"{slot.module}.{slot.parameter}" if slot.module else slot.parameter


def _without(path: str, prefix: str) -> Iterator[str]:
    """``path`` without the target's own prefix, which a file may spell out."""
    if prefix and path.startswith(prefix):
        yield path[len(prefix) :]


def _flat(names: Mapping[str, object]) -> dict[str, list[str]]:
    flat: dict[str, list[str]] = defaultdict(list)
    for name in names:
        flat[name.replace(".", "_")].append(name)
    return flat


def _parts(shapes: Mapping[str, tuple[int, ...]]) -> Iterator[Part]:
    """The models that a target is made of, then what lies below none of the prefixes."""
    left = dict(shapes)
    number = 0
    for row in PARTS:
        pattern = re.compile(row.prefix)
        below: dict[str, dict[str, tuple[int, ...]]] = defaultdict(dict)
        for name, shape in left.items():
            match = pattern.match(name)
            if match:
                below[match.group()][name[match.end() :]] = shape
        for prefix, inside in below.items():
            if row.known_only and detect(inside) is None:
                continue
            number += row.component == "te"
            yield _part(prefix, row.component, number if row.component == "te" else 0, inside)
            for name in inside:
                del left[prefix + name]
    if left:
        yield _part("", "", 0, left)


def _part(prefix: str, component: str, number: int, shapes: Mapping[str, tuple[int, ...]]) -> Part:
    names = {}
    for name in shapes:
        module, _, parameter = name.rpartition(".")
        if parameter == "weight":
            names[module] = (Slot(prefix + module),)
    for name, slots in aliases(shapes).items():
        names.setdefault(name, tuple(replace(slot, module=prefix + slot.module) for slot in slots))
    return Part(prefix, component, number, detect(shapes), names, _flat(names))
