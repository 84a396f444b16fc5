"""Architectures whose names are the same everywhere and that are of no other family: their table is how to know them.

Named by ComfyUI's class, by diffusers' or, where neither has the model, by its authors', which trainers keep.
"""

from __future__ import annotations

from ._words import Architecture, PrefixGroup, Side, one_naming, striped

# The authors wrap the transformer in `core` (PixelDiT) or `net` (PiD), and ComfyUI splits the modulation of their pixel
# blocks: of each pixel, half the rows are the attention's and half the feed-forward's, 3 to a channel.
_PIXELS = (PrefixGroup("patch_blocks.0.attn.qkv_x", ("", "core.", "net.")),)
_MODULATION = striped(
    "pixel_blocks.{i}.adaLN_modulation.0",
    "pixel_blocks.{i}.adaLN_modulation_",
    "msa mlp",
    "pixel_embedder.proj",
    3,
)


def _pixels(name: str, title: str, *has: str) -> Architecture:
    ours, theirs = (Side((*has, f"pixel_blocks.0.adaLN_modulation{end}"), prefixes=_PIXELS) for end in ("_msa", ".0"))
    return Architecture(name, title, ours, theirs, (_MODULATION,))


_IMAGE = (
    one_naming("lens", "Lens", "transformer_blocks.0.attn.img_qkv", "transformer_blocks.0.img_mlp.w1"),
    _pixels("pid", "PiD", "pixel_embedder.proj", "lq_proj.latent_proj.0"),
    _pixels("pixeldit", "PixelDiT", "pixel_embedder.proj"),
    one_naming("bria_fibo", "Bria FIBO", "caption_projection.0.linear", "single_transformer_blocks.0.proj_mlp"),
    one_naming("bria_fibo2", "Bria FIBO 2", "perceiver.layers.0.ffn.w1", "noise_refiner.0.attention.to_q"),
    one_naming("glm_image", "GLM-Image", "glyph_projector.net.2", "prior_projector.net.2"),
    one_naming(
        "cogview", "CogView3-Plus and CogView4", "time_condition_embed.condition_embedder.linear_1", "patch_embed.proj"
    ),
    one_naming("dit", "DiT", "transformer_blocks.0.norm1.emb.timestep_embedder.linear_1", "proj_out_2"),
    one_naming("flux3", "Flux.3", "x_embedders.image", "early_stream_modulations.txt.linear"),
    one_naming("kandinsky2_prior", "Kandinsky 2 prior", "proj_to_clip_embeddings", "encoder_hidden_states_proj"),
    one_naming("lumina_next", "Lumina-Next", "patch_embedder.proj", "layers.0.attn2.to_k"),
    one_naming("nucleus_image", "Nucleus-Image", "transformer_blocks.0.encoder_proj", "transformer_blocks.0.img_mod.1"),
    one_naming("omnigen", "OmniGen", "time_token.linear_1", "layers.0.mlp.gate_up_proj"),
    one_naming("prx", "PRX", "img_in.0", "blocks.0.attention.img_qkv_proj"),
    one_naming("qwen_image21", "Qwen-Image 2.1", "txt_in.in_layer", "transformer_blocks.0.img_mlp.gate_layer"),
    one_naming("f_lite", "F Lite", "patch_embed.patch_proj", "blocks.0.cross_attn.context_kv"),
)

_VIDEO = (
    one_naming("cosmos3", "Cosmos 3", "layers.0.mlp_moe_gen.up_proj", "layers.0.self_attn.add_q_proj"),
    one_naming(
        "easyanimate", "EasyAnimate", "transformer_blocks.0.txt_ff.net.2", "transformer_blocks.0.attn1.add_q_proj"
    ),
    one_naming("kandinsky6", "Kandinsky 6", "video_text_embeddings.in_layer", "audio_embeddings.in_layer"),
    one_naming(
        "kandinsky6_sr",
        "Kandinsky 6 SR",
        "time_embeddings.timestep_embedder.linear_1",
        "visual_transformer_blocks.0.feed_forward.net.2",
    ),
    one_naming("latte", "Latte", "temporal_transformer_blocks.0.attn1.to_q", "caption_projection.linear_1"),
    one_naming(
        "longcat_video", "LongCat-Video", "y_embedder.y_proj.2", "blocks.0.cross_attn.kv_linear", "blocks.0.ffn.w3"
    ),
    one_naming(
        "minimax_h3", "MiniMax-H3", "token_refiner.refiner_blocks.0.attn.to_q", "transformer_blocks.0.adaln_proj.linear"
    ),
    one_naming("motif_video", "Motif-Video", "context_embedder.linear_2", "single_transformer_blocks.0.proj_mlp"),
    one_naming("sana_video", "Sana Video", "patch_embedding", "transformer_blocks.0.ff.conv_temp"),
    one_naming("sana_wm", "Sana-WM", "plucker_embedder.proj", "blocks.0.attn.beta_proj"),
    one_naming("seedvr2", "SeedVR2", "vid_in.proj", "blocks.0.attn.proj_qkv.vid"),
    one_naming("wan_animate2", "Wan Animate 2", "blocks.0.cross_attn.add_k_proj", "head.head"),
)

_AUDIO = (
    one_naming("longcat_audio", "LongCat-AudioDiT", "input_embed.proj.0", "blocks.0.ffn.ff.0"),
    one_naming("minimax_music3", "MiniMax-Music 3", "transformer_blocks.0.ff_in", "transformer_blocks.0.ff_out"),
)

_SHAPES = (
    one_naming("hunyuan3d", "Hunyuan3D 2", "latent_in", "cond_in", "double_blocks.0.img_attn.qkv"),
    one_naming("hunyuan3d_21", "Hunyuan3D 2.1", "x_embedder", "t_embedder.mlp.2", "blocks.0.attn1.out_proj"),
    one_naming("triposplat", "TripoSplat", "cond_embedder2", "repo_layers.0.final_map"),
)

TABLES = (*_IMAGE, *_VIDEO, *_AUDIO, *_SHAPES)
