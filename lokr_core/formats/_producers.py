"""Tables: how a file tells who wrote it, and how producers name tensors. A new producer is a new row."""

from __future__ import annotations

from typing import NamedTuple

from ..peft import METADATA_KEY


class Mark(NamedTuple):
    """How a file tells who wrote it: ``text`` is in the value of ``key`` in its metadata, and ``paths`` matches the
    beginning of a module's path, flattened. From the producers' saving code.
    """

    producer: str
    key: str
    text: str
    paths: str = ""


# Three trainers have a module of this name, each for its own architectures: sd-scripts for SDXL and Anima
# (``networks/network_base.py: detect_arch_config``), musubi-tuner for the rest (``networks/network_arch.py``).
_NETWORKS_LOKR = (
    ("musubi-tuner (LTX-2 fork)", r"(?:model_)?transformer_blocks_\d+_(?:attn[12]|ff|audio|video)_"),
    (
        "kohya-ss sd-scripts",
        r"(?:down|up|input|output)_blocks_|mid(?:dle)?_block_|llm_adapter_|text_model_|model_layers_"
        r"|blocks_\d+_(?:(?:self|cross)_attn_\w+_proj|mlp_layer\d)",
    ),
    (
        "musubi-tuner",
        r"(?:double|single|single_transformer|transformer)_blocks_\d+_|blocks_\d+_(?:self_attn|cross_attn|ffn)_"
        r"|(?:noise_refiner_|context_refiner_)?layers_\d+_|txt_in|img_in|final_layer|token_refiner",
    ),
    ("kohya-ss sd-scripts or musubi-tuner", ""),
)

# The first row that holds counts.
MARKS = (
    Mark("ai-toolkit", "software", "ai-toolkit"),
    Mark("OneTrainer", "ot_revision", ""),
    Mark("OneTrainer", "ot_branch", ""),
    Mark("SimpleTuner", "lycoris_config", ""),
    Mark("ACE-Step 1.5", "lokr_config", ""),
    Mark("SceneWorks", "networkType", "lokr"),
    Mark("kohya-ss / lokr_core", "ss_network_module", "lokr_core.kohya"),
    Mark("kohya-ss sd-scripts", "ss_network_args", "network_reg_dims"),
    Mark("musubi-tuner (LTX-2 fork)", "ss_base_model_version", "ltx2"),
    *(Mark(producer, "ss_network_module", "networks.lokr", paths) for producer, paths in _NETWORKS_LOKR),
    Mark("Anima-Standalone-Trainer", "ss_network_module", "networks.krona"),
    Mark("Anima-Standalone-Trainer", "ss_network_module", "networks.cdka"),
    Mark("kohya-ss / LyCORIS", "ss_network_module", "lycoris.kohya"),
    Mark("kohya-ss", "ss_network_module", ""),
    Mark("diffusers / PEFT", METADATA_KEY, ""),
)


class Algorithm(NamedTuple):
    """The endings of keys of an algorithm other than LoKr, from LyCORIS' modules, PEFT's layers and ComfyUI's loaders.

    named: those that PEFT may write with an adapter's name behind the first word ("lora_A.default.weight")
    """

    kind: str
    ends: tuple[str, ...]
    named: tuple[str, ...] = ()


ALGORITHMS = (
    Algorithm(
        "LoRA",
        ("lora_up.weight", "lora_down.weight", "lora_mid.weight", "lora.up.weight", "lora.down.weight",
         "lora_linear_layer.up.weight", "lora_linear_layer.down.weight", "lora_A.bias", "lora_B.bias"),
        ("lora_A.weight", "lora_B.weight", "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector",
         "lora_magnitude_vector.weight"),
    ),
    Algorithm("LoHa", (), ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2")),
    Algorithm("OFT", ("oft_blocks", "oft_diag", "rescale", "oft_R.scaled_oft"), ("oft_R.weight", "oft_R", "oft_s")),
    Algorithm("GLoRA", ("a1.weight", "a2.weight", "b1.weight", "b2.weight", "bm.weight")),
    Algorithm("T-LoRA", ("q_layer.weight", "p_layer.weight", "lambda_layer")),
    Algorithm("norm", ("w_norm", "b_norm")),
    Algorithm("full difference", ("diff", "diff_b")),
    Algorithm("IA3", ("on_input",), ("ia3_l",)),
)  # fmt: skip

# What a file without LoKr is, by its keys: a mark that ends in "." or "_" is part of a key, any other a whole key.
WHOLE_FILES = (
    (("model.diffusion_model.", "first_stage_model.", "cond_stage_model."), "a whole checkpoint"),
    (("emb_params", "string_to_param", "clip_l", "clip_g"), "a textual inversion embedding"),
    (("control_model.", "controlnet_"), "a ControlNet"),
    (("decoder.up.", "decoder.up_blocks.", "encoder.down."), "a VAE"),
    (("text_model.encoder.",), "a text encoder"),
)
