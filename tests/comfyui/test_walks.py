"""How many of the project's files and functions a LoKr goes through in ComfyUI, from ``execute`` to its first product.

A walk is the stack at which the node hands over to ComfyUI, and the stack at which the product runs.
"""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

# Files, calls.
AT_THE_PRODUCT = 4, 7
WALK = {"merge": (5, 7), "live": (6, 7)}


@pytest.fixture(scope="module")
def walks(comfyui, tmp_path_factory) -> dict:
    base = tmp_path_factory.mktemp("walks")
    name = "diffusion_model.double_blocks.0.img_mlp.2"
    for folder in ("loras", "diffusion_models"):
        (base / "models" / folder).mkdir(parents=True)
    tensors = {f"{name}.lokr_w1": torch.randn(8, 8), f"{name}.lokr_w2": torch.randn(32, 128) * 0.1}
    save_file(tensors, str(base / "models/loras/one.safetensors"))
    model, out = str(base / "models/diffusion_models/flux-float32.safetensors"), base / "out.json"
    comfyui.run(
        base,
        {"do": "make_flux", "path": model, "dtype": "float32"},
        {"do": "walks", "model": model, "file": "one.safetensors", "out": str(out)},
    )
    return json.loads(out.read_text())


@pytest.mark.parametrize("mode", ["merge", "live"])
def test_from_execute_to_the_first_product(walks, mode: str, capsys):
    handed, product = walks[mode]["handed"], walks[mode]["product"]
    with capsys.disabled():
        print(f"\n{mode}: the walk {counted([*handed, *product])}, on the stack at the product {counted(product)}")
        print(f"  {' -> '.join(f'{file}:{function}' for file, function in handed)}")
        print(f"  {' -> '.join(f'{file}:{function}' for file, function in product)}")
    assert handed[0] == ["nodes/loader.py", "execute"]
    for calls, (most_files, most_calls) in ((product, AT_THE_PRODUCT), ([*handed, *product], WALK[mode])):
        assert len({file for file, _ in calls}) <= most_files and len(calls) <= most_calls


def counted(calls: list[list[str]]) -> str:
    return f"{len({file for file, _ in calls})} files, {len(calls)} calls"
