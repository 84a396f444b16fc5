"""ComfyUI rebuilds a patch around moved tensors, gives it slices of weights, and functions that reorder rows."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file


@pytest.fixture(scope="module")
def found(comfyui, tmp_path_factory):
    base = tmp_path_factory.mktemp("patch")
    comfyui.run(base, {"do": "patch", "out": str(base / "out.safetensors")})
    return load_file(str(base / "out.safetensors"))


@pytest.mark.parametrize("kind", ["patched", "moved"])
@pytest.mark.parametrize("where", ["whole", "slice", "swapped"])
@pytest.mark.parametrize("dora", [0, 12, 1])
def test_a_patch_changes_what_its_key_names_and_nothing_else(found, dora, where, kind):
    expected = found[f"{where}.{dora}.expected"]
    torch.testing.assert_close(found[f"{where}.{dora}.{kind}"], expected, rtol=1e-5, atol=1e-6)
