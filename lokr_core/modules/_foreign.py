"""What a file holds besides LoKr."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

from ._name import ModuleName


@dataclass(frozen=True)
class ForeignModule:
    """A module of a file that is not LoKr.

    kind: "LoRA", "full difference", ..., "unknown"; name: taken apart
    keys: key in the file -> the tensor's name, without the adapter's name that PEFT may put in; "" if unknown
    """

    kind: str
    name: ModuleName
    keys: dict[str, str] = field(default_factory=dict)


@dataclass(eq=False)
class Foreign:
    """What a file holds besides LoKr: the tensors by key, and their modules by name."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    modules: dict[str, ForeignModule] = field(default_factory=dict)

    def named(self, names: Mapping[str, ModuleName]) -> Foreign:
        """The same with ``names`` for the modules that are in it."""
        return Foreign(self.tensors, {m: replace(x, name=names.get(m, x.name)) for m, x in self.modules.items()})

    def of(self, module: str) -> dict[str, Tensor]:
        """A module's tensors by their names, as far as these are known."""
        return {name: self.tensors[key] for key, name in self.modules[module].keys.items() if name}

    def select(self, modules: Container[str]) -> Foreign:
        """The same with these modules alone."""
        kept = {module: each for module, each in self.modules.items() if module in modules}
        return Foreign({key: self.tensors[key] for each in kept.values() for key in each.keys}, kept)

    def renamed(self, names: Mapping[str, str] | None = None) -> dict[str, Tensor]:
        """All tensors under "NAME.tensor name", NAME being their module's in ``names``, or else under their keys.

        names: module -> new name; None: the modules' own
        >>> lora = ForeignModule("LoRA", ModuleName("a", "a"), {"a.lora_A.default.weight": "lora_A.weight"})
        >>> foreign = Foreign({"a.lora_A.default.weight": torch.ones(2, 3), "b": torch.ones(1)}, {"a": lora})
        >>> list(foreign.renamed({"a": "unet.a"}))
        ['unet.a.lora_A.weight', 'b']
        """
        names = {module: module for module in self.modules} if names is None else names
        found = {k: f"{names[m]}.{n}" for m in names for k, n in self.modules[m].keys.items() if n}
        return {found.get(key, key): tensor for key, tensor in self.tensors.items()}
