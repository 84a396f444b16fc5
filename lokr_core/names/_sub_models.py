"""The models inside a model: a checkpoint's denoiser and text encoders, by the prefixes of their weights' names."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from operator import itemgetter
from typing import NamedTuple

from ..modules import expert_called
from ._mixed import Index, mixed_names
from ._registry import detect, view_of
from ._translate import aliases_in
from ._words import DIFFUSERS, WEIGHTS, Architecture, Slot


class SubModelRow(NamedTuple):
    """A row of the table of models inside a model.

    prefix: of its weights' names, a regular expression
    component: the part of a pipeline that it is, "unet" or "te"
    known_only: whether it counts only if the weights are of a known architecture: the prefix is a common word
    """

    prefix: str
    component: str
    known_only: bool = False


# Checkpoints of SD, SDXL and SD3 and ComfyUI's saves of them; ComfyUI's models and text encoders; A1111's; diffusers
# pipelines. Text encoders count from 1 in the order in which they stand here.
SUB_MODELS = (
    SubModelRow(r"(model\.)?diffusion_model\.", "unet"),
    SubModelRow(r"(unet|transformer(_\d)?|prior|(high|low)_noise_model)\.", "unet", known_only=True),
    SubModelRow(r"(cond_stage_model|conditioner\.embedders\.\d)\.(wrapped\.)?(transformer|model)\.", "te"),
    SubModelRow(r"(text_encoders\.)?clip_[lh]\.transformer\.", "te"),
    SubModelRow(r"(text_encoders\.)?clip_g\.transformer\.", "te"),
    SubModelRow(r"(text_encoders\.)?\w+\.transformer\.", "te", known_only=True),
    SubModelRow(r"text_encoder(_\d)?\.", "te", known_only=True),
)


@dataclass(frozen=True, eq=False)
class SubModel:
    """One model inside a target, such as a checkpoint's text encoder.

    prefix: of its weights' names; component: "unet", "te" or "" if unknown; number: of a text encoder, from 1
    expert: "high" or "low" of two, "" of any other model
    architecture: None if unknown
    shapes: of its parameters, by their names behind the prefix
    names: module name behind the prefix, own or alias -> slots in the target
    """

    prefix: str
    component: str
    number: int
    architecture: Architecture | None
    shapes: Mapping[str, tuple[int, ...]]
    names: Mapping[str, tuple[Slot, ...]]
    expert: str = ""
    side: str = ""

    def takes(self, component: str, expert: str = "") -> bool:
        """Whether a file's module of that component and expert may belong here. Trainers do not agree on the numbers of
        text encoders, so names and shapes tell those apart."""
        if expert and self.expert not in ("", expert):
            return False
        return not component or not self.component or component[:2] == self.component[:2]

    @cached_property
    def reversed_halves(self) -> frozenset[str]:
        """The original ones among ``names`` of weights whose halves of rows diffusers has in reverse order."""
        swapped = {slot.module for slots in self.names.values() for slot in slots if slot.swap}
        other = self.side == DIFFUSERS
        one = ((name, slots[0]) for name, slots in self.names.items() if len(slots) == 1)
        return frozenset(name for name, slot in one if slot.module in swapped and slot.swap == other)

    @cached_property
    def mixed(self) -> Index:
        """The names that mix both sides of its table."""
        return mixed_names(self.architecture, view_of(self.shapes)) if self.architecture else {}

    @cached_property
    def flat(self) -> dict[str, list[str]]:
        """``names`` with "_" in place of dots -> the dotted names."""
        found: dict[str, list[str]] = {}
        for name in self.names:
            found.setdefault(name.replace(".", "_"), []).append(name)
        return found


def sub_models(shapes: Mapping[str, tuple[int, ...]]) -> Iterator[SubModel]:
    """The models inside a target, then one of all weights without such a prefix."""
    left = dict(shapes)
    number = 0
    for row in SUB_MODELS:
        pattern = re.compile(row.prefix)
        below: dict[str, dict[str, tuple[int, ...]]] = defaultdict(dict)
        for name, shape in left.items():
            if match := pattern.match(name):
                below[match.group()][name[match.end() :]] = shape
        for prefix, inside in below.items():
            if row.known_only and detect(inside) is None:
                continue
            number += row.component == "te"
            yield _sub_model(
                prefix, row.component, number if row.component == "te" else 0, inside, _expert(prefix, below)
            )
            for name in inside:
                del left[prefix + name]
    if left:
        yield _sub_model("", "", 0, left)


def _expert(prefix: str, prefixes: Container[str]) -> str:
    """The expert that a pipeline's model is: diffusers calls the first one ``transformer``, as it calls an only one."""
    first = prefix == "transformer." and "transformer_2." in prefixes
    return "high" if first else expert_called(prefix.rstrip("."))


def _sub_model(
    prefix: str, component: str, number: int, shapes: Mapping[str, tuple[int, ...]], expert: str = ""
) -> SubModel:
    split = [name.rpartition(".") for name in shapes]
    names: dict[str, tuple[Slot, ...]] = {
        m: (Slot(prefix + m, parameter=p),) for m, _, p in sorted(split, key=itemgetter(2)) if p in WEIGHTS
    }
    view = view_of(shapes)
    for name, slots in (aliases_in(view) if view else {}).items():
        names.setdefault(name, tuple(replace(slot, module=prefix + slot.module) for slot in slots))
    side, architecture = (view.side, view.architecture) if view else ("", None)
    return SubModel(prefix, component, number, architecture, shapes, names, expert, side)
