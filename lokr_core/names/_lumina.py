"""Lumina 2 and its descendants: Z-Image, Ideogram 4, OmniGen2 and Boogu-Image.

Lumina 2 and Z-Image share their original names; the place of the modulation's Linear tells them apart.
"""

from __future__ import annotations

from ._words import Architecture, PrefixGroup, Rule, Side, block, fused, one, one_naming, pairs, two_layers

_STACKS = ("layers.{i}", "noise_refiner.{i}", "context_refiner.{i}")


def _attention(stack: str, diffusers: str) -> tuple[Rule, ...]:
    """Rules for grouped queries, which diffusers holds below `diffusers`."""
    return (
        # As many rows of queries as the output projection has columns; keys and values halve the rest.
        fused(f"{stack}.attention.qkv", f"{stack}.{diffusers}.", "to_q to_k to_v", f"{stack}.attention.out rest rest"),
        *block(f"{stack}.{diffusers}", f"{stack}.attention", "to_out.0=out norm_q=q_norm norm_k=k_norm"),
    )


def _lumina_stack(stack: str) -> tuple[Rule, ...]:
    return (
        *_attention(stack, "attn"),
        *block(f"{stack}.feed_forward", f"{stack}.feed_forward", "linear_1=w1 linear_2=w2 linear_3=w3"),
        *block(stack, stack, "norm1.linear=adaLN_modulation.1 norm2=attention_norm2"),
        one(f"{stack}.norm1" if stack.startswith("context") else f"{stack}.norm1.norm", f"{stack}.attention_norm1"),
    )


LUMINA2 = Architecture(
    "lumina2",
    "Lumina 2",
    Side(has=("cap_embedder.1", "noise_refiner.0.attention.qkv", "layers.0.adaLN_modulation.1")),
    Side(has=("time_caption_embed.caption_embedder.1", "noise_refiner.0.attn.to_q")),
    (
        *(rule for stack in _STACKS for rule in _lumina_stack(stack)),
        *two_layers("time_caption_embed.timestep_embedder", "t_embedder.mlp"),
        *block("time_caption_embed", "cap_embedder", "caption_embedder.0=0 caption_embedder.1=1"),
        *pairs("norm_out.linear_1=final_layer.adaLN_modulation.1 norm_out.linear_2=final_layer.linear"),
    ),
)

Z_IMAGE = Architecture(
    "z_image",
    "Z-Image",
    Side(has=("cap_embedder.1", "noise_refiner.0.attention.qkv", "layers.0.adaLN_modulation.0")),
    Side(
        has=("cap_embedder.1", "noise_refiner.0.attention.to_q", "layers.0.adaLN_modulation.0"),
        # The model of pixels is not in diffusers: its trainer splits the attention and keeps the authors' x_embedder.
        prefixes=(PrefixGroup("", ("all_x_embedder.2-1", "x_embedder")),),
    ),
    (
        *(rule for stack in (*_STACKS, "siglip_refiner.{i}") for rule in _attention(stack, "attention")),
        # Patch size 2 over 1 frame, the only one published, is part of diffusers' names (2-1).
        *pairs(
            "all_x_embedder.2-1=x_embedder all_final_layer.2-1.linear=final_layer.linear",
            "all_final_layer.2-1.adaLN_modulation.1=final_layer.adaLN_modulation.1",
        ),
    ),
)

IDEOGRAM4 = Architecture(
    "ideogram4",
    "Ideogram 4",
    Side(has=("llm_cond_proj", "adaln_proj", "layers.0.attention.qkv")),
    Side(has=("llm_cond_proj", "adaln_proj", "layers.0.attention.to_q")),
    (
        fused("layers.{i}.attention.qkv", "layers.{i}.attention.", "to_q to_k to_v"),
        one("layers.{i}.attention.to_out.0", "layers.{i}.attention.o"),
    ),
)

_REFERENCE = ("ref_image_patch_embedder", "time_caption_embed.caption_embedder.1", "noise_refiner.0.attn.to_q")

OMNIGEN2 = one_naming("omnigen2", "OmniGen2", *_REFERENCE, "layers.0.attn.to_q")

BOOGU_IMAGE = one_naming(
    "boogu_image", "Boogu-Image", *_REFERENCE, "double_stream_layers.0.img_instruct_attn.processor.img_to_q"
)

TABLES = (Z_IMAGE, IDEOGRAM4, OMNIGEN2, BOOGU_IMAGE, LUMINA2)
