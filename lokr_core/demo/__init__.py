"""The main job on a model that is made in seconds: train a LoKr, save it, load it, merge it, remove it.

The model paints: given a point of the picture it answers the colour there. It learns a landscape by day; then a LoKr
learns, with the model's own weights frozen, to make it paint the same landscape by night.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor, nn

from .._files import save_tensors
from ..adapter import Adapter
from ..display import Progress, draw_text, human_bytes
from ..errors import LoKrFileError
from ..formats import load_adapter
from ..merge import merge_adapter
from ..peft import LoKrConfig
from ..saving import save_adapter
from ..tuner import get_lokr_model
from ._scenes import GRID, day, night, points
from ._small_flux import FLUX_TARGETS, flow_matching_loss, latents_of, load_pictures, prompt_embedding, small_flux

__all__ = [
    "FLUX_TARGETS",
    "flow_matching_loss",
    "latents_of",
    "load_pictures",
    "prompt_embedding",
    "run_demo",
    "small_flux",
]

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)
_WIDTH, _RANK, _ALPHA, _FACTOR = 96, 12, 48, 2
_BASE_STEPS, _LOKR_STEPS = 400, 750
_TILE, _GAP, _TOP = 144, 8, 30  # pixels
_FREQUENCIES = math.pi * torch.tensor([0.5, 1.0, 2.0, 4.0])
_TITLES = ("strength", "from the target", "from the base", "largest change", "base restored")


class Painter(nn.Sequential):
    """Points (n, 2) in [-1, 1] -> colours (n, 3) in 0 … 1."""

    def __init__(self):
        sizes = (4 * len(_FREQUENCIES) + 2, _WIDTH, _WIDTH, _WIDTH)
        layers = [layer for a, b in zip(sizes, sizes[1:], strict=False) for layer in (nn.Linear(a, b), nn.SiLU())]
        super().__init__(*layers, nn.Linear(_WIDTH, 3))

    def forward(self, x: Tensor) -> Tensor:
        waves = (x[:, None] * _FREQUENCIES[:, None]).flatten(1)  # (n, 2 · frequencies)
        return super().forward(torch.cat([x, waves.sin(), waves.cos()], dim=1)).sigmoid()


@dataclass(frozen=True)
class Row:
    """What one strength does.

    to_target, to_base: root mean square distance of the painted picture (colours are 0 to 1) to the target and to the
        base's picture
    weight_change: the largest of any weight
    restored: whether ``remove()`` restored the base bit for bit
    """

    strength: float
    to_target: float
    to_base: float
    weight_change: float
    restored: bool

    def text(self) -> str:
        """A line of the table."""
        numbers = (f"{value:.4f}" for value in (self.to_target, self.to_base, self.weight_change))
        cells = (f"{self.strength:.2f}", *numbers, "bit for bit" if self.restored else "NO")
        return "  ".join(cell.rjust(len(title)) for cell, title in zip(cells, _TITLES, strict=True))


@dataclass(frozen=True)
class Demo:
    """What the demo made and measured.

    agreement: the largest difference of a colour between the model in training and the one with the loaded file merged
    """

    rows: list[Row]
    modules: int
    parameters: int
    model_parameters: int
    adapter_bytes: int
    agreement: float
    base_file: Path
    adapter_file: Path
    picture: Path

    def as_dict(self) -> dict:
        return {k: str(v) if isinstance(v, Path) else v for k, v in asdict(self).items()}

    def text(self) -> str:
        """For a person."""
        return "\n".join(
            [
                "A tiny model that paints a landscape by day, and a LoKr that turns day into night.",
                f"LoKr: {self.modules} layers, {self.parameters:,} numbers beside the model's "
                f"{self.model_parameters:,}, {human_bytes(self.adapter_bytes)}",
                f"saved and loaded back: its colours differ from training's by {self.agreement:.1g} at most",
                "\nDistances of the pictures are root mean squares of colours, 0 to 1; the largest",
                "change is that of a weight.\n",
                "  ".join(_TITLES),
                *(row.text() for row in self.rows),
                f"\npicture: {self.picture}",
                "  upper row: base (strength 0), then rising strengths, then the target; lower row: what changed",
                "try next:",
                f"  lokr inspect {self.adapter_file}",
                f"  lokr apply {self.base_file} {self.adapter_file} -o merged.safetensors --strength 0.8",
            ]
        )


def run_demo(out: str | os.PathLike = "lokr-demo", progress: Progress | None = None) -> Demo:
    """Make ``base.safetensors``, ``night.safetensors`` and ``strengths.png`` in the folder ``out``.

    progress: called with (training steps done, steps in all)

    Takes about ten seconds and downloads nothing; torch's global random state is left alone. Raises LoKrFileError if
    ``out`` cannot be written.
    """
    out = Path(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return _run(out, progress or (lambda done, total: None))
    except OSError as error:
        raise LoKrFileError(f"The demo's folder cannot be written: {error.strerror or error}", file=out) from error


def _run(out: Path, progress: Progress) -> Demo:
    total = _BASE_STEPS + _LOKR_STEPS
    where, target = points(GRID), night(points(GRID))
    base_file, adapter_file, picture = out / "base.safetensors", out / "night.safetensors", out / "strengths.png"

    model = Painter()
    _train(model, day(where), _BASE_STEPS, 1e-2, 0.0, lambda done: progress(done, total))
    save_tensors(model.state_dict(), base_file, {"modelspec.title": "lokr demo: a landscape by day"})

    linears = [name for name, layer in model.named_children() if isinstance(layer, nn.Linear)]
    lokr = get_lokr_model(model, LoKrConfig(_RANK, _ALPHA, decompose_factor=_FACTOR, target_modules=linears))
    # A LoKr with small numbers takes day to night by way of something like dusk, hence the weight decay.
    _train(lokr, target, _LOKR_STEPS, 5e-3, 0.3, lambda done: progress(_BASE_STEPS + done, total))
    save_adapter(lokr, adapter_file, metadata={"modelspec.title": "lokr demo: night", "ss_output_name": "night"})
    with torch.no_grad():
        in_training = lokr(where)
    lokr.unload().requires_grad_(False)  # it is ``model``, with its own layers again

    adapter = load_adapter(adapter_file)
    rows, pictures = _merge_at_strengths(model, adapter, target)
    with merge_adapter(model, adapter):
        agreement = float((model(where) - in_training).abs().max())
    _strip(pictures, night(points(_TILE))).save(picture)
    numbers = sum(weights.numel for weights in adapter.values()), sum(p.numel() for p in model.parameters())
    size = adapter_file.stat().st_size
    return Demo(rows, len(adapter), *numbers, size, agreement, base_file, adapter_file, picture)


def _train(
    model: nn.Module, target: Tensor, steps: int, rate: float, decay: float, progress: Callable[[int], None]
) -> None:
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, rate, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    where = points(GRID)
    for step in range(steps):
        optimizer.zero_grad()
        F.mse_loss(model(where), target).backward()
        optimizer.step()
        schedule.step()
        progress(step + 1)


def _merge_at_strengths(
    model: Painter, adapter: Adapter, target: Tensor
) -> tuple[list[Row], list[tuple[float, Tensor]]]:
    """For each strength a row of the table, and the strength with its picture (_TILE², 3)."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    by_day = model(points(GRID))
    rows, pictures = [], []
    for strength in STRENGTHS:
        with merge_adapter(model, adapter, strength):
            painted = model(points(GRID))
            pictures.append((strength, model(points(_TILE))))
            moved = max(float((t - before[name]).abs().max()) for name, t in model.state_dict().items())
        after = model.state_dict()
        restored = all(torch.equal(after[n].view(torch.int32), t.view(torch.int32)) for n, t in before.items())
        rows.append(Row(strength, _distance(painted, target), _distance(painted, by_day), moved, restored))
    return rows, pictures


def _distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).square().mean().sqrt())


def _strip(pictures: list[tuple[float, Tensor]], target: Tensor) -> Image.Image:
    """Pictures (_TILE², 3) side by side, each under its strength and above its change; the target last."""
    base = pictures[0][1]
    tiles = [(f"{strength:.2f}" if strength else "base", picture) for strength, picture in pictures]
    tiles.append(("target", target))
    strip = Image.new("RGB", (_GAP + len(tiles) * (_TILE + _GAP), _TOP + 2 * (_TILE + _GAP)), (24, 24, 24))
    canvas = ImageDraw.Draw(strip)
    for number, (label, picture) in enumerate(tiles):
        left = _GAP + number * (_TILE + _GAP)
        draw_text(canvas, label, (left + _TILE / 2, _TOP / 2), 18, (235, 235, 235), 0.5)
        strip.paste(_image(picture), (left, _TOP))
        strip.paste(_image(_heat((picture - base).square().mean(1).sqrt())), (left, _TOP + _TILE + _GAP))
    return strip


def _image(colours: Tensor) -> Image.Image:
    """(_TILE², 3) in 0 … 1, row by row."""
    pixels = (colours.clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(pixels.reshape(_TILE, _TILE, 3).numpy())


def _heat(amount: Tensor) -> Tensor:
    """(n,) in 0 … 1 -> colours (n, 3): black, red, yellow, white."""
    return torch.stack([amount * 3, amount * 3 - 1, amount * 3 - 2], dim=1)
