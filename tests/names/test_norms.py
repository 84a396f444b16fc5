"""Norms that a trainer trained (LyCORIS' `train_norm`, full modules) find their weight under both sides' names."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch

from lokr_core.formats import parse_adapter
from lokr_core.matching import Target, resolve
from lokr_core.tools import Conversion, convert, updates_of
from tests.names.test_tables import DATA, MARKS, NOT_IN_DIFFUSERS, Shape

NORMS = {arch: json.loads((DATA / f"{arch}.json").read_text()) for arch in sorted(p.stem for p in DATA.glob("*.json"))}
BOTH = [arch for arch, sides in NORMS.items() if {"comfyui_norms", "diffusers_norms"} <= sides.keys()]
ONE = [arch for arch, sides in NORMS.items() if "comfyui_norms" in sides]

NAMINGS: dict[str, Callable[[str], str]] = {
    "lycoris": lambda module: "lycoris_" + module.replace(".", "_") + ".w_norm",
    "full modules": lambda module: f"diffusion_model.{module}.diff",
}


def module_of(name: str) -> str:
    return name.rpartition(".")[0]


def comfyui(arch: str, prefix: str = "diffusion_model.", suffix: str = "") -> dict[str, Shape]:
    sides = NORMS[arch]
    norms = {module_of(n) + suffix if suffix else n: shape for n, shape in sides["comfyui_norms"].items()}
    return {prefix + name: tuple(shape) for name, shape in (sides["comfyui"] | norms).items()}


def places(shapes: dict[str, Shape], norms: dict[str, Shape], naming: str) -> dict[str, str]:
    """The norm's name in the file -> the weight that a file with one number per channel of it changes."""
    keys = {name: NAMINGS[naming](name) for name in norms}
    lokr = {"x.lokr_w1": torch.ones(1, 1), "x.lokr_w2": torch.ones(1, 1)}
    adapter = parse_adapter(lokr | {keys[name]: torch.ones(norms[name]) for name in norms})
    where = {match.module: match.weight for match in resolve(adapter, Target(shapes))[0]}
    return {name: where.get(module_of(key), "refused") for name, key in keys.items()}


@pytest.mark.parametrize("naming", NAMINGS)
@pytest.mark.parametrize("arch", BOTH)
def test_each_norm_of_diffusers_has_a_weight_of_its_own_in_comfyui(arch: str, naming: str) -> None:
    target, norms = comfyui(arch), NORMS[arch]["diffusers_norms"]
    found = places(target, norms, naming)
    assert "refused" not in found.values(), found
    assert len(set(found.values())) == len(norms)
    assert {name: list(target[weight]) for name, weight in found.items()} == norms


@pytest.mark.parametrize("arch", BOTH)
def test_each_norm_of_comfyui_has_a_weight_of_its_own_in_diffusers(arch: str) -> None:
    left_out = tuple(text.format(n) for text in NOT_IN_DIFFUSERS.get(arch, ()) for n in range(2))
    modules = NORMS[arch]["diffusers"] | NORMS[arch]["diffusers_norms"]
    norms = {module_of(n): s for n, s in NORMS[arch]["comfyui_norms"].items() if not n.startswith(left_out or ("?",))}
    target = {f"{name}.weight": tuple(shape) for name, shape in modules.items()} | MARKS.get(arch, {})
    found = places(target, norms, "lycoris")
    assert "refused" not in found.values(), found
    assert {name: modules[module_of(weight)] for name, weight in found.items()} == norms


@pytest.mark.parametrize("suffix", ["", ".scale", ".gamma"])
@pytest.mark.parametrize("naming", NAMINGS)
@pytest.mark.parametrize("arch", ONE)
def test_each_norm_is_found_by_the_models_own_name(arch: str, naming: str, suffix: str) -> None:
    """Whatever its weight is called: checkpoints of Flux have `scale` where ComfyUI's model has `weight`."""
    names = {module_of(name): name for name in NORMS[arch]["comfyui_norms"]}
    norms = {module: NORMS[arch]["comfyui_norms"][name] for module, name in names.items()}
    found = places(comfyui(arch, suffix=suffix), norms, naming)
    wanted = {module: f"diffusion_model.{module}{suffix}" if suffix else f"diffusion_model.{name}"
              for module, name in names.items()}  # fmt: skip
    assert found == wanted


def test_the_authors_names_of_hunyuans_norms() -> None:
    """musubi-tuner keeps the names of the authors' repositories; ComfyUI's are those of Flux."""
    for arch in ("hunyuan_video", "hunyuan_image", "hunyuan_video15"):
        stems = {"double_blocks.1.img_attn_q_norm": "double_blocks.1.img_attn.norm.query_norm",
                 "double_blocks.1.txt_attn_k_norm": "double_blocks.1.txt_attn.norm.key_norm"}  # fmt: skip
        if arch != "hunyuan_video15":
            stems["single_blocks.0.q_norm"] = "single_blocks.0.norm.query_norm"
        found = places(comfyui(arch), dict.fromkeys(stems, [16]), "lycoris")
        assert found == {name: f"diffusion_model.{module}.weight" for name, module in stems.items()}


@pytest.mark.parametrize("speaks", ["diffusers", "comfyui"])
@pytest.mark.parametrize("side", ["diffusers", "comfyui"])
@pytest.mark.parametrize("naming", NAMINGS)
def test_a_name_that_both_sides_have_means_what_the_rest_of_the_file_does(side: str, speaks: str, naming: str) -> None:
    """diffusers calls the norm before HunyuanDiT's cross attention norm2, its authors norm3; a LoKr beside it tells."""
    sides = NORMS["hunyuan_dit"]
    target = comfyui("hunyuan_dit")
    if side == "diffusers":
        modules = sides["diffusers"] | sides["diffusers_norms"]
        target = {f"diffusion_model.{name}.weight": tuple(shape) for name, shape in modules.items()}
    other = "blocks.0.attn1.to_q" if speaks == "diffusers" else "blocks.0.attn1.Wqkv"
    rows = 48 if speaks == "diffusers" else 144
    tensors = {f"diffusion_model.{other}.lokr_w1": torch.ones(1, 1),
               f"diffusion_model.{other}.lokr_w2": torch.ones(rows, 48)}  # fmt: skip
    norms = [f"blocks.0.norm{number}" for number in (2, 3)]
    tensors |= {NAMINGS[naming](name): torch.ones(48) for name in norms}
    for again in (1, 2):  # nothing is kept from one time to the next
        matches, report = resolve(parse_adapter(tensors), Target(target))
        assert report.complete, (again, report.text())
        found = [match.weight for match in matches if "norm" in match.module]
        expected = norms if side == speaks else norms[::-1]
        assert found == [f"diffusion_model.{name}.weight" for name in expected]


def test_converted_names_follow_a_name_that_both_sides_have() -> None:
    lokr = {"transformer.blocks.0.attn1.to_q.lokr_w1": torch.ones(1, 1),
            "transformer.blocks.0.attn1.to_q.lokr_w2": torch.ones(48, 48)}  # fmt: skip
    adapter = parse_adapter(lokr | {"transformer.blocks.0.norm2.w_norm": torch.ones(48)})
    assert convert(updates_of(adapter), Conversion("lokr", "lycoris"), Target(comfyui("hunyuan_dit"))).other.keys() == {
        "lycoris_blocks_0_norm2.w_norm"
    }
    made = convert(updates_of(adapter), Conversion("lokr", "comfyui", inexact="full"), Target(comfyui("hunyuan_dit")))
    assert made.other.keys() == {"diffusion_model.blocks.0.norm3.w_norm"}


def test_a_norms_bias_is_added_to_its_bias() -> None:
    """Whatever its weight is called (Stable Audio's are gamma and beta)."""
    lokr = {"x.lokr_w1": torch.ones(1, 1), "x.lokr_w2": torch.ones(1, 1)}
    adapter = parse_adapter({**lokr, "lycoris_norm.w_norm": torch.ones(4), "lycoris_norm.b_norm": torch.ones(4)})
    for weight, bias in (("weight", "bias"), ("gamma", "beta"), ("scale", "bias")):
        matches, _ = resolve(adapter, Target({f"norm.{weight}": (4,), f"norm.{bias}": (4,), "x.weight": (1, 1)}))
        assert [m.weight for m in matches if m.module == "lycoris_norm"] == [f"norm.{weight}", f"norm.{bias}"]
