"""``resize``, ``split`` and ``join``; checkpoints of shards and diffusers folders, and several adapters at once."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from lokr_core import (
    Adapter,
    Factor,
    LoKrFileError,
    LoKrValueError,
    LoKrWeights,
    load_adapter,
    merge_adapter,
    save_adapter,
)
from lokr_core.checkpoints import Checkpoint
from lokr_core.conversion import Keep, energy_of
from lokr_core.tools import Term, apply_all, apply_to_file, check_file, combine, join_files, resize_file, split_file
from tests.interchange.adapters import LOW, TUCKER, WHOLE, lokr


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def mixed() -> Adapter:
    shapes = {"a": ((48, 64), WHOLE), "b": ((48, 64), LOW), "c": ((32, 48, 3, 3), TUCKER), "d": ((32, 48, 3, 3), WHOLE)}
    modules = {name: lokr(shape, form, rank=4).fit(shape) for name, (shape, form) in shapes.items()}
    return Adapter(modules)


@pytest.mark.parametrize("keep", [Keep(rank=2), Keep(energy=0.8), Keep(error=0.5), Keep(size=12_000)])
def test_a_resized_file_keeps_what_it_says(tmp_path, keep):
    adapter = mixed()
    save_adapter(adapter, tmp_path / "a.safetensors")
    found = resize_file(tmp_path / "a.safetensors", tmp_path / "b.safetensors", keep)
    read = load_adapter(tmp_path / "b.safetensors")
    for made in found.modules:
        name = made.name.full
        delta = adapter[name].delta(torch.float64)
        again = read[name].fit(adapter[name].shape).delta(torch.float64)
        lost = float((again - delta).norm() / delta.norm()) ** 2
        assert made.energy == pytest.approx(1 - lost, abs=1e-5)
    if keep.size:
        tensors = load_file(tmp_path / "b.safetensors").values()
        assert sum(t.numel() * t.element_size() for t in tensors if t.ndim) <= keep.size
    if keep.rank:
        best = energy_of(torch.linalg.svdvals(adapter["a"].w2.whole.double()), keep.rank)
        assert found.modules[0].energy == pytest.approx(best, abs=1e-6)
        assert all(weights.rank in (2, None) for weights in read.values())


def test_resizing_to_nothing_is_told(tmp_path):
    save_adapter(mixed(), tmp_path / "a.safetensors")
    with pytest.raises(LoKrValueError, match="nothing to resize to"):
        resize_file(tmp_path / "a.safetensors", tmp_path / "b.safetensors", Keep())


def expert_file(path, prefixes) -> dict[str, torch.Tensor]:
    tensors = {}
    for prefix in prefixes:
        for name in ("blocks.0.self_attn.q", "blocks.0.ffn.0"):
            tensors |= {f"{prefix}{name}.lokr_w1": torch.randn(2, 2), f"{prefix}{name}.lokr_w2": torch.randn(4, 4)}
            tensors[f"{prefix}{name}.alpha"] = torch.tensor(4.0)
    save_file(tensors, path, {"title": "two"})
    return tensors


@pytest.mark.parametrize(
    "prefixes, plain",
    [
        (("diffusion_model.transformer_1.", "diffusion_model.transformer_2."), "diffusion_model."),
        (("transformer.", "transformer_2."), "transformer."),
        (("lora_unet_transformer_1_", "lora_unet_transformer_2_"), "lora_unet_"),
    ],
)
def test_a_file_of_two_experts_is_split_and_joined_to_itself(tmp_path, prefixes, plain):
    tensors = expert_file(tmp_path / "both.safetensors", prefixes)
    found = split_file(tmp_path / "both.safetensors")
    assert list(found.files) == ["high", "low"] and found.files["high"][1] == 2
    for part, prefix in zip(("high", "low"), prefixes, strict=True):
        alone = load_file(tmp_path / f"both.{part}.safetensors")
        expected = {plain + k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
        assert alone.keys() == expected.keys() and all(torch.equal(alone[k], t) for k, t in expected.items())
    parts = [tmp_path / f"both.{part}.safetensors" for part in ("high", "low")]
    join_files(parts, ["high", "low"], tmp_path / "again.safetensors")
    again = load_file(tmp_path / "again.safetensors")
    assert again.keys() == tensors.keys() and all(torch.equal(again[k], t) for k, t in tensors.items())


def test_text_encoders_are_split_off_and_joined(tmp_path):
    tensors = {}
    for name in (
        "lora_unet_a",
        "lora_te1_text_model_encoder_layers_0_mlp_fc1",
        "lora_te2_text_model_encoder_layers_0_mlp_fc1",
    ):
        tensors |= {f"{name}.lora_up.weight": torch.randn(4, 2), f"{name}.lora_down.weight": torch.randn(2, 4)}
    save_file(tensors, tmp_path / "x.safetensors")
    found = split_file(tmp_path / "x.safetensors")
    assert list(found.files) == ["model", "te1", "te2"]
    join_files([f for f, _, _ in found.files.values()], list(found.files), tmp_path / "y.safetensors")
    assert load_file(tmp_path / "y.safetensors").keys() == tensors.keys()


def test_what_cannot_be_split_or_joined_is_told(tmp_path):
    save_adapter(mixed(), tmp_path / "a.safetensors")
    with pytest.raises(LoKrValueError, match="of one model alone"):
        split_file(tmp_path / "a.safetensors")
    both = [tmp_path / "a.safetensors"] * 2
    with pytest.raises(LoKrValueError, match="a part of its own"):
        join_files(both, ["high"], tmp_path / "b.safetensors")
    with pytest.raises(LoKrFileError, match="tensor of one name"):
        join_files(both, ["model", "te1"], tmp_path / "b.safetensors")
    expert_file(tmp_path / "both.safetensors", ("transformer.", "transformer_2."))
    split_file(tmp_path / "both.safetensors")
    with pytest.raises(LoKrFileError, match="The output exists"):
        split_file(tmp_path / "both.safetensors")


def test_combine_says_that_it_sums_two_experts(tmp_path):
    for name in ("style_high_noise", "style_low_noise"):
        save_adapter(Adapter({"a": lokr((8, 8), WHOLE)}), tmp_path / f"{name}.safetensors")
    terms = [Term(load_adapter(tmp_path / f"style_{name}_noise.safetensors")) for name in ("high", "low")]
    assert "lokr join" in combine(terms).text()


def pipeline(folder) -> dict[str, dict[str, torch.Tensor]]:
    """A diffusers folder: a UNet in two shards, a text encoder in one file, a VAE and what else there is."""
    unet = {
        "conv_in.weight": torch.randn(8, 4, 3, 3),
        "time_embedding.linear_1.weight": torch.randn(16, 8),
        "down_blocks.0.attentions.0.proj_in.weight": torch.randn(8, 8, 1, 1),
        "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight": torch.randn(8, 8),
    }
    text = {
        "text_model.encoder.layers.0.self_attn.q_proj.weight": torch.randn(8, 8),
        "text_model.encoder.layers.0.mlp.fc1.weight": torch.randn(16, 8),
    }
    for name in ("unet", "text_encoder", "vae"):
        (folder / name).mkdir(parents=True)
    names, stem = list(unet), "diffusion_pytorch_model"
    weight_map = {}
    for number, half in enumerate((names[:2], names[2:]), 1):
        file = f"{stem}-{number:05}-of-00002.safetensors"
        save_file({name: unet[name] for name in half}, folder / "unet" / file, {"format": "pt"})
        weight_map |= dict.fromkeys(half, file)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "unet" / f"{stem}.safetensors.index.json").write_text(json.dumps(index))
    (folder / "unet" / "config.json").write_text("{}")
    save_file(text, folder / "text_encoder" / "model.safetensors")
    save_file({"x": torch.ones(2)}, folder / "vae" / f"{stem}.safetensors")
    (folder / "model_index.json").write_text("{}")
    return {"unet.": unet, "text_encoder.": text}


def two_adapters() -> list[tuple[Adapter, float]]:
    query = "down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    from lokr_core.formats import parse_adapter

    files = []
    for module, shape in (
        (f"lora_unet_{query}", (8, 8)),
        ("lora_te_text_model_encoder_layers_0_mlp_fc1", (16, 8)),
    ):
        weights = lokr(shape, WHOLE)
        files.append(parse_adapter({f"{module}.{k}": t for k, t in weights.tensors.items()}))
    return [(files[0], 0.5), (files[1], 1.0), (files[0], 0.25)]


def test_a_diffusers_folder_is_merged_in_the_layout_that_it_has(tmp_path):
    models = pipeline(tmp_path / "in")
    adapters = two_adapters()
    found = apply_all(tmp_path / "in", adapters, tmp_path / "out")
    assert found.complete and len(found.reports) == 3
    expected = {prefix + name: t.clone() for prefix, model in models.items() for name, t in model.items()}
    for adapter, strength in adapters:
        merge_adapter(expected, adapter, strength)
    written = Checkpoint.of(tmp_path / "out")
    assert written.tensors.keys() == expected.keys()
    assert all(torch.equal(written.tensors[name].read(), tensor) for name, tensor in expected.items())
    before = {p.relative_to(tmp_path / "in") for p in (tmp_path / "in").rglob("*")}
    assert before == {p.relative_to(tmp_path / "out") for p in (tmp_path / "out").rglob("*")}
    index = json.loads(next((tmp_path / "out" / "unet").glob("*.index.json")).read_text())
    assert index["metadata"]["total_size"] == sum(t.numel() * 4 for t in models["unet."].values())
    assert check_file(tmp_path / "in", adapters[0][0]).complete


def test_an_interrupted_merge_of_a_folder_leaves_none(tmp_path):
    pipeline(tmp_path / "in")

    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        apply_all(tmp_path / "in", two_adapters(), tmp_path / "out", progress=interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_shards_are_read_by_their_index_by_one_of_them_and_by_their_folder(tmp_path):
    unet = pipeline(tmp_path / "in")["unet."]
    folder = tmp_path / "in" / "unet"
    for path in (folder, next(folder.glob("*.json")), next(folder.glob("*-00002-of*"))):
        if path.name != "config.json":
            assert Checkpoint.of(path).shapes == {name: tuple(t.shape) for name, t in unet.items()}
    next(folder.glob("*-00002-of*")).unlink()
    with pytest.raises(LoKrFileError, match="not all are here"):
        Checkpoint.of(folder)


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda folder: None, "There is no model in this folder"),
        (lambda folder: [save_file({"a": torch.ones(1)}, folder / f"{n}.safetensors") for n in "xy"], "several models"),
        (lambda folder: (folder / "model.safetensors.index.json").write_text("{"), "The index cannot be used"),
        (lambda folder: (folder / "model_index.json").write_text("{}"), "no model in this pipeline"),
    ],
)
def test_a_folder_that_is_no_model_is_told(tmp_path, make, said):
    make(tmp_path)
    with pytest.raises(LoKrFileError, match=said):
        Checkpoint.of(tmp_path)


def test_dora_of_two_adapters_refers_to_the_base(tmp_path):
    base = torch.randn(8, 8)
    save_file({"a.weight": base}, tmp_path / "m.safetensors")
    dora = LoKrWeights(Factor(torch.randn(2, 2)), Factor(torch.randn(4, 4)), dora_scale=torch.rand(8, 1))
    plain = LoKrWeights(Factor(torch.randn(2, 2)), Factor(torch.randn(4, 4)))
    adapters = [(Adapter({"a": plain}), 1.0), (Adapter({"a": dora}), 1.0)]
    apply_all(tmp_path / "m.safetensors", adapters, tmp_path / "o.safetensors")
    expected = base + plain.delta() + (dora.add_to_(base.clone()) - base)
    assert torch.allclose(load_file(tmp_path / "o.safetensors")["a.weight"], expected, atol=1e-5)
    with pytest.raises(LoKrFileError, match="The output is the adapter itself"):
        save_adapter(adapters[0][0], tmp_path / "a.safetensors")
        apply_to_file(tmp_path / "m.safetensors", tmp_path / "a.safetensors", tmp_path / "a.safetensors")
