"""A host that keeps a model in patchers (``forge_objects``): Forge and its relatives.

What is not of its backend such a host has from A1111, and so has the bridge. Each relative's file says what its
patchers are like; one that has no file here works live, by ``HOST`` below.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

from modules import patches, script_callbacks, sd_models
from torch import Tensor, nn

from lokr_core.adapter import Adapter
from lokr_core.errors import LoKrError
from lokr_core.formats import BundledEmbedding
from lokr_core.handle import Handle
from lokr_core.matching import Target, resolve

from .a1111 import A1111
from .host import HostModel, Watcher
from .patches import Pairs, PatchHandle, patcher_of

UNET, TEXT = "model.", "text_encoders."


class PatchedModel(HostModel):
    """The denoiser and text encoders of ``forge_objects``, under a root module made for the bridge."""

    @cached_property
    def target(self) -> Target:
        shapes = {}
        for path, module in self.root.named_modules():
            if hasattr(module, "wrapped"):
                continue  # the wrapper of the token embedding, whose weight is an alias that nothing reads
            for name, parameter in module.named_parameters(recurse=False):
                shapes[f"{path}.{name}"] = shape = _shape(parameter)
                if name == "weight" and len(shape) == 2 and type(module).__name__ == "Linear":
                    _tell_sizes(module, shape)
        shapes = {name: shape for name, shape in shapes.items() if name.startswith(self.unet + self.text)}
        return Target(shapes, source=self.source)


def _shape(parameter: nn.Parameter) -> tuple[int, ...]:
    """The shape of the weight, packed or not. A GGUF parameter's ``shape`` is the weight's, bitsandbytes' is not."""
    packed = getattr(parameter, "quant_state", None)
    return tuple(parameter.shape if packed is None else packed.shape)


def is_packed(weight: Tensor) -> bool:
    """Whether the numbers are GGUF's or bitsandbytes'."""
    return getattr(weight, "gguf_cls", None) is not None or hasattr(weight, "bnb_quantized")


def _tell_sizes(module: Any, shape: tuple[int, ...]) -> None:
    """Give a Linear of packed weights the sizes that Linears have, which live needs."""
    if "out_features" not in vars(module):
        module.out_features, module.in_features = shape


class PatchedHost(A1111):
    """See ``Host``. A subclass has ``unpatched``, ``unpacked`` and ``patching``."""

    def __init__(self) -> None:
        self._paths: WeakKeyDictionary[nn.Module, dict[int, str]] = WeakKeyDictionary()

    def model(self, owner: Any = None) -> PatchedModel | None:
        owner = sd_models.model_data.sd_model if owner is None else owner
        # Before the first run a stand-in without models is there.
        objects = getattr(owner, "forge_objects", None)
        if objects is None:
            return None
        root = nn.Module()
        root.add_module(UNET.rstrip("."), objects.unet.model)
        if objects.clip is not None:
            root.add_module(TEXT.rstrip("."), objects.clip.cond_stage_model)
        return PatchedModel(owner, root, (f"{UNET}diffusion_model.",), (TEXT,))

    def weight_of(self, module: nn.Module) -> Tensor | None:
        weight = self._backup(module)
        weight = getattr(module, "weight", None) if weight is None else weight
        return None if weight is None else self.unpacked(module, weight)

    def _backup(self, module: nn.Module) -> Tensor | None:
        """The module's weight before the host patched it. Returns None if it did not."""
        objects = sd_models.model_data.sd_model.forge_objects
        for held in (objects.unet, objects.clip):
            backup = {} if held is None else self.unpatched(patcher_of(held))
            if backup:
                model = patcher_of(held).model
                paths = self._paths.get(model)
                if paths is None:
                    paths = self._paths[model] = {id(inner): path for path, inner in model.named_modules()}
                path = paths.get(id(module))
                if path is not None and model.get_submodule(path) is module:
                    return backup.get(f"{path}.weight")
        return None

    def unpatched(self, patcher: Any) -> Mapping[str, Tensor]:
        """The weights that the patcher has patched, as they were before, by the host's names."""
        return {}

    def unpacked(self, module: nn.Module, weight: Tensor) -> Tensor:
        """``weight``, which is or was ``module``'s, as plain numbers."""
        return weight

    def merge(self, model: HostModel, adapter: Adapter, factors: Callable[[str], float]) -> Handle:
        matches, report = resolve(adapter, model.target)
        reasons = {match.module: reason for match in matches if (reason := self.unsupported(model.root, match.weight))}
        report.refuse(reasons)
        report.raise_if_nothing_matched()
        unet, text = defaultdict(list), defaultdict(list)
        for match in matches:
            if match.module not in reasons:
                in_unet, weight = self.home_of(match.weight)
                (unet if in_unet else text)[weight].append(match)
        return PatchHandle(model.owner, self.patching, report, unet, text, factors=factors)

    def home_of(self, weight: str) -> tuple[bool, str]:
        """(whether the UNet's patcher holds it, its name there) of a weight of the model's."""
        in_unet = weight.startswith(UNET)
        return in_unet, weight.removeprefix(UNET if in_unet else TEXT)

    def unsupported(self, model: nn.Module, weight: str) -> str:
        """Why the host cannot patch this weight of ``model``, "" if it can."""
        return ""

    def patching(self, owner: Any, updates: dict[str, Pairs]) -> Callable[[Any], Any]:
        """See ``patches.Patching``."""
        raise LoKrError("This host's patchers are of a kind that is not known here", hint="use mode=live")

    def give_back_weights(self, modules: Iterable[nn.Module]) -> None:
        """The host patches weights for us as for others, and knows which are whose."""

    def lend_embeddings(
        self, model: HostModel, embeddings: Iterable[BundledEmbedding]
    ) -> tuple[set[str], Callable[[], None]]:
        """The text engines have embeddings of their own, which the host's built-in does not fill from files either."""
        return set(), lambda: None

    def watch(self, watcher: Watcher) -> None:
        """Nothing is known of when the host's models come and go."""


def report_unloading(memory_management: Any, watcher: Watcher) -> None:
    """Tell ``watcher`` when the host unloads all models to load another."""

    def unload_all_models():
        if sd_models.model_data.sd_model is None:  # another is to be loaded, after a collection of garbage
            watcher.model_gone()
        return original()

    place = (__name__, memory_management, unload_all_models.__name__)
    original = patches.patch(*place, unload_all_models)
    script_callbacks.on_script_unloaded(lambda: patches.undo(*place))


HOST = PatchedHost()
