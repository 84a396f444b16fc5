"""Files in each format, read by those they are for: PEFT, LyCORIS, diffusers and ComfyUI's own loader."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from lokr_core import merge_adapter, save_adapter
from lokr_core._files import load_tensors
from tests.interchange.adapters import BOTH, BOTH_WHOLE, FORMS, LOW, TUCKER, WHOLE, Layers, adapter_for, lokr


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def adapted(model: nn.Module, adapter, x: torch.Tensor) -> torch.Tensor:
    """What the model answers with the adapter merged in, in fp64."""
    model = model.double()
    with torch.no_grad(), merge_adapter(model, adapter) as handle:
        assert handle.report.complete
        return model(x.double())


def assert_near(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> None:
    assert float((found.double() - expected).norm() / expected.norm()) < tolerance


@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_peft(tmp_path, form):
    peft = pytest.importorskip("peft", reason="PEFT is the expected value of this test")
    model, x = Layers(), torch.randn(2, 24)
    skip = ("conv1d",) if form in (WHOLE, BOTH_WHOLE) else ()  # PEFT multiplies a whole Conv1d the other way round
    adapter = adapter_for(model, form, skip)
    expected, base = adapted(model, adapter, x), model(x.double())
    save_adapter(adapter, tmp_path / "adapter", format="peft", model=model)
    wrapped = peft.PeftModel.from_pretrained(model.float(), tmp_path / "adapter")
    tuned = [name for name, module in wrapped.named_modules() if hasattr(module, "lokr_w1")]
    assert len(tuned) == len(adapter)
    assert_near(wrapped(x), expected)
    assert not torch.allclose(expected, base, atol=1e-2)


@torch.no_grad()
def test_peft_with_ranks_and_alphas_of_many_kinds_and_names_that_end_alike(tmp_path):
    peft = pytest.importorskip("peft", reason="PEFT is the expected value of this test")
    model = nn.ModuleDict({"proj": nn.Linear(24, 40), "deep": nn.ModuleDict({"proj": nn.Linear(40, 40)})})
    model["deep"]["out"] = nn.Linear(40, 16)
    adapter = adapter_for({"proj": (40, 24), "deep.out": (16, 40)}, LOW, rank=1, scaling=0.3)
    adapter.modules["deep.out"] = lokr((16, 40), WHOLE, scaling=-2.0)
    weights = {f"{name}.weight": model.get_submodule(name).weight.detach().clone() for name in adapter}
    merge_adapter(weights, adapter)
    save_adapter(adapter, tmp_path, format="peft", model=model)
    merged = peft.PeftModel.from_pretrained(model, tmp_path).merge_and_unload()
    for name in adapter:
        assert_near(merged.get_submodule(name).weight, weights[f"{name}.weight"].double())
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert isinstance(config["target_modules"], str), "a list would have named deep.proj as well"


# Its reader makes no module with a Tucker core, or with w1 alone low-rank: it fails on its own files of that kind too.
@pytest.mark.parametrize("form", [LOW, WHOLE, BOTH])
@torch.no_grad()
def test_lycoris(tmp_path, form):
    lycoris = pytest.importorskip("lycoris", reason="LyCORIS is the expected value of this test")
    model, x = Layers(), torch.randn(2, 24)
    adapter = adapter_for(model, form, rank=1 if form == BOTH else 2, scaling=1.0 if form == WHOLE else 0.75)
    expected = adapted(model, adapter, x)
    save_adapter(adapter, tmp_path / "a.safetensors", format="lycoris", model=model)
    model = model.float()
    network, _ = lycoris.create_lycoris_from_weights(1.0, str(tmp_path / "a.safetensors"), model)
    assert len(network.loras) == len(adapter)
    network.apply_to()
    network.eval()
    assert_near(model(x), expected)


@torch.no_grad()
def test_lycoris_dora(tmp_path):
    """On the output axis: its reader takes no other."""
    lycoris = pytest.importorskip("lycoris", reason="LyCORIS is the expected value of this test")
    model, x = nn.Sequential(nn.Linear(24, 40)), torch.randn(2, 24)
    adapter = adapter_for({"0": (40, 24)}, LOW, dora_scale=torch.rand(40, 1) + 0.5)
    expected = adapted(model, adapter, x)
    save_adapter(adapter, tmp_path / "a.safetensors", format="lycoris", model=model)
    network, _ = lycoris.create_lycoris_from_weights(1.0, str(tmp_path / "a.safetensors"), model.float())
    network.apply_to()
    network.eval()
    assert_near(model(x), expected)


@pytest.mark.parametrize("form", [WHOLE, LOW, BOTH, BOTH_WHOLE, TUCKER])
@torch.no_grad()
def test_diffusers(tmp_path, form):
    diffusers = pytest.importorskip("diffusers", reason="diffusers is the expected value of this test")
    model = diffusers.UNet2DConditionModel(
        sample_size=8, block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=24, norm_num_groups=8,
        attention_head_dim=8, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    adapter = adapter_for(model, form)
    x = torch.randn(1, 4, 8, 8), torch.tensor([7]), torch.randn(1, 3, 24)
    with merge_adapter(model, adapter):
        expected = model(*x).sample
    save_adapter(adapter, tmp_path / "a.safetensors", format="diffusers", model=model, metadata={"kept": "yes"})
    assert load_tensors(tmp_path / "a.safetensors")[1]["kept"] == "yes"
    base = model(*x).sample
    model.load_lora_adapter(str(tmp_path), weight_name="a.safetensors", prefix="unet")
    assert_near(model(*x).sample, expected.double(), 1e-4)
    assert not torch.allclose(base, expected, atol=1e-2)
