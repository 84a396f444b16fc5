"""A converted file in ComfyUI: its own LoRA loader changes the weights by the converted product."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from lokr_core import load_adapter, save_adapter
from lokr_core.conversion import Keep
from lokr_core.demo import small_flux
from lokr_core.tools import Conversion, convert_file, read_updates
from tests.hosts import base_directory
from tests.interchange.adapters import WHOLE, adapter_for, deltas
from tests.interchange.test_comfyui import MODEL, save_for_comfyui

pytest.importorskip("diffusers", reason="diffusers makes the model")

CASES = {
    "kohya-energy": ("lora", "kohya", Keep(energy=0.9)),
    "comfyui-energy": ("lora", "comfyui", Keep(energy=0.9)),
    "comfyui-default": ("lora", "comfyui", Keep()),
    "kohya-full": ("full", "kohya", Keep()),
    "comfyui-lokr": ("lokr", "comfyui", Keep()),
}


@pytest.fixture(scope="module")
def loaded(comfyui, tmp_path_factory):
    base = base_directory(tmp_path_factory.mktemp("comfyui"))
    models, loras = base / "models" / "diffusion_models", base / "models" / "loras"
    torch.manual_seed(0)
    network = small_flux()
    save_for_comfyui(network, models / MODEL)
    save_adapter(
        adapter_for(network, WHOLE, scaling=0.1), base / "style.safetensors", format="diffusers", model=network
    )
    jobs, energies = [], {}
    for name, (to, names, keep) in CASES.items():
        file = f"{name}.safetensors"
        conversion = Conversion(to, names, keep)
        found = convert_file(base / "style.safetensors", loras / file, conversion, torch.float32, models / MODEL)
        energies[name] = found.energy
        jobs.append(dict(do="core_loader", model=str(models / MODEL), lora=file, out=str(base / file)))
    comfyui.run(base, *jobs)
    return base, energies


@pytest.mark.parametrize("case", CASES)
def test_cores_own_loader_makes_the_converted_product_of_it(loaded, case):
    base, energies = loaded
    plain = {f"diffusion_model.{n}": t for n, t in load_file(base / "models" / "diffusion_models" / MODEL).items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in plain.items()}
    converted = deltas(read_updates(base / "models" / "loras" / f"{case}.safetensors").adapter, shapes)
    original = deltas(load_adapter(base / "style.safetensors"), shapes)
    found = load_file(base / f"{case}.safetensors")
    assert found.keys() == converted.keys() == original.keys()
    lost = total = 0.0
    for name, tensor in found.items():
        assert (tensor - plain[name] - converted[name]).norm() <= 1e-5 * plain[name].norm(), name
        lost += float((converted[name] - original[name]).square().sum())
        total += float(original[name].square().sum())
    assert 1 - energies[case] == pytest.approx(lost / total, abs=1e-5)
    assert energies[case] == 1 or case.startswith(("kohya-energy", "comfyui"))
