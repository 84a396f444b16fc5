"""LoRA, LoCon, full differences and norms beside LoKr are merged too: LyCORIS' own forward is the expected value."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lokr_core import load_adapter, merge_adapter
from lokr_core._files import load_tensors, save_tensors

lycoris = pytest.importorskip("lycoris", reason="lycoris-lora is the expected value of these tests")


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(6, 12, 3, padding=1)
        self.norm = nn.GroupNorm(3, 12)
        self.last = nn.Linear(12, 10)

    def forward(self, x):
        return self.last(self.norm(self.first(x)).permute(0, 2, 3, 1))


ALGORITHMS = {
    "LoRA": {"network_module": "locon", "lora_dim": 4, "alpha": 2.0},
    "LoRA with DoRA": {"network_module": "locon", "lora_dim": 4, "alpha": 3.0, "weight_decompose": True},
    "Tucker LoCon": {"network_module": "locon", "lora_dim": 4, "alpha": 2.0, "use_tucker": True},
    "rs_lora": {"network_module": "locon", "lora_dim": 4, "alpha": 2.0, "rs_lora": True},
    "full difference and norms": {"network_module": "full", "lora_dim": 4, "alpha": 1.0, "train_norm": True},
}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_is_no_lokr_is_merged_as_trained(algorithm, tmp_path):
    torch.manual_seed(0)
    arguments = {"conv_lora_dim": 4, "conv_alpha": ALGORITHMS[algorithm]["alpha"], **ALGORITHMS[algorithm]}
    model, x = Model().double(), torch.randn(2, 6, 5, 5).double()
    base = model(x).detach()
    lycoris.LycorisNetwork.apply_preset({"target_module": ["Linear", "Conv2d"]})
    network = lycoris.LycorisNetwork(model, **arguments).double()
    with torch.no_grad():
        for module in network.loras:
            for name, parameter in module.named_parameters():
                if name == "dora_scale":
                    parameter.mul_(1 + 0.3 * torch.rand_like(parameter))
                else:
                    parameter.add_(torch.randn_like(parameter) * 0.3)
    network.apply_to()
    network.eval()
    expected = model(x).detach()
    network.save_weights(str(tmp_path / "other.safetensors"), None, None)
    network.restore()
    assert torch.allclose(model(x), base), "LyCORIS did not restore the model"

    tensors, _ = load_tensors(tmp_path / "other.safetensors")
    # A LoKr beside it makes it a file of this library's.
    tensors |= {"lycoris_nowhere.lokr_w1": torch.zeros(2, 3), "lycoris_nowhere.lokr_w2": torch.zeros(5, 4)}
    save_tensors(tensors, tmp_path / "mixed.safetensors")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with merge_adapter(model, load_adapter(tmp_path / "mixed.safetensors")) as handle:
        assert [entry.module for entry in handle.report.refused] == ["lycoris_nowhere"], handle.report.text()
        found = model(x)
        assert ((found - expected).norm() / expected.norm()).item() <= 1e-6
        assert ((found - base).norm() / base.norm()).item() > 1e-2
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
