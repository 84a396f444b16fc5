"""What the scripts that wrote the saved files and the tests that read them have in common: models, losses, settings.

No number in here may change, for the files hold what was computed with it. Of ``lokr_core`` only top-level names are
used.
Random numbers are multiples of 1/8: their products and sums are exact, in whichever order they are taken.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from lokr_core import Adapter, LoKrConfig, LoKrModel, LoKrWeights, get_lokr_model, merge_adapter

FILES = Path(__file__).resolve().parent / "files"
STRENGTH = 0.75  # at which adapters were merged

ATTENTION = "unet.down_blocks.0.attentions.0.transformer_blocks.0"
LOW, WHOLE, BOTH = (f"{ATTENTION}.attn1.to_{part}" for part in "qkv")
DORA_OUT, DORA_IN = f"{ATTENTION}.ff.net.0.proj", f"{ATTENTION}.ff.net.2"
TUCKER, FLAT = "unet.mid_block.resnets.0.conv1", "unet.mid_block.resnets.0.conv2"
POINT, KERNEL = "unet.up_blocks.0.attentions.0.proj_in", "unet.up_blocks.0.upsamplers.0.conv"
TEXT = "text_encoder.text_model.encoder.layers.0.mlp.fc1"
LORA, NORM, DIFF = "unet.time_embedding.linear_1", "unet.conv_norm_out", "unet.conv_out"


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def eighths(rng: torch.Generator, *shape: int) -> Tensor:
    """Multiples of 1/8 from -1 to 1, none of them 0."""
    sign = torch.randint(0, 2, shape, generator=rng) * 2 - 1
    return (torch.randint(1, 9, shape, generator=rng) * sign).float() / 8


def nested(layers: dict[str, nn.Module]) -> nn.Module:
    """A module with these below it, by their dotted names."""
    root = nn.Module()
    for path, layer in layers.items():
        *parents, last = path.split(".")
        at = root
        for name in parents:
            if not hasattr(at, name):
                at.add_module(name, nn.Module())
            at = getattr(at, name)
        at.add_module(last, layer)
    return root


@torch.no_grad()
def filled(model: nn.Module, seed: int) -> nn.Module:
    rng = generator(seed)
    for parameter in model.parameters():
        parameter.copy_(eighths(rng, *parameter.shape))
    return model


def pipeline() -> nn.Module:
    """What the adapter files are for: some layers of a UNet and of a text encoder, where ComfyUI has them."""
    layers = {
        LOW: nn.Linear(8, 12),
        WHOLE: nn.Linear(8, 12),
        BOTH: nn.Linear(16, 24),
        DORA_OUT: nn.Linear(12, 24),
        DORA_IN: nn.Linear(24, 12),
        TUCKER: nn.Conv2d(8, 12, 3),
        FLAT: nn.Conv2d(8, 8, 3),
        POINT: nn.Conv2d(8, 12, 1),
        KERNEL: nn.Conv2d(8, 8, 3),
        TEXT: nn.Linear(16, 16),
        LORA: nn.Linear(12, 20),
        NORM: nn.GroupNorm(2, 16),
        DIFF: nn.Conv2d(4, 6, 3),
    }
    places = {"unet.": "diffusion_model.", "text_encoder.": "clip_l.transformer."}
    for theirs, ours in places.items():
        layers = {
            ours + name.removeprefix(theirs) if name.startswith(theirs) else name: m for name, m in layers.items()
        }
    return filled(nested(layers), 1)


def described(adapter: Adapter) -> dict:
    """All that was read from a file, as JSON has it; of its tensors a hash."""

    def spelled(name) -> list:
        return [name.full, name.path, name.component, name.flattened]

    return {
        "producer": adapter.producer,
        "notes": adapter.notes,
        "metadata": adapter.metadata,
        "other": {
            key: [*adapter.other_keys[key], digest({key: tensor})] for key, tensor in sorted(adapter.other.items())
        },
        "other_kinds": {
            module: [kind, *spelled(adapter.other_names[module])]
            for module, kind in sorted(adapter.other_kinds.items())
        },
        "modules": {
            module: _described(weights) | {"name": spelled(adapter.names[module])}
            for module, weights in adapter.items()
        },
    }


def _described(weights: LoKrWeights) -> dict:
    factors = [
        {f"{name}.{part}": tensor for part, tensor in factor.tensors.items()}
        for name, factor in (("w1", weights.w1), ("w2", weights.w2))
    ]
    return {
        "scaling": weights.scaling,
        "alpha": weights.alpha,
        "rank": weights.rank,
        "shape": list(weights.shape),
        "dora_axis": weights.dora_axis,
        "notes": list(weights.notes),
        "forms": [*factors[0], *factors[1]],
        "digest": digest({**factors[0], **factors[1], "dora_scale": weights.dora_scale}),
    }


def digest(tensors: dict[str, Tensor | None]) -> str:
    """A hash over names, dtypes, shapes and every bit."""
    state = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        if tensor is not None:
            state.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            state.update(tensor.detach().flatten().view(torch.uint8).numpy().tobytes())
    return state.hexdigest()[:12]


def deltas(adapter: Adapter) -> dict[str, Tensor]:
    return {module: weights.delta() for module, weights in adapter.items()}


def merged(adapter: Adapter) -> dict[str, Tensor]:
    """The parameters of ``pipeline`` that the adapter changes, with it merged in."""
    model = pipeline()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    handle = merge_adapter(model, adapter, strength=STRENGTH)
    assert handle.report.complete, handle.report.text()
    after = {name: parameter.detach() for name, parameter in model.named_parameters()}
    return {name: tensor for name, tensor in after.items() if not torch.equal(tensor, before[name])}


def network(kind: str) -> LoKrModel:
    """A small model with a LoKr in training: "plain", or "own" with what PEFT has not."""
    torch.manual_seed(0)
    fields = {
        "plain": dict(r=2, alpha=4, rank_dropout=0.2, module_dropout=0.2),
        "own": dict(r=2, alpha=2, dora="out", rs_lora=True, order="lycoris", decompose_both=True, decompose_factor=4),
    }[kind]
    base = filled(nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 8)), 2)
    return get_lokr_model(base, LoKrConfig(target_modules=["0", "2"], **fields))


TRAINED = ("plain", "own")
EXAMPLES = 5
SETTINGS = dict(steps=9, batch_size=2, learning_rate=1e-2, save_every=4)
STOPPED = 4  # steps that the saved state has behind it


def loss_of(model: nn.Module, batch) -> Tensor:
    clean = torch.eye(8)[batch.indices]
    return F.mse_loss(model(clean + 0.1 * batch.randn(8)), clean)


class Small(nn.Module):
    """What the folders of ``LoKrModel.save_pretrained`` are for."""

    def __init__(self):
        super().__init__()
        self.conv, self.up = nn.Conv2d(4, 8, 3, padding=1), nn.Linear(8, 16)
        self.down, self.head = nn.Linear(16, 8), nn.Linear(8, 4)
        filled(self, 3)

    def forward(self, x: Tensor) -> Tensor:
        """x (n, 4, 3, 3) -> (n, 4)"""
        x = torch.tanh(self.conv(x)).mean((2, 3))
        return self.head(torch.tanh(self.down(torch.tanh(self.up(x)))))


def inputs_of_small() -> Tensor:
    return eighths(generator(4), 5, 4, 3, 3)


_OPTIONS = {"size": 16, "rank": 1, "alpha": 8, "factor": 8, "batch-size": 2, "save-every": 3, "learning-rate": 0.03}
COMMAND = [text for name, value in _OPTIONS.items() for text in (f"--{name}", str(value))]
"""Of ``lokr train``, beside the folders and ``--steps``."""

PEFT = {
    "pefts": dict(
        r=2,
        alpha=4,
        target_modules=["conv", "up", "down"],
        use_effective_conv2d=True,
        rank_dropout=0.1,
        module_dropout=0.1,
        rank_pattern={"up": 3},
        alpha_pattern={"down": 1.5},
        init_weights=False,
    ),
    "own": dict(
        r=2,
        alpha=3,
        target_modules=["conv", "up", "down"],
        dora="out",
        rs_lora=True,
        order="lycoris",
        unbalanced=True,
        use_effective_conv=True,
        decompose_both=True,
        decompose_factor=4,
        bias="lokr_only",
        modules_to_save=["head"],
        init_weights="lycoris",
    ),
    "second": dict(r=1, alpha=1, target_modules=["up", "conv"], dora="in", full_matrix=True, init_weights=False),
}
"""Folder -> fields of its ``LoKrConfig``; "second" is a second adapter in the model of "own"."""


@torch.no_grad()
def trained_small(model: LoKrModel, seed: int) -> LoKrModel:
    """``model`` with other numbers in all that it trains."""
    rng = generator(seed)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            numbers = eighths(rng, *parameter.shape)
            parameter.copy_(numbers.abs() + 1 if "dora_scale" in name else numbers)
    return model


def sums(model: nn.Module) -> dict[str, float]:
    """Of a few of its parameters, to tell it from another."""
    parameters = list(model.named_parameters())
    return {name: float(parameter.detach().double().sum()) for name, parameter in parameters[:: len(parameters) // 12]}


def flux() -> nn.Module:
    """The model that ``lokr train`` makes with the seed 0, as diffusers itself makes it here."""
    from diffusers import FluxTransformer2DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return FluxTransformer2DModel(
            patch_size=1,
            in_channels=64,
            num_layers=2,
            num_single_layers=2,
            attention_head_dim=128,
            num_attention_heads=2,
            joint_attention_dim=768,
            pooled_projection_dim=768,
            guidance_embeds=True,
            axes_dims_rope=(16, 56, 56),
        )


def names_in(path: Path) -> str:
    """A hash of the names, dtypes and shapes in a file."""
    entries = [f"{name} {tensor.dtype} {tuple(tensor.shape)}" for name, tensor in load_file(path).items()]
    return hashlib.sha256("\n".join(sorted(entries)).encode()).hexdigest()[:16]
