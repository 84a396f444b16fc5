"""An extension for the tests: what is going on inside a running A1111 or Forge, over its API.

It lies in the server's ``extensions`` as ``probe/scripts/probe.py``.
"""

import gc
import hashlib
import sys
import uuid

import torch
from modules import processing, script_callbacks, scripts, sd_models, shared

last = {"comments": "", "to_interrupt": False, "models": 0}


class Probe(scripts.Script):
    def title(self):
        return "Probe"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def postprocess(self, p, processed, *args):
        last["comments"] = processed.comments


def interrupt(params):
    if last["to_interrupt"]:
        shared.state.interrupted = True
        last["to_interrupt"] = False


def models(every: bool = False) -> list[torch.nn.Module]:
    """The model in use; A1111's others too with ``every``."""
    model = sd_models.model_data.sd_model
    if hasattr(model, "forge_objects"):
        return [model.forge_objects.unet.model, model.forge_objects.clip.cond_stage_model]
    return sd_models.model_data.loaded_sd_models if every else [model]


def weights_hash() -> str:
    """Of the UNet's and the text encoders' weights, in memory."""
    digest = hashlib.sha256()
    for model in models():
        for name, tensor in model.state_dict().items():
            if not name.startswith("first_stage_model."):
                digest.update(name.encode())
                digest.update(tensor.detach().cpu().contiguous().view(-1).view(dtype=torch.uint8).numpy())
    return digest.hexdigest()


def hooks() -> int:
    """How many of this project's hooks are on the models."""
    count = 0
    for model in models(every=True):
        for module in model.modules():
            for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values()):
                count += type(hook).__module__.startswith("lokr_core")
    return count


def count_models(model):
    """How many of Forge's models have their weights in memory when one has been loaded."""
    last["models"] = sum(type(each) is type(model) and has_weights(each) for each in gc.get_objects())


def has_weights(model) -> bool:
    """reForge takes a model apart to make room for another; a task that has run keeps what is left of it."""
    objects = getattr(model, "forge_objects", None)
    return objects is None or any(parameter.numel() for parameter in objects.unet.model.parameters())


def forget_prompts():
    for kind in (processing.StableDiffusionProcessing, processing.StableDiffusionProcessingTxt2Img):
        for name in ("cached_c", "cached_uc", "cached_hr_c", "cached_hr_uc"):
            if hasattr(kind, name):
                setattr(kind, name, [None, None])


def reset():
    """As after a start: nothing applied by anyone, no prompt encoded."""
    network = sys.modules["modules.extra_networks"].extra_network_registry["lokr"]
    network.close()
    model = sd_models.model_data.sd_model
    if hasattr(model, "forge_objects"):
        for name in ("unet", "clip"):
            held = getattr(model.forge_objects_original, name).clone()
            patcher = getattr(held, "patcher", held)
            if hasattr(patcher, "lora_patches"):
                patcher.lora_patches = {}
            else:
                patcher.patches, patcher.patches_uuid = {}, uuid.uuid4()
            setattr(model.forge_objects_original, name, held)
        model.forge_objects = model.forge_objects_original.shallow_copy()
        model.forge_objects_after_applying_lora = model.forge_objects_original.shallow_copy()
        model.current_lora_hash = str([])
    builtin = sys.modules.get("networks")
    if hasattr(builtin, "network_restore_weights_from_backup"):
        builtin.loaded_networks.clear()
        with torch.no_grad():
            for module in shared.sd_model.modules():
                builtin.network_restore_weights_from_backup(module)
                builtin.network_reset_cached_weight(module)
    forget_prompts()
    return {}


def switch_logins(app, auth, api: str, page: str) -> dict:
    """Ask programs for ``api`` alone, "" for nothing, and persons for the page's login if ``page`` is "True"."""
    shared.cmd_opts.api_auth = api or None
    app.auth = auth if page == "True" else None
    return {}


def routes(_demo, app):
    auth = getattr(app, "auth", None)
    app.add_api_route("/probe/logins", lambda api, page: switch_logins(app, auth, api, page), methods=["GET"])
    app.add_api_route("/probe/comments", lambda: last["comments"], methods=["GET"])
    app.add_api_route("/probe/weights", weights_hash, methods=["GET"])
    app.add_api_route("/probe/models", lambda: last["models"], methods=["GET"])
    app.add_api_route("/probe/hooks", hooks, methods=["GET"])
    app.add_api_route("/probe/reset", reset, methods=["GET"])
    app.add_api_route("/probe/interrupt", lambda: last.update(to_interrupt=True), methods=["GET"])
    app.add_api_route("/probe/interrupted", lambda: not last["to_interrupt"], methods=["GET"])


script_callbacks.on_cfg_denoiser(interrupt)
script_callbacks.on_model_loaded(count_models)
script_callbacks.on_app_started(routes)
