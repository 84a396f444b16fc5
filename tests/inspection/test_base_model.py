"""Who made a file and for which model: one answer in the outline, in the inspection, in the adapter and in refusals."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from lokr_core import LoKrMatchError, load_adapter, merge_adapter
from lokr_core.inspection import inspect_adapter, outline
from tests.formats.lokr_tensors import file_of, keyed, lokr

LOKR = {"ss_network_module": "networks.lokr", "ss_network_dim": "16", "ss_network_alpha": "8"}
SD, MUSUBI, FORK = "kohya-ss sd-scripts", "musubi-tuner", "musubi-tuner (LTX-2 fork)"

# module, metadata -> producer; title, guessed
FILES = [
    ("lora_unet_blocks_0_self_attn_q_proj", LOKR, SD, None),
    ("lora_unet_blocks_3_mlp_layer2", LOKR, SD, None),
    ("lora_unet_llm_adapter_blocks_0_self_attn_q_proj", LOKR, SD, None),
    ("lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q", LOKR, SD, None),
    ("lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k", LOKR, SD, None),
    ("lora_te1_text_model_encoder_layers_0_mlp_fc1", LOKR, SD, None),
    ("lora_unet_blocks_0_self_attn_q", LOKR, MUSUBI, None),
    ("lora_unet_blocks_0_ffn_0", LOKR, MUSUBI, None),
    ("lora_unet_double_blocks_0_img_attn_qkv", LOKR, MUSUBI, ("Flux.1", True)),
    ("lora_unet_double_blocks_0_img_attn_qkv", {**LOKR, "ss_base_model_version": "hunyuan_video"}, MUSUBI,
     ("HunyuanVideo", True)),
    ("lora_unet_transformer_blocks_0_img_mlp_net_0_proj", LOKR, MUSUBI, None),
    ("lora_unet_layers_0_attention_to_q", LOKR, MUSUBI, None),
    ("lora_unet_model_transformer_blocks_0_attn1_to_q", LOKR, FORK, None),
    ("lora_unet_model_transformer_blocks_0_audio_ff_net_0_proj", LOKR, FORK, None),
    ("lora_unet_x", {**LOKR, "ss_base_model_version": "ltx2_v1"}, FORK, ("ltx2_v1", False)),
    ("lora_unet_x", LOKR, f"{SD} or {MUSUBI}", ("", False)),
    ("lora_unet_x", {**LOKR, "ss_network_args": json.dumps({"network_reg_dims": ".*=4"})}, SD, None),
    ("lora_unet_x", {"ss_network_module": "networks.krona"}, "Anima-Standalone-Trainer", None),
    ("lora_unet_x", {"ss_base_model_version": "sd_1.5"}, "kohya-ss / LyCORIS", ("sd_1.5", False)),
    ("blocks.0.x", {"networkType": "lokr", "rank": "2", "alpha": "4"}, "SceneWorks", ("", False)),
]  # fmt: skip


@pytest.fixture(params=FILES, ids=lambda row: f"{row[0][:40]} {row[2]}")
def case(request, tmp_path):
    module, metadata, producer, base = request.param
    path = tmp_path / "a.safetensors"
    save_file(file_of(module, alpha=None if "networkType" in metadata else 2.0), str(path), metadata)
    return path, producer, base


def test_one_answer_everywhere(case):
    path, producer, base = case
    header, adapter = outline(path), load_adapter(path)
    found = inspect_adapter(adapter)
    assert header.producer == adapter.producer == found.producer == producer
    assert header.base_model_text == found.base_model_text
    assert (header.base_model or None if header.guessed else None) == found.architecture
    if base is not None:
        assert (header.base_model, header.guessed) == base


def test_a_guess_is_called_one(case):
    path, _, _ = case
    header, text = outline(path), inspect_adapter(load_adapter(path)).text()
    assert ("(guessed from its names)" in header.base_model_text) == header.guessed
    assert (header.base_model_text or "not known") in text
    assert not (header.guessed and "base model and trigger words are not known" in text)


def test_a_folder_of_peft(tmp_path):
    save_file(file_of("blocks.0.to_q", alpha=None), str(tmp_path / "adapter_model.safetensors"))
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LOKR", "r": 2, "alpha": 2}))
    path = tmp_path / "adapter_model.safetensors"
    assert outline(path).producer == load_adapter(path).producer == "PEFT"


def test_a_module_of_another_algorithm_counts_in_both(tmp_path):
    tensors = {**keyed("lora_unet_a", lokr()), "transformer.b.lora_A.weight": torch.ones(2, 2)}
    save_file(tensors, str(tmp_path / "a.safetensors"))
    header, adapter = outline(tmp_path / "a.safetensors"), load_adapter(tmp_path / "a.safetensors")
    assert header.producer == adapter.producer == "kohya-ss / LyCORIS, diffusers names"


FLUX = "lora_unet_double_blocks_0_img_attn_qkv"
BERT = {"bert.encoder.layer.0.attention.self.query.weight": torch.zeros(8, 8)}


@pytest.mark.parametrize(
    "module,metadata,model,said",
    [
        (FLUX, {}, BERT, "this looks like an adapter for Flux.1; the model is BERT"),
        (FLUX, {}, {"x.weight": torch.zeros(2, 2)}, "this looks like an adapter for Flux.1; the model is unknown"),
        ("lora_unet_y", {"ss_base_model_version": "sd_1.5"}, BERT,
         "its metadata name the base model sd_1.5; the model is BERT"),
        ("lora_unet_y", {}, BERT, "the file does not tell its base model; the model is BERT"),
    ],
)  # fmt: skip
def test_a_refusal_of_the_whole_file_says_for_what_it_is_and_what_is_loaded(tmp_path, module, metadata, model, said):
    save_file(file_of(module), str(tmp_path / "a.safetensors"), metadata)
    with pytest.raises(LoKrMatchError) as caught:
        merge_adapter(dict(model), load_adapter(tmp_path / "a.safetensors"))
    assert said in caught.value.problem and "use the adapter with the base model" in caught.value.hint
