"""Forge's side of the bridge: the models that its patchers hold, their weights packed or not.

What is not of its backend Forge has from A1111, and so has the bridge.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import cached_property
from weakref import WeakKeyDictionary

from backend import memory_management, operations
from backend.operations_gguf import dequantize_tensor
from modules import patches, script_callbacks, sd_models
from torch import Tensor, nn

from lokr_core.adapter import Adapter
from lokr_core.formats import BundledEmbedding
from lokr_core.handle import Handle
from lokr_core.matching import Target, resolve

from .a1111 import A1111
from .host import HostModel, Watcher

_UNET, _TEXT = "model.", "text_encoders."

# Linears of packed weights. Forge has the first only where bitsandbytes is installed.
_PACKED = tuple(
    getattr(operations, name).Linear
    for name in ("ForgeOperationsBNB4bits", "ForgeOperationsGGUF")
    if hasattr(operations, name)
)


class ForgeModel(HostModel):
    """The denoiser and text encoders of ``forge_objects``, under a root module made for the bridge."""

    @cached_property
    def target(self) -> Target:
        shapes = {}
        for path, module in self.root.named_modules():
            if isinstance(module, _PACKED) and module.weight is not None:
                # These lack the sizes that Linears have, which live needs.
                module.out_features, module.in_features = _shape(module.weight)
            if hasattr(module, "wrapped"):
                continue  # the wrapper of the token embedding, whose weight is an alias that nothing reads
            for name, parameter in module.named_parameters(recurse=False):
                shapes[f"{path}.{name}"] = _shape(parameter)
        shapes = {name: shape for name, shape in shapes.items() if name.startswith(self.unet + self.text)}
        return Target(shapes, source=self.source)


def _shape(parameter: nn.Parameter) -> tuple[int, ...]:
    """The shape of the weight, packed or not. A GGUF parameter's ``shape`` is the weight's, bitsandbytes' is not."""
    packed = getattr(parameter, "quant_state", None)
    return tuple(parameter.shape if packed is None else packed.shape)


class Forge(A1111):
    """See ``Host``."""

    def __init__(self):
        self._paths: WeakKeyDictionary[nn.Module, dict[int, str]] = WeakKeyDictionary()

    def model(self, owner: object | None = None) -> ForgeModel | None:
        owner = sd_models.model_data.sd_model if owner is None else owner
        # Before the first run a stand-in without models is there.
        if getattr(owner, "forge_objects", None) is None:
            return None
        root = nn.Module()
        root.add_module(_UNET.rstrip("."), owner.forge_objects.unet.model)
        root.add_module(_TEXT.rstrip("."), owner.forge_objects.clip.cond_stage_model)
        return ForgeModel(owner, root, (f"{_UNET}diffusion_model.",), (_TEXT,))

    def weight_of(self, module: nn.Module) -> Tensor | None:
        weight = self._unpatched(module)
        weight = getattr(module, "weight", None) if weight is None else weight
        if weight is None:
            return None
        weight = _unpacked(weight)
        scale = getattr(module, "scale_weight", None)
        return weight if scale is None else weight.float() * scale.to(weight.device)

    def _unpatched(self, module: nn.Module) -> Tensor | None:
        """The module's weight before Forge patched it. Returns None if it did not."""
        objects = sd_models.model_data.sd_model.forge_objects
        for model in (objects.unet.model, objects.clip.cond_stage_model):
            backup = model.lora_loader.backup
            if backup:
                paths = self._paths.get(model)
                if paths is None:
                    paths = self._paths[model] = {id(inner): path for path, inner in model.named_modules()}
                path = paths.get(id(module))
                if path is not None and model.get_submodule(path) is module:
                    return backup.get(f"{path}.weight")
        return None

    def merge(self, model: HostModel, adapter: Adapter, factors: Callable[[str], float]) -> Handle:
        # Not imported above: a fork of Forge may have other patchers, and live works there all the same.
        from .forge_merge import ForgeMergeHandle

        matches, report = resolve(adapter, model.target)
        report.raise_if_nothing_matched()
        unet, text = defaultdict(list), defaultdict(list)
        for match in matches:
            inside, prefix = (unet, _UNET) if match.weight.startswith(_UNET) else (text, _TEXT)
            inside[match.weight.removeprefix(prefix)].append(match)
        return ForgeMergeHandle(model.owner, report, unet, text, factors=factors)

    def lend_embeddings(
        self, model: HostModel, embeddings: Iterable[BundledEmbedding]
    ) -> tuple[set[str], Callable[[], None]]:
        """Forge's text engines have embeddings of their own, which its built-in does not fill from files either."""
        return set(), lambda: None

    def give_back_weights(self, modules: Iterable[nn.Module]) -> None:
        """Forge patches weights for us as for others, and knows which are whose."""

    def watch(self, watcher: Watcher) -> None:
        def unload_all_models():
            if sd_models.model_data.sd_model is None:  # another is to be loaded, after a collection of garbage
                watcher.model_gone()
            return original()

        place = (__name__, memory_management, unload_all_models.__name__)
        original = patches.patch(*place, unload_all_models)
        script_callbacks.on_script_unloaded(lambda: patches.undo(*place))


def _unpacked(weight: Tensor) -> Tensor:
    if hasattr(weight, "bnb_quantized"):
        return operations.functional_dequantize_4bit(weight)
    return dequantize_tensor(weight)


HOST = Forge()
