"""What each record holds: a table of `lokr_core.names`, models of ComfyUI; and what is left out, with the reason."""

from __future__ import annotations

TABLE_OF = {
    "allegro": "pixart",  # the same names
    "anyflow": "wan",
    "anyflow_far": "wan",
    "bria": "longcat_image",  # the same names
    "chroma_radiance": "chroma",
    "chronoedit": "wan",
    "cogview3": "cogview",
    "cogview4": "cogview",
    "consisid": "cogvideox",
    "flux2_klein": "flux2",
    "framepack": "hunyuan_video",
    "helios": "wan",
    "joyimage_plus": "joyimage",
    "koala_700m": "sdxl",
    "kolors": "sdxl",
    "ltx23": "ltx2",
    "ltx2_refiner": "ltx2",
    "mage_flow": "qwen_image",  # the same names
    "pixart_alpha": "pixart",
    "pixart_sigma": "pixart",
    "sd35": "sd3",
    "seedvr2_7b": "seedvr2",
    "skyreels_v2": "wan",
    "skyreels_v2_i2v": "wan",
    "ssd_1b": "sdxl",
    "wan_animate": "wan",
    "wan_camera": "wan",
    "wan_causal": "wan",
    "wan_dancer": "wan",
    "wan_humo": "wan",
    "wan_i2v": "wan",
    "wan_s2v": "wan",
    "wan_scail": "wan",
    "wan_scail2": "wan",
    "wan_t2v": "wan",
    "wan_vace": "wan",
    "z_image_pixel": "z_image",
}
"""The table of a record, where it is not named like it."""

MARKS: dict[str, dict[str, tuple[int, ...]]] = {
    "cosmos1": {"learnable_pos_embed.pos_emb_t": (16, 48)},
    "sd_x4": {"class_embedding.weight": (50, 256)},
}
"""What else tells a diffusers model from its kin: the records hold no bare parameters and no embeddings."""

_SAME = {  # a record holds the models whose modules have the same names; only their sizes or inputs differ
    "ace_step": "ACEStep",
    "ace_step15": "ACEStep15",
    "anima": "Anima",
    "auraflow": "AuraFlow",
    "boogu_image": "Boogu",
    "chroma": "Chroma",
    "chroma_radiance": "ChromaRadiance",
    "cogvideox": "CogVideoX_Inpaint CogVideoX_I2V CogVideoX_T2V",
    "cosmos1": "CosmosT2V CosmosI2V",
    "cosmos_predict2": "CosmosT2IPredict2 CosmosI2VPredict2",
    "ernie_image": "ErnieImage",
    "flux": "FluxInpaint Flux FluxSchnell",
    "flux2": "Flux2",
    "hidream": "HiDream",
    "hidream_o1": "HiDreamO1",
    "hunyuan3d": "Hunyuan3Dv2mini Hunyuan3Dv2",
    "hunyuan3d_21": "Hunyuan3Dv2_1",
    "hunyuan_dit": "HunyuanDiT HunyuanDiT1",
    "hunyuan_image": "HunyuanImage21 HunyuanImage21Refiner",
    "hunyuan_video": "HunyuanVideo HunyuanVideoI2V HunyuanVideoSkyreelsI2V",
    "hunyuan_video15": "HunyuanVideo15 HunyuanVideo15_SR_Distilled",
    "ideogram4": "Ideogram4",
    "joyimage": "JoyImage",
    "kandinsky5": "Kandinsky5Image Kandinsky5",
    "koala_700m": "KOALA_700M KOALA_1B",
    "krea2": "Krea2",
    "lens": "Lens",
    "longcat_image": "LongCatImage",
    "ltx2": "LTXAV",
    "ltx_video": "LTXV",
    "lumina2": "Lumina2",
    "mochi": "GenmoMochi",
    "omnigen2": "Omnigen2",
    "pid": "PiD",
    "pixart_alpha": "PixArtAlpha",
    "pixart_sigma": "PixArtSigma",
    "pixeldit": "PixelDiTT2I",
    "qwen_image": "QwenImage",
    "sd15": "SD15 SD15_instructpix2pix Stable_Zero123",
    "sd2": "LotusD SD20 SD21UnclipL SD21UnclipH",
    "sd3": "SD3",
    "sd_x4": "SD_X4Upscaler",
    "sdxl": "SDXL SDXL_instructpix2pix",
    "sdxl_refiner": "SDXLRefiner",
    "seedvr2": "SeedVR2",
    "ssd_1b": "SSD1B Segmind_Vega",
    "stable_audio": "StableAudio",
    "stable_audio3": "StableAudio3",
    "stable_cascade_b": "Stable_Cascade_B",
    "stable_cascade_c": "Stable_Cascade_C",
    "svd": "SVD_img2vid SV3D_u SV3D_p",
    "triposplat": "TripoSplat",
    "wan_animate": "WAN22_Animate",
    "wan_camera": "WAN21_Camera WAN22_Camera",
    "wan_causal": "WAN21_CausalAR_T2V",
    "wan_dancer": "WAN22_WanDancer",
    "wan_humo": "WAN21_HuMo",
    "wan_i2v": "WAN21_I2V WAN21_FunControl2V",
    "wan_s2v": "WAN22_S2V",
    "wan_scail": "WAN21_SCAIL",
    "wan_scail2": "WAN21_SCAIL2",
    "wan_t2v": "WAN21_T2V WAN22_T2V WAN21_FlowRVS",
    "wan_vace": "WAN21_Vace",
    "z_image": "ZImage",
    "z_image_pixel": "ZImagePixelSpace",
}

COMFYUI = {name: arch for arch, names in _SAME.items() for name in names.split()}
"""Entry of ComfyUI's `supported_models.models` -> the record that holds it."""

COMFYUI_LEFT_OUT = {
    "DepthAnything3": "it estimates depth: no trainer has it, and it generates nothing",
    "RT_DETR_v4": "it detects objects: no trainer has it, and it generates nothing",
    "SAM3": "it segments images: no trainer has it, and it generates nothing",
    "SAM31": "it segments videos: no trainer has it, and it generates nothing",
}

BUILT_BY = {"mochi": "MochiTransformer3DModel", "stable_audio3": "StableAudio3DiTModel"}
"""Records whose tiny model a function makes -> its class in diffusers."""

_BLOCKS = "a block of UNets, which hold it; no pipeline has it as its transformer"

DIFFUSERS_LEFT_OUT = {
    "DreamLiteTransformer2DModel": _BLOCKS,
    "MiniMaxMusic3RVQDepthDecoder": "it decodes tokens of MiniMax-Music 3 to codes, beside the transformer",
    "RFD4ProteinaTransformer": "it makes proteins, not images, video or sound",
    "T5FilmDecoder": "it makes spectrograms of MIDI notes; its pipeline is deprecated and no trainer has it",
    "Transformer2DModel": _BLOCKS,
    "TransformerTemporalModel": _BLOCKS,
}

FROM_TRAINERS = {
    "f_lite": "names and shapes of ai-toolkit's model, which are those of fal's repository",
    "longcat_video": "names and shapes of SimpleTuner's model, which are those of Meituan's repository",
    "mage_flow": "names and shapes of ai-toolkit's model, which are those of Microsoft's checkpoints",
}
"""Records without a model in ComfyUI or diffusers, written down from a trainer's -> whose names they are."""
