"""A module's name is taken apart as its producer put it together, whatever prefixes and spellings a file mixes."""

from __future__ import annotations

import re

import pytest

from lokr_core.formats import module_names, parse_adapter
from lokr_core.modules import PREFIXES, ROOTS
from tests.formats.lokr_tensors import file_of

BLOCK = "transformer_blocks.0.attn.to_q"
FLAT = BLOCK.replace(".", "_")

# name in the file -> path, component, flattened
NAMES = {
    # kohya and LyCORIS
    "lora_unet_down_blocks_0_attentions_0_proj_in": ("down_blocks_0_attentions_0_proj_in", "unet", True),
    "lora_unet_double_blocks_0_img_attn_qkv": ("double_blocks_0_img_attn_qkv", "unet", True),
    "lora_te_text_model_encoder_layers_0_mlp_fc1": ("text_model_encoder_layers_0_mlp_fc1", "te", True),
    "lora_te1_text_model_encoder_layers_0_mlp_fc1": ("text_model_encoder_layers_0_mlp_fc1", "te1", True),
    "lora_te2_text_projection": ("text_projection", "te2", True),
    "lora_te3_encoder_block_0_layer_0_SelfAttention_q": ("encoder_block_0_layer_0_SelfAttention_q", "te3", True),
    "lora_te4_model_layers_0_mlp_up_proj": ("model_layers_0_mlp_up_proj", "te4", True),
    "lora_prior_unet_down_blocks_0_0_channelwise_0": ("down_blocks_0_0_channelwise_0", "unet", True),
    "lora_prior_te_text_projection": ("text_projection", "te", True),
    "lora_unet_blocks_12.self_attn.k": ("blocks_12.self_attn.k", "unet", True),  # half flattened
    "lora_unet__blocks_0_self_attn_q": ("blocks_0_self_attn_q", "unet", True),  # the model itself was a target class
    "lora_unet__orig_mod_blocks_0_self_attn_q": ("blocks_0_self_attn_q", "unet", True),  # of a compiled model
    # LyCORIS standalone, SimpleTuner, ai-toolkit's old format
    f"lycoris_{FLAT}": (FLAT, "", True),
    "lycoris_": ("", "", True),  # the wrapped module itself
    # ai-toolkit's new format, ComfyUI's trainer, OneTrainer's Comfy format
    "diffusion_model.layers.0.attention.to_k": ("layers.0.attention.to_k", "unet", False),
    "diffusion_model.double_blocks.0.img_attn.qkv": ("double_blocks.0.img_attn.qkv", "unet", False),
    "model.diffusion_model.input_blocks.0.0": ("input_blocks.0.0", "unet", False),
    "diffusion_model.transformer.layers.0.self_attn.to_qkv": ("transformer.layers.0.self_attn.to_qkv", "unet", False),
    "text_encoders.clip_l.transformer.text_model.encoder.layers.0.mlp.fc1":
        ("text_model.encoder.layers.0.mlp.fc1", "te1", False),
    "text_encoders.clip_g.transformer.text_projection": ("text_projection", "te2", False),
    "text_encoders.t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q":
        ("encoder.block.0.layer.0.SelfAttention.q", "te", False),
    "text_encoders.transformer.model.layers.0.mlp.up_proj": ("model.layers.0.mlp.up_proj", "te", False),
    # OneTrainer
    f"lora_transformer_{FLAT}": (FLAT, "unet", True),
    f"lora_transformer.{BLOCK}": (BLOCK, "unet", False),
    "lora_unet.conv_in": ("conv_in", "unet", False),
    "lora_te1.text_model.final_layer_norm": ("text_model.final_layer_norm", "te1", False),
    "transformer.double_blocks.0.img_attn.qkv.0": ("double_blocks.0.img_attn.qkv.0", "unet", False),  # OMI
    "clip_l.text_model.encoder.layers.0.mlp.fc1": ("text_model.encoder.layers.0.mlp.fc1", "te1", False),
    "clip_g.text_projection": ("text_projection", "te2", False),
    "t5.encoder.block.0.layer.1.DenseReluDense.wo": ("encoder.block.0.layer.1.DenseReluDense.wo", "te", False),
    "llama.layers.0.mlp.up_proj": ("layers.0.mlp.up_proj", "te", False),
    # diffusers pipelines
    "unet.down_blocks.0.resnets.0.conv1": ("down_blocks.0.resnets.0.conv1", "unet", False),
    f"transformer.{BLOCK}": (BLOCK, "unet", False),
    "prior.blocks.0.attn": ("blocks.0.attn", "unet", False),
    "text_encoder.text_model.encoder.layers.0.mlp.fc1": ("text_model.encoder.layers.0.mlp.fc1", "te1", False),
    "text_encoder_2.encoder.block.0.layer.0.SelfAttention.q": ("encoder.block.0.layer.0.SelfAttention.q", "te2", False),
    # PEFT, alone and inside a pipeline
    f"base_model.model.{BLOCK}": (BLOCK, "", False),
    "unet.base_model.model.conv_in": ("conv_in", "unet", False),
    f"transformer.base_model.model.{BLOCK}": (BLOCK, "unet", False),
    "text_encoder_2.base_model.model.text_projection": ("text_projection", "te2", False),
    "base_model.model.unet.conv_in": ("conv_in", "unet", False),
    "base_model.model.diffusion_model.img_in": ("img_in", "unet", False),
    "base_model.model.module.img_in": ("img_in", "", False),
    "base_model.model.transformer.layers.0.ff.ff.2": ("transformer.layers.0.ff.ff.2", "", False),  # Stable Audio's own
    "base_model.model.layers.0.cross_attn.k_proj": ("layers.0.cross_attn.k_proj", "", False),  # ACE-Step's decoder
    "module.base_model.model.img_in": ("img_in", "", False),
    "base_model.model.blocks.0._orig_mod.attn": ("blocks.0.attn", "", False),
    # others
    "pipe.dit.blocks.0.self_attn.q": ("blocks.0.self_attn.q", "unet", False),
    BLOCK: (BLOCK, "", False),
    "blocks.0.größe.注意": ("blocks.0.größe.注意", "", False),
    # names that begin as a prefix does
    "unet_head": ("unet_head", "", False),
    "transformer_head.0": ("transformer_head.0", "", False),
    "base_model.head": ("base_model.head", "", False),
    "lora_teacher.0": ("lora_teacher.0", "", False),
    "t5_projection": ("t5_projection", "", False),
    "diffusion_model2.0": ("diffusion_model2.0", "", False),
    "my_lycoris_block.0": ("my_lycoris_block.0", "", False),
}  # fmt: skip


@pytest.mark.parametrize("module", NAMES)
def test_a_name_taken_apart(module):
    name = parse_adapter(file_of(module)).names[module]
    assert (name.full, name.path, name.component, name.flattened) == (module, *NAMES[module])


def test_all_of_them_in_one_file():
    """What stands beside a module in its file does not change how its name is read."""
    adapter = parse_adapter({key: t for seed, name in enumerate(NAMES) for key, t in file_of(name).items()})
    dropped = set(NAMES) - set(adapter)
    assert {name: (n.path, n.component, n.flattened) for name, n in adapter.names.items()} == {
        name: expected for name, expected in NAMES.items() if name not in dropped
    }
    # file_of gives each the same numbers, so those that are one module in two spellings are kept once.
    flat = {name: (NAMES[name][0].replace(".", "_"), NAMES[name][1][:2]) for name in NAMES}
    assert all(any(flat[kept][0] == flat[name][0] for kept in adapter) for name in dropped)


@pytest.mark.parametrize("number", range(len(PREFIXES)))
def test_no_prefix_is_hidden_by_another(number):
    """A name right behind the longest text a row's pattern matches is that row's, whatever stands before it."""
    row = PREFIXES[number]
    text = re.sub(r"\(\?:([^()|]*)(?:\|[^()]*)?\)\??", r"\1", row.pattern)
    text = re.sub(r"\(\?:([^()|]*)(?:\|[^()]*)?\)\??", r"\1", text).replace("\\w+", "name").replace("\\.", ".")
    assert re.fullmatch(row.pattern, text)
    names, namings = module_names([f"{text}blocks.0" if text.endswith(".") else f"{text}blocks_0"])
    (name,) = names.values()
    assert name.path == ("blocks_0" if row.flattened else "blocks.0")
    assert (name.component, name.flattened, list(namings)) == (row.component, row.flattened, [row.naming])


@pytest.mark.every_value
@pytest.mark.parametrize("prefix", ["mynet_", "my_lora_", "diffusion_model_", "größe_", "x_"])
@pytest.mark.parametrize("root", ROOTS)
def test_a_prefix_that_is_the_trainers_setting(prefix, root):
    """LyCORIS' ``lora_prefix`` is found where known names of architectures begin behind it."""
    modules = [f"{prefix}{root}_{number}_attn_{part}" for number in range(2) for part in ("q", "k")]
    adapter = parse_adapter(file_of(*modules))
    assert [(n.path, n.flattened) for n in adapter.names.values()] == [(m[len(prefix) :], True) for m in modules]
    assert adapter.producer == f"LyCORIS, prefix {prefix}"


def test_a_setting_that_is_a_known_word_itself():
    (name,) = parse_adapter(file_of("transformer_transformer_blocks_0_attn_to_q")).names.values()
    assert name.path == "transformer_blocks_0_attn_to_q"


def test_flattened_names_without_any_prefix():
    adapter = parse_adapter(file_of("double_blocks_0_img_attn_qkv", "single_blocks_1_linear1"))
    assert [(n.path, n.flattened) for n in adapter.names.values()] == [(m, True) for m in adapter]


def test_an_unknown_prefix_before_unknown_names():
    """The first word that all names share; the names with it stay known, for it may be their own."""
    adapter = parse_adapter(file_of("net_first", "net_second_0", "net_third"))
    assert [n.path for n in adapter.names.values()] == ["first", "second_0", "third"]
    assert [n.full for n in adapter.names.values()] == ["net_first", "net_second_0", "net_third"]


def test_the_presets_own_word_for_the_prefix():
    metadata = {"lycoris_config": '{"algo": "lokr", "apply_preset": {"lora_prefix": "net_second"}}'}
    modules = ("net_second_0", "net_second_1_fc")
    assert [n.path for n in parse_adapter(file_of(*modules), metadata).names.values()] == ["0", "1_fc"]
    assert [n.path for n in parse_adapter(file_of(*modules)).names.values()] == ["second_0", "second_1_fc"]


@pytest.mark.parametrize(
    "modules",
    [["first", "second"], ["layer"], ["unet_head"], ["my_encoder"], ["net_a", "other_b"], ["net_a", "net"]],
)
def test_names_that_share_no_prefix_stay_as_they_are(modules):
    names = parse_adapter(file_of(*modules)).names.values()
    assert [(n.path, n.flattened) for n in names] == [(m, False) for m in modules]


def test_known_and_unknown_prefixes_in_one_file():
    modules = ("mine_blocks_0_q", "mine_blocks_1_q", "lora_te1_text_model_0", "lycoris_blocks_2_q")
    adapter = parse_adapter(file_of(*modules))
    assert [n.path for n in adapter.names.values()] == ["blocks_0_q", "blocks_1_q", "text_model_0", "blocks_2_q"]
    assert adapter.producer == "kohya-ss / LyCORIS, LyCORIS standalone, LyCORIS, prefix mine_"
