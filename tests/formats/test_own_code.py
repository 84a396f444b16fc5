"""Files made by their producers' own code load with the right scaling: the update equals the producer's own."""

from __future__ import annotations

import json
from collections import Counter

import pytest
import torch
from torch import nn

from lokr_core import load_adapter, merge_adapter, save_adapter

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


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


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


def only(adapter, component: str):
    """The modules of one component, as an adapter of their own."""
    names = {module: name for module, name in adapter.names.items() if name.component == component}
    return type(adapter)({module: adapter[module] for module in names}, names)


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


diffusers = pytest.importorskip("diffusers", reason="diffusers' own files are tested with it")


def test_diffusers_pipeline(tmp_path):
    """``save_lora_weights`` of a pipeline: the parts' names before the modules', the configurations in the metadata."""
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
