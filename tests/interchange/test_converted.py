"""A converted file is read by the program that it is for: its change of the weights is the converted product."""

from __future__ import annotations

import pytest
import torch

from lokr_core import Adapter, Factor, LoKrWeights, load_adapter, merge_adapter, save_adapter
from lokr_core.adapter import ModuleName
from lokr_core.cli import main
from lokr_core.conversion import Keep
from lokr_core.tools import Conversion, convert_file, read_updates
from tests.interchange.adapters import LOW, WHOLE, deltas, lokr
from tests.names.tiny_models import build_diffusers

diffusers = pytest.importorskip("diffusers", reason="diffusers' own loader reads what is converted")
transformers = pytest.importorskip("transformers", reason="a pipeline has a text encoder")
peft = pytest.importorskip("peft", reason="diffusers' loader uses PEFT")

CLIP = dict(
    vocab_size=99, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, projection_dim=32
)


def pipeline(name: str):
    """A tiny pipeline of diffusers, without a VAE."""
    torch.manual_seed(0)
    text = transformers.CLIPTextModel(transformers.CLIPTextConfig(**CLIP))
    nothing = dict(vae=None, tokenizer=None, scheduler=None)
    if name == "flux":
        rest = dict(text_encoder_2=None, tokenizer_2=None, transformer=build_diffusers("flux"))
        return diffusers.FluxPipeline(text_encoder=text, **nothing, **rest)
    unet = build_diffusers(name)
    if name == "sd15":
        return diffusers.StableDiffusionPipeline(
            text_encoder=text,
            unet=unet,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
            **nothing,
        )
    second = transformers.CLIPTextModelWithProjection(transformers.CLIPTextConfig(**CLIP))
    return diffusers.StableDiffusionXLPipeline(
        text_encoder=text, unet=unet, text_encoder_2=second, tokenizer_2=None, **nothing
    )


def parts_of(pipe) -> dict[str, tuple[str, torch.nn.Module]]:
    """Prefix of a component's weights -> (kohya's prefix, the component)."""
    found = {}
    several = getattr(pipe, "text_encoder_2", None) is not None
    for name, kohya in (("unet", "lora_unet_"), ("transformer", "lora_transformer_"), ("text_encoder", "lora_te1_")):
        if getattr(pipe, name, None) is not None:
            kohya = "lora_te_" if name == "text_encoder" and not several else kohya
            found[f"{name}."] = (kohya, getattr(pipe, name))
    if several:
        found["text_encoder_2."] = ("lora_te2_", pipe.text_encoder_2)
    return found


def adapter_for(pipe, factor: int) -> Adapter:
    """A LoKr for every Linear and convolution that diffusers' loaders take a LoRA for."""
    modules, names = {}, {}
    for prefix, (kohya, part) in parts_of(pipe).items():
        for name, layer in part.named_modules():
            text = prefix.startswith("text")
            if not isinstance(layer, (torch.nn.Linear, torch.nn.Conv2d)) or (
                text and not name.endswith(("proj", "fc1", "fc2"))
            ):
                continue
            path = name if not text or name.startswith("text_model") else f"text_model.{name}"
            flat = path.replace(".", "_")
            modules[kohya + flat] = lokr(tuple(layer.weight.shape), WHOLE, factor=factor, scaling=0.1)
            names[kohya + flat] = ModuleName(kohya + flat, flat, "unet" if not text else kohya[5:-1], True)
    return Adapter(modules, names)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Pipeline's name -> (its folder, the pipeline, an adapter file in kohya's names)."""
    found = {}
    for name in ("sd15", "sdxl", "flux"):
        folder = tmp_path_factory.mktemp(name)
        pipe = pipeline(name)
        for prefix, (_, part) in parts_of(pipe).items():
            part.save_pretrained(folder / "model" / prefix.removesuffix("."))
        (folder / "model" / "model_index.json").write_text("{}")
        save_adapter(adapter_for(pipe, 4), folder / "style.safetensors")
        found[name] = folder, pipe
    return found


@pytest.mark.parametrize("keep", [Keep(energy=0.95), Keep(error=0)], ids=["energy", "exact"])
@pytest.mark.parametrize("name", ["sd15", "sdxl", "flux"])
def test_diffusers_own_loader_makes_the_converted_product_of_it(folders, tmp_path, name, keep):
    folder, _ = folders[name]
    pipe = pipeline(name)
    source, out = folder / "style.safetensors", tmp_path / "lora.safetensors"
    found = convert_file(source, out, Conversion("lora", "diffusers", keep), torch.float32, folder / "model")
    assert not found.left_out
    base = {prefix + n: t.clone() for prefix, (_, part) in parts_of(pipe).items() for n, t in part.state_dict().items()}
    shapes = {n: tuple(t.shape) for n, t in base.items()}
    converted, original = deltas(read_updates(out).adapter, shapes), deltas(load_adapter(source), shapes)
    pipe.load_lora_weights(out)
    pipe.fuse_lora(components=[prefix.removesuffix(".") for prefix in parts_of(pipe)])
    pipe.unload_lora_weights()
    fused = {prefix + n: t for prefix, (_, part) in parts_of(pipe).items() for n, t in part.state_dict().items()}
    changed = [n for n in base if not torch.equal(fused[n], base[n])]
    assert set(changed) == set(converted) == set(original)
    lost = total = 0.0
    for n in changed:
        change = fused[n] - base[n]
        assert (change - converted[n]).norm() <= 1e-5 * max(base[n].norm(), converted[n].norm()), n
        lost += float((converted[n] - original[n]).square().sum())
        total += float(original[n].square().sum())
    assert 1 - found.energy == pytest.approx(lost / total, abs=1e-5)
    if keep.error == 0:
        assert lost <= 1e-9 * total
    else:
        assert 0.94 < found.energy < 0.97


def test_peft_reads_a_converted_lora(folders, tmp_path):
    folder, _ = folders["flux"]
    model = pipeline("flux").transformer
    model.save_pretrained(tmp_path / "model")
    adapter = load_adapter(folder / "style.safetensors")
    only = {m: w for m, w in adapter.items() if m.startswith("lora_transformer")}
    save_adapter(Adapter(only, {m: adapter.names[m] for m in only}), tmp_path / "style.safetensors")
    found = convert_file(
        tmp_path / "style.safetensors",
        tmp_path / "peft",
        Conversion("lora", "peft", Keep(rank=6)),
        model=tmp_path / "model",
        lossy=True,
    )
    base = {n: t.clone() for n, t in model.state_dict().items()}
    loaded = peft.PeftModel.from_pretrained(model, str(tmp_path / "peft"))
    merged = loaded.merge_and_unload().state_dict()
    expected = deltas(
        read_updates(tmp_path / "peft" / "adapter_model.safetensors").adapter,
        {n: tuple(t.shape) for n, t in base.items()},
    )
    changed = [n for n in base if not torch.equal(merged[n], base[n])]
    assert set(changed) == set(expected) and len(changed) == len(found.modules)
    for n in changed:
        assert (merged[n] - base[n] - expected[n]).norm() <= 1e-5 * base[n].norm(), n


def test_diffusers_makes_the_trained_weight_of_a_lora_with_dora_on_rows(tmp_path):
    pipe = pipeline("sd15")
    base = {f"unet.{n}": t.clone() for n, t in pipe.unet.state_dict().items()}
    pipe.unet.save_pretrained(tmp_path / "model" / "unet")
    (tmp_path / "model" / "model_index.json").write_text("{}")
    modules, names = {}, {}
    for name in ("mid_block.attentions.0.proj_out", "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"):
        weight = base[f"unet.{name}.weight"]
        flat = f"lora_unet_{name.replace('.', '_')}"
        w1, w2 = Factor(a=torch.randn(4, 1), b=torch.randn(1, 4)), lokr(tuple(weight.shape), LOW, factor=4).w2
        scale = weight.flatten(1).norm(dim=1) * (1 + 0.2 * torch.rand(len(weight)))
        modules[flat] = LoKrWeights(w1, w2, 0.02, scale.reshape(-1, *[1] * (weight.ndim - 1)))
        names[flat] = ModuleName(flat, flat.removeprefix("lora_unet_"), "unet", True)
    save_adapter(Adapter(modules, names), tmp_path / "dora.safetensors")
    out = tmp_path / "lora.safetensors"
    convert_file(tmp_path / "dora.safetensors", out, Conversion("lora", "diffusers"), torch.float32, tmp_path / "model")
    pipe.load_lora_weights(out)
    pipe.fuse_lora(components=["unet"])
    pipe.unload_lora_weights()
    expected = {n: t.clone() for n, t in base.items()}
    assert merge_adapter(expected, load_adapter(tmp_path / "dora.safetensors")).report.complete
    for n, tensor in pipe.unet.state_dict().items():
        assert torch.allclose(tensor, expected[f"unet.{n}"], atol=1e-4), n


@pytest.mark.parametrize("program", ["diffusers", "peft"])
def test_the_command_checks_its_file_with_the_program(folders, tmp_path, capsys, program):
    folder, _ = folders["flux"]
    adapter = load_adapter(folder / "style.safetensors")
    only = {m: w for m, w in adapter.items() if m.startswith("lora_transformer")}
    save_adapter(Adapter(only, {m: adapter.names[m] for m in only}), tmp_path / "style.safetensors")
    out = "lora.safetensors" if program == "diffusers" else "folder"
    arguments = ["convert", str(tmp_path / "style.safetensors"), "-o", str(tmp_path / out), "--to", "lora"]
    arguments += ["--names", program, "--model", str(folder / "model"), "--check", program]
    assert main(arguments) == 0
    assert f"{program} loads it: {len(only)} of {len(only)} modules" in capsys.readouterr().out
