"""Patchers as ComfyUI's: each lists the patches of a weight, and a patch of a class of ours calculates the weight.

Forge Neo and reForge have them; their files say where the host's class of patches is.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from lokr_core.live import dequantized

from .patched import PatchedHost
from .patches import Pairs, Updates, patcher_of


class WeightPatch:
    """The updates of one weight, for the host to ask. A host's file makes it one of the host's own adapters."""

    name = "lokr_core"

    def __init__(self, updates: Updates):
        self.updates, self.loaded_keys, self.weights = updates, set(), ()

    def calculate_weight(self, weight: Tensor, *_: object, **__: object) -> Tensor:
        """``weight``, the host's working copy, with the updates added in place. The strengths are in the updates."""
        return self.updates.add_to_(weight)


class WeightPatchesHost(PatchedHost):
    """See ``Host``. A subclass has ``patch``.

    patch: the host's class of patches, made of ``WeightPatch``
    """

    patch: type[WeightPatch]

    def unpatched(self, patcher: Any) -> Mapping[str, Tensor]:
        return {name: kept.weight for name, kept in patcher.backup.items()}

    def unpacked(self, module: nn.Module, weight: Tensor) -> Tensor:
        plain, convert = dequantized(weight), getattr(module, "convert_weight", None)
        return plain if convert is None or plain is not weight else convert(weight.float(), inplace=False)

    def unsupported(self, model: nn.Module, weight: str) -> str:
        # The host loads, and so patches, layers that have no layers with weights inside.
        layer = model.get_submodule(weight.rpartition(".")[0])
        own = {name for name, _ in layer.named_parameters(recurse=False)}
        inside = any(name not in own for name, _ in layer.named_parameters())
        return "this host patches no weight beside inner layers; mode=live may" if inside else ""

    def patching(self, owner: Any, updates: dict[str, Pairs]) -> Callable[[Any], Any]:
        number, wanted = uuid.uuid4(), {weight: Updates(pairs) for weight, pairs in updates.items()}

        def patched(held: Any) -> Any:
            old = patcher_of(held)
            before = old.patches
            ours = {weight: one[1].updates for weight, listed in before.items() for one in listed if self._is_ours(one)}
            if ours == wanted:
                return held
            held = held.clone()
            patcher = patcher_of(held)
            patcher.parent = old.parent or old  # a clone keeps its original, and would keep all that have been
            new = {weight: [self.entry(patcher.model, weight, self.patch(each))] for weight, each in wanted.items()}
            for weight, listed in before.items():
                new[weight] = new.get(weight, []) + [one for one in listed if not self._is_ours(one)]
            patcher.patches = {weight: listed for weight, listed in new.items() if listed}
            # By this the host knows what it has worked into the weights; patchers with the same patches share it.
            patcher.patches_uuid = uuid.uuid5(number, str(patcher.patches_uuid))
            return held

        return patched

    def entry(self, model: nn.Module, weight: str, patch: WeightPatch) -> tuple:
        """The entry of ``patch`` in the host's list: (strength, patch, the weight's own strength, rows, function)."""
        return (1.0, patch, 1.0, None, None)

    def _is_ours(self, entry: tuple) -> bool:
        return isinstance(entry[1], self.patch)
