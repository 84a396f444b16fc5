"""What the nodes share that write an adapter file: where it goes, progress, and what they tell."""

from __future__ import annotations

import os
from typing import Protocol

import comfy.model_management
import comfy.utils
import folder_paths
import torch
from comfy_api.latest import io

from ..lokr_core.conversion import Keep
from ..lokr_core.display import Progress
from ..lokr_core.errors import LoKrValueError
from ..lokr_core.inspection import draw_kept
from ..lokr_core.modules import ModuleName
from .shown import LOG, pictured, write_on


class Outcome(Protocol):
    """What writing a file tells, such as ``Converted``."""

    written: bool

    @property
    def energy(self) -> float: ...

    def kept(self) -> list[tuple[ModuleName, tuple[int, ...], float, float]]: ...

    def text(self) -> str: ...


DTYPES = {"as in the file": None, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
REPORT = io.String.Output("report", tooltip="What became of each module, how near it is, and where the file is.")
KEPT = io.Image.Output("kept", tooltip="How much of each block is kept, by kind of layer: 1 is all of it.")


def prefix_input(default: str) -> io.String.Input:
    return io.String.Input(
        "filename_prefix",
        default=default,
        tooltip="Below ComfyUI's output folder. Files in its folder loras are offered by the loaders.",
    )


def rank_input(of: str) -> io.Int.Input:
    return io.Int.Input("rank", default=0, min=0, max=4096, tooltip=f"Of {of}. 0: as small as energy allows.")


def energy_input() -> io.Float.Input:
    return io.Float.Input(
        "energy",
        default=0.99,
        min=0.01,
        max=1.0,
        step=0.01,
        tooltip="The share of the update's squares that is kept, where rank is 0. Under 0.9 a picture is unlike.",
    )


def dtype_input() -> io.Combo.Input:
    return io.Combo.Input(
        "dtype",
        options=list(DTYPES),
        default=next(iter(DTYPES)),
        optional=True,
        advanced=True,
        tooltip="fp32 keeps every number; bf16 and fp16 round, and halve the file.",
    )


def keep_of(rank: int, energy: float) -> Keep:
    """What the widgets ask for."""
    return Keep(rank=rank) if rank else Keep(energy=energy)


def path_for(filename_prefix: str) -> str:
    """The next free file of that prefix below ComfyUI's output folder."""
    folder, name, counter, _, _ = folder_paths.get_save_image_path(filename_prefix, folder_paths.get_output_directory())
    return os.path.join(folder, f"{name}_{counter:05}_.safetensors")


def progress_on_node() -> Progress:
    """Progress for the node that runs; ComfyUI's cancel ends the work."""
    bars: list[comfy.utils.ProgressBar] = []

    def show(done: int, total: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        if not bars:
            bars.append(comfy.utils.ProgressBar(total))
        bars[0].update_absolute(done, total)

    return show


def written(node: type[io.ComfyNode], found: Outcome, path: str) -> io.NodeOutput:
    """The node's output: the report and the picture, also shown on it. Raises LoKrValueError if nothing was written."""
    if not found.written:
        raise LoKrValueError(
            "The file was not written: it would be unlike the original",
            expected="0.9 of the energy",
            found=f"{found.energy:.3f}",
            hint="ask for a higher rank or energy, or allow it with lossy",
        )
    text = f"{os.path.relpath(path, folder_paths.get_output_directory())}: {found.text()}"
    LOG.info(text)
    write_on(node, text.partition("\n")[0])
    image, shown = pictured(draw_kept(found.kept()), text)
    return io.NodeOutput(text, image, ui=shown)
