"""``examples/lokr_to_try.py``: the file it writes fits the checkpoint, whole, and changes each layer by a tenth."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lokr_core import load_adapter, merge_adapter
from lokr_core.tools import check_file

SCRIPT = Path(__file__).resolve().parent.parent / "examples" / "lokr_to_try.py"
BLOCK = "input_blocks.1.1.transformer_blocks.0"


@pytest.fixture
def run(monkeypatch) -> Callable[..., None]:
    """Runs the script as the interpreter does, but in this process, which has imported torch."""

    def run(*arguments: Path) -> None:
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
        runpy.run_path(str(SCRIPT), run_name="__main__")

    return run


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", "diffusion_model.", ""])
def test_it_fits_the_checkpoint(run, tmp_path, prefix):
    torch.manual_seed(0)
    shapes = {f"{prefix}{BLOCK}.attn1.to_q.weight": (64, 64), f"{prefix}{BLOCK}.attn2.to_k.weight": (64, 48)}
    others = {f"{prefix}{BLOCK}.norm1.weight": (64,), "cond_stage_model.transformer.self_attn.q_proj.weight": (32, 32)}
    save_file(
        {name: torch.randn(shape) for name, shape in {**shapes, **others}.items()}, tmp_path / "model.safetensors"
    )
    run(tmp_path / "model.safetensors", tmp_path / "try.safetensors")
    report = check_file(tmp_path / "model.safetensors", tmp_path / "try.safetensors")
    assert report.complete and len(report.applied) == len(shapes)

    before = load_file(tmp_path / "model.safetensors")
    after = {name: tensor.clone() for name, tensor in before.items()}
    merge_adapter(after, load_adapter(tmp_path / "try.safetensors"))
    for name in before:
        change = (after[name] - before[name]).norm() / before[name].norm()
        assert change == pytest.approx(0.1 if name in shapes else 0, rel=0.01)


def test_a_file_without_a_diffusion_model_is_refused(run, tmp_path):
    save_file({"vae.attn.q.weight": torch.zeros(8, 8)}, tmp_path / "vae.safetensors")
    with pytest.raises(SystemExit, match="no attention layer"):
        run(tmp_path / "vae.safetensors", tmp_path / "try.safetensors")
    assert not (tmp_path / "try.safetensors").exists()
