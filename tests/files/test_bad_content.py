"""Sound files that hold no sound LoKr: a typed error that names file, module, expected, found and what to do."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lokr_core import (
    LoKrError,
    LoKrFileError,
    LoKrMatchError,
    LoKrShapeError,
    LoKrValueError,
    load_adapter,
    merge_adapter,
)
from lokr_core.adapter import check_strength

NAN, INF = math.nan, math.inf


def ones(*shape, dtype=torch.float32):
    return torch.ones(shape, dtype=dtype)


@pytest.fixture
def save(tmp_path):
    """module's tensors by name, other tensors by key -> a file of both."""

    def write(module: dict | None = None, **others):
        path = tmp_path / "a.safetensors"
        save_file({**{f"layer.{name}": t for name, t in (module or {}).items()}, **others}, str(path))
        return path

    return write


def refused(path, kind: type[LoKrError]) -> LoKrError:
    """The error, which must name file, module, expected, found and what to do."""
    with pytest.raises(kind) as caught:
        load_adapter(path)
    error, text = caught.value, str(caught.value)
    assert type(error) is kind
    for line in (f"file: {path}", "module: layer", "expected: ", "found: ", "what to do: "):
        assert line in text
    return error


WHOLE = {"lokr_w1": ones(2, 2), "lokr_w2": ones(4, 3)}
LOW = {"lokr_w1": ones(2, 2), "lokr_w2_a": ones(4, 2), "lokr_w2_b": ones(2, 3), "alpha": torch.tensor(1.0)}
TUCKER = {"lokr_w1": ones(2, 2), "lokr_w2_a": ones(2, 4), "lokr_w2_b": ones(2, 3), "lokr_t2": ones(2, 2, 3, 3)}


@pytest.mark.parametrize("tensors", [WHOLE, LOW, TUCKER])
def test_the_good_ones_are_read(save, tensors):
    assert load_adapter(save(tensors))["layer"].shape[:2] == (8, 6)


@pytest.mark.parametrize(
    "kept,missing",
    [
        (["lokr_w1"], "lokr_w2"),
        (["lokr_w2"], "lokr_w1"),
        (["lokr_w1", "lokr_w2_a"], "lokr_w2"),
        (["lokr_w1", "lokr_w2_b"], "lokr_w2"),
        (["lokr_w1", "lokr_t2"], "lokr_w2"),
        (["lokr_w1_a", "lokr_w2"], "lokr_w1"),
        (["lokr_w1_b", "lokr_w2"], "lokr_w1"),
        (["lokr_t1"], "lokr_w1"),
    ],
)
def test_a_part_is_missing(save, kept, missing):
    error = refused(save({name: ones(2, 2) for name in kept}), LoKrFileError)
    assert f"{missing} is missing" in error.problem and error.expected == f"{missing}, or {missing}_a and {missing}_b"
    assert all(name in error.found for name in kept)


def test_one_bad_module_among_good_ones_is_the_one_named(save):
    good = {f"good{i}.{name}": t.clone() for i in range(3) for name, t in WHOLE.items()}
    refused(save({"lokr_w1": ones(2, 2)}, **good), LoKrFileError)


@pytest.mark.parametrize(
    "changed,said",
    [
        ({"lokr_w2_a": ones(4, 3)}, "ranks"),
        ({"lokr_w2_a": ones(4)}, "number of axes"),
        ({"lokr_w2_b": ones(2)}, "number of axes"),
        ({"lokr_w1": ones(4)}, "two axes"),
        ({"alpha": ones(2)}, "alpha is not one number"),
        ({"alpha": ones(0)}, "alpha is not one number"),
        ({"dora_scale": ones(7, 1)}, "neither axis"),
        ({"dora_scale": ones(8, 6)}, "neither axis"),
        ({"dora_scale": ones()}, "neither axis"),
    ],
)
def test_shapes_that_do_not_belong_together(save, changed, said):
    assert said in refused(save({**LOW, **changed}), LoKrShapeError).problem


@pytest.mark.parametrize("shape", [(2, 2), (3, 2, 3, 3), (2, 3, 3, 3), (4, 3, 3, 3)])
def test_a_core_of_the_wrong_shape(save, shape):
    error = refused(save({**TUCKER, "lokr_t2": ones(*shape)}), LoKrShapeError)
    assert "core" in error.problem and str(shape) in error.found and "(2, 2, *kernel)" in error.expected


@pytest.mark.every_pair
@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", ["lokr_w1", "lokr_w2_a", "lokr_w2_b", "dora_scale"])
def test_nan_or_inf(save, name, dtype, value):
    tensors = {**LOW, "dora_scale": ones(8, 1)}
    tensors[name] = tensors[name].clone().to(dtype)
    tensors[name][-1, -1] = value
    error = refused(save(tensors), LoKrValueError)
    assert error.problem == f"{name} holds NaN or Inf"
    assert error.found == f"1 of {tensors[name].numel()} are not" and "earlier checkpoint" in error.hint


def test_nan_in_fp8(save):
    refused(save({**WHOLE, "lokr_w2": torch.full((4, 3), NAN).to(torch.float8_e4m3fn)}), LoKrValueError)


@pytest.mark.parametrize("value", [NAN, INF])
def test_an_alpha_that_counts_and_is_no_number(save, value):
    assert "alpha" in refused(save({**LOW, "alpha": torch.tensor(value)}), LoKrValueError).problem


@pytest.mark.parametrize("name", ["lokr_w1", "lokr_w2_a", "dora_scale"])
@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int64, torch.bool])
def test_integer_factors_are_quantised_ones_without_their_scales(save, name, dtype):
    tensors = {**LOW, "dora_scale": ones(8, 1)}
    error = refused(save({**tensors, name: tensors[name].to(dtype)}), LoKrValueError)
    assert name in error.problem and error.found == str(dtype).removeprefix("torch.")


@pytest.mark.parametrize("shape", [(0, 2), (2, 0), (0,)])
def test_an_empty_factor(save, shape):
    assert "empty" in refused(save({**WHOLE, "lokr_w1": ones(*shape)}), LoKrValueError).problem


@pytest.mark.parametrize(
    "keys,said",
    [
        (["lora_unet_a.lora_down.weight", "lora_unet_a.lora_up.weight", "lora_unet_a.alpha"], "1 modules of LoRA"),
        (["a.lora_A.weight", "a.lora_B.weight", "b.lora_A.weight", "b.lora_B.weight"], "2 modules of LoRA"),
        (["a.hada_w1_a", "a.hada_w1_b", "a.hada_w2_a", "a.hada_w2_b"], "1 modules of LoHa"),
        (["a.oft_blocks"], "1 modules of OFT"),
        (["a.diff", "b.lora_up.weight"], "1 modules of full difference, 1 modules of LoRA"),
        (["model.diffusion_model.input_blocks.0.0.weight", "first_stage_model.x"], "a whole checkpoint"),
        (["emb_params"], "a textual inversion embedding"),
        (["clip_l", "clip_g"], "a textual inversion embedding"),
        (["text_model.encoder.layers.0.mlp.fc1.weight", "clip_l.x"], "a text encoder"),
        (["control_model.x"], "a ControlNet"),
        (["decoder.up.0.x"], "a VAE"),
        (["x", "y"], "2 tensors such as x, y"),
        (["lokr_w1", "lokr_w2"], "2 tensors such as lokr_w1, lokr_w2"),
        ([], "no tensors at all"),
    ],
)
def test_no_lokr_inside_says_what_is(save, keys, said):
    path = save(**{key: ones(2, 2) for key in keys})
    with pytest.raises(LoKrFileError) as caught:
        load_adapter(path)
    text = str(caught.value)
    assert "There is no LoKr in this file" in text and f"file: {path}" in text and f"found: {said}" in text
    assert "expected: tensors named" in text and "what to do: " in text


@pytest.mark.parametrize("strength", [NAN, INF, -INF, "strong", None, 10**400, 1j, [1.0]])
def test_a_strength_that_is_no_number(save, strength):
    model = nn.Sequential()
    model.layer = nn.Linear(6, 8)
    before = model.layer.weight.detach().clone()
    with pytest.raises(LoKrValueError) as caught:
        merge_adapter(model, load_adapter(save(WHOLE)), strength)
    assert "finite number" in str(caught.value) and "what to do: use a number such as 0.8" in str(caught.value)
    assert torch.equal(model.layer.weight, before)


@pytest.mark.parametrize("strength,value", [("0.5", 0.5), (2, 2.0), (torch.tensor(0.25), 0.25), (-1, -1.0)])
def test_anything_that_is_a_number_is_a_strength(strength, value):
    assert check_strength(strength) == value


@pytest.mark.parametrize("layer", [nn.Linear(6, 9), nn.Linear(7, 8), nn.Conv2d(6, 9, 1), nn.Conv2d(6, 8, 3)])
def test_a_product_that_does_not_fit_the_weight(save, layer):
    model = nn.Sequential()
    model.layer = layer
    before = layer.weight.detach().clone()
    path = save(WHOLE)
    with pytest.raises(LoKrMatchError) as caught:
        merge_adapter(model, load_adapter(path))
    text = str(caught.value)
    assert isinstance(caught.value, LookupError)
    for said in (
        f"file: {path}",
        "expected: modules such as layer",
        f"weight {tuple(layer.weight.shape)}",
        "(8, 6)",
        "w1 (2, 2) x w2 (4, 3)",
        "what to do: use the adapter with the base model it was trained for",
    ):
        assert said in text
    assert torch.equal(layer.weight, before)
