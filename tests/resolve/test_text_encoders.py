"""Text encoders as ComfyUI holds them: each file's name finds the encoder it was trained on."""

from __future__ import annotations

import json

import pytest

from lokr_core import Target, resolve
from lokr_core.formats import parse_adapter
from tests.resolve.cells import DATA, lokr_keys


def recorded_text(name: str) -> dict[str, tuple[int, ...]]:
    data = json.loads((DATA / "text" / f"{name}.json").read_text())
    return {weight: tuple(shape) for weight, shape in data["comfyui"].items()}


CLIP, T5 = recorded_text("clip"), recorded_text("t5")
# Both CLIPs of one width, so that it is not the shapes that tell them apart.
SDXL = {f"{encoder}.transformer.{name}": shape for encoder in ("clip_l", "clip_g") for name, shape in CLIP.items()}
SD3 = SDXL | {f"t5xxl.transformer.{name}": shape for name, shape in T5.items()}
FLUX = {f"clip_l.transformer.{name}": shape for name, shape in CLIP.items()}
FLUX |= {f"t5xxl.transformer.{name}": shape for name, shape in T5.items()}
Q, SELF = "text_model.encoder.layers.0.self_attn.q_proj", "encoder.block.0.layer.0.SelfAttention.q"

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
]


@pytest.mark.parametrize("model,module,place", PLACES, ids=[module for _, module, _ in PLACES])
def test_a_text_encoders_module_finds_its_own_encoder(model, module, place):
    shape = model[f"{place}.weight"]
    matches, report = resolve(parse_adapter(lokr_keys({module: shape})), Target(model))
    assert [match.weight for match in matches] == [f"{place}.weight"], report.text()
