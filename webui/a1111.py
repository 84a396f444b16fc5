"""AUTOMATIC1111's side of the bridge: its model's modules, its built-in Lora extension, its clock and its messages."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable

import torch
from modules import errors, patches, script_callbacks, sd_models
from torch import Tensor, nn

from lokr_core.adapter import Adapter
from lokr_core.formats import BundledEmbedding
from lokr_core.handle import Handle
from lokr_core.merge import merge_adapter

from .host import HostModel, Watcher


class A1111:
    """See ``Host``. The model is a module with everything in it."""

    def model(self, owner: nn.Module | None = None) -> HostModel | None:
        # Not shared.sd_model: that would load one.
        owner = sd_models.model_data.sd_model if owner is None else owner
        if owner is None:
            return None
        # SDXL's conditioner is known as cond_stage_model too; a weight has one name here.
        text = "conditioner." if hasattr(owner, "conditioner") else "cond_stage_model."
        return HostModel(owner, owner, ("model.diffusion_model.",), (text,))

    def weight_of(self, module: nn.Module) -> Tensor | None:
        # The built-in merges its networks while a layer runs, and keeps what the weight was before in this attribute
        # (of a MultiheadAttention two of them, which nobody asks for here).
        backup = getattr(module, "network_weights_backup", None)
        return backup if isinstance(backup, Tensor) else None

    def merge(self, model: HostModel, adapter: Adapter, factors: Callable[[str], float]) -> Handle:
        return merge_adapter(model.root, adapter, target=model.target, factors=factors)

    def lend_embeddings(
        self, model: HostModel, embeddings: Iterable[BundledEmbedding]
    ) -> tuple[set[str], Callable[[], None]]:
        # Not imported above: Forge, which is an A1111 too, keeps embeddings in another place.
        from .a1111_embeddings import lend

        return lend(model.owner, embeddings)

    def give_back_weights(self, modules: Iterable[nn.Module]) -> None:
        # The built-in extension is a module of this name, unless the user has disabled it.
        builtin = sys.modules.get("networks")
        if not hasattr(builtin, "network_restore_weights_from_backup"):
            return
        with torch.no_grad():
            for module in modules:
                if getattr(module, "network_weights_backup", None) is not None:
                    builtin.network_restore_weights_from_backup(module)
                    builtin.network_reset_cached_weight(module)

    def watch(self, watcher: Watcher) -> None:
        def set_sd_model(data, model, already_loaded=False):
            originals["set_sd_model"](data, model, already_loaded)
            if already_loaded:
                watcher.model_taken(model)

        def get_empty_cond(model):
            # It activates no networks at all for this, and a refiner is loaded in the middle of a run.
            with watcher.set_aside():
                return originals["get_empty_cond"](model)

        places = ((sd_models.SdModelData, set_sd_model), (sd_models, get_empty_cond))
        originals = {f.__name__: patches.patch(__name__, owner, f.__name__, f) for owner, f in places}

        def undo():
            for owner, function in places:
                patches.undo(__name__, owner, function.__name__)

        script_callbacks.on_script_unloaded(undo)

    def percent(self, step) -> float:
        # The denoiser counts its own calls, which is what prompt editing and the refiner's switch go by too. Noise
        # levels would not do: timestep samplers such as DDIM pass timesteps in their place.
        denoiser = step.denoiser
        return min(1.0, denoiser.step / max(1, (denoiser.total_steps or 1) - 1))

    def tell(self, p, text: str) -> None:
        p.comment(text)
        print(text, file=sys.stderr)

    def trouble(self, text: str) -> None:
        errors.report(text, exc_info=True)


HOST = A1111()
