"""Which layers are trained: by architecture, pattern and rank, in which groups of learning rates."""

from __future__ import annotations

import pytest
from torch import nn

from lokr_core import LoKrMatchError, LoKrValueError, kohya
from tests.kohya.models import denoiser, text_encoder


def model_of(**blocks: list[str]) -> nn.Module:
    """A model whose blocks are of classes of these names, each with Linears of the names given."""
    model = nn.Module()
    for class_name, layers in blocks.items():
        block = type(class_name, (nn.Module,), {})()
        for name in layers:
            block.add_module(name, nn.Linear(16, 16))
        model.add_module(class_name.lower(), nn.ModuleList([block]))
    model.add_module("head", nn.Linear(16, 16))
    return model


def paths(network: nn.Module) -> list[str]:
    return [module.path for module in network.unet_loras]


@pytest.mark.parametrize(
    "blocks, trained",
    [
        ({"WanAttentionBlock": ["self_attn", "norm3"]}, ["self_attn"]),
        ({"QwenImageTransformerBlock": ["attn", "img_mod_1"]}, ["attn"]),
        ({"ZImageTransformerBlock": ["attn", "adaln_modulation"]}, ["attn"]),
        ({"HunyuanVideoTransformerBlock": ["attn", "norm1"]}, ["attn"]),
        ({"DoubleStreamBlock": ["img_attn", "img_norm"], "SingleStreamBlock": ["linear1"]}, ["img_attn", "linear1"]),
        ({"MMDoubleStreamBlock": ["img_attn", "img_mod"], "MMSingleStreamBlock": ["l"]}, ["img_attn", "l"]),
        ({"MMDoubleStreamBlock": ["img_attn", "img_in"]}, ["img_attn"]),
        ({"Ideogram4TransformerBlock": ["qkv", "adaln_modulation"]}, ["qkv"]),
        ({"TransformerDecoderBlock": ["to_query", "visual_modulation"]}, ["to_query"]),
        ({"TextFusionBlock": ["wq"], "SingleStreamBlock": ["wo"]}, ["wq", "wo", "head"]),
    ],
)
def test_musubi_tuners_layers_of_each_architecture(blocks, trained):
    network = kohya.create_arch_network(1.0, 2, 1.0, None, None, model_of(**blocks))
    assert [path.rpartition(".")[2] for path in paths(network)] == trained


def test_an_unknown_architecture_is_refused_with_what_to_do():
    with pytest.raises(LoKrValueError, match=r"preset=FILE\.toml"):
        kohya.create_arch_network(1.0, 2, 1.0, None, None, model_of(Unheard=["a"]))


def test_with_a_preset_musubi_tuner_gets_lycoris_layers():
    model = model_of(DoubleStreamBlock=["img_attn", "img_mod", "img_norm"])
    network = kohya.create_arch_network(1.0, 2, 1.0, None, None, model, preset="attn-mlp")
    assert len(paths(network)) == 3


@pytest.mark.parametrize(
    "arguments, trained",
    [
        ({"exclude_patterns": "['.*attn']"}, {"mlp", "out"}),
        ({"exclude_patterns": "['.*']", "include_patterns": "['.*mlp', '.*norm']"}, {"mlp", "norm"}),
        ({"network_reg_dims": ".*attn=0"}, {"mlp", "out"}),
    ],
)
def test_patterns_choose_layers(arguments, trained):
    model = model_of(WanAttentionBlock=["attn", "mlp", "out", "norm"])
    network = kohya.create_arch_network(1.0, 2, 1.0, None, None, model, **arguments)
    assert {path.rpartition(".")[2] for path in paths(network)} == trained


def test_no_layer_at_all_is_refused():
    model = model_of(WanAttentionBlock=["attn"])
    with pytest.raises(LoKrMatchError, match="exclude_patterns"):
        kohya.create_arch_network(1.0, 2, 1.0, None, None, model, exclude_patterns="['.*']")


def test_ranks_by_pattern_keep_the_networks_alpha():
    model = model_of(WanAttentionBlock=["attn", "mlp"])
    network = kohya.create_arch_network(1.0, 1, 1.0, None, None, model, network_reg_dims=".*mlp=1,.*attn=2", factor="1")
    assert {module.path[-4:]: (module.lora_dim, module.scale) for module in network.unet_loras} == {
        "attn": (2, 0.5),
        ".mlp": (1, 1.0),
    }


def groups_of(network: nn.Module, *rates: object) -> dict[str, tuple[float, int]]:
    """What each group is -> (its learning rate, its number of parameters)."""
    groups, names = network.prepare_optimizer_params(*rates)
    return {name: (group["lr"], len(group["params"])) for name, group in zip(names, groups, strict=True)}


def test_learning_rates_are_by_model_pattern_and_factor():
    model = model_of(WanAttentionBlock=["attn", "mlp"])
    arguments = {"loraplus_lr_ratio": "4", "network_reg_lrs": ".*mlp=0.5", "factor": "2"}
    network = kohya.create_arch_network(1.0, 2, 1.0, None, None, model, **arguments)
    assert groups_of(network, None, 0.1) == {
        "reg_lr_0": (0.5, 2),
        "reg_lr_0 plus": (2.0, 1),
        "unet": (0.1, 2),
        "unet plus": (0.4, 1),
    }
    assert network.prepare_optimizer_params(unet_lr=0.1)[1] == list(groups_of(network, None, 0.1))


@pytest.mark.parametrize(
    "rates, found",
    [
        ((0.1, 0.2, 0.3), (0.1, 0.1, 0.2)),
        (([0.1, 0.4], 0.2, 0.3), (0.1, 0.4, 0.2)),
        (([0.1], 0.2, 0.3), (0.1, 0.1, 0.2)),
        (([], None, 0.3), (0.3, 0.3, 0.3)),
        ((None, None, 0.3), (0.3, 0.3, 0.3)),
    ],
)
def test_each_text_encoder_has_its_learning_rate(rates, found):
    network = kohya.create_network(1.0, 2, 1.0, None, [text_encoder(), text_encoder()], denoiser())
    rates_found = {name: lr for name, (lr, _) in groups_of(network, *rates).items()}
    assert tuple(rates_found[name] for name in ("textencoder 1", "textencoder 2", "unet")) == found


def test_a_learning_rate_of_0_leaves_a_model_out():
    network = kohya.create_network(1.0, 2, 1.0, None, text_encoder(), denoiser())
    assert list(groups_of(network, 0, 0.1)) == ["unet"]


@pytest.mark.parametrize("several, prefixes", [(False, {"lora_te"}), (True, {"lora_te1", "lora_te2"})])
def test_text_encoders_have_a_number_if_there_are_several(several, prefixes):
    encoders = [text_encoder(), text_encoder()] if several else text_encoder()
    network = kohya.create_network(1.0, 2, 1.0, None, encoders, denoiser())
    assert {module.lora_name.partition("_encoder")[0].rpartition("_text")[0] for module in network.text_encoder_loras}
    assert {module.lora_name[: len(min(prefixes))] for module in network.text_encoder_loras} == prefixes
