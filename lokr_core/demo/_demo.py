"""The main job on a model small enough to make on the spot: train a LoKr, save it, load it, merge it, take it out.

The model paints: it is given a point of the picture and answers its colour. It learns a landscape by day; the LoKr
then learns, with the model's own weights frozen, to paint the same landscape by night.
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
from ..adapter import Adapter, LoKrWeights
from ..display import Progress, draw_text, human_bytes
from ..errors import LoKrFileError
from ..formats import load_adapter, save_adapter
from ..inspection import inspect_adapter
from ..kronecker import Factor, apply_kron, factorization
from ..merge import merge_adapter
from ._scenes import GRID, day, night, points

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)
_WIDTH, _RANK, _FACTOR = 96, 12, 2
_BASE_STEPS, _LOKR_STEPS = 400, 750
_TILE, _GAP, _TOP = 144, 8, 30  # pixels


class Painter(nn.Sequential):
    """Points (n, 2) in [-1, 1] -> colours (n, 3) in 0..1."""

    def __init__(self):
        sizes = (4 * len(_frequencies()) + 2, _WIDTH, _WIDTH, _WIDTH)
        layers = [layer for a, b in zip(sizes, sizes[1:], strict=False) for layer in (nn.Linear(a, b), nn.SiLU())]
        super().__init__(*layers, nn.Linear(_WIDTH, 3))

    def forward(self, x: Tensor, change: Callable[[str, Tensor], Tensor] | None = None) -> Tensor:
        """``change(name, input)`` is added to the output of the Linear of that name."""
        waves = (x[:, None] * _frequencies()[:, None]).flatten(1)
        h = torch.cat([x, waves.sin(), waves.cos()], dim=1)
        for name, layer in self.named_children():
            y = layer(h)
            h = y + change(name, h) if change and isinstance(layer, nn.Linear) else y
        return h.sigmoid()


@dataclass(frozen=True)
class Row:
    """One strength: root mean square distances of the painted picture (colours are 0 to 1) to the target and to the
    base's picture, the largest change of any weight, and whether ``remove()`` gave the base back bit for bit."""

    strength: float
    to_target: float
    to_base: float
    weight_change: float
    restored: bool


@dataclass(frozen=True)
class Demo:
    """What a demo run made and found."""

    rows: list[Row]
    modules: int
    parameters: int
    model_parameters: int
    adapter_bytes: int
    agreement: float
    """The largest difference of a colour between the model in training and the model with the loaded file merged."""
    base_file: Path
    adapter_file: Path
    picture: Path

    def as_dict(self) -> dict:
        return {k: str(v) if isinstance(v, Path) else v for k, v in asdict(self).items()}

    def text(self) -> str:
        """For a person."""
        titles = ("strength", "distance to target", "change of picture", "largest weight change", "base restored")
        lines = [
            "A tiny model that paints a landscape by day, and a LoKr that turns day into night.",
            f"LoKr: {self.modules} layers, {self.parameters:,} numbers beside the model's {self.model_parameters:,}, "
            f"{human_bytes(self.adapter_bytes)}",
            f"saved and loaded back: its colours differ from training's by {self.agreement:.1g} at most",
            "",
            "Distances are root mean squares of the colours, which go from 0 to 1.",
            "",
            "  ".join(titles),
        ]
        for row in self.rows:
            cells = (
                f"{row.strength:.2f}",
                f"{row.to_target:.4f}",
                f"{row.to_base:.4f}",
                f"{row.weight_change:.4f}",
                "bit for bit" if row.restored else "NO",
            )
            lines.append("  ".join(cell.rjust(len(title)) for cell, title in zip(cells, titles, strict=True)))
        return "\n".join(
            [
                *lines,
                "",
                f"picture: {self.picture}",
                "  upper row: base (strength 0), then rising strengths, then the target; lower row: what changed",
                "try next:",
                f"  lokr inspect {self.adapter_file}",
                f"  lokr apply {self.base_file} {self.adapter_file} -o merged.safetensors --strength 0.8",
            ]
        )


def run_demo(out: str | os.PathLike = "lokr-demo", progress: Progress | None = None) -> Demo:
    """Make ``base.safetensors``, ``night.safetensors`` and ``strengths.png`` in the folder ``out``.

    progress: told (training steps done, in all). Needs no download and about ten seconds. Torch's global random
    state is left alone. Raises LoKrFileError where ``out`` cannot be written.
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
    model = Painter()
    _train(model, list(model.parameters()), day(points(GRID)), _BASE_STEPS, lambda n: progress(n, total))
    model.requires_grad_(False)
    target = night(points(GRID))
    trained = _new_adapter(model)
    factors = [t for w in trained.values() for f in (w.w1, w.w2) for t in f.tensors.values()]
    change = _change(trained)
    _train(model, factors, target, _LOKR_STEPS, lambda n: progress(_BASE_STEPS + n, total), change)
    for tensor in factors:
        tensor.requires_grad_(False)

    base_file, adapter_file, picture = out / "base.safetensors", out / "night.safetensors", out / "strengths.png"
    save_tensors(model.state_dict(), base_file, {"modelspec.title": "lokr demo: a landscape by day"})
    save_adapter(trained, adapter_file, metadata={"modelspec.title": "lokr demo: night", "ss_output_name": "night"})
    adapter = load_adapter(adapter_file)
    with torch.no_grad():
        in_training = model(points(GRID), change)
        rows, pictures = _merge_at_strengths(model, adapter, target)
        with merge_adapter(model, adapter):
            agreement = float((model(points(GRID)) - in_training).abs().max())
    _strip(pictures, night(points(_TILE))).save(picture)
    found = inspect_adapter(adapter)
    count = sum(p.numel() for p in model.parameters())
    size = adapter_file.stat().st_size
    return Demo(rows, len(adapter), found.parameters, count, size, agreement, base_file, adapter_file, picture)


def _train(
    model: Painter,
    parameters: list[Tensor],
    target: Tensor,
    steps: int,
    progress: Callable[[int], None],
    change: Callable[[str, Tensor], Tensor] | None = None,
) -> None:
    # A LoKr with small numbers goes from day to night by way of something like dusk, hence the decay.
    rate, decay = (5e-3, 0.3) if change else (1e-2, 0.0)
    optimizer = torch.optim.AdamW(parameters, rate, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    where = points(GRID)
    for step in range(steps):
        optimizer.zero_grad()
        F.mse_loss(model(where, change), target).backward()
        optimizer.step()
        schedule.step()
        progress(step + 1)


def _new_adapter(model: Painter) -> Adapter:
    """A LoKr for each Linear, ready to train: w1 whole, w2 low-rank where that is smaller; zero to begin with."""
    modules = {}
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear):
            (l, k), (m, n) = (factorization(size, _FACTOR) for size in (layer.out_features, layer.in_features))
            w1 = Factor(torch.randn(l, m) / math.sqrt(m))
            if _RANK * (k + n) < k * n:
                w2 = Factor(a=torch.zeros(k, _RANK), b=torch.randn(_RANK, n) / math.sqrt(n))
            else:
                w2 = Factor(torch.zeros(k, n))
            for tensor in (*w1.tensors.values(), *w2.tensors.values()):
                tensor.requires_grad_()
            alpha = w2.rank or 1
            modules[name] = LoKrWeights(w1, w2, scaling=1.0, alpha=float(alpha))
    return Adapter(modules)


def _change(adapter: Adapter) -> Callable[[str, Tensor], Tensor]:
    """What the adapter adds to a Linear's output, factored and differentiable."""
    return lambda name, x: apply_kron(x, adapter[name].w1, adapter[name].w2, adapter[name].scaling)


def _merge_at_strengths(
    model: Painter, adapter: Adapter, target: Tensor
) -> tuple[list[Row], list[tuple[float, Tensor]]]:
    """A table row, and the picture painted, for each strength."""
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
        draw_text(canvas, label, (left + _TILE / 2, _TOP / 2), 18, (235, 235, 235), "middle")
        strip.paste(_image(picture), (left, _TOP))
        strip.paste(_image(_heat((picture - base).square().mean(1).sqrt())), (left, _TOP + _TILE + _GAP))
    return strip


def _image(colours: Tensor) -> Image.Image:
    pixels = (colours.clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(pixels.reshape(_TILE, _TILE, 3).numpy())


def _heat(amount: Tensor) -> Tensor:
    """0..1 (n,) -> colours (n, 3): black, red, yellow, white."""
    return torch.stack([amount * 3, amount * 3 - 1, amount * 3 - 2], dim=1).clamp(0, 1)


def _frequencies() -> Tensor:
    return math.pi * torch.tensor([0.5, 1.0, 2.0, 4.0])
