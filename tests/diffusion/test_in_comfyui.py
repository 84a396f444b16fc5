"""What ``lokr train`` writes is what ComfyUI's own loader makes of it: the denoiser's output, in all four families."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lokr_core import load_adapter, merge_adapter
from lokr_core.cli import main

diffusers = pytest.importorskip("diffusers", reason="NO DIFFUSERS HERE: it makes the models that are trained")

from tests.diffusion import tiny_pipelines as tiny  # noqa: E402

TEXT = {"sd": 32, "sdxl": 64, "sd3": 64, "flux": 40}
POOLED = {"sdxl": 24, "sd3": 48, "flux": 32}


def inputs_of(family: str, denoiser) -> tuple[dict, dict]:
    """(ComfyUI's inputs of a call, those of diffusers)."""
    channels = 4 if family in ("sd", "sdxl") else 16
    noisy, context, times = torch.randn(1, channels, 8, 8), torch.randn(1, 5, TEXT[family]), torch.tensor([500.0])
    theirs = {"noisy": noisy, "times": times, "context": context}
    ours = {"hidden_states": noisy, "timestep": times, "encoder_hidden_states": context}
    if family in POOLED:
        pooled = torch.randn(1, POOLED[family])
        theirs["y"] = ours["pooled_projections"] = pooled
    if family in ("sd", "sdxl"):
        ours = {"sample": noisy, "timestep": times, "encoder_hidden_states": context}
    if family == "sdxl":
        ids = torch.tensor([[64.0, 48.0, 0.0, 8.0, 32.0, 32.0]])
        ours["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": ids}
        theirs["y"] = torch.cat([pooled, denoiser.add_time_proj(ids.flatten()).flatten()[None]], dim=1)
    if family == "flux":
        theirs |= {"times": times / 1000, "guidance": torch.ones(1)}
        rows = torch.cartesian_prod(torch.arange(1), torch.arange(4), torch.arange(4)).float()
        ours |= {"hidden_states": diffusers.FluxPipeline._pack_latents(noisy, 1, 16, 8, 8), "timestep": times / 1000}
        ours |= {"guidance": torch.ones(1), "txt_ids": torch.zeros(5, 3), "img_ids": rows}
    return theirs, ours


@pytest.fixture(scope="module")
def results(comfyui, folder_of, pictures, tmp_path_factory) -> dict[str, tuple[dict, torch.Tensor, torch.Tensor, int]]:
    """Family -> (ComfyUI's results, diffusers' output without the adapter and with it, number of weights)."""
    base, jobs, expected = tmp_path_factory.mktemp("comfyui"), [], {}
    for family in tiny.FAMILIES:
        out = base / family
        options = ["--size", "32", "--factor", "4", "--rank", "2", "--steps", "3", "--learning-rate", "0.05"]
        options += ["--convolutions"] if family == "sd" else []
        assert main(["train", str(folder_of(family)), str(pictures), "-o", str(out), *options]) == 0
        pipe = tiny.pipeline(family)
        denoiser = pipe.unet if family in ("sd", "sdxl") else pipe.transformer
        save_file({name: t.clone() for name, t in denoiser.state_dict().items()}, out / "model.safetensors")
        theirs, ours = inputs_of(family, denoiser)
        save_file(theirs, out / "inputs.safetensors")
        with torch.no_grad():
            before = denoiser(**ours).sample
            with merge_adapter(pipe, load_adapter(out / "lokr.safetensors")) as handle:
                assert handle.report.complete
                expected[family] = before, denoiser(**ours).sample, len(handle.report.adapter)
        files = dict(
            state="model.safetensors", lokr="lokr.safetensors", inputs="inputs.safetensors", out="out.safetensors"
        )
        jobs.append({"family": family} | {name: str(out / file) for name, file in files.items()})
    (base / "jobs.json").write_text(json.dumps(jobs))
    script = Path(__file__).with_name("in_comfyui.py")
    command = [comfyui.python, script, base / "jobs.json"]
    done = subprocess.run(command, env=comfyui.environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-6000:]
    return {family: (load_file(base / family / "out.safetensors"), *found) for family, found in expected.items()}


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_comfyui_computes_what_was_trained(results, family):
    found, before, after, modules = results[family]
    if family == "flux":
        before, after = (diffusers.FluxPipeline._unpack_latents(t, 64, 64, 8) for t in (before, after))
    assert torch.allclose(found["base"], before, atol=1e-4), "the same model"
    assert (after - before).abs().max() > 1e-3, "the adapter was trained"
    assert torch.allclose(found["patched"], after, atol=1e-4)
    assert 0 < int(found["keys"]) <= modules, "one weight or more for each patch: ComfyUI fuses some"
