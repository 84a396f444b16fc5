"""``lokr train`` on tiny models of the four families: what it writes is what was trained, and it goes on exactly."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from lokr_core import load_adapter, merge_adapter
from lokr_core._files import load_tensors
from lokr_core.cli import main
from lokr_core.diffusion import FinetuneOptions, Finetuning, Source, find_pictures, source_of
from lokr_core.diffusion._latents import encode
from lokr_core.training import Batch, accelerator_for

pytest.importorskip("diffusers", reason="NO DIFFUSERS HERE: it makes the models that are trained")
pytest.importorskip("transformers", reason="NO TRANSFORMERS HERE: it makes the text encoders")
pytest.importorskip("accelerate", reason="NO ACCELERATE HERE: a training runs on it")

from tests.diffusion import tiny_pipelines as tiny  # noqa: E402

SMALL = ("--size", "32", "--rank", "2", "--factor", "4", "--save-every", "2", "--sample-every", "2")


def train(model: Path, pictures: Path, out: Path, *arguments: object) -> int:
    return main([str(each) for each in ("train", model, pictures, "-o", out, *SMALL, *arguments)])


def losses(out: Path) -> list[float]:
    return json.loads((out / "losses.json").read_text())


two_families = pytest.mark.parametrize(
    "trained",
    ["sd", "flux", *(pytest.param(name, marks=pytest.mark.exhaustive) for name in ("sdxl", "sd3"))],
    indirect=True,
)


@pytest.fixture(scope="module", params=tiny.FAMILIES)
def trained(request, folder_of, pictures, tmp_path_factory) -> tuple[str, Path, Path]:
    """(family, the model's folder, the training's): 3 steps with text encoders, samples and all."""
    out = tmp_path_factory.mktemp(request.param)
    options = ("--text-encoders", "--checkpointing", "--batch-size", 2, "--sample", "a red house", "--sample-steps", 2)
    assert train(folder_of(request.param), pictures, out, "--steps", 3, "--learning-rate", 0.05, *options) == 0
    return request.param, folder_of(request.param), out


def test_it_writes_what_it_promises(trained):
    _, _, out = trained
    names = {"cache", "lokr.safetensors", "loss.png", "losses.json", "samples", "state.safetensors"}
    assert {entry.name for entry in out.iterdir()} == names
    assert sorted(entry.name for entry in (out / "samples").iterdir()) == ["000002-1.png", "000003-1.png"]
    with Image.open(out / "samples" / "000003-1.png") as picture:
        assert picture.size == (32, 32)
    assert len(losses(out)) == 3


def test_every_module_of_its_file_is_diffusers_and_changes_what_is_painted(trained):
    """The file, merged into a fresh pipeline, paints the sample that was painted in training."""
    family, _, out = trained
    pipe = tiny.pipeline(family)
    pipe.set_progress_bar_config(disable=True)
    adapter = load_adapter(out / "lokr.safetensors")
    parts = {name.component for name in adapter.names.values()}
    encoders = {"sd": 1, "sdxl": 2, "sd3": 2, "flux": 1}[family]
    assert len(parts) == 1 + encoders and all(name.startswith("lora_") for name in adapter)

    def painted() -> torch.Tensor:
        guidance = {"sd": 7.5, "sdxl": 6.0, "sd3": 5.0, "flux": 3.5}[family]
        options = dict(height=32, width=32, num_inference_steps=2, guidance_scale=guidance, output_type="pt")
        options |= {} if family == "flux" else {"negative_prompt": ""}
        options |= {} if family in ("sd", "sdxl") else {"max_sequence_length": 24}
        return pipe("a red house", **options, generator=torch.Generator().manual_seed(0)).images[0]

    before = painted()
    with merge_adapter(pipe, adapter) as handle:
        assert handle.report.complete, handle.report.text()
        after = painted()
    with Image.open(out / "samples" / "000003-1.png") as picture:
        found = torch.tensor(list(picture.convert("RGB").tobytes())).reshape(32, 32, 3).permute(2, 0, 1) / 255
    assert (found - after).abs().max() < 1.5 / 255
    assert (found - before).abs().max() > 5 / 255


@two_families
def test_stopped_and_resumed_it_is_what_it_would_have_been(trained, pictures, tmp_path):
    """With dropout of captions, rows and layers, mixed batches and gradient accumulation; another cache too."""
    family, model, _ = trained
    options = ("--caption-dropout", 0.3, "--rank-dropout", 0.2, "--module-dropout", 0.2, "--batch-size", 3)
    options += ("--accumulate", 2, "--schedule", "cosine", "--warmup", 2, "--clip", 0.5)
    assert train(model, pictures, tmp_path / "whole", *options, "--steps", 5) == 0
    state = tmp_path / "parts" / "state.safetensors"

    with pytest.MonkeyPatch.context() as patch:
        calls = []
        loss_of = Finetuning.loss_of

        def stops(self, module, batch):
            calls.append(batch.step)
            if batch.step == 3:
                raise KeyboardInterrupt
            return loss_of(self, module, batch)

        patch.setattr(Finetuning, "loss_of", stops)
        assert train(model, pictures, tmp_path / "parts", *options, "--steps", 5) == 130
    assert state.exists() and max(calls) == 3
    torch.rand(3)
    assert train(model, pictures, tmp_path / "parts", *options, "--steps", 5, "--resume") == 0
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    found, expected = (load_tensors(tmp_path / name / "lokr.safetensors")[0] for name in ("parts", "whole"))
    assert found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in expected)


@two_families
def test_another_training_is_not_resumed(trained, pictures, tmp_path, capsys):
    family, model, out = trained
    assert train(model, pictures, tmp_path, "--resume") == 2
    assert "There is no training to resume" in capsys.readouterr().err
    assert train(model, pictures, out, "--batch-size", 2, "--steps", 4) == 2
    said = capsys.readouterr().err
    assert "This training checkpoint is of another model or configuration" in said, "text encoders were trained"
    same = ("--text-encoders", "--batch-size", 2, "--steps", 4)
    assert train(model, pictures, out, *same, "--caption-dropout", 0.5) == 2
    assert "'caption_dropout': 0.5" in capsys.readouterr().err
    before = (out / "state.safetensors").read_bytes()
    other = ("--shift", 2) if family in ("sd3", "flux") else ("--snr-gamma", 5)
    assert train(model, pictures, out, *same, *other) == 2
    assert "objective" in capsys.readouterr().err
    assert (out / "state.safetensors").read_bytes() == before


@two_families
def test_the_cache_is_used_again(trained, pictures, monkeypatch, tmp_path):
    """Neither the VAE nor the text encoders are loaded a second time, but where a picture or a caption is new."""
    _, model, _ = trained
    loaded = []
    component = Source.component

    def counted(self, name, *arguments):
        loaded.append(name)
        return component(self, name, *arguments)

    monkeypatch.setattr(Source, "component", counted)
    train(model, pictures, tmp_path / "a", "--steps", 1, "--cache", tmp_path / "cache")
    assert any(name.startswith("text_encoder") for name in loaded)
    loaded.clear()
    train(model, pictures, tmp_path / "b", "--steps", 1, "--cache", tmp_path / "cache")
    assert not any(name.startswith("text_encoder") for name in loaded)
    assert losses(tmp_path / "a") == losses(tmp_path / "b")


def test_a_tiny_model_that_paints_blue_learns_to_paint_red(folder_of, tmp_path):
    """Judged by what it sees in noise alone: nearer to the blue picture's latents before, to the red one's after."""
    for colour, rgb in (("red", (220, 30, 40)), ("blue", (30, 60, 210))):
        (tmp_path / colour).mkdir()
        Image.new("RGB", (16, 16), rgb).save(tmp_path / colour / "0.png")
    noisy = dict(times="uniform", shift=4.0)
    options = FinetuneOptions(folder_of("flux"), tmp_path / "blue", tmp_path / "cache", size=16, **noisy)
    base = Finetuning(options, accelerator_for())
    optimizer = torch.optim.AdamW(base.learner.parameters(), 3e-3)
    for step in range(100):
        base.loss_of(base.learner, Batch(step, [0] * 8, list(range(8)), seed=0)).backward()
        optimizer.step()
        optimizer.zero_grad()
    model = shutil.copytree(folder_of("flux"), tmp_path / "flux")
    base.learner.denoiser.save_pretrained(model / "transformer")
    vae = source_of(model).component("vae")
    pictures = [find_pictures(tmp_path / colour, 16)[0].pixels()[None] for colour in ("red", "blue")]
    red, blue = (encode(vae, pixels)[0] for pixels in pictures)  # (1, 16, 4, 4)

    @torch.no_grad()
    def redder() -> float:
        noise = torch.randn(16, 16, 4, 4, generator=torch.Generator().manual_seed(0))
        text = base._texts([""] * 16)
        seen = noise - base.learner(noise, torch.full((16,), 1000.0), *text, base._sizes(torch.zeros(16, 6)))
        return float((seen - blue).square().mean() - (seen - red).square().mean())

    options = ("--full-matrix", "--learning-rate", 0.01, "--save-every", 120, "--size", 16, "--batch-size", 8)
    options += ("--times", "uniform", "--shift", 4)
    assert train(model, tmp_path / "red", tmp_path / "out", *options, "--steps", 120) == 0
    found = losses(tmp_path / "out")
    assert sum(found[-10:]) < 0.6 * sum(found[:10])
    before = redder()
    with merge_adapter(base.learner.denoiser, load_adapter(tmp_path / "out" / "lokr.safetensors")) as handle:
        assert handle.report.complete
        assert before < -0.2 and redder() > 0.1


def test_what_is_wrong_is_said(folder_of, pictures, tmp_path, capsys):
    model = folder_of("flux")
    assert train(tmp_path / "gone", pictures, tmp_path / "run") == 2
    assert "gone" in capsys.readouterr().err
    assert train(model, tmp_path / "gone", tmp_path / "run") == 2
    assert "No such folder" in capsys.readouterr().err
    assert train(model, pictures, tmp_path / "run", "--size", 40) == 2
    assert "multiple of 16" in capsys.readouterr().err
    assert train(model, pictures, tmp_path / "run", "--rank", 0) == 2
    assert "r must be a whole number" in capsys.readouterr().err
    assert train(model, pictures, tmp_path / "run", "--targets", "nothing") == 2
    assert "nothing" in capsys.readouterr().err
    (model.parent / "other").mkdir(exist_ok=True)
    (model.parent / "other" / "model_index.json").write_text('{"_class_name": "WanPipeline"}')
    assert train(model.parent / "other", pictures, tmp_path / "run") == 2
    said = capsys.readouterr().err
    assert "WanPipeline" in said and "FluxPipeline" in said
