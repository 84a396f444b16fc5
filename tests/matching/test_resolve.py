"""Modules to weights: by name, checked by shape; what does not match is named with its reason."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lokr_core import Adapter, Factor, LoKrMatchError, LoKrWeights, Target, merge_adapter, resolve
from lokr_core.formats import parse_adapter
from tests.matching.cells import NAMINGS, adapter, comfyui_target, lokr_keys, recorded


def weights(out: int, columns: int, **more) -> LoKrWeights:
    return LoKrWeights(Factor(torch.randn(2, 2)), Factor(torch.randn(out // 2, columns // 2)), **more)


def test_an_ambiguous_flattened_name_is_settled_by_the_targets_weights():
    target = Target({"a.b_c.weight": (4, 6), "a_b.c.weight": (8, 6)})
    tensors = lokr_keys({"lora_unet_a_b_c": (8, 6)})
    matches, _ = resolve(parse_adapter(tensors), target)
    assert [match.weight for match in matches] == ["a_b.c.weight"]


def test_a_wrong_shape_is_refused_and_both_shapes_are_said():
    _, report = resolve(Adapter({"layer": weights(8, 6)}), Target({"layer.weight": (8, 10)}))
    (entry,) = report.refused
    assert "(8, 10)" in entry.detail
    assert "(8, 6" in entry.detail


# A model and the adapter for another one that somebody puts on it: (file, model, what the report must say).
MIXED_UP = [
    ("sdxl", "sd15", "an adapter for SDXL; the model is Stable Diffusion 1"),
    ("sd15", "sdxl", "an adapter for Stable Diffusion 1.x; the model is SDXL"),
    ("sdxl", "sdxl_refiner", "an adapter for SDXL; the model is SDXL refiner"),
    ("flux", "sdxl", "an adapter for Flux.1; the model is SDXL"),
    ("wan_t2v", "flux", "an adapter for Wan 2.1 and 2.2; the model is Flux.1"),
    ("hunyuan_video", "flux", "an adapter for HunyuanVideo; the model is Flux.1"),
]


@pytest.mark.parametrize("file,model,said", MIXED_UP)
def test_an_adapter_for_another_architecture_is_told_by_name(file, model, said):
    modules, _ = recorded(file)
    widths = {"sd15": 768, "sdxl": 2048}  # the recorded models are narrower than the real ones
    real = {
        n: (s[0], widths[file]) if file in widths and "attn2.to_" in n and n[-1] in "kv" else s
        for n, s in modules.items()
    }
    _, weights_of_model = recorded(model)
    _, report = resolve(adapter(real, "lora_unet_+diffusers"), comfyui_target(weights_of_model))
    assert report.refused
    assert said in report.text()
    assert len(report.text().splitlines()) <= 18


def test_what_the_file_says_of_its_base_model_is_told_where_something_is_missing():
    modules, weights_of_model = recorded("flux")
    file = adapter({**modules, "transformer_blocks.9.attn.to_q": (4, 4)}, "lora_unet_+diffusers")
    file.metadata["ss_base_model_version"] = "flux-other"
    _, report = resolve(file, comfyui_target(weights_of_model))
    assert "names flux-other as its base model; the model is Flux.1" in report.text()


def test_two_architectures_in_one_file_each_go_where_they_belong_or_are_named():
    modules, weights_of_flux = recorded("flux")
    others, _ = recorded("z_image")
    tensors = lokr_keys({NAMINGS["lycoris_"](n): s for n, s in modules.items()})
    tensors |= lokr_keys({NAMINGS["diffusion_model.+diffusers"](n): s for n, s in others.items()})
    _, report = resolve(parse_adapter(tensors), comfyui_target(weights_of_flux))
    assert len(report.applied) == len(modules)
    assert len(report.refused) == len(others)


def test_names_of_an_unknown_architecture_are_matched_by_their_endings_and_said_to_be_guessed():
    target = Target({f"net.body.{i}.{part}.weight": (8, 6) for i in range(3) for part in ("up", "down")})
    file = Adapter({f"other.{i}.{part}": weights(8, 6) for i in range(3) for part in ("up", "down")})
    matches, report = resolve(file, target)
    assert {m.module: m.weight for m in matches}["other.2.down"] == "net.body.2.down.weight"
    assert "guess" in report.text()


@pytest.mark.parametrize("change", ["a shape", "a name", "two to one"])
def test_a_guess_is_all_or_nothing(change):
    shapes = {f"net.{i}.up.weight": (8, 6) for i in range(3)}
    modules = {f"other.{i}.up": weights(8, 6) for i in range(3)}
    if change == "a shape":
        modules["other.1.up"] = weights(8, 10)
    elif change == "a name":
        modules["other.9.up"] = weights(8, 6)
    else:
        shapes = {"net.0.up.weight": (8, 6)}
    matches, report = resolve(Adapter(modules), Target(shapes))
    assert not matches
    with pytest.raises(LoKrMatchError):
        report.raise_if_nothing_matched()


def test_a_text_encoder_that_is_not_there_is_named_as_the_reason():
    modules, shapes = recorded("flux")
    tensors = lokr_keys({NAMINGS["lora_unet_+diffusers"](n): s for n, s in modules.items()})
    tensors |= lokr_keys({"lora_te1_text_model_encoder_layers_0_mlp_fc1": (8, 8)})
    _, report = resolve(parse_adapter(tensors), comfyui_target(shapes))
    (entry,) = report.refused
    assert "text encoder" in entry.reason
    assert "not connected" in entry.reason


def test_a_fused_module_of_the_file_goes_to_the_split_weights_of_a_diffusers_model():
    modules, shapes = recorded("flux")
    target = Target({f"{name}.weight": shape for name, shape in modules.items()})
    original = {n.removesuffix(".weight"): s for n, s in shapes.items() if n.endswith(".weight") and len(s) > 1}
    tensors = lokr_keys({"lora_unet_" + name.replace(".", "_"): shape for name, shape in original.items()})
    matches, report = resolve(parse_adapter(tensors), target)
    assert report.complete, report.text()
    qkv = [m for m in matches if m.module == "lora_unet_double_blocks_0_img_attn_qkv"]
    assert [m.weight for m in qkv] == [f"transformer_blocks.0.attn.to_{x}.weight" for x in "qkv"]
    covered = {match.weight for match in matches}
    assert covered == {f"{name}.weight" for name in modules}


def test_a_fused_update_merges_into_split_weights_as_its_rows():
    torch.manual_seed(0)

    class Block(nn.Module):
        def __init__(self, widths):
            super().__init__()
            for name, (out, columns) in widths.items():
                parent = self
                *path, last = name.split(".")
                for step in path:
                    if not hasattr(parent, step):
                        parent.add_module(step, nn.Module())
                    parent = getattr(parent, step)
                parent.add_module(last, nn.Linear(columns, out, bias=False))

    modules, _ = recorded("flux")
    model = Block(modules)
    name = "lora_unet_double_blocks_0_img_attn_qkv"
    out, columns = 3 * modules["transformer_blocks.0.attn.to_q"][0], modules["transformer_blocks.0.attn.to_q"][1]
    update = LoKrWeights(Factor(torch.randn(8, 4)), Factor(torch.randn(out // 8, columns // 4)), 0.3)
    file = parse_adapter({f"{name}.lokr_w1": update.w1.whole, f"{name}.lokr_w2": update.w2.whole})
    before = [getattr(model.transformer_blocks, "0").attn.get_submodule(f"to_{x}").weight.clone() for x in "qkv"]
    with merge_adapter(model, file):
        after = [getattr(model.transformer_blocks, "0").attn.get_submodule(f"to_{x}").weight for x in "qkv"]
        change = torch.cat([a - b for a, b in zip(after, before, strict=True)])
        torch.testing.assert_close(change, update.delta() / 0.3, rtol=1e-4, atol=1e-5)
