"""What an adapter is applied to: a model's weights, under all names that adapters use for them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from operator import add, itemgetter
from typing import NamedTuple

from torch import Tensor

from .._files import TensorInfo
from ..errors import LoKrShapeError
from ..modules import ModuleName, expert_called, own_path
from ..names import WEIGHTS, Architecture, Slot, aliases, detect, meanings


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
    flat: the same names with "_" in place of dots -> dotted names
    """

    prefix: str
    component: str
    number: int
    architecture: Architecture | None
    shapes: Mapping[str, tuple[int, ...]]
    names: Mapping[str, tuple[Slot, ...]]
    flat: Mapping[str, list[str]]
    expert: str = ""

    def takes(self, component: str, expert: str = "") -> bool:
        """Whether a file's module of that component and expert may belong here. Trainers do not agree on the numbers of
        text encoders, so names and shapes tell those apart."""
        if expert and self.expert not in ("", expert):
            return False
        return not component or not self.component or component[:2] == self.component[:2]

    def mixed(self, path: str) -> Iterator[tuple[str, tuple[Slot, ...]]]:
        """(a name of the model, its slots) for a name that mixes the architecture's namings, unless it is ambiguous."""
        known = meanings(path, self.architecture) if self.architecture else []
        if len({self.names.get(name) for name in known}) == 1 and known[0] in self.names:
            yield known[0], self.names[known[0]]


class Target:
    """A model's weights by name, with the aliases that adapters use for them.

    shapes: name of a parameter -> shape
    aliases: further names of a host's own, looked up by a module's full name -> slots
    source: the model's file or folder, or its place in a pipeline, which may tell which of two experts it is

    >>> target = Target({"text_model.encoder.layers.0.mlp.fc1.weight": (8, 4)})
    >>> slot = next(target.candidates(ModuleName("a", "text_model_encoder_layers_0_mlp_fc1", "te", True)))[1][0]
    >>> target.shape_of(slot)
    (8, 4)
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        aliases: Mapping[str, tuple[Slot, ...]] | None = None,
        source: str = "",
    ):
        # Norms too: they tell architectures apart.
        self.shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self.models = list(_sub_models(self.shapes))
        of_models = {model.expert for model in self.models} - {""}
        self.experts = of_models or {expert_called(source)} - {""}
        self.models.append(SubModel("", "", 0, None, {}, aliases or {}, _flat(aliases or {})))

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor] | Mapping[str, TensorInfo], source: str = "") -> Target:
        """The target of a model's parameters, of a state dict, or of a checkpoint file's header."""
        return cls({name: tuple(tensor.shape) for name, tensor in tensors.items()}, source=source)

    @property
    def architectures(self) -> list[str]:
        """The titles of the known architectures among its models."""
        return [model.architecture.title for model in self.models if model.architecture]

    def has(self, component: str) -> bool:
        """Whether there is a model for modules of that component ("unet", "te1", ...)."""
        # A host's aliases are of the same models, so they count only if there is nothing else.
        models = [model for model in self.models[:-1] if model.names] or self.models[-1:]
        return any(model.takes(component) for model in models if model.names)

    def candidates(self, name: ModuleName) -> Iterator[tuple[str, tuple[Slot, ...]]]:
        """(a name that the target knows, its slots) for every way to read a module's name, the likeliest first."""
        for model in self._takers(name):
            spellings = _spellings(name, model)
            for path in spellings:
                if path in model.names:
                    yield path, model.names[path]
            # A name with "_" for "." may stand for several dotted ones; the shapes of their weights tell which.
            for path in spellings:
                for known in model.flat.get(path.replace(".", "_"), ()):
                    if known not in spellings:
                        yield known, model.names[known]

    def mixed(self, name: ModuleName) -> Iterator[tuple[str, tuple[Slot, ...]]]:
        """``candidates`` for a name that mixes an architecture's namings, or names a part of a fused weight."""
        for model in self._takers(name):
            for path in _spellings(name, model):
                yield from model.mixed(path)

    def knows(self, start: str) -> bool:
        """Whether names of the target begin with ``start``, one or more whole parts of a name, dotted or flattened."""
        return start.replace(".", "_") in self._starts

    @cached_property
    def _starts(self) -> frozenset[str]:
        names = {name for model in self.models for name in model.names}
        return frozenset("_".join(start) for name in names for start in accumulate(([x] for x in name.split(".")), add))

    def _takers(self, name: ModuleName) -> list[SubModel]:
        """The models that a module of that name may belong to, the likeliest first."""
        number = int(name.component[2:] or 1) if name.component.startswith("te") else 0
        models = (model for model in self.models if model.takes(name.component, name.expert))
        return sorted(models, key=lambda model: model.number != number)

    def shape_of(self, slot: Slot) -> tuple[int, ...]:
        """Shape of the rows that ``slot`` names, (n, 1) for a bias. Raises LoKrShapeError if there are none."""
        shape = self.shapes.get(weight_name(slot))
        if not shape:
            raise LoKrShapeError("The model has no such parameter", expected=weight_name(slot))
        out, *rest = shape
        return (slot.rows[1] if slot.rows else out, *(rest or (1,)))


def weight_name(slot: Slot) -> str:
    """The name of the parameter that a slot is part of.

    >>> weight_name(Slot("blocks.0.attn", rows=(0, 8)))
    'blocks.0.attn.weight'
    """
    return f"{slot.module}.{slot.parameter}" if slot.module else slot.parameter


def source_of(model: object) -> str:
    """Where a model was loaded from, "" if it does not tell: diffusers notes it in the configuration."""
    return str(getattr(getattr(model, "config", None), "_name_or_path", None) or "")


def _spellings(name: ModuleName, model: SubModel) -> dict[str, None]:
    """The paths that a module's name may be in a model: a file may spell out the target's own prefix."""
    own = (own_path(name),) if name.expert else ()
    return dict.fromkeys((*own, name.path, name.full, name.path.removeprefix(model.prefix)))


def _flat(names: Mapping[str, object]) -> dict[str, list[str]]:
    flat: dict[str, list[str]] = {}
    for name in names:
        flat.setdefault(name.replace(".", "_"), []).append(name)
    return flat


def _sub_models(shapes: Mapping[str, tuple[int, ...]]) -> Iterator[SubModel]:
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
    for name, slots in aliases(shapes).items():
        names.setdefault(name, tuple(replace(slot, module=prefix + slot.module) for slot in slots))
    return SubModel(prefix, component, number, detect(shapes), shapes, names, _flat(names), expert)
