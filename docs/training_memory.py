"""What a training needs of a GPU's memory, counted without one: ``python docs/training_memory.py``.

The denoisers are built on the meta device from the published models' sizes; one forward pass of the base, in bf16 with
one picture, counts the bytes that autograd keeps for the backward pass, each storage once, weights not. With gradient
checkpointing those of the largest block are added, which is computed again.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs without installation

import diffusers  # noqa: E402

from lokr_core import LoKrConfig, get_lokr_model  # noqa: E402
from lokr_core.diffusion._family import FAMILIES  # noqa: E402
from lokr_core.diffusion._learner import Learner  # noqa: E402

GIB = 1 << 30
MODELS: dict[str, tuple[str, int, Any]] = {
    "SD 1.5": ("sd", 512, lambda: diffusers.UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)),
    "SDXL": (
        "sdxl",
        1024,
        lambda: diffusers.UNet2DConditionModel(
            block_out_channels=(320, 640, 1280),
            cross_attention_dim=2048,
            attention_head_dim=(5, 10, 20),
            transformer_layers_per_block=(1, 2, 10),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        ),
    ),
    "SD 3.5 medium": (
        "sd3",
        1024,
        lambda: diffusers.SD3Transformer2DModel(
            in_channels=16,
            out_channels=16,
            num_layers=24,
            num_attention_heads=24,
            caption_projection_dim=1536,
            pos_embed_max_size=384,
            sample_size=128,
            dual_attention_layers=tuple(range(13)),
            qk_norm="rms_norm",
        ),
    ),
    "Flux.1": ("flux", 1024, lambda: diffusers.FluxTransformer2DModel(guidance_embeds=True)),
}
WIDTHS = {"sd": (77, 768, 0), "sdxl": (77, 2048, 1280), "sd3": (333, 4096, 2048), "flux": (512, 4096, 768)}


# What diffusers computes again, one after the other, with gradient checkpointing.
BLOCKS = ("ResnetBlock2D", "BasicTransformerBlock", "JointTransformerBlock", "FluxTransformerBlock",
          "FluxSingleTransformerBlock")  # fmt: skip


class Flash(torch.autograd.Function):
    """What flash attention keeps: its inputs, its output and the logarithm of each row's sum."""

    @staticmethod
    def forward(ctx, q, k, v):
        out = torch.empty_like(q)
        ctx.save_for_backward(q, k, v, out, torch.empty(q.shape[:-1], device=q.device))
        return out


def attention(query, key, value, *arguments, **options):
    return Flash.apply(query, key, value)


def counted(name: str, checkpointing: bool) -> tuple[float, int, float]:
    """(GiB of weights in bf16, parameters of the adapter, GiB that autograd keeps at most)."""
    family, size, build = MODELS[name]
    with torch.device("meta"):
        denoiser = build().to(torch.bfloat16)
    row = FAMILIES[family]
    weights = sum(p.numel() * p.element_size() for p in denoiser.parameters())
    config = LoKrConfig(16, 16, decompose_factor=8, target_modules=row.targets)
    # The adapter's factors in bf16 too: autocast casts them, and that copy is small.
    learner = Learner(row, denoiser, {})
    model = get_lokr_model(learner, config, autocast_adapter_dtype=False).train()
    adapter = sum(p.numel() for p in model.parameters() if p.requires_grad)
    activations, largest = kept(model, row, size)
    if checkpointing:
        learner.checkpoint_gradients()
        activations = kept(model, row, size)[0] + largest
    return weights / GIB, adapter, activations / GIB


def kept(model: Any, row: Any, size: int) -> tuple[int, int]:
    """(bytes that autograd keeps of a forward pass, those of the block that keeps most)."""
    own = {p.untyped_storage()._cdata for p in model.parameters()}
    seen: dict[int, torch.UntypedStorage] = {}
    blocks: list[int] = []

    def total() -> int:
        return sum(storage.nbytes() for storage in seen.values())

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            seen[storage._cdata] = storage
        return tensor

    for module in model.modules():
        if type(module).__name__ in BLOCKS:
            module.register_forward_pre_hook(lambda *_: blocks.append(total()))
            module.register_forward_hook(lambda *_: blocks.append(total() - blocks.pop()))
    tokens, width, pooled = WIDTHS[next(key for key, value in FAMILIES.items() if value is row)]
    channels, side, options = model.denoiser.config.in_channels, size // 8, dict(device="meta", dtype=torch.bfloat16)
    text = {"prompt": torch.empty(1, tokens, width, **options), "pooled": torch.empty(1, pooled, **options)}
    sizes = {"ids": torch.empty(1, 6, device="meta"), "guidance": torch.empty(1, device="meta")}
    channels = 16 if row.flow else channels  # Flux' tokens have four positions
    noisy, times = torch.empty(1, channels, side, side, **options), torch.empty(1, device="meta")
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        assert row.predict(model.denoiser, noisy, times, text, sizes).requires_grad
    return total(), max(blocks, default=0)


if __name__ == "__main__":
    torch.nn.functional.scaled_dot_product_attention = attention
    diffusers.utils.logging.set_verbosity_error()
    print("model, size, checkpointing: weights GiB, adapter M parameters, adapter state GiB, kept GiB, sum GiB")
    for name in sys.argv[1:] or MODELS:
        for checkpointing in (False, True):
            weights, adapter, activations = counted(name, checkpointing)
            state = adapter * 16 / GIB  # fp32: the parameter, its gradient, AdamW's two moments
            total = weights + state + activations
            print(
                f"{name}, {MODELS[name][1]}, {checkpointing}: {weights:.2f}, {adapter / 1e6:.2f}, {state:.3f}, "
                f"{activations:.2f}, {total:.2f}"
            )
