"""Merge mode where a host keeps a model in patchers: adapters as patches among the host's own.

Such a host moves, repacks and replaces weights as memory demands, and its Lora extension patches them, so nobody else
can write to them. What a patcher lists, the host itself works into the unpatched weights, and takes out again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary, ref

from torch import Tensor

from lokr_core.handle import Factors, WeightsHandle
from lokr_core.matching import Match, Report

Pairs = tuple[tuple[Match, float], ...]
"""The updates of one weight, each with its strength, in the order of the tags."""

Patching = Callable[[Any, dict[str, Pairs]], Callable[[Any], Any]]
"""A host's function of (its object of a model, its name of a weight -> updates). Returns a function from a UNet's
patcher or a CLIP of that model to one with these updates of ours and no others; to the same one if it has them."""


@dataclass(frozen=True)
class Updates:
    """What goes into one weight.

    scale: what the layer multiplies its weight by when it runs, if the host has not done so before patching
    """

    pairs: Pairs
    scale: float = 1.0

    def add_to_(self, weight: Tensor) -> Tensor:
        """Add the updates to ``weight``, in place. Returns ``weight``."""
        if self.scale != 1:
            weight *= self.scale
        # Ours come first in the host's list, so these are the unpatched numbers.
        base = weight.clone() if len(self.pairs) > 1 and any(match.needs_base for match, _ in self.pairs) else None
        for match, strength in self.pairs:
            match.add_to_(weight, strength, base)
        if self.scale != 1:
            weight /= self.scale
        return weight


class PatchHandle(WeightsHandle):
    """An adapter among the patches of a host's model (see ``Handle``). The host patches the weights when it next loads
    the model for a run.

    owner: the host's object of the model
    unet, text: the adapter's matches by the host's names of the weights, in the denoiser and in the text encoders
    """

    def __init__(
        self,
        owner: Any,
        patching: Patching,
        report: Report,
        unet: dict[str, list[Match]],
        text: dict[str, list[Match]],
        strength: float = 1.0,
        factors: Factors = None,
    ):
        matches = (match for held in (unet, text) for found in held.values() for match in found)
        super().__init__(report, matches, strength, factors)
        self.unet, self.text = unet, text
        self._owner, self._patching = ref(owner), patching
        self._publish(lambda merged: [*merged, self])

    def _refresh(self, matches: list[Match]) -> None:
        self._publish(list)

    def remove(self) -> None:
        """Take the adapter out. Calling it again does nothing."""
        self._removed, self._matches = True, []
        self._publish(lambda merged: [handle for handle in merged if handle is not self])

    def _publish(self, changed: Callable[[list[PatchHandle]], list[PatchHandle]]) -> None:
        """Have the host patch the model with the updates of the handles that ``changed`` makes of those in force, and
        with nothing else of ours.

        The host's Lora extension makes its patchers from the original ones, before or after us, or leaves those of an
        earlier run in force: so all of them get ours.
        """
        owner = self._owner()
        if owner is None:
            return  # the model is gone
        handles = changed(_merged.get(owner, []))
        every = (owner.forge_objects_original, owner.forge_objects_after_applying_lora, owner.forge_objects)
        for name, part in (("unet", "unet"), ("clip", "text")):
            patched = self._patching(owner, _updates(handles, part))
            # Objects that shared a patcher go on sharing one: by that the host knows what it has loaded.
            held = {getattr(each, name) for each in every} - {None}
            new = {one: patched(one) for one in held}
            for each in every:
                setattr(each, name, new.get(getattr(each, name)))
        _merged[owner] = handles


_merged: WeakKeyDictionary[object, list[PatchHandle]] = WeakKeyDictionary()


def _updates(handles: Iterable[PatchHandle], part: str) -> dict[str, Pairs]:
    """The updates of the weights of "unet" or "text". A weight without updates is left out: it is restored bit for bit,
    and a patch of strength 0 would round it.
    """
    updates: defaultdict[str, list[tuple[Match, float]]] = defaultdict(list)
    for handle in handles:
        for weight, matches in getattr(handle, part).items():
            strengths = ((match, handle.strength_of(match)) for match in matches)
            updates[weight] += [(match, strength) for match, strength in strengths if strength != 0]
    return {weight: tuple(pairs) for weight, pairs in updates.items() if pairs}


def patcher_of(held: Any) -> Any:
    """The patcher of what the host's objects hold: of a UNet itself, of a CLIP another object."""
    return getattr(held, "patcher", held)
