"""Files written by LyCORIS, alone and under kohya, load with the right scaling: the update equals LyCORIS' own."""

from __future__ import annotations

import json
from collections import Counter

import pytest
import torch
from torch import nn

from lokr_core import load_adapter, merge_adapter
from tests.formats.lokr_tensors import only
from tests.norms import relative

lycoris = pytest.importorskip("lycoris", reason="lycoris-lora is the expected value of these tests")
lycoris_kohya = pytest.importorskip("lycoris.kohya")


class Attention(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.to_q, self.to_k = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.to_out = nn.ModuleList([nn.Linear(2 * width, width)])

    def forward(self, x):
        return self.to_out[0](self.to_k(self.to_q(x)))


class Transformer2DModel(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.proj_in = nn.Conv2d(width, width, 1)
        self.attn = Attention(width)
        self.conv = nn.Conv2d(width, 2 * width, 3, padding=1)

    def forward(self, x):
        x = self.proj_in(x)
        x = self.attn(x.movedim(1, -1)).movedim(-1, 1)
        return self.conv(x)


class UNet(nn.Module):
    def __init__(self, width: int = 16):
        super().__init__()
        self.down_blocks = nn.ModuleList([Transformer2DModel(width)])

    def forward(self, x):
        return self.down_blocks[0](x)


class CLIPMLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x):
        return self.fc2(self.fc1(x))


class TextEncoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.text_model = nn.Module()
        self.text_model.mlp = CLIPMLP()

    def forward(self, x):
        return self.text_model.mlp(x)


def train(network: nn.Module) -> None:
    """Numbers as after a training: a magnitude stays near what it was, a factor is anything."""
    for name, parameter in network.named_parameters():
        with torch.no_grad():
            parameter.mul_(1 + 0.3 * torch.rand_like(parameter)) if "dora" in name else parameter.normal_(std=0.3)


LYCORIS = [
    {"linear_dim": 2, "linear_alpha": 1.0, "factor": 4},
    {"linear_dim": 2, "linear_alpha": 8.0, "factor": -1, "decompose_both": True},
    {"linear_dim": 100000, "linear_alpha": 1.0, "factor": 4},
    {"linear_dim": 2, "linear_alpha": 1.0, "conv_dim": 1, "conv_alpha": 4.0, "use_tucker": True},
    {"linear_dim": 4, "linear_alpha": 2.0, "full_matrix": True, "use_scalar": True},
    {"linear_dim": 1, "linear_alpha": 3.0, "unbalanced_factorization": True},
]


@pytest.mark.parametrize("prefix", ["lycoris", "my_style", "ünet"])
@pytest.mark.parametrize("arguments", LYCORIS, ids=range(len(LYCORIS)))
def test_lycoris_standalone(tmp_path, prefix, arguments):
    """SimpleTuner saves like this too, and ai-toolkit's old format and ACE-Step's files have these names."""
    torch.manual_seed(0)
    model, x = UNet().double(), torch.randn(2, 16, 5, 4).double()
    base = model(x).detach()
    preset = {"target_module": ["Transformer2DModel"], "target_name": [], "lora_prefix": prefix}
    lycoris.LycorisNetwork.apply_preset(preset)
    try:
        network = lycoris.create_lycoris(model, 1.0, algo="lokr", preset=preset_file(tmp_path, preset), **arguments)
    finally:
        lycoris.LycorisNetwork.apply_preset({"lora_prefix": "lycoris"})
    network.apply_to()
    train(network.double())
    network.eval()
    expected = model(x).detach()
    network.restore()
    path = tmp_path / "a.safetensors"
    network.save_weights(str(path), None, {"lycoris_config": json.dumps({"algo": "lokr", **arguments})})

    adapter = load_adapter(path)
    assert len(adapter) == 5 and adapter.producer == "SimpleTuner"
    paths = {name.path for name in adapter.names.values()}
    assert "down_blocks_0_attn_to_q" in paths and all(name.flattened for name in adapter.names.values())
    with merge_adapter(model, adapter) as handle:
        assert handle.report.complete
        assert relative(model(x), expected) < 1e-6 and relative(expected, base) > 0.01


def preset_file(folder, preset: dict) -> str:
    path = folder / "preset.toml"
    path.write_text("\n".join(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in preset.items()))
    return str(path)


KOHYA = [
    {"network_dim": 2, "network_alpha": 1.0, "factor": 4},
    {"network_dim": 4, "network_alpha": 2.0, "factor": -1, "decompose_both": True, "rs_lora": True, "conv_dim": 2},
    {"network_dim": 100, "network_alpha": 1.0, "factor": 2},
    {"network_dim": 16, "network_alpha": 1.0, "factor": 4, "rs_lora": True},
    {"network_dim": 2, "network_alpha": 1.0, "dora_wd": True},
]


@pytest.mark.parametrize("encoders", [1, 2])
@pytest.mark.parametrize("arguments", KOHYA, ids=range(len(KOHYA)))
def test_lycoris_under_kohya(tmp_path, encoders, arguments):
    torch.manual_seed(0)
    unet, texts = UNet().double(), [TextEncoder().double() for _ in range(encoders)]
    x, words = torch.randn(2, 16, 5, 4).double(), torch.randn(2, 7, 16).double()
    base = [unet(x).detach(), *(text(words).detach() for text in texts)]
    options = dict(arguments)
    network = lycoris_kohya.create_network(
        1.0, options.pop("network_dim"), options.pop("network_alpha"), None, texts if encoders > 1 else texts[0], unet,
        algo="lokr", **options,
    )  # fmt: skip
    network.apply_to(texts if encoders > 1 else texts[0], unet, True, True)
    train(network.double())
    network.eval()
    expected = [unet(x).detach(), *(text(words).detach() for text in texts)]
    network.restore()
    path = tmp_path / "a.safetensors"
    metadata = {
        "ss_network_module": "lycoris.kohya", "ss_network_args": json.dumps({"algo": "lokr", **options}),
        "ss_network_dim": str(arguments["network_dim"]), "ss_network_alpha": str(arguments["network_alpha"]),
    }  # fmt: skip
    network.save_weights(str(path), None, metadata)

    adapter = load_adapter(path)
    assert adapter.producer == "kohya-ss / LyCORIS"
    components = {"unet": 5, "te": 2} if encoders == 1 else {"unet": 5, "te1": 2, "te2": 2}
    assert Counter(name.component for name in adapter.names.values()) == components
    for model, given, trained, before, component in zip(
        [unet, *texts], [x, *[words] * encoders], expected, base, components, strict=True
    ):
        own = only(adapter, component)
        with merge_adapter(model, own) as handle:
            assert handle.report.complete
            assert relative(model(given), trained) < 1e-6 and relative(trained, before) > 0.01
