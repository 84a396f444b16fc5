"""Text encoders: every recorded module is found under every prefix; OpenCLIP's fused weights are dealt out rightly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lokr_core.names import Slot, aliases, detect

DATA = Path(__file__).parent / "data" / "text"
RECORDED = sorted(path.stem for path in DATA.glob("*.json"))

TABLE_OF = {
    "clip_bare": "clip",
    "umt5": "t5",
    "qwen3_bare": "qwen3",
    "gemma2": "gemma",
    "gemma3": "gemma",
    "qwen25_vl": "qwen_vl",
    "qwen3_vl": "qwen_vl",
    "mistral3": "llama",
    "ministral3": "llama",
}
MARKS = {"qwen3": "layers.0.self_attn.q_norm", "gemma": "layers.0.pre_feedforward_layernorm"}
"""Norms tell these families apart, and the records hold no weights of one axis."""

NOT_IN_COMFYUI = (
    "lm_head",
    *(f"{prefix}{part}." for prefix in ("", "model.") for part in ("vision_tower", "multi_modal_projector")),
    "pooler.",
)


def record(arch: str) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """(transformers' modules, ComfyUI's weights) -> shapes."""
    data = json.loads((DATA / f"{arch}.json").read_text())
    modules, weights = ({name: tuple(shape) for name, shape in data[side].items()} for side in ("diffusers", "comfyui"))
    mark = MARKS.get(TABLE_OF.get(arch, arch))
    return modules, weights | ({f"model.{mark}.weight": (32,)} if mark else {})


@pytest.mark.parametrize("arch", RECORDED)
def test_every_module_of_transformers_is_found(arch: str) -> None:
    modules, weights = record(arch)
    assert detect(weights).name == TABLE_OF.get(arch, arch)
    names = aliases(weights)
    for module, shape in modules.items():
        if module.startswith(NOT_IN_COMFYUI):
            continue
        own = f"{module}.weight" in weights
        (slot,) = (Slot(module),) if own else names[module]
        assert weights[f"{slot.module}.{slot.parameter}"] == shape, module


@pytest.mark.parametrize("prefix", ["text_model.", "", "transformer.text_model."])
def test_a_clip_of_any_prefix_takes_a_file_of_any_prefix(prefix: str) -> None:
    inside = [f"encoder.layers.{n}.{name}" for n in (0, 1) for name in ("self_attn.q_proj", "mlp.fc1")]
    names = aliases({f"{prefix}{name}.weight": (4, 4) for name in inside})
    for other in {"text_model.", "", "transformer.text_model."} - {prefix}:
        for name in inside:
            assert names[other + name] == (Slot(prefix + name),)
    assert not any(prefix + name in names for name in inside)


def openclip(layers: int = 2, width: int = 6, hidden: int = 10) -> dict[str, tuple[int, ...]]:
    """The weights of an OpenCLIP text model as SD2 and SDXL checkpoints and A1111 hold them."""
    shapes = {"token_embedding.weight": (99, width), "ln_final.weight": (width,)}
    for n in range(layers):
        block = f"transformer.resblocks.{n}"
        shapes |= {
            f"{block}.attn.in_proj_weight": (3 * width, width),
            f"{block}.attn.out_proj.weight": (width, width),
            f"{block}.mlp.c_fc.weight": (hidden, width),
            f"{block}.mlp.c_proj.weight": (width, hidden),
            f"{block}.ln_1.weight": (width,),
            f"{block}.ln_2.weight": (width,),
        }
    return shapes


def test_openclip_holds_query_key_and_value_in_one_bare_parameter() -> None:
    names = aliases(openclip())
    block = "transformer.resblocks.1.attn"
    for prefix in ("text_model.", "", "transformer.text_model."):
        layer = f"{prefix}encoder.layers.1"
        assert names[f"{layer}.self_attn.k_proj"] == (Slot(block, (6, 6), parameter="in_proj_weight"),)
        assert names[f"{layer}.self_attn.out_proj"] == (Slot(f"{block}.out_proj"),)
        assert names[f"{layer}.mlp.fc2"] == (Slot("transformer.resblocks.1.mlp.c_proj"),)


def test_openclips_names_are_diffusers_own_conversion() -> None:
    """The same random checkpoint converted by diffusers and sliced by our names: equal, weight for weight."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    converters = pytest.importorskip("diffusers.loaders.single_file_utils")
    torch.manual_seed(0)
    checkpoint = {name: torch.randn(shape) for name, shape in openclip().items()}
    checkpoint |= {
        f"{name.removesuffix('weight')}bias": torch.randn(weight.shape[0])
        for name, weight in checkpoint.items()
        if "resblocks" in name
    }
    checkpoint |= {
        "text_projection": torch.randn(6, 6),
        "positional_embedding": torch.randn(77, 6),
        "ln_final.bias": torch.randn(6),
    }
    model = transformers.CLIPTextModelWithProjection(
        transformers.CLIPTextConfig(
            vocab_size=99,
            hidden_size=6,
            intermediate_size=10,
            num_hidden_layers=2,
            num_attention_heads=2,
            projection_dim=6,
        )
    )
    converted = converters.convert_open_clip_checkpoint(model, dict(checkpoint), prefix="")
    names = aliases(openclip())
    compared = 0
    for name, weight in converted.items():
        module, _, parameter = name.rpartition(".")
        if parameter == "weight" and ".encoder.layers." in name:
            (slot,) = names[module]
            ours = checkpoint[f"{slot.module}.{slot.parameter}"]
            start, length = slot.rows or (0, len(ours))
            assert torch.equal(ours[start : start + length], weight), name
            compared += 1
    assert compared == 2 * 8
