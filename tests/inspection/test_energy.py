"""Where an adapter acts: blocks by their names, norms from factors alone, and the picture of both."""

from __future__ import annotations

import json
import struct
from math import hypot, sqrt

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lokr_core import Adapter, Factor, LoKrFileError, LoKrWeights
from lokr_core.adapter import ModuleName
from lokr_core.formats import parse_adapter
from lokr_core.inspection import draw_heat_map, inspect_adapter, outline
from lokr_core.inspection._energy import Energy, HeatMap, Place, place_of
from lokr_core.names import aliases, original_name
from lokr_core.names._registry import ARCHITECTURES
from lokr_core.strengths import BLOCK_LAYOUTS, BlockStrengths, block_layout_of
from lokr_core.strengths._blocks import block_groups
from tests.hosts import PROJECT

RECORDS = PROJECT / "tests/names/data"


def recorded(architecture: str) -> tuple[dict, dict]:
    """(diffusers' modules, the original's parameters) of a tiny model of that architecture, with shapes."""
    record = json.loads((RECORDS / f"{architecture}.json").read_text())
    return record["diffusers"], record["comfyui"]


@pytest.mark.parametrize(
    ("architecture", "title"),
    [("sd15", "Stable Diffusion 1.x"), ("sdxl", "SDXL"), ("sdxl_refiner", "SDXL refiner"), ("flux", "Flux.1")]
    + [
        ("flux2", "Flux.2"),
        ("hunyuan_video", "HunyuanVideo"),
        ("wan_t2v", "Wan 2.1 and 2.2"),
        ("sd3", "Stable Diffusion 3 and 3.5"),
    ],
)
def test_a_diffusers_name_is_in_the_block_that_the_models_own_table_says(architecture, title):
    theirs, ours = recorded(architecture)
    target = {name: tuple(shape) for name, shape in ours.items()}
    slots = aliases(target)
    checked = 0
    for name in theirs:
        if name in slots and ".individual_token_refiner." not in slots[name][0].module:
            block = place_of(ModuleName(name, name, "unet"), title).block
            assert block == place_of(ModuleName("", slots[name][0].module, "unet"), title).block, name
            flattened = ModuleName(name, name.replace(".", "_"), "unet", True)
            assert block == place_of(flattened, title).block
            checked += 1
    assert checked > 0.7 * len(theirs)


@pytest.mark.parametrize(
    ("name", "component", "place"),
    [
        ("input_blocks_4_1_proj_in", "unet", ("IN", "IN4", "projection")),
        ("mid_block_resnets_1_conv1", "unet", ("MID", "MID2", "convolution")),
        ("up_blocks.2.upsamplers.0.conv", "unet", ("OUT", "OUT8", "convolution")),
        ("double_blocks.7.img_mlp.0", "", ("DOUBLE", "DOUBLE7", "feed-forward")),
        ("single_blocks_11_linear1", "", ("SINGLE", "SINGLE11", "attention + feed-forward")),
        ("blocks.3.cross_attn.q", "unet", ("BLOCKS", "BLOCKS3", "cross-attention")),
        ("time_embed.0", "unet", ("OTHER", "OTHER", "other")),
        ("text_model_encoder_layers_3_mlp_fc2", "te1", ("TE1", "TE1 3", "feed-forward")),
    ],
)
def test_places(name, component, place):
    assert place_of(ModuleName(name, name, component)) == place


def test_blocks_are_written_as_block_strengths_reads_them():
    names = ["input_blocks.4.1.proj_in", "middle_block.1.proj_in", "output_blocks.2.0.in_layers.2", "time_embed.0"]
    for name in names:
        block = place_of(ModuleName(name, name, "unet")).block
        of = BlockStrengths.parse(f"{block}:0").over(names)
        assert [of(other) for other in names] == [0.0 if other == name else 1.0 for other in names]


def test_of_two_lists_with_one_short_name_the_inner_one_goes_by_its_whole_name():
    groups = block_groups(["refiner.blocks.0.attn", "blocks.0.attn", "blocks.1.attn"])
    assert groups == {"BLOCKS": ("blocks", {0, 1}), "refiner.blocks": ("refiner.blocks", {0})}
    of = BlockStrengths.parse("BLOCKS0:0.5, refiner.blocks0:0").over(["refiner.blocks.0.attn", "blocks.0.attn"])
    assert (of("refiner.blocks.0.attn"), of("blocks.0.attn")) == (0.0, 0.5)


def test_a_name_without_a_table_is_left_as_it_is():
    assert original_name("some.module.3.proj", None) == "some_module_3_proj"
    assert original_name("some.module.3.proj", "Flux.1") == "some_module_3_proj"


@pytest.fixture
def adapter() -> Adapter:
    torch.manual_seed(0)
    names = ("double_blocks_3_img_attn_proj", "double_blocks_3_img_mlp_0", "single_blocks_7_linear2")
    tensors = {}
    for name in names:
        tensors[f"lora_unet_{name}.lokr_w1"] = torch.randn(4, 4)
        tensors[f"lora_unet_{name}.lokr_w2"] = torch.randn(16, 16)
    return parse_adapter(tensors)


def test_a_cell_is_the_norm_of_all_the_changes_in_it(adapter):
    heat = inspect_adapter(adapter).heat
    norms = [float(weights.delta(torch.float64).norm()) for weights in adapter.values()]
    assert heat.rows == ["DOUBLE3", "SINGLE7"]
    assert heat.columns == ["attention", "feed-forward", "attention + feed-forward"]
    assert heat.values[0] == pytest.approx([norms[0], norms[1], None])
    assert heat.values[1] == pytest.approx([None, None, norms[2]])
    assert [block.energy for block in heat.blocks] == pytest.approx([hypot(norms[0], norms[1]), norms[2]])
    assert [block.modules for block in heat.blocks] == [2, 1]


def test_with_the_models_weights_a_cell_is_a_share(adapter):
    base = dict(zip(adapter, (3.0, 4.0, 5.0), strict=True))
    heat = inspect_adapter(adapter, base).heat
    norms = [float(weights.delta(torch.float64).norm()) for weights in adapter.values()]
    assert heat.relative
    assert heat.values[0][:2] == pytest.approx([norms[0] / 3, norms[1] / 4])
    assert heat.blocks[0].energy == pytest.approx(hypot(norms[0], norms[1]) / 5)
    del base[next(iter(adapter))]
    assert inspect_adapter(adapter, base).heat.values[0][0] is not None


def test_no_product_is_built():
    """A weight of a million by a million numbers would not fit any memory."""
    w1, w2 = torch.randn(1000, 1000), Factor(a=torch.randn(1000, 2), b=torch.randn(2, 1000))
    found = inspect_adapter(Adapter({"blocks.0.attn": LoKrWeights(Factor(w1), w2, 0.5)}))
    expected = 0.5 * float(w1.double().norm()) * float(w2.materialize(torch.float64).norm())
    assert found.modules[0].shape == (1_000_000, 1_000_000)
    assert found.heat.values == [[pytest.approx(expected, rel=1e-4)]]  # summed in fp32


def test_rows_stand_as_the_model_runs_them():
    places = [("TE1", "TE1 0"), ("OUT", "OUT2"), ("OTHER", "OTHER"), ("IN", "IN10"), ("IN", "IN9"), ("MID", "MID0")]
    heat = HeatMap.of(Energy(Place(group, block, "attention"), 1.0) for group, block in places)
    assert heat.rows == ["IN9", "IN10", "MID0", "OUT2", "OTHER", "TE1 0"]
    assert heat.blocks[0].energy == sqrt(1.0)


def test_the_picture_has_a_cell_per_value_the_largest_the_lightest():
    heat = HeatMap.of(
        Energy(Place("IN", f"IN{number}", kind), float(number + 1))
        for number in range(3)
        for kind in ("attention", "other")
    )
    image = draw_heat_map(heat, "style")
    assert image.dtype == np.uint8 and image.ndim == 3
    rows = image.shape[0] // 5
    light = [int(image[(2 + number) * rows + 3, -10].astype(int).sum()) for number in range(3)]
    assert light == sorted(light) and light[0] < light[2]
    assert draw_heat_map(HeatMap.of([])).size


def test_layouts_are_of_architectures_that_there_are():
    assert set(BLOCK_LAYOUTS) <= {architecture.title for architecture in ARCHITECTURES}


@pytest.mark.parametrize(
    ("title", "model", "counts"),
    [
        ("Flux.1", "FluxTransformer2DModel", {"DOUBLE": "num_layers", "SINGLE": "num_single_layers"}),
        ("Flux.2", "Flux2Transformer2DModel", {"DOUBLE": "num_layers", "SINGLE": "num_single_layers"}),
        ("Chroma", "ChromaTransformer2DModel", {"DOUBLE": "num_layers", "SINGLE": "num_single_layers"}),
        ("HunyuanVideo", "HunyuanVideoTransformer3DModel", {"DOUBLE": "num_layers", "SINGLE": "num_single_layers"}),
        ("HunyuanVideo 1.5", "HunyuanVideo15Transformer3DModel", {"DOUBLE": "num_layers"}),
        ("Qwen-Image and Qwen-Image-Edit", "QwenImageTransformer2DModel", {"TRANSFORMER": "num_layers"}),
        ("Wan 2.1 and 2.2", "WanTransformer3DModel", {"BLOCKS": "num_layers"}),
        ("LTX-Video", "LTXVideoTransformer3DModel", {"TRANSFORMER": "num_layers"}),
        ("Z-Image", "ZImageTransformer2DModel", {"LAYERS": "n_layers", "NOISE_REFINER": "n_refiner_layers"}),
        ("Lumina 2", "Lumina2Transformer2DModel", {"LAYERS": "num_layers", "NOISE_REFINER": "num_refiner_layers"}),
        ("PixArt Alpha and Sigma", "PixArtTransformer2DModel", {"BLOCKS": "num_layers"}),
        ("CogVideoX", "CogVideoXTransformer3DModel", {"BLOCKS": "num_layers"}),
        ("Kandinsky 5", "Kandinsky5Transformer3DModel", {"VISUAL_TRANSFORMER": "num_visual_blocks"}),
    ],
)
def test_a_layout_has_as_many_blocks_as_diffusers_model(title, model, counts):
    import inspect

    diffusers = pytest.importorskip("diffusers", reason="NO DIFFUSERS HERE: the counts of blocks are not compared")
    arguments = inspect.signature(getattr(diffusers, model).__init__).parameters
    groups = {group.name: len(group.blocks) for group in BLOCK_LAYOUTS[title].groups}
    assert {name: groups[name] for name in counts} == {name: arguments[key].default for name, key in counts.items()}


@pytest.mark.parametrize(("architecture", "title"), [("sd15", "Stable Diffusion 1.x"), ("sdxl", "SDXL")])
def test_a_layout_has_the_blocks_of_the_model(architecture, title):
    groups = block_groups(name.rpartition(".")[0] for name in recorded(architecture)[1])
    found = {group.name: (group.list, set(range(len(group.blocks)))) for group in BLOCK_LAYOUTS[title].groups[:-1]}
    assert found == groups


def test_a_layout_takes_in_what_a_file_has_beyond_the_table():
    groups = {group.name: len(group.blocks) for group in block_layout_of("Flux.1", [("SINGLE", "SINGLE50")]).groups}
    assert (groups["DOUBLE"], groups["SINGLE"], groups["OTHER"]) == (19, 51, 1)
    unknown = block_layout_of(None, [("BLOCKS", "BLOCKS3"), ("TE1", "TE1 4")])
    assert [group.name for group in unknown.groups] == ["BLOCKS", "OTHER"]


def test_presets_are_those_that_fit_the_model():
    names = {
        title: {preset.name for preset in BLOCK_LAYOUTS[title].presets}
        for title in ("SDXL", "Flux.1", "Stable Diffusion 1.x")
    }
    assert "Flux: double blocks only" in names["Flux.1"] and "UNet: middle block only" not in names["Flux.1"]
    assert "SDXL: style (B-LoRA's block)" in names["SDXL"]
    assert "SDXL: style (B-LoRA's block)" not in names["Stable Diffusion 1.x"]


def test_the_outline_is_told_by_the_header_alone(tmp_path, adapter):
    tensors = {f"lora_unet_double_blocks_0_img_attn_qkv.{name}": torch.zeros(4, 4) for name in ("lokr_w1", "lokr_w2")}
    lora = {"lora_unet_x.lora_up.weight": torch.zeros(4, 1), "lora_unet_x.lora_down.weight": torch.zeros(1, 4)}
    metadata = {"modelspec.trigger_phrase": "sks", "modelspec.title": "T"}
    save_file({**tensors, **lora}, str(tmp_path / "a.safetensors"), metadata)
    found = outline(tmp_path / "a.safetensors")
    assert (found.kind, found.modules, found.trigger_words, found.title) == ("LoKr and LoRA", 1, ["sks"], "T")
    save_file(lora, str(tmp_path / "b.safetensors"))
    assert (outline(tmp_path / "b.safetensors").kind, outline(tmp_path / "b.safetensors").is_lokr) == ("LoRA", False)
    save_file({"conv_in.weight": torch.zeros(2, 2)}, str(tmp_path / "c.safetensors"))
    assert not outline(tmp_path / "c.safetensors").is_lokr


def test_a_header_that_is_too_long_or_a_shape_that_is_none_is_refused(tmp_path):
    save_file({"a": torch.zeros(2)}, str(tmp_path / "a.safetensors"), {"text": "x" * 1000})
    with pytest.raises(LoKrFileError, match="header is longer"):
        outline(tmp_path / "a.safetensors", most=500)
    header = json.dumps({"a.lokr_w1": {"dtype": "F32", "shape": [0, 1 << 70], "data_offsets": [0, 0]}}).encode()
    (tmp_path / "b.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(LoKrFileError, match="shape"):
        outline(tmp_path / "b.safetensors")
