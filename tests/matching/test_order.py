"""Rows that a trainer leaves in diffusers' order under the authors' name: OneTrainer's LoKr of a layer whose halves the
authors have in reverse order, as its own forward showed in August 2026."""

from __future__ import annotations

import pytest
import torch

from lokr_core import Adapter, Factor, LoKrWeights, Target, load_adapter, merge_adapter, resolve, save_adapter
from lokr_core.formats import parse_adapter
from lokr_core.matching import in_named_order
from lokr_core.tools import Conversion, convert, updates_of
from tests.matching.cells import recorded

MODULE = {"flux": "final_layer.adaLN_modulation.1", "flux2": "final_layer.adaLN_modulation.1",
          "hunyuan_video": "final_layer.adaLN_modulation.1", "sd3": "final_layer.adaLN_modulation.1"}  # fmt: skip
ONETRAINER = {"ot_branch": "master", "ot_revision": "23df383"}
PREFIXES = ["lora_unet_", "diffusion_model.", ""]


def target_of(architecture: str, side: str) -> Target:
    modules, weights = recorded(architecture)
    if side == "diffusers":
        return Target({f"{name}.weight": shape for name, shape in modules.items()})
    return Target({f"diffusion_model.{name}": shape for name, shape in weights.items()})


def file_of(architecture: str, prefix: str, l: int, metadata: dict, name: str = "") -> tuple[Adapter, torch.Tensor]:
    """(an adapter for the layer alone, what its tensors say)."""
    path = name or MODULE[architecture]
    out, columns = recorded(architecture)[1][f"{MODULE[architecture]}.weight"]
    w1, w2 = torch.randn(l, 2), torch.randn(out // l, columns // 2)
    full = prefix + (path.replace(".", "_") if prefix.endswith("_") else path)
    tensors = {f"{full}.lokr_w1": w1, f"{full}.lokr_w2": w2, f"{full}.alpha": torch.tensor(1.0)}
    return parse_adapter(tensors, metadata), torch.kron(w1, w2)


def change(adapter: Adapter, target: Target) -> torch.Tensor:
    (match,) = resolve(adapter, target)[0]
    weight = torch.zeros(target.shapes[match.weight])
    match.add_to_(weight, 1.0)
    return weight


def swapped(delta: torch.Tensor) -> torch.Tensor:
    return delta.roll(len(delta) // 2, 0)


@pytest.mark.every_value
@pytest.mark.parametrize("l", [1, 3, 4])
@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("side", ["diffusers", "original"])
@pytest.mark.parametrize("architecture", MODULE)
def test_rows_are_diffusers_where_onetrainer_wrote_the_authors_name(architecture, side, prefix, l):
    adapter, said = file_of(architecture, prefix, l, ONETRAINER)
    found = change(adapter, target_of(architecture, side))
    assert torch.allclose(found, said if side == "diffusers" else swapped(said), atol=1e-6)


@pytest.mark.parametrize("side", ["diffusers", "original"])
def test_rows_of_every_other_file_are_in_the_order_of_their_name(side):
    theirs, said = file_of("flux", "transformer.", 4, ONETRAINER, "norm_out.linear")
    assert torch.allclose(change(theirs, target_of("flux", side)), said if side == "diffusers" else swapped(said))
    other, said = file_of("flux", "lora_unet_", 4, {"ss_network_module": "lycoris.kohya"})
    assert torch.allclose(change(other, target_of("flux", side)), swapped(said) if side == "diffusers" else said)


def test_a_lora_of_the_same_trainer_has_swapped_halves_already():
    out, columns = recorded("flux")[1]["final_layer.adaLN_modulation.1.weight"]
    lora = {"up": torch.randn(out, 2), "down": torch.randn(2, columns)}
    file = {f"lora_unet_final_layer_adaLN_modulation_1.lora_{key}.weight": tensor for key, tensor in lora.items()}
    file |= {"lora_unet_img_in.lokr_w1": torch.ones(1, 1), "lora_unet_img_in.lokr_w2": torch.ones(48, 16)}
    target = target_of("flux", "original")
    matches, _ = resolve(parse_adapter(file, ONETRAINER), target)
    (match,) = [match for match in matches if match.kind != "LoKr"]
    weight = torch.zeros(out, columns)
    match.add_to_(weight, 1.0)
    assert torch.allclose(weight, lora["up"] @ lora["down"], atol=1e-5)


def test_magnitudes_are_swapped_by_the_trainer_and_stay():
    _, weights = recorded("flux")
    out, columns = weights["final_layer.adaLN_modulation.1.weight"]
    update = LoKrWeights(
        Factor(torch.randn(4, 2)), Factor(torch.randn(out // 4, columns // 2)), 1.0, torch.rand(out, 1)
    )
    name = "diffusion_model.final_layer.adaLN_modulation.1"
    adapter = Adapter({name: update}, metadata=dict(ONETRAINER))
    turned = in_named_order(adapter, target_of("flux", "original").has_reversed_halves)[name]
    assert torch.equal(turned.dora_scale, update.dora_scale)
    assert torch.equal(turned.delta(), swapped(update.delta()))


@pytest.mark.parametrize("names", ["kohya", "diffusers", "original"])
def test_what_is_written_under_new_names_is_in_their_order(names, tmp_path):
    target = target_of("flux", "original")
    adapter, said = file_of("flux", "lora_unet_", 4, ONETRAINER)
    found = convert(updates_of(adapter), Conversion("lokr", names), target)
    moved = Adapter({m.name.full: m.weights for m in found.modules}, {m.name.full: m.name for m in found.modules},
                    metadata=found.metadata)  # fmt: skip
    assert torch.allclose(change(moved, target), swapped(said), atol=1e-6)
    if names == "diffusers":  # save_adapter has no such name for a weight with swapped halves
        return
    _, weights = recorded("flux")
    model = {f"diffusion_model.{name}": torch.empty(shape) for name, shape in weights.items()}
    save_adapter(adapter, tmp_path / "a.safetensors", format="comfyui" if names == "original" else names, model=model)
    assert torch.allclose(change(load_adapter(tmp_path / "a.safetensors"), target), swapped(said), atol=1e-6)
    save_adapter(adapter, tmp_path / "b.safetensors")  # as it was, and still OneTrainer's
    assert torch.allclose(change(load_adapter(tmp_path / "b.safetensors"), target), swapped(said), atol=1e-6)


def test_a_model_of_no_known_architecture_takes_the_rows_as_the_name_says():
    adapter, said = file_of("flux", "", 4, ONETRAINER)
    model = torch.nn.Module()
    model.final_layer = torch.nn.Module()
    model.final_layer.adaLN_modulation = torch.nn.Sequential(torch.nn.SiLU(), torch.nn.Linear(*said.shape[::-1]))
    weight = model.final_layer.adaLN_modulation[1].weight
    before = weight.detach().clone()
    with merge_adapter(model, adapter):
        assert torch.allclose(weight - before, said, atol=1e-5)
