"""LyCORIS' own network is the expected value: the same layers, starting values, losses, numbers and norms."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torch import nn

from lokr_core import kohya
from lokr_core.kohya._presets import PRESETS, Preset
from tests.kohya.models import denoiser, frozen, loss_of, text_encoder, trained

lycoris = pytest.importorskip("lycoris.kohya", reason="lycoris-lora is the expected value of these tests")

PRESET = """
exclude_name = [".*ff\\\\.net.*"]

[module_algo_map.ResnetBlock2D]
algo = "lokr"
dim = 3
alpha = 1
factor = 2

[name_algo_map.conv_in]
algo = "lokr"
full_matrix = true
"""
ARGUMENTS = {
    "plain": {"factor": "4"},
    "tucker": {"decompose_both": "True", "use_tucker": "True", "conv_dim": "2", "conv_alpha": "1"},
    "whole": {"factor": "8", "full_matrix": "True"},
    "dora": {"factor": "4", "dora_wd": "True", "rank_dropout": "0.3"},
    "dora-in": {"factor": "4", "dora_wd": "True", "wd_on_output": "False", "module_dropout": "0.2"},
    "scales": {"factor": "4", "rs_lora": "True", "unbalanced_factorization": "True", "preset": "attn-mlp"},
    "file": {"factor": "4"},
}


@pytest.fixture(autouse=True)
def clean():
    """LyCORIS keeps a preset in its class: what one network was given stays for the next."""
    network = lycoris.LycorisNetworkKohya
    logging.getLogger("LyCORIS").setLevel(logging.ERROR)
    before = {name: getattr(network, name) for name in vars(network) if name.isupper()}
    yield
    for name, value in before.items():
        setattr(network, name, value)


def made(module, encoder: nn.Module, unet: nn.Module, arguments: dict[str, str]) -> nn.Module:
    return module.create_network(1.0, 4, 2.0, None, encoder, unet, neuron_dropout=None, algo="lokr", **arguments)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_twenty_steps_are_lycoris(name, tmp_path):
    arguments = dict(ARGUMENTS[name])
    if name == "file":
        arguments["preset"] = str(tmp_path / "preset.toml")
        Path(arguments["preset"]).write_text(PRESET)
    runs = [trained(lambda *models, m=module: made(m, *models, arguments)) for module in (lycoris, kohya)]
    (expected, theirs, their_start), (losses, ours, start) = runs
    assert start.keys() == their_start.keys()
    assert all(torch.allclose(start[key], their_start[key], rtol=1e-6) for key in start)  # one seed, one start
    assert losses == pytest.approx(expected, rel=1e-4)
    ends, found = theirs.state_dict(), ours.state_dict()
    for key, end in ends.items():
        assert (found[key] - end).norm() <= 1e-3 * (end - their_start[key]).norm() + 1e-6, key


@pytest.mark.parametrize("name", PRESETS)
def test_the_presets_are_lycoris(name):
    theirs = lycoris.PRESET[name]
    for field in ("unet_target_module", "unet_target_name", "text_encoder_target_module", "text_encoder_target_name"):
        assert set(getattr(PRESETS[name], field)) == set(theirs[field]), field
    assert PRESETS[name].enable_conv == theirs["enable_conv"]
    assert set(lycoris.PRESET) - set(PRESETS) == {"ia3"}


@pytest.mark.parametrize("name", PRESETS)
def test_the_layers_are_lycoris(name):
    encoder, unet = text_encoder(), denoiser()
    if name == "attn-only":  # diffusers' attention has another class than those of this preset
        unet.attention.transformer_blocks[0].attn1.__class__ = type("CrossAttention", (nn.Module,), {})
    networks = [made(module, encoder, unet, {"preset": name}) for module in (lycoris, kohya)]
    for part in ("unet_loras", "text_encoder_loras"):
        theirs, ours = ([lora.lora_name for lora in getattr(network, part)] for network in networks)
        assert sorted(ours) == sorted(theirs)


def test_norms_are_limited_as_lycoris_does():
    networks = []
    for module in (lycoris, kohya):
        _, network, _ = trained(lambda *models, m=module: made(m, *models, ARGUMENTS["tucker"]), steps=3)
        for parameter in network.parameters():
            parameter.data.mul_(3)
        networks.append(network)
    theirs, ours = networks
    ours.load_state_dict(theirs.state_dict())
    with torch.no_grad():
        expected = theirs.apply_max_norm_regularization(0.5, "cpu")
    count, mean, largest = ours.apply_max_norm_regularization(0.5, "cpu")
    assert 0 < count < len(ours.unet_loras) + len(ours.text_encoder_loras)
    assert (count, mean, largest) == pytest.approx([float(value) for value in expected], rel=1e-4)
    state = theirs.state_dict()
    assert all(torch.allclose(tensor, state[key], rtol=1e-4) for key, tensor in ours.state_dict().items())


# Without Tucker files from weights: LyCORIS takes their rank from the wrong axis.
@pytest.mark.parametrize(
    "name, from_weights",
    [("tucker", False), *((name, way) for name in ("plain", "dora", "whole") for way in (False, True))],
)
def test_our_file_is_read_to_the_same_numbers(name, from_weights, tmp_path):
    file = tmp_path / "ours.safetensors"
    _, ours, _ = trained(lambda *models: made(kohya, *models, ARGUMENTS[name]), steps=3)
    ours.save_weights(file, None, {})
    losses = []
    for module in (lycoris, kohya):
        encoder, unet = text_encoder(), denoiser()
        if from_weights:
            network, _ = module.create_network_from_weights(1.0, str(file), None, encoder, unet)
        else:
            network = made(module, encoder, unet, ARGUMENTS[name])
        network.apply_to(encoder, unet, True, True)
        assert not network.load_weights(str(file))
        frozen(encoder, unet)
        losses.append(loss_of(unet, encoder, torch.Generator().manual_seed(9)).item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_what_a_preset_does_not_give_is_as_in_full():
    assert Preset() == PRESETS["full"]
