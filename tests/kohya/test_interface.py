"""The interface as sd-scripts and musubi-tuner walk it: files, weights to begin with, what is trained."""

from __future__ import annotations

import hashlib

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from lokr_core import LoKrError, LoKrMatchError, LoKrValueError, kohya, load_adapter, merge_adapter
from tests.kohya.models import denoiser, frozen, loss_of, text_encoder, trained


def made(encoder: nn.Module, unet: nn.Module, **arguments: str) -> nn.Module:
    return kohya.create_network(
        1.0, 2, 1.0, None, encoder, unet, **{"factor": "4", "conv_dim": "1", "conv_alpha": "0.5", **arguments}
    )


def loss(unet: nn.Module, encoder: nn.Module) -> float:
    frozen(unet, encoder)
    return loss_of(unet, encoder, torch.Generator().manual_seed(5)).item()


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A trained network's file, and the loss of the model with it."""
    path = tmp_path_factory.mktemp("kohya") / "trained.safetensors"
    _, network, _ = trained(made, steps=3)
    network.save_weights(path, None, {"ss_network_module": "lokr_core.kohya", "ss_steps": "3", "modelspec.title": "t"})
    encoder, unet = text_encoder(), denoiser()
    network = made(encoder, unet)
    network.apply_to(encoder, unet)
    assert network.load_weights(path) == {}
    return path, loss(unet, encoder)


def test_our_formats_merge_the_file_to_what_was_trained(file):
    path, expected = file
    encoder, unet = text_encoder(), denoiser()
    adapter = load_adapter(path)
    assert adapter.producer == "kohya-ss / lokr_core" and not adapter.foreign.tensors and not adapter.notes
    with merge_adapter(unet, adapter) as one, merge_adapter(encoder, adapter) as other:
        assert len(one.report.applied) + len(other.report.applied) == len(adapter)
        assert loss(unet, encoder) == pytest.approx(expected, rel=1e-4)


def test_the_metadata_are_the_trainers_with_two_hashes(file):
    path, _ = file
    with safe_open(str(path), "pt") as opened:
        metadata = opened.metadata()
    content = path.read_bytes()
    begin = 8 + int.from_bytes(content[:8], "little")
    assert metadata["sshs_model_hash"] == hashlib.sha256(content[begin:]).hexdigest()
    assert metadata["ss_steps"] == "3" and metadata["modelspec.title"] == "t" and "sshs_legacy_hash" in metadata


def test_a_file_in_half_precision_keeps_its_alphas(tmp_path):
    _, network, _ = trained(made, steps=1)
    network.save_weights(tmp_path / "half.safetensors", torch.bfloat16, None)
    tensors = load_file(tmp_path / "half.safetensors")
    dtypes = {key.endswith(".alpha"): tensor.dtype for key, tensor in tensors.items()}
    assert dtypes == {True: torch.float32, False: torch.bfloat16}
    network.save_weights(tmp_path / "half.pt", None, {})
    assert torch.load(tmp_path / "half.pt").keys() == network.state_dict().keys()


def test_a_network_from_weights_has_the_files_ranks_and_its_numbers(file):
    path, expected = file
    encoder, unet = text_encoder(), denoiser()
    network, tensors = kohya.create_network_from_weights(1, str(path), None, encoder, unet, rank_dropout="0.1")
    network.apply_to(encoder, unet, True, True)
    assert network.load_weights(path) == {} and tensors.keys() == network.state_dict().keys()
    network.eval()
    assert loss(unet, encoder) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("multiplier", [1.0, 0.5])
def test_base_weights_are_merged_at_their_multiplier(file, multiplier):
    path, _ = file
    losses = []
    for merge in (True, False):
        encoder, unet = text_encoder(), denoiser()
        network, tensors = kohya.create_network_from_weights(
            multiplier, str(path), None, encoder, unet, for_inference=True
        )
        assert network.is_mergeable()
        if merge:
            network.merge_to(encoder, unet, tensors, torch.float32, "cpu")
        else:
            network.apply_to(encoder, unet)
        losses.append(loss(unet, encoder))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_musubi_tuners_calls_from_a_new_network_to_a_merged_file(tmp_path):
    def model() -> nn.Module:
        torch.manual_seed(0)
        block = type("WanAttentionBlock", (nn.Sequential,), {})(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 16))
        return nn.Sequential(block, nn.Linear(16, 16))

    transformer, x = model(), torch.randn(3, 16)
    network = kohya.create_arch_network(1.0, 2, 1.0, None, None, transformer, neuron_dropout=None, factor="4")
    network.apply_to(None, transformer, apply_text_encoder=False, apply_unet=True)
    network.enable_gradient_checkpointing()
    groups, _ = network.prepare_optimizer_params(unet_lr=0.1)
    frozen(transformer)
    network.prepare_grad_etc(transformer)
    network.on_epoch_start(transformer)
    optimizer = torch.optim.SGD(groups)
    for _ in range(2):
        network.on_step_start()
        transformer(x).square().sum().backward()
        torch.nn.utils.clip_grad_norm_(network.get_trainable_params(), 1.0)
        optimizer.step()
    network.save_weights(tmp_path / "wan.safetensors", torch.float32, {})
    expected, tensors = transformer(x), load_file(tmp_path / "wan.safetensors")
    assert {key.split(".")[0] for key in tensors} == {"lora_unet_0_0", "lora_unet_0_2"}
    merged = model()
    network = kohya.create_arch_network_from_weights(1.0, tensors, unet=merged, for_inference=True)
    network.merge_to(None, merged, tensors, torch.float32, "cpu", non_blocking=True)
    assert torch.allclose(merged(x), expected, atol=1e-5)


def test_only_what_is_asked_for_is_trained_and_saved():
    encoder, unet = text_encoder(), denoiser()
    network = made(encoder, unet)
    network.apply_to(encoder, unet, False, True)
    assert all(key.startswith("lora_unet_") for key in network.state_dict())
    assert not network.text_encoder_loras and network.prepare_optimizer_params(0.1, 0.1, 0.1)[1] == ["unet"]


def test_a_multiplier_of_0_gives_the_model_before_the_network(file):
    path, _ = file
    encoder, unet = text_encoder(), denoiser()
    expected = loss(unet, encoder)
    network = made(encoder, unet)
    network.apply_to(encoder, unet)
    network.load_weights(path)
    network.set_multiplier(0.0)
    assert loss(unet, encoder) == expected


def test_an_interrupted_training_goes_on_from_the_networks_state():
    _, network, _ = trained(made, steps=2)
    state = network.state_dict()
    encoder, unet = text_encoder(), denoiser()
    again = made(encoder, unet)
    again.apply_to(encoder, unet)
    again.load_state_dict(state)
    assert all(torch.equal(tensor, state[key]) for key, tensor in again.state_dict().items())


@pytest.mark.parametrize(
    "changed, told",
    [
        ({"alpha": 8.0}, "--network_alpha"),
        ({"dim": 1}, "--dim_from_weights"),
        ({"rename": True}, "lokr convert"),
    ],
)
def test_weights_that_do_not_fit_are_refused_with_what_to_do(file, changed, told, tmp_path):
    path, _ = file
    if "rename" in changed:
        other = tmp_path / "other.safetensors"
        save_file({key.replace("lora_", "net_"): tensor for key, tensor in load_file(path).items()}, other)
        path = other
    encoder, unet = text_encoder(), denoiser()
    arguments = {"factor": "4", "conv_dim": "1", "conv_alpha": "0.5"}
    network = kohya.create_network(
        1.0, changed.get("dim", 2), changed.get("alpha", 1.0), None, encoder, unet, **arguments
    )
    network.apply_to(encoder, unet)
    with pytest.raises(LoKrMatchError) as error:
        network.load_weights(path)
    assert told in str(error.value) and str(path) in str(error.value)


@pytest.mark.parametrize("other", ["lora", "elsewhere"])
def test_a_network_from_weights_refuses_what_it_would_lose(file, other):
    tensors = load_file(file[0])
    if other == "lora":
        tensors |= {"lora_unet_x.lora_up.weight": torch.ones(4, 1), "lora_unet_x.lora_down.weight": torch.ones(1, 4)}
    else:
        tensors |= {"lora_unet_x.lokr_w1": torch.ones(2, 2), "lora_unet_x.lokr_w2": torch.ones(2, 2)}
    with pytest.raises((LoKrValueError, LoKrMatchError)) as error:
        kohya.create_network_from_weights(1.0, None, None, text_encoder(), denoiser(), weights_sd=tensors)
    assert isinstance(error.value, LoKrError) and "lora_unet_x" in str(error.value)
