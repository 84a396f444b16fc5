"""What the bridge needs of a host: small, so that each host fits into one file."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from torch import Tensor, nn

from lokr_core.adapter import Adapter
from lokr_core.formats import BundledEmbedding
from lokr_core.handle import Handle
from lokr_core.matching import Target


class AdapterFile(Protocol):
    """What the bridge needs to know of a file (see ``library.Entry``)."""

    name: str
    path: Path
    version: tuple[int, int]
    outline: object
    is_lokr: bool


class Watcher(Protocol):
    """What a host reports to while it is watched; ``owner`` is the host's object of a model."""

    def model_taken(self, owner: object) -> None:
        """A model that was in memory is in use again."""

    def model_gone(self) -> None:
        """The model in use makes room for another."""

    def set_aside(self) -> AbstractContextManager[None]:
        """The host uses a model for itself inside the block: it encodes the empty prompt of one that it loads."""


@dataclass(frozen=True, eq=False)
class HostModel:
    """A loaded model as the core sees it.

    owner: the host's own object of the model; another object is another model
    root: a module that holds all that adapters change
    unet, text: prefixes, in ``root``'s names, of the denoiser and of the text encoders; the rest (the VAE) is left out
    """

    owner: object
    root: nn.Module
    unet: tuple[str, ...]
    text: tuple[str, ...]

    @cached_property
    def target(self) -> Target:
        named = self.root.named_parameters(remove_duplicate=False)
        shapes = {name: tuple(p.shape) for name, p in named if name.startswith(self.unet + self.text)}
        return Target(shapes, source=self.source)

    @property
    def source(self) -> str:
        """The file of the denoiser, "" if the host does not tell."""
        return str(getattr(getattr(self.owner, "sd_checkpoint_info", None), "filename", None) or "")

    @cached_property
    def unet_modules(self) -> list[str]:
        """The denoiser's modules that have weights, for names of blocks."""
        modules = (name.rpartition(".")[0] for name in self.target.shapes)
        return list(dict.fromkeys(module for module in modules if self.is_unet(module)))

    def is_unet(self, module: str) -> bool:
        return module.startswith(self.unet)


class Host(Protocol):
    """The host's side of the bridge. ``current_host`` returns that of the host that runs."""

    def model(self, owner: object | None = None) -> HostModel | None:
        """The model in use, or the one whose object is ``owner``. Returns None while no model is loaded."""

    def weight_of(self, module: nn.Module) -> Tensor | None:
        """A module's weight, dequantised, without what others merged into it. Returns None if it is the stored one."""

    def merge(self, model: HostModel, adapter: Adapter, factors: Callable[[str], float]) -> Handle:
        """Merge ``adapter`` into the model's weights; ``factors``: a function from a module of the model to its
        strength. Raises LoKrMatchError if no module belongs to the model.
        """

    def lend_embeddings(
        self, model: HostModel, embeddings: Iterable[BundledEmbedding]
    ) -> tuple[set[str], Callable[[], None]]:
        """Have prompts for ``model`` know ``embeddings``; a word for which the user has an embedding stays the user's.

        Returns the modules of the file that are in use, and a function that takes the words back.
        """

    def give_back_weights(self, modules: Iterable[nn.Module]) -> None:
        """Have other extensions take out what they merged into these modules' weights, before ours change them. They
        merge again when the modules run."""

    def watch(self, watcher: Watcher) -> None:
        """Report to ``watcher``, until scripts are unloaded, the events for which the host has no callback."""

    def percent(self, step: object) -> float:
        """How far the sampling is, 0 to 1, at what the host passes to ``on_cfg_denoiser`` callbacks."""

    def tell(self, p: object, text: str) -> None:
        """Show ``text`` to the user, under the picture of ``p``, and in the console."""

    def trouble(self, text: str) -> None:
        """Put ``text`` and the exception that is being handled into the console."""


# File beside this one -> what of a host it is for: a module of the host's, and a name in it.
_BRIDGES = {
    "forge": ("backend.patcher.lora", "extra_weight_calculators"),
    "forge_neo": ("modules_forge.packages.comfy.weight_adapter.base", "WeightAdapterBase"),
    "reforge": ("ldm_patched.modules.weight_adapter", "WeightAdapterBase"),
    "patched": ("modules_forge", "__path__"),
    "a1111": ("modules", "__path__"),
}


def current_host() -> Host:
    """The host that runs this process, found by what it has: a fork with the same patchers is served alike."""
    bridge = next(bridge for bridge, (module, name) in _BRIDGES.items() if _has(module, name))
    return importlib.import_module(f".{bridge}", __package__).HOST


def _has(module: str, name: str) -> bool:
    try:
        return hasattr(importlib.import_module(module), name)
    except ImportError:
        return False
