"""``convert``: what becomes of LoRA, LoHa, differences, biases and DoRA; the energy that is told is the true one."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from lokr_core import Adapter, Factor, LoKrValueError, LoKrWeights, load_adapter, save_adapter
from lokr_core._files import read_header
from lokr_core.conversion import Keep
from lokr_core.tools import Conversion, apply_to_file, convert_file, read_updates
from lokr_core.tools._about import CONVERSION_KEY
from tests.interchange.adapters import LOW, WHOLE, lokr


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def lora(name: str, out: int, columns: int, rank: int) -> dict[str, torch.Tensor]:
    up, down = torch.randn(out, rank), torch.randn(rank, columns)
    return {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down, f"{name}.alpha": torch.tensor(rank / 2)}


def product_lora(name: str, l: int, k: int, m: int, n: int, rank: int) -> dict[str, torch.Tensor]:
    """A LoRA that is a LoKr: W1 of rank 1, W2 of that rank."""
    w1 = torch.randn(l, 1), torch.randn(1, m)
    w2 = torch.randn(k, rank), torch.randn(rank, n)
    return {f"{name}.lora_up.weight": torch.kron(w1[0], w2[0]), f"{name}.lora_down.weight": torch.kron(w1[1], w2[1])}


def converted(tmp_path, tensors: dict, conversion: Conversion, metadata: dict | None = None, **options):
    """(what convert_file tells, the updates before, the updates after)."""
    save_file({k: t.contiguous() for k, t in tensors.items()}, tmp_path / "a.safetensors", metadata)
    found = convert_file(tmp_path / "a.safetensors", tmp_path / "b.safetensors", conversion, torch.float32, **options)
    before = read_updates(tmp_path / "a.safetensors").adapter
    return found, before, read_updates(tmp_path / "b.safetensors").adapter


def test_a_lora_becomes_the_nearest_lokr_and_one_that_is_none_stays(tmp_path):
    tensors = product_lora("lora_unet_a", 8, 16, 8, 12, 2) | lora("lora_unet_b", 64, 96, 4)
    found, before, after = converted(tmp_path, tensors, Conversion("lokr"))
    forms = {made.name.full: (made.form, made.energy) for made in found.modules}
    assert forms["lora_unet_a"] == ("LoKr", pytest.approx(1, abs=1e-6)) and forms["lora_unet_b"][0] == "LoRA"
    for module, weights in before.items():
        assert torch.dist(after[module].delta(), weights.delta()) <= 1e-5 * weights.delta().norm()
    assert found.modules[0].numel < before["lora_unet_a"].numel


def test_factor_1_is_the_same_lora_under_lokrs_names_and_told(tmp_path):
    tensors = lora("lora_unet_b", 64, 96, 4)
    conversion = Conversion("lokr", keep=Keep(rank=4), factors=(1,))
    found, before, after = converted(tmp_path, tensors, conversion)
    assert any("W1 is the number 1" in note for note in found.notes)
    delta = before["lora_unet_b"].delta()
    assert torch.dist(after["lora_unet_b"].delta(), delta) <= 1e-5 * delta.norm()


@pytest.mark.parametrize("to", ["lora", "full"])
def test_loha_and_differences_are_converted_and_columns_kept(tmp_path, to):
    hada = {f"lora_unet_a.hada_w{i}_{x}": torch.randn(*s) for i in (1, 2) for x, s in (("a", (16, 2)), ("b", (2, 12)))}
    tensors = {**hada, "lora_unet_a.alpha": torch.tensor(1.0), "lora_unet_b.diff": torch.randn(8, 6)}
    tensors |= {"lora_unet_b.diff_b": torch.randn(8), "lora_unet_c.w_norm": torch.randn(8)}
    found, before, after = converted(tmp_path, tensors, Conversion(to, keep=Keep(error=0)))
    w1, w2 = (hada[f"lora_unet_a.hada_w{i}_a"] @ hada[f"lora_unet_a.hada_w{i}_b"] for i in (1, 2))
    assert torch.allclose(after["lora_unet_a"].delta(), 0.5 * w1 * w2, atol=1e-4)
    assert torch.allclose(after["lora_unet_b"].delta(), tensors["lora_unet_b.diff"], atol=1e-5)
    written = load_file(tmp_path / "b.safetensors")
    for key in ("lora_unet_b.diff_b", "lora_unet_c.w_norm"):
        assert torch.equal(written[key], tensors[key])
    if to == "lora":
        assert found.modules[0].rank == 4


@pytest.mark.parametrize("keep", [Keep(rank=3), Keep(energy=0.9), Keep(error=0.3), Keep(size=9_000)], ids=str)
def test_the_energy_that_is_told_is_the_true_one(tmp_path, keep):
    adapter = Adapter({f"lora_unet_{n}": lokr(s, WHOLE) for n, s in (("a", (48, 32)), ("b", (32, 24)))})
    save_adapter(adapter, tmp_path / "a.safetensors")
    paths = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    found = convert_file(*paths, Conversion("lora", keep=keep), torch.float32, lossy=True)
    after = read_updates(paths[1]).adapter
    lost = sum(float((after[m].delta() - w.delta()).square().sum()) for m, w in adapter.items())
    total = sum(float(w.delta().square().sum()) for w in adapter.values())
    assert 1 - found.energy == pytest.approx(lost / total, abs=1e-5)
    if keep.size:
        assert 0.8 * keep.size < paths[1].stat().st_size <= keep.size + 400  # its metadata


def test_metadata_tells_what_was_done_and_not_what_the_file_no_longer_is(tmp_path):
    metadata = {
        "ss_network_args": '{"algo": "lokr", "rs_lora": "True"}',
        "ss_network_dim": "100",
        "modelspec.title": "x",
    }
    tensors = {f"lora_unet_a.{k}": t for k, t in lokr((32, 24), LOW).tensors.items()}
    converted(tmp_path, tensors, Conversion("lora", keep=Keep(error=0)), metadata)
    written = read_header(tmp_path / "b.safetensors").metadata
    assert written["ss_network_module"] == "networks.lora" and written["ss_network_dim"] == "8"
    assert written["modelspec.title"] == "x" and "ss_network_args" not in written
    assert json.loads(written[CONVERSION_KEY])["to"] == "lora"


@pytest.mark.parametrize(
    "to, names", [("lora", "kohya"), ("lokr", "kohya"), ("full", "comfyui"), ("lora", "diffusers")]
)
def test_modelspec_is_written_anew_for_what_the_file_is(tmp_path, to, names):
    metadata = {"modelspec.title": "x", "modelspec.architecture": "flux-1-dev/lycoris", "modelspec.date": "2020-01-01",
                "modelspec.hash_sha256": "0xff", "sshs_model_hash": "ff", "modelspec.implementation": "y"}  # fmt: skip
    tensors = {f"lora_unet_a.{k}": t for k, t in lokr((32, 24), LOW).tensors.items()}
    converted(tmp_path, tensors, Conversion(to, names, keep=Keep(error=0) if to == "lora" else Keep()), metadata)
    written = read_header(tmp_path / "b.safetensors").metadata
    assert written["modelspec.architecture"] == "flux-1-dev/lora" and written["modelspec.title"] == "x"
    assert written["modelspec.implementation"] == ("diffusers" if names == "diffusers" else "y")
    assert written["modelspec.date"] > "2026" and not any("hash" in key for key in written)


def test_modelspec_names_an_architecture_that_the_names_tell_and_none_that_is_not_known(tmp_path):
    for names, told in (("double_blocks_0_img_mod_lin", "flux-1/lora"), ("some_block_0_thing", None)):
        tensors = {f"lora_unet_{names}.{k}": t for k, t in lokr((32, 24), LOW).tensors.items()}
        converted(tmp_path, tensors, Conversion("lora", keep=Keep(error=0)))
        assert read_header(tmp_path / "b.safetensors").metadata.get("modelspec.architecture") == told


@pytest.mark.parametrize("size", [20_000, 34_000])
def test_a_size_shares_the_ranks_of_lokrs_second_factors(tmp_path, size):
    """LoKr are resized, a LoRA that is nearly a LoKr becomes one first; the energy that is told is the true one."""
    near = product_lora("lora_unet_b", 8, 16, 8, 12, 6)
    near["lora_unet_b.lora_up.weight"] += 0.01 * torch.randn(128, 6)
    whole = {name: lokr((256, 192), WHOLE, scaling=0.5 + number) for number, name in enumerate("acd")}
    tensors = {f"lora_unet_{name}.{k}": t for name, w in whole.items() for k, t in w.tensors.items()} | near
    found, before, after = converted(tmp_path, tensors, Conversion("lokr", keep=Keep(size=size)), lossy=True)
    assert {made.form for made in found.modules} == {"LoKr"} and len(found.modules) == 4
    assert 0.8 * size < (tmp_path / "b.safetensors").stat().st_size <= size + 600  # its metadata
    for made in found.modules:
        exact = before[made.name.full].delta()
        lost = float((after[made.name.full].delta() - exact).norm() / exact.norm()) ** 2
        assert made.energy == pytest.approx(1 - lost, abs=1e-4)


def test_a_size_that_cannot_be_had_is_told(tmp_path):
    tensors = {f"lora_unet_a.{k}": t for k, t in lokr((128, 96), WHOLE).tensors.items()}
    with pytest.raises(LoKrValueError, match="size does not hold"):
        converted(tmp_path, tensors, Conversion("lokr", keep=Keep(size=100)))
    with pytest.raises(LoKrValueError, match="no ranks"):
        converted(tmp_path, tensors, Conversion("full", keep=Keep(size=10_000)))


def dora_file(tmp_path, axis: str = "out", rank: int = 1):
    """(path of a LoKr with DoRA for a and b, path of the model)."""
    save_file({"a.weight": torch.randn(32, 24), "b.weight": torch.randn(24, 32)}, tmp_path / "model.safetensors")
    modules = {}
    for name, (out, columns) in (("a", (32, 24)), ("b", (24, 32))):
        w1 = Factor(a=torch.randn(4, 1), b=torch.randn(1, 4))
        w2 = Factor(a=torch.randn(out // 4, rank) / 4, b=torch.randn(rank, columns // 4))
        scale = torch.rand(out, 1) + 3 if axis == "out" else torch.rand(1, columns) + 3
        modules[name] = LoKrWeights(w1, w2, 1.0, scale)
    save_adapter(Adapter(modules), tmp_path / "dora.safetensors")
    return tmp_path / "dora.safetensors", tmp_path / "model.safetensors"


@pytest.mark.parametrize(
    "to, names", [("lora", "kohya"), ("lora", "comfyui"), ("full", "kohya"), ("lokr", "diffusers")]
)
@pytest.mark.parametrize("axis", ["out", "in"])
def test_dora_that_the_program_reads_otherwise_needs_the_base(tmp_path, to, names, axis):
    path, model = dora_file(tmp_path, axis)
    conversion = Conversion(to, names, Keep(error=0), factors=(1,))
    with pytest.raises(LoKrValueError, match="DoRA cannot be kept") as error:
        convert_file(path, tmp_path / "out.safetensors", conversion)
    assert "--base" in str(error.value) and not (tmp_path / "out.safetensors").exists()
    if to == "lokr":
        return
    found = convert_file(path, tmp_path / "out.safetensors", conversion, torch.float32, base=model)
    assert any("trained difference" in note for note in found.notes)
    apply_to_file(model, load_adapter(path), tmp_path / "trained.safetensors")
    trained, base = load_file(tmp_path / "trained.safetensors"), load_file(model)
    after = read_updates(tmp_path / "out.safetensors").adapter
    for module, weights in after.items():
        name = after.names[module].path
        change = trained[f"{name}.weight"] - base[f"{name}.weight"]
        assert weights.dora_scale is None
        assert torch.dist(weights.delta(), change) <= 1e-5 * base[f"{name}.weight"].norm()


def test_peft_makes_the_trained_weight_of_a_lora_with_dora_on_rows(tmp_path):
    peft = pytest.importorskip("peft", reason="PEFT is the program whose result is asked")
    path, model = dora_file(tmp_path)
    convert_file(path, tmp_path / "peft", Conversion("lora", "peft"), torch.float32)
    network = torch.nn.ModuleDict({"a": torch.nn.Linear(24, 32, bias=False), "b": torch.nn.Linear(32, 24, bias=False)})
    network.load_state_dict(load_file(model))
    network.config = {}
    merged = peft.PeftModel.from_pretrained(network, str(tmp_path / "peft")).merge_and_unload().state_dict()
    apply_to_file(model, load_adapter(path), tmp_path / "trained.safetensors")
    for name, tensor in load_file(tmp_path / "trained.safetensors").items():
        assert torch.allclose(merged[name], tensor, atol=1e-4)


def test_a_lokr_keeps_its_dora_under_other_names(tmp_path):
    path, model = dora_file(tmp_path)
    found = convert_file(path, tmp_path / "out.safetensors", Conversion("lokr", "kohya"), model=model)
    assert any("keep DoRA" in note for note in found.notes)
    for file in (path, tmp_path / "out.safetensors"):
        apply_to_file(model, file, tmp_path / f"{file.stem}-merged.safetensors")
    one, other = (load_file(tmp_path / f"{name}-merged.safetensors") for name in ("dora", "out"))
    assert all(torch.allclose(one[name], other[name]) for name in one)


def test_a_file_of_two_experts_keeps_its_names_or_is_to_be_split(tmp_path):
    tensors = {}
    for expert in ("transformer_1", "transformer_2"):
        tensors |= {f"diffusion_model.{expert}.blocks.0.ffn.0.lokr_w{i}": torch.randn(4, 4) for i in (1, 2)}
    found, before, after = converted(tmp_path, tensors, Conversion("lora", keep=Keep(error=0)))
    assert before.keys() == after.keys() and len(found.modules) == 2
    for module, weights in before.items():
        assert torch.dist(after[module].delta(), weights.delta()) <= 1e-5 * weights.delta().norm()
    with pytest.raises(LoKrValueError, match="an expert of a model of two") as error:
        converted(tmp_path, tensors, Conversion("lora", "kohya"))
    assert "lokr split" in str(error.value)
