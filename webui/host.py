"""What the bridge needs of a host: small, so that A1111 and Forge each fit into one file."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol

from torch import Tensor, nn

from lokr_core import Adapter, MergeHandle, Target

if TYPE_CHECKING:
    from .network import LoKrNetwork

__all__ = ["Host", "HostModel", "current_host"]


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
        return Target({name: tuple(p.shape) for name, p in named if name.startswith(self.unet + self.text)})

    @cached_property
    def unet_modules(self) -> list[str]:
        """The denoiser's modules that have weights, for names of blocks."""
        modules = (name.rpartition(".")[0] for name in self.target.shapes)
        return list(dict.fromkeys(module for module in modules if self.is_unet(module)))

    def is_unet(self, module: str) -> bool:
        return module.startswith(self.unet)


class Host(Protocol):
    """The host's side of the bridge. Forge's and A1111's are found by ``current_host``."""

    def model(self, owner: object | None = None) -> HostModel | None:
        """The model in use, or the one whose object is ``owner``; None while none is loaded."""

    def weight_of(self, module: nn.Module) -> Tensor | None:
        """The numbers of a module's weight without what others merged into it; None where they are the weight's own."""

    def merge(self, model: HostModel, adapter: Adapter, factors: Callable[[str], float]) -> MergeHandle:
        """Merge ``adapter`` into the model's weights, at the strength that ``factors`` has for each of its modules.

        What comes back need not be the core's own handle, but does as it does. Raises LoKrMatchError.
        """

    def give_back_weights(self, modules: Iterable[nn.Module]) -> None:
        """Have others take out of these modules' weights what they merged, before ours change. They merge anew."""

    def watch(self, network: LoKrNetwork) -> None:
        """Tell ``network``, until scripts are unloaded, what the host tells nobody: that a model which was in memory is
        in use again (``model_taken``), that the one in use makes room for another (``model_gone``), and that the host
        encodes the empty prompt of one that it loads (``set_aside``).
        """

    def percent(self, step: object) -> float:
        """How far the sampling is, 0 to 1, at what the host passes to ``on_cfg_denoiser`` callbacks."""

    def tell(self, p: object, text: str) -> None:
        """Show ``text`` to the user, under the picture of ``p``, and in the console."""

    def trouble(self, text: str) -> None:
        """Put ``text`` and the exception that is being handled into the console."""


def current_host() -> Host:
    """The host that this process is. Forge has A1111's ``modules`` too, and a ``backend`` of its own."""
    forge = find_spec("modules_forge") is not None and find_spec("backend") is not None
    adapter = importlib.import_module(".forge" if forge else ".a1111", __package__)
    return adapter.HOST
