"""Runs in ComfyUI's own interpreter, without this library: ``_in_comfyui.py COMFYUI MODEL ADAPTER``.

Prints, as JSON, how many weights of the model ComfyUI's loader changes by the adapter. Of the model it reads the
header.
"""

from __future__ import annotations

import importlib
import json
import sys


def taken(comfyui: str, model: str, adapter: str) -> int:
    """How many patches ComfyUI's ``load_lora`` makes of the file ``adapter`` for the file ``model``."""
    sys.path.insert(0, comfyui)
    sys.argv = [sys.argv[0], "--cpu"]  # which ComfyUI reads as it is imported
    importlib.import_module("comfy.options").enable_args_parsing()
    torch, safetensors = importlib.import_module("torch"), importlib.import_module("safetensors")
    names = ("utils", "model_detection", "lora", "lora_convert")
    utils, detection, lora, convert = (importlib.import_module(f"comfy.{name}") for name in names)
    with safetensors.safe_open(model, "pt") as file:
        shapes = {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118
    weights = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    prefix = detection.unet_prefix_from_state_dict(weights)
    for start in (prefix, "diffusion_model."):
        below = utils.state_dict_prefix_replace(dict(weights), {start: ""}, filter_keys=True)
        weights = below or weights
    config = detection.model_config_from_unet(weights, "")
    if config is None:
        raise ValueError("ComfyUI does not know this model")
    config.set_inference_dtype(torch.float32, None)
    network = config.get_model(weights, "", device="meta")
    tensors = convert.convert_lora(utils.load_torch_file(adapter, safe_load=True))
    return len(lora.load_lora(tensors, lora.model_lora_keys_unet(network, {}), log_missing=False))


if __name__ == "__main__":
    print(json.dumps(taken(*sys.argv[1:4])))
