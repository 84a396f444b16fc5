"""A model is a pipeline's folder, or one file with a configuration; what is missing or wrong is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lokr_core import LoKrFileError
from lokr_core.diffusion import source_of
from tests.interchange.test_comfyui import save_for_comfyui

diffusers = pytest.importorskip("diffusers", reason="NO DIFFUSERS HERE: it builds the models")
pytest.importorskip("transformers", reason="NO TRANSFORMERS HERE: it makes the text encoders")


@pytest.fixture(scope="module")
def unet_file(folder_of, tmp_path_factory) -> Path:
    """A file of the tiny UNet of Stable Diffusion 1 alone, under the original names."""
    path = tmp_path_factory.mktemp("file") / "sd.safetensors"
    save_for_comfyui(diffusers.UNet2DConditionModel.from_pretrained(folder_of("sd"), subfolder="unet"), path)
    save_file({f"model.diffusion_model.{name}": tensor for name, tensor in load_file(path).items()}, path)
    return path


@pytest.fixture(scope="module")
def flux_file(tmp_path_factory) -> Path:
    """The beginning of a Flux.1 dev file."""
    path = tmp_path_factory.mktemp("file") / "flux.safetensors"
    names = ("double_blocks.0.img_attn.norm.key_norm.scale", "guidance_in.in_layer.bias", "img_in.weight")
    save_file({name: torch.ones(4, 64) for name in names}, path)
    return path


def test_a_folders_components(folder_of):
    source = source_of(folder_of("sd3"))
    assert source.family.name == "Stable Diffusion 3" and not source.is_file
    transformer = source.component("transformer", torch.bfloat16)
    assert transformer.dtype == torch.bfloat16 and not transformer.training
    assert source.component("vae").dtype == torch.float32
    assert source.component("scheduler").config.shift == 3.0
    assert source.component("image_encoder") is None


def test_a_model_without_t5(folder_of, tmp_path):
    shutil.copytree(folder_of("sd3"), tmp_path / "sd3")
    index = tmp_path / "sd3" / "model_index.json"
    entries = json.loads(index.read_text()) | {"text_encoder_3": [None, None], "tokenizer_3": [None, None]}
    index.write_text(json.dumps(entries))
    assert source_of(tmp_path / "sd3").component("text_encoder_3") is None


def test_weights_in_half_precision_only(folder_of, tmp_path):
    shutil.copytree(folder_of("sd"), tmp_path / "sd")
    unet = diffusers.UNet2DConditionModel.from_pretrained(tmp_path / "sd", subfolder="unet", dtype=torch.float16)
    (tmp_path / "sd" / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    unet.save_pretrained(tmp_path / "sd" / "unet", variant="fp16")
    assert torch.equal(source_of(tmp_path / "sd").component("unet").conv_in.weight, unet.conv_in.weight.float())


def test_a_file_of_the_denoiser_takes_the_rest_from_its_configuration(unet_file, folder_of):
    source = source_of(unet_file, folder_of("sd"))
    assert source.is_file and source.family.name == "Stable Diffusion 1 or 2"
    expected = source_of(folder_of("sd"))
    for name in ("unet", "vae", "text_encoder"):
        found, whole = source.component(name).state_dict(), expected.component(name).state_dict()
        assert found.keys() == whole.keys() and all(torch.equal(found[key], whole[key]) for key in whole), name
    assert source.component("tokenizer").model_max_length == 16


def test_offline_the_configuration_that_is_missing_is_named(flux_file, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(LoKrFileError, match="has no configuration and tokenizers") as error:
        source_of(flux_file)
    assert "black-forest-labs/FLUX.1-dev" in str(error.value) and "--config FOLDER" in str(error.value)


def test_a_configuration_of_another_model(flux_file, folder_of):
    with pytest.raises(LoKrFileError, match="of another model") as error:
        source_of(flux_file, folder_of("sd3"))
    assert "Flux.1" in str(error.value) and "Stable Diffusion 3" in str(error.value)


def test_files_that_are_no_such_model(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "a.safetensors")
    with pytest.raises(LoKrFileError, match="cannot be trained"):
        source_of(tmp_path / "a.safetensors")
    (tmp_path / "a.ckpt").write_bytes(b"\x80\x02pickle")
    with pytest.raises(LoKrFileError, match="pickle"):
        source_of(tmp_path / "a.ckpt")
    with pytest.raises(LoKrFileError, match="index cannot be read"):
        source_of(tmp_path)


def test_a_component_that_cannot_be_loaded(folder_of, tmp_path):
    shutil.copytree(folder_of("sd"), tmp_path / "sd")
    (tmp_path / "sd" / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(LoKrFileError, match="unet cannot be loaded"):
        source_of(tmp_path / "sd").component("unet")
