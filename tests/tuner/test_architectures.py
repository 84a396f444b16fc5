"""Models of diffusers and transformers, as PEFT's examples configure them: same parameters, same output."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from lokr_core import LoKrConfig, LoKrModel, get_lokr_model

peft = pytest.importorskip("peft", reason="NO PEFT HERE: nothing is compared with it")

UNET = ("proj_in", "proj_out", "to_k", "to_q", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2")
LATENT = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def unet() -> tuple[nn.Module, tuple]:
    from diffusers import UNet2DConditionModel

    model = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
        norm_num_groups=8,
    )
    return model, (LATENT, torch.tensor([3]), LATENT.reshape(1, 16, 16))


def flux() -> tuple[nn.Module, tuple]:
    from diffusers import FluxTransformer2DModel

    model = FluxTransformer2DModel(
        **dict(num_layers=1, num_single_layers=1, attention_head_dim=8, num_attention_heads=2, in_channels=4),
        **dict(joint_attention_dim=16, pooled_projection_dim=16, axes_dims_rope=(2, 2, 4)),
    )
    image, text = LATENT.reshape(1, 64, 4), LATENT.reshape(1, 16, 16)
    ids = (torch.zeros(64, 3), torch.zeros(16, 3))
    return model, (image, text, text[:, 0], torch.tensor([0.5]), *ids)


def vit() -> tuple[nn.Module, tuple]:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    config.image_size, config.patch_size, config.num_channels, config.num_labels = 8, 4, 4, 3
    return ViTForImageClassification(config), (LATENT,)


def clip() -> tuple[nn.Module, tuple]:
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2
    )
    return CLIPTextModel(config), (torch.arange(12)[None],)


def llama() -> tuple[nn.Module, tuple]:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2
    )
    return LlamaForCausalLM(config), (torch.arange(12)[None],)


CLIP = ("k_proj", "q_proj", "v_proj", "out_proj", "fc1", "fc2")
CASES = {
    "unet, r 8, alpha 16": (unet, dict(r=8, alpha=16, target_modules=[*UNET, "conv1"], use_effective_conv2d=True)),
    "unet, both, r 4, factor 8": (
        unet,
        dict(r=4, alpha=4, target_modules=[*UNET, "conv1"], decompose_both=True, decompose_factor=8),
    ),
    "flux": (flux, dict(r=2, alpha=4, target_modules=["to_q", "to_k", "to_v", "proj_mlp", "proj_out"])),
    "vit, rank dropout 0.1": (
        vit,
        dict(r=4, alpha=8, rank_dropout=0.1, target_modules=["q_proj", "v_proj"], modules_to_save=["classifier"]),
    ),
    "clip": (clip, dict(r=2, alpha=4, target_modules=list(CLIP))),
    "llama, by its architecture": (llama, dict(r=2, alpha=4)),
    "llama, all-linear": (llama, dict(r=2, alpha=4, target_modules="all-linear", task_type="CAUSAL_LM")),
}


@pytest.mark.parametrize("name", CASES)
def test_trained_parameters_and_output_are_pefts(name, tmp_path):
    make, fields = CASES[name]
    models = []
    for adapt, config in ((peft.get_peft_model, peft.LoKrConfig), (get_lokr_model, LoKrConfig)):
        torch.manual_seed(0)
        model, inputs = make()
        models.append(adapt(model, config(**fields, init_weights=False)).eval())
    theirs, ours = models
    assert ours.get_nb_trainable_parameters() == theirs.get_nb_trainable_parameters()
    ours.load_state_dict({key.removeprefix("base_model."): t for key, t in theirs.state_dict().items()})
    with torch.no_grad():
        expected, found = (model(*inputs)[0] for model in (theirs, ours))
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)
    theirs.save_pretrained(tmp_path)
    torch.manual_seed(0)
    again = LoKrModel.from_pretrained(make()[0], tmp_path)
    with torch.no_grad():
        assert torch.allclose(again(*inputs)[0], expected, rtol=1e-4, atol=1e-5)


def test_a_classifier_is_trained_with_rank_dropout_and_checkpointing():
    torch.manual_seed(0)
    model, (x,) = vit()
    model.gradient_checkpointing_enable()
    model = get_lokr_model(
        model, LoKrConfig(r=4, rank_dropout=0.1, target_modules=["q_proj"], modules_to_save=["classifier"])
    )
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(8):
        loss = model(x, labels=torch.tensor([2])).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    assert losses[-1] < 0.5 * losses[0]


def test_importing_the_library_imports_none_of_theirs():
    theirs = ("peft", "diffusers", "transformers", "accelerate")
    code = f"import sys, lokr_core; print([m for m in {theirs} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
