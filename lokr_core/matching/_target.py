"""What an adapter is applied to: a model's weights, under all names that adapters use for them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from itertools import accumulate
from operator import add

from torch import Tensor

from .._files import TensorInfo
from ..errors import LoKrShapeError
from ..modules import ModuleName, expert_called, own_path
from ..names import Slot, SubModel, crossed, meanings, sub_models, weight_name


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
        self.models = list(sub_models(self.shapes))
        of_models = {model.expert for model in self.models} - {""}
        self.experts = of_models or {expert_called(source)} - {""}
        self.models.append(SubModel("", "", 0, None, {}, aliases or {}))

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
                yield from _mixed(path, model)

    def meant(self, names: Collection[ModuleName]) -> dict[ModuleName, ModuleName]:
        """Those of a file's names that the target has for another weight -> its name of the weight that they mean."""
        found: dict[ModuleName, ModuleName] = {}
        for model in self.models:
            if model.architecture:
                own = [name for name in names if model.takes(name.component, name.expert)]
                for path, meant in crossed({name.path for name in own}, model.architecture, model.side).items():
                    found |= {n: replace(n, full=meant, path=meant, flattened=False) for n in own if n.path == path}
        return found

    def knows(self, start: str) -> bool:
        """Whether names of the target begin with ``start``, one or more whole parts of a name, dotted or flattened."""
        return start.replace(".", "_") in self._starts

    def has_reversed_halves(self, name: ModuleName) -> bool:
        """Whether a module has its authors' name, and the halves of its rows are in reverse order in diffusers."""
        for model in self._takers(name):
            spellings = _spellings(name, model)
            flat = (known for path in spellings for known in model.flat.get(path.replace(".", "_"), ()))
            known = next((path for path in (*spellings, *flat) if path in model.names), None)
            if known is not None:
                return known in model.reversed_halves
        return False

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


def source_of(model: object) -> str:
    """Where a model was loaded from, "" if it does not tell: diffusers notes it in the configuration."""
    return str(getattr(getattr(model, "config", None), "_name_or_path", None) or "")


def _spellings(name: ModuleName, model: SubModel) -> dict[str, None]:
    """The paths that a module's name may be in a model: a file may spell out the target's own prefix."""
    own = (own_path(name),) if name.expert else ()
    return dict.fromkeys((*own, name.path, name.full, name.path.removeprefix(model.prefix)))


def _mixed(path: str, model: SubModel) -> Iterator[tuple[str, tuple[Slot, ...]]]:
    """(a name of the model, its slots) for a name that mixes the architecture's namings, unless it is ambiguous."""
    known = meanings(path, model.mixed)
    if len({model.names.get(name) for name in known}) == 1 and known[0] in model.names:
        yield known[0], model.names[known[0]]
