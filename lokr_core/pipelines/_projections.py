"""Whether diffusers' ``fuse_qkv_projections`` has changed which layers run since the adapters found their places."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from ..models import runs_fused


class Projections:
    """Calls ``changed`` before a forward of ``parts`` if projections were fused or split since ``watch``."""

    def __init__(self, parts: Iterable[nn.Module], changed: Callable[[], None]):
        self._parts, self._changed = list(parts), changed
        self._attentions: list[nn.Module] = []
        self._state: list[bool] = []
        self._hooks: list[Any] = []

    def watch(self) -> None:
        """Remember which projections are fused now."""
        self._attentions = [m for part in self._parts for m in part.modules() if hasattr(m, "fused_projections")]
        self._state = self._now()
        if not self._hooks and self._attentions:
            self._hooks = [part.register_forward_pre_hook(self.check) for part in self._parts]

    def release(self) -> None:
        """Stop watching."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _now(self) -> list[bool]:
        return [runs_fused(attention) for attention in self._attentions]

    def check(self, *_: object) -> None:
        """Call ``changed`` if projections were fused or split since."""
        now = self._now()
        if now != self._state:
            self._changed()
            self._state = now
