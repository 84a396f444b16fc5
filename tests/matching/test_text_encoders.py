"""Text encoders as ComfyUI holds them: each file's name finds the encoder it was trained on."""

from __future__ import annotations

import json

import pytest

from lokr_core import Target, resolve
from lokr_core.formats import parse_adapter
from tests.matching.cells import DATA, lokr_keys


def recorded_text(name: str) -> dict[str, tuple[int, ...]]:
    data = json.loads((DATA / "text" / f"{name}.json").read_text())
    return {weight: tuple(shape) for weight, shape in data["comfyui"].items()}


CLIP, T5 = recorded_text("clip"), recorded_text("t5")
# Both CLIPs of one width, so that it is not the shapes that tell them apart.
SDXL = {f"{encoder}.transformer.{name}": shape for encoder in ("clip_l", "clip_g") for name, shape in CLIP.items()}
SD3 = SDXL | {f"t5xxl.transformer.{name}": shape for name, shape in T5.items()}
FLUX = {f"clip_l.transformer.{name}": shape for name, shape in CLIP.items()}
FLUX |= {f"t5xxl.transformer.{name}": shape for name, shape in T5.items()}
FLUX2 = {f"mistral3_24b.transformer.{name}": shape for name, shape in recorded_text("mistral3").items()}
ERNIE = {f"ministral3_3b.transformer.{name}": shape for name, shape in recorded_text("ministral3").items()}
KREA2 = {f"qwen3vl_4b.transformer.{name}": shape for name, shape in recorded_text("qwen3_vl").items()}
LENS = {f"gpt_oss.transformer.{name}": shape for name, shape in recorded_text("gpt_oss").items()}
QWEN35 = {f"qwen35_2b.transformer.{name}": shape for name, shape in recorded_text("qwen35").items()}
HUNYUAN_DIT = {f"hydit_clip.transformer.{name}": shape for name, shape in recorded_text("bert").items()}
HUNYUAN_DIT |= {f"mt5xl.transformer.{name}": shape for name, shape in T5.items()}
Q, SELF = "text_model.encoder.layers.0.self_attn.q_proj", "encoder.block.0.layer.0.SelfAttention.q"
LAYER, VISION, DELTA = "layers.1.self_attn.q_proj", "visual.blocks.0.attn.qkv", "layers.0.linear_attn.in_proj_qkv"
WORD = "encoder.layer.0.attention.self.query"

PLACES = [
    (SDXL, "lora_te1_" + Q.replace(".", "_"), f"clip_l.transformer.{Q}"),
    (SDXL, "lora_te2_" + Q.replace(".", "_"), f"clip_g.transformer.{Q}"),
    (SDXL, f"text_encoder.{Q}", f"clip_l.transformer.{Q}"),
    (SDXL, f"text_encoder_2.{Q}", f"clip_g.transformer.{Q}"),
    (SDXL, f"text_encoder_2.base_model.model.{Q}", f"clip_g.transformer.{Q}"),
    (SDXL, f"text_encoder.{Q.removeprefix('text_model.')}", f"clip_l.transformer.{Q}"),  # transformers 5
    (SDXL, f"clip_g.transformer.{Q}", f"clip_g.transformer.{Q}"),
    (SDXL, f"text_encoders.clip_l.transformer.{Q}", f"clip_l.transformer.{Q}"),
    (SD3, "lora_te3_" + SELF.replace(".", "_"), f"t5xxl.transformer.{SELF}"),
    (SD3, f"text_encoder_3.{SELF}", f"t5xxl.transformer.{SELF}"),
    (FLUX, f"text_encoder_2.{SELF}", f"t5xxl.transformer.{SELF}"),
    (FLUX, "lora_te3_" + SELF.replace(".", "_"), f"t5xxl.transformer.{SELF}"),
    (FLUX, "lora_te1_" + Q.replace(".", "_"), f"clip_l.transformer.{Q}"),
    (FLUX, "lora_te_" + Q.replace(".", "_"), f"clip_l.transformer.{Q}"),
    (FLUX2, f"text_encoder.model.language_model.{LAYER}", f"mistral3_24b.transformer.model.{LAYER}"),
    (FLUX2, "lora_te_model_language_model_" + LAYER.replace(".", "_"), f"mistral3_24b.transformer.model.{LAYER}"),
    (FLUX2, "lora_te1_" + LAYER.replace(".", "_"), f"mistral3_24b.transformer.model.{LAYER}"),
    (ERNIE, f"text_encoder.language_model.{LAYER}", f"ministral3_3b.transformer.model.{LAYER}"),
    (KREA2, f"text_encoder.model.language_model.{LAYER}", f"qwen3vl_4b.transformer.model.{LAYER}"),
    (KREA2, f"text_encoder.model.{VISION}", f"qwen3vl_4b.transformer.{VISION}"),
    (LENS, f"text_encoder.model.{LAYER}", f"gpt_oss.transformer.{LAYER}"),
    (LENS, "lora_te_" + LAYER.replace(".", "_"), f"gpt_oss.transformer.{LAYER}"),
    (QWEN35, f"text_encoder.model.language_model.{DELTA}", f"qwen35_2b.transformer.model.{DELTA}"),
    (HUNYUAN_DIT, "lora_te1_" + WORD.replace(".", "_"), f"hydit_clip.transformer.bert.{WORD}"),
    (HUNYUAN_DIT, f"text_encoder_2.{SELF}", f"mt5xl.transformer.{SELF}"),
]


@pytest.mark.parametrize("model,module,place", PLACES, ids=[module for _, module, _ in PLACES])
def test_a_text_encoders_module_finds_its_own_encoder(model, module, place):
    shape = model[f"{place}.weight"]
    matches, report = resolve(parse_adapter(lokr_keys({module: shape})), Target(model))
    assert [match.weight for match in matches] == [f"{place}.weight"], report.text()
