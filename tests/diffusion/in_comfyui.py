"""Runs inside ComfyUI's interpreter: ``in_comfyui.py JOBS.json``. What it makes of files that ``lokr train`` wrote.

A job is {"family", "state", "lokr", "inputs", "out"}: the denoiser's weights in diffusers' names, the adapter's file,
the inputs of one call, and where its output goes, without the adapter and with it.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

JOBS = sys.argv[1]
sys.path.insert(0, os.environ["COMFYUI_PATH"])
sys.argv = [sys.argv[0], "--cpu"]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.cli_args  # noqa: E402, F401  (before torch, as ComfyUI's main does)
import comfy.model_patcher  # noqa: E402
import comfy.sd  # noqa: E402
import comfy.supported_models as supported  # noqa: E402
import comfy.utils  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

# The tiny UNets of tiny_pipelines.py in ComfyUI's words, which it does not guess for other than its known widths.
UNET = dict(
    image_size=32, in_channels=4, out_channels=4, model_channels=64, num_res_blocks=[1, 1], channel_mult=[1, 2],
    transformer_depth=[1, 0], transformer_depth_output=[1, 1, 0, 0], transformer_depth_middle=1,
    use_spatial_transformer=True, legacy=False, dropout=0.0, dtype=torch.float32,
)  # fmt: skip
KINDS = {
    "sd": (supported.SD15, dict(context_dim=32, use_linear_in_transformer=False)),
    "sdxl": (
        supported.SDXL,
        dict(context_dim=64, use_linear_in_transformer=True, adm_in_channels=72, num_classes="sequential"),
    ),
}


def unet(family: str, state: dict) -> comfy.model_patcher.ModelPatcher:
    kind, fields = KINDS[family]
    config = kind(UNET | fields)
    config.unet_config |= dict(num_heads=4, num_head_channels=-1)
    names = comfy.utils.unet_to_diffusers(config.unet_config)
    original = {names[name]: tensor for name, tensor in state.items()}
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model(original, "")
    model.load_model_weights(original, "")
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, cpu, cpu)


def call(patcher, inputs: dict) -> torch.Tensor:
    torch.manual_seed(0)
    model = patcher.model.diffusion_model
    extra = {"y": inputs["y"]} if "y" in inputs else {}
    extra |= {"guidance": inputs["guidance"]} if "guidance" in inputs else {}
    with torch.no_grad():
        return model(inputs["noisy"], inputs["times"], context=inputs["context"], **extra, transformer_options={})


for job in json.loads(Path(JOBS).read_text()):
    state, inputs = load_file(job["state"]), load_file(job["inputs"])
    if job["family"] in KINDS:
        patcher = unet(job["family"], state)
    else:
        patcher = comfy.sd.load_diffusion_model_state_dict(state, model_options={"dtype": torch.float32})
    found = {"base": call(patcher, inputs)}
    lora = comfy.utils.load_torch_file(job["lokr"])
    patched, _ = comfy.sd.load_lora_for_models(patcher, None, lora, 1.0, 0.0)
    found["keys"] = torch.tensor(len(patched.patches))
    patched.patch_model()
    found["patched"] = call(patched, inputs)
    save_file({name: tensor.contiguous() for name, tensor in found.items()}, job["out"])
