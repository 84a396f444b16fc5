"""What is trained here is loaded by a real ComfyUI straight away: by the LoKr Loader, and by core's LoRA loader."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lokr_core import LoKrConfig, get_lokr_model, save_adapter
from lokr_core.demo import FLUX_TARGETS, small_flux
from lokr_core.names import ORIGINAL, Slot, spelled
from tests.hosts import base_directory

pytest.importorskip("diffusers", reason="diffusers makes the model that is trained")
FORMATS = ("comfyui", "kohya", "lycoris", "diffusers", "peft")
CORE = ("comfyui", "kohya")
MODEL = "flux-float32.safetensors"


def save_for_comfyui(model: torch.nn.Module, path: Path) -> None:
    """Write a diffusers model under the original names."""
    state = model.state_dict()
    names = spelled({name: tuple(tensor.shape) for name, tensor in state.items()}, ORIGINAL)
    tensors = {}
    for name, slots in names.items():
        for parameter in ("weight", "bias"):
            if all(f"{slot.module}.{parameter}" in state for slot in slots):
                tensors[f"{name}.{parameter}"] = torch.cat([part(state, slot, parameter) for slot in slots])
    save_file(tensors, path)


def part(state: dict[str, torch.Tensor], slot: Slot, parameter: str) -> torch.Tensor:
    tensor = state[f"{slot.module}.{parameter}"]
    return tensor.roll(len(tensor) // 2, 0) if slot.swap else tensor


@pytest.fixture(scope="module")
def loaded(comfyui, tmp_path_factory):
    """(folder of results, the weights that the trainer's own merge gives)."""
    base = base_directory(tmp_path_factory.mktemp("comfyui"))
    models, loras = base / "models" / "diffusion_models", base / "models" / "loras"
    torch.manual_seed(0)
    network = small_flux()
    save_for_comfyui(network, models / MODEL)
    config = LoKrConfig(r=4, alpha=2, decompose_factor=8, target_modules=FLUX_TARGETS, init_weights=False)
    model = get_lokr_model(network, config)
    for format in FORMATS:
        folder = loras / format
        folder.mkdir()
        save_adapter(model, folder / "trained.safetensors", format=format)
    save_for_comfyui(model.merge_and_unload(), base / "merged.safetensors")
    expected = {f"diffusion_model.{name}": t for name, t in load_file(base / "merged.safetensors").items()}
    save_file(expected, base / "reference.safetensors")

    def through(model: str, file: str, name: str) -> dict:
        return dict(
            do="through_loader", model=str(models / model), lokr=file, strength=1.0,
            out=str(base / f"{name}.safetensors"), reference=str(base / "reference.safetensors"),
        )  # fmt: skip

    jobs = [through(MODEL, f"{format}/trained.safetensors", f"ours-{format}") for format in FORMATS]
    for format in CORE:
        file = f"{format}/trained.safetensors"
        jobs.append(
            dict(do="core_loader", model=str(models / MODEL), lora=file, out=str(base / f"core-{format}.safetensors"))
        )
    comfyui.run(base, *jobs)
    return base, expected


def assert_near(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    for name, tensor in found.items():
        difference = float((tensor - expected[name]).norm() / expected[name].norm())
        assert difference < 1e-6, f"{name}: {difference}"


@pytest.mark.parametrize("format", FORMATS)
def test_the_loader_gives_the_weights_that_were_trained(loaded, format):
    base, expected = loaded
    result = load_file(base / f"ours-{format}.safetensors")
    assert "34 of 34 modules applied" in (base / f"ours-{format}.txt").read_text()
    weights = {name.removeprefix("weight."): t for name, t in result.items() if name.startswith("weight.")}
    assert len(weights) == 20  # q, k and v are one weight, and with them the first of the mlp in a single block
    assert_near(weights, expected)
    assert torch.allclose(result["sampled"], result["reference"], atol=1e-4)
    assert not torch.allclose(result["sampled"], result["base"], atol=1e-2)


@pytest.mark.parametrize("format", CORE)
def test_cores_own_loader_reads_it_too(loaded, format):
    base, expected = loaded
    weights = load_file(base / f"core-{format}.safetensors")
    assert len(weights) == 20
    assert_near(weights, expected)
