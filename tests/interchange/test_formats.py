"""What is saved in a format does to a model what it did before; what a format cannot hold is an error that says so."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from lokr_core import Adapter, Factor, LoKrMatchError, LoKrValueError, LoKrWeights, load_adapter, save_adapter
from lokr_core._files import load_tensors
from lokr_core.formats import parse_adapter
from lokr_core.saving import SPELLINGS
from tests.interchange.adapters import FORMS, LOW, WHOLE, Layers, adapter_for, assert_same, deltas, lokr
from tests.matching.cells import recorded

ARCHITECTURES = ["sd15", "sd3", "flux", "flux2", "z_image", "qwen_image", "wan_t2v", "hunyuan_video", "auraflow"]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("format", SPELLINGS)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_kept_in_every_format(tmp_path, form, format):
    """Without a model: prefixes and spelling change, and PEFT's form where it has to."""
    skip = ("conv1d",) if format in ("peft", "diffusers") and form in (WHOLE, "w1 low-rank") else ()
    model = Layers()
    adapter = adapter_for(model, form, skip)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters() if name.endswith("weight")}
    shapes = {name: shape for name, shape in shapes.items() if name.removesuffix(".weight") in adapter}
    save_adapter(adapter, tmp_path / "a.safetensors", format=format, model=model)
    found = load_adapter(tmp_path / "a.safetensors")
    assert_same(deltas(found, shapes), deltas(adapter, shapes))
    if form in (LOW, WHOLE):
        assert all(w.w1.tensors.keys() == adapter["inner.linear"].w1.tensors.keys() for w in found.values())
        assert sum(w.numel for w in found.values()) == sum(w.numel for w in adapter.values()), "nothing was rewritten"


@cache
def trained(architecture: str) -> tuple[Adapter, dict[str, dict], dict[str, dict]]:
    """(an adapter in diffusers' names, {side: weights' shapes}, {side: what it changes there})."""
    modules, weights = recorded(architecture)
    modules = {name: shape for name, shape in modules.items() if len(shape) < 5}  # PEFT has no LoKr for Conv3d
    shapes = {
        "diffusers": {f"{name}.weight": shape for name, shape in modules.items()},
        "comfyui": {f"diffusion_model.{name}": shape for name, shape in weights.items()},
    }
    tensors = {}
    for name, shape in modules.items():
        w = lokr(shape, rank=1, scaling=1.0)
        tensors |= {f"transformer.{name}.lokr_w1": w.w1.whole, f"transformer.{name}.lokr_w2_a": w.w2.a}
        tensors |= {f"transformer.{name}.lokr_w2_b": w.w2.b, f"transformer.{name}.alpha": torch.tensor(1.0)}
    adapter = parse_adapter(tensors)
    return adapter, shapes, {side: deltas(adapter, weights) for side, weights in shapes.items()}


@pytest.mark.every_value
@pytest.mark.parametrize("side", ["diffusers", "comfyui"])
@pytest.mark.parametrize("format", ["kohya", "lycoris", "comfyui", "diffusers"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_with_names_looked_up_in_either_model(tmp_path, architecture, format, side):
    adapter, shapes, expected = trained(architecture)
    path = tmp_path / "b.safetensors"
    model = {name: torch.empty(shape, device="meta") for name, shape in shapes[side].items()}
    save_adapter(adapter, path, format=format, model=model)
    found = load_adapter(path)
    for other in shapes:
        assert_same(deltas(found, shapes[other]), expected[other])
    if format == "comfyui":
        whole = [name.path for name in found.names.values() if name.full.startswith("diffusion_model.")]
        assert {f"diffusion_model.{name}.weight" for name in whole} <= shapes["comfyui"].keys()
        assert len(whole) == len(found) or architecture != "sd15"


MODELS = st.dictionaries(
    st.sampled_from(["a", "a.b", "c.0", "c.1.d", "e_f"]),
    st.tuples(
        st.tuples(st.integers(1, 40), st.integers(1, 40)),
        st.sampled_from(FORMS),
        st.integers(1, 12),
        st.sampled_from([1.0, 0.25, -3.0, 1 / 3, 16 / 7]),
    ),
    min_size=1,
)


# The only decompose_factor that splits both is the first of neither's factors.
@example({"a": ((1, 3), WHOLE, 1, 1.0), "c.0": ((1, 30), WHOLE, 1, 1.0)}, 4, "diffusers")
@given(layers=MODELS, factor=st.sampled_from([-1, 1, 2, 4, 6, 16]), format=st.sampled_from([None, *SPELLINGS]))
def test_load_after_save_is_the_same_update_for_every_module(tmp_path_factory, layers, factor, format):
    """Of any sizes, ranks and scalings, those that PEFT would not give such a form included."""
    adapter = Adapter(
        {name: lokr(shape, form, rank, factor, scaling) for name, (shape, form, rank, scaling) in layers.items()}
    )
    path = tmp_path_factory.mktemp("property") / "a.safetensors"
    save_adapter(adapter, path, format=format)
    read = load_adapter(path)
    found = {read.names[module].path: weights for module, weights in read.items()}
    for name, weights in adapter.items():
        flat = format in ("kohya", "lycoris")
        delta = found[name.replace(".", "_") if flat else name].delta()
        assert torch.allclose(delta, weights.delta(), rtol=1e-4, atol=1e-5 * float(weights.delta().abs().max()))


def one(weights: LoKrWeights, name: str = "base_model.model.layer", **fields) -> Adapter:
    """An adapter of one module, its name taken apart as from a file."""
    stored = parse_adapter({f"{name}.lokr_w1": torch.ones(1, 1), f"{name}.lokr_w2": torch.ones(1, 1)})
    return Adapter({name: weights}, names=dict(stored.names), **fields)


@pytest.mark.parametrize("format", ["peft", "diffusers"])
@pytest.mark.parametrize(
    ("weights", "said"),
    [
        (lokr((8, 12), dora_scale=torch.ones(8, 1)), "PEFT's LoKr has no DoRA"),
        (LoKrWeights(Factor(torch.ones(2, 2)), Factor(torch.ones(4, 4, 1, 3, 3))), "PEFT's LoKr has no Conv3d"),
        (LoKrWeights(Factor(torch.ones(2, 2)), Factor(torch.ones(4, 4, 3))), "factors of a Conv1d in reverse"),
        (LoKrWeights(Factor(torch.ones(2, 16)), Factor(torch.ones(16, 2))), "one decompose_factor for all modules"),
    ],
)
def test_what_peft_cannot_hold_is_refused_by_name_and_nothing_written(tmp_path, weights, said, format):
    with pytest.raises(LoKrValueError, match=said) as error:
        save_adapter(one(weights), tmp_path / "a.safetensors", format=format)
    assert "module: layer" in str(error.value) and "kohya" in str(error.value)
    assert not list(tmp_path.iterdir())


def test_what_is_no_lokr_is_written_under_its_new_name_or_refused(tmp_path):
    lora = {"lora_up.weight": torch.ones(4, 1), "lora_down.weight": torch.ones(1, 4), "alpha": torch.tensor(1.0)}
    tensors = {f"transformer.a.b.{name}": tensor for name, tensor in lora.items()}
    tensors |= {"transformer.a.c.lokr_w1": torch.ones(2, 2), "transformer.a.c.lokr_w2": torch.ones(2, 2)}
    adapter = parse_adapter({**tensors, "stray": torch.ones(1)})
    save_adapter(adapter, tmp_path / "a.safetensors", format="kohya")
    stored = load_tensors(tmp_path / "a.safetensors")[0]
    assert {f"lora_unet_a_b.{name}" for name in lora} < stored.keys() and "stray" in stored
    with pytest.raises(LoKrValueError, match="The format diffusers holds LoKr alone"):
        save_adapter(adapter, tmp_path / "b.safetensors", format="diffusers")


def test_names_that_cannot_be_told_apart_ask_for_the_model(tmp_path):
    model = Layers()
    flattened = one(lokr((40, 24)), "lora_unet_inner_linear")
    with pytest.raises(LoKrValueError, match="dots in its names") as error:
        save_adapter(flattened, tmp_path / "a.safetensors", format="comfyui")
    assert "model=model" in str(error.value)
    save_adapter(flattened, tmp_path / "a.safetensors", format="comfyui", model=model)
    assert list(load_adapter(tmp_path / "a.safetensors")) == ["diffusion_model.inner.linear"]
    with pytest.raises(LoKrMatchError, match="1 of the 1 modules do not belong to the model"):
        save_adapter(one(lokr((8, 8)), "lora_unet_gone"), tmp_path / "b.safetensors", format="comfyui", model=model)


def test_a_format_that_does_not_exist_names_those_that_do(tmp_path):
    with pytest.raises(LoKrValueError, match="Unknown format") as error:
        save_adapter(one(lokr((8, 8))), tmp_path / "a", format="kohja")
    assert "kohya" in str(error.value)


@pytest.mark.every_value
@pytest.mark.parametrize("format", SPELLINGS)
@pytest.mark.parametrize("form", FORMS)
def test_a_scaling_is_kept_exactly_and_metadata_too(tmp_path, form, format):
    for scaling in (1.0, 0.3, -2.0, 16 / 9, 1e-3):
        weights = replace(lokr((40, 24), form, scaling=scaling), alpha=None)
        path = tmp_path / "a.safetensors"
        save_adapter(one(weights, metadata={"ss_output_name": "x"}), path, metadata={"more": "y"}, format=format)
        found = load_adapter(path)
        assert found.metadata["ss_output_name"] == "x" and found.metadata["more"] == "y"
        (kept,) = found.values()
        assert torch.allclose(kept.delta(), weights.delta(), rtol=1e-5, atol=0)


def test_a_configuration_of_peft_is_superseded_by_alphas(tmp_path):
    adapter = one(lokr((40, 24), scaling=2.0))
    save_adapter(adapter, tmp_path / "d.safetensors", format="diffusers")
    save_adapter(load_adapter(tmp_path / "d.safetensors"), tmp_path / "k.safetensors", format="kohya")
    tensors, metadata = load_tensors(tmp_path / "k.safetensors")
    assert "lora_adapter_metadata" not in metadata and tensors["lora_unet_layer.alpha"] == 4.0


def test_a_pipeline_is_one_file_of_diffusers_with_a_configuration_for_each_part(tmp_path):
    names = {"lora_unet_proj": (8, 12), "lora_te1_mlp": (16, 8), "lora_te2_mlp": (8, 24)}
    tensors = {}
    for rank, (name, shape) in enumerate(names.items(), 1):
        w = lokr(shape, rank=rank, factor=2)
        tensors |= {f"{name}.lokr_w1": w.w1.whole, f"{name}.lokr_w2_a": w.w2.a, f"{name}.lokr_w2_b": w.w2.b}
        tensors[f"{name}.alpha"] = torch.tensor(float(rank))
    adapter = parse_adapter(tensors)
    save_adapter(adapter, tmp_path / "a.safetensors", format="diffusers")
    found = load_adapter(tmp_path / "a.safetensors")
    renamed = dict(zip(names, ["transformer.proj", "text_encoder.mlp", "text_encoder_2.mlp"], strict=True))
    assert found.keys() == set(renamed.values())
    assert all(torch.equal(adapter[mine].delta(), found[theirs].delta()) for mine, theirs in renamed.items())
    config = json.loads(found.metadata["lora_adapter_metadata"])
    assert config["text_encoder.r"] == 2 and config["text_encoder_2.r"] == 3


@pytest.mark.parametrize(("encoders", "prefixes"), [(1, {"lora_te_"}), (2, {"lora_te1_", "lora_te2_"})])
def test_text_encoders_are_numbered_where_there_are_several_as_kohya_does(tmp_path, encoders, prefixes):
    names = ("self_attn.q_proj", "self_attn.k_proj", "mlp.fc1")
    layers = {f"text_model.encoder.layers.0.{name}": (8 * (n + 1), 12) for n, name in enumerate(names)}
    parts = ("text_encoder.", "text_encoder_2.")[:encoders]
    shapes = {part + name: shape for part in parts for name, shape in layers.items()}
    tensors = {}
    for name, shape in shapes.items():
        w = lokr(shape, rank=1, scaling=1.0)
        tensors |= {f"{name}.lokr_w1": w.w1.whole, f"{name}.lokr_w2_a": w.w2.a, f"{name}.lokr_w2_b": w.w2.b}
    model = {f"{name}.weight": torch.empty(shape, device="meta") for name, shape in shapes.items()}
    save_adapter(parse_adapter(tensors), tmp_path / "a.safetensors", format="kohya", model=model)
    found = load_adapter(tmp_path / "a.safetensors")
    assert {name[: name.index("text_model")] for name in found} == prefixes
    weights = {name: tuple(tensor.shape) for name, tensor in model.items()}
    assert_same(deltas(found, weights), deltas(parse_adapter(tensors), weights))
