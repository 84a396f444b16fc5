"""The models of the benchmark for GPUs, with random weights: two UNets of diffusers' classes, and plain transformers of
Flux's and of Wan's widths.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .updates import KINDS

__all__ = ["CASES", "Case"]


class Case(NamedTuple):
    """A model and how it is called.

    model: makes it, in torch's default dtype on its default device; tiny: makes a small one for a dry run
    inputs: makes its inputs from what ``model`` made; a training step's gradient goes back to the first
    call: (model, inputs) -> output
    kinds: parts of the names of the modules to adapt; () for all
    needs_diffusers: whether the model is of diffusers' classes
    """

    name: str
    dtype: torch.dtype
    model: Callable[[], nn.Module]
    tiny: Callable[[], nn.Module]
    inputs: Callable[[nn.Module], tuple[Tensor, ...]]
    call: Callable[[nn.Module, tuple[Tensor, ...]], Tensor]
    kinds: tuple[str, ...] = ()
    needs_diffusers: bool = False


def sd15() -> nn.Module:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)


def sdxl() -> nn.Module:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=128,
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        use_linear_projection=True,
        cross_attention_dim=2048,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )


def small_unet(**more) -> nn.Module:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=8,
        cross_attention_dim=32,
        **more,
    )


def small_sdxl() -> nn.Module:
    more = dict(addition_embed_type="text_time", addition_time_embed_dim=8)
    return small_unet(use_linear_projection=True, projection_class_embeddings_input_dim=96, **more)


def unet_inputs(model: nn.Module) -> tuple[Tensor, ...]:
    """(latents, text) of a batch of 2, and SDXL's pooled text and sizes."""
    config = model.config
    x = torch.randn(2, 4, config.sample_size, config.sample_size)
    text = torch.randn(2, 77, config.cross_attention_dim)
    if config.addition_embed_type is None:
        return x, text
    pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    return x, text, torch.randn(2, pooled), torch.ones(2, 6)


def call_unet(model: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    x, text, *more = inputs
    added = dict(zip(("text_embeds", "time_ids"), more, strict=False)) or None
    return model(x, 10, text, added_cond_kwargs=added).sample


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """q (batch, positions, heads * width), k and v likewise -> as q."""
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x (batch, positions, width), normalised; shift and scale (batch, 1, width)."""
    return F.layer_norm(x, x.shape[-1:]) * (1 + scale) + shift


class Stream(nn.Module):
    """The layers of one of a double block's streams."""

    def __init__(self, width: int):
        super().__init__()
        self.mod, self.qkv, self.proj = (nn.Linear(width, size * width) for size in (6, 3, 1))
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width))


class DoubleBlock(nn.Module):
    """Two streams, image and text, that attend to both."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads, self.img, self.txt = heads, Stream(width), Stream(width)

    def forward(self, img: Tensor, txt: Tensor, vec: Tensor) -> tuple[Tensor, Tensor]:
        streams = ((self.txt, txt), (self.img, img))
        mods = [stream.mod(F.silu(vec)).unsqueeze(1).chunk(6, -1) for stream, _ in streams]
        qkv = [s.qkv(modulated(x, m[0], m[1])).chunk(3, -1) for (s, x), m in zip(streams, mods, strict=True)]
        y = attention(*(torch.cat(each, 1) for each in zip(*qkv, strict=True)), self.heads)
        done = []
        for (stream, x), m, part in zip(streams, mods, y.split([txt.shape[1], img.shape[1]], 1), strict=True):
            x = x + m[2] * stream.proj(part)
            done.append(x + m[5] * stream.mlp(modulated(x, m[3], m[4])))
        return done[1], done[0]


class SingleBlock(nn.Module):
    """Attention and MLP side by side, each in one weight with the other."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads, self.width = heads, width
        self.mod, self.linear1 = nn.Linear(width, 3 * width), nn.Linear(width, 7 * width)
        self.linear2 = nn.Linear(5 * width, width)

    def forward(self, x: Tensor, vec: Tensor) -> Tensor:
        shift, scale, gate = self.mod(F.silu(vec)).unsqueeze(1).chunk(3, -1)
        q, k, v, mlp = self.linear1(modulated(x, shift, scale)).split([self.width] * 3 + [4 * self.width], -1)
        y = attention(q, k, v, self.heads)
        return x + gate * self.linear2(torch.cat((y, F.gelu(mlp, approximate="tanh")), -1))


class Flux(nn.Module):
    """2 double and 4 single blocks of Flux's widths."""

    def __init__(self, width=3072, heads=24, image=4096, text=512, blocks=(2, 4)):
        super().__init__()
        self.width, self.image, self.text = width, image, text
        self.double_blocks = nn.ModuleList(DoubleBlock(width, heads) for _ in range(blocks[0]))
        self.single_blocks = nn.ModuleList(SingleBlock(width, heads) for _ in range(blocks[1]))

    def forward(self, img: Tensor, txt: Tensor, vec: Tensor) -> Tensor:
        for block in self.double_blocks:
            img, txt = block(img, txt, vec)
        x = torch.cat((txt, img), 1)
        for block in self.single_blocks:
            x = block(x, vec)
        return x[:, txt.shape[1] :]


def flux_inputs(model: nn.Module) -> tuple[Tensor, ...]:
    sizes = ((model.image, model.width), (model.text, model.width), (model.width,))
    return tuple(torch.randn(1, *size) for size in sizes)


class WanBlock(nn.Module):
    """Attention to the video, to the text, and an MLP."""

    def __init__(self, width: int, heads: int, inner: int):
        super().__init__()
        self.heads = heads
        self.self_attn, self.cross_attn = (
            nn.ModuleDict({name: nn.Linear(width, width) for name in "qkvo"}) for _ in range(2)
        )
        self.ffn = nn.Sequential(nn.Linear(width, inner), nn.GELU("tanh"), nn.Linear(inner, width))
        self.modulation = nn.Parameter(torch.randn(6, 1, 1, width) / width**0.5)

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        m, own, cross = self.modulation, self.self_attn, self.cross_attn
        y = modulated(x, m[0], m[1])
        x = x + m[2] * own["o"](attention(own["q"](y), own["k"](y), own["v"](y), self.heads))
        y = F.layer_norm(x, x.shape[-1:])
        x = x + cross["o"](attention(cross["q"](y), cross["k"](text), cross["v"](text), self.heads))
        return x + m[5] * self.ffn(modulated(x, m[3], m[4]))


class Wan(nn.Module):
    """4 blocks of the widths of Wan 2.1's and 2.2's 14B models; 81 frames of 832×480 are 32,760 positions."""

    def __init__(self, width=5120, heads=40, inner=13824, video=32760, text=512, blocks=4):
        super().__init__()
        self.width, self.video, self.text = width, video, text
        self.blocks = nn.ModuleList(WanBlock(width, heads, inner) for _ in range(blocks))

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, text)
        return x


def wan_inputs(model: nn.Module) -> tuple[Tensor, ...]:
    return torch.randn(1, model.video, model.width), torch.randn(1, model.text, model.width)


def call(model: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    return model(*inputs)


HALF, BF16 = torch.float16, torch.bfloat16
CASES = (
    Case("SD1.5 UNet, fp16, 2 × 64×64", HALF, sd15, small_unet, unet_inputs, call_unet, KINDS, True),
    Case("SDXL UNet, fp16, 2 × 128×128", HALF, sdxl, small_sdxl, unet_inputs, call_unet, KINDS, True),
    Case(
        "Flux's widths, 2 + 4 blocks, bf16, 4,608 positions",
        BF16,
        Flux,
        lambda: Flux(256, 4, 48, 16, (1, 1)),
        flux_inputs,
        call,
    ),
    Case(
        "Wan's widths, 4 blocks, bf16, 32,760 positions",
        BF16,
        Wan,
        lambda: Wan(256, 4, 512, 96, 16, 1),
        wan_inputs,
        call,
    ),
)
