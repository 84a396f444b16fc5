"""A file that mixes LoKr with other algorithms: nothing is dropped, and the rest can be renamed for its own loader."""

from __future__ import annotations

import pytest
import torch

from lokr_core.formats import parse_adapter
from tests.formats.lokr_tensors import keyed, lokr

ONE = torch.ones(2, 2)
PEFT = "transformer.base_model.model.blocks.0"

# key -> (module, tensor name as consumers expect it, kind, path of the module)
OTHERS = {
    "lora_unet_a_b.lora_up.weight": ("lora_unet_a_b", "lora_up.weight", "LoRA", "a_b"),
    "lora_unet_a_b.alpha": ("lora_unet_a_b", "alpha", "LoRA", "a_b"),
    "lora_unet_a_b.dora_scale": ("lora_unet_a_b", "dora_scale", "LoRA", "a_b"),
    "lora_unet_a_b.lora_mid.weight": ("lora_unet_a_b", "lora_mid.weight", "LoRA", "a_b"),
    f"{PEFT}.q.lora_A.weight": (f"{PEFT}.q", "lora_A.weight", "LoRA", "blocks.0.q"),
    f"{PEFT}.k.lora_B.default.weight": (f"{PEFT}.k", "lora_B.weight", "LoRA", "blocks.0.k"),
    f"{PEFT}.k.lora_A.my style.weight": (f"{PEFT}.k", "lora_A.weight", "LoRA", "blocks.0.k"),
    f"{PEFT}.k.lora_magnitude_vector.default": (f"{PEFT}.k", "lora_magnitude_vector", "LoRA", "blocks.0.k"),
    f"{PEFT}.k.lora_magnitude_vector.default.weight":
        (f"{PEFT}.k", "lora_magnitude_vector.weight", "LoRA", "blocks.0.k"),
    f"{PEFT}.e.lora_embedding_A.default": (f"{PEFT}.e", "lora_embedding_A", "LoRA", "blocks.0.e"),
    "unet.conv_in.lora.down.weight": ("unet.conv_in", "lora.down.weight", "LoRA", "conv_in"),
    "lycoris_blocks_0_x.hada_w1_a": ("lycoris_blocks_0_x", "hada_w1_a", "LoHa", "blocks_0_x"),
    f"{PEFT}.h.hada_w2_b.default": (f"{PEFT}.h", "hada_w2_b", "LoHa", "blocks.0.h"),
    "lora_te1_text_model_ln.w_norm": ("lora_te1_text_model_ln", "w_norm", "norm", "text_model_ln"),
    "lora_te1_text_model_ln.b_norm": ("lora_te1_text_model_ln", "b_norm", "norm", "text_model_ln"),
    "diffusion_model.out.diff": ("diffusion_model.out", "diff", "full difference", "out"),
    "diffusion_model.out.diff_b": ("diffusion_model.out", "diff_b", "full difference", "out"),
    "lora_unet_o.oft_blocks": ("lora_unet_o", "oft_blocks", "OFT", "o"),
    "lora_unet_o.rescale": ("lora_unet_o", "rescale", "OFT", "o"),
    "lora_unet_i.on_input": ("lora_unet_i", "on_input", "IA3", "i"),
    "lora_unet_i.weight": ("lora_unet_i", "weight", "IA3", "i"),
    "lora_unet_t.lambda_layer": ("lora_unet_t", "lambda_layer", "T-LoRA", "t"),
    "lora_unet_g.a1.weight": ("lora_unet_g", "a1.weight", "GLoRA", "g"),
}  # fmt: skip


def test_every_tensor_of_another_algorithm():
    adapter = parse_adapter({**keyed("lora_unet_x"), **dict.fromkeys(OTHERS, ONE)})
    assert list(adapter) == ["lora_unet_x"] and list(adapter.other) == list(OTHERS)
    assert adapter.other_keys == {key: (module, name) for key, (module, name, _, _) in OTHERS.items()}
    assert adapter.other_kinds == {module: kind for module, _, kind, _ in OTHERS.values()}
    assert {m: n.path for m, n in adapter.other_names.items()} == {m: path for m, _, _, path in OTHERS.values()}
    own = {"lora_te1_text_model_ln": "te1", "lycoris_blocks_0_x": ""}
    assert {m: n.component for m, n in adapter.other_names.items()} == {
        m: own.get(m, "unet") for m in adapter.other_names
    }


def test_two_algorithms_on_one_module():
    """A LoRA with a trained bias; a LoKr with one."""
    tensors = {
        **keyed("lora_unet_x"), "lora_unet_x.diff_b": ONE, "lora_unet_y.diff_b": ONE,
        "lora_unet_y.lora_up.weight": ONE, "lora_unet_y.alpha": ONE,
    }  # fmt: skip
    adapter = parse_adapter(tensors)
    assert adapter.other_kinds == {"lora_unet_x": "full difference", "lora_unet_y": "full difference, LoRA"}
    assert adapter["lora_unet_x"].alpha == 2 and adapter.other_keys["lora_unet_y.alpha"] == ("lora_unet_y", "alpha")


@pytest.mark.parametrize("key", ["strange", "a.b.c", "lokr_w1", "base_model.model.head.weight", "x.alpha"])
def test_a_tensor_of_no_known_kind_stays_under_its_key(key):
    adapter = parse_adapter({**keyed("lora_unet_x"), key: ONE})
    assert adapter.other == {key: ONE} and adapter.other_kinds == {key: "unknown"}
    assert adapter.other_keys == {key: (key, "")} and adapter.other_names[key].full == key


def test_an_embedding_that_a_trainer_packed_in():
    adapter = parse_adapter({**keyed("lora_unet_x"), "bundle_emb.word.clip_l": ONE})
    assert adapter.other_kinds == {"bundle_emb.word.clip_l": "embedding"}


def test_a_trainers_own_prefix_is_found_for_the_rest_of_the_file_too():
    others = dict.fromkeys(("mine_blocks_1_norm.w_norm", "mine_head.lora_up.weight", "odd"), ONE)
    adapter = parse_adapter({**keyed("mine_blocks_0_q"), **others})
    assert adapter.names["mine_blocks_0_q"].path == "blocks_0_q"
    assert {m: n.path for m, n in adapter.other_names.items()} == {
        "mine_blocks_1_norm": "blocks_1_norm", "mine_head": "head", "odd": "odd",
    }  # fmt: skip


def test_namings_of_every_producer_in_one_file():
    modules = {
        "lora_unet_a": 1.0, "lycoris_blocks_0_b": 1.0, "diffusion_model.c.d": 1.0, "transformer.e.f": 1.0, "g.h": 1.0,
        "lora_transformer_i": 1.0,
    }  # fmt: skip
    adapter = parse_adapter({key: t for module in modules for key, t in keyed(module, lokr(alpha=2, rank=2)).items()})
    assert {module: weights.scaling for module, weights in adapter.items()} == modules
    assert [name.path for name in adapter.names.values()] == ["a", "blocks_0_b", "c.d", "e.f", "g.h", "i"]


def test_an_oft_rotation_beside_a_lokr_is_told_of():
    """``use_dora_oft`` of musubi-tuner's LTX-2 fork: the LoKr alone is not what was trained."""
    adapter = parse_adapter({**keyed("lora_unet_x"), "lora_unet_x.oft_R.weight": ONE, **keyed("lora_unet_y")})
    assert adapter.other_kinds == {"lora_unet_x": "OFT"}
    assert "1 modules, such as lora_unet_x, were trained with an OFT rotation" in adapter.notes[0]


@pytest.mark.parametrize(
    "module,component", [("lokr_anima_blocks_0_mlp_layer1", "unet"), ("lokr_te0_model_layers_0_mlp_up_proj", "te1")]
)
def test_prefixes_of_networks_lokr_anima(module, component):
    name = parse_adapter(keyed(module)).names[module]
    assert name.component == component and name.path == module.partition("_")[2].partition("_")[2]
