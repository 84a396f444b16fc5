"""Every recorded module of every architecture is found by name, at rows of the right shape, in both directions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lokr_core.names import Slot, aliases, detect
from tests.names.coverage import MARKS, TABLE_OF

Shape = tuple[int, ...]

DATA = Path(__file__).parent / "data"
RECORDED = sorted(path.stem for path in DATA.glob("*.json"))

NOT_IN_DIFFUSERS = {
    # Beside the decoder; proj_out is a transposed convolution, which the records leave out.
    "ace_step15": ("encoder.", "tokenizer.", "detokenizer.", "decoder.proj_out"),
    "anima": ("llm_adapter.",),
    "ideogram4": ("embed_image_indicator",),  # an embedding
    "hidream": ("double_stream_blocks.{}.block.ff_i.gate", "single_stream_blocks.{}.block.ff_i.gate"),  # a parameter
    "hunyuan_video15": ("cond_type_embedding",),  # an embedding
    "ltx2": ("audio_embeddings_connector.", "video_embeddings_connector."),  # a model of their own
    "ltx23": ("audio_embeddings_connector.", "video_embeddings_connector."),
    "stable_audio": ("timestep_features",),  # a parameter
    "sd_x4": ("label_emb",),  # an embedding
    "skyreels_v2": ("fps_embedding",),
    "stable_cascade_b": ("up_upscalers.",),  # transposed convolutions
    "wan_animate": ("motion_encoder.",),  # parameters
}

CONVERTERS = {
    "cosmos_predict2": "convert_cosmos_transformer_checkpoint_to_diffusers",
    "flux2": "convert_flux2_transformer_checkpoint_to_diffusers",
    "krea2": "convert_krea2_transformer_checkpoint_to_diffusers",
    "ltx2": "convert_ltx2_transformer_to_diffusers",
    "ltx_video": "convert_ltx_transformer_checkpoint_to_diffusers",
    "sana": "convert_sana_transformer_to_diffusers",
    "wan_animate": "convert_wan_transformer_to_diffusers",
    "z_image": "convert_z_image_transformer_checkpoint_to_diffusers",
}
"""diffusers' converters that take a checkpoint of any size."""


class Checkpoint(dict):
    """Weights of two or more axes; what else a converter asks for (biases, norms) it gets, and is not compared."""

    def pop(self, key, *default):
        import torch

        return super().pop(key, *(default or (torch.zeros(6),)))


def record(arch: str) -> tuple[dict[str, Shape], dict[str, Shape]]:
    """(diffusers' modules, ComfyUI's weights) of a recorded architecture, names -> shapes.

    Where diffusers has no such model, trainers use its authors' class, whose names ComfyUI keeps. Where ComfyUI has
    none, the weights are those of its authors' checkpoint; without one recorded, diffusers' names are the only ones.
    """
    data = json.loads((DATA / f"{arch}.json").read_text())
    weights = data.get("comfyui") or data.get("original") or weights_of(data["diffusers"])
    modules = data.get("diffusers") or {name.removesuffix(".weight"): shape for name, shape in weights.items()}
    return tuple({name: tuple(shape) for name, shape in side.items()} for side in (modules, weights))


def weights_of(modules: dict[str, Shape]) -> dict[str, Shape]:
    return {f"{name}.weight": shape for name, shape in modules.items()}


def diffusers_target(arch: str) -> dict[str, Shape]:
    return weights_of(record(arch)[0]) | MARKS.get(arch, {})


def found(names: dict[str, tuple[Slot, ...]], module: str, weights: dict[str, Shape]) -> tuple[Slot, ...]:
    """Where an update called `module` goes: by a name of the table, or because the target calls it so itself."""
    own = f"{module}.weight" in weights
    assert module in names or own, f"{module}: not found"
    return names[module] if module in names else (Slot(module),)


@pytest.mark.parametrize("arch", RECORDED)
def test_both_name_spaces_are_recognised(arch: str) -> None:
    diffusers, comfyui = record(arch)
    table = TABLE_OF.get(arch, arch)
    assert detect(comfyui).name == table
    if arch != "anima":  # the same transformer as Cosmos-Predict2's
        assert detect(diffusers_target(arch)).name == table


@pytest.mark.parametrize("arch", RECORDED)
def test_every_diffusers_module_has_its_rows_in_comfyui(arch: str) -> None:
    diffusers, comfyui = record(arch)
    names = aliases(comfyui)
    taken: dict[str, list[tuple[int, int]]] = {}
    for module, shape in diffusers.items():
        dealt = 0
        for slot in found(names, module, comfyui):
            weight = f"{slot.module}.{slot.parameter}"
            start, length = slot.rows or (0, comfyui[weight][0])
            assert (slot.source_rows or (0, length)) == (dealt, length), module
            assert comfyui[weight][1:] == shape[1:], module
            taken.setdefault(weight, []).append((start, length))
            dealt += length
        assert dealt == shape[0], module
    for weight, rows in taken.items():
        end = 0
        for start, length in sorted(rows):
            assert start == end, f"{weight}: rows {sorted(rows)} overlap or leave a gap"
            end += length
        assert end == comfyui[weight][0], f"{weight}: rows {sorted(rows)} of {comfyui[weight][0]}"


@pytest.mark.parametrize("arch", RECORDED)
def test_every_comfyui_weight_is_found_in_a_diffusers_target(arch: str) -> None:
    diffusers, comfyui = record(arch)
    names, target = aliases(diffusers_target(arch)), weights_of(diffusers)
    skipped = NOT_IN_DIFFUSERS.get(arch, ())
    for weight, shape in comfyui.items():
        module = weight.rpartition(".")[0]
        if module.startswith(tuple(s.format(n) for s in skipped for n in range(2))):
            continue
        dealt = 0
        for slot in found(names, module, target):
            rows, *columns = diffusers[slot.module]
            length = slot.rows[1] if slot.rows else rows
            assert (slot.source_rows or (0, length)) == (dealt, length), module
            assert tuple(columns) == shape[1:], module
            dealt += length
        assert dealt == shape[0], module


@pytest.mark.parametrize("arch", RECORDED)
def test_there_and_back_is_the_same_place(arch: str) -> None:
    diffusers, comfyui = record(arch)
    there, back = aliases(comfyui), aliases(diffusers_target(arch))
    for module in diffusers:
        gone: dict[str, list[tuple]] = {}
        for slot in found(there, module, comfyui):
            gone.setdefault(slot.module, []).append((slot.rows, slot.source_rows, slot.swap))
        for place, moves in gone.items():
            returned = [s for s in found(back, place, weights_of(diffusers)) if s.module == module]
            assert sorted((s.source_rows, s.rows, s.swap) for s in returned) == sorted(moves), module


@pytest.mark.parametrize("arch", RECORDED)
def test_no_alias_names_the_targets_own_module(arch: str) -> None:
    diffusers, comfyui = record(arch)
    for target in (comfyui, weights_of(diffusers)):
        assert not {weight.rpartition(".")[0] for weight in target} & set(aliases(target))


def test_halves_are_swapped_where_scale_and_shift_are() -> None:
    names = aliases(record("flux")[1])
    assert names["norm_out.linear"] == (Slot("final_layer.adaLN_modulation.1", swap=True),)
    names = aliases(record("sd3")[1])
    swapped = {name for name, slots in names.items() if slots[0].swap}
    assert swapped == {"norm_out.linear", "transformer_blocks.2.norm1_context.linear"}


def test_a_fused_weight_of_the_file_is_dealt_out_to_split_weights() -> None:
    names = aliases(weights_of(record("flux")[0]))
    assert names["single_blocks.1.linear1"] == (
        Slot("single_transformer_blocks.1.attn.to_q", source_rows=(0, 48)),
        Slot("single_transformer_blocks.1.attn.to_k", source_rows=(48, 48)),
        Slot("single_transformer_blocks.1.attn.to_v", source_rows=(96, 48)),
        Slot("single_transformer_blocks.1.proj_mlp", source_rows=(144, 192)),
    )


def test_a_fused_weight_of_diffusers_is_dealt_out_too() -> None:
    """Ovis-Image's gated feed-forward: one weight in diffusers, two in the original, and the gate comes last."""
    there, back = (aliases(names) for names in (record("ovis_image")[1], weights_of(record("ovis_image")[0])))
    assert there["transformer_blocks.0.ff.net.0.proj"] == (
        Slot("double_blocks.0.img_mlp.up_proj", source_rows=(0, 192)),
        Slot("double_blocks.0.img_mlp.gate_proj", source_rows=(192, 192)),
    )
    assert back["double_blocks.0.img_mlp.gate_proj"] == (Slot("transformer_blocks.0.ff.net.0.proj", (192, 192)),)


@pytest.mark.parametrize("prefix", ["", "core."])
@pytest.mark.parametrize("arch", ["pixeldit", "pid"])
def test_a_weight_that_is_split_in_stripes_gives_each_pixels_rows(arch: str, prefix: str) -> None:
    """As ComfyUI cuts the authors' modulation: rows (pixels, 6, channels), the attention's 3 before the others."""
    diffusers, comfyui = record(arch)
    channels, (rows, _) = comfyui["pixel_embedder.proj.weight"][0], diffusers["pixel_blocks.0.adaLN_modulation.0"]
    numbers = np.arange(rows)
    cut = {"msa": numbers.reshape(-1, 6, channels)[:, :3], "mlp": numbers.reshape(-1, 6, channels)[:, 3:]}
    found = {f"pixel_blocks.0.adaLN_modulation_{part}": np.full(rows // 2, -1) for part in cut}
    for slot in aliases(comfyui)[f"{prefix}pixel_blocks.0.adaLN_modulation.0"]:
        (to, length), (start, _) = slot.rows, slot.source_rows
        found[slot.module][to : to + length] = numbers[start : start + length]
    assert all((found[f"pixel_blocks.0.adaLN_modulation_{part}"] == rows.ravel()).all() for part, rows in cut.items())


def test_grouped_queries_get_rows_of_their_own_size() -> None:
    names = aliases(record("lumina2")[1])
    assert names["layers.0.attn.to_q"] == (Slot("layers.0.attention.qkv", (0, 96)),)
    assert names["layers.0.attn.to_v"] == (Slot("layers.0.attention.qkv", (128, 32)),)


def test_further_spellings_of_the_original_names() -> None:
    hunyuan = record("hunyuan_video")
    for target, qkv in ((hunyuan[1], 1), (weights_of(hunyuan[0]), 3)):
        names = aliases(target)
        assert len(names["double_blocks.0.img_attn_qkv"]) == qkv
        assert {
            "double_blocks.0.img_mod.linear",
            "double_blocks.1.txt_mlp.fc2",
            "time_in.mlp.0",
            "single_blocks.0.modulation.linear",
            "txt_in.individual_token_refiner.blocks.1.self_attn_qkv",
            "txt_in.c_embedder.linear_1",
        } <= set(names)
    wrapped = aliases(record("hidream_o1")[1])["model.language_model.layers.0.self_attn.q_proj"]
    assert wrapped == (Slot("language_model.layers.0.self_attn.q_proj"),)
    ace = record("ace_step15")
    assert aliases(ace[1])["layers.1.cross_attn.q_proj"] == (Slot("decoder.layers.1.cross_attn.q_proj"),)
    for name in ("layers.1.cross_attn.q_proj", "decoder.layers.1.cross_attn.q_proj"):
        assert aliases(weights_of(ace[0]))[name] == (Slot("layers.1.cross_attn.to_q"),)


def test_an_unknown_target_has_no_aliases() -> None:
    assert detect({"a.weight": (1, 2)}) is None and aliases({"a.weight": (1, 2)}) == {}


@pytest.mark.parametrize("arch", CONVERTERS)
def test_every_weight_is_what_diffusers_makes_of_the_checkpoint(arch: str) -> None:
    """diffusers' own conversion of a random checkpoint against our names, weight for weight.

    Proves what outputs can't show (the text stream of a last block), and architectures that have no twins.
    """
    torch = pytest.importorskip("torch")
    converters = pytest.importorskip("diffusers.loaders.single_file_utils")
    diffusers, comfyui = record(arch)
    generator = torch.Generator().manual_seed(0)
    # Connectors of LTX-2 are another model's and large.
    weights = {
        name: torch.randn(shape, generator=generator)
        for name, shape in comfyui.items()
        if "embeddings_connector" not in name
    }
    converted = getattr(converters, CONVERTERS[arch])(Checkpoint(weights))
    names = aliases(comfyui)
    for module in diffusers:
        (slot,) = found(names, module, comfyui)
        weight = weights[f"{slot.module}.{slot.parameter}"]
        start, length = slot.rows or (0, len(weight))
        part = weight[start : start + length]
        if slot.swap:
            part = torch.cat(part.chunk(2)[::-1])
        assert torch.equal(part, converted[f"{module}.weight"]), module


def test_onetrainers_omi_names() -> None:
    """Parts of a fused weight by number, and a few spellings of its own."""
    flux = record("flux")
    names = aliases(flux[1])
    assert names["double_blocks.1.img_attn.qkv.1"] == (Slot("double_blocks.1.img_attn.qkv", (48, 48)),)
    assert names["single_blocks.0.linear1.3"] == (Slot("single_blocks.0.linear1", (144, 192)),)
    assert names["img_in.proj"] == (Slot("img_in"),)
    names = aliases(weights_of(flux[0]))
    assert names["single_blocks.0.linear1.3"] == (Slot("single_transformer_blocks.0.proj_mlp"),)
    assert names["img_in.proj"] == (Slot("x_embedder"),)
    names = aliases(record("hunyuan_video")[1])
    assert names["double_blocks.0.txt_attn_qkv.2"] == (Slot("double_blocks.0.txt_attn.qkv", (96, 48)),)
    assert names["double_blocks.0.txt_mlp.fc0"] == (Slot("double_blocks.0.txt_mlp.0"),)
    assert names["txt_in.t_embedder.linear_2"] == (Slot("txt_in.t_embedder.out_layer"),)
    names = aliases(record("stable_cascade_c")[1])
    assert names["up_blocks.0.2.attention.attn.in_proj.2"] == (Slot("up_blocks.0.2.attention.attn.to_v"),)
