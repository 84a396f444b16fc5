"""Files of threads where people ask why their LoKr does not load, rebuilt with the keys that the threads show."""

from __future__ import annotations

import json

import pytest

from lokr_core.formats import parse_adapter
from tests.formats.lokr_tensors import file_of

AI_TOOLKIT = {"software": json.dumps({"name": "ai-toolkit"})}
SIMPLETUNER = {"lycoris_config": json.dumps({"algo": "lokr", "linear_dim": 10000, "linear_alpha": 1})}
ANIMA = {
    "ss_network_module": "lycoris.kohya", "ss_network_args": '{"algo": "lokr", "factor": 8}', "ss_network_dim": "32",
    "ss_network_alpha": "1",
}  # fmt: skip

# thread -> modules as it spells them (prefix, names behind it), what is stored, metadata, the scaling, the producer
THREADS = {
    "ComfyUI #4476, Flux": (
        "lycoris_", [f"single_transformer_blocks_{i}_attn_to_{p}" for i in (0, 10, 17, 37) for p in "qkv"],
        {"alpha": 1e9, "rank": None}, SIMPLETUNER, 1.0, "SimpleTuner",
    ),
    "ComfyUI #10973, Z-Image, ai-toolkit's old format": (
        "lycoris_",
        [f"layers_{i}_{m}" for i in (14, 15) for m in ("adaLN_modulation_0", "attention_to_out_0", "feed_forward_w1")],
        {"alpha": 9999999999, "rank": None}, AI_TOOLKIT, 1.0, "ai-toolkit",
    ),
    "ComfyUI #10973, Z-Image, ai-toolkit's new format": (
        "diffusion_model.", [f"layers.{i}.attention.to_{m}" for i in (0, 29) for m in ("q", "k", "v", "out.0")],
        {"alpha": 9999999999, "rank": None}, AI_TOOLKIT, 1.0, "ai-toolkit",
    ),
    "ComfyUI #12084, Flux.2 Klein": (
        "lycoris_",
        [f"transformer_blocks_{i}_{m}" for i in range(5) for m in ("ff_linear_in", "ff_context_linear_out")],
        {"alpha": 10000, "rank": None}, SIMPLETUNER, 1.0, "SimpleTuner",
    ),
    "ComfyUI #12638, ACE-Step 1.5, with DoRA": (
        "lycoris_", ["condition_embedder", "layers_0_cross_attn_k_proj", "time_embed_time_proj"],
        {"alpha": 4, "rank": 2, "dora": True}, {"algo": "lokr", "format": "lycoris", "lokr_config": "{}"}, 2.0,
        "ACE-Step 1.5",
    ),
    "ComfyUI #15114, Anima, trained with alpha / rank": (
        "lora_unet_", ["blocks_0_self_attn_q_proj", "blocks_27_mlp_layer2"],
        {"alpha": 1, "rank": None}, ANIMA, 1 / 32, "kohya-ss / LyCORIS",
    ),
    "SimpleTuner #3222, Krea 2, fused, with DoRA": (
        "lycoris_",
        [f"text_fusion_{b}_blocks_{i}_attn_to_qkv" for b in ("layerwise", "refiner") for i in (0, 1)]
        + ["transformer_blocks_0_attn_to_qkv"],
        {"alpha": 10000, "rank": None, "dora": True}, SIMPLETUNER, 1.0, "SimpleTuner",
    ),
}  # fmt: skip


@pytest.mark.parametrize("thread", THREADS)
def test_the_file_of_the_thread(thread):
    prefix, paths, stored, metadata, scaling, producer = THREADS[thread]
    adapter = parse_adapter(file_of(*(prefix + path for path in paths), **stored), metadata)
    assert list(adapter) == [prefix + path for path in paths] and adapter.producer == producer
    assert [name.path for name in adapter.names.values()] == paths
    assert {name.flattened for name in adapter.names.values()} == {prefix != "diffusion_model."}
    assert {weights.scaling for weights in adapter.values()} == {scaling}
    assert {weights.dora_axis for weights in adapter.values()} == {"out" if stored.get("dora") else None}
    assert adapter.other == {} and adapter.notes == []
