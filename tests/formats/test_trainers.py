"""Files built after the saving code of trainers that no package has, with their metadata: scaling, names, producer."""

from __future__ import annotations

import json
import math

import pytest
import torch

from lokr_core.formats import parse_adapter
from tests.formats.lokr_tensors import file_of, keyed, lokr

AI_TOOLKIT = {"software": json.dumps({"name": "ai-toolkit", "version": "0.7.1"}), "format": "pt"}
ONETRAINER = {"ot_branch": "master", "ot_revision": "23df383", "modelspec.architecture": "flux-1-dev/lora"}
MUSUBI = {"ss_network_module": "networks.lokr", "ss_network_dim": "16", "ss_network_alpha": "8"}
ACE_STEP = {"algo": "lokr", "format": "lycoris", "lokr_config": json.dumps({"linear_dim": 64, "linear_alpha": 128})}


def scaling(tensors: dict, metadata: dict | None = None) -> float:
    (weights,) = parse_adapter(tensors, metadata).values()
    return weights.scaling


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("module", ["lycoris_blocks_7_attn_to_v", "diffusion_model.layers.0.attention.to_k"])
def test_ai_toolkit_full_rank(module, dtype):
    """``lokr_full_rank``, the default, asks for rank 9999999999, which fp16 stores as infinity: scaling 1."""
    tensors = {key: t.to(dtype) for key, t in keyed(module, lokr(alpha=9999999999, rank=None)).items()}
    adapter = parse_adapter(tensors, AI_TOOLKIT)
    assert adapter.producer == "ai-toolkit" and adapter[module].scaling == 1 and adapter[module].notes == ()


def test_ai_toolkit_low_rank():
    assert scaling(keyed("diffusion_model.layers.0.attention.to_k", lokr(alpha=2, rank=2)), AI_TOOLKIT) == 1


def test_musubi():
    """alpha / rank, and the rank as alpha where w2 is whole."""
    tensors = keyed("lora_unet_double_blocks_0_img_attn_qkv", lokr(alpha=8, rank=2))
    assert scaling(tensors, MUSUBI) == 4
    assert scaling(keyed("lora_unet_txt_in", lokr(alpha=16, rank=None)), MUSUBI) == 1
    assert parse_adapter(tensors, MUSUBI).producer == "musubi-tuner"


@pytest.mark.parametrize(
    "modules",
    [
        # Diffusers and Comfy output formats, legacy, and OMI
        ("transformer.transformer_blocks.0.attn.to_q", "text_encoder.text_model.encoder.layers.0.mlp.fc1"),
        ("diffusion_model.double_blocks.0.img_attn.qkv", "text_encoders.clip_l.transformer.text_model.x"),
        ("lora_transformer_transformer_blocks_0_attn_to_q", "lora_te1_text_model_encoder_layers_0_mlp_fc1"),
        ("transformer.double_blocks.0.img_attn.qkv.0", "clip_l.text_model.encoder.layers.0.mlp.fc1"),
    ],
)
def test_onetrainer(modules):
    adapter = parse_adapter(file_of(*modules, alpha=1, rank=2, dora=True), ONETRAINER)
    assert adapter.producer == "OneTrainer"
    assert [(n.component, adapter[m].scaling, adapter[m].dora_axis) for m, n in adapter.names.items()] == [
        ("unet", 0.5, "out"), ("te1", 0.5, "out"),
    ]  # fmt: skip


@pytest.mark.parametrize("rank", [2, None])
def test_onetrainer_of_june_2026(rank):
    """From 2026-05-29 to 2026-07-03 it wrote flattened names with "_" before the tensor's name as well, except before
    alpha and dora_scale; LoHa's alike."""
    module = "lora_transformer_single_transformer_blocks_3_attn_to_k"
    tensors = {}
    for key, tensor in keyed(module, lokr(alpha=4, rank=rank, dora=True)).items():
        tensors[key if key.endswith((".alpha", ".dora_scale")) else key.replace(".lokr", "_lokr")] = tensor
    tensors["lora_transformer_x_hada_w1_a"] = torch.ones(2, 2)
    adapter = parse_adapter(tensors, ONETRAINER)
    assert list(adapter) == [module] and adapter.names[module].path == "single_transformer_blocks_3_attn_to_k"
    assert adapter[module].scaling == (2 if rank else 1) and adapter[module].dora_axis == "out"
    assert adapter.other_kinds == {"lora_transformer_x": "LoHa"}
    assert adapter.other_names["lora_transformer_x"].path == "x"


def test_simpletuner():
    metadata = {"lycoris_config": json.dumps({"algo": "lokr", "linear_dim": 10000, "linear_alpha": 1, "factor": 16})}
    adapter = parse_adapter(file_of("lycoris_transformer_blocks_0_attn_to_q", alpha=10000, rank=None), metadata)
    assert adapter.producer == "SimpleTuner" and [w.scaling for w in adapter.values()] == [1]


def test_ace_step():
    adapter = parse_adapter(file_of("lycoris_layers_0_cross_attn_k_proj", alpha=4, rank=2, dora=True), ACE_STEP)
    assert adapter.producer == "ACE-Step 1.5" and [w.scaling for w in adapter.values()] == [2]


def test_comfyui_trainer():
    """Both factors whole, alpha 1, differences for biases and norms, no metadata."""
    tensors = {
        **keyed("diffusion_model.double_blocks.0.img_attn.proj", lokr(alpha=1, rank=None)),
        "diffusion_model.double_blocks.0.img_attn.proj.diff_b": torch.ones(8),
        "diffusion_model.double_blocks.0.img_attn.norm.query_norm.diff": torch.ones(4),
    }
    adapter = parse_adapter(tensors)
    assert [w.scaling for w in adapter.values()] == [1] and adapter.producer == "ComfyUI names" and adapter.notes == []
    assert [name.path for name in adapter.other_names.values()] == [
        "double_blocks.0.img_attn.proj", "double_blocks.0.img_attn.norm.query_norm",
    ]  # fmt: skip


REG_DIMS = {"lora_reg_dims": {".*block_0.*": 1, ".*block_1.*": 3}}


def studio(arguments: dict, alpha: float, dim: int = 2) -> dict[str, str]:
    """The metadata of AnimaLoraStudio."""
    return {
        "ss_network_module": "lycoris.kohya", "ss_network_dim": str(dim), "ss_network_alpha": str(alpha),
        "ss_network_args": json.dumps({"algo": "lokr", "factor": 8, **arguments}),
    }  # fmt: skip


def layers(alphas: dict[int, float]) -> dict[str, torch.Tensor]:
    """A module per rank, with the alpha that is stored for it."""
    return {
        key: tensor
        for rank, alpha in alphas.items()
        for key, tensor in keyed(f"lora_unet_block_{rank}", lokr(alpha=alpha, rank=rank)).items()
    }


@pytest.mark.parametrize("rs_lora", [False, True])
@pytest.mark.parametrize("mended", [False, True])
def test_a_rank_changed_after_the_scale_was_set(mended, rs_lora):
    """AnimaLoraStudio's ``lora_reg_dims``: all layers were trained with the scale of the network's own rank. It stored
    the network's alpha until June 2026, since then one that gives that scale by alpha / rank."""
    alpha, dim = 5.66, 2
    trained = alpha / (math.sqrt(dim) if rs_lora else dim)
    stored = {rank: trained * (rank if mended else dim) for rank in (1, 2, 3)}
    metadata = studio({**REG_DIMS, "rs_lora": rs_lora}, alpha, dim)
    tensors = layers(stored)
    adapter = parse_adapter(tensors, metadata)
    for module, weights in adapter.items():
        assert weights.scaling == pytest.approx(trained, rel=1e-6), module
        changed = weights.rank != dim and not mended
        assert any("lora_reg_dims changed" in note for note in weights.notes) == changed
    half = parse_adapter({key: t.to(torch.bfloat16) for key, t in tensors.items()}, metadata)
    assert [w.scaling for w in half.values()] == pytest.approx([trained] * 3, rel=0.01)


def test_an_alpha_that_fits_neither_story_is_taken_as_it_is_and_said():
    (weights,) = parse_adapter(layers({1: 3.0}), studio(REG_DIMS, 10.0)).values()
    assert weights.scaling == 3 and "alpha fits neither" in weights.notes[0]


def test_ranks_that_differ_without_a_word_in_the_metadata_are_told_of():
    """It may be a preset, or conv_dim; it may be the trap above, whose first files did not tell."""
    adapter = parse_adapter(layers({1: 4.0, 2: 4.0, 3: 4.0}), studio({}, 4.0))
    assert [w.scaling for w in adapter.values()] == [4.0, 2.0, pytest.approx(4 / 3)]
    assert any("the rank differs by layer (1 to 3) and alpha does not" in note for note in adapter.notes)
    for alphas in ({1: 1.0, 2: 2.0}, {2: 4.0}):
        assert parse_adapter(layers(alphas), studio({}, 4.0)).notes == []


@pytest.mark.parametrize("dim,alpha", [(32, 1.0), (16, 8.0)])
def test_whole_factors_with_an_alpha_that_lycoris_would_not_store(dim, alpha):
    """ComfyUI #15114. LyCORIS stores the rank where both factors are whole. AnimaLoraStudio's own LoKr (until May 2026)
    stored the alpha asked for, and trained with alpha / rank under LyCORIS' name."""
    adapter = parse_adapter(file_of("lora_unet_blocks_0_mlp_layer1", alpha=alpha, rank=None), studio({}, alpha, dim))
    (weights,) = adapter.values()
    assert weights.scaling == alpha / dim and "not how LyCORIS stores it" in weights.notes[0]


@pytest.mark.parametrize(
    "stored,arguments,dim,asked",
    [
        (32.0, {}, 32, 1.0),  # as LyCORIS stores it
        (4.0, {"conv_dim": 4}, 32, 4.0),  # the rank of a convolution
        (4.0, {"preset": "mine.toml"}, 32, 4.0),  # the rank of a preset
        (1.0, {}, 32, 16.0),  # neither: nothing is known
        (1e9, {}, 32, 1.0),
    ],
)
def test_whole_factors_with_an_alpha_that_counts_for_nothing(stored, arguments, dim, asked):
    (weights,) = parse_adapter(file_of("lora_unet_x", alpha=stored, rank=None), studio(arguments, asked, dim)).values()
    assert weights.scaling == 1
