"""Tiny diffusers pipelines from configurations: their models are those of tests/names, their other parts are missing.

What a pipeline puts out is here what its denoisers and its text encoders put out on fixed inputs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from tests.names.tiny_models import build_diffusers
from tests.names.tiny_text import TINY_TEXT
from tests.names.twin_runs import RUNS, Run
from tests.names.twin_runs.run import plain
from tests.names.twins import _input as input_of_shape

_VISION = dict(
    depth=1, hidden_size=32, intermediate_size=48, num_heads=2, out_hidden_size=64, fullatt_block_indexes=[0]
)
_QWEN = dict(
    vocab_size=99,
    hidden_size=64,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    rope_parameters=dict(rope_type="default", rope_theta=1e4, mrope_section=[2, 3, 3]),
)


class Row(NamedTuple):
    """pipeline: diffusers' class; denoisers: part -> row of ``tiny_models``; texts: part -> row of ``tiny_text``

    kohya: the names that kohya's trainer and musubi-tuner give the denoiser's modules
    """

    pipeline: str
    denoisers: dict[str, str]
    texts: dict[str, str]
    kohya: str = "original"


PIPELINES = {
    "SD1.5": Row("StableDiffusionPipeline", {"unet": "sd15"}, {"text_encoder": "clip_bare"}, "diffusers"),
    "SDXL": Row(
        "StableDiffusionXLPipeline",
        {"unet": "sdxl"},
        {"text_encoder": "clip_bare", "text_encoder_2": "clip"},
        "diffusers",
    ),
    "SD3": Row(
        "StableDiffusion3Pipeline",
        {"transformer": "sd3"},
        {"text_encoder": "clip", "text_encoder_2": "clip", "text_encoder_3": "t5"},
    ),
    "Flux.1": Row("FluxPipeline", {"transformer": "flux"}, {"text_encoder": "clip_bare", "text_encoder_2": "t5"}),
    "Flux.2 Klein": Row("Flux2KleinPipeline", {"transformer": "flux2_klein"}, {"text_encoder": "qwen3"}),
    "Qwen-Image": Row("QwenImagePipeline", {"transformer": "qwen_image"}, {"text_encoder": "qwen25_vl"}),
    "Wan 2.2": Row("WanPipeline", {"transformer": "wan_t2v", "transformer_2": "wan_t2v"}, {"text_encoder": "umt5"}),
    "Z-Image": Row("ZImagePipeline", {"transformer": "z_image"}, {"text_encoder": "qwen3_bare"}),
    "Chroma": Row("ChromaPipeline", {"transformer": "chroma"}, {"text_encoder": "t5"}),
    "LTX-Video": Row("LTXPipeline", {"transformer": "ltx_video"}, {"text_encoder": "t5"}),
    "Lumina 2": Row("Lumina2Pipeline", {"transformer": "lumina2"}, {"text_encoder": "gemma2"}),
    "Sana": Row("SanaPipeline", {"transformer": "sana"}, {"text_encoder": "gemma2"}),
    "PixArt": Row("PixArtSigmaPipeline", {"transformer": "pixart_sigma"}, {"text_encoder": "t5"}),
}

_RUNS = {**RUNS, "sana": Run({"x": (1, 5, 16, 16), "t": 400, "context": (1, 9, 40)}, plain, plain)}


def build(name: str, seed: int = 0) -> Any:
    """The pipeline of a row: its own class of diffusers, with random weights."""
    import diffusers

    row = PIPELINES[name]
    torch.manual_seed(seed)
    models = {part: build_diffusers(arch) for part, arch in row.denoisers.items()}
    models |= {part: _text_encoder(arch) for part, arch in row.texts.items()}
    for model in models.values():
        for parameter in model.parameters():  # some are zero by default
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    if "unet" in row.denoisers or name == "PixArt":
        scheduler = diffusers.DDIMScheduler(steps_offset=1, clip_sample=False)
    missing: dict[str, Any] = {part.replace("text_encoder", "tokenizer"): None for part in row.texts}
    if name == "SD1.5":
        missing |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    if name == "SDXL":
        models["text_encoder_2"].config.projection_dim = 20  # what the tiny UNet takes
    if name == "Wan 2.2":
        missing |= {"boundary_ratio": 0.7}
    pipe = getattr(diffusers, row.pipeline)(scheduler=scheduler, vae=None, **missing, **models)
    for part in models:
        getattr(pipe, part).eval().requires_grad_(False)
    return pipe


def _text_encoder(arch: str) -> Any:
    import transformers

    name, config = TINY_TEXT[arch][0]
    if arch == "qwen25_vl":  # that of the table has a vision model of full size
        config = dict(text_config=_QWEN, vision_config=_VISION)
    cls = getattr(transformers, name)
    return cls(cls.config_class(**config))


@torch.no_grad()
def outputs(name: str, pipe: Any) -> dict[str, Tensor]:
    """Part of the pipeline -> its output on inputs that are always the same."""
    row, found = PIPELINES[name], {}
    for part, arch in row.denoisers.items():
        run = _RUNS[arch]
        torch.manual_seed(1)
        inputs = {key: input_of_shape(shape) for key, shape in run.inputs.items()}
        found[part] = run.diffusers(getattr(pipe, part), inputs)
    for part in row.texts:
        out = getattr(pipe, part)(torch.arange(1, 12)[None] * 7, output_hidden_states=True)
        found[part] = out.hidden_states[-1]
    return found


def difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest difference of two outputs, relative to the size of the expected one."""
    return max(float((found[part] - one).abs().max() / one.abs().max()) for part, one in expected.items())
