"""Work that is cancelled, as ComfyUI's cancel does it: an exception out of the progress. It leaves no file."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from lokr_core import Adapter, save_adapter
from lokr_core.checkpoints import HeldCheckpoint
from lokr_core.conversion import Keep
from lokr_core.tools import Conversion, apply_all, convert_file, extract, resize_file
from tests.interchange.adapters import lokr

SHAPES = {"diffusion_model.a.weight": (32, 24), "diffusion_model.b.weight": (24, 32)}


class Cancelled(Exception):
    pass


@pytest.fixture
def folder(tmp_path):
    """A folder with a LoKr of two modules and the model that it is for."""
    save_file({name: torch.randn(shape) for name, shape in SHAPES.items()}, tmp_path / "model.safetensors")
    modules = {name.removesuffix(".weight"): lokr(shape) for name, shape in SHAPES.items()}
    save_adapter(Adapter(modules), tmp_path / "style.safetensors")
    return tmp_path


def held(seed: int) -> HeldCheckpoint:
    """A model in memory, as the node for extraction has it."""

    def make(name: str) -> torch.Tensor:
        return torch.randn(SHAPES[name], generator=torch.Generator().manual_seed(seed))

    return HeldCheckpoint.of(f"model {seed}", SHAPES, make)


WORK = {
    "convert": lambda f, out, p: convert_file(f / "style.safetensors", out, Conversion("lora"), progress=p),
    "resize": lambda f, out, p: resize_file(f / "style.safetensors", out, Keep(rank=1), progress=p),
    "extract": lambda f, out, p: extract(held(0), held(1), out, progress=p),
    "apply": lambda f, out, p: apply_all(f / "model.safetensors", [(f / "style.safetensors", 1.0)], out, progress=p),
}


@pytest.mark.parametrize("call", [1, 2])
@pytest.mark.parametrize("work", WORK)
def test_what_is_cancelled_leaves_no_file(folder, work, call):
    before, calls = sorted(folder.iterdir()), []

    def progress(done: int, total: int) -> None:
        calls.append((done, total))
        if len(calls) == call:
            raise Cancelled

    with pytest.raises(Cancelled):
        WORK[work](folder, folder / "out.safetensors", progress)
    assert sorted(folder.iterdir()) == before
    WORK[work](folder, folder / "out.safetensors", None)
    assert (folder / "out.safetensors").is_file()
