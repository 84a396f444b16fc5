"""reForge: A1111's modules over patchers of its own."""

from __future__ import annotations

from ldm_patched.modules.weight_adapter import WeightAdapterBase
from modules import patches, script_callbacks, sd_models

from .a1111 import A1111
from .host import Watcher
from .weight_patches import WeightPatch, WeightPatchesHost


class _RePatch(WeightPatch, WeightAdapterBase):
    """See ``WeightPatch``."""


class ReForge(WeightPatchesHost):
    """See ``Host``."""

    patch = _RePatch
    lend_embeddings = A1111.lend_embeddings  # its prompts are A1111's

    def watch(self, watcher: Watcher) -> None:
        A1111.watch(self, watcher)

        def complete_model_teardown(model):
            if model is sd_models.model_data.sd_model:  # it is taken apart to make room for another
                watcher.model_gone()
            return original(model)

        place = (__name__, sd_models, complete_model_teardown.__name__)
        original = patches.patch(*place, complete_model_teardown)
        script_callbacks.on_script_unloaded(lambda: patches.undo(*place))


HOST = ReForge()
