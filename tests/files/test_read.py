"""A file is read as its trainer meant it; what had to be assumed is said, and nothing in it is dropped."""

from __future__ import annotations

import json
import math

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lokr_core import load_adapter, merge_adapter
from lokr_core._files import DTYPES, read_header
from lokr_core.formats import parse_adapter


def module(**changed) -> dict[str, torch.Tensor]:
    tensors = {
        "lokr_w1": torch.randn(2, 2), "lokr_w2_a": torch.randn(4, 4), "lokr_w2_b": torch.randn(4, 3),
        "alpha": torch.tensor(2.0), **changed,
    }  # fmt: skip
    return {f"layer.{name}": tensor for name, tensor in tensors.items() if tensor is not None}


def whole(**changed) -> dict[str, torch.Tensor]:
    return module(**{"lokr_w2_a": None, "lokr_w2_b": None, "lokr_w2": torch.randn(4, 3), **changed})


def note_in_report(adapter) -> str:
    """What a user is shown of what was assumed about the module."""
    model = nn.Sequential()
    model.layer = nn.Linear(6, 8)
    with merge_adapter(model, adapter) as handle:
        (entry,) = handle.report.applied
        assert entry.note in handle.report.text()
        return entry.note


@pytest.mark.parametrize(
    "alpha,scaling,said",
    [
        (torch.tensor(2.0), 0.5, ""),
        (torch.tensor([2.0]), 0.5, ""),
        (torch.tensor([[2.0]]), 0.5, ""),
        (torch.tensor(2), 0.5, ""),
        (torch.tensor(2.0, dtype=torch.bfloat16), 0.5, ""),
        (torch.tensor(2.0).to(torch.float8_e4m3fn), 0.5, ""),
        (torch.tensor(0.0), 1.0, "alpha is 0, which trainers read as alpha = rank: scaling 1 assumed"),
        (torch.tensor(-2.0), -0.5, "alpha is negative (-2): the update is subtracted"),
        (None, 1.0, "no alpha in the file: scaling 1 assumed"),
    ],
)
def test_alpha_of_a_low_rank_module(alpha, scaling, said):
    adapter = parse_adapter(module(alpha=alpha))
    assert adapter["layer"].scaling == scaling
    assert note_in_report(adapter) == said


@pytest.mark.parametrize(
    "alpha,said",
    [
        (1e10, ""),  # ai-toolkit's full rank
        (100000.0, ""),
        (0.0, "alpha is 0, which counts for nothing where both factors are whole: scaling 1"),
        (-3.0, "alpha is -3, which counts for nothing where both factors are whole: scaling 1"),
        (math.nan, "alpha is nan, which counts for nothing where both factors are whole: scaling 1"),
        (None, "no alpha in the file, and both factors whole: scaling 1 assumed"),
    ],
)
def test_alpha_of_whole_factors_counts_for_nothing(alpha, said):
    adapter = parse_adapter(whole(alpha=None if alpha is None else torch.tensor(alpha)))
    assert adapter["layer"].scaling == 1
    assert note_in_report(adapter) == said


@pytest.mark.parametrize("rank", [16, 10000])
@pytest.mark.parametrize("heard", [True, False])
def test_rs_lora_of_whole_factors(rank, heard):
    """LyCORIS multiplied by √r and stored r·√r, if it heard of rs_lora at all; else it stored r."""
    metadata = {"ss_network_args": json.dumps({"rs_lora": "True"}), "ss_network_dim": str(rank)}
    adapter = parse_adapter(whole(alpha=torch.tensor(rank * (math.sqrt(rank) if heard else 1.0))), metadata)
    assert adapter["layer"].scaling == (math.sqrt(rank) if heard else 1)
    assert "rs_lora" in note_in_report(adapter)


@pytest.mark.parametrize("arguments", ["", "[]", "null", "{", '"rs_lora"', '{"rs_lora": false}', '{"rs_lora": true}'])
@pytest.mark.parametrize("dim", [None, "", "x", "nan", "inf", "1e400", "1e300", "-4", "0"])
def test_metadata_is_anyones_text(arguments, dim):
    metadata = {"ss_network_args": arguments, **({} if dim is None else {"ss_network_dim": dim})}
    assert parse_adapter(whole(), metadata)["layer"].scaling == 1


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_fp8_factors_are_read_as_fp16(tmp_path, dtype):
    tensors = {key: t.to(dtype) if "lokr" in key else t for key, t in module().items()}
    save_file(tensors, str(tmp_path / "a.safetensors"))
    adapter = load_adapter(tmp_path / "a.safetensors")
    weights = adapter["layer"]
    assert weights.w1.whole.dtype == torch.float16
    assert torch.equal(weights.w1.whole.float(), tensors["layer.lokr_w1"].float())
    assert note_in_report(adapter) == "fp8 factors, read as fp16"


def test_fp16_holds_every_fp8_number():
    for dtype in (torch.float8_e4m3fn, torch.float8_e5m2):
        every = torch.arange(256).to(torch.uint8).view(dtype).float()
        finite = every[every.isfinite()]
        assert torch.equal(finite.half().float(), finite) and len(finite) > 240


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_other_dtypes_are_kept(dtype):
    tensors = {key: t.to(dtype) for key, t in module().items()}
    weights = parse_adapter(tensors)["layer"]
    assert torch.equal(weights.w2.a, tensors["layer.lokr_w2_a"]) and weights.w2.a.dtype == dtype


@pytest.mark.parametrize("name", ["stil ü.safetensors", "風格 🎨.safetensors", "with space.safetensors", "no ending"])
def test_any_name_of_a_file(tmp_path, name):
    path = tmp_path / "Ordner ß" / name
    path.parent.mkdir()
    save_file(module(), str(path))
    assert load_adapter(path).path == path
    assert len(load_adapter(str(path))) == 1


@pytest.mark.parametrize(
    "tensors,said",
    [
        (whole(lokr_w2_a=torch.ones(4, 1), lokr_w2_b=torch.ones(1, 3)), "lokr_w2 is stored whole and low-rank"),
        (whole(lokr_t2=torch.ones(2, 2, 3)), "lokr_w2 is stored whole and low-rank"),
        (module(lokr_w1_a=torch.ones(2, 1)), "lokr_w1 is stored whole and low-rank"),
        (module(lokr_t1=torch.full((1,), math.nan)), "lokr_t1 is ignored"),
        (module(lokr_w1=None, lokr_w1_a=torch.ones(2, 1), lokr_w1_b=torch.ones(1, 2)), "w1 has rank 1, w2 4"),
    ],
)
def test_what_is_passed_over_is_said(tensors, said):
    assert said in "; ".join(parse_adapter(tensors)["layer"].notes)


def test_what_is_no_lokr_is_kept_and_named():
    others = {
        "a.lora_up.weight": torch.ones(2, 2), "a.lora_down.weight": torch.ones(2, 2), "a.alpha": torch.tensor(1.0),
        "b.w_norm": torch.ones(2), "layer.diff_b": torch.ones(8), "strange": torch.ones(1), "lokr_w1": torch.ones(1, 1),
        "c.alpha": torch.tensor(3), "c.dora_scale": torch.ones(2, 1),
    }  # fmt: skip
    adapter = parse_adapter({**module(), **others})
    assert list(adapter) == ["layer"]
    assert adapter.other == others
    assert adapter.other_kinds == {
        "a": "LoRA", "b": "norm", "layer": "full difference", "strange": "unknown", "lokr_w1": "unknown",
        "c.alpha": "unknown", "c.dora_scale": "unknown",
    }  # fmt: skip


def test_metadata_is_kept(tmp_path):
    metadata = {"ss_network_args": '{"algo": "lokr"}', "ユーザー": "値"}
    save_file(module(), str(tmp_path / "a"), metadata)
    assert load_adapter(tmp_path / "a").metadata == metadata
    assert read_header(tmp_path / "a").metadata == metadata


@pytest.mark.parametrize(
    "name,path,component,flattened,producer",
    [
        ("lora_unet_mid_block", "mid_block", "unet", True, "kohya-ss / LyCORIS"),
        ("lora_te_text_model", "text_model", "te", True, "kohya-ss / LyCORIS"),
        ("lora_te1_text_model", "text_model", "te1", True, "kohya-ss / LyCORIS"),
        ("lycoris_mid_block", "mid_block", "", True, "LyCORIS standalone"),
        ("transformer.blocks.0", "blocks.0", "unet", False, "diffusers names"),
        ("blocks.0", "blocks.0", "", False, "plain module names"),
    ],
)
def test_names_are_taken_apart(name, path, component, flattened, producer):
    adapter = parse_adapter({key.replace("layer", name): t for key, t in module().items()})
    found = adapter.names[name]
    assert (found.full, found.path, found.component, found.flattened) == (name, path, component, flattened)
    assert adapter.producer == producer


@pytest.mark.parametrize("write", ["in place", "anew"])
def test_a_file_written_over_does_not_change_what_was_loaded(tmp_path, write):
    path = tmp_path / "a.safetensors"
    tensors = {**module(), "other": torch.ones(3)}
    save_file(tensors, str(path))
    adapter = load_adapter(path)
    if write == "in place":
        with path.open("r+b") as file:
            file.write(bytes(path.stat().st_size))
    else:
        path.write_bytes(b"")
    assert torch.equal(adapter["layer"].w1.whole, tensors["layer.lokr_w1"])
    assert torch.equal(adapter["layer"].w2.b, tensors["layer.lokr_w2_b"])
    assert torch.equal(adapter.other["other"], torch.ones(3))


def test_every_dtype_of_the_table_is_safetensors_own(tmp_path):
    for name, dtype in DTYPES.items():
        save_file({"a": torch.zeros(3, dtype=torch.uint8).repeat(dtype.itemsize).view(dtype)}, str(tmp_path / "a"))
        info = read_header(tmp_path / "a").tensors["a"]
        assert (info.dtype, info.shape, info.stop - info.start) == (dtype, (3,), 3 * dtype.itemsize), name


def test_what_an_adapter_tells_of_a_module():
    weights = parse_adapter(module())["layer"]
    assert (weights.shape, weights.rank, weights.is_tucker, weights.dora_axis) == ((8, 6), 4, False, None)
    assert weights.numel == 4 + 16 + 12
    delta = weights.delta()
    expected = torch.kron(weights.w1.whole, weights.w2.a @ weights.w2.b) * 0.5
    assert delta.dtype == torch.float32 and torch.allclose(delta, expected, atol=1e-6)
    assert weights.delta(torch.float64).dtype == torch.float64
    assert parse_adapter(module(lokr_w1=torch.ones(2, 2).double()))["layer"].delta().dtype == torch.float64
