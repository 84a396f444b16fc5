"""Files written by PEFT and diffusers load with the right scaling: the update equals PEFT's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lokr_core import load_adapter, save_adapter
from tests.formats.lokr_tensors import only

peft = pytest.importorskip("peft", reason="PEFT is the expected value of these tests")


class Mixed(nn.Module):
    """Every kind of layer that PEFT's LoKr knows."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.ModuleDict({"q": nn.Linear(24, 40), "v": nn.Linear(24, 24)}) for _ in range(3)])
        self.conv = nn.Conv2d(16, 24, 3)
        self.point = nn.Conv2d(16, 24, 1)
        self.grouped = nn.Conv2d(16, 24, 3, groups=2)
        self.wave = nn.Conv1d(16, 24, 5)
        self.sample = nn.Conv1d(16, 24, 1)
        self.out = nn.Linear(24, 12)


TARGETS = ["q", "v", "conv", "point", "grouped", "wave", "sample", "out"]
PEFT = [
    {"r": 2, "alpha": 8},
    {"r": 2, "alpha": 1, "decompose_both": True, "decompose_factor": 8},
    {"r": 100, "alpha": 16},  # all whole, scaling 0.16
    {"r": 2, "alpha": 3, "use_effective_conv2d": True},
    {"r": 3, "alpha": 6, "rank_pattern": {"v": 2, r"blocks\.1\.q": 1}, "alpha_pattern": {"blocks.0.v": 7, "out": 1}},
    {"r": 2, "alpha": 4, "rank_pattern": {"^blocks.0.q": 1, "0.q": 3}, "alpha_pattern": {"^q": 9, ".*conv": 5}},
    {"r": 4, "alpha": 0},
]


def peft_model(arguments: dict) -> nn.Module:
    torch.manual_seed(0)
    config = peft.LoKrConfig(target_modules=TARGETS, init_weights=False, **arguments)
    return peft.get_peft_model(Mixed().double(), config)


def deltas(model: nn.Module) -> dict[str, torch.Tensor]:
    """Module -> ΔW, as PEFT computes it."""
    return {
        name: layer.get_delta_weight("default").detach()
        for name, layer in model.named_modules()
        if isinstance(layer, peft.tuners.lokr.layer.LoKrLayer)
    }


def check_deltas(adapter, expected: dict[str, torch.Tensor]) -> None:
    """``expected``: the path of a module -> its update."""
    assert {name.path for name in adapter.names.values()} == expected.keys()
    for module, weights in adapter.items():
        delta = expected[adapter.names[module].path]
        found = weights.fit(tuple(delta.shape)).delta()
        assert torch.allclose(found, delta.to(found.dtype), rtol=1e-6, atol=1e-9), module


@pytest.mark.parametrize("given", ["folder", "file"])
@pytest.mark.parametrize("arguments", PEFT, ids=range(len(PEFT)))
def test_peft_saved_with_save_pretrained(tmp_path, arguments, given):
    model = peft_model(arguments)
    model.save_pretrained(tmp_path / "out")
    adapter = load_adapter(tmp_path / "out" / ("adapter_model.safetensors" if given == "file" else ""))
    assert adapter.path == tmp_path / "out" / "adapter_model.safetensors"
    assert len(adapter) == 12 and adapter.producer == "PEFT" and adapter.notes == []
    expected = {name.removeprefix("base_model.model."): delta for name, delta in deltas(model).items()}
    check_deltas(adapter, expected)
    assert all(delta.any() == bool(arguments["alpha"]) for delta in expected.values())
    save_adapter(adapter, tmp_path / "out" / "again.safetensors")  # beside PEFT's configuration, which it needs no more
    check_deltas(load_adapter(tmp_path / "out" / "again.safetensors"), expected)


def test_the_cases_differ_in_what_they_are_about():
    """Whole and low-rank factors, Tucker cores, and scalings that are not one."""
    ranks, tucker, scalings = set(), False, set()
    for arguments in PEFT:
        for layer in peft_model(arguments).modules():
            if isinstance(layer, peft.tuners.lokr.layer.LoKrLayer):
                ranks.add((bool(layer.lokr_w1), bool(layer.lokr_w2)))
                tucker |= bool(layer.lokr_t2)
                scalings.add(layer.scaling["default"])
    assert {(True, True), (True, False), (False, False)} <= ranks
    assert tucker and len(scalings) > 8


def test_a_peft_model_saved_as_it_is(tmp_path):
    """A state dict that nobody took the adapter's name out of, with the configuration beside it."""
    from safetensors.torch import save_file

    model = peft_model({"r": 2, "alpha": 8})
    tensors = {key: t for key, t in model.state_dict().items() if ".lokr_" in key}
    assert all(key.endswith(".default") for key in tensors)
    save_file(tensors, str(tmp_path / "renamed.safetensors"))
    model.peft_config["default"].save_pretrained(tmp_path)
    check_deltas(
        load_adapter(tmp_path / "renamed.safetensors"),
        {name.removeprefix("base_model.model."): delta for name, delta in deltas(model).items()},
    )


def test_diffusers_pipeline(tmp_path):
    """``save_lora_weights`` of a pipeline: the parts' names before the modules', the configurations in the metadata."""
    diffusers = pytest.importorskip("diffusers", reason="diffusers' own files are tested with it")
    parts = {}
    for part, arguments in (("transformer", PEFT[4]), ("text_encoder", PEFT[0])):
        parts[part] = peft_model(arguments).base_model.model
    layers = {part: peft.get_peft_model_state_dict(model_of(model)) for part, model in parts.items()}
    diffusers.FluxPipeline.save_lora_weights(
        tmp_path,
        transformer_lora_layers=layers["transformer"],
        text_encoder_lora_layers=layers["text_encoder"],
        transformer_lora_adapter_metadata=config_of(PEFT[4]),
        text_encoder_lora_adapter_metadata=config_of(PEFT[0]),
    )
    adapter = load_adapter(tmp_path)
    assert len(adapter) == 24 and adapter.producer == "diffusers / PEFT" and adapter.notes == []
    for part, component in (("transformer", "unet"), ("text_encoder", "te1")):
        check_deltas(only(adapter, component), deltas(parts[part]))


def config_of(arguments: dict) -> dict:
    return peft.LoKrConfig(target_modules=TARGETS, **arguments).to_dict()


def model_of(model: nn.Module) -> nn.Module:
    """A model with PEFT's layers in it, as ``get_peft_model_state_dict`` takes diffusers' models."""
    model.peft_config = {"default": peft.LoKrConfig(target_modules=TARGETS)}
    return model


def test_diffusers_model(tmp_path):
    """``save_lora_adapter`` of a model: bare names, one configuration in the metadata."""
    diffusers = pytest.importorskip("diffusers", reason="diffusers' own files are tested with it")
    torch.manual_seed(0)
    model = diffusers.FluxTransformer2DModel(
        in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=8, pooled_projection_dim=8, axes_dims_rope=(2, 2, 4),
    )  # fmt: skip
    targets = ["to_q", "proj_mlp", "norm1.linear"]
    model.add_adapter(peft.LoKrConfig(r=2, alpha=5, target_modules=targets, init_weights=False))
    model.save_lora_adapter(tmp_path)
    adapter = load_adapter(tmp_path)
    assert len(adapter) == 4 and adapter.notes == [] and {w.scaling for w in adapter.values()} == {2.5}
    check_deltas(adapter, deltas(model))
