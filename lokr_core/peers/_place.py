"""A fast forward in the place of a layer's own: where it is put, and how it is taken out again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ._find import is_lokr, owner_of
from ._forward import FastForward


class Placed:
    """``fast`` in the place of its layer's forward: in the layer, and where that forward is held already.

    A layer that stands beside the model has given its bound forward to the layer that it adapts, or to another such
    layer, which calls it as ``org_forward``.
    """

    def __init__(self, fast: FastForward):
        self.fast = fast
        self.before: list[tuple[dict[str, Any], str, object]] = []
        fast.on = True
        method = vars(fast.layer).setdefault("forward", fast.forward)
        for holder, key in self._held():
            if holder[key] is not method:
                self.before.append((holder, key, holder[key]))
                holder[key] = method

    def remove(self) -> None:
        """Put back what was there, and the layer's own forward where another has taken the fast one since."""
        layer = self.fast.layer
        self.fast.on = False  # for those who wrapped it
        if getattr(vars(layer).get("forward"), "__self__", None) is self.fast:
            del vars(layer)["forward"]
        for holder, key in list(self._held()):
            known = [before for where, name, before in self.before if where is holder and name == key]
            holder[key] = known[0] if known else layer.forward

    def _held(self) -> Iterator[tuple[dict[str, Any], str]]:
        """(attributes, name) of what holds the layer's forward, from the base's own on."""
        holder, key = vars(self.fast.base), "forward"
        while (owner := owner_of(holder.get(key))) is not None:
            if owner is self.fast.layer:
                yield holder, key
            if not is_lokr(owner):
                return
            holder, key = vars(owner), "org_forward"
