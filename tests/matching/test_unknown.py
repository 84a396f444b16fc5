"""Names that no table has as a whole: both namings in one, parts of a fused weight, a wrapper's name before them.

Each module is found at its own place, or refused; no shape alone decides, and no two modules share a row.
"""

from __future__ import annotations

import json

import pytest
import torch

from lokr_core import Adapter, Factor, LoKrWeights, Target, resolve
from lokr_core.formats import parse_adapter
from lokr_core.names import aliases
from tests.matching.cells import DATA, FURTHER, TABLE, comfyui_target, lokr_keys, recorded
from tests.matching.test_cells import places

ALL = sorted({*TABLE.values(), *FURTHER})
LETTERS = {"to_q": "q", "to_k": "k", "to_v": "v", "add_q_proj": "q", "add_k_proj": "k", "add_v_proj": "v"}
LETTERS |= {"q_proj": "q", "k_proj": "k", "v_proj": "v", "proj_mlp": "mlp"}


def resolved(modules: dict[str, tuple[int, ...]], target: Target):
    """(module of the file -> its places, the report)"""
    matches, report = resolve(parse_adapter(lokr_keys(modules)), target)
    return places(matches), report


def fused_parts(architecture: str) -> dict[str, dict[str, tuple[str, tuple]]]:
    """The original's fused module -> letter of a part -> (diffusers' name of it, (weight, first row, rows))."""
    modules, weights = recorded(architecture)
    names = aliases(weights)
    found: dict[str, dict[str, tuple[str, tuple]]] = {}
    for module in modules:
        letter = LETTERS.get(module.rpartition(".")[2])
        for slot in names.get(module, ()):
            if slot.rows and letter and f"{slot.module}.{slot.parameter}" in weights:
                place = (f"diffusion_model.{slot.module}.{slot.parameter}", *slot.rows)
                found.setdefault(slot.module, {})[letter] = module, place
    return found


FUSED = [name for name in ALL if fused_parts(name)]
SPELLINGS = ("replaced", "behind_", "behind.", "beside_")


def spelled(module: str, letter: str, letters: str, spelling: str) -> str | None:
    """The authors' name of a part of a fused module. Returns None where the spelling makes no sense."""
    parent, dot, word = module.rpartition(".")
    if spelling.startswith("behind"):
        return f"{module}{spelling[-1]}{letter}"
    if letters not in word or letter == "mlp":
        return None
    return parent + dot + word.replace(letters, letter) if spelling == "replaced" else f"{parent}_{letter}"


@pytest.mark.every_pair
@pytest.mark.parametrize("flattened", [True, False])
@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("architecture", FUSED)
def test_parts_of_a_fused_weight_in_the_authors_spelling(architecture, spelling, flattened):
    modules, weights = recorded(architecture)
    file, right = {}, {}
    for fused, parts in fused_parts(architecture).items():
        letters = "".join(letter for letter in parts if letter != "mlp")
        for letter, (module, place) in parts.items():
            if name := spelled(fused, letter, letters, spelling):
                full = f"lora_unet_{name.replace('.', '_')}" if flattened else f"diffusion_model.{name}"
                file[full], right[full] = modules[module], {place}
    found, report = resolved(file, comfyui_target(weights))
    if architecture == "mochi" and spelling == "beside_":  # of qkv_x or of qkv_y?
        assert not found
    else:
        assert report.complete and found == right


def test_a_diffusers_model_takes_the_parts_too():
    modules, _ = recorded("hunyuan_video15")
    parts = {f"lora_unet_double_blocks_0_img_attn_{x}": modules[f"transformer_blocks.0.attn.to_{x}"] for x in "qkv"}
    found, _ = resolved(parts, Target({f"{name}.weight": shape for name, shape in modules.items()}))
    assert {name[-1]: next(iter(place))[0] for name, place in found.items()} == {
        x: f"transformer_blocks.0.attn.to_{x}.weight" for x in "qkv"
    }


def halves(module: str, place: str) -> tuple[str, str] | None:
    """(the original's block with diffusers' rest, diffusers' block with the original's rest)."""
    cuts = []
    for name in (module, place):
        words = name.split(".")
        at = next((at for at, word in enumerate(words) if word.isdigit()), len(words))
        cuts.append((words[: at + 1], words[at + 1 :]))
    (theirs, rest), (ours, our_rest) = cuts
    return (".".join(ours + rest), ".".join(theirs + our_rest)) if rest and our_rest else None


@pytest.mark.parametrize("flattened", [True, False])
@pytest.mark.parametrize("architecture", ALL)
def test_a_name_of_both_sides_is_right_or_refused(architecture, flattened):
    modules, weights = recorded(architecture)
    names, target = aliases(weights), comfyui_target(weights)
    right, _ = resolved({f"diffusion_model.{name}": shape for name, shape in modules.items()}, target)
    for way in (0, 1):
        file, whole = {}, {}
        for module, shape in modules.items():
            slots = names.get(module, ())
            mixed = halves(module, slots[0].module) if len(slots) == 1 and not slots[0].rows else None
            if mixed and mixed[way] not in names and f"{mixed[way]}.weight" not in weights:
                full = f"lycoris_{mixed[way].replace('.', '_')}" if flattened else f"diffusion_model.{mixed[way]}"
                file[full], whole[full] = shape, right[f"diffusion_model.{module}"]
        found, _ = resolved(file, target) if file else ({}, None)
        assert all(found[name] == whole[name] for name in found)


COUNTED = {**dict.fromkeys(("sd15", "sdxl", "svd", "sd_x4"), (3, 3)), "cosmos1": (2, 3)}
"""Architecture whose two sides count blocks differently -> words of the original's name that name a block, and those
that all modules of a block share besides, which need no saying."""


def counted(module: str, place: str, words: tuple[int, int]) -> list[str]:
    """The two names of one side's block with the other side's rest, none for what is outside of blocks."""
    theirs, ours = module.split("."), place.split(".")
    if "block" not in ours[0]:
        return []
    at = {"mid_block": 3, "transformer_blocks": 2}.get(theirs[0], 4)
    own, shared = (2, 2) if ours[0] == "middle_block" else words
    return [".".join(ours[:own] + theirs[at:]), ".".join(theirs[:at] + ours[shared:])]


@pytest.mark.parametrize("flattened", [True, False])
@pytest.mark.parametrize("way", [0, 1])
@pytest.mark.parametrize("architecture", COUNTED)
def test_blocks_that_one_side_counts_before_the_other_sides_names(architecture, way, flattened):
    """`input_blocks.1.0.conv1` and `down_blocks.0.resnets.0.in_layers.2`: one convolution, whatever its name has."""
    modules, weights = recorded(architecture)
    names, file, right = aliases(weights), {}, {}
    for module, shape in modules.items():
        (slot,) = names.get(module, ()) or (None,)
        mixed = counted(module, slot.module, COUNTED[architecture])[way:][:1] if slot and not slot.swap else []
        for name in mixed:
            full = f"lora_unet_{name.replace('.', '_')}" if flattened else f"diffusion_model.{name}"
            file[full], right[full] = shape, {(f"diffusion_model.{slot.module}.{slot.parameter}", 0, shape[0])}
    found, report = resolved(file, comfyui_target(weights))
    assert report.complete and found == right and len(file) > 20, report.text()


WAN = {"to_out_0": "o", "to_q": "q", "to_k": "k", "to_v": "v"}


@pytest.mark.parametrize(
    "block,attention", [("self_attn", "self_attn"), ("attn1", "self_attn"), ("attn2", "cross_attn")]
)
def test_wan_translated_by_half(block, attention):
    _, weights = recorded("wan_t2v")
    shape = weights["blocks.0.self_attn.o.weight"]
    for theirs, ours in WAN.items():
        for leaf in (theirs, ours):
            found, _ = resolved({f"lycoris_blocks_0_{block}_{leaf}": shape}, comfyui_target(weights))
            assert [next(iter(place))[0] for place in found.values()] == [
                f"diffusion_model.blocks.0.{attention}.{ours}.weight"
            ]


def test_a_mixed_name_never_takes_a_weight_that_another_module_has():
    _, weights = recorded("wan_t2v")
    names = ("lycoris_blocks_0_self_attn_o", "lycoris_blocks_0_self_attn_to_out_0")
    found, report = resolved(dict.fromkeys(names, weights["blocks.0.self_attn.o.weight"]), comfyui_target(weights))
    assert list(found) == ["lycoris_blocks_0_self_attn_o"]
    assert report.refused[0].reason == "another module of the file goes to the same weight"


WRAPPERS = {
    "LyCORIS": lambda name, number: f"lycoris_core_{name.replace('.', '_')}",
    "PEFT in a pipeline": lambda name, number: f"transformer.core.{name}",
    "PEFT": lambda name, number: f"base_model.model.wrapped.inner.{name}",
    "kohya": lambda name, number: f"lora_unet_my_net_{name.replace('.', '_')}",
    "two groups": lambda name, number: f"lycoris_{('core', 'wrap_er')[number % 2]}_{name.replace('.', '_')}",
    "a group beside bare names": lambda name, number: f"lycoris_{('', 'core_')[number % 2]}{name.replace('.', '_')}",
}


@pytest.mark.every_value
@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("architecture", ALL)
@pytest.mark.parametrize("side", ["diffusers", "original"])
def test_names_behind_a_wrappers_are_found_where_they_are_without_it(architecture, wrapper, side):
    modules, weights = recorded(architecture)
    if side == "original":
        modules = {name.rpartition(".")[0]: s for name, s in weights.items() if name.endswith("weight") and len(s) > 1}
    target = comfyui_target(weights)
    right, _ = resolved({f"diffusion_model.{name}": shape for name, shape in modules.items()}, target)
    names = {WRAPPERS[wrapper](name, number): name for number, name in enumerate(modules)}
    found, report = resolved({full: modules[name] for full, name in names.items()}, target)
    assert report.complete, report.text()
    assert found == {full: right[f"diffusion_model.{name}"] for full, name in names.items()}


def test_groups_of_one_file_each_lose_their_own_prefix():
    modules, weights = recorded("anima")
    text = json.loads((DATA / "text" / "qwen3.json").read_text())["comfyui"]
    encoder = {f"qwen3_06b.transformer.{name}": tuple(shape) for name, shape in text.items()}
    target = Target({**{f"diffusion_model.{n}": shape for n, shape in weights.items()}, **encoder})
    adapter = "llm_adapter.blocks.0.self_attn.q_proj"
    file = {
        f"lycoris_core_{name.replace('.', '_')}": shape for name, shape in modules.items() if "llm_adapter" not in name
    }
    file |= {f"lycoris_{adapter.replace('.', '_')}": weights[f"{adapter}.weight"]}
    file |= {"lora_te1_model_layers_0_mlp_up_proj": tuple(text["model.layers.0.mlp.up_proj.weight"])}
    found, report = resolved(file, target)
    assert report.complete, report.text()
    place = f"diffusion_model.{adapter}.weight"
    assert {weight for weight, _, _ in found[f"lycoris_{adapter.replace('.', '_')}"]} == {place}
    assert sum(place in {weight for weight, _, _ in each} for each in found.values()) == 1


@pytest.mark.parametrize(
    "names,placed",
    [
        (["a.blocks.0.self_attn.q", "b.blocks.0.self_attn.q"], 0),  # one weight for two
        (["blocks.0.self_attn.q", "a.blocks.0.self_attn.q"], 1),  # taken
        (["a.blocks.0.self_attn.q", "a.blocks.0.self_attn.no"], 0),  # the group does not fit as a whole
        (["a.blocks.0.self_attn.q", "b.blocks.0.self_attn.k", "c.blocks.0.self_attn.no"], 2),
        (["blocks.7.blocks.0.self_attn.q", "blocks.0.self_attn.k"], 1),  # a block is no wrapper
    ],
)
def test_a_prefix_is_left_out_for_a_whole_group_or_not_at_all(names, placed):
    _, weights = recorded("wan_t2v")
    file = {f"transformer.{name}": weights["blocks.0.self_attn.q.weight"] for name in names}
    found, report = resolved(file, comfyui_target(weights))
    assert len(found) == placed == len(report.applied)


def test_a_module_of_another_shape_is_not_looked_for_elsewhere():
    _, weights = recorded("wan_t2v")
    out, columns = weights["blocks.0.self_attn.q.weight"]
    found, report = resolved({"transformer.core.blocks.0.self_attn.q": (out + 1, columns)}, comfyui_target(weights))
    assert not found and report.refused


def test_what_was_left_out_is_said():
    file = Adapter({f"w.blocks.0.self_attn.{x}": LoKrWeights(*[Factor(torch.ones(2, 2))] * 2) for x in "qk"})
    _, weights = recorded("wan_t2v")
    small = {name: (4, 4) if "self_attn" in name else shape for name, shape in weights.items()}
    _, report = resolve(file, comfyui_target(small))
    assert report.notes == ["2 modules were found without “w.” before their names"]
